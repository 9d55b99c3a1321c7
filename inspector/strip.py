"""Where on the strip: pixels and encoder counts to millimetres, and encoder counts to coils.

Along is the rolling direction (rows of a frame), across is the strip's width (columns). A count is a place on the
strip, not a moment: it stays true whatever the speed, and however late a frame or a coil's number arrives.
"""

from __future__ import annotations

import bisect
import math
import threading
from dataclasses import dataclass

COILS_KEPT = 1000
"""How many coils back a frame's count can be looked up: a bound on memory, far more than can be in flight."""


def thousandths(value: float) -> float:
    """The one rounding of millimetres and square millimetres in events: to 0.001, halves upward, never -0.0.

    One length computed in two ways differs in its last bits, and there a half such as 0.0615 would go either way.
    So a half counts as reached 0.0001 of a step early: far above the error of a double at 15 km of strip (some
    1e-8 mm), far below the steps between true places.
    """
    return math.floor(value * 1000.0 + 0.5001) / 1000.0


@dataclass(slots=True, frozen=True)
class Geometry:
    """How a camera's pixels lie on the strip. Every length it gives is rounded by `thousandths`.

    Attributes:
        pitch_along_mm: strip in one line of the frame.
        pitch_across_mm: strip in one pixel of a line.
        offset_mm: where column 0 lies across the strip, from the line's reference edge.
        mm_per_count: strip travel in one encoder count.
    """

    pitch_along_mm: float
    pitch_across_mm: float
    offset_mm: float
    mm_per_count: float

    def along_mm(self, encoder_count: int, row: float, head_count: int) -> float:
        """Millimetres from the coil's head to `row` (may be a half) of the frame that starts at `encoder_count`."""
        return thousandths((encoder_count - head_count) * self.mm_per_count + row * self.pitch_along_mm)

    def across_mm(self, column: float) -> float:
        """Millimetres from the line's reference edge to the left side of `column`, which may be a half."""
        return thousandths(self.offset_mm + column * self.pitch_across_mm)

    def length_mm(self, rows: float) -> float:
        """Extent along the strip of so many rows."""
        return thousandths(rows * self.pitch_along_mm)

    def width_mm(self, columns: float) -> float:
        """Extent across the strip of so many columns."""
        return thousandths(columns * self.pitch_across_mm)

    def area_mm2(self, area_px: int) -> float:
        """Area of so many pixels."""
        return thousandths(area_px * self.pitch_along_mm * self.pitch_across_mm)

    def counts_of_lines(self, lines: int) -> int:
        """Encoder counts that so many lines cover, to the nearest. Ask once for all lines, so no error adds up."""
        return math.floor(lines * self.pitch_along_mm / self.mm_per_count + 0.5)


@dataclass(slots=True, frozen=True)
class Coil:
    """A coil and the encoder count at its head end."""

    name: str
    head_count: int


class CoilMap:
    """Which coil lies at an encoder count. Safe to use from any thread.

    The plant names a coil with the count at its head, early (the head has yet to come) or late (its first frames
    were looked at already), in any order. The coil on the line at start has its head where the counts begin.
    """

    def __init__(self, coil: str) -> None:
        self._lock = threading.Lock()
        self._at_start = coil
        self._first: Coil | None = None
        self._later: list[Coil] = []

    def begin(self, encoder_count: int) -> None:
        """The first count seen: the head of the coil that is on the line at start. Later calls change nothing."""
        with self._lock:
            if self._first is None:
                self._first = Coil(self._at_start, encoder_count)

    def start(self, coil: str, head_count: int) -> Coil | None:
        """A coil's head lies at `head_count`; another name for the same count corrects the first.

        Returns the coil that ends there, or None when this very message came before.
        """
        new = Coil(coil, head_count)
        with self._lock:
            if new in self._later:
                return None
            self._later = [known for known in self._later if known.head_count != head_count]
            ends = self._look_up(head_count)
            bisect.insort(self._later, new, key=_head)
            if len(self._later) > COILS_KEPT:
                self._first = self._later.pop(0)
            return ends

    def at(self, encoder_count: int) -> Coil:
        """The coil that lies at a count. Before `begin`, the count asked for stands for the first coil's head."""
        with self._lock:
            return self._look_up(encoder_count)

    def heads(self, after: int, upto: int) -> list[Coil]:
        """The coils whose heads lie in (after, upto], in the order of the strip; not the one on the line at start."""
        with self._lock:
            return self._later[self._index(after) : self._index(upto)]

    def _look_up(self, encoder_count: int) -> Coil:
        index = self._index(encoder_count)
        if index:
            return self._later[index - 1]
        return self._first or Coil(self._at_start, encoder_count)

    def _index(self, encoder_count: int) -> int:
        return bisect.bisect_right(self._later, encoder_count, key=_head)


def _head(coil: Coil) -> int:
    return coil.head_count
