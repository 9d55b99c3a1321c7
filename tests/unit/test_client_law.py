"""The law of the client: whatever goes wrong, every event is handed over exactly once, or named as lost.

A model of a daemon and of the way to it does all that can go wrong; the subscriber keeps each event in one transaction
with its place, and is killed at any point.
"""

from __future__ import annotations

from collections import defaultdict

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from inspector.client import follower
from inspector.client.machine import Machine
from inspector.client.place import Place
from inspector.errors import Lost, Refused
from inspector.events import Event, Heartbeat
from tests.streaming import Line, Message

TOPICS = ("defect/v1/a/c/1/", "defect/v1/a/c/2/", "gap/v1/a/c/")
WANTED = ("defect/",)


class World:
    """A daemon, a lossy way to it, and a subscriber with its store."""

    def __init__(self, since: str) -> None:
        self.line = Line()
        self.since = since
        self.now = 1000.0
        self.way: list[Message] = []
        self.answers: list[tuple[str, list[bytes]]] = []
        self.store: list[str] = []
        self.place = bytes(Place())
        self.named: set[str] = set()
        self.unordered: set[str] = set()
        """Topics of which something was published while the disk was full."""
        self.unwritten: set[str] = set()
        """Events that a kill took before they were in the journal."""
        self.gone_before: set[str] = set()
        """Events that the journal no longer had when it was first asked."""
        self.replaced_at: int | None = None
        self.baseline: Heartbeat | None = None
        self.base_epoch = 0
        self.begin()

    def begin(self) -> None:
        """The subscriber starts, from its store."""
        place = Place.of(self.place)
        if not place.sources:
            self.baseline = None
        self.answers.clear()
        self.machine = Machine(
            ["tcp://127.0.0.1:9"],
            WANTED,
            since=self.since,
            place=place,
            max_lag_s=None,
            silence_s=None,
            heartbeats=False,
            now=self.now,
        )

    # ------------------------------------------------------------ what can happen

    def publish(self, topic: int, count: int, fate: int) -> None:
        """`fate` 0: lost on the way, 2: comes twice."""
        for _ in range(count):
            self.way += [self.line.publish(TOPICS[topic])] * fate
            if self.line.full:
                self.unordered.add(TOPICS[topic])

    def beat(self, fate: int) -> None:
        self.way += [self.line.beat()] * fate

    def deliver(self, most: int) -> None:
        messages, self.way = self.way[:most], self.way[most:]
        for message in messages:
            event = msgspec.json.decode(message[1], type=Event)
            if self.baseline is None and isinstance(event.data, Heartbeat):
                self.baseline, self.base_epoch = event.data, event.epoch
            self.machine.hear(0, message, self.now)

    def take(self, most: int) -> int:
        """Hand events over; each is stored in one transaction with the place."""
        for taken in range(most):
            try:
                event = self.machine.pull(self.now)
            except Lost as error:
                self.check(error)
                event = None
            except Refused:
                continue
            self.place = bytes(self.machine.place())
            if event is not None:
                self.store.append(event.id)
            elif self.idle():
                return taken
        return most

    def idle(self) -> bool:
        return not any(follower._after for follower in self.machine.followers.values())

    def check(self, lost: Lost) -> None:
        """Only what was published and can no longer be had is lost."""
        names = {f"{e}/{topic}{n}" for e, topic, first, last in lost.missing for n in range(first, last + 1)}
        assert names <= {event.id for event in self.line.published}
        assert not names & self.line.obtainable
        assert not lost.unknown or self.replaced_at is not None
        assert lost.missing or lost.unknown
        self.named |= names

    def ask(self, fate: int) -> None:
        """What the subscriber asks is answered (1), or the answer is on its way (2), or lost (0)."""
        for request in self.machine.requests(self.now):
            place = self.machine.place().sources[request.source]
            if place.since == [] and place.retired is None:
                self.gone_before = {event.id for event in self.line.published} - self.line.book.kept
            if fate:
                self.answers.append((request.source, self.line.answer(request.body)))
        if fate != 2:
            answers, self.answers = self.answers, []
            for source, parts in answers:
                self.machine.answer(source, parts, self.now)

    def later(self, seconds: int) -> None:
        self.now += seconds

    def disk(self, full: bool) -> None:
        self.line.full = full
        self.line.commit()

    def retire(self, count: int) -> None:
        self.line.book.retire(count)

    def restart(self) -> None:
        self.unwritten |= self.waiting()
        self.line.restart()

    def replace(self) -> None:
        self.unwritten |= self.waiting()
        self.replaced_at = len(self.line.published)
        self.line.replace()

    def waiting(self) -> set[str]:
        marks = self.line.book.marks
        return {e.id for e in self.line.published if e.sequence > marks.get((e.epoch, e.subject), 0)}

    def die(self) -> None:
        """The subscriber is killed; what was on its way to it is gone."""
        self.way.clear()
        self.begin()

    # ------------------------------------------------------------ the end

    def settle(self) -> None:
        """All is well again."""
        self.disk(False)
        self.line.pages = 1000
        for topic in range(len(TOPICS)):
            self.publish(topic, 1, 1)
        for _ in range(20):
            self.later(61)
            self.beat(1)
            self.deliver(1000)
            while self.take(100) or self.machine.wait_s(self.now) == 0:
                self.ask(1)

    def verify(self) -> None:
        got = set(self.store)
        assert len(got) == len(self.store), "an event came twice"
        assert not got & self.named, "what was lost came"
        for event in self.expected():
            assert event.id in got or event.id in self.named, f"{event.id} was lost in silence"
        events = {event.id: event for event in self.line.published}
        order: dict[tuple[int, str], list[int]] = defaultdict(list)
        for name in self.store:
            order[events[name].epoch, events[name].subject].append(events[name].sequence)
        for (_, topic), sequences in order.items():
            assert topic.startswith(WANTED)
            assert topic in self.unordered or sequences == sorted(sequences), "out of order"

    def expected(self) -> list[Event]:
        """What must have come: all but what never reached the journal, or was in one that is no more."""
        return [
            event
            for event in self.line.published[self.replaced_at or 0 :]
            if event.subject.startswith(WANTED)
            and event.id not in self.unwritten
            and (event.id not in self.gone_before if self.since == "beginning" else self.is_later(event))
        ]

    def is_later(self, event: Event) -> bool:
        """It came after the heartbeat that a subscriber without a place begins with."""
        assert self.baseline is not None
        if event.epoch != self.base_epoch:
            return event.epoch > self.base_epoch
        return event.sequence > self.baseline.high_water.get(event.subject, 0)


