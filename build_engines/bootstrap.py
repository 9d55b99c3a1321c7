"""95 % intervals by bootstrap over look-alike groups: frames of one roll are no independent witnesses.

Whole groups are drawn with replacement, as many as there are; a figure's interval is the central 95 % of what the draws
give, among those in which it can be measured. Source: Efron & Tibshirani 1993, the percentile interval over clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from build_engines.figures import Table, figures

DRAWS = 1000
MIDDLE = (2.5, 97.5)
FEWEST = 0.5
"""A figure that fewer than this share of the draws can measure has no interval."""


def intervals(table: Table, groups: Sequence[int], draws: int = DRAWS, seed: int = 1) -> dict[Any, Any]:
    """A tree like that of `figures`, each leaf [low, high], or nothing where there is none."""
    rng = np.random.default_rng(seed)
    names, place = np.unique(np.asarray(groups, dtype=np.int64), return_inverse=True)
    seen: list[dict[tuple[Any, ...], float]] = []
    for _ in range(draws if len(names) > 1 else 0):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        seen.append(flat(figures(table, times[place].astype(np.float64))))
    keys = flat(figures(table))
    return unflat({key: _interval([one[key] for one in seen]) for key in keys})


def _interval(values: Sequence[float]) -> list[float] | None:
    real = [value for value in values if not math.isnan(value)]
    if not real or len(real) < FEWEST * len(values):
        return None
    low, high = np.percentile(real, MIDDLE)
    return [float(low), float(high)]


def flat(tree: dict[Any, Any], before: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], float]:
    """A tree's leaves by their path."""
    leaves: dict[tuple[Any, ...], float] = {}
    for key, value in tree.items():
        leaves |= flat(value, (*before, key)) if isinstance(value, dict) else {(*before, key): value}
    return leaves


def unflat(leaves: dict[tuple[Any, ...], Any]) -> dict[Any, Any]:
    """The tree of leaves by their path."""
    tree: dict[Any, Any] = {}
    for path, value in leaves.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = value
    return tree
