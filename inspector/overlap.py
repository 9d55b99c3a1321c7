"""Frames that share lines with their predecessor: its last ones are copied above the next one's first.

The camera fills the lower part of a larger slot, so its own pixels are copied once, as ever. With as many lines that
lines + height is the height of the pack's tiles, nothing is filled up with black.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inspector.pool import Pool, Slot
from inspector.records import Frame, Pixels
from inspector.strip import Geometry


class Headroom(Pool):
    """A pool whose slots have `lines` rows more above the pixels that they show."""

    def __init__(self, pool: Pool, lines: int) -> None:
        self._pool = pool
        self._lines = lines
        self.slots = pool.slots

    def take(self, height: int, width: int, timeout_s: float) -> Slot | None:
        """As `Pool.take`."""
        slot = self._pool.take(height + self._lines, width, timeout_s)
        if slot is not None:
            slot.pixels = slot.pixels[self._lines :]
        return slot

    @property
    def in_use(self) -> int:
        return self._pool.in_use


@dataclass(slots=True, frozen=True)
class _Before:
    """What is kept of the frame before, as the camera gave it."""

    sequence: int
    piece: int
    shape: tuple[int, ...]
    exposed_ns: int
    camera_ns: int | None


class Overlap:
    """The overlap of one camera's frames; for one thread.

    Args:
        lines: rows of the frame before that each frame shows again; never more than that frame has.
        geometry: how the camera's lines lie on the strip.
    """

    def __init__(self, lines: int, geometry: Geometry) -> None:
        self._lines = lines
        self._geometry = geometry
        self._before: _Before | None = None
        self._tail: Pixels = np.empty((0, 0), dtype=np.uint8)

    def pool(self, pool: Pool) -> Pool:
        """The pool that the camera must take its slots from."""
        return Headroom(pool, self._lines)

    def add(self, frame: Frame) -> None:
        """Put the lines of the frame before on top of this one, which must not have been corrected yet.

        A frame without a predecessor is left as it is: the first one, the one behind a hole, in another piece of
        strip, or of another size. Count and times are then those of the new row 0.
        """
        own, before = frame.pixels, self._before
        now = _Before(frame.sequence, frame.piece, own.shape, frame.exposed_ns, frame.camera_ns)
        lines = min(self._lines, own.shape[0])
        if before is not None and _follows(before, now):
            frame.pixels = self._stacked(own, lines)
            frame.overlap_lines = lines
            frame.encoder_count -= self._geometry.counts_of_travel(lines, frame.counts_per_line)
            frame.exposed_ns -= _share(before.exposed_ns, now.exposed_ns, lines, own.shape[0])
            if before.camera_ns is not None and now.camera_ns is not None:
                frame.camera_ns = now.camera_ns - _share(before.camera_ns, now.camera_ns, lines, own.shape[0])
        self._keep(own, lines)
        self._before = now

    def _stacked(self, own: Pixels, lines: int) -> Pixels:
        """The tail and the frame's own pixels as one picture: in the slot, if they lie in one with headroom."""
        height, width = own.shape
        buffer, head = own.base, self._lines * width
        if isinstance(buffer, np.ndarray) and buffer.ndim == 1 and _start(own) - _start(buffer) == head:
            first = (self._lines - lines) * width
            whole: Pixels = buffer[first : head + height * width].reshape(lines + height, width)
        else:
            whole = np.empty((lines + height, width), dtype=np.uint8)
            np.copyto(whole[lines:], own)
        np.copyto(whole[:lines], self._tail)
        return whole

    def _keep(self, own: Pixels, lines: int) -> None:
        if self._tail.shape != (lines, own.shape[1]):
            self._tail = np.empty((lines, own.shape[1]), dtype=np.uint8)
        np.copyto(self._tail, own[own.shape[0] - lines :])


def _follows(before: _Before, now: _Before) -> bool:
    return (now.sequence, now.piece, now.shape) == (before.sequence + 1, before.piece, before.shape)


def _share(before_ns: int, now_ns: int, lines: int, height: int) -> int:
    """The time that so many lines of the frame before took; a clock that was set back says nothing."""
    return max(0, now_ns - before_ns) * lines // height


def _start(pixels: Pixels) -> int:
    return int(pixels.__array_interface__["data"][0])
