"""A release under a real systemd, from its installation to its removal, with a subscriber that follows through it all.

One machine is booted and one release installed for everything here; the figures are printed (`pytest -s`).
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from inspector.events import Gap
from inspector.journal import Audit, RunState
from tests import gige
from tests.line.daemon import journalled, proven
from tests.line.lines import config, filmed
from tests.system.machine import ROOT, CannotBoot, Machine, why_not
from tests.system.wheels import wheelhouse

INSTALLER = ROOT / "deploy/install.py"
PYTHON = "/usr/bin/python3"
LINE = "/etc/inspector/line.yaml"
JOURNAL = "/var/lib/inspector/line1.db"
MONITOR = "http://127.0.0.1:9464"
WATCHDOG_S = 6
STOPPED = "stopped"
"""Not a stage: the whole process stands still, as one in which a library holds Python's lock does."""
STAGES = (
    "capture", "preprocess", "cascade", "grading", "publish", "sink-zeromq", "sink-jsonl",
    "monitor", "history", "control", "recording", "watchman", STOPPED,
)  # fmt: skip
SOME = ("capture", "grading", "sink-jsonl", "control")
"""One of each sort; every thread shows life in one of two places (worker.py), and a unit test knows them all."""
BEHIND = ("preprocess", "cascade", "grading")
"""Where frames wait while the journal still says how many there are."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    reason = why_not() or _no_python()
    if reason:
        pytest.skip(reason)
    made = Machine(tmp_path)
    wheelhouse(made.shared / "wheels", "inspector", "setuptools")
    try:
        with made:
            yield made
    except CannotBoot as error:
        pytest.skip(str(error))


def _no_python() -> str | None:
    """The release gets the system's Python; the wheels are those of the tests' own."""
    ask = "import sys, ensurepip; print(*sys.version_info[:2])"
    done = subprocess.run([PYTHON, "-c", ask], capture_output=True, text=True, check=False)
    if done.stdout.split() != [str(number) for number in sys.version_info[:2]]:
        return f"{PYTHON} is not Python {sys.version_info[0]}.{sys.version_info[1]} with venv, as the tests' own is"
    return None


def test_a_release_from_its_installation_to_its_removal(machine: Machine, pack: Path, tmp_path: Path) -> None:
    wheels = machine.shared / "wheels"
    installs(machine, wheels)
    starts(machine)
    with followed(machine):
        is_killed(machine)
        reloads(machine)
        stages_hang(SOME, machine, pack, tmp_path)
        upgrades(machine, wheels)
        rolls_back(machine)
        stops(machine, tmp_path)
        assert_nothing_was_lost(machine, tmp_path)
    sees_a_gige_camera(machine)
    refuses_an_altered_engine(machine)
    refuses_a_port_in_use(machine)
    is_removed(machine)


@pytest.mark.soak
def test_every_stage_hangs(machine: Machine, pack: Path, tmp_path: Path) -> None:
    installs(machine, machine.shared / "wheels")
    stages_hang(STAGES, machine, pack, tmp_path)


# ---------------------------------------------------------------- what it does


def installs(machine: Machine, wheels: Path) -> None:
    machine.run(INSTALLER, "install", "--offline", wheels)
    assert machine.run("stat", "-c", "%U:%G %a", "/var/lib/inspector", "/etc/inspector").split() == [
        "inspector:inspector", "750", "inspector:inspector", "750",
    ]  # fmt: skip
    assert machine.shown()["ActiveState"] == "inactive"  # nobody asked for it yet
    assert machine.run("inspector", "--version").startswith("inspector ")


def starts(machine: Machine) -> None:
    """As the example says, but slower, for the tests beside this one, and over bad strip."""
    line = machine.path(LINE)
    slower = line.read_text().replace("line_rate_hz: 20000", "line_rate_hz: 1280")
    eventful = slower.replace("      seed: 1 ", "      defective_share: 1.0\n      seed: 1 ")
    line.write_text(eventful.replace("  coil: unknown", "  heartbeat_s: 0.2\n  coil: unknown"))
    machine.run("systemctl", "start", "inspector")
    shown = machine.shown()
    assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
    assert "frames inspected" in shown["StatusText"]
    owners = machine.run("stat", "-c", "%U:%G %a %F", "/run/inspector/control", JOURNAL).splitlines()
    assert owners == ["inspector:inspector 660 socket", "inspector:inspector 640 regular file"]


def is_killed(machine: Machine) -> None:
    """kill -9, and how long until the first frame is inspected again."""
    before = machine.shown()
    began = time.monotonic()
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "inspector")
    with machine.python(ROOT / "tests/system/inspected.py", MONITOR, stdout=subprocess.PIPE) as process:
        again = float(process.communicate(timeout=60)[0])
    print(f"kill -9 to the first inspected frame: {again - began:.2f} s")
    shown = machine.until(lambda: _running(machine), "its return")
    assert int(shown["NRestarts"]) == int(before["NRestarts"]) + 1
    assert shown["MainPID"] != before["MainPID"]


def reloads(machine: Machine) -> None:
    """The YAML is the same: nothing happens, and the line goes on."""
    before = machine.shown()["MainPID"]
    machine.run("systemctl", "reload", "inspector")
    machine.until(lambda: "reload: the pack is the same" in machine.log(), "its reload")
    assert machine.until(lambda: _running(machine), "the end of its reload")["MainPID"] == before


def stages_hang(stages: Sequence[str], machine: Machine, pack: Path, folder: Path) -> None:
    """A daemon for each stage, side by side; in each that stage hangs, once."""
    units = _hang_units(stages, machine, pack)
    machine.run("systemctl", "start", *units.values())
    for stage in units:
        machine.path(f"/run/hang-{stage}/hang").touch()
    if STOPPED in units:
        machine.run("systemctl", "kill", "--signal=STOP", units[STOPPED])
        machine.path(f"/run/hang-{STOPPED}/hung").write_text(f"{time.monotonic()}")
    for stage, unit in units.items():
        hung_at = machine.path(f"/run/hang-{stage}/hung")
        machine.until(hung_at.exists, f"the hang of {stage}", unit)
        shown = machine.until(lambda unit=unit: _running(machine, unit, restarts=1), f"the restart of {stage}", unit)
        hung = float(hung_at.read_text())
        again = int(shown["ExecMainStartTimestampMonotonic"]) / 1e6 - hung
        ready = int(shown["ActiveEnterTimestampMonotonic"]) / 1e6 - hung
        print(f"hang of {stage}: restarted after {again:.2f} s (WatchdogSec {WATCHDOG_S}), ready after {ready:.2f} s")
        said = machine.log(unit)
        assert "Watchdog timeout" in said, said
        if stage == STOPPED:
            continue
        told = _entries(machine, unit, "INSPECTOR_KIND=stage_hangs")
        assert [entry["INSPECTOR_STAGE"].partition("-")[0] for entry in told] == [stage.partition("-")[0]], said
        assert "in beat_or_hang" in told[0]["INSPECTOR_TRACE"]
        assert (told[0]["INSPECTOR_LINE"], told[0]["PRIORITY"]) == ("hot", "3")
    machine.run("systemctl", "stop", *units.values())
    for stage in units:
        _told(machine.journal(f"/var/lib/hang-{stage}/j.db", folder), lost=stage in BEHIND)


def upgrades(machine: Machine, wheels: Path) -> None:
    """Another release, while the line runs."""
    before = machine.path("/opt/inspector/current").readlink()
    said = machine.run(INSTALLER, "upgrade", "--offline", wheels)
    assert machine.path("/opt/inspector/current").readlink() != before, said
    assert machine.path("/opt/inspector/previous").readlink() == before, said
    assert _running(machine)


def rolls_back(machine: Machine) -> None:
    before = machine.path("/opt/inspector/current").readlink()
    machine.run("/opt/inspector/current/deploy/install.py", "rollback")
    assert machine.path("/opt/inspector/previous").readlink() == before
    shown = _running(machine)
    assert shown
    command = machine.path(f"/proc/{shown['MainPID']}/cmdline").read_text()
    assert command.startswith(f"{machine.path('/opt/inspector/current').readlink()}/")


def stops(machine: Machine, folder: Path) -> None:
    machine.run("systemctl", "stop", "inspector")
    shown = machine.shown()
    assert (shown["ActiveState"], shown["Result"], shown["ExecMainStatus"]) == ("inactive", "success", "0")
    found = _told(machine.journal(JOURNAL, folder), lost=False)
    assert found.runs[-1].state is RunState.CLOSED


def sees_a_gige_camera(machine: Machine) -> None:
    """By a raw socket, with callbacks from C, and no right beyond what the drop-in gives."""
    if gige.missing() is not None:
        return
    dropin = "/opt/inspector/current/deploy/inspector.service.d/gige.conf"
    place = "/etc/systemd/system/inspector.service.d/10-gige.conf"
    machine.run("install", "-D", "-m", "644", dropin, place)
    machine.run("systemctl", "daemon-reload")
    line = machine.path(LINE)
    text = line.read_text()
    camera = text[text.index("    kind: synthetic") : text.index("    # ---- to here")]
    line.write_text(text.replace(camera, "    kind: gige\n    options: {address: 127.0.0.1, packet_size: 9000}\n"))
    with machine.start(gige.PROGRAM, "-i", "127.0.0.1", "-s", "GV01", stdout=subprocess.DEVNULL) as fake:
        try:
            machine.run("systemctl", "start", "inspector")
            held = machine.path(f"/proc/{machine.shown()['MainPID']}/status").read_text()
            assert re.findall("^Cap(?:Eff|Bnd):\t(.*)$", held, re.MULTILINE) == ["0000000000002000"] * 2  # CAP_NET_RAW
            assert "by packet socket" in machine.log()
            with machine.python(ROOT / "tests/system/inspected.py", MONITOR, stdout=subprocess.PIPE) as process:
                assert float(process.communicate(timeout=60)[0]) > 0
            machine.run("systemctl", "stop", "inspector")
        finally:
            fake.kill()
    line.write_text(text)


def refuses_an_altered_engine(machine: Machine) -> None:
    """Exit code 78: it is left stopped, and `systemctl status` says why."""
    machine.run("cp", "-r", "/opt/inspector/current/engines/severstal", "/srv/pack")
    network = machine.path("/srv/pack/gate.onnx")
    raw = bytearray(network.read_bytes())
    raw[len(raw) // 2] ^= 1
    network.write_bytes(raw)
    line = machine.path(LINE)
    text = line.read_text()
    line.write_text(text.replace("/opt/inspector/current/engines/severstal", "/srv/pack"))
    _refused(machine, "gate.onnx: network gate was altered")
    line.write_text(text)


def refuses_a_port_in_use(machine: Machine) -> None:
    squat = "import socket; held = socket.create_server(('127.0.0.1', 9464)); print('there', flush=True); held.accept()"
    with machine.start(PYTHON, "-c", squat, stdout=subprocess.PIPE) as squatter:
        try:
            assert squatter.stdout is not None
            assert squatter.stdout.readline() == "there\n"
            _refused(machine, "monitor: 127.0.0.1:9464: the port is in use")
        finally:
            squatter.kill()


def is_removed(machine: Machine) -> None:
    machine.run(INSTALLER, "uninstall")
    assert machine.path(LINE).exists()
    assert machine.path(JOURNAL).exists()
    assert machine.shown()["LoadState"] == "not-found"
    machine.run(INSTALLER, "uninstall", "--purge")
    for place in ("/opt/inspector", "/etc/inspector", "/var/lib/inspector", "/usr/local/bin/inspector"):
        assert not machine.path(place).exists()
    assert "no such user" in machine.run("id", "inspector", code=1)


# ---------------------------------------------------------------- its subscriber


@contextmanager
def followed(machine: Machine) -> Iterator[None]:
    """A subscriber with the client library, that takes each event once or fails."""
    follower = machine.python(ROOT / "tests/line/follower.py", "tcp://127.0.0.1:5570", machine.shared / "followed")
    try:
        yield
        assert follower.poll() is None, "the subscriber failed"
    finally:
        follower.kill()
        follower.wait()


def assert_nothing_was_lost(machine: Machine, folder: Path) -> None:
    """Over a kill, an upgrade and a rollback; the line has to run for the subscriber to ask for what it missed."""
    wanted = {(event.source, event.id) for event in journalled(machine.journal(JOURNAL, folder))}
    machine.run("systemctl", "start", "inspector")
    assert len({identity.partition("/")[0] for _, identity in wanted}) >= 4  # so many runs of the daemon
    assert len(wanted) > 20
    machine.until(lambda: wanted <= _followed(machine), "the subscriber to have every event")
    machine.run("systemctl", "stop", "inspector")
    print(f"events followed over every restart: {len(wanted)}")


def _followed(machine: Machine) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(machine.shared / "followed")) as db:
        return set(db.execute("SELECT source, id FROM event"))


# ---------------------------------------------------------------- looking


def _entries(machine: Machine, unit: str, *matches: str) -> list[dict[str, Any]]:
    """What the journal of systemd has of the unit, with all fields."""
    said = machine.run("journalctl", "--no-pager", "--output=json", f"--unit={unit}", *matches)
    return [json.loads(line) for line in said.splitlines()]


def _running(machine: Machine, unit: str = "inspector", restarts: int = 0) -> dict[str, str]:
    """What systemd knows of a unit that is ready; empty while it is not."""
    shown = machine.shown(unit)
    good = (shown["ActiveState"], shown["SubState"]) == ("active", "running") and int(shown["NRestarts"]) >= restarts
    return shown if good else {}


def _refused(machine: Machine, reason: str) -> None:
    before = machine.shown()["NRestarts"]
    machine.run("systemctl", "start", "inspector", code=1)
    shown = machine.shown()
    assert (shown["ActiveState"], shown["ExecMainStatus"], shown["NRestarts"]) == ("failed", "78", before)
    assert reason in shown["StatusText"]
    assert reason in machine.run("systemctl", "status", "--no-pager", "--lines=0", "inspector", code=3)
    machine.run("systemctl", "reset-failed", "inspector")


def _told(journal: Path, lost: bool) -> Audit:
    """The books of all runs balance, and each lost frame is in a gap."""
    found = proven(journal)
    gaps = [event.data for event in journalled(journal, "gap") if isinstance(event.data, Gap)]
    frames = sum(sum(books.lost.values()) for books in found.books)
    assert sum(gap.frames for gap in gaps) == frames
    assert frames > 0 or not lost
    return found


def _hang_units(stages: Sequence[str], machine: Machine, pack: Path) -> dict[str, str]:
    """Stage -> its unit: the one that ships, with a line of its own and a stage that can hang."""
    machine.run("cp", ROOT / "tests/system/hanging.py", "/srv/hanging.py")
    machine.path("/srv/bands").mkdir()
    for file in pack.iterdir():
        machine.path(f"/srv/bands/{file.name}").write_bytes(file.read_bytes())
    unit = machine.path("/etc/systemd/system/inspector.service").read_text()
    command = "ExecStart=/opt/inspector/current/venv/bin/python /srv/hanging.py %i /run/hang-%i run /srv/hang-%i.yaml"
    changes = {
        "ExecStart=": command,
        "WatchdogSec=": f"WatchdogSec={WATCHDOG_S}",
        "StateDirectory=": "StateDirectory=hang-%i",
        "RuntimeDirectory=": "RuntimeDirectory=hang-%i",
        "WorkingDirectory=": "WorkingDirectory=%S/hang-%i",
    }
    lines = [next((new for old, new in changes.items() if line.startswith(old)), line) for line in unit.splitlines()]
    machine.path("/etc/systemd/system/inspector-hang@.service").write_text("\n".join(lines))
    for stage in stages:
        machine.path(f"/srv/hang-{stage}.yaml").write_text(yaml.safe_dump(_hang_line(stage)))
    machine.run("systemctl", "daemon-reload")
    return {stage: f"inspector-hang@{stage}.service" for stage in stages}


def _hang_line(stage: str) -> dict[str, Any]:
    run, state = f"/run/hang-{stage}", Path(f"/var/lib/hang-{stage}")
    sinks: Sequence[dict[str, Any]] = [
        {"kind": "zeromq", "options": {"address": f"ipc://{run}/events"}},
        {"kind": "jsonl", "options": {"path": str(state / "events.jsonl")}},
    ]
    return config(
        Path("/srv/bands"),
        state / "j.db",
        filmed(frames_hz=10, prepared_frames=10),
        runtime={"options": {"workers": 1}},
        sinks=sinks,
        history={"address": f"ipc://{run}/history"},
        control={"address": f"ipc://{run}/control"},
        recording={"path": str(state / "frames"), "window_gb": 0.1, "keep_gb": 0.1},
    )
