"""One who sends faster than libzmq's sockets can read keeps their thread inside libzmq, and fills the memory.

XPUB reads what a connection sends until nothing is left, in one call, so its thread cannot look up to cut anybody.
(A receive high-water mark would end that, and cannot be used: see door.py.) Hence one watchman for all doors, in a
thread of its own: when a socket's thread does not come back it looks which connection brings so much, and cuts it.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import stat
import struct
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LOOK_S = 0.01
"""How often the watchman looks whether all threads come back."""
STUCK_S = 0.03
"""A thread that is in libzmq for so long is being flooded ..."""
FLOOD_BYTES = 100_000
"""... by those of its connections that have brought so much between two looks (10 MB/s)."""
UNREAD_BYTES = 1000
"""Unread on a unix socket, while its thread is stuck: it is one of the flooders."""
STUCK_LONGER_S = 0.15
"""Then nobody new may connect until it is back: many short connections flood too."""

SHUT = ".shut"
"""What the file of a unix socket is called meanwhile."""
SO_ATTACH_FILTER = 26
SO_DETACH_FILTER = 27
_PROGRAM = array.array("Q", struct.pack("=HBBI", 0x06, 0, 0, 0))
"""The classic BPF instruction `ret #0`."""

TCP_INFO_BYTES_RECEIVED = 128
"""Where `tcpi_bytes_received` lies in Linux's struct tcp_info, since 4.1."""


class Watched:
    """One socket's side of it: its thread says when it goes into libzmq and when it has come back."""

    def __init__(self) -> None:
        self.inside_since: float | None = None
        """Monotonic seconds; None: the thread is not in libzmq."""
        self.endpoints: list[str] = []
        """Where the socket is bound."""
        self.cut: list[int] = []
        """Inodes of connections that the watchman has cut; the socket's thread takes them from here."""
        with _lock:
            _watched.add(self)

    def close(self) -> None:
        with _lock:
            _watched.discard(self)

    def stuck_s(self) -> float:
        since = self.inside_since  # the other thread may end this at any time
        return 0.0 if since is None else time.monotonic() - since


_lock = threading.Lock()
_watched: set[Watched] = set()


def watch(stop: threading.Event) -> None:
    """The watchman of all sockets of this process, until `stop` is set."""
    seen: dict[Watched, dict[int, int]] = {}
    while not stop.wait(LOOK_S):
        with _lock:
            stuck = [watched for watched in _watched if watched.stuck_s() > STUCK_S]
        for watched in set(seen) - set(stuck):
            _open(watched)
        seen = {watched: _cut_flooders(watched, seen.get(watched)) for watched in stuck}
    for watched in seen:
        _open(watched)


def _cut_flooders(watched: Watched, before: dict[int, int] | None) -> dict[int, int]:
    """Cut who brought too much since the look before; returns inode -> bytes received until now.

    A client that may not connect now tries again after a second, by itself.
    """
    now: dict[int, int] = {}
    for connection in _sockets(watched.endpoints):
        with suppress(OSError, TypeError):  # it may end at any time; an abstract unix socket has no file
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                if watched.stuck_s() > STUCK_LONGER_S:
                    _close(connection)
                continue
            inode, is_unix = os.fstat(connection.fileno()).st_ino, connection.family == socket.AF_UNIX
            now[inode] = 0 if is_unix else _received(connection)
            flooded = before is not None and now[inode] - before.get(inode, 0) > FLOOD_BYTES
            # Of unix sockets the kernel counts only what is still unread; honest ones have nothing there.
            if flooded or (is_unix and _unread(connection) > UNREAD_BYTES):
                watched.cut.append(inode)
                connection.shutdown(socket.SHUT_RDWR)
    return now


def _close(listening: socket.socket) -> None:
    """Nobody can connect: TCP's first packets are dropped, a unix socket is not found."""
    if listening.family == socket.AF_UNIX:
        os.rename(listening.getsockname(), listening.getsockname() + SHUT)
    else:
        listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _nothing())


def _open(watched: Watched) -> None:
    """The thread has come back: let new ones connect again."""
    for connection in _sockets(watched.endpoints):
        with suppress(OSError, TypeError):  # it is open, or an abstract unix socket
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            elif not os.path.exists(connection.getsockname()):
                os.rename(connection.getsockname() + SHUT, connection.getsockname())


def _sockets(endpoints: list[str]) -> Iterator[socket.socket]:
    """This process's sockets at these addresses: not all are known to the socket's thread yet."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), _copied(int(name)) as connection:
            if connection is not None and _local(connection) in endpoints:
                yield connection


def _nothing() -> bytes:
    """A struct sock_fprog of one instruction, `return 0`: no packet passes."""
    return struct.pack("@HP", 1, _PROGRAM.buffer_info()[0])


@contextmanager
def _copied(file: int) -> Iterator[socket.socket | None]:
    if not stat.S_ISSOCK(os.fstat(file).st_mode):
        yield None
        return
    with socket.socket(fileno=os.dup(file)) as connection:
        yield connection


def _local(connection: socket.socket) -> str:
    """The address of our end, as an endpoint is written; a wildcard was resolved by the connection."""
    name = connection.getsockname()
    if connection.family == socket.AF_UNIX:
        return f"ipc://{name if isinstance(name, str) else '@' + bytes(name[1:]).decode(errors='replace')}"
    return f"tcp:{name[1]}"


def _received(connection: socket.socket) -> int:
    size = TCP_INFO_BYTES_RECEIVED + 8
    found: tuple[int] = struct.unpack_from(
        "=Q", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size), size - 8
    )
    return found[0]


def _unread(connection: socket.socket) -> int:
    size = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.FIONREAD, size)
    return size[0]


def place(endpoint: str) -> str:
    """An endpoint as `_local` gives it: of TCP only the port counts."""
    return f"tcp:{endpoint.rpartition(':')[2]}" if endpoint.startswith("tcp://") else endpoint
