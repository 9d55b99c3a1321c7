"""The journal's file: its format, its connections, and what SQLite's errors mean to a person."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from inspector.errors import JournalError
from inspector.events import JournalMark
from inspector.journal.lock import held

T = TypeVar("T")

FORMAT = 2
"""The format this version writes (PRAGMA user_version). Readers know every older one, the writer migrates it."""

APPLICATION = 0x494E5350
"""PRAGMA application_id, "INSP": tells a journal from any other SQLite file."""

BUSY_S = 5.0
"""How long one connection waits for another's lock; in WAL mode readers and the writer do not block each other."""

CHECKPOINT_PAGES = 4000
"""Pages of 4 KB in the write-ahead log before it is carried over: each time costs the line two forced writes."""


class RunState(StrEnum):
    """How far a run of the daemon has come."""

    RUNNING = "running"
    CLOSED = "closed"
    """It ended in order and every frame has its fate."""
    ABORTED = "aborted"
    """It came down by a failure; what was in flight is booked as lost."""
    KILLED = "killed"
    """It ended without closing its books; the next start books what was in flight as lost."""


# `fate` and `tally` say the same in two ways, and `book` holds what the running line counted: the audit compares the
# three. No constraint refuses a wrong book: the journal takes down what it is told, and the audit tells on it.
SCHEMA = """
CREATE TABLE run (
    epoch INTEGER PRIMARY KEY,           -- boot number of the daemon, never used again
    line TEXT NOT NULL,
    source TEXT NOT NULL,                -- `source` of its events
    digest TEXT NOT NULL,                -- of the pack it ran with
    capacity_frames INTEGER NOT NULL,    -- most frames that can be between the cameras and a commit
    started_ns INTEGER NOT NULL,         -- Unix time
    ended_ns INTEGER,
    state TEXT NOT NULL,                 -- RunState
    issued INTEGER NOT NULL,             -- frames that all its cameras have issued
    unjournalled INTEGER NOT NULL        -- events given up because the disk stayed full
);
CREATE TABLE book (                      -- what the line counted, at the last commit
    epoch INTEGER NOT NULL,
    camera TEXT NOT NULL,
    issued INTEGER NOT NULL,             -- frames the camera has issued
    lost INTEGER,                        -- of these lost, as counted when it happened; NULL: not told
    rest INTEGER NOT NULL,               -- frames that the journal itself settled, at the end or at the next start
    end_count INTEGER,                   -- encoder count behind the last settled frame; NULL: none settled
    PRIMARY KEY (epoch, camera)
) WITHOUT ROWID;
CREATE TABLE fate (                      -- ranges of frames; neighbours with one fate are one row
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    camera TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    reason TEXT,                         -- why they were lost; NULL: inspected
    end_count INTEGER NOT NULL           -- encoder count behind `last`
);
CREATE TABLE tally (                     -- running totals of the fates
    epoch INTEGER NOT NULL,
    camera TEXT NOT NULL,
    reason TEXT NOT NULL,                -- '' : inspected
    frames INTEGER NOT NULL,
    checksum INTEGER NOT NULL,           -- sum of their sequence numbers modulo 2**61 - 1
    PRIMARY KEY (epoch, camera, reason)
) WITHOUT ROWID;
CREATE TABLE topic (
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    topic TEXT NOT NULL,
    high_water INTEGER NOT NULL,         -- last sequence given to an event of this topic that had to be kept
    retired INTEGER NOT NULL DEFAULT 0,  -- its events that were deleted as older than the journal keeps them
    UNIQUE (epoch, topic)
);
CREATE TABLE event (
    id INTEGER PRIMARY KEY,              -- the order in which they happened: the cursor of the history socket
    topic INTEGER NOT NULL,              -- topic.id
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,                  -- the whole envelope as JSON
    UNIQUE (topic, sequence)
);
CREATE TABLE thumbnail (
    event INTEGER PRIMARY KEY,           -- event.id
    jpeg BLOB NOT NULL
);
"""

