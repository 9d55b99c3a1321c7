"""One daemon a journal: an advisory lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from inspector.errors import JournalError


class Lock:
    """Holds `<path>.lock` until `release()` or the end of the process, however it ends.

    The file is left behind: only the lock on it has a meaning, and removing it would let two daemons in.
    """

    def __init__(self, path: Path) -> None:
        self._file = lock_file(path)
        try:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unwritable(path, error) from None
        if not self._try():
            owner = os.read(self._descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise JournalError(
                f"{path}: another daemon (process {owner}) is writing this journal: "
                "stop it, or give this line its own journal.path"
            )
        self._sign()

    def _try(self) -> bool:
        """A reader that asks `held()` has the lock for an instant, which must not keep a daemon from starting."""
        for wait_s in (0.01, 0.04, 0.2, None):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if wait_s is not None:
                    time.sleep(wait_s)
        return False

    def _sign(self) -> None:
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # only for the message above; a full disk is found and told by the first commit

    def release(self) -> None:
        os.close(self._descriptor)


def lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def held(path: Path) -> bool:
    """A daemon is writing this journal now."""
    try:
        descriptor = os.open(lock_file(path), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def _unwritable(path: Path, error: OSError) -> JournalError:
    if isinstance(error, FileNotFoundError):
        return JournalError(f"{path}: its folder does not exist: make it (mkdir -p {path.parent})")
    if isinstance(error, NotADirectoryError):
        return JournalError(f"{path}: {path.parent} is not a folder: set journal.path to a file in a folder")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JournalError(f"{path}: the disk is full: free some space, or set journal.path to another disk")
    return JournalError(
        f"{path}: its folder cannot be written ({error.strerror}): "
        f"give the daemon's user write permission to {path.parent}, or set journal.path to another folder"
    )
