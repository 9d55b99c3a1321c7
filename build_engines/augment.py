"""From samples to training examples: a varied crop of a frame with its truth.

An example's truth lives on two grids: `pixels` at a quarter of the camera's resolution, for segmenters, and `cells`
at a thirty-second, for the maps of gate and types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.datasets import BLACK, Masks, Picture, Sample, fit, masks, picture
from build_engines.synthesize import Donor, Shape, lattice, paint, paint_pseudo, transplant

QUARTER, CELL = 4, 32
CELL_SHARE = 0.2
"""A cell is wholly defect from this share of its pixels on; below it, in proportion."""


@dataclass(frozen=True)
class Example:
    """`frame` uint8 [H, W]; `pixels` float32 [C, H/4, W/4] and `cells` float32 [C, H/32, W/32], 0..1."""

    frame: Picture
    pixels: NDArray[np.float32]
    cells: NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """How often an example is varied in which way, each a probability."""

    aimed: float = 0.7
    """The crop is laid over a defect rather than anywhere on the strip."""
    painted: float = 0.35
    transplanted: float = 0.4
    pseudo: float = 0.15
    lattice: float = 0.1
    """A clean frame becomes chequer plate."""
    erased: float = 0.08
    """All defects are blacked out, which leaves a hard clean frame."""
    toned: float = 0.85
    blurred: float = 0.2
    noisy: float = 0.3


@dataclass
class Varier:
    """Makes examples of one size out of samples."""

    classes: Sequence[int]
    height: int
    width: int
    shapes: dict[int, list[Shape]] = field(default_factory=dict)
    donors: dict[int, list[Donor]] = field(default_factory=dict)
    """By position of the class."""
    recipe: Recipe = field(default_factory=Recipe)

    def example(self, sample: Sample, rng: np.random.Generator, enrich: bool = True) -> Example:
        """A varied crop of a labelled sample; `enrich` adds painted and transplanted defects to it."""
        frame, truth = picture(sample).copy(), masks(sample, self.classes)
        frame, truth = self._crop(*_resized(frame, truth, rng), rng)
        if rng.random() < self.recipe.erased:
            frame, truth = _blacked_out(frame, truth)
        if enrich:
            self._enrich(frame, truth, rng)
        elif not truth.any() and rng.random() < self.recipe.lattice:
            lattice(frame, rng)
        frame, truth = _mirrored(frame, truth, rng)
        return label(self._toned(frame, rng), truth)

    def _crop(self, frame: Picture, truth: Masks, rng: np.random.Generator) -> tuple[Picture, Masks]:
        frame, truth = _at_least(frame, truth, self.height, self.width)
        row, column = self._aim(frame, truth, rng)
        top = int(np.clip(row - rng.integers(0, self.height), 0, frame.shape[0] - self.height))
        left = int(np.clip(column - rng.integers(0, self.width), 0, frame.shape[1] - self.width))
        box = np.s_[top : top + self.height, left : left + self.width]
        return frame[box].copy(), truth[(slice(None), *box)].copy()

    def _aim(self, frame: Picture, truth: Masks, rng: np.random.Generator) -> tuple[int, int]:
        """A pixel that the crop shall hold: of a defect (each class alike), or of the strip, never of the margin."""
        present = [index for index in range(len(self.classes)) if truth[index].any()]
        target = frame > BLACK
        if present and rng.random() < self.recipe.aimed:
            target = truth[int(rng.choice(present))] > 0
        columns = np.flatnonzero(target.any(axis=0))
        if columns.size == 0:
            return int(rng.integers(0, frame.shape[0])), int(rng.integers(0, frame.shape[1]))
        column = int(rng.choice(columns))
        return int(rng.choice(np.flatnonzero(target[:, column]))), column

    def _enrich(self, frame: Picture, truth: Masks, rng: np.random.Generator) -> None:
        if self.shapes and rng.random() < self.recipe.painted:
            for _ in range(int(rng.integers(1, 4))):
                kind = int(rng.choice(list(self.shapes)))
                paint(frame, truth, self.classes, self.shapes[kind][int(rng.integers(len(self.shapes[kind])))], rng)
        if self.donors and rng.random() < self.recipe.transplanted:
            for _ in range(int(rng.integers(1, 3))):
                kind = int(rng.choice(list(self.donors)))
                transplant(frame, truth, self.donors[kind][int(rng.integers(len(self.donors[kind])))], rng)
        if rng.random() < self.recipe.pseudo:
            paint_pseudo(frame, truth, rng)

    def _toned(self, frame: Picture, rng: np.random.Generator) -> Picture:
        """Another lamp, another focus, another sensor."""
        values = frame.astype(np.float32)
        if rng.random() < self.recipe.toned:
            left, right = rng.normal(0, 0.15, 2)
            lamp = np.linspace(left, right, num=values.shape[1], dtype=np.float32)
            values *= np.exp(rng.normal(0, 0.25) + lamp)
            values = 255.0 * np.power(np.clip(values / 255.0, 0, 1), float(np.exp(rng.normal(0, 0.12))))
        if rng.random() < self.recipe.blurred:
            values = np.asarray(cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.5, 1.3))), dtype=np.float32)
        if rng.random() < self.recipe.noisy:
            values += rng.standard_normal(values.shape, dtype=np.float32) * float(rng.uniform(1, 6))
        return np.clip(values, 0, 255).astype(np.uint8)


def _resized(frame: Picture, truth: Masks, rng: np.random.Generator) -> tuple[Picture, Masks]:
    if rng.random() < 0.5:
        return frame, truth
    tall, wide = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 2))
    size = (max(16, int(frame.shape[1] * wide)), max(16, int(frame.shape[0] * tall)))
    resized = np.stack([cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) for mask in truth])
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8), resized


def _at_least(frame: Picture, truth: Masks, height: int, width: int) -> tuple[Picture, Masks]:
    """Zero-padded where the picture is smaller than the crop: beyond it there is no strip."""
    size = max(height, frame.shape[0]), max(width, frame.shape[1])
    return fit(frame, *size), fit(truth, *size)


def _blacked_out(frame: Picture, truth: Masks) -> tuple[Picture, Masks]:
    anything: Picture = np.max(truth, axis=0)
    frame[cv2.dilate(anything, np.ones((9, 9), np.uint8)) > 0] = 0
    return frame, np.zeros_like(truth)


def _mirrored(frame: Picture, truth: Masks, rng: np.random.Generator) -> tuple[Picture, Masks]:
    axes = tuple(axis for axis in (-2, -1) if rng.random() < 0.5)
    return np.flip(frame, axes), np.flip(truth, axes)


def label(frame: Picture, truth: Masks) -> Example:
    """An example of a frame whose sides are multiples of 32 px."""
    pixels = _pooled(truth.astype(np.float32), QUARTER)
    cells = np.minimum(_pooled(pixels, CELL // QUARTER) / CELL_SHARE, 1.0)
    return Example(np.ascontiguousarray(frame), pixels, cells)


def _pooled(grid: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    count, height, width = grid.shape
    blocks = grid.reshape(count, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(2, 4)), dtype=np.float32)
