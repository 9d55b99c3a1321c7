"""Which connections a bound socket has, and how one is cut: what libzmq has no call for.

Its monitor tells the file number of each connection as it comes and goes, and every message tells the number of the
connection that it came on. `shutdown` on a copy of that number ends the connection as if the peer had gone; libzmq
then cleans up by itself. Numbers are used again at once, so the inode is compared before anything is cut.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import parse_monitor_message

from inspector.wire.flood import Watched, place
from inspector.wire.refusals import Refusals

STRANGERS = 256
"""Connections at a time that have not said anything yet. One more and the oldest of them is cut: an honest client
needs some milliseconds, a flood of half-open ones holds no more than this many files."""
CLIENTS = 512
"""Connections at a time that have said something. One more is cut, so that those who came first stay."""
MESSAGES_PER_S = 3000
"""That one connection may send; 1000 subscriptions, their end, and as many again."""
FLOODS = "floods the socket"

LOOK = 2000
"""Comings and goings booked in one go, some 50 ms at most."""

BROKEN = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
EVENTS = zmq.EVENT_LISTENING | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | BROKEN

_number = itertools.count()


@dataclass(eq=False, slots=True)
class Peer:
    """One connection.

    Attributes:
        file: its number in this process; libzmq owns it.
        inode: tells it from a later connection with the same number.
        address: for people: HOST:PORT, or the process behind a unix socket; empty before its first message.
        user: the client's name by its key; empty before its first message and without keys.
        messages: that it sent within the second that began at `since`.
        is_cut: nothing that comes from it counts any more.
    """

    file: int
    inode: int
    address: str = ""
    user: str = ""
    messages: int = 0
    since: float = 0.0
    is_cut: bool = False

    def __str__(self) -> str:
        return f"{self.user} at {self.address}" if self.user else self.address


class Guard:
    """Watches the connections of one socket that is not bound yet; used in the socket's own thread.

    Args:
        on_gone: told of each connection that has ended.
        on_misuse: told of each that was cut for sending too much.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        server: zmq.Socket[bytes],
        refusals: Refusals,
        on_gone: Callable[[Peer], None] = lambda peer: None,
        on_misuse: Callable[[Peer], None] = lambda peer: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refusals = refusals
        self._on_gone = on_gone
        self._on_misuse = on_misuse
        self._clock = clock
        self._server = server
        self._strangers: dict[int, Peer] = {}
        self.peers: dict[int, Peer] = {}
        """File number -> connection, as far as `look` has seen."""
        self.watched = Watched()
        """For the watchman of `inspector.wire.flood`."""
        address = f"inproc://guard-{next(_number)}"
        server.monitor(address, EVENTS)
        self.socket = context.socket(zmq.PAIR)
        """Readable when connections have come or gone."""
        self.socket.rcvhwm = 0  # a full monitor would stop libzmq's own thread
        self.socket.linger = 0
        self.socket.connect(address)

    def close(self) -> None:
        """Before the server's socket is closed."""
        self._server.disable_monitor()  # libzmq would wait for ever to tell nobody
        self.socket.close()
        self.watched.close()

    def look(self) -> None:
        """Book who came and went, and keep the number of strangers in bounds."""
        with suppress(zmq.Again):
            for _ in range(LOOK):
                self._book(self.socket.recv_multipart(zmq.NOBLOCK))
        if self.watched.cut:
            self._blame()
        self._refusals.tell()

    def came(self, frame: zmq.Frame) -> Peer | None:
        """Whose message this is; None when its connection has ended or was cut."""
        try:
            file = frame.get(zmq.SRCFD)
        except zmq.ZMQError:
            return None  # libzmq's own word, such as that the subscriptions of one who has gone end
        if file not in self.peers:
            self.look()
        peer = self.peers.get(file)
        if peer is None or peer.is_cut:
            return None
        if self._strangers.pop(file, None) is not None:
            self._welcome(peer, frame)
        elif peer.user and _user(frame) != peer.user:
            self.cut(peer, "took the place of one who was cut")  # of its left messages; it comes again by itself
        if not peer.is_cut and self._is_restless(peer):
            self.cut(peer, "sends too many messages")
            self._on_misuse(peer)
        return None if peer.is_cut else peer

    def cut(self, peer: Peer, reason: str) -> None:
        """End a connection; nothing from it counts any more."""
        self._strangers.pop(peer.file, None)
        if not peer.is_cut:
            peer.is_cut = True
            with held(peer) as connection:
                peer.address = peer.address or _address(connection)
                self._refusals.add(reason, str(peer))
                shut(connection)

    def _blame(self) -> None:
        """Book whom the watchman has cut."""
        inodes, self.watched.cut = self.watched.cut, []
        for inode in set(inodes):
            peer = next((peer for peer in self.peers.values() if peer.inode == inode), None)
            if peer is None:
                self._refusals.add(FLOODS, "one that has gone")
            else:
                self.cut(peer, FLOODS)
                self._on_misuse(peer)

    def _is_restless(self, peer: Peer) -> bool:
        """Does it send more messages than any honest client has reason to?"""
        now = self._clock()
        if now - peer.since >= 1.0:
            peer.since, peer.messages = now, 0
        peer.messages += 1
        return peer.messages > MESSAGES_PER_S

    def _welcome(self, peer: Peer, frame: zmq.Frame) -> None:
        with held(peer) as connection:
            peer.address = _address(connection)
        peer.user = _user(frame)
        if len(self.peers) - len(self._strangers) > CLIENTS:
            self.cut(peer, "too many clients")

    def _book(self, message: list[bytes]) -> None:
        event = parse_monitor_message(message)
        file = event["value"]
        if event["event"] == zmq.EVENT_ACCEPTED:
            self._leave(file)  # in case its end was not told
            self.peers[file] = self._strangers[file] = Peer(file, _inode(file))
            if len(self._strangers) > STRANGERS:
                self.cut(next(iter(self._strangers.values())), "too many strangers")
        elif event["event"] == zmq.EVENT_DISCONNECTED:
            self._leave(file)
        elif event["event"] == zmq.EVENT_LISTENING:
            self.watched.endpoints.append(place(event["endpoint"].decode()))
        else:
            self._refusals.add("not a client", "unknown")

    def _leave(self, file: int) -> None:
        self._strangers.pop(file, None)
        peer = self.peers.pop(file, None)
        if peer is not None:
            peer.is_cut = True
            self._on_gone(peer)


def _user(frame: zmq.Frame) -> str:
    """The client's name by its key, as ZAP gave it; empty without keys."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


@contextmanager
def held(peer: Peer) -> Iterator[socket.socket | None]:
    """The connection itself, if it is still the one behind its number."""
    try:
        copy = socket.socket(fileno=os.dup(peer.file))
    except OSError:
        yield None
        return
    with copy:
        yield copy if os.fstat(copy.fileno()).st_ino == peer.inode else None


def shut(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _inode(file: int) -> int:
    try:
        return os.fstat(file).st_ino
    except OSError:
        return -1  # gone already


def _address(connection: socket.socket | None) -> str:
    """Of the other end: HOST:PORT, or the process behind a unix socket."""
    with suppress(OSError):
        if connection is not None and connection.family == socket.AF_UNIX:
            size = struct.calcsize("3i")
            pid, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
            return f"process {pid} of user {user}"
        if connection is not None:
            host, port = connection.getpeername()[:2]
            return f"{host}:{port}"
    return "one that has gone"
