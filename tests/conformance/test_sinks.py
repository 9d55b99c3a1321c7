"""The contract of every sink in inspector/sinks, against the real thing: files, and sockets on loopback."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import zmq

from inspector import adapters
from inspector.errors import ConfigError, SinkError
from inspector.events import Event, State
from inspector.sinks import Sink, jsonl, zeromq
from tests.greeting import greet

PATIENCE_MS = 10_000
"""A test that waits this long for something has failed."""


def event(number: int, source: str = "/test", size: int = 10) -> Event:
    return Event(
        id=str(number),
        source=source,
        type="inspector.state.v1",
        time="2026-01-01T00:00:00Z",
        subject="state/v1/test/",
        dataschema="",
        epoch=1,
        sequence=number,
        data=State(part="part", state="up", detail="x" * size),
    )


def decoded(line: bytes) -> Event:
    return msgspec.json.decode(line, type=Event)


Read = Callable[[int], list[Event]]


class Destination(Protocol):
    """Where a sink of one kind delivers, seen from the receiving end."""

    kind: str
    options: Any

    def receiver(self, sink: Any) -> AbstractContextManager[Read]:
        """A receiver that gets all from now on; called with a number it returns that many events, and any more."""

    def jam(self) -> AbstractContextManager[Sink]:
        """An entered sink whose destination takes nothing any more; every event is refused."""

    def broken(self) -> AbstractContextManager[Any]:
        """Options of a destination that cannot be had, and stays so within the context."""


class Lines:
    kind = "jsonl"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.options = jsonl.Options(path=folder / "events.jsonl")

    @contextmanager
    def receiver(self, sink: jsonl.Jsonl) -> Iterator[Read]:
        with self.options.path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            yield lambda count: [decoded(line) for line in file.read().splitlines()]

    @contextmanager
    def jam(self) -> Iterator[Sink]:
        with jsonl.open(jsonl.Options(path=Path("/dev/full"))) as sink:
            yield sink

    @contextmanager
    def broken(self) -> Iterator[jsonl.Options]:
        yield jsonl.Options(path=self._folder / "missing" / "events.jsonl")


class Subscribers:
    kind = "zeromq"

    def __init__(self, address: str) -> None:
        self._address = address
        self.options = zeromq.Options(address=address)

    @contextmanager
    def receiver(self, sink: zeromq.Zeromq) -> Iterator[Read]:
        with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
            subscriber.linger = 0
            subscriber.connect(sink.endpoint)
            subscriber.subscribe("state/")
            greet(subscriber, lambda number: sink.send([event(number, "/greeting")]))
            yield lambda count: received(subscriber, count)

    @contextmanager
    def jam(self) -> Iterator[Sink]:
        options = msgspec.structs.replace(self.options, high_water_mark=1, patience_ms=0, linger_ms=0)
        with zeromq.open(options) as sink, zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
            subscriber.linger = 0
            subscriber.rcvhwm = 1
            subscriber.rcvbuf = 4096
            subscriber.connect(sink.endpoint)
            subscriber.subscribe("state/")
            greet(subscriber, lambda number: sink.send([event(number, "/greeting")]))
            fill(sink, subscriber)
            yield sink

    @contextmanager
    def broken(self) -> Iterator[zeromq.Options]:
        with zeromq.open(self.options) as holder:
            yield zeromq.Options(address=holder.endpoint)


def fill(sink: Sink, subscriber: zmq.Socket[bytes]) -> None:
    """Publish until the connection is full, and not only ahead of libzmq's own thread for a moment."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as quiet:
        refused_in_a_row = 0
        for _ in range(PATIENCE_MS):
            refused = sink.send([event(1, "/filler", size=100_000)])
            refused_in_a_row = refused_in_a_row + 1 if refused else 0
            if refused_in_a_row == 50:
                return
            if refused:
                quiet.poll(20)  # longer in all than a busy machine keeps libzmq's threads from their turn
    pytest.fail("the connection never filled up")


def received(subscriber: zmq.Socket[bytes], count: int) -> list[Event]:
    events: list[Event] = []
    while subscriber.poll(PATIENCE_MS if len(events) < count else 20):
        topic, body = subscriber.recv_multipart()
        got = decoded(body)
        assert topic.decode() == got.subject
        if got.source != "/greeting":  # it may come again, as its topic's last value
            events.append(got)
    return events


