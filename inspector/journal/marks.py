"""What a killed run could not write: the last sequences of its topics, in a small file beside the journal.

While the disk is full events are sent and wait in memory, and a kill -9 takes them. So that a subscriber who was away
learns that there were such events, their sequences are put here before anybody hears of them, into room that was taken
when the journal was opened; the next start books them as given up. Two slots are written by turns, each with a
checksum: of a torn one only what was being written is lost. What a whole slot says stays true whatever is committed
later, so nothing is ever erased. The file is an aid: without it, or with a spoilt one, the journal works all the same.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from inspector.logbook import LogKind, as_kind

log = logging.getLogger(__name__)

SLOT = 32 * 1024
"""Bytes of a slot: some six hundred topics."""
SIZE = 2 * SLOT
_MAGIC = b"INSPmrk1"
_HEAD = struct.Struct("<8sQI")
"""Magic, turn, bytes of JSON; a digest of these and of the JSON follows, then the JSON."""
_DIGEST = 32
_ROOM = SLOT - _HEAD.size - _DIGEST

Sequence = Annotated[int, msgspec.Meta(ge=1, le=1 << 48)]
"""A bound that leaves SQLite's integers room for the sum of all topics."""


class Marked(msgspec.Struct, frozen=True):
    """Events of one run that were not yet written."""

    journal: str
    """Id of the journal."""
    epoch: int
    last: dict[str, Sequence]
    """Topic -> last sequence given."""


class Marks:
    """The file, for the journal's one writer, who holds the lock. No method raises: a warning is logged instead."""

    def __init__(self, journal: Path, synchronous: bool) -> None:
        self._path = marks_file(journal)
        self._synchronous = synchronous
        self._descriptor: int | None = None
        self._content = b""
        self._turn = 0
        self._complaints: set[str] = set()

    def open(self) -> list[Marked]:
        """What earlier runs left, whole slots only."""
        try:
            self._descriptor = _open(self._path)
            self._content = os.pread(self._descriptor, SIZE, 0)
            if not _is_ours(self._content):
                raise OSError(errno.EEXIST, "it is another program's file")
        except OSError as error:
            self._go_without(error)
            return []
        found = list(_slots(self._content))
        self._turn = max((turn for turn, _ in found), default=0)
        return [marked for _, marked in found]

    def reserve(self) -> None:
        """What is there is written once more, and zeros behind it: from now on every byte has its block."""
        if self._descriptor is None:
            return
        try:
            self._write(self._descriptor, self._content.ljust(SIZE, b"\0"), 0)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, len(self._content))
            self._go_without(error)

    def _go_without(self, error: OSError) -> None:
        self.close()
        log.warning(
            "%s: %s: without this file a kill of the daemon while its disk is full hides events from subscribers who "
            "are away; mend it before the next start",
            self._path,
            error.strerror,
            extra=as_kind(LogKind.MARKS),
        )

    def put(self, marked: Marked) -> None:
        """Keep what the journal could not take; costs some ten microseconds, and a forced write if synchronous."""
        if self._descriptor is None:
            return
        turn, slot = self._turn + 1, (self._turn + 1) % 2
        try:
            self._write(self._descriptor, _slot(turn, self._fitted(marked)), slot * SLOT)
        except OSError as error:
            self._complain(f"{self._path}: it cannot be written either ({error.strerror}): a kill would lose events")
        else:
            self._turn = turn

    def _write(self, descriptor: int, data: bytes, at: int) -> None:
        while data:
            count = os.pwrite(descriptor, data, at)
            data, at = data[count:], at + count
        if self._synchronous:
            os.fdatasync(descriptor)

    def _fitted(self, marked: Marked) -> bytes:
        data = msgspec.json.encode(marked)
        if len(data) <= _ROOM:
            return data
        ranked = sorted(marked.last.items(), key=lambda item: -item[1])
        while len(data) > _ROOM:
            ranked = ranked[: len(ranked) * _ROOM // len(data)]
            data = msgspec.json.encode(Marked(marked.journal, marked.epoch, dict(ranked)))
        self._complain(f"{self._path}: there are too many topics with events that wait: it keeps the highest")
        return data

    def _complain(self, text: str) -> None:
        """Once for each failure of the journal, not for each event."""
        if text not in self._complaints:
            self._complaints.add(text)
            log.warning("%s", text, extra=as_kind(LogKind.MARKS))

    def superseded(self) -> None:
        """All that was put is in the journal."""
        self._complaints.clear()

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def marks_file(journal: Path) -> Path:
    """Where SQLite has the write-ahead log: beside the file itself, if the journal's path is a link."""
    file = Path(os.path.realpath(journal))
    return file.with_name(file.name + ".marks")


def highest(found: list[Marked], journal: str, epoch: int) -> Mapping[str, int]:
    """Topic -> last sequence known to have been given in a run of a journal."""
    last: dict[str, int] = {}
    for marked in found:
        if (marked.journal, marked.epoch) == (journal, epoch):
            for topic, sequence in marked.last.items():
                last[topic] = max(sequence, last.get(topic, 0))
    return last


def _open(path: Path) -> int:
    """Neither a link, which may lead to a file that is not ours to write, nor a pipe, which might block."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise OSError(error.errno, "it is a link") if error.errno == errno.ELOOP else error from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no ordinary file")
    return descriptor


def _is_ours(content: bytes) -> bool:
    """It is new, or begins so in one slot at least."""
    begins = (content[at : at + len(_MAGIC)] for at in (0, SLOT))
    return not content or any(found in (_MAGIC, bytes(len(_MAGIC))) for found in begins)


def _slot(turn: int, data: bytes) -> bytes:
    head = _HEAD.pack(_MAGIC, turn, len(data))
    return head + _digest(head, data) + data


def _slots(content: bytes) -> Iterator[tuple[int, Marked]]:
    """(turn, what it says) of every slot that is whole."""
    for at in (0, SLOT):
        slot = content[at : at + SLOT]
        head, digest, rest = slot[: _HEAD.size], slot[_HEAD.size : SLOT - _ROOM], slot[SLOT - _ROOM :]
        if len(head) < _HEAD.size or head[: len(_MAGIC)] != _MAGIC:
            continue
        _, turn, length = _HEAD.unpack(head)
        if length > len(rest) or digest != _digest(head, rest[:length]):
            continue
        try:
            yield turn, msgspec.json.decode(rest[:length], type=Marked)
        except msgspec.MsgspecError:
            continue  # of a version that says it in another way


def _digest(head: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(head + data, digest_size=_DIGEST).digest()
