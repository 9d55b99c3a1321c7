"""How well a camera sees: a few rows of each frame, put together over a window of frames, become figures.

A single frame tells a blemish from a fouled lens badly; a window of them does. Every frame costs some 30 us at
1600 px, and the last one of a window about a millisecond more. Figures depend on the frames alone, not on batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.flatfield import local_level, unevenness
from inspector.records import Pixels, Roi

PAIRS = 4
"""Pairs of neighbouring rows that are looked at in each frame."""
BRIGHTEST = 0.001
"""The share of strip pixels whose darkest is "the brightest strip": a glint or a hot pixel is not enough."""
FULL = 250
"""Grey from which a pixel is taken for saturated: a flat-field scales what was 255."""
COARSE_PX = 4
"""The focus compares steps from one pixel to the next with steps over so many."""
STRUCTURE = 1.0
"""Mean square of the coarse steps, grey squared, from which there is structure that could be out of focus."""
ALIKE = 0.1
"""And so much of the steps, mean squares, must be alike on neighbouring rows: the rest is noise of the sensor."""
LEARN = 0.1
"""The weight of the newest window in what is taken for the pattern that all frames have."""
LEAST_COLUMNS = 256
"""Columns of strip below which none can be told from its neighbours."""
RIM_PX = 128
"""Columns beside an edge of the strip that are not judged: the edge wanders, and is worn, dark or bright."""
SPREAD = 3.0
"""Deviation along the strip, grey, of lively neighbours: only then a column that hardly varies is fouled."""
DULL = 0.35
"""A column whose deviation along the strip is below this share of its neighbours' hardly varies."""
SIGMAS = 5.0
"""A column is off its neighbours only if it is so many deviations off: a ribbed strip has many lines."""
SAMPLED_ROWS = 8
"""Rows of a frame whose mean is its brightness."""

Profile = NDArray[np.float64]
"""One value a column, [width]; NaN where the window shows no strip."""
Flags = NDArray[np.bool_]
Marks = NDArray[np.int8]
"""One mark a column, [width]: 1 odd, -1 as it should be, 0 not judged."""


@dataclass(slots=True, frozen=True)
class Figures:
    """What a window of frames shows.

    Attributes:
        brightness: mean grey of the strip, 0..1 of full scale.
        brightest: grey that 0.1 % of the strip's pixels reach, 0..1.
        saturated: share of strip pixels at full scale, 0..1.
        focus: fine steps against coarse ones, mean squares across the strip: 1/16 when nothing fine is seen, 0.1 for
            a blur of 2 px (deviation), 0.2..0.6 for sharp steel; None where the strip has no structure to judge by.
        strip: mean share of the frame's width that is strip, 0..1.
        level: mean grey of each column.
        spread: deviation along the strip of each column, grey.
    """

    brightness: float
    brightest: float
    saturated: float
    focus: float | None
    strip: float
    level: Profile
    spread: Profile

    @property
    def unevenness(self) -> float | None:
        """How uneven the columns are; see `flatfield.unevenness`. None where too little strip is seen."""
        return unevenness(self.level)


