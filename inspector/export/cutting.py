"""A mask over several frames, stacked along the strip, back into masks of single frames, as runs and never as pixels.

An event tells the height of all its frames together, not of each. A line camera's frames are all of one height, and so
are most replayed pictures; where the events show that a coil's are not, a mask over several frames is left out rather
than cut in the wrong place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Runs = NDArray[np.int64]
"""[runs, 2]: first pixel, counted from 0 down the columns, and the pixel behind the last."""


def text(union: Runs) -> str:
    """Runs as run lengths."""
    return " ".join(map(str, np.column_stack((union[:, 0] + 1, union[:, 1] - union[:, 0])).ravel().tolist()))


def united(pieces: list[Runs]) -> Runs:
    """The union of several masks of one picture, in order and without touching runs."""
    found = np.concatenate(pieces)
    found = found[np.argsort(found[:, 0], kind="stable")]
    if not len(found):
        return found
    reached = np.maximum.accumulate(found[:, 1])
    first = np.r_[True, found[1:, 0] > reached[:-1]]
    return np.column_stack((found[first, 0], reached[np.r_[first[1:], True]]))


def cut(whole: Runs, heights: list[int]) -> list[Runs]:
    """The runs of each frame of a stack of frames of these heights."""
    total = sum(heights)
    rows = _by_column(whole, total)
    found, top = [], 0
    for height in heights:
        column, first, last = rows[:, 0], np.maximum(rows[:, 1], top), np.minimum(rows[:, 2], top + height)
        here = first < last
        base = column[here] * height - top
        found.append(united([np.column_stack((base + first[here], base + last[here]))]))
        top += height
    return found


def _by_column(whole: Runs, height: int) -> Runs:
    """[pieces, 3]: column, first row, row behind the last; no piece goes over into the next column."""
    first, last = whole[:, 0] // height, (whole[:, 1] - 1) // height
    count = last - first + 1
    column = np.repeat(first - np.r_[0, np.cumsum(count)[:-1]], count) + np.arange(count.sum())
    starts = np.maximum(np.repeat(whole[:, 0], count), column * height)
    ends = np.minimum(np.repeat(whole[:, 1], count), (column + 1) * height)
    return np.column_stack((column, starts - column * height, ends - column * height))


def heights(total: int, frames: int, seen: set[int]) -> list[int] | None:
    """The heights of the frames of a stack; None: they cannot be told. `seen`: those of single frames of the camera."""
    each, rest = divmod(total, frames)
    if rest or (seen and seen != {each}):
        return None
    return [each] * frames
