"""logbook.py and journald.py: each warning has a kind and is counted, the journal gets fields, and nothing floods."""

from __future__ import annotations

import ast
import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import inspector
from inspector import journald, logbook
from inspector.journald import Journald, encoded, listens
from inspector.logbook import BURST, COUNTED, WINDOW_S, Calm, LogKind, as_kind
from inspector.metrics import Metrics
from inspector.schema import notes_beneath

PACKAGE = Path(inspector.__file__).parent


# ---------------------------------------------------------------- every line has a kind


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Where the package warns: (file:line, the call)."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "logging" | "logger"), attr=name)):
                    if name in ("warning", "warn", "error", "exception", "critical", "log"):
                        yield f"{file.relative_to(PACKAGE)}:{node.lineno}", node


def kind_of(call: ast.Call) -> str:
    """The kind that a call names, empty if it names none."""
    extra = next((word.value for word in call.keywords if word.arg == "extra"), None)
    match extra:
        case ast.Call(func=ast.Name(id="as_kind"), args=[ast.Attribute(value=ast.Name(id="LogKind"), attr=name)]):
            return name
    return ""


def test_every_warning_has_a_kind_and_every_kind_a_warning() -> None:
    found = list(calls())
    assert len(found) > 50
    assert [where for where, call in found if kind_of(call) not in LogKind.__members__] == []
    assert {kind_of(call) for _, call in found} == set(LogKind.__members__)


def test_every_kind_says_what_it_means() -> None:
    assert notes_beneath(LogKind).keys() == LogKind.__members__.keys()


# ---------------------------------------------------------------- the counter


def test_warnings_are_counted_by_kind_from_0_on() -> None:
    metrics = Metrics(process=False)

    def count(kind: LogKind) -> float | None:
        return metrics.registry.get_sample_value("inspector_warnings_total", {"kind": kind})

    assert {count(kind) for kind in COUNTED} == {0.0}
    assert set(LogKind) - set(COUNTED) == {kind for kind in LogKind if kind.startswith(("client", "bridge"))}
    log = logging.getLogger("inspector.toy")
    with logbook.counted(metrics.warned):
        log.warning("a", extra=as_kind(LogKind.SINK_BACK, sink="s"))
        log.error("b", extra=as_kind(LogKind.SINK_DOWN, sink="s"))
        log.error("c", extra=as_kind(LogKind.SINK_DOWN, sink="s"))
        log.info("d")
    log.error("e", extra=as_kind(LogKind.SINK_DOWN, sink="s"))
    assert (count(LogKind.SINK_BACK), count(LogKind.SINK_DOWN)) == (1.0, 2.0)
    assert sum(count(kind) or 0 for kind in COUNTED) == 3


# ---------------------------------------------------------------- no flood


def record(message: str = "m", kind: LogKind | None = LogKind.FRAMES_LOST, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("inspector.x", logging.WARNING, __file__, 1, message, None, None, "f")
    made.__dict__.update(as_kind(kind, **fields) if kind else {})
    return made


def test_what_is_said_again_and_again_is_told_with_its_number() -> None:
    now = [0.0]
    calm = Calm(lambda: now[0])
    assert sum(calm.filter(record(camera="a")) for _ in range(25)) == BURST
    assert calm.filter(record(camera="b"))  # another camera is another matter
    assert calm.filter(record(camera="a", reason="reset"))  # and so is another way to lose frames
    assert calm.filter(record(kind=None))
    now[0] = WINDOW_S
    again = record(camera="a")
    assert calm.filter(again)
    assert again.getMessage() == "m (and 15 such lines before)"
    assert sum(calm.filter(record(camera="a")) for _ in range(25)) == BURST - 1


# ---------------------------------------------------------------- the journal's protocol


def decoded(entry: bytes) -> dict[str, str]:
    """As journald reads it."""
    fields = {}
    while entry:
        head, _, rest = entry.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        fields[name.decode()] = value.decode()
        entry = rest
    return fields


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z_]{0,9}", fullmatch=True), st.text(max_size=40)))
def test_fields_survive_whatever_is_in_them(fields: dict[str, str]) -> None:
    assert decoded(encoded(fields)) == {n: v.encode(errors="replace").decode() for n, v in fields.items()}


