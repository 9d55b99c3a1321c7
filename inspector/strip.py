"""Where on the strip: pixels and encoder counts to millimetres.

Along is the rolling direction (rows of a frame), across is the strip's width (columns). A count is a place on the
strip, not a moment: it stays true whatever the speed, and however late a frame or a coil's number arrives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


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

    def counts_of_travel(self, lines: int, counts_per_line: float | None) -> int:
        """Encoder counts that the strip ran in so many lines: as measured, else one pitch each."""
        if counts_per_line is None:
            return self.counts_of_lines(lines)
        return math.floor(lines * counts_per_line + 0.5)

    def mm_of_counts(self, counts: float) -> float:
        """Strip in so many encoder counts."""
        return thousandths(counts * self.mm_per_count)

    def counts_of_mm(self, length_mm: float) -> int:
        """Encoder counts in a length of strip, to the nearest."""
        return math.floor(length_mm / self.mm_per_count + 0.5)