# What format 2 has more; `topic.retired` is new too. `event` stays as it was, so that migrating touches no event. The
# index of its UNIQUE costs 0.8 us an event, a tenth of a commit of a hundred on a disk. It refuses doubles, and lets
# the audit count the events of a topic without reading them.
SCHEMA_2 = """
CREATE TABLE journal (                   -- one row
    id TEXT NOT NULL,                    -- names this file for ever, at random
    retired INTEGER NOT NULL,            -- events up to this one have been deleted
    skipped INTEGER NOT NULL             -- no event will be given a place up to this one again: a power cut may have
                                         -- undone commits whose cursors somebody was told
);
CREATE TABLE coil (                      -- what of the events lies between a coil's start and its end
    first INTEGER PRIMARY KEY,           -- event.id of its start
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL,              -- run in which it started
    started_ns INTEGER NOT NULL,         -- Unix time
    last INTEGER,                        -- event.id of its end; NULL while open. Of a coil whose end no run has seen,
                                         -- as it was killed: the last place before the next coil's start
    ended_ns INTEGER                     -- Unix time; for such a coil that of the next one's start
);
CREATE TABLE telegram (                  -- what the plant told
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    received_ns INTEGER NOT NULL,        -- Unix time
    sender TEXT NOT NULL,
    ask TEXT NOT NULL,
    coil TEXT NOT NULL,
    encoder_count INTEGER NOT NULL
);
"""


# ---------------------------------------------------------------- errors


def translate(error: sqlite3.Error, path: Path) -> JournalError:
    """SQLite's error as one that names the file and says how to mend it."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    hint = {
        sqlite3.SQLITE_FULL: "the disk is full: free some space, or set journal.path to another disk",
        sqlite3.SQLITE_IOERR: "the disk refuses to read or write: look at its free space (df) and health (dmesg)",
        sqlite3.SQLITE_READONLY: "it is read-only: give the daemon's user write permission to it and its folder",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that it exists and the permissions of its folder",
        sqlite3.SQLITE_NOTADB: "it is not a journal: name another file in journal.path",
        sqlite3.SQLITE_CORRUPT: "it is damaged: keep it aside (mv) and start with a new one; "
        "`sqlite3 FILE .recover` can rescue what is left",
        sqlite3.SQLITE_BUSY: "another program holds it locked: end that program",
    }.get(code, "SQLite cannot use it")
    return JournalError(f"{path}: {hint} ({error})")


def damaged(path: Path, why: object) -> JournalError:
    """The file's form is whole but its content is not."""
    return JournalError(f"{path}: the journal is damaged ({why}): keep it aside (mv) and start with a new one")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns every error of SQLite inside into a JournalError."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error
    except (UnicodeDecodeError, OverflowError) as error:  # SQLite's own error quotes the file; a figure beyond 64 bits
        raise damaged(path, error) from None


