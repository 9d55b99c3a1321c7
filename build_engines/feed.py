"""What a training is fed: batches that are a function of the seed and the step alone, made in worker processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from build_engines import datasets, losses, splits, synthesize
from build_engines.augment import Varier
from build_engines.datasets import Sample
from build_engines.defaults import PARTS
from build_engines.ensemble import refuse_leak
from build_engines.losses import Raw
from build_engines.networks import CELL_STRIDE, PIXEL_STRIDE
from build_engines.runs import Facts, save_facts
from build_engines.settings import Settings
from inspector.errors import ConfigError

LOG = logging.getLogger(__name__)

ENRICHED_CLEAN = 0.3
"""Share of the clean real frames that get synthesized defects; the rest must stay clean, for they are few."""

FAVOURITE_SHARE, HARD_SHARE = 0.5, 0.25
"""Of a segmenter's frames: those with its class, and those that gate and types let through wrongly."""

VISIBLE_PX = 80
"""Area from which a defect that the crop's border cut still makes the crop defective, camera px; less where the set's
own defects are smaller."""

SHARED_MEMORY = Path("/dev/shm")
"""Where torch's processes hand their batches over."""

FADED_FROM, FADED_TO = 0.7, 0.4
"""From this part of the training on there is less and less painted and synthetic steel, in the end so many times as
much as at its beginning: the last word have real frames."""

LEAST_WHOLE = 4
"""Whole tiles in a batch, at least."""

AHEAD = 3
"""Batches that each worker prepares before they are asked for."""


