"""The client against the daemon's own journal, history socket and publisher, with kills of the run in between."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from inspector.client import Place, subscribe
from inspector.config import HistoryConfig
from inspector.errors import JournalError, Lost
from inspector.events import CoilEvent, Event, Heartbeat
from inspector.history import History
from inspector.journal import Journal
from inspector.metrics import Metrics
from inspector.records import Draft, Graded
from inspector.sinks import zeromq
from tests.journals import coil, full_disk, gap, start

SOURCE = "urn:test"
GAP = "gap/v1/hot/a/"
PATIENCE_S = 60.0


class Run:
    """One run of a line: its journal, and its sockets."""

    def __init__(self, journal: Journal, sink: zeromq.Zeromq, history: History) -> None:
        self.journal = journal
        self.sink = sink
        self.history = history
        self.published: list[str] = []

    def publish(self, count: int, heard: bool = True) -> None:
        events = self.journal.append([Graded(drafts=[gap() for _ in range(count)])])
        self.journal.commit({"a": 0, "b": 0})
        self.published += [event.id for event in events]
        if heard:
            self.sink.send(events)

    def say(self, draft: Draft) -> None:
        self.sink.send(self.journal.append([Graded(drafts=[draft])]))
        self.journal.commit({"a": 0, "b": 0})

    def beat(self) -> None:
        data = Heartbeat(
            state="running",
            coil="",
            high_water=self.journal.high_water(),
            cameras={},
            undelivered={},
            journal=self.journal.mark(),
            history=self.history.endpoint,
        )
        self.sink.send([self.journal.identify(Draft("heartbeat/v1/hot/", time.time_ns(), data))])


@contextmanager
def running(folder: Path, path: str = "journal.db") -> Iterator[Run]:
    """It is killed at the end: nothing is closed in order."""
    stop = threading.Event()
    with ExitStack() as held:
        journal = start(folder / path, clock=time.time_ns)
        held.callback(journal._leave)
        options = zeromq.Options(address=f"ipc://{folder}/e", linger_ms=0)
        sink = held.enter_context(zeromq.open(options))
        config = HistoryConfig(address=f"ipc://{folder}/h")
        history = History(folder / path, SOURCE, journal.epoch, config, Metrics(process=False))
        history.open()
        serving = threading.Thread(target=history.serve, args=(stop,))
        serving.start()
        held.callback(serving.join)
        held.callback(stop.set)
        yield Run(journal, sink, history)


@contextmanager
def beating(run: Run) -> Iterator[None]:
    """A heartbeat every few milliseconds while the block runs; nothing else may use the run meanwhile."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.01):
            run.beat()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_every_event_once_over_kills_of_the_line_and_of_the_subscriber(tmp_path: Path) -> None:
    published: list[str] = []
    store: list[str] = []
    place: Place | None = None
    for turn in range(4):
        with running(tmp_path) as run:
            run.publish(30, heard=turn % 2 == 0)
            with (
                beating(run),
                subscribe(
                    f"ipc://{tmp_path}/e", since="beginning", place=place, silence_s=PATIENCE_S, topics=["gap/"]
                ) as subscription,
            ):
                for event in itertools.islice(subscription, 25):
                    store.append(event.id)
                    place = Place.of(bytes(subscription.place))
            published += run.published
    with running(tmp_path) as run:
        run.say(coil())
        run.publish(1500, heard=False)
        published += run.published
        with (
            beating(run),
            subscribe(f"ipc://{tmp_path}/e", place=place, silence_s=PATIENCE_S, topics=["gap/"]) as subscription,
        ):
            while len(store) < len(published):
                store.append(next(subscription).id)
    assert store == published


def test_retired_coils_are_named_as_lost(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.publish(3)
        with beating(run), subscribe(f"ipc://{tmp_path}/e", since="beginning") as subscription:
            assert [next(subscription).sequence for _ in range(3)] == [1, 2, 3]
            place = subscription.place
        for name in ("one", "two"):
            run.say(coil(name))
            run.publish(10)
            run.say(coil(name, "end"))
        run.say(coil("three"))
        while run.journal.retire(time.time_ns(), 1, None, limit=5):
            pass
        with beating(run), subscribe(f"ipc://{tmp_path}/e", place=place) as subscription:
            kept: list[Event] = []
            with pytest.raises(Lost) as error:
                kept.extend(subscription)
        missing = [(topic, first, last) for _, topic, first, last in error.value.missing]
        assert (GAP, 4, 23) in missing
        coils = {event.sequence for event in kept if isinstance(event.data, CoilEvent)}
        for topic, first, last in missing:
            coils |= set(range(first, last + 1)) if topic == "coil/v1/hot/" else set()
        assert coils == {1, 2, 3, 4, 5}, "each of them came or was named"


def test_another_journal_is_told(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.publish(3)
        with beating(run), subscribe(f"ipc://{tmp_path}/e", since="beginning", topics=["gap/"]) as subscription:
            next(subscription)
            place = subscription.place
    with running(tmp_path, "other.db") as run:
        run.publish(2)
        with beating(run), subscribe(f"ipc://{tmp_path}/e", place=place, topics=["gap/"]) as subscription:
            with pytest.raises(Lost, match="journal was replaced"):
                next(subscription)
            assert [next(subscription).id for _ in range(2)] == run.published


def test_the_bodies_are_what_was_published(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.publish(1)
        with beating(run), subscribe(f"ipc://{tmp_path}/e", since="beginning") as subscription:
            event = next(subscription)
        assert msgspec.json.decode(event.body, type=Event) == event


def test_what_a_full_disk_and_a_kill_took_is_named_to_who_was_away(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.publish(3)
        with beating(run), subscribe(f"ipc://{tmp_path}/e", since="beginning", topics=["gap/"]) as subscription:
            assert [next(subscription).sequence for _ in range(3)] == [1, 2, 3]
            place = subscription.place
        with full_disk(tmp_path / "journal.db"):
            for _ in range(5):
                run.sink.send(run.journal.append([Graded(drafts=[gap()])]))
                with pytest.raises(JournalError, match="the disk"):
                    run.journal.commit({"a": 0, "b": 0})
        killed = run.journal.epoch
    with running(tmp_path) as run:
        run.publish(2)
        with (
            beating(run),
            subscribe(f"ipc://{tmp_path}/e", place=place, topics=["gap/"], heartbeats=True) as subscription,
        ):
            kept: list[Event] = []
            with pytest.raises(Lost) as error:
                kept.extend(itertools.islice(subscription, 100))
            assert error.value.missing == [(killed, GAP, 4, 8)]
            assert not error.value.unknown
            kept.extend(itertools.islice(subscription, 100))
        assert [event.id for event in kept if event.subject == GAP] == run.published
