"""Truth events, found events, and which of them belong together.

An event is what an engineer counts: pieces of one class with at most `merge_px` (12) blank pixels between them, along
rows, columns or diagonally, are one. A truth event is detected by a found event that covers at least COVERED of its
pixels, or the centre of whose box lies in the truth's box; the found event may be of any class, and whether it is of
the right one is a figure of its own. A found event that detects nothing is false. Source: VDI/VDE/VDMA 2632, as
DOMAIN.md has it ("25 % of the truth covered or a centre hit").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from inspector import rle
from inspector.cascade import regions
from inspector.records import Roi

COVERED = 0.25


class FoundEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What the cascade reports of one defect."""

    class_number: int
    box: tuple[int, int, int, int]
    """x, y, width, height."""
    area_px: int
    score: float
    true: bool = False
    """It detects a truth event."""
    mask: str = ""
    """Run lengths over the picture, for the report."""


class TruthEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A real defect and what became of it."""

    class_number: int
    box: tuple[int, int, int, int]
    area_px: int
    detected: bool = False
    best_score: float = -1.0
    """Of the found events that detect it, the surest one's; -1 where there is none."""
    right_class: bool = False
    """The found event that covers most of it (of equals the surer) is of its class."""
    lost_to_area: bool = False
    """Found, and then deleted by the minimum area."""


@dataclass(frozen=True)
class Blob:
    """A defect as pixels: a box's place and the mask in it."""

    class_number: int
    x: int
    y: int
    mask: NDArray[np.bool_]
    score: float = 1.0

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.x, self.y, self.mask.shape[1], self.mask.shape[0]

    @property
    def area_px(self) -> int:
        return int(self.mask.sum())

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.mask.shape[1] / 2, self.y + self.mask.shape[0] / 2

    def overlap_px(self, other: Blob) -> int:
        """Pixels that both have."""
        left, right = max(self.x, other.x), min(self.x + self.mask.shape[1], other.x + other.mask.shape[1])
        top, bottom = max(self.y, other.y), min(self.y + self.mask.shape[0], other.y + other.mask.shape[0])
        if left >= right or top >= bottom:
            return 0
        mine = self.mask[top - self.y : bottom - self.y, left - self.x : right - self.x]
        theirs = other.mask[top - other.y : bottom - other.y, left - other.x : right - other.x]
        return int(np.logical_and(mine, theirs).sum())

    def holds(self, point: tuple[float, float]) -> bool:
        """Whether a point lies in the box."""
        width, height = self.box[2:]
        return self.x <= point[0] < self.x + width and self.y <= point[1] < self.y + height


def truth_blobs(truth: NDArray[np.bool_], numbers: Sequence[int], merge_px: int) -> list[Blob]:
    """The events of a truth bool [classes, H, W], merged by the rule of the daemon itself."""
    return [
        Blob(number, region.x, region.y, region.mask)
        for number, mask in zip(numbers, truth, strict=True)
        for region in regions(mask.astype(np.uint8) * np.uint8(255), Roi(0, mask.shape[1]), number, 0.5, merge_px)
    ]


def detects(found: Blob, truth: Blob) -> bool:
    """The rule at the head of this file."""
    return truth.holds(found.centre) or found.overlap_px(truth) >= COVERED * truth.area_px


def match(
    truths: Sequence[Blob], found: Sequence[Blob], unfiltered: Sequence[Blob], height: int
) -> tuple[list[TruthEvent], list[FoundEvent]]:
    """What became of each truth, and which found events are true. `unfiltered`: found before the minimum area."""
    told = [_told(truth, found, unfiltered) for truth in truths]
    reported = [
        FoundEvent(
            class_number=one.class_number,
            box=one.box,
            area_px=one.area_px,
            score=one.score,
            true=any(detects(one, truth) for truth in truths),
            mask=rle.encode_box(one.mask, one.x, one.y, height),
        )
        for one in found
    ]
    return told, reported


def _told(truth: Blob, found: Sequence[Blob], unfiltered: Sequence[Blob]) -> TruthEvent:
    hits = [one for one in found if detects(one, truth)]
    nearest = max(hits, key=lambda one: (one.overlap_px(truth), one.score), default=None)
    return TruthEvent(
        class_number=truth.class_number,
        box=truth.box,
        area_px=truth.area_px,
        detected=bool(hits),
        best_score=max((one.score for one in hits), default=-1.0),
        right_class=nearest is not None and nearest.class_number == truth.class_number,
        lost_to_area=not hits and any(detects(one, truth) for one in unfiltered),
    )
