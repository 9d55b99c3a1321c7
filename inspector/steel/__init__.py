"""A synthetic steel strip with defects whose truth is known: for demos, tests, benchmarks and the trainer.

A `Strip` is a pure function of its seed. `render` paints any stretch of it, and however the strip is cut into
pictures, their pixels and masks are the same. Rolls differ by seed: smooth, grainy, ribbed, scaled, dark.

    strip = Strip(seed=7, length_lines=25_600, rates={1: 0.2, 3: 0.5})
    picture = strip.render(first_line=256, lines=256)
    picture.pixels                    # uint8 [256, 1600]
    [(t.defect_class, t.first_line, t.mask.sum()) for t in picture.truths]
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inspector.errors import ConfigError
from inspector.records import Pixels
from inspector.steel.marks import Mask, Patch, patch
from inspector.steel.plan import SMALLEST_BAND, Blemish, plan
from inspector.steel.surface import Edges, surface
from inspector.steel.texture import Floats, Look

__all__ = ["PSEUDO_RATE", "RATES", "Blemish", "Edges", "Look", "Rendering", "Strip", "Truth"]

RATES: Mapping[int, float] = {1: 0.03, 2: 0.01, 3: 0.1, 4: 0.02}
"""Defects per 1,000 lines of each class, in about the proportions of the reference set."""

PSEUDO_RATE = 0.15
"""Pseudo-defects per 1,000 lines."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The part of one true defect that lies in a rendering.

    `mask` is bool [lines, width]; its first row is the strip's line `first_line`, its first column `first_px`.
    """

    id: int
    defect_class: int
    first_line: int
    first_px: int
    mask: Mask


@dataclass(frozen=True, slots=True)
class Rendering:
    """A picture of a strip: `pixels` is uint8 [lines, width], C-contiguous, and its row 0 is `first_line`."""

    first_line: int
    pixels: Pixels
    truths: list[Truth]

    def mask(self, defect_class: int) -> Mask:
        """Where this class truly is: bool, the shape of `pixels`."""
        whole = np.zeros(self.pixels.shape, dtype=bool)
        for t in self.truths:
            if t.defect_class == defect_class:
                y, (h, w) = t.first_line - self.first_line, t.mask.shape
                whole[y : y + h, t.first_px : t.first_px + w] |= t.mask
        return whole


class Strip:
    """A coil's strip as one camera's lane sees it, all of it settled by `seed`. For one thread at a time.

    Args:
        seed: any whole number >= 0.
        width_px: pixels across the lane.
        length_lines: lines along the strip.
        rates: defects per 1,000 lines by class 1..4; a class that is not named has none.
        pseudo_rate: pseudo-defects (paint, stamps, stains, scale, drips) per 1,000 lines.
        look: the finish; "any" lets the seed choose, but never "chequer" (tread plate).
        edges: which edges of the strip the lane shows; "any" lets the seed choose.
        weld: put one weld seam on the strip (a pseudo-defect).
        bands: (first line, lines) stretches that hold at least one defect each while the rest of the strip
            holds none; `rates` are then only weights between the classes.

    Raises:
        ConfigError: a size, class or rate that cannot be.
    """

    def __init__(
        self,
        seed: int,
        width_px: int = 1600,
        length_lines: int = 256_000,
        rates: Mapping[int, float] = RATES,
        *,
        pseudo_rate: float = PSEUDO_RATE,
        look: Look = "any",
        edges: Edges = "any",
        weld: bool = True,
        bands: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        check(width_px, length_lines, rates, pseudo_rate, bands)
        self.width_px = width_px
        self.length_lines = length_lines
        drawn, planned = np.random.SeedSequence(seed).spawn(2)
        self.surface = surface(np.random.default_rng(drawn), width_px, look, edges)
        rng = np.random.default_rng(planned)
        self.blemishes = plan(rng, self.surface, length_lines, rates, pseudo_rate, weld, bands)
        self.defects = [b for b in self.blemishes if b.defect_class]
        self._first_lines = [b.first_line for b in self.blemishes]
        self._longest = max((b.lines for b in self.blemishes), default=0)
        self._patches: dict[int, Patch] = {}

    def within(self, first_line: int, lines: int) -> list[Blemish]:
        """Blemishes that reach into these lines, pseudo-defects too, by first line."""
        start = bisect_left(self._first_lines, first_line - self._longest)
        end = bisect_left(self._first_lines, first_line + lines)
        return [b for b in self.blemishes[start:end] if b.end_line > first_line]

    def mask(self, defect: Blemish) -> Mask:
        """The whole truth mask of a defect: bool [defect.lines, defect.width_px]."""
        return self._patch(defect).mask

    def render(self, first_line: int, lines: int, *, defects: bool = True) -> Rendering:
        """Paint `lines` lines from `first_line` on; without `defects`, the same steel as if it had none.

        Raises:
            ValueError: the stretch leaves the strip.
        """
        if first_line < 0 or lines < 1 or first_line + lines > self.length_lines:
            raise ValueError(f"lines {first_line}..{first_line + lines} leave the strip's {self.length_lines}")
        found = [b for b in self.within(first_line, lines) if defects or not b.defect_class]
        self._patches = {b.id: self._patch(b) for b in found}
        picture = self.surface.paint(first_line, lines)
        truths = [t for b in found if (t := self._lay(picture, b, first_line)) is not None]
        self.surface.cut_edges(picture, first_line)
        np.clip(picture, 0, 255, out=picture)
        return Rendering(first_line, picture.astype(np.uint8), truths)

    def _patch(self, b: Blemish) -> Patch:
        known = self._patches.get(b.id)
        return known if known is not None else patch(b.kind, b.seed, b.lines, b.width_px, b.contrast)

    def _lay(self, picture: Floats, b: Blemish, first_line: int) -> Truth | None:
        """Lay a blemish onto the picture; the part of its truth that lies there, if any."""
        top, end = max(first_line, b.first_line), min(first_line + picture.shape[0], b.end_line)
        own = slice(top - b.first_line, end - b.first_line)
        part = picture[top - first_line : end - first_line, b.first_px : b.first_px + b.width_px]
        painted = self._patches[b.id]
        part *= painted.gain[own]
        part += painted.add[own]
        if not painted.mask[own].any():
            return None
        return Truth(b.id, b.defect_class, top, b.first_px, painted.mask[own])


def check(
    width_px: int,
    length_lines: int,
    rates: Mapping[int, float],
    pseudo_rate: float,
    bands: Sequence[tuple[int, int]] | None,
) -> None:
    if width_px < 16 or length_lines < 8:
        raise ConfigError(f"a strip of {width_px} px x {length_lines} lines: make it at least 16 px x 8 lines")
    unknown = sorted(set(rates) - {1, 2, 3, 4})
    if unknown:
        raise ConfigError(f"rates name defect class {unknown[0]}: the synthetic strip has classes 1 to 4")
    if min([*rates.values(), pseudo_rate], default=0.0) < 0:
        raise ConfigError("rates are defects per 1,000 lines: make them 0 or more")
    if bands and sum(rates.values()) <= 0:
        raise ConfigError("rates are all 0, so no class can lie in the bands: give one a rate above 0")
    for first, lines in bands or ():
        if first < 0 or lines < SMALLEST_BAND or first + lines > length_lines:
            raise ConfigError(f"band ({first}, {lines}) must have {SMALLEST_BAND} lines or more and lie on the strip")
