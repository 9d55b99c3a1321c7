"""Where a frame lies on the strip: from the encoder value that the camera sends with it, else by counting lines.

By counting: an encoder triggers the lines (or the strip runs at the speed that the line rate was set for), so so
many frames are so much strip, those that are missing too. While the camera was down nobody counted; there the time
that passed, over the time a frame took before, says how many frames passed. By the encoder's own value the place is
known for every frame, whatever happened before it: a strip that stands, slows down or runs back is measured, not
assumed, and a value that jumps is passed on as it is, for grading to report.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

PERIODS = 9
"""Newest frame periods that say how long a frame takes: their median, or rather the mean of those near it. The median
forgives single ones that are far off (a camera's first frame, a camera that stumbled), the mean the jitter of each."""
NEAR = 0.1
"""Of a frame period: so near to the median, a period counts; so near to the expected period, that is borne out."""
FASTEST = 1.25
"""Times `counts_per_line` that strip can run in a line, either way; more is a jump of the encoder, not a speed."""


class Encoder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the way along the strip (`encoder:` in the options of a camera)."""

    counts_per_line: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    """Encoder counts in one line: the divider between the encoder and the line trigger. With `lines: timed` those at
    the line's greatest speed, for which the line rate is set; the pitch is what they make in millimetres."""
    first_count: int = 0
    """Encoder count of the first line; with `source: chunk` it is added to the camera's values."""
    source: Literal["frame_id", "chunk"] = "frame_id"
    """`chunk`: the camera sends its encoder's value with each frame; `frame_id`: lines are counted."""
    chunk: str = "ChunkEncoderValue"
    """Name of the chunk that holds the value (GenICam SFNC), e.g. ChunkEncoderValue, ChunkCounterValue."""
    chunk_bits: Annotated[int, Meta(ge=8, le=64)] = 32
    """Width of that value; it wraps at 2**chunk_bits."""
    lines: Literal["triggered", "timed"] = "triggered"
    """`triggered`: the encoder triggers each line, so a line is `counts_per_line` counts whatever the speed;
    `timed`: lines come at AcquisitionLineRate, so with `source: chunk` the strip in a line is measured."""


@dataclass(slots=True, frozen=True)
class Place:
    """Where a frame begins; `counts_per_line` as in records.Frame."""

    encoder_count: int
    counts_per_line: float | None = None


@dataclass(slots=True, frozen=True)
class _Chunk:
    """The newest value that a camera sent."""

    index: int | None
    """Of its frame; None once the camera was opened again."""
    raw: int
    value: int
    """`raw` without its wraps."""


class Odometer:
    """One camera's way along the strip; it outlives the camera's being opened again.

    Args:
        encoder: the settings.
        height: lines in a frame.
        frame_s: how long a frame is expected to take, seconds, as long as frames do not tell otherwise; None: not
            known.
    """

    def __init__(self, encoder: Encoder, height: int, frame_s: float | None = None) -> None:
        self._encoder = encoder
        self._height = height
        self._rate = encoder.counts_per_line
        """Counts in a line now."""
        self._measured: float | None = encoder.counts_per_line if encoder.lines == "timed" else None
        """As in records.Frame, where there are chunks."""
        self._frame_s = frame_s
        self._periods: deque[float] = deque(maxlen=PERIODS)
        self._origin: float | None = float(encoder.first_count)
        """Count at index 0; None until the first frame after the camera was opened again."""
        self._last: tuple[int, float] | None = None
        """(index, seconds) of the newest frame since the camera was opened."""
        self._reached: tuple[float, float] | None = None
        """(count behind the last frame, when that frame was taken, seconds), over all openings."""
        self._chunk: _Chunk | None = None

    def opened(self) -> None:
        """The camera was opened (again), or counts anew: the next index is not related to the last."""
        self._last = None
        if self._reached is not None:
            self._origin = None
        if self._chunk is not None:
            self._chunk = replace(self._chunk, index=None)
        if self._encoder.lines == "triggered":
            self._measured = None

    def place(self, index: int, taken_s: float, chunk: int | None = None) -> Place:
        """Where the frame begins.

        Args:
            index: the frame's number since `opened`, lost ones counted.
            taken_s: when it was exposed, or else when it arrived, on one clock that never jumps, seconds.
            chunk: the value that came with it, where `source` is `chunk`. A frame without one lies where the lines
                since the last one with one say.
        """
        self._time(index, taken_s)
        by_chunk = self._encoder.source == "chunk"
        # A chunk's value stays an int: with 64 bits it is more than a float holds.
        start: float = (
            self._by_chunk(index, chunk) if by_chunk and chunk is not None else self._by_lines(index, taken_s)
        )
        self._reached = start + self._rate * self._height, taken_s
        return Place(round(start), self._measured if by_chunk else None)

    @property
    def frame_s(self) -> float | None:
        """How long a frame takes now, seconds; None while that is not known."""
        if not self._periods:
            return self._frame_s
        middle, stated = median_low(self._periods), self._frame_s  # one of them, so that one is near
        near = [period for period in self._periods if abs(period - middle) <= NEAR * middle]
        measured = sum(near) / len(near)
        # What a camera keeps by its own clock is exact, over a long gap too; a few measured periods are not.
        return stated if stated is not None and abs(measured - stated) <= NEAR * stated else measured

    def _time(self, index: int, taken_s: float) -> None:
        last, self._last = self._last, (index, taken_s)
        if last is not None and index > last[0] and taken_s > last[1]:
            self._periods.append((taken_s - last[1]) / (index - last[0]))

    def _by_lines(self, index: int, taken_s: float) -> float:
        if self._origin is None:
            self._origin = self._carried_on(taken_s) - index * self._rate * self._height
        return self._origin + index * self._rate * self._height

    def _carried_on(self, taken_s: float) -> float:
        """The count at the first frame after the camera was down, by the time that passed: to whole frames."""
        assert self._reached is not None
        count, when_s = self._reached
        frame_s = self.frame_s
        frames = (taken_s - when_s) / frame_s - 1 if frame_s else 0.0
        return count + max(0, round(frames)) * self._rate * self._height

    def _by_chunk(self, index: int, raw: int) -> int:
        before, modulus = self._chunk, 1 << self._encoder.chunk_bits
        value = raw
        if before is not None:
            ahead = (raw - before.raw) % modulus
            value = before.value + (ahead - modulus if ahead > modulus // 2 else ahead)
            if before.index is not None and index > before.index:
                self._measure((value - before.value) / ((index - before.index) * self._height))
        self._chunk = _Chunk(index, raw, value)
        start = self._encoder.first_count + value
        self._origin = start - index * self._rate * self._height
        return start

    def _measure(self, rate: float) -> None:
        """Take over the counts a line between two frames; a jump of the encoder is no speed.

        Triggered lines are a pitch each, unless the strip ran back: its lines were triggered all the same.
        """
        share = rate / self._encoder.counts_per_line
        plausible = abs(share) <= FASTEST
        if self._encoder.lines == "triggered":
            self._measured = rate if plausible and share < 1 - 2 / self._height else None
        elif plausible:
            self._rate = self._measured = rate
