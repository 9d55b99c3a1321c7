"""Coils as stretches of the journal: which events lie between a coil's start and its end. Retention goes by them.

A line has one coil at a time, so one span at most is open: a start ends the one that a killed run has left open. A span
that follows one of the same name goes on with that coil, as after a restart in the middle of it.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from inspector.events import NO_COIL, CoilEvent
from inspector.journal.store import rows


@dataclass(slots=True)
class Span:
    """A row of `coil`. Cursors are those of events; times in nanoseconds since the Unix epoch."""

    first: int
    name: str
    epoch: int
    started_ns: int
    last: int | None = None
    """None: the coil is on the line, or the run that saw its start was killed and no later one saw another."""
    ended_ns: int | None = None


class Spans:
    """Takes coil events down, and writes the spans that they change."""

    def __init__(self, kept: Iterable[Span] = ()) -> None:
        self._kept = deque(kept)
        """In the order of the strip; those that retention has left."""
        self._changed: dict[int, Span] = {}

    def take(self, cursor: int, epoch: int, time_ns: int, coil: CoilEvent) -> None:
        """A coil event was given the place `cursor`."""
        open_span = self._kept[-1] if self._kept and self._kept[-1].last is None else None
        if coil.phase == "start":
            if open_span is not None:
                self._close(open_span, cursor - 1, time_ns)
            self._kept.append(Span(cursor, coil.coil, epoch, time_ns))
            self._changed[cursor] = self._kept[-1]
        elif open_span is not None and open_span.name == coil.coil:
            self._close(open_span, cursor, time_ns)

    def _close(self, span: Span, last: int, ended_ns: int) -> None:
        span.last, span.ended_ns = last, ended_ns
        self._changed[span.first] = span

    def closed(self) -> Iterator[tuple[Span, int]]:
        """(span, its last cursor) of what may be retired, the oldest first: of no coil that may still be on the line.

        None while a change is not durable: a kill would take it back, and another coil would be on the line.
        """
        if self._changed:
            return
        for span in islice(self._kept, len(self._kept) - self._held()):
            if span.last is not None:
                yield span, span.last

    def _held(self) -> int:
        """How many of the newest spans belong to the coil on the line. One that has ended may go on after a restart, so
        the newest coil is held until another one has begun."""
        if not self._kept:
            return 0
        newest = self._kept[-1]
        if newest.name == NO_COIL:  # never goes on: a line that nobody tells of coils may forget, too
            return int(newest.last is None)
        return sum(1 for _ in takewhile(lambda span: span.name == newest.name, reversed(self._kept)))

    def retired(self, upto: int) -> None:
        """Everything up to the cursor is gone."""
        while self._kept and (last := self._kept[0].last) is not None and last <= upto:
            self._kept.popleft()

    @property
    def changed(self) -> bool:
        """There is something that the file does not hold."""
        return bool(self._changed)

    def write(self, db: sqlite3.Connection) -> None:
        """May be repeated after a rollback."""
        db.executemany(
            "REPLACE INTO coil VALUES (?, ?, ?, ?, ?, ?)",
            [(s.first, s.name, s.epoch, s.started_ns, s.last, s.ended_ns) for s in self._changed.values()],
        )

    def written(self) -> None:
        """The transaction with `write` is durable."""
        self._changed.clear()


def read_spans(db: sqlite3.Connection, path: Path, after: int = -1) -> list[Span]:
    """The spans that do not end at or before a cursor, in the order of the strip."""
    query = (
        "SELECT first, name, epoch, started_ns, last, ended_ns FROM coil WHERE last IS NULL OR last > ? ORDER BY first"
    )
    found = rows(db, tuple[int, str, int, int, int | None, int | None], path, query, (after,))
    return [Span(*row) for row in found]
