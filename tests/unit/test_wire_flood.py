"""The watchman: nobody can keep a socket's thread in libzmq for long, and nobody else is cut."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspector.wire import flood
from inspector.wire.flood import Watched, place

PATIENCE_S = 10.0


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A socket whose thread went into libzmq long ago."""
    one = Watched()
    one.inside_since = 0.0
    yield one
    one.close()


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """A server, and both ends of a connection to it: ours, theirs."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as theirs:
        ours, _ = server.accept()
        with ours:
            yield server, ours, theirs


def look(watched: Watched, before: dict[int, int] | None) -> dict[int, int]:
    return flood._cut_flooders(watched, before)


def inode(connection: socket.socket) -> int:
    return os.fstat(connection.fileno()).st_ino


def test_who_brings_much_is_cut_and_who_brings_little_is_not(
    watched: Watched, tcp: tuple[socket.socket, socket.socket, socket.socket]
) -> None:
    server, ours, theirs = tcp
    watched.endpoints = [place(f"tcp://127.0.0.1:{server.getsockname()[1]}")]
    seen = look(watched, None)
    assert seen == {inode(ours): 0}
    theirs.sendall(bytes(1000))
    assert ours.recv(2000)
    seen = look(watched, seen)
    assert (seen, watched.cut) == ({inode(ours): 1000}, [])
    sender = threading.Thread(target=theirs.sendall, args=(bytes(flood.FLOOD_BYTES + 1),))
    sender.start()
    received = 0
    while received <= flood.FLOOD_BYTES:
        received += len(ours.recv(65_536))
    sender.join(PATIENCE_S)
    look(watched, seen)
    assert watched.cut == [inode(ours)]
    assert theirs.recv(1) == b"", "it was told"


def test_nobody_new_connects_until_the_thread_is_back(
    watched: Watched, tcp: tuple[socket.socket, socket.socket, socket.socket]
) -> None:
    server, ours, theirs = tcp
    address = server.getsockname()
    watched.endpoints = [place(f"tcp://127.0.0.1:{address[1]}")]
    look(watched, None)
    with socket.socket() as late:
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.connect(address)
    theirs.sendall(b"still heard")
    assert ours.recv(100) == b"still heard"
    flood._open(watched)
    with socket.create_connection(address, PATIENCE_S):
        pass


def test_of_unix_sockets_those_with_much_unread_are_cut(watched: Watched, tmp_path: Path) -> None:
    path = str(tmp_path / "events")
    watched.endpoints = [f"ipc://{path}"]
    with (
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as bad,
        socket.socket(socket.AF_UNIX) as good,
    ):
        server.bind(path)
        server.listen()
        for theirs in (bad, good):
            theirs.connect(path)
        first, _ = server.accept()
        second, _ = server.accept()
        with first, second:
            bad.sendall(bytes(flood.UNREAD_BYTES + 1))
            look(watched, None)
            assert watched.cut == [inode(first)]
            assert not os.path.exists(path)
            good.sendall(b"still heard")
            assert second.recv(100) == b"still heard"
            flood._open(watched)
            with socket.socket(socket.AF_UNIX) as late:
                late.connect(path)


def test_other_connections_of_the_process_are_left_alone(
    watched: Watched, tcp: tuple[socket.socket, socket.socket, socket.socket]
) -> None:
    watched.endpoints = ["tcp:1", "ipc:///nowhere"]
    assert look(watched, None) == {}
    assert watched.cut == []


def can_connect(server: socket.socket) -> bool:
    with socket.socket() as late:
        late.settimeout(0.2)
        connected = late.connect_ex(server.getsockname()) == 0
        if connected:
            server.accept()[0].close()
        return connected


def test_the_watchman_ends_and_leaves_the_doors_open(
    watched: Watched, tcp: tuple[socket.socket, socket.socket, socket.socket]
) -> None:
    address = tcp[0].getsockname()
    watched.endpoints = [place(f"tcp://127.0.0.1:{address[1]}")]
    stop = threading.Event()
    watchman = threading.Thread(target=flood.watch, args=(stop,))
    watchman.start()
    assert any(not can_connect(tcp[0]) for _ in range(1000)), "it shuts the door"
    stop.set()
    watchman.join(PATIENCE_S)
    assert not watchman.is_alive()
    with socket.create_connection(address, PATIENCE_S):
        pass
