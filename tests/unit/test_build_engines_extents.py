"""extents.py: the output that a segmenter's plan has more than its network, and the network's own as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, version_converter

from build_engines.extents import with_extent
from inspector.errors import PackError
from tests import networks
from tests.packs import TILE


def cast_inside() -> onnx.ModelProto:
    """A segmenter that goes on after its cast to uint8, as TensorRT would not have it."""
    model = networks.conv_segment(TILE)
    model.graph.node[-1].output[0] = "early"
    model.graph.node.append(helper.make_node("Identity", ["early"], ["probability"]))
    return model


MODELS = {
    "cast last": lambda: networks.conv_segment(TILE),
    "cast inside": cast_inside,
    "opset 18": lambda: version_converter.convert_version(networks.conv_segment(TILE), 18),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_extent_is_the_highest_of_each_row_and_column(name: str, tmp_path: Path) -> None:
    file = tmp_path / "segment_1.onnx"
    onnx.save(MODELS[name](), file)
    derived = with_extent(file, tmp_path / "derived.onnx")
    onnx.checker.check_model(onnx.load(derived), full_check=True)
    noise = np.random.default_rng(0).integers(0, 256, (3, 1, *TILE), dtype=np.uint8)
    (wanted,), (probability, extent) = answers(file, noise), answers(derived, noise)
    np.testing.assert_array_equal(probability, wanted)
    np.testing.assert_array_equal(extent, np.concatenate([wanted.max(axis=2), wanted.max(axis=1)], axis=1))
    assert extent.dtype == np.uint8


def answers(file: Path, frames: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.uint8]] = session.run(None, {"frames": frames})
    return found


def test_a_network_without_probabilities_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "segment_1.onnx"
    onnx.save(networks.graph([], TILE, ("mask", TensorProto.UINT8, list(TILE))), file)
    with pytest.raises(PackError, match=r"segment_1\.onnx: network segment_1 must give `probability`.*not mask"):
        with_extent(file, tmp_path / "derived.onnx")


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "segment_1.onnx"
    file.write_bytes(b"no network at all")
    with pytest.raises(PackError, match=r"network segment_1 is no ONNX"):
        with_extent(file, tmp_path / "derived.onnx")
