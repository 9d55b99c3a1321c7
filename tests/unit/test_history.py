"""The history socket: every page complete, every stranger survived, the rate shared."""

from __future__ import annotations

import logging
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.config import HistoryConfig
from inspector.errors import ConfigError
from inspector.events import Event, as_json
from inspector.history import FEWEST, MOST, History, check
from inspector.journal import read_bodies
from inspector.metrics import Metrics
from inspector.records import Graded
from inspector.wire import desk, keys
from inspector.wire.asking import Request
from tests.desks import Client, bare, client, is_cut, part, pour, served, stranger, suitor, until
from tests.journals import coil, gap, scratch, start
from tests.workers import free_port

LOOPBACK = "tcp://127.0.0.1:*"
SOURCE = "/inspector/hot"
TOPICS = ["gap/v1/hot/a/", "gap/v1/hot/b/", "gap/v1/hot/bb/", "coil/v1/hot/"]


@dataclass
class Archive:
    """A journal of two runs with events of several topics."""

    path: Path = field(repr=False)
    events: list[Event] = field(default_factory=list, repr=False)

    @property
    def bodies(self) -> list[bytes]:
        return [as_json(event) for event in self.events]

    def record(self, count: int) -> None:
        with start(self.path) as journal:
            for number in range(count):
                draft = coil() if number % 7 == 3 else gap(topic=TOPICS[number % 3])
                self.events += journal.append([Graded(drafts=[draft])])
                journal.commit({"a": 0, "b": 0})
            self.mark = journal.mark()
        self.cursors = [cursor for cursor, _ in read_bodies(self.path)]


@pytest.fixture(scope="module")
def archive() -> Iterator[Archive]:
    with scratch() as folder:
        made = Archive(Path(folder) / "journal.db")
        made.record(40)
        made.record(60)
        yield made


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def history(archive: Archive | Path, address: str = LOOPBACK, clock: Clock | None = None, **changed: Any) -> History:
    path = archive.path if isinstance(archive, Archive) else archive
    config = HistoryConfig(address=address, **changed)
    extra: dict[str, Any] = {} if clock is None else {"clock": clock}
    made = History(path, SOURCE, 77, config, Metrics(process=False), **extra)
    made.metrics = made._books  # type: ignore[attr-defined]
    return made


def fast(archive: Archive | Path, address: str = LOOPBACK, **changed: Any) -> History:
    return history(archive, address, **{"events_per_s": 1_000_000, **changed})


def answered(server: History, request: Any) -> tuple[dict[str, Any], list[bytes]]:
    """Without a socket."""
    body = request if isinstance(request, bytes) else msgspec.json.encode(request)
    answer = server.desk.respond(Request(body, "test"))
    return msgspec.json.decode(answer.head), list(answer.parts)


# ---------------------------------------------------------------- what is answered


def test_a_client_gets_everything_page_by_page_as_it_was_published(archive: Archive) -> None:
    with served(fast(archive)) as server, client(server) as asker:
        got: list[bytes] = []
        after, done = 0, False
        while not done:
            asker.send({"ask": "events", "id": after, "after": after, "limit": 13})
            head, bodies = asker.receive()
            assert (head["answer"], head["id"], head["source"]) == ("events", after, SOURCE)
            assert head["journal"] == msgspec.to_builtins(archive.mark)
            assert ("marks" in head) == head["done"]
            assert head["upto"] > after or head["done"]
            got, after, done = got + bodies, head["upto"], head["done"]
    assert got == archive.bodies
    assert after == archive.mark.last
    last = {(event.epoch, event.subject): event.sequence for event in archive.events}
    assert {(epoch, topic): high for epoch, topic, high in head["marks"]} == last


def test_where_the_journal_stands(archive: Archive) -> None:
    with served(fast(archive)) as server, client(server) as asker:
        assert asker.ask({"ask": "journal", "id": "x"}) == {
            "answer": "journal",
            "id": "x",
            "source": SOURCE,
            "epoch": 77,
            "journal": msgspec.to_builtins(archive.mark),
        }


