from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from inspector import adapters
from inspector.doctor import Finding, Report, State, as_json, doctor, machine, main, show, software

HEIGHT, WIDTH = 8, 16
NEW_PROCESSOR = "model name\t: Fast 9000\nflags\t\t: fpu avx2 avx512f avx_vnni\n"
OLD_PROCESSOR = "model name\t: Slow 1\nflags\t\t: fpu sse2\n"


# ---------------------------------------------------------------- a machine made of files


@pytest.fixture
def machine_of(tmp_path: Path) -> Callable[..., Path]:
    def write(**files: str) -> Path:
        root = tmp_path / "root"
        for name, text in files.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    return write


def rows(root: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in machine.examine(root)}


def test_a_good_machine_has_nothing_to_mend(machine_of: Callable[..., Path]) -> None:
    root = machine_of(
        proc__cpuinfo=NEW_PROCESSOR,
        proc__meminfo="MemTotal:       32000000 kB\n",
        proc__sys__net__core__rmem_max="8388608\n",
        proc__self__status="CapEff:\t0000000000002000\n",
    )
    found = rows(root)
    assert found["instructions"].found == "AVX2, AVX512, VNNI"
    assert found["processor"].found.startswith("Fast 9000; ")
    for name in ("instructions", "memory", "socket buffer", "raw sockets"):
        assert found[name].state is State.OK, found[name]


def test_a_poor_machine_is_told_what_mends_it(machine_of: Callable[..., Path]) -> None:
    root = machine_of(
        proc__cpuinfo=OLD_PROCESSOR,
        proc__meminfo="MemTotal:  1000000 kB\n",
        proc__sys__net__core__rmem_max="212992\n",
        proc__self__status="CapEff:\t0000000000000000\n",
    )
    found = rows(root)
    assert found["GPU"].state is State.MISSING
    assert found["raw sockets"].state is State.MISSING
    for name in ("instructions", "memory", "socket buffer"):
        assert found[name].state is State.WARNING
    assert "sysctl -w net.core.rmem_max=" in found["socket buffer"].mend
    assert all(finding.mend for finding in found.values() if finding.state is not State.OK)
    assert not any(finding.fatal for finding in found.values())


def test_a_machine_that_shows_nothing_is_no_crash(tmp_path: Path) -> None:
    assert {"processor", "memory", "GPU"} <= set(rows(tmp_path / "empty"))


def test_limits_of_control_groups_version_2_count_at_every_level(machine_of: Callable[..., Path]) -> None:
    root = machine_of(
        proc__self__cgroup="0::/plant/line1\n",
        **{
            "sys__fs__cgroup__plant__line1__cpu.max": "max 100000\n",
            "sys__fs__cgroup__plant__cpu.max": "150000 100000\n",
            "sys__fs__cgroup__plant__line1__memory.max": "1073741824\n",
            "sys__fs__cgroup__plant__memory.max": "max\n",
        },
    )
    assert machine.cpu_quota(root) == 1.5
    assert machine.memory_limit(root) == 2**30
    assert rows(root)["processor"].state is State.WARNING
    assert "limited by the control group" in rows(root)["memory"].found


def test_limits_of_control_groups_version_1(machine_of: Callable[..., Path]) -> None:
    root = machine_of(
        proc__self__cgroup="4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n",
        **{
            "sys__fs__cgroup__cpu__x__cpu.cfs_quota_us": "-1\n",
            "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "50000\n",
            "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n",
            "sys__fs__cgroup__memory__x__memory.limit_in_bytes": "2147483648\n",
        },
    )
    assert machine.cpu_quota(root) == 0.5
    assert machine.memory_limit(root) == 2**31


DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 2024\nGCC version: 12\n"


@pytest.mark.parametrize(
    ("script", "state", "found"),
    [
        ("echo 'NVIDIA L4, 23034 MiB'", State.OK, "NVIDIA L4, 23034 MiB; driver 550.54.14"),
        ("echo 'No devices were found'; exit 6", State.WARNING, "nvidia-smi says: No devices were found"),
        (None, State.WARNING, "nvidia-smi does not answer"),
    ],
)
def test_the_gpu_is_asked_for_by_its_driver(
    script: str | None, state: State, found: str, machine_of: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = machine_of(proc__driver__nvidia__version=DRIVER)
    if script is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    finding = machine.gpu(root)
    assert finding.state is state
    assert found in finding.found


def test_the_driver_of_newer_kernel_modules_is_read_too(machine_of: Callable[..., Path]) -> None:
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
    assert machine.driver_version(machine_of(proc__driver__nvidia__version=text)) == "580.65.06"


# ---------------------------------------------------------------- software


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], software.Vendor]:
    """A vendor's package that does on import what the test wants."""

    def install(code: str) -> software.Vendor:
        folder = tmp_path / "vendor"
        folder.mkdir()
        (folder / "line_vendor.py").write_text(code)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        return software.Vendor("line_vendor", "pip install line-vendor", "runtimes", "onnx")

    return install


