"""How the strip of each coil was judged, how deep and by which packs, while the coil is on the line."""

from __future__ import annotations

from dataclasses import dataclass, field

from inspector.coils import Coil
from inspector.events import Depth, Inspected
from inspector.strip import thousandths


@dataclass(slots=True)
class _Sums:
    """Of one coil."""

    depths: dict[Depth, tuple[int, float]] = field(default_factory=dict)
    """Depth -> (frames, mm)."""
    packs: dict[str, None] = field(default_factory=dict)
    """Digests, in the order in which they came."""


class Judged:
    """Frames, strip and packs of the coils that are looked at now: the one on the line, and perhaps the next one."""

    def __init__(self) -> None:
        self._coils: dict[int, _Sums] = {}
        """By the encoder count at a coil's head."""

    def count(self, coil: Coil, depth: Depth, mm: float) -> None:
        """One frame was inspected; it counts for the coil on which it begins."""
        depths = self._of(coil).depths
        frames, before = depths.get(depth, (0, 0.0))
        depths[depth] = frames + 1, before + mm

    def judge(self, coil: Coil, digest: str) -> None:
        """A frame that shows something of the coil was judged by this pack."""
        self._of(coil).packs[digest] = None

    def take(self, coil: Coil) -> tuple[dict[Depth, Inspected] | None, tuple[str, ...] | None]:
        """What was inspected how deep of a coil that ends, None: all in full; and the digests of the packs that judged
        it, None: nothing of it was. Older coils are forgotten: what a camera that lags shows of them later is told
        nowhere."""
        sums = self._of(coil)
        self._coils = {head: kept for head, kept in self._coils.items() if head > coil.head_count}
        return _by_depth(sums.depths), tuple(sums.packs) or None

    def _of(self, coil: Coil) -> _Sums:
        return self._coils.setdefault(coil.head_count, _Sums())


def _by_depth(depths: dict[Depth, tuple[int, float]]) -> dict[Depth, Inspected] | None:
    if set(depths) <= {Depth.FULL}:
        return None
    found = ((depth, depths[depth]) for depth in Depth if depth in depths)
    return {depth: Inspected(frames=frames, mm=thousandths(mm)) for depth, (frames, mm) in found}
