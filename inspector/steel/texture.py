"""The texture of rolled steel as two tiles that repeat along the strip, and the noise that everything is made of.

The tiles repeat after coprime numbers of lines, so together only after about a million lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Look = Literal["any", "smooth", "grainy", "ribbed", "scaled", "dark", "chequer"]

COARSE_LINES, FINE_LINES = 1153, 907
SEAM_LINES = 96


def noise(rng: np.random.Generator, lines: int, width_px: int, along: float, across: float) -> Floats:
    """Smooth noise [lines, width_px], mean about 0 and deviation 1, with grains of `along` x `across` px."""
    small = (math.ceil(lines / along) + 2, math.ceil(width_px / across) + 2)
    grid = rng.standard_normal(small, dtype=np.float32)
    big = (math.ceil(small[1] * across), math.ceil(small[0] * along))
    cut = cv2.resize(grid, big, interpolation=cv2.INTER_CUBIC)[:lines, :width_px]
    return np.asarray(cut / max(float(cut.std()), 1e-6) if cut.size > 64 else cut, dtype=np.float32)


def step(values: NDArray[Any], threshold: float, softness: float) -> Floats:
    """0 below the threshold and 1 above it, with a ramp of `softness` between."""
    return np.asarray(np.clip((values - threshold) / softness + 0.5, 0, 1), dtype=np.float32)


def _endless(tile: Floats) -> Floats:
    """A tile that repeats without a seam: its first lines are cross-faded with those behind its end."""
    lines = tile.shape[0] - SEAM_LINES
    ramp = np.linspace(0, 1, SEAM_LINES, dtype=np.float32)[:, None]
    mean = tile.mean(axis=0, keepdims=True)
    head = (tile[:SEAM_LINES] - mean) * np.sqrt(ramp) + (tile[lines:] - mean) * np.sqrt(1 - ramp) + mean
    return np.ascontiguousarray(np.concatenate([head, tile[SEAM_LINES:lines]]), dtype=np.float32)


@dataclass(frozen=True)
class Recipe:
    """How strong each part of the texture is; amplitudes are shares of the mean grey."""

    grey: float
    """Mean grey of lit strip, 0..1."""
    streaks: float
    mottle: float
    tides: float
    """Step in tone at the outline of a large dried water mark."""
    grain: float
    ripple: float
    """Fine ribs across the strip, as the work rolls leave them."""
    glitter: float
    scale: float
    """About the share of the surface under thin scale."""
    tone: float
    """Slow changes of tone along the strip."""


_RECIPES: dict[str, dict[str, tuple[float, float]]] = {
    "smooth": {
        "grey": (0.28, 0.5),
        "streaks": (0.02, 0.07),
        "mottle": (0.01, 0.04),
        "tides": (0.0, 0.12),
        "grain": (0.05, 0.1),
        "ripple": (0.0, 0.02),
        "glitter": (0.0, 0.2),
        "scale": (-0.2, 0.03),
        "tone": (0.06, 0.3),
    },
    "grainy": {
        "grey": (0.24, 0.41),
        "streaks": (0.05, 0.13),
        "mottle": (0.03, 0.08),
        "tides": (0.0, 0.1),
        "grain": (0.11, 0.19),
        "ripple": (0.02, 0.09),
        "glitter": (0.8, 1.6),
        "scale": (-0.15, 0.08),
        "tone": (0.05, 0.2),
    },
    "ribbed": {
        "grey": (0.35, 0.6),
        "streaks": (0.04, 0.1),
        "mottle": (0.03, 0.08),
        "tides": (0.0, 0.15),
        "grain": (0.07, 0.12),
        "ripple": (0.05, 0.14),
        "glitter": (0.5, 1.3),
        "scale": (-0.15, 0.08),
        "tone": (0.15, 0.4),
    },
    "scaled": {
        "grey": (0.26, 0.43),
        "streaks": (0.05, 0.11),
        "mottle": (0.04, 0.09),
        "tides": (0.05, 0.2),
        "grain": (0.07, 0.13),
        "ripple": (0.0, 0.06),
        "glitter": (0.1, 0.8),
        "scale": (0.06, 0.2),
        "tone": (0.08, 0.25),
    },
    "dark": {
        "grey": (0.15, 0.24),
        "streaks": (0.05, 0.12),
        "mottle": (0.04, 0.1),
        "tides": (0.0, 0.2),
        "grain": (0.1, 0.17),
        "ripple": (0.0, 0.08),
        "glitter": (0.3, 1.2),
        "scale": (-0.15, 0.1),
        "tone": (0.05, 0.25),
    },
}


def recipe(look: Look, rng: np.random.Generator) -> Recipe:
    """Amounts for a look, drawn within what real rolls show."""
    name = str(rng.choice(list(_RECIPES), p=[0.3, 0.22, 0.22, 0.16, 0.1])) if look == "any" else look
    name = "smooth" if look == "chequer" else name
    return Recipe(**{part: float(rng.uniform(*span)) for part, span in _RECIPES[name].items()})


def _coarse(r: Recipe, rng: np.random.Generator, width: int) -> Floats:
    """Streaks, mottling, tide marks and scale, as a factor around 1: float32 [COARSE_LINES, width]."""
    lines = COARSE_LINES + SEAM_LINES
    columns = sum(noise(rng, 1, width, 1, grain) * share for grain, share in ((220, 0.5), (37, 0.5), (6, 0.25)))
    streaks = columns + 0.8 * noise(rng, lines, width, 420, 11) + 0.45 * noise(rng, lines, width, 150, 2.5)
    mottle = noise(rng, lines, width, 130, 170) + 0.6 * noise(rng, lines, width, 26, 18)
    tile = np.asarray(1 + 0.7 * r.streaks * streaks + r.mottle * mottle, dtype=np.float32)
    for _ in range(2):
        pool = noise(rng, lines, width, 420, 260) + 0.05 * noise(rng, lines, width, 12, 9)
        tile *= 1 + r.tides * float(rng.choice([-0.8, 0.6])) * step(pool, 0.8, rng.uniform(0.05, 0.4))
    if r.scale > 0.01:
        _scale(tile, r.scale, rng)
    return _endless(np.asarray(np.maximum(tile, 0.15), dtype=np.float32))


def _scale(tile: Floats, amount: float, rng: np.random.Generator) -> None:
    """Thin scale in bands: flakes drawn out along the strip, dark ones and lighter ones, in place."""
    lines, width = tile.shape
    flakes = noise(rng, lines, width, rng.uniform(20, 60), rng.uniform(5, 11))
    flakes += 0.5 * noise(rng, lines, width, 9, 4) + 0.3 * noise(rng, lines, width, 2.5, 1.8)
    bands = noise(rng, lines, width, 600, 130)
    tile *= 1 - rng.uniform(0.1, 0.33) * step(flakes + bands, 2.9 - 5 * amount, rng.uniform(0.4, 1.4))
    tile *= 1 + rng.uniform(0.05, 0.25) * step(flakes - bands, 3.1 - 5 * amount, rng.uniform(0.4, 1.4))


def _ribs(rng: np.random.Generator, lines: int, width: int) -> Floats:
    """Crests of the work rolls' marks: nearly straight rows, a little tilted, broken into dashes. About -1..1."""
    y = np.arange(lines, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    bend = (
        rng.uniform(-0.05, 0.05) * x + 5 * noise(rng, lines, width, 330, 420) + 0.9 * noise(rng, lines, width, 14, 34)
    )
    turns = round(FINE_LINES / rng.uniform(6, 10))  # whole turns in the tile, so that its ends fit
    waves = np.sin((y + bend) * np.float32(2 * np.pi * turns / FINE_LINES))
    return np.asarray(waves * np.clip(0.6 + 0.5 * noise(rng, lines, width, 6, 20), 0, 2), dtype=np.float32)


def _fine(r: Recipe, rng: np.random.Generator, width: int) -> Floats:
    """Grain, ribs, glitter and short dark ticks, as a factor around 1: float32 [FINE_LINES, width]."""
    lines = FINE_LINES + SEAM_LINES
    raw = rng.standard_normal((lines, width), dtype=np.float32)
    tile = 1 + r.grain * (0.55 * raw + 1.2 * cv2.GaussianBlur(raw, (0, 0), sigmaX=0.7, sigmaY=1.3))
    bands = 0.5 + 0.6 * noise(rng, 1, width, 1, 130) + 0.45 * noise(rng, lines, width, 380, 60)
    bands = np.clip(bands, 0, 1.8)
    ribs = _ribs(rng, lines, width)
    tile += r.ripple * bands * ribs
    sparks = noise(rng, lines, width, 1.5, 2.2) + 0.9 * bands + min(0.9, 5 * r.ripple) * ribs
    tile += r.glitter * 0.9 * step(sparks, 3.3, 1.4) * (0.25 + 0.75 * np.minimum(bands, 1))
    ticks = noise(rng, lines, width, 16, 1.8) + 0.4 * noise(rng, lines, width, 200, 60)
    tile *= 1 - 0.4 * step(ticks, rng.uniform(3.5, 4.8), 0.5)
    return _endless(np.asarray(np.maximum(tile, 0.05), dtype=np.float32))


def _chequer(rng: np.random.Generator, lines: int, width: int) -> Floats:
    """Tread plate: rolled lenses that lean to and fro, lit along the strip, as a factor around 1."""
    rows = round(FINE_LINES / rng.uniform(60, 110))  # whole rows in the tile, so that its ends fit
    pitch = FINE_LINES / rows
    y, x = np.mgrid[0:lines, 0:width].astype(np.float32) / np.float32(pitch)
    height = np.zeros((lines, width), np.float32)
    for parity, lean in ((0.0, 1.0), (0.5, -1.0)):
        v, u = (y + parity) % 1 - 0.5, (x * 0.75 + parity) % 1 - 0.5
        along, aside = (u + lean * v) * 0.7, (u - lean * v) * 0.7
        height += np.sqrt(np.clip(1 - (along / 0.3) ** 2 - (aside / 0.085) ** 2, 0, 1))
    slope = np.gradient(cv2.GaussianBlur(height, (0, 0), 1.2), axis=0)
    return np.asarray(np.clip(1 - 3.5 * slope + 0.15 * height, 0.15, 2.5), dtype=np.float32)


def tiles(rng: np.random.Generator, width: int, look: Look) -> tuple[Recipe, Floats, Floats]:
    """The recipe and the two tiles of a look: float32 [COARSE_LINES, width] and [FINE_LINES, width], around 1."""
    mix = recipe(look, rng)
    coarse, fine = _coarse(mix, rng, width), _fine(mix, rng, width)
    if look == "chequer":
        fine *= _chequer(rng, FINE_LINES, width)
    return mix, coarse, fine
