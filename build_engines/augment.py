"""From samples to training examples: a varied crop of a frame with its truth, on the CPU.

What needs a frame's geometry or the frames of others is done here, in worker processes; lamp, focus and noise are
varied where the network is (see variation). Truth is uint8, 255 = certainly defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.datasets import BLACK, Masks, Picture, Sample, fit, masks, picture
from build_engines.synthesize import CERTAIN, Donor, Shape, lattice, paint, paint_pseudo, transplant

ERASED_RIM_PX = 9

OVERHUNG = 0.3
"""Share of the crops that may reach beyond a picture that is smaller than the tile."""


@dataclass(frozen=True)
class Example:
    """`frame` uint8 [H, W]; `pixels` uint8 [C, H / factor, W / factor], 255 = all of it is defect."""

    frame: Picture
    pixels: NDArray[np.uint8]
    known: bool = True
    """False: nobody knows what is on the frame, but for what was painted on it."""


@dataclass(frozen=True)
class Recipe:
    """How often an example is varied in which way, each a probability."""

    aimed: float = 0.7
    """The crop is laid over a defect rather than anywhere on the strip."""
    resized: float = 0.5
    painted: float = 0.35
    transplanted: float = 0.4
    pseudo: float = 0.15
    lattice: float = 0.1
    """A clean frame becomes chequer plate."""
    erased: float = 0.08
    """All defects are blacked out, which leaves a hard clean frame."""
    turned: float = 0.0
    """Height and width change places, for sets whose pictures have no direction and are square."""
    toned: float = 0.85
    banded: float = 0.3
    """Another roll: smooth bands along or across the strip."""
    blurred: float = 0.25
    noisy: float = 0.3


@dataclass
class Varier:
    """Makes examples of one size out of samples."""

    classes: Sequence[int]
    height: int
    width: int
    tile: tuple[int, int] = (0, 0)
    """What the networks will be given, px: where it reaches beyond the picture, so do crops now and then."""
    factor: int = 4
    """Camera pixels along a side of a pixel of the truth."""
    shapes: dict[int, list[Shape]] = field(default_factory=dict)
    donors: dict[int, list[Donor]] = field(default_factory=dict)
    """By position of the class."""
    recipe: Recipe = field(default_factory=Recipe)

    def example(self, sample: Sample, rng: np.random.Generator, enrich: bool = True) -> Example:
        """A varied crop of a sample; `enrich` adds painted and transplanted defects to it."""
        frame, truth = self._crop(picture(sample), masks(sample, self.classes), rng)
        truth *= CERTAIN
        if sample.labelled and truth.any() and rng.random() < self.recipe.erased:
            frame, truth = _blacked_out(frame, truth)
        if enrich:
            self._enrich(frame, truth, rng)
        elif sample.truth == {} and rng.random() < self.recipe.lattice:
            lattice(frame, rng)
        frame, truth = self._mirrored(frame, truth, rng)
        return label(frame, truth, self.factor, sample.labelled)

    def plain(self, sample: Sample) -> Example:
        """The sample as it is, from its top left corner: for validation and mining."""
        truth = masks(sample, self.classes) * np.uint8(CERTAIN)
        fitted = fit(picture(sample), self.height, self.width), fit(truth, self.height, self.width)
        return label(*fitted, self.factor, sample.labelled)

    def _crop(self, frame: Picture, truth: Masks, rng: np.random.Generator) -> tuple[Picture, Masks]:
        """A box of the picture, resized to the crop's size; zero beyond the picture, where there is no strip."""
        tall, wide = 1.0, 1.0
        if rng.random() < self.recipe.resized:
            tall, wide = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 2))
        height, width = max(16, round(self.height / tall)), max(16, round(self.width / wide))
        row, column = self._aim(frame, truth, rng)
        beyond = [max(0, tile - side) for tile, side in zip(self.tile, frame.shape, strict=True)]
        if rng.random() >= OVERHUNG:
            beyond = [0, 0]
        top = _from(row - int(rng.integers(0, height)), frame.shape[0] - height, beyond[0], rng)
        left = _from(column - int(rng.integers(0, width)), frame.shape[1] - width, beyond[1], rng)
        box, size = _Box(top, left, height, width), (self.width, self.height)
        return _resized(box.cut(frame), size), np.stack([_resized(box.cut(mask), size, True) for mask in truth])

    def _aim(self, frame: Picture, truth: Masks, rng: np.random.Generator) -> tuple[int, int]:
        """A pixel that the crop shall hold: of a defect (each class alike), or of the strip, never of the margin."""
        if self.height >= frame.shape[0] and self.width >= frame.shape[1]:
            return 0, 0
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

    def _mirrored(self, frame: Picture, truth: Masks, rng: np.random.Generator) -> tuple[Picture, Masks]:
        axes = tuple(axis for axis in (-2, -1) if rng.random() < 0.5)
        frame, truth = np.flip(frame, axes), np.flip(truth, axes)
        if frame.shape[0] == frame.shape[1] and rng.random() < self.recipe.turned:
            frame, truth = frame.swapaxes(-1, -2), truth.swapaxes(-1, -2)
        return frame, truth


@dataclass(frozen=True)
class _Box:
    top: int
    left: int
    height: int
    width: int

    def cut(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What lies in the box, zero where that is beyond the plane; a copy."""
        rows = slice(max(0, self.top), min(plane.shape[0], self.top + self.height))
        columns = slice(max(0, self.left), min(plane.shape[1], self.left + self.width))
        whole = np.zeros((self.height, self.width), np.uint8)
        piece = plane[rows, columns]
        y, x = rows.start - self.top, columns.start - self.left
        whole[y : y + piece.shape[0], x : x + piece.shape[1]] = piece
        return whole


def _from(wish: int, room: int, beyond: int, rng: np.random.Generator) -> int:
    """Where a crop begins: inside the picture, or `beyond` so many px behind its end at most; where the picture is
    smaller, so that all of it is in the crop."""
    if room < 0:
        return int(rng.integers(room, 1)) if rng.random() < 0.5 else 0
    return int(np.clip(wish, 0, room + beyond))


def _resized(plane: NDArray[np.uint8], size: tuple[int, int], mask: bool = False) -> NDArray[np.uint8]:
    if plane.shape == size[::-1]:
        return plane
    if mask and not plane.any():
        return np.zeros(size[::-1], np.uint8)
    how = cv2.INTER_NEAREST if mask else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(plane, size, interpolation=how), dtype=np.uint8)


def _blacked_out(frame: Picture, truth: Masks) -> tuple[Picture, Masks]:
    anything: Picture = np.max(truth, axis=0)
    frame[cv2.dilate(anything, np.ones((ERASED_RIM_PX, ERASED_RIM_PX), np.uint8)) > 0] = 0
    return frame, np.zeros_like(truth)


def label(frame: Picture, truth: Masks, factor: int, known: bool = True) -> Example:
    """An example of a frame whose sides are multiples of `factor` px."""
    size = frame.shape[1] // factor, frame.shape[0] // factor
    pixels = np.zeros((len(truth), size[1], size[0]), np.uint8)
    for own, mask in zip(pixels, truth, strict=True):
        if mask.any():
            own[:] = cv2.resize(np.ascontiguousarray(mask), size, interpolation=cv2.INTER_AREA)
    return Example(np.ascontiguousarray(frame), pixels, known)
