"""Figures of merit: how good scores and masks are, from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auroc(scores: ArrayLike, truth: ArrayLike) -> float:
    """Chance that a random positive scores above a random negative, ties half; nan without both kinds.

    Source: the Mann-Whitney statistic (Hanley & McNeil 1982).
    """
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    high, low = values[positive], np.sort(values[~positive])
    if not high.size or not low.size:
        return float("nan")
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.mean() / 2 / low.size)


def ratio(part: float, whole: float) -> float:
    """part / whole; nan of nothing."""
    return part / whole if whole else float("nan")


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 2.0 * int(np.logical_and(found, truth).sum()) / total if total else 1.0


@dataclass
class Counts:
    """A yes-or-no question's answers."""

    hits: int = 0
    misses: int = 0
    false_alarms: int = 0
    quiet: int = 0

    def add(self, said: bool, true: bool) -> None:
        self.hits += said and true
        self.misses += true and not said
        self.false_alarms += said and not true
        self.quiet += not said and not true

    @property
    def recall(self) -> float:
        return ratio(self.hits, self.hits + self.misses)

    @property
    def precision(self) -> float:
        return ratio(self.hits, self.hits + self.false_alarms)

    @property
    def f1(self) -> float:
        return ratio(2 * self.hits, 2 * self.hits + self.misses + self.false_alarms)

    @property
    def false_alarm_rate(self) -> float:
        return ratio(self.false_alarms, self.false_alarms + self.quiet)


@dataclass
class DiceFigures:
    """Dice of one class over pictures."""

    positive: list[float] = field(default_factory=list)
    """Of every picture that has the class; a miss is 0."""
    detected: list[float] = field(default_factory=list)
    """Of those where something was found."""
    every: list[float] = field(default_factory=list)
    """Of every picture; 1 where there is nothing and nothing was found (the competition's rule)."""

    def add(self, found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
        value = dice(found, truth)
        self.every.append(value)
        if truth.any():
            self.positive.append(value)
            if found.any():
                self.detected.append(value)


def mean(values: Sequence[float]) -> float:
    """The mean; nan of nothing."""
    return float(np.mean(values)) if values else float("nan")
