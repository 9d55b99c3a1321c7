"""The client without sockets: what each rule of docs/protocol.md means, one by one."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from inspector.client.machine import Machine
from inspector.client.place import Place
from inspector.errors import ConfigError, Lagging, Lost, Refused, Silent, StreamError
from inspector.events import Event, Gap, as_json
from tests.streaming import Line, Message

DEFECT = "defect/v1/a/c/1/"
GAP = "gap/v1/a/c/"


class Subscriber:
    """A machine, its clock, and what came out of it."""

    def __init__(self, *lines: Line, place: Place | None = None, **options: object) -> None:
        self.lines = {line.source: line for line in lines}
        self.now = 1000.0
        settings = {"topics": [], "since": "now", "max_lag_s": None, "silence_s": None, "heartbeats": False, **options}
        addresses = [f"tcp://127.0.0.1:{number}" for number, _ in enumerate(lines, 1)]
        self.machine = Machine(addresses, place=place, now=self.now, **settings)  # type: ignore[arg-type]

    def hear(self, *messages: Message, link: int = 0) -> None:
        for message in messages:
            self.machine.hear(link, message, self.now)

    def take(self) -> list[str]:
        """What there is to hand over now: `epoch/topicsequence` each."""
        return [event.id for event in self.events()]

    def events(self) -> Iterator[Event]:
        while (event := self.machine.pull(self.now)) is not None:
            yield event

    def ask(self) -> int:
        """Let the daemons answer what is asked; returns how many requests there were."""
        requests = self.machine.requests(self.now)
        for request in requests:
            self.machine.answer(request.source, self.lines[request.source].answer(request.body), self.now)
        return len(requests)

    def settle(self) -> list[str]:
        """Hand over and ask until there is nothing left of either."""
        got = self.take()
        while self.ask():
            got += self.take()
        return got

    @property
    def place(self) -> Place:
        """Through bytes and back, as it is kept."""
        return Place.of(bytes(self.machine.place()))


@pytest.fixture
def line() -> Line:
    return Line()


def followed(*lines: Line, **options: object) -> Subscriber:
    """A subscriber that has heard each daemon's first heartbeat and had all that it asked for."""
    subscriber = Subscriber(*lines, **options)  # type: ignore[arg-type]
    for link, line in enumerate(lines):
        subscriber.hear(line.beat(), link=link)
    subscriber.settle()
    return subscriber


def ids(topic: str, first: int, last: int, epoch: int = 10) -> list[str]:
    return [f"{epoch}/{topic}{sequence}" for sequence in range(first, last + 1)]


def say(line: Line, topic: str, count: int) -> list[Message]:
    return [line.publish(topic) for _ in range(count)]


# ---------------------------------------------------------------- the beginning


def test_now_is_the_first_heartbeat(line: Line) -> None:
    before = say(line, DEFECT, 3)
    subscriber = followed(line)
    subscriber.hear(*before[-1:], *say(line, DEFECT, 2))
    assert subscriber.take() == ids(DEFECT, 4, 5)


def test_what_comes_before_the_first_heartbeat_is_kept_or_dropped_by_it(line: Line) -> None:
    old = say(line, DEFECT, 1)
    beat = line.beat()
    subscriber = Subscriber(line, since="now")
    subscriber.hear(*old, *say(line, DEFECT, 1))
    assert subscriber.take() == []
    subscriber.hear(beat)
    assert subscriber.take() == ids(DEFECT, 2, 2)


def test_the_beginning_is_what_the_journal_still_has(line: Line) -> None:
    say(line, DEFECT, 8)
    line.restart()
    say(line, GAP, 2)
    line.book.retire(5)
    subscriber = Subscriber(line, since="beginning")
    subscriber.hear(line.beat())
    assert subscriber.settle() == ids(DEFECT, 6, 8) + ids(GAP, 1, 2, epoch=20)


def test_what_is_deleted_while_the_past_is_read_is_lost(line: Line) -> None:
    say(line, DEFECT, 9)
    subscriber = Subscriber(line, since="beginning")
    subscriber.hear(line.beat())
    subscriber.take()
    subscriber.ask()
    assert subscriber.take() == ids(DEFECT, 1, 3)
    line.book.retire(6)
    say(line, GAP, 1)
    with pytest.raises(Lost) as error:
        subscriber.settle()
    assert error.value.missing == [(10, DEFECT, 4, 6)]
    assert subscriber.take() == []


