"""What the journal forgets: events and pictures of its oldest closed coils, when it holds too much or they are too old.

Frames' fates, tallies, books and runs stay for ever: they are small, and they are the proof. So does a row for each
coil. Deleted pages are used again, the file itself does not shrink: what counts is how much of it is in use.

A coil goes as a whole, with what lies between it and the coil before, but in pieces, so that no deletion holds up the
line; after a kill -9 in the middle the rest of it goes first.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from inspector.journal.spans import Span, Spans
from inspector.journal.store import rows, transaction

PICTURE = 5
"""A picture costs as much to delete as so many events: its pages are put on the list of free ones one by one."""


@dataclass(slots=True, frozen=True)
class Retired:
    """What one call deleted."""

    coils: tuple[str, ...] = ()
    """The coils whose last event went; empty while a large one goes in pieces."""
    events: int = 0
    over: bool = False
    """The journal holds more than it may and there is no closed coil left to delete. Told once, until that is over."""


@dataclass(slots=True, frozen=True)
class Bounds:
    """What may be kept. None: no bound."""

    now_ns: int
    keep_bytes: int | None
    keep_ns: int | None

    def large(self, db: sqlite3.Connection) -> bool:
        return self.keep_bytes is not None and used_bytes(db) > self.keep_bytes

    def old(self, span: Span) -> bool:
        return self.keep_ns is not None and span.ended_ns is not None and span.ended_ns < self.now_ns - self.keep_ns


class Retention:
    """Deletes for the one writer."""

    def __init__(self, db: sqlite3.Connection, path: Path, spans: Spans, retired: int) -> None:
        self.retired = retired
        """Events up to this cursor are gone."""
        self._path = path
        self._spans = spans
        query = "SELECT coalesce(max(last), 0) FROM coil WHERE last <= ?"
        self._whole = rows(db, tuple[int], path, query, (retired,))[0][0]
        self._told = False

    def retire(self, db: sqlite3.Connection, bounds: Bounds, limit: int) -> Retired | None:
        """Delete `limit` events at most, fewer with pictures, in one transaction; None: there was nothing to do.

        Raises:
            JournalError: nothing was deleted.
        """
        if not self._due(db, bounds):
            return self._tell(db, bounds)
        coils: list[str] = []
        events, upto, whole = 0, self.retired, self._whole
        with transaction(db, self._path):
            for span, last in self._spans.closed():
                if events >= limit or not (upto > whole or bounds.old(span) or bounds.large(db)):
                    break
                upto, count = self._delete(db, upto, last, limit - events)
                events += count
                if upto < last:
                    break
                whole = last
                coils.append(span.name)
            db.execute("UPDATE journal SET retired = ?", (upto,))
        self.retired, self._whole = upto, whole
        self._spans.retired(whole)
        return Retired(tuple(coils), events)

    def _due(self, db: sqlite3.Connection, bounds: Bounds) -> bool:
        oldest = next(self._spans.closed(), None)
        return oldest is not None and (self.retired > self._whole or bounds.old(oldest[0]) or bounds.large(db))

    def _tell(self, db: sqlite3.Connection, bounds: Bounds) -> Retired | None:
        over = bounds.large(db)
        news, self._told = over and not self._told, over
        return Retired(over=True) if news else None

    def _delete(self, db: sqlite3.Connection, after: int, last: int, limit: int) -> tuple[int, int]:
        """Delete the first events in (after, last]; returns the cursor up to which all are gone, and how many went."""
        upto = self._few(db, "event", "id", (after, last), limit)
        upto = self._few(db, "thumbnail", "event", (after, upto), max(1, limit // PICTURE))
        query = "SELECT count(*), topic FROM event WHERE id > ? AND id <= ? GROUP BY topic"
        counts = rows(db, tuple[int, int], self._path, query, (after, upto))
        db.executemany("UPDATE topic SET retired = retired + ? WHERE id = ?", counts)
        db.execute("DELETE FROM thumbnail WHERE event > ? AND event <= ?", (after, upto))
        db.execute("DELETE FROM event WHERE id > ? AND id <= ?", (after, upto))
        return upto, sum(count for count, _ in counts)

    def _few(self, db: sqlite3.Connection, table: str, column: str, between: tuple[int, int], count: int) -> int:
        """The cursor in (after, last] up to which there are at most `count` rows."""
        query = f"SELECT {column} FROM {table} WHERE {column} > ? AND {column} <= ? ORDER BY {column} LIMIT 1 OFFSET ?"
        more = rows(db, tuple[int], self._path, query, (*between, count))
        return more[0][0] - 1 if more else between[1]


def used_bytes(db: sqlite3.Connection) -> int:
    """What of the file is in use, as the next commit would leave it."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
