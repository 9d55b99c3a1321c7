"""The door: who comes in, who is cut off, and that nobody else notices. Real sockets, and a clock that is told."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from inspector.wire import door, guard, keys, zap
from inspector.wire.door import Door
from inspector.wire.guard import Peer
from inspector.wire.keys import Keyring
from inspector.wire.refusals import TELL_S, Refusals
from tests.strangers import Stranger, greeting, ready, show_keys

PATIENCE_MS = 10_000


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wire") / "keys"
    keys.make(place)
    keys.add(place, "press", ["events", "control"])
    keys.add(place, "hall", ["events"])
    return place


class Server:
    """A ROUTER behind a door, that answers everybody with the name that the door gave."""

    def __init__(self, folder: Path | None, role: str = "control", address: str = "tcp://127.0.0.1:*") -> None:
        self.clock = Clock()
        self.gone: list[Peer] = []
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        keyring = Keyring(folder, self.clock) if folder else None
        self.door = Door(self.context, self.socket, "test", role, keyring, 1000, self.gone.append, self.clock)
        self.socket.bind(address)
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self.heard: list[tuple[Peer, bytes]] = []

    def close(self) -> None:
        self.door.close(0)
        self.context.term()

    def turn(self) -> None:
        poller = zmq.Poller()
        for watched in (self.socket, *self.door.sockets):
            poller.register(watched, zmq.POLLIN)
        poller.poll(10)
        self.door.tend()
        while self.socket.poll(0):
            frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            peer = self.door.came(frames[0])
            if peer is not None:
                self.heard.append((peer, frames[-1].bytes))
                self.socket.send_multipart([frames[0].bytes, peer.user.encode()], zmq.NOBLOCK)

    def until(self, condition: Callable[[], object]) -> bool:
        for _ in range(PATIENCE_MS // 10):
            if condition():
                return True
            self.turn()
        return False


@contextmanager
def serving(folder: Path | None, role: str = "control", address: str = "tcp://127.0.0.1:*") -> Iterator[Server]:
    server = Server(folder, role, address)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def client(server: Server, own: Path | None = None, public: Path | None = None) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        if own is not None and public is not None:
            show_keys(dealer, own, public)
        dealer.connect(server.endpoint)
        yield dealer


def pair(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / "clients" / f"{name}.key_secret", folder / "server.key"


def is_answered(server: Server, dealer: zmq.Socket[bytes]) -> bool:
    dealer.send(b"hello")
    return server.until(lambda: dealer.poll(0))


def verdict(server: Server, dealer: zmq.Socket[bytes], address: str) -> int:
    """What libzmq tells a client that was refused: the code that ZAP gave."""
    told = dealer.context.socket(zmq.PAIR)
    dealer.monitor(address, zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    told.connect(address)
    dealer.connect(server.endpoint)
    assert server.until(lambda: told.poll(0))
    code = parse_monitor_message(told.recv_multipart())["value"]
    dealer.disable_monitor()
    told.close()
    return code


# ---------------------------------------------------------------- who comes in


def test_a_client_with_a_key_and_the_role_is_let_in_by_name(folder: Path) -> None:
    with serving(folder) as server, client(server, *pair(folder, "press")) as press:
        assert is_answered(server, press)
        assert press.recv() == b"press"
        (peer,) = server.door.peers
        assert str(peer).startswith("press at 127.0.0.1:")
        assert server.door.refusals.counts == {}


def test_without_the_role_nobody_is_let_in_and_is_told_so(folder: Path) -> None:
    with serving(folder) as server, zmq.Context() as context, context.socket(zmq.DEALER) as hall:
        hall.linger = 0
        show_keys(hall, *pair(folder, "hall"))
        assert verdict(server, hall, "inproc://told-role") == 400
        assert server.heard == []
        assert server.door.refusals.counts == {"may not control": 1}


def test_a_key_that_nobody_knows_is_refused(folder: Path, tmp_path: Path) -> None:
    zmq.auth.create_certificates(tmp_path, "stranger")
    with serving(folder) as server, zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        show_keys(stranger, tmp_path / "stranger.key_secret", folder / "server.key")
        assert verdict(server, stranger, "inproc://told-key") == 400
        assert server.heard == []
        assert server.door.refusals.counts == {"unknown key": 1}


def test_without_a_key_nobody_is_heard(folder: Path) -> None:
    with serving(folder) as server, client(server) as plain:
        plain.send(b"hello")
        assert server.until(lambda: server.door.refusals.counts["not a client"] > 0)
        assert server.heard == []


def test_a_client_does_not_talk_to_another_server(folder: Path, tmp_path: Path) -> None:
    keys.make(tmp_path / "other")
    own, _ = pair(folder, "press")
    with serving(folder) as server, client(server, own, tmp_path / "other" / "server.key") as press:
        press.send(b"hello")
        assert server.until(lambda: server.door.refusals.counts["not a client"] > 0)
        assert server.heard == []


def test_while_nobody_answers_zap_nobody_comes_in(folder: Path) -> None:
    """libzmq would let everybody in with any key if there were no handler: the domain is enforced."""
    with serving(folder) as server:
        assert server.door._zap is not None
        server.door._zap.socket.unbind(zap.ADDRESS)
        with client(server, *pair(folder, "press")) as press:
            press.send(b"hello")
            for _ in range(30):
                server.turn()
            assert server.heard == []
            assert server.door.refusals.counts["may not control"] == 0, "its message did not even come as far as that"


def test_zap_says_no_to_what_is_not_a_question(folder: Path) -> None:
    clock = Clock()
    with zmq.Context() as context:
        handler = zap.Zap(context, Keyring(folder, clock), {"events": "events"}, Refusals("test", clock), clock)
        with context.socket(zmq.REQ) as asking:
            asking.connect(zap.ADDRESS)
            known = zmq.utils.z85.decode(keys.listing(folder)[1].public_key)
            good = [b"1.0", b"1", b"events", b"1.2.3.4", b"", b"CURVE", known]
            for position, value in ((0, b"2.0"), (2, b"control"), (2, b""), (5, b"NULL"), (6, bytes(32)), (6, b"")):
                assert ask(asking, handler, [*good[:position], value, *good[position + 1 :]])[2] == b"400"
            for short in ([b""], good[:1], good[:6], [*good, b""]):
                assert ask(asking, handler, short)[2] == b"400"
            assert ask(asking, handler, good)[1:5] == [b"1", b"200", b"OK", b"press"]
            handler.shut_out("press")
            assert ask(asking, handler, good)[2] == b"300"
            clock.now += zap.SHUT_OUT_S
            assert ask(asking, handler, good)[2] == b"200"
        handler.close()


def ask(asking: zmq.Socket[bytes], handler: zap.Zap, question: list[bytes]) -> list[bytes]:
    asking.send_multipart(question)
    assert handler.socket.poll(PATIENCE_MS)
    handler.answer()
    assert asking.poll(PATIENCE_MS)
    return asking.recv_multipart()


# ---------------------------------------------------------------- who is thrown out


def test_a_client_that_is_removed_is_cut_off_and_stays_out(tmp_path: Path) -> None:
    keys.make(tmp_path)
    keys.add(tmp_path, "press", ["control"])
    keys.add(tmp_path, "other", ["control"])
    own = tmp_path / "press.key_secret"
    own.write_bytes(pair(tmp_path, "press")[0].read_bytes())
    with (
        serving(tmp_path) as server,
        client(server, own, tmp_path / "server.key") as press,
        client(server, *pair(tmp_path, "other")) as other,
    ):
        assert is_answered(server, press)
        assert is_answered(server, other)
        keys.remove(tmp_path, "press")
        server.clock.now += keys.LOOK_S
        assert server.until(lambda: server.door.refusals.counts["unknown key"]), "it tried to come again"
        assert server.door.refusals.counts["its key was removed or changed"] == 1
        heard = len(server.heard)
        with suppress(zmq.Again):
            press.send(b"hello", zmq.NOBLOCK)
        other.recv()
        assert is_answered(server, other), "others do not notice"
        assert [peer.user for peer, _ in server.heard[heard:]] == ["other"]


def test_a_request_that_was_under_way_when_its_sender_was_removed_does_not_count(tmp_path: Path) -> None:
    keys.make(tmp_path)
    keys.add(tmp_path, "press", ["control"])
    with serving(tmp_path) as server, client(server, *pair(tmp_path, "press")) as press:
        assert is_answered(server, press)
        press.send(b"too late")
        assert server.socket.poll(PATIENCE_MS)
        keys.remove(tmp_path, "press")
        server.clock.now += keys.LOOK_S
        server.turn()
        assert [text for _, text in server.heard] == [b"hello"]


def test_a_misuser_with_a_key_is_kept_out_for_a_while(folder: Path) -> None:
    with serving(folder) as server, client(server, *pair(folder, "press")) as press:
        press.handshake_ivl = 100
        assert is_answered(server, press)
        server.door.cut(server.heard[0][0], "misused it")
        assert server.until(lambda: server.door.refusals.counts["shut out for a while"])
        assert server.door.refusals.counts["misused it"] == 1
        assert [str(peer).startswith("press") for peer in server.gone] == [True]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:*", "ipc"])
def test_one_is_cut_and_comes_again_the_others_stay(address: str, ipc: str) -> None:
    with (
        serving(None, address=ipc if address == "ipc" else address) as server,
        client(server) as one,
        client(server) as other,
    ):
        assert is_answered(server, other)
        assert is_answered(server, one)
        bad = server.heard[-1][0]
        server.door.cut(bad, "misused it")
        server.door.cut(bad, "misused it")
        assert server.door.refusals.counts == {"misused it": 1}
        assert server.until(lambda: server.gone == [bad])
        one.recv(), other.recv()
        assert is_answered(server, one), "its libzmq connects again by itself"
        assert is_answered(server, other)
        assert [peer is server.heard[0][0] for peer, _ in server.heard[2:]] == [False, True]


def test_nothing_that_was_under_way_from_one_who_is_cut_counts() -> None:
    with serving(None) as server, client(server) as one:
        assert is_answered(server, one)
        for _ in range(100):
            one.send(b"more")
        assert server.socket.poll(PATIENCE_MS)
        server.door.cut(server.heard[0][0], "misused it")
        assert server.until(lambda: server.gone)
        server.turn()
        assert len(server.heard) == 1


def test_a_number_that_belongs_to_another_file_is_left_alone(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, guard.held(Peer(ours.fileno(), inode=1)) as connection:
        assert connection is None
    with ours, theirs, (tmp_path / "file").open("w") as file:
        with guard.held(Peer(file.fileno(), os.fstat(file.fileno()).st_ino)) as connection:
            guard.shut(connection)
        file.write("still open")


def test_a_flood_of_messages_is_cut_off() -> None:
    with serving(None) as server, client(server) as one:
        one.sndhwm = 0
        for _ in range(guard.MESSAGES_PER_S + 100):
            one.send(b"x")
        assert server.until(lambda: server.door.refusals.counts["sends too many messages"])
        assert len(server.heard) == guard.MESSAGES_PER_S


def test_a_frame_that_is_too_long_ends_the_connection_before_it_is_read() -> None:
    with serving(None) as server, Stranger(server.endpoint) as stranger:
        stranger.say(greeting(), ready(b"DEALER"), b"\2" + (1 << 62).to_bytes(8, "big"))
        assert server.until(lambda: len(server.gone) == 1)
        stranger.hear()


# ---------------------------------------------------------------- how many there may be


def test_strangers_are_bounded_and_a_client_comes_in_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "STRANGERS", 20)
    with serving(None) as server, client(server) as before:
        assert is_answered(server, before)
        half_open = [Stranger(server.endpoint) for _ in range(60)]
        assert server.until(lambda: server.door.refusals.counts["too many strangers"] >= 40)
        assert server.until(lambda: len(server.door.peers) <= 21)
        with client(server) as after:
            assert is_answered(server, after)
        before.recv()
        assert is_answered(server, before), "who has said something is no stranger"
        for stranger in half_open:
            stranger.socket.close()


def test_clients_are_bounded_and_the_first_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CLIENTS", 2)
    with serving(None) as server, client(server) as one, client(server) as two, client(server) as three:
        assert is_answered(server, one)
        assert is_answered(server, two)
        three.send(b"hello")
        assert server.until(lambda: server.door.refusals.counts["too many clients"])
        one.recv(), two.recv()
        assert is_answered(server, one)
        assert is_answered(server, two)


def test_one_who_does_not_finish_the_handshake_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HANDSHAKE_MS", 50)
    with serving(None) as server, Stranger(server.endpoint) as silent, Stranger(server.endpoint) as slow:
        slow.say(greeting())
        assert server.until(lambda: len(server.gone) == 2)
        assert silent.hear()[:1] == b"\xff"


# ---------------------------------------------------------------- the log


def test_strangers_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    refusals = Refusals("zeromq test", clock)
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            refusals.add("unknown key" if number % 2 else "floods", f"peer {number}")
        assert len(caplog.records) == 1
        clock.now += TELL_S
        refusals.tell()
        refusals.tell()
    assert [record.message for record in caplog.records] == [
        "zeromq test: turned away: floods; the last was peer 0",
        "zeromq test: turned away: unknown key (500), floods (499); the last was peer 999",
    ]
    assert refusals.counts == {"unknown key": 500, "floods": 500}
