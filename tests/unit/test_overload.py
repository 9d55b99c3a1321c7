"""overload.py: the ladder against any input, against a modelled line, and what is told of each step."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector import overload
from inspector.channel import Channel
from inspector.checking import check
from inspector.config import Config, OverloadConfig, convert
from inspector.errors import ConfigError
from inspector.events import Depth
from inspector.metrics import STEP_REASONS, Direction, Metrics
from inspector.overload import Change, Ladder, Limits, Overload, Step, Why, describe
from inspector.records import Batch, Frame, Roi, WhenFull

LIMITS = Limits(too_old_s=0.2, young_s=0.1, up_after_s=0.25, down_after_s=5.0, down_after_most_s=60.0)


def climb(ladder: Ladder, seconds: float, age_s: float, queued: float, start_s: float = 0.0) -> list[Change]:
    """Looks ten times a second that all see the same."""
    found = []
    for turn in range(round(seconds * 10)):
        found += ladder.look(start_s + turn / 10, age_s, queued)
    return found


def after(changes: list[Change]) -> list[Step]:
    return [change.after for change in changes]


# ---------------------------------------------------------------- the ladder


def test_it_goes_up_in_order_and_stops_before_dropping() -> None:
    ladder = Ladder(LIMITS)
    found = climb(ladder, 10, age_s=0.3, queued=0.1)
    assert after(found) == [Step.WIDE, Step.NO_SEGMENTERS, Step.NO_TYPES]
    assert {change.why for change in found} == {Why.AGE}


def test_a_moment_of_old_frames_is_nothing() -> None:
    ladder = Ladder(LIMITS)
    for turn in range(100):
        assert ladder.look(turn / 10, 0.3 if turn % 2 else 0.05, 0.0) == []


def test_a_queue_that_is_nearly_full_leaves_no_time() -> None:
    ladder = Ladder(LIMITS)
    assert ladder.look(0.0, 0.01, 0.8) == []
    found = [change for turn in range(1, 4) for change in ladder.look(turn * 0.06, 0.01, 0.8)]
    assert after(found) == [Step.WIDE, Step.NO_SEGMENTERS, Step.NO_TYPES]
    assert {change.why for change in found} == {Why.QUEUE}


def test_while_frames_get_younger_the_step_is_enough() -> None:
    ladder = Ladder(LIMITS)
    assert after(climb(ladder, 0.4, age_s=1.0, queued=0.3)) == [Step.WIDE]
    age_s, now_s = 1.0, 0.4
    while age_s > 0.2:
        assert ladder.look(now_s, age_s, 0.3) == []
        age_s, now_s = age_s * 0.85, now_s + 0.2
    assert ladder.step is Step.WIDE


def test_it_comes_down_a_step_at_a_time() -> None:
    ladder = Ladder(LIMITS)
    climb(ladder, 10, age_s=0.3, queued=0.1)
    found = climb(ladder, 20, age_s=0.01, queued=0.0, start_s=10)
    assert after(found) == [Step.NO_SEGMENTERS, Step.WIDE, Step.NORMAL]
    assert {change.why for change in found} == {Why.CALM}


def test_between_the_bounds_it_stays() -> None:
    ladder = Ladder(LIMITS)
    climb(ladder, 0.4, age_s=0.3, queued=0.1)
    assert climb(ladder, 1000, age_s=0.15, queued=0.1, start_s=1) == []
    assert climb(ladder, 1000, age_s=0.01, queued=0.3, start_s=2000) == []
    assert ladder.step is Step.WIDE


def test_a_relapse_doubles_the_wait_and_a_long_calm_forgets_it() -> None:
    ladder, now_s = Ladder(LIMITS), 0.0
    waits = []
    for _ in range(6):
        climb(ladder, 0.4, age_s=0.3, queued=0.1, start_s=now_s)
        assert ladder.step is Step.WIDE
        start_s = now_s = now_s + 0.5
        while ladder.step is Step.WIDE:
            ladder.look(now_s, 0.01, 0.0)
            now_s += 0.1
        waits.append(now_s - start_s)
    assert waits == pytest.approx([5, 10, 20, 40, 60, 60], abs=0.3)
    climb(ladder, 70, age_s=0.01, queued=0.0, start_s=now_s)
    climb(ladder, 0.4, age_s=0.3, queued=0.1, start_s=now_s + 70)
    assert after(climb(ladder, 6, age_s=0.01, queued=0.0, start_s=now_s + 71)) == [Step.NORMAL]


def test_a_few_old_frames_do_not_keep_a_step_for_good() -> None:
    """It must stay long after relapses, but calm only for the shortest time of it."""
    ladder, now_s = Ladder(LIMITS), 0.0
    for _ in range(5):
        now_s += 0.5
        climb(ladder, 0.4, age_s=0.3, queued=0.1, start_s=now_s)
        while ladder.step is Step.WIDE:
            now_s += 0.1
            ladder.look(now_s, 0.01, 0.0)
    climb(ladder, 0.4, age_s=0.3, queued=0.1, start_s=now_s)
    steps = [ladder.look(now_s + turn / 10, 0.15 if turn % 200 == 0 else 0.01, 0.0) for turn in range(5, 700)]
    (left,) = (turn for turn, changes in enumerate(steps, start=5) if changes)
    assert left / 10 == pytest.approx(LIMITS.down_after_most_s + 5, abs=0.5)  # there was one at 60 s


def test_a_drop_takes_every_step_that_is_left_in_order() -> None:
    ladder = Ladder(LIMITS)
    climb(ladder, 0.4, age_s=0.3, queued=0.1)
    found = ladder.dropped(1.0, 0.7)
    assert after(found) == [Step.NO_SEGMENTERS, Step.NO_TYPES, Step.DROPPING]
    assert {change.why for change in found} == {Why.DROPPED}
    assert ladder.dropped(1.1, 0.7) == []
    assert climb(ladder, 4.9, age_s=0.7, queued=1.0, start_s=1.1) == []  # a drop holds it, whatever else is seen
    assert after(climb(ladder, 1, age_s=0.7, queued=1.0, start_s=6.1)) == [Step.NO_TYPES]


LOOKS = st.lists(st.tuples(st.floats(0, 8), st.floats(0, 2), st.floats(0, 1), st.booleans()), min_size=1, max_size=300)
"""(seconds since the look before, age, queue, a frame was dropped)."""


@given(LOOKS)
def test_no_input_makes_it_flap(looks: list[tuple[float, float, float, bool]]) -> None:
    ladder, now_s = Ladder(LIMITS), 0.0
    steps: list[tuple[float, Change]] = []
    for pause_s, age_s, queued, drop in looks:
        now_s += pause_s
        before = ladder.step
        changes = ladder.dropped(now_s, age_s) if drop else ladder.look(now_s, age_s, queued)
        steps += [(now_s, change) for change in changes]
        assert ladder.step == (changes[-1].after if changes else before)
        assert len(changes) <= 1 or drop
        for change in changes:
            assert abs(change.after - change.before) == 1
            assert STEP_REASONS[change.why] is (Direction.UP if change.up else Direction.DOWN)
            assert (change.why is Why.DROPPED) is drop
            assert drop or not change.up or change.after is not Step.DROPPING
        if drop:
            assert ladder.step is Step.DROPPING
    assert [a.after for _, a in steps[:-1]] == [b.before for _, b in steps[1:]]
    taken = {step: [at for at, change in steps if change.after is step and change.up] for step in Step}
    for times in taken.values():  # never taken again before it was calm for the shortest wait
        assert all(later - earlier >= LIMITS.down_after_s for earlier, later in pairwise(times))
    downs = [at for at, change in steps if not change.up]
    assert all(later - earlier >= LIMITS.down_after_s for earlier, later in pairwise(downs))


@dataclass
class Model:
    """A line as a fluid: frames come at one rate and go at another, which the step decides."""

    offered: float
    rates: dict[Step, float]
    size: float = 64.0
    ladder: Ladder = field(default_factory=lambda: Ladder(LIMITS))
    queued: float = 0.0
    changes: list[tuple[float, Change]] = field(default_factory=list)
    dropped: list[tuple[float, Step]] = field(default_factory=list)
    oldest_s: float = 0.0

    def run(self, seconds: float, start_s: float = 0.0, tick_s: float = 0.05) -> None:
        for turn in range(round(seconds / tick_s)):
            now_s, rate = start_s + turn * tick_s, self.rates[self.ladder.step]
            self.queued = max(0.0, self.queued + (self.offered - rate) * tick_s)
            age_s = self.queued / rate
            self.oldest_s = max(self.oldest_s, age_s)
            if self.queued > self.size:
                before = self.ladder.step
                self._note(now_s, self.ladder.dropped(now_s, age_s))
                self.dropped.append((now_s, before))
                self.queued = self.size
            self._note(now_s, self.ladder.look(now_s, age_s, self.queued / self.size))

    def _note(self, now_s: float, changes: list[Change]) -> None:
        self.changes += [(now_s, change) for change in changes]


RATES = {Step.NORMAL: 60.0, Step.WIDE: 62.0, Step.NO_SEGMENTERS: 110.0, Step.NO_TYPES: 200.0, Step.DROPPING: 200.0}


@pytest.mark.parametrize(("offered", "settles"), [(50, Step.NORMAL), (90, Step.NO_SEGMENTERS), (150, Step.NO_TYPES)])
def test_under_a_constant_load_it_settles(offered: float, settles: Step) -> None:
    """On the step that is enough, but for one short try of the step below each `down_after_most_s`."""
    line = Model(offered, RATES)
    line.run(1200)
    late = [change for at, change in line.changes if at > 600]
    assert sum(not change.up for change in late) <= 600 / LIMITS.down_after_most_s * 2
    assert {change.after for change in late} <= {settles - 1, settles, settles + 1}
    assert not line.dropped
    held: dict[Step, float] = dict.fromkeys(Step, 0.0)
    marks = [(0.0, Step.NORMAL), *((at, change.after) for at, change in line.changes), (1200.0, Step.NORMAL)]
    for (start_s, step), (end_s, _) in pairwise(marks):
        held[step] += end_s - start_s
    assert held[settles] > 0.85 * 1200
    if offered > RATES[Step.NORMAL]:
        assert line.oldest_s < line.size / RATES[Step.WIDE]


@given(st.floats(1, 1000), st.floats(1, 1000), st.integers(0, 200))
def test_frames_go_only_when_all_else_went(offered: float, burst: float, seconds: int) -> None:
    line = Model(offered, RATES)
    line.run(seconds / 10)
    line.offered = burst
    line.run(20, start_s=seconds / 10)
    steps = [Step.NORMAL, *(change.after for _, change in line.changes)]
    assert all(abs(b - a) == 1 for a, b in pairwise(steps))
    for at, _ in line.dropped:
        assert [change.after for when, change in line.changes if when <= at][-1] is Step.DROPPING
    if line.dropped:
        assert Step.DROPPING in steps
    elif max(offered, burst) < RATES[Step.NORMAL]:
        assert steps == [Step.NORMAL]


# ---------------------------------------------------------------- what is told


@dataclass
class Bench:
    """An Overload with a clock of its own."""

    now_ns: int = 0
    said: list[tuple[str, str, str, str | None]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    metrics: Metrics = field(default_factory=lambda: Metrics(process=False))

    def __post_init__(self) -> None:
        self.metrics.for_cameras(["a"])
        self.frames = Channel[int](8, WhenFull.DROP_OLDEST, on_drop=lambda frame: self.overload.dropped(frame))
        self.overload = Overload(
            LIMITS,
            (8, 16),
            self.metrics,
            lambda *told: self.said.append(told),
            self.frames.statistics,
            self.sizes.append,
            lambda: self.now_ns,
        )

    def take(self, age_s: float) -> Depth:
        """The networks take a batch whose oldest frame has this age, a tenth of a second later."""
        self.now_ns += 100_000_000
        arrived = [self.now_ns - round(age_s * 1e9), self.now_ns]
        frames = [Frame("a", i, 0, at, 0, np.zeros((2, 2), np.uint8)) for i, at in enumerate(arrived)]
        return self.overload.take(Batch(0, frames, [Roi(0, 2)] * 2, []))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"inspector_{name}", labels)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_each_step_is_a_state_a_metric_and_a_line_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inspector")
    depths = [bench.take(0.3) for _ in range(20)]
    assert list(dict.fromkeys(depths)) == [Depth.FULL, Depth.TYPES, Depth.GATE]
    assert [(part, state, about) for part, state, _, about in bench.said] == [
        ("line", "wide batches", "overload"),
        ("line", "not segmenting", "overload"),
        ("line", "not typing", "overload"),
    ]
    assert bench.said[0][2] == "step 1 of 4: too old, frames had waited for 300 ms, 0% of the queue filled"
    assert bench.sizes == [16, 16, 16]
    assert bench.value("overload_step") == 3
    assert bench.value("overload_steps_total", direction="up", reason="age") == 3
    assert bench.value("overload_steps_total", direction="down", reason="calm") == 0
    for _ in range(200):
        bench.overload.idle()
        bench.now_ns += 100_000_000
    assert bench.overload.step is Step.NORMAL
    assert bench.said[-1][1] == "keeping up"
    assert bench.sizes[-1] == 8
    assert bench.value("overload_step") == 0
    assert bench.value("overload_steps_total", direction="down", reason="calm") == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3 + [logging.INFO] * 3
    assert caplog.messages[0] == f"overload: wide batches: {bench.said[0][2]}"


def test_a_drop_is_told_at_once_and_logged_when_nobody_holds_the_queue(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for arrived_ns in range(8):
        bench.frames.put(arrived_ns, 0)
    assert bench.said == []
    bench.frames.put(9, 0)
    assert [state for _, state, _, _ in bench.said][-1] == "dropping frames"
    assert "the queue was full" in bench.said[-1][2]
    assert bench.value("overload_steps_total", direction="up", reason="dropped") == 4
    assert not caplog.records
    assert bench.take(0.0) is Depth.GATE
    assert len(caplog.records) == 4


def test_a_metric_knows_every_reason() -> None:
    assert set(STEP_REASONS) == {str(why) for why in Why}
    for why in Why:
        assert describe(Change(Step.WIDE, Step.NO_SEGMENTERS, why, 0.25, 0.5)).startswith("step 2 of 4: ")


# ---------------------------------------------------------------- the section of the YAML


def line_of(pack: Path, folder: Path, when_full: str = "drop_oldest", **sections: Any) -> Config:
    raw = {
        "line": {"name": "l", "when_full": when_full, "deadline_ms": 80},
        "pack": str(pack),
        "cameras": [{"name": "a", "kind": "synthetic"}],
        "batch": {"size": 6},
        "journal": {"path": str(folder / "j.db")},
        "monitor": None,
        **sections,
    }
    return convert(raw, Config)


def row(config: Config) -> tuple[str, str, str]:
    return next(row for row in check(config) if row[0] == "overload")


def test_what_is_left_out_of_the_section_follows_from_the_line(pack: Path, tmp_path: Path) -> None:
    config = line_of(pack, tmp_path)
    assert config.overload is not None
    assert Limits.of(config.overload, 80) == Limits(0.24, 0.12, 0.25, 5.0, 120.0)
    assert overload.widest(config) == 12
    assert row(config)[2] == "behind at 240 ms, caught up at 120 ms"
    assert Limits.of(OverloadConfig(down_after_s=200), 80).down_after_most_s == 200


@pytest.mark.parametrize(
    ("when_full", "sections"), [("wait", {}), ("drop_oldest", {"overload": None})], ids=["lossless", "null"]
)
def test_where_nothing_may_be_left_out(pack: Path, tmp_path: Path, when_full: str, sections: dict[str, Any]) -> None:
    config = line_of(pack, tmp_path, when_full, **sections)
    made = overload.of(config, Metrics(process=False), lambda *told: None, lambda: 1 / 0, lambda size: None)  # type: ignore[arg-type, return-value]
    assert made is None
    assert overload.widest(config) == 6
    assert row(config)[2].startswith("nothing is left out")


@pytest.mark.parametrize(
    ("section", "words"),
    [({"young_ms": 300, "too_old_ms": 200}, "overload.young_ms"), ({"wide_batch": 5}, "overload.wide_batch")],
)
def test_settings_that_contradict_each_other(pack: Path, tmp_path: Path, section: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(line_of(pack, tmp_path, overload=section))


def test_cameras_that_drop_and_networks_that_take_never_wait_for_each_other(bench: Bench) -> None:
    """A drop is told with the queue locked, and a look reads the queue."""
    threads = [
        *(
            threading.Thread(target=lambda: [bench.frames.put(i, 0) for i in range(2000)], daemon=True)
            for _ in range(2)
        ),
        *(threading.Thread(target=lambda: [bench.take(0.3) for _ in range(500)], daemon=True) for _ in range(2)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert not any(thread.is_alive() for thread in threads)
    words = [Step.NORMAL.words, *(state for _, state, _, _ in bench.said)]
    steps = [[step.words for step in Step].index(word) for word in words]
    assert all(abs(after - before) == 1 for before, after in pairwise(steps))
    assert steps[-1] == bench.value("overload_step") == bench.overload.step
