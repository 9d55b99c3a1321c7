"""The zeromq sink: what one subscriber does costs neither the others nor the line, and is counted."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq

from inspector.errors import ConfigError, SinkError
from inspector.events import Event, State
from inspector.sinks import _backlog, _subscriptions, zeromq
from inspector.wire import keys
from tests.greeting import greet

LOOPBACK = "tcp://127.0.0.1:*"
PATIENCE_MS = 10_000
"""A test that waits this long for something has failed."""
BIG = 100_000
"""Bytes in an event that fill a connection's buffers within a few dozen."""


def event(number: int, topic: str = "state/v1/test/", size: int = 10) -> Event:
    return Event(
        id=str(number),
        source="/test",
        type="inspector.state.v1",
        time="2026-01-01T00:00:00Z",
        subject=topic,
        dataschema="",
        epoch=1,
        sequence=number,
        data=State(part="part", state="up", detail="x" * size),
    )


def sequence(message: list[bytes]) -> int:
    return msgspec.json.decode(message[1], type=Event).sequence


@contextmanager
def publishing(**options: object) -> Iterator[zeromq.Zeromq]:
    settings = {"address": LOOPBACK, "linger_ms": 0, **options}
    with zeromq.open(msgspec.convert(settings, zeromq.Options)) as sink:
        yield sink


@contextmanager
def subscribed(sink: zeromq.Zeromq, *topics: str, endpoint: str = "", queue: int = 0) -> Iterator[zmq.Socket[bytes]]:
    """A subscriber that has been heard: it gets everything from here on. `queue` 0: it can hold all."""
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.linger = 0
        subscriber.rcvhwm = queue
        subscriber.sndhwm = 0  # libzmq's SUB forgets subscriptions beyond it
        if queue:
            subscriber.rcvbuf = 4096
        subscriber.ipv6 = True
        subscriber.connect(endpoint or sink.endpoint)
        for topic in [*topics, f"hello/{id(subscriber)}/"]:
            subscriber.subscribe(topic)
        greet(subscriber, lambda number: sink.send([event(number, f"hello/{id(subscriber)}/")]))
        yield subscriber


def received(subscriber: zmq.Socket[bytes], count: int) -> list[int]:
    """That many events, and any more; not the greeting, which may come again as its topic's last value."""
    numbers: list[int] = []
    while subscriber.poll(PATIENCE_MS if len(numbers) < count else 20):
        message = subscriber.recv_multipart()
        if not message[0].startswith(b"hello/"):
            numbers.append(sequence(message))
    return numbers


