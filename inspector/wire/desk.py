"""A ROUTER at which clients ask: one JSON object in, one answer out, whatever they send (docs/protocol.md).

One thread serves all clients, one request at a time, in turn. What a client may cost is bounded:

    time    each request spends tokens of one bucket; while it is empty requests wait.
    memory  what comes is read at once, so that nothing piles up in libzmq, which knows no bound that it survives (see
            door.py) and keeps what those have sent who are gone. A client may have a few requests waiting, and is cut
            when it sends more, or a message without an end (unread.py). One that does not read its answers is
            sent ANSWERS of them and loses the rest: 2.5 MB for answers of 1 MB (measured).
    others  nothing here waits for a client longer than PATIENCE_S, and not twice for one that does not read.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import zmq

from inspector.ending import end
from inspector.logbook import LogKind, as_kind
from inspector.wire.address import bindable, refused, require_unowned
from inspector.wire.asking import Answer, NotUnderstood, Request, error_answer, id_of
from inspector.wire.bucket import Bucket, Seldom
from inspector.wire.door import Door
from inspector.wire.guard import Peer
from inspector.wire.keys import Keyring
from inspector.wire.local import Local, uid_of
from inspector.wire.turns import Turns
from inspector.wire.unread import Unread

LONGEST_REQUEST = 65_536
"""Bytes."""
ANSWERS = 2
"""Answers that wait for one client at most, besides what its connection holds."""
BUFFER = 65_536
"""Bytes of answers asked of the kernel for each connection; it gives twice that."""
WAITING = 500
"""Requests of one client that may wait ..."""
WAITING_BYTES = 200_000
"""... and the bytes in them: three of the longest."""
UNREAD = 140_000
"""Bytes that a client may have sent of what is no message yet: twice the longest. Pings of an idle one take hours."""
READS = 200
"""Requests that are read in one go."""
PATIENCE_S = 0.02
"""A client that reads is waited for so long when its answers come faster than libzmq takes them."""
MANY_PARTS = 8
"""A request of several parts is told so; one of more is a stranger's, and it is cut."""
DEAF = 1000
"""Clients that are known not to read, at most."""
LINGER_MS = 200
"""The longest that closing waits for clients to take their last answers."""
TURN_S = 0.05
"""How long a turn waits for a request at most."""
BUG_S = 60.0
"""A bug that a request meets is logged so often at most."""
OTHER = "other"
"""What was asked, in the books, when nobody knows."""

log = logging.getLogger(__name__)


class Books(Protocol):
    """Where a desk notes what happens; `metrics.DeskMetrics` is one."""

    def asked(self, ask: str, outcome: str) -> None:
        """A request was answered: `ok`, `refused`, or `failed` through no fault of its own."""

    def unsent(self) -> None:
        """An answer was made, and the client has gone or does not read."""

    def waited(self) -> None:
        """Requests wait because the bucket is empty."""

    def turned_away(self, count: int) -> None:
        """So many were not let in, or thrown out."""


