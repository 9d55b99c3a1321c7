"""`subscribe` over real sockets: iterators, places in files, keys, and what it needs to be imported."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import zmq
import zmq.auth

import inspector
from inspector.client import Place, Subscription, sockets, subscribe
from inspector.client.address import reachable
from inspector.client.subscription import LONGEST_TOPIC, MOST_TOPICS
from inspector.errors import ConfigError, Lost, Refused, Silent
from inspector.events import Event, Heartbeat
from inspector.sinks import zeromq
from inspector.sinks._subscriptions import Subscriptions
from inspector.wire import keys
from inspector.wire.guard import Peer
from tests.streaming import Line, Served

DEFECT = "defect/v1/a/c/1/"
GAP = "gap/v1/a/c/"
PATIENCE_S = 60.0
ANY = "tcp://127.0.0.1:*"


@pytest.fixture
def served() -> Iterator[Served]:
    with Served(Line(), ANY, ANY) as served:
        yield served


def following(served: Served, **options: object) -> Subscription:
    """All that was and will be said; ends loudly if nothing comes."""
    return subscribe(served.events, since="beginning", silence_s=PATIENCE_S, **options)  # type: ignore[arg-type]


def ids(topic: str, first: int, last: int, epoch: int = 10) -> list[str]:
    return [f"{epoch}/{topic}{sequence}" for sequence in range(first, last + 1)]


def take(subscription: Subscription, count: int) -> list[str]:
    return [event.id for event in itertools.islice(subscription, count)]


# ---------------------------------------------------------------- the stream


def test_what_is_lost_on_the_way_comes_from_the_history(served: Served) -> None:
    with following(served, topics=["defect/"]) as subscription:
        served.say(DEFECT, 2)
        served.mute(DEFECT, 3)
        served.say(DEFECT, 2)
        served.mute(DEFECT, 2)
        assert take(subscription, 9) == ids(DEFECT, 1, 9)
        assert subscription.repaired >= 5
        assert subscription.sources == ["/inspector/a"]
        assert subscription.lag_s < PATIENCE_S


def test_from_the_beginning_over_restarts(served: Served) -> None:
    served.mute(DEFECT, 7)
    with served.lock:
        served.line.restart()
    served.mute(DEFECT, 2)
    with following(served) as subscription:
        assert take(subscription, 9) == ids(DEFECT, 1, 7) + ids(DEFECT, 1, 2, epoch=20)


def test_ipc_and_heartbeats(ipc: str) -> None:
    with Served(Line(), ipc, f"{ipc}-history") as served, subscribe(served.events, heartbeats=True) as subscription:
        assert isinstance(next(subscription).data, Heartbeat)
        served.mute(DEFECT)
        assert next(event for event in subscription if event.subject == DEFECT).sequence == 1


def test_several_daemons_are_one_stream() -> None:
    topics = [f"defect/v1/{name}/c/1/" for name in "ab"]
    with Served(Line("a"), ANY, ANY) as one, Served(Line("b"), ANY, ANY) as other:
        for served, topic in zip((one, other), topics, strict=True):
            served.mute(topic, 5)
        with subscribe(one.events, other.events, since="beginning", silence_s=PATIENCE_S) as subscription:
            events = list(itertools.islice(subscription, 10))
        assert sorted(event.id for event in events) == sorted(ids(topics[0], 1, 5) + ids(topics[1], 1, 5))
        assert sorted(subscription.sources) == ["/inspector/a", "/inspector/b"]


def test_a_loss_is_raised_and_the_stream_goes_on(served: Served) -> None:
    with following(served, topics=["defect/"]) as subscription:
        served.mute(DEFECT)
        assert take(subscription, 1) == ids(DEFECT, 1, 1)
        lose(served, 4)
        with pytest.raises(Lost, match="2 to 5"):
            next(subscription)
        served.say(DEFECT)
        assert take(subscription, 1) == ids(DEFECT, 6, 6)


def lose(served: Served, count: int) -> None:
    """Events that nobody hears and the journal no longer has."""
    with served.lock:
        for _ in range(count):
            served.line.publish(DEFECT)
        served.line.book.retire(100)


def test_silence_is_raised(served: Served) -> None:
    served.quiet = True
    with subscribe(served.events, silence_s=0.05) as subscription, pytest.raises(Silent, match="no heartbeat"):
        next(subscription)


def test_it_waits_for_a_daemon_that_comes_later(ipc: str) -> None:
    with subscribe(ipc, silence_s=0.05, since="beginning") as subscription:
        with pytest.raises(Silent):
            next(subscription)
        with Served(Line(), ipc, f"{ipc}-history") as served:
            served.mute(DEFECT)
            while True:
                try:
                    assert next(subscription).id == ids(DEFECT, 1, 1)[0]
                    break
                except Silent:
                    continue


def test_a_connection_on_which_nothing_comes_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "DEAD_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as hung:
        hung.settimeout(PATIENCE_S)
        with subscribe(f"tcp://127.0.0.1:{hung.getsockname()[1]}", silence_s=0.1) as subscription:
            peers = [hung.accept()[0]]
            while len(peers) < 3:
                with pytest.raises(Silent):
                    next(subscription)
                peers.append(hung.accept()[0])
            for peer in peers:
                peer.close()


def test_its_sockets_send_no_pings() -> None:
    """With them libzmq 4.3.5 aborts the process of who reads too slowly; see sockets.DEAD_S."""
    with subscribe("tcp://127.0.0.1:9") as subscription:
        assert [each.heartbeat_ivl for each in subscription._sockets._events] == [0]


def test_after_close_there_is_nothing_more(served: Served) -> None:
    subscription = subscribe(served.events)
    subscription.close()
    subscription.close()
    assert list(subscription) == []


# ---------------------------------------------------------------- async


def test_the_same_stream_without_holding_up_a_loop(served: Served) -> None:
    async def main() -> tuple[list[str], int]:
        beats = 0

        async def tick() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.001)
                beats += 1

        ticking = asyncio.create_task(tick())
        got = []
        async with following(served) as subscription:
            served.mute(DEFECT, 400)
            async for event in subscription:
                got.append(event.id)
                if len(got) == 300:
                    served.mute(DEFECT, 10)
                if len(got) == 410:
                    break
        ticking.cancel()
        return got, beats

    got, beats = asyncio.run(main())
    assert got == ids(DEFECT, 1, 410)
    assert beats > 0


def test_an_async_wait_can_be_cancelled_and_goes_on(served: Served) -> None:
    async def main() -> list[str]:
        async with subscribe(served.events, topics=["defect/"], since="beginning") as subscription:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(subscription), 0.05)
            served.mute(DEFECT, 2)
            return [(await anext(subscription)).id for _ in range(2)]

    assert asyncio.run(main()) == ids(DEFECT, 1, 2)


def test_async_ends_with_close(served: Served) -> None:
    async def main() -> list[Event]:
        subscription = subscribe(served.events)
        subscription.close()
        return [event async for event in subscription]

    assert asyncio.run(main()) == []


# ---------------------------------------------------------------- places


def test_a_place_file_goes_on_where_the_loop_was(served: Served, tmp_path: Path) -> None:
    place = tmp_path / "place"
    served.mute(DEFECT, 5)
    with following(served, place=place) as subscription:
        assert take(subscription, 3) == ids(DEFECT, 1, 3)
    with following(served, place=place) as subscription:
        assert take(subscription, 3) == ids(DEFECT, 3, 5), "the third was still being handled"
    assert list(tmp_path.iterdir()) == [place]


def test_a_place_kept_with_the_data_makes_each_event_count_once(served: Served) -> None:
    served.mute(DEFECT, 50)
    store: list[str] = []
    kept = b""
    while len(store) < 50:
        place = Place.of(kept) if kept else None
        with following(served, place=place) as subscription:
            for event in itertools.islice(subscription, 7):
                store.append(event.id)  # together, in one transaction
                kept = bytes(subscription.place)
                if len(store) == 50:
                    break
    assert store == ids(DEFECT, 1, 50)


def test_a_loss_that_nobody_took_is_told_again(served: Served, tmp_path: Path) -> None:
    place = tmp_path / "place"
    with following(served, topics=["defect/"], place=place) as subscription:
        served.mute(DEFECT)
        assert take(subscription, 1) == ids(DEFECT, 1, 1)
        lose(served, 4)
        with pytest.raises(Lost):
            next(subscription)
    with subscribe(served.events, topics=["defect/"], place=place) as subscription, pytest.raises(Lost):
        next(subscription)


PROGRAM = """
import sys
from inspector.client import subscribe
with subscribe(sys.argv[1], place=sys.argv[2], since="beginning", silence_s=60) as events:
    for event in events:
        with open(sys.argv[3], "a") as out:
            print(event.id, file=out)
