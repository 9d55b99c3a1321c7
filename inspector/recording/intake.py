"""From the capture threads to the one that writes: a bounded pool of copies. No camera ever waits for the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from inspector.cameras._index import Said, Stood, Told, Unrecorded
from inspector.channel import Channel
from inspector.coils import Coil
from inspector.pool import Pool
from inspector.records import Frame, Loss

NOTES = 10_000
"""Losses and the like that wait at most, besides frames."""


@dataclass(slots=True, frozen=True)
class Change:
    """A camera went up or down."""

    camera: str
    said: Said


@dataclass(slots=True, frozen=True)
class Skipped:
    """Frames of a camera for which there was no room in memory."""

    camera: str
    hole: Unrecorded


@dataclass(slots=True, frozen=True)
class Known:
    """What is known of the coils from here on, and what it is known from."""

    first: Coil | None
    coils: Sequence[Coil]
    entry: Told | Stood | None = None


Item = Frame | Loss | Change | Skipped | Known


class Intake:
    """The queue before the disk, for all cameras of a line.

    Args:
        frames: that wait at most.
        on_skip: told (camera, frames) when there was no room; from the capture threads.
    """

    def __init__(self, frames: int, on_skip: Callable[[str, int], None]) -> None:
        self._pool = Pool(frames)
        self._items = Channel[Item](frames + NOTES)
        self._on_skip = on_skip
        self._taps: dict[str, CameraTap] = {}

    def tap(self, camera: str) -> CameraTap:
        """What a Capture of this camera is given; the same one every time."""
        if camera not in self._taps:
            self._taps[camera] = CameraTap(camera, self._pool, self._items, self._on_skip)
        return self._taps[camera]

    def taken(self, frame: Frame) -> None:
        """Whom its camera's frames go to has taken this one in; from the capture thread, before it gives another."""
        self._taps[frame.camera].taken(frame)

    def know(self, known: Known) -> None:
        """From any thread."""
        self._items.put(known, 0.0)

    def get(self, timeout_s: float) -> Item | None:
        """The oldest item; None if none came for so long. A frame of it must be released."""
        return self._items.get(timeout_s)

    def rest(self) -> Iterator[Frame | Skipped]:
        """What the taps have not been able to give; when the cameras have ended."""
        for tap in self._taps.values():
            yield from tap.rest()


class CameraTap:
    """One camera's end of the queue; the protocol is capture.Tap. Never waits, never fails."""

    def __init__(self, camera: str, pool: Pool, items: Channel[Item], on_skip: Callable[[str, int], None]) -> None:
        self._camera = camera
        self._pool = pool
        self._items = items
        self._on_skip = on_skip
        self._hole: tuple[int, int] | None = None
        """(first, end) of the frames that found no room and were not told of yet."""
        self._copy: Frame | None = None
        """Of the frame that was given and not taken in yet."""

    def frame(self, frame: Frame) -> None:
        try:
            height, width = frame.pixels.shape
            slot = self._pool.take(height, width, 0.0)
        except MemoryError:
            slot = None
        if slot is not None:
            np.copyto(slot.pixels, frame.pixels)
            self._copy = replace(frame, pixels=slot.pixels, on_release=slot.release)
        else:
            self._refuse(frame)

    def taken(self, frame: Frame) -> None:
        """What was copied of it is queued."""
        copy, self._copy = self._copy, None
        if copy is None:
            return
        copy.taken_ns = frame.taken_ns
        if not self._put(copy):
            copy.release()
            self._refuse(copy)

    def loss(self, loss: Loss) -> None:
        if not self._put(loss):
            self._skip(loss.sequence, loss.count)

    def state(self, state: str, detail: str) -> None:
        up: Literal["up", "down"] = "up" if state == "up" else "down"
        self._put(Change(self._camera, Said(state=up, detail=detail, monotonic_ns=time.monotonic_ns())))

    def rest(self) -> Iterator[Frame | Skipped]:
        """The hole that was not told of yet, and the frame that nobody took."""
        hole, copy = self.take_hole(), self._copy
        self._copy = None
        if hole is not None:
            yield hole
        if copy is not None:
            yield copy

    def take_hole(self) -> Skipped | None:
        """The frames that were skipped and not told of yet."""
        if self._hole is None:
            return None
        first, end = self._hole
        hole = Unrecorded(sequence=first, count=end - first, reason="slow", monotonic_ns=time.monotonic_ns())
        self._hole = None
        return Skipped(self._camera, hole)

    def _put(self, item: Item) -> bool:
        before, hole = self._hole, self.take_hole()
        if hole is not None and not self._items.put(hole, 0.0):
            self._hole = before
            return False
        return self._items.put(item, 0.0)

    def _refuse(self, frame: Frame) -> None:
        self._on_skip(self._camera, 1)
        self._skip(frame.sequence, 1)

    def _skip(self, sequence: int, count: int) -> None:
        first = sequence if self._hole is None else self._hole[0]
        self._hole = first, sequence + count
