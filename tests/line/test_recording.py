"""Recording as a user meets it: the daemon killed at any moment, or on a full disk; the command ended by a signal."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inspector.__main__ import main
from inspector.events import Event, as_json
from tests.conftest import Start
from tests.line.daemon import PATIENCE_S, TURN_S, Daemon, environment, journalled, proven, write
from tests.line.lines import config, filmed
from tests.packs import TILE

CRITICAL = {"severity": [{"severity": "critical", "classes": [4]}]}


def recorded(folder: Path, **options: Any) -> dict[str, Any]:
    return {"path": str(folder), "segment_s": 0.1, "before_s": 0.2, "after_s": 0.2, **options}


def frames(*pieces: Path) -> list[int]:
    """Sequences of the frames that pieces hold, each of which must be whole but for its last line."""
    found = []
    for piece in pieces:
        for line in (piece / "frames.jsonl").read_text().splitlines()[1:]:
            entry = json.loads(line)
            if entry["kind"] == "frame":
                found.append(entry["sequence"])
    return sorted(found)


def pieces(folder: Path) -> list[Path]:
    return sorted(index.parent for index in folder.rglob("frames.jsonl"))


def data(events: list[Event], kind: str) -> list[bytes]:
    """Of the defects or gaps, by their place."""
    found = [event.data for event in events if event.subject.startswith(f"{kind}/")]
    return [as_json(item) for item in sorted(found, key=lambda item: getattr(item, "frame_sequence", 0))]


def spans(defect: bytes) -> set[int]:
    """The frames that a defect lies in."""
    data = json.loads(defect)
    return set(range(data["frame_sequence"], data["frame_sequence"] + data["frames"]))


def test_killed_at_any_moment_it_leaves_recordings_that_can_be_played(start: Start, pack: Path, tmp_path: Path) -> None:
    rec = tmp_path / "rec"
    setup = config(
        pack, tmp_path / "j.db", filmed(frames_hz=80), grading=CRITICAL, recording=recorded(rec, window_gb=0.0003)
    )
    for turn in (1, 2):
        daemon = start(setup)

        def enough(daemon: Daemon = daemon, turn: int = turn) -> bool:
            found = daemon.metrics()
            return found["recordings_kept_total"] > 0 and found["recorded_frames_total{camera=a}"] > 60 * turn

        daemon.until(enough, "something to be kept")
        daemon.kill()
    window = pieces(rec / "window")
    assert sum(file.stat().st_size for piece in window for file in piece.iterdir()) <= 300_000
    events = journalled(tmp_path / "j.db")
    epoch = max(event.epoch for event in events)
    ours = data([event for event in events if event.epoch == epoch], "defect")
    for folder in (max((rec / "kept").iterdir()), window[-1]):
        journal = tmp_path / f"{folder.name}.db"
        assert main(["replay", str(folder), "--pack", str(pack), "--journal", str(journal)]) == 0
        theirs = data(journalled(proven(journal).path), "defect")
        assert theirs
        inside = frames(*pieces(folder))[1:]  # what goes on from the frame before is another defect without it
        held = {item for item in ours if spans(item) <= set(inside) and inside[0] not in spans(item)}
        assert held <= set(theirs)  # and what was inspected but not journalled when it was killed


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own; needs the right to mount."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_does_not_stop_the_line(start: Start, pack: Path, tmp_path: Path) -> None:
    """The window may be larger than the disk: then it is down until there is room, and the line inspects on."""
    with small_disk(tmp_path / "disk", 1) as disk:
        patient = {"name": "hot", "coil": "c1", "queue": 10_000}  # what is lost is kept, and would fill this disk
        recording = recorded(disk / "rec")
        setup = config(pack, tmp_path / "j.db", filmed(frames_hz=400), recording=recording, line=patient)
        daemon = start(setup).ready()
        daemon.until(lambda: daemon.metric("recording_up") == 0, "the disk to be full")
        inspected = daemon.metric("frames_inspected_total{camera=a}")
        daemon.until(lambda: daemon.metric("frames_inspected_total{camera=a}") > inspected + 50, "the line to go on")
        assert daemon.get("/readyz")[0] == 200
        for piece in pieces(disk / "rec")[:5]:
            for file in piece.iterdir():
                file.unlink()
        daemon.until(lambda: "frames are recorded again" in daemon.stderr, "room to be found")
        assert daemon.stop() == 0
        assert daemon.stderr.count("the line goes on, its frames are not recorded") >= 1
    proven(tmp_path / "j.db")
    states = [json.loads(item) for item in data(journalled(tmp_path / "j.db"), "state")]
    states = [state["state"] for state in states if state["part"] == "recording" and state["state"] != "kept"]
    assert states[:2] == ["down", "up"]


def test_record_ends_at_a_signal_and_what_it_leaves_is_whole(tmp_path: Path, pack: Path) -> None:
    path, raw = write(tmp_path, config(pack, tmp_path / "j.db", filmed(), filmed("b"))), tmp_path / "out/a/frames.raw"
    arguments = ["record", str(path), "--camera", "a", "-o", str(tmp_path / "out")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "inspector", *arguments], env=environment(), **pipes) as process:
        life = os.pidfd_open(process.pid)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not (raw.exists() and raw.stat().st_size > 20 * TILE[0] * TILE[1]):
                dead, _, _ = select.select([life], [], [], TURN_S)
                assert not dead, process.communicate()
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            os.close(life)
    assert process.returncode == 0, out + error
    found = frames(tmp_path / "out" / "a")
    assert len(found) > 20
    assert found == list(range(len(found)))
    assert raw.stat().st_size == len(found) * TILE[0] * TILE[1]
    assert not (tmp_path / "out" / "b").exists()
