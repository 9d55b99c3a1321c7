"""Lines for the daemon: configurations, pictures with known defects, and networks that are slow."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper

from tests.networks import constant, swap
from tests.packs import TILE, paint

GREY = 90


def config(pack: Path, journal: Path, *cameras: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """A whole configuration; `sections` go on top. It leaves out nothing, however busy the machine is."""
    return {
        "line": {"name": "hot", "coil": "c1", "heartbeat_s": 0.2},
        "pack": str(pack),
        "cameras": list(cameras),
        "journal": {"path": str(journal), "synchronous": False},
        "monitor": {"port": 0},
        "overload": None,
        **sections,
    }


def lossless(**settings: Any) -> dict[str, Any]:
    """A `line` that waits rather than drop a frame."""
    return {"name": "hot", "coil": "c1", "heartbeat_s": 0.2, "when_full": "wait", **settings}


def pictures(folder: Path, count: int = 8) -> Path:
    """Pictures of one tile; every second one has a defect, the classes in turn."""
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.png"), picture(number))
    return folder


def picture(number: int) -> np.ndarray:
    pixels = np.full(TILE, GREY, dtype=np.uint8)
    if number % 2:
        paint(pixels, number // 2 % 4 + 1, 8, 8 + number % 30, 6, 9)
    return pixels


def played(sources: Path, name: str = "a", **options: Any) -> dict[str, Any]:
    """A camera that plays pictures as fast as they are taken, for ever."""
    return {"name": name, "kind": "replay", "options": {"sources": [str(sources)], "repeat": 0, **options}}


def filmed(name: str = "a", frames_hz: float = 50.0, **options: Any) -> dict[str, Any]:
    """A camera over a strip that runs by the clock, with a defect in every frame; it forgives a busy machine."""
    settings: dict[str, Any] = {
        "width_px": TILE[1],
        "height_px": TILE[0],
        "line_rate_hz": TILE[0] * frames_hz,
        "ring_frames": 10_000,
        "prepared_frames": 20,
        "defective_share": 1.0,
        "look": "ribbed",
        "edges": "none",
        "weld": False,
    }
    return {"name": name, "kind": "synthetic", "options": settings | options}


def slow(pack: Path, size: int = 256, products: int = 30, network: str = "gate") -> Path:
    """Make a network do `products` needless products of matrices of `size` x `size`; its answer stays."""
    model = onnx.load_from_string((pack / f"{network}.onnx").read_bytes())
    answer = model.graph.output[0].name
    model.graph.node[-1].output[0] = "answer"
    kind = model.graph.output[0].type.tensor_type.elem_type
    nodes = [
        constant("square", np.full((size, size), 1 / size, dtype=np.float32)),
        constant("nothing", np.float32(0)),
        helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["grey_mean"], keepdims=0),
        helper.make_node("Mul", ["square", "grey_mean"], ["p0"]),  # from the pixels, so that it is not folded at load
        *(helper.make_node("MatMul", [f"p{i}", "square"], [f"p{i + 1}"]) for i in range(products)),
        helper.make_node("ReduceMean", [f"p{products}"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["naught"]),
        helper.make_node("Cast", ["answer"], ["same"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["same", "naught"], ["sum"]),
        helper.make_node("Cast", ["sum"], [answer], to=kind),
    ]
    model.graph.node.extend(nodes)
    swap(pack, network, model)
    return pack


def altered(pack: Path, network: str = "segment_2") -> Path:
    """Flip one bit of a network behind the manifest's back; returns its file."""
    file = pack / f"{network}.onnx"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    manifest = yaml.safe_load((pack / "manifest.yaml").read_text())
    assert hashlib.sha256(raw).hexdigest() not in str(manifest)
    return file
