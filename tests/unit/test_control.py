"""The control socket: every telegram answered and logged, nobody in who should not be."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.config import ControlConfig
from inspector.control import (
    REQUESTS_PER_S,
    CoilAnswer,
    CoilsAnswer,
    CoilSpan,
    Control,
    PacksAnswer,
    PackShown,
    StateAnswer,
    check,
)
from inspector.errors import ConfigError, TelegramError
from inspector.events import CameraTotals, JournalMark
from inspector.metrics import Metrics
from inspector.wire import keys
from inspector.wire.asking import Request
from tests.desks import Client, client, heard, is_cut, part, served, stranger, suitor

STATE = StateAnswer(
    state="running",
    coil="4711",
    status="all well",
    reasons=[],
    epoch=5,
    source="/inspector/hot",
    cameras={"top": CameraTotals(issued=3, inspected=2, lost={"crash": 1})},
    high_water={"gap/v1/hot/top/": 4},
    undelivered={"zeromq": 0},
    journal=JournalMark(id="j", last=9, retired=0),
)
PACKS = PacksAnswer(
    phase="shadow",
    on_duty=PackShown(name="bands", version="1", digest="sha256:1"),
    folder="/packs/bands-1",
    previous=None,
    candidate=PackShown(name="bands", version="2", digest="sha256:2"),
    compared=3,
    wanted=500,
    skipped=1,
    seen="3 frames compared",
    last="",
)
NEWEST = 500
WRONG = "the coil on the line is 'right'\nand not 'wrong'"


@dataclass
class Notebook:
    """A plant that writes down what it is told; the newest count is NEWEST."""

    told: list[tuple[str, str | None, int | None, str]] = field(default_factory=list)

    def coil_start(self, coil: str, encoder_count: int | None, sender: str) -> CoilAnswer:
        if coil == "crash":
            raise ZeroDivisionError("secret")
        return self._note("start", coil, encoder_count, sender)

    def coil_end(self, coil: str | None, encoder_count: int | None, sender: str) -> CoilAnswer:
        if coil == "wrong":
            raise TelegramError(WRONG)
        return self._note("end", coil, encoder_count, sender)

    def coils(self) -> CoilsAnswer:
        span = CoilSpan(coil="4711", head_count=0, end_count=None)
        return CoilsAnswer(coil="4711", encoder_count=None, coils=[span])

    def line_stop(self, sender: str) -> None:
        self.told.append(("stop", None, None, sender))

    def stage(self, name: str, sender: str) -> PacksAnswer:
        self.told.append(("stage", name, None, sender))
        return PACKS

    def status(self) -> PacksAnswer:
        return PACKS

    def cancel(self, sender: str) -> PacksAnswer:
        raise TelegramError("no change is under way")

    def rollback(self, sender: str) -> PacksAnswer:
        self.told.append(("rollback", None, None, sender))
        return PACKS

    def state(self) -> StateAnswer:
        return STATE

    def _note(self, what: str, coil: str | None, encoder_count: int | None, sender: str) -> CoilAnswer:
        telegram = (what, coil, encoder_count, sender)
        repeated = telegram in self.told
        self.told.append(telegram)
        count = NEWEST if encoder_count is None else encoder_count
        when = "late" if count < NEWEST else "early"
        distance_mm = abs(count - NEWEST) * 0.5
        return CoilAnswer(
            coil=coil or "old",
            encoder_count=count,
            previous="old",
            when=when,
            distance_mm=distance_mm,
            repeated=repeated,
        )


def control(folder: Path, plant: Notebook | None = None, **changed: Any) -> Control:
    config = ControlConfig(**{"address": f"ipc://{folder}/control", **changed})
    # The rate has its own test; here the clock flies.
    ticks = iter(range(10**9))
    notebook = plant or Notebook()
    return Control(config, notebook, notebook, Metrics(process=False), clock=lambda: float(next(ticks)))


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def asker(tmp_path: Path, notebook: Notebook) -> Iterator[Client]:
    with served(control(tmp_path, notebook)) as server, client(server) as made:
        yield made


ME = f"uid {os.geteuid()}"


# ---------------------------------------------------------------- what is answered


def test_a_coil_starts_and_ends(asker: Client, notebook: Notebook) -> None:
    start = {"ask": "coil start", "id": 1, "coil": "4711", "encoder_count": 81_200}
    expected = {
        "answer": "coil start",
        "id": 1,
        "ok": True,
        "coil": "4711",
        "encoder_count": 81_200,
        "previous": "old",
        "when": "early",
        "distance_mm": 40_350.0,
    }
    assert asker.ask(start) == expected
    assert asker.ask(start) == {**expected, "repeated": True}
    end = asker.ask({"ask": "coil end", "id": 2, "encoder_count": 100})
    assert (end["answer"], end["ok"], end["when"], end["distance_mm"]) == ("coil end", True, "late", 200.0)
    assert asker.ask({"ask": "coil start", "id": 3, "coil": "Ä 1"})["encoder_count"] == NEWEST
    assert notebook.told == [
        ("start", "4711", 81_200, ME),
        ("start", "4711", 81_200, ME),
        ("end", None, 100, ME),
        ("start", "Ä 1", None, ME),
    ]


def test_the_other_questions(asker: Client, notebook: Notebook) -> None:
    assert asker.ask({"ask": "coil show", "id": "a"}) == {
        "answer": "coil show",
        "id": "a",
        "ok": True,
        "coil": "4711",
        "encoder_count": None,
        "coils": [{"coil": "4711", "head_count": 0, "end_count": None}],
    }
    assert asker.ask({"ask": "line stop"}) == {"answer": "line stop", "id": None, "ok": True}
    state = {"answer": "state", "id": 1, "ok": True, **msgspec.to_builtins(STATE)}
    assert asker.ask({"ask": "state", "id": 1}) == state
    assert notebook.told == [("stop", None, None, ME)]


def test_changes_of_the_pack(asker: Client, notebook: Notebook) -> None:
    shown = msgspec.to_builtins(PACKS)
    for ask in ({"ask": "packs stage", "pack": "bands-2"}, {"ask": "packs status"}, {"ask": "packs rollback"}):
        assert asker.ask({**ask, "id": 1}) == {"answer": ask["ask"], "id": 1, "ok": True, **shown}
    refused = asker.ask({"ask": "packs cancel", "id": 2})
    assert (refused["ok"], refused["error"]) == (False, "no change is under way")
    assert notebook.told == [("stage", "bands-2", None, ME), ("rollback", None, None, ME)]


def test_what_cannot_be_is_refused_with_a_text(asker: Client) -> None:
    assert asker.ask({"ask": "coil end", "id": 7, "coil": "wrong"}) == {
        "answer": "coil end",
        "id": 7,
        "ok": False,
        "error": WRONG,
    }


def test_a_bug_is_an_answer_and_not_the_end(asker: Client, caplog: pytest.LogCaptureFixture) -> None:
    head = asker.ask({"ask": "coil start", "id": 7, "coil": "crash"})
    assert (head["answer"], head["id"], head["ok"]) == ("error", 7, False)
    assert "secret" not in head["error"]
    assert asker.ask({"ask": "line stop"})["ok"]
    assert "ZeroDivisionError: secret" in caplog.text


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (b"stop!", "not JSON"),
        ({"ask": "coil stop"}, "coil stop"),
        ({"ask": "coil start"}, "coil"),
        ({"ask": "coil start", "coil": ""}, "$.coil"),
        ({"ask": "coil start", "coil": "x" * 65}, "$.coil"),
        ({"ask": "coil start", "coil": 4711}, "$.coil"),
        ({"ask": "coil start", "coil": "a\nb"}, "cannot be printed"),
        ({"ask": "coil end", "coil": "a\u202eb"}, "cannot be printed"),
        ({"ask": "packs stage"}, "pack"),
        ({"ask": "packs stage", "pack": "a\nb"}, "cannot be printed"),
        ({"ask": "coil start", "coil": "a", "encoder_count": 1.5}, "$.encoder_count"),
        (b'{"ask": "coil start", "coil": "a", "encoder_count": 9223372036854775808}', "$.encoder_count"),
    ],
)
def test_nonsense_never_reaches_the_line(tmp_path: Path, notebook: Notebook, request_: Any, text: str) -> None:
    body = request_ if isinstance(request_, bytes) else msgspec.json.encode({**request_, "id": 3})
    answer = msgspec.json.decode(control(tmp_path, notebook).desk.respond(Request(body, "test")).head)
    assert (answer["answer"], answer["ok"]) == ("error", False)
    assert answer["id"] == (3 if isinstance(request_, dict) else None)
    assert text in answer["error"]
    assert notebook.told == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
ASK = st.sampled_from(["coil start", "coil end", "coil show", "line stop", "state", "stop"])
ALMOST = st.fixed_dictionaries(
    {"ask": ASK | JSON}, optional=dict.fromkeys(("id", "coil", "encoder_count", "more"), JSON)
)
GARBAGE = st.binary(max_size=300) | (JSON | ALMOST).map(msgspec.json.encode)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with served(control(tmp_path_factory.mktemp("control"))) as server, client(server) as made:
        yield made


@given(garbage=st.lists(GARBAGE, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_whatever_is_asked_is_answered(steady: Client, garbage: list[bytes]) -> None:
    for number, body in enumerate(garbage):
        steady.send(body)
        head, parts = steady.receive()
        assert isinstance(head["ok"], bool)
        assert ("error" in head) == (not head["ok"])
        assert not parts
        assert steady.ask({"ask": "line stop", "id": number}) == {"answer": "line stop", "id": number, "ok": True}


def test_strangers_are_cut_and_the_next_is_served(tmp_path: Path) -> None:
    with served(control(tmp_path)) as server, client(server) as asker:
        for words in (part(b"x", more=True) * 20 + part(b"x"), part(b"x" * 70_000), b"\xff" * 100_000):
            with stranger(server) as bare:
                try:
                    bare.sendall(words)
                except ConnectionError:
                    continue
                assert is_cut(bare)
            assert asker.ask({"ask": "line stop"})["ok"]


# ---------------------------------------------------------------- the log


def test_every_request_is_one_line_of_who_what_and_the_answer(asker: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "inspector.control"):
        asker.ask({"ask": "coil start", "coil": "47'11", "encoder_count": 600})
        asker.ask({"ask": "coil start", "coil": "47'11", "encoder_count": 600})
        asker.ask({"ask": "coil end", "coil": "wrong"})
        asker.ask({"ask": "coil show"})
        asker.ask({"ask": "x\ny"})
    lines = [record.getMessage() for record in caplog.records if record.name == "inspector.control"]
    assert lines[:4] == [
        f"""control: {ME}: coil start "47'11" at 600 -> ok, 50.0 mm early, at 600, after 'old'""",
        f"""control: {ME}: coil start "47'11" at 600 -> ok, 50.0 mm early, at 600, after 'old', repeated""",
        f"control: {ME}: coil end 'wrong' at the newest count -> refused: {WRONG!r}",
        f"control: {ME}: coil show -> ok",
    ]
    assert re.fullmatch(rf"control: {ME}: not understood -> .*", lines[4])
    assert not any("\n" in line for line in lines), "nobody forges a line"


def test_requests_are_counted(tmp_path: Path) -> None:
    server = control(tmp_path)
    for body in (b'{"ask": "line stop"}', b'{"ask": "coil end", "coil": "wrong"}', b"x"):
        server.desk.respond(Request(body, "test"))
    registry = server._books._requests
    found = {key: next(iter(series.collect())).samples[0].value for key, series in registry.items()}
    assert {key for key, value in found.items() if value} == {
        ("line stop", "ok"),
        ("coil end", "refused"),
        ("other", "refused"),
    }
    assert ("coil start", "failed") in found, "what never happened is 0"


# ---------------------------------------------------------------- the rate


def test_a_client_that_asks_in_a_loop_is_slowed_down(tmp_path: Path) -> None:
    notebook, config = Notebook(), ControlConfig(address=f"ipc://{tmp_path}/control")
    server = Control(config, notebook, notebook, Metrics(process=False), clock=lambda: 0.0)
    full = int(REQUESTS_PER_S) + 1
    server.open()
    try:
        with client(server) as asker:
            for _ in range(full + 20):
                asker.send({"ask": "line stop"})
                server.desk.turn()
            got = 0
            while asker.socket.poll(20):
                asker.receive()
                server.desk.turn()
                got += 1
            assert got == full
    finally:
        server.close()


# ---------------------------------------------------------------- who is let in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    keys.make(made)
    keys.add(made, "plc", ("control",))
    keys.add(made, "report", ("events",))
    return made


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_a_client_with_the_role_is_named_and_no_other_comes_in(tmp_path: Path, folder: Path, kind: str) -> None:
    address = "tcp://127.0.0.1:*" if kind == "tcp" else f"ipc://{tmp_path}/control"
    notebook, public = Notebook(), folder / "server.key"
    with served(control(tmp_path, notebook, address=address, keys=folder)) as server:
        with client(server, folder / "clients" / "plc.key_secret", public) as asker:
            assert asker.ask({"ask": "line stop", "id": 1})["ok"]
        with suitor(server, folder / "clients" / "report.key_secret", public) as refused:
            assert refused.fate() == zmq.EVENT_HANDSHAKE_FAILED_AUTH
        with suitor(server) as keyless:
            assert keyless.fate() != zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert notebook.told == [("stop", None, None, "plc")]


def test_nobody_says_of_himself_who_he_is(tmp_path: Path, notebook: Notebook) -> None:
    """Without keys libzmq hands on a User-Id that the peer made up."""
    with served(control(tmp_path, notebook)) as server, stranger(server, User_Id=b"plc", Peer_Address=b"plc") as bare:
        bare.sendall(part(b'{"ask": "line stop"}'))
        assert b'"ok":true' in heard(bare, 44)
    assert notebook.told == [("stop", None, None, ME)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("user", "group", "served_"), [(65_534, 65_534, False), (65_534, 4321, True), (0, 65_534, True)]
)
def test_only_root_the_same_user_and_the_group_come_in(tmp_path: Path, user: int, group: int, served_: bool) -> None:
    """The socket file is opened to all, so that the second door is tried, and not only the first."""
    os.chown(tmp_path, 0, 4321)
    tmp_path.chmod(0o2755)  # the socket file takes over the folder's group
    with served(control(tmp_path)):
        path = tmp_path / "control"
        assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (4321, 0o660)
        path.chmod(0o666)
        asking = f"""
