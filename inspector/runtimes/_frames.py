"""Host memory that frames live in and that GPUs read by themselves, without a copy into a buffer of the driver's.

The memory is the process's own and outlives every runtime: while at least one runtime holds it, it is page-locked for
all GPUs, so frames that a camera wrote before the engines were changed are read as well as those after it.
"""

from __future__ import annotations

import bisect
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from inspector.errors import EngineError
from inspector.logbook import LogKind, as_kind
from inspector.runtimes._device import Bytes, Device, Locked

PAGE = 4096

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Piece:
    memory: Bytes
    locked: Locked | None = None


@dataclass(eq=False)
class FrameMemory:
    """Pieces of memory for frames. Any thread."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pieces: list[_Piece] = field(default_factory=list)
    _holders: int = 0
    _device: Device | None = None
    """Opened for the locks alone, so that no runtime's end takes them from another."""
    _spans: tuple[Sequence[int], Sequence[int]] = ((), ())
    """Where page-locked memory begins and ends, in order; always both at once, as workers look without the lock."""

    def allocate(self, size: int) -> Bytes:
        """At least `size` bytes, uint8 [n]. Kept for good, so they come in powers of two: a pool whose frames grow
        leaves no more behind than it uses."""
        piece = _Piece(pages(1 << (max(PAGE, size) - 1).bit_length()))
        with self._lock:
            self._pieces.append(piece)
            if self._device is not None:
                self._page_lock(self._device, [piece])
        return piece.memory

    def hold(self, opener: Callable[[], Device]) -> None:
        """Page-lock everything, and what comes later, until this holder and all others `leave`.

        What the driver will not lock is used as it is: frames in it are copied once more on the host.
        """
        with self._lock:
            if self._device is None:
                self._device = opener()
                self._page_lock(self._device, self._pieces)
            self._holders += 1

    def leave(self) -> None:
        """A holder has no work left that reads frames."""
        with self._lock:
            self._holders -= 1
            device = self._device
            if self._holders or device is None:
                return
            self._device, self._spans = None, ((), ())
            held = [piece.locked for piece in self._pieces if piece.locked is not None]
            for piece in self._pieces:
                piece.locked = None
            with ExitStack() as undo:  # all of it, even where the GPU has failed
                undo.callback(device.close)
                undo.enter_context(device.active())
                for locked in held:
                    undo.callback(locked.release)

    def holds(self, address: int, size: int) -> bool:
        """Whether these bytes are page-locked."""
        starts, ends = self._spans
        place = bisect.bisect_right(starts, address) - 1
        return 0 <= place < len(ends) and address + size <= ends[place]

    def _page_lock(self, device: Device, pieces: list[_Piece]) -> None:
        try:
            with device.active():
                for piece in pieces:
                    piece.locked = device.lock(piece.memory)
        except EngineError as error:
            log.warning(
                "memory for frames cannot be page-locked (%s): they are copied once more on the host. Lower "
                "`line.queue` or free memory of the machine",
                error,
                extra=as_kind(LogKind.FRAMES_NOT_LOCKED, reason=error),
            )
        spans = sorted(_span(piece.memory) for piece in self._pieces if piece.locked is not None)
        self._spans = [start for start, _ in spans], [end for _, end in spans]


def _span(memory: Bytes) -> tuple[int, int]:
    start = address_of(memory)
    return start, start + memory.nbytes


def address_of(memory: Bytes) -> int:
    """Where an array's first byte lies."""
    start: int = memory.__array_interface__["data"][0]
    return start


def pages(size: int) -> Bytes:
    """Host memory uint8 [n >= size], whole pages."""
    length = -(-max(1, size) // PAGE) * PAGE
    raw = np.empty(length + PAGE, dtype=np.uint8)
    shift = -address_of(raw) % PAGE
    return raw[shift : shift + length]


FRAMES = FrameMemory()
"""The memory of this process's frame pool."""
