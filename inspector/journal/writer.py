"""The writing end: makes events and the frames' fates durable together, and survives a full disk."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import msgspec

from inspector.errors import JournalError
from inspector.events import CoilEvent, Event, JournalMark, Reason, as_json
from inspector.journal.fates import Fates
from inspector.journal.identity import KINDS, Identities
from inspector.journal.lock import Lock
from inspector.journal.marks import Marked, Marks, highest
from inspector.journal.migrate import migrate
from inspector.journal.retention import Bounds, Retention, Retired
from inspector.journal.settle import Resumed, end_run, resumed, settle_rest, settle_unwritten
from inspector.journal.spans import Spans, read_spans
from inspector.journal.store import RunState, connect_writer, read_mark, rows, transaction, translated
from inspector.journal.telegrams import Telegram, read_telegrams, write_telegrams
from inspector.logbook import LogKind, as_kind
from inspector.records import Draft, Graded, Pixels

log = logging.getLogger(__name__)

JPEG = (cv2.IMWRITE_JPEG_QUALITY, 88)
MAX_PICTURES = 4096
"""Thumbnails that wait for the disk at most (about 100 MB): they are given up long before the events are."""
MAX_TELEGRAMS = 10_000
"""Telegrams that wait for the disk at most."""
UNDONE = 1 << 20
"""A power cut may undo the newest commits where they are not forced to the disk; their cursors, which somebody may have
been told, must not be given again. So after a kill the cursors go on this much higher: more than a log can hold."""


class Journal:
    """One run of the daemon in the journal. Made by `Journal.open`; a context manager that closes it.

    `append`, `tell`, `commit`, `retire` and `close` belong to one thread at a time; `identify`, `mark`, `high_water`,
    `pending`, `unjournalled` and `size_bytes` may be used by any.
    """

    def __init__(
        self, path: Path, db: sqlite3.Connection, lock: Lock, clock: Callable[[], int], max_pending: int, marks: Marks
    ) -> None:
        self.path = path
        self.epoch = 0
        """Number of this run, in no earlier one."""
        self.resumed: dict[str, Resumed] = {}
        """Camera -> where its books ended in earlier runs; a camera without any is not in it."""
        self.unjournalled = 0
        """Events given up because the disk stayed full for too long."""
        self.pictures_given_up = 0
        """Thumbnails given up for the same reason; their events are not."""
        self.telegrams: list[Telegram] = []
        """What the plant told earlier runs, the oldest first: the newest thousand."""
        self._db: sqlite3.Connection | None = db
        self._lock = lock
        self._marks = marks
        self._failing = False
        self._clock = clock
        self._max_pending = max_pending
        self._identities = Identities("", 0)
        self._fates = Fates([], 1)
        self._events: deque[tuple[int, int, int, str, str]] = deque()
        self._pictures: deque[tuple[int, bytes]] = deque()
        self._topics: dict[str, int] = {}
        self._topics_changed: dict[str, int] = {}
        self._next_event = self._next_topic = 1
        self._told: deque[Telegram] = deque(maxlen=MAX_TELEGRAMS)
        self._spans = Spans()
        self._retention: Retention | None = None
        self._mark = JournalMark(id="", last=0, retired=0)

    # ------------------------------------------------------------ open and close

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        line: str,
        source: str,
        synchronous: bool,
        capacity_frames: int,
        cameras: Sequence[str],
        digest: str,
        clock: Callable[[], int] = time.time_ns,
        max_pending: int = 100_000,
    ) -> Self:
        """Open or make the file, settle what earlier runs left in flight, and start a run with an epoch of its own.

        Args:
            path: the SQLite file; `<path>.lock`, `.marks`, `-wal` and `-shm` lie beside it.
            line: name of the line.
            source: `source` of the events.
            synchronous: force every commit to the disk.
            capacity_frames: most frames, over all cameras, that can lie between the cameras and a commit, lost ones
                not counted; the audit finds fault with a run that had more in flight.
            cameras: names of the cameras; others may follow in `append`.
            digest: of the pack.
            clock: nanoseconds since the Unix epoch.
            max_pending: events that wait for the disk at most; beyond it the oldest are given up and counted.

        Raises:
            JournalError: the folder is missing or read-only, the disk is full, another daemon holds the file, or it
                is no journal, damaged, or of a newer format.
        """
        path = Path(path)
        lock = Lock(path)
        try:
            db = connect_writer(path, synchronous)
        except BaseException:
            lock.release()
            raise
        self = cls(path, db, lock, clock, max_pending, Marks(path, synchronous))
        try:
            self._start(db, line, source, digest, capacity_frames, list(cameras))
        except BaseException:
            self._leave()
            raise
        return self

    def _start(
        self, db: sqlite3.Connection, line: str, source: str, digest: str, capacity: int, cameras: list[str]
    ) -> None:
        now_ns = self._clock()
        with translated(self.path):
            migrate(db, self.path)
            self._remember(db)
        marked = self._marks.open()
        with transaction(db, self.path):
            for (epoch,) in rows(db, tuple[int], self.path, "SELECT epoch FROM run WHERE state = 'running'"):
                self._skip(db)
                settle_rest(db, self.path, epoch, Reason.CRASH)
                self._settle_unwritten(db, epoch, marked)
                end_run(db, epoch, RunState.KILLED, now_ns)
            self.epoch = max(now_ns // 1_000_000, _maximum(db, self.path, "run", "epoch") + 1)
            self.resumed = {camera: found for camera in cameras if (found := resumed(db, self.path, camera))}
            self._identities = Identities(source, self.epoch)
            self._fates = Fates(cameras, _maximum(db, self.path, "fate", "id") + 1)
            self._next_topic = _maximum(db, self.path, "topic", "id") + 1
            run = (self.epoch, line, source, digest, capacity, now_ns)
            db.execute("INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, NULL, 'running', 0, 0)", run)
            self._fates.write(db, self.epoch)
        self._fates.written()
        self._marks.reserve()  # only now: where room is scarce the journal comes first
        self._mark = msgspec.structs.replace(self._mark, last=self._next_event - 1)

    def _settle_unwritten(self, db: sqlite3.Connection, epoch: int, marked: list[Marked]) -> None:
        given_up = settle_unwritten(db, self.path, epoch, highest(marked, self._mark.id, epoch))
        if given_up:
            log.warning(
                "%s: %d events of run %d were sent and never written",
                self.path,
                given_up,
                epoch,
                extra=as_kind(LogKind.EVENTS_UNWRITTEN, count=given_up),
            )

    def _skip(self, db: sqlite3.Connection) -> None:
        self._next_event = self._mark.last + UNDONE
        db.execute("UPDATE journal SET skipped = ?", (self._next_event - 1,))

    def _remember(self, db: sqlite3.Connection) -> None:
        """What earlier runs left that this one goes on with."""
        self._mark = read_mark(db, self.path)
        self._next_event = self._mark.last + 1
        self._spans = Spans(read_spans(db, self.path, after=self._mark.retired))
        self._retention = Retention(db, self.path, self._spans, self._mark.retired)
        self.telegrams = read_telegrams(db, self.path)

    def close(self, clean: bool) -> None:
        """Write what waits and end the run; safe to call twice.

        `clean` says that the line drained. The run is closed only if that is true and every frame issued up to the
        last `commit` has its fate; else it is aborted and the rest is booked as lost/aborted.

        Raises:
            JournalError: what waited is not written; the next start settles this run like one that was killed.
        """
        db = self._db
        if db is None:
            return
        try:
            with transaction(db, self.path):
                self._write(db)
                rest = settle_rest(db, self.path, self.epoch, Reason.ABORTED)
                state = RunState.CLOSED if clean and not rest else RunState.ABORTED
                end_run(db, self.epoch, state, self._clock())
            self._written()
        except JournalError as error:
            self._failed()
            raise JournalError(f"{error}; the run is not closed and {self.pending} events are not written") from error
        finally:
            self._leave()

    def _leave(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()
            self._marks.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(clean=kind is None)

    # ------------------------------------------------------------ into memory

    def identify(self, draft: Draft) -> Event:
        """Give a draft its identity without keeping it: for heartbeats, whose topics nothing else may use."""
        return self._identities.give(draft)

    def append(self, graded: Sequence[Graded]) -> list[Event]:
        """Take fates and events down, in memory; returns the events with their identity, in order.

        They are durable after the next `commit` that succeeds.

        Raises:
            ValueError: a topic does not end in '/', or a range of frames runs backwards; nothing was taken.
        """
        for piece in graded:
            _check(piece)
        for piece in graded:
            for settled in piece.settled:
                self._fates.settle(settled)
        events = [self._keep(draft) for piece in graded for draft in piece.drafts]
        self._give_up()
        if self._failing and events:
            self._put_marks()
        return events

    def tell(self, telegram: Telegram) -> None:
        """Take a telegram down, in memory; it is durable after the next `commit` that succeeds."""
        self._told.append(telegram)

    def _keep(self, draft: Draft) -> Event:
        event = self._identities.give(draft)
        topic = self._topics.get(draft.topic)
        if topic is None:
            topic = self._topics[draft.topic] = self._next_topic
            self._next_topic += 1
        row, self._next_event = self._next_event, self._next_event + 1
        self._topics_changed[draft.topic] = event.sequence
        body = event.__dict__["body"] = as_json(event)  # the sinks send these very bytes
        self._events.append((row, topic, event.sequence, KINDS[type(draft.data)], body.decode()))
        if isinstance(draft.data, CoilEvent):
            self._spans.take(row, self.epoch, draft.time_ns, draft.data)
        if draft.thumbnail is not None and draft.thumbnail.size:
            self._pictures.append((row, _jpeg(draft.thumbnail)))
        return event

    def _give_up(self) -> None:
        """Bound the memory while the disk takes nothing: the oldest go, and are counted."""
        while len(self._events) > self._max_pending:
            self._events.popleft()
            self.unjournalled += 1
        oldest = self._events[0][0] if self._events else self._next_event
        while self._pictures and (self._pictures[0][0] < oldest or len(self._pictures) > MAX_PICTURES):
            self._pictures.popleft()
            self.pictures_given_up += 1

    # ------------------------------------------------------------ onto the disk

    def commit(self, issued: Mapping[str, int], lost: Mapping[str, int] | None = None) -> None:
        """Make everything appended so far durable, in one transaction; costs nothing when nothing has changed.

        Args:
            issued: camera -> frames it has issued so far in this run. A camera that is not in it is taken to have
                issued just what is settled.
            lost: camera -> frames of these known to be lost so far, settled or not, counted under the same lock as
                `issued` and after everything appended was booked. It lets the audit tell lost frames from frames in
                flight, and is compared with the fates. None: not told.

        Raises:
            JournalError: nothing was written. Everything is kept and the next commit tries again, in order; only
                beyond `max_pending` events the oldest are given up (fates never are: they are ranges, and small).
        """
        if self._db is None:
            raise JournalError(f"{self.path}: the journal is closed")
        for camera, count in issued.items():
            self._fates.count(camera, count, None if lost is None else lost.get(camera, 0))
        if self._events or self._fates.changed or self._told or self._spans.changed:
            try:
                with transaction(self._db, self.path):
                    self._write(self._db)
            except JournalError:
                self._failed()
                raise
            self._written()

    def _failed(self) -> None:
        self._failing = True
        self._put_marks()

    def _put_marks(self) -> None:
        """Whoever sends these events before they are written may be killed: the next run is to know of them."""
        if self._topics_changed:
            self._marks.put(Marked(self._mark.id, self.epoch, self._topics_changed))

    def _write(self, db: sqlite3.Connection) -> None:
        """May be repeated after a rollback: rows have their numbers, totals are absolute."""
        topics = [(self._topics[topic], self.epoch, topic, high) for topic, high in self._topics_changed.items()]
        db.executemany(
            "INSERT INTO topic VALUES (?, ?, ?, ?, 0) ON CONFLICT (id) DO UPDATE SET high_water = excluded.high_water",
            topics,
        )
        db.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?)", self._events)
        if self._pictures:
            db.executemany("INSERT INTO thumbnail VALUES (?, ?)", self._pictures)
        if self._spans.changed:
            self._spans.write(db)
        if self._told:
            write_telegrams(db, self.epoch, self._told)
        issued = self._fates.write(db, self.epoch)
        run = (issued, self.unjournalled, self.epoch)
        db.execute("UPDATE run SET issued = ?, unjournalled = ? WHERE epoch = ?", run)

    def _written(self) -> None:
        if self._events:
            self._mark = msgspec.structs.replace(self._mark, last=self._events[-1][0])
        self._events.clear()
        self._told.clear()
        self._spans.written()
        self._pictures.clear()
        self._topics_changed.clear()
        if self._failing:
            self._failing = False
            self._marks.superseded()
        self._fates.written()

    # ------------------------------------------------------------ out of the file again

    def retire(self, now_ns: int, keep_bytes: int | None, keep_ns: int | None, limit: int = 500) -> Retired | None:
        """Delete the oldest closed coils as far as the journal may not keep them; costs next to nothing if it may.

        A coil goes when the journal holds more than `keep_bytes`, or when it ended more than `keep_ns` nanoseconds
        before `now_ns`; None: no bound. At most `limit` events go in one call, in one transaction: call it again and
        again. The coil on the line never goes, nor what follows its start.

        Returns:
            What was deleted, or that the journal is over its bound and no closed coil is left; None: nothing to do.

        Raises:
            JournalError: nothing was deleted.
        """
        if self._db is None or self._retention is None:
            raise JournalError(f"{self.path}: the journal is closed")
        with translated(self.path):
            gone = self._retention.retire(self._db, Bounds(now_ns, keep_bytes, keep_ns), limit)
        if gone is not None:
            self._mark = msgspec.structs.replace(self._mark, retired=self._retention.retired)
        return gone

    # ------------------------------------------------------------ figures

    def mark(self) -> JournalMark:
        """Where the journal stands: every event up to `last` is durable, those up to `retired` are gone."""
        return self._mark

    @property
    def pending(self) -> int:
        """Events that have an identity and are not yet durable."""
        return len(self._events)

    def high_water(self) -> dict[str, int]:
        """Topic -> the last sequence given in this epoch."""
        return self._identities.high_water()

    def size_bytes(self) -> int:
        """Bytes on the disk: the file and its write-ahead log."""
        return sum(_size(self.path.with_name(self.path.name + suffix)) for suffix in ("", "-wal"))


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _check(piece: Graded) -> None:
    for draft in piece.drafts:
        if not draft.topic.endswith("/"):
            raise ValueError(f"the topic {draft.topic!r} does not end in '/': subscribers match topics by prefix")
    for settled in piece.settled:
        if not 0 <= settled.first <= settled.last:
            raise ValueError(f"camera {settled.camera}: [{settled.first}, {settled.last}] is no range of frames")


def _jpeg(pixels: Pixels) -> bytes:
    done, buffer = cv2.imencode(".jpg", pixels, JPEG)
    return buffer.tobytes() if done else b""


def _maximum(db: sqlite3.Connection, path: Path, table: str, column: str) -> int:
    return rows(db, tuple[int | None], path, f"SELECT max({column}) FROM {table}")[0][0] or 0
