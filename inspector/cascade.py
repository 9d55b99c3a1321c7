"""Batch -> verdicts: the gate on all, types where it fires, the segmenters that the types name.

The stages are compacted: a later network sees only the tiles that an earlier one let through. The veto of the types
is soft: a class whose score is low must show a larger area to be believed (published cascades with a hard AND
lose recall at every stage).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.coarse import add_coarse
from inspector.events import Depth
from inspector.pack import Manifest, Pack, pixel_level
from inspector.records import Batch, Region, Roi, Tile, Verdict, Verdicts, sized
from inspector.runtimes import Patch, Stream

AMPLE = 4
"""At so many times its minimum area a region is half sure by its size, as small ones are more often false.
docs/training.md has what that was worth."""


class Cascade:
    """The six networks of one worker."""

    def __init__(self, pack: Pack, stream: Stream, merge_px: int) -> None:
        self._manifest = pack.manifest
        self._digest = pack.digest
        self._stream = stream
        self._merge_px = merge_px
        self.passed = 0
        """Tiles of the last batch that passed the gate."""
        self.segmented: dict[str, int] = {}
        """Class name -> tiles of the last batch that its segmenter was asked."""

    def judge(self, batch: Batch, depth: Depth = Depth.FULL) -> Verdicts:
        """A verdict for every frame of the batch, in its order. What lies beyond `depth` is not asked: whatever it
        would have been asked about becomes coarse regions (see coarse.py).

        Raises:
            EngineError: a network failed.
        """
        self.passed, self.segmented = 0, {}
        pairs = zip(batch.frames, batch.rois, strict=True)
        verdicts = [Verdict(frame, roi, 0.0, pack_digest=self._digest, depth=depth) for frame, roi in pairs]
        for index, seen in batch.sights.items():
            verdicts[index].sights = seen
        if batch.tiles:
            self._stream.load([tile.pixels for tile in batch.tiles])
            scores = self._stream.gate()
            fires = scores >= self._manifest.gate.threshold
            for tile, score, fired in zip(batch.tiles, scores.tolist(), fires.tolist(), strict=True):
                verdict = verdicts[tile.frame]
                verdict.gate_score = max(verdict.gate_score, score)
                verdict.passed = verdict.passed or fired
            passed = np.flatnonzero(fires).tolist()
            self.passed = len(passed)
            if passed and depth is Depth.FULL:
                self._find(batch, passed, verdicts)
            elif passed:
                types = None if depth is Depth.GATE else self._stream.types(passed)
                add_coarse(batch, passed, scores, types, verdicts, self._manifest)
        return Verdicts(batch.number, verdicts)

    def _find(self, batch: Batch, passed: list[int], verdicts: list[Verdict]) -> None:
        scores = self._stream.types(passed)
        chosen = self._named(scores)
        wanted = {number: [passed[row] for row in rows] for number, rows in chosen.items()}
        self._stream.expect(wanted)
        for column, entry in enumerate(self._manifest.classes):
            if entry.number not in wanted:
                continue
            rows, indices = chosen[entry.number], wanted[entry.number]
            self.segmented[entry.name] = len(indices)
            patches = self._stream.segment(entry.number, indices)
            tiles = [batch.tiles[index] for index in indices]
            for frame in dict.fromkeys(tile.frame for tile in tiles):
                own = [k for k, tile in enumerate(tiles) if tile.frame == frame]
                verdict = verdicts[frame]
                picture = _assemble([tiles[k] for k in own], [patches[k] for k in own], verdict.frame.pixels.shape)
                type_score = float(max(scores[rows[k], column] for k in own))
                verdict.regions += self._regions(picture, verdict, entry.number, type_score)
        for frame in {batch.tiles[index].frame for index in passed}:
            verdicts[frame].regions = apart(verdicts[frame].regions, verdicts[frame].frame.pixels.shape)

    def _named(self, scores: NDArray[np.float32]) -> dict[int, list[int]]:
        """Class number -> the rows of `scores` that name it, of the classes that any row names."""
        floors = [self._manifest.types.floors[entry.number] for entry in self._manifest.classes]
        rows = [np.flatnonzero(scores[:, column] >= floor).tolist() for column, floor in enumerate(floors)]
        return {entry.number: found for entry, found in zip(self._manifest.classes, rows, strict=True) if found}

    def _regions(self, picture: Patch, verdict: Verdict, number: int, type_score: float) -> list[Region]:
        segmenter = next(part for part in self._manifest.segmenters if part.class_number == number)
        needed = round(segmenter.minimum_area_px * veto_factor(self._manifest, number, type_score))
        needed_peak, ample = pixel_level(segmenter.seed), AMPLE * segmenter.minimum_area_px
        at = picture.y, picture.x
        found = regions(picture.values, verdict.roi, number, segmenter.threshold, self._merge_px, at)
        height = verdict.frame.pixels.shape[0]
        kept = []
        for region in found:
            region.needed_px, region.needed_peak = needed, needed_peak
            # With its size (see `sized`) the geometric mean of what types, segmenter and size say, each 0..1. The
            # gate's score is of the whole frame: with it regions are ranked no better.
            region.score, region.ample_px = (type_score * region.score) ** (1 / 3), ample
            reaches_seam = region.y <= self._merge_px or region.y + region.height >= height - self._merge_px
            if region.reported or reaches_seam:
                kept.append(region)
        return kept


def apart(found: list[Region], shape: tuple[int, ...]) -> list[Region]:
    """One place, one defect: without the regions most of which lies in surer ones of other classes.

    Classes of the reference task never overlap; segmenters that know nothing of each other may find the same damage.
    """
    if len({region.class_number for region in found}) < 2:
        return found
    taken, kept = np.zeros(shape, dtype=np.bool_), set[int]()
    for region in sorted(found, key=lambda one: (not one.reported, -sized(one.score, one.area_px, one.ample_px))):
        box = taken[region.y : region.y + region.height, region.x : region.x + region.width]
        if 2 * int(np.count_nonzero(box & region.mask)) <= region.area_px:
            kept.add(id(region))
            if region.reported:  # the others may come to nothing
                box |= region.mask
    return [region for region in found if id(region) in kept]


def veto_factor(manifest: Manifest, number: int, type_score: float) -> float:
    """How many times its minimum area a class must show: 1 at the threshold, `veto_area_factor` at the floor."""
    threshold, floor = manifest.types.thresholds[number], manifest.types.floors[number]
    if type_score >= threshold or threshold <= floor:
        return 1.0
    doubt = (threshold - type_score) / (threshold - floor)
    return 1.0 + (manifest.veto_area_factor - 1.0) * doubt


def _assemble(tiles: Sequence[Tile], patches: Sequence[Patch], shape: tuple[int, ...]) -> Patch:
    """What is known of a frame from what is known of its tiles."""
    if len(tiles) == 1 and tiles[0].pixels.shape == shape:  # by far the most
        return patches[0]
    return Patch(0, 0, drawn(tiles, patches, shape))


def drawn(tiles: Sequence[Tile], patches: Sequence[Patch], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The probability map of a frame [H, W] from those of its tiles; where lanes overlap the surer one counts."""
    canvas = np.zeros(shape, dtype=np.uint8)
    for tile, patch in zip(tiles, patches, strict=True):
        y, x = tile.y + patch.y, tile.x + patch.x
        part = canvas[y : y + patch.values.shape[0], x : x + patch.values.shape[1]]
        np.maximum(part, patch.values[: part.shape[0], : part.shape[1]], out=part)
    return canvas


