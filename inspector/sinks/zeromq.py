"""Events over ZeroMQ: XPUB, one message of two parts [topic, JSON of the Event] an event.

What a slow subscriber does to the others (measured with libzmq 4.3.5): under XPUB_NODROP one full pipe makes libzmq
refuse the message for all subscribers; without it the message is dropped for the full pipe alone, in silence, and
every later one too until that subscriber has read half its pipe. So this sink sends with NODROP, waits at most
`patience_ms` for room, then sends that one event without NODROP: only the full pipes miss it. From then on until no
connection has a backlog (see _backlog.py) each event counts as refused: it may not have reached everybody. The count
is an upper bound; who missed what, a subscriber sees in the sequences and in the heartbeat's high-water marks.

A peer that answers no ZMTP ping for ten seconds is cut off, be it dead or not reading: it finds a hole when it
comes back, and until then it costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, Self

import msgspec
import zmq
from msgspec import Meta

from inspector.errors import ConfigError, SinkError
from inspector.events import Event, as_json
from inspector.sinks._address import bindable, refusal, require_free, require_unowned
from inspector.sinks._backlog import Backlog

PING_MS = 1000
"""ZMTP heartbeats, which are off by default: a ping this often ..."""
DEAD_MS = 10_000
"""... and a peer that stays silent this long is cut off."""
LONGEST_SUBSCRIPTION = 4096
"""Bytes. All that a subscriber may send; a longer message is a stranger's, and it is cut off."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    address: str | list[str] = "tcp://127.0.0.1:5570"
    """Where subscribers connect: tcp://127.0.0.1:PORT (`*`: any free port) or ipc:///PATH; one or several."""
    high_water_mark: Annotated[int, Meta(ge=1)] = 4000
    """Events that wait for each subscriber at most, besides what its connection holds."""
    patience_ms: Annotated[int, Meta(ge=0, le=1000)] = 300
    """A subscriber whose pipe is full is waited for so long before it misses events, milliseconds."""
    linger_ms: Annotated[int, Meta(ge=0, le=60_000)] = 500
    """The longest that closing waits for subscribers to take the last events, milliseconds."""


class Zeromq:
    """A `Sink` that publishes. Subscribers come and go without its knowledge."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._addresses = _addresses(options)
        self._name = f"zeromq {', '.join(self._addresses)}"
        self._socket: zmq.Socket[bytes] | None = None
        self.endpoints: list[str] = []
        """The addresses that are bound, wildcards resolved; empty while the sink is not entered."""

    @property
    def endpoint(self) -> str:
        """The first bound address.

        Raises:
            SinkError: the sink is not entered.
        """
        if not self.endpoints:
            raise SinkError(f"{self._name}: not bound; use the sink inside `with`")
        return self.endpoints[0]

    @property
    def connections(self) -> int:
        """Connected peers; a subscriber may need a moment more before its subscription counts."""
        return self._backlog.connections() if self._socket else 0

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        self._socket = _publisher(self._context, self._options)
        self._backlog = Backlog(self._context, self._socket)
        try:
            self.endpoints = [_bind(self._socket, address) for address in self._addresses]
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def send(self, events: Sequence[Event]) -> int:
        """Publish the events in order; returns how many may not have reached every subscriber.

        Waits `patience_ms` at most for a pipe that is full, and then not again before half of it has been read.

        Raises:
            SinkError: the socket is broken or not entered.
        """
        if self._socket is None:
            raise SinkError(f"{self._name}: this sink is not open; use it inside `with`")
        try:
            return self._publish(self._socket, events)
        except zmq.ZMQError as error:
            raise SinkError(f"{self._name}: cannot send: {error}") from None

    def _publish(self, publisher: zmq.Socket[bytes], events: Sequence[Event]) -> int:
        _read_subscriptions(publisher)
        behind = self._backlog.behind()
        patience_s = self._options.patience_ms / 1000
        refused = 0
        for event in events:
            message = (event.subject.encode(), as_json(event))
            if not _offer(publisher, message) and not _wait(publisher, message, patience_s):
                _send_lossy(publisher, message)
                self._backlog.missed()
                behind = True
            refused += behind
        return refused

    def _close(self) -> None:
        publisher, self._socket, self.endpoints = self._socket, None, []
        if publisher is not None:
            self._backlog.close()
            publisher.close(linger=self._options.linger_ms)
            self._context.term()


Message = tuple[bytes, bytes]


def _offer(publisher: zmq.Socket[bytes], message: Message) -> bool:
    """Send unless a pipe that wants the message is full."""
    try:
        publisher.send_multipart(message, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


def _wait(publisher: zmq.Socket[bytes], message: Message, patience_s: float) -> bool:
    """Offer again until it is taken or patience ends. A burst outruns libzmq's own thread by a few milliseconds.

    Either way libzmq has read half a full pipe, or skips it, before anybody is waited for again.
    """
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        publisher.poll(1, zmq.POLLIN)  # XPUB always claims to be writable; this lets libzmq handle what peers have read
        _read_subscriptions(publisher)
        if _offer(publisher, message):
            return True
    return False


def _send_lossy(publisher: zmq.Socket[bytes], message: Message) -> None:
    """Send to every pipe that has room."""
    publisher.setsockopt(zmq.XPUB_NODROP, 0)
    try:
        publisher.send_multipart(message, zmq.NOBLOCK)
    finally:
        publisher.setsockopt(zmq.XPUB_NODROP, 1)


def _read_subscriptions(publisher: zmq.Socket[bytes]) -> None:
    """Take what XPUB reports of new and gone subscriptions: unread they would pile up without a bound."""
    while publisher.poll(0, zmq.POLLIN):
        publisher.recv(zmq.NOBLOCK)


def _publisher(context: zmq.Context[zmq.Socket[bytes]], options: Options) -> zmq.Socket[bytes]:
    publisher = context.socket(zmq.XPUB)
    publisher.setsockopt(zmq.XPUB_NODROP, 1)
    publisher.setsockopt(zmq.SNDHWM, options.high_water_mark)
    publisher.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
    publisher.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_MS)
    publisher.setsockopt(zmq.MAXMSGSIZE, LONGEST_SUBSCRIPTION)
    publisher.setsockopt(zmq.IPV6, 1)
    return publisher


def _bind(publisher: zmq.Socket[bytes], address: str) -> str:
    """Bind and return the real address."""
    wanted = bindable(address)
    try:
        require_unowned(wanted)
        publisher.setsockopt(zmq.IPV6, int("[" in wanted))
        publisher.bind(wanted)
    except ConfigError as error:
        raise SinkError(str(error)) from None
    except zmq.ZMQError as error:
        raise SinkError(refusal(address, error.errno)) from None
    return publisher.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def open(options: Options) -> Zeromq:
    """The opener of the kind `zeromq`; nothing is bound before enter."""
    return Zeromq(options)


def check(options: Options) -> None:
    """Is each address allowed, and free? Binds and lets go at once.

    Raises:
        ConfigError: an address is malformed, open to the network or taken, or its folder is missing.
    """
    addresses = _addresses(options)
    if not addresses:
        raise ConfigError("zeromq: `address` is an empty list; name at least one, e.g. tcp://127.0.0.1:5570")
    for address in addresses:
        require_free(bindable(address))


def _addresses(options: Options) -> list[str]:
    return [options.address] if isinstance(options.address, str) else options.address