class Window:
    """Collects rows of `frames` frames of one width; `figures()` reads them out and begins anew."""

    def __init__(self, frames: int, width: int) -> None:
        self._rows = np.zeros((frames * PAIRS * 2, width), dtype=np.uint8)
        self._lefts = np.zeros(frames, dtype=np.intp)
        self._rights = np.zeros(frames, dtype=np.intp)
        self._focus = _Focus(width)
        self._frames, self.width = frames, width
        self._clear()

    def _clear(self) -> None:
        self._seen = self._filled = 0
        self._strip = 0.0
        self._focus.clear()

    @property
    def full(self) -> bool:
        return self._seen >= self._frames

    def blank(self) -> None:
        """A frame that shows no strip, or the same piece as the one before."""
        self._seen += 1

    def take(self, pixels: Pixels, roi: Roi) -> None:
        """A frame uint8 [H, width]; other rows of each next one, so that a picture shown for ever is seen whole."""
        rows = self._rows[self._filled * PAIRS * 2 : (self._filled + 1) * PAIRS * 2]
        rows[:, : roi.left] = 0
        rows[:, roi.right :] = 0
        rows[:, roi.left : roi.right] = pixels[_places(pixels.shape[0], self._filled), roi.left : roi.right]
        self._lefts[self._filled], self._rights[self._filled] = roi.left, roi.right
        self._filled += 1
        self._seen += 1
        self._strip += roi.width / self.width
        if self._filled % 2:  # every second frame is enough, and it is the dearest part
            self._focus.add(rows[:, roi.left : roi.right], roi.left)

    def figures(self) -> Figures | None:
        """The window's figures; None if fewer than an eighth of its frames show strip."""
        columns = self._per_column() if 8 * self._filled >= self._frames else None
        found = None if columns is None else self._found(*columns)
        if found is not None:
            self._focus.learn(found.level)
        self._clear()
        return found

    def leave_out(self, odd: Flags) -> None:
        """Columns, [width], that do not show the strip: dirt is sharp however blurred the strip is."""
        self._focus.leave_out(odd)

    def _per_column(self) -> tuple[Profile, Profile] | None:
        rows = self._rows[: self._filled * PAIRS * 2]
        sums = cv2.reduce(rows, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).reshape(-1)
        squares = cv2.reduce(rows, 0, cv2.REDUCE_SUM2, dtype=cv2.CV_64F).reshape(-1)
        turns = np.bincount(self._lefts[: self._filled], minlength=self.width + 1).astype(np.int64)
        turns -= np.bincount(self._rights[: self._filled], minlength=self.width + 1)
        counts = np.cumsum(turns)[:-1] * PAIRS * 2
        seen = 2 * counts >= rows.shape[0]
        if not seen.any():
            return None
        level, spread = np.full((2, self.width), np.nan)
        level[seen] = sums[seen] / counts[seen]
        spread[seen] = np.sqrt(np.maximum(squares[seen] / counts[seen] - level[seen] ** 2, 0))
        return level, spread

    def _found(self, level: Profile, spread: Profile) -> Figures:
        rows = self._rows[: self._filled * PAIRS * 2]
        strip = int((self._rights - self._lefts)[: self._filled].sum()) * PAIRS * 2
        histogram = cv2.calcHist([rows], [0], None, [256], [0, 256]).reshape(-1).astype(np.int64)
        histogram[0] -= rows.size - strip
        above = np.cumsum(histogram[::-1])
        brightest = 255 - int(np.searchsorted(above, BRIGHTEST * strip))
        mean = float(histogram @ np.arange(256)) / strip
        return Figures(
            brightness=mean / 255,
            brightest=brightest / 255,
            saturated=float(histogram[FULL:].sum()) / strip,
            focus=self._focus.ratio,
            strip=self._strip / self._filled,
            level=level,
            spread=spread,
        )


