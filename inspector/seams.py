"""Masks of neighbouring frames, laid over each other: how near they are, and who is right where both show the strip.

Frames may share lines (`overlap_lines`), so the same strip is judged twice. Where the two judgements name different
classes for one place, the frame in which the defect is not cut by the border counts: it shows more of it. If both are
cut, or neither, the higher score counts, and of equal ones the earlier frame. The other one loses only its pixels in
the shared lines: strip that one frame alone shows is never given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.records import Region

SAME_PLACE = 0.5
"""Two regions lie at one place when they share this much of the smaller one, of what lies in the shared lines."""


def near(part: Region, region: Region, reach: int) -> bool:
    """Whether pixels of two masks lie at most `reach` rows and columns apart; both `y` count from the same row."""
    top, bottom = max(part.y, region.y - reach), min(part.y + part.height, region.y + region.height + reach)
    left, right = max(part.x, region.x - reach), min(part.x + part.width, region.x + region.width + reach)
    if top >= bottom or left >= right:
        return False
    rows, columns = bottom - top + 2 * reach, right - left + 2 * reach
    window = np.zeros((rows, columns), dtype=np.uint8)
    window[reach : rows - reach, reach : columns - reach] = _crop(part, top, bottom, left, right)
    grown = cv2.dilate(window, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    y, x = top - reach, left - reach
    y1, y2 = max(y, region.y), min(y + rows, region.y + region.height)
    x1, x2 = max(x, region.x), min(x + columns, region.x + region.width)
    return bool(np.logical_and(grown[y1 - y : y2 - y, x1 - x : x2 - x], _crop(region, y1, y2, x1, x2)).any())


def union(parts: Sequence[Region], y: int, x: int, height: int, width: int) -> NDArray[np.bool_]:
    """The masks of all parts in the box at row `y` and column `x`, which holds them: bool [height, width]."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for part in parts:
        top, left = part.y - y, part.x - x
        mask[top : top + part.height, left : left + part.width] |= part.mask
    return mask


def above(region: Region, row: int) -> Region | None:
    """What of a region lies above `row`; None if nothing does."""
    return _rows(region, region.y, row)


def below(region: Region, row: int) -> Region | None:
    """What of a region lies at `row` and below it; None if nothing does."""
    return _rows(region, row, region.y + region.height)


def agree(before: Sequence[Region], after: Sequence[Region], shared: int) -> tuple[set[int], set[int]]:
    """Which regions of two frames must give up their pixels in the lines that both show.

    Args:
        before: of the earlier frame, those that reach into the shared lines.
        after: of the later one, likewise.
        shared: how many lines; all rows count from the first of them.

    Returns:
        (indices in `before`, indices in `after`).
    """
    old = [below(region, 0) or region for region in before]
    new = [above(region, shared) or region for region in after]
    gives: tuple[set[int], set[int]] = set(), set()
    for (i, a), (j, b) in product(enumerate(old), enumerate(new)):
        if a.class_number == b.class_number or _common(a, b) < SAME_PLACE * min(a.area_px, b.area_px):
            continue
        both_saw_one = _seen(a, new) or _seen(b, old)
        if not both_saw_one:
            loser, index = (1, j) if _first_is_right(before[i], after[j], shared) else (0, i)
            gives[loser].add(index)
    return gives


def _first_is_right(a: Region, b: Region, shared: int) -> bool:
    cut_a, cut_b = a.y + a.height >= shared, b.y <= 0
    return cut_b if cut_a != cut_b else a.score >= b.score


def _seen(region: Region, others: Sequence[Region]) -> bool:
    """Whether the other frame has something of the same class there."""
    return any(other.class_number == region.class_number and _common(region, other) for other in others)


def _common(a: Region, b: Region) -> int:
    """Pixels that both masks have."""
    top, bottom = max(a.y, b.y), min(a.y + a.height, b.y + b.height)
    left, right = max(a.x, b.x), min(a.x + a.width, b.x + b.width)
    if top >= bottom or left >= right:
        return 0
    return int(np.count_nonzero(_crop(a, top, bottom, left, right) & _crop(b, top, bottom, left, right)))


def _crop(region: Region, top: int, bottom: int, left: int, right: int) -> NDArray[np.bool_]:
    return region.mask[top - region.y : bottom - region.y, left - region.x : right - region.x]


def _rows(region: Region, top: int, bottom: int) -> Region | None:
    """The rows [top, bottom) of a region, in a box that fits."""
    if top <= region.y and bottom >= region.y + region.height:
        return region
    mask = region.mask[max(0, top - region.y) : max(0, bottom - region.y)]
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8)) if mask.size else (0, 0, 0, 0)
    if not width:
        return None
    mask = mask[y : y + height, x : x + width].copy()
    return replace(region, x=region.x + x, y=max(region.y, top) + y, mask=mask, area_px=int(np.count_nonzero(mask)))