@dataclass
class Feed:
    """Draws the batches of a training; a batch is a function of the seed and the step alone."""

    settings: Settings
    classes: Sequence[int]
    real: list[Sample]
    extra: list[Sample]
    varier: Varier
    unlabelled: list[Sample] = field(default_factory=list)
    validation: list[Sample] = field(default_factory=list)
    favourite: int | None = None
    """Class number that half of the frames shall have: for the segmenter of that class."""
    hard: Mapping[int, list[Sample]] = field(default_factory=dict)
    """Class -> frames without it that gate and types let through (see mining)."""
    visible_px: float = VISIBLE_PX
    buckets: dict[bool, dict[int, list[Sample]]] = field(init=False, default_factory=dict)
    variers: dict[tuple[bool, bool], Varier] = field(init=False, default_factory=dict)
    """By whether examples are whole tiles, of anywhere on the strip, and whether they are plain (see Recipe)."""
    hard_real: Mapping[int, list[Sample]] = field(init=False, default_factory=dict)
    """Of `hard`, what is no synthetic steel."""

    def __post_init__(self) -> None:
        self.buckets = {True: _buckets(self.real), False: _buckets(self.extra)}
        own = self.settings
        factor = PIXEL_STRIDE * own.scale
        self.varier = replace(
            self.varier,
            height=own.height,
            width=own.width,
            tile=own.tile,
            factor=factor,
            recipe=own.recipe,
            favourite=None if self.favourite is None else list(self.classes).index(self.favourite),
        )
        anywhere = replace(own.recipe, aimed=0.0)
        whole = replace(self.varier, height=own.tile[0], width=own.tile[1], recipe=anywhere)
        for tiles, varier in ((False, self.varier), (True, whole)):
            self.variers[tiles, False] = varier
            self.variers[tiles, True] = replace(varier, recipe=varier.recipe.plain)
        real = set(map(id, self.real))
        self.hard_real = {number: [each for each in some if id(each) in real] for number, some in self.hard.items()}

    def raw(self, step: int) -> Raw:
        """The batch of a step, before it is varied on the device."""
        rng = np.random.default_rng([self.settings.seed, step])
        own = self.settings
        painted = float(np.interp(step / own.steps, (FADED_FROM, 1.0), (1.0, FADED_TO)))
        whole = own.ends(step, own.whole)
        examples = []
        for _ in range(self._whole_batch() if whole else own.batch):
            plain = own.plain > 0 and bool(rng.random() < own.plain)
            example = self._example(self.variers[whole, plain], rng, 0.0 if plain else painted)
            examples.append(replace(example, plain=plain))
        return losses.collate(examples)

    def _whole_batch(self) -> int:
        """As many whole tiles as there are pixels in a batch of crops, but not next to none."""
        own = self.settings
        share = own.height * own.width / (own.tile[0] * own.tile[1])
        return min(own.batch, max(LEAST_WHOLE, round(own.batch * share)))

    def _example(self, varier: Varier, rng: np.random.Generator, painted: float) -> Any:
        """`painted`: how many times the usual share of painted and synthetic steel there is; 0: real frames alone."""
        if self.settings.distill and self.unlabelled and rng.random() < self.settings.unlabelled_share:
            return varier.example(self.unlabelled[int(rng.integers(len(self.unlabelled)))], rng, painted=painted)
        hard = (self.hard if painted else self.hard_real).get(self.favourite or -1, [])
        if hard and rng.random() < HARD_SHARE:
            return varier.example(hard[int(rng.integers(len(hard)))], rng, enrich=False)
        real = not self.extra or bool(rng.random() >= painted * self.settings.extra_share)
        sample = self._draw(self.buckets[real], rng, FAVOURITE_SHARE / (1 - HARD_SHARE) if hard else FAVOURITE_SHARE)
        enrich = real and bool(sample.classes or rng.random() < ENRICHED_CLEAN)
        return varier.example(sample, rng, enrich, painted)

    def _draw(
        self, buckets: dict[int, list[Sample]], rng: np.random.Generator, favourite: float = FAVOURITE_SHARE
    ) -> Sample:
        """A sample of these buckets; `favourite` is the share of the favourite class, so that it is FAVOURITE_SHARE of
        all examples, the hard ones among them."""
        keys = sorted(buckets)
        weights = np.array([len(buckets[key]) ** 0.5 for key in keys])
        fixed = {
            keys.index(number): share
            for number, share in ((self.favourite, favourite), (0, self.settings.clean))
            if number in buckets
        }
        others = [index for index in range(len(keys)) if index not in fixed]
        for index, share in fixed.items():
            weights[index] = share
        if others:
            rest = max(0.0, 1.0 - sum(fixed.values()))
            weights[others] *= rest / weights[others].sum()
        bucket = buckets[keys[int(rng.choice(len(keys), p=weights / weights.sum()))]]
        return bucket[int(rng.integers(len(bucket)))]

    def stream(self, first: int, last: int) -> Iterator[Raw]:
        """Batches of the steps first..last-1, the coming ones made while one is used."""
        workers = self.settings.workers
        if workers and self._shared_bytes() < shutil.disk_usage(SHARED_MEMORY).free:
            yield from self._from_processes(first, last)
            return
        if workers:
            LOG.warning("%s is too small for %s processes: threads prepare the batches", SHARED_MEMORY, workers)
        yield from self._from_threads(first, last, max(1, workers))

    def _shared_bytes(self) -> int:
        """What the processes may have in shared memory: every batch that is ahead, twice."""
        own = self.settings
        pixels = own.batch * own.height * own.width
        if own.whole:
            pixels = max(pixels, self._whole_batch() * own.tile[0] * own.tile[1])
        return round(2 * own.workers * AHEAD * pixels * (1 + len(self.classes) / self.varier.factor**2))

    def _from_threads(self, first: int, last: int, count: int) -> Iterator[Raw]:
        with ThreadPoolExecutor(count) as makers:
            coming = deque(makers.submit(self.raw, step) for step in range(first, min(last, first + count)))
            for step in range(first, last):
                ready = coming.popleft().result()
                if step + count < last:
                    coming.append(makers.submit(self.raw, step + count))
                yield ready

    def _from_processes(self, first: int, last: int) -> Iterator[Raw]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["build_engines.feed"])
        yield from DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=range(first, last),
            num_workers=min(self.settings.workers, max(1, last - first)),
            multiprocessing_context=context,
            prefetch_factor=AHEAD,
            pin_memory=self.settings.device.startswith("cuda"),
            worker_init_fn=_begin_worker,
        )


