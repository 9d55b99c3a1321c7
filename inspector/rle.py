"""Binary mask <-> run lengths, in the format of the public Severstal competition.

Runs are column-major (a column from top to bottom, then the next one) and starts count from 1:
``"start length start length ..."``. Source: https://www.kaggle.com/c/severstal-steel-defect-detection
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def encode(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> str:
    """Run lengths of a mask of shape [height, width]; non-zero is foreground. An empty mask gives ``""``."""
    flat = np.zeros(mask.size + 2, dtype=np.bool_)
    flat[1:-1] = mask.ravel(order="F") != 0
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.empty(edges.size, dtype=np.int64)
    runs[0::2] = edges[0::2] + 1
    runs[1::2] = edges[1::2] - edges[0::2]
    return " ".join(map(str, runs.tolist()))


def runs(text: str, height: int, width: int) -> NDArray[np.int64]:
    """The runs [n, 2] of a run-length text: (first, one behind the last) pixel of each, 0-based, column-major.

    Raises:
        ValueError: the text is not pairs of positive whole numbers, or a run leaves the picture.
    """
    try:
        numbers = np.array([int(word) for word in text.split()], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"run lengths hold something that is not a whole number in reach: {error}") from None
    if numbers.size % 2:
        raise ValueError("run lengths need pairs of start and length; the last start has no length")
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    # The length is compared with what is left: a sum of two large numbers would wrap round.
    if numbers.size and (starts.min() < 0 or lengths.min() < 1 or (lengths > height * width - starts).any()):
        raise ValueError(f"a run leaves the picture of {height} x {width} px")
    return np.column_stack((starts, starts + lengths))


def decode(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """The mask [height, width] of a run-length text.

    Raises:
        ValueError: as `runs`.
    """
    found = runs(text, height, width)
    delta = np.zeros(height * width + 1, dtype=np.int32)
    np.add.at(delta, found[:, 0], 1)
    np.add.at(delta, found[:, 1], -1)
    return (np.cumsum(delta[:-1]) > 0).reshape((height, width), order="F")


def encode_box(mask: NDArray[np.bool_], x: int, y: int, height: int) -> str:
    """Run lengths of a box mask [h, w] whose top left pixel lies at column `x`, row `y` of a picture of `height` rows.

    The same text as `encode` of the whole picture, without making the picture.
    """
    columns = np.zeros((mask.shape[1], mask.shape[0] + 2), dtype=np.int8)
    columns[:, 1:-1] = mask.T
    steps = np.diff(columns, axis=1)
    column, row = np.nonzero(steps == 1)
    starts = (x + column) * height + y + row
    ends_column, ends_row = np.nonzero(steps == -1)
    ends = (x + ends_column) * height + y + ends_row
    if starts.size == 0:
        return ""
    # A run that fills its column goes on at the top of the next one.
    apart = starts[1:] != ends[:-1]
    starts, ends = starts[np.r_[True, apart]], ends[np.r_[apart, True]]
    runs = np.column_stack((starts + 1, ends - starts))
    return " ".join(map(str, runs.ravel().tolist()))
