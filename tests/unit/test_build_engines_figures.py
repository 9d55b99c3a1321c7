"""Figures of merit against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from build_engines.figures import Counts, DiceFigures, auroc, dice, mean


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0], 0.5),
        ([0.9, 0.3, 0.5, 0.1], [1, 1, 0, 0], 0.75),
    ],
)
def test_auroc(scores: list[float], truth: list[int], expected: float) -> None:
    assert auroc(scores, truth) == pytest.approx(expected)


def test_auroc_needs_both_kinds() -> None:
    assert math.isnan(auroc([0.1, 0.2], [1, 1]))


def test_dice() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert dice(a, b) == 1.0
    a[0], b[0, :2] = True, True
    assert dice(a, b) == pytest.approx(2 * 2 / 6)


def test_counts() -> None:
    counts = Counts()
    for said, true in ((True, True), (True, False), (False, True), (False, False), (False, False)):
        counts.add(said, true)
    assert (counts.recall, counts.precision, counts.f1) == (0.5, 0.5, 0.5)
    assert counts.false_alarm_rate == pytest.approx(1 / 3)
    assert math.isnan(Counts().recall)


def test_dice_figures_tell_misses_from_empty_pairs() -> None:
    figures, nothing, thing = DiceFigures(), np.zeros((2, 2), bool), np.ones((2, 2), bool)
    figures.add(nothing, nothing)
    figures.add(nothing, thing)
    figures.add(thing, thing)
    assert (mean(figures.positive), mean(figures.detected)) == (0.5, 1.0)
    assert mean(figures.every) == pytest.approx(2 / 3)
    assert math.isnan(mean([]))
