"""The frames' books of the running run, in memory until the next commit: ranges, running totals, what was issued."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from inspector.events import Reason
from inspector.journal import ranges
from inspector.records import Settled


@dataclass(slots=True)
class _Fate:
    """A row of `fate` that may still grow."""

    id: int
    camera: str
    first: int
    last: int
    reason: Reason | None
    end_count: int
    durable: bool = False
    """The row in the file is the same."""


@dataclass(slots=True)
class _Book:
    """A row of `book`."""

    issued: int = 0
    lost: int | None = None
    stale: bool = False
    """Frames were settled since the line last told its counts, as when a failure closes the journal."""
    changed: bool = True
    """The row in the file is another."""
    highest: int = -1
    """The highest settled frame; `end_count` lies behind it."""
    end_count: int | None = None


class Fates:
    """Takes fates down and writes them. Memory is a few rows, whatever the number of frames, unless they alternate."""

    def __init__(self, cameras: list[str], next_row: int) -> None:
        self._next_row = next_row
        self._books = {camera: _Book() for camera in cameras}
        self._tails: dict[str, _Fate] = {}
        self._waiting: list[_Fate] = []
        self._tallies: dict[tuple[str, str], tuple[int, int]] = {}
        self._tallies_changed: set[tuple[str, str]] = set()

    def settle(self, settled: Settled) -> None:
        """Book the fate of a range; it becomes one row with the one before it when nothing lies between them."""
        tail = self._tails.get(settled.camera)
        if tail is not None and tail.reason == settled.reason and tail.last + 1 == settled.first:
            self._grow(tail, settled)
        else:
            self._begin(settled)
        self._add(settled)
        book = self._books.setdefault(settled.camera, _Book())
        book.stale = book.changed = True
        if settled.last > book.highest:
            book.highest, book.end_count = settled.last, settled.end_count

    def _grow(self, tail: _Fate, settled: Settled) -> None:
        tail.last, tail.end_count = settled.last, settled.end_count
        if tail.durable:
            tail.durable = False
            self._waiting.append(tail)

    def _begin(self, settled: Settled) -> None:
        camera, first, last = settled.camera, settled.first, settled.last
        fate = _Fate(self._next_row, camera, first, last, settled.reason, settled.end_count)
        self._next_row += 1
        self._tails[camera] = fate
        self._waiting.append(fate)

    def _add(self, settled: Settled) -> None:
        key = (settled.camera, settled.reason or "")
        frames, checksum = self._tallies.get(key, (0, 0))
        checksum = (checksum + ranges.checksum(settled.first, settled.last)) % ranges.MODULUS
        self._tallies[key] = (frames + settled.last - settled.first + 1, checksum)
        self._tallies_changed.add(key)

    def count(self, camera: str, issued: int, lost: int | None) -> None:
        """What the line has counted of a camera so far."""
        book = self._books.setdefault(camera, _Book())
        book.stale = False
        if (book.issued, book.lost) != (issued, lost):
            book.issued, book.lost, book.changed = issued, lost, True

    @property
    def changed(self) -> bool:
        """There is something that the file does not hold."""
        return bool(self._waiting) or any(book.changed for book in self._books.values())

    def write(self, db: sqlite3.Connection, epoch: int) -> int:
        """Write what changed; returns how many frames all cameras have issued.

        May be repeated after a rollback: rows have their numbers, totals are absolute.
        """
        db.executemany(
            "INSERT INTO fate VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET last = excluded.last, end_count = excluded.end_count",
            [
                (fate.id, epoch, fate.camera, fate.first, fate.last, fate.reason, fate.end_count)
                for fate in self._waiting
            ],
        )
        db.executemany(
            "REPLACE INTO tally VALUES (?, ?, ?, ?, ?)",
            [(epoch, *key, *self._tallies[key]) for key in self._tallies_changed],
        )
        for book in self._books.values():
            if book.stale:
                book.issued, book.lost = max(book.issued, book.highest + 1), None
        db.executemany(
            "REPLACE INTO book VALUES (?, ?, ?, ?, 0, ?)",
            [
                (epoch, camera, book.issued, book.lost, book.end_count)
                for camera, book in self._books.items()
                if book.changed
            ],
        )
        return sum(book.issued for book in self._books.values())

    def written(self) -> None:
        """The transaction with `write` is durable."""
        for fate in self._waiting:
            fate.durable = True
        self._waiting.clear()
        self._tallies_changed.clear()
        for book in self._books.values():
            book.changed = False
