"""The plant's side of the control socket, against the daemon's own."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.auth

from inspector.client import Control
from inspector.config import ControlConfig
from inspector.control import CoilAnswer, CoilsAnswer, CoilSpan, PacksAnswer, PackShown, StateAnswer
from inspector.control import Control as Server
from inspector.errors import ConfigError, Refused, TelegramError
from inspector.events import CameraTotals, JournalMark
from inspector.metrics import Metrics
from inspector.wire import keys

HOURS = 7200.0
"""Nobody waits for these."""
STATE = StateAnswer(
    state="running",
    coil="4711",
    status="all is well",
    reasons=[],
    epoch=7,
    source="/inspector/hot",
    cameras={"top": CameraTotals(issued=3, inspected=2, lost={"overload": 1})},
    high_water={"gap/v1/hot/top/": 4},
    undelivered={"zeromq": 0},
    journal=JournalMark(id="j", last=9, retired=0),
)


PACKS = PacksAnswer(
    phase="watch",
    on_duty=PackShown(name="bands", version="2", digest="sha256:2"),
    folder="/packs/bands-2",
    previous="/packs/bands-1",
    candidate=PackShown(name="bands", version="2", digest="sha256:2"),
    compared=3,
    wanted=500,
    skipped=1,
    seen="3 frames compared",
    last="",
)


class Plant:
    """A line that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str | int | None, ...]] = []

    def coil_start(self, coil: str, encoder_count: int | None, sender: str) -> CoilAnswer:
        if coil == "wrong":
            raise TelegramError("coil 'wrong' lies behind the last one")
        self.told.append(("start", coil, encoder_count))
        return self._answer(coil, encoder_count)

    def coil_end(self, coil: str | None, encoder_count: int | None, sender: str) -> CoilAnswer:
        self.told.append(("end", coil, encoder_count))
        return self._answer(coil or "4711", encoder_count)

    def _answer(self, coil: str, encoder_count: int | None) -> CoilAnswer:
        count = 500 if encoder_count is None else encoder_count
        return CoilAnswer(coil=coil, encoder_count=count, previous="4710", when="early", distance_mm=2.5)

    def coils(self) -> CoilsAnswer:
        return CoilsAnswer(
            coil="4711", encoder_count=600, coils=[CoilSpan(coil="4711", head_count=500, end_count=None)]
        )

    def line_stop(self, sender: str) -> None:
        self.told.append(("stop",))

    def state(self) -> StateAnswer:
        return STATE

    def stage(self, name: str, sender: str) -> PacksAnswer:
        self.told.append(("stage", name))
        return PACKS

    def status(self) -> PacksAnswer:
        return PACKS

    def cancel(self, sender: str) -> PacksAnswer:
        self.told.append(("cancel",))
        return PACKS

    def rollback(self, sender: str) -> PacksAnswer:
        raise TelegramError("no pack was on duty before this one")


@pytest.fixture
def plant() -> Plant:
    return Plant()


@contextmanager
def serving(config: ControlConfig, plant: Plant) -> Iterator[str]:
    """Where the daemon's control socket is."""
    server, stop = Server(config, plant, plant, Metrics(process=False)), threading.Event()
    server.open()
    thread = threading.Thread(target=server.serve, args=(stop,))
    thread.start()
    try:
        yield server.endpoint
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def address(tmp_path: Path, plant: Plant) -> Iterator[str]:
    with serving(ControlConfig(address=f"ipc://{tmp_path}/control"), plant) as address:
        yield address


def test_every_telegram_and_question(address: str, plant: Plant) -> None:
    with Control(address) as control:
        told = control.coil_start("4711", 812)
        assert (told.coil, told.encoder_count, told.previous) == ("4711", 812, "4710")
        assert (told.when, told.distance_mm, told.repeated) == ("early", 2.5, False)
        assert control.coil_end(encoder_count=900).encoder_count == 900
        assert control.coil_end().coil == "4711"
        assert [span.head_count for span in control.coils().coils] == [500]
        control.line_stop()
        state = control.state()
        assert (state.status, state.cameras["top"].lost, state.journal) == (
            "all is well",
            {"overload": 1},
            STATE.journal,
        )
    assert plant.told == [("start", "4711", 812), ("end", None, 900), ("end", None, None), ("stop",)]


def test_packs_are_asked_for_and_changed(address: str, plant: Plant) -> None:
    with Control(address) as control:
        for state in (control.packs(), control.stage_pack("bands-2"), control.cancel_pack()):
            assert msgspec.to_builtins(state) == msgspec.to_builtins(PACKS)
        with pytest.raises(Refused, match="packs rollback: no pack was on duty before"):
            control.roll_back_pack()
    assert plant.told == [("stage", "bands-2"), ("cancel",)]