@pytest.mark.parametrize(
    ("code", "state", "found"),
    [
        ("__version__ = '8.6'", State.OK, "8.6"),
        ("import os; os.kill(os.getpid(), 11)", State.WARNING, "crashed with signal 11"),
        ("raise ImportError('libnvinfer.so.8: cannot open')", State.WARNING, "libnvinfer.so.8: cannot open"),
        ("print('hello'); x = 1", State.OK, "loads"),
    ],
)
def test_a_vendors_library_is_tried_where_it_can_do_no_harm(
    code: str, state: State, found: str, vendor: Callable[[str], software.Vendor]
) -> None:
    finding = software._vendor(vendor(code), driver=None)
    assert finding.state is state
    assert found in finding.found
    assert not finding.fatal


def test_a_vendors_library_that_hangs_is_given_up(
    vendor: Callable[[str], software.Vendor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "IMPORT_TIMEOUT_S", 0.3)
    finding = software._vendor(vendor("import threading; threading.Event().wait()"), driver=None)
    assert finding.state is State.WARNING
    assert "did not end" in finding.found


def test_tensorrt_is_not_even_imported_without_a_driver(
    vendor: Callable[[str], software.Vendor], tmp_path: Path
) -> None:
    mark = tmp_path / "imported"
    made = vendor(f"open({str(mark)!r}, 'w')")
    needs_gpu = software.Vendor(made.module, made.install, made.seam, made.kind, needs_gpu=True)
    finding = software._vendor(needs_gpu, driver=None)
    assert finding.state is State.WARNING
    assert "without an NVIDIA driver" in finding.found
    assert not mark.exists()
    assert software._vendor(needs_gpu, driver="550.54").state is State.OK
    assert mark.exists()


def test_a_broken_adapter_is_a_row_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seam: str, kind: str, where: str) -> None:
        raise TypeError(f"{kind} has a default that cannot be")

    monkeypatch.setattr(adapters, "module", broken)
    finding = software._adapter("runtimes", "onnx")
    assert finding.fatal
    assert "onnx has a default that cannot be" in finding.found


def test_what_is_absent_is_only_asked_for_where_an_adapter_uses_it() -> None:
    used = software._vendor(software.Vendor("no_such_module", "pip install x", "runtimes", "onnx"), None)
    unused = software._vendor(software.Vendor("no_such_module", "pip install x", "runtimes", "no_such_kind"), None)
    assert (used.state, used.mend) == (State.MISSING, "Only for kind: onnx: pip install x")
    assert (unused.state, unused.mend) == (State.MISSING, "")
    assert "no adapter `no_such_kind`" in unused.found


def test_the_packages_it_asks_for_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[><=]", entry)[0] for entry in project["dependencies"]} == set(software.NEEDED.values())


# ---------------------------------------------------------------- packs


