"""Events over ZeroMQ: XPUB, one message of two parts [topic, JSON of the Event] an event.

What a slow subscriber does to the others (measured with libzmq 4.3.5): under XPUB_NODROP one full pipe makes libzmq
refuse the message for all subscribers; without it the message is dropped for the full pipe alone, in silence, and
every later one too until that subscriber has read half its pipe. So this sink sends with NODROP, waits at most
`patience_ms` for room, then sends that one event without NODROP: only the full pipes miss it. From then on until no
connection has a backlog (see _backlog.py) each event counts as refused: it may not have reached everybody. The count
is an upper bound; who missed what, a subscriber sees in the sequences and in the heartbeat's high-water marks.

A peer that takes nothing for ten seconds is cut off, be it dead or not reading: it finds a hole when it comes back,
and until then it costs nothing. So is one that subscribes to more than _subscriptions.py allows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import msgspec
import zmq
from msgspec import Meta

from inspector.ending import end
from inspector.errors import ConfigError, SinkError
from inspector.events import Event
from inspector.sinks._backlog import Backlog
from inspector.sinks._lastvalues import LastValues, Message
from inspector.sinks._subscriptions import LONGEST_SUBSCRIPTION, Subscriptions
from inspector.wire.address import bindable, refusal, require_free, require_unowned
from inspector.wire.door import Door
from inspector.wire.keys import Keyring
from inspector.wire.local import Local

WHERE = "zeromq: address"
"""How messages about an address begin."""
ROLE = "events"
"""What a client must be allowed to do."""

READ_S = 0.05
"""How long subscriptions are read in one go at most ..."""
GLANCE_S = 0.002
"""... and before each event."""


BEGIN, END = int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.NOBLOCK)
"""The flags of a message's two parts."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    address: str | list[str] = "tcp://127.0.0.1:5570"
    """Where subscribers connect: tcp://127.0.0.1:PORT (`*`: any free port) or ipc:///PATH; one or several. An address
    that other machines can reach (tcp://*:PORT) needs `keys`."""
    keys: Path | None = None
    """Folder that `inspector keys` made: only clients with a key in it that may hear `events` are let in."""
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
        self._last = LastValues()
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
        return len(self._door.files()) if self._socket else 0

    @property
    def turned_away(self) -> dict[str, int]:
        """Reason -> connections that were not let in or were cut, since the sink was entered."""
        return dict(self._door.refusals.counts) if self._socket else {}

    def __enter__(self) -> Self:
        keyring = _keyring(self._options)
        self._context = zmq.Context()
        self._socket = _publisher(self._context, self._options)
        self._subscriptions = Subscriptions()
        self._door = Door(
            self._context, self._socket, self._name, ROLE, keyring, LONGEST_SUBSCRIPTION, self._subscriptions.gone
        )
        self._backlog = Backlog(self._door.files)
        self._files = ExitStack()
        try:
            bind = partial(_bind, self._socket, keyring is not None, self._files)
            self.endpoints = [bind(address) for address in self._addresses]
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

    def tend(self) -> None:
        """Let subscribers in, cut off those who may not be or who say too much, send last values to new ones.

        Raises:
            SinkError: the socket is broken or not entered.
        """
        if self._socket is None:
            raise SinkError(f"{self._name}: this sink is not open; use it inside `with`")
        try:
            for file in self._backlog.stalled():
                self._door.cut_file(file, "takes nothing")
            self._attend(self._socket)
            self._last.send(partial(_offer, self._socket))
        except zmq.ZMQError as error:
            raise SinkError(f"{self._name}: cannot be served: {error}") from None

    def _attend(self, publisher: zmq.Socket[bytes]) -> None:
        self._door.tend()
        self._read_subscriptions(publisher, READ_S)

    def _read_subscriptions(self, publisher: zmq.Socket[bytes], limit_s: float) -> None:
        """Take what XPUB reports of new and gone subscriptions: unread they would pile up without a bound."""
        with suppress(zmq.Again), self._door.working():
            if not publisher.poll(0):  # getsockopt would be faster, but holds Python's lock while libzmq reads all
                return
            until = time.monotonic() + limit_s
            while self._door.alive() < until:
                self._hear(publisher.recv(zmq.NOBLOCK, copy=False))

    def _hear(self, frame: zmq.Frame) -> None:
        peer = self._door.came(frame)
        if peer is None:
            return
        message = frame.bytes
        misuse = self._subscriptions.book(peer, message)
        if misuse:
            self._door.cut(peer, misuse)
        elif message[:1] == b"\1":
            self._last.want(message[1:])

    def _publish(self, publisher: zmq.Socket[bytes], events: Sequence[Event]) -> int:
        self._read_subscriptions(publisher, GLANCE_S)
        behind = self._backlog.behind()
        patience_s = self._options.patience_ms / 1000
        refused = 0
        for event in events:
            self._door.alive()
            message = (event.subject.encode(), event.body)
            self._last.keep(event, message)
            if not _offer(publisher, message) and not self._wait(publisher, message, patience_s):
                _send_lossy(publisher, message)
                self._backlog.missed()
                behind = True
            refused += behind
        return refused

    def _wait(self, publisher: zmq.Socket[bytes], message: Message, patience_s: float) -> bool:
        """Offer again until it is taken or patience ends. A burst outruns libzmq's own thread by a few milliseconds.

        Either way libzmq has read half a full pipe, or skips it, before anybody is waited for again.
        """
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            publisher.poll(1, zmq.POLLIN)  # XPUB always claims to be writable; so libzmq handles what peers have read
            self._attend(publisher)
            if _offer(publisher, message):
                return True
        return False

    def _close(self) -> None:
        publisher, self._socket, self.endpoints = self._socket, None, []
        if publisher is not None:
            self._door.close(self._options.linger_ms)
            self._files.close()
            end(self._context, self._name, self._options.linger_ms / 1000)


