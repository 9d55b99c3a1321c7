"""census.py: distances are what they are defined as, and chance alone does not go beyond what it is said not to."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inspector.census import (
    BRIGHTNESS_EDGES,
    LEAST_SHARE,
    SCORE_EDGES,
    Census,
    chance_psi,
    foremost,
    named,
    psi,
    sigmas,
    times_as_many,
    total,
)

HISTOGRAMS = st.lists(st.integers(0, 10**6), min_size=20, max_size=20).filter(any)
SHARES = st.floats(0, 1)


def bell(mean: float, deviation: float, frames: int = 100_000) -> list[int]:
    """Counts of a bell curve in the logarithm of brightness."""
    edges = [0.0, *(0.5 * math.erfc((mean - math.log(e)) / deviation / math.sqrt(2)) for e in BRIGHTNESS_EDGES), 1.0]
    return [round(frames * (b - a)) for a, b in pairwise(edges)]


@given(HISTOGRAMS, st.integers(1, 1000))
def test_equal_shares_are_no_distance_apart(counts: list[int], times: int) -> None:
    assert psi(counts, counts) == 0
    assert psi(counts, [times * count for count in counts]) == pytest.approx(0, abs=1e-12)


@given(HISTOGRAMS, HISTOGRAMS)
def test_a_distance_is_the_same_both_ways_and_has_bounds(one: list[int], other: list[int]) -> None:
    assert 0 <= psi(one, other) <= 2 * math.log(1 / LEAST_SHARE)
    assert psi(one, other) == pytest.approx(psi(other, one))
    assert 0 <= foremost(one, other) < 20


@given(st.floats(0.1, 0.3), st.floats(0, 1.5), st.floats(0.3, 1))
def test_a_distance_grows_with_the_shift(deviation: float, shift: float, more: float) -> None:
    """Shifts in deviations; where nothing overlaps any more it cannot grow."""
    middle = math.log(0.2)
    here, there, farther = (bell(middle + by * deviation, deviation) for by in (0.0, shift, shift + more))
    assert psi(here, farther) > psi(here, there)


@pytest.mark.parametrize("deviations", [0.3, 0.5, 1.0])
def test_a_bell_curve_that_moves_is_as_far_as_the_head_of_the_file_says(deviations: float) -> None:
    found = psi(bell(math.log(0.2), 0.3), bell(math.log(0.2) + 0.3 * deviations, 0.3))
    assert found == pytest.approx(deviations**2, rel=0.15)


@pytest.mark.parametrize(("frames", "others"), [(400, 4000), (2000, 2000), (50_000, 1000)])
def test_chance_alone_stays_below_what_it_may_be(frames: int, others: int) -> None:
    """One in a million may be beyond: of 3,000 draws none should, and the bound is not idle either."""
    rng = np.random.default_rng(frames)
    for alike in (np.full(20, 0.05), rng.dirichlet(np.full(20, 0.5))):
        pairs = zip(rng.multinomial(frames, alike, 1500), rng.multinomial(others, alike, 1500), strict=True)
        found = [psi(one.tolist(), other.tolist()) for one, other in pairs]
        assert max(found) < chance_psi(frames, others, 20)
    even = [psi(one.tolist(), [others // 20] * 20) for one in rng.multinomial(frames, np.full(20, 0.05), 500)]
    assert np.mean(even) == pytest.approx(19 / frames, rel=0.25)


@pytest.mark.parametrize("rate", [0.0, 0.0003, 0.01, 0.5])
def test_rates_that_are_one_differ_by_few_deviations(rate: float) -> None:
    rng = np.random.default_rng(7)
    hits, others = rng.binomial(1000, rate, 20_000), rng.binomial(20_000, rate, 20_000)
    found = [sigmas(a, 1000, b, 20_000) for a, b in zip(hits.tolist(), others.tolist(), strict=True)]
    assert max(map(abs, found)) < 5
    if 1000 * rate >= 10:
        assert np.std(found) == pytest.approx(math.sqrt(1 - rate), rel=0.1)


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 1000))
def test_rates_compare_the_same_both_ways(hits: int, frames: int, others: int, other_frames: int) -> None:
    there, back = (hits, frames, others, other_frames), (others, other_frames, hits, frames)
    assert times_as_many(*there) * times_as_many(*back) == pytest.approx(1)
    assert sigmas(*there) == pytest.approx(-sigmas(*back), abs=1e-9)
    assume(hits / frames > others / other_frames and frames == other_frames)
    assert times_as_many(*there) > 1
    assert sigmas(*there) > 0


@given(st.lists(st.tuples(SHARES, SHARES, st.booleans(), st.none() | st.booleans()), max_size=30), st.integers(0, 30))
def test_what_is_counted_apart_adds_up(frames: list[tuple[float, float, bool, bool | None]], cut: int) -> None:
    parts = [Census(), Census(), Census()]
    for number, frame in enumerate(frames):
        parts[0 if number < cut else 1].add(*frame)
        parts[2].add(*frame)
    assert total(parts[:2]) == parts[2]
    again = msgspec.json.decode(msgspec.json.encode(parts[2]), type=Census)
    assert again == parts[2]


def test_a_value_lies_in_the_bin_that_is_named() -> None:
    census = Census()
    census.add(0.015, 1.0, False, False)
    census.add(0.5, 0.01, True, True)
    assert [named(k, SCORE_EDGES) for k, n in enumerate(census.gate_scores) if n] == ["0.01 to 0.02", "0.5 to 0.6"]
    bright = [named(k, BRIGHTNESS_EDGES) for k, n in enumerate(census.brightness) if n]
    assert bright == ["below 0.05", "from 0.8725 on"]
    assert all(a < b for edges in (SCORE_EDGES, BRIGHTNESS_EDGES) for a, b in pairwise(edges))


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"gate_scores": [1] * 20}, "gate_scores must be 20 counts that add up to frames"),
        ({"brightness": [1]}, "brightness must be 32 counts"),
        ({"passed": 2}, "must not be more than frames"),
        ({"full": 0, "alarmed": 1}, "nor alarmed more than full"),
        ({"frames": -1}, "frames"),
        ({"median": 1}, "median"),
    ],
)
def test_a_census_that_cannot_be_is_refused(spoilt: dict[str, object], message: str) -> None:
    census = Census()
    census.add(0.2, 0.3, True, False)
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({**msgspec.to_builtins(census), **spoilt}, Census)
