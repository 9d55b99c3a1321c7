"""What lies in deploy/ works: systemd takes the unit without a word, and the daemon takes the example."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from inspector import adapters
from inspector.config import load
from inspector.notify import watchdog_interval_s
from inspector.records import WhenFull

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "inspector.service"
PROGRAM = "/opt/inspector/current/venv/bin/inspector"
DROPINS = sorted((DEPLOY / "inspector.service.d").glob("*.conf"))
EXPOSURE = 2.0
"""Of `systemd-analyze security`, at most; 10 is a service that may do anything."""


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None, strict=False)  # SystemCallFilter= may be said thrice
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    return unit["Service"]


def analyzed(folder: Path, dropin: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze of the unit as it stands when `dropin` is installed. It wants the program to exist."""
    there = folder / UNIT.name
    there.write_text(UNIT.read_text().replace(PROGRAM, shutil.which("true") or "/bin/true"))
    if dropin is not None:
        beside = folder / f"{UNIT.name}.d"
        beside.mkdir()
        shutil.copy(dropin, beside)
    return subprocess.run(
        ["systemd-analyze", *arguments, str(there)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


analyzing = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
each_way = pytest.mark.parametrize("dropin", [None, *DROPINS], ids=lambda d: d.stem if d else "alone")


@analyzing
@each_way
def test_systemd_takes_the_unit_without_a_word(dropin: Path | None, tmp_path: Path) -> None:
    """verify exits with 0 on unknown keys, so its stderr must be empty too."""
    done = analyzed(tmp_path, dropin, "verify", "--man=no")
    assert (done.returncode, done.stderr) == (0, "")


@analyzing
@each_way
def test_the_unit_is_little_exposed(dropin: Path | None, tmp_path: Path) -> None:
    """The drop-ins are read with the unit, so they are in the figure: GigE's raw sockets make one."""
    alone = tmp_path / "alone"
    alone.mkdir()
    words = ("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE * 10:.0f}")
    done = analyzed(tmp_path, dropin, *words)
    assert done.returncode == 0, done.stdout
    assert dropin is None or done.stdout != analyzed(alone, None, *words).stdout


def test_the_drop_ins_are_those_that_are_told_of() -> None:
    assert [path.stem for path in DROPINS] == ["basler", "gige", "gpu"]


def test_the_unit_keeps_its_promises(service: configparser.SectionProxy) -> None:
    assert service["Type"] == "notify"
    assert service["ExecStart"] == f"{PROGRAM} run /etc/inspector/line.yaml"
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "78"
    assert service["RestartForceExitStatus"] == "SIGHUP"
    assert service["RestartSec"] == "100ms"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["StateDirectory"] == "inspector"
    assert (watchdog_interval_s({"WATCHDOG_USEC": f"{service['WatchdogSec']}000000"}) or 0) >= 5
    assert int(service["TimeoutStopSec"]) > 30  # the daemon itself gives up a drain after 30 s


def test_the_example_is_a_whole_line() -> None:
    config = load(DEPLOY / "line.yaml")
    assert [camera.kind for camera in config.cameras] == ["synthetic"]
    assert config.line.when_full is WhenFull.DROP_OLDEST
    assert config.journal.path.is_relative_to("/var/lib/inspector")
    assert config.monitor is not None
    assert config.monitor.host == "127.0.0.1"


def test_every_adapter_takes_the_examples_options() -> None:
    config = load(DEPLOY / "line.yaml")
    parts = [
        *(("cameras", camera, f"cameras[{i}]") for i, camera in enumerate(config.cameras)),
        *(("sinks", sink, f"sinks[{i}]") for i, sink in enumerate(config.sinks)),
        ("runtimes", config.runtime, "runtime"),
    ]
    for seam, part, where in parts:
        adapter = adapters.module(seam, part.kind, where)
        assert adapters.options(adapter, part.options, f"{where}.options") is not None
