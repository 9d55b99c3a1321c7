"""benchmarks/gpu.py runs from end to end, on a GPU in host memory; what it measures there is nobody's business."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from inspector import pack as packs
from inspector.runtimes import tensorrt
from tests import host_gpu
from tests.packs import make_pack

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_quick_run_measures_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = packs.load(make_pack(tmp_path / "pack"))
    rig = host_gpu.Rig(tmp_path / "plans", pack, tensorrt.Options(batch=(1, 8, 16)), host_gpu.HostRecorder())
    rig.build()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(gpu, "build_missing", lambda pack, options: [])
    monkeypatch.setattr(tensorrt, "cuda_platform", lambda options: rig.platform())
    monkeypatch.setattr(tensorrt, "check", lambda options: None)
    figures = tmp_path / "figures.json"
    assert gpu.main(["--quick", "--pack", str(pack.folder), "--json", str(figures), "--folder", str(tmp_path)]) == 0
    found = json.loads(figures.read_text())
    assert found["runtime"] == "TensorRT 0.host on Host GPU"
    assert found["parity"]["frames"] == 8
    assert set(found["parity"]["networks"]) == set(pack.networks())
    (row,) = found["rows"]
    assert (row["defective_percent"], row["cameras"], row["frames_a_slice"]) == (15, 2, 200)
    for spread in (row["ratio"], row["frames_per_s"]["line"], row["frames_per_s"]["bare"]):
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert row["device_mb"] > 0
    (one,) = found["paced"]
    assert one["cameras"] == 2
    assert found["soak"][-1]["device_mb"] > 0
    out = capsys.readouterr().out
    for name in gpu.BARS:
        assert f"| {name} | " in out
    assert all(device.closed for device in rig.machine.devices)