def test_so_is_what_came_and_went_between_two_starts_of_a_reader_from_the_beginning(line: Line) -> None:
    say(line, DEFECT, 2)
    subscriber = Subscriber(line, since="beginning")
    subscriber.hear(line.beat())
    subscriber.take()
    subscriber.ask()
    assert next(subscriber.events()).id == ids(DEFECT, 1, 1)[0]
    say(line, GAP, 3)
    line.book.retire(4)
    subscriber = Subscriber(line, since="beginning", place=subscriber.place)
    subscriber.hear(line.beat())
    subscriber.take()
    subscriber.ask()
    assert next(subscriber.events()).id == ids(GAP, 3, 3)[0]
    with pytest.raises(Lost) as error:
        subscriber.take()
    assert sorted(error.value.missing) == [(10, DEFECT, 2, 2), (10, GAP, 1, 2)]


def test_the_beginning_needs_a_history() -> None:
    line = Line(history=None)
    say(line, DEFECT, 2)
    with pytest.raises(Refused, match="no history socket to read the beginning from"):
        followed(line, since="beginning")


# ---------------------------------------------------------------- holes


def test_a_hole_is_repaired_at_once_and_in_order(line: Line) -> None:
    subscriber = followed(line)
    messages = say(line, DEFECT, 5)
    subscriber.hear(messages[0], messages[3], messages[4])
    assert subscriber.take() == ids(DEFECT, 1, 1)
    assert subscriber.settle() == ids(DEFECT, 2, 5)
    assert subscriber.machine.followers[line.source].repaired == 4
    say(line, DEFECT, 1)
    subscriber.hear(line.publish(DEFECT))
    assert subscriber.take() == []
    assert subscriber.settle() == ids(DEFECT, 6, 7), "and the next one too"


def test_a_heartbeat_shows_what_nothing_follows(line: Line) -> None:
    subscriber = followed(line)
    say(line, DEFECT, 4)
    assert subscriber.settle() == []
    subscriber.hear(line.beat())
    assert subscriber.settle() == ids(DEFECT, 1, 4)


def test_a_filter_is_no_hole(line: Line) -> None:
    subscriber = followed(line, topics=["gap/"])
    say(line, DEFECT, 4)
    subscriber.hear(line.publish(GAP), line.beat())
    assert subscriber.take() == ids(GAP, 1, 1)
    assert subscriber.ask() == 0


def test_doubles_are_dropped(line: Line) -> None:
    subscriber = followed(line)
    messages = say(line, DEFECT, 2)
    subscriber.hear(*messages, *messages, line.beat(), *messages)
    assert subscriber.take() == ids(DEFECT, 1, 2)


