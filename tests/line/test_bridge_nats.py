"""`inspector bridge nats` against the real nats-server, killed and started again: every event is there exactly once."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zmq
import zmq.auth

from inspector.bridge import naming
from inspector.bridge import nats as adapter
from inspector.bridge.window import Window
from inspector.events import State, as_json
from inspector.journal import read_bodies
from tests.conftest import Start
from tests.line import lines
from tests.line.bridges import Process, Server, bridge, nats_server, until
from tests.streaming import Line, Newer, Served

nats = pytest.importorskip("nats", reason="needs nats-py: pip install 'inspector[nats]'")

T = TypeVar("T")
TOPICS = ("defect/v1/a/top/1/", "gap/v1/a/top/", "coil/v1/a/")
KILLS = 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with nats_server(tmp_path) as running:
        yield running


@pytest.fixture
def line() -> Iterator[Served]:
    plant = Line(keep=10**6)
    plant.pages = 500
    with Served(plant, "tcp://127.0.0.1:*", "tcp://127.0.0.1:*") as served:
        yield served


def forwarding(folder: Path, server: Server, line: Served, *more: str) -> Process:
    return bridge(folder, "nats", line.events, "--server", f"nats://127.0.0.1:{server.port}", *more)


# ---------------------------------------------------------------- what the stream holds


def asked(server: Server, question: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """What `question(connection)` finds out."""

    async def ask() -> T:
        connection = await nats.connect(f"nats://127.0.0.1:{server.port}")
        try:
            return await question(connection)
        finally:
            await connection.close()

    return asyncio.run(ask())


def count(server: Server) -> int:
    """Messages in the stream; 0 while there is none."""

    async def question(connection: Any) -> int:
        try:
            return int((await connection.jetstream().stream_info("inspector")).state.messages)
        except (nats.js.errors.Error, nats.errors.Error):
            return 0

    return asked(server, question)


def messages(server: Server) -> list[Any]:
    """Everything in the stream, in order, as a consumer gets it."""

    async def question(connection: Any) -> list[Any]:
        stream = connection.jetstream()
        last = (await stream.stream_info("inspector")).state.messages
        subscription = await stream.subscribe("inspector.>", ordered_consumer=True)
        return [await subscription.next_msg(timeout=10) for _ in range(last)]

    return asked(server, question)


def bodies(server: Server) -> list[bytes]:
    return [message.data for message in messages(server)]


def published(line: Served) -> list[bytes]:
    return [event.body for event in line.line.published]


def exactly_once(server: Server, line: Served) -> bool:
    """Every event, once, and nothing else; in any order."""
    found, wanted = bodies(server), published(line)
    assert len(found) == len(set(found))
    return sorted(found) == sorted(wanted)


def say(line: Served, events: int, dice: random.Random) -> None:
    for _ in range(events):
        line.say(dice.choice(TOPICS))


# ---------------------------------------------------------------- forwarding


def test_events_arrive_as_they_were_published(tmp_path: Path, server: Server, line: Served) -> None:
    line.say("defect/v1/a/top left/3/", 2)
    with forwarding(tmp_path, server, line) as process:
        until(lambda: count(server) == 2, lambda: process.said)
        line.say("gap/v1/a/top/")
        until(lambda: count(server) == 3, lambda: process.said)
        assert process.stop() == 0
    first, second, third = messages(server)
    assert [message.data for message in (first, second, third)] == published(line)
    assert first.subject == second.subject == "inspector.defect.v1.a.top%20left.3"
    assert third.subject == "inspector.gap.v1.a.top"
    assert first.headers["Nats-Msg-Id"] == "/inspector/a#10/defect/v1/a/top%20left/3/1"
    assert first.headers["Content-Type"] == "application/cloudevents+json"


def test_what_a_newer_daemon_adds_goes_on(tmp_path: Path, server: Server) -> None:
    with (
        Served(Newer(), "tcp://127.0.0.1:*", "tcp://127.0.0.1:*") as line,
        forwarding(tmp_path, server, line) as process,
    ):
        line.mute("gap/v1/a/top/")
        line.say("gap/v1/a/top/")
        until(lambda: count(server) == 2, lambda: process.said)
        assert process.stop() == 0
        assert bodies(server) == published(line)
    assert all(b'"traceparent": "x"' in body for body in bodies(server))


def test_it_goes_on_where_it_was(tmp_path: Path, server: Server, line: Served) -> None:
    for turn in range(3):
        line.say("gap/v1/a/top/", 10)
        with forwarding(tmp_path, server, line) as process:
            until(lambda turn=turn: count(server) == 10 * (turn + 1), lambda: process.said)
            assert process.stop() == 0
        assert "already" not in process.said  # the place was enough: nothing was to be looked up
    assert bodies(server) == published(line)


def test_only_some_topics(tmp_path: Path, server: Server, line: Served) -> None:
    with forwarding(tmp_path, server, line, "--topic", "gap/") as process:
        line.say("defect/v1/a/top/1/", 5)
        line.say("gap/v1/a/top/", 5)
        until(lambda: count(server) == 5, lambda: process.said)
    assert {message.subject for message in messages(server)} == {"inspector.gap.v1.a.top"}


def test_two_bridges_never_share_a_place(tmp_path: Path, server: Server, line: Served) -> None:
    with forwarding(tmp_path, server, line) as process:
        until(lambda: "stream inspector is new" in process.said, lambda: process.said)
        with bridge(tmp_path, "nats", line.events) as second:
            assert second.wait() == 78
        assert "another bridge keeps its place there" in process.said  # they write one log
        assert process.stop() == 0


def test_a_daemon_that_asks_for_a_key(tmp_path: Path, server: Server) -> None:
    public, secret = zmq.curve_keypair()
    zmq.auth.create_certificates(tmp_path, "us")

    def secure(socket: zmq.Socket[bytes]) -> None:
        socket.curve_server, socket.curve_secretkey = True, secret

    keys = ["--keys", str(tmp_path / "us.key_secret"), "--server-key", public.decode()]
    with (
        Served(Line(), "tcp://127.0.0.1:*", "tcp://127.0.0.1:*", secure) as line,
        forwarding(tmp_path, server, line, *keys) as process,
    ):
        line.say("gap/v1/a/top/", 3)
        until(lambda: count(server) == 3, lambda: process.said)
        assert process.stop() == 0


def test_a_loss_is_published(tmp_path: Path, server: Server, line: Served) -> None:
    with forwarding(tmp_path, server, line) as process:
        line.say("gap/v1/a/top/")
        until(lambda: count(server) == 1, lambda: process.said)
        with line.lock:
            line.line.publish("gap/v1/a/top/")
            line.line.book.retire(2)
        line.say("gap/v1/a/top/")
        until(lambda: count(server) == 3, lambda: process.said)
        assert process.stop() == 0
    (lost,) = [message for message in messages(server) if message.subject == "inspector.bridge.lost"]
    assert b'"missing":[[10,"gap/v1/a/top/",2,2]]' in lost.data
    assert "1 event(s) lost for good" in process.said


# ---------------------------------------------------------------- kills


def test_nats_server_is_killed(tmp_path: Path, server: Server, line: Served) -> None:
    dice = random.Random(6)
    with forwarding(tmp_path, server, line) as process:
        for _ in range(KILLS):
            before = count(server)
            say(line, 2000, dice)
            until(lambda before=before: count(server) > before + 50, lambda: process.said)
            server.kill()
            say(line, 200, dice)
            server.start()
        until(lambda: count(server) == len(line.line.published), lambda: process.said)
        assert process.stop() == 0
    assert exactly_once(server, line)


def test_the_bridge_is_killed(tmp_path: Path, server: Server, line: Served) -> None:
    dice = random.Random(7)
    for _ in range(KILLS):
        with forwarding(tmp_path, server, line) as process:
            before = count(server)
            say(line, 2000, dice)
            until(lambda before=before: count(server) > before + 50, lambda: process.said)
            process.kill()
    with forwarding(tmp_path, server, line) as process:
        until(lambda: count(server) >= len(line.line.published), lambda: process.said)
        assert process.stop() == 0
    assert exactly_once(server, line)


def test_the_daemon_is_killed(tmp_path: Path, server: Server, line: Served) -> None:
    dice = random.Random(8)
    with forwarding(tmp_path, server, line) as process:
        for _ in range(KILLS):
            say(line, 100, dice)
            with line.lock:
                line.line.restart()
        say(line, 10, dice)
        until(lambda: count(server) == len(line.line.published), lambda: process.said)
    assert exactly_once(server, line)


def test_the_broker_comes_later(tmp_path: Path, server: Server, line: Served) -> None:
    server.kill()
    with forwarding(tmp_path, server, line) as process:
        line.say("gap/v1/a/top/", 2000)
        until(lambda: "events wait" in process.said, lambda: process.said)
        server.start()
        until(lambda: count(server) == 2000, lambda: process.said)
        assert process.stop() == 0
    assert bodies(server) == published(line)


def test_it_ends_while_the_broker_is_down(tmp_path: Path, server: Server, line: Served) -> None:
    with forwarding(tmp_path, server, line) as process:
        line.say("gap/v1/a/top/", 5)
        until(lambda: count(server) == 5, lambda: process.said)
        server.kill()
        line.say("gap/v1/a/top/", 5)
        until(lambda: "events wait" in process.said, lambda: process.said)
        assert process.stop() == 0
    server.start()
    with forwarding(tmp_path, server, line) as process:
        until(lambda: count(server) == 10, lambda: process.said)
    assert exactly_once(server, line)


# ---------------------------------------------------------------- beyond the duplicate window


def test_nothing_is_doubled_after_the_duplicate_window(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a bridge sent and was killed before its place said so, sent again when JetStream has forgotten its ids."""
    monkeypatch.setattr(adapter, "WINDOW_S", 0.1)
    monkeypatch.setattr(adapter, "LEAST_WINDOW_S", 0.0)
    options = adapter.Options([f"nats://127.0.0.1:{server.port}"], mark=tmp_path / "mark")
    forward(options, range(10), settle_at=4)
    asked(server, forgotten)
    forward(options, range(5, 7), settle_at=None)  # a short life, which reads little of what it must look at
    asked(server, forgotten)
    forward(options, range(5, 20), settle_at=None)
    found = [message.data for message in messages(server) if message.subject.endswith(".gap")]
    assert found == [str(number).encode() for number in range(20)]


