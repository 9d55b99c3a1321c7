"""The other side of the history and control sockets: clients, good ones and strangers."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from inspector.wire import certificates

PATIENCE_MS = 10_000
"""A test that waits this long for something has failed."""
GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)


class Bound(Protocol):
    @property
    def endpoint(self) -> str: ...


class Server(Bound, Protocol):
    def open(self) -> None: ...

    def serve(self, stop: threading.Event) -> None: ...

    def close(self) -> None: ...


@contextmanager
def served(server: Server) -> Iterator[Any]:
    """Open, with a thread that serves; at the end the thread must have ended by itself."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.serve(stop)
        except BaseException as error:
            failures.append(error)

    server.open()
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        thread.join(PATIENCE_MS / 1000)
        server.close()
        assert not thread.is_alive(), "the server does not end"
        assert not failures, failures


class Client:
    """A DEALER that asks; nothing it does waits longer than PATIENCE_MS."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, **options: int) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = self.socket.sndtimeo = PATIENCE_MS
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.endpoint = endpoint

    def connect(self) -> None:
        self.socket.connect(self.endpoint)

    def send(self, request: Any) -> None:
        self.socket.send(request if isinstance(request, bytes) else msgspec.json.encode(request))

    def receive(self) -> tuple[dict[str, Any], list[bytes]]:
        head, *parts = self.socket.recv_multipart()
        return msgspec.json.decode(head), parts

    def ask(self, request: Any) -> dict[str, Any]:
        self.send(request)
        return self.receive()[0]

    def fate(self) -> int:
        """Connect and wait for what becomes of the handshake: an event of libzmq's monitor."""
        ends = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
        ends |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        monitor = self.socket.get_monitor_socket(ends)
        monitor.rcvtimeo = PATIENCE_MS
        with monitor:
            self.connect()
            try:
                return int(recv_monitor_message(monitor)["event"])
            finally:
                self.socket.disable_monitor()


@contextmanager
def suitor(server: Bound, key: Path | None = None, server_key: Path | None = None, **options: int) -> Iterator[Client]:
    """A client that is not connected yet; with `key`, its own secret file, and the server's public one over CURVE."""
    with zmq.Context() as context:
        made = Client(context, server.endpoint, **options)
        with made.socket:
            if key is not None and server_key is not None:
                pair = certificates.read(key)
                assert pair.secret is not None
                made.socket.curve_secretkey, made.socket.curve_publickey = pair.secret.encode(), pair.public.encode()
                made.socket.curve_serverkey = certificates.read(server_key).public.encode()
            yield made


@contextmanager
def client(server: Bound, key: Path | None = None, server_key: Path | None = None, **options: int) -> Iterator[Client]:
    """As `suitor`, connected."""
    with suitor(server, key, server_key, **options) as made:
        made.connect()
        yield made


@contextmanager
def bare(server: Bound) -> Iterator[socket.socket]:
    """A connection that has said nothing."""
    kind, _, place = server.endpoint.partition("://")
    if kind == "ipc":
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(place)
    else:
        host, _, port = place.rpartition(":")
        peer = socket.create_connection((host, int(port)))
    with peer:
        peer.settimeout(PATIENCE_MS / 1000)
        yield peer


@contextmanager
def stranger(server: Bound, **properties: bytes) -> Iterator[socket.socket]:
    """A bare connection that has shaken hands as a DEALER without a key, and says of itself what it likes."""
    said = {"Socket-Type": b"DEALER", **{name.replace("_", "-"): value for name, value in properties.items()}}
    ready = b"\x05READY" + b"".join(_property(name.encode(), value) for name, value in said.items())
    with bare(server) as peer:
        peer.sendall(GREETING + bytes([4, len(ready)]) + ready)
        heard(peer, len(GREETING))
        heard(peer, heard(peer, 2)[1])  # its READY: libzmq takes no message before that is out
        yield peer


def part(body: bytes, more: bool = False) -> bytes:
    """One frame of ZMTP 3."""
    return struct.pack(">BQ", 2 | more, len(body)) + body


def heard(peer: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    got = b""
    while len(got) < count:
        piece = peer.recv(count - len(got))
        assert piece, "cut off"
        got += piece
    return got


def is_cut(peer: socket.socket) -> bool:
    """Read until the other side ends the connection."""
    with suppress(ConnectionError):
        while peer.recv(65_536):
            pass
    return True


def pour(peer: socket.socket, words: bytes, most: int) -> int:
    """Send the same again and again until the other side ends the connection; the bytes that were taken."""
    peer.setblocking(False)
    sent, rest = 0, words
    with suppress(ConnectionError):
        while sent < most:
            readable, writable, _ = select.select([peer], [peer], [], PATIENCE_MS / 1000)
            assert readable or writable, "neither heard nor cut"
            if readable and not peer.recv(65_536):
                break
            if writable:
                done = peer.send(rest)
                sent, rest = sent + done, rest[done:] or words
    return sent


def until(condition: Callable[[], bool], again: Callable[[], Any]) -> bool:
    """Do something until a condition holds; False if it never does."""
    for _ in range(2000):
        if condition():
            return True
        again()
    return False


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
