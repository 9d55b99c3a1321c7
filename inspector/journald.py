"""The journal of systemd as a log handler: one entry an occurrence, with fields that `journalctl` can filter by.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/: a datagram of `NAME=value` lines; a value with line breaks is preceded by
its length; what is too long for a datagram goes in a sealed memory file.
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import socket
import struct
import traceback
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
LONGEST = 1_000_000
"""Bytes of a value at most; the rest is cut, and the entry says so."""
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def listens(environ: Mapping[str, str] = os.environ, file: int = 2) -> bool:
    """Whether what is written to `file` (standard error) goes to the journal: systemd says which stream it gave."""
    try:
        found = os.fstat(file)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}" and SOCKET.exists()


class Journald(logging.Handler):
    """Sends records to the journal; never waits for it. What it does not take is counted and told with the next."""

    def __init__(self, identifier: str, path: Path = SOCKET) -> None:
        super().__init__()
        self._identifier = identifier
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._untold = 0
        self.common: dict[str, str] = {}
        """Fields of every entry."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = encoded(self._fields(record))
            self._send(entry)
        except OSError:
            self._untold += 1
        except Exception:
            self.handleError(record)
        else:
            self._untold = 0

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        fields = {
            "MESSAGE": " ".join(record.getMessage().splitlines()),
            "PRIORITY": str(next(number for level, number in PRIORITIES if record.levelno >= level)),
            "SYSLOG_IDENTIFIER": self._identifier,
            "LOGGER": record.name,
            "THREAD_NAME": record.threadName or "",
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName,
        }
        if record.exc_info and record.exc_info[1] is not None:
            fields["INSPECTOR_TRACE"] = "".join(traceback.format_exception(record.exc_info[1]))
        if self._untold:
            fields["INSPECTOR_UNTOLD"] = str(self._untold)
        own: Mapping[str, str] = getattr(record, "journal", {})
        return {**fields, **self.common, **own}

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        file = os.memfd_create("inspector-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(file, entry)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, SEALS)
            rights = array.array("i", [file])
            self._socket.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], 0, self._path)
        finally:
            os.close(file)


def encoded(fields: Mapping[str, str]) -> bytes:
    """Fields as the journal reads them. A value that is longer than LONGEST is cut."""
    parts: list[bytes] = []
    for name, text in fields.items():
        value = text.encode(errors="replace")
        if len(value) > LONGEST:
            value = value[:LONGEST] + f"... ({len(value) - LONGEST} bytes were cut)".encode()
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)