def until(sink: zeromq.Zeromq, condition: Callable[[], bool]) -> bool:
    """Let the sink live, 10 ms at a time, until the condition holds."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as quiet:
        return any(condition() or quiet.poll(10) or sink.tend() for _ in range(PATIENCE_MS // 10))


# ---------------------------------------------------------------- one slow, one fast


@pytest.mark.parametrize("address", [LOOPBACK, "ipc"])
def test_one_that_never_reads_costs_the_others_nothing_and_is_counted(address: str, tmp_path: Path) -> None:
    place = f"ipc://{tmp_path}/events" if address == "ipc" else address
    with (
        publishing(address=place, high_water_mark=20, patience_ms=20) as sink,
        subscribed(sink, "state/", queue=1) as stalled,
        subscribed(sink, "state/") as fast,
    ):
        refused, got = [], []
        for number in range(1, 401):
            refused.append(sink.send([event(number, size=BIG)]))
            got += received_now(fast, number)
        assert got == list(range(1, 401))
        first = refused.index(1)
        assert refused == [0] * first + [1] * (400 - first), "from the first miss on every event counts"
        kept = received(stalled, first)
        assert kept[:first] == list(range(1, first + 1)), "what came before was kept for it"
        assert 400 - len(kept) <= sum(refused), "never fewer counted than were missed"


def received_now(subscriber: zmq.Socket[bytes], last: int) -> list[int]:
    """Everything up to the event `last`, which must come."""
    numbers: list[int] = []
    while last not in numbers:
        assert subscriber.poll(PATIENCE_MS), f"event {last} never came"
        numbers.append(sequence(subscriber.recv_multipart()))
    return numbers


def stall(sink: zeromq.Zeromq) -> int:
    """Publish until something is refused; returns how many events that took."""
    return next(number for number in range(1, 5000) if sink.send([event(number, size=BIG)]))


def test_the_count_ends_when_the_slow_one_has_caught_up() -> None:
    with publishing(high_water_mark=20, patience_ms=0) as sink, subscribed(sink, "state/", queue=1) as slow:
        sent = stall(sink)
        # The last one may have got there all the same: room came between the offer and the send that drops.
        assert received(slow, sent - 1) in (list(range(1, sent)), list(range(1, sent + 1)))
        assert until(sink, lambda: sink.send([event(0, "nobody/")]) == 0)
        assert sink.send([event(9)]) == 0
        assert received(slow, 1) == [9]


def test_the_count_ends_when_the_slow_one_has_gone() -> None:
    with publishing(high_water_mark=20, patience_ms=0) as sink:
        with subscribed(sink, "state/", queue=1):
            stall(sink)
            assert sink.connections == 1
        assert until(sink, lambda: sink.connections == 0)
        # libzmq tells of the end a moment before it takes the full pipe away: one more event may count as missed.
        assert until(sink, lambda: sink.send([event(1)]) == 0)
        assert sink.send([event(2)]) == 0


@pytest.mark.parametrize("address", [LOOPBACK, "ipc"])
def test_one_that_takes_nothing_is_cut_off(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backlog, "STALLED_S", 0.3)
    place = f"ipc://{tmp_path}/events" if address == "ipc" else address
    with (
        publishing(address=place, high_water_mark=20, patience_ms=0) as sink,
        subscribed(sink, "state/", queue=1) as stalled,
    ):
        stall(sink)
        sink.tend()
        assert sink.connections == 1
        assert until(sink, lambda: sink.connections == 0)
        assert until(sink, lambda: sink.send([event(1)]) == 0)
        assert sink.send([event(2)]) == 0
        assert len(received(stalled, 1)) > 0, "it still has what was on its way"


def test_a_burst_that_outruns_the_pipe_waits_and_loses_nothing() -> None:
    count = 5000
    with (
        publishing(high_water_mark=100, patience_ms=1000) as sink,
        subscribed(sink, "state/", queue=100) as subscriber,
    ):
        got: list[int] = []
        reader = threading.Thread(target=lambda: got.extend(received(subscriber, count)))
        reader.start()
        assert sink.send([event(number, size=1000) for number in range(count)]) == 0
        reader.join(PATIENCE_MS / 1000)
        assert got == list(range(count))


# ---------------------------------------------------------------- subscriptions


def test_topics_are_prefixes() -> None:
    topics = ["defect/v1/l/a/1/", "defect/v1/l/a/2/", "defect/v1/l/ab/1/", "gap/v1/l/a/"]
    with publishing() as sink, subscribed(sink, "defect/v1/l/a/") as some, subscribed(sink, "") as everything:
        assert sink.send([event(number, topic) for number, topic in enumerate(topics)]) == 0
        assert received(some, 2) == [0, 1]
        assert received(everything, 4) == [0, 1, 2, 3]


def test_subscription_messages_do_not_pile_up() -> None:
    with publishing() as sink, subscribed(sink, *(f"topic/{number}/" for number in range(999))):
        publisher = sink._socket
        assert publisher is not None
        assert until(sink, lambda: publisher.poll(0, zmq.POLLIN) == 0)


def test_one_who_sends_more_than_a_subscription_is_cut_off() -> None:
    with publishing() as sink, zmq.Context() as context, context.socket(zmq.XSUB) as stranger:
        stranger.linger = 0
        stranger.reconnect_ivl = -1
        stranger.connect(sink.endpoint)
        assert until(sink, lambda: sink.connections == 1)
        stranger.send(b"\x01" + b"x" * (_subscriptions.LONGEST_SUBSCRIPTION + 1))
        assert until(sink, lambda: sink.connections == 0)
        assert sink.turned_away == {"no subscription, or too long a one": 1}


def test_a_new_subscriber_gets_the_last_state_as_it_was() -> None:
    with publishing() as sink, subscribed(sink, "state/") as before:
        for number, part in enumerate(("camera a", "journal", "camera a"), start=1):
            sink.send([msgspec.structs.replace(event(number), data=State(part=part, state="up", detail=""))])
        kept = received_messages(before, 3)
        with subscribed(sink, "state/") as late:
            assert until(sink, lambda: late.poll(0))
            assert received_messages(late, 2) == kept[1:]
            assert received_messages(before, 2) == kept[1:], "doubles, for others to drop"


def received_messages(subscriber: zmq.Socket[bytes], count: int) -> list[list[bytes]]:
    """As they came, but for greetings."""
    messages: list[list[bytes]] = []
    while len(messages) < count:
        assert subscriber.poll(PATIENCE_MS)
        message = subscriber.recv_multipart()
        if not message[0].startswith(b"hello/"):
            messages.append(message)
    return messages


def test_without_subscribers_nothing_is_refused() -> None:
    with publishing(high_water_mark=1) as sink:
        assert sink.send([event(number) for number in range(1000)]) == 0


# ---------------------------------------------------------------- where it binds


def test_several_addresses_publish_the_same(tmp_path: Path) -> None:
    with publishing(address=[LOOPBACK, f"ipc://{tmp_path}/events"]) as sink:
        assert len(sink.endpoints) == 2
        with (
            subscribed(sink, "state/", endpoint=sink.endpoints[0]) as one,
            subscribed(sink, "state/", endpoint=sink.endpoints[1]) as other,
        ):
            sink.send([event(1), event(2)])
            assert received(one, 2) == received(other, 2) == [1, 2]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:*", "tcp://localhost:*", "tcp://127.1.2.3:*", "tcp://[::1]:*"])
def test_loopback_is_allowed_and_the_real_address_readable(address: str) -> None:
    if "::1" in address and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this machine has no IPv6")
    zeromq.check(zeromq.Options(address=address))
    sink = zeromq.open(zeromq.Options(address=address, linger_ms=0))
    with pytest.raises(SinkError, match="not bound"):
        _ = sink.endpoint
    with sink:
        assert not sink.endpoint.endswith("*")
        with subscribed(sink, "state/") as subscriber:
            sink.send([event(1)])
            assert received(subscriber, 1) == [1]


@pytest.mark.parametrize(
    "address",
    [
        "tcp://*:5570",
        "tcp://0.0.0.0:5570",
        "tcp://[::]:5570",
        "tcp://192.0.2.7:5570",
    ],
)
def test_an_address_open_to_the_network_is_refused_without_keys(address: str) -> None:
    with pytest.raises(ConfigError, match=r"open to the network.*CURVE.*`inspector keys make DIR`.*`keys: DIR`"):
        zeromq.check(zeromq.Options(address=address))
    with pytest.raises(ConfigError, match="open to the network"), zeromq.open(zeromq.Options(address=address)):
        pass


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:5570",
        "tcp://127.0.0.1",
        "tcp://:5570",
        "udp://127.0.0.1:1",
        "inproc://x",
        "ipc://",
        "tcp://[::1:5",
    ],
)
def test_nonsense_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="neither tcp://HOST:PORT nor ipc:///PATH"):
        zeromq.check(zeromq.Options(address=address))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:0", "port must be"),
        ("tcp://127.0.0.1:65536", "port must be"),
        ("ipc:///nowhere/events", "mkdir -p /nowhere"),
        (f"ipc:///tmp/{'x' * 120}", "shorten"),
    ],
)
def test_what_cannot_be_bound_is_explained(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        zeromq.check(zeromq.Options(address=address))


def test_with_keys_a_public_address_is_bound_and_only_keys_come_in(tmp_path: Path) -> None:
    keys.make(tmp_path)
    options = zeromq.Options(address="tcp://*:*", keys=tmp_path)
    zeromq.check(options)
    with zeromq.open(options) as sink:
        assert sink.endpoint.startswith("tcp://0.0.0.0:")
    (tmp_path / "server.key_secret").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        zeromq.check(options)
    with pytest.raises(SinkError, match="chmod 600"), zeromq.open(options):
        pass


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty list"):
        zeromq.check(zeromq.Options(address=[]))


def test_a_taken_port_is_named_with_the_way_to_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}' is in use.*ss -ltnp 'sport = :{port}'"):
            zeromq.check(zeromq.Options(address=f"tcp://127.0.0.1:{port}"))


def test_a_running_daemon_keeps_its_ipc_socket(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/events"
    with publishing(address=address) as sink:
        for attempt in (zeromq.check, lambda options: zeromq.open(options).__enter__()):
            with pytest.raises((ConfigError, SinkError), match=r"is in use.*ss -lxp"):
                attempt(zeromq.Options(address=address))
        with subscribed(sink, "state/") as subscriber:
            sink.send([event(1)])
            assert received(subscriber, 1) == [1]


def test_the_socket_file_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(f"{tmp_path}/events")
    assert stat.S_ISSOCK((tmp_path / "events").stat().st_mode)
    with publishing(address=f"ipc://{tmp_path}/events") as sink, subscribed(sink, "state/") as subscriber:
        sink.send([event(1)])
        assert received(subscriber, 1) == [1]


def test_a_file_that_is_no_socket_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_text("precious")
    options = zeromq.Options(address=f"ipc://{tmp_path}/journal.db")
    with pytest.raises(ConfigError, match="is no socket"):
        zeromq.check(options)
    with pytest.raises(SinkError, match="is no socket"), zeromq.open(options):
        pass
    assert (tmp_path / "journal.db").read_text() == "precious"
