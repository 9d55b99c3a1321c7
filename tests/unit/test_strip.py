"""strip.py: places in millimetres, and coils by encoder count."""

from __future__ import annotations

import json
import threading
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector import strip
from inspector.strip import Coil, CoilMap, Geometry, thousandths

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


def test_the_coil_at_start_begins_with_the_first_count_seen() -> None:
    coils = CoilMap("C1")
    assert coils.at(700) == Coil("C1", 700)
    coils.begin(500)
    coils.begin(400)
    assert coils.at(700) == Coil("C1", 500)
    assert coils.at(450) == Coil("C1", 500)


def test_older_counts_give_the_older_coil() -> None:
    coils = CoilMap("C1")
    coils.begin(0)
    assert coils.start("C2", 1000) == Coil("C1", 0)
    assert coils.start("C3", 2000) == Coil("C2", 1000)
    assert [coils.at(count).name for count in (0, 999, 1000, 1999, 2000, 10**9)] == ["C1", "C1", "C2", "C2", "C3", "C3"]


def test_a_coil_named_late_takes_the_counts_behind_its_head() -> None:
    coils = CoilMap("C1")
    coils.begin(5000)
    coils.start("C3", 9000)
    assert coils.start("C2", 3000) == Coil("C1", 5000)
    assert coils.at(8000) == Coil("C2", 3000)
    assert coils.at(2000).name == "C1"


def test_the_same_message_twice_changes_nothing_and_a_second_name_corrects_the_first() -> None:
    coils = CoilMap("C1")
    coils.begin(0)
    coils.start("C2", 1000)
    assert coils.start("C2", 1000) is None
    assert coils.start("C2b", 1000) == Coil("C1", 0)
    assert coils.at(1500) == Coil("C2b", 1000)


def test_heads_that_a_stretch_of_strip_holds() -> None:
    coils = CoilMap("C1")
    coils.begin(0)
    for name, head in (("C2", 1000), ("C4", 3000), ("C3", 2000)):
        coils.start(name, head)
    assert [coil.name for coil in coils.heads(after=1000, upto=3000)] == ["C3", "C4"]
    assert coils.heads(after=0, upto=999) == []


@given(st.lists(st.integers(-1000, 1000), unique=True, max_size=30), st.integers(-1100, 1100))
def test_a_count_belongs_to_the_nearest_head_at_or_before_it(heads: list[int], count: int) -> None:
    coils = CoilMap("first")
    coils.begin(-2000)
    for head in heads:
        coils.start(f"coil {head}", head)
    before = [head for head in heads if head <= count]
    assert coils.at(count) == (Coil(f"coil {max(before)}", max(before)) if before else Coil("first", -2000))


def test_old_coils_are_forgotten_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strip, "COILS_KEPT", 3)
    coils = CoilMap("C0")
    coils.begin(0)
    for number in range(1, 11):
        coils.start(f"C{number}", number * 100)
    assert [coils.at(count).name for count in (0, 750, 850, 1000)] == ["C7", "C7", "C8", "C10"]


def test_writers_and_readers_in_many_threads_agree() -> None:
    coils = CoilMap("first")
    coils.begin(0)
    wrong: list[Coil] = []

    def name_coils(start: int) -> None:
        for head in range(start, 801, 4):
            coils.start(f"coil {head}", head)
            found = coils.at(head)
            if found != Coil(f"coil {head}", head):
                wrong.append(found)

    threads = [threading.Thread(target=name_coils, args=(start,)) for start in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert wrong == []
    assert [coil.head_count for coil in coils.heads(0, 801)] == list(range(1, 801))
