"""Single blemishes: the four defect types with their truth masks, and pseudo-defects, which have none.

Shapes and sizes follow the reference set (shared with the trainer): its masks are coarse polygons drawn around a
blemish, so a truth mask here is such a polygon too, and it touches all four sides of its box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.steel.texture import Floats, noise, step

Mask = NDArray[np.bool_]
Rng = np.random.Generator
Kind = str


@dataclass(frozen=True)
class Patch:
    """What a blemish does to the surface: grey = grey * gain + add. All arrays are [lines, width] of its box."""

    gain: Floats
    add: Floats
    mask: Mask
    """Truth; all False for a pseudo-defect."""


def _blank(h: int, w: int) -> tuple[Floats, Floats]:
    return np.ones((h, w), np.float32), np.zeros((h, w), np.float32)


def _grid(h: int, w: int) -> tuple[Floats, Floats]:
    return np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)[None, :]


def _fill(x: NDArray[np.float64], y: NDArray[np.float64], h: int, w: int) -> Mask:
    """A filled polygon, stretched so that it touches all sides of the box."""
    points = np.stack([_stretch(x, w), _stretch(y, h)], axis=1)
    canvas = np.zeros((h, w), np.uint8)
    cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], 1)
    return canvas.astype(bool)


def _stretch(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    low, high = values.min(), values.max()
    return np.asarray((values - low) / max(high - low, 1e-9) * (size - 1))


def outline(rng: Rng, h: int, w: int, corners: int, roughness: float) -> Mask:
    """A star-shaped polygon with unequal corners that fills its box: bool [h, w]."""
    angle = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * 2 * np.pi / corners + rng.uniform(0, 6.28)
    radius = 1 - roughness * rng.uniform(0, 1, corners)
    return _fill(radius * np.cos(angle), radius * np.sin(angle), h, w)


def slanted(rng: Rng, h: int, w: int) -> Mask:
    """A narrow, slightly slanted box as people draw it around a line: bool [h, w]."""
    lean = rng.uniform(-0.3, 0.3) * w
    wide = max(2.0, w - abs(lean))
    x = np.array([0, wide, wide + lean, lean]) + rng.uniform(0, 0.12 * wide, 4)
    return _fill(x, np.array([0.0, 0.0, 1.0, 1.0]) * h, h, w)


def inside(mask: Mask, softness_px: float) -> Floats:
    """1 in the mask, falling to 0 towards its rim over about `softness_px`."""
    padded = np.pad(mask, 1).astype(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(np.clip(distance / max(softness_px, 0.5), 0, 1), dtype=np.float32)


def pits(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """Type 1: a few small dark pits with a bright lip, one below the other."""
    mask = outline(rng, h, w, int(rng.integers(4, 9)), 0.3)
    gain, add = _blank(h, w)
    y, x = _grid(h, w)
    for _ in range(int(rng.integers(2, 4)) + int(h * w / 1500)):
        cy, cx = rng.uniform(0.2, 0.8) * h, rng.normal(0.5, 0.12) * w
        ry, rx = rng.uniform(2.5, 0.14 * h + 4), rng.uniform(1.4, 0.09 * w + 2.2)
        hole = np.exp(-(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2))
        lip_y, lip_x = cy + rng.choice([-1, 1]) * ry, cx + rng.uniform(-1, 1) * rx
        lip = np.exp(-(((y - lip_y) / (0.6 * ry)) ** 2 + ((x - lip_x) / (1.1 * rx)) ** 2))
        gain *= 1 - 0.8 * contrast * hole
        add += rng.uniform(0.3, 1.0) * 230 * contrast * lip * (0.7 + 0.3 * noise(rng, h, w, 2, 1.5))
    fade = inside(mask, 2)
    return Patch(1 - (1 - gain) * fade, np.maximum(add, 0) * fade, mask)


def _wobble(rng: Rng, h: int, amount: float) -> Floats:
    """A nearly straight line's sideways place over its length, px: [h, 1]."""
    return amount * noise(rng, h, 1, max(2.0, h / 3), 1)


