"""How a raw recording is written; its form is in _index.py."""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import time
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from inspector.cameras._index import FILES, FLAT_FIELD, INDEX, RAW, VERSION, Entry, Header, Line, Lost
from inspector.errors import ConfigError, SinkError
from inspector.records import Frame, Loss

CHUNK = 8 << 20
"""Bytes after which the disk is set to work, so that little waits in memory and other files stay in the cache."""


class Recorder:
    """Writes a new recording. Use it as a context manager, from one thread.

    Args:
        folder: made if it is missing.
        camera: whose frames they are.
        header: what is known of the line; left out, only the camera's name.
        flat_field: the bytes of the camera's flat-field file.

    Raises, from every method:
        ConfigError: the folder cannot be made, or holds a recording already.
        SinkError: the disk refuses; what was written before is whole, and one may go on when there is room again.
    """

    def __init__(
        self, folder: Path, camera: str, header: Header | None = None, flat_field: bytes | None = None
    ) -> None:
        self.folder = folder
        self.frames = 0
        """Frames written."""
        self._written = 0
        self._told = 0
        header = header or Header(version=VERSION, camera=camera)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._index = (folder / INDEX).open("xb", buffering=0)
        except FileExistsError:
            raise ConfigError(f"{folder}: holds a recording already. Name a new folder") from None
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written: {error.strerror}. Name a writable folder") from None
        try:
            self._begin(header, flat_field)
        except BaseException:
            self._undo()
            raise

    def _begin(self, header: Header, flat_field: bytes | None) -> None:
        try:
            self._raw = (self.folder / RAW).open("wb", buffering=0)
            if flat_field is not None:
                (self.folder / FLAT_FIELD).write_bytes(flat_field)
                header = msgspec.structs.replace(header, flat_field=hashlib.sha256(flat_field).hexdigest())
        except OSError as error:
            raise SinkError(f"{self.folder}: cannot be written: {error.strerror}. Make room; then go on") from None
        self._behind = _Behind(self._raw.fileno())
        self.write(header)

    def _undo(self) -> None:
        """A recording without a header must not be in the way of the next attempt."""
        with suppress(OSError, AttributeError):
            self.close()
        for name in (*FILES, FLAT_FIELD):
            with suppress(OSError):
                (self.folder / name).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more is written. Safe to call twice."""
        self._index.close()
        self._raw.close()

    @property
    def bytes(self) -> int:
        """Size of the index and the pixels."""
        return self._written + self._told

    def frame(self, frame: Frame) -> None:
        """Record a frame; its pixels are free again when this returns."""
        pixels = frame.pixels.data.cast("B")
        _append(self._raw, self._written, pixels)
        height, width = frame.pixels.shape
        self.write(
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
                camera_ns=frame.camera_ns,
                uncertainty_ns=frame.uncertainty_ns,
                counts_per_line=frame.counts_per_line,
                overlap_lines=frame.overlap_lines,
                after=frame.after,
                taken_ns=frame.taken_ns,
            )
        )
        self._written += height * width
        self.frames += 1
        self._behind.written(self._written)

    def loss(self, loss: Loss) -> None:
        """Record that frames were lost."""
        self.write(
            Lost(
                sequence=loss.sequence,
                count=loss.count,
                reason=loss.reason,
                detail=loss.detail,
                source=loss.source,
                monotonic_ns=time.monotonic_ns(),
            )
        )

    def write(self, line: Line) -> None:
        """A line of the index."""
        data = msgspec.json.encode(line) + b"\n"
        _append(self._index, self._told, memoryview(data))
        self._told += len(data)


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


class _Behind:
    """Lets the disk follow close behind the writer, and takes out of the cache what nobody will read soon.

    Else the system gathers seconds of pixels and writes them in one go, in which every other file waits.
    https://lkml.org/lkml/2010/5/19/2 is where the pattern comes from: begin chunk k, wait for chunk k - 1, forget it.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._begun = 0

    def written(self, size: int) -> None:
        """So many bytes are in the file now."""
        while size - self._begun >= CHUNK:
            _flush(self._file, self._begun, CHUNK, wait=False)
            if self._begun:
                before = self._begun - CHUNK
                _flush(self._file, before, CHUNK, wait=True)
                with suppress(OSError, AttributeError):  # not on every system: then the cache is as it is
                    os.posix_fadvise(self._file, before, CHUNK, os.POSIX_FADV_DONTNEED)
            self._begun += CHUNK


@cache
def _sync_file_range() -> Any:
    """The C library's function; None where it has none."""
    try:
        found = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return found


def _flush(file: int, start: int, size: int, wait: bool) -> None:
    """Begin to write a range of a file to the disk, or wait for it; an error shows when the file is next written."""
    call = _sync_file_range()
    if call is not None:
        call(file, start, size, 7 if wait else 2)  # WAIT_BEFORE | WRITE | WAIT_AFTER, or WRITE alone
