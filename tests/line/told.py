"""What a journal tells of a run that has ended: books, gaps and states, held against each other."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from inspector.events import Event, Gap, Reason, State
from inspector.journal import Books, RunState
from inspector.overload import Step
from tests.line.daemon import journalled, proven


def books_of(path: Path) -> dict[str, Books]:
    """Camera -> its books in the newest run, closed and balanced."""
    found = proven(path)
    assert found.runs[-1].state is RunState.CLOSED
    books = {entry.camera: entry for entry in found.books if entry.epoch == found.runs[-1].epoch}
    for entry in books.values():
        assert entry.issued == entry.inspected + sum(entry.lost.values())
    return books


def gaps_of(path: Path, camera: str = "a") -> list[Gap]:
    found = [event.data for event in journalled(path, "gap") if isinstance(event.data, Gap)]
    return [gap for gap in found if gap.camera == camera]


def states_of(path: Path, part: str) -> list[str]:
    found = [event.data for event in journalled(path, "state") if isinstance(event.data, State)]
    return [state.state for state in found if state.part == part]


def steps_of(path: Path) -> list[Step]:
    """The steps of the overload ladder that the journal tells of, from the first; each is next to the one before."""
    states = [event.data for event in journalled(path, "state") if isinstance(event.data, State)]
    told = [state for state in states if state.about == "overload"]
    words = [step.words for step in Step]
    steps = [Step.NORMAL, *(Step(words.index(state.state)) for state in told)]
    assert all(state.part == "line" for state in told)
    assert all(state.detail.startswith(f"step {step} of 4: ") for state, step in zip(told, steps[1:], strict=True))
    assert all(abs(after - before) == 1 for before, after in pairwise(steps))
    return steps


def gaps_tell_every_lost_frame(path: Path, books: dict[str, Books]) -> None:
    for camera, entry in books.items():
        told: dict[Reason, int] = defaultdict(int)
        for gap in gaps_of(path, camera):
            assert gap.along_mm.end >= gap.along_mm.start
            told[gap.reason] += gap.frames
        assert {reason: count for reason, count in told.items() if count} == entry.lost


def said(event: Event, part: str, state: str) -> bool:
    """Whether an event tells that `part` is in `state` now."""
    return isinstance(event.data, State) and (event.data.part, event.data.state) == (part, state)