class Ears:
    """journald's end."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)

    def next(self) -> dict[str, str]:
        data, files, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
        for file in files:
            data = os.pread(file, os.fstat(file).st_size, 0)
            os.close(file)
        return decoded(data)


@pytest.fixture
def ears(tmp_path: Path) -> Iterator[Ears]:
    made = Ears(tmp_path / "journal")
    yield made
    made.socket.close()


@pytest.fixture
def handler(ears: Ears, tmp_path: Path) -> Iterator[Journald]:
    made = Journald("inspector", tmp_path / "journal")
    yield made
    made.close()


def test_an_entry_has_the_words_and_the_fields(ears: Ears, handler: Journald) -> None:
    handler.common["INSPECTOR_LINE"] = "line1"
    handler.handle(record("camera a\nis down", LogKind.CAMERA_DOWN, camera="a", reason="no link"))
    fields = ears.next()
    assert fields["MESSAGE"] == "camera a is down"
    assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"], fields["CODE_FUNC"]) == ("4", "inspector", "f")
    own = {name: value for name, value in fields.items() if name.startswith("INSPECTOR_")}
    assert own == {
        "INSPECTOR_KIND": "camera_down",
        "INSPECTOR_CAMERA": "a",
        "INSPECTOR_REASON": "no link",
        "INSPECTOR_LINE": "line1",
    }
    assert len(fields["MESSAGE_ID"]) == 32


def test_a_trace_is_a_field_and_not_a_hundred_lines(ears: Ears, handler: Journald) -> None:
    log = logging.getLogger("inspector.traced")
    log.addHandler(handler)
    try:
        raise ZeroDivisionError("a fault")
    except ZeroDivisionError:
        log.exception("it failed", extra=as_kind(LogKind.SERVER_FAILED, stage="monitor"))
    finally:
        log.removeHandler(handler)
    fields = ears.next()
    assert (fields["MESSAGE"], fields["PRIORITY"]) == ("it failed", "3")
    assert fields["INSPECTOR_TRACE"].rstrip().endswith("ZeroDivisionError: a fault")


def test_what_is_too_long_for_a_datagram_comes_in_a_file_and_is_cut_at_a_bound(ears: Ears, handler: Journald) -> None:
    handler.handle(record("long", LogKind.STAGE_HANGS, trace="x" * (journald.LONGEST + 7)))
    assert ears.next()["INSPECTOR_TRACE"] == "x" * journald.LONGEST + "... (7 bytes were cut)"


def test_a_journal_that_takes_nothing_holds_up_nobody(ears: Ears, handler: Journald) -> None:
    for _ in range(10_000):  # far more than the socket holds: no call waits
        handler.handle(record())
    assert ears.next()["MESSAGE"] == "m"
    while handler._untold:
        assert "INSPECTOR_UNTOLD" not in ears.next()
        handler.handle(record("after"))
    while (fields := ears.next())["MESSAGE"] != "after":
        pass
    assert int(fields["INSPECTOR_UNTOLD"]) > 9000


def test_the_journal_is_asked_only_where_standard_error_goes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = os.open(tmp_path / "err", os.O_CREAT | os.O_WRONLY)
    found = os.fstat(file)
    here = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
    try:
        monkeypatch.setattr(journald, "SOCKET", tmp_path)
        assert listens(here, file)
        assert not listens({}, file)
        assert not listens({"JOURNAL_STREAM": "1:2"}, file)
        monkeypatch.setattr(journald, "SOCKET", tmp_path / "none")
        assert not listens(here, file)
    finally:
        os.close(file)
    assert not listens(here, file)


# ---------------------------------------------------------------- and nobody else hears of it


def test_what_runs_here_is_reported_to_nobody(tmp_path: Path) -> None:
    """ONNX Runtime gives the machine a number and keeps what it will send in a file, unless it is told before."""
    code = "import build_engines.export, inspector.runtimes.onnx"
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment = {**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