def test_live_events_wait_for_the_past_and_the_newest_heartbeat_replaces_too_many(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inspector.client.follower.HELD", 3)
    subscriber = followed(line)
    say(line, DEFECT, 2)
    subscriber.hear(line.beat())
    assert subscriber.take() == []
    requests = subscriber.machine.requests(subscriber.now)
    answer = line.answer(requests[0].body)
    subscriber.hear(*say(line, DEFECT, 6), line.beat())
    subscriber.machine.answer(line.source, answer, subscriber.now)
    assert subscriber.take() == ids(DEFECT, 1, 2)
    assert subscriber.settle() == ids(DEFECT, 3, 8)


def test_what_was_heard_and_dropped_and_never_written_is_lost(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inspector.client.follower.HELD", 2)
    subscriber = followed(line)
    say(line, DEFECT, 1)
    subscriber.hear(line.beat())
    assert subscriber.take() == []
    line.full = True
    subscriber.hear(*say(line, GAP, 3))
    line.full, line._pending = False, []
    line.restart()
    subscriber.hear(line.beat())
    assert subscriber.take() == []
    subscriber.ask()
    assert next(subscriber.events()).id == ids(DEFECT, 1, 1)[0]
    with pytest.raises(Lost) as error:
        subscriber.settle()
    assert error.value.missing == [(10, GAP, 1, 3)]


def test_retired_events_are_named(line: Line) -> None:
    subscriber = followed(line)
    say(line, DEFECT, 6)
    line.book.retire(4)
    subscriber.hear(line.beat())
    subscriber.take()
    subscriber.ask()
    assert [next(subscriber.events()).id for _ in range(2)] == ids(DEFECT, 5, 6)
    before = subscriber.place
    with pytest.raises(Lost, match=r"4 event\(s\) lost for good.*10/defect/v1/a/c/1/ 1 to 4") as error:
        subscriber.take()
    assert error.value.missing == [(10, DEFECT, 1, 4)]
    assert error.value.source == line.source
    subscriber.hear(line.publish(DEFECT), line.beat())
    assert subscriber.take() == ids(DEFECT, 7, 7), "it goes on"
    with pytest.raises(Lost):
        followed(line, place=before)
    assert subscriber.settle() == []


def test_a_journal_that_is_behind_is_waited_for_while_the_line_is_heard(line: Line) -> None:
    subscriber = followed(line)
    line.full = True
    say(line, DEFECT, 2)
    subscriber.hear(line.publish(DEFECT))
    subscriber.settle()
    asked = len(line.asked)
    for number in range(4, 7):
        subscriber.hear(line.publish(DEFECT), line.beat())
        assert subscriber.take() == ids(DEFECT, number, number), "new events do not wait for old ones"
        assert subscriber.ask() == 0, "there is nothing to be had yet"
    assert len(line.asked) == asked
    line.full = False
    subscriber.hear(line.beat())
    assert subscriber.settle() == ids(DEFECT, 1, 2)
    assert subscriber.machine.followers[line.source].request(subscriber.now) is None


@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_kill_took_before_it_was_written_is_lost(line: Line, restarted: bool) -> None:
    subscriber = followed(line)
    line.full = True
    say(line, DEFECT, 2)
    subscriber.hear(line.beat())
    assert subscriber.settle() == []
    if restarted:  # the subscriber, from its place
        subscriber = Subscriber(line, place=subscriber.place)
    line.restart()
    line.full = False
    subscriber.hear(line.beat())
    with pytest.raises(Lost) as error:
        subscriber.settle()
    assert error.value.missing == [(10, DEFECT, 1, 2)]


def test_without_a_history_a_hole_is_lost_at_once() -> None:
    line = Line(history=None)
    subscriber = followed(line)
    messages = say(line, DEFECT, 3)
    subscriber.hear(messages[2])
    with pytest.raises(Lost, match="has no history socket") as error:
        subscriber.take()
    assert error.value.missing == [(10, DEFECT, 1, 2)]
    assert subscriber.take() == ids(DEFECT, 3, 3)
    line.restart()
    subscriber.hear(line.publish(DEFECT), line.beat())
    with pytest.raises(Lost, match="started again and has no history") as error:
        subscriber.take()
    assert error.value.unknown
    assert subscriber.take() == ids(DEFECT, 1, 1, epoch=20)


# ---------------------------------------------------------------- restarts of the daemon


def test_the_tail_of_the_run_before_is_repaired(line: Line) -> None:
    subscriber = followed(line)
    say(line, DEFECT, 2)
    line.restart()
    subscriber.hear(line.publish(DEFECT), line.beat())
    assert subscriber.settle() == ids(DEFECT, 1, 2) + ids(DEFECT, 1, 1, epoch=20)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"])
def test_a_request_that_a_restart_took_is_asked_again(line: Line, address: str) -> None:
    subscriber = followed(line)
    say(line, DEFECT, 2)
    subscriber.hear(line.beat())
    subscriber.take()
    (first,) = subscriber.machine.requests(subscriber.now)
    line.restart()
    line.history = address
    subscriber.hear(line.beat())
    (second,) = subscriber.machine.requests(subscriber.now)
    assert (second.endpoint, second.fresh) == (address, True)
    subscriber.machine.answer(line.source, line.answer(first.body), subscriber.now)
    assert subscriber.take() == [], "an answer to the old request is ignored"
    subscriber.machine.answer(line.source, line.answer(second.body), subscriber.now)
    assert subscriber.take() == ids(DEFECT, 1, 2)


def test_many_restarts_leave_a_small_place(line: Line) -> None:
    subscriber = followed(line)
    for _ in range(50):
        line.restart()
        subscriber.hear(line.publish(DEFECT), line.beat())
        assert len(subscriber.settle()) == 1
        subscriber.hear(line.beat())
        assert subscriber.take() == []
    assert list(subscriber.place.sources[line.source].seen) == [line.epoch]


def test_another_journal_is_told_and_read_from_its_beginning(line: Line) -> None:
    subscriber = followed(line)
    subscriber.hear(*say(line, DEFECT, 2))
    assert len(subscriber.take()) == 2
    line.replace()
    say(line, DEFECT, 1)
    first = line.publish(DEFECT)
    subscriber.hear(first)
    assert subscriber.settle() == [], "which journal it is in, its heartbeat tells"
    subscriber.hear(line.beat())
    with pytest.raises(Lost, match="journal was replaced") as error:
        subscriber.settle()
    assert error.value.unknown
    assert subscriber.settle() == ids(DEFECT, 1, 2, epoch=20)


def test_an_answer_from_another_journal_than_the_heartbeats_is_not_believed(line: Line) -> None:
    subscriber = followed(line)
    say(line, DEFECT, 2)
    subscriber.hear(line.beat())
    subscriber.take()
    line.replace()
    say(line, DEFECT, 3)
    assert subscriber.ask() == 1
    assert subscriber.take() == []
    assert subscriber.ask() == 0
    subscriber.now += 1
    assert subscriber.ask() == 1
    subscriber.hear(line.beat())
    with pytest.raises(Lost) as error:
        subscriber.settle()
    assert (error.value.missing, error.value.unknown) == ([], True)
    assert subscriber.take() == []
    subscriber.ask()
    assert [next(subscriber.events()).id for _ in range(3)] == ids(DEFECT, 1, 3, epoch=20)
    with pytest.raises(Lost) as error:
        subscriber.take()
    assert (error.value.missing, error.value.unknown) == ([(10, DEFECT, 1, 2)], False)


def test_epochs_that_run_backwards_are_another_journal(line: Line) -> None:
    line.epoch = 500
    subscriber = followed(line)
    line.replace()
    line.epoch = 7
    subscriber.hear(line.publish(DEFECT), line.beat())
    with pytest.raises(Lost, match="journal was replaced"):
        subscriber.settle()
    assert subscriber.settle() == ids(DEFECT, 1, 1, epoch=7)


def test_a_place_in_a_journal_with_later_epochs_is_of_another(line: Line) -> None:
    line.epoch = 500
    place = followed(line).place
    line.replace()
    line.epoch = 7
    say(line, DEFECT, 1)
    with pytest.raises(Lost, match="journal was replaced"):
        followed(line, place=place)


def test_a_copy_of_the_journal_that_was_put_back_is_read_again_without_doubles(line: Line) -> None:
    subscriber = followed(line)
    subscriber.hear(*say(line, DEFECT, 4), line.beat())
    assert len(subscriber.take()) == 4
    line.book.rows, line.book.last = line.book.rows[:1], 1
    line.book.marks[10, DEFECT] = 1
    line.restart()
    line._cursors = iter(range(2, 100))  # type: ignore[assignment]
    say(line, DEFECT, 2)
    subscriber.hear(line.beat())
    with pytest.raises(Lost, match="journal was replaced"):
        subscriber.settle()
    assert subscriber.settle() == ids(DEFECT, 1, 2, epoch=20)


# ---------------------------------------------------------------- the subscriber's own restarts


def test_it_goes_on_from_its_place(line: Line) -> None:
    subscriber = followed(line)
    subscriber.hear(*say(line, DEFECT, 3))
    taken = [next(subscriber.events()).id for _ in range(2)]
    assert taken == ids(DEFECT, 1, 2)
    place = subscriber.place
    say(line, GAP, 1)
    again = followed(line, place=place)
    assert again.machine.followers[line.source].repaired == 2
    assert again.place.sources[line.source].seen == {10: {DEFECT: [(1, 3)], GAP: [(1, 1)]}}


def test_an_event_that_is_still_being_handled_can_be_left_out(line: Line) -> None:
    subscriber = followed(line)
    subscriber.hear(*say(line, DEFECT, 2))
    event = next(subscriber.events())
    assert subscriber.machine.place(without=event).sources[line.source].seen == {}
    assert subscriber.place.sources[line.source].seen == {10: {DEFECT: [(1, 1)]}}


def test_a_source_that_is_not_heard_keeps_its_place(line: Line) -> None:
    other = Line("b")
    place = followed(line, other).place
    assert set(place.sources) == {line.source, other.source}
    assert followed(line, place=place).place.sources[other.source] == place.sources[other.source]


def test_topics_may_change(line: Line) -> None:
    subscriber = followed(line, topics=["defect/"])
    subscriber.hear(*say(line, DEFECT, 2), *say(line, GAP, 2), line.beat())
    assert len(subscriber.take()) == 2
    place = subscriber.place
    say(line, GAP, 1)
    say(line, DEFECT, 1)
    more = followed(line, topics=["defect/", "gap/"], place=place)
    assert more.machine.followers[line.source].repaired == 2
    assert more.place.sources[line.source].seen == {10: {DEFECT: [(1, 3)], GAP: [(1, 3)]}}
    less = followed(line, topics=["gap/"], place=more.place)
    assert less.place.sources[line.source].seen == {10: {GAP: [(1, 3)]}}


@pytest.mark.parametrize(("data", "why"), [(b"{", "not a subscriber's place"), (b'{"version": 2}', "version 2")])
def test_what_is_no_place_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Place.of(data)


# ---------------------------------------------------------------- several daemons


def test_each_daemon_is_followed_for_itself() -> None:
    lines = [Line("a"), Line("b")]
    subscriber = followed(*lines)
    for number, line in enumerate(lines):
        say(line, f"defect/v1/{line.name}/c/1/", 2)
        subscriber.hear(line.publish(f"defect/v1/{line.name}/c/1/"), link=number)
    assert len(subscriber.settle()) == 6
    assert list(subscriber.machine.followers) == ["/inspector/a", "/inspector/b"]


# ---------------------------------------------------------------- two daemons with one name


def strange(line: Line) -> Line:
    """Another daemon that calls itself the same."""
    other = Line(line.name)
    other.book.id = "another journal"
    return other


@pytest.mark.parametrize("epoch", [5, 10, 15])
@pytest.mark.parametrize("first", [0, 1])
def test_two_daemons_with_one_name_are_told(line: Line, epoch: int, first: int) -> None:
    other = strange(line)
    other.epoch = epoch
    pair = (line, other) if first == 0 else (other, line)
    subscriber = Subscriber(line, line)  # two addresses
    told: list[str] = []
    for _ in range(10):
        for link, each in enumerate(pair):
            subscriber.hear(each.publish(DEFECT), each.beat(), link=link)
            try:
                assert all(event.epoch == pair[0].epoch for event in subscriber.events())
            except StreamError as error:
                told.append(str(error))
        subscriber.now += 1
    both = r"/inspector/a \(tcp://127\.0\.0\.1:1 and tcp://127\.0\.0\.1:2\): give each line its own line\.name"
    assert [bool(re.match(f"two daemons call themselves {both}", text)) for text in told] == [True], told
    assert subscriber.place.sources[line.source].seen[pair[0].epoch] == {DEFECT: [(1, 10)]}, "one is followed"


def test_two_with_copies_of_one_journal_are_told_too(line: Line) -> None:
    other = strange(line)
    other.book.id, other.epoch = line.book.id, line.epoch - 5
    subscriber = Subscriber(line, line)
    with pytest.raises(StreamError, match="two daemons call themselves"):  # noqa: PT012
        for _ in range(4):
            subscriber.hear(line.beat())
            subscriber.hear(other.beat(), link=1)
            subscriber.take()


def test_it_is_told_again_and_the_other_never_taken_for_the_first(line: Line) -> None:
    other, told = strange(line), 0
    subscriber = Subscriber(line, line)
    for turn in range(200):
        if turn < 10:  # then the first one ends
            subscriber.hear(line.beat())
        subscriber.hear(other.beat(), link=1)
        try:
            assert subscriber.take() == []
        except StreamError as error:
            told += 1
            assert "two daemons" in str(error)  # noqa: PT017
        subscriber.now += 1
    assert told == 4


def test_one_daemon_at_two_addresses_is_one(line: Line) -> None:
    subscriber = Subscriber(line, line)
    for turn in range(30):
        if turn % 10 == 9:
            line.restart()
        messages = [line.publish(DEFECT), line.beat()]
        for link in (turn % 2, 1 - turn % 2):  # now the one is ahead, now the other
            subscriber.hear(*messages, link=link)
            subscriber.settle()
    assert subscriber.place.sources[line.source].seen == {line.epoch: {DEFECT: [(1, line.high_water[DEFECT])]}}


def test_what_only_the_second_address_brings_is_taken_too(line: Line) -> None:
    subscriber = Subscriber(line, line)
    for link in (0, 1):
        subscriber.hear(line.beat(), link=link)
    subscriber.hear(line.publish(DEFECT), link=1)
    assert subscriber.take() == ids(DEFECT, 1, 1)


def test_a_new_journal_is_no_second_daemon_wherever_it_is_heard_first(line: Line) -> None:
    subscriber = Subscriber(line, line)
    subscriber.hear(line.beat())
    for _ in range(5):
        line.replace()
        beat = line.beat()
        for link in (1, 1, 1, 0, 1):
            subscriber.hear(beat, link=link)
        with pytest.raises(Lost, match="journal was replaced"):
            subscriber.settle()
        assert subscriber.settle() == []


def test_what_an_ended_run_had_said_before_is_no_second_daemon(line: Line) -> None:
    subscriber = Subscriber(line, line)
    subscriber.hear(beat_at(line, 0))
    subscriber.hear(beat_at(line, 0), link=1)
    late = [beat_at(line, second) for second in range(1, 6)]
    line.restart()
    for second, message in enumerate(late, 10):
        subscriber.hear(beat_at(line, second))
        subscriber.hear(message, link=1)
        assert subscriber.settle() == []


def test_a_daemon_that_has_moved_to_the_other_address_is_followed_there(line: Line) -> None:
    subscriber = Subscriber(line, line)
    subscriber.hear(line.beat())
    line.restart()
    subscriber.hear(line.publish(DEFECT), line.beat(), link=1)
    assert subscriber.settle() == ids(DEFECT, 1, 1, epoch=20), "at once, if it is the same journal"
    line.replace()
    message = line.beat()
    subscriber.hear(message)
    assert subscriber.settle() == [], "it may be another daemon"
    subscriber.now += 10
    say(line, DEFECT, 1)
    subscriber.hear(line.beat())
    with pytest.raises(Lost, match="journal was replaced"):
        subscriber.settle()
    assert subscriber.settle() == ids(DEFECT, 1, 1, epoch=30)


# ---------------------------------------------------------------- a history that does not answer


def test_a_history_that_does_not_answer_is_told(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    subscriber = followed(line)
    say(line, DEFECT, 1)
    subscriber.hear(line.beat())
    subscriber.take()
    start = subscriber.now
    for _ in range(3):
        subscriber.machine.requests(subscriber.now)
        subscriber.now += subscriber.machine.wait_s(subscriber.now)
        subscriber.hear(line.beat())
        assert subscriber.take() == []
    assert subscriber.now - start == 10 + 20 + 40
    subscriber.machine.requests(subscriber.now)
    with pytest.raises(Refused, match=r"does not answer.*inspector keys"):
        subscriber.take()
    assert len(caplog.records) == 3
    assert subscriber.settle() == []


def test_a_dead_daemon_is_waited_for(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    subscriber = followed(line)
    say(line, DEFECT, 1)
    subscriber.hear(line.beat())
    subscriber.take()
    for _ in range(1000):
        assert len(subscriber.machine.requests(subscriber.now)) == 1
        subscriber.now += subscriber.machine.wait_s(subscriber.now)
    assert subscriber.settle() == ids(DEFECT, 1, 1)
    assert not caplog.records


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"answer": "error", "error": "too many"}, "too many"),
        ({"answer": "events", "source": "/inspector/b"}, "answers for '/inspector/b'"),
    ],
)
def test_the_words_of_a_refusal_are_handed_on(line: Line, answer: dict[str, object], why: str) -> None:
    subscriber = followed(line)
    say(line, DEFECT, 1)
    subscriber.hear(line.beat())
    subscriber.take()
    (request,) = subscriber.machine.requests(subscriber.now)
    answer["id"] = json.loads(request.body)["id"]
    subscriber.machine.answer(line.source, [json.dumps(answer).encode()], subscriber.now)
    with pytest.raises(Refused, match=why):
        subscriber.take()
    assert subscriber.ask() == 0, "not at once again"
    subscriber.now += 10
    assert subscriber.settle() == ids(DEFECT, 1, 1)