def test_a_stream_that_was_emptied(tmp_path: Path, server: Server) -> None:
    options = adapter.Options([f"nats://127.0.0.1:{server.port}"], mark=tmp_path / "mark")
    forward(options, range(10), settle_at=None)
    asked(server, lambda connection: connection.jetstream().purge_stream("inspector"))
    forward(options, range(10, 15), settle_at=None)
    assert bodies(server) == [str(number).encode() for number in range(10, 15)]


class Watched(adapter.JetStream):
    """Says when it has looked at what the stream holds."""

    def __init__(self, options: adapter.Options, window: Window) -> None:
        super().__init__(options, window)
        self.looked = asyncio.Event()

    async def _reconcile(self, client: Any, info: Any) -> None:
        await super()._reconcile(client, info)
        self.looked.set()


def forward(options: adapter.Options, numbers: range, settle_at: int | None) -> None:
    """One life of a bridge; its place is stored as soon as it is connected, and after the event `settle_at`."""

    async def live() -> None:
        window = Window(1000)
        broker = Watched(options, window)
        task = asyncio.ensure_future(broker.run())
        await asyncio.wait_for(broker.looked.wait(), 30)
        broker.settle(broker.mark())
        for number in numbers:
            window.put("gap/", naming.key("test", str(number)), str(number).encode())
            if number == settle_at:
                await window.reached(window.last)
                broker.settle(broker.mark())
        await asyncio.wait_for(window.reached(window.last), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(live())


async def forgotten(connection: Any) -> None:
    """Until the ids of before count as new: a probe, sent again and again, is taken a second time."""
    stream, probe, taken = connection.jetstream(), {"Nats-Msg-Id": uuid.uuid4().hex}, 0
    while taken < 2:
        sent = await stream.publish("inspector.probe", b"", headers=probe)
        taken += not sent.duplicate


# ---------------------------------------------------------------- settings and streams that will not do


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--server", "127.0.0.1:4222"], "--server '127.0.0.1:4222'"),
        (["--creds", "nowhere.creds"], "nowhere.creds" if importlib.util.find_spec("nkeys") else "inspector[nats]"),
        (["--tls-ca", "nowhere.pem"], "--tls-ca nowhere.pem"),
        (["--stream", "a.b"], "--stream 'a.b'"),
        (["--subject-prefix", "a.>"], "--subject-prefix"),
    ],
)
def test_settings_that_will_not_do(tmp_path: Path, line: Served, arguments: list[str], word: str) -> None:
    with bridge(tmp_path, "nats", line.events, *arguments) as process:
        assert process.wait() == 78
        assert word in process.said


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"subjects": ["other.>"]}, "takes other.>, not inspector.>"),
        ({"subjects": ["inspector.>"], "duplicate_window": 5.0}, "its duplicate window of 5 s is too short"),
        ({"subjects": ["inspector.>"], "no_ack": True}, "gives no acknowledgements"),
        ({"subjects": ["inspector.>"], "max_msg_size": 1000}, "takes messages of 1000 bytes at most"),
    ],
)
def test_a_stream_that_will_not_do(
    tmp_path: Path, server: Server, line: Served, settings: dict[str, Any], word: str
) -> None:
    asked(server, lambda connection: connection.jetstream().add_stream(name="inspector", **settings))
    with forwarding(tmp_path, server, line) as process:
        assert process.wait() == 78
        assert word in process.said


