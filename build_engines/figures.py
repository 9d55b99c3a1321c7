"""Figures of merit from judged pictures, each picture weighing what the bootstrap gives it.

A figure of weights 1 is the plain figure; whole weights are the figure of a set in which a picture occurs that often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from build_engines.judging import Record
from inspector.pack import Manifest

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FALSE_ALARM_RATES = (0.01, 0.02, 0.05, 0.06)
FALSE_EVENT_RATES = (0.01, 0.05, 0.1)
SIZES = ("small", "medium", "large")
"""Thirds of the truth events by area."""


def ratio(part: Any, whole: Any) -> float:
    """part / whole; nan of nothing."""
    return float(part / whole) if whole > 0 else math.nan


def mean(values: Sequence[float]) -> float:
    """The mean of those that are numbers; nan of nothing."""
    real = [value for value in values if not math.isnan(value)]
    return float(np.mean(real)) if real else math.nan


def auroc(scores: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Chance that a random positive scores above a random negative, ties half; nan without both kinds.

    Source: the Mann-Whitney statistic (Hanley & McNeil 1982).
    """
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(values):
        return math.nan
    unique, place = np.unique(values, return_inverse=True)
    high = np.bincount(place[positive], weight[positive], len(unique))
    low = np.bincount(place[~positive], weight[~positive], len(unique))
    below = np.cumsum(low) - low / 2
    return ratio(float(high @ below), float(high.sum() * low.sum()))


def recall_at(scores: Floats, positive: Floats, negative: Floats, allowed: float) -> float:
    """The best share of `positive` weight reached by a threshold that at most `allowed` negative weight reaches.

    Each score has a positive weight, a negative one, or both; a thing that was not found has a score below 0.
    """
    unique, place = np.unique(scores, return_inverse=True)
    high = np.bincount(place, positive, len(unique))[::-1].cumsum()
    low = np.bincount(place, negative, len(unique))[::-1].cumsum()
    fits = (low <= allowed + 1e-9) & (unique[::-1] >= 0)
    return ratio(float(high[fits].max(initial=0.0)), float(positive.sum()))


@dataclass(frozen=True)
class Table:
    """Records as arrays; [N] a picture, [N, C] a picture and class, [T] a truth event, [F] a found event."""

    manifest: Manifest
    gate: Floats
    passed: Bools
    named: Bools
    truth_px: Floats
    found_px: Floats
    both_px: Floats
    background: Floats
    truth_at: NDArray[np.int64]
    """Picture of each truth event."""
    truth_class: NDArray[np.int64]
    truth_area: Floats
    detected: Bools
    best_score: Floats
    right_class: Bools
    lost_to_area: Bools
    found_at: NDArray[np.int64]
    found_score: Floats
    found_true: Bools

    @classmethod
    def of(cls, manifest: Manifest, records: Sequence[Record]) -> Table:
        truths = [(at, event) for at, record in enumerate(records) for event in record.truths]
        found = [(at, event) for at, record in enumerate(records) for event in record.found]
        count = len(manifest.classes)

        def rows(values: Sequence[Any], columns: int) -> Floats:
            return np.array(values, dtype=np.float64).reshape(len(records), columns)

        return cls(
            manifest=manifest,
            gate=np.array([record.gate_score for record in records], dtype=np.float64),
            passed=np.array([record.passed for record in records], dtype=bool),
            named=rows([record.named for record in records], count) > 0,
            truth_px=rows([record.truth_px for record in records], count),
            found_px=rows([record.found_px for record in records], count),
            both_px=rows([record.both_px for record in records], count),
            background=rows([record.background for record in records], 2),
            truth_at=np.array([at for at, _ in truths], dtype=np.int64),
            truth_class=np.array([event.class_number for _, event in truths], dtype=np.int64),
            truth_area=np.array([event.area_px for _, event in truths], dtype=np.float64),
            detected=np.array([event.detected for _, event in truths], dtype=bool),
            best_score=np.array([event.best_score for _, event in truths], dtype=np.float64),
            right_class=np.array([event.right_class for _, event in truths], dtype=bool),
            lost_to_area=np.array([event.lost_to_area for _, event in truths], dtype=bool),
            found_at=np.array([at for at, _ in found], dtype=np.int64),
            found_score=np.array([event.score for _, event in found], dtype=np.float64),
            found_true=np.array([event.true for _, event in found], dtype=bool),
        )

    @property
    def defective(self) -> Bools:
        return np.asarray(self.truth_px.sum(axis=1) > 0)


