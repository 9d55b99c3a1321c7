"""kill -9 of the whole daemon, a dozen times at random moments on one journal: no frame is unaccounted, ever."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np

from inspector.events import CoilEvent, Defect, Event, Gap, Heartbeat, Reason
from inspector.journal import Audit, RunState
from tests.conftest import Start
from tests.line.daemon import Daemon, Subscriber, journalled, proven, subscribed
from tests.line.lines import config, filmed, lossless, pictures, played
from tests.packs import TILE, paint

KILLS = 12
COUNT = 8
"""Pictures; every second one has one defect."""


def test_the_books_balance_and_no_event_is_lost(start: Start, pack: Path, tmp_path: Path, ipc: str) -> None:
    """Odd rounds wait for the line, even ones drop frames; both cameras go on at the same strip."""
    dice, path = random.Random(5), tmp_path / "j.db"
    sources = pictures(tmp_path / "pictures", COUNT)
    sinks = [{"kind": "zeromq", "options": {"address": ipc, "linger_ms": 0}}]
    heard: list[Event] = []
    lossy = set()
    for number in range(KILLS):
        line = lossless(heartbeat_s=0.05) | ({} if number % 2 else {"when_full": "drop_oldest"})
        setup = config(pack, path, played(sources), played(sources, "b"), sinks=sinks, line=line, batch={"size": 3})
        with subscribed(ipc) as ears:
            daemon = start(setup)
            kill_somewhere(daemon, ears, events=dice.choice([0, 1, 30, 200, 500]), turns=dice.randrange(300_000))
            while ears.hear(0) is not None:
                pass
        heard += ears.events
        found = proven(path)
        assert found.runs[-1].state is RunState.KILLED
        assert {books.state for books in found.books if books.in_flight} <= {RunState.KILLED}
        assert all(books.in_flight == 0 for books in found.books if books.epoch != found.runs[-1].epoch)
        if not number % 2:
            lossy.add(found.runs[-1].epoch)
    last = start(config(pack, path, played(sources), played(sources, "b"), line=lossless())).ready()
    assert last.stop() == 0

    found = proven(path)
    for books in found.books:
        assert books.issued == books.inspected + sum(books.lost.values())
        assert set(books.lost) <= ({Reason.CRASH, Reason.OVERLOAD} if books.epoch in lossy else {Reason.CRASH})
    assert sum(books.lost.get(Reason.CRASH, 0) for books in found.books) > KILLS
    stored = journalled(path)
    no_event_is_missing(stored, heard)
    no_heartbeat_said_more_than_the_books(heard, found)
    defects_are_those_of_the_settled_frames(stored, path)
    every_kill_is_a_gap(stored, found)


def kill_somewhere(daemon: Daemon, ears: Subscriber, events: int, turns: int) -> None:
    """Once so many events were heard, and then a little later."""
    daemon.until(lambda: "monitor on" in daemon.stderr, "its start")
    if events:
        ears.until(lambda _: len(ears.events) >= events, daemon, f"{events} events")
    for _ in range(turns):
        pass
    daemon.kill()


def no_event_is_missing(stored: list[Event], heard: list[Event]) -> None:
    """Epochs never come again, sequences are contiguous in each topic, and what was heard had been journalled."""
    sequences: dict[tuple[int, str], list[int]] = defaultdict(list)
    for event in stored:
        sequences[event.epoch, event.subject].append(event.sequence)
    assert all(found == list(range(1, len(found) + 1)) for found in sequences.values())
    epochs = [event.epoch for event in stored]
    assert epochs == sorted(epochs)
    by_id = {event.id: event for event in stored}
    assert len(by_id) == len(stored)
    said = [event for event in heard if not event.subject.startswith("heartbeat/")]
    assert said
    assert all(by_id[event.id] == event for event in said)


def no_heartbeat_said_more_than_the_books(heard: list[Event], found: Audit) -> None:
    books = {(entry.epoch, entry.camera): entry for entry in found.books}
    for event in heard:
        if isinstance(event.data, Heartbeat):
            for camera, said in event.data.cameras.items():
                assert said.issued <= books[event.epoch, camera].issued


def defects_are_those_of_the_settled_frames(stored: list[Event], path: Path) -> None:
    """Frame n shows picture n modulo COUNT, so every odd one that was settled as inspected has one defect event."""
    settled: dict[tuple[int, str], list[int]] = defaultdict(list)
    with closing(sqlite3.connect(path)) as db:
        for epoch, camera, first, last in db.execute(
            "SELECT epoch, camera, first, last FROM fate WHERE reason IS NULL"
        ):
            settled[epoch, camera] += [number for number in range(first, last + 1) if number % 2]
    told: dict[tuple[int, str], list[int]] = defaultdict(list)
    for event in stored:
        if isinstance(event.data, Defect):
            assert event.data.source == f"{event.data.frame_sequence % COUNT}.png"
            told[event.epoch, event.data.camera].append(event.data.frame_sequence)
    assert told == {key: sorted(numbers) for key, numbers in settled.items() if numbers}


def every_kill_is_a_gap(stored: list[Event], found: Audit) -> None:
    """Frames lost to a crash are told by a gap of a later run, at its start; none is told twice."""
    told: Counter[str] = Counter()
    for event in stored:
        if isinstance(event.data, Gap) and event.data.reason is Reason.CRASH:
            told[event.data.camera] += event.data.frames
    crashed: Counter[str] = Counter()
    for books in found.books:
        crashed[books.camera] += books.lost.get(Reason.CRASH, 0)
    assert told == crashed
    coils = [event.data for event in stored if isinstance(event.data, CoilEvent)]
    assert coils[-1].phase == "end"


def test_frames_lost_before_any_was_settled_are_told_once(start: Start, pack: Path, tmp_path: Path, ipc: str) -> None:
    """One long defect over all pictures holds back their fates; twice the daemon is killed with it still open."""
    path, sources = tmp_path / "j.db", tmp_path / "pictures"
    sources.mkdir()
    pixels = np.full(TILE, 90, dtype=np.uint8)
    paint(pixels, 1, 0, 20, TILE[0], 8)
    for number in range(COUNT):
        cv2.imwrite(str(sources / f"{number}.png"), pixels)
    sinks = [{"kind": "zeromq", "options": {"address": ipc, "linger_ms": 0}}]
    camera = played(sources, repeat=1, contiguous=True)
    idle = filmed("idle", hang_at_frame=0, pace="free")  # or the daemon would end with the pictures
    setup = config(pack, path, camera, idle, sinks=sinks, line=lossless(heartbeat_s=0.05))

    def all_are_issued(event: Event) -> bool:
        return isinstance(event.data, Heartbeat) and event.data.cameras["a"].issued == COUNT

    for _ in range(2):
        with subscribed(ipc, "heartbeat/") as ears:
            daemon = start(setup)
            ears.until(all_are_issued, daemon, "all pictures to be issued")
            daemon.kill()
        proven(path)
    assert journalled(path, "gap", "defect") == []
    for _ in range(2):
        with subscribed(ipc, "heartbeat/") as ears:
            daemon = start(setup)
            ears.until(all_are_issued, daemon, "all pictures to be issued")
            assert daemon.stop() == 0

    lost = [books.lost for books in proven(path).books if books.camera == "a"]
    assert lost == [{Reason.CRASH: COUNT}, {Reason.CRASH: COUNT}, {}, {}]
    gaps = [event.data for event in journalled(path, "gap") if isinstance(event.data, Gap)]
    assert [(gap.reason, gap.frames) for gap in gaps if gap.frames] == [(Reason.CRASH, 2 * COUNT)]
    assert [event.data.frames for event in journalled(path, "defect") if isinstance(event.data, Defect)] == [COUNT] * 2
