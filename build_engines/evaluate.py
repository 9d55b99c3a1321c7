"""What a pack is worth on labelled frames: the cascade runs on them as the daemon runs it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.datasets import Sample, masks, picture
from build_engines.figures import Counts, DiceFigures, auroc, mean
from inspector import pack as packs
from inspector.cascade import Cascade
from inspector.config import EdgeConfig, GradingConfig
from inspector.pack import Manifest, Pack
from inspector.preprocess import cut, find_edges
from inspector.records import Batch, Frame, Region
from inspector.runtimes import Stream
from inspector.runtimes import onnx as onnx_runtime


@dataclass(frozen=True)
class Judged:
    """What the cascade said of a picture. The type scores are asked of every picture, past the gate too."""

    sample: Sample
    gate_score: float
    type_scores: NDArray[np.float32]
    found: NDArray[np.bool_]
    """[classes, H, W]"""
    truth: NDArray[np.bool_]
    """[classes, H, W]"""


def judge(pack: Pack, samples: Iterable[Sample]) -> Iterator[Judged]:
    """Run the cascade on one picture after another, each a piece of strip of its own."""
    with onnx_runtime.open(onnx_runtime.Options(workers=1), pack) as runtime:
        stream = runtime.stream()
        cascade = Cascade(pack, stream, GradingConfig().merge_px)
        for number, sample in enumerate(samples):
            yield _judge_one(pack.manifest, cascade, stream, sample, number)


def batch_of(sample: Sample, number: int, manifest: Manifest) -> Batch:
    """A picture as the daemon's preprocess hands it to the cascade."""
    frame = Frame("evaluate", number, 0, 0, 0, np.ascontiguousarray(picture(sample)), source=sample.name)
    roi = find_edges(frame.pixels, EdgeConfig())
    return Batch(number, [frame], [roi], cut(frame.pixels, roi, manifest.tile, frame=0))


def type_scores(stream: Stream, batch: Batch, manifest: Manifest) -> NDArray[np.float32]:
    """Score of each class: the best of the picture's tiles. `batch` is the stream's current one."""
    if not batch.tiles:
        return np.zeros(len(manifest.classes), dtype=np.float32)
    return np.asarray(stream.types(range(len(batch.tiles))).max(axis=0), dtype=np.float32)


def _judge_one(manifest: Manifest, cascade: Cascade, stream: Stream, sample: Sample, number: int) -> Judged:
    numbers = [entry.number for entry in manifest.classes]
    batch = batch_of(sample, number, manifest)
    verdict = cascade.judge(batch).verdicts[0]
    scores = type_scores(stream, batch, manifest)
    truth = masks(sample, numbers).astype(bool)
    found = np.zeros_like(truth)
    for region in verdict.regions:
        if region.area_px >= region.needed_px:
            _draw(found[numbers.index(region.class_number)], region)
    return Judged(sample, verdict.gate_score, scores, found, truth)


def _draw(canvas: NDArray[np.bool_], region: Region) -> None:
    canvas[region.y : region.y + region.height, region.x : region.x + region.width] |= region.mask


@dataclass
class Tally:
    """Adds up judged pictures; nothing of a picture is kept but numbers."""

    manifest: Manifest
    gate_scores: list[float] = field(default_factory=list)
    defective: list[bool] = field(default_factory=list)
    gate: Counts = field(default_factory=Counts)
    system: Counts = field(default_factory=Counts)
    types: dict[int, Counts] = field(default_factory=dict)
    dice: dict[int, DiceFigures] = field(default_factory=dict)

    def add(self, judged: Judged) -> None:
        defective = bool(judged.truth.any())
        self.gate_scores.append(judged.gate_score)
        self.defective.append(defective)
        self.gate.add(judged.gate_score >= self.manifest.gate.threshold, defective)
        self.system.add(bool(judged.found.any()), defective)
        for position, entry in enumerate(self.manifest.classes):
            found, truth = judged.found[position], judged.truth[position]
            said = bool(judged.type_scores[position] >= self.manifest.types.thresholds[entry.number])
            self.types.setdefault(entry.number, Counts()).add(said, bool(truth.any()))
            self.dice.setdefault(entry.number, DiceFigures()).add(found, truth)

    def report(self) -> dict[str, Any]:
        """The figures, as `evaluate --json` writes them; nan where there is nothing to measure on."""
        return {
            "frames": len(self.defective),
            "defective": sum(self.defective),
            "gate": {
                "auroc": auroc(self.gate_scores, self.defective),
                "threshold": self.manifest.gate.threshold,
                "recall": self.gate.recall,
                "false_alarm_rate": self.gate.false_alarm_rate,
            },
            "types": self._types() | {"macro_f1": mean(_real(counts.f1 for counts in self.types.values()))},
            "segmenters": {number: self._segmenter(number) for number in self.dice},
            "system": {"frame_recall": self.system.recall, "frame_false_alarm_rate": self.system.false_alarm_rate},
            "mean_dice_positive": mean(_real(mean(figures.positive) for figures in self.dice.values())),
            "kaggle": mean([value for figures in self.dice.values() for value in figures.every]),
        }

    def _types(self) -> dict[Any, Any]:
        return {
            number: {
                "frames": counts.hits + counts.misses,
                "precision": counts.precision,
                "recall": counts.recall,
                "f1": counts.f1,
            }
            for number, counts in self.types.items()
        }

    def _segmenter(self, number: int) -> dict[str, float]:
        figures = self.dice[number]
        return {
            "frames": len(figures.positive),
            "dice_positive": mean(figures.positive),
            "dice_detected": mean(figures.detected),
            "kaggle": mean(figures.every),
        }


def _real(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def evaluate(pack: Pack, samples: Sequence[Sample]) -> dict[str, Any]:
    """Figures of a pack on the labelled ones of the samples."""
    tally = Tally(pack.manifest)
    for judged in judge(pack, [sample for sample in samples if sample.labelled]):
        tally.add(judged)
    return tally.report()


def plain(value: Any) -> Any:
    """For JSON and YAML: nan becomes null, numbers are rounded to four places, keys become text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


def write(report: dict[str, Any], pack: Path, file: Path) -> None:
    """Write a report as JSON, with the digest of the pack it is of."""
    content = {"pack": packs.load(pack).digest, **plain(report)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
