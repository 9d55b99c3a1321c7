"""coils.py: which coil lies at an encoder count, whenever the plant tells of it."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector import coils as module
from inspector.coils import Coil, CoilMap, Told
from inspector.errors import TelegramError
from inspector.events import NO_COIL


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
    assert coils.start("C2", 1000).previous == "C1"
    assert coils.start("C3", 2000).previous == "C2"
    assert [coils.at(count).name for count in (0, 999, 1000, 1999, 2000, 10**9)] == ["C1", "C1", "C2", "C2", "C3", "C3"]


def test_a_coil_named_late_takes_the_counts_behind_its_head() -> None:
    coils = CoilMap("C1")
    coils.begin(5000)
    coils.start("C3", 9000)
    assert coils.start("C2", 3000).previous == "C1"
    assert coils.at(8000) == Coil("C2", 3000)
    assert coils.at(2000).name == "C1"


def test_the_same_message_twice_changes_nothing_and_a_second_name_corrects_the_first() -> None:
    coils = CoilMap("C1")
    coils.begin(0)
    coils.start("C2", 1000)
    assert coils.start("C2", 1000).repeated
    assert coils.start("C2b", 1000) == Told(Coil("C2b", 1000), "C1", repeated=False, ahead=0)
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
    monkeypatch.setattr(module, "COILS_KEPT", 3)
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


# ---------------------------------------------------------------- late, early, ends


def graded_to(count: int, begin: int = 0) -> CoilMap:
    coils = CoilMap("C1")
    coils.begin(begin)
    coils.reach(count)
    return coils


def test_an_early_telegram_says_how_far_ahead_the_head_is() -> None:
    told = graded_to(500).start("C2", 800)
    assert (told.ahead, told.coil.known_from, told.repeated) == (300, None, False)


def test_a_late_telegram_keeps_from_where_it_counts() -> None:
    coils = graded_to(500)
    told = coils.start("C2", 300)
    assert (told.ahead, told.coil) == (-200, Coil("C2", 300, known_from=500))
    assert [coil.name for coil in coils.heads(after=0, upto=500)] == ["C2"]


def test_the_coil_that_was_on_the_line_at_start_can_be_named_with_a_head_before_it() -> None:
    coils = graded_to(500, begin=400)
    told = coils.start("4711", 100)
    assert told.coil == Coil("4711", 100, known_from=500)
    assert coils.at(450).name == "4711"
    assert coils.now().name == "4711"


def test_a_head_before_the_coil_that_is_being_inspected_is_refused() -> None:
    coils = graded_to(100)
    coils.start("C2", 200)
    coils.reach(300)
    with pytest.raises(TelegramError, match="150 lies before the head of coil C2 at 200"):
        coils.start("C3", 150)
    assert coils.start("C3", 250).coil.known_from == 300


def test_strip_behind_a_tail_belongs_to_no_coil_until_the_next_head() -> None:
    coils = graded_to(100)
    told = coils.end(500, "C1")
    assert (told.previous, told.coil.name, told.repeated) == ("C1", NO_COIL, False)
    assert coils.end(500).repeated
    coils.start("C2", 700)
    assert [coils.at(count).name for count in (499, 500, 699, 700)] == ["C1", NO_COIL, NO_COIL, "C2"]


def test_a_tail_where_the_next_coil_starts_changes_nothing_whatever_comes_first() -> None:
    head_first, tail_first = graded_to(100), graded_to(100)
    head_first.start("C2", 500)
    assert not head_first.end(500, "C1").repeated
    tail_first.end(500, "C1")
    tail_first.start("C2", 500)
    assert head_first.known() == tail_first.known() == [Coil("C1", 0), Coil("C2", 500)]


def test_another_coil_cannot_end_there() -> None:
    with pytest.raises(TelegramError, match="coil C9 cannot end at count 500: coil C1 lies there"):
        graded_to(100).end(500, "C9")


def test_coils_are_kept_over_a_restart_unless_the_encoder_counts_anew() -> None:
    forgotten: list[bool] = []
    for first, expected in ((5000, "C2"), (4500, "C2"), (900, "C1"), (3000, "C1")):
        coils = CoilMap("C1", on_forget=lambda: forgotten.append(True))
        coils.start("C2", 1000)
        assert coils.resume(first, before=4900, far=1000) is (expected == "C1")
        coils.begin(first)
        assert coils.at(first + 10).name == expected
    assert forgotten == [True, True]


def test_after_the_encoder_counts_anew_coils_can_be_told_of_again() -> None:
    coils = graded_to(9000)
    coils.start("C2", 8000)
    assert coils.resume(10, before=9000, far=1000)
    coils.begin(10)
    coils.reach(50)
    assert coils.start("C3", 40).coil == Coil("C3", 40, known_from=50)
    assert coils.now().name == "C3"


def test_a_coil_named_again_before_its_head_has_come_is_moved() -> None:
    coils = graded_to(100)
    coils.start("C2", 99_999)
    coils.start("C2", 500)
    assert coils.known() == [Coil("C1", 0), Coil("C2", 500)]
    coils.reach(600)
    coils.start("C2", 900)
    assert [coil.head_count for coil in coils.known()] == [0, 500, 900], "the one on the line stays"


def test_no_coil_ends_where_none_lies() -> None:
    coils = graded_to(100)
    coils.end(500)
    with pytest.raises(TelegramError, match="no coil can end at count 700: none lies there"):
        coils.end(700)


def test_a_first_coil_that_got_a_name_is_shown_once() -> None:
    coils = graded_to(500, begin=400)
    coils.start("4711", 100)
    assert coils.known() == [Coil("4711", 100, known_from=500)]


@given(st.permutations([100, 200, 300, 400]), st.integers(0, 600))
def test_the_order_in_which_early_telegrams_come_does_not_matter(order: list[int], count: int) -> None:
    coils = CoilMap("first")
    coils.begin(0)
    for head in order:
        coils.start(f"coil {head}", head)
    assert coils.at(count).head_count == max(head for head in (0, 100, 200, 300, 400) if head <= count)


# ---------------------------------------------------------------- what a recording keeps of it


def test_a_map_that_recalls_a_snapshot_says_the_same() -> None:
    coils, told = CoilMap("C0"), list[tuple[str, str, int]]()
    coils.on_told = lambda *what: told.append(what)
    coils.begin(100)
    coils.reach(300)
    coils.start("LATE", 200)
    coils.start("EARLY", 900)
    coils.end(1500)
    again = CoilMap("another")
    again.recall(*coils.snapshot())
    again.begin(250)
    assert [again.at(count) for count in range(100, 2000, 50)] == [coils.at(count) for count in range(100, 2000, 50)]
    assert again.known() == coils.known()
    assert told == [("coil start", "LATE", 200), ("coil start", "EARLY", 900), ("coil end", "EARLY", 1500)]


def test_nobody_tells_of_a_coil_while_a_frame_is_graded() -> None:
    coils, order = CoilMap("C0"), list[str]()
    coils.on_told = lambda *_: order.append("told")
    thread = threading.Thread(target=coils.start, args=["C1", 50])
    with coils.still():
        thread.start()
        for count in range(2000):
            coils.reach(count)
        order.append("graded")
    thread.join()
    assert order == ["graded", "told"]
    assert coils.at(60) == Coil("C1", 50, known_from=1999)


def test_an_encoder_that_counts_anew_is_told() -> None:
    coils, told = CoilMap("C0"), list[str]()
    coils.on_told = lambda ask, coil, count: told.append(ask)
    coils.begin(0)
    coils.reach(100_000)
    coils.start("C1", 90_000)
    assert coils.resume(0, 100_000, far=50_000)
    assert told == ["coil start", "encoder reset"]
    assert coils.snapshot() == (None, [])
