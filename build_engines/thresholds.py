"""Thresholds of a pack, chosen on validation frames by a stated rule; never on frames whose figures are reported.

Gate: recall first. The highest threshold, at most 0.4, that keeps in every validation set 93 % of the defective frames
in which the rest of the cascade finds something true; to let others through costs time and reports nothing. Where no
validation frame is clean, nothing is won by holding one back: the lowest threshold.
Types: the threshold with the best F1; the floor keeps 98.5 % of the frames that have the class, within limits.
Segmenters: the pixel threshold, seed and minimum area with the best sum of the mean Dice of frames that have the class,
the IoU of all pixels together, on which areas and so severities rest, half the share of its defects that are found, and
half of 1 - false events a frame, among the frames that gate and types let through; seed and minimum area (with the veto
of the types) may delete at most 3 % of the defects that are found without them, and no minimum area is below a quarter
of what 95 % of the defects of the class exceed. Of equals the strictest. Real frames weigh as much as four sets of
synthetic strip, whatever the number of frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from build_engines.datasets import Sample, masks, strange
from build_engines.events import Blob, detects, truth_blobs
from build_engines.judging import batch_of, type_scores
from build_engines.progress import shown
from inspector.cascade import drawn, regions, veto_factor
from inspector.config import GradingConfig
from inspector.errors import ConfigError
from inspector.pack import Manifest, Pack
from inspector.records import Region
from inspector.runtimes import Stream
from inspector.runtimes import onnx as onnx_runtime

GATE_RECALL = 0.93
GATE_RANGE = (0.02, 0.4)
TYPES_FLOOR_RECALL = 0.985
TYPES_RANGE = (0.15, 0.7)
FLOOR_RANGE = (0.2, 0.35)
PIXEL_THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
AREAS_PX = (4, 8, 16, 32, 64, 100, 150, 200, 300, 450, 600)
SEEDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
AREA_OF_THE_UNKNOWN_PX = 100
"""Of a class that no validation frame shows."""

MERGE_PX = GradingConfig().merge_px

LOST_TO_AREA = 0.03
"""Seed and minimum area may delete at most this share of the defects that are found without them: what they delete
escapes."""

SMALLEST_SHARE, SMALLEST_QUANTILE = 0.25, 0.05
"""A found event that covers a quarter of a defect detects it (see events): what is smaller than a quarter of nearly all
defects of a class is none of them."""

MORE_WEIGHT = 0.25
"""Of a set of synthetic strip beside the real frames, which come first."""


Pieces = NDArray[np.int64]
"""[components, 4]: area, how much of it is true, px; its highest probability, 0..255; 1 where it detects a defect of
any class (see events)."""

Rule = tuple[float, float, int]
"""Pixel threshold, seed, minimum area."""

Reach = tuple[Pieces, float]
"""The pieces that detect a defect, and how many times the minimum area they must show (see `veto_factor`)."""


@dataclass
class Seen:
    """What the raw networks said of one validation frame."""

    source: int
    """Which validation set it is of."""
    gate: float
    types: NDArray[np.float32]
    truth_px: NDArray[np.int64]
    """Area of each class."""
    pieces: dict[tuple[int, float], Pieces] = field(default_factory=dict)
    """By position of the class and pixel threshold."""
    reach: dict[tuple[int, float], list[Pieces]] = field(default_factory=dict)
    """Likewise, for each defect of the class: the pieces that detect it."""
    defects: dict[int, list[int]] = field(default_factory=dict)
    """By position of the class: area of each of its defects, px."""
    weight: float = 1.0
    """Of its set over the frames of that (see `weighed`)."""


def choose(pack: Pack, sets: Sequence[Sequence[Sample]]) -> Manifest:
    """The pack's manifest with thresholds chosen on the labelled samples of the validation sets."""
    return chosen(pack.manifest, look(pack, sets))


