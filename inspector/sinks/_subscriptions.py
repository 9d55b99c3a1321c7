"""What each connection has subscribed to, and when that is too much.

libzmq takes any number of subscriptions and keeps some 50 bytes for each of their bytes, so what a connection may say
is bounded here: by number, by length, and by all their bytes together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from inspector.wire.guard import Peer

LONGEST_SUBSCRIPTION = 256
"""Bytes; the longest topic there can be has some 150."""
MOST_SUBSCRIPTIONS = 1000
"""Of one connection."""
MOST_BYTES = 65_536
"""Of all subscriptions of one connection."""
MOST_BYTES_IN_ALL = 1_048_576
"""Of all connections; who brings it over this is cut. libzmq needs about 50 MB for them."""


@dataclass(slots=True)
class _Interest:
    topics: set[bytes] = field(default_factory=set)
    size: int = 0


class Subscriptions:
    """The books of one publisher."""

    def __init__(self) -> None:
        self._interests: dict[Peer, _Interest] = {}
        self._size = 0

    def book(self, peer: Peer, message: bytes) -> str | None:
        """Note what a peer says; returns why it has to be cut, or None."""
        interest = self._interests.setdefault(peer, _Interest())
        topic = message[1:]
        if message[:1] not in (b"\0", b"\1") or len(topic) > LONGEST_SUBSCRIPTION:
            return "no subscription, or too long a one"
        if message[:1] == b"\0":
            self._end(interest, topic)
            return None
        return self._begin(interest, topic)

    def gone(self, peer: Peer) -> None:
        """A connection has ended, and its subscriptions with it."""
        interest = self._interests.pop(peer, None)
        self._size -= interest.size if interest else 0

    def _begin(self, interest: _Interest, topic: bytes) -> str | None:
        if topic not in interest.topics:
            interest.topics.add(topic)
            interest.size += len(topic)
            self._size += len(topic)
        if len(interest.topics) > MOST_SUBSCRIPTIONS or interest.size > MOST_BYTES:
            return "too many subscriptions"
        return "too many subscriptions of all together" if self._size > MOST_BYTES_IN_ALL else None

    def _end(self, interest: _Interest, topic: bytes) -> None:
        if topic in interest.topics:
            interest.topics.remove(topic)
            interest.size -= len(topic)
            self._size -= len(topic)
