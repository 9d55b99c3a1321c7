"""Splits by look-alike group: frames of one roll resemble each other; a random split rewards remembering them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.datasets import BLACK, Sample, picture

PARTS = {"train": 0.62, "validation": 0.13, "test": 0.25}
"""Part -> share of the labelled frames."""

NEIGHBOURS = 8
LARGEST_SHARE = 0.08
"""No group grows beyond this share of the frames, or one chain of likenesses would swallow the set."""


def descriptor(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a frame looks like, whatever its defects: its tones and its texture at two scales, float32 [N]."""
    small = cv2.resize(pixels, (400, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    strip = small[small > BLACK]
    if strip.size < small.size // 50:
        strip = small.ravel()
    parts = [_histogram(strip, 0.0, 256.0)]
    for scale in (1.0, 4.0):
        blurred = cv2.GaussianBlur(small, (0, 0), scale)
        for step in ((1, 0), (0, 1)):
            slope = np.abs(cv2.Sobel(blurred, cv2.CV_32F, *step))[small > BLACK]
            parts.append(_histogram(np.log1p(slope), 0.0, 6.0))
    return np.concatenate(parts)


def _histogram(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    counts = np.histogram(values, bins=24, range=(low, high))[0].astype(np.float32)
    return np.asarray(np.sqrt(counts / max(float(counts.sum()), 1.0)), dtype=np.float32)


def groups(samples: Sequence[Sample]) -> list[int]:
    """A group number for each sample: nearest neighbours joined from the closest pair on, until half the frames' links
    are used up; each group is kept small."""
    described = np.stack([descriptor(picture(sample)) for sample in samples])
    parent = list(range(len(samples)))
    size = Counter(parent)
    largest = max(3, int(len(samples) * LARGEST_SHARE))
    links = _closest_pairs(described)
    for first, second in links[: len(samples)]:
        one, other = _root(parent, first), _root(parent, second)
        if one != other and size[one] + size[other] <= largest:
            parent[other] = one
            size[one] += size[other]
    return [_root(parent, index) for index in range(len(samples))]


def _closest_pairs(described: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Pairs of near neighbours, closest first; one row of distances in memory at a time."""
    found: dict[tuple[int, int], float] = {}
    for index, row in enumerate(described):
        distances = np.square(described - row).sum(axis=1)
        distances[index] = np.inf
        for other in np.argsort(distances, kind="stable")[:NEIGHBOURS].tolist():
            found[min(index, other), max(index, other)] = float(distances[other])
    return sorted(found, key=lambda pair: (found[pair], pair))


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def split(samples: Sequence[Sample], grouped: Sequence[int] | None = None) -> dict[str, str]:
    """Name -> part for the labelled samples; a group is never divided, and each part gets its share of each class.

    Groups go one after another, the ones with the rarest classes first, to the part that lacks them most.
    Unlabelled samples belong to the part of their group, or to "train" where none of the group is labelled.
    """
    members: dict[int, list[Sample]] = defaultdict(list)
    for sample, group in zip(samples, grouped if grouped is not None else groups(samples), strict=True):
        members[group].append(sample)
    total = Counter(key for sample in samples for key in _keys(sample))
    have: dict[str, Counter[int]] = {part: Counter() for part in PARTS}
    parts: dict[str, str] = {}
    for group in sorted(members, key=lambda number: _urgency(members[number], total)):
        counts = Counter(key for sample in members[group] for key in _keys(sample))
        part = max(PARTS, key=lambda name: _lack(name, have[name], counts, total)) if counts else "train"
        have[part] += counts
        parts |= {sample.name: part for sample in members[group]}
    return parts


def _keys(sample: Sample) -> tuple[int, ...]:
    """What a split balances: the classes, or 0 for a clean frame."""
    return () if sample.truth is None else sample.classes or (0,)


def _urgency(members: list[Sample], total: Counter[int]) -> tuple[float, int, str]:
    rarest = min((total[key] for sample in members for key in _keys(sample)), default=10**9)
    return rarest, -len(members), members[0].name


def _lack(part: str, have: Counter[int], counts: Counter[int], total: Counter[int]) -> float:
    """How far the part is below its share of what this group brings, rare classes weighing more."""
    return sum(number * (PARTS[part] - have[key] / total[key]) / total[key] for key, number in counts.items())


def save(parts: dict[str, str], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(parts, indent=0, sort_keys=True), encoding="utf-8")


def load(file: Path) -> dict[str, str]:
    """Name -> part, as `save` wrote it."""
    parts: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return parts
