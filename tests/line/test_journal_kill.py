"""kill -9 of a process that really writes, twenty times at random moments: the books balance after each.

This file is also the program that is killed: `python test_journal_kill.py JOURNAL SEED KEEP` journals for ever and
prints a line for each commit that succeeded; KEEP is how many bytes it keeps, 0 for all.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import inspector
from inspector.events import Along, CoilEvent, Gap, Reason
from inspector.journal import Journal, Pages, RunState, audit, read_bodies, read_events
from inspector.records import Draft, Graded, Settled

KILLS = 20
CAPACITY = 40
KEEP = 120_000
"""Bytes: less than a third of what the runs write together."""
CAMERAS = ("a", "b")


def test_the_books_balance_under_kill_9(tmp_path: Path) -> None:
    path, dice = tmp_path / "journal.db", random.Random(2)
    promised: dict[int, tuple[int, int]] = {}
    for kill in range(KILLS):
        promised |= run_and_kill(path, kill, commits=dice.randrange(60), turns=dice.randrange(100_000))
        found = audit(path)
        assert found.problems == []
        assert found.runs[-1].state is RunState.KILLED
        assert all(books.in_flight == 0 for books in found.books if books.epoch != found.runs[-1].epoch)
    open_journal(path).close(clean=True)

    found = audit(path)
    assert found.problems == []
    assert len(found.runs) == KILLS + 1
    assert {run.state for run in found.runs[:-1]} == {RunState.KILLED}
    assert any(books.lost.get(Reason.CRASH) for books in found.books)
    for epoch, (frames, events) in promised.items():
        assert sum(books.issued for books in found.books if books.epoch == epoch) >= frames
        sequences = [event.sequence for event in read_events(path, epochs=[epoch])]
        assert sequences == list(range(1, len(sequences) + 1))
        assert len(sequences) >= events


def test_no_event_of_the_coil_on_the_line_is_gone_and_the_books_balance_under_kill_9(tmp_path: Path) -> None:
    """The same while the journal forgets its oldest coils in small pieces: what is killed is often a deletion."""
    path, dice = tmp_path / "journal.db", random.Random(3)
    names: set[str] = set()
    retired: list[int] = []
    for kill in range(KILLS):
        run_and_kill(path, kill, dice.randrange(20, 60), dice.randrange(100_000), keep_bytes=KEEP)
        found = audit(path)
        assert found.problems == []
        with Pages(path) as pages:
            mark = pages.mark()
        names.add(mark.id)
        retired.append(mark.retired)
        kept = list(read_bodies(path))
        assert all(mark.retired < cursor <= mark.last for cursor, _ in kept)
        starts = [cursor for cursor, body in kept if b'"phase":"start"' in body]
        assert starts, "the coil on the line is there, from its start on"
    assert len(names) == 1
    assert retired == sorted(retired)
    assert retired[-1] > 0
    open_journal(path).close(clean=True)
    assert audit(path).problems == []
    assert audit(path).retired > 0


def run_and_kill(path: Path, seed: int, commits: int, turns: int, keep_bytes: int = 0) -> dict[int, tuple[int, int]]:
    """Kill the writer after some commits, wherever it is then; epoch -> (frames, events) that it was told are safe."""
    root = Path(inspector.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, __file__, str(path), str(seed), str(keep_bytes)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(commits + 1)]
        for _ in range(turns):  # it goes on writing meanwhile: about as long as a few commits take
            pass
        writer.kill()
        said += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    epoch, frames, events = (int(word) for word in [line for line in said if line.endswith(b"\n")][-1].split())
    return {epoch: (frames, events)}


# ---------------------------------------------------------------- the program that is killed


def open_journal(path: Path) -> Journal:
    return Journal.open(
        path,
        line="hot",
        source="urn:test",
        synchronous=False,
        capacity_frames=CAPACITY,
        cameras=CAMERAS,
        digest="d1",
    )


def write_for_ever(path: Path, seed: int, keep_bytes: int) -> None:
    dice = random.Random(seed)
    journal = open_journal(path)
    issued, done, lost, events = dict.fromkeys(CAMERAS, 0), dict.fromkeys(CAMERAS, 0), dict.fromkeys(CAMERAS, 0), 0
    coils = itertools.count(1)
    print(journal.epoch, 0, 0, flush=True)
    while True:
        pieces = []
        for camera in CAMERAS:
            issued[camera] = min(issued[camera] + dice.randrange(10), done[camera] + CAPACITY // len(CAMERAS))
            last = dice.randint(done[camera] - 1, issued[camera] - 1)
            if last < done[camera]:
                continue
            reason = dice.choice([None, None, None, Reason.OVERLOAD])
            lost[camera] += last - done[camera] + 1 if reason else 0
            pieces.append(
                Graded([Settled(camera, done[camera], last, reason, last + 1)], [draft()] * dice.randrange(5))
            )
            done[camera] = last + 1
        if keep_bytes and not dice.randrange(6):
            coil = next(coils)
            pieces.append(Graded(drafts=[coil_draft(coil - 1, "end"), coil_draft(coil, "start")]))
        events += len(journal.append(pieces))
        journal.commit(issued, lost)
        if keep_bytes:
            journal.retire(0, keep_bytes, None, limit=7)
        print(journal.epoch, sum(issued.values()), events, flush=True)


def coil_draft(number: int, phase: Literal["start", "end"]) -> Draft:
    return Draft("coil/v1/hot/", 0, CoilEvent(coil=f"c{number}", phase=phase, encoder_count=0))


def draft() -> Draft:
    along = Along(start=0.0, end=1.0)
    data = Gap(
        camera="a", frame_sequence=0, frames=1, reason=Reason.OVERLOAD, detail="", source=None, coil="c", along_mm=along
    )
    return Draft("gap/v1/hot/a/", 0, data)


if __name__ == "__main__":
    write_for_ever(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