def look(pack: Pack, sets: Sequence[Sequence[Sample]]) -> list[Seen]:
    """What the pack's networks say of the labelled samples of the validation sets, whatever its thresholds are.

    Raises:
        ConfigError: a sample has a class that the pack does not know, and would count as clean.
    """
    if found := strange([sample for samples in sets for sample in samples], pack.class_names):
        raise ConfigError(f"{found[0]}: class {found[1]} is none of the pack's. Name another --validation folder")
    with onnx_runtime.open(onnx_runtime.Options(workers=1), pack) as runtime:
        stream = runtime.stream()
        known = [(sample, source) for source, samples in enumerate(sets) for sample in samples if sample.labelled]
        return [_look(pack.manifest, stream, *own) for own in shown(known, "choosing thresholds")]


def chosen(manifest: Manifest, seen: Sequence[Seen]) -> Manifest:
    """The manifest with thresholds chosen by the rule at the head of this file."""
    seen = weighed(seen)
    open_gate = _with_rest(with_gate(manifest, 0.0), seen)
    findable = [one for one in seen if finds_truth(open_gate, one)]
    clean = any(not one.truth_px.any() for one in seen)
    return _with_rest(with_gate(manifest, gate_threshold(findable) if clean else GATE_RANGE[0]), seen)


def taken_over(manifest: Manifest, chosen: Manifest) -> Manifest:
    """The manifest with the thresholds of another one that has the same classes."""
    types, parts = chosen.types, {part.class_number: part for part in chosen.segmenters}
    segmenters = [
        msgspec.structs.replace(part, threshold=own.threshold, seed=own.seed, minimum_area_px=own.minimum_area_px)
        for part in manifest.segmenters
        for own in (parts[part.class_number],)
    ]
    return msgspec.structs.replace(
        with_gate(manifest, chosen.gate.threshold),
        types=msgspec.structs.replace(manifest.types, thresholds=types.thresholds, floors=types.floors),
        segmenters=segmenters,
    )


def with_gate(manifest: Manifest, threshold: float) -> Manifest:
    """The manifest with another threshold of the gate."""
    return msgspec.structs.replace(manifest, gate=msgspec.structs.replace(manifest.gate, threshold=threshold))


def _with_rest(manifest: Manifest, seen: Sequence[Seen]) -> Manifest:
    """Thresholds of types and segmenters on what the manifest's gate lets through."""
    return _with_segmenters(_with_types(manifest, seen), seen)


def weighed(seen: Sequence[Seen]) -> list[Seen]:
    """The same, each with its weight."""
    frames = Counter(one.source for one in seen)
    return [replace(one, weight=(MORE_WEIGHT if one.source else 1.0) / frames[one.source]) for one in seen]


def finds_truth(manifest: Manifest, one: Seen) -> bool:
    """Whether types and segmenters report a true piece of a defect in a frame."""
    for position, part in enumerate(manifest.segmenters):
        pieces = _kept(one.pieces.get((position, part.threshold), NOTHING), part.seed, part.minimum_area_px)
        if one.types[position] >= manifest.types.floors[part.class_number] and pieces[:, 1].any():
            return True
    return False


def _look(manifest: Manifest, stream: Stream, sample: Sample, source: int) -> Seen:
    numbers = [entry.number for entry in manifest.classes]
    truth = masks(sample, numbers).astype(bool)
    batch = batch_of(sample, 0, manifest)
    if not batch.tiles:
        return Seen(source, 0.0, np.zeros(len(numbers), np.float32), truth.sum(axis=(1, 2)))
    stream.load([tile.pixels for tile in batch.tiles])
    scores = type_scores(stream, batch, manifest)
    seen = Seen(source, float(stream.gate().max()), scores, truth.sum(axis=(1, 2)))
    defects = truth_blobs(truth, numbers, MERGE_PX)
    for position, number in enumerate(numbers):
        patches = stream.segment(number, range(len(batch.tiles)))
        probability = drawn(batch.tiles, patches, batch.frames[0].pixels.shape)
        own = [index for index, defect in enumerate(defects) if defect.class_number == number]
        seen.defects[position] = [defects[index].area_px for index in own]
        for threshold in PIXEL_THRESHOLDS:
            found = regions(probability, batch.rois[0], number, threshold, MERGE_PX)
            hits = _hits(found, defects)
            pieces = _pieces(found, truth[position], hits)
            seen.pieces[position, threshold] = pieces
            seen.reach[position, threshold] = [pieces[hits[:, index]] for index in own]
    return seen


