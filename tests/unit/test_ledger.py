"""ledger.py: whatever becomes of a camera's frames, the totals add up and every hole is explained exactly once."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.events import CameraTotals, Reason
from inspector.ledger import Ledger
from inspector.records import Loss

PATIENCE_S = 30.0
BOOKED = [Reason.OVERLOAD, Reason.OVERRUN, Reason.UNREADABLE]

Fate = Reason | None
"""Of one frame: why it was lost, None when it was inspected. MISSING: nobody books it, grading finds out."""
fates = st.lists(st.sampled_from([None, None, None, *BOOKED, Reason.MISSING]), max_size=60)


def _runs(life: list[Fate], first: int = 0) -> list[tuple[int, int, Fate]]:
    """(first, count, fate) of neighbours with one fate."""
    runs = []
    for fate, group in groupby(enumerate(life, start=first), key=lambda entry: entry[1]):
        members = list(group)
        runs.append((members[0][0], len(members), fate))
    return runs


def _walk(ledger: Ledger, camera: str, life: list[Fate]) -> list[Loss]:
    """What grading does: it meets the frames that came, and asks about each hole before them."""
    found, position = list[Loss](), 0
    for sequence, fate in enumerate(life):
        if fate is None:
            if sequence > position:
                found += ledger.take_losses(camera, position, sequence)
            ledger.inspect(camera, 1)
            position = sequence + 1
    if position < len(life):
        found += ledger.take_losses(camera, position, len(life))
    return found


@settings(deadline=None, max_examples=200)
@given(fates, st.randoms(use_true_random=False), st.booleans())
def test_every_frame_has_one_fate_and_the_totals_add_up(life: list[Fate], random: object, singly: bool) -> None:
    """`singly`: each loss is booked by itself, in any order, as drops are; else in runs, as cameras tell them."""
    ledger = Ledger(["a", "other"])
    ledger.issue("a", len(life))
    pieces = [(n, 1, fate) for n, fate in enumerate(life)] if singly else _runs(life)
    random.shuffle(pieces)  # type: ignore[attr-defined]
    for first, count, fate in pieces:
        if fate in BOOKED:
            ledger.lose(Loss("a", first, count, fate))
    found = _walk(ledger, "a", life)
    # Every hole is explained without a gap or an overlap, neighbours of one reason are one loss ...
    assert [(loss.sequence, loss.count, loss.reason) for loss in found] == [run for run in _runs(life) if run[2]]
    # ... and the totals are those of the frames.
    lost = Counter(str(fate) for fate in life if fate)
    assert ledger.totals()["a"] == CameraTotals(issued=len(life), inspected=life.count(None), lost=dict(lost))
    assert ledger.totals()["other"] == CameraTotals(issued=0, inspected=0, lost={})


@settings(deadline=None, max_examples=200)
@given(fates, st.integers(0, 60))
def test_at_every_moment_lost_and_inspected_are_never_more_than_issued(life: list[Fate], delay: int) -> None:
    """Frames are issued and lost as they come; grading follows `delay` frames behind."""
    ledger, position = Ledger(["a"]), 0

    def grade(upto: int) -> None:
        nonlocal position
        for sequence in range(position, min(upto, len(life))):
            if life[sequence] is None:
                if sequence > position:
                    assert (
                        sum(loss.count for loss in ledger.take_losses("a", position, sequence)) == sequence - position
                    )
                ledger.inspect("a", 1)
                position = sequence + 1

    for sequence, fate in enumerate(life):
        ledger.issue("a", sequence + 1)
        if fate in BOOKED:
            ledger.lose(Loss("a", sequence, 1, fate))
        grade(sequence - delay)
        books = ledger.totals()["a"]
        assert books.inspected + sum(books.lost.values()) <= books.issued == sequence + 1


def test_a_hole_is_cut_out_exactly_and_what_lies_beside_it_stays() -> None:
    ledger = Ledger(["a"])
    ledger.issue("a", 30)
    ledger.lose(Loss("a", 20, 2, Reason.OVERLOAD))
    ledger.lose(Loss("a", 12, 3, Reason.OVERRUN, "late"))
    found = ledger.take_losses("a", 10, 18)
    assert [(loss.sequence, loss.count, loss.reason) for loss in found] == [
        (10, 2, Reason.MISSING),
        (12, 3, Reason.OVERRUN),
        (15, 3, Reason.MISSING),
    ]
    assert all(first.sequence + first.count == second.sequence for first, second in pairwise(found))
    assert [(loss.sequence, loss.count) for loss in ledger.take_losses("a", 20, 22)] == [(20, 2)]
    assert ledger.totals()["a"].lost == {"missing": 5, "overrun": 3, "overload": 2}


def test_a_loss_is_taken_once() -> None:
    """What was handed on is forgotten: an endless strip must not fill the memory, nor a loss be told twice."""
    ledger = Ledger(["a"])
    for sequence in (3, 4, 5):
        ledger.lose(Loss("a", sequence, 1, Reason.OVERLOAD))
    assert [loss.reason for loss in ledger.take_losses("a", 3, 5)] == [Reason.OVERLOAD]
    assert [loss.reason for loss in ledger.take_losses("a", 3, 6)] == [Reason.MISSING, Reason.OVERLOAD]


def test_only_losses_that_say_the_same_are_one() -> None:
    ledger = Ledger(["a"])
    for sequence, (detail, source) in enumerate(
        [("x", None), ("x", None), ("y", None), ("y", "1.png"), ("y", "2.png")]
    ):
        ledger.lose(Loss("a", sequence, 1, Reason.UNREADABLE, detail, source))
    found = ledger.take_losses("a", 0, 5)
    assert [(loss.count, loss.detail, loss.source) for loss in found] == [
        (2, "x", None),
        (1, "y", None),
        (1, "y", "1.png"),
        (1, "y", "2.png"),
    ]


def test_a_loss_issues_its_frames_and_an_older_count_takes_nothing_back() -> None:
    ledger = Ledger(["a"])
    ledger.lose(Loss("a", 4, 6, Reason.OVERRUN))
    assert ledger.issued() == {"a": 10}
    ledger.issue("a", 7)
    assert ledger.issued() == {"a": 10}


def test_an_empty_hole_books_nothing() -> None:
    ledger = Ledger(["a"])
    assert ledger.take_losses("a", 5, 5) == []
    assert ledger.totals()["a"] == CameraTotals(issued=0, inspected=0, lost={})


def test_totals_are_a_copy() -> None:
    ledger = Ledger(["a"])
    before = ledger.totals()
    ledger.lose(Loss("a", 0, 1, Reason.OVERLOAD))
    before["a"].lost["forged"] = 1
    assert ledger.totals()["a"].lost == {"overload": 1}


def test_a_stranger_is_an_error() -> None:
    with pytest.raises(KeyError):
        Ledger(["a"]).issue("b", 1)


def test_totals_balance_whenever_they_are_read_and_threads_book_side_by_side() -> None:
    ledger, frames, done = Ledger(["a", "b"]), 1500, threading.Event()
    wrong: list[CameraTotals] = []

    def book(camera: str) -> None:
        for sequence in range(frames):
            ledger.issue(camera, sequence + 1)
            if sequence % 3:
                ledger.inspect(camera, 1)
            else:
                ledger.lose(Loss(camera, sequence, 1, Reason.OVERLOAD))
                assert len(ledger.take_losses(camera, sequence, sequence + 1)) == 1

    def watch() -> None:
        while not done.is_set():
            totals = ledger.totals().values()
            wrong.extend(books for books in totals if books.inspected + sum(books.lost.values()) > books.issued)

    watcher = threading.Thread(target=watch, daemon=True)
    clerks = [threading.Thread(target=book, args=(camera,), daemon=True) for camera in ("a", "b")]
    for thread in (watcher, *clerks):
        thread.start()
    for thread in clerks:
        thread.join(PATIENCE_S)
    done.set()
    watcher.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in (watcher, *clerks))
    assert wrong == []
    expected = CameraTotals(issued=frames, inspected=1000, lost={"overload": 500})
    assert ledger.totals() == {"a": expected, "b": expected}
