"""What a new subscriber is told: the last state of every part and the coil, with their own identity, not too often."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from inspector.events import CoilEvent, Data, Event, State
from inspector.sinks._lastvalues import AGAIN_S, MOST_TOPICS, MOST_VALUES, LastValues, Message

STATE, COIL = "state/v1/l/", "coil/v1/l/"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def event(number: int, topic: str, data: Data) -> Event:
    return Event(
        id=str(number),
        source="/test",
        type="t",
        time="2026-01-01T00:00:00Z",
        subject=topic,
        dataschema="",
        epoch=1,
        sequence=number,
        data=data,
    )


class Rig:
    def __init__(self) -> None:
        self.clock = Clock()
        self.last = LastValues(self.clock)
        self._number = 0

    def state(self, part: str, topic: str = STATE, about: str | None = None) -> None:
        self._keep(topic, State(part=part, state="up", detail="", about=about))

    def coil(self, phase: str) -> None:
        self._keep(COIL, CoilEvent(coil="c", phase=phase, encoder_count=1))  # type: ignore[arg-type]

    def _keep(self, topic: str, data: Data) -> None:
        self._number += 1
        self.last.keep(event(self._number, topic, data), (topic.encode(), b"%d" % self._number))

    def sent(self, offer: Callable[[Message], bool] = lambda message: True) -> list[int]:
        given: list[int] = []

        def note(message: Message) -> bool:
            taken = offer(message)
            if taken:
                given.append(int(message[1]))
            return taken

        self.last.send(note)
        return given


def test_the_last_of_each_part_in_their_order() -> None:
    rig = Rig()
    for part in ("a", "b", "c", "a", "b"):
        rig.state(part)
    assert rig.sent() == [], "nobody asked"
    rig.last.want(b"state/")
    assert rig.sent() == [3, 4, 5]
    assert rig.sent() == []


def test_a_part_has_one_of_each_kind_of_state() -> None:
    rig = Rig()
    for about in (None, "view", "motion", "view"):
        rig.state("camera", about=about)
    rig.last.want(b"state/")
    assert rig.sent() == [1, 3, 4]


def test_a_coil_that_began_and_one_that_ended() -> None:
    rig = Rig()
    rig.coil("start")
    rig.last.want(b"")
    assert rig.sent() == [1]
    rig.coil("end")
    rig.clock.now += AGAIN_S
    rig.last.want(b"coil/")
    assert rig.sent() == [1, 2]
    rig.coil("start")
    rig.clock.now += AGAIN_S
    rig.last.want(b"coil/v1/l/")
    assert rig.sent() == [3], "the end was of the coil before"


def test_many_who_ask_are_answered_together_and_none_is_forgotten() -> None:
    rig = Rig()
    rig.state("a")
    for _ in range(10):
        rig.last.want(b"state/")
    assert rig.sent() == [1]
    rig.last.want(b"state/")
    assert rig.sent() == []
    rig.clock.now += AGAIN_S
    assert rig.sent() == [1]


def test_only_what_was_asked_for_is_sent() -> None:
    rig = Rig()
    rig.state("a")
    rig.state("a", "state/v1/line10/")
    rig.coil("start")
    rig.last.want(b"defect/")
    rig.last.want(b"state/v1/l/x")
    assert rig.sent() == []
    rig.last.want(b"state/v1/l/")
    assert rig.sent() == [1]


def test_what_finds_no_room_is_sent_later() -> None:
    rig = Rig()
    rig.state("a")
    rig.last.want(b"state/")
    assert rig.sent(lambda message: False) == []
    assert rig.sent() == [1]


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 99)), max_size=2000))
def test_however_many_parts_and_topics_there_are_they_are_bounded(told: list[tuple[int, int]]) -> None:
    rig = Rig()
    for part, topic in told:
        rig.state(f"part {part}", f"state/v1/{topic}/")
    rig.last.want(b"")
    assert len(rig.sent()) <= MOST_VALUES * MOST_TOPICS
    assert len(rig.last._topics) <= MOST_TOPICS
    newest = Rig()
    for part in range(MOST_VALUES + 10):
        newest.state(f"part {part}")
    newest.last.want(b"")
    assert newest.sent() == list(range(11, MOST_VALUES + 11))
