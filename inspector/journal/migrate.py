"""Format 1 -> 2, by the writer when it opens the file. Readers know both, so an old journal may also stay as it is."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import msgspec

from inspector.errors import JournalError
from inspector.events import CoilEvent
from inspector.journal.identity import nanoseconds
from inspector.journal.spans import Spans
from inspector.journal.store import FORMAT, SCHEMA_2, complete, damaged, format_of, rows, transaction
from inspector.logbook import LogKind, as_kind

log = logging.getLogger(__name__)


class _Envelope(msgspec.Struct):
    """What a span of a coil needs of its events."""

    time: str
    epoch: int
    data: CoilEvent


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring a journal to this format, all or nothing; does nothing where that is done.

    No event is read but those of coils and none is written, so it takes little time and room however large the file.

    Raises:
        JournalError: the disk is full, or the journal is damaged; the file is as it was.
    """
    if format_of(db) == FORMAT:
        return
    log.warning(
        "%s: this journal of format 1 becomes one of format %d", path, FORMAT, extra=as_kind(LogKind.JOURNAL_MIGRATED)
    )
    try:
        with transaction(db, path):
            db.execute("ALTER TABLE topic ADD COLUMN retired INTEGER NOT NULL DEFAULT 0")
            for statement in SCHEMA_2.strip().split(";\n"):
                db.execute(statement)
            _spans(db, path).write(db)
            complete(db)
    except JournalError as error:
        raise JournalError(f"{error}; it could not be brought to format {FORMAT} and is as it was") from error


def _spans(db: sqlite3.Connection, path: Path) -> Spans:
    query = (
        "SELECT event.id, event.body FROM topic CROSS JOIN event ON event.topic = topic.id "
        "WHERE topic.topic GLOB 'coil/*' AND event.kind = 'coil' ORDER BY event.id"
    )
    spans, decoder = Spans(), msgspec.json.Decoder(_Envelope)
    for cursor, body in rows(db, tuple[int, str], path, query):
        try:
            event = decoder.decode(body)
            time_ns = nanoseconds(event.time)
        except (msgspec.MsgspecError, ValueError) as error:
            raise damaged(path, error) from None
        spans.take(cursor, event.epoch, time_ns, event.data)
    return spans
