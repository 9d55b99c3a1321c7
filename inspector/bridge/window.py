"""What was read and the broker has not taken yet: bounded, in order. Belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Message:
    """An event on its way to the broker."""

    number: int
    """1, 2, 3 ... in the order of reading."""
    topic: str
    """As the daemon published it; ends in '/'."""
    key: str
    """Its `source` and `id` as one ASCII text: the same event has the same key for ever."""
    body: bytes
    keep: bool = False
    """The broker shows the last of this topic to those who come later, where it can."""


class Window:
    """Messages between `put` and `done`; `take` gives them out to be sent, from the oldest on."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[int, Message] = {}
        self._unsent: deque[int] = deque()
        self._last = 0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def acked(self) -> int:
        """The broker has every message up to this number."""
        return next(iter(self._open), self._last + 1) - 1

    @property
    def last(self) -> int:
        """Number of the last message that was put."""
        return self._last

    def put(self, topic: str, key: str, body: bytes, keep: bool = False) -> int:
        """One more; returns its number. Wait for `room` first."""
        self._last += 1
        self._open[self._last] = Message(self._last, topic, key, body, keep)
        self._unsent.append(self._last)
        self._changed.set()
        return self._last

    def done(self, number: int) -> None:
        """The broker has it. May be said twice."""
        if self._open.pop(number, None) is not None:
            self._changed.set()

    def again(self) -> None:
        """Give all that the broker does not have out once more: the connection is a new one."""
        self._unsent = deque(self._open)
        self._changed.set()

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def keys(self) -> set[str]:
        return {message.key for message in self._open.values()}

    async def room(self) -> None:
        """Until one more may be put."""
        while len(self._open) >= self._limit:
            await self._change()

    async def take(self) -> Message:
        """The next to be sent."""
        while True:
            while self._unsent:
                message = self._open.get(self._unsent.popleft())
                if message is not None:
                    return message
            await self._change()

    async def reached(self, number: int) -> None:
        """Until the broker has every message up to `number`."""
        while self.acked < number:
            await self._change()

    async def _change(self) -> None:
        """Nothing is awaited between a look at the state and `clear`, so no change is missed."""
        self._changed.clear()
        await self._changed.wait()