def test_nonsense_from_the_history_is_ignored(line: Line) -> None:
    subscriber = followed(line)
    say(line, DEFECT, 1)
    subscriber.hear(line.beat())
    subscriber.take()
    subscriber.machine.requests(subscriber.now)
    for parts in ([b""], [b"\xff"], [b"[]"], [b'{"answer": "events", "id": "x"}']):
        subscriber.machine.answer(line.source, parts, subscriber.now)
    assert subscriber.settle() == []
    subscriber.now += 10
    assert subscriber.settle() == ids(DEFECT, 1, 1)


# ---------------------------------------------------------------- versions


def altered(message: Message, **changes: object) -> Message:
    event = json.loads(message[1])
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (event[part] if part else event)[name] = value
    return message[0], json.dumps(event).encode()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataschema": "urn:inspector:schema:event:v2"}, "schema is 'urn:inspector:schema:event:v2'"),
        ({"type": "inspector.state.v2"}, r"type 'inspector\.state\.v2'"),
        ({"data": {"kind": "state", "part": 5}}, "does not have the form"),
        ({"id": 5}, "does not have the form"),
        ({"data": {"kind": "new"}, "dataschema": "urn:inspector:schema:event:v2"}, "schema is"),
    ],
)
def test_an_event_of_another_form_is_named(line: Line, changes: dict[str, object], why: str) -> None:
    subscriber = followed(line)
    subscriber.hear(altered(line.publish(DEFECT), **changes), line.publish(DEFECT))
    with pytest.raises(StreamError, match=rf"10/defect/v1/a/c/1/1\b.*{why}"):
        subscriber.take()
    assert subscriber.take() == ids(DEFECT, 2, 2), "it is taken as known"
    subscriber.hear(line.beat())
    assert subscriber.settle() == []


