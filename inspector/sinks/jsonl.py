"""Events as lines of a file: one JSON envelope a line, the same bytes that go over the wire.

The sink that always works: for `inspector replay --events`, for a log shipper, for a quick look with `jq`. The file
may also be a pipe or a device such as /dev/stdout.

A line is whole or it is not there. A write that stopped half-way (full disk) is taken back before anything else is
written; a last line that a power cut or kill -9 left torn is closed with a newline on enter, so that a reader loses
that line alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from inspector.errors import ConfigError, SinkError
from inspector.events import Event

Kind = Literal["defect", "gap", "coil", "state", "heartbeat"]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EAGAIN}
"""No room now, perhaps later: the disk, the quota or the size limit; EAGAIN is a pipe whose reader is behind."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Path
    """The file; its folder must exist."""
    append: bool = True
    """Go on behind what the file holds; false: empty it when the daemon starts."""
    kinds: tuple[Kind, ...] = ("defect", "gap", "coil", "state")
    """The kinds of events that are written."""


class Jsonl:
    """A `Sink` that writes lines. One process writes a file at a time: a second one is refused on enter."""

    def __init__(self, options: Options) -> None:
        self._path = options.path
        self._kinds = frozenset(options.kinds)
        self._keep = options.append
        self._file = -1
        self._regular = False
        self._torn = False

    def __enter__(self) -> Self:
        try:
            # Not blocking: a pipe nobody reads is an error at once, not a daemon that hangs.
            self._file = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o644
            )
            self._prepare()
        except OSError as error:
            self._close()
            raise SinkError(f"{self._path}: cannot be opened for writing: {_mend(error)}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def send(self, events: Sequence[Event]) -> int:
        """Append the events; returns how many found no room. The kinds that are left out are not counted.

        Raises:
            SinkError: the file cannot be written for another reason than want of room.
        """
        return self.append([event.body for event in events if event.data.__struct_config__.tag in self._kinds])

    def tend(self) -> None:
        """Nothing: a file needs no care."""

    def append(self, lines: Sequence[bytes]) -> int:
        """Write what becomes a line each, in one go; returns how many at the end found no room.

        Raises:
            SinkError: as `send`.
        """
        if self._file < 0:
            raise SinkError(f"{self._path}: this sink is not open; use it inside `with`")
        if not lines:
            return 0
        lines = [line + b"\n" for line in lines]
        head = b"\n" if self._torn else b""
        data = head + b"".join(lines)
        start = os.fstat(self._file).st_size if self._regular else 0
        written, error = _write(self._file, data)
        if error is None:
            self._torn = False
            return 0
        whole = [end for end in accumulate(map(len, lines), initial=len(head)) if end <= written]
        self._take_back(start, written, whole[-1] if whole else 0)
        if error.errno not in FULL:
            raise SinkError(f"{self._path}: cannot be written: {_mend(error)}") from None
        return len(lines) - max(0, len(whole) - 1)

    def _prepare(self) -> None:
        status = os.fstat(self._file)
        self._regular = stat.S_ISREG(status.st_mode)
        self._torn = False
        if not self._regular:
            return
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self._keep:
            os.ftruncate(self._file, 0)
            self._keep = True  # entered again after an error, the sink must not wipe its own lines
        self._torn = _is_torn(self._path)

    def _take_back(self, start: int, written: int, keep: int) -> None:
        """After `written` bytes went out leave only the first `keep`, which are whole lines."""
        if keep:
            self._torn = False
        if written == keep:
            return
        try:
            if not self._regular:
                raise OSError(errno.ESPIPE, "a pipe takes nothing back")
            os.ftruncate(self._file, start + keep)
        except OSError:
            self._torn = True  # the next event starts on a line of its own at least

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def open(options: Options) -> Jsonl:
    """The opener of the kind `jsonl`; nothing is opened before enter."""
    return Jsonl(options)


def check(options: Options) -> None:
    """Is there a place to write to? Nothing is created.

    Raises:
        ConfigError: the folder is missing, or the file or folder cannot be written.
    """
    path = options.path
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}. Create it: mkdir -p {path.parent}")
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise ConfigError(f"{path}: {target} cannot be written by this user. Change its owner or name another file")


def _write(file: int, data: bytes) -> tuple[int, OSError | None]:
    """Write all of `data`; how many bytes went out, and what stopped the rest."""
    view, written = memoryview(data), 0
    while written < len(data):
        try:
            written += os.write(file, view[written:])
        except OSError as error:
            return written, error
    return written, None


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


HINTS = {
    errno.ENOENT: "create its folder",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "change its owner or name another file",
    errno.EROFS: "name a file on a disk that can be written",
    errno.EAGAIN: "another process writes it; give each its own file",
    errno.ENXIO: "start the reader of this pipe first",
    errno.EPIPE: "the reader of this pipe has gone; start it again",
}


def _mend(error: OSError) -> str:
    hint = HINTS.get(error.errno or 0)
    return f"{error.strerror}; {hint}" if hint else str(error.strerror)
