"""The device seam: what the TensorRT runtime needs of a GPU, and nothing else.

Device memory, queues (CUDA calls them streams), marks (events) and copies. `_cuda.py` implements it on pycuda; the
tests have one in host memory that does nothing before it must, so that a forgotten wait shows.

Everything on a queue happens in the order in which it was put there, some time later, and side by side with other
queues but for `wait`. All calls but `address`, `handle` and the names need the device to be `active` in the thread,
and raise EngineError when the device fails.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class Memory(Protocol):
    """A piece of device memory, aligned to 256 bytes or more."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int:
        """Bytes."""

    def free(self) -> None:
        """Give it back. Safe to call twice."""


class Locked(Protocol):
    """Host memory that the device copies from and to by itself; page-locked until it is released."""

    def release(self) -> None: ...


class Mark(Protocol):
    """A place in a queue; set anew at each `Queue.set`."""

    def free(self) -> None: ...


class Queue(Protocol):
    """Work for the device, done in order."""

    @property
    def handle(self) -> int:
        """The CUDA stream, as TensorRT wants it."""

    def set(self, mark: Mark) -> None:
        """Put the mark behind everything that is in the queue now."""

    def wait(self, mark: Mark) -> None:
        """What comes later in this queue begins when the queue in which `mark` was set has come there."""

    def synchronize(self) -> None:
        """Wait here until everything in the queue is done."""

    def free(self) -> None:
        """Nothing is in the queue any more."""


class Device(Protocol):
    """One GPU."""

    index: int
    name: str
    driver: str

    def active(self) -> AbstractContextManager[None]:
        """The device serves the calls of this thread; may be nested and used by many threads at once."""

    def allocate(self, size: int) -> Memory: ...

    def lock(self, memory: Bytes) -> Locked:
        """Page-lock host memory, uint8 [n]: it begins on a page and is whole pages long."""

    def queue(self) -> Queue: ...

    def mark(self) -> Mark: ...

    def upload(self, to: int, source: Bytes, queue: Queue) -> None:
        """Copy C-contiguous host memory to the device. It must stay unchanged until the queue has come past it."""

    def download(self, into: Bytes, source: int, queue: Queue) -> None:
        """Copy `into.nbytes` bytes from the device into C-contiguous host memory."""

    def download_box(self, into: Bytes, source: int, pitch: int, queue: Queue) -> None:
        """Copy a box of a picture on the device into `into`, C-contiguous [rows, columns]; `pitch` bytes are a row."""

    def copy(self, to: int, source: int, size: int, queue: Queue) -> None:
        """Copy within the device."""

    def used_bytes(self) -> int:
        """Device memory in use, by whomever."""

    def close(self) -> None:
        """Everything that was made here has been freed."""
