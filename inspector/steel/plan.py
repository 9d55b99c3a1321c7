"""Where the blemishes of a strip lie: planned whole from the seed, before a single line is painted.

Sizes follow the components of the reference set (5 %, median, 95 % of area; DOMAIN.md gives them). Blemishes never
come closer to each other than `CLEARANCE_PX`, so that a judge who merges neighbours still sees each one alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inspector.errors import ConfigError
from inspector.steel.surface import Surface

CLEARANCE_PX = 14
LONGEST_LINES = 1600
SMALLEST_PX = 6
SMALLEST_BAND = CLEARANCE_PX + SMALLEST_PX
TRIES = 12


@dataclass(frozen=True, slots=True)
class Blemish:
    """One planned blemish; its box lies on the strip, within both edges on all of its lines.

    Attributes:
        id: number on this strip, in order of `first_line`.
        defect_class: 1..4, or 0 for a pseudo-defect.
        kind: how it is painted (see marks.PAINTERS).
        first_line, lines: extent along the strip, in lines.
        first_px, width_px: extent across the lane, in pixels.
        contrast: 0..1, how plain it is to see.
        seed: of its own shape.
    """

    id: int
    defect_class: int
    kind: str
    first_line: int
    lines: int
    first_px: int
    width_px: int
    contrast: float
    seed: int

    @property
    def end_line(self) -> int:
        return self.first_line + self.lines


@dataclass(frozen=True)
class _Sizes:
    """Component sizes of a class: area percentiles, median box, the share of the box that the mask fills."""

    area: tuple[float, float, float]
    aspect: float
    spread: float
    fill: float

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        low, median, high = self.area
        z = float(np.clip(rng.standard_normal(), -2.2, 2.2))
        ratio = high / median if z > 0 else median / low
        box = median * ratio ** (z / 1.645) / self.fill
        aspect = self.aspect * math.exp(self.spread * float(rng.standard_normal()))
        width = max(SMALLEST_PX, round(math.sqrt(box * aspect)))
        return max(SMALLEST_PX, round(box / width)), width


_SIZES = {
    1: _Sizes((369, 860, 3_523), 26 / 44, 0.3, 0.75),
    2: _Sizes((655, 2_294, 5_693), 19 / 169, 0.35, 0.72),
    3: _Sizes((246, 4_219, 35_635), 33 / 159, 0.7, 0.8),
    4: _Sizes((614, 7_700, 50_872), 126 / 99, 0.5, 0.62),
}
_COMPANY = {1: 0.55, 2: 0.1, 3: 0.35, 4: 0.2}
"""Chance that the next defect of a class lies near the one before: pits come in swarms."""

_PSEUDO = {
    # kind: (share, lines from, to, px from, to)
    "paint": (0.2, 50, 320, 14, 44),
    "stamp": (0.12, 130, 300, 34, 60),
    "stain": (0.24, 40, 240, 40, 260),
    "flakes": (0.26, 40, 300, 30, 240),
    "drip": (0.18, 120, 600, 20, 60),
}


class _Planner:
    """Places boxes one after another and remembers what is taken."""

    def __init__(self, rng: np.random.Generator, bare: Surface, length: int) -> None:
        self.rng = rng
        self.bare = bare
        self.length = length
        self.taken: dict[int, list[Blemish]] = {}
        self.all: list[Blemish] = []

    def free(self, line: int, lines: int, px: int, width: int) -> bool:
        gap = CLEARANCE_PX
        for bucket in range((line - gap) // 512, (line + lines + gap) // 512 + 1):
            for b in self.taken.get(bucket, ()):
                apart = b.first_line >= line + lines + gap or b.end_line + gap <= line
                if not (apart or b.first_px >= px + width + gap or b.first_px + b.width_px + gap <= px):
                    return False
        return True

    def put(self, number: int, kind: str, box: tuple[int, int, int, int], contrast: float) -> Blemish:
        line, lines, px, width = box
        seed = int(self.rng.integers(2**62))
        blemish = Blemish(0, number, kind, line, lines, px, width, contrast, seed)
        for bucket in range(line // 512, blemish.end_line // 512 + 1):
            self.taken.setdefault(bucket, []).append(blemish)
        self.all.append(blemish)
        return blemish

    def place(
        self, number: int, kind: str, size: tuple[int, int], band: tuple[int, int], near: Blemish | None
    ) -> Blemish | None:
        """Find room for a box of `size` (lines, px) within the lines `band`; None if there is none."""
        rng = self.rng
        lines = min(size[0], band[1] - band[0])
        for _ in range(TRIES):
            line = int(rng.integers(band[0], band[1] - lines + 1))
            if near is not None:
                line = round(near.first_line + rng.normal(0, 110 + near.lines / 2))
                line = min(max(line, band[0]), band[1] - lines)
            left, right = self.bare.margins(line, lines)
            width = min(size[1], right - left - 8)
            if lines < SMALLEST_PX or width < SMALLEST_PX:
                return None
            px = self._across(number, left + 4, right - 4 - width, near)
            if self.free(line, lines, px, width):
                contrast = float(np.clip(rng.normal(0.78, 0.2), 0.45, 1))
                return self.put(number, kind, (line, lines, px, width), contrast)
        return None

    def _across(self, number: int, low: int, high: int, near: Blemish | None) -> int:
        """First pixel of a box within [low, high]; lines of type 2 keep to an edge where the lane has one."""
        if near is not None and self.rng.random() < 0.8:
            return int(np.clip(near.first_px + self.rng.normal(0, 90), low, high))
        sides = [side for side, has in ((0, self.bare.has_left), (1, self.bare.has_right)) if has]
        if number == 2 and sides:
            away = round(float(self.rng.gamma(2.0, 35)))
            return max(low, high - away) if self.rng.choice(sides) else min(high, low + away)
        return int(self.rng.integers(low, high + 1))


def _kind(number: int, lines: int, width: int, rng: np.random.Generator) -> str:
    """How a defect of this class and size is painted."""
    if number != 3:
        return {1: "pits", 2: "line", 4: "torn"}[number]
    if lines < 1.5 * width and lines < 140:
        return "scuff"
    if width > 45:
        return "abrasion"
    return "scuff" if lines < 140 and rng.random() < 0.3 else "scratch"


def _defect(planner: _Planner, number: int, band: tuple[int, int], near: Blemish | None) -> Blemish | None:
    lines, width = _SIZES[number].draw(planner.rng)
    if number == 3 and lines > 200 and planner.rng.random() < 0.3:
        lines = round(lines * planner.rng.uniform(1.5, 5))
    size = (min(lines, LONGEST_LINES), width)
    return planner.place(number, _kind(number, *size, planner.rng), size, band, near)


def _by_rate(planner: _Planner, rates: Mapping[int, float]) -> None:
    """A Poisson number of defects of each class over the whole strip."""
    for number in sorted(rates):
        last: Blemish | None = None
        for _ in range(int(planner.rng.poisson(rates[number] * planner.length / 1000))):
            near = last if planner.rng.random() < _COMPANY[number] else None
            last = _defect(planner, number, (0, planner.length), near) or last


def _by_band(planner: _Planner, rates: Mapping[int, float], bands: Sequence[tuple[int, int]]) -> None:
    """At least one defect in every band and none elsewhere; the rates are only weights here."""
    numbers = [number for number in sorted(rates) if rates[number] > 0]
    weights = np.array([rates[number] for number in numbers])
    for first, lines in bands:
        band = (first + CLEARANCE_PX // 2, first + lines - CLEARANCE_PX // 2)  # clear of the neighbouring bands
        number = int(planner.rng.choice(numbers, p=weights / weights.sum()))
        last = next((d for _ in range(TRIES) if (d := _defect(planner, number, band, None))), None)
        if last is None:
            raise ConfigError(f"no room for a defect in the band ({first}, {lines}): make width_px larger")
        while last is not None and planner.rng.random() < _COMPANY[number]:
            last = _defect(planner, number, band, last)


def _pseudo(planner: _Planner, rate: float) -> None:
    rng = planner.rng
    kinds = list(_PSEUDO)
    shares = np.array([_PSEUDO[kind][0] for kind in kinds])
    for _ in range(int(rng.poisson(rate * planner.length / 1000))):
        kind = str(rng.choice(kinds, p=shares / shares.sum()))
        _, low, high, narrow, wide = _PSEUDO[kind]
        size = (int(rng.integers(low, high + 1)), int(rng.integers(narrow, wide + 1)))
        planner.place(0, kind, size, (0, planner.length), None)


def _weld(planner: _Planner) -> None:
    """One seam over the full width, where no defect lies."""
    rng, width = planner.rng, planner.bare.width_px
    lines = min(int(rng.integers(56, 120)), planner.length)
    for _ in range(4 * TRIES):
        line = int(rng.integers(0, planner.length - lines + 1))
        if width >= SMALLEST_PX and planner.free(line, lines, 0, width):
            planner.put(0, "weld", (line, lines, 0, width), float(rng.uniform(0.6, 1)))
            return


def plan(
    rng: np.random.Generator,
    bare: Surface,
    length: int,
    rates: Mapping[int, float],
    pseudo_rate: float,
    weld: bool,
    bands: Sequence[tuple[int, int]] | None,
) -> list[Blemish]:
    """All blemishes of a strip of `length` lines, by first line; ids count from 0."""
    planner = _Planner(rng, bare, length)
    if bands is None:
        _by_rate(planner, rates)
    else:
        _by_band(planner, rates, bands)
    if weld and length >= 64:
        _weld(planner)
    _pseudo(planner, pseudo_rate)
    planner.all.sort(key=lambda b: (b.first_line, b.first_px))
    return [
        Blemish(i, b.defect_class, b.kind, b.first_line, b.lines, b.first_px, b.width_px, b.contrast, b.seed)
        for i, b in enumerate(planner.all)
    ]
