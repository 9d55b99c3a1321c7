"""What each network is taught by, on batches of examples (see augment)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from build_engines.augment import Example
from build_engines.networks import CELL_STRIDE, PIXEL_STRIDE, Classifier, Segmenter, Teacher

DICE_FROM = 0.25
"""Share of a training before the Dice loss joins: cross-entropy first, or rare classes collapse to nothing."""

DICE_EASE_PX = 8
"""Pixels of the truth from which a class is there for Dice; added above and below, so that single ones do not
decide."""

CELL_SHARE = 0.2
"""A cell is wholly defect from this share of its pixels on; below it, in proportion."""


class Raw(NamedTuple):
    """Examples of one step, stacked: `frames` uint8 [B, 1, H, W], `pixels` uint8 [B, C, h, w], `known` and `plain`
    bool [B]."""

    frames: Tensor
    pixels: Tensor
    known: Tensor
    plain: Tensor

    def to(self, device: torch.device) -> Raw:
        return Raw(*(part.to(device, non_blocking=True) for part in self))

    def parts(self, count: int) -> list[Raw]:
        """The same in `count` parts or fewer, in order."""
        return [Raw(*own) for own in zip(*(part.chunk(count) for part in self), strict=True)]

    def pin_memory(self) -> Raw:
        """Called by torch's loader."""
        return Raw(*(part.pin_memory() for part in self))


@dataclass(frozen=True)
class Batch:
    """`grey` as the networks take it; `pixels` [B, C, h, w], `cells` [B, C, h/8, w/8], `present` [B, C]: 0..1."""

    grey: Tensor
    pixels: Tensor
    cells: Tensor
    present: Tensor


def collate(examples: Sequence[Example]) -> Raw:
    """Stack examples of one size."""
    return Raw(
        torch.from_numpy(np.stack([example.frame for example in examples])[:, None]),
        torch.from_numpy(np.stack([example.pixels for example in examples])),
        torch.tensor([example.known for example in examples]),
        torch.tensor([example.plain for example in examples]),
    )


def batch_of(raw: Raw, grey: Tensor, visible: float) -> Batch:
    """Truth on all grids. `visible`: pixels of the truth from which a class that the crop's border cut is present."""
    pixels = raw.pixels.float() / 255.0
    cells = (functional.avg_pool2d(pixels, CELL_STRIDE // PIXEL_STRIDE) / CELL_SHARE).clamp(max=1.0)
    present = (pixels.sum(dim=(2, 3)) >= visible).float()
    return Batch(grey.contiguous(memory_format=torch.channels_last), pixels, cells, present)


def one_class(batch: Batch, position: int) -> Batch:
    """The same with one class only."""
    only = slice(position, position + 1)
    return Batch(batch.grey, batch.pixels[:, only], batch.cells[:, only], batch.present[:, only])


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice of each frame and class that is there; of what is not there cross-entropy alone tells."""
    chance = torch.sigmoid(logits)
    overlap = 2 * (chance * target).sum(dim=(2, 3)) + DICE_EASE_PX
    total = (chance.square() + target.square()).sum(dim=(2, 3)) + DICE_EASE_PX
    there = (target.sum(dim=(2, 3)) >= DICE_EASE_PX).to(logits.dtype)
    return ((1 - overlap / total) * there).sum() / there.sum().clamp(min=1)


def pixel_loss(logits: Tensor, target: Tensor, progress: float) -> Tensor:
    """Cross-entropy, joined by Dice after DICE_FROM of the training; `progress` is 0..1."""
    weight = 1 + 2 * target
    entropy = functional.binary_cross_entropy_with_logits(logits, target, weight=weight)
    share = min(1.0, max(0.0, (progress - DICE_FROM) * 4))
    return 4 * entropy + share * dice_loss(logits, target)


def map_loss(cells: Tensor, pooled: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy cell by cell, and of the pooled score."""
    weight = 1 + 2 * batch.cells
    dense = functional.binary_cross_entropy_with_logits(cells, batch.cells, weight=weight)
    return 2 * dense + 0.5 * functional.binary_cross_entropy_with_logits(pooled, batch.present)


def teacher_loss(network: Teacher, batch: Batch, progress: float) -> Tensor:
    pixels, cells, pooled = network(batch.grey)
    return pixel_loss(pixels.float(), batch.pixels, progress) + map_loss(cells.float(), pooled.float(), batch)


def classifier_loss(network: Classifier, batch: Batch) -> Tensor:
    """Of types, and of the gate, which learns the same and says the sum."""
    cells, pooled = network(batch.grey)
    return map_loss(cells.float(), pooled.float(), batch)


def segmenter_loss(network: Segmenter, batch: Batch, progress: float) -> Tensor:
    """Of a one-class segmenter; the batch holds that class alone."""
    return pixel_loss(network(batch.grey).float(), batch.pixels, max(progress, 0.5))
