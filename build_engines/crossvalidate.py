"""Cross-validation by look-alike group: every labelled frame is judged by a pack that never saw its group.

Each fold is a whole run with its own teacher and networks. What was done is not done again: a fold is finished when its
pack is there, and a killed training goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from build_engines import datasets, folds, packing
from build_engines.feed import prepare_feed
from build_engines.runs import network_names
from build_engines.settings import Settings, stint
from build_engines.train import train
from inspector.pack import MANIFEST


def train_all(settings: Settings, steps: int, batch: int, networks: Sequence[str] = ()) -> None:
    """Train the named networks of a run, or all."""
    feed = prepare_feed(settings)
    for name in networks or network_names(feed.classes):
        train(name, replace(feed, settings=stint(name, settings, steps, batch)))


def crossvalidate(settings: Settings, steps: int, batch: int, validation: Sequence[Path] = ()) -> dict[str, Any]:
    """The figures over the frames of all folds (see folds)."""
    shares = settings.shares or (("train", 1.0),)
    for number in range(1, settings.folds + 1):
        own = replace(settings, out=settings.out / f"fold_{number}", fold=number, shares=shares)
        train_fold(own, steps, batch)
    more = [datasets.read(folder) for folder in validation]
    return folds.load(settings.out, datasets.read(settings.data), more).report()


def train_fold(settings: Settings, steps: int, batch: int) -> None:
    """The networks and the pack of one fold, if they are not there."""
    made = settings.out / folds.PACK
    if not (made / MANIFEST).is_file():
        train_all(settings, steps, batch)
        packing.raw(packing.Order(settings.out, settings.data, made, settings.out.name, "0.0.0", {}, twins=False))
