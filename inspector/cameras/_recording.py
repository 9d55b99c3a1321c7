"""A raw recording: what a camera delivered, bit-exact, so that it can be replayed as if live.

A recording is a folder with two files:

    frames.raw      the pixels of all frames, uint8, row by row, one frame behind the other, nothing between
    frames.jsonl    one JSON object a line:
                    {"kind": "recording", "version": 1, "camera": ...}      the first line
                    {"kind": "frame", "sequence": ..., "exposed_ns": ..., "monotonic_ns": ..., "encoder_count": ...,
                     "height": ..., "width": ..., "offset": ..., "crc32": ..., "source": ..., "piece": ...}
                    {"kind": "loss", "sequence": ..., "count": ..., "reason": ..., "detail": ..., "source": ...}

`offset` is the frame's first byte in frames.raw and `crc32` the sum over its pixels. The pixels are written before
their line, so a recording whose writer was killed holds every frame it names. Files are read, not mapped: a file
that shrinks under a memory map kills the process.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from inspector.cameras._shots import MAX_PX, Missed, Shot, Unreadable, printable
from inspector.errors import ConfigError, SinkError
from inspector.events import Reason
from inspector.records import Frame, Loss, Pixels

RAW, INDEX = "frames.raw", "frames.jsonl"
FILES = (RAW, INDEX)
VERSION = 1
AtLeast0 = Annotated[int, Meta(ge=0)]
AtLeast1 = Annotated[int, Meta(ge=1)]


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="recording"):
    """The first line of the index."""

    version: int
    camera: str


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="frame"):
    """A frame; the fields are those of records.Frame, and where its pixels are."""

    sequence: AtLeast0
    exposed_ns: int
    monotonic_ns: int
    encoder_count: int
    height: AtLeast1
    width: AtLeast1
    offset: AtLeast0
    crc32: int
    source: str | None
    piece: int


class Lost(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="loss"):
    """Frames that the camera lost; the fields are those of records.Loss."""

    sequence: AtLeast0
    count: AtLeast1
    reason: Reason
    detail: str
    source: str | None


_line: msgspec.json.Decoder[Header | Entry | Lost] = msgspec.json.Decoder(Header | Entry | Lost)


class Recorder:
    """Writes a new recording. Use it as a context manager, from one thread.

    Raises, from every method:
        ConfigError: the folder cannot be made, or holds a recording already.
        SinkError: the disk refuses; what was written before is whole, and one may go on when there is room again.
    """

    def __init__(self, folder: Path, camera: str) -> None:
        self.folder = folder
        self._written = 0
        self._told = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._index = (folder / INDEX).open("xb", buffering=0)
            self._raw = (folder / RAW).open("wb", buffering=0)
        except FileExistsError:
            raise ConfigError(f"{folder}: holds a recording already. Name a new folder") from None
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written: {error.strerror}. Name a writable folder") from None
        self._say(Header(version=VERSION, camera=camera))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._raw.close()
        self._index.close()

    def frame(self, frame: Frame) -> None:
        """Record a frame; its pixels are free again when this returns."""
        pixels = frame.pixels.data.cast("B")
        _append(self._raw, self._written, pixels)
        height, width = frame.pixels.shape
        self._say(
            Entry(
                sequence=frame.sequence,
                exposed_ns=frame.exposed_ns,
                monotonic_ns=frame.monotonic_ns,
                encoder_count=frame.encoder_count,
                height=height,
                width=width,
                offset=self._written,
                crc32=zlib.crc32(pixels),
                source=frame.source,
                piece=frame.piece,
            )
        )
        self._written += height * width

    def loss(self, loss: Loss) -> None:
        """Record that frames were lost."""
        self._say(
            Lost(sequence=loss.sequence, count=loss.count, reason=loss.reason, detail=loss.detail, source=loss.source)
        )

    def _say(self, entry: Header | Entry | Lost) -> None:
        line = msgspec.json.encode(entry) + b"\n"
        _append(self._index, self._told, memoryview(line))
        self._told += len(line)


def _append(file: io.FileIO, at: int, data: memoryview) -> None:
    """Write all of `data` at byte `at`, or nothing of it."""
    try:
        file.seek(at)
        done = 0
        while done < len(data):
            done += file.write(data[done:]) or 0
    except OSError as error:
        with suppress(OSError):
            file.truncate(at)
        raise SinkError(f"{file.name}: cannot be written: {error.strerror}. Make room; then go on") from None


# ---------------------------------------------------------------- reading


def is_recording(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def check(folder: Path) -> None:
    """Is this a recording that this version can read?

    Raises:
        ConfigError: it is damaged at its head, of a newer version, or one of its two files is missing.
    """
    shown = printable(str(folder))
    try:
        with (folder / INDEX).open("rb") as index, (folder / RAW).open("rb"):
            header = _read(index.readline(1 << 16))
    except OSError as error:
        raise ConfigError(f"{shown}: {INDEX} or {RAW} cannot be read: {error.strerror}. Copy both again") from None
    if not isinstance(header, Header):
        raise ConfigError(f"{shown}: the first line of {INDEX} is no header of a recording. Copy it again")
    if header.version > VERSION:
        raise ConfigError(
            f"{shown}: is a recording of version {header.version}, and this program reads up to {VERSION}. Update it"
        )


def count(folder: Path) -> int:
    """Frames issued as far as the index tells, lost ones by their lines."""
    with (folder / INDEX).open("rb") as index:
        return max(0, sum(1 for _ in index) - 1)


def shots(folder: Path) -> Generator[Shot | Missed, None, None]:
    """The frames and losses as recorded; lines and pixels that are damaged become `Missed`, never silence."""
    name = printable(folder.name)
    try:
        with (folder / INDEX).open("rb") as index, (folder / RAW).open("rb", buffering=0) as raw:
            yield from _Reader(name, raw).shots(index)
    except OSError as error:
        yield Missed(name, f"cannot be read: {error.strerror}; copy the recording again")


class _Reader:
    """Walks an index, with what is due next."""

    def __init__(self, name: str, raw: io.FileIO) -> None:
        self._name = name
        self._raw = raw
        self._size = os.fstat(raw.fileno()).st_size
        self._expected: int | None = None
        self._damaged = 0
        self._piece: int | None = None

    def shots(self, index: Iterator[bytes] | io.BufferedReader) -> Iterator[Shot | Missed]:
        for line in index:
            entry = _read(line)
            if isinstance(entry, Header):
                continue
            if entry is None:
                self._damaged += 1
                continue
            yield from self._hole(entry.sequence)
            if isinstance(entry, Lost):
                self._expected = entry.sequence + entry.count
                yield Missed(entry.source, entry.detail, entry.count, entry.reason)
            else:
                self._expected = entry.sequence + 1
                yield self._frame(entry)
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

    def _frame(self, entry: Entry) -> Shot | Missed:
        size = entry.height * entry.width
        breaks = self._piece is not None and entry.piece != self._piece
        self._piece = entry.piece
        if size > MAX_PX or entry.offset + size > self._size:
            detail = f"{self._name}/{RAW} does not hold frame {entry.sequence} of the recording; copy it again"
            return Missed(self._name, detail, lines=entry.height, breaks=breaks)
        return Shot(
            height=entry.height,
            width=entry.width,
            fill=partial(_fill, self._raw, f"{self._name}/{RAW}", entry),
            source=entry.source,
            exposed_ns=entry.exposed_ns,
            breaks=breaks,
            encoder_count=entry.encoder_count,
        )


def _read(line: bytes) -> Header | Entry | Lost | None:
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
