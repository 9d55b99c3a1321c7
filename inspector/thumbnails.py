"""The small picture of a defect: which part of the strip it shows, and where the defect's mask lies in it.

The contract between grading, which cuts the picture, and whoever draws on it later:

    window  the defect's box grown by MARGIN_PX on each side, clipped to the defect's frames, which lie stacked
            along the strip: [0, width] x [0, total rows] of `mask.size`
    scale   1, or less where a side of the window exceeds LIMIT_PX: then the longer side becomes LIMIT_PX

So an event's `bbox_px` and `mask.size` are all it takes to find the place of a thumbnail's pixel again.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.events import Box, Mask
from inspector.records import Pixels

MARGIN_PX = 24
"""Strip shown around the box, px on each side."""
LIMIT_PX = 480
"""No side of a thumbnail is longer."""


def crop_window(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The window (x, y, width, height) of a defect's thumbnail, px; `size` is [height, width] of its stacked frames.

    Raises:
        ValueError: the box does not touch the frames.
    """
    rows, columns = size
    left, top = max(0, box.x - MARGIN_PX), max(0, box.y - MARGIN_PX)
    right = min(columns, box.x + box.width + MARGIN_PX)
    bottom = min(rows, box.y + box.height + MARGIN_PX)
    if right <= left or bottom <= top:
        raise ValueError(f"the box {box} lies outside frames of {rows} x {columns} px")
    return left, top, right - left, bottom - top


def thumbnail_scale(width: int, height: int) -> float:
    """Thumbnail pixels per window pixel, 0 < scale <= 1."""
    return min(1.0, LIMIT_PX / max(width, height, 1))


def thumbnail_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the thumbnail of a window, px; no side is less than 1 or more than LIMIT_PX."""
    scale = thumbnail_scale(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink(pixels: Pixels) -> Pixels:
    """The thumbnail of a window's pixels uint8 [height, width]: a copy, C-contiguous, down-scaled by area."""
    height, width = pixels.shape
    size = thumbnail_size(width, height)
    if size == (width, height):
        return pixels.copy(order="C")
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def mask_in_window(mask: Mask, window: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """The part of a mask that lies in a window (x, y, width, height): bool [height, width].

    Only the window's columns are unpacked: run lengths are column-major, so those lie together.

    Raises:
        ValueError: the run lengths are not pairs of whole numbers.
    """
    rows = mask.size[0]
    x, y, width, height = window
    numbers = np.array(mask.rle.split(), dtype=np.int64)
    if numbers.size % 2:
        raise ValueError("run lengths need pairs of start and length; the last start has no length")
    first = numbers[0::2] - 1 - x * rows
    starts = np.clip(first, 0, width * rows)
    ends = np.clip(first + numbers[1::2], 0, width * rows)
    delta = np.zeros(width * rows + 1, dtype=np.int32)
    np.add.at(delta, starts, 1)
    np.add.at(delta, ends, -1)
    return (np.cumsum(delta[:-1]) > 0).reshape((rows, width), order="F")[y : y + height]


def outline(mask: NDArray[np.bool_], scale: float, most_points: int = 400) -> list[NDArray[np.int32]]:
    """The contours of a window's mask, holes too, in thumbnail pixels: each int32 [points, 2] of (x, y).

    Contours are simplified to about a pixel, and more where there would be over `most_points` points; of what is
    still more the plainest are left out. Every point lies in the thumbnail.
    """
    height, width = mask.shape
    size = thumbnail_size(width, height)
    small = mask.view(np.uint8)
    if scale < 1:
        # A thin scratch must not vanish: a thumbnail pixel is mask where its area mean is not nothing.
        mean = cv2.resize(small * np.uint8(255), size, interpolation=cv2.INTER_AREA)
        small = (mean >= 64).astype(np.uint8) if (mean >= 64).any() else (mean > 0).astype(np.uint8)
    found, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for tolerance in (0.7, 1.2, 2.0, 3.5):
        contours = [
            np.asarray(cv2.approxPolyDP(contour, tolerance, True), dtype=np.int32).reshape(-1, 2) for contour in found
        ]
        if sum(map(len, contours)) <= most_points:
            break
    longest = sorted(contours, key=len, reverse=True)
    kept = np.cumsum([len(contour) for contour in longest]) <= most_points
    return [contour for contour, keep in zip(longest, kept, strict=True) if keep] or longest[:1]
