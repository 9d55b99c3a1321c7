"""What a segmenter's plan says beside its probabilities: how far they reach, in a few bytes.

A GPU plan of a segmenter has a second output, `extent` uint8 [batch, height + width]: the highest probability in each
row of the tile, then in each column. From these 2 kB the host knows exactly which box holds every pixel above the
threshold, and fetches that box of the map and nothing else. The threshold is not built in, so a pack may change it and
keep its plans.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from inspector.errors import PackError

PROBABILITY, EXTENT = "probability", "extent"
AXES_AS_INPUT = 18
"""From this opset on ReduceMax has its axes as an input."""


def with_extent(file: Path, target: Path) -> Path:
    """Write the network of `file` with the output `extent` added to `target`.

    Raises:
        PackError: it has no output `probability` [batch, height, width].
    """
    try:
        model = onnx.load(str(file))
    except Exception as error:  # protobuf's errors share no base class with onnx's own
        raise PackError(f"{file}: network {_named(file)} is no ONNX: {error}. Export the pack again") from None
    graph = model.graph
    output = next((entry for entry in graph.output if entry.name == PROBABILITY), None)
    if output is None or len(output.type.tensor_type.shape.dim) != 3:
        found = ", ".join(entry.name for entry in graph.output)
        raise PackError(
            f"{file}: network {_named(file)} must give `{PROBABILITY}` [batch, height, width], not {found}. "
            "Export the pack again"
        )
    nodes, source = _as_floats(graph)
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for name, axis in (("extent_rows", 2), ("extent_columns", 1)):
        nodes += _highest(graph, source, name, axis, version)
    nodes.append(helper.make_node("Concat", ["extent_rows", "extent_columns"], ["extent_both"], axis=1))
    nodes.append(helper.make_node("Cast", ["extent_both"], [EXTENT], to=TensorProto.UINT8))
    graph.node.extend(nodes)
    batch, height, width = output.type.tensor_type.shape.dim
    shape = [batch.dim_param or "batch", height.dim_value + width.dim_value]
    graph.output.append(helper.make_tensor_value_info(EXTENT, TensorProto.UINT8, shape))
    onnx.save(model, str(target))
    return target


def _as_floats(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], str]:
    """(nodes to add, name): the probabilities before the last cast, as TensorRT has uint8 only at a graph's ends."""
    maker = next((node for node in graph.node if PROBABILITY in node.output), None)
    if maker is not None and maker.op_type == "Cast":
        return [], maker.input[0]
    return [helper.make_node("Cast", [PROBABILITY], ["extent_floats"], to=TensorProto.FLOAT)], "extent_floats"


def _highest(graph: onnx.GraphProto, source: str, name: str, axis: int, version: int) -> list[onnx.NodeProto]:
    if version < AXES_AS_INPUT:
        return [helper.make_node("ReduceMax", [source], [name], axes=[axis], keepdims=0)]
    graph.initializer.append(numpy_helper.from_array(np.array([axis], dtype=np.int64), f"{name}_axis"))
    return [helper.make_node("ReduceMax", [source, f"{name}_axis"], [name], keepdims=0)]


def _named(file: Path) -> str:
    return file.name.partition(".")[0]
