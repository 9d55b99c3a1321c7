"""From samples to training examples: a varied crop of a frame with its truth, on the CPU.

What needs a frame's geometry or the frames of others is done here, in worker processes; lamp, focus and noise are
varied where the network is (see variation). Truth is uint8, 255 = certainly defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.datasets import BLACK, Masks, Picture, Sample, fit, masks, picture
from build_engines.synthesize import (
    CERTAIN,
    Donor,
    Shape,
    beside_edge,
    cut_margin,
    edge_bound,
    edges,
    lattice,
    paint,
    paint_pseudo,
    transplant,
)

ERASED_RIM_PX = 9

FAVOURED = 0.75
"""Share of the aimed crops of a frame with the favourite class that are laid over that class."""

FILL_TRIES = 8

OVERHUNG = 0.3
"""Share of the crops that may reach beyond a picture that is smaller than the tile."""


@dataclass(frozen=True)
class Example:
    """`frame` uint8 [H, W]; `pixels` uint8 [C, H / factor, W / factor], 255 = all of it is defect."""

    frame: Picture
    pixels: NDArray[np.uint8]
    known: bool = True
    """False: nobody knows what is on the frame, but for what was painted on it."""
    plain: bool = False
    """The frame is as it was taken, mirrored and turned at most, and remains so (see Recipe.plain)."""


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
    erased: float = 0.15
    """All defects are removed, which leaves a hard clean frame: steel of the same frame instead, or black."""
    margin: float = 0.3
    """The strip ends in the picture, where a class lies along its edges."""
    turned: float = 0.0
    """Height and width change places, for sets whose pictures have no direction and are square."""
    toned: float = 0.85
    banded: float = 0.3
    """Another roll: smooth bands along or across the strip."""
    blurred: float = 0.25
    noisy: float = 0.3

    @property
    def plain(self) -> Recipe:
        """Crops, mirrored and turned alone: the frames as they are."""
        kept = {"aimed": self.aimed, "turned": self.turned}
        return Recipe(**dict.fromkeys((each.name for each in fields(self)), 0.0) | kept)


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
    favourite: int | None = None
    """Position of the class that crops are rather laid over."""
    bound: dict[int, list[int]] = field(init=False, default_factory=dict)
    """By position of a class that lies along the strip's edges: how far from them its defects lie, px."""

    def __post_init__(self) -> None:
        found = {position: edge_bound(own) for position, own in self.donors.items()}
        self.bound = {position: distances for position, distances in found.items() if distances}

    def example(self, sample: Sample, rng: np.random.Generator, enrich: bool = True, painted: float = 1.0) -> Example:
        """A varied crop of a sample; `enrich` adds painted and transplanted defects to it, the painted ones `painted`
        times as often as the recipe says."""
        frame, truth, origin = self._crop(picture(sample), masks(sample, self.classes), rng)
        truth *= CERTAIN
        if sample.labelled and truth.any() and rng.random() < self.recipe.erased:
            frame, truth = _erased(frame, truth, rng)
        if enrich:
            self._enrich(frame, truth, rng, origin, painted)
        elif sample.truth == {} and rng.random() < self.recipe.lattice:
            lattice(frame, rng)
        frame, truth = self._mirrored(frame, truth, rng)
        return label(frame, truth, self.factor, sample.labelled)

    def plain(self, sample: Sample) -> Example:
        """The sample as it is, as large as the tile: for validation."""
        truth = masks(sample, self.classes) * np.uint8(CERTAIN)
        height, width = max(self.height, self.tile[0]), max(self.width, self.tile[1])
        fitted = fit(picture(sample), height, width), fit(truth, height, width)
        return label(*fitted, self.factor, sample.labelled)

    def _crop(self, frame: Picture, truth: Masks, rng: np.random.Generator) -> tuple[Picture, Masks, _Origin]:
        """A box of the picture, resized to the crop's size; zero beyond the picture, where there is no strip."""
        tall, wide = 1.0, 1.0
        if rng.random() < self.recipe.resized:
            tall, wide = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 2))
        height, width = max(16, round(self.height / tall)), max(16, round(self.width / wide))
        row, column = self._aim(frame, truth, (height, width), rng)
        beyond = [max(0, tile - side) for tile, side in zip(self.tile, frame.shape, strict=True)]
        if rng.random() >= OVERHUNG:
            beyond = [0, 0]
        top = _from(row - int(rng.integers(0, height)), frame.shape[0] - height, beyond[0], rng)
        left = _from(column - int(rng.integers(0, width)), frame.shape[1] - width, beyond[1], rng)
        box, size = _Box(top, left, height, width), (self.width, self.height)
        origin = _Origin(top, left, self.height / height, self.width / width)
        return _resized(box.cut(frame), size), np.stack([_resized(box.cut(mask), size, True) for mask in truth]), origin

    def _aim(self, frame: Picture, truth: Masks, box: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """A pixel that the crop shall hold: of a defect (each class alike), or of the strip, never of the margin."""
        if box[0] >= frame.shape[0] and box[1] >= frame.shape[1]:
            return 0, 0
        present = [index for index in range(len(self.classes)) if truth[index].any()]
        target = frame > BLACK
        if present and rng.random() < self.recipe.aimed:
            favoured = self.favourite in present and rng.random() < FAVOURED
            target = truth[self.favourite if favoured else int(rng.choice(present))] > 0
        columns = np.flatnonzero(target.any(axis=0))
        if columns.size == 0:
            return int(rng.integers(0, frame.shape[0])), int(rng.integers(0, frame.shape[1]))
        column = int(rng.choice(columns))
        return int(rng.choice(np.flatnonzero(target[:, column]))), column

    def _enrich(self, frame: Picture, truth: Masks, rng: np.random.Generator, origin: _Origin, painted: float) -> None:
        if self.bound and edges(frame) == (None, None) and rng.random() < self.recipe.margin:
            cut_margin(frame, truth, rng)
        if self.shapes and rng.random() < painted * self.recipe.painted:
            for _ in range(int(rng.integers(1, 4))):
                kind = int(rng.choice(list(self.shapes)))
                self._paint(frame, truth, self.shapes[kind][int(rng.integers(len(self.shapes[kind])))], rng, origin)
        if self.donors and rng.random() < self.recipe.transplanted:
            for _ in range(int(rng.integers(1, 3))):
                kind = int(rng.choice(list(self.donors)))
                donor = self.donors[kind][int(rng.integers(len(self.donors[kind])))]
                transplant(frame, truth, donor, rng, self._from_edge(kind, rng))
        if rng.random() < painted * self.recipe.pseudo:
            paint_pseudo(frame, truth, rng)

    def _paint(self, frame: Picture, truth: Masks, shape: Shape, rng: np.random.Generator, origin: _Origin) -> None:
        """At the shape's own place, where the crop holds that, else anywhere; of an edge's class at an edge only."""
        position = list(self.classes).index(shape.defect_class)
        distance = self._from_edge(position, rng)
        if distance is None:
            paint(frame, truth, position, shape, rng, origin.place(shape.top, shape.left))
        else:
            place = beside_edge(frame, (shape.height, shape.width), distance, rng)
            paint(frame, truth, position, shape, rng, place, elsewhere=False)

    def _from_edge(self, position: int, rng: np.random.Generator) -> int | None:
        """How far from the strip's edge the next defect of a class lies, px; None: anywhere."""
        known = self.bound.get(position)
        return None if known is None else max(8, round(float(rng.choice(known)) * float(rng.uniform(0.7, 1.3))))

    def _mirrored(self, frame: Picture, truth: Masks, rng: np.random.Generator) -> tuple[Picture, Masks]:
        axes = tuple(axis for axis in (-2, -1) if rng.random() < 0.5)
        frame, truth = np.flip(frame, axes), np.flip(truth, axes)
        if frame.shape[0] == frame.shape[1] and rng.random() < self.recipe.turned:
            frame, truth = frame.swapaxes(-1, -2), truth.swapaxes(-1, -2)
        return frame, truth


@dataclass(frozen=True)
class _Origin:
    """Where a crop begins in its picture, and how much it was enlarged."""

    top: int
    left: int
    tall: float
    wide: float

    def place(self, top: int, left: int) -> tuple[int, int]:
        """Where a place of the picture is in the crop, px."""
        return round((top - self.top) * self.tall), round((left - self.left) * self.wide)


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


def _erased(frame: Picture, truth: Masks, rng: np.random.Generator) -> tuple[Picture, Masks]:
    """The frame without its defects: steel from elsewhere in it instead, or black, which must teach nothing either."""
    anything = cv2.dilate(np.max(truth, axis=0), np.ones((ERASED_RIM_PX, ERASED_RIM_PX), np.uint8))
    hole = anything > 0
    for _ in range(FILL_TRIES if rng.random() < 0.75 else 0):
        axis = int(rng.integers(2))
        shift = int(rng.integers(ERASED_RIM_PX, frame.shape[axis] - ERASED_RIM_PX))
        moved, taken = np.roll(frame, shift, axis), np.roll(hole, shift, axis)
        if not taken[hole].any() and np.mean(moved[hole] > BLACK) > 0.97:
            share = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), 2.5)
            return (frame * (1 - share) + moved * share).astype(np.uint8), np.zeros_like(truth)
    frame[hole] = 0
    return frame, np.zeros_like(truth)


def label(frame: Picture, truth: Masks, factor: int, known: bool = True) -> Example:
    """An example of a frame whose sides are multiples of `factor` px."""
    size = frame.shape[1] // factor, frame.shape[0] // factor
    pixels = np.zeros((len(truth), size[1], size[0]), np.uint8)
    for own, mask in zip(pixels, truth, strict=True):
        if mask.any():
            own[:] = cv2.resize(np.ascontiguousarray(mask), size, interpolation=cv2.INTER_AREA)
    return Example(np.ascontiguousarray(frame), pixels, known)
