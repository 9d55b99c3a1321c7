"""What a training is fed: batches that are a function of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from build_engines import datasets, losses, splits, synthesize
from build_engines.augment import Varier
from build_engines.datasets import Sample
from build_engines.losses import Batch
from build_engines.settings import Settings
from inspector.errors import ConfigError

ENRICHED_CLEAN = 0.3
"""Share of the clean real frames that get synthesized defects; the rest must stay clean, for they are few."""


@dataclass
class Feed:
    """Draws the batches of a training; a batch is a function of the seed and the step alone."""

    settings: Settings
    classes: Sequence[int]
    real: list[Sample]
    extra: list[Sample]
    varier: Varier
    favourite: int | None = None
    """Class number that half of the frames shall have: for the segmenter of that class."""
    buckets: dict[bool, dict[int, list[Sample]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.buckets = {True: _buckets(self.real), False: _buckets(self.extra)}
        self.varier = replace(self.varier, height=self.settings.height, width=self.settings.width)

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng([self.settings.seed, step])
        examples = []
        for _ in range(self.settings.batch):
            real = not self.extra or bool(rng.random() >= self.settings.extra_share)
            sample = self._draw(self.buckets[real], rng)
            enrich = real and bool(sample.classes or rng.random() < ENRICHED_CLEAN)
            examples.append(self.varier.example(sample, rng, enrich))
        return losses.collate(examples, torch.device(self.settings.device))

    def _draw(self, buckets: dict[int, list[Sample]], rng: np.random.Generator) -> Sample:
        keys = sorted(buckets)
        weights = np.array([len(buckets[key]) ** 0.5 for key in keys])
        for number, share in ((self.favourite, 0.6), (0, self.settings.clean)):
            if number in buckets and len(keys) > 1:
                weights[keys.index(number)] = 0
                weights[keys.index(number)] = weights.sum() * share / (1 - share)
        bucket = buckets[keys[int(rng.choice(len(keys), p=weights / weights.sum()))]]
        return bucket[int(rng.integers(len(bucket)))]

    def stream(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of the steps first..last-1, the next one made while one is used."""
        with ThreadPoolExecutor(1) as maker:
            coming = maker.submit(self.batch, first)
            for step in range(first, last):
                ready = coming.result()
                if step + 1 < last:
                    coming = maker.submit(self.batch, step + 1)
                yield ready


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
        ConfigError: no labelled defect to learn from.
    """
    samples = datasets.read(settings.data)
    file = settings.out / "split.json"
    if not file.is_file():
        parts = splits.load(settings.parent / "split.json") if settings.parent else splits.split(samples)
        splits.save(parts, file)
    parts = splits.load(file)
    real = [sample for sample in samples if sample.labelled and parts.get(sample.name) == "train"]
    classes = datasets.class_numbers(samples)
    if not datasets.class_numbers(real):
        raise ConfigError(f"{settings.data}: the training part has no labelled defect. Add frames with masks")
    extra = [sample for folder in settings.extra for sample in datasets.read(folder) if sample.labelled]
    varier = Varier(classes, settings.height, settings.width, recipe=settings.recipe)
    varier.donors = _by(synthesize.donors(real, classes), lambda donor: donor.position)
    if settings.shapes is not None:
        varier.shapes = _by(synthesize.read_shapes(settings.shapes, classes), lambda shape: shape.defect_class)
    return Feed(settings, classes, real, extra, varier)


def _by(items: list[Any], key: Callable[[Any], int]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
