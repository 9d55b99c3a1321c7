"""pool.py: bounded memory that frames live in; a slot is one frame's until it is given back, and then another's."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.pool import Pool, Slot

LONG_S = 60.0
PATIENCE_S = 30.0

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
steps = st.lists(st.one_of(sizes, st.integers(0, 5)), max_size=40)
"""(height, width): take a slot; a number: give back the so manyth, perhaps once more."""


@dataclass
class Held:
    slot: Slot
    mark: int
    released: bool = field(default=False)


def taken(pool: Pool, height: int = 2, width: int = 3) -> Slot:
    slot = pool.take(height, width, 0.0)
    assert slot is not None
    return slot


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4), steps)
def test_whatever_comes_the_pool_is_bounded_and_frames_never_share_memory(
    slots: int, script: list[tuple[int, int] | int]
) -> None:
    pool, held = Pool(slots), list[Held]()
    for mark, step in enumerate(script):
        live = [entry for entry in held if not entry.released]
        if isinstance(step, tuple):
            slot = pool.take(*step, 0.0)
            assert (slot is None) == (len(live) == slots)
            if slot is not None:
                assert slot.pixels.shape == step
                assert slot.pixels.dtype == np.uint8
                assert slot.pixels.flags.c_contiguous
                assert slot.pixels.flags.writeable
                slot.pixels[:] = mark
                held.append(Held(slot, mark))
        elif step < len(held):
            held[step].slot.release()
            held[step].released = True
        live = [entry for entry in held if not entry.released]
        assert pool.in_use == len(live) <= pool.slots == slots
        assert all((entry.slot.pixels == entry.mark).all() for entry in live)


def test_a_slot_given_back_is_the_next_ones_memory() -> None:
    pool = Pool(1)
    first = taken(pool)
    first.release()
    assert np.shares_memory(first.pixels, taken(pool).pixels)


def test_memory_grows_to_the_largest_frame_and_serves_smaller_ones() -> None:
    pool = Pool(1)
    small = taken(pool, 2, 2)
    small.release()
    large = taken(pool, 8, 8)
    assert large.pixels.shape == (8, 8)
    assert not np.shares_memory(small.pixels, large.pixels)
    large.release()
    assert np.shares_memory(large.pixels, taken(pool, 3, 5).pixels)


def test_a_frame_too_large_for_the_machine_costs_no_slot() -> None:
    pool = Pool(1)
    with pytest.raises(MemoryError):
        pool.take(1 << 40, 1 << 10, 0.0)
    assert pool.in_use == 0
    assert taken(pool).pixels.shape == (2, 3)


def test_a_pool_needs_a_slot() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        Pool(0)


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 0.01])
def test_an_exhausted_pool_says_so_in_time(timeout_s: float) -> None:
    pool = Pool(1)
    slot = taken(pool)
    assert pool.take(1, 1, timeout_s) is None
    slot.release()
    assert pool.take(1, 1, timeout_s) is not None


def test_releasing_twice_does_not_give_away_another_frames_memory() -> None:
    pool = Pool(1)
    first = taken(pool)
    first.release()
    taken(pool)
    first.release()
    assert pool.in_use == 1
    assert pool.take(1, 1, 0.0) is None


def test_many_threads_may_release_one_slot() -> None:
    pool, threads = Pool(3), 8
    for _ in range(50):
        slot, start = taken(pool), threading.Barrier(threads)

        def release(slot: Slot = slot, start: threading.Barrier = start) -> None:
            start.wait(PATIENCE_S)
            slot.release()

        _run([threading.Thread(target=release, daemon=True) for _ in range(threads)])
        assert pool.in_use == 0
    live = [taken(pool) for _ in range(3)]
    assert not any(np.shares_memory(a.pixels, b.pixels) for a, b in itertools.combinations(live, 2))
    assert pool.take(1, 1, 0.0) is None


def test_a_taker_that_waits_is_woken_by_a_release() -> None:
    pool = Pool(1)
    slot = taken(pool)
    got: list[Slot | None] = []
    waiter = threading.Thread(target=lambda: got.append(pool.take(4, 4, LONG_S)), daemon=True)
    waiter.start()
    slot.release()
    waiter.join(PATIENCE_S)
    assert len(got) == 1
    assert got[0] is not None


def test_takers_in_many_threads_never_share_a_slot() -> None:
    pool, wrong = Pool(2), list[str]()

    def work(mark: int) -> None:
        for _ in range(200):
            slot = pool.take(4, 4, LONG_S)
            if slot is None:
                wrong.append("a taker waited for ever")
                return
            slot.pixels[:] = mark
            if pool.in_use > 2 or (slot.pixels != mark).any():
                wrong.append("two frames in one slot")
            slot.release()

    _run([threading.Thread(target=work, args=(mark,), daemon=True) for mark in range(4)])
    assert wrong == []
    assert pool.in_use == 0


def _run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
