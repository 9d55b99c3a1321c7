"""What may go wrong beside the line and must not stop it: slow listeners, slow networks, dying cameras, full disks."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zmq

from inspector.events import Defect, Depth, Event, Heartbeat, Reason
from inspector.journal import Pages, RunState
from inspector.metrics import LOST_AT
from inspector.overload import Step
from tests.conftest import Start
from tests.line.daemon import Daemon, journalled, proven, subscribed, written
from tests.line.lines import config, filmed, lossless, pictures, played, slow
from tests.line.told import books_of, gaps_of, gaps_tell_every_lost_frame, said, states_of, steps_of
from tests.packs import TILE, make_pack

HOT = {"name": "hot", "coil": "c1", "heartbeat_s": 0.1}
PATIENT = {**HOT, "queue": 10_000}
"""A queue so long that a busy machine loses nothing."""


# ---------------------------------------------------------------- sinks that stand still


def test_a_subscriber_that_never_reads_holds_back_nobody(start: Start, pack: Path, tmp_path: Path, ipc: str) -> None:
    path = tmp_path / "j.db"
    sink = {"kind": "zeromq", "options": {"address": ipc, "high_water_mark": 20, "patience_ms": 50, "linger_ms": 100}}
    setup = config(pack, path, played(pictures(tmp_path / "pictures")), sinks=[sink], line=lossless(heartbeat_s=0.1))
    with zmq.Context() as context, context.socket(zmq.SUB) as asleep, subscribed(ipc, "defect/", "heartbeat/") as ears:
        asleep.linger, asleep.rcvhwm, asleep.rcvbuf, asleep.reconnect_ivl = 0, 1, 2048, 5
        asleep.subscribe("")
        asleep.connect(ipc)
        daemon = start(setup).ready()
        refused = "events_undelivered_total{reason=refused,sink=zeromq}"
        daemon.until(lambda: daemon.metric(refused) > 200, "events that the stalled subscriber did not take")
        inspected = daemon.metric("frames_inspected_total{camera=a}")
        daemon.until(lambda: daemon.metric("frames_inspected_total{camera=a}") > inspected + 200, "the line to go on")
        ears.until(
            lambda event: isinstance(event.data, Heartbeat) and event.data.undelivered["zeromq"] > 200,
            daemon,
            "a heartbeat that tells of it",
        )
        assert daemon.get("/readyz")[0] == 200
        assert daemon.stop() == 0
    books = books_of(path)["a"]
    assert books.issued == books.inspected
    assert len(journalled(path, "defect")) == books.issued // 2  # the journal has what the sink refused


def test_a_pipe_that_nobody_reads_costs_only_its_events(start: Start, pack: Path, tmp_path: Path) -> None:
    """Without a reader it cannot be opened, with one that stands still it is full: neither stops the line."""
    path, pipe = tmp_path / "j.db", tmp_path / "pipe"
    os.mkfifo(pipe)
    sinks = [
        {"name": "pipe", "kind": "jsonl", "options": {"path": str(pipe)}},
        {"name": "file", "kind": "jsonl", "options": {"path": str(tmp_path / "events.jsonl")}},
    ]
    setup = config(pack, path, played(pictures(tmp_path / "pictures")), sinks=sinks, line=lossless(heartbeat_s=0.1))
    daemon = start(setup).ready()
    down, refused = (f"events_undelivered_total{{reason={reason},sink=pipe}}" for reason in ("down", "refused"))
    daemon.until(lambda: daemon.metric(down) > 0, "events that nobody can take")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        daemon.until(lambda: daemon.metric(refused) > 20, "a full pipe")
        assert daemon.get("/healthz")[0] == 200
        assert daemon.stop() == 0
    finally:
        os.close(reader)
    assert "pipe" in daemon.stderr
    assert "start the reader of this pipe first" in daemon.stderr
    books = books_of(path)["a"]
    assert books.issued == books.inspected
    assert written(tmp_path / "events.jsonl") == journalled(path)


# ---------------------------------------------------------------- too much, too slow


@pytest.mark.parametrize(
    ("ring", "queue", "reason"), [(10_000, 4, Reason.OVERLOAD), (2, 4, Reason.OVERRUN)], ids=["overload", "overrun"]
)
def test_a_line_that_is_too_slow_drops_and_tells(
    start: Start, tmp_path: Path, ipc: str, ring: int, queue: int, reason: Reason
) -> None:
    """Overload: the cascade is behind and old frames go. Overrun: the camera cannot paint as fast as it is told."""
    path = tmp_path / "j.db"
    if reason is Reason.OVERLOAD:
        pack = slow(make_pack(tmp_path / "pack"), size=256, products=40)
        camera = filmed(frames_hz=400, ring_frames=ring)
    else:
        pack = make_pack(tmp_path / "pack")
        camera = filmed(frames_hz=20_000, ring_frames=ring)
    lost = f"frames_lost_total{{camera=a,reason={reason},stage={LOST_AT[reason]}}}"
    sinks = [{"kind": "zeromq", "options": {"address": ipc}}]
    with subscribed(ipc, "heartbeat/") as ears:
        daemon = start(config(pack, path, camera, sinks=sinks, line={**HOT, "queue": queue}, overload={})).ready()
        daemon.until(lambda: daemon.metric(lost) > 100, f"{reason}s")
        metrics = daemon.metrics()
        health, status = daemon.get("/healthz")
        assert health == 200
        assert daemon.stop() == 0
        ears.rest()

    books = books_of(path)
    gaps_tell_every_lost_frame(path, books)
    assert books["a"].lost[reason] >= metrics[lost]
    assert books["a"].inspected > 0
    assert 0 < metrics["coverage_ratio{camera=a}"] < 1
    # Old frames go, so those that are inspected are young: a bounded number of them is on its way at any moment.
    assert metrics["queue_items{queue=frames}"] <= queue
    assert metrics["pool_slots_in_use"] <= metrics["pool_slots"]
    capacity = proven(path).runs[-1].capacity_frames
    beats = [event.data.cameras["a"] for event in ears.events if isinstance(event.data, Heartbeat)]
    assert beats
    assert all(0 <= beat.issued - beat.inspected - sum(beat.lost.values()) <= capacity for beat in beats)
    assert all(after.along_mm.start >= before.along_mm.end for before, after in pairwise(gaps_of(path)))
    if reason is Reason.OVERLOAD:  # frames go last, and the gate saw all that did not
        assert Step.DROPPING in steps_of(path)
        assert "overload: dropping frames" in status
        assert metrics["overload_step"] == Step.DROPPING
        depths = {depth: metrics[f"frames_depth_total{{camera=a,depth={depth}}}"] for depth in Depth}
        assert depths[Depth.GATE] > 0
        assert sum(depths.values()) == metrics["frames_inspected_total{camera=a}"] <= metrics["gate_tiles_total"]


# ---------------------------------------------------------------- cameras that fail


def test_a_camera_that_dies_and_comes_back(start: Start, pack: Path, tmp_path: Path, ipc: str) -> None:
    path = tmp_path / "j.db"
    sinks = [{"kind": "zeromq", "options": {"address": ipc}}]
    mortal = filmed("mortal", frames_hz=50, die_at_frame=20, die_times=2, seed=2)
    setup = config(pack, path, mortal, filmed("other"), sinks=sinks, line=PATIENT)
    with subscribed(ipc, "state/") as ears:
        daemon = start(setup).ready()
        down = ears.until(lambda event: said(event, "mortal", "down"), daemon, "its death")
        assert "drill" in down.data.detail  # type: ignore[union-attr]
        status, body = daemon.get("/readyz")
        assert status == 503
        assert "mortal" in body
        assert "other" not in body
        assert daemon.get("/healthz")[0] == 200
        assert daemon.metric("camera_up{camera=mortal}") == 0
        ears.until(lambda event: said(event, "mortal", "up"), daemon, "its return")
        daemon.until(lambda: daemon.get("/readyz")[0] == 200, "ready again")
        before = daemon.metric("frames_inspected_total{camera=mortal}")
        daemon.until(lambda: daemon.metric("frames_inspected_total{camera=mortal}") > before, "its frames again")
        metrics = daemon.metrics()
        assert daemon.stop() == 0

    assert metrics["camera_up{camera=mortal}"] == 1
    assert metrics["camera_reopens_total{camera=mortal}"] == 1
    assert metrics["camera_reopens_total{camera=other}"] == 0
    books = books_of(path)
    assert books["other"].issued == books["other"].inspected
    assert gaps_of(path, "other") == []
    assert books["mortal"].issued == books["mortal"].inspected
    # No frame has a number while the camera is dead, but the strip ran on: that stretch is a gap.
    (gap,) = gaps_of(path, "mortal")
    assert (gap.reason, gap.frames, gap.frame_sequence) == ("camera_down", 0, 20)
    assert gap.along_mm.start == 20 * TILE[0] * 0.5
    assert gap.along_mm.end > gap.along_mm.start
    assert states_of(path, "mortal") == ["up", "down", "up"]
    assert states_of(path, "other") == ["up"]


def test_a_camera_that_is_not_there_at_the_start(start: Start, pack: Path, tmp_path: Path) -> None:
    """It dies before its first frame; the daemon is ready only when it is back, with nothing lost of the other."""
    path = tmp_path / "j.db"
    late = filmed("late", pace="free", frames=20, die_at_frame=0, die_times=2)
    daemon = start(config(pack, path, late, filmed("other"), line=PATIENT))
    daemon.until(lambda: "late" in daemon.get("/readyz")[1], "word of the missing camera")
    daemon.ready()
    assert daemon.stop() == 0
    books = books_of(path)
    assert books["late"].issued == books["late"].inspected > 0
    assert books["other"].issued == books["other"].inspected
    assert states_of(path, "late") == ["up", "down", "up"]


def test_a_camera_that_hangs_holds_back_no_other(start: Start, pack: Path, tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    setup = config(pack, path, filmed("hung", hang_at_frame=10, pace="free"), filmed("other"), line=PATIENT)
    daemon = start(setup).ready()
    daemon.until(lambda: daemon.metric("frames_captured_total{camera=hung}") == 10, "the frames before it hung")
    before = daemon.metric("frames_inspected_total{camera=other}")
    daemon.until(lambda: daemon.metric("frames_inspected_total{camera=other}") > before + 20, "the other to go on")
    assert daemon.get("/healthz")[0] == 200
    assert daemon.stop() == 0
    books = books_of(path)
    assert (books["hung"].issued, books["hung"].inspected) == (10, 10)
    assert books["other"].issued == books["other"].inspected


def test_holes_in_the_numbers_are_gaps(start: Start, pack: Path, tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    camera = filmed(pace="free", frames=60, skip_frames=[0, 1, 17, 30, 31, 32, 59])
    daemon = start(config(pack, path, camera, line=lossless()))
    assert daemon.wait() == 0
    books = books_of(path)
    assert books["a"].lost == {"missing": 6}
    assert (books["a"].issued, books["a"].inspected) == (59, 53)  # nobody can know that a frame 59 was to come
    frame_mm = TILE[0] * 0.5
    found = [(gap.frame_sequence, gap.frames, gap.along_mm.start, gap.along_mm.end) for gap in gaps_of(path)]
    assert found == [
        (0, 2, 0.0, 2 * frame_mm),
        (17, 1, 17 * frame_mm, 18 * frame_mm),
        (30, 3, 30 * frame_mm, 33 * frame_mm),
    ]


# ---------------------------------------------------------------- disks that are full


def limit(daemon: Daemon, size: int) -> None:
    """No file of the daemon may grow beyond `size` bytes from now on: for its writes the disk is full."""
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_journal_without_room_degrades_and_recovers(start: Start, pack: Path, tmp_path: Path, ipc: str) -> None:
    path = tmp_path / "j.db"
    sinks = [{"kind": "zeromq", "options": {"address": ipc}}]
    setup = config(pack, path, filmed(), sinks=sinks, line=PATIENT)
    with subscribed(ipc) as ears:
        daemon = start(setup).ready()
        ears.until(lambda event: isinstance(event.data, Defect), daemon, "a defect")
        limit(daemon, path.with_name("j.db-wal").stat().st_size + 20_000)
        goes_on_without_its_journal(daemon, ears)
        limit(daemon, resource.RLIM_INFINITY)
        recovers(daemon, ears)
        assert daemon.stop() == 0
        ears.rest()
    all_is_journalled_after_all(path, ears.events)


def goes_on_without_its_journal(daemon: Daemon, ears: Any) -> None:
    state = ears.until(lambda event: said(event, "journal", "degraded"), daemon, "word of it").data
    assert "j.db" in state.detail
    status, body = daemon.get("/readyz")
    assert (status, "the journal cannot be written" in body) == (503, True)
    assert daemon.get("/healthz")[0] == 200
    before = len(ears.events)
    ears.until(
        lambda event: isinstance(event.data, Defect) and len(ears.events) > before + 50, daemon, "events all the same"
    )
    metrics = daemon.metrics()
    assert metrics["journal_pending_events"] > 0
    assert metrics["journal_commit_failures_total"] > 0


def recovers(daemon: Daemon, ears: Any) -> None:
    ears.until(lambda event: said(event, "journal", "ok"), daemon, "word that it is back")
    daemon.until(lambda: daemon.get("/readyz")[0] == 200, "ready again")


def all_is_journalled_after_all(path: Path, heard: list[Event]) -> None:
    books = books_of(path)
    assert books["a"].issued == books["a"].inspected
    assert states_of(path, "journal") == ["degraded", "ok"]
    stored = {event.id: event for event in journalled(path)}
    assert all(stored[event.id] == event for event in heard if not isinstance(event.data, Heartbeat))


@pytest.mark.parametrize("end", ["term", "kill"])
def test_an_end_while_the_journal_has_no_room(start: Start, pack: Path, tmp_path: Path, ipc: str, end: str) -> None:
    """What could not be written is lost with the process: it says so, and the next start books the frames as lost."""
    path = tmp_path / "j.db"
    setup = config(pack, path, filmed(), sinks=[{"kind": "zeromq", "options": {"address": ipc}}], line=PATIENT)
    with subscribed(ipc) as ears:
        daemon = start(setup).ready()
        ears.until(lambda event: isinstance(event.data, Defect), daemon, "a defect")
        limit(daemon, path.with_name("j.db-wal").stat().st_size + 20_000)
        ears.until(lambda event: said(event, "journal", "degraded"), daemon, "word of it")
        ears.until(lambda event: isinstance(event.data, Defect), daemon, "a defect that is not written")
        if end == "kill":
            daemon.kill()
        else:
            assert daemon.stop() == 1
            assert "the run is not closed" in daemon.stderr
            assert "Traceback" not in daemon.stderr
        ears.rest()
    assert proven(path).runs[-1].state is RunState.KILLED
    further = filmed(first_encoder_count=100_000)  # the strip ran on meanwhile
    daemon = start(setup | {"cameras": [further]}).ready()
    assert daemon.stop() == 0
    the_journal_knows_that_they_were(path, ears.events)
    first, second = proven(path).books
    assert first.in_flight == 0
    assert first.issued == first.inspected + sum(first.lost.values())
    assert second.issued == second.inspected
    gap = gaps_of(path)[0]
    assert (gap.reason, gap.frames) == (Reason.CRASH, first.lost.get(Reason.CRASH, 0))
    assert gap.along_mm.end > gap.along_mm.start


def the_journal_knows_that_they_were(path: Path, heard: list[Event]) -> None:
    with Pages(path) as pages:
        marks = {(epoch, topic): last for epoch, topic, last in pages.marks([])}
    stored = {event.id for event in journalled(path)}
    gone = [event for event in heard if event.id not in stored and not isinstance(event.data, Heartbeat)]
    assert gone
    assert all(event.sequence <= marks[event.epoch, event.subject] for event in gone)
    assert proven(path).runs[0].unjournalled >= len(gone)


def test_a_recording_ends_rather_than_go_on_without_a_journal(start: Start, pack: Path, tmp_path: Path) -> None:
    """A line that can wait must not run ahead of its journal."""
    path = tmp_path / "j.db"
    daemon = start(config(pack, path, played(pictures(tmp_path / "pictures")), line=lossless())).ready()
    limit(daemon, path.with_name("j.db-wal").stat().st_size + 20_000)
    assert daemon.wait() == 1
    assert "stage publish failed" in daemon.stderr
    assert str(path) in daemon.stderr
    assert "Traceback" not in daemon.stderr
    assert proven(path).runs[-1].state is RunState.KILLED


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_really_full_disk_is_survived_too(
    start: Start, pack: Path, tmp_path: Path, ipc: str, small_disk: Path
) -> None:
    path, ballast = small_disk / "j.db", small_disk / "ballast"
    sinks = [
        {"kind": "zeromq", "options": {"address": ipc}},
        {"kind": "jsonl", "options": {"path": str(small_disk / "events.jsonl")}},
    ]
    with subscribed(ipc) as ears:
        daemon = start(config(pack, path, filmed(), sinks=sinks, line=PATIENT)).ready()
        ears.until(lambda event: isinstance(event.data, Defect), daemon, "a defect")
        fill(ballast)
        goes_on_without_its_journal(daemon, ears)
        refused = "events_undelivered_total{reason=refused,sink=jsonl}"
        daemon.until(lambda: daemon.metric(refused) > 0, "an events file that takes no more")
        ballast.unlink()
        recovers(daemon, ears)
        assert daemon.stop() == 0
        ears.rest()
    all_is_journalled_after_all(path, ears.events)
    stored = {event.id: event for event in journalled(path)}
    assert all(stored[event.id] == event for event in written(small_disk / "events.jsonl"))  # fewer, but whole lines


def fill(ballast: Path) -> None:
    """Take every byte that is left."""
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


def test_an_events_file_without_room_is_whole_lines_and_goes_on(start: Start, pack: Path, tmp_path: Path) -> None:
    """The journal lives on another disk; here only the events file meets its limit."""
    path, events = tmp_path / "j.db", tmp_path / "events.jsonl"
    events.write_bytes(b'{"torn": ')  # and its last line was torn by a power cut
    with events.open("r+b") as file:
        file.truncate(64 << 20)  # sparse: far beyond the journal, so that one limit stops this file alone
    sinks = [{"kind": "jsonl", "options": {"path": str(events)}}]
    daemon = start(config(pack, path, filmed(), sinks=sinks, line=PATIENT)).ready()
    daemon.until(lambda: daemon.metric("events_published_total{sink=jsonl}") > 10, "events in the file")
    limit(daemon, events.stat().st_size + 3000)
    refused = "events_undelivered_total{reason=refused,sink=jsonl}"
    daemon.until(lambda: daemon.metric(refused) > 10, "refused events")
    assert daemon.get("/readyz")[0] == 200
    limit(daemon, resource.RLIM_INFINITY)
    before = daemon.metric("events_published_total{sink=jsonl}")
    daemon.until(lambda: daemon.metric("events_published_total{sink=jsonl}") > before + 10, "events again")
    assert daemon.stop() == 0
    books = books_of(path)
    assert books["a"].issued == books["a"].inspected
    assert states_of(path, "journal") == []
    first, *lines = events.read_bytes().rstrip(b"\n").split(b"\n")
    assert first.startswith(b'{"torn": ')
    (tmp_path / "rest.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    stored = {event.id: event for event in journalled(path)}
    found = written(tmp_path / "rest.jsonl")
    assert len(found) < len(stored)
    assert all(stored[event.id] == event for event in found)
