"""tally.py: ages and lengths for a summary, in memory that does not grow with the strip."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector import tally
from inspector.events import Depth, Reason
from inspector.records import Graded, Settled, Shown
from inspector.tally import Ages, Tally

PATIENCE_S = 30.0


def inspected(camera: str, first: int, last: int, length_mm: float, width_px: int) -> Settled:
    return Settled(camera, first, last, None, 0, length_mm, width_px)


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=60), st.integers(1, 99))
def test_percentiles_are_numpys(seconds: list[float], percent: int) -> None:
    ages = Ages()
    for age in seconds:
        ages.add(age)
    assert ages.percentile_ms(percent) == pytest.approx(np.percentile(seconds, percent) * 1e3, abs=1e-6)


@pytest.mark.parametrize("seconds", [[], [0.5]])
def test_there_is_no_percentile_of_nothing(seconds: list[float]) -> None:
    ages = Ages()
    for age in seconds:
        ages.add(age)
    assert ages.percentile_ms(50) is None


@pytest.mark.parametrize("limit", [4, 8, 64])
def test_the_memory_is_bounded_and_the_percentiles_stay_true(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 2nd, 4th, ... age of a steady ramp still has the ramp's percentiles, within a few steps of what is kept."""
    monkeypatch.setattr(tally, "LIMIT", limit)
    ages, frames = Ages(), 5000
    for number in range(frames):
        ages.add(number / frames)
        assert len(ages._kept) < limit
    for percent in (10, 50, 90):
        assert ages.percentile_ms(percent) == pytest.approx(percent * 10, abs=1000 * 4 / limit)


def test_ages_may_be_added_and_asked_side_by_side() -> None:
    ages = Ages()

    def work() -> None:
        for _ in range(500):
            ages.add(0.25)
            found = ages.percentile_ms(99)
            assert found is None or found == pytest.approx(250)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert len(ages._kept) == 1500


def test_lengths_add_up_and_the_widest_frame_counts_for_each_camera() -> None:
    books = Tally()
    settled = [inspected("a", 0, 3, 512.0, 800), inspected("b", 0, 0, 128.0, 1600), inspected("a", 4, 4, 128.0, 400)]
    books.add(Graded(settled=settled), 0)
    books.add(Graded(settled=[Settled("a", 5, 9, Reason.OVERLOAD, 0)]), 0)
    assert books.inspected_mm == {"a": 640.0, "b": 128.0}
    assert books.width_px == {"a": 800, "b": 1600}


def test_frames_and_strip_are_summed_by_depth() -> None:
    books = Tally()
    gated = Settled("a", 4, 5, None, 0, 256.0, 800, Depth.GATE)
    lost = Settled("a", 6, 9, Reason.OVERLOAD, 0)
    books.add(Graded(settled=[inspected("a", 0, 3, 512.0, 800), gated, lost]), 0)
    books.add(Graded(settled=[inspected("b", 0, 0, 128.0, 800)]), 0)
    assert books.depths == {Depth.FULL: (5, 640.0), Depth.GATE: (2, 256.0)}


def test_ages_are_counted_from_birth_to_now() -> None:
    books = Tally()
    books.add(Graded(born=[("a", 1_000_000_000), ("b", 1_500_000_000)]), 2_000_000_000)
    assert books.ages.percentile_ms(50) == pytest.approx(750)


def test_the_first_pictures_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "LIMIT", 5)
    books = Tally()
    for start in range(0, 12, 4):
        books.add(Graded(shown=[Shown(f"{n}.png", n, n + 1.0) for n in range(start, start + 4)]), 0)
    assert [one.source for one in books.shown] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