PREFIXES = st.lists(
    st.sampled_from(["", "gap/", "coil/", "gap/v1/hot/b", "gap/v1/hot/b/", "gap/v1/hot/a/", "state/", "ü"]), max_size=4
)


@settings(deadline=None)
@given(after=st.integers(0, 2**63 - 1) | st.integers(0, 130), topics=PREFIXES, limit=st.integers(1, 1000))
def test_a_page_is_complete_up_to_where_it_says(archive: Archive, after: int, topics: list[str], limit: int) -> None:
    server = fast(archive)
    wanted = [
        as_json(event)
        for place, event in zip(archive.cursors, archive.events, strict=True)
        if place > after and (not topics or event.subject.startswith(tuple(topics)))
    ]
    got: list[bytes] = []
    done = False
    while not done:
        head, bodies = answered(server, {"ask": "events", "after": after, "topics": topics, "limit": limit})
        assert len(bodies) <= limit
        got, after, done = got + bodies, head["upto"], head["done"]
    assert got == wanted


def test_marks_of_one_run_only(archive: Archive) -> None:
    newest = archive.events[-1].epoch
    head, _ = answered(fast(archive), {"ask": "events", "after": 0, "limit": 1000, "epoch": newest})
    assert {epoch for epoch, _, _ in head["marks"]} == {newest}


def test_a_slow_setting_makes_small_pages_so_that_nobody_waits_long(archive: Archive) -> None:
    request = {"ask": "events", "after": 0, "limit": MOST}
    assert len(answered(history(archive, events_per_s=100), request)[1]) == FEWEST
    assert len(answered(history(archive, events_per_s=1000), request)[1]) == 50


def test_an_event_longer_than_an_answer_comes_alone(tmp_path: Path) -> None:
    big = Archive(tmp_path / "j.db")
    big.record(3)
    with start(big.path) as journal:
        for size in (1_200_000, 600_000, 600_000):
            journal.append([Graded(drafts=[coil(name="x" * size)])])
            journal.commit({"a": 0, "b": 0})
    server, after, done, pages = fast(big), 3, False, []
    while not done:
        head, bodies = answered(server, {"ask": "events", "after": after})
        pages.append(len(bodies))
        after, done = head["upto"], head["done"]
    assert pages == [1, 1, 1]


# ---------------------------------------------------------------- what is not understood

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["ask", "id", "after", "topics", "limit", "epoch"])
ALMOST = st.dictionaries(KEYS, JSON | st.sampled_from(["events", "journal", ["gap/"]]), max_size=6)
GARBAGE = st.binary(max_size=300) | JSON.map(msgspec.json.encode) | ALMOST.map(msgspec.json.encode)


