"""A daemon under load and another pack: shadow, swap, way back, kill -9 in between, SIGHUP; the books prove no loss."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inspector.client import Control
from inspector.errors import Refused
from inspector.events import CoilEvent, Defect, Heartbeat, State
from inspector.packs.store import Store
from tests.conftest import Start
from tests.line.daemon import Daemon, command, journalled, proven, write, written
from tests.line.lines import config, filmed, slow
from tests.packs import BAND, make_pack

QUICK = {"shadow_frames": 20, "watch_frames": 20, "watch_s": 0, "shadow_share": 1.0, "time_factor": 1e6}
"""Times are nobody's business here."""
UNTIL_TOLD = 100_000_000
"""More frames than any test sees."""


def line(pack: Path, folder: Path, ipc: str, **packs: Any) -> dict[str, Any]:
    """A line that drops frames when it is behind, and has room for a machine that stands still for seconds."""
    return config(
        pack,
        folder / "j.db",
        filmed(frames_hz=100),
        line={"name": "hot", "coil": "c1", "heartbeat_s": 0.2, "queue": 5000},
        control={"address": f"{ipc}-control"},
        packs={**QUICK, "late_margin": 1.0, **packs},
    )


@pytest.fixture
def control(ipc: str) -> Iterator[Control]:
    with Control(f"{ipc}-control") as made:
        yield made


def staged(control: Control, folder: Path, new: Path) -> None:
    """As `inspector packs stage` does it, without a process of its own."""
    control.stage_pack(Store(folder / "packs", "hot").stage(new).name)


def said(daemon: Daemon, words: str) -> None:
    """Until the daemon logs this."""
    daemon.until(lambda: words in daemon.stderr, words)


