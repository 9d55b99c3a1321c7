"""The reading end: runs, events and thumbnails, while the line runs or long after.

Every call opens its own read-only connection and holds no transaction between pages, so that a slow reader neither
blocks the writer nor makes the write-ahead log grow.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from inspector.events import Event
from inspector.journal.lock import held
from inspector.journal.store import RunState, damaged, reading, rows

PAGE = 500
"""Rows read in one go."""


@dataclass(slots=True, frozen=True)
class Run:
    """One run of the daemon; times in nanoseconds since the Unix epoch."""

    epoch: int
    line: str
    source: str
    digest: str
    capacity_frames: int
    started_ns: int
    ended_ns: int | None
    """None: it did not end in order. For a killed run the time at which the next start settled its books."""
    state: RunState
    issued: int
    """Frames that all its cameras have issued."""
    unjournalled: int
    """Events given up while the disk was full."""
    cameras: tuple[str, ...]


def read_runs(path: Path | str) -> list[Run]:
    """Every run in the journal, the oldest first.

    Raises:
        JournalError: the file is missing, torn or no journal.
    """
    path = Path(path)
    with reading(path) as db:
        return runs_in(db, path)


def runs_in(db: sqlite3.Connection, path: Path) -> list[Run]:
    """The runs as one connection sees them."""
    cameras: dict[int, list[str]] = {}
    for epoch, camera in rows(db, tuple[int, str], path, "SELECT epoch, camera FROM book ORDER BY epoch, camera"):
        cameras.setdefault(epoch, []).append(camera)
    query = "SELECT * FROM run ORDER BY epoch"
    found = [
        Run(*row, tuple(cameras.get(row[0], ())))
        for row in rows(db, tuple[int, str, str, str, int, int, int | None, RunState, int, int], path, query)
    ]
    if found and found[-1].state is RunState.RUNNING and not held(path):
        found[-1] = replace(found[-1], state=RunState.KILLED)  # nobody writes the file, so it is dead
    return found


def read_events(
    path: Path | str, *, kinds: Iterable[str] | None = None, epochs: Iterable[int] | None = None
) -> Iterator[Event]:
    """Events in the order in which they happened.

    Args:
        path: the journal.
        kinds: only these: defect, gap, coil, state. None: all.
        epochs: only of these runs. None: all.

    Raises:
        JournalError: the file is missing, torn or no journal.
    """
    path = Path(path)
    decoder = msgspec.json.Decoder(Event)
    for _, _, body in _pages(path, "event.body", "", kinds, epochs):
        try:
            yield decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise damaged(path, error) from None


def read_bodies(
    path: Path | str, *, kinds: Iterable[str] | None = None, epochs: Iterable[int] | None = None
) -> Iterator[tuple[int, bytes]]:
    """(cursor, envelope as it was published, byte for byte) of events, not decoded; arguments as `read_events`."""
    for cursor, _, body in _pages(Path(path), "event.body", "", kinds, epochs):
        yield cursor, body.encode() if isinstance(body, str) else bytes(body)


def read_thumbnails(
    path: Path | str, *, kinds: Iterable[str] | None = None, epochs: Iterable[int] | None = None
) -> Iterator[tuple[str, bytes]]:
    """(id of the event, JPEG) of every event that has a picture, in the order of the events; arguments as there."""
    join = "JOIN thumbnail ON thumbnail.event = event.id"
    for _, name, jpeg in _pages(Path(path), "thumbnail.jpeg", join, kinds, epochs):
        yield name, jpeg


def read_thumbnail(path: Path | str, event_id: str) -> bytes | None:
    """The JPEG of one event, or None if it has none or there is no such event.

    Raises:
        JournalError: the file is missing, torn or no journal.
    """
    parts = re.fullmatch(r"(\d{1,18})/(.*/)(\d{1,18})", event_id)
    if parts is None:
        return None
    with reading(Path(path)) as db:
        query = (
            "SELECT jpeg FROM topic JOIN event ON event.topic = topic.id JOIN thumbnail ON thumbnail.event = event.id "
            "WHERE topic.epoch = ? AND topic.topic = ? AND event.sequence = ?"
        )
        found = db.execute(query, (int(parts[1]), parts[2], int(parts[3]))).fetchone()
    return bytes(found[0]) if found else None


def _pages(
    path: Path, what: str, join: str, kinds: Iterable[str] | None, epochs: Iterable[int] | None
) -> Iterator[tuple[int, str, Any]]:
    """(event.id, the event's name, `what`) page after page, each in a short transaction of its own."""
    where, values = "event.id > ?", list[Any]()
    for column, wanted in (("event.kind", kinds), ("topic.epoch", epochs)):
        if wanted is not None:
            chosen = list(wanted)
            where += f" AND {column} IN ({', '.join('?' * len(chosen))})"
            values += chosen
    query = (
        f"SELECT event.id, topic.epoch || '/' || topic.topic || event.sequence, {what} FROM event {join} "
        f"CROSS JOIN topic ON topic.id = event.topic WHERE {where} ORDER BY event.id LIMIT {PAGE}"
    )
    last = 0
    with reading(path) as db:
        while page := db.execute(query, (last, *values)).fetchall():
            yield from page
            last = page[-1][0]
