"""strip.py: places in millimetres."""

from __future__ import annotations

import json
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from inspector.strip import Geometry, thousandths

REFERENCE = Geometry(pitch_along_mm=0.5, pitch_across_mm=0.25, offset_mm=100.0, mm_per_count=0.1)
pitches = st.decimals(min_value="0.01", max_value="2", places=3)


def test_a_place_comes_from_the_count_the_row_and_the_coils_head() -> None:
    assert REFERENCE.along_mm(encoder_count=12_000, row=10, head_count=2_000) == 1005.0
    assert REFERENCE.along_mm(encoder_count=1_990, row=0, head_count=2_000) == -1.0
    assert REFERENCE.across_mm(0) == 100.0
    assert REFERENCE.across_mm(1599.5) == 499.875


def test_extents_and_areas_use_both_pitches() -> None:
    assert REFERENCE.length_mm(256) == 128.0
    assert REFERENCE.width_mm(1600) == 400.0
    assert REFERENCE.area_mm2(1000) == 125.0


def test_lines_become_whole_counts() -> None:
    assert REFERENCE.counts_of_lines(256) == 1280
    assert Geometry(0.3, 0.5, 0.0, 0.7).counts_of_lines(256) == 110  # 109.7


@given(first=st.integers(0, 10**8), row=st.integers(0, 8000), pitch=pitches, travel=pitches, head=st.integers(0, 10**8))
def test_a_place_is_the_exact_one_rounded_half_up(
    first: int, row: int, pitch: object, travel: object, head: int
) -> None:
    exact = (first - head) * Fraction(str(travel)) + Fraction(row, 2) * Fraction(str(pitch))
    found = Geometry(float(str(pitch)), 1.0, 0.0, float(str(travel))).along_mm(first, row / 2, head)
    assert found == float((exact * 1000 + Fraction(1, 2)).__floor__()) / 1000


@given(st.integers(-(10**10), 10**10), st.floats(-2e-8, 2e-8))
def test_the_last_bits_of_a_half_do_not_show(halves: int, dust: float) -> None:
    assert thousandths(halves / 2000 + dust) == thousandths(halves / 2000)


def test_nothing_is_minus_zero() -> None:
    assert json.dumps(thousandths(-0.0)) == json.dumps(thousandths(-0.0002)) == "0.0"
