"""Splits by look-alike group: frames of one roll resemble each other; a random split rewards remembering them.

A group is what images.csv says, where it says it. Else it is measured: pictures whose descriptors (tones, and steepness
of slopes at two scales; both the same for a picture and its mirror images and quarter turns) differ by less than
DUPLICATE belong together whatever the size of the group; then the nearest neighbours are joined from the closest pair
on, as many pairs as there are pictures, as long as no group grows beyond LARGEST_SHARE.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from build_engines.datasets import BLACK, Sample, decode
from build_engines.defaults import PARTS
from build_engines.files import write_whole
from build_engines.progress import shown
from inspector.errors import ConfigError

NEIGHBOURS = 8
LARGEST_SHARE = 0.08
"""No group grows beyond this share of the frames, or one chain of likenesses would swallow the set."""

DUPLICATE = 0.02
"""Squared distance below which two pictures are the same one, turned or compressed anew. Measured: turned copies of
a picture, compressed anew, lie at 0.0005 to 0.01; the nearest other picture of a real set rarely below 0.05."""

DESCRIBED_PX = 25_600
"""A picture is described at about this many pixels."""

SLOPE_WEIGHT = 2.0


def descriptor(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a picture looks like, however it is turned: tones and slopes at two scales, float32 [72]."""
    shrink = min(1.0, (DESCRIBED_PX / pixels.size) ** 0.5)
    size = (max(8, round(pixels.shape[1] * shrink)), max(8, round(pixels.shape[0] * shrink)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    strip = small > BLACK
    if np.count_nonzero(strip) < small.size // 50:
        strip[:] = True
    parts = [_histogram(small[strip], 0.0, 256.0)]
    for scale in (1.0, 4.0):
        blurred = cv2.GaussianBlur(small, (0, 0), scale)
        slope = np.hypot(cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1))
        parts.append(SLOPE_WEIGHT * _histogram(np.log1p(slope[strip]), 0.0, 6.0))
    return np.concatenate(parts)


def _histogram(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    counts = np.histogram(values, bins=24, range=(low, high))[0].astype(np.float32)
    return np.asarray(np.sqrt(counts / max(float(counts.sum()), 1.0)), dtype=np.float32)


def groups(samples: Sequence[Sample]) -> list[int]:
    """A group number for each sample, as the head of this file says."""
    if samples and all(sample.group is not None for sample in samples):
        numbers = {name: number for number, name in enumerate(dict.fromkeys(sample.group for sample in samples))}
        return [numbers[sample.group] for sample in samples]
    parent = list(range(len(samples)))
    size = Counter(parent)
    largest = max(3, int(len(samples) * LARGEST_SHARE))
    for distance, first, second in _links(samples):
        one, other = _root(parent, first), _root(parent, second)
        if one != other and (distance < DUPLICATE or size[one] + size[other] <= largest):
            parent[other] = one
            size[one] += size[other]
    return [_root(parent, index) for index in range(len(samples))]


def group_of(samples: Sequence[Sample]) -> dict[str, int]:
    """Name -> group. For a part of a set take those of the whole set: the part alone falls into other groups."""
    return dict(zip((sample.name for sample in samples), groups(samples), strict=True))


def _links(samples: Sequence[Sample]) -> list[tuple[float, int, int]]:
    """Pairs to join, closest first: what images.csv joins, duplicates, and as many near ones as there are samples."""
    first: dict[str, int] = {}
    told = []
    for index, sample in enumerate(samples):
        if sample.group is not None and first.setdefault(sample.group, index) != index:
            told.append((0.0, first[sample.group], index))
    with ThreadPoolExecutor() as pool:
        coming = pool.map(lambda sample: descriptor(decode(sample.path)), samples)
        described = np.stack(list(shown(coming, "looking for look-alikes", len(samples))))
    pairs = _closest_pairs(described)
    many = max(len(samples), sum(distance < DUPLICATE for distance, *_ in pairs))
    return told + pairs[:many]


def _closest_pairs(described: NDArray[np.float32]) -> list[tuple[float, int, int]]:
    """Pairs of near neighbours, closest first; one row of distances in memory at a time."""
    found: dict[tuple[int, int], float] = {}
    squares = np.square(described).sum(axis=1)
    for index, row in enumerate(described):
        distances = np.maximum(squares + squares[index] - 2 * (described @ row), 0)
        distances[index] = np.inf
        near = np.argpartition(distances, min(NEIGHBOURS, len(distances) - 1))[:NEIGHBOURS]
        for other in near.tolist():
            if other != index:
                found[min(index, other), max(index, other)] = float(distances[other])
    return sorted((distance, *pair) for pair, distance in found.items())


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def split(
    samples: Sequence[Sample],
    grouped: Sequence[int] | None = None,
    shares: Mapping[str, float] = PARTS,
    seed: int = 1,
) -> dict[str, str]:
    """Name -> part for the samples; a group is never divided, and each part gets its share of each class.

    Groups go one after another, the ones with the rarest classes first (equals in an order of the seed), to the part
    that lacks them most. Groups with nothing labelled belong to the first part.
    """
    members: dict[int, list[Sample]] = defaultdict(list)
    for sample, group in zip(samples, grouped if grouped is not None else groups(samples), strict=True):
        members[group].append(sample)
    total = Counter(key for sample in samples for key in _keys(sample))
    wanted = {part: share for part, share in shares.items() if share > 0}
    have: dict[str, Counter[int]] = {part: Counter() for part in wanted}
    parts: dict[str, str] = {}
    for group in sorted(members, key=lambda number: _urgency(members[number], total, seed)):
        counts = Counter(key for sample in members[group] for key in _keys(sample))
        part = next(iter(wanted))
        if counts:
            part = max(wanted, key=lambda name: _lack(wanted[name], have[name], counts, total))
        have[part] += counts
        parts |= {sample.name: part for sample in members[group]}
    return parts


def extended(samples: Sequence[Sample], known: Mapping[str, str], seed: int = 1) -> dict[str, str]:
    """The parts of a split that may not know all of the samples: a new one goes where its look-alikes are, and groups
    that are wholly new are divided as by `split`."""
    if all(sample.name in known for sample in samples):
        return {sample.name: known[sample.name] for sample in samples}
    grouped = groups(samples)
    part_of = {
        group: known[sample.name] for sample, group in zip(samples, grouped, strict=True) if sample.name in known
    }
    new = [(sample, group) for sample, group in zip(samples, grouped, strict=True) if group not in part_of]
    divided = split([sample for sample, _ in new], [group for _, group in new], seed=seed)
    return {
        sample.name: known.get(sample.name) or part_of.get(group) or divided[sample.name]
        for sample, group in zip(samples, grouped, strict=True)
    }


def fold(
    samples: Sequence[Sample], folds: int, own: int, shares: Mapping[str, float] = PARTS, seed: int = 1
) -> dict[str, str]:
    """The split of cross-validation's fold `own` of 1..folds: that fold is the test, and the rest is divided into
    training and validation as `shares` has them to each other.

    Raises:
        ConfigError: there is no such fold.
    """
    if folds < 2 or not 1 <= own <= folds:
        raise ConfigError(f"--fold {own} of --folds {folds}: there are folds 1 to {max(2, folds)}, and two at least")
    grouped = groups(samples)
    names = [f"fold {number}" for number in range(1, folds + 1)]
    parts = split(samples, grouped, dict.fromkeys(names, 1.0 / folds), seed)
    rest = [
        (sample, group) for sample, group in zip(samples, grouped, strict=True) if parts[sample.name] != names[own - 1]
    ]
    train, validation = shares.get("train", 0.0), shares.get("validation", 0.0)
    inner_shares = {"train": train / (train + validation), "validation": validation / (train + validation)}
    inner = split([sample for sample, _ in rest], [group for _, group in rest], inner_shares, seed)
    whole = {sample.name: inner.get(sample.name, "test") for sample in samples}
    return whole | _unlabelled(samples, grouped, whole)


def _unlabelled(samples: Sequence[Sample], grouped: Sequence[int], parts: Mapping[str, str]) -> dict[str, str]:
    """Name -> part of the frames that nobody is graded on: for training, but those that look like a kept one are kept
    back with it, for somebody may have labelled them for the training (--labels)."""
    kept = {group: parts[sample.name] for sample, group in zip(samples, grouped, strict=True) if sample.labelled}
    return {
        sample.name: kept.get(group, "train")
        for sample, group in zip(samples, grouped, strict=True)
        if not sample.labelled
    }


def _keys(sample: Sample) -> tuple[int, ...]:
    """What a split balances: the classes, or 0 for a clean frame."""
    return () if sample.truth is None else sample.classes or (0,)


def _urgency(members: list[Sample], total: Counter[int], seed: int) -> tuple[float, int, int]:
    rarest = min((total[key] for sample in members for key in _keys(sample)), default=10**9)
    return rarest, -len(members), zlib.crc32(f"{seed} {members[0].name}".encode())


def _lack(share: float, have: Counter[int], counts: Counter[int], total: Counter[int]) -> float:
    """How far the part is below its share of what this group brings, rare classes weighing more."""
    return sum(number * (share - have[key] / total[key]) / total[key] for key, number in counts.items())


def save(parts: Mapping[str, str], file: Path) -> None:
    """Write a split that is whole or as it was before."""
    write_whole(file, json.dumps(parts, indent=0, sort_keys=True).encode())


def load(file: Path) -> dict[str, str]:
    """Name -> part, as `save` wrote it.

    Raises:
        ConfigError: there is no such file, or it is no whole split.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}. Name the split.json of a run, which `train` makes") from None
    except ValueError as error:  # msgspec's errors are
        raise ConfigError(
            f"{file}: not a whole split: {error}. Remove it and run the same `train` again: it divides as before"
        ) from None
