"""What a summary of a running line needs and its journal does not hold: ages, lengths, widths, pictures."""

from __future__ import annotations

import statistics
import threading
from array import array
from dataclasses import dataclass, field

from inspector.events import Depth
from inspector.records import Graded, Shown

LIMIT = 65_536
"""Ages, and pictures, that are kept at most."""


class Ages:
    """Thread-safe; at most LIMIT ages are kept, of every 2nd, 4th, ... frame once there were more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._every = 1
        self._seen = 0
        self._kept = array("d")

    def add(self, seconds: float) -> None:
        with self._lock:
            self._seen += 1
            if self._seen % self._every:
                return
            self._kept.append(seconds)
            if len(self._kept) >= LIMIT:
                self._kept, self._every = self._kept[::2], self._every * 2

    def percentile_ms(self, percent: int) -> float | None:
        """Milliseconds at `percent` 1..99, or None before there were two frames."""
        with self._lock:
            kept = list(self._kept)
        if len(kept) < 2:
            return None
        return statistics.quantiles(kept, n=100, method="inclusive")[percent - 1] * 1e3


@dataclass
class Tally:
    """Written by the publishing thread alone."""

    ages: Ages = field(default_factory=Ages)
    inspected_mm: dict[str, float] = field(default_factory=dict)
    """Camera -> strip that it inspected."""
    depths: dict[Depth, tuple[int, float]] = field(default_factory=dict)
    """Depth -> (frames inspected in it, millimetres of strip, the cameras' added up)."""
    width_px: dict[str, int] = field(default_factory=dict)
    """Camera -> width of its widest frame."""
    shown: list[Shown] = field(default_factory=list)
    """Named pictures of a replay, the first LIMIT."""

    def add(self, graded: Graded, now_ns: int) -> None:
        for settled in graded.settled:
            camera = settled.camera
            self.inspected_mm[camera] = self.inspected_mm.get(camera, 0.0) + settled.length_mm
            self.width_px[camera] = max(self.width_px.get(camera, 0), settled.width_px)
            if settled.reason is None:
                frames, mm = self.depths.get(settled.depth, (0, 0.0))
                self.depths[settled.depth] = frames + settled.last - settled.first + 1, mm + settled.length_mm
        for _, born_ns in graded.born:
            self.ages.add((now_ns - born_ns) * 1e-9)
        self.shown += graded.shown[: LIMIT - len(self.shown)]