def _offer(publisher: zmq.Socket[bytes], message: Message) -> bool:
    """Send unless a pipe that wants the message is full: once it has begun, the rest of a message is never refused."""
    topic, body = message
    try:
        publisher.send(topic, BEGIN)  # both together take half as long as one `send_multipart`
        publisher.send(body, END)
    except zmq.Again:
        return False
    return True


def _send_lossy(publisher: zmq.Socket[bytes], message: Message) -> None:
    """Send to every pipe that has room."""
    publisher.setsockopt(zmq.XPUB_NODROP, 0)
    try:
        publisher.send_multipart(message, zmq.NOBLOCK)
    finally:
        publisher.setsockopt(zmq.XPUB_NODROP, 1)


def _publisher(context: zmq.Context[zmq.Socket[bytes]], options: Options) -> zmq.Socket[bytes]:
    publisher = context.socket(zmq.XPUB)
    publisher.setsockopt(zmq.XPUB_NODROP, 1)
    publisher.setsockopt(zmq.XPUB_VERBOSER, 1)  # every subscription of every connection, not only the first of its kind
    publisher.setsockopt(zmq.SNDHWM, options.high_water_mark)
    return publisher


def _keyring(options: Options) -> Keyring | None:
    try:
        return Keyring(options.keys) if options.keys is not None else None
    except ConfigError as error:
        raise SinkError(f"zeromq: keys: {error}") from None


def _bind(publisher: zmq.Socket[bytes], secured: bool, files: ExitStack, address: str) -> str:
    """Bind and return the real address; the file of a unix socket goes when `files` are closed."""
    wanted = bindable(address, secured, WHERE)
    try:
        require_unowned(wanted, WHERE)
        if wanted.startswith("ipc://"):
            files.callback(Local(publisher, Path(wanted.removeprefix("ipc://"))).close)
            return wanted
        publisher.setsockopt(zmq.IPV6, int("[" in wanted))
        publisher.bind(wanted)
    except ConfigError as error:
        raise SinkError(str(error)) from None
    except (OSError, zmq.ZMQError) as error:
        raise SinkError(refusal(address, error.errno, WHERE)) from None
    return publisher.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def open(options: Options) -> Zeromq:
    """The opener of the kind `zeromq`; nothing is bound before enter."""
    return Zeromq(options)


def check(options: Options) -> None:
    """Is each address allowed, and free? Binds and lets go at once. Are the keys whole?

    Raises:
        ConfigError: an address is malformed, open to the network without keys, or taken, or its folder is missing; a
            file of keys is broken or missing, or readable by others than it should be.
    """
    addresses = _addresses(options)
    if not addresses:
        raise ConfigError("zeromq: `address` is an empty list; name at least one, e.g. tcp://127.0.0.1:5570")
    if options.keys is not None:
        Keyring(options.keys)
    for address in addresses:
        require_free(bindable(address, options.keys is not None, WHERE), WHERE)


def _addresses(options: Options) -> list[str]:
    return [options.address] if isinstance(options.address, str) else options.address