def test_a_stream_that_will_do_is_taken(tmp_path: Path, server: Server, line: Served) -> None:
    asked(
        server,
        lambda connection: connection.jetstream().add_stream(name="inspector", subjects=["other", "inspector.>"]),
    )
    with forwarding(tmp_path, server, line) as process:
        line.say("gap/v1/a/top/")
        until(lambda: count(server) == 1, lambda: process.said)


def test_an_event_that_is_too_large_is_told(tmp_path: Path, line: Served) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("max_payload: 1500\n")
    with nats_server(tmp_path, "-c", config) as server, forwarding(tmp_path, server, line) as process:
        until(lambda: count(server) == 0 and "forwarding" in process.said, lambda: process.said)
        line.say("gap/v1/a/top/", data=State(part="a", state="up", detail="x" * 2000))
        line.say("gap/v1/a/top/")
        until(lambda: count(server) == 2, lambda: process.said)
        told, other = messages(server)
    assert told.subject == "inspector.bridge.lost"
    assert b"more than the broker takes" in told.data
    assert other.subject == "inspector.gap.v1.a.top"


def test_so_is_one_that_is_too_large_for_the_stream(tmp_path: Path, server: Server, line: Served) -> None:
    """`nats stream edit --max-msg-size` while the bridge runs, too."""
    asked(
        server,
        lambda connection: connection.jetstream().add_stream(
            name="inspector", subjects=["inspector.>"], max_msg_size=8000
        ),
    )
    with forwarding(tmp_path, server, line) as process:
        for limit, size in ((8000, 9000), (5000, 6000)):
            asked(server, lambda connection, limit=limit: _limit(connection, limit))
            before = count(server)
            line.say("gap/v1/a/top/", data=State(part="a", state="up", detail="x" * size))
            line.say("gap/v1/a/top/")
            until(lambda before=before: count(server) == before + 2, lambda: process.said)
        assert process.stop() == 0
    told = [message for message in messages(server) if message.subject == "inspector.bridge.lost"]
    assert len(told) == 2
    assert all(b"more than the broker takes" in message.data for message in told)
    assert [json.loads(body)["sequence"] for body in bodies(server) if b'"gap/v1/a/top/"' in body] == [2, 4]