import os, sys, zmq
from zmq.utils.monitor import recv_monitor_message
socket = zmq.Context().socket(zmq.DEALER)
socket.linger, socket.rcvtimeo = 0, 10_000
ends = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
directory = os.open({str(tmp_path)!r}, os.O_PATH)
os.setgroups([]); os.setgid({group}); os.setuid({user})
socket.connect(f"ipc:///proc/self/fd/{{directory}}/control")
ends.rcvtimeo = 10_000
event = recv_monitor_message(ends)["event"]
if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
    socket.send(b'{{"ask": "line stop"}}')
    print(socket.recv().decode())
else:
    print("cut")
ends.close(); socket.disable_monitor(); socket.context.destroy(0)
"""
        done = subprocess.run(
            [sys.executable, "-c", asking], capture_output=True, text=True, timeout=60, env={**os.environ}
        )
        assert done.stdout.strip() == ('{"answer":"line stop","id":null,"ok":true}' if served_ else "cut"), done.stderr


# ---------------------------------------------------------------- where it binds


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:5572", "any user of this machine.*inspector keys make"),
        ("tcp://*:5572", "any user of this machine"),
        ("ipc://@control", "name a whole path"),
        ("ipc://*", "name a whole path"),
        ("ipc:///nowhere/control", "mkdir -p /nowhere"),
        ("inproc://x", "neither tcp"),
    ],
)
def test_an_address_that_will_not_do_is_named(tmp_path: Path, address: str, message: str) -> None:
    for attempt in (lambda: check(ControlConfig(address=address)), control(tmp_path, address=address).open):
        with pytest.raises(ConfigError, match=rf"control\.address .*{message}"):
            attempt()


def test_keys_that_cannot_be_read_are_named(tmp_path: Path, folder: Path) -> None:
    (folder / "server.key_secret").chmod(0o644)
    with pytest.raises(ConfigError, match=r"server\.key_secret.*chmod"):
        check(ControlConfig(address="tcp://127.0.0.1:*", keys=folder))


def test_check_lets_go_and_a_running_daemon_keeps_its_socket(tmp_path: Path) -> None:
    config = ControlConfig(address=f"ipc://{tmp_path}/control")
    check(config)
    assert not (tmp_path / "control").exists()
    with served(control(tmp_path)) as server, client(server) as asker:
        with pytest.raises(ConfigError, match=r"control\.address .*is in use"):
            check(config)
        assert asker.ask({"ask": "line stop"})["ok"]
    server.close()
    assert not (tmp_path / "control").exists()


def test_close_without_serving_gives_the_file_back(tmp_path: Path) -> None:
    server = control(tmp_path)
    server.open()
    assert stat.S_ISSOCK((tmp_path / "control").stat().st_mode)
    server.close()
    server.close()
    assert not (tmp_path / "control").exists()
    with socket.socket(socket.AF_UNIX) as free:
        free.bind(f"{tmp_path}/control")