def test_so_are_heartbeats_of_another_form(line: Line) -> None:
    subscriber = Subscriber(line)
    subscriber.hear(altered(line.beat(), dataschema="urn:inspector:schema:event:v2"))
    with pytest.raises(StreamError, match="heartbeat/v1/a/1"):
        subscriber.take()


def test_what_a_later_version_1_adds_is_fine(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    subscriber = followed(line)
    subscriber.hear(
        altered(line.publish(DEFECT), traceparent="x", data__added=[1]),
        altered(line.publish(DEFECT), data={"kind": "weather"}, type="inspector.weather.v1"),
        altered(line.publish(DEFECT), data={"kind": "weather"}, type="inspector.weather.v1"),
        line.publish(DEFECT),
        line.beat(),
    )
    assert subscriber.settle() == ids(DEFECT, 1, 1) + ids(DEFECT, 4, 4)
    assert [record.message for record in caplog.records if "'weather'" in record.message], "said once"
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "parts", [[], [b"x"], [b"a/", b"{}", b"{}"], [b"a/", b"{}"], [b"a/", b"\xff"], [b"a/", b"[[["]]
)
def test_what_is_no_event_is_told(line: Line, parts: list[bytes]) -> None:
    subscriber = followed(line)
    subscriber.machine.hear(0, parts, 0)
    with pytest.raises(StreamError, match=r"tcp://127\.0\.0\.1:1: a message"):
        subscriber.take()
    assert subscriber.take() == []


