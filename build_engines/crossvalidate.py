"""Cross-validation by look-alike group: every labelled frame is judged by a pack that never saw its group.

Each fold is a whole run with its own teacher, networks and thresholds. What was done is not done again: a fold is
finished when its records are there, and a killed training goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from build_engines import datasets, evaluate, judging, packing, splits
from build_engines.feed import prepare_feed
from build_engines.runs import network_names
from build_engines.settings import Settings, stint
from build_engines.train import train
from inspector import pack as packs

RECORDS = "records.jsonl"


def train_all(settings: Settings, steps: int, batch: int, networks: Sequence[str] = ()) -> None:
    """Train the named networks of a run, or all."""
    feed = prepare_feed(settings)
    for name in networks or network_names(feed.classes):
        train(name, replace(feed, settings=stint(name, settings, steps, batch)))


def crossvalidate(settings: Settings, steps: int, batch: int, validation: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The figures over the frames of all folds.

    The gate's AUROC and the recalls at given rates compare scores of different packs; where those disagree on the scale
    of a score, the figure is lower than that of any of them, never higher by the pooling.
    """
    out, records = settings.out, []
    for fold in range(1, settings.folds + 1):
        own = replace(settings, out=out / f"fold_{fold}", fold=fold)
        file = own.out / RECORDS
        if not file.is_file():
            train_all(own, steps, batch)
            packing.make(
                packing.Order(own.out, own.data, own.out / "pack", f"fold_{fold}", "0.0.0", {}, validation=validation)
            )
            judging.save(_judged(own), file)
        records += judging.load(file)
    groups = dict(_groups(settings.data))
    pooled = [msgspec.structs.replace(record, group=groups[record.name]) for record in records]
    return evaluate.report(packs.load(out / "fold_1" / "pack").manifest, pooled)


def _judged(settings: Settings) -> list[judging.Record]:
    parts = splits.load(settings.out / "split.json")
    samples = [sample for sample in datasets.read(settings.data) if parts.get(sample.name) == "test"]
    return evaluate.judged(packs.load(settings.out / "pack"), samples)


def _groups(data: Path) -> list[tuple[str, int]]:
    samples = datasets.read(data)
    return [(sample.name, group) for sample, group in zip(samples, splits.groups(samples), strict=True)]