@given(garbage=st.lists(GARBAGE, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_whatever_is_asked_is_answered(asker: Client, garbage: list[bytes]) -> None:
    for number, body in enumerate(garbage):
        asker.send(body)
        head, _ = asker.receive()
        assert head["answer"] in ("error", "events", "journal"), body
        assert asker.ask({"ask": "journal", "id": number})["id"] == number


@pytest.fixture(scope="module")
def asker(archive: Archive) -> Iterator[Client]:
    with served(fast(archive)) as server, client(server) as made:
        yield made


@settings(deadline=None)
@given(id_=st.integers(-(2**63), 2**63 - 1) | st.text() | st.none(), rest=ALMOST)
def test_an_id_comes_back_even_from_nonsense(archive: Archive, id_: int | str | None, rest: dict[str, Any]) -> None:
    head, _ = answered(fast(archive), {**rest, "id": id_})
    assert head["id"] == id_
    assert (head["answer"] == "error") == ("error" in head)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'"' + b"\xc3\x28" * 9 + b'"', "not"),
        (b"[" * 60_000, "not a request"),
        (b'{"ask": "journal", "x": ' + b"[" * 60_000, "not JSON"),
        ({"ask": "defects", "id": 1}, "defects"),
        ({"ask": "x" * 60_000, "id": 1}, "xxx"),
        ({"id": 1}, "ask"),
        ({"ask": "events", "id": 1}, "after"),
        ({"ask": "events", "id": 1, "after": -1}, "$.after"),
        (b'{"ask": "events", "after": 9223372036854775808}', "$.after"),
        ({"ask": "events", "id": 1, "after": 0, "limit": 0}, "$.limit"),
        ({"ask": "events", "id": 1, "after": 0, "limit": 1001}, "$.limit"),
        ({"ask": "events", "id": 1, "after": 0, "topics": "gap/"}, "$.topics"),
        ({"ask": "events", "id": 1, "after": 0, "topics": ["x"] * 1001}, "$.topics"),
        (b'{"ask": "journal", "id": 9223372036854775808}', "$.id"),
    ],
)
def test_an_error_says_what_is_wrong(archive: Archive, request_: Any, text: str) -> None:
    head, bodies = answered(fast(archive), request_)
    assert head["answer"] == "error"
    assert not head["ok"]
    assert not bodies
    assert text in head["error"]
    assert len(head["error"]) < 400


def test_unknown_keys_are_ignored(archive: Archive) -> None:
    assert answered(fast(archive), {"ask": "journal", "id": 1, "colour": {"a": [1]}})[0]["answer"] == "journal"


def test_a_request_of_two_parts_is_told_so_and_one_of_many_is_cut(archive: Archive) -> None:
    with served(fast(archive)) as server, client(server) as asker:
        asker.socket.send_multipart([b"", b'{"ask": "journal"}'])
        assert "one part, this had 2" in asker.receive()[0]["error"]
        with stranger(server) as peer:
            peer.sendall(part(b"x", more=True) * 20 + part(b"x"))
            assert is_cut(peer)
        assert asker.ask({"ask": "journal", "id": 2})["id"] == 2


def test_one_who_sends_too_much_is_cut(archive: Archive) -> None:
    with served(fast(archive)) as server:
        with stranger(server) as peer:
            with suppress(ConnectionError):  # cut already, before all was sent
                peer.sendall(part(b"x" * (desk.LONGEST_REQUEST + 1000)))
            assert is_cut(peer)
        with client(server) as asker:
            assert asker.ask(b'{"ask": "journal", "id": 3}' + b" " * 65_000)["id"] == 3


def test_a_message_without_an_end_is_cut_before_it_fills_the_memory(archive: Archive) -> None:
    """libzmq would keep the parts for ever: no mark and no limit of its own counts them."""
    with served(fast(archive)) as server, stranger(server) as peer, client(server) as asker:
        assert pour(peer, part(b"", more=True) * 1000, most=2**30) < 2**30
        assert asker.ask({"ask": "journal", "id": 4})["id"] == 4


COMMAND = st.builds(
    lambda name, rest: bytes([4, len(name + rest)]) + name + rest,
    st.sampled_from([b"\x04PING", b"\x04PONG", b"\x05READY", b"\x09SUBSCRIBE", b"\x06CANCEL", b"\x05ERROR", b"x"]),
    st.binary(max_size=80),
)
WORDS = st.lists(
    st.builds(part, st.binary(max_size=300), st.booleans())
    | COMMAND
    | st.builds(lambda flags, rest: bytes([flags]) + rest, st.integers(0, 255), st.binary(max_size=40))
    | st.just(b"\x02" + b"\xff" * 8)
    | st.just(b"\x00\x00"),
    max_size=8,
).map(b"".join)