@pytest.fixture(params=["jsonl", "zeromq-tcp", "zeromq-ipc"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    match request.param:
        case "jsonl":
            return Lines(tmp_path)
        case "zeromq-tcp":
            return Subscribers("tcp://127.0.0.1:*")
        case _:
            return Subscribers(f"ipc://{tmp_path}/events")


def opened(destination: Destination, options: Any = None) -> Any:
    return adapters.module("sinks", destination.kind, "sinks[0]").open(options or destination.options)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_every_sink_is_held_to_the_contract() -> None:
    assert adapters.kinds("sinks") == sorted({Lines.kind, Subscribers.kind})


@pytest.mark.parametrize("kind", adapters.kinds("sinks"))
def test_an_unknown_option_is_refused_by_name(kind: str) -> None:
    adapter = adapters.module("sinks", kind, "sinks[0]")
    with pytest.raises(ConfigError, match=r"sinks\[0\]\.options.*unknown key `adress`"):
        adapters.options(adapter, {"adress": 1}, "sinks[0].options")


def test_order_is_kept_and_nothing_comes_twice(destination: Destination) -> None:
    events = [event(number) for number in range(1, 501)]
    with opened(destination) as sink, destination.receiver(sink) as read:
        for first, last in ((0, 1), (1, 1), (1, 400), (400, 500)):
            assert sink.send(events[first:last]) == 0
        assert read(len(events)) == events


def test_many_events_in_one_call_arrive_as_they_were(destination: Destination) -> None:
    events = [event(number, size=number % 3000) for number in range(1, 1001)]
    with opened(destination) as sink, destination.receiver(sink) as read:
        assert sink.send(events) == 0
        assert read(len(events)) == events


def test_tending_in_between_changes_nothing(destination: Destination) -> None:
    events = [event(number) for number in range(1, 51)]
    with opened(destination) as sink, destination.receiver(sink) as read:
        for one in events:
            sink.tend()
            assert sink.send([one]) == 0
            sink.tend()
        assert read(len(events)) == events


def test_what_is_refused_is_counted(destination: Destination) -> None:
    with destination.jam() as sink:
        assert sink.send([event(1)]) == 1
        assert sink.send([event(number) for number in range(2, 7)]) == 5
        assert sink.send([]) == 0


def test_entered_again_it_goes_on(destination: Destination) -> None:
    sink = opened(destination)
    for number in (1, 2, 3):
        with sink, destination.receiver(sink) as read:
            assert sink.send([event(number)]) == 0
            assert read(1) == [event(number)]


def test_exit_gives_everything_back(destination: Destination) -> None:
    sink = opened(destination)
    with sink, destination.receiver(sink):
        pass
    files, threads = open_files(), threading.active_count()
    for _ in range(3):
        with sink, destination.receiver(sink):
            sink.send([event(1)])
    assert (open_files(), threading.active_count()) == (files, threads)


def test_opening_acquires_nothing_so_any_thread_may_enter(destination: Destination) -> None:
    files = open_files()
    sink = opened(destination)
    assert open_files() == files
    outcome: list[object] = []

    def work() -> None:
        with sink, destination.receiver(sink) as read:
            outcome.append(sink.send([event(1)]))
            outcome.extend(read(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE_MS / 1000)
    assert outcome == [0, event(1)]


def test_outside_with_it_takes_nothing(destination: Destination) -> None:
    sink = opened(destination)
    with pytest.raises(SinkError, match="with"):
        sink.send([event(1)])
    with sink:
        pass
    with pytest.raises(SinkError, match="with"):
        sink.send([event(1)])


def test_check_finds_nothing_wrong_and_changes_nothing(destination: Destination, tmp_path: Path) -> None:
    adapters.module("sinks", destination.kind, "sinks[0]").check(destination.options)
    assert list(tmp_path.iterdir()) == []
    with opened(destination):
        pass


def test_a_broken_destination_is_named_by_check_and_on_enter(destination: Destination) -> None:
    files = open_files()
    with destination.broken() as options:
        where = str(getattr(options, "path", None) or options.address)
        with pytest.raises(ConfigError) as refused:
            adapters.module("sinks", destination.kind, "sinks[0]").check(options)
        assert where in str(refused.value)
        with pytest.raises(SinkError) as failed, opened(destination, options):
            pass
        assert where in str(failed.value)
    assert open_files() == files
