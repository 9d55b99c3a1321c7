"""What the line leaves out while it is behind: declared, in order, and told.

    step 0  nothing
         1  nothing, but batches are wide
         2  the segmenters: defects are not measured
         3  the types too: defects have no class
         4  whole frames, as the queue is full

The gate is never left out. `Ladder` decides, and is pure: same looks, same steps. `Overload` gives it what the line
sees, and tells what it decided.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from inspector.channel import Statistics
from inspector.config import Config, OverloadConfig
from inspector.errors import ConfigError
from inspector.events import Depth
from inspector.logbook import LogKind, as_kind
from inspector.metrics import Metrics
from inspector.records import Batch, WhenFull

log = logging.getLogger(__name__)

TOO_OLD = 3.0
"""So many times the line's deadline is too old, unless it is said. More, and frames pile up before a step shows what it
does; less, and a line near its limit leaves out segmenters whenever a few heavy frames follow each other."""
HALF_FULL = 0.5
"""So much of the queue filled means that the line is behind, however young its frames are."""
NEARLY_FULL = 0.75
"""From here on there is no time to lose: the next frames may be dropped."""
CALM_FULL = 0.25
"""The line has not caught up while more of the queue is filled."""
HURRY = 0.2
"""Share of the usual time that a step up takes when the queue is nearly full."""
RECOVERS = 0.9
"""Frames that are younger than this share of what they were show that the step taken last is enough."""


class Step(IntEnum):
    """What is left out; each with all that is left out before it."""

    NORMAL = 0
    WIDE = 1
    NO_SEGMENTERS = 2
    NO_TYPES = 3
    DROPPING = 4

    @property
    def words(self) -> str:
        return _WORDS[self]

    @property
    def depth(self) -> Depth:
        if self < Step.NO_SEGMENTERS:
            return Depth.FULL
        return Depth.TYPES if self is Step.NO_SEGMENTERS else Depth.GATE


_WORDS = {
    Step.NORMAL: "keeping up",
    Step.WIDE: "wide batches",
    Step.NO_SEGMENTERS: "not segmenting",
    Step.NO_TYPES: "not typing",
    Step.DROPPING: "dropping frames",
}


class Why(StrEnum):
    """Why a step was taken. Closed: it labels a metric."""

    AGE = "age"
    """Up: frames were too old."""
    QUEUE = "queue"
    """Up: the queue was filling."""
    DROPPED = "dropped"
    """Up: the queue was full and frames were dropped."""
    CALM = "calm"
    """Down: the line had caught up."""


@dataclass(slots=True, frozen=True)
class Change:
    """One step, up or down, and what was seen."""

    before: Step
    after: Step
    why: Why
    age_s: float
    """Since the oldest frame of the newest batch had arrived."""
    queued: float
    """Share of the queue that was filled, 0..1."""

    @property
    def up(self) -> bool:
        return self.after > self.before


@dataclass(slots=True, frozen=True)
class Limits:
    """When to step, seconds; see `OverloadConfig`."""

    too_old_s: float
    young_s: float
    up_after_s: float
    down_after_s: float
    down_after_most_s: float

    @classmethod
    def of(cls, section: OverloadConfig, deadline_ms: float) -> Limits:
        """A section with what it leaves out filled in."""
        too_old_ms = TOO_OLD * deadline_ms if section.too_old_ms is None else section.too_old_ms
        young_ms = too_old_ms / 2 if section.young_ms is None else section.young_ms
        most_s = max(section.down_after_s, section.down_after_most_s)
        return cls(too_old_ms / 1e3, young_ms / 1e3, section.up_after_ms / 1e3, section.down_after_s, most_s)


class Ladder:
    """Decides on the step. For one thread at a time; `now_s` is any clock that does not go back.

    Up, a step at a time, when the line was behind for `up_after_s` since it fell behind and since the last step, and
    frames did not get younger meanwhile. Down, a step at a time, when it was calm for `down_after_s` and has stayed on
    the step for as long as it must: `down_after_s` too, but twice as long as the last time (up to `down_after_most_s`)
    where the step is taken again within that time of having been left. So under a load that stays the same there is
    soon one try each `down_after_most_s`, and a step is never taken again before `down_after_s` has passed, whatever
    happens. Calm need not last longer for it: a few old frames now and then would keep the line up there for good.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.step = Step.NORMAL
        self._changed_s = float("-inf")
        self._behind_s: float | None = None
        """Since when the line is behind, and frames did not get younger."""
        self._age_then_s = 0.0
        self._calm_s: float | None = None
        self._stay_s = dict.fromkeys(Step, limits.down_after_s)
        """Step -> how long the line stays on it at least."""
        self._left_s = dict.fromkeys(Step, float("-inf"))
        """Step -> when it was left downwards."""

    def look(self, now_s: float, age_s: float, queued: float) -> list[Change]:
        """What the line sees now: the age of the oldest frame that the networks take, and the share of the queue that
        is filled. Returns the step that this leads to, or nothing."""
        if self.step is Step.DROPPING:  # it is calm since the last drop
            return self._fall(now_s, age_s, queued)
        why = self._why_behind(age_s, queued)
        if why is not None:
            self._calm_s = None
            return self._rise(now_s, age_s, queued, why)
        self._behind_s = None
        if age_s >= self._limits.young_s or queued > CALM_FULL:
            self._calm_s = None
        elif self._calm_s is None:
            self._calm_s = now_s
        return self._fall(now_s, age_s, queued)

    def dropped(self, now_s: float, age_s: float) -> list[Change]:
        """The queue was full and its oldest frame went: whatever else can be left out is left out from now on."""
        self._calm_s = now_s
        return [self._take(Step(step), now_s, age_s, 1.0, Why.DROPPED) for step in range(self.step + 1, len(Step))]

    def _why_behind(self, age_s: float, queued: float) -> Why | None:
        if queued >= HALF_FULL:
            return Why.QUEUE
        return Why.AGE if age_s > self._limits.too_old_s else None

    def _rise(self, now_s: float, age_s: float, queued: float, why: Why) -> list[Change]:
        hurry = queued >= NEARLY_FULL
        if self._behind_s is None or (age_s < RECOVERS * self._age_then_s and not hurry):
            self._behind_s, self._age_then_s = now_s, age_s
        after_s = self._limits.up_after_s * (HURRY if hurry else 1.0)
        if self.step is Step.NO_TYPES or now_s - max(self._behind_s, self._changed_s) < after_s:
            return []
        self._age_then_s = age_s
        return [self._take(Step(self.step + 1), now_s, age_s, queued, why)]

    def _take(self, step: Step, now_s: float, age_s: float, queued: float, why: Why) -> Change:
        relapsed = now_s - self._left_s[step] <= self._stay_s[step]
        stay_s = 2 * self._stay_s[step] if relapsed else self._limits.down_after_s
        self._stay_s[step] = min(stay_s, self._limits.down_after_most_s)
        return self._change(step, now_s, age_s, queued, why)

    def _fall(self, now_s: float, age_s: float, queued: float) -> list[Change]:
        if self.step is Step.NORMAL or self._calm_s is None:
            return []
        if now_s - self._calm_s < self._limits.down_after_s or now_s - self._changed_s < self._stay_s[self.step]:
            return []
        self._left_s[self.step] = now_s
        return [self._change(Step(self.step - 1), now_s, age_s, queued, Why.CALM)]

    def _change(self, step: Step, now_s: float, age_s: float, queued: float, why: Why) -> Change:
        change = Change(self.step, step, why, age_s, queued)
        self.step, self._changed_s = step, now_s
        return change


