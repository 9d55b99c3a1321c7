"""The preallocated memory that frames live in, from the camera to grading.

A camera fills a slot (the one copy, out of the driver's buffer); the frame carries the slot through the line
and gives it back when nothing needs its pixels any more. The pool is bounded: when all slots are in use `take`
waits, and the caller decides what a time-out means.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inspector.records import Pixels


class Slot:
    """A piece of the pool: `pixels`, uint8 [height, width], C-contiguous, to be filled by one writer."""

    __slots__ = ("_buffer", "_lock", "_pool", "pixels")

    def __init__(self, pool: Pool, buffer: NDArray[np.uint8], height: int, width: int) -> None:
        self._pool = pool
        self._buffer: NDArray[np.uint8] | None = buffer
        self._lock = threading.Lock()
        self.pixels: Pixels = buffer[: height * width].reshape(height, width)

    def release(self) -> None:
        """Give the memory back. Safe to call twice and from any thread."""
        with self._lock:
            buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._pool._give_back(buffer)


def plain(size: int) -> NDArray[np.uint8]:
    """Ordinary memory, uint8 [size]."""
    return np.empty(size, dtype=np.uint8)


class Pool:
    """At most `slots` buffers; each is made on first use and grows only when a larger frame comes."""

    def __init__(self, slots: int, allocate: Callable[[int], NDArray[np.uint8]] = plain) -> None:
        """`allocate` gives at least so many bytes, uint8 [n]: memory that a runtime reads best."""
        if slots < 1:
            raise ValueError("a pool needs at least one slot")
        self._allocate = allocate
        self._free: list[NDArray[np.uint8]] = [np.empty(0, dtype=np.uint8) for _ in range(slots)]
        self.slots = slots
        self._changed = threading.Condition()

    def take(self, height: int, width: int, timeout_s: float) -> Slot | None:
        """A slot for a frame of [height, width] px, or None if none came free for `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._free:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return None
            buffer = self._free.pop()
        if buffer.size < height * width:
            try:
                buffer = self._allocate(height * width)
            except MemoryError:
                self._give_back(buffer)
                raise
        return Slot(self, buffer, height, width)

    def _give_back(self, buffer: NDArray[np.uint8]) -> None:
        with self._changed:
            self._free.append(buffer)
            self._changed.notify()

    @property
    def in_use(self) -> int:
        """How many slots hold a frame now."""
        with self._changed:
            return self.slots - len(self._free)
