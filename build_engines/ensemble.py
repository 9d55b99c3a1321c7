"""Self-training and distillation: teachers of finished runs label what nobody labelled, and soften what somebody did.

The teachers see the same crop as the student, before it was varied, and answer with probabilities: their mean is the
truth of an unlabelled frame (joined by what was painted on it), and SOFT of the truth of a labelled one, whose masks
are coarse polygons. No soft label is ever stored, so every variation of a frame gets its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor

from build_engines import splits
from build_engines.losses import Batch, Raw
from build_engines.networks import Teacher, prepare
from build_engines.runs import blank, facts_of, weights
from inspector.errors import ConfigError

SOFT = 0.3
"""Share of the teachers' opinion in the truth of a labelled frame."""


@dataclass
class Ensemble:
    """Teachers and the scale that each of them looks at."""

    teachers: list[tuple[Teacher, int]]

    @classmethod
    def load(
        cls, runs: Sequence[Path], classes: Sequence[int], device: torch.device, own: Mapping[str, str]
    ) -> Ensemble:
        """The teachers of finished runs. `own` is the student's split.

        Raises:
            ConfigError: a run has no teacher, was trained for other classes, or on frames that the student keeps back.
        """
        found = []
        for run in runs:
            facts = facts_of(run)
            if facts.classes != list(classes):
                raise ConfigError(f"{run}: trained for classes {facts.classes}, not {list(classes)}. Name another run")
            refuse_leak(own, run)
            teacher = blank("teacher", len(classes))
            teacher.load_state_dict(weights("teacher", run))
            assert isinstance(teacher, Teacher)
            found.append((teacher.eval().to(device, memory_format=torch.channels_last), facts.scale))  # type: ignore[call-overload]
        return cls(found)

    @torch.no_grad()
    def opinion(self, frames: Tensor, like: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Mean probabilities on the grids of `like`: pixels, cells, present."""
        sums = [torch.zeros_like(part) for part in (like.pixels, like.cells, like.present)]
        for teacher, scale in self.teachers:
            pixels, cells, pooled = teacher(prepare(frames, scale))
            sums[0] += _on(torch.sigmoid(pixels.float()), like.pixels)
            sums[1] += _on(torch.sigmoid(cells.float()), like.cells)
            sums[2] += torch.sigmoid(pooled.float())
        first, second, third = (part / len(self.teachers) for part in sums)
        return first, second, third

    def teach(self, raw: Raw, batch: Batch) -> Batch:
        """The batch with truth as the head of this file says."""
        opinions = self.opinion(raw.frames, batch)
        parts = []
        for truth, opinion in zip((batch.pixels, batch.cells, batch.present), opinions, strict=True):
            known = raw.known.view(-1, *[1] * (truth.dim() - 1))
            parts.append(torch.where(known, (1 - SOFT) * truth + SOFT * opinion, torch.maximum(truth, opinion)))
        return replace(batch, pixels=parts[0], cells=parts[1], present=parts[2])


def refuse_leak(own: Mapping[str, str], run: Path) -> None:
    """A teacher that was trained on the student's held-out frames would tell it what is on them."""
    theirs = splits.load(run / "split.json")
    told = [name for name, part in own.items() if part != "train" and theirs.get(name) == "train"]
    if told:
        raise ConfigError(
            f"{run}: its teacher was trained on {len(told)} frames that this run keeps back, such as {told[0]}. "
            "Train it with the same --shares or fold"
        )


def _on(values: Tensor, like: Tensor) -> Tensor:
    """Probabilities resized to another grid."""
    if values.shape == like.shape:
        return values
    return functional.interpolate(values, size=like.shape[-2:], mode="area")