"""


def test_a_subscriber_that_is_killed_at_any_moment_misses_nothing(served: Served, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.touch()
    program = [sys.executable, "-c", PROGRAM, served.events, str(tmp_path / "place"), str(out)]
    for _ in range(5):
        before = len(lines(out))
        with subprocess.Popen(program, env=environment()) as process:
            try:
                until(lambda before=before: len(lines(out)) > before + 20, served, process)  # type: ignore[misc]
            finally:
                process.kill()
    total = len(served.line.published)
    with subscribe(served.events, place=tmp_path / "place", silence_s=PATIENCE_S) as subscription:
        got = set(lines(out))
        while len(got) < total:
            got.add(next(subscription).id)
    assert got == {event.id for event in served.line.published}


def until(condition: Callable[[], bool], served: Served, process: subprocess.Popen[bytes]) -> None:
    """Publish, some of it unheard, until it is so."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as quiet:
        for _ in range(int(PATIENCE_S * 100)):
            if condition():
                return
            assert process.poll() is None
            served.say(DEFECT)
            served.mute(GAP)
            quiet.poll(10)
    pytest.fail("the subscriber does not come on")


def lines(path: Path) -> list[str]:
    return path.read_text().split()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(inspector.__file__).parents[1])}


# ---------------------------------------------------------------- keys


