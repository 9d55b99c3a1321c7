"""A strip cut into numbered frames, live or painted ahead, with an exact share of defective ones if wanted."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inspector.records import Pixels
from inspector.steel import Blemish, Strip

ENDLESS_FRAMES = 8_000
"""An endless strip repeats after this many frames: 1 km at 256 lines of 0.5 mm."""
BLOCK = 100
"""A share of defective frames is kept exactly in every block of this many frames."""

Bands = list[tuple[int, int]]


class Schedule:
    """Which positions hold a defect, for an exact share: shuffled in blocks, the same for a seed."""

    def __init__(self, seed: int, share: float) -> None:
        self._seed = seed
        self._share = share
        self._block: tuple[int, list[int]] = (-1, [])

    def up_to_block(self, block: int) -> int:
        """Defective frames in all blocks before this one."""
        return round(block * BLOCK * self._share)

    def at(self, position: int) -> tuple[bool, int]:
        """Is it defective, and how many of its sort (defective or clean) come before it."""
        block, place = divmod(position, BLOCK)
        if self._block[0] != block:
            rng = np.random.default_rng([self._seed, block])
            count = self.up_to_block(block + 1) - self.up_to_block(block)
            self._block = block, sorted(rng.permutation(BLOCK)[:count].tolist())
        before = bisect.bisect_left(self._block[1], place)
        defective = before < len(self._block[1]) and self._block[1][before] == place
        rank = self.up_to_block(block) + before
        return defective, rank if defective else position - rank


class Reel:
    """What lies at each position: the painted strip, live or prepared."""

    def __init__(
        self,
        paint: Callable[[int, Bands | None], Strip],
        *,
        seed: int,
        height_px: int,
        frames: int | None,
        prepared_frames: int,
        defective_share: float | None,
    ) -> None:
        """`paint` makes a strip of so many lines with defects in these bands only (None: anywhere)."""
        self._paint = paint
        self._height = height_px
        self._ahead = prepared_frames
        self._share = defective_share
        self._schedule = None if defective_share is None else Schedule(seed, defective_share)
        self.period = prepared_frames or frames or ENDLESS_FRAMES
        self._defective = self._count_defective()
        self._prepared: Pixels | None = None

    def _count_defective(self) -> int:
        """Prepared frames that hold a defect, the first of them all; they are served by the schedule."""
        n, share = self.period, self._share or 0.0
        if share in (0.0, 1.0):
            return round(n * share)
        return min(max(1, round(n * share)), max(1, n - 1))

    @cached_property
    def strip(self) -> Strip:
        """The strip that the frames are cut from; made on first use."""
        h = self._height
        bands: Bands | None = None
        if self._schedule is not None and self._ahead:
            bands = [(i * h, h) for i in range(self._defective)]
        elif self._schedule is not None:
            bands = [(i * h, h) for i in range(self.period) if self._schedule.at(i)[0]]
        return self._paint(self.period * h, bands)

    def prepare(self) -> None:
        """Make the strip and paint the prepared frames, once: uint8 [prepared_frames, height, width]."""
        strip, h = self.strip, self._height
        if self._ahead and self._prepared is None:
            prepared = np.empty((self._ahead, h, strip.width_px), dtype=np.uint8)
            for i, frame in enumerate(prepared):
                frame[:] = strip.render(i * h, h).pixels
            self._prepared = prepared

    def place(self, position: int) -> int:
        """Which frame of the painted strip is shown at this position."""
        if self._schedule is None or not self._ahead:
            return position % self.period
        defective, rank = self._schedule.at(position)
        if defective:
            return rank % self._defective
        return self._defective + rank % max(1, self.period - self._defective)

    def fill(self, position: int, pixels: Pixels) -> None:
        """Put the frame at `position` into `pixels`, uint8 [height, width]."""
        i, h = self.place(position), self._height
        if self._prepared is not None:
            np.copyto(pixels, self._prepared[i])
        else:
            np.copyto(pixels, self.strip.render(i * h, h).pixels)

    def fill_lines(self, lines: NDArray[np.int64], pixels: Pixels) -> None:
        """Put any lines of a strip that is not prepared into the rows of `pixels`; they count from position 0."""
        lines = lines % (self.period * self._height)
        wrapped = lines < lines.max() - self.period * self._height // 2
        for rows in (~wrapped, wrapped):
            if rows.any():
                chosen = lines[rows]
                first = int(chosen.min())
                painted = self.strip.render(first, int(chosen.max()) - first + 1).pixels
                pixels[rows] = painted[chosen - first]

    def truths(self, first: int, last: int) -> list[Blemish]:
        """Defects that begin in the frames [first, last), with lines counted from position 0."""
        h = self._height
        by_frame: dict[int, list[Blemish]] = {}
        for b in self.strip.defects:
            by_frame.setdefault(b.first_line // h, []).append(b)
        found = []
        for position in range(first, last):
            i = self.place(position)
            found += [replace(b, first_line=b.first_line + (position - i) * h) for b in by_frame.get(i, ())]
        return found