def test_a_reason_that_a_later_version_1_adds_is_handed_on(line: Line) -> None:
    subscriber = followed(line)
    golden = json.loads((Path(__file__).parents[1] / "golden" / "gap.json").read_bytes())
    data = {**golden["data"], "reason": "eclipse"}
    subscriber.hear(altered(line.publish(GAP), data=data, type="inspector.gap.v1"))
    (event,) = subscriber.events()
    assert isinstance(event.data, Gap)
    assert event.data.reason == "eclipse"
    assert json.loads(as_json(event))["data"] == data


def test_an_event_keeps_the_bytes_that_were_published(line: Line) -> None:
    subscriber = followed(line)
    topic, body = altered(line.publish(DEFECT), traceparent="x", data__added=[1])
    subscriber.hear((topic, body))
    (event,) = subscriber.events()
    assert event.body == body
    assert b"traceparent" not in as_json(event)


def test_a_message_under_another_topic_is_told(line: Line) -> None:
    subscriber = followed(line)
    subscriber.hear((b"gap/", line.publish(DEFECT)[1]))
    with pytest.raises(StreamError, match="under the topic"):
        subscriber.take()


# ---------------------------------------------------------------- lag and silence


def beat_at(line: Line, second: float) -> Message:
    return line.beat(time=(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).isoformat())


