"""cameras/_ids.py: whatever is lost and wherever ids wrap, so many frames are missing; a new count is told."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.cameras._ids import FrameIds

KINDS = st.sampled_from([(16, True), (16, False), (32, False), (64, False), (64, True), (8, True)])


def id_of(number: int, bits: int, skips_zero: bool) -> int:
    """The id of frame `number` of a stream whose frame 0 has the first id there is."""
    first = 1 if skips_zero else 0
    return number % ((1 << bits) - first) + first


@given(KINDS, st.integers(0, 2**70), st.data())
def test_holes_are_exact_up_to_half_a_ring(kind: tuple[int, bool], start: int, data: st.DataObject) -> None:
    bits, skips_zero = kind
    half = (2**bits - (1 if skips_zero else 0)) // 2
    near = st.integers(1, min(half, 3000))
    steps = data.draw(st.lists(st.one_of(near, st.integers(1, half), st.just(half)), max_size=20))
    numbers = [start]
    for step in steps:
        numbers.append(numbers[-1] + step)
    # `skips_zero` is given up when a 0 comes, and with it none does
    ids = FrameIds(bits, skips_zero=skips_zero)
    assert ids.missing(id_of(start, bits, skips_zero)) == 0
    for before, now in pairwise(numbers):
        assert ids.missing(id_of(now, bits, skips_zero)) == now - before - 1


@given(KINDS, st.integers(0, 2**70), st.integers(0, 10_000), st.floats(0.25, 4.0))
def test_time_does_not_call_a_hole_a_restart(kind: tuple[int, bool], start: int, hole: int, rough: float) -> None:
    """However roughly: a camera that an encoder triggers goes up to four times as fast as just before."""
    bits, skips_zero = kind
    hole %= 2 ** (bits - 1) - 1
    ids = FrameIds(bits, skips_zero=skips_zero)
    ids.missing(id_of(start, bits, skips_zero))
    assert ids.missing(id_of(start + hole + 1, bits, skips_zero), about=(hole + 1) * rough) == hole


@pytest.mark.parametrize("skips_zero", [True, False])
def test_the_wrap_of_16_bits(skips_zero: bool) -> None:
    ids = FrameIds(16, skips_zero=skips_zero)
    seen = [65534, 65535, *([] if skips_zero else [0]), 1, 2, 5]
    assert [ids.missing(one) for one in seen] == [0] * (len(seen) - 1) + [2]


def test_a_camera_that_uses_the_0_that_it_should_skip() -> None:
    ids = FrameIds(16, skips_zero=True)
    assert [ids.missing(one) for one in (0, 1, 65535 // 2, 65535, 0, 1, 3)] == [0, 0, 32765, 32767, 0, 0, 1]


@pytest.mark.parametrize("again", [1, 499, 500])
def test_a_count_that_began_anew_is_told_and_goes_on(again: int) -> None:
    ids = FrameIds(16, skips_zero=True)
    assert [ids.missing(one) for one in (499, 500, again, again + 1, again + 3)] == [0, 0, None, 0, 1]


@given(st.integers(1, 2**16 - 1), st.floats(0.1, 100.0))
def test_with_the_time_a_restart_is_told_from_a_long_hole(last: int, about: float) -> None:
    ids = FrameIds(16, skips_zero=True)
    ids.missing(last)
    ahead = (1 - last) % 65535
    found = ids.missing(1, about=about)
    assert found == (ahead - 1 if 0 < ahead <= 4 * about + 64 else None)


def test_after_a_restart_nothing_is_missing() -> None:
    ids = FrameIds(64, skips_zero=False)
    ids.missing(7)
    ids.restart()
    assert [ids.missing(one) for one in (90, 91)] == [0, 0]
