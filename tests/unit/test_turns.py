"""Whose request is next, and how often one may be served."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.wire.bucket import Bucket, Seldom
from inspector.wire.guard import Peer
from inspector.wire.turns import Turns


@given(asked=st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_nobody_is_served_twice_while_another_waits(asked: list[int]) -> None:
    peers = [Peer(number, number) for number in range(5)]
    turns = Turns[tuple[int, int]](most=100, most_bytes=1000)
    for place, number in enumerate(asked):
        assert turns.add(peers[number], (number, place), 1)
    left = {number: asked.count(number) for number in range(5)}
    since: dict[int, set[int]] = {number: set() for number in range(5)}
    served = []
    while turns:
        number, place = turns.take()
        waiting = {other for other in range(5) if left[other]} - {number}
        if any(done == number for done, _ in served):
            assert waiting <= since[number], "all others that wait had one in between"
        since[number] = set()
        for other in since:
            since[other].add(number)
        left[number] -= 1
        served.append((number, place))
    assert sorted(place for _, place in served) == list(range(len(asked))), "each once"
    for number in range(5):
        own = [place for done, place in served if done == number]
        assert own == sorted(own), "in the order in which it asked"


def test_a_client_may_have_only_so_many_and_so_much_waiting() -> None:
    few, little, other = Peer(1, 1), Peer(2, 2), Peer(3, 3)
    turns = Turns[str](most=2, most_bytes=100)
    assert [turns.add(few, "a", 1) for _ in range(3)] == [True, True, False]
    assert [turns.add(little, "b", size) for size in (60, 60, 40)] == [True, False, True]
    assert turns.add(other, "c", 100)
    assert turns.take() == "a"
    assert turns.add(few, "d", 99)
    turns.gone(little)
    turns.gone(little)
    assert [turns.take() for _ in range(3)] == ["c", "a", "d"]
    assert not turns


@given(
    steps=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 300)), max_size=40),
    rate=st.floats(1, 1000),
    most=st.floats(1, 500),
)
def test_no_more_is_spent_than_time_has_given(steps: list[tuple[float, float]], rate: float, most: float) -> None:
    now = 0.0
    bucket = Bucket(rate, most, lambda: now)
    spent = 0.0
    for seconds, tokens in steps:
        now += seconds
        wait_s = bucket.wait_s()
        if wait_s == 0:
            assert spent <= (most + rate * now) * (1 + 1e-9)
            bucket.take(tokens)
            spent += tokens
        else:
            now += wait_s * (1 + 1e-9) + 1e-9
            assert bucket.wait_s() == pytest.approx(0, abs=1e-6), "it says how long"


def test_seldom_is_at_once_and_then_not_for_a_while() -> None:
    times = iter([100.0, 100.0, 100.0, 100.0, 159.0, 160.0, 160.0, 161.0])
    seldom = Seldom(60, lambda: next(times))  # asked at the start, at each `now`, and once more when that is a yes
    assert [seldom.now() for _ in range(5)] == [True, False, False, True, False]