def test_with_keys(tmp_path: Path) -> None:
    server, _ = zmq.auth.create_certificates(tmp_path, "server")
    zmq.auth.create_certificates(tmp_path, "me")

    def secure(server_side: zmq.Socket[bytes]) -> None:
        server_side.curve_publickey, server_side.curve_secretkey = zmq.auth.load_certificate(
            tmp_path / "server.key_secret"
        )
        server_side.curve_server = True

    text = zmq.auth.load_certificate(server)[0].decode()
    with Served(Line(), ANY, ANY, secure) as served:
        served.mute(DEFECT)
        for key in (text, tmp_path / "server.key", str(tmp_path / "server.key"), {served.events: text}):
            with following(served, keys=tmp_path / "me.key_secret", server_key=key) as subscription:
                assert take(subscription, 1) == ids(DEFECT, 1, 1)
        with (
            subscribe(served.events, silence_s=PATIENCE_S) as stranger,
            pytest.raises(Refused, match="one side uses keys and the other does not"),
        ):
            next(stranger)


def test_a_key_that_the_daemon_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.make(folder)
    keys.add(folder, "me")
    zmq.auth.create_certificates(tmp_path, "other")
    options = zeromq.Options(address=ANY, keys=folder, linger_ms=0)
    stop = threading.Event()

    def tend() -> None:
        while not stop.wait(0.01):
            sink.tend()

    with zeromq.open(options) as sink:
        tending = threading.Thread(target=tend)
        tending.start()
        try:
            with (
                subscribe(
                    sink.endpoint,
                    keys=tmp_path / "other.key_secret",
                    server_key=folder / "server.key",
                    silence_s=PATIENCE_S,
                ) as stranger,
                pytest.raises(Refused, match="does not know our key"),
            ):
                next(stranger)
        finally:
            stop.set()
            tending.join()


