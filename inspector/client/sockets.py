"""The sockets of one subscription: what comes is put into the machine, what it asks is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import zmq

from inspector.client.address import Keys, reachable
from inspector.client.asking import Request
from inspector.client.handshake import READS, Handshake
from inspector.client.machine import Machine
from inspector.ending import end
from inspector.errors import ConfigError

QUEUE = 10_000
"""Events that wait for us at most; when more come the daemon has to drop some, and the history has them."""
BATCH = 200
"""Messages read from one socket before the events in them are handed over."""
LONGEST_MESSAGE = 64 << 20
"""Bytes. A daemon sends events of some kB and answers of about 1 MB."""
DEAD_S = 10.0
"""A connection on which nothing came for so long, not even a heartbeat, is dead: it is made again.

ZMTP's own pings would tell sooner, but with them libzmq 4.3.5 aborts the process of a subscriber that reads too slowly
(https://github.com/zeromq/libzmq/issues/3937).
"""
RETRY_MS = 100
LONGEST_RETRY_MS = 2000
TURN_S = 1.0
"""The longest wait before silence and overdue answers are looked at."""


class Sockets:
    """One SUB for each address, one DEALER for each source whose history is asked."""

    def __init__(
        self, addresses: Sequence[str], topics: Sequence[str], histories: Mapping[int, str], keys: Keys | None
    ) -> None:
        self._addresses = list(addresses)
        self._topics = list(topics)
        self._histories = histories
        self._keys = keys
        self._context = zmq.Context()
        self._events: list[zmq.Socket[bytes]] = []
        self._handshakes: list[Handshake] = []
        self._heard_at: list[float] = []
        self._asking: dict[str, zmq.Socket[bytes]] = {}
        self.closed = False
        try:
            for address in addresses:
                socket, handshake = self._subscribe(address)
                self._events.append(socket)
                self._handshakes.append(handshake)
                self._heard_at.append(time.monotonic())
        except BaseException:
            self.close()
            raise

    def _subscribe(self, address: str) -> tuple[zmq.Socket[bytes], Handshake]:
        socket = self._socket(zmq.SUB, address)
        socket.rcvhwm = QUEUE
        socket.sndhwm = 0  # libzmq's SUB forgets subscriptions beyond it
        handshake = Handshake(socket, READS)
        try:
            self._connect(socket, address)
        except ConfigError:
            handshake.close()
            raise
        for topic in [*(self._topics or [""]), "heartbeat/"]:
            socket.subscribe(topic)
        return socket, handshake

    def _socket(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.ipv6 = True
        socket.reconnect_ivl = RETRY_MS
        socket.reconnect_ivl_max = LONGEST_RETRY_MS
        socket.maxmsgsize = LONGEST_MESSAGE
        if self._keys is not None:
            self._keys.secure(socket, address)
        return socket

    def _connect(self, socket: zmq.Socket[bytes], address: str) -> None:
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            socket.close()
            raise ConfigError(f"address {address!r} cannot be connected to: {error.strerror}") from None

    # ------------------------------------------------------------ out and in

    def send(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.fresh and request.source in self._asking:
                self._asking.pop(request.source).close()
            if request.source not in self._asking:
                socket = self._socket(zmq.DEALER, self._addresses[request.link])
                self._connect(socket, self._endpoint(request))
                self._asking[request.source] = socket
            self._asking[request.source].send(request.body, zmq.NOBLOCK)

    def _endpoint(self, request: Request) -> str:
        return self._histories.get(request.link) or reachable(request.endpoint, self._addresses[request.link])

    def read(self, machine: Machine) -> bool:
        """Put what is there into the machine; False: nothing was."""
        found = False
        for link, socket in enumerate(self._events):
            messages = _waiting(socket, BATCH)
            now = time.monotonic()
            for parts in messages:
                machine.hear(link, parts, now)
            if messages:
                found, self._heard_at[link] = True, now
            else:
                found = self._look_after(link, machine, now) or found
        for source, socket in self._asking.items():
            for parts in _waiting(socket, 1):
                machine.answer(source, parts, time.monotonic())
                found = True
        return found

    def _look_after(self, link: int, machine: Machine, now: float) -> bool:
        """Nothing came from that address; True: there is something to tell about it."""
        machine.quiet(link, now)
        why = self._handshakes[link].refused(now)
        if why:
            machine.refused(link, why)
        if now - self._heard_at[link] > DEAD_S:
            self._heard_at[link] = now
            self._handshakes[link].close()
            self._events[link].close()
            self._events[link], self._handshakes[link] = self._subscribe(self._addresses[link])
        return bool(why)

    # ------------------------------------------------------------ waiting

    def wait(self, timeout_s: float) -> None:
        """Until something may be there to be read."""
        poller = zmq.Poller()
        for socket in self._all():
            poller.register(socket, zmq.POLLIN)
        poller.poll(round(1000 * min(TURN_S, timeout_s)) + 1)

    async def wait_async(self, timeout_s: float) -> None:
        """The same without holding up the event loop.

        libzmq signals on a file descriptor that something has changed. All that was there has been read just before,
        so the next change makes the descriptor readable.
        """
        loop = asyncio.get_running_loop()
        stirred = asyncio.Event()
        descriptors = [socket.fileno() for socket in self._all()]
        try:
            for descriptor in descriptors:
                loop.add_reader(descriptor, stirred.set)
            async with asyncio.timeout(min(TURN_S, timeout_s)):
                await stirred.wait()
        except TimeoutError:
            pass
        finally:
            for descriptor in descriptors:
                loop.remove_reader(descriptor)

    def _all(self) -> list[zmq.Socket[bytes]]:
        return [*self._events, *self._asking.values(), *(each.monitor for each in self._handshakes)]

    def close(self) -> None:
        self.closed = True
        for handshake in self._handshakes:
            handshake.close()
        for socket in self._all():
            socket.close()
        self._events, self._asking, self._handshakes = [], {}, []
        end(self._context, "subscription")


def _waiting(socket: zmq.Socket[bytes], most: int) -> list[list[bytes]]:
    """Messages that are there now."""
    found: list[list[bytes]] = []
    try:
        while len(found) < most:
            found.append(socket.recv_multipart(zmq.NOBLOCK))
    except zmq.Again:
        pass
    return found
