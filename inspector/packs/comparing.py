"""Two packs on the same frames: how often they alarm, where they differ, what they cost; and the bounds on all that.

The old pack is that which was on duty when the change began. In shadow its verdicts are the line's, after the swap
the new pack's are; both times the other one judges the same frames, so a change of the strip changes neither figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import exp, log, sqrt
from statistics import fmean, stdev

from inspector.config import PacksConfig
from inspector.records import Verdict

SIGMAS = 3.0
"""Before all frames are compared a bound counts as left only beyond this many standard deviations of chance."""
TIMED = 40
"""Frames of each stage of a change on which both packs are timed, one right after the other."""
LATE_FRAMES = 200
"""The share of late frames is not judged by fewer."""
BINS = 10
ROUNDING = 1e-9
"""Of shares."""


class Difference(StrEnum):
    """How two packs differ on a frame. Closed: it labels a metric."""

    ONLY_OLD = "only_old"
    """Only the old pack found a defect."""
    ONLY_NEW = "only_new"
    """Only the new pack found a defect."""
    CLASSES = "classes"
    """Both did, but of other classes."""


def alarms(verdict: Verdict) -> set[int]:
    """The classes of the defects in a frame. What counts only together with a neighbouring frame is none yet."""
    return {region.class_number for region in verdict.regions if region.reported}


@dataclass(slots=True)
class Comparison:
    """What was seen on the frames compared so far."""

    frames: int = 0
    old_alarms: int = 0
    new_alarms: int = 0
    differences: dict[Difference, int] = field(default_factory=lambda: dict.fromkeys(Difference, 0))
    old_scores: list[int] = field(default_factory=lambda: [0] * BINS)
    """Frames by the old gate's score, in tenths."""
    new_scores: list[int] = field(default_factory=lambda: [0] * BINS)
    score_change: float = 0.0
    """Sum of the absolute differences of the gates' scores."""
    times: list[float] = field(default_factory=list)
    """Logarithms of the new pack's time by the old one's, for each frame on which both were timed."""

    def add(self, old: Verdict, new: Verdict) -> Difference | None:
        """One frame; returns how they differ on it."""
        before, after = alarms(old), alarms(new)
        self.frames += 1
        self.old_alarms += bool(before)
        self.new_alarms += bool(after)
        self.old_scores[min(BINS - 1, int(old.gate_score * BINS))] += 1
        self.new_scores[min(BINS - 1, int(new.gate_score * BINS))] += 1
        self.score_change += abs(old.gate_score - new.gate_score)
        found = None
        if before != after:
            both = Difference.CLASSES if before and after else None
            found = both or (Difference.ONLY_OLD if before else Difference.ONLY_NEW)
            self.differences[found] += 1
        return found

    def time(self, old_s: float, new_s: float) -> None:
        """What both took for one frame, seconds."""
        self.times.append(log(max(new_s, 1e-9) / max(old_s, 1e-9)))

    @property
    def time_ratio(self) -> float | None:
        """How many times the old pack's time the new one takes (geometric mean); None: nothing was timed."""
        return exp(fmean(self.times)) if self.times else None

    def beyond(self, bounds: PacksConfig, done: bool) -> str | None:
        """Which bound is left, in words; None: none. Until it is `done` only what is beyond doubt counts."""
        return self._beyond_alarms(bounds, done) or self._beyond_time(bounds, done)

    def _beyond_alarms(self, bounds: PacksConfig, done: bool) -> str | None:
        if not self.frames:
            return None
        old, new = self.old_alarms / self.frames, self.new_alarms / self.frames
        unequal = self.differences[Difference.ONLY_OLD] + self.differences[Difference.ONLY_NEW]
        chance = ROUNDING + (0.0 if done else SIGMAS * sqrt(unequal) / self.frames)
        most = old * bounds.alarm_factor + bounds.alarm_margin
        least = old / bounds.alarm_factor - bounds.alarm_margin
        if least <= new + chance and new - chance <= most:
            return None
        side = f"more than {most:.1%}" if new > most else f"less than {least:.1%}"
        return (
            f"it alarms on {new:.1%} of {self.frames} frames, {side}: the old pack on {old:.1%} of the same "
            "(packs.alarm_factor, packs.alarm_margin)"
        )

    def _beyond_time(self, bounds: PacksConfig, done: bool) -> str | None:
        """Times are taken on a busy machine, so what may be chance counts for the new pack even at the end."""
        ratio, count = self.time_ratio, len(self.times)
        if ratio is None or count < 2 or not (done or count >= TIMED):
            return None
        if log(ratio) - SIGMAS * stdev(self.times) / sqrt(count) <= log(bounds.time_factor):
            return None
        return f"its networks take {ratio:.2f} times as long as the old pack's on the same frames (packs.time_factor)"

    def words(self) -> str:
        """For people."""
        if not self.frames:
            return "no frame compared"
        ratio = self.time_ratio
        differ = self.differences
        return (
            f"{self.frames} frames compared: the old pack alarms on {self.old_alarms}, the new on {self.new_alarms}; "
            f"only the old on {differ[Difference.ONLY_OLD]}, only the new on {differ[Difference.ONLY_NEW]}, other "
            f"classes on {differ[Difference.CLASSES]}; gate scores differ by {self.score_change / self.frames:.3f}"
            + (f"; time of the networks {ratio:.2f} times" if ratio is not None else "")
        )

    def figures(self) -> Mapping[str, object]:
        """For a file."""
        return {
            "frames": self.frames,
            "old_alarms": self.old_alarms,
            "new_alarms": self.new_alarms,
            **{str(kind): count for kind, count in self.differences.items()},
            "old_gate_scores_in_tenths": self.old_scores,
            "new_gate_scores_in_tenths": self.new_scores,
            "mean_gate_score_change": self.score_change / max(1, self.frames),
            "time_ratio": self.time_ratio,
        }


@dataclass(slots=True, frozen=True)
class Lateness:
    """Frames so far whose events went out, and how many of them later than `line.deadline_ms` or, as the line was
    behind, less deeply inspected; one that was both counts twice."""

    frames: int
    late: int

    def since(self, before: Lateness) -> Lateness:
        """What came after that."""
        return Lateness(self.frames - before.frames, self.late - before.late)

    @property
    def share(self) -> float:
        return min(1.0, self.late / max(1, self.frames))


def too_late(before: Lateness, after: Lateness, bounds: PacksConfig, done: bool) -> str | None:
    """Whether more frames are late since the swap than the bound allows, in words; None: not."""
    if after.frames < LATE_FRAMES or before.frames < LATE_FRAMES:
        return None
    mean = (before.share * before.frames + after.share * after.frames) / (before.frames + after.frames)
    chance = 0.0 if done else SIGMAS * sqrt(mean * (1 - mean) * (1 / before.frames + 1 / after.frames))
    if after.share - chance <= before.share + bounds.late_margin:
        return None
    return (
        f"{after.share:.1%} of {after.frames} frames are later than line.deadline_ms, or lost or inspected less deeply "
        f"as the line is behind; {before.share:.1%} were before (packs.late_margin)"
    )