def test_who_hears_late_is_told_once(line: Line) -> None:
    subscriber = followed(line, max_lag_s=60)
    for second in range(5):
        subscriber.hear(beat_at(line, second))
        assert subscriber.take() == []
        subscriber.now += 1
    subscriber.now = 1066.0
    subscriber.hear(beat_at(line, 5))
    with pytest.raises(Lagging, match="61 s behind"):
        subscriber.take()
    assert subscriber.machine.followers[line.source].lag.seconds == 61
    subscriber.hear(beat_at(line, 5.5))
    assert subscriber.take() == [], "it was told"
    subscriber.hear(beat_at(line, 66))
    assert subscriber.machine.followers[line.source].lag.seconds == 0
    subscriber.now = 1200.0
    subscriber.hear(beat_at(line, 67))
    with pytest.raises(Lagging):
        subscriber.take()


def test_reading_the_past_is_no_lag_but_falling_behind_in_it_is(line: Line) -> None:
    line.pages = 1
    subscriber = followed(line, max_lag_s=60)
    say(line, DEFECT, 3)
    subscriber.hear(line.beat())
    subscriber.take()
    for number in range(1, 4):
        subscriber.ask()
        assert next(subscriber.events()).id == ids(DEFECT, number, number)[0]
        say(line, DEFECT, 1)
        subscriber.now += 100
        if number < 3:
            assert subscriber.take() == [], "what was there when the repair began is the past"
    with pytest.raises(Lagging, match="300 s behind"):
        subscriber.take()


