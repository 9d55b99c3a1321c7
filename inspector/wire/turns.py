"""Requests that wait to be served, a queue for each client, served in turn."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from inspector.wire.guard import Peer

T = TypeVar("T")


class Turns(Generic[T]):
    """Every client that waits gets one of its requests served before any gets a second.

    Args:
        most: requests of one client that may wait.
        most_bytes: bytes in them.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._waiting: dict[Peer, deque[tuple[T, int]]] = {}
        self._bytes: dict[Peer, int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, peer: Peer, item: T, size: int) -> bool:
        """False: this client has too many waiting, and this one is not taken."""
        queue = self._waiting.setdefault(peer, deque())
        held = self._bytes.get(peer, 0) + size
        if len(queue) >= self._most or held > self._most_bytes:
            return False
        queue.append((item, size))
        self._bytes[peer] = held
        return True

    def take(self) -> T:
        """The next in turn; there must be one."""
        peer, queue = next(iter(self._waiting.items()))
        item, size = queue.popleft()
        del self._waiting[peer]
        self._bytes[peer] -= size
        if queue:
            self._waiting[peer] = queue  # behind all others
        else:
            del self._bytes[peer]
        return item

    def gone(self, peer: Peer) -> None:
        """Nobody is left to be answered."""
        self._waiting.pop(peer, None)
        self._bytes.pop(peer, None)