def figures(table: Table, weights: Floats | None = None) -> dict[Any, Any]:
    """All figures as a tree; nan where there is nothing to measure on."""
    weight = np.ones(len(table.gate)) if weights is None else weights
    segmenters, types = _segmenters(table, weight), _types(table, weight)
    ious = [own["iou"] for own in segmenters.values()]
    clean = ratio(weight @ table.background[:, 0], weight @ table.background[:, 1])
    return {
        "gate": _gate(table, weight),
        "types": types | {"macro_f1": mean([own["f1"] for own in types.values()])},
        "segmenters": segmenters,
        "miou": mean(ious),
        "miou_with_background": mean([*ious, clean]),
        "mean_dice_positive": mean([own["dice_positive"] for own in segmenters.values()]),
        "kaggle": mean([own["kaggle"] for own in segmenters.values()]),
        "events": _events(table, weight),
        "area_filter": _area_filter(table, weight),
        "system": _system(table, weight),
    }


def _gate(table: Table, weight: Floats) -> dict[str, float]:
    true = table.defective
    high, low = weight * true, weight * ~true
    at = {
        f"recall_at_{rate:.0%}_false_alarms": recall_at(table.gate, high, low, rate * float(low.sum()))
        if low.sum() > 0
        else math.nan
        for rate in FALSE_ALARM_RATES
    }
    return {
        "auroc": auroc(table.gate, true, weight),
        "recall": ratio(high @ table.passed, high.sum()),
        "false_alarm_rate": ratio(low @ table.passed, low.sum()),
        **at,
    }


def _types(table: Table, weight: Floats) -> dict[Any, Any]:
    found = {}
    for position, entry in enumerate(table.manifest.classes):
        said = table.named[:, position]
        true = table.truth_px[:, position] > 0
        hits, called, there = weight @ (said & true), weight @ said, weight @ true
        found[entry.number] = {
            "precision": ratio(hits, called),
            "recall": ratio(hits, there),
            "f1": ratio(2 * hits, called + there) if there > 0 else math.nan,
        }
    return found


def _segmenters(table: Table, weight: Floats) -> dict[Any, dict[str, float]]:
    found = {}
    for position, entry in enumerate(table.manifest.classes):
        truth, own, both = (part[:, position] for part in (table.truth_px, table.found_px, table.both_px))
        total = truth + own
        dice = np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)
        there, seen = weight * (truth > 0), weight * ((truth > 0) & (own > 0))
        found[entry.number] = {
            "dice_positive": ratio(there @ dice, there.sum()),
            "dice_detected": ratio(seen @ dice, seen.sum()),
            "iou": ratio(weight @ both, weight @ (total - both)) if there.sum() > 0 else math.nan,
            "kaggle": ratio(weight @ dice, weight.sum()),
        }
    return found


def _events(table: Table, weight: Floats) -> dict[str, Any]:
    own, false = weight[table.truth_at], weight[table.found_at] * ~table.found_true
    scores = np.concatenate([table.best_score, table.found_score])
    positive = np.concatenate([own, np.zeros(len(false))])
    negative = np.concatenate([np.zeros(len(own)), false])
    at = {
        f"recall_at_{rate}_false_events_a_frame": recall_at(scores, positive, negative, rate * float(weight.sum()))
        for rate in FALSE_EVENT_RATES
    }
    return {
        "recall": ratio(own @ table.detected, own.sum()),
        "false_events_a_frame": ratio(false.sum(), weight.sum()),
        **at,
        "class_correct": ratio(own @ (table.detected & table.right_class), own @ table.detected),
        "area_weighted_escape": ratio(own @ (table.truth_area * ~table.detected), own @ table.truth_area),
        "recall_by_size": _by_size(table, own),
        "recall_by_class": {
            entry.number: ratio(own @ (here & table.detected), own @ here)
            for entry in table.manifest.classes
            for here in (table.truth_class == entry.number,)
        },
    }


def size_limits(table: Table) -> tuple[float, float]:
    """Areas between small, medium and large: the thirds of the truth events, px."""
    if not len(table.truth_area):
        return 0.0, 0.0
    low, high = np.quantile(table.truth_area, (1 / 3, 2 / 3))
    return float(low), float(high)


def _by_size(table: Table, own: Floats) -> dict[str, float]:
    bins = np.searchsorted(np.array(size_limits(table)), table.truth_area)
    return {
        name: ratio(own @ ((bins == number) & table.detected), own @ (bins == number))
        for number, name in enumerate(SIZES)
    }


def _area_filter(table: Table, weight: Floats) -> dict[str, float]:
    own = weight[table.truth_at]
    return {"escapes": float(own @ table.lost_to_area), "share_of_truth": ratio(own @ table.lost_to_area, own.sum())}


def _system(table: Table, weight: Floats) -> dict[str, float]:
    said, true = table.found_px.sum(axis=1) > 0, table.defective
    return {
        "frame_recall": ratio(weight @ (said & true), weight @ true),
        "frame_false_alarm_rate": ratio(weight @ (said & ~true), weight @ ~true),
    }