@given(words=WORDS, greeted=st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_bytes_come_the_others_are_served(asker: Client, words: bytes, greeted: bool) -> None:
    with stranger(asker) if greeted else bare(asker) as peer:
        with suppress(OSError):  # it may be cut already
            peer.sendall(words)
            peer.shutdown(socket.SHUT_WR)
        assert is_cut(peer)
    assert asker.ask({"ask": "journal", "id": 1})["id"] == 1


SQUATTING = """
import struct, sys
from pathlib import Path
from inspector.config import HistoryConfig
from inspector.history import History
from inspector.journal import read_bodies
from inspector.metrics import Metrics
from tests.desks import client, served, stranger

first = 0x6B8B4567
server = History(Path(sys.argv[1]), "/x", 1, HistoryConfig(address="tcp://127.0.0.1:*"), Metrics(process=False))
with served(server):
    for number in range(first, first + 8):
        stranger(server, Identity=b"\\0" + struct.pack(">I", number)).__enter__()
    for number in range(8):
        with client(server) as asker:
            assert asker.ask({"ask": "journal", "id": number})["id"] == number
print("alive")
"""


def test_nobody_takes_the_name_that_libzmq_has_for_the_next_client(archive: Archive) -> None:
    """It aborts the process when somebody does; so this runs in one of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SQUATTING, str(archive.path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "alive\n", done.stderr


# ---------------------------------------------------------------- nobody holds anything


def test_one_that_never_reads_loses_its_answers_and_holds_nobody(tmp_path: Path) -> None:
    big = Archive(tmp_path / "j.db")
    with start(big.path) as journal:
        journal.append([Graded(drafts=[coil(name="x" * 900_000)])])
        journal.commit({"a": 0, "b": 0})
    server = fast(big)
    unsent = server.metrics._unsent
    with served(server), client(server, rcvhwm=1, rcvbuf=4096) as deaf, client(server) as asker:
        for number in range(60):
            deaf.send({"ask": "events", "id": number, "after": 0})
        numbers = iter(range(10_000))
        assert until(lambda: count(unsent) > 0, lambda: asker.ask({"ask": "journal", "id": next(numbers)}))
        assert asker.ask({"ask": "journal", "id": "still"})["id"] == "still"
        got = [deaf.receive()[0]["id"] for _ in range(2)]
        assert got == [0, 1], "what was sent is whole and in order"


def count(series: Any) -> float:
    return float(next(iter(series.collect())).samples[0].value)


def test_one_who_asks_ahead_and_reads_gets_every_answer(archive: Archive) -> None:
    with served(fast(archive)) as server, client(server) as asker:
        for number in range(300):
            asker.send({"ask": "journal", "id": number})
        assert [asker.receive()[0]["id"] for _ in range(300)] == list(range(300))


def test_one_who_goes_without_waiting_is_no_trouble(archive: Archive) -> None:
    with served(fast(archive)) as server, client(server) as asker:
        for number in range(20):
            with client(server) as hasty:
                hasty.ask({"ask": "journal"})
                for _ in range(50):
                    hasty.send({"ask": "events", "after": 0})
            assert asker.ask({"ask": "journal", "id": number})["id"] == number


# ---------------------------------------------------------------- the rate

RATE = 1000
"""Events a second: a page of 50 then costs 75 tokens."""
COST = 75.0


def test_two_clients_share_the_rate_page_by_page(archive: Archive) -> None:
    clock = Clock()
    server = history(archive, clock=clock, events_per_s=RATE)
    server.open()
    try:
        with client(server) as greedy, client(server) as modest:
            for number in range(40):
                greedy.send({"ask": "events", "id": number, "after": 0})
            for number in range(4):
                modest.send({"ask": "events", "id": number, "after": 0})
            got = {greedy: 0, modest: 0}
            assert turned(server, lambda: received(got) == 1), "the bucket is full at first"
            while got[modest] < 4:
                for _ in range(2):
                    server.desk.turn()
                before = received(got)
                clock.now += COST / RATE
                assert turned(server, lambda before=before: received(got) > before)
                for _ in range(2):
                    server.desk.turn()
                assert received(got) == before + 1, "exactly what the time has paid for"
            assert got[greedy] <= 20, "the modest one did not wait behind the other's 40"
            assert count(server.metrics._waits) > 0
    finally:
        server.close()


def received(got: dict[Any, int]) -> int:
    for asker in got:
        while asker.socket.poll(5):
            asker.receive()
            got[asker] += 1
    return sum(got.values())


def turned(server: History, condition: Any) -> bool:
    return until(condition, server.desk.turn)


def test_requests_that_pile_up_while_they_wait_are_bounded(archive: Archive) -> None:
    server = history(archive, clock=Clock(), events_per_s=100)
    server.open()
    try:
        with stranger(server) as peer:
            peer.setblocking(False)
            words = part(msgspec.json.encode({"ask": "events", "after": 0})) * 100
            sent = 0
            with suppress(ConnectionError, BlockingIOError):
                while sent < 2**30:
                    sent += peer.send(words)
                    server.desk.turn()
            assert turned(server, lambda: count(server.metrics._turned_away) > 0)
            assert sent < 2**24
    finally:
        server.close()


def test_asking_for_nothing_costs_too(archive: Archive) -> None:
    clock = Clock()
    server = history(archive, clock=clock, events_per_s=RATE)
    server.open()
    try:
        with client(server) as asker:
            for _ in range(50):
                asker.send({"ask": "events", "after": 10**9, "epoch": 10**15})
            got = {asker: 0}
            assert turned(server, lambda: received(got) == 3), "a full bucket is worth some"
            for _ in range(10):
                server.desk.turn()
            assert received(got) == 3
    finally:
        server.close()


# ---------------------------------------------------------------- trouble with the journal


def test_a_journal_that_cannot_be_read_is_an_answer_and_not_the_end(
    archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "journal.db", Clock()
    ask = {"ask": "events", "id": 5, "after": 0}
    with served(fast(path, clock=clock)) as server, client(server) as asker, caplog.at_level(logging.ERROR):
        for _ in range(3):
            head = asker.ask(ask)
            assert (head["answer"], head["id"], head["ok"]) == ("error", 5, False)
            assert str(path) in head["error"]
            assert asker.ask({"ask": "journal", "id": 6})["answer"] == "error"
            clock.now += 1
        assert len(caplog.records) == 1, "a line a minute at most"
        clock.now += 60
        asker.ask(ask)
        assert len(caplog.records) == 2
        path.write_bytes(archive.path.read_bytes())
        clock.now += 1
        assert asker.ask(ask)["answer"] == "events"


def test_a_bug_is_an_answer_and_not_the_end(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(History):
        def _events(self, ask: Any) -> Any:
            raise ZeroDivisionError("secret")

    config = HistoryConfig(address=LOOPBACK)
    with served(Broken(archive.path, SOURCE, 1, config, Metrics(process=False))) as server, client(server) as asker:
        head = asker.ask({"ask": "events", "id": 7, "after": 0})
        assert (head["answer"], head["id"], head["error"]) == ("error", 7, "failed: ZeroDivisionError")
        assert asker.ask({"ask": "journal", "id": 8})["id"] == 8
    assert "history: a request failed" in caplog.text


# ---------------------------------------------------------------- who is let in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    keys.make(made)
    keys.add(made, "report", ("events",))
    keys.add(made, "plc", ("control",))
    return made


def test_a_client_with_the_role_is_served_and_no_other(archive: Archive, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    keys.make(other)
    keys.add(other, "report", ("events",))
    public = folder / "server.key"
    with served(fast(archive, keys=folder)) as server:
        with client(server, folder / "clients" / "report.key_secret", public) as asker:
            assert asker.ask({"ask": "journal", "id": 1})["id"] == 1
        for secret in (folder / "clients" / "plc.key_secret", other / "clients" / "report.key_secret"):
            with suitor(server, secret, public) as refused:
                assert refused.fate() == zmq.EVENT_HANDSHAKE_FAILED_AUTH
        with suitor(server) as keyless:
            assert keyless.fate() != zmq.EVENT_HANDSHAKE_SUCCEEDED
        with client(server, folder / "clients" / "report.key_secret", public) as asker:
            assert asker.ask({"ask": "journal", "id": 2})["id"] == 2


def test_strangers_are_counted(archive: Archive) -> None:
    server = fast(archive)
    with served(server), client(server) as asker:
        with stranger(server) as peer:
            peer.sendall(part(b"x", more=True) * 20 + part(b"x"))
            assert is_cut(peer)
        asker.ask({"ask": "nonsense"})
        assert asker.ask({"ask": "journal"})["answer"] == "journal"
        assert until(lambda: count(server.metrics._turned_away) > 0, lambda: asker.ask({"ask": "journal"}))
        requests = server.metrics._requests
        assert count(requests["other", "refused"]) == 1
        assert count(requests["journal", "ok"]) >= 1
        assert count(requests["events", "ok"]) == 0


# ---------------------------------------------------------------- where it binds


def test_ipc_is_for_the_user_and_the_group(archive: Archive, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/history"
    with served(fast(archive, address)) as server, client(server) as asker:
        assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o660
        assert asker.ask({"ask": "journal", "id": 1})["id"] == 1
        for attempt in (lambda: check(HistoryConfig(address=address)), history(archive, address).open):
            with pytest.raises(ConfigError, match=r"history\.address .*is in use.*ss -lxp"):
                attempt()
        assert asker.ask({"ask": "journal", "id": 2})["id"] == 2
    assert not os.path.lexists(tmp_path / "history")


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_the_socket_file_is_never_more_open_whatever_the_umask(archive: Archive, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        server = history(archive, f"ipc://{tmp_path}/history")
        server.open()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o660
    server.close()


def test_the_file_of_a_killed_daemon_is_replaced_and_another_file_never(archive: Archive, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(f"{tmp_path}/history")
    with served(fast(archive, f"ipc://{tmp_path}/history")) as server, client(server) as asker:
        assert asker.ask({"ask": "journal", "id": 1})["id"] == 1
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(ConfigError, match="is no socket"):
        history(archive, f"ipc://{tmp_path}/notes").open()
    assert (tmp_path / "notes").read_text() == "precious"


def test_closing_leaves_the_file_of_a_successor_alone(archive: Archive, tmp_path: Path) -> None:
    server = history(archive, f"ipc://{tmp_path}/history")
    server.open()
    (tmp_path / "history").unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(f"{tmp_path}/history")
        server.close()
        assert (tmp_path / "history").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://*:5571", "open to the network.*inspector keys"),
        ("tcp://192.0.2.7:5571", "open to the network"),
        ("udp://127.0.0.1:1", "neither tcp"),
        ("ipc:///nowhere/history", "mkdir -p /nowhere"),
    ],
)
def test_an_address_that_will_not_do_is_named(archive: Archive, address: str, message: str) -> None:
    for attempt in (lambda: check(HistoryConfig(address=address)), history(archive, address).open):
        with pytest.raises(ConfigError, match=rf"history\.address .*{message}"):
            attempt()


def test_a_taken_port_is_named(archive: Archive) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"history\.address .*{port}' is in use"):
            check(HistoryConfig(address=f"tcp://127.0.0.1:{port}"))


def test_keys_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"inspector keys make"):
        check(HistoryConfig(address=LOOPBACK, keys=tmp_path / "none"))


def test_with_keys_it_may_be_public(folder: Path) -> None:
    check(HistoryConfig(address="tcp://*:*", keys=folder))


def test_check_lets_go_and_close_may_be_called_twice(archive: Archive) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    check(HistoryConfig(address=address))
    for _ in range(2):
        server = history(archive, address)
        server.open()
        assert server.endpoint == address
        server.close()
        server.close()
