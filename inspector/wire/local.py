"""An ipc socket that only root, the daemon's own user and the members of one group can reach.

Two doors, each shut from the first moment on. The socket file is 0660: its mode is set on the socket before it is
bound, as Linux makes the file with the mode of the socket's own inode (unix_bind_bsd in net/unix/af_unix.c); a umask
would do so too, but for every file that any thread of the daemon makes meanwhile. And libzmq asks the kernel at each
accept who the peer is (SO_PEERCRED), which no later look at the connection can do without a race.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import closing
from pathlib import Path

import zmq

MODE = 0o660
"""Of the socket file: its user and its group may connect."""
BACKLOG = 64
"""Connections that wait to be accepted at most."""
IPC_FILTER_UID = 59
"""zmq.h: users that are let in."""
IPC_FILTER_GID = 60
"""zmq.h: groups that are let in, by the peer's own group or by membership in the group database."""


class Local:
    """A bound socket file; it is gone after `close`."""

    def __init__(self, router: zmq.Socket[bytes], path: Path) -> None:
        """Bind `router` to `path`, where nobody answers (see `address.require_unowned`); a dead file is replaced.

        Raises:
            OSError: the file cannot be made; zmq.ZMQError: libzmq refuses.
        """
        self._path = path
        with closing(_listening(path)) as listening:
            self._made = _identity(path)
            try:
                _admit(router, path)
                file = os.dup(listening.fileno())
                router.setsockopt(zmq.USE_FD, file)  # libzmq closes it with the socket
                router.bind(f"ipc://{path}")
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Delete the file, unless another process has put its own there since."""
        try:
            if _identity(self._path) == self._made:
                self._path.unlink()
        except OSError:
            pass  # gone already


def uid_of(file: int) -> int | None:
    """User at the other end of an ipc connection, by its file descriptor; None when it has gone or is no such.

    For the log only: should the connection have ended meanwhile, its number may belong to another one.
    """
    try:
        with closing(socket.socket(fileno=os.dup(file))) as peer:
            if peer.family != socket.AF_UNIX:
                return None
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    return int(struct.unpack("3i", credentials)[1])


def _listening(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), MODE)
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        os.chmod(path, MODE)  # a strict umask has taken the group's right away
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _admit(router: zmq.Socket[bytes], path: Path) -> None:
    for user in {0, os.geteuid()}:
        router.setsockopt(IPC_FILTER_UID, user)
    router.setsockopt(IPC_FILTER_GID, path.stat().st_gid)


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    if not stat.S_ISSOCK(found.st_mode):
        raise FileNotFoundError(path)
    return found.st_dev, found.st_ino
