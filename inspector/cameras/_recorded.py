"""How a raw recording is read; its form is in _index.py. Damage becomes `Missed`, never silence.

Files are read, not mapped: a file that shrinks under a memory map kills the process.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from inspector.cameras._index import (
    FLAT_FIELD,
    INDEX,
    RAW,
    VERSION,
    Entry,
    Header,
    Line,
    Lost,
    Said,
    Stood,
    Told,
    Unrecorded,
)
from inspector.cameras._shots import MAX_PX, Down, Missed, Shot, Stamp, Unreadable, Up, printable
from inspector.errors import ConfigError
from inspector.events import Reason
from inspector.records import Pixels

LINE_BYTES = 1 << 20
"""No line of an index is longer."""
NOT_RECORDED = {
    "slow": "not in the recording: the disk was too slow for these frames",
    "disk": "not in the recording: the disk was full or gone",
}

_line: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class _Version(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="recording"):
    """What stays the same in every version."""

    version: int


_version = msgspec.json.Decoder(_Version)

Item = Shot | Missed | Up | Down


@dataclass(slots=True)
class Survey:
    """What an index tells without its pixels."""

    header: Header
    issued: int = 0
    """Frames, lost and unrecorded ones too, as far as they have lines."""
    first_sequence: int | None = None
    placed: bool = False
    """Whether there is a frame or state in it, whose `came_ns` says more than that of a loss."""
    came_ns: int = 0
    """When what it begins with came, on the monotonic clock of the host; 0: not known."""
    lines: int | None = None
    """Lines of the first frame."""
    script: list[Told | Stood] = field(default_factory=list)
    """What the plant told while it was recorded."""


def is_recording(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def header(folder: Path) -> Header:
    """The header of a recording that this version can read.

    Raises:
        ConfigError: it is damaged at its head, of a newer version, or one of its files is missing.
    """
    shown = printable(str(folder))
    try:
        with (folder / INDEX).open("rb") as index, (folder / RAW).open("rb"):
            line = index.readline(LINE_BYTES)
    except OSError as error:
        raise ConfigError(f"{shown}: {INDEX} or {RAW} cannot be read: {error.strerror}. Copy both again") from None
    try:
        version = _version.decode(line).version
        found = _line.decode(line) if version <= VERSION else None
    except msgspec.DecodeError:
        raise ConfigError(f"{shown}: the first line of {INDEX} is no header of a recording. Copy it again") from None
    if not isinstance(found, Header):
        raise ConfigError(
            f"{shown}: is a recording of version {version}, and this program reads up to {VERSION}. Update it"
        )
    _check_flat_field(folder, found.flat_field)
    return found


def _check_flat_field(folder: Path, digest: str | None) -> None:
    if digest is None:
        return
    shown = printable(str(folder / FLAT_FIELD))
    try:
        data = (folder / FLAT_FIELD).read_bytes()
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror}. Copy the whole recording again") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ConfigError(f"{shown}: is not the flat-field that it was recorded with. Copy the recording again")


def survey(folder: Path) -> Survey:
    """Look through the index once. Raises as `header`."""
    found = Survey(header(folder))
    try:
        with (folder / INDEX).open("rb") as index:
            for line in index:
                _look(line, found)
    except OSError as error:
        shown = printable(str(folder))
        raise ConfigError(f"{shown}: {INDEX} cannot be read: {error.strerror}. Copy it again") from None
    return found


def _look(line: bytes, found: Survey) -> None:
    if line.startswith(b'{"kind":"frame"') and found.lines is not None:  # by far the most
        found.issued += 1
        return
    entry = _read(line)
    if isinstance(entry, Told | Stood):
        found.script.append(entry)
    elif isinstance(entry, Entry | Lost | Unrecorded):
        found.issued += 1 if isinstance(entry, Entry) else entry.count
        if found.first_sequence is None:
            found.first_sequence = entry.sequence
    if isinstance(entry, Entry | Said) and not found.placed:
        found.came_ns = entry.came_ns if isinstance(entry, Entry) else entry.monotonic_ns
        found.placed = True
    elif isinstance(entry, Lost | Unrecorded):
        found.came_ns = found.came_ns or entry.monotonic_ns
    if isinstance(entry, Entry):
        found.lines = found.lines or entry.height


def count(parts: Sequence[Path]) -> int:
    """Frames issued as far as the indexes tell."""
    return sum(survey(part).issued for part in parts)


def strips(folders: Sequence[Path]) -> list[list[Path]]:
    """Recordings in the order given, those that follow one another on one strip together. Raises as `header`."""
    found: list[list[Path]] = []
    before: Header | None = None
    for folder in folders:
        now = header(folder)
        follows = before is not None and now.run and (now.run, now.camera) == (before.run, before.camera)
        if follows and before is not None and now.part > before.part:
            found[-1].append(folder)
        else:
            found.append([folder])
        before = now
    return found


def shots(parts: Sequence[Path]) -> Generator[Item, None, None]:
    """The frames and losses of a strip as recorded; what is damaged or not there becomes `Missed`."""
    reader = _Reader()
    for part in parts:
        name = printable(part.name)
        with ExitStack() as held:
            try:
                index = held.enter_context((part / INDEX).open("rb"))
                raw = held.enter_context((part / RAW).open("rb", buffering=0))
                yield from reader.items(name, index, raw)
            except OSError as error:
                yield Missed(name, f"cannot be read: {error.strerror}; copy the recording again")
    yield from reader.end()


class _Reader:
    """Walks the indexes of one strip, with what is due next."""

    def __init__(self) -> None:
        self._name = ""
        self._raw: io.FileIO | None = None
        self._size = 0
        self._expected: int | None = None
        self._damaged = 0
        self._piece: int | None = None

    def items(self, name: str, index: Iterator[bytes] | io.BufferedReader, raw: io.FileIO) -> Iterator[Item]:
        self._name, self._raw, self._size = name, raw, os.fstat(raw.fileno()).st_size
        for line in index:
            entry = _read(line)
            if entry is None:
                self._damaged += 1
            elif isinstance(entry, Said):
                yield Up(entry.monotonic_ns) if entry.state == "up" else Down(entry.detail, entry.monotonic_ns)
            elif isinstance(entry, Entry | Lost | Unrecorded):
                yield from self._hole(entry.sequence)
                yield self._item(entry, raw)

    def end(self) -> Iterator[Missed]:
        if self._damaged:
            yield self._missed(self._damaged)

    def _hole(self, sequence: int) -> Iterator[Missed]:
        """What is missing before this number: a hole of the camera's, or lines of the index that are damaged."""
        hole = self._damaged if self._expected is None else sequence - self._expected
        if hole < 0:  # the camera was opened again and counts from 0
            hole = self._damaged
        if hole and self._damaged:
            yield self._missed(hole)
        elif hole:
            yield Missed(None, "the recording has a hole here", hole, Reason.MISSING)
        self._damaged = 0

    def _missed(self, frames: int) -> Missed:
        return Missed(self._name, f"{INDEX} is damaged here; copy the recording again", frames)

    def _item(self, entry: Entry | Lost | Unrecorded, raw: io.FileIO) -> Shot | Missed:
        if isinstance(entry, Entry):
            self._expected = entry.sequence + 1
            return self._frame(entry, raw)
        self._expected = entry.sequence + entry.count
        if isinstance(entry, Lost):
            return Missed(entry.source, entry.detail, entry.count, entry.reason)
        return Missed(None, NOT_RECORDED[entry.reason], entry.count, Reason.MISSING)

    def _frame(self, entry: Entry, raw: io.FileIO) -> Shot | Missed:
        size = entry.height * entry.width
        breaks = self._piece is not None and entry.piece != self._piece
        self._piece = entry.piece
        if size > MAX_PX or entry.offset + size > self._size:
            detail = f"{self._name}/{RAW} does not hold frame {entry.sequence} of the recording; copy it again"
            return Missed(self._name, detail, lines=entry.height, breaks=breaks, came_ns=entry.came_ns)
        return Shot(
            height=entry.height,
            width=entry.width,
            fill=partial(_fill, raw, f"{self._name}/{RAW}", entry),
            source=entry.source,
            exposed_ns=entry.exposed_ns,
            breaks=breaks,
            encoder_count=entry.encoder_count,
            stamp=Stamp(
                came_ns=entry.came_ns,
                camera_ns=entry.camera_ns,
                uncertainty_ns=entry.uncertainty_ns,
                counts_per_line=entry.counts_per_line,
                overlap_lines=entry.overlap_lines,
                after=entry.after,
            ),
        )


def _read(line: bytes) -> Line | None:
    """A line of the index; None if it is damaged (its writer was killed, or the disk)."""
    try:
        return _line.decode(line)
    except msgspec.DecodeError:
        return None


def _fill(raw: io.FileIO, name: str, entry: Entry, pixels: Pixels) -> None:
    """Read straight into the slot: the one copy, out of the system's cache."""
    view = pixels.data.cast("B")
    try:
        raw.seek(entry.offset)
        done = 0
        while done < len(view) and (got := raw.readinto(view[done:])):
            done += got
    except OSError as error:
        raise Unreadable(f"{name} cannot be read: {error.strerror}; copy the recording again", entry.height) from None
    if done < len(view) or zlib.crc32(view) != entry.crc32:
        raise Unreadable(f"{name} is damaged in frame {entry.sequence}; copy the recording again", entry.height)
