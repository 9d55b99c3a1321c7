"""The bridge's parts without a broker: names, the window, and a place that never runs ahead of the broker."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.bridge import naming
from inspector.bridge.forward import Forward, settled
from inspector.bridge.notices import too_large
from inspector.bridge.window import Message, Window
from inspector.client import Place
from inspector.client.place import PlaceFile, SourcePlace
from inspector.errors import ConfigError, Lagging, Lost, StreamError
from inspector.events import Event
from tests.line.bridges import installed
from tests.streaming import Line

T = TypeVar("T")
names = st.text(st.characters(codec="utf-8"))
topics = st.lists(names.filter(lambda name: "/" not in name), min_size=1, max_size=4).map(
    lambda levels: "/".join(levels) + "/"
)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 30))


# ---------------------------------------------------------------- names


@settings(deadline=None)
@given(topics)
def test_a_subject_is_one_that_nats_takes(topic: str) -> None:
    subject = naming.subject("inspector", topic)
    assert re.fullmatch(r"inspector(\.[!-~]+)+", subject)
    levels = subject.split(".")
    assert all(level and not set(level) & set("*> \t\r\n") for level in levels)
    assert len(levels) == 1 + topic.count("/")


@settings(deadline=None)
@given(topics)
def test_a_topic_is_one_that_mqtt_takes(topic: str) -> None:
    found = naming.mqtt_topic("inspector", topic)
    assert not set(found) & set("+#\0")
    assert found.isprintable()
    assert found.count("/") == topic.count("/")


@settings(deadline=None)
@given(topics, topics, names, names, names, names)
def test_two_that_differ_stay_two(one: str, two: str, a: str, b: str, c: str, d: str) -> None:
    assert (naming.subject("p", one) == naming.subject("p", two)) is (one == two)
    assert (naming.mqtt_topic("p", one) == naming.mqtt_topic("p", two)) is (one == two)
    assert (naming.key(a, b) == naming.key(c, d)) is ((a, b) == (c, d))


def test_names_as_people_meet_them() -> None:
    assert naming.subject("plant.hall-1", "defect/v1/line_1/top/3/") == "plant.hall-1.defect.v1.line_1.top.3"
    assert naming.subject("i", "gap/v1/a.b//c */") == "i.gap.v1.a%2Eb.%.c%20%2A"
    assert naming.mqtt_topic("i", "gap/v1/a b/+/") == "i/gap/v1/a b/%2B"
    assert naming.key("/inspector/a", "12/gap/v1/a/3") == "/inspector/a#12/gap/v1/a/3"


@pytest.mark.parametrize("prefix", ["", ".", "a..b", "a.*", "a.>", "a b", "é"])
def test_a_prefix_that_subjects_cannot_have(prefix: str) -> None:
    with pytest.raises(ConfigError, match="--subject-prefix"):
        naming.checked_subject(prefix)


@pytest.mark.parametrize("prefix", ["", "/a", "a/", "$SYS", "a/#", "+", "é"])
def test_a_prefix_that_topics_cannot_have(prefix: str) -> None:
    with pytest.raises(ConfigError, match="--prefix"):
        naming.checked_topic(prefix)


def test_prefixes() -> None:
    assert naming.checked_subject("plant.hall-1") == "plant.hall-1"
    assert naming.checked_topic("plant/hall 1") == "plant/hall 1"


@pytest.mark.parametrize(
    ("pattern", "wanted", "whole"),
    [
        ("inspector.>", "inspector.>", True),
        (">", "inspector.>", True),
        ("*.>", "inspector.>", True),
        ("inspector.*", "inspector.>", False),
        ("inspector", "inspector.>", False),
        ("inspector.defect.>", "inspector.>", False),
        ("a.b.>", "a.b.c.>", True),
        ("a.*.c.>", "a.b.c.>", True),
        ("other.>", "inspector.>", False),
    ],
)
def test_whether_a_stream_takes_all(pattern: str, wanted: str, whole: bool) -> None:
    assert naming.covers(pattern, wanted) is whole


@given(names, names)
def test_a_key_is_read_back(source: str, name: str) -> None:
    assert naming.event_of(naming.key(source, name)) == (source, name)


def test_what_a_place_covers() -> None:
    source = SourcePlace(journal="j", cursor=9, epoch=20, seen={20: {"gap/v1/a/top/": [(1, 5), (8, 8)]}})
    place = Place(sources={"/inspector/a": source})

    def is_covered(
        name: str, source: str = "/inspector/a", place: Place | None = place, topics: tuple[str, ...] = ()
    ) -> bool:
        return settled(place, topics, naming.key(source, name))

    assert is_covered("10/gap/v1/a/top/99")
    assert [is_covered(f"20/gap/v1/a/top/{number}") for number in (1, 5, 6, 8, 9)] == [True, True, False, True, False]
    assert not is_covered("20/gap/v1/a/other/1")
    assert not is_covered("30/gap/v1/a/top/1")
    assert not is_covered("10/gap/v1/a/top/1", source="/inspector/b")
    assert not is_covered("10/gap/v1/a/top/1", place=None)
    assert not is_covered("30/gap/v1/a/top/1", topics=("coil/", "gap/"))
    assert is_covered("30/gap/v1/a/top/1", topics=("coil/",))
    assert is_covered("bridge/1234")  # a loss that was told: if it is told again there is no harm


# ---------------------------------------------------------------- the window


@given(st.lists(st.sampled_from(["put", "done", "take", "again"]), max_size=60), st.randoms(use_true_random=False))
def test_what_is_acknowledged_is_a_beginning(steps: list[str], dice: Any) -> None:
    async def check() -> None:
        window, done = Window(5), set[int]()
        for step in steps:
            if step == "put" and len(window) < 5:
                window.put("t/", "k", b"")
            elif step == "done" and window.last:
                done.add(number := dice.randint(1, window.last))
                window.done(number)
            elif step == "again":
                window.again()
            assert window.acked == next(n for n in range(window.last + 2) if n + 1 not in done)
            assert len(window) == window.last - len(done)
        window.again()
        left = [(await window.take()).number for _ in range(len(window))]
        assert left == [number for number in range(1, window.last + 1) if number not in done]

    run(check())


def test_a_full_window_waits_for_room() -> None:
    async def check() -> None:
        window = Window(2)
        for _ in range(2):
            await window.room()
            window.put("t/", "k", b"")
        waiting = asyncio.ensure_future(window.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        window.done(2)
        await waiting
        assert window.acked == 0

    run(check())


def test_what_is_too_large_is_told_under_its_own_key() -> None:
    async def check() -> None:
        window = Window(1)
        key = naming.key("/inspector/a", "10/defect/v1/a/top/1/7")
        window.put("defect/v1/a/top/1/", key, b"x" * 5000)
        notice = too_large(await window.take())
        assert (notice.number, notice.key, notice.topic) == (1, key, "bridge/lost/")
        body = json.loads(notice.body)
        assert (body["source"], body["type"]) == ("/inspector/a", "inspector.bridge.lost.v1")
        assert body["data"]["detail"].startswith("event 10/defect/v1/a/top/1/7 has 5000 bytes")

    run(check())


# ---------------------------------------------------------------- the place


class Script:
    """A stream of given events and errors; its place says how many it gave."""

    def __init__(self, *steps: Event | StreamError) -> None:
        self._steps = list(steps)
        self.given = 0

    @property
    def place(self) -> Place:
        return Place(topics=[str(self.given)])

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if not self._steps:
            await asyncio.get_running_loop().create_future()  # nothing more comes
        step = self._steps.pop(0)
        self.given += 1
        if isinstance(step, StreamError):
            raise step
        return step


class Manual:
    """A broker that takes what it is told to take."""

    def __init__(self) -> None:
        self.settled: list[int] = []
        self.at = 0
        self._more = asyncio.Event()

    async def run(self) -> None:
        raise NotImplementedError

    def mark(self) -> int:
        return self.at

    def settle(self, mark: int) -> None:
        self.settled.append(mark)
        self._more.set()

    async def has_settled(self, mark: int) -> None:
        while mark not in self.settled:
            self._more.clear()
            await self._more.wait()


def events(count: int) -> list[Event]:
    line = Line()
    for _ in range(count):
        line.publish("gap/v1/a/top/")
    return line.published


async def given_out(window: Window, count: int) -> list[Message]:
    """The next so many messages, once they were put."""
    return [await window.take() for _ in range(count)]


async def with_tasks(work: Awaitable[T], *tasks: Coroutine[Any, Any, None]) -> T:
    running = [asyncio.ensure_future(task) for task in tasks]
    try:
        return await work
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def test_the_place_waits_for_the_broker(tmp_path: Path) -> None:
    stream, broker, window, file = Script(*events(6)), Manual(), Window(4), PlaceFile(tmp_path / "place")
    forward = Forward(stream, window, broker, file)

    def stored() -> int:
        place = file.read()
        return int(place.topics[0]) if place else -1

    async def check() -> None:
        await given_out(window, 4)
        assert window.last == 4  # the window is full, nothing is acknowledged
        for number in (2, 3, 4):
            window.done(number)
        await given_out(window, 2)
        assert stored() == -1
        assert broker.settled == []
        broker.at = 7
        window.done(1)
        for number in (5, 6):
            window.done(number)
        await broker.has_settled(7)
        assert stored() == 6

    run(with_tasks(check(), forward.read(), forward.save()))


def test_at_the_end_the_place_is_stored(tmp_path: Path) -> None:
    stream, window, file = Script(*events(3)), Window(10), PlaceFile(tmp_path / "place")
    forward = Forward(stream, window, Manual(), file)

    async def check() -> None:
        reading = asyncio.ensure_future(forward.read())
        await given_out(window, 3)
        reading.cancel()
        assert not await forward.drain(0.01)
        assert file.read() is None
        for number in (1, 2, 3):
            window.done(number)
        assert await forward.drain(0.01)
        place = file.read()
        assert place is not None
        assert place.topics == ["3"]

    run(check())


def test_a_loss_is_a_message_and_being_late_is_not() -> None:
    lost = Lost("2 event(s) lost for good", "/inspector/a", [(10, "gap/v1/a/top/", 4, 5)])
    first, second = events(2)
    stream, window = Script(first, lost, Lagging("late"), second), Window(10)
    forward = Forward(stream, window, Manual(), None)

    async def check() -> None:
        told = await given_out(window, 3)
        assert [message.topic for message in told] == ["gap/v1/a/top/", "bridge/lost/", "gap/v1/a/top/"]
        body = json.loads(told[1].body)
        assert (body["source"], body["type"]) == ("/inspector/a", "inspector.bridge.lost.v1")
        assert body["data"]["missing"] == [[10, "gap/v1/a/top/", 4, 5]]
        assert forward.lost == 1

    run(with_tasks(check(), forward.read()))


# ---------------------------------------------------------------- the brokers of the tests


@pytest.mark.parametrize(("ci", "outcome"), [("true", AssertionError), ("", pytest.skip.Exception)])
def test_a_missing_broker_is_an_error_in_ci(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt-get install no-such-broker"):
        installed("no-such-broker")
