"""The door of one bound socket: who comes in, and who is thrown out. Every server of ours has one.

context = zmq.Context()                                  one a server: ZAP is asked within a context
door = Door(context, socket, "history", "events", keyring, longest=65_536)
socket.bind(...)
poll the socket and door.sockets; at least every 0.1 s: door.tend()
frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
if (peer := door.came(frames[0])) is not None: ...
door.close(linger_ms); end(context, name, linger_s)       it closes the socket too
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq

from inspector.wire.guard import Guard, Peer
from inspector.wire.keys import Keyring
from inspector.wire.refusals import Refusals
from inspector.wire.zap import Zap, secure

DEAD_S = 10
"""A host that acknowledges nothing for so long, or takes nothing of what waits for it, is cut off."""
HANDSHAKE_MS = 5000
"""A connection that has not shown who it is by then is cut off."""
RECEIVE_BYTES = 8192
"""The kernel holds so much of what a client sends; they send little."""
HANDSHAKE_BYTES = 1024
"""What a client sends to show its key fits into this."""
WRAPPING = 64
"""Bytes that ZMTP 3.1 and CURVE put around a message."""


class Door:
    """Used in the socket's own thread, from before it is bound until it closes it.

    Args:
        context: the socket's; no other server may use it if there are keys.
        server: not bound yet.
        name: of the socket, in the log.
        role: what a client must be allowed to do, one of `inspector.wire.keys.ROLES`.
        keyring: who is known; None: everybody who can reach the address comes in.
        longest: bytes in a frame; who sends a longer one is cut off before it is read.
        on_gone: told of each connection that has ended.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        server: zmq.Socket[bytes],
        name: str,
        role: str,
        keyring: Keyring | None,
        longest: int,
        on_gone: Callable[[Peer], None] = lambda peer: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._role = role
        self._keyring = keyring
        self.refusals = Refusals(name, clock)
        """Who was turned away."""
        _harden(server, longest)
        self._zap: Zap | None = None
        if keyring is not None:
            secure(server, keyring, role)
            self._zap = Zap(context, keyring, {role: role}, self.refusals, clock)
        self._guard = Guard(context, server, self.refusals, on_gone, self._shut_out, clock)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Readable when there is something to `tend`."""
        return [self._guard.socket] + ([self._zap.socket] if self._zap else [])

    @property
    def peers(self) -> list[Peer]:
        """The connections, as far as they were seen."""
        return list(self._guard.peers.values())

    def files(self) -> list[int]:
        """The file numbers of all connections there are now."""
        self._guard.look()
        return list(self._guard.peers)

    def tend(self) -> None:
        """Let those in who may, and throw those out who may no more. Cheap when there is nothing to do."""
        self._guard.look()
        if self._zap is not None and self._keyring is not None:
            changed = self._keyring.changed()
            for peer in self.peers if changed else []:
                if peer.user in changed:
                    self._guard.cut(peer, "its key was removed or changed")
            self._zap.answer()

    @contextmanager
    def working(self) -> Iterator[None]:
        """The socket's thread goes into libzmq, and may be kept there; see `inspector.wire.flood`."""
        self.alive()
        try:
            yield
        finally:
            self._guard.watched.inside_since = None

    def alive(self) -> float:
        """It has come back in between; returns when, monotonic seconds."""
        self._guard.watched.inside_since = now = time.monotonic()
        return now

    def came(self, frame: zmq.Frame) -> Peer | None:
        """Whose message this is; None: from one who has gone, was cut or may not, so it does not count."""
        peer = self._guard.came(frame)
        if peer is not None and self._keyring is not None and not self._keyring.allows(peer.user, self._role):
            self._guard.cut(peer, f"may not {self._role}")
            return None
        return peer

    def cut(self, peer: Peer, reason: str) -> None:
        """Throw out one who misuses the socket. With keys it is kept out for a while; without, it may come again."""
        self._guard.cut(peer, reason)
        self._shut_out(peer)

    def cut_file(self, file: int, reason: str) -> None:
        """Throw out who is behind a file number; it may come again at once."""
        peer = self._guard.peers.get(file)
        if peer is not None:
            self._guard.cut(peer, reason)

    def _shut_out(self, peer: Peer) -> None:
        if self._zap is not None and peer.user:
            self._zap.shut_out(peer.user)

    def close(self, linger_ms: int) -> None:
        """Close the server's socket, which may go on sending for so long, and all that watched it.

        The monitor goes before the socket: of a connection that ends while that closes, libzmq would wait for ever to
        tell nobody, and the context would never end. ZAP goes after it: while it is open it must find somebody to ask.
        """
        self._guard.close()
        self._server.close(linger=linger_ms)
        if self._zap is not None:
            self._zap.close()


def _harden(server: zmq.Socket[bytes], longest: int) -> None:
    """What every server has, keys or not.

    Two options are left alone because libzmq 4.3.5 aborts the whole process with them (`Assertion failed: !_io_error`,
    https://github.com/zeromq/libzmq/issues/4841): a receive high-water mark, if a peer fills it, sends a ping and
    breaks the connection off; and heartbeats of the server's own, if it only breaks off. So there is no mark, and
    the kernel looks for dead hosts; pings of clients are answered all the same.
    """
    server.setsockopt(zmq.RCVHWM, 0)
    server.setsockopt(zmq.RCVBUF, RECEIVE_BYTES)
    server.setsockopt(zmq.MAXMSGSIZE, max(longest, HANDSHAKE_BYTES) + WRAPPING)
    server.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    server.setsockopt(zmq.TCP_MAXRT, DEAD_S * 1000)
    server.setsockopt(zmq.TCP_KEEPALIVE, 1)
    server.setsockopt(zmq.TCP_KEEPALIVE_IDLE, DEAD_S)
    server.setsockopt(zmq.TCP_KEEPALIVE_INTVL, max(1, DEAD_S // 3))