def _stroke(rng: Rng, h: int, w: int, centre: float, width: float, gaps: float) -> Floats:
    """A vertical stroke with ragged ends and breaks, 0..1: [h, w]."""
    y, x = _grid(h, w)
    start, length = rng.uniform(0, 0.3) * h, rng.uniform(0.6, 1) * h
    along = step(np.minimum(y - start, start + length - y), 4, 6)
    along = along * step(noise(rng, h, 1, 14, 1) + 0.5 * noise(rng, h, 1, 4, 1), gaps, 0.7)
    middle = centre + _wobble(rng, h, 0.03 * w) + 0.3 * noise(rng, h, 1, 3, 1)
    thick = width * (0.75 + 0.35 * np.clip(noise(rng, h, 1, 25, 1), -1, 1.5))
    return np.asarray(along * np.exp(-(((x - middle) / thick) ** 2)), dtype=np.float32)


def line(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """Type 2: a thin line along the strip, near an edge."""
    mask = slanted(rng, h, w)
    gain, add = _blank(h, w)
    for _ in range(int(rng.choice([1, 1, 2]))):
        stroke = _stroke(rng, h, w, w * rng.uniform(0.35, 0.65), rng.uniform(0.9, 2.2), -1.5)
        if rng.random() < 0.8:
            gain *= 1 - 0.85 * contrast * stroke
        else:
            add += 90 * contrast * stroke
    fade = inside(mask, 1)
    return Patch(1 - (1 - gain) * fade, add * fade, mask)


def scratch(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """Type 3, narrow: one or two long scratches along the strip."""
    mask = slanted(rng, h, w)
    gain, add = _blank(h, w)
    bright = rng.random() < 0.35
    for _ in range(int(rng.integers(1, 3)) + w // 60):
        centre, width = w * rng.uniform(0.25, 0.75), rng.uniform(1.2, 2.5 + 0.05 * min(w, 60))
        stroke = _stroke(rng, h, w, centre, width, -1.1)
        gain *= 1 - (0.5 if bright else 0.9) * contrast * stroke
        edge = _stroke(rng, h, w, centre + width, 1.1, 0.2)
        add += (170 if bright else 60) * contrast * (stroke if bright else edge)
    if bright:
        add *= np.clip(0.6 + 0.5 * noise(rng, h, w, 5, 1.5), 0, 1.5)
    fade = inside(mask, 1.5)
    return Patch(1 - (1 - gain) * fade, add * fade, mask)


def abrasion(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """Type 3, wide: a field of short broken scratches."""
    mask = outline(rng, h, w, int(rng.integers(5, 10)), 0.15)
    bright = rng.random() < 0.4
    field = noise(rng, h, w, rng.uniform(25, 90), rng.uniform(2.4, 4.5)) + 0.6 * noise(rng, h, w, 90, 22)
    field += 0.3 * noise(rng, h, w, 9, 1.6)
    marks = step(field, rng.uniform(0.95, 1.5), 0.5) * inside(mask, 6)
    shine = step(noise(rng, h, w, 16, 1.8) + 0.8 * field, 2.1, 1.1) * inside(mask, 6)
    shine *= np.clip(0.65 + 0.45 * noise(rng, h, w, 4, 1.5), 0, 1.4)
    gain = 1 - (0.4 if bright else 0.8) * contrast * marks
    return Patch(gain, (200 if bright else 80) * contrast * shine, mask)


def scuff(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """Type 3, bright: fresh metal, rubbed blank in strokes that lean any way."""
    mask = outline(rng, h, w, int(rng.integers(4, 8)), 0.2)
    canvas = np.zeros((h, w), np.float32)
    lean = rng.uniform(-0.5, 0.5) + rng.choice([0, np.pi / 2])
    for _ in range(4 + int(h * w / 700)):
        cx, cy, long = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * h, rng.uniform(0.08, 0.35) * max(h, w)
        turn = lean + rng.normal(0, 0.15)
        dx, dy = np.cos(turn) * long / 2, np.sin(turn) * long / 2
        ends = (int(cx - dx), int(cy - dy)), (int(cx + dx), int(cy + dy))
        cv2.line(canvas, ends[0], ends[1], float(rng.uniform(0.4, 1)), int(rng.integers(1, 3)), cv2.LINE_8)
    shine = cv2.GaussianBlur(canvas, (0, 0), 0.8) * np.clip(0.55 + 0.6 * noise(rng, h, w, 2.2, 2.2), 0, 1.4)
    shine *= inside(mask, 3)
    return Patch(1 - 0.15 * contrast * inside(mask, 0.5 * min(h, w)), 255 * contrast * shine, mask)


def _slope(height: NDArray[Any]) -> Floats:
    """How a relief catches light that falls along the strip, deviation 1: [h, w]."""
    if min(height.shape) < 3:
        return np.zeros(height.shape, np.float32)
    slope = np.gradient(height, axis=0) + 0.4 * np.gradient(height, axis=1)
    return np.asarray(slope / max(float(np.std(slope)), 1e-6), dtype=np.float32)


def torn(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """Type 4: a torn or rolled-in patch: folds and creases of its own, a shadow along one side, a lip on the other."""
    mask = outline(rng, h, w, int(rng.integers(7, 15)), 0.45)
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    small = min(h, w)
    wall = 2 * noise(rng, h, w, 5, 5) + (1 + 0.045 * small) * noise(rng, h, w, 8 + 0.15 * small, 8 + 0.15 * small)
    body = step(distance + wall, 4 + 0.05 * small, 2.0) * (distance > 0)
    long = rng.uniform(0.7, 2.8)  # folds run across the strip more often than along it
    sizes = (min(60.0, 0.45 * h + 4), 17.0, 7.0)
    folds = np.sum([noise(rng, h, w, grain, grain * long) * grain for grain in sizes], axis=0)
    fold, ridge = noise(rng, h, w, 30, 30 * long), noise(rng, h, w, 12, 16)
    thick = 0.08 + 0.1 * np.clip(noise(rng, h, w, 25, 25), 0, 1.5)
    crease = np.exp(-(((fold + 0.35 * ridge) / thick) ** 2)) * step(noise(rng, h, w, 35, 35), 0.1, 1.5)
    rough = 0.07 * noise(rng, h, w, 1.5, 1.5) + 0.05 * noise(rng, h, w, 4, 4)
    own = rng.uniform(0.5, 1.0) * (1 + rng.uniform(0.15, 0.36) * _slope(folds) + rough) * (1 - 0.6 * crease)
    side = _slope(cv2.GaussianBlur(body, (0, 0), 1.8)) * float(rng.choice([-0.16, 0.16]))
    gain = 1 + contrast * (body * (np.clip(own, 0.12, 2.2) - 1) + np.clip(side, -0.65, 0.5))
    shine = 50 * contrast * body * step(_slope(folds) + 3 * rough, 2.0, 0.8)
    return Patch(np.clip(gain, 0.08, 3).astype(np.float32), shine.astype(np.float32), mask)


# ---------------------------------------------------------------- pseudo-defects


def _no_truth(gain: NDArray[Any], add: NDArray[Any]) -> Patch:
    return Patch(gain.astype(np.float32), add.astype(np.float32), np.zeros(gain.shape, dtype=bool))


def paint(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """A stroke of white marking paint with drops and holes."""
    y, x = _grid(h, w)
    stroke = np.exp(-(((x - w * 0.5 - _wobble(rng, h, 0.08 * w)) / (0.22 * w)) ** 2))
    ends = step(np.minimum(y, h - y), 0.06 * h + 2, 6)
    ragged = stroke * ends + 0.22 * noise(rng, h, w, 11, 7) + 0.12 * noise(rng, h, w, 4, 3)
    white = step(ragged, 0.62, 0.08) * step(np.minimum(x, w - x), 1, 2)
    return _no_truth(1 - white, white * 255 * (0.75 + 0.25 * contrast))


def stamp(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """A stamped or sprayed number, read along the strip."""
    text = "".join(str(d) for d in rng.integers(0, 10, int(rng.integers(3, 6))))
    canvas = np.zeros((w, h), np.uint8)
    scale = min(w / 34, h / (21.0 * len(text)))
    cv2.putText(canvas, text, (2, int(0.82 * w)), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(2, int(2.6 * scale)))
    blurred = np.rot90(cv2.GaussianBlur(canvas, (0, 0), 1.1)).astype(np.float32) / 255
    ink = step(blurred + 0.2 * noise(rng, h, w, 5, 4) * (blurred > 0.05), 0.5, 0.3)
    if rng.random() < 0.6:
        return _no_truth(1 - ink, ink * 250)
    return _no_truth(1 - 0.5 * contrast * ink, 0 * ink)


def stain(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """A dried pool of water or oil: a faint body and a darker rim."""
    y, x = _grid(h, w)
    size = 0.3 * min(h, w)
    far = np.hypot((y - 0.5 * h) / (0.5 * h), (x - 0.5 * w) / (0.5 * w))
    pool = 1.2 - far + 0.12 * noise(rng, h, w, size, size) + 0.03 * noise(rng, h, w, 7, 7)
    filled = step(pool, 0.6, 0.1)
    rim = np.exp(-(((pool - 0.6) / 0.07) ** 2))
    edge = inside(np.ones((h, w), dtype=bool), 4)
    return _no_truth(1 - contrast * edge * (0.16 * filled + 0.22 * rim), 0 * filled)


def flakes(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """Loose scale: a swarm of dark flecks that thins out."""
    y, x = _grid(h, w)
    cloud = 1.6 * np.exp(-(((y / h - 0.5) / 0.3) ** 2 + ((x / w - 0.5) / 0.3) ** 2))
    field = noise(rng, h, w, 7, 4) + 0.8 * noise(rng, h, w, 24, 12) + cloud
    edge = inside(np.ones((h, w), dtype=bool), 0.15 * min(h, w))
    return _no_truth(1 - 0.6 * contrast * edge * step(field, 2.3, 0.4), 0 * edge)


def drip(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """A wandering trickle of emulsion: soft, dark, without sharp sides."""
    _, x = _grid(h, w)
    middle = 0.5 * w + 0.16 * w * np.clip(noise(rng, h, 1, max(3.0, h / 4), 1), -1.8, 1.8)
    trickle = np.exp(-(((x - middle) / (0.13 * w)) ** 2)) * inside(np.ones((h, w), dtype=bool), 6)
    return _no_truth(1 - 0.35 * contrast * trickle * (0.8 + 0.2 * noise(rng, h, w, 30, 5)), 0 * trickle)


def weld(rng: Rng, h: int, w: int, contrast: float) -> Patch:
    """The seam that joins two coils: a rippled bead between two bands tinted by heat."""
    y, x = _grid(h, w)
    d = (y - 0.5 * h - 2.5 * noise(rng, 1, w, 1, 40) * 0.25) / (0.5 * h)
    heat = np.exp(-(((np.abs(d) - 0.5) / 0.2) ** 2))
    bead = step(0.2 - np.abs(d), 0, 0.05)
    ripple = np.sin(x * np.float32(2 * np.pi / rng.uniform(7, 12)) + 9 * d * d)
    toe = np.exp(-(((np.abs(d) - 0.2) / 0.04) ** 2))
    spatter = step(noise(rng, h, w, 3, 3) - 1.2 * np.abs(d), 2.0, 0.4)
    gain = (1 - 0.3 * contrast * heat) * (1 - 0.55 * toe) * (1 + bead * (0.25 + 0.22 * ripple))
    gain *= 1 + 0.08 * bead * noise(rng, h, w, 2, 3)
    return _no_truth(1 + (gain - 1) * step(1 - np.abs(d), 0.08, 0.15), 120 * spatter * (np.abs(d) < 0.8))


PAINTERS: dict[Kind, Callable[[Rng, int, int, float], Patch]] = {
    f.__name__: f for f in (pits, line, scratch, abrasion, scuff, torn, paint, stamp, stain, flakes, drip, weld)
}


def patch(kind: Kind, seed: int, lines: int, width_px: int, contrast: float) -> Patch:
    """The blemish `kind` in a box of [lines, width_px] (both at least 4); the same seed paints the same."""
    return PAINTERS[kind](np.random.default_rng(seed), lines, width_px, contrast)
