"""Where a frame lies on the strip: from the encoder value that the camera sends with it, else by counting lines.

By counting: an encoder triggers the lines (or the strip runs at the speed that the line rate was set for), so so
many frames are so much strip, those that are missing too. While the camera was down nobody counted; there the time
that passed, over the time a frame took before, says how many frames passed. By the encoder's own value the place is
known for every frame, whatever happened before it: a strip that stands, slows down or runs back is measured, not
assumed, and a value that jumps is passed on as it is, for grading to report.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

PERIODS = 9
"""Newest frame periods whose median says how long a frame takes."""


class Encoder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the way along the strip (`encoder:` in the options of a camera)."""

    counts_per_line: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    """Encoder counts in one line: the divider between the encoder and the line trigger."""
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


class Odometer:
    """One camera's way along the strip; it outlives the camera's being opened again.

    Args:
        encoder: the settings.
        height: lines in a frame.
        frame_s: how long a frame is expected to take, seconds, until frames have told; None: not known.
    """

    def __init__(self, encoder: Encoder, height: int, frame_s: float | None = None) -> None:
        self._encoder = encoder
        self._frame_counts = encoder.counts_per_line * height
        self._height = height
        self._frame_s = frame_s
        self._periods: deque[float] = deque(maxlen=PERIODS)
        self._origin = float(encoder.first_count)
        self._last: tuple[int, float] | None = None
        """(index, monotonic seconds) of the last frame since the camera was opened."""
        self._reached: tuple[float, float] | None = None
        """(encoder count behind the last frame, when that was, monotonic seconds), over all openings."""
        self._chunk: tuple[int, int, int] | None = None
        """(index, raw value, unwrapped value) of the last frame with a chunk."""

    def opened(self) -> None:
        """The camera was opened (again), or counts anew: the next index is not related to the last."""
        self._last = None

    def place(self, index: int, taken_s: float, chunk: int | None = None) -> Place:
        """Where the frame begins.

        Args:
            index: the frame's number since `opened`, lost ones counted.
            taken_s: when it was exposed, or else when it arrived, on one clock that never jumps, seconds.
            chunk: the value that came with it, where `source` is `chunk`.
        """
        self._time(index, taken_s)
        if self._encoder.source == "chunk" and chunk is not None:
            return self._by_chunk(index, taken_s, chunk)
        return self._by_lines(index, taken_s)

    @property
    def frame_s(self) -> float | None:
        """How long a frame takes now, seconds; None while that is not known."""
        return median(self._periods) if self._periods else self._frame_s

    def _time(self, index: int, taken_s: float) -> None:
        if self._last is not None and index > self._last[0]:
            self._periods.append((taken_s - self._last[1]) / (index - self._last[0]))
            self._last = index, taken_s

    def _by_lines(self, index: int, taken_s: float) -> Place:
        if self._last is None:
            self._last = index, taken_s
            self._origin = self._carried_on(taken_s) - index * self._frame_counts
        start = self._origin + index * self._frame_counts
        self._reached = start + self._frame_counts, taken_s
        return Place(round(start))

    def _carried_on(self, taken_s: float) -> float:
        """The count at the first frame after the camera was down, by the time that passed."""
        if self._reached is None:
            return self._origin
        count, when_s = self._reached
        frame_s = self.frame_s
        frames = (taken_s - when_s) / frame_s - 1 if frame_s else 0.0
        return count + max(0, round(frames)) * self._frame_counts

    def _by_chunk(self, index: int, taken_s: float, raw: int) -> Place:
        if self._last is None:
            self._last = index, taken_s
        before, modulus = self._chunk, 1 << self._encoder.chunk_bits
        value = raw
        if before is not None:
            ahead = (raw - before[1]) % modulus
            value = before[2] + (ahead - modulus if ahead > modulus // 2 else ahead)
        self._chunk = index, raw, value
        per_line = None
        if self._encoder.lines == "timed":
            frames = index - before[0] if before is not None else 0
            per_line = (value - before[2]) / (frames * self._height) if before and frames > 0 else None
            per_line = self._encoder.counts_per_line if per_line is None else per_line
        self._reached = float(self._encoder.first_count + value), taken_s
        return Place(self._encoder.first_count + value, per_line)