def test_a_refusal_has_the_daemons_words(address: str, plant: Plant) -> None:
    with Control(address) as control:
        with pytest.raises(Refused, match=r"coil start: coil 'wrong' lies behind the last one"):
            control.coil_start("wrong")
        with pytest.raises(Refused, match="coil start"):
            control.coil_start("x" * 65)
        assert control.coil_start("right").coil == "right", "it goes on"
    assert len(plant.told) == 1


@pytest.fixture
def dead(tmp_path: Path) -> str:
    """The socket file of a daemon that was killed."""
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    return f"ipc://{path}"


def test_no_answer_is_told_and_what_was_asked_does_not_come_later(dead: str) -> None:
    with Control(dead, timeout_s=0.05) as control:
        with pytest.raises(
            Refused, match=r"no answer within 0\.05 s.*control\.address\?; `inspector coil show`"
        ) as error:
            control.coil_start("4711")
        assert "key" not in str(error.value)
        with pytest.raises(Refused, match=r"no answer within 0\.05 s.*control\.address\?$"):
            control.coils()
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(dead)
            with pytest.raises(Refused):
                control.coil_end("4712")
            peers = []
            while router.poll(500):
                peers.append(router.recv_multipart()[1])
        assert not any(b"4711" in body for body in peers)


def test_a_socket_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with Control(f"ipc://{path}", timeout_s=HOURS) as control:
        with pytest.raises(Refused, match=r"there is no such socket: is the daemon running.*control\.address"):
            control.coils()
        with serving(ControlConfig(address=f"ipc://{path}"), Plant()):
            assert control.coils().coil == "4711", "it is looked for each time"
        with pytest.raises(Refused, match="there is no such socket"):
            control.coils()


@contextmanager
def powerless(path: Path) -> Iterator[None]:
    """As a user to whom the path gives nothing."""
    ours, mode = os.geteuid(), path.stat().st_mode
    path.chmod(0)
    os.seteuid(65534 if ours == 0 else ours)
    try:
        yield
    finally:
        os.seteuid(ours)
        path.chmod(mode)


def test_a_socket_that_is_for_others_is_told_at_once() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        Path(folder).chmod(0o755)
        path = Path(folder) / "control"
        server.bind(str(path))
        with Control(f"ipc://{path}", timeout_s=HOURS) as control:
            with powerless(path), pytest.raises(Refused, match=f"as a user in the group {path.group()}, or as root"):
                control.state()
            with powerless(Path(folder)), pytest.raises(Refused, match="may not enter its folder"):
                control.state()


def test_keys_that_do_not_let_us_in_are_told_at_once(tmp_path: Path, plant: Plant) -> None:
    folder = tmp_path / "keys"
    keys.make(folder)
    keys.add(folder, "plc", ["control"])
    keys.add(folder, "display", ["events"])
    zmq.auth.create_certificates(tmp_path, "stranger")

    def client(where: str, key: Path) -> Control:
        return Control(where, keys=key, server_key=folder / "server.key", timeout_s=HOURS)

    with serving(ControlConfig(address="tcp://127.0.0.1:*", keys=folder), plant) as where:
        with client(where, folder / "clients" / "plc.key_secret") as control:
            assert control.coil_start("4711").coil == "4711"
        for key in (tmp_path / "stranger.key_secret", folder / "clients" / "display.key_secret"):
            with client(where, key) as control:
                for _ in range(2):
                    with pytest.raises(Refused, match="does not know our key, or it may not `control`"):
                        control.coil_start("4712")
        with Control(where, timeout_s=HOURS) as control, pytest.raises(Refused, match="one side uses keys"):
            control.coil_start("4712")
    assert plant.told == [("start", "4711", None)]


@pytest.mark.parametrize("answer", [b"\xff", b"[]", b'{"ok": true, "coil": 5, "id": null}'])
def test_an_answer_that_cannot_be_read_is_told(answer: bytes, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/control"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind(address)

        def serve() -> None:
            peer, _ = router.recv_multipart()
            router.send_multipart([peer, answer])

        thread = threading.Thread(target=serve)
        thread.start()
        with Control(address) as control, pytest.raises(Refused, match="cannot be read"):
            control.coils()
        thread.join()


def test_a_closed_one_says_so(tmp_path: Path) -> None:
    control = Control(f"ipc://{tmp_path}/control")
    control.close()
    control.close()
    with pytest.raises(Refused, match="is closed"):
        control.state()


def test_a_wrong_address_is_named() -> None:
    with pytest.raises(ConfigError, match="neither tcp"):
        Control("control")
