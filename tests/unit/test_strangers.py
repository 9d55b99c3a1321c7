"""Strangers at the events socket, with the real libzmq over loopback: none is let in, nothing crashes, memory is
bounded, and an honest subscriber gets every event all the while.
"""

from __future__ import annotations

import gc
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import zmq
import zmq.auth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspector.sinks import _subscriptions
from inspector.wire import flood, keys
from tests.strangers import (
    Publisher,
    Stranger,
    Subscriber,
    command,
    frame,
    greeting,
    honest,
    proved,
    ready,
    subscription,
)

FUZZED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
PING = command(b"PING", b"\0\0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("strangers") / "keys"
    keys.make(place)
    keys.add(place, "hall", ["events"])
    keys.add(place, "plc", ["control"])
    zmq.auth.create_certificates(place, "stranger")
    return place


def pair(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / "clients" / f"{name}.key_secret", folder / "server.key"


Scene = tuple[Publisher, Subscriber]


@pytest.fixture(scope="module")
def open_scene() -> Iterator[Scene]:
    """A publisher without keys, and an honest subscriber."""
    with Publisher() as publisher, honest(publisher) as subscriber:
        yield publisher, subscriber


@pytest.fixture(scope="module")
def closed_scene(folder: Path) -> Iterator[Scene]:
    """A publisher with keys, and an honest subscriber."""
    with Publisher(folder) as publisher, honest(publisher, pair(folder, "hall")) as subscriber:
        yield publisher, subscriber


@pytest.fixture(params=["open", "closed"])
def scene(request: pytest.FixtureRequest) -> Scene:
    found: Scene = request.getfixturevalue(f"{request.param}_scene")
    return found


def memory() -> int:
    """Bytes that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def until(publisher: Publisher, subscriber: Subscriber, reason: str, count: int) -> bool:
    """Events go on, and all arrive, until so many were turned away for that reason."""
    for _ in range(2000):
        assert proved(publisher, subscriber, count=5)
        if publisher.sink.turned_away.get(reason, 0) >= count:
            return True
        subscriber.socket.poll(5)
    return False


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("who", ["no key", "unknown key", "no role", "another server"])
def test_who_has_no_right_key_hears_nothing(closed_scene: Scene, folder: Path, tmp_path: Path, who: str) -> None:
    publisher, subscriber = closed_scene
    keys.make(tmp_path / "other")
    shown = {
        "no key": None,
        "unknown key": (folder / "stranger.key_secret", folder / "server.key"),
        "no role": pair(folder, "plc"),
        "another server": (pair(folder, "hall")[0], tmp_path / "other" / "server.key"),
    }[who]
    reason = {"unknown key": "unknown key", "no role": "may not events"}.get(who, "not a client")
    before = publisher.sink.turned_away.get(reason, 0)
    with Subscriber(publisher.sink.endpoint, shown, ("",)) as stranger:
        assert until(publisher, subscriber, reason, before + 1)
        assert proved(publisher, subscriber, count=200)
        assert stranger.socket.poll(50) == 0
    with honest(publisher, pair(folder, "hall")) as another:
        assert proved(publisher, subscriber, another)


def test_a_subscriber_that_is_removed_hears_no_more(tmp_path: Path) -> None:
    keys.make(tmp_path)
    keys.add(tmp_path, "hall")
    keys.add(tmp_path, "old")
    with (
        Publisher(tmp_path) as publisher,
        honest(publisher, pair(tmp_path, "hall")) as subscriber,
        honest(publisher, pair(tmp_path, "old")) as removed,
    ):
        while subscriber.socket.poll(50):
            subscriber.socket.recv_multipart()
        keys.remove(tmp_path, "old")
        assert until(publisher, subscriber, "unknown key", 1), "cut off, it tries to come again"
        while removed.socket.poll(50):
            removed.socket.recv_multipart()
        assert proved(publisher, subscriber, count=200)
        assert removed.socket.poll(50) == 0


# ---------------------------------------------------------------- garbage


@FUZZED
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_garbage_is_no_trouble(scene: Scene, words: list[bytes]) -> None:
    with Stranger(scene[0].sink.endpoint) as stranger:
        stranger.say(*words)
        assert proved(*scene, count=3)


PIECES = st.one_of(
    st.just(greeting()),
    st.just(greeting(b"CURVE")),
    st.builds(greeting, st.binary(max_size=20), st.integers(0, 255)),
    st.sampled_from([ready(), ready(b"PUB"), ready(b"\0" * 300), PING, command(b"HELLO", bytes(194))]),
    st.builds(command, st.binary(max_size=30), st.binary(max_size=400)),
    st.builds(subscription, st.binary(max_size=300)),
    st.builds(frame, st.binary(max_size=300), st.integers(0, 255), st.one_of(st.none(), st.integers(0, 2**64 - 1))),
)


@FUZZED
@given(words=st.lists(PIECES, max_size=8), hello=st.booleans(), cut=st.integers(0, 2000), abort=st.booleans())
def test_nor_is_what_looks_like_zmtp(scene: Scene, words: list[bytes], hello: bool, cut: int, abort: bool) -> None:
    """Greetings, handshakes and frames of any kind and length, broken off anywhere."""
    with Stranger(scene[0].sink.endpoint) as stranger:
        if hello and scene[0].is_open:
            assert stranger.join()
        stranger.say(b"".join(words)[: cut or None])
        if abort:
            hang_up(stranger)
        assert proved(*scene, count=3)


def hang_up(stranger: Stranger) -> None:
    """Close with a reset instead of a farewell."""
    stranger.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stranger.socket.close()


@pytest.mark.parametrize("count", [1, 3, 1001, 2500])
def test_a_ping_behind_unread_messages_and_a_reset_do_not_abort_libzmq(open_scene: Scene, count: int) -> None:
    """With a receive high-water mark this ends the process: https://github.com/zeromq/libzmq/issues/4841."""
    came = 0
    for _ in range(30):  # right behind a flood the door may be shut for a moment: then the next one tries
        with Stranger(open_scene[0].sink.endpoint) as stranger:
            if stranger.join():
                came += 1
                stranger.say(b"".join(subscription(b"%d" % number) for number in range(count)) + PING * 50)
                hang_up(stranger)
        assert proved(*open_scene, count=3)
        if came == 3:
            break
    assert came == 3


@pytest.mark.parametrize("length", [1 << 16, 1 << 31, 1 << 32, (1 << 63) - 1, (1 << 64) - 1])
def test_who_announces_more_than_there_may_be_is_cut_off(scene: Scene, length: int) -> None:
    before = memory()
    for hello in (greeting(), b""):
        with Stranger(scene[0].sink.endpoint) as stranger:
            stranger.say(hello, frame(b"", length=length), bytes(1000))
        assert proved(*scene, count=3)
    if scene[0].is_open:
        with Stranger(scene[0].sink.endpoint) as stranger:
            assert stranger.join()
            stranger.say(frame(b"", length=length), bytes(1000))
            stranger.hear()
        assert proved(*scene, count=3)
    assert memory() - before < 50e6


# ---------------------------------------------------------------- too much


def test_half_open_connections_are_bounded(scene: Scene) -> None:
    publisher, subscriber = scene
    before = publisher.sink.turned_away.get("too many strangers", 0)
    with ExitStack() as half_open:
        for _ in range(600):
            half_open.enter_context(Stranger(publisher.sink.endpoint))
        assert until(publisher, subscriber, "too many strangers", before + 200)
    assert proved(publisher, subscriber)


def test_one_too_many_subscriptions_and_the_connection_is_cut(open_scene: Scene) -> None:
    publisher, subscriber = open_scene
    before = publisher.sink.turned_away.get("too many subscriptions", 0)
    most = [subscription(b"%d/" % number) for number in range(_subscriptions.MOST_SUBSCRIPTIONS)]
    with Stranger(publisher.sink.endpoint) as greedy:
        assert greedy.join()
        greedy.say(*most, *most)
        for _ in range(40):
            assert proved(publisher, subscriber)
        assert publisher.sink.turned_away.get("too many subscriptions", 0) == before, "the same again is no more"
        greedy.say(subscription(b"one more/"))
        assert until(publisher, subscriber, "too many subscriptions", before + 1)
        greedy.hear()


def test_a_million_topics_are_cut_off_early_and_memory_is_bounded(open_scene: Scene) -> None:
    """A million take 900 MB in libzmq. One connection after the other tries."""
    publisher, subscriber = open_scene
    before = memory()
    sent, cut_off = 0, 0
    for attempt in range(3):
        with Stranger(publisher.sink.endpoint) as stranger:
            assert stranger.join()
            for first in range(0, 1_000_000, 1000):
                topics = range(first, first + 1000)
                if not stranger.say(b"".join(subscription(b"%d/%d/%016d" % (attempt, n * 7919, n)) for n in topics)):
                    cut_off += 1
                    break
                sent += 1000
        assert proved(publisher, subscriber)
    assert cut_off == 3, "none came to its end"
    assert memory() - before < 400e6
    assert proved(publisher, subscriber, count=200)


def test_nor_over_a_unix_socket(ipc: str) -> None:
    """The kernel counts less there; while the sink is kept busy its file has another name, and nobody new connects."""
    before = memory()
    with Publisher(address=ipc) as publisher, honest(publisher) as subscriber:
        for _ in range(5):
            with suppress(OSError), Stranger(publisher.sink.endpoint) as stranger:
                assert stranger.join()
                for first in range(0, 10_000_000, 2000):
                    if not stranger.say(b"".join(subscription(b"%024d" % n) for n in range(first, first + 2000))):
                        break
            assert proved(publisher, subscriber)
        assert memory() - before < 400e6
        with honest(publisher) as another:
            assert proved(publisher, subscriber, another)
    assert not Path(ipc.removeprefix("ipc://") + flood.SHUT).exists()


def test_the_subscriptions_of_all_together_are_bounded(open_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_subscriptions, "MOST_BYTES_IN_ALL", 3000)
    publisher, subscriber = open_scene
    reason = "too many subscriptions of all together"
    before = publisher.sink.turned_away.get(reason, 0)
    with Stranger(publisher.sink.endpoint) as one, Stranger(publisher.sink.endpoint) as other:
        assert one.join()
        assert other.join()
        one.say(*(subscription(b"%0100d" % number) for number in range(20)))
        assert proved(publisher, subscriber, count=100)
        other.say(*(subscription(b"%0100d" % number) for number in range(20)))
        assert until(publisher, subscriber, reason, before + 1)


def test_one_who_is_cut_and_comes_again_at_once_is_cut_again(open_scene: Scene) -> None:
    publisher, subscriber = open_scene
    for _ in range(20):
        with Stranger(publisher.sink.endpoint) as stranger:
            assert stranger.join()
            stranger.say(subscription(bytes(_subscriptions.LONGEST_SUBSCRIPTION + 1)))
            stranger.hear()
        assert proved(publisher, subscriber, count=3)
