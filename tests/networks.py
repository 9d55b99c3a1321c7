"""Real ONNX networks that take the place of one of tests/packs.py where a test needs another answer.

`swap()` puts one into a pack and mends the manifest, so that the pack is whole and only the network is different.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from tests.packs import BAND

Tile = tuple[int, int]


def swap(folder: Path, name: str, model: onnx.ModelProto | bytes) -> Path:
    """Replace network `name` of a pack; bytes need not be a network at all. Returns its file."""
    raw = model if isinstance(model, bytes) else model.SerializeToString()
    file = folder / f"{name}.onnx"
    file.write_bytes(raw)
    path = folder / "manifest.yaml"
    manifest = yaml.safe_load(path.read_text())
    number = name.removeprefix("segment_")
    parts = [part for part in manifest["segmenters"] if str(part["class_number"]) == number] or [manifest[name]]
    parts[0]["sha256"] = hashlib.sha256(raw).hexdigest()
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return file


def graph(
    nodes: list[onnx.NodeProto],
    tile: Tile,
    output: tuple[str, int, list[int | str]],
    *,
    frames: str = "frames",
    kind: int = TensorProto.UINT8,
) -> onnx.ModelProto:
    """A model with the input uint8 [batch, 1, *tile] and one output (name, type, shape without the batch)."""
    name, element, shape = output
    inputs = [helper.make_tensor_value_info(frames, kind, ["batch", 1, *tile])]
    outputs = [helper.make_tensor_value_info(name, element, ["batch", *shape])]
    made = helper.make_graph(nodes, "test", inputs, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def constant(name: str, value: np.ndarray | np.generic) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def _features(seed: int, channels: int) -> list[onnx.NodeProto]:
    """`features` float32 [batch, channels, H, W]: two convolutions with weights of a seed, sums of many products."""
    draw = np.random.default_rng(seed)
    first = draw.normal(0, 0.2, (8, 1, 5, 5)).astype(np.float32)
    second = draw.normal(0, 0.1, (channels, 8, 3, 3)).astype(np.float32)
    return [
        helper.make_node("Cast", ["frames"], ["grey"], to=TensorProto.FLOAT),
        constant("scale", np.float32(1 / 255)),
        helper.make_node("Mul", ["grey", "scale"], ["unit"]),
        constant("w1", first),
        helper.make_node("Conv", ["unit", "w1"], ["c1"], pads=[2, 2, 2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        constant("w2", second),
        helper.make_node("Conv", ["r1", "w2"], ["features"], pads=[1, 1, 1, 1]),
    ]


def conv_gate(tile: Tile, seed: int = 1) -> onnx.ModelProto:
    """A gate whose scores are sums of floats, so that another order of sums would show in their last bits."""
    nodes = [
        *_features(seed, 1),
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["score"]),
    ]
    return graph(nodes, tile, ("score", TensorProto.FLOAT, []))


def conv_types(tile: Tile, classes: int, seed: int = 2) -> onnx.ModelProto:
    nodes = [
        *_features(seed, classes),
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["scores"]),
    ]
    return graph(nodes, tile, ("scores", TensorProto.FLOAT, [classes]))


def conv_segment(tile: Tile, seed: int = 3) -> onnx.ModelProto:
    nodes = [
        *_features(seed, 1),
        helper.make_node("Sigmoid", ["features"], ["p"]),
        constant("full", np.float32(255)),
        helper.make_node("Mul", ["p", "full"], ["p255"]),
        constant("axis", np.array([1], dtype=np.int64)),
        helper.make_node("Squeeze", ["p255", "axis"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["probability"], to=TensorProto.UINT8),
    ]
    return graph(nodes, tile, ("probability", TensorProto.UINT8, list(tile)))


def uniform_segment(tile: Tile, grey: int) -> onnx.ModelProto:
    """A segmenter that says the same of every pixel of every tile."""
    nodes = [
        helper.make_node("Cast", ["frames"], ["greys"], to=TensorProto.FLOAT),
        constant("nothing", np.float32(0)),
        constant("grey", np.float32(grey)),
        helper.make_node("Mul", ["greys", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "grey"], ["same"]),
        constant("axis", np.array([1], dtype=np.int64)),
        helper.make_node("Squeeze", ["same", "axis"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["probability"], to=TensorProto.UINT8),
    ]
    return graph(nodes, tile, ("probability", TensorProto.UINT8, list(tile)))


def failing_gate(tile: Tile, level: int, *, below: bool = False) -> onnx.ModelProto:
    """A gate that fails in the runtime on any tile with a grey of `level` or more (`below`: on any with none)."""
    reach = np.zeros(256, dtype=np.int64)
    reach[slice(0, level) if below else slice(level, 256)] = 5
    nodes = [
        helper.make_node("Cast", ["frames"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["grey"], ["most"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Cast", ["most"], ["index"], to=TensorProto.INT64),
        constant("reach", reach),
        helper.make_node("Gather", ["reach", "index"], ["place"]),
        constant("table", np.array([0.25], dtype=np.float32)),
        helper.make_node("Gather", ["table", "place"], ["score"]),  # there is no place 5
    ]
    return graph(nodes, tile, ("score", TensorProto.FLOAT, []))


def failing_types(tile: Tile, classes: int) -> onnx.ModelProto:
    """Types that fail in the runtime on every tile."""
    nodes = [
        helper.make_node("Cast", ["frames"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["grey"], ["most"], axes=[2, 3], keepdims=0),
        helper.make_node("Cast", ["most"], ["index"], to=TensorProto.INT64),
        constant("far", np.int64(1000)),
        helper.make_node("Add", ["index", "far"], ["place"]),
        constant("table", np.zeros(1, dtype=np.float32)),
        helper.make_node("Gather", ["table", "place"], ["one"]),
        constant("times", np.array([1, classes], dtype=np.int64)),
        helper.make_node("Tile", ["one", "times"], ["scores"]),
    ]
    return graph(nodes, tile, ("scores", TensorProto.FLOAT, [classes]))


def graded_types(tile: Tile, classes: int = 4) -> onnx.ModelProto:
    """Types that say how sure they are by the grey: the n-th grey of a class's band scores n / 10."""
    nodes = [helper.make_node("Cast", ["frames"], ["grey"], to=TensorProto.FLOAT), constant("ten", np.float32(10))]
    nodes += [constant("zero", np.float32(0)), constant("nine", np.float32(9.5))]
    for number in list(BAND)[:classes]:
        k = f"c{number}"
        nodes += [
            constant(f"{k}_low", np.float32(BAND[number])),
            helper.make_node("Sub", ["grey", f"{k}_low"], [f"{k}_above"]),
            helper.make_node("GreaterOrEqual", [f"{k}_above", "zero"], [f"{k}_a"]),
            helper.make_node("Less", [f"{k}_above", "nine"], [f"{k}_b"]),
            helper.make_node("And", [f"{k}_a", f"{k}_b"], [f"{k}_in"]),
            helper.make_node("Where", [f"{k}_in", f"{k}_above", "zero"], [f"{k}_own"]),
            helper.make_node("Div", [f"{k}_own", "ten"], [f"{k}_tenths"]),
            helper.make_node("ReduceMax", [f"{k}_tenths"], [f"{k}_s"], axes=[2, 3], keepdims=0),
        ]
    nodes.append(helper.make_node("Concat", [f"c{number}_s" for number in list(BAND)[:classes]], ["scores"], axis=1))
    return graph(nodes, tile, ("scores", TensorProto.FLOAT, [classes]))