def regions(
    picture: NDArray[np.uint8],
    roi: Roi,
    class_number: int,
    threshold: float,
    merge_px: int,
    at: tuple[int, int] = (0, 0),
) -> list[Region]:
    """The defects of one class in a probability map uint8 [H, W]: pieces with at most `merge_px` blank pixels between
    them, along rows, columns or diagonally, are one.

    Pixels beyond the strip's edges never count. The score is the mean probability over the region's mask. `at` is the
    row and column of the frame at which the map begins; whatever lies beyond the map is clean.
    """
    y, x = at
    mask = (picture >= pixel_level(threshold)).view(np.uint8)
    mask[:, : max(0, roi.left - x)] = 0
    mask[:, max(0, roi.right - x) :] = 0
    x0, y0, width, height = cv2.boundingRect(mask) if mask.size else (0, 0, 0, 0)
    if width == 0 or height == 0:
        return []
    # The border lets pieces grow together at the box's rim as they do inside it.
    inner = np.ascontiguousarray(mask[y0 : y0 + height, x0 : x0 + width])
    grown = cv2.dilate(inner, np.ones((merge_px + 1, merge_px + 1), np.uint8)) if merge_px else inner
    # As many pieces as can lie apart; where 16 bits can number them, that takes less than half the time of 32.
    most = (height // (merge_px + 2) + 1) * (width // (merge_px + 2) + 1)
    kind = cv2.CV_16U if most < 65_535 else cv2.CV_32S
    count, labels, stats, _ = cv2.connectedComponentsWithStats(grown, connectivity=8, ltype=kind)
    found = []
    for label in range(1, count):
        left, top, w, h = stats[label, :4].tolist()
        own = np.logical_and(labels[top : top + h, left : left + w] == label, inner[top : top + h, left : left + w])
        found.append(_region(own, picture, x0 + left, y0 + top, class_number))
    for region in found:
        region.x, region.y = region.x + x, region.y + y
    return sorted(found, key=lambda r: (r.y, r.x))


def _region(own: NDArray[np.bool_], picture: NDArray[np.uint8], x: int, y: int, class_number: int) -> Region:
    left, top, width, height = cv2.boundingRect(own.view(np.uint8))
    box = own[top : top + height, left : left + width].copy()
    x, y = x + left, y + top
    values = picture[y : y + height, x : x + width][box]
    mean, peak = float(values.mean(dtype=np.float64)) / 255.0, int(values.max())
    return Region(class_number, x, y, box, int(values.size), mean, peak=peak)