@pytest.mark.parametrize(
    ("keys", "server_key", "why"),
    [
        ("me.key_secret", None, "belong together"),
        (None, "server.key", "belong together"),
        ("me.key", "server.key", "no secret half"),
        ("nowhere", "server.key", "keys .*nowhere"),
        ("me.key_secret", "nowhere", "server_key nowhere"),
        ("me.key_secret", "x" * 39, "server_key xxx"),
        ("me.key_secret", {"tcp://a:1": "x" * 40}, "server_key names no key for tcp://127"),
        ("text", "server.key", "keys text"),
    ],
)
def test_keys_that_cannot_be_used(
    keys: str | None, server_key: str | dict[str, str] | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("server", "me"):
        zmq.auth.create_certificates(tmp_path, name)
    (tmp_path / "text").write_text("hello")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=why):
        subscribe("tcp://127.0.0.1:1", keys=keys, server_key=server_key)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "address",
    [
        "",
        "x",
        "tcp://*:5570",
        "tcp://0.0.0.0:5570",
        "tcp://a",
        "tcp://a:0",
        "tcp://a:99999",
        "udp://a:1",
        "ipc://",
        "ipc://x",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="neither tcp://HOST:PORT nor ipc:///PATH"):
        subscribe(address)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"topics": "defect/"}, "must be a list"),
        ({"topics": ["defect/", "x" * 257]}, r"topics: 'xxx.*257 bytes: 256 at most"),
        ({"topics": ["ä" * 129]}, "258 bytes: 256 at most"),
        ({"topics": [str(n) for n in range(1000)]}, "topics: 1000 of 2890 bytes together: 999 "),
        ({"topics": [f"{n:0256}" for n in range(256)]}, "topics: 256 of 65536 bytes together: .* 60000 at most"),
        ({"since": "then"}, "since is 'then'"),
        ({"history": ["tcp://a:1", "tcp://b:1"]}, "2 addresses for 1 daemons"),
        ({"history": "a"}, "neither tcp"),
        ({"place": "/proc/self/mem/x"}, "/proc/self/mem/x: Not a directory"),
    ],
)
def test_arguments_that_cannot_be_meant(options: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        subscribe("tcp://127.0.0.1:1", **options)  # type: ignore[arg-type]


def test_the_most_topics_that_there_may_be_are_what_a_daemon_takes(served: Served) -> None:
    """The daemon's own books of subscriptions are asked."""
    books, peer = Subscriptions(), cast(Peer, None)
    topics = ["defect/", "x" * LONGEST_TOPIC, *(str(number) for number in range(MOST_TOPICS - 2))]
    with following(served, topics=topics) as subscription:
        served.mute(DEFECT)
        assert take(subscription, 1) == ids(DEFECT, 1, 1)
    for topic in [*topics, "heartbeat/"]:
        assert books.book(peer, b"\1" + topic.encode()) is None
    assert books.book(peer, b"\1one more") is not None


def test_an_address_is_needed() -> None:
    with pytest.raises(ConfigError, match="needs the address"):
        subscribe()


def test_a_place_that_cannot_be_written_is_told(served: Served, tmp_path: Path) -> None:
    served.mute(DEFECT)
    with (
        pytest.raises(ConfigError, match="the place cannot be written: No such file"),
        following(served, place=tmp_path / "nowhere" / "place") as subscription,
    ):
        take(subscription, 1)


def test_a_place_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "place").write_text("{")
    with pytest.raises(ConfigError, match=r"place: not a subscriber's place.*move it away"):
        subscribe("tcp://127.0.0.1:1", place=tmp_path / "place")


@pytest.mark.parametrize(
    ("bound", "events", "asked"),
    [
        ("tcp://127.0.0.1:5571", "tcp://mill-7.example:5570", "tcp://mill-7.example:5571"),
        ("tcp://*:5571", "tcp://10.0.0.1:5570", "tcp://10.0.0.1:5571"),
        ("tcp://0.0.0.0:5571", "ipc:///run/x", "tcp://127.0.0.1:5571"),
        ("tcp://[::]:5571", "tcp://[::1]:5570", "tcp://[::1]:5571"),
        ("tcp://[::]:5571", "ipc:///run/x", "tcp://[::1]:5571"),
        ("ipc:///run/history", "tcp://10.0.0.1:5570", "ipc:///run/history"),
    ],
)
def test_where_the_history_is(bound: str, events: str, asked: str) -> None:
    assert reachable(bound, events) == asked


def test_a_history_elsewhere_can_be_named(served: Served) -> None:
    elsewhere, served.line.history = served.history, "tcp://127.0.0.1:9"
    served.mute(DEFECT)
    with following(served, history=elsewhere) as subscription:
        assert take(subscription, 1) == ids(DEFECT, 1, 1)


# ---------------------------------------------------------------- what it needs

NEEDS = """
import importlib.abc, sys
class Nothing(importlib.abc.MetaPathFinder):
    allowed = {"inspector", "zmq", "msgspec", *sys.stdlib_module_names, *sys.builtin_module_names}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
from inspector.client import Control, Place, subscribe
ours = sorted(name for name in sys.modules if name.startswith("inspector."))
print(*[name for name in ours if not name.startswith("inspector.client")])
"""


def test_pyzmq_and_msgspec_are_all_it_needs() -> None:
    run = subprocess.run(
        [sys.executable, "-c", NEEDS], env=environment(), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert run.stderr == ""
    below = ["inspector.ending", "inspector.errors", "inspector.events", "inspector.journald", "inspector.logbook"]
    assert run.stdout.split() == below