def test_a_heartbeat_that_waited_for_a_repair_is_no_lag(line: Line) -> None:
    subscriber = followed(line, max_lag_s=60)
    say(line, DEFECT, 1)
    subscriber.hear(beat_at(line, 0))
    subscriber.take()
    subscriber.ask()
    subscriber.now += 1000
    assert subscriber.take() == ids(DEFECT, 1, 1)
    subscriber.now += 10
    subscriber.hear(beat_at(line, 30))
    assert subscriber.take() == []
    assert subscriber.machine.followers[line.source].lag.seconds == 10
    subscriber.now += 60
    subscriber.hear(beat_at(line, 31))
    with pytest.raises(Lagging, match="70 s behind"):
        subscriber.take()


def test_silence_is_logged_once_and_its_end(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    subscriber = followed(line)
    for _ in range(20):
        subscriber.machine.quiet(0, subscriber.now)
        subscriber.now += 1
    assert [record.message[:40] for record in caplog.records] == ["tcp://127.0.0.1:1: no heartbeat for 5 s:"]
    subscriber.hear(line.beat())
    assert "is back after 20 s" in caplog.records[-1].message
    assert subscriber.take() == []


def test_silence_is_raised_if_asked_for(line: Line) -> None:
    subscriber = followed(line, silence_s=30)
    told = 0
    for _ in range(100):
        subscriber.now += 1
        subscriber.machine.quiet(0, subscriber.now)
        try:
            subscriber.take()
        except Silent as error:
            told += 1
            assert f"{30 * told} s" in str(error)  # noqa: PT017
    assert told == 3
