"""What the plant told the line, kept for ever: a start takes up the coils that earlier runs were told of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from inspector.journal.store import rows

RESTORED = 1000
"""Telegrams of earlier runs that a start gets back at most, the newest."""


@dataclass(slots=True, frozen=True)
class Telegram:
    """One telegram of the control socket. The journal adds the epoch of its run."""

    received_ns: int
    """When it came, nanoseconds since the Unix epoch."""
    sender: str
    """Who sent it, as the control socket knows them."""
    ask: str
    """What was asked, e.g. `coil start`."""
    coil: str
    encoder_count: int
    """The place on the strip that it tells of."""


def read_telegrams(db: sqlite3.Connection, path: Path) -> list[Telegram]:
    """The newest `RESTORED` ones, the oldest of them first."""
    query = f"SELECT received_ns, sender, ask, coil, encoder_count FROM telegram ORDER BY id DESC LIMIT {RESTORED}"
    return [Telegram(*row) for row in reversed(rows(db, tuple[int, str, str, str, int], path, query))]


def write_telegrams(db: sqlite3.Connection, epoch: int, told: Iterable[Telegram]) -> None:
    db.executemany(
        "INSERT INTO telegram VALUES (NULL, ?, ?, ?, ?, ?, ?)",
        [(epoch, one.received_ns, one.sender, one.ask, one.coil, one.encoder_count) for one in told],
    )
