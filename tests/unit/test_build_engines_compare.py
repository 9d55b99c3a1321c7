"""`build_engines compare`: what is the same passes, what is not is told and fails; both sides really run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from build_engines import compare, synthesize
from build_engines.__main__ import main
from build_engines.candidates import on_cpu, twins
from build_engines.compare import Comparison, Tolerance
from build_engines.datasets import read
from inspector import pack as packs
from inspector.pack import Pack
from inspector.runtimes import Runtime
from tests import host_gpu, networks
from tests.packs import TILE, make_pack, paint

FRAMES = 12


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """A gate of convolutions that lets everything through, so that precision shows; the rest finds what is painted."""
    folder = make_pack(tmp_path / "pack")
    networks.swap(folder, "gate", networks.conv_gate(TILE))
    manifest = folder / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("threshold: 0.5", "threshold: 0.0", 1))
    return packs.load(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "data")


def write_frames(folder: Path) -> Path:
    def frame(number: int) -> tuple[str, NDArray[np.uint8], dict[int, NDArray[np.uint8]]]:
        pixels = np.random.default_rng(number).integers(60, 120, TILE, dtype=np.uint8)
        if number % 3:
            paint(pixels, 1 + number % 4, y=5, x=4 * number, height=9, width=12)
        return f"{number:02d}.png", pixels, {}

    synthesize.write(map(frame, range(FRAMES)), folder)
    return folder


def run(pack: Pack, data: Path, candidate: Pack, tolerance: Tolerance = Tolerance()) -> Comparison:  # noqa: B008
    return compare.compare(pack, read(data), on_cpu(pack), on_cpu(candidate), tolerance)


def other(pack: Pack, tmp_path: Path, network: str, model: onnx.ModelProto) -> Pack:
    """The pack with one network exchanged."""
    folder = tmp_path / "other"
    shutil.copytree(pack.folder, folder)
    networks.swap(folder, network, model)
    return packs.load(folder)


def test_the_same_networks_do_not_differ(pack: Pack, data: Path) -> None:
    found = run(pack, data, pack)
    assert found.faults == []
    assert (found.frames, found.decisions_changed, found.events_changed) == (FRAMES, 0, 0)
    assert found.events == 8
    assert set(found.networks) == set(pack.networks())
    assert all(each.answers == FRAMES and each.largest == each.mean == 0 for each in found.networks.values())


def test_another_gate_is_beyond_the_tolerance(pack: Pack, data: Path, tmp_path: Path) -> None:
    bands = packs.load(make_pack(tmp_path / "bands"))
    found = run(pack, data, bands)
    assert found.networks["gate"].largest > 0.02
    (fault,) = found.faults
    assert fault.startswith("gate: largest difference 0.")
    assert all(each.good for name, each in found.networks.items() if name != "gate")


def test_a_segmenter_that_finds_nothing_loses_its_events(pack: Pack, data: Path, tmp_path: Path) -> None:
    blind = networks.uniform_segment(TILE, 0)
    found = run(pack, data, other(pack, tmp_path, "segment_2", blind))
    own = found.networks["segment_2"]
    assert (own.largest, own.mean) == (240, 240)  # the mean is over what either side has said anything of
    assert own.changed == found.frames_changed == found.events_changed == found.decisions_changed == 2
    assert any("another event on 16.67 % of the frames, allowed 0.1 %" in fault for fault in found.faults)


def test_each_side_of_a_gate_has_its_own_threshold(pack: Pack, data: Path, tmp_path: Path) -> None:
    """What a plan's graph says is judged by a GPU's threshold: here it lets nothing through."""
    gate = msgspec.structs.replace(pack.manifest.gate, precision="int8", gpu_threshold=1.0)
    pack = msgspec.structs.replace(pack, manifest=msgspec.structs.replace(pack.manifest, gate=gate))
    folder = tmp_path / "graphs"
    folder.mkdir()
    found = run(pack, data, twins(pack, "fp32", folder))
    assert found.networks["gate"].largest == 0
    assert found.networks["gate"].changed == found.decisions_changed == FRAMES
    assert found.events_changed == found.events == 8
    assert run(pack, data, pack).decisions_changed == 0


def test_what_is_allowed_passes(pack: Pack, data: Path, tmp_path: Path) -> None:
    blind = other(pack, tmp_path, "segment_2", networks.uniform_segment(TILE, 0))
    assert run(pack, data, blind, Tolerance(mask=240.0, changed=0.2)).faults == []
    assert len(run(pack, data, blind, Tolerance(mask=239.0, changed=0.16)).faults) == 3


def test_a_runtime_that_sends_boxes_is_compared_whole(pack: Pack, data: Path, tmp_path: Path) -> None:
    """Pixels below the threshold count too."""
    faint = other(pack, tmp_path, "segment_3", networks.uniform_segment(TILE, 9))

    def on_gpu(given: Pack) -> Runtime:
        rig = host_gpu.Rig(tmp_path / "plans", given, host_gpu.Options(precision="fp32", slots=1))
        rig.build()
        return rig.runtime()

    same = compare.compare(pack, read(data), on_cpu(pack), on_gpu, Tolerance())
    assert same.faults == []
    assert same.candidate == "TensorRT 0.host on Host GPU"
    found = compare.compare(faint, read(data), on_cpu(pack), on_gpu, Tolerance(mask=1000.0))
    assert found.networks["segment_3"].answers == FRAMES
    assert found.networks["segment_3"].total >= 9 * FRAMES * TILE[0] * TILE[1] * 0.9


def test_the_command_compares_the_graphs_of_plans_without_a_gpu(
    pack: Pack, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--pack", str(pack.folder), "--data", str(data), "--frames", "5"]
    assert main([*words, "--twins", "--json", str(tmp_path / "found.json")]) == 0
    told = json.loads((tmp_path / "found.json").read_text())
    assert told["frames"] == 5
    assert told["faults"] == []
    assert 0 < told["networks"]["gate"]["largest"] < 0.02  # it is another precision indeed
    assert "segment_4" in capsys.readouterr().out


def test_the_command_fails_beyond_the_tolerance(
    pack: Pack, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = other(pack, tmp_path, "types", coarse(networks.conv_types(TILE, 4)))
    words = ["compare", "--pack", str(pack.folder), "--data", str(data), "--candidate", str(worse.folder)]
    assert main(words) == 1
    assert "beyond the tolerance: types: largest difference" in capsys.readouterr().err


def coarse(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with weights of a few steps only, as a bad quantisation leaves them."""
    for node in model.graph.node:
        if node.output[0] == "w2":
            weights = numpy_helper.to_array(node.attribute[0].t)
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(np.round(weights, 0).astype(np.float32)))
    return model


def test_packs_of_other_classes_are_not_compared(pack: Pack, data: Path, tmp_path: Path) -> None:
    two = make_pack(tmp_path / "two", classes=2)
    words = ["compare", "--pack", str(pack.folder), "--data", str(data), "--candidate", str(two)]
    assert main(words) == 78


@pytest.mark.skipif(host_gpu.HAS_DRIVER, reason="this machine has an NVIDIA driver")
def test_without_a_gpu_plans_are_not_compared(pack: Pack, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--pack", str(pack.folder), "--data", str(data)]) == 78
    assert "NVIDIA driver" in capsys.readouterr().err
