"""What was decoded lately, within a bound of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cached(Generic[Key, Value]):
    """A function that keeps its answers, `limit` bytes of them: the one unused for longest goes first.

    For several threads. An answer is shared: treat it as read-only.
    """

    def __init__(self, make: Callable[[Key], Value], size: Callable[[Value], int], limit: int) -> None:
        self._make, self._size, self._limit = make, size, limit
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._lock = Lock()
        self.kept_bytes = 0

    def __call__(self, key: Key) -> Value:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = self._make(key)  # it takes long, so others may go on; two threads may make the same
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self.kept_bytes += self._size(made)
            while self.kept_bytes > self._limit:
                self.kept_bytes -= self._size(self._kept.popitem(last=False)[1])
        return made