def network(path: Path, output: str, nodes: list[Any], kind: int, shape: list[Any], constants: list[Any]) -> str:
    """A network that takes tiles and computes next to nothing; returns its SHA-256."""
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 1, HEIGHT, WIDTH])
    out = helper.make_tensor_value_info(output, kind, ["batch", *shape])
    graph = helper.make_graph(nodes, "g", [frames], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_pack(folder: Path) -> Path:
    folder.mkdir(parents=True)
    cast = helper.make_node("Cast", ["frames"], ["f"], to=TensorProto.FLOAT)
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    mean = helper.make_node("ReduceMean", ["f"], ["score"], axes=[1, 2, 3], keepdims=0)
    means = helper.make_node("ReduceMean", ["f"], ["scores"], axes=[2, 3], keepdims=0)
    squeeze = helper.make_node("Squeeze", ["frames", "one"], ["probability"])
    gate = network(folder / "gate.onnx", "score", [cast, mean], TensorProto.FLOAT, [], [])
    types = network(folder / "types.onnx", "scores", [cast, means], TensorProto.FLOAT, [1], [])
    segment = network(folder / "s.onnx", "probability", [squeeze], TensorProto.UINT8, [HEIGHT, WIDTH], [one])
    manifest = {
        "format": 1,
        "name": "tiny",
        "version": "1",
        "tile": {"height": HEIGHT, "width": WIDTH},
        "classes": [{"number": 1, "name": "pits"}],
        "gate": {"file": "gate.onnx", "sha256": gate, "threshold": 0.5},
        "types": {"file": "types.onnx", "sha256": types, "thresholds": {1: 0.5}, "floors": {1: 0.1}},
        "segmenters": [
            {"class_number": 1, "file": "s.onnx", "sha256": segment, "threshold": 0.5, "minimum_area_px": 1}
        ],
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return make_pack(tmp_path / "engines/tiny").parent


def test_a_pack_is_verified_and_run(engines: Path) -> None:
    for folder in (engines, engines / "tiny"):
        (finding,) = software.packs([folder])
        assert finding.state is State.OK, finding
        assert "tiny 1, " in finding.found
        assert "1 pits" in finding.found
        assert "runs on onnxruntime" in finding.found


def test_an_altered_pack_stops_the_line(engines: Path) -> None:
    with (engines / "tiny/gate.onnx").open("ab") as file:
        file.write(b"\0")
    (finding,) = software.packs([engines])
    assert finding.fatal
    assert "gate was altered" in finding.found
    assert "Restore the file" in finding.mend


def test_of_the_usual_places_one_good_pack_is_enough(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (make_pack(engines / "torn") / "types.onnx").unlink()
    monkeypatch.setattr(software, "usual_folders", lambda: [engines])
    found = {Path(finding.name).name: finding for finding in software.packs([])}
    assert found["tiny"].state is State.OK
    assert found["torn"].state is State.WARNING
    (engines / "tiny/manifest.yaml").unlink()
    assert [finding.fatal for finding in software.packs([])] == [True]


def test_no_pack_at_all_is_told_with_a_way_on(tmp_path: Path) -> None:
    (finding,) = software.packs([tmp_path / "nowhere"])
    assert finding.fatal
    assert "inspector doctor engines/severstal" in finding.mend


# ---------------------------------------------------------------- the report


REPORT = Report(
    findings=[
        Finding(section="machine", name="processor", state=State.OK, found="Fast 9000 [x86]"),
        Finding(section="machine", name="GPU", state=State.MISSING, found="none", mend="apt-get install it"),
        Finding(section="packs", name="pack", state=State.MISSING, found="none", mend="train one", needed=True),
    ]
)


def test_only_what_is_needed_decides() -> None:
    assert REPORT.exit_code == 1
    assert REPORT.verdict.endswith("Needed and missing: pack")
    assert Report(findings=REPORT.findings[:2]).exit_code == 0


def test_piped_it_is_plain_lines() -> None:
    out = io.StringIO()
    show(REPORT, out)
    assert out.getvalue().splitlines() == [
        "machine\tprocessor\tok\tFast 9000 [x86]",
        "machine\tGPU\tmissing\tnone\tapt-get install it",
        "packs\tpack\tmissing, needed\tnone\ttrain one",
        REPORT.verdict,
    ]


def test_on_a_terminal_it_is_a_table() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        show(REPORT, terminal)
        shown = ""
        while REPORT.verdict[-20:] not in shown:  # one read may give only the first part
            shown += os.read(master, 65536).decode()
    os.close(master)
    for word in ("Fast 9000 [x86]", "MISSING", "train one", "cannot run here yet"):
        assert word in re.sub(r"\x1b\[[0-9;]*m", "", shown)


def test_as_json_it_is_one_object() -> None:
    told = json.loads(as_json(REPORT))
    assert told["ok"] is False
    assert told["verdict"] == REPORT.verdict
    assert msgspec.convert(told["findings"], list[Finding]) == REPORT.findings


def test_this_machine_can_run_the_line(engines: Path) -> None:
    """The whole examination, for real: what the tests run on must be able to run the line."""
    out = io.StringIO()
    assert main([engines], in_json=True, out=out) == 0, out.getvalue()
    sections = {finding["section"] for finding in json.loads(out.getvalue())["findings"]}
    assert sections == {"machine", "limits", "software", "runtimes", "cameras", "sinks", "packs"}


def test_a_machine_without_a_pack_cannot(tmp_path: Path) -> None:
    assert doctor([tmp_path]).exit_code == 1