class Desk:
    """The socket. `open` it, have one thread `serve`, `close` it.

    Args:
        name: of the section in the configuration, for messages.
        address: where to listen.
        keys: folder of the certificates; None: whoever reaches the address may ask.
        role: what a client with a key must be allowed to do.
        answer: makes the answer to a request, in the serving thread; may raise NotUnderstood. What else it raises is
            a bug, and is answered as one.
        bucket: the rate of requests.
        books: where is noted what happens.
        least: tokens that any request costs.
    """

    def __init__(
        self,
        name: str,
        address: str,
        keys: Path | None,
        role: str,
        answer: Callable[[Request], Answer],
        bucket: Bucket,
        books: Books,
        least: float = 1.0,
    ) -> None:
        self._name, self._address, self._keys, self._role = name, address, keys, role
        self._answer, self._bucket, self._books, self._least = answer, bucket, books, least
        self._held: ExitStack | None = None
        self._serving = self._waiting = False
        self._turned_away = 0
        self._look_at = 0.0
        self._deaf: set[bytes] = set()
        self._unread = Unread(UNREAD)
        self._turns = Turns[tuple[bytes, Request]](WAITING, WAITING_BYTES)
        self._bugs = Seldom(BUG_S)
        self.endpoint = address
        """Where clients ask, wildcards resolved once it is open."""

    # ---------------------------------------------------------------- opening and closing

    def open(self) -> None:
        """Bind; clients wait until `serve` runs.

        Raises:
            ConfigError: the address is malformed, taken or open to the network without keys, or a key cannot be read.
        """
        with ExitStack() as held:
            opened = _opened(self._name, self._address, self._keys, self._role, self._gone)
            self._router, self._door = held.enter_context(opened)
            self._poller = zmq.Poller()
            for watched in (self._router, *self._door.sockets):
                self._poller.register(watched, zmq.POLLIN)
            self.endpoint = self._router.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
            self._held = held.pop_all()

    def close(self) -> None:
        """Give the address back, if `serve` never ran. Safe to call twice; while `serve` runs, that does it."""
        held, self._held = (self._held, None) if not self._serving else (None, self._held)
        if held is not None:
            held.close()

    # ---------------------------------------------------------------- serving

    def serve(self, stop: threading.Event) -> None:
        """Answer until `stop` is set, then let go of the address. For one thread of its own, once after `open`."""
        self._serving = True
        try:
            while not stop.is_set():
                self.turn()
        finally:
            self._serving = False
            self.close()

    def turn(self) -> None:
        """Read what has come and serve one request, or wait TURN_S for one."""
        self._poller.poll(math.ceil(self._idle_s() * 1000))
        self._door.tend()
        for _ in range(READS):
            if not self._router.poll(0):
                self._unread.emptied()
                break
            self._read()
        self._cut_greedy()
        if self._turns and self._idle_s() == 0:
            self._serve_one(*self._turns.take())
        self._note_turned_away()

    def respond(self, request: Request) -> Answer:
        """The answer to one request, whatever it holds."""
        try:
            if request.parts > 1:
                raise NotUnderstood(f"a request is one part, this had {request.parts}")
            return self._answer(request)
        except NotUnderstood as error:
            self._books.asked(OTHER, "refused")
            return Answer(error_answer(str(error), error.id))
        except Exception as error:  # a bug must not end the socket of a line that runs
            self._books.asked(OTHER, "failed")
            if self._bugs.now():
                log.exception(
                    "%s: a request failed", self._name, extra=as_kind(LogKind.REQUEST_FAILED, part=self._name)
                )
            return Answer(error_answer(f"failed: {type(error).__name__}", id_of(request.body)))

    def _idle_s(self) -> float:
        """How long there is nothing to serve, TURN_S at most."""
        wait_s = self._bucket.wait_s() if self._turns else TURN_S
        is_waiting = bool(self._turns) and wait_s > 0
        if is_waiting and not self._waiting:
            self._books.waited()
        self._waiting = is_waiting
        return min(TURN_S, wait_s)

    def _read(self) -> None:
        name = self._router.recv(zmq.NOBLOCK)
        first, count = self._parts()
        peer = self._door.came(first)
        if peer is None:
            return
        body = first.bytes
        self._unread.read(peer, len(body))
        if count > MANY_PARTS:
            self._cut(peer, "sends many parts")
        elif not self._turns.add(peer, (name, Request(body, self._sender(peer), count)), len(body)):
            self._cut(peer, "asks more than is answered")

    def _serve_one(self, name: bytes, request: Request) -> None:
        answer = self.respond(request)
        self._bucket.take(max(self._least, answer.cost))
        self._send([name, answer.head, *answer.parts])

    def _cut_greedy(self) -> None:
        """Each connection is looked at TURN_S after the last time: there may be hundreds."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + TURN_S
            for peer in self._unread.ahead(self._door.peers):
                self._cut(peer, "sends without an end")

    def _cut(self, peer: Peer, reason: str) -> None:
        self._door.cut(peer, reason)
        self._turns.gone(peer)

    def _gone(self, peer: Peer) -> None:
        self._unread.gone(peer)
        self._turns.gone(peer)

    def _parts(self) -> tuple[zmq.Frame, int]:
        """The first part of a request, and how many there are; the others are let go one by one."""
        first = part = self._router.recv(zmq.NOBLOCK, copy=False)
        count = 1
        while part.more:
            part = self._router.recv(zmq.NOBLOCK, copy=False)
            count += 1
        return first, count

    def _sender(self, peer: Peer) -> str:
        if self._keys is not None:
            return peer.user  # only with keys: without ZAP a peer may say of itself what it likes
        user = uid_of(peer.file)
        return peer.address if user is None else f"uid {user}"

    def _send(self, message: list[bytes]) -> None:
        """To a client that reads, or to nobody."""
        name, until = message[0], time.monotonic() + PATIENCE_S
        while not self._offer(message):
            if name in self._deaf or time.monotonic() > until:
                self._deafen(name)
                self._books.unsent()
                return
            time.sleep(0.001)
        self._deaf.discard(name)

    def _offer(self, message: list[bytes]) -> bool:
        """False when the client's pipe is full. For one that has gone there is nothing more to do."""
        try:
            self._router.send_multipart(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._books.unsent()
        return True

    def _deafen(self, name: bytes) -> None:
        if len(self._deaf) >= DEAF:
            self._deaf.clear()  # most of these have gone
        self._deaf.add(name)

    def _note_turned_away(self) -> None:
        count = self._door.refusals.counts.total()
        if count > self._turned_away:
            self._books.turned_away(count - self._turned_away)
            self._turned_away = count


def check(name: str, address: str, keys: Path | None, role: str) -> None:
    """Bind and release. Raises ConfigError as `Desk.open` does."""
    with _opened(name, address, keys, role, lambda peer: None):
        pass


@contextmanager
def _opened(
    name: str, address: str, keys: Path | None, role: str, on_gone: Callable[[Peer], None]
) -> Iterator[tuple[zmq.Socket[bytes], Door]]:
    """A bound ROUTER and its door."""
    wanted = bindable(address, keys is not None, f"{name}.address")
    keyring = None if keys is None else Keyring(keys)
    with ExitStack() as held:
        context = zmq.Context()
        held.callback(end, context, name, LINGER_MS / 1000)
        router = held.enter_context(_router(context))
        door = Door(context, router, name, role, keyring, LONGEST_REQUEST, on_gone)
        held.callback(door.close, LINGER_MS)
        try:
            _bind(router, wanted, f"{name}.address", held)
        except (zmq.ZMQError, OSError) as error:
            raise refused(address, error.errno, f"{name}.address") from None
        yield router, door


def _bind(router: zmq.Socket[bytes], wanted: str, where: str, held: ExitStack) -> None:
    require_unowned(wanted, where)
    if wanted.startswith("ipc://"):
        held.callback(Local(router, Path(wanted.removeprefix("ipc://"))).close)
    else:
        router.setsockopt(zmq.IPV6, int("[" in wanted))
        router.bind(wanted)


def _router(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    _seed()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.SNDHWM, ANSWERS)
    router.setsockopt(zmq.SNDBUF, BUFFER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # says when an answer cannot be sent, rather than drop it in silence
    return router


def _seed() -> None:
    """Make the names that ROUTER gives its peers hard to guess.

    They are counted up from a rand() that libzmq 4.3.5 never seeds, so the first is always 00 6b 8b 45 67; and a peer
    may name itself. One that takes the name of the next to come makes libzmq abort the process (`ok` in
    socket_base.cpp, measured), with a single connection. Seeded, it has to hit one of four thousand million.
    """
    ctypes.CDLL(None).srand(ctypes.c_uint(int.from_bytes(os.urandom(4), "little")))