class _Focus:
    """Steps across the strip from pixel to pixel, against steps over COARSE_PX.

    Each step is taken times the same step one row on, which leaves out what is no image of the strip: noise of the
    sensor, which is another in every row. What is the same in all rows, lamp and sensor, is learnt and subtracted.
    A lens that blurs does so along the strip as well, and takes the fine steps first.
    """

    def __init__(self, width: int) -> None:
        self._pattern = np.zeros(width, dtype=np.float32)
        """What all frames have in common, as a factor less 1."""
        self._kept: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        """1 for each fine and coarse step that counts, 0 for one that meets a column left out; None: all count."""
        self.clear()

    def clear(self) -> None:
        self._fine = self._coarse = self._rough = 0.0
        self._frames = 0

    def add(self, rows: Pixels, left: int) -> None:
        """Rows of one frame in neighbouring pairs, [2 n, columns]; the first of its columns is column `left`."""
        columns = rows.shape[1]
        if columns < 4 * COARSE_PX:
            return
        image = rows.astype(np.float32)
        image -= float(image.mean()) * self._pattern[left : left + columns]
        upper, lower = image[0::2], image[1::2]
        fine = upper[:, 1:] - upper[:, :-1], lower[:, 1:] - lower[:, :-1]
        coarse = upper[:, COARSE_PX:] - upper[:, :-COARSE_PX], lower[:, COARSE_PX:] - lower[:, :-COARSE_PX]
        if self._kept is not None:
            fine[0][:] *= self._kept[0][left : left + columns - 1]
            coarse[0][:] *= self._kept[1][left : left + columns - COARSE_PX]
        self._fine += float(np.vdot(*fine)) / fine[0].size
        self._coarse += float(np.vdot(*coarse)) / coarse[0].size
        self._rough += float(np.vdot(coarse[0], coarse[0])) / coarse[0].size
        self._frames += 1

    @property
    def ratio(self) -> float | None:
        """Fine against coarse, mean squares; None where there is too little structure, or it is mostly noise."""
        if self._coarse < max(STRUCTURE * max(1, self._frames), ALIKE * self._rough):
            return None
        return self._fine / self._coarse

    def learn(self, level: Profile) -> None:
        """Bring the pattern up to date with the mean grey of each column."""
        seen = np.isfinite(level)
        new = np.interp(np.arange(level.size), np.flatnonzero(seen), level[seen]) / max(float(level[seen].mean()), 1.0)
        self._pattern += (new - 1 - self._pattern).astype(np.float32) * np.float32(LEARN)

    def leave_out(self, odd: Flags) -> None:
        well = ~odd
        both = well[1:] & well[:-1], well[COARSE_PX:] & well[:-COARSE_PX]
        self._kept = (both[0].astype(np.float32), both[1].astype(np.float32)) if odd.any() else None


@lru_cache(4096)
def _places(height: int, number: int) -> NDArray[np.intp]:
    """Which rows of a frame are looked at: PAIRS x (row, row + 1), evenly over it, beginning elsewhere each time."""
    apart = max(1, height // PAIRS)
    first = np.arange(PAIRS) * apart + number * 7 % apart
    places: NDArray[np.intp] = np.repeat(first, 2) + np.tile([0, 1], PAIRS)
    return np.minimum(places, height - 1)


def brightness(pixels: Pixels, roi: Roi) -> float:
    """Mean grey of one frame's strip, 0..1 of full scale, as `Figures.brightness` is that of a window; 2 us at 1600 px.

    `pixels` is uint8 [H, W]; the strip must have a column at least.
    """
    rows = pixels[:: max(1, pixels.shape[0] // SAMPLED_ROWS), roi.left : roi.right]
    return float(cv2.mean(rows)[0]) / 255


def odd_columns(figures: Figures, off: float) -> Marks:
    """The columns that do not see what their neighbours see: dead pixels, or dirt that stays in one place.

    A column is odd if its level is off that of its surroundings by more than the share `off`, or if it varies little
    along the strip where its surroundings do. One window cannot tell it from a scratch along the strip.
    """
    marks = np.zeros(figures.level.size, dtype=np.int8)
    first, end = _inside(figures.level)
    if end - first < LEAST_COLUMNS:
        return marks
    level, spread = figures.level[first:end], figures.spread[first:end]
    usual, lively = local_level(level), local_level(spread)
    away = np.abs(level - usual)
    scatter = 1.4826 * float(np.median(away))
    apart = (away > off * usual) & (away > SIGMAS * scatter) & (away > 2.0)
    dull = (lively >= SPREAD) & (spread < DULL * lively)
    marks[first:end] = np.where(apart | dull, 1, -1)
    return marks


def _inside(level: Profile) -> tuple[int, int]:
    """The columns [first, end) of strip that can be judged."""
    seen = np.flatnonzero(np.isfinite(level))
    first, end = int(seen[0]), int(seen[-1]) + 1
    return first + (RIM_PX if first else 0), end - (RIM_PX if end < level.size else 0)


def spans(flags: Flags) -> list[tuple[int, int]]:
    """The runs of True as (first, last)."""
    turns = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    return [(int(a), int(b) - 1) for a, b in zip(np.flatnonzero(turns == 1), np.flatnonzero(turns == -1), strict=True)]
