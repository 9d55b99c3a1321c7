"""The settings of a training, and how each network is trained beside the others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from build_engines.augment import Recipe


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
