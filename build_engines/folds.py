"""What the packs of a cross-validation say of frames that they never saw: figures, and thresholds.

A fold has no validation part: of few frames, none is spared for it. The thresholds that a fold is measured at are
chosen by what the other folds' packs say of the frames that those kept back, so no frame has a say in its own figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from build_engines import evaluate, splits, thresholds
from build_engines.datasets import Sample
from build_engines.thresholds import Seen
from inspector import pack as packs
from inspector.errors import ConfigError
from inspector.pack import Manifest, Pack

PACK = "pack"
"""Folder of a fold's pack in the fold's run, finished when it is there."""


@dataclass(frozen=True)
class Fold:
    """A pack and the labelled frames that it never saw."""

    pack: Pack
    kept: list[Sample]


@dataclass(frozen=True)
class Folds:
    """All folds of a cross-validation, and what their packs say of what they kept back."""

    folds: list[Fold]
    seen: list[list[Seen]]
    """By fold, what its networks say of its frames, and of the synthetic sets."""
    samples: Sequence[Sample]
    """All frames of the folds' data, labelled or not: their look-alike groups are those that the folds divide."""

    @property
    def all_seen(self) -> list[Seen]:
        """Of all folds: what the thresholds of a pack that learnt from every frame are chosen by."""
        return [one for own in self.seen for one in own]

    def report(self) -> dict[str, Any]:
        """The figures over the frames of all folds, each fold at the thresholds that the others chose for it.

        The gate's AUROC and the recalls at given rates compare scores of different packs; where those disagree on the
        scale of a score, the figure is lower than that of any of them, never higher by the pooling.
        """
        manifests = [self.manifest(number) for number in range(len(self.folds))]
        group_of = splits.group_of(self.samples)
        records = [
            record
            for fold, manifest in zip(self.folds, manifests, strict=True)
            for record in evaluate.judged(msgspec.structs.replace(fold.pack, manifest=manifest), fold.kept, group_of)
        ]
        found = evaluate.report(manifests[0], records)
        found["gate"]["threshold"] = [manifest.gate.threshold for manifest in manifests]
        return found

    def manifest(self, number: int) -> Manifest:
        """That of a fold's pack (from 0), at the thresholds that the others chose for it."""
        others = [one for other, own in enumerate(self.seen) if other != number for one in own]
        return thresholds.chosen(self.folds[number].pack.manifest, others)


def load(run: Path, samples: Sequence[Sample], more: Sequence[Sequence[Sample]] = ()) -> Folds:
    """Look at the frames of every fold of `crossvalidate --out run` with its pack; `more`: synthetic sets.

    Raises:
        ConfigError: there is no finished cross-validation in the folder, or it is of other frames.
    """
    runs = sorted(run.glob("fold_*"), key=lambda folder: int(folder.name.removeprefix("fold_")))
    if len(runs) < 2:
        raise ConfigError(f"{run}: holds no folds. Run crossvalidate --out {run} first")
    folds = [_fold(folder, samples) for folder in runs]
    missing = {sample.name for sample in samples if sample.labelled} - {own.name for fold in folds for own in fold.kept}
    if missing:
        raise ConfigError(
            f"{run}: {len(missing)} labelled frames are in no fold, such as {min(missing)}. Cross-validate again"
        )
    return Folds(folds, [thresholds.look(fold.pack, [fold.kept, *more]) for fold in folds], samples)


def _fold(folder: Path, samples: Sequence[Sample]) -> Fold:
    parts = splits.load(folder / "split.json")
    kept = [sample for sample in samples if sample.labelled and parts.get(sample.name) == "test"]
    return Fold(packs.load(folder / PACK), kept)
