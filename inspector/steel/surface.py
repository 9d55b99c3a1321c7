"""A strip without blemishes: its texture under the lamps and the lens, and its wandering edges.

Everything is a function of the line's number on the strip, never of where a picture begins, so a picture of
512 lines equals two of 256 put together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inspector.steel.texture import COARSE_LINES, FINE_LINES, Floats, Look, noise, step, tiles

Edges = Literal["any", "both", "left", "right", "none"]

RIM_PX = 160
BLACK = 3.0
"""Grey value of the sensor where there is no strip."""


def _shade(rng: np.random.Generator, width: int) -> Floats:
    """Light across the lane, mean 1: lens fall-off, a lamp that stands aside, and soft bumps. [width]"""
    x = np.linspace(-1, 1, width, dtype=np.float32)
    lens = (1 + (rng.uniform(0.2, 0.55) * (x - rng.uniform(-0.35, 0.35))) ** 2) ** -2
    lamp = 1 + rng.uniform(-0.3, 0.3) * x + rng.uniform(0, 0.6) * np.exp(-(((x - rng.uniform(-1, 1)) / 0.45) ** 2))
    shade = lens * lamp * (1 + 0.03 * noise(rng, 1, width, 1, max(2.0, width / 9))[0])
    return np.asarray(shade / shade.mean(), dtype=np.float32)


@dataclass(frozen=True)
class _Waves:
    """A slow function of the line: a sum of sines with periods far apart."""

    amplitude: NDArray[np.float64]
    period: NDArray[np.float64]
    phase: NDArray[np.float64]

    def at(self, lines: NDArray[np.int64]) -> NDArray[np.float64]:
        turns = lines[:, None] / self.period + self.phase
        return np.asarray((self.amplitude * np.sin(2 * np.pi * turns)).sum(axis=1))


def _waves(rng: np.random.Generator, total: float, shortest: float, longest: float) -> _Waves:
    share = rng.uniform(0.4, 1, 4)
    period = np.exp(rng.uniform(math.log(shortest), math.log(longest), 4))
    return _Waves(total * share / share.sum(), period, rng.uniform(0, 1, 4))


@dataclass
class Surface:
    """A strip's bare surface and its edges."""

    width_px: int
    has_left: bool
    has_right: bool
    coarse: Floats
    fine: Floats
    light: Floats
    rim: Floats
    """Factor by distance from the edge, [RIM_PX]."""
    left: float
    right: float
    wander: tuple[_Waves, _Waves]
    tones: list[tuple[_Waves, Floats]] = field(default_factory=list)

    def edges(self, lines: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """First column that is strip, and the first beyond it, for each line; in 1/16 px."""
        near = self.left + self.wander[0].at(lines) if self.has_left else np.zeros(lines.size)
        far = self.right + self.wander[1].at(lines) if self.has_right else np.full(lines.size, float(self.width_px))
        return np.round(near * 16) / 16, np.round(far * 16) / 16

    def paint(self, first_line: int, lines: int) -> Floats:
        """Grey values of the bare surface as if it had no edges: float32 [lines, width], 255 = white."""
        numbers = np.arange(first_line, first_line + lines)
        picture = np.take(self.coarse, numbers % COARSE_LINES, axis=0)
        picture *= np.take(self.fine, numbers % FINE_LINES, axis=0)
        for waves, across in self.tones:
            picture *= 1 + np.multiply.outer(waves.at(numbers).astype(np.float32), across)
        picture *= self.light
        return picture

    def cut_edges(self, picture: Floats, first_line: int) -> None:
        """Darken and brighten the rims and black out what is beyond the edges, in place."""
        near, far = (e.astype(np.float32) for e in self.edges(np.arange(first_line, first_line + picture.shape[0])))
        columns = np.arange(self.width_px, dtype=np.float32)
        if self.has_left:
            start, end = max(0, int(near.min()) - 3), int(near.max()) + RIM_PX
            self._cut(picture[:, start:end], columns[start:end] - near[:, None])
            picture[:, :start] = BLACK
        if self.has_right:
            start, end = max(0, int(far.min()) - RIM_PX), int(far.max()) + 4
            self._cut(picture[:, start:end], far[:, None] - 1 - columns[start:end])
            picture[:, end:] = BLACK

    def _cut(self, part: Floats, inside: Floats) -> None:
        """`inside` is each pixel's distance from the edge, px; below 0 it is beyond."""
        part *= np.take(self.rim, np.clip(inside, 0, RIM_PX - 1).astype(np.intp))
        part *= np.clip(inside * 0.5 + 1, 0, 1)
        part[inside < -2] = BLACK

    def margins(self, first_line: int, lines: int) -> tuple[int, int]:
        """The columns [left, right) that are strip on every one of these lines."""
        near, far = self.edges(np.arange(first_line, first_line + lines))
        return max(0, math.ceil(near.max())), min(self.width_px, math.floor(far.min()))


def _rim(rng: np.random.Generator) -> Floats:
    """How the surface changes towards an edge: a dark seam, then a worn bright band that fades."""
    d = np.arange(RIM_PX, dtype=np.float32)
    seam = 1 - rng.uniform(0.3, 0.8) * step(-d, -rng.uniform(3, 22), 3)
    worn = 1 + rng.uniform(-0.25, 0.6) * step(-d, -rng.uniform(30, 110), rng.uniform(6, 40))
    fibres = 0.1 * noise(rng, 1, RIM_PX, 1, 11)[0] + 0.06 * noise(rng, 1, RIM_PX, 1, 2)[0]
    lines = 1 + fibres * np.clip(2 - d / 75, 0, 1)  # all ends before RIM_PX: there the factor is exactly 1
    return np.asarray(seam * worn * lines, dtype=np.float32)


def surface(rng: np.random.Generator, width_px: int, look: Look, edges: Edges) -> Surface:
    """Draw a surface; `any` lets the seed choose."""
    if edges == "any":
        chosen = rng.choice(4, p=[0.45, 0.22, 0.22, 0.11])
        edges = (("none", "left", "right", "both")[chosen],)[0]
    mix, coarse, fine = tiles(rng, width_px, look)
    inset = (0.03 + rng.beta(1.1, 2.2, 2)) * width_px * (0.25 if edges == "both" else 0.7)
    bare = Surface(
        width_px=width_px,
        has_left=edges in ("left", "both"),
        has_right=edges in ("right", "both"),
        coarse=coarse,
        fine=fine,
        light=_shade(rng, width_px) * np.float32(255 * mix.grey),
        rim=_rim(rng),
        left=float(inset[0]),
        right=float(width_px - inset[1]),
        wander=(_waves(rng, 0.018 * width_px, 2e3, 6e4), _waves(rng, 0.018 * width_px, 2e3, 6e4)),
    )
    for shortest, longest in ((300, 900), (700, 3e3), (3e3, 4e4)):
        across = noise(rng, 1, width_px, 1, max(2.0, width_px / 4))[0]
        bare.tones.append((_waves(rng, mix.tone, shortest, longest), np.clip(across, -1.6, 1.6)))
    return bare