def asked(action: str, path: Path, *more: str | Path) -> str:
    """`inspector packs`, which must go well."""
    done = command("packs", action, *more, path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pack_states(path: Path) -> list[str]:
    found = [event.data for event in journalled(path, "state")]
    return [data.state for data in found if isinstance(data, State) and data.part == "pack"]


def digests(path: Path) -> list[str]:
    """Of the defects, in the order of the strip, each stretch once."""
    found = [event.data for event in journalled(path, "defect")]
    defects = sorted((data for data in found if isinstance(data, Defect)), key=lambda data: data.frame_sequence)
    stretches: list[str] = []
    for defect in defects:
        if stretches[-1:] != [defect.pack_digest]:
            stretches.append(defect.pack_digest)
    return stretches


def judged(path: Path) -> list[tuple[str, ...] | None]:
    """The packs that the end of each coil names."""
    found = [event.data for event in journalled(path, "coil")]
    return [data.packs for data in found if isinstance(data, CoilEvent) and data.phase == "end"]


def on_duty(path: Path) -> list[str | None]:
    """The packs of the heartbeats in a jsonl file, each once, in the order in which they came."""
    beats = [event.data for event in written(path)]
    return list(dict.fromkeys(beat.pack_digest for beat in beats if isinstance(beat, Heartbeat)))


def nothing_lost(path: Path) -> None:
    for books in proven(path).books:
        assert books.issued == books.inspected > 0
        assert books.lost == {}


def test_a_staged_pack_takes_over_at_one_frame_and_outlives_a_restart(
    start: Start, pack: Path, tmp_path: Path, ipc: str, control: Control
) -> None:
    new = make_pack(tmp_path / "new", version="2")
    beats = tmp_path / "beats.jsonl"
    setup = line(pack, tmp_path, ipc)
    setup["sinks"] = [{"kind": "jsonl", "options": {"path": str(beats), "kinds": ["heartbeat"]}}]
    path = write(tmp_path, setup)
    daemon = start(setup).ready()
    before = control.packs().on_duty
    daemon.until(lambda: beats.stat().st_size, "a heartbeat of the old pack")
    assert "It is tried now" in asked("stage", path, new)
    said(daemon, "pack: kept: bands 2")
    after = control.packs()
    assert (after.phase, after.on_duty.version, after.candidate) == ("idle", "2", None)
    assert "20 frames compared" in after.last
    swapped = daemon.metric("frames_inspected_total{camera=a}")
    daemon.until(lambda: daemon.metric("frames_inspected_total{camera=a}") > swapped + 20, "frames of the new pack")
    metrics = daemon.metrics()
    assert metrics[f"pack_info{{digest={after.on_duty.digest},name=bands,version=2}}"] == 1
    assert not any(before.digest in key for key in metrics)
    assert metrics["pack_changes_total{outcome=kept}"] == 1
    assert metrics["pack_compared_frames_total"] >= 40
    assert metrics["pack_change_phase{phase=idle}"] == 1
    rows = {row["version"]: row["state"] for row in msgspec.json.decode(asked("list", path, "--json"))}
    assert rows == {"1": "before, named by pack:", "2": "on duty"}
    assert daemon.stop() == 0
    nothing_lost(tmp_path / "j.db")
    assert digests(tmp_path / "j.db") == [before.digest, after.on_duty.digest]
    assert judged(tmp_path / "j.db") == [(before.digest, after.on_duty.digest)]
    assert on_duty(beats) == [before.digest, after.on_duty.digest]
    assert pack_states(tmp_path / "j.db") == ["shadow", "swapped", "kept"]

    daemon = start(setup)
    said(daemon, "line hot: pack bands 2")
    control.roll_back_pack()
    said(daemon, "pack: kept: bands 1")
    assert daemon.stop() == 0
    daemon = start(setup)
    said(daemon, "line hot: pack bands 1")
    assert daemon.stop() == 0

    (tmp_path / "packs" / "hot.json").write_bytes(b"{")
    assert "what was on duty cannot be read" in command("check", path).stdout.replace("\n", "")
    daemon = start(setup).ready()
    assert daemon.metric("warnings_total{kind=pack_not_as_before}") == 1
    assert daemon.stop() == 0
    assert daemon.stderr.count("what was on duty cannot be read") == 1


def test_a_pack_that_alarms_too_often_is_refused_in_its_shadow_and_goes_back_after_the_swap(
    start: Start, tmp_path: Path, ipc: str, control: Control
) -> None:
    old = make_pack(tmp_path / "old", classes=1, level=250)  # never alarms: nothing is so bright and so dark
    new = make_pack(tmp_path / "new", classes=1, level=0, version="2")  # always does
    setup = line(old, tmp_path, ipc, watch_frames=UNTIL_TOLD, sample_frames=3)
    daemon = start(setup).ready()
    staged(control, tmp_path, new)
    said(daemon, "pack: refused: bands 2")
    assert "it alarms on 100.0% of" in daemon.stderr
    assert daemon.metric("pack_changes_total{outcome=refused}") == 1
    assert daemon.metric("pack_differences_total{difference=only_new}") >= 10
    (album,) = (tmp_path / "packs" / "samples").iterdir()
    assert len(list(album.glob("only_new-a-*.png"))) == len(list(album.glob("only_new-a-*.json"))) == 3
    assert "refused" in (album / "outcome.json").read_text()

    write(tmp_path, {**setup, "packs": {**setup["packs"], "shadow_frames": 0}})
    daemon.process.send_signal(signal.SIGHUP)
    said(daemon, "reload: the pack is the same")
    staged(control, tmp_path, new)
    said(daemon, "pack: swapped: bands 2")
    said(daemon, "pack: rolled back: bands 2")
    now = control.packs()
    assert (now.phase, now.on_duty.version) == ("idle", "1")
    assert now.last.startswith("rolled_back: ")
    assert daemon.metric("pack_changes_total{outcome=rolled_back}") == 1
    assert daemon.stop() == 0
    nothing_lost(tmp_path / "j.db")
    assert len(digests(tmp_path / "j.db")) == 1, "only the new pack ever alarms"
    assert pack_states(tmp_path / "j.db") == ["shadow", "refused", "swapped", "rolled back"]


def test_a_slow_pack_whose_frames_stay_young_by_leaving_out_networks_goes_back(
    start: Start, pack: Path, tmp_path: Path, ipc: str, control: Control
) -> None:
    new = make_pack(tmp_path / "new", version="2")
    for number in BAND:
        slow(new, products=60, network=f"segment_{number}")
    setup = line(pack, tmp_path, ipc, shadow_frames=0, watch_frames=UNTIL_TOLD, late_margin=0.05)
    setup["line"]["deadline_ms"] = 60_000  # no frame is late
    setup["overload"] = {"too_old_ms": 100, "up_after_ms": 50, "down_after_s": 0.5}
    daemon = start({**setup, "runtime": {"options": {"workers": 1}}}).ready()
    daemon.until(lambda: daemon.metric("frames_inspected_total{camera=a}") > 300, "frames of the old pack")
    staged(control, tmp_path, new)
    said(daemon, "pack: rolled back: bands 2")
    assert "or lost or inspected less deeply as the line is behind" in control.packs().last
    assert daemon.stop() == 0
    proven(tmp_path / "j.db")


def test_a_kill_in_the_shadow_starts_with_the_old_pack_and_says_so(
    start: Start, pack: Path, tmp_path: Path, ipc: str, control: Control
) -> None:
    new = make_pack(tmp_path / "new", version="2")
    setup = line(pack, tmp_path, ipc, shadow_frames=UNTIL_TOLD)
    daemon = start(setup).ready()
    staged(control, tmp_path, new)
    daemon.until(lambda: control.packs().compared, "frames in shadow")
    refused = command("packs", "stage", new, tmp_path / "line.yaml")
    assert (refused.returncode, "another change is under way (shadow)" in refused.stderr) == (1, True)
    daemon.kill()

    daemon = start(setup).ready()
    said(daemon, "pack: cut short: bands 2")
    assert control.packs().on_duty.version == "1"
    assert control.packs().phase == "idle"
    staged(control, tmp_path, new)
    daemon.until(lambda: control.packs().compared, "frames in shadow")
    control.cancel_pack()
    said(daemon, "pack: cancelled: bands 2")
    daemon.until(lambda: control.packs().phase == "idle", "the end of the change")
    with pytest.raises(Refused, match="no change of the pack is under way"):
        control.cancel_pack()
    assert daemon.stop() == 0
    proven(tmp_path / "j.db")
    assert pack_states(tmp_path / "j.db") == ["shadow", "cut short", "shadow", "cancelled"]


def test_hung_up_it_reads_its_file_again_and_a_broken_one_changes_nothing(
    start: Start, pack: Path, tmp_path: Path, ipc: str
) -> None:
    new = make_pack(tmp_path / "new", version="2")
    setup = line(pack, tmp_path, ipc)
    del setup["control"]
    path = write(tmp_path, setup)
    daemon = start(setup, watchdog_s=60).ready()

    path.write_text("line: [")
    hang_up(daemon)
    assert "reload: " in daemon.stderr
    assert "not valid YAML" in daemon.stderr
    assert daemon.metric("reloads_total{outcome=refused}") == 1

    changed = {**setup, "pack": str(new), "batch": {"size": 2}}
    write(tmp_path, changed)
    hang_up(daemon)
    assert "in force only after a restart: batch.size" in daemon.stderr
    said(daemon, "pack: kept: bands 2")
    assert daemon.metric("reloads_total{outcome=ok}") == 1

    third = make_pack(tmp_path / "third", version="3")
    assert "SIGHUP" in asked("stage", path, third)
    hang_up(daemon)
    said(daemon, "pack: kept: bands 3")
    gate = tmp_path / "new" / "gate.onnx"
    gate.unlink()
    os.mkfifo(gate)  # a disk that hangs
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.told("RELOADING=1")
    for _ in range(2):
        daemon.told("WATCHDOG=1")
    gate.write_bytes(b"torn")
    daemon.told("READY=1")
    assert "network gate was altered" in daemon.stderr
    assert daemon.stop() == 0
    nothing_lost(tmp_path / "j.db")
    assert len(digests(tmp_path / "j.db")) == 3


def hang_up(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGHUP)
    assert "MONOTONIC_USEC=" in daemon.told("RELOADING=1")
    daemon.told("READY=1")