@contextmanager
def transaction(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All or nothing, for the one writer.

    Raises:
        JournalError: nothing of it was written.
    """
    with translated(path):
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # after some errors SQLite has rolled back by itself
                db.execute("ROLLBACK")
            raise


def rows(db: sqlite3.Connection, shape: type[T], path: Path, query: str, values: tuple[Any, ...] = ()) -> list[T]:
    """The rows of a query, each checked to be a tuple type `shape`: a flipped bit must not look like a figure."""
    try:
        return msgspec.convert(db.execute(query, values).fetchall(), list[shape])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise damaged(path, error) from None


def read_mark(db: sqlite3.Connection, path: Path) -> JournalMark:
    """Where a journal of format 2 stands, as one connection sees it."""
    query = "SELECT id, (SELECT coalesce(max(id), 0) FROM event), retired, skipped FROM journal"
    found = rows(db, tuple[str, int, int, int], path, query)
    if len(found) != 1:
        raise damaged(path, f"its table `journal` has {len(found)} rows instead of one")
    name, last, retired, skipped = found[0]
    return JournalMark(id=name, last=max(last, retired, skipped), retired=retired)


# ---------------------------------------------------------------- connections


def connect_writer(path: Path, synchronous: bool) -> sqlite3.Connection:
    """The writer's connection to a journal, made when the file is new or empty. The caller holds the lock.

    A journal of an older format is left as it is: see migrate.py.

    Raises:
        JournalError: see `Journal.open`.
    """
    if path.is_dir():
        raise JournalError(f"{path}: it is a folder: set journal.path to a file")
    with translated(path):
        # The line opens the journal in one thread and writes it in another; there is one writer at a time.
        db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            if not _is_empty(db):
                check_format(db, path)
            if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                raise JournalError(f"{path}: its file system has no shared memory: set journal.path to a local disk")
            db.execute(f"PRAGMA synchronous = {'FULL' if synchronous else 'NORMAL'}")
            db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            if _is_empty(db):
                _create(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _is_empty(db: sqlite3.Connection) -> bool:
    tables: int = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return tables == 0 and db.execute("PRAGMA application_id").fetchone() == (0,)


def _create(db: sqlite3.Connection, path: Path) -> None:
    with transaction(db, path):
        for statement in (SCHEMA + SCHEMA_2).strip().split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        complete(db)


def complete(db: sqlite3.Connection) -> None:
    """Give it a name and this format: the last step of making a journal and of migrating one."""
    db.execute("INSERT INTO journal VALUES (?, 0, 0)", (uuid.uuid4().hex,))
    db.execute(f"PRAGMA user_version = {FORMAT}")


def format_of(db: sqlite3.Connection) -> int:
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    return found


def check_format(db: sqlite3.Connection, path: Path) -> int:
    """The format of a journal.

    Raises:
        JournalError: it is no journal, or of a format that this version does not know.
    """
    if db.execute("PRAGMA application_id").fetchone() != (APPLICATION,):
        raise JournalError(f"{path}: it is a file of another program, not a journal: name another file")
    version = format_of(db)
    if version > FORMAT:
        raise JournalError(
            f"{path}: a newer version of inspector wrote it (format {version}; this one knows up to {FORMAT}): "
            "use that version, or name another file"
        )
    if version < 1:
        raise damaged(path, f"there is no format {version}")
    return version


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection that never holds up the writer.

    Raises:
        JournalError: the file is missing, torn, or no journal; also for what SQLite finds inside the block.
    """
    if not path.is_file():
        raise JournalError(f"{path}: there is no such journal: name the file that journal.path in the YAML names")
    with translated(path):
        db = _connect_reader(path)
        try:
            check_format(db, path)
            yield db
        finally:
            db.close()


def _connect_reader(path: Path) -> sqlite3.Connection:
    try:
        return _probed(path, "mode=ro")
    except sqlite3.OperationalError:
        # A journal on a read-only disk, or in somebody else's folder. That is safe only when nothing waits in the WAL.
        wal = path.with_name(path.name + "-wal")
        if held(path) or (wal.exists() and wal.stat().st_size):
            raise
        return _probed(path, "immutable=1")


def connect_pages(path: Path) -> sqlite3.Connection:
    """A read-only connection to a journal that may come to be written, to be used by one thread after another.

    Raises:
        JournalError: it is no journal, or of a format that this version does not know.
    """
    with translated(path):
        db = _probed(path, "mode=ro")
        try:
            check_format(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _probed(path: Path, how: str) -> sqlite3.Connection:
    # One thread at a time uses a connection, not always the same one.
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # SQLite opens the file only now
    except BaseException:
        db.close()
        raise
    return db


def check(path: Path, running: bool = False) -> None:
    """Whether a daemon could open this journal now; makes nothing. `running`: it may be the one that holds the file.

    Raises:
        JournalError: the folder is missing or read-only, another daemon holds the file, or it is no journal.
    """
    folder = path.absolute().parent
    if not folder.is_dir() or path.is_dir():
        raise JournalError(f"{path}: journal.path must be a file in a folder that exists (mkdir -p {folder})")
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise JournalError(f"{path}: it or its folder cannot be written: mend the permissions, or set journal.path")
    if not running and held(path):
        raise JournalError(f"{path}: another daemon is writing this journal: give this line its own journal.path")
    if path.exists() and path.stat().st_size:
        with reading(path):
            pass