class Asked(NamedTuple):
    """A frame about which a segmenter is asked."""

    seen: Seen
    factor: float
    """How many times the minimum area its class must show there."""


NOTHING: Pieces = np.zeros((0, 4), dtype=np.int64)


def _hits(found: Sequence[Region], defects: Sequence[Blob]) -> NDArray[np.bool_]:
    """Which region detects which defect, bool [regions, defects]."""
    blobs = [Blob(one.class_number, one.x, one.y, one.mask) for one in found]
    rows = [[detects(blob, defect) for defect in defects] for blob in blobs]
    return np.array(rows, dtype=bool).reshape(len(found), len(defects))


def _pieces(found: Sequence[Region], truth: NDArray[np.bool_], hits: NDArray[np.bool_]) -> Pieces:
    rows = [
        (region.area_px, int(_under(truth, region)[region.mask].sum()), region.peak, bool(hit.any()))
        for region, hit in zip(found, hits, strict=True)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def _kept(pieces: Pieces, seed: float, area: float) -> Pieces:
    """Those that are reported."""
    return pieces[(pieces[:, 0] >= area) & (pieces[:, 2] >= seed * 255)]


def _under(truth: NDArray[np.bool_], region: Region) -> NDArray[np.bool_]:
    return truth[region.y : region.y + region.height, region.x : region.x + region.width]


def lowest_to_keep(scores: Sequence[float], weights: Sequence[float], share: float) -> float:
    """The highest threshold that at least `share` of the weight reaches."""
    order = np.argsort(np.asarray(scores))[::-1]
    reached = np.cumsum(np.asarray(weights)[order]) / max(float(np.sum(weights)), 1e-12)
    index = int(np.searchsorted(reached, share - 1e-9))
    return float(np.asarray(scores)[order][min(index, len(order) - 1)])


def gate_threshold(findable: Sequence[Seen]) -> float:
    """The rule of the gate, set by set: the set that needs the lowest one decides."""
    thresholds = []
    for source in {entry.source for entry in findable}:
        scores = [entry.gate for entry in findable if entry.source == source]
        thresholds.append(lowest_to_keep(scores, [1.0] * len(scores), GATE_RECALL))
    return _within(min(thresholds, default=0.5) * 0.98, GATE_RANGE)


def _within(value: float, limits: tuple[float, float]) -> float:
    return round(float(np.clip(value, *limits)), 3)


def _with_types(manifest: Manifest, seen: Sequence[Seen]) -> Manifest:
    thresholds, floors = {}, {}
    passed = [entry for entry in seen if entry.gate >= manifest.gate.threshold]
    for position, entry in enumerate(manifest.classes):
        scores = np.array([one.types[position] for one in passed])
        weights = np.array([one.weight for one in passed])
        true = np.array([one.truth_px[position] > 0 for one in passed], dtype=bool)
        thresholds[entry.number] = _best_f1(scores, true, weights)
        kept = lowest_to_keep(scores[true].tolist(), weights[true].tolist(), TYPES_FLOOR_RECALL) if true.any() else 0.1
        floors[entry.number] = _within(min(kept, thresholds[entry.number] / 2), FLOOR_RANGE)
    return msgspec.structs.replace(
        manifest, types=msgspec.structs.replace(manifest.types, thresholds=thresholds, floors=floors)
    )


def _best_f1(scores: NDArray[np.float32], true: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    if not true.any():
        return 0.5
    grid = np.arange(TYPES_RANGE[0], TYPES_RANGE[1] + 1e-9, 0.05)
    said = scores[None, :] >= grid[:, None]
    hits = (said & true) @ weights
    values = 2 * hits / (said @ weights + float(weights[true].sum()))
    best = np.flatnonzero(values >= values.max() - 1e-9)
    return round(float(grid[best].mean()), 3)


def _with_segmenters(manifest: Manifest, seen: Sequence[Seen]) -> Manifest:
    parts = []
    for position, entry in enumerate(manifest.classes):
        part = next(part for part in manifest.segmenters if part.class_number == entry.number)
        floor = manifest.types.floors[entry.number]
        asked = [
            Asked(one, veto_factor(manifest, entry.number, float(one.types[position])))
            for one in seen
            if one.gate >= manifest.gate.threshold and one.types[position] >= floor
        ]
        smallest = _smallest([area for one in seen for area in one.defects.get(position, [])])
        threshold, seed, area = _best_rule(asked, position, smallest)
        parts.append(msgspec.structs.replace(part, threshold=threshold, seed=seed, minimum_area_px=area))
    return msgspec.structs.replace(manifest, segmenters=parts)


def _smallest(areas: Sequence[int]) -> float:
    return SMALLEST_SHARE * float(np.quantile(areas, SMALLEST_QUANTILE)) if areas else 0.0


def _best_rule(asked: Sequence[Asked], position: int, smallest: float) -> Rule:
    """The rule that serves best; of equals the strictest."""
    if not any(own.seen.truth_px[position] for own in asked):
        return 0.5, 0.0, AREA_OF_THE_UNKNOWN_PX
    areas = [area for area in AREAS_PX if area >= smallest] or [AREAS_PX[-1]]
    reaches = {threshold: _reaches(asked, position, threshold) for threshold in PIXEL_THRESHOLDS}
    rules = [
        (threshold, seed, area)
        for threshold, reach in reaches.items()
        for seed in SEEDS
        if not seed or seed > threshold
        for area in areas
        if (area == areas[0] and not seed) or lost(reach, seed, area, areas[0]) <= LOST_TO_AREA
    ]
    return max(rules, key=lambda rule: (round(_worth(asked, reaches[rule[0]], position, rule), 9), rule))


def _reaches(asked: Sequence[Asked], position: int, threshold: float) -> list[Reach]:
    return [(reach, own.factor) for own in asked for reach in own.seen.reach.get((position, threshold), [])]


def lost(reach: Sequence[Reach], seed: float, area: int, least: int = 0) -> float:
    """Share of the defects that are found from the area `least` on, and not with this seed and minimum area, which
    grows where the types doubt."""
    found = [own for own in reach if len(_kept(own[0], 0.0, least))]
    return sum(not len(_kept(pieces, seed, factor * area)) for pieces, factor in found) / len(found) if found else 0.0


def _worth(asked: Sequence[Asked], reach: Sequence[Reach], position: int, rule: Rule) -> float:
    threshold, seed, area = rule
    dice, false, weights = 0.0, 0.0, [1e-12, 1e-12]
    overlap, union = 0.0, 1e-12
    for one, factor in asked:
        kept = _kept(one.pieces.get((position, threshold), NOTHING), seed, factor * area)
        true_px, found_px, both_px = int(one.truth_px[position]), int(kept[:, 0].sum()), int(kept[:, 1].sum())
        false += one.weight * int((kept[:, 3] == 0).sum())
        weights[0] += one.weight
        overlap += one.weight * both_px
        union += one.weight * (found_px + true_px - both_px)
        if true_px:
            dice += one.weight * 2.0 * both_px / (found_px + true_px)
            weights[1] += one.weight
    recall = sum(len(_kept(pieces, seed, factor * area)) > 0 for pieces, factor in reach) / max(1, len(reach))
    return dice / weights[1] + overlap / union + 0.5 * recall + 0.5 * (1 - false / weights[0])
