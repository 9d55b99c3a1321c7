"""The settings of a training, and how each network is trained beside the others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from build_engines.augment import Recipe
from build_engines.defaults import CROP_WIDTH, SCALE


@dataclass(frozen=True)
class Stint:
    """How one network is trained, beside the teacher's number of steps."""

    steps: float
    """Share of the teacher's steps."""
    batch: int
    whole: bool
    """Gate and types see whole tiles, as their one score is of the whole; the others see crops."""
    rate: float
    clean: float
    """Share of clean frames."""


STINTS = {
    "teacher": Stint(1.0, 8, False, 1.5e-3, 0.3),
    "gate": Stint(0.15, 4, True, 5e-4, 0.35),
    "types": Stint(0.15, 4, True, 5e-4, 0.35),
    "segment": Stint(0.2, 8, False, 7e-4, 0.25),
}
"""Beside a teacher that they all start from, they need few steps. The gate learns what types learns: half of its
examples clean, or more steps, made it worse (docs/training.md)."""

GATE_OF_ANOTHER_SCALE = Stint(0.3, 6, True, 1e-3, 0.5)
"""Its teacher has not seen what it sees."""

DISTILLED_STEPS = 1.5
"""A student that learns from an ensemble has more to learn than its own teacher knew: so many times the steps."""


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
    """A finished run whose teacher (and split, and gate if that has a scale of its own) this one goes on from, such as
    the shipped pack's."""
    labels: Path | None = None
    """A folder with labels of frames whose truth `data` does not know: to learn from, never to measure by."""
    distill: tuple[Path, ...] = ()
    """Finished runs whose teachers label the unlabelled frames and soften the truth of the others."""
    unlabelled_share: float = 0.25
    """Of a batch, where there are unlabelled frames and somebody to label them."""
    names: Path | None = None
    shares: tuple[tuple[str, float], ...] | None = None
    """Part -> share of the labelled frames; None: as the parent has divided them, or PARTS."""
    folds: int = 0
    """Cross-validation: so many folds, of which `fold` (1..folds) is kept for the test; 0: one split by `shares`."""
    fold: int = 0
    scale: int = SCALE
    """The networks look at the picture at 1 / scale of the camera's resolution."""
    gate_scale: int = 0
    """Of the gate alone, which sees every frame and must be cheap; 0: the same."""
    steps: int = 2000
    batch: int = 8
    height: int = 256
    width: int = 640
    """Of the crops, px, multiples of 16 x scale."""
    tile: tuple[int, int] = (256, 1600)
    """Height and width of what the networks will be given, px."""
    crop: tuple[int, int] = (0, 0)
    """Height and width of what teacher and segmenters learn from, px; 0: the tile's height, CROP_WIDTH."""
    whole: float = 0.0
    """The last share of the steps, in which teacher and segmenters see whole tiles, as a pack will: crops are laid over
    defects, and who has seen those alone expects one everywhere."""
    plain: float = 0.0
    """Share of the examples that are real frames as they are, mirrored and turned alone."""
    kept_norms: float = 0.0
    """The last share of the steps, in which batch norms keep the statistics that they have, and the network learns as
    it will be used: a replica's two to four examples have statistics that are mostly noise, which helps small sets and
    costs large ones (docs/training.md)."""
    pace: float = 1.0
    """Times the usual learning rates of all networks."""
    rate: float = 1.5e-3
    """Of this network."""
    clean: float = 0.3
    """Share of clean frames in a batch."""
    seed: int = 1
    threads: int = 2
    workers: int = 0
    """Processes that make batches; 0: a thread of this one."""
    device: str = "cpu"
    checkpoint_steps: int = 100
    recipe: Recipe = field(default_factory=Recipe)

    def ends(self, step: int, share: float) -> bool:
        """Whether a step is of the last `share` of the steps."""
        return step >= (1 - share) * self.steps


def stint(name: str, settings: Settings, steps: int, batch: int = 0) -> Settings:
    """The settings for one network, where the teacher is trained for `steps` steps with batches of `batch` (0: small
    ones for a CPU). The rate grows with the root of the batch."""
    scale = settings.gate_scale or settings.scale if name == "gate" else settings.scale
    own = STINTS[name.split("_")[0]] if scale == settings.scale else GATE_OF_ANOTHER_SCALE
    tall, wide = (0, settings.tile[1]) if own.whole else settings.crop
    grown = batch / STINTS["teacher"].batch if batch else 1.0
    distilled = DISTILLED_STEPS if settings.distill and name not in ("teacher", "gate") else 1.0
    return replace(
        settings,
        steps=max(1, round(steps * own.steps * distilled)),
        scale=scale,
        batch=max(1, round(own.batch * grown)),
        height=min(tall or settings.tile[0], settings.tile[0]),
        width=min(wide or CROP_WIDTH, settings.tile[1]),
        rate=own.rate * settings.pace * min(2.0, grown**0.5),
        clean=own.clean,
    )
