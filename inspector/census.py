"""A census: counts over many frames of how they score, how bright they are, how many pass and how many show a defect;
and how far two of them differ.

Distances are population stability indices, sum of (p - q) ln(p / q) over the bins (Jeffreys' divergence): 0 for equal
shares, the same both ways, and about (shift / deviation)^2 where values of a bell curve moved. By the usual rule below
0.1 nothing has changed, and above 0.25 much has.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import starmap
from typing import Annotated

import msgspec
from msgspec import Meta

SCORE_EDGES = (
    0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.997, 0.999,
)  # fmt: skip
"""Between the bins of gate scores: fine at both ends, where a gate's scores lie."""
BRIGHTNESS_EDGES = tuple(round(0.05 * 1.1**step, 4) for step in range(31))
"""Between the bins of brightness, 0..1 of full scale: each a tenth above the one before, as lamps change by shares."""

LEAST_SHARE = 0.001
"""Each bin is taken to hold at least about this share: an empty one must not make a distance infinite."""
RARE_SIGMAS = 4.75
"""One time in a million, one-sided."""

Count = Annotated[int, Meta(ge=0)]


class Census(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Counts of frames. Bin k of a histogram holds the values from edge k - 1 to below edge k."""

    frames: Count = 0
    gate_scores: list[Count] = msgspec.field(default_factory=lambda: [0] * (len(SCORE_EDGES) + 1))
    """By gate score, between SCORE_EDGES."""
    brightness: list[Count] = msgspec.field(default_factory=lambda: [0] * (len(BRIGHTNESS_EDGES) + 1))
    """By mean grey of the strip, between BRIGHTNESS_EDGES."""
    passed: Count = 0
    """Frames that pass the gate."""
    full: Count = 0
    """Frames that were inspected in full: only of these it is known whether they show a defect."""
    alarmed: Count = 0
    """Those among them that show one."""

    def __post_init__(self) -> None:
        for name, counts, edges in (
            ("gate_scores", self.gate_scores, SCORE_EDGES),
            ("brightness", self.brightness, BRIGHTNESS_EDGES),
        ):
            if len(counts) != len(edges) + 1 or sum(counts) != self.frames:
                raise ValueError(f"{name} must be {len(edges) + 1} counts that add up to frames")
        if self.passed > self.frames or not self.alarmed <= self.full <= self.frames:
            raise ValueError("passed and full must not be more than frames, nor alarmed more than full")

    def add(self, gate_score: float, brightness: float, passed: bool, alarmed: bool | None) -> None:
        """Count a frame; score and brightness are 0..1. `alarmed` is None where it was not inspected in full."""
        self.frames += 1
        self.gate_scores[bisect_right(SCORE_EDGES, gate_score)] += 1
        self.brightness[bisect_right(BRIGHTNESS_EDGES, brightness)] += 1
        self.passed += passed
        if alarmed is not None:
            self.full += 1
            self.alarmed += alarmed


def total(each: Iterable[Census]) -> Census:
    """All of them together."""
    known = [Census(), *each]
    return Census(
        frames=sum(one.frames for one in known),
        gate_scores=[sum(column) for column in zip(*(one.gate_scores for one in known), strict=True)],
        brightness=[sum(column) for column in zip(*(one.brightness for one in known), strict=True)],
        passed=sum(one.passed for one in known),
        full=sum(one.full for one in known),
        alarmed=sum(one.alarmed for one in known),
    )


def psi(one: Sequence[int], other: Sequence[int]) -> float:
    """The population stability index of two histograms over the same bins; neither may be empty."""
    return sum(starmap(_part, zip(_shares(one), _shares(other), strict=True)))


def foremost(one: Sequence[int], other: Sequence[int]) -> int:
    """The bin in which they differ most, by its part of the index."""
    parts = list(starmap(_part, zip(_shares(one), _shares(other), strict=True)))
    return parts.index(max(parts))


def _part(p: float, q: float) -> float:
    return (p - q) * math.log(p / q)


def _shares(counts: Sequence[int]) -> list[float]:
    whole = sum(counts)
    scale = 1 + LEAST_SHARE * len(counts)
    return [(count / whole + LEAST_SHARE) / scale for count in counts]


def chance_psi(frames: int, others: int, bins: int) -> float:
    """What the index of two draws of one population stays below but for one time in a million.

    It is about chi-squared with `bins` - 1 degrees of freedom, times 1 / frames + 1 / others (Yurdakul & Naranjo 2020);
    the quantile is that of Wilson & Hilferty 1931.
    """
    free = bins - 1
    spread = 2 / (9 * free)
    return free * float(1 - spread + RARE_SIGMAS * math.sqrt(spread)) ** 3 * (1 / frames + 1 / others)


def times_as_many(hits: int, frames: int, others: int, other_frames: int) -> float:
    """The rate of `hits` in `frames` over the other; each has half a hit more, as there may be none."""
    return (hits + 0.5) / frames / ((others + 0.5) / other_frames)


def sigmas(hits: int, frames: int, others: int, other_frames: int) -> float:
    """How surely two rates differ, in standard deviations, signed: of rare events that come by chance (Poisson).

    Square roots of counts have the same variance whatever the rate (Anscombe 1948).
    """
    scale = frames / other_frames
    apart = math.sqrt(hits + 3 / 8) - math.sqrt((others + 3 / 8) * scale)
    return 2 * apart / math.sqrt(1 + scale)


def named(bin_number: int, edges: Sequence[float]) -> str:
    """A bin as a person reads it."""
    if bin_number == 0:
        return f"below {edges[0]:g}"
    if bin_number == len(edges):
        return f"from {edges[-1]:g} on"
    return f"{edges[bin_number - 1]:g} to {edges[bin_number]:g}"
