"""service.py: exit codes, what systemd hears, and signals, with whole small lines in this process."""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import yaml

from inspector import pipeline, service
from inspector.channel import Channel
from inspector.config import load
from inspector.errors import EngineError
from inspector.events import Defect, Event
from inspector.journal import Journal, RunState, audit, read_events, read_runs
from inspector.monitor import Health
from inspector.stages import Idle
from inspector.worker import Crew, Worker
from tests.networks import failing_gate, swap
from tests.packs import TILE, make_pack, paint

PATIENCE_S = 30.0

Start = Callable[..., int]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack") / "bands")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No systemd but the test's own, no thread left behind, and no signal that could end pytest."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.INFO, logger="inspector")
    threads = set(threading.enumerate())
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    left = [thread for thread in threading.enumerate() if thread not in threads]
    for thread in left:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in left)


class Manager:
    """systemd's end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE_S)
        self.messages: list[list[str]] = []

    def next(self) -> list[str]:
        self.messages.append(self.socket.recv(65536).decode().split("\n"))
        return self.messages[-1]

    def until(self, assignment: str) -> None:
        while assignment not in self.next():
            pass

    def rest(self) -> list[list[str]]:
        """Everything said so far."""
        self.socket.setblocking(False)
        try:
            while True:
                self.next()
        except BlockingIOError:
            return self.messages

    @property
    def said(self) -> list[str]:
        """The first assignment of each message, statuses left out."""
        return [message[0] for message in self.messages if not message[0].startswith(("STATUS=", "EXTEND"))]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield made
    made.socket.close()


def settings(folder: Path, pack: Path, frames: int = 20, **changed: Any) -> dict[str, Any]:
    """A line of one synthetic camera that is read as fast as it goes and loses nothing."""
    height, width = TILE
    camera = {"width_px": width, "height_px": height, "pace": "free", "frames": frames, "edges": "none", "weld": False}
    return {
        "line": {"name": "hot", "when_full": "wait", "queue": 4, "heartbeat_s": 0.05},
        "pack": str(pack),
        "cameras": [{"name": "top", "kind": "synthetic", "options": camera}],
        "runtime": {"options": {"workers": 2}},
        "batch": {"size": 2},
        "journal": {"path": str(folder / "journal.db"), "synchronous": False},
        "sinks": [{"kind": "jsonl", "options": {"path": str(folder / "events.jsonl")}}],
        "monitor": None,
        **changed,
    }


def write(folder: Path, raw: Any) -> Path:
    path = folder / "line.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False))
    return path


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.fixture
def at_ready(manager: Manager) -> Iterator[Callable[[Callable[[], None]], None]]:
    """at_ready(do) calls `do` in a thread of its own as soon as the daemon says READY."""
    threads: list[threading.Thread] = []

    def begin(do: Callable[[], None]) -> None:
        def wait() -> None:
            manager.until("READY=1")
            do()

        threads.append(threading.Thread(target=wait, daemon=True))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join(PATIENCE_S)


# ---------------------------------------------------------------- the end of the strip


def test_a_strip_that_ends_is_0_and_every_frame_is_in_the_books(
    tmp_path: Path, engines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert service.run(write(tmp_path, settings(tmp_path, engines, frames=25))) == service.OK == 0
    found = audit(tmp_path / "journal.db")
    assert found.problems == []
    assert [(books.state, books.issued, books.inspected) for books in found.books] == [(RunState.CLOSED, 25, 25)]
    assert errors(caplog) == []
    assert caplog.messages[-1] == "ended: 25 frames inspected, 0 lost, coil unknown"


def test_what_is_found_is_in_the_events_file_as_in_the_journal(tmp_path: Path, engines: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(6):
        pixels = np.full(TILE, 90, dtype=np.uint8)
        if number % 2:
            paint(pixels, number // 2 + 1, 8, 20, 6, 9)
        cv2.imwrite(str(pictures / f"{number}.png"), pixels)
    raw = settings(tmp_path, engines)
    raw["cameras"] = [{"name": "top", "kind": "replay", "options": {"sources": [str(pictures)]}}]
    raw["sinks"][0]["required"] = True
    assert service.run(write(tmp_path, raw)) == 0
    journalled = list(read_events(tmp_path / "journal.db"))
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Event) for line in lines] == journalled
    found = [(one.data.source, one.data.defect_class.number) for one in journalled if isinstance(one.data, Defect)]
    assert found == [("1.png", 1), ("3.png", 2), ("5.png", 3)]


# ---------------------------------------------------------------- 78


def _taken_port() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda raw: "line: [", "not valid YAML"),
        (lambda raw: raw | {"zzz": 1}, "top level: unknown key `zzz`"),
        (lambda raw: raw | {"batch": {"sise": 1}}, "batch: unknown key `sise`. Did you mean `size`?"),
        (lambda raw: raw | {"pack": "nowhere"}, "manifest.yaml: no such file"),
        (lambda raw: raw | {"runtime": {"kind": "onnxx"}}, "runtime.kind: there is no 'onnxx'"),
        (lambda raw: raw | {"runtime": {"options": {"threads": 1}}}, "runtime.options: unknown key `threads`"),
        (lambda raw: raw | {"cameras": [{"name": "a", "kind": "film"}]}, "cameras[0].kind: there is no 'film'"),
        (lambda raw: raw | {"sinks": [{"kind": "jsonl", "options": {}}]}, "sinks[0].options: "),
        (lambda raw: raw | {"journal": {"path": "/nowhere/at/all.db"}}, "/nowhere/at/all.db: "),
    ],
    ids=["yaml", "key", "nested key", "pack", "kind", "runtime option", "camera", "sink option", "journal folder"],
)
def test_a_wrong_configuration_is_78_with_one_clear_line(
    spoil: Callable[[dict[str, Any]], Any],
    words: str,
    tmp_path: Path,
    engines: Path,
    manager: Manager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = write(tmp_path, spoil(settings(tmp_path, engines)))
    assert service.run(path) == service.CONFIG == 78
    told = errors(caplog)
    assert len(told) == 1
    assert words in told[0]
    assert "\n" not in told[0]
    assert manager.rest() == [[f"STATUS=configuration error: {told[0]}"]]
    assert not (tmp_path / "journal.db").exists(), "nothing was begun"
    assert not (tmp_path / "events.jsonl").exists()


def test_a_port_in_use_is_78(tmp_path: Path, engines: Path, caplog: pytest.LogCaptureFixture) -> None:
    with _taken_port() as taken:
        port = taken.getsockname()[1]
        assert service.run(write(tmp_path, settings(tmp_path, engines, monitor={"port": port}))) == 78
    assert errors(caplog)[0].startswith(f"monitor: 127.0.0.1:{port}: the port is in use")


def test_a_journal_that_another_daemon_holds_is_78(
    tmp_path: Path, engines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, settings(tmp_path, engines))
    with Journal.open(
        tmp_path / "journal.db",
        line="cold",
        source="s",
        synchronous=False,
        capacity_frames=1,
        cameras=["x"],
        digest="d",
    ):
        assert service.run(path) == 78
        assert "another daemon" in errors(caplog)[0]
    assert [run.line for run in read_runs(tmp_path / "journal.db")] == ["cold"]


def test_an_altered_engine_is_78(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pack = make_pack(tmp_path / "altered")
    file = pack / "segment_2.onnx"
    file.write_bytes(file.read_bytes() + b"x")
    assert service.run(write(tmp_path, settings(tmp_path, pack))) == 78
    assert f"{file}: network segment_2 was altered" in errors(caplog)[0]


# ---------------------------------------------------------------- 1


def test_a_network_that_fails_is_1_and_the_books_still_balance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack = make_pack(tmp_path / "failing")
    swap(pack, "gate", failing_gate(TILE, 30))  # black tiles warm it without harm; steel is brighter
    assert service.run(write(tmp_path, settings(tmp_path, pack, frames=0))) == service.FAILED == 1
    told = errors(caplog)
    assert len(told) == 1
    assert re.match(r"stage cascade-\d failed: network gate failed in onnxruntime", told[0])
    found = audit(tmp_path / "journal.db")
    assert found.problems == []
    assert found.runs[0].state is RunState.ABORTED
    assert found.books[0].in_flight == 0


def test_an_events_file_that_must_be_written_and_cannot_is_1(
    tmp_path: Path, engines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = settings(tmp_path, engines, frames=0)
    raw["sinks"] = [{"kind": "jsonl", "required": True, "options": {"path": "/dev/full", "kinds": ["heartbeat"]}}]
    assert service.run(write(tmp_path, raw)) == 1
    assert any(message.startswith("stage sink-jsonl failed: ") for message in errors(caplog))
    assert audit(tmp_path / "journal.db").problems == []


def test_an_events_file_that_nobody_requires_does_not_end_the_line(tmp_path: Path, engines: Path) -> None:
    raw = settings(tmp_path, engines, frames=20)
    raw["sinks"] = [{"kind": "jsonl", "options": {"path": "/dev/full", "kinds": ["coil"]}}]
    assert service.run(write(tmp_path, raw)) == 0
    assert audit(tmp_path / "journal.db").books[0].inspected == 20


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A sink of the kind `hanging`, in a module of its own: it takes its first event and does not come back."""
    package = importlib.import_module("inspector.sinks")
    (tmp_path / "hanging.py").write_text(
        "import threading\n"
        "import msgspec\n"
        "inside, let_go = threading.Event(), threading.Event()\n"
        "class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True): pass\n"
        "class Sink:\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *_): pass\n"
        "    def send(self, events):\n"
        "        inside.set()\n"
        f"        let_go.wait({PATIENCE_S})\n"
        "        return 0\n"
        "    def tend(self): pass\n"
        "def open(options): return Sink()\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    module = importlib.import_module("inspector.sinks.hanging")
    yield SimpleNamespace(inside=module.inside, let_go=module.let_go)
    module.let_go.set()
    del sys.modules["inspector.sinks.hanging"]
    vars(package).pop("hanging", None)


def test_a_line_that_does_not_drain_is_given_up_with_1(
    tmp_path: Path,
    engines: Path,
    hanging: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(service, "DRAIN_S", 0.0)
    monkeypatch.setattr(pipeline, "JOIN_S", 0.0)
    stop = threading.Event()
    config = load(write(tmp_path, settings(tmp_path, engines, frames=0, sinks=[{"kind": "hanging"}])))
    with pipeline.build(config) as line:
        assert hanging.inside.wait(PATIENCE_S)
        stop.set()
        assert service.watch(line, stop) == 1
        hanging.let_go.set()
        assert line.crew.join(PATIENCE_S) == []
    assert errors(caplog)[-1].startswith("the line did not drain in 0 s")


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_drains_and_is_0(
    number: signal.Signals,
    tmp_path: Path,
    engines: Path,
    manager: Manager,
    at_ready: Callable[[Callable[[], None]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    at_ready(lambda: os.kill(os.getpid(), number))
    assert service.run(write(tmp_path, settings(tmp_path, engines, frames=0))) == 0
    books = audit(tmp_path / "journal.db").books[0]
    assert (books.state, books.in_flight, books.lost) == (RunState.CLOSED, 0, {})
    assert books.issued == books.inspected > 0
    manager.rest()
    assert manager.said == ["READY=1", "STOPPING=1"]
    assert errors(caplog) == []


def test_signals_and_the_switch_interval_are_given_back() -> None:
    before, interval = signal.getsignal(signal.SIGTERM), sys.getswitchinterval()
    stop = threading.Event()
    with service.stopped_by_signals(stop):
        assert sys.getswitchinterval() == pytest.approx(service.SWITCH_S)
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
    assert signal.getsignal(signal.SIGTERM) is before
    assert sys.getswitchinterval() == interval


def test_a_hang_up_is_a_wish_of_its_own_where_somebody_waits_for_it() -> None:
    stop, hung_up = threading.Event(), threading.Event()
    with service.stopped_by_signals(stop, hung_up):
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
            assert (stop.is_set(), hung_up.is_set()) == (False, True)
            hung_up.clear()
    with service.stopped_by_signals(stop):
        signal.raise_signal(signal.SIGHUP)
        assert stop.is_set(), "the terminal has gone"


@pytest.mark.parametrize("ready", [True, False])
def test_systemd_hears_of_a_reload_only_once_the_line_was_ready(manager: Manager, ready: bool) -> None:
    health = Health(True, ready, status="fine")
    line: Any = SimpleNamespace(crew=Crew([], lambda: None), health=lambda: health, stop=threading.Event())
    speaker = service._Speaker(line)
    speaker.speak(line.health())
    before = len(manager.rest())
    with speaker.reloading():
        pass
    said = manager.rest()[before:]
    assert [message[0] for message in said] == (["RELOADING=1", "READY=1"] if ready else [])
    assert all(message[1].startswith("MONOTONIC_USEC=") for message in said[:1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    program = (
        "import signal, threading\n"
        "from inspector.service import stopped_by_signals\n"
        "with stopped_by_signals(threading.Event()):\n"
        f"    signal.raise_signal({int(number)})\n"
        "    print('draining', flush=True)\n"
        f"    signal.raise_signal({int(number)})\n"
        "    print('still here', flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False, text=True)
    assert (ended.returncode, ended.stdout) == (-number, "draining\n"), ended.stderr


# ---------------------------------------------------------------- what systemd hears


def test_systemd_hears_once_that_the_line_is_ready_and_then_how_it_is(
    tmp_path: Path, engines: Path, manager: Manager, at_ready: Callable[[Callable[[], None]], None]
) -> None:
    at_ready(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert service.run(write(tmp_path, settings(tmp_path, engines, frames=0))) == 0
    messages = manager.rest()
    ready = next(message for message in messages if message[0] == "READY=1")
    assert re.fullmatch(r"STATUS=[\d,]+ frames inspected, 0 lost, coil unknown", ready[1])
    assert sum("READY=1" in message for message in messages) == 1
    assert all(message[-1].startswith(("STATUS=", "EXTEND_TIMEOUT_USEC=")) for message in messages)
    assert not any(message[0] == "WATCHDOG=1" for message in messages), "nobody asked for the watchdog"


def test_a_camera_that_is_not_there_keeps_the_line_from_ready_and_the_status_says_so(
    tmp_path: Path, engines: Path, manager: Manager
) -> None:
    raw = settings(tmp_path, engines, frames=0)
    raw["cameras"][0]["options"] |= {"die_at_frame": 0, "die_times": 1_000_000}

    def wait_and_stop() -> None:
        while not any("camera top is down" in text for text in manager.next()):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait_and_stop, daemon=True)
    thread.start()
    assert service.run(write(tmp_path, raw)) == 0
    thread.join(PATIENCE_S)
    manager.rest()
    assert "READY=1" not in manager.said
    assert any(message[0].startswith("EXTEND_TIMEOUT_USEC=") for message in manager.messages), "it asks for more time"


class Stuck(Idle):
    """A stage that hangs in its first item."""

    def __init__(self) -> None:
        self.inside, self.let_go = threading.Event(), threading.Event()

    def work(self, item: object) -> Iterator[object]:
        if item is not None:
            self.inside.set()
            self.let_go.wait(PATIENCE_S)
        yield from ()

    def finish(self) -> Iterator[object]:
        yield from ()


def test_the_watchdog_is_fed_by_progress_and_not_by_a_clock(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", str(1800 * 10**6))
    stage, inbox = Stuck(), Channel[int](1)
    worker = Worker("stuck", stage, inbox)
    crew = Crew([worker], lambda: None)
    line: Any = SimpleNamespace(crew=crew)
    healthy = Health(live=True, ready=True, status="fine")
    crew.start()
    try:
        service._Speaker(line).speak(healthy)
        manager.rest()
        assert manager.said == ["READY=1", "WATCHDOG=1"]
        inbox.put(1, PATIENCE_S)
        assert stage.inside.wait(PATIENCE_S)
        crew.lively()  # since then it has made no progress
        service._Speaker(line).speak(healthy)
        manager.rest()
        assert manager.said == ["READY=1", "WATCHDOG=1", "READY=1"]
    finally:
        stage.let_go.set()
        inbox.close()
        assert worker.join(PATIENCE_S)


def test_the_watchdog_is_fed_often_in_its_time_and_not_more(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", str(20 * 10**6))
    now = [100.0]
    monkeypatch.setattr(service, "time", SimpleNamespace(monotonic=lambda: now[0]))
    line: Any = SimpleNamespace(crew=Crew([], lambda: None))
    speaker = service._Speaker(line)
    for _ in range(400):
        speaker.speak(Health(live=True, ready=True, status="fine"))
        now[0] += 0.1
        manager.rest()  # as systemd does: the socket holds a few messages only
    assert manager.said.count("WATCHDOG=1") == pytest.approx(40 / service.FEED_S, abs=4)
    assert manager.said.count("READY=1") == 1
    assert [message[0] for message in manager.messages].count("STATUS=fine") == 40 / service.STATUS_S


def test_a_stage_that_hangs_before_the_line_is_ready_is_not_waited_for(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """systemd's watchdog begins with READY=1, and until then more time is asked for again and again."""
    monkeypatch.setenv("WATCHDOG_USEC", str(1800 * 10**6))
    stage, inbox = Stuck(), Channel[int](1)
    worker = Worker("stuck", stage, inbox)
    crew = Crew([], lambda: None)
    crew.servers.append(worker)
    line: Any = SimpleNamespace(crew=crew)
    worker.start()
    try:
        inbox.put(1, PATIENCE_S)
        assert stage.inside.wait(PATIENCE_S)
        speaker = service._Speaker(line)
        speaker.speak(Health(live=True, ready=False))
        manager.rest()
        assert "WATCHDOG=trigger" not in manager.said
        worker.beat_ns -= 3600 * 10**9
        for _ in range(3):
            speaker.speak(Health(live=False, ready=False))
        manager.rest()
        assert "WATCHDOG=trigger" in manager.said
    finally:
        stage.let_go.set()
        inbox.close()
        assert worker.join(PATIENCE_S)
    told = [record.__dict__["journal"] for record in caplog.records if "no progress" in record.getMessage()]
    assert len(told) == 1
    assert told[0]["INSPECTOR_STAGE"] == "stuck"
    assert "self.let_go.wait(" in told[0]["INSPECTOR_TRACE"]


def test_no_thread_of_a_line_is_unwatched(engines: Path, tmp_path: Path, ipc: str) -> None:
    """A thread that nobody looks at can hang and nobody finds it: all are workers of the crew, and show life."""
    wanted = settings(
        tmp_path,
        engines,
        frames=0,
        sinks=[{"kind": "zeromq", "options": {"address": ipc}}],
        history={"address": f"{ipc}.h"},
        control={"address": f"{ipc}.c"},
        monitor={"port": 0},
        recording={"path": str(tmp_path / "frames"), "window_gb": 1, "keep_gb": 1},
    )
    file = tmp_path / "line.yaml"
    file.write_text(yaml.safe_dump(wanted))
    before = set(threading.enumerate())
    with pipeline.build(pipeline.load(file)) as line:
        threads = {thread.name for thread in set(threading.enumerate()) - before}
        crew = line.crew
        watched = {worker.name for worker in (*crew.workers, *crew.servers)}
        assert threads == watched | {"packs"}  # which loads engines for as long as that takes
        assert threads >= {"capture-top", "cascade-1", "publish", "monitor", "history", "control", "recording"}
        beats = {worker.name: worker.beat_ns for worker in (*crew.workers, *crew.servers)}
        end = time.monotonic() + PATIENCE_S
        while beats and time.monotonic() < end:
            beats = {w.name: w.beat_ns for w in (*crew.workers, *crew.servers) if beats.get(w.name) == w.beat_ns}
            crew.join(0.05)
        assert beats == {}


def test_the_reasons_are_in_the_status(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    line: Any = SimpleNamespace(crew=Crew([], lambda: None))
    sick = Health(live=False, ready=False, reasons=["stage grading hangs", "camera top is down"], status="0 frames")
    service._Speaker(line).speak(sick)
    assert manager.said == []
    monkeypatch.setenv("WATCHDOG_USEC", str(20 * 10**6))
    service._Speaker(line).speak(sick)
    told = [text for message in manager.rest() for text in message if text.startswith("STATUS=")]
    assert told == ["STATUS=0 frames; stage grading hangs; camera top is down"] * 3  # also when it feeds the watchdog
    assert manager.said == ["WATCHDOG=1"]


def test_a_failure_of_our_own_is_one_line_and_a_fault_has_a_trace() -> None:
    assert service._trace(EngineError("worded")) is None
    fault = ZeroDivisionError("a fault")
    assert service._trace(fault) is fault
