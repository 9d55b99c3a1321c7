"""The bounded queue between two stages.

Closable from both ends: writers `close()` (the reader still gets what is queued, then ChannelClosed), the reader
`abandon()`s (writers get ChannelAbandoned and stop). A full channel either makes the writer wait or drops its
oldest item, which is handed to `on_drop` so that the loss is booked and its memory given back. `on_put` sees each item
that is queued, in the order of the queue. Neither may use the channel. No call waits longer than the time-out it is
given.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from inspector.errors import ChannelAbandoned, ChannelClosed
from inspector.records import WhenFull

T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class Statistics:
    """A channel's books: `put` = `taken` + `dropped` + `queued`, always."""

    capacity: int
    queued: int
    put: int
    taken: int
    dropped: int


class Channel(Generic[T]):
    """A bounded queue of `capacity` items from `writers` writers to one or more readers."""

    def __init__(
        self,
        capacity: int,
        when_full: WhenFull = WhenFull.WAIT,
        *,
        writers: int = 1,
        on_drop: Callable[[T], None] | None = None,
        on_put: Callable[[T], None] | None = None,
    ) -> None:
        if capacity < 1 or writers < 1:
            raise ValueError("a channel needs a capacity and a number of writers of at least 1")
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._when_full = when_full
        self._on_drop = on_drop
        self._on_put = on_put
        self._open_writers = writers
        self._abandoned = False
        self._put = self._taken = self._dropped = 0
        lock = threading.Lock()
        self._changed_in = threading.Condition(lock)
        self._changed_out = threading.Condition(lock)

    def put(self, item: T, timeout_s: float) -> bool:
        """Queue an item; False if a WAIT channel stayed full for `timeout_s` seconds.

        Raises:
            ChannelAbandoned: the reader has gone. The item was not taken.
        """
        return self.put_all((item,), timeout_s) == 1

    def put_all(self, items: Sequence[T], timeout_s: float) -> int:
        """Queue items in order, many for the cost of one; returns how many, fewer if a WAIT channel stayed full.

        Raises:
            ChannelAbandoned: the reader has gone; what it had not taken is in the books as dropped.
        """
        taken = 0
        with self._changed_in:
            if self._abandoned:
                raise ChannelAbandoned("the reader of this channel has gone")
            try:
                for item in items:
                    if len(self._items) >= self._capacity and not self._make_room(timeout_s):
                        break
                    if self._on_put is not None:
                        self._on_put(item)
                    self._items.append(item)
                    self._put += 1
                    taken += 1
            finally:
                self._changed_in.notify(taken)
        return taken

    def _make_room(self, timeout_s: float) -> bool:
        if self._when_full is WhenFull.DROP_OLDEST:
            self._drop_oldest()
            return True
        self._changed_in.notify_all()  # a reader may be waiting for what was queued just now
        return self._wait_for_room(timeout_s)

    def _drop_oldest(self) -> None:
        """Under the lock: the loss is booked before a reader can get any later item and wonder at the hole."""
        dropped = self._items.popleft()
        self._dropped += 1
        if self._on_drop is not None:
            self._on_drop(dropped)

    def _wait_for_room(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while len(self._items) >= self._capacity:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._changed_out.wait(left)
            if self._abandoned:
                raise ChannelAbandoned("the reader of this channel has gone")
        return True

    def get(self, timeout_s: float) -> T | None:
        """The oldest item, or None if none came for `timeout_s` seconds.

        Raises:
            ChannelClosed: every writer has closed and nothing is left.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed_in:
            while not self._items:
                if self._open_writers == 0 or self._abandoned:
                    raise ChannelClosed("every writer of this channel has closed")
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed_in.wait(left)
            item = self._items.popleft()
            self._taken += 1
            # Half the channel at a time: a writer that is woken for every item costs a thread switch an item.
            if len(self._items) <= self._capacity // 2:
                self._changed_out.notify()
            return item

    def take(self, most: int) -> list[T]:
        """The oldest items that are queued, `most` at most; never waits."""
        with self._changed_in:
            items = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._taken += len(items)
            if items and len(self._items) <= self._capacity // 2:
                self._changed_out.notify()
        return items

    def close(self) -> None:
        """One writer has finished. The channel is closed when the last one has."""
        with self._changed_in:
            self._open_writers = max(0, self._open_writers - 1)
            if self._open_writers == 0:
                self._changed_in.notify_all()

    def abandon(self) -> list[T]:
        """The reader goes: writers get ChannelAbandoned. Returns what was queued, for the caller to book."""
        with self._changed_in:
            self._abandoned = True
            left = list(self._items)
            self._items.clear()
            self._dropped += len(left)
            self._changed_out.notify_all()
            self._changed_in.notify_all()
            return left

    def statistics(self) -> Statistics:
        with self._changed_in:
            return Statistics(self._capacity, len(self._items), self._put, self._taken, self._dropped)