async def _limit(connection: Any, limit: int) -> None:
    stream = connection.jetstream()
    config = (await stream.stream_info("inspector")).config
    await stream.update_stream(config.evolve(max_msg_size=limit))


def test_without_jetstream_it_waits(tmp_path: Path, line: Served) -> None:
    with nats_server(tmp_path) as server:
        server._arguments = [each for each in server._arguments if each != "-js"]
        server.again()
        with forwarding(tmp_path, server, line) as process:
            until(lambda: "no JetStream" in process.said, lambda: process.said)
            assert process.stop() == 0


def test_a_server_that_wants_a_name(tmp_path: Path, line: Served) -> None:
    (tmp_path / "password").write_text("open sesame\n")
    with nats_server(tmp_path, "--user", "plant", "--pass", "open sesame") as server:
        with forwarding(tmp_path, server, line) as process:
            assert process.wait() == 78
            assert "give --creds, or --user and --password-file" in process.said
        known = ["--user", "plant", "--password-file", str(tmp_path / "password")]
        with forwarding(tmp_path, server, line, *known) as process:
            until(lambda: "stream inspector is new" in process.said, lambda: process.said)
            assert process.stop() == 0


# ---------------------------------------------------------------- a long coil


class LongLine(Line):
    """Finds a page without looking through the whole book."""

    def answer(self, request: bytes) -> list[bytes]:
        asked = json.loads(request)
        rows = self.book.rows
        page = rows[asked["after"] : asked["after"] + asked["limit"]]  # cursors are 1, 2, 3 ...
        done = asked["after"] + len(page) == len(rows)
        head = {
            "answer": "events",
            "id": asked["id"],
            "source": self.source,
            "journal": {"id": self.book.id, "last": self.book.last, "retired": 0},
            "upto": asked["after"] + len(page),
            "done": done,
        }
        if done:
            head["marks"] = [[epoch, topic, last] for (epoch, topic), last in self.book.marks.items()]
        return [json.dumps(head).encode(), *(as_json(event) for _, event in page)]


