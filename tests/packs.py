"""A pack of six real ONNX networks whose answers a test can compute: a grey level is a defect class.

Background is any grey below 200. A pixel of class k has a grey of BAND[k]..BAND[k] + 9; the gate fires on any pixel
of 200 or more, types gives 1 for each class with a pixel in its band, segment_k gives 240 on exactly those pixels.
The networks run in the real runtime, so nothing is mocked: they are only easy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from inspector.census import Census

BAND = {1: 200, 2: 210, 3: 220, 4: 230}
TILE = (32, 64)
"""[height, width] of the tiles: small, so that tests are fast."""


def make_pack(
    folder: Path,
    *,
    tile: tuple[int, int] = TILE,
    minimum_area_px: int = 4,
    classes: int = 4,
    factor: float = 3.0,
    version: str = "1",
    level: int = 200,
) -> Path:
    """Write a pack into `folder` (made if missing) and return it.

    `level`: the gate fires from this grey on, and class 1 begins there; 0: every pixel of every frame is a defect.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = list(BAND)[:classes]
    files = {"gate": _gate(tile, level), "types": _types(tile, numbers, level)}
    files |= {f"segment_{number}": _segment(tile, number, level) for number in numbers}
    digests = {name: _save(folder / f"{name}.onnx", model) for name, model in files.items()}
    manifest = {
        "format": 1,
        "name": "bands",
        "version": version,
        "tile": {"height": tile[0], "width": tile[1]},
        "classes": [{"number": n, "name": f"class{n}"} for n in numbers],
        "gate": {"file": "gate.onnx", "sha256": digests["gate"], "threshold": 0.5},
        "types": {
            "file": "types.onnx",
            "sha256": digests["types"],
            "thresholds": dict.fromkeys(numbers, 0.5),
            "floors": dict.fromkeys(numbers, 0.2),
        },
        "segmenters": [
            {
                "class_number": n,
                "file": f"segment_{n}.onnx",
                "sha256": digests[f"segment_{n}"],
                "threshold": 0.5,
                "minimum_area_px": minimum_area_px,
            }
            for n in numbers
        ],
        "veto_area_factor": factor,
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    return folder


def add_reference(folder: Path, census: Census) -> Path:
    """Put a reference into the manifest of a pack; returns its folder."""
    file = folder / "manifest.yaml"
    manifest = yaml.safe_load(file.read_text())
    manifest["reference"] = {"version": 1, "made_on": "frames of a test", "census": msgspec.to_builtins(census)}
    file.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return folder


def paint(pixels: np.ndarray, number: int, y: int, x: int, height: int, width: int) -> None:
    """Put a defect of class `number` on uint8 pixels [H, W]."""
    pixels[y : y + height, x : x + width] = BAND[number] + 5


def _save(file: Path, model: onnx.ModelProto) -> str:
    onnx.checker.check_model(model, full_check=True)
    raw = model.SerializeToString()
    file.write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


def _model(nodes: list[onnx.NodeProto], tile: tuple[int, int], output: onnx.ValueInfoProto) -> onnx.ModelProto:
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 1, *tile])
    graph = helper.make_graph(nodes, "bands", [frames], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _constant(name: str, value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def _in_band(number: int, out: str, level: int) -> list[onnx.NodeProto]:
    """bool [batch, 1, H, W]: the pixels of a class."""
    low, high = f"{out}_low", f"{out}_high"
    return [
        _constant(low, np.float32(level if number == 1 else BAND[number])),
        _constant(high, np.float32(BAND[number] + 10)),
        helper.make_node("GreaterOrEqual", ["grey", low], [f"{out}_a"]),
        helper.make_node("Less", ["grey", high], [f"{out}_b"]),
        helper.make_node("And", [f"{out}_a", f"{out}_b"], [out]),
    ]


def _grey() -> onnx.NodeProto:
    return helper.make_node("Cast", ["frames"], ["grey"], to=TensorProto.FLOAT)


def _gate(tile: tuple[int, int], level: int) -> onnx.ModelProto:
    nodes = [
        _grey(),
        _constant("level", np.float32(level)),
        helper.make_node("GreaterOrEqual", ["grey", "level"], ["fires"]),
        helper.make_node("Cast", ["fires"], ["fires_f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["fires_f"], ["score"], axes=[1, 2, 3], keepdims=0),
    ]
    return _model(nodes, tile, helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]))


def _types(tile: tuple[int, int], numbers: list[int], level: int) -> onnx.ModelProto:
    nodes = [_grey()]
    for number in numbers:
        nodes += _in_band(number, f"band{number}", level)
        nodes.append(helper.make_node("Cast", [f"band{number}"], [f"f{number}"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceMax", [f"f{number}"], [f"s{number}"], axes=[2, 3], keepdims=0))
    nodes.append(helper.make_node("Concat", [f"s{number}" for number in numbers], ["scores"], axis=1))
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(numbers)])
    return _model(nodes, tile, output)


def _segment(tile: tuple[int, int], number: int, level: int) -> onnx.ModelProto:
    nodes = [
        _grey(),
        *_in_band(number, "band", level),
        _constant("sure", np.float32(240)),
        _constant("none", np.float32(0)),
        helper.make_node("Where", ["band", "sure", "none"], ["map"]),
        _constant("axis", np.array([1], dtype=np.int64)),
        helper.make_node("Squeeze", ["map", "axis"], ["grown"]),
        helper.make_node("Cast", ["grown"], ["probability"], to=TensorProto.UINT8),  # TensorRT wants it last
    ]
    return _model(nodes, tile, helper.make_tensor_value_info("probability", TensorProto.UINT8, ["batch", *tile]))
