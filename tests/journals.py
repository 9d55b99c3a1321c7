"""Small journals for tests: what goes into one, and what a kill -9 or a full disk makes of it."""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from inspector.events import Along, CoilEvent, Gap, Reason
from inspector.journal import Journal
from inspector.records import Draft, Graded, Settled

FORMAT_1 = Path(__file__).parent / "golden" / "journal.v1.db.gz"
NOW_NS = 1_700_000_000_123_456_789


def start(path: Path, **changed: Any) -> Journal:
    values: dict[str, Any] = {
        "line": "hot",
        "source": "urn:test",
        "synchronous": False,
        "capacity_frames": 100,
        "cameras": ["a", "b"],
        "digest": "d1",
        "clock": lambda: NOW_NS,
    }
    return Journal.open(path, **(values | changed))


def settled(camera: str, first: int, last: int, reason: Reason | None = None) -> Graded:
    return Graded(settled=[Settled(camera, first, last, reason, (last + 1) * 256)])


def gap(camera: str = "a", topic: str | None = None, **changed: Any) -> Draft:
    data = Gap(
        camera=camera,
        frame_sequence=7,
        frames=1,
        reason=Reason.OVERLOAD,
        detail="",
        source=None,
        coil="c",
        along_mm=Along(start=0.0, end=128.0),
    )
    return Draft(topic=topic or f"gap/v1/hot/{camera}/", time_ns=NOW_NS, data=data, **changed)


def coil(name: str = "c", phase: Literal["start", "end"] = "start", time_ns: int = NOW_NS) -> Draft:
    return Draft("coil/v1/hot/", time_ns, CoilEvent(coil=name, phase=phase, encoder_count=0))


def gaps(count: int) -> Graded:
    return Graded(drafts=[gap() for _ in range(count)])


def alter(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute(statement, values).rowcount > 0


def image(path: Path, to: Path) -> Path:
    """What a kill -9 would leave on the disk at this moment."""
    for suffix in ("", "-wal", ".marks"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copy(source, to.with_name(to.name + suffix))
    return to


def scratch() -> TemporaryDirectory[str]:
    """A folder for hundreds of small journals, in memory where the system has that."""
    return TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


@contextmanager
def full_disk(path: Path, spare: int = 0) -> Iterator[None]:
    """The kernel refuses every byte of a file beyond the present end of the write-ahead log and `spare` bytes."""
    wal = path.with_name(path.name + "-wal")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def format_1(path: Path) -> Path:
    """A journal as the last version with format 1 left it.

    Three runs: one ended in order, with coil A; a killed one has left coil B open; another killed one, whose books
    nobody settled, saw coil C and has left D open.
    """
    path.write_bytes(gzip.decompress(FORMAT_1.read_bytes()))
    return path
