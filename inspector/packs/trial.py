"""One change of the pack: its shadow and its watch, and everything that sends the new pack back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from inspector.config import PacksConfig
from inspector.engines import Duty, Engines
from inspector.errors import InspectorError
from inspector.metrics import Metrics, PackPhase
from inspector.packs.comparing import LATE_FRAMES, TIMED, Comparison, Lateness, too_late
from inspector.packs.pair import Pair, Patience
from inspector.packs.sampling import Album, Sample, Sampler

TICK_S = 0.25
"""How often the thread looks round while nothing comes."""
PAUSE_S = 0.004
"""While the line is busy the shadow looks so often whether it still is."""


class Line(Protocol):
    """What a change needs to know of the line, and tells it."""

    def busy(self) -> bool:
        """Frames wait for a network: whatever can wait should."""

    def lateness(self) -> Lateness:
        """Of all frames so far."""

    def engaged(self, engines: Engines) -> None:
        """These are on duty now."""

    def tell(self, state: str, detail: str) -> None:
        """A state event about the pack."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants on duty."""

    folder: Path
    sender: str
    at_once: bool = False
    """Without shadow and watch: it was on duty before."""
    base: bool = False
    """It is the one of `pack:`."""
    digest: str | None = None
    """It must be this pack; None: whichever lies there."""


@dataclass(eq=False)
class Change:
    """One change, from the wish to what became of it."""

    wish: Wish
    old: Engines
    began: Lateness
    new: Engines | None = None
    swapped: Lateness | None = None
    """How late frames were up to the swap; None: it has not come."""
    album: Album | None = None
    compared: list[tuple[PackPhase, Comparison]] = field(default_factory=list)
    wanted: int = 0
    """Frames to be compared in the present phase."""
    skipped: int = 0
    """Frames left out in the phases before."""

    @property
    def before_swap(self) -> Lateness:
        """Of the time in shadow, or where that was too short of the whole run up to the swap."""
        assert self.swapped is not None
        shadow = self.swapped.since(self.began)
        return shadow if shadow.frames >= LATE_FRAMES else self.swapped

    @property
    def named(self) -> str:
        return self.wish.folder.name if self.new is None else self.new.named

    def words(self) -> str:
        """What was seen."""
        return "; ".join(f"{phase}: {found.words()}" for phase, found in self.compared)


class Back(InspectorError):
    """The new pack goes back."""


class Cancelled(Back):
    """Somebody wants it so."""


class Stopping(Exception):
    """The line ends in the middle of a change."""


class Trial:
    """The shadow and the watch of one change; for the change's thread. Both raise

        Back        a bound is left
        Cancelled   somebody wants it so
        Stopping    the line ends
        EngineError a network fails

    Args:
        change: what is tried; it gets what was seen.
        bounds: the YAML's `packs`.
        merge_px: of grading.
        duty: what the cascade workers use.
        line: the line.
        metrics: the line's.
        cancelled: who wants it to end; empty: nobody.
        stop: set when the line ends.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        change: Change,
        bounds: PacksConfig,
        merge_px: int,
        duty: Duty,
        line: Line,
        metrics: Metrics,
        cancelled: Callable[[], str],
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._change = change
        self.bounds = bounds
        self._merge_px = merge_px
        self._duty = duty
        self._line = line
        self._metrics = metrics
        self._cancelled = cancelled
        self._stop = stop
        self._clock = clock
        self._late_at = 0.0
        """When to look again how late frames are."""
        self.sampler: Sampler | None = None
        """Wants to see what the cascade workers judge; None: nothing is compared now."""

    def shadow(self, new: Engines) -> None:
        """The new pack judges what the old one has judged."""
        pair = Pair(self._change.old, new, False, self._merge_px)
        self._compare(PackPhase.SHADOW, pair, self.bounds.shadow_frames, self.bounds.shadow_s)

    def watch(self, new: Engines) -> None:
        """The old pack judges what the new one has judged, on duty."""
        pair = Pair(self._change.old, new, True, self._merge_px)
        self._compare(PackPhase.WATCH, pair, self.bounds.watch_frames, self.bounds.watch_s)

    def _compare(self, phase: PackPhase, pair: Pair, wanted: int, least_s: float) -> None:
        found = Comparison()
        sampler = Sampler(self.bounds.shadow_share, self._metrics.pack_skipped.inc)
        self._change.compared.append((phase, found))
        self._change.wanted = wanted
        patience = Patience(self.bounds.patience_s, self._clock)
        began = self._clock()
        sample: Sample | None = None
        self.sampler = sampler
        try:
            while True:
                done = found.frames >= wanted and self._clock() - began >= least_s
                self._look_round(found, done)
                if done:
                    return
                if found.frames < wanted and patience.over(sampler.passed):
                    raise Back(self._impatient(found, sampler, wanted))
                sample = sample or sampler.waiting.get(TICK_S)
                if sample is not None and self._line.busy():
                    self._stop.wait(PAUSE_S)  # it is kept, so that not only frames of quiet moments are compared
                elif sample is not None:
                    self._judge(pair, found, sample)
                    sample = None
        finally:
            self.sampler = None
            self._change.skipped += sampler.skipped

    def _judge(self, pair: Pair, found: Comparison, sample: Sample) -> None:
        if sample.verdict.pack_digest != pair.live.digest:
            return  # judged before the swap
        old, new = pair.judge(sample, found, timed=len(found.times) < TIMED)
        kind = found.add(old, new)
        self._metrics.compared(kind, found.old_alarms / found.frames, found.new_alarms / found.frames, found.time_ratio)
        if kind is not None and self._change.album is not None:
            self._change.album.add(sample, kind, old, new)

    def _look_round(self, found: Comparison, done: bool) -> None:
        change = self._change
        if self._stop.is_set():
            raise Stopping
        if who := self._cancelled():
            raise Cancelled(f"cancelled by {who}")
        if failure := self._failed():
            raise Back(failure)
        reason = found.beyond(self.bounds, done)
        if reason is None and change.swapped is not None and (done or self._clock() >= self._late_at):
            self._late_at = self._clock() + TICK_S
            reason = too_late(change.before_swap, self._line.lateness().since(change.swapped), self.bounds, done)
        if reason is not None:
            raise Back(reason)

    def _failed(self) -> str:
        """What failed of the new pack on duty; empty: nothing."""
        failure = self._duty.failure
        return f"a network failed on duty: {failure[1]}" if failure and failure[0] is self._change.new else ""

    def _impatient(self, found: Comparison, sampler: Sampler, wanted: int) -> str:
        return (
            f"{found.frames} of {wanted} frames could be compared in {self.bounds.patience_s:g} s "
            f"({sampler.skipped} were left out, as the line was behind): ask for fewer frames, or raise "
            "packs.patience_s or packs.shadow_share"
        )
