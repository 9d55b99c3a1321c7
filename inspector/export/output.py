"""Where an export goes: standard output, or a file that is there whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from inspector.errors import ConfigError, SinkError

HINTS = {
    errno.ENOSPC: "free some space, or name a file on another disk",
    errno.EDQUOT: "free some space, or name a file on another disk",
    errno.EFBIG: "raise the limit on the size of files, or name a file on another disk",
    errno.EACCES: "name a file that this user may write",
    errno.EROFS: "name a file on a disk that can be written",
}


def check(path: Path) -> None:
    """Raises ConfigError unless a file can be made at `path`."""
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}. Create it: mkdir -p {path.parent}")
    target = path if path.exists() and not path.is_file() else path.parent
    if not os.access(target, os.W_OK):
        raise ConfigError(f"{path}: {target} cannot be written by this user. Name another file")


@contextmanager
def opened(path: Path | None) -> Iterator[BinaryIO]:
    """A stream to `path`, or to standard output; the file takes its name only when the block ends well.

    Raises:
        SinkError: the disk is full or refuses; nothing is left behind.
        BrokenPipeError: nobody reads the output any more.
    """
    try:
        if path is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif path.exists() and not path.is_file():  # a pipe or device has no other name to be made under
            with path.open("wb") as stream:
                yield stream
        else:
            with _replacing(path) as stream:
                yield stream
    except BrokenPipeError:
        _hush()
        raise
    except OSError as error:
        hint = HINTS.get(error.errno or 0, "look at the disk")
        raise SinkError(f"{path or 'standard output'}: cannot be written: {error.strerror}; {hint}") from None


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    target = Path(os.path.realpath(path))  # a link stays one
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, _mode(target))
            yield stream
            stream.flush()
            os.fsync(descriptor)  # some file systems find out only now that they are full
        os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _mode(target: Path) -> int:
    """As the file that is replaced, or as this process makes files."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0o077)
        os.umask(mask)
        return 0o666 & ~mask


def _hush() -> None:
    """Let Python's last flush of a stdout that nobody reads go nowhere instead of printing an error."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