class _Steps(Dataset[Raw]):
    """A feed as torch's loader wants it: the item of a step is its batch."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __getitem__(self, step: int) -> Raw:
        return self._feed.raw(step)


def _begin_worker(number: int) -> None:
    cv2.setNumThreads(0)
    os.nice(1)  # the process that feeds the device goes first


def _buckets(samples: list[Sample]) -> dict[int, list[Sample]]:
    """By class, and 0 for clean; a frame with two classes is in two."""
    found: dict[int, list[Sample]] = {}
    for sample in samples:
        for number in sample.classes or (0,):
            found.setdefault(number, []).append(sample)
    return found


def prepare_feed(settings: Settings) -> Feed:
    """Read the data, split it (or read the run's split) and collect what defects can be synthesized from.

    Raises:
        ConfigError: no labelled defect to learn from, or a picture or mask that cannot be read.
    """
    names = datasets.read_names(settings.names)
    samples = datasets.read(settings.data, names)
    extra = [sample for folder in settings.extra for sample in _of_classes(folder, samples)]
    classes = datasets.class_numbers(samples)
    shapes = [] if settings.shapes is None else synthesize.read_shapes(settings.shapes, classes)
    parts = _split(settings, samples, extra)  # last, as it looks at every picture
    learnt = _more_labelled(settings, samples, names)
    real = [sample for sample in learnt if sample.labelled and parts.get(sample.name) == "train"]
    if not datasets.class_numbers(real):
        raise ConfigError(f"{settings.data}: the training part has no labelled defect. Add frames with masks")
    save_facts(_facts(settings, classes, names), settings.out)
    donors = _by(synthesize.donors(real, classes), lambda donor: donor.position)
    varier = Varier(classes, settings.height, settings.width, recipe=settings.recipe, donors=donors)
    varier.shapes = _by(shapes, lambda shape: shape.defect_class)
    feed = Feed(settings, classes, real, extra, varier, visible_px=visible_px(real))
    feed.unlabelled = [sample for sample in learnt if not sample.labelled and parts.get(sample.name) == "train"]
    feed.validation = [sample for sample in samples if sample.labelled and parts.get(sample.name) == "validation"]
    return feed


def _of_classes(folder: Path, samples: Sequence[Sample]) -> list[Sample]:
    """The labelled frames of one more folder."""
    found = [sample for sample in datasets.read(folder) if sample.labelled]
    _refuse_strange(folder, found, samples)
    return found


def _more_labelled(settings: Settings, samples: list[Sample], names: Mapping[int, str]) -> list[Sample]:
    """The samples, with the labels of --labels where there are some."""
    if settings.labels is None:
        return samples
    found = datasets.with_labels(samples, settings.labels, names)
    _refuse_strange(settings.labels, found, samples)
    return found


def _refuse_strange(folder: Path, found: Sequence[Sample], samples: Sequence[Sample]) -> None:
    """A class that the data lack would be taught as clean steel."""
    if strange := datasets.strange(found, datasets.class_numbers(samples)):
        raise ConfigError(f"{folder}: class {strange[1]} is none of the data's. Remove its rows, or the folder")


def _split(settings: Settings, samples: list[Sample], extra: list[Sample]) -> dict[str, str]:
    """The run's split; made, after every picture was looked at, where it has none."""
    file = settings.out / "split.json"
    if not file.is_file():
        datasets.check([*samples, *extra])
        shares = dict(settings.shares or PARTS.items())
        if settings.folds:
            parts = splits.fold(samples, settings.folds, settings.fold, shares)
        elif settings.parent and settings.shares is None:
            parts = splits.extended(samples, splits.load(settings.parent / "split.json"))
        else:
            parts = splits.split(samples, shares=shares)
        _refuse_seen(samples, parts, settings)
        splits.save(parts, file)
    return splits.load(file)


def _refuse_seen(samples: Sequence[Sample], parts: Mapping[str, str], settings: Settings) -> None:
    """What the parent has learnt from cannot be held back any more."""
    if settings.parent is not None:
        labelled = {sample.name for sample in samples if sample.labelled}
        refuse_leak({name: part for name, part in parts.items() if name in labelled}, settings.parent)


def _facts(settings: Settings, classes: list[int], names: dict[int, str]) -> Facts:
    height, width = settings.tile
    side = CELL_STRIDE * max(settings.scale, settings.gate_scale)
    for name, value in zip(("--crop-height", "--crop-width"), settings.crop, strict=True):
        if value % side:
            raise ConfigError(f"{name} {value}: not a multiple of {side} px, which this --scale needs")
    if height % side or width % side:
        raise ConfigError(f"tile of {height} x {width} px: both must be multiples of {side} px at this --scale")
    named = {number: names.get(number, f"class {number}") for number in classes}
    return Facts(
        classes=classes, names=named, scale=settings.scale, gate_scale=settings.gate_scale, height=height, width=width
    )


def visible_px(samples: Sequence[Sample]) -> float:
    """VISIBLE_PX, or half of what 98 % of the set's own defects exceed where that is less."""
    areas = [sample.area_px(number) for sample in samples for number in sample.classes]
    return float(np.clip(np.quantile(areas, 0.02) / 2, 4, VISIBLE_PX)) if areas else VISIBLE_PX


def _by(items: list[Any], key: Callable[[Any], int]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
