"""Both packs of a change judge the same frame, one after the other in the change's own thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from inspector.cascade import Cascade
from inspector.engines import Engines
from inspector.packs.comparing import Comparison
from inspector.packs.sampling import Sample
from inspector.records import Batch, Verdict


class Pair:
    """Both packs of a change, with a stream each; `live` is the one that is on duty."""

    def __init__(self, old: Engines, new: Engines, swapped: bool, merge_px: int) -> None:
        self.live, self._other = (new, old) if swapped else (old, new)
        self._swapped = swapped
        self._tile = old.pack.manifest.tile
        self._own = Cascade(self.live.pack, self.live.spare, merge_px)
        self._shadow = Cascade(self._other.pack, self._other.spare, merge_px)
        self._turn = False

    def judge(self, sample: Sample, found: Comparison, timed: bool) -> tuple[Verdict, Verdict]:
        """(old, new): what both make of a frame. Timed, the line's pack judges it once more beside the other."""
        batch = sample.batch(self._tile)
        own_s = 0.0
        self._turn = not self._turn  # whoever comes second finds the caches warm
        if timed and self._turn:
            own_s, _ = _timed(self._own, batch)
        other_s, verdict = _timed(self._shadow, batch)
        if timed and not self._turn:
            own_s, _ = _timed(self._own, batch)
        if timed:
            found.time(*((other_s, own_s) if self._swapped else (own_s, other_s)))
        return (verdict, sample.verdict) if self._swapped else (sample.verdict, verdict)


def _timed(cascade: Cascade, batch: Batch) -> tuple[float, Verdict]:
    start = time.perf_counter()
    verdict = cascade.judge(batch).verdicts[0]
    return time.perf_counter() - start, verdict


class Patience:
    """Runs out while frames come and the comparison does not get on."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._left = seconds
        self._clock = clock
        self._at = clock()
        self._passed = 0

    def over(self, passed: int) -> bool:
        """`passed`: frames of the line so far."""
        now = self._clock()
        if passed != self._passed:
            self._left -= now - self._at
        self._at, self._passed = now, passed
        return self._left <= 0
