"""cameras/_clock.py: what is stated holds the truth, whatever the delays, the drift and the steps of either clock."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.cameras._clock import DRIFT, ENOUGH, WINDOW, CameraClock, without_clock

MS = 1_000_000
UNIX = 1_795_000_000_000_000_000


@dataclass
class World:
    """Two clocks over one time: the camera's counts it, the host's drifts from it and can be set."""

    now: int = 0
    offset: int = UNIX
    drifted: float = 0.0

    def run(self, ns: int, drift: float) -> None:
        self.now += ns
        self.drifted += ns * drift

    @property
    def host(self) -> int:
        return self.now + self.offset + round(self.drifted)


DELAYS = st.integers(0, 5_000 * MS)
DRIFTS = st.floats(-DRIFT, DRIFT)
SPANS = st.integers(0, 3_000 * MS)


@settings(max_examples=300)
@given(st.data())
def test_the_truth_lies_within_whatever_the_delays_and_the_drift(data: st.DataObject) -> None:
    world, clock = World(), CameraClock()

    def latch() -> None:
        before = world.host
        world.run(data.draw(st.integers(0, 20 * MS)), data.draw(DRIFTS))
        camera = world.now
        world.run(data.draw(st.integers(0, 20 * MS)), data.draw(DRIFTS))
        clock.latched(camera, before, world.host)

    latch()
    for kind in data.draw(st.lists(st.sampled_from(["frame", "frame", "latch", "wait"]), max_size=15)):
        if kind == "latch":
            latch()
        elif kind == "wait":
            world.run(data.draw(SPANS), data.draw(DRIFTS))
        else:
            truth, camera, duration = world.host, world.now, data.draw(st.integers(0, 50 * MS))
            world.run(duration * 2 + data.draw(DELAYS), data.draw(DRIFTS))
            stated, within = clock.exposed(camera, world.host, duration)
            assert within is not None
            assert abs(stated - truth) <= within


@settings(max_examples=200)
@given(st.data())
def test_a_clock_that_is_set_is_right_again_at_the_next_reading(data: st.DataObject) -> None:
    """Either clock, either way, however far; and in between a time before the shutter is never told as known."""
    world, clock = World(), CameraClock()
    for _ in range(data.draw(st.integers(1, 4))):
        before, camera = world.host, world.now
        world.run(100_000, 0.0)
        clock.latched(camera, before, world.host)
        for _ in range(data.draw(st.integers(0, 5))):
            truth, camera = world.host, world.now
            world.run(data.draw(DELAYS), 0.0)
            stated, within = clock.exposed(camera, world.host)
            assert within is not None
            assert abs(stated - truth) <= within
        if data.draw(st.booleans()):
            world.now = data.draw(st.integers(0, 10**18))  # the camera's was set: the offset takes it up
            world.offset = UNIX - data.draw(st.integers(0, 10**18))
        else:
            world.offset += data.draw(st.integers(-(10**15), 10**15))
        for _ in range(data.draw(st.integers(0, 3))):
            clock.exposed(world.now, world.host)


def test_a_frame_that_came_before_it_was_exposed_tells_of_a_clock_that_was_set() -> None:
    clock = CameraClock()
    clock.latched(1000 * MS, UNIX, UNIX + MS)
    assert clock.exposed(1000 * MS, UNIX + 5 * MS) == (UNIX + MS // 2, MS // 2 + 1)
    late = UNIX - 3_600_000 * MS
    assert clock.exposed(1010 * MS, late) == (late, None)


def test_a_reading_is_as_good_as_its_way_was_short_and_drifts() -> None:
    clock = CameraClock()
    clock.latched(0, UNIX, UNIX + 2 * MS)
    _, within = clock.exposed(0, UNIX + 900 * MS)
    assert within is not None
    assert within <= MS + 2
    _, later = clock.exposed(10_000 * MS, UNIX + 10_900 * MS)
    assert later is not None
    assert MS + 10_000 * MS * DRIFT <= later <= MS + 10_000 * MS * DRIFT + 4


def test_a_frame_that_came_at_once_makes_it_better() -> None:
    clock = CameraClock()
    clock.latched(0, UNIX, UNIX + 10 * MS)
    stated, within = clock.exposed(0, UNIX + 2 * MS + 7 * MS, duration_ns=7 * MS)
    assert (stated, within) == (UNIX + MS - 1, MS + 1)


def test_a_reading_during_which_the_host_was_set_back_tells_nothing() -> None:
    clock = CameraClock()
    clock.latched(0, UNIX, UNIX - MS)
    assert clock.exposed(0, UNIX) == (UNIX, None)


@given(st.lists(st.integers(0, 500 * MS), min_size=ENOUGH, max_size=60))
def test_unread_the_soonest_counts_as_prompt_and_the_spread_is_told(delays: list[int]) -> None:
    clock = CameraClock()
    told = [clock.exposed(n * 40 * MS, UNIX + n * 40 * MS + delay) for n, delay in enumerate(delays)]
    assert [within for _, within in told[: ENOUGH - 1]] == [None] * (ENOUGH - 1)
    stated, within = told[-1]
    assert stated == UNIX + (len(delays) - 1) * 40 * MS + min(delays)
    assert within == max(1, max(delays) - min(delays))


def test_unread_a_step_of_the_host_is_forgotten_after_a_while_and_doubted_until_then() -> None:
    clock, hour = CameraClock(), 3_600_000 * MS
    for n in range(WINDOW):
        clock.exposed(n * MS, UNIX + n * MS)
    for n in range(WINDOW, 2 * WINDOW - 1):
        _, within = clock.exposed(n * MS, UNIX + hour + n * MS)
        assert within == hour
    n = 2 * WINDOW - 1
    assert clock.exposed(n * MS, UNIX + hour + n * MS) == (UNIX + hour + n * MS, 1)


def test_opened_again_nothing_is_known() -> None:
    clock = CameraClock()
    clock.latched(0, UNIX, UNIX)
    clock.restart()
    assert clock.exposed(5 * MS, UNIX) == (UNIX, None)


def test_without_a_clock_nobody_knows() -> None:
    assert without_clock(UNIX, 12 * MS) == (UNIX - 12 * MS, None)
