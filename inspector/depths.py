"""How deep the strip of each coil was inspected, while the coil is on the line."""

from __future__ import annotations

from inspector.coils import Coil
from inspector.events import Depth, Inspected
from inspector.strip import thousandths

Sums = dict[Depth, tuple[int, float]]
"""Depth -> (frames, mm)."""


class Depths:
    """Frames and strip of the coils that are looked at now: the one on the line, and perhaps the next one."""

    def __init__(self) -> None:
        self._coils: dict[int, Sums] = {}
        """By the encoder count at a coil's head."""

    def count(self, coil: Coil, depth: Depth, mm: float) -> None:
        """One frame was inspected."""
        sums = self._coils.setdefault(coil.head_count, {})
        frames, before = sums.get(depth, (0, 0.0))
        sums[depth] = frames + 1, before + mm

    def take(self, coil: Coil) -> dict[Depth, Inspected] | None:
        """What was counted of a coil that ends; None: all of it was inspected in full. Older coils are forgotten: what
        a camera that lags shows of them later is told nowhere."""
        sums = self._coils.get(coil.head_count, {})
        self._coils = {head: kept for head, kept in self._coils.items() if head > coil.head_count}
        if set(sums) <= {Depth.FULL}:
            return None
        found = ((depth, sums[depth]) for depth in Depth if depth in sums)
        return {depth: Inspected(frames=frames, mm=thousandths(mm)) for depth, (frames, mm) in found}
