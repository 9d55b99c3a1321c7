"""Verdicts without the segmenters, and without the types: what is known then is which tiles, and perhaps of what class.

Nothing that the whole cascade might have reported is passed over: a tile that the types name no class for surely, but
some class perhaps, is told as that class with its low score, as nobody can ask the segmenter for the area that would
have decided.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inspector.events import NOT_TYPED
from inspector.pack import Manifest, TileSize
from inspector.records import Batch, Region, Tile, Verdict

Scores = NDArray[np.float32]
Box = tuple[int, int, int, int]
"""(left, top, right, bottom), px."""


def add_coarse(
    batch: Batch,
    passed: Sequence[int],
    gate: Scores,
    types: Scores | None,
    verdicts: Sequence[Verdict],
    manifest: Manifest,
) -> None:
    """Give the verdicts of a batch a coarse region for each class and each group of tiles that touch.

    Args:
        passed: the tiles that passed the gate, as indices of `batch.tiles`.
        gate: scores [tiles] of the whole batch.
        types: scores [len(passed), classes]; None: the types were not asked, and all have the class NOT_TYPED.
    """
    named = _untyped(gate[passed]) if types is None else _named(types, manifest)
    tiles = [batch.tiles[index] for index in passed]
    for number, scores in named.items():
        for frame in dict.fromkeys(tiles[row].frame for row in scores):
            verdict = verdicts[frame]
            rows = [row for row in scores if tiles[row].frame == frame]
            score = max(scores[row] for row in rows)
            if types is not None:  # as with segmenters: the geometric mean of what was asked
                score = (verdict.gate_score * score) ** 0.5
            boxes = groups([_box(tiles[row], manifest.tile, verdict) for row in rows])
            verdict.regions += [_region(box, number, score) for box in boxes]


def _untyped(gate: Scores) -> dict[int, dict[int, float]]:
    return {NOT_TYPED: dict(enumerate(gate.tolist()))}


def _named(types: Scores, manifest: Manifest) -> dict[int, dict[int, float]]:
    """Class number -> row of `types` -> score: each class that is believed, else the surest that its segmenter would
    have been asked about."""
    found: dict[int, dict[int, float]] = {}
    numbers = [entry.number for entry in manifest.classes]
    thresholds, floors = manifest.types.thresholds, manifest.types.floors
    for row, scores in enumerate(types.tolist()):
        named = [(n, s) for n, s in zip(numbers, scores, strict=True) if s >= thresholds[n]]
        if not named:
            doubtful = [(n, s) for n, s in zip(numbers, scores, strict=True) if s >= floors[n]]
            named = [max(doubtful, key=lambda each: each[1])] if doubtful else []
        for number, score in named:
            found.setdefault(number, {})[row] = score
    return found


def _box(tile: Tile, size: TileSize, verdict: Verdict) -> Box:
    """The part of a tile that is strip."""
    height, width = verdict.frame.pixels.shape
    right, bottom = min(tile.x + size.width, width, verdict.roi.right), min(tile.y + size.height, height)
    return max(tile.x, verdict.roi.left), tile.y, right, bottom


def groups(boxes: Sequence[Box]) -> list[Box]:
    """The boxes around those that touch or overlap, in the order of the strip."""
    apart: list[Box] = []
    for box in boxes:
        while touching := [other for other in apart if _touch(box, other)]:
            apart = [other for other in apart if other not in touching]
            lefts, tops, rights, bottoms = zip(box, *touching, strict=True)
            box = min(lefts), min(tops), max(rights), max(bottoms)
        apart.append(box)
    return sorted(apart, key=lambda one: (one[1], one[0]))


def _touch(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _region(box: Box, number: int, score: float) -> Region:
    left, top, right, bottom = box
    mask = np.ones((bottom - top, right - left), dtype=np.bool_)
    return Region(number, left, top, mask, int(mask.size), score, coarse=True)