Say = Callable[[str, str, str, str | None], None]
"""(part, state, detail, about) becomes a state event."""


class Overload:
    """The ladder of one line, for any thread.

    Args:
        limits: when to step.
        batch: frames of a batch, usually and from step 1 on.
        metrics: the line's.
        say: tells a state.
        queue: the books of the channel in which frames wait.
        widen: takes the number of frames that a batch may have from now on.
        clock: monotonic nanoseconds, as in `Frame.monotonic_ns`.
    """

    def __init__(
        self,
        limits: Limits,
        batch: tuple[int, int],
        metrics: Metrics,
        say: Say,
        queue: Callable[[], Statistics],
        widen: Callable[[int], None] = lambda size: None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._lock = threading.Lock()
        self._ladder = Ladder(limits)
        self._batch = batch
        self._metrics = metrics
        self._say = say
        self._queue = queue
        self._widen = widen
        self._clock = clock
        self._unlogged: list[Change] = []
        metrics.overload_step.set(0)

    @property
    def step(self) -> Step:
        return self._ladder.step

    def take(self, batch: Batch) -> Depth:
        """How deep to inspect a batch that the networks are about to take."""
        return self._look(min(frame.monotonic_ns for frame in batch.frames))

    def idle(self) -> None:
        """The networks have nothing to do."""
        self._look(None)

    def dropped(self, arrived_ns: int) -> None:
        """A frame was dropped. Called with the queue locked: nothing here may wait or use the queue."""
        with self._lock:
            now_ns = self._clock()
            self._tell(self._ladder.dropped(now_ns / 1e9, (now_ns - arrived_ns) / 1e9))

    def _look(self, arrived_ns: int | None) -> Depth:
        books = self._queue()  # before the lock: a writer holds the queue when it tells of a drop
        with self._lock:
            now_ns = self._clock()
            age_s = 0.0 if arrived_ns is None else (now_ns - arrived_ns) / 1e9
            self._tell(self._ladder.look(now_ns / 1e9, age_s, books.queued / books.capacity))
            unlogged, self._unlogged = self._unlogged, []
            depth = self._ladder.step.depth
        for change in unlogged:
            level = logging.WARNING if change.up else logging.INFO
            why = describe(change)
            log.log(
                level,
                "overload: %s: %s",
                change.after.words,
                why,
                extra=as_kind(LogKind.OVERLOAD, step=int(change.after), reason=why),
            )
        return depth

    def _tell(self, changes: list[Change]) -> None:
        for change in changes:
            self._unlogged.append(change)
            self._metrics.overload_stepped(change.after, up=change.up, why=change.why)
            self._widen(self._batch[change.after >= Step.WIDE])
            self._say("line", change.after.words, describe(change), "overload")


def describe(change: Change) -> str:
    """Why a step was taken, with its figures."""
    queue = f"{change.queued:.0%} of the queue filled"
    seen = f"frames had waited for {change.age_s * 1e3:.0f} ms, {queue}"
    step = f"step {change.after} of {Step.DROPPING}"
    match change.why:
        case Why.AGE:
            return f"{step}: too old, {seen}"
        case Why.QUEUE:
            return f"{step}: the queue fills, {seen}"
        case Why.DROPPED:
            return f"{step}: the queue was full, {seen}"
        case Why.CALM:
            return f"{step}: caught up, {seen}"


def check(config: Config) -> str:
    """A word on the section for `inspector check`.

    Raises:
        ConfigError: two settings contradict each other.
    """
    section = config.overload
    if section is None or not applies(config):
        why = "line.when_full is wait" if section is not None else "overload is null"
        return f"nothing is left out: {why}"
    limits = Limits.of(section, config.line.deadline_ms)
    if limits.young_s > limits.too_old_s:
        raise ConfigError(
            f"overload.young_ms: frames of {limits.young_s * 1e3:g} ms would be young and, at more than "
            f"{limits.too_old_s * 1e3:g} ms (too_old_ms), too old. Make it smaller"
        )
    if section.wide_batch is not None and section.wide_batch < config.batch.size:
        raise ConfigError(
            f"overload.wide_batch: {section.wide_batch} is less than batch.size, {config.batch.size}. Make it larger"
        )
    return f"behind at {limits.too_old_s * 1e3:g} ms, caught up at {limits.young_s * 1e3:g} ms"


def of(
    config: Config,
    metrics: Metrics,
    say: Say,
    queue: Callable[[], Statistics],
    widen: Callable[[int], None],
) -> Overload | None:
    """What `overload:` asks for; None where nothing may be left out."""
    if not applies(config):
        return None
    assert config.overload is not None
    limits = Limits.of(config.overload, config.line.deadline_ms)
    return Overload(limits, (config.batch.size, widest(config)), metrics, say, queue, widen)


def applies(config: Config) -> bool:
    """A line that waits for room rather than drop a frame leaves out nothing either."""
    return config.overload is not None and config.line.when_full is WhenFull.DROP_OLDEST


def widest(config: Config) -> int:
    """Frames that a batch of this line has at most, ever."""
    if config.overload is None or not applies(config):
        return config.batch.size
    wide = config.overload.wide_batch
    return max(config.batch.size, 2 * config.batch.size if wide is None else wide)
