"""Peers that are no clients of ours: raw TCP that speaks ZMTP 3.1 as far as it likes, and a sink at work to try it on.

The grammar is https://rfc.zeromq.org/spec/37/.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import zmq
import zmq.auth

from inspector.channel import Channel
from inspector.events import Along, Event, Gap, Reason
from inspector.publish import Deliver, Serve
from inspector.records import WhenFull
from inspector.sinks import zeromq
from inspector.wire.flood import watch
from inspector.worker import Worker

PATIENCE_S = 10.0
"""A test that waits this long for something has failed."""
TOPIC = "gap/v1/test/cam/"

# ---------------------------------------------------------------- ZMTP


def greeting(mechanism: bytes = b"NULL", minor: int = 1) -> bytes:
    return b"\xff" + bytes(8) + b"\x7f\x03" + bytes([minor]) + mechanism.ljust(20, b"\0") + bytes(32)


def frame(body: bytes, flags: int = 0, length: int | None = None) -> bytes:
    """A message or command; `length` may lie."""
    size = len(body) if length is None else length
    if size < 256:
        return bytes([flags, size]) + body
    return bytes([flags | 2]) + size.to_bytes(8, "big") + body


def command(name: bytes, body: bytes = b"") -> bytes:
    return frame(bytes([len(name)]) + name + body, flags=4)


def ready(kind: bytes = b"SUB") -> bytes:
    return command(b"READY", b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind)


def subscription(topic: bytes) -> bytes:
    return frame(b"\1" + topic)


class Stranger:
    """A raw connection, TCP or unix. It never minds being cut off."""

    def __init__(self, endpoint: str) -> None:
        if endpoint.startswith("ipc://"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE_S)
            self.socket.connect(endpoint.removeprefix("ipc://"))
            return
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def say(self, *words: bytes) -> bool:
        """False: the other end had hung up."""
        try:
            for word in words:
                self.socket.sendall(word)
        except OSError:
            return False
        return True

    def join(self, kind: bytes = b"SUB") -> bool:
        """Shake hands without a key: libzmq takes nothing more before it has said that it is ready itself."""
        heard = b""
        if not self.say(greeting(), ready(kind)):
            return False
        with suppress(ConnectionError):
            while b"READY" not in heard:
                piece = self.socket.recv(4096)
                if not piece:
                    return False
                heard += piece
            return True
        return False

    def hear(self) -> bytes:
        """Everything until the other end hangs up, which it must."""
        heard = b""
        with suppress(ConnectionError):
            while piece := self.socket.recv(65_536):
                heard += piece
        return heard


# ---------------------------------------------------------------- a sink at work


def event(number: int, topic: str = TOPIC) -> Event:
    return Event(
        id=f"1/{topic}{number}",
        source="/test",
        type="inspector.gap.v1",
        time="2026-01-01T00:00:00Z",
        subject=topic,
        dataschema="",
        epoch=1,
        sequence=number,
        data=Gap(
            camera="cam",
            frame_sequence=number,
            frames=1,
            reason=Reason.OVERLOAD,
            detail="x" * 300,
            source=None,
            coil="c",
            along_mm=Along(start=0.0, end=1.0),
        ),
    )


class Publisher:
    """A sink in a thread of its own, as the line runs it."""

    def __init__(self, keys: Path | None = None, address: str = "tcp://127.0.0.1:*") -> None:
        self.sink = zeromq.open(zeromq.Options(address=address, keys=keys, linger_ms=0))
        self.is_open = keys is None
        self.refused = 0
        self._outbox = Channel[Event](10_000, WhenFull.WAIT)
        self._worker = Worker("sink-test", Deliver("test", self.sink, True, self._count), self._outbox)
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._watchman = Worker("watchman", Serve("watchman", watch, self._stop))

    def __enter__(self) -> Self:
        self._watchman.start()
        self._worker.start()
        self._until_bound()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbox.close()
        self._stop.set()
        assert self._watchman.join(PATIENCE_S)
        assert self._worker.join(PATIENCE_S), "the sink hangs"
        assert self._worker.failure is None

    def publish(self, count: int = 1, topic: str = TOPIC) -> list[int]:
        """Events from now on; their numbers."""
        numbers = [next(self._numbers) for _ in range(count)]
        for number in numbers:
            self._outbox.put(event(number, topic), PATIENCE_S)
        return numbers

    def _count(self, sent: int, refused: int, reason: str) -> None:
        self.refused += refused

    def _until_bound(self) -> None:
        with zmq.Context() as context, context.socket(zmq.PAIR) as quiet:
            while not self.sink.endpoints and self._worker.failure is None:
                quiet.poll(5)
        if self._worker.failure is not None:
            raise self._worker.failure


class Subscriber:
    """An honest one, that has been heard and from then on misses nothing."""

    def __init__(
        self, endpoint: str, keys: tuple[Path, Path] | None = None, topics: tuple[str, ...] = (TOPIC,)
    ) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.SUB)
        self.socket.linger = 0
        self.socket.rcvhwm = 0
        if keys is not None:
            show_keys(self.socket, *keys)
        self.socket.connect(endpoint)
        self._hello = f"hello/{id(self)}/"
        for topic in (*topics, self._hello):
            self.socket.subscribe(topic)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        self._context.term()

    def greet(self, publisher: Publisher) -> None:
        """Until it has heard something, and then all that is under way."""
        for _ in range(int(PATIENCE_S * 100)):
            last = publisher.publish(topic=self._hello)[-1]
            if self.socket.poll(10):
                break
        while self.take() != last:
            pass

    def take(self) -> int:
        """The number of the next event, which must come."""
        assert self.socket.poll(PATIENCE_S * 1000), "the subscriber heard nothing"
        return msgspec.json.decode(self.socket.recv_multipart()[1], type=Event).sequence

    def all(self, numbers: list[int]) -> bool:
        """Does it get exactly these, now?"""
        return [self.take() for _ in numbers] == numbers


def show_keys(client: zmq.Socket[bytes], own: Path, server: Path) -> None:
    """Set a client's keys from certificate files, with pyzmq's own reader."""
    public, secret = zmq.auth.load_certificate(own)
    client.curve_publickey, client.curve_secretkey = public, secret
    client.curve_serverkey = zmq.auth.load_certificate(server)[0]


@contextmanager
def honest(publisher: Publisher, keys: tuple[Path, Path] | None = None) -> Iterator[Subscriber]:
    """A subscriber that has been heard."""
    with Subscriber(publisher.sink.endpoint, keys) as subscriber:
        subscriber.greet(publisher)
        yield subscriber


def proved(publisher: Publisher, *subscribers: Subscriber, count: int = 20) -> bool:
    """Do all of them get every event published now?"""
    numbers = publisher.publish(count)
    return all(subscriber.all(numbers) for subscriber in subscribers)
