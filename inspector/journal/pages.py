"""Events page by page for the history socket: bounded work a call, and bytes as they were published.

One read-only connection lives long here, but no transaction does: it would keep the writer from carrying the
write-ahead log over, which would grow. Whether the file is still the one at this path is looked at before each call.
"""

from __future__ import annotations

import bisect
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from inspector.errors import JournalError
from inspector.events import JournalMark
from inspector.journal.store import connect_pages, damaged, format_of, read_mark, rows, translated

SCAN = 5000
"""Events that one call looks at: a narrow prefix in a large journal takes many calls, not one long one."""
LARGEST = 2**63 - 1
FILTERS = 64
"""Sets of prefixes whose topics are remembered."""


@dataclass(slots=True, frozen=True)
class Page:
    """A piece of the journal."""

    bodies: list[bytes]
    """Matching events in the journal's order, each the JSON that was published."""
    upto: int
    """Every matching event behind the cursor asked for and up to this one is in `bodies`."""
    done: bool
    """There was no later event in the journal."""
    mark: JournalMark
    """Where the journal stood."""


class Pages:
    """Reads a journal that a daemon may be writing; survives its restarts, and that another file takes its place.

    For one thread at a time. Entered before the journal exists it opens it at the first call that finds it.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._topics = _Topics()
        self._within = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """The calls inside see one state of the journal: `marks` tells of no event that the last page could not hold.

        Keep it short: the write-ahead log cannot be emptied meanwhile.

        Raises:
            JournalError: there is no journal at this path, or it cannot be read.
        """
        with self._reading():
            yield

    def page(self, after: int, topics: Sequence[str], limit: int, max_bytes: int) -> Page:
        """The events behind a cursor.

        Args:
            after: events with a cursor above it.
            topics: prefixes of topics, `[]` for all.
            limit: the most events.
            max_bytes: the most bytes of all bodies together, but the first one comes however large it is.

        Raises:
            JournalError: there is no journal at this path, or it cannot be read.
        """
        after = min(after, LARGEST)
        with self._reading() as db:
            mark = read_mark(db, self._path)
            first = rows(db, tuple[int | None], self._path, "SELECT min(id) FROM event WHERE id > ?", (after,))[0][0]
            if first is None:
                return Page([], max(after, mark.last), True, mark)
            end = min(first + SCAN - 1, mark.last)
            bodies, upto = self._scan(db, (after, end), self._topics.matching(db, self._path, topics), limit, max_bytes)
        return Page(bodies, upto, upto >= mark.last, mark)

    def _scan(
        self, db: sqlite3.Connection, between: tuple[int, int], wanted: str | None, limit: int, max_bytes: int
    ) -> tuple[list[bytes], int]:
        """The bodies in (first, last] as far as they fit, and the cursor up to which they are complete."""
        # `+topic`: in the order of the cursors, not by the index of topics, which would have to be sorted.
        chosen = "" if wanted is None else "AND +topic IN (SELECT value FROM json_each(?3))"
        query = f"SELECT id, CAST(body AS BLOB) FROM event WHERE id > ?1 AND id <= ?2 {chosen} ORDER BY id"
        bodies: list[bytes] = []
        upto, room = between[0], max_bytes
        cursor = db.execute(query, between if wanted is None else (*between, wanted))
        try:
            for place, body in cursor:
                if body is None:
                    raise damaged(self._path, f"event {place} is empty")
                room -= len(body)
                if bodies and (room < 0 or len(bodies) >= limit):
                    return bodies, upto
                bodies.append(body)
                upto = place
        finally:
            cursor.close()
        return bodies, between[1]

    def marks(self, topics: Sequence[str], epoch: int | None = None) -> list[tuple[int, str, int]]:
        """(epoch, topic, last sequence that is or was in the journal) of every matching topic, by epoch and topic.

        Args:
            topics: prefixes, `[]` for all.
            epoch: only of this and later runs; None: of all.

        Raises:
            JournalError: there is no journal at this path, or it cannot be read.
        """
        query = "SELECT epoch, topic, high_water FROM topic WHERE epoch >= ? ORDER BY epoch, topic"
        with self._reading() as db:
            found = rows(db, tuple[int, str, int], self._path, query, (min(epoch or 0, LARGEST),))
        prefixes = tuple(_shortest(topics))
        return [row for row in found if not prefixes or _matches(prefixes, row[1])]

    def mark(self) -> JournalMark:
        """Where the journal stands.

        Raises:
            JournalError: there is no journal at this path, or it cannot be read.
        """
        with self._reading() as db:
            return read_mark(db, self._path)

    # ------------------------------------------------------------ the connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction, or the one that is open; the connection is given up after any error."""
        if self._within and self._db is not None:
            yield self._db
            return
        try:
            with translated(self._path):
                db = self._connected()
                db.execute("BEGIN")
                self._within = True
                yield db
                db.execute("COMMIT")
        except JournalError:
            self._close()
            raise
        finally:
            self._within = False
            if self._db is not None and self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _connected(self) -> sqlite3.Connection:
        file = _identity(self._path)
        if self._db is None or file != self._file:
            self._close()
            self._db, self._file, self._topics = connect_pages(self._path), file, _Topics()
            if format_of(self._db) == 1:
                raise JournalError(f"{self._path}: a journal of format 1 has no cursors: start the daemon on it once")
        return self._db

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


class _Topics:
    """Which topics match a set of prefixes; topics are never renamed, and new ones are read as they come."""

    def __init__(self) -> None:
        self._names: list[tuple[int, str]] = []
        self._found: dict[tuple[str, ...], tuple[int, list[int]]] = {}

    def matching(self, db: sqlite3.Connection, path: Path, topics: Sequence[str]) -> str | None:
        """The matching topics' numbers as a JSON array; None: all match."""
        prefixes = tuple(_shortest(topics))
        if not prefixes:
            return None
        newest = self._names[-1][0] if self._names else 0
        self._names += rows(
            db, tuple[int, str], path, "SELECT id, topic FROM topic WHERE id > ? ORDER BY id", (newest,)
        )
        seen, numbers = self._found.pop(prefixes, (0, []))
        numbers += [number for number, name in self._names[seen:] if _matches(prefixes, name)]
        while len(self._found) >= FILTERS:
            del self._found[next(iter(self._found))]
        self._found[prefixes] = len(self._names), numbers
        return json.dumps(numbers)


def _shortest(topics: Sequence[str]) -> list[str]:
    """The prefixes without those that another one covers, sorted; none: all topics match."""
    kept: list[str] = []
    for prefix in sorted(topics):
        if prefix == "":
            return []
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept


def _matches(prefixes: tuple[str, ...], topic: str) -> bool:
    """None of the sorted prefixes begins with another one, so only the last that sorts before the topic can match."""
    place = bisect.bisect_right(prefixes, topic)
    return place > 0 and topic.startswith(prefixes[place - 1])


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise JournalError(
            f"{path}: there is no such journal ({error.strerror}): start the daemon that writes it"
        ) from None
    return status.st_dev, status.st_ino