@pytest.mark.soak
@pytest.mark.parametrize("kills", [0, 20])
def test_two_hundred_thousand_events(tmp_path: Path, server: Server, kills: int) -> None:
    """Events of about 0.5 kB; `-s` shows how fast."""
    dice, events = random.Random(9), 200_000
    with Served(LongLine(keep=10**6), "tcp://127.0.0.1:*", "tcp://127.0.0.1:*") as line:
        with line.lock:
            for number in range(events):
                line.line.publish(TOPICS[number % 3], State(part="a", state="up", detail="x" * 120))
        size = len(as_json(line.line.published[0]))
        with forwarding(tmp_path, server, line) as process:
            begun = time.monotonic()
            for kill in range(kills):
                at = events * (kill + dice.random()) / kills
                until(lambda at=at: count(server) > at, lambda: process.said)
                server.again()
            until(lambda: count(server) >= events, lambda: process.said)
            took = time.monotonic() - begun
            assert process.stop() == 0
        assert exactly_once(server, line)
    print(f"{events} events of {size} bytes in {took:.1f} s, {kills} kills: {events / took:.0f} a second")


# ---------------------------------------------------------------- behind the daemon itself


def test_a_daemon_that_is_killed(tmp_path: Path, server: Server, pack: Path, start: Start, ipc: str) -> None:
    """Its journal and the stream hold the same, byte for byte, each event once."""
    journal = tmp_path / "j.db"
    sections: dict[str, Any] = {
        "sinks": [{"kind": "zeromq", "options": {"address": ipc}}],
        "history": {"address": f"{ipc}-history"},
    }
    config = lines.config(pack, journal, lines.filmed(frames_hz=30), **sections)
    address = ["nats", ipc, "--server", f"nats://127.0.0.1:{server.port}"]
    with bridge(tmp_path, *address) as process:
        for turn in range(3):
            daemon = start(config).ready()
            before = count(server)
            daemon.until(lambda before=before: count(server) > before + 20, f"events in the stream: {process.said}")
            if turn < 2:
                daemon.kill()
        assert daemon.stop() == 0
        kept = [body for _, body in read_bodies(journal)]
        daemon = start(config).ready()  # what the last run said at its end comes from the journal
        until(lambda: set(kept) <= set(bodies(server)), lambda: process.said)
        assert daemon.stop() == 0
        assert process.stop() == 0
    found = bodies(server)
    assert len(found) == len(set(found))
    assert set(kept) <= set(found) <= {body for _, body in read_bodies(journal)}