PUBLISH = st.tuples(st.just("publish"), st.integers(0, 2), st.integers(1, 5), st.integers(0, 2))
DELIVER = st.tuples(st.just("deliver"), st.sampled_from([1, 3, 1000]))
TAKE = st.tuples(st.just("take"), st.integers(1, 6))
BEAT = st.tuples(st.just("beat"), st.integers(0, 2))
ASK = st.tuples(st.just("ask"), st.sampled_from([0, 1, 1, 2]))
LATER = st.tuples(st.just("later"), st.sampled_from([1, 11, 61]))
HEALTHY = st.just(("healthy",))
"""A second of a line on which all is well."""
OPERATIONS = [
    *[PUBLISH, PUBLISH, DELIVER, TAKE, BEAT, ASK, LATER, HEALTHY],
    st.tuples(st.just("disk"), st.booleans()),
    st.just(("restart",)),
    st.tuples(st.just("retire"), st.integers(1, 6)),
    st.just(("die",)),
]
REPLACE = st.just(("replace",))
Operations = list[tuple[object, ...]]


def live(since: str, held: int, operations: Operations) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follower, "HELD", held)
        _live(World(since), operations)


def _live(world: World, operations: Operations) -> None:
    for name, *arguments in [("healthy",), *operations]:
        if name == "healthy":
            world.beat(1)
            world.deliver(1000)
            world.take(1000)
            world.ask(1)
            world.take(1000)
        else:
            getattr(world, str(name))(*arguments)
    world.settle()
    world.verify()


relaxed = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("since", ["now", "beginning"])
@relaxed
@given(held=st.sampled_from([3, 5000]), operations=st.lists(st.one_of(OPERATIONS), max_size=60))
def test_each_event_comes_exactly_once_or_is_named(since: str, held: int, operations: Operations) -> None:
    live(since, held, operations)


@pytest.mark.parametrize("since", ["now", "beginning"])
@relaxed
@given(held=st.sampled_from([3, 5000]), operations=st.lists(st.one_of([*OPERATIONS, REPLACE]), max_size=60))
def test_so_too_when_the_journal_is_replaced(since: str, held: int, operations: Operations) -> None:
    live(since, held, operations)
