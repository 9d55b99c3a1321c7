"""What happens to frames that nobody settled and events that nobody wrote: at the end of a run, or after a kill -9."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inspector.events import Reason
from inspector.journal import ranges
from inspector.journal.store import RunState, rows


@dataclass(slots=True, frozen=True)
class Resumed:
    """Where a camera's books ended before this start."""

    epoch: int
    """The newest earlier run that settled a frame of this camera; if none did, the newest that issued one."""
    frames: int
    """Frames since then that no gap event tells of: they were in flight when a run died."""
    end_count: int | None
    """Encoder count behind the last frame with a known fate: from here on nothing was inspected. None: no frame has."""


def end_run(db: sqlite3.Connection, epoch: int, state: RunState, now_ns: int) -> None:
    db.execute("UPDATE run SET state = ?, ended_ns = ? WHERE epoch = ?", (state, now_ns, epoch))


def settle_rest(db: sqlite3.Connection, path: Path, epoch: int, reason: Reason) -> int:
    """Book every issued frame without a fate as lost for `reason`; returns how many there were."""
    books = rows(
        db,
        tuple[str, int, int | None],
        path,
        "SELECT camera, issued, end_count FROM book WHERE epoch = ?",
        (epoch,),
    )
    return sum(_settle_camera(db, path, epoch, reason, *book) for book in books)


def _settle_camera(
    db: sqlite3.Connection, path: Path, epoch: int, reason: Reason, camera: str, issued: int, end_count: int | None
) -> int:
    query = "SELECT first, last FROM fate WHERE epoch = ? AND camera = ? ORDER BY first"
    settled = rows(db, tuple[int, int], path, query, (epoch, camera))
    rest = list(ranges.holes(settled, issued))
    if not rest:
        return 0
    frames = ranges.length(rest)
    checksum = sum(ranges.checksum(*hole) for hole in rest) % ranges.MODULUS
    db.executemany(
        "INSERT INTO fate (epoch, camera, first, last, reason, end_count) VALUES (?, ?, ?, ?, ?, ?)",
        [(epoch, camera, first, last, reason, end_count or 0) for first, last in rest],
    )
    db.execute(
        "INSERT INTO tally VALUES (?, ?, ?, ?, ?) ON CONFLICT (epoch, camera, reason) "
        "DO UPDATE SET frames = frames + excluded.frames, "
        f"checksum = (checksum + excluded.checksum) % {ranges.MODULUS}",
        (epoch, camera, reason, frames, checksum),
    )
    db.execute("UPDATE book SET rest = ? WHERE epoch = ? AND camera = ?", (frames, epoch, camera))
    return frames


def settle_unwritten(db: sqlite3.Connection, path: Path, epoch: int, last: Mapping[str, int]) -> int:
    """Book events that were sent and never written as given up; returns how many there were.

    Args:
        last: topic -> last sequence known to have been given; the journal may well hold it.
    """
    query = "SELECT topic, high_water FROM topic WHERE epoch = ?"
    known = dict(rows(db, tuple[str, int], path, query, (epoch,)))
    above = {topic: sequence for topic, sequence in last.items() if sequence > known.get(topic, 0)}
    db.executemany(
        "INSERT INTO topic (epoch, topic, high_water) VALUES (?, ?, ?) "
        "ON CONFLICT (epoch, topic) DO UPDATE SET high_water = excluded.high_water",
        [(epoch, topic, sequence) for topic, sequence in above.items()],
    )
    given_up = sum(sequence - known.get(topic, 0) for topic, sequence in above.items())
    db.execute("UPDATE run SET unjournalled = unjournalled + ? WHERE epoch = ?", (given_up, epoch))
    return given_up


def resumed(db: sqlite3.Connection, path: Path, camera: str) -> Resumed | None:
    """A run that was killed before it settled a frame must not hide the one before it: its gap is untold."""
    query = (
        "SELECT epoch, end_count, "
        "(SELECT sum(rest) FROM book AS later WHERE later.camera = ?1 AND later.epoch >= book.epoch) "
        "FROM book WHERE camera = ?1 AND end_count IS NOT NULL ORDER BY epoch DESC LIMIT 1"
    )
    none_settled = "SELECT max(epoch), NULL, sum(rest) FROM book WHERE camera = ?1 GROUP BY camera HAVING sum(rest) > 0"
    for each in (query, none_settled):
        found = rows(db, tuple[int, int | None, int], path, each, (camera,))
        if found:
            epoch, end_count, frames = found[0]
            return Resumed(epoch=epoch, frames=frames, end_count=end_count)
    return None
