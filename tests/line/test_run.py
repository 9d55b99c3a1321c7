"""The daemon as a user and systemd meet it: ready, its events, its monitor, its end; and every way to be refused."""

from __future__ import annotations

import io
import signal
import socket
import sqlite3
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

from inspector.__main__ import main
from inspector.events import CoilEvent, Defect, Gap, Heartbeat, Reason, State, as_json
from inspector.journal import RunState
from tests.conftest import Start
from tests.line.daemon import Daemon, command, journalled, proven, subscribed, write, written
from tests.line.lines import altered, config, filmed, lossless, pictures, played, slow
from tests.networks import failing_gate, swap
from tests.packs import BAND, TILE, make_pack


def zeromq(address: str, **options: Any) -> dict[str, Any]:
    return {"kind": "zeromq", "options": {"address": address, **options}}


# ---------------------------------------------------------------- it runs


def test_sinks_and_journal_tell_the_same_and_the_metrics_agree(
    start: Start, pack: Path, tmp_path: Path, ipc: str
) -> None:
    sources = pictures(tmp_path / "pictures")
    sinks = [zeromq(ipc), {"kind": "jsonl", "options": {"path": str(tmp_path / "events.jsonl")}}]
    setup = config(
        pack, tmp_path / "j.db", played(sources), played(sources, "b"), sinks=sinks, line=lossless(), batch={"size": 3}
    )
    with subscribed(ipc) as ears:
        daemon = start(setup).ready()
        first = ears.until(lambda event: isinstance(event.data, Heartbeat), daemon, "a heartbeat")
        ears.until(lambda _: len(ears.events) > 500, daemon, "five hundred events")
        metrics = daemon.metrics()
        assert daemon.stop() == 0
        ears.rest()

    stored = journalled(tmp_path / "j.db")
    by_topic = {(event.subject, event.sequence): as_json(event) for event in stored}
    assert written(tmp_path / "events.jsonl") == stored
    heard = [event for event in ears.events if not isinstance(event.data, Heartbeat)]
    assert all(by_topic[event.subject, event.sequence] == as_json(event) for event in heard)
    # From the first heartbeat on nothing is missing, and the last one tells where every topic stands.
    last = [event.data for event in ears.events if isinstance(event.data, Heartbeat)][-1]
    assert isinstance(first.data, Heartbeat)
    topics = last.high_water.keys() - {first.subject}  # a heartbeat tells of the heartbeats before it
    assert len(topics) == 2 * len(BAND) + 2  # defects by camera and class, states, coils
    for topic in topics:
        sequences = [event.sequence for event in ears.events if event.subject == topic]
        known = first.data.high_water.get(topic, 0)
        assert [n for n in sequences if n > known] == list(range(known + 1, last.high_water[topic] + 1)), topic

    found = proven(tmp_path / "j.db")
    assert found.runs[-1].state is RunState.CLOSED
    for books in found.books:
        assert books.issued == books.inspected > 0
        assert metrics[f"frames_captured_total{{camera={books.camera}}}"] <= books.issued
        assert 0 < metrics[f"frames_inspected_total{{camera={books.camera}}}"] <= books.inspected
        assert metrics[f"coverage_ratio{{camera={books.camera}}}"] == 1.0
        assert metrics[f"frame_age_seconds_count{{camera={books.camera}}}"] > 0
        totals = last.cameras[books.camera]
        assert (totals.issued, totals.inspected, totals.lost) == (books.issued, books.inspected, {})
    assert metrics["ready"] == 1.0
    assert {event.data.defect_class.number for event in stored if isinstance(event.data, Defect)} == set(BAND)
    phases = [event.data.phase for event in stored if isinstance(event.data, CoilEvent)]
    assert phases == ["start", "end"]


def test_metrics_of_a_strip_that_has_ended_are_its_books(start: Start, pack: Path, tmp_path: Path) -> None:
    """One camera has played all, the other hangs, so the daemon still runs and its figures stand."""
    sources = pictures(tmp_path / "pictures", count=40)
    setup = config(
        pack,
        tmp_path / "j.db",
        played(sources, repeat=1),
        filmed("idle", hang_at_frame=0, pace="free"),
        line=lossless(),
        sinks=[{"kind": "jsonl", "options": {"path": str(tmp_path / "events.jsonl")}}],
    )
    daemon = start(setup)
    daemon.until(lambda: daemon.metric("frames_inspected_total{camera=a}") == 40, "all pictures to be inspected")
    metrics = daemon.metrics()
    status, body = daemon.get("/readyz")
    assert (status, body) == (503, "camera idle: no frame yet\n")
    assert daemon.get("/healthz")[0] == 200
    assert not any("READY=1" in note for note in daemon.notes)
    assert daemon.stop() == 0

    defects = [event.data for event in journalled(tmp_path / "j.db", "defect") if isinstance(event.data, Defect)]
    assert len(defects) == 20
    for name in ("class1", "class2", "class3", "class4"):
        counted = sum(value for key, value in metrics.items() if key.startswith(f"defects_total{{defect_class={name},"))
        assert counted == sum(defect.defect_class.name == name for defect in defects) == 5
        assert metrics[f"segmenter_tiles_total{{defect_class={name}}}"] == 5
    assert metrics["gate_tiles_total"] == metrics["frames_captured_total{camera=a}"] == 40
    assert metrics["gate_passed_total"] == 20
    assert metrics["strip_inspected_metres_total{camera=a}"] == pytest.approx(40 * TILE[0] * 0.5 / 1000)
    assert metrics["frames_captured_total{camera=idle}"] == 0
    books = {entry.camera: entry for entry in proven(tmp_path / "j.db").books}
    assert (books["a"].issued, books["a"].inspected, books["idle"].issued) == (40, 40, 0)


def test_ready_then_watchdog_then_stopping(start: Start, pack: Path, tmp_path: Path) -> None:
    setup = config(pack, tmp_path / "j.db", filmed())
    daemon = start(setup, watchdog_s=0.5).ready()
    assert daemon.get("/readyz")[0] == 200
    assert "frames inspected" in daemon.told("WATCHDOG=1")
    daemon.term()
    assert "STATUS=" in daemon.told("STOPPING=1")
    assert daemon.wait() == 0
    proven(tmp_path / "j.db")
    states = [event.data for event in journalled(tmp_path / "j.db", "state") if isinstance(event.data, State)]
    assert [(state.part, state.state) for state in states] == [("a", "up")]


def test_it_ends_with_its_strip(start: Start, pack: Path, tmp_path: Path) -> None:
    setup = config(pack, tmp_path / "j.db", filmed(frames=30, frames_hz=500), monitor=None)
    daemon = start(setup)
    assert daemon.wait() == 0
    books = proven(tmp_path / "j.db").books[0]
    assert (books.issued, books.inspected) == (30, 30)


# ---------------------------------------------------------------- it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_load_drains(start: Start, pack: Path, tmp_path: Path, number: int) -> None:
    sources = pictures(tmp_path / "pictures")
    daemon = start(config(pack, tmp_path / "j.db", played(sources), played(sources, "b"))).ready()
    daemon.until(lambda: sum_lost(daemon, "overload"), "more frames than the line can take")
    daemon.process.send_signal(number)
    assert daemon.wait() == 0
    found = proven(tmp_path / "j.db")
    assert found.runs[-1].state is RunState.CLOSED
    for books in found.books:
        assert books.in_flight == 0
        assert books.issued == books.inspected + sum(books.lost.values())
    assert "Traceback" not in daemon.stderr


def sum_lost(daemon: Daemon, reason: str) -> float:
    return sum(
        value
        for name, value in daemon.metrics().items()
        if name.startswith("frames_lost_total") and f"reason={reason}," in name
    )


def test_a_second_signal_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    """The drain would take long: a full queue and a slow network."""
    pack = slow(make_pack(tmp_path / "pack"), size=512, products=20)
    daemon = start(config(pack, tmp_path / "j.db", filmed(frames_hz=100)))
    daemon.until(lambda: sum_lost(daemon, "overload"), "a full queue")
    daemon.term()
    daemon.told("STOPPING=1")
    daemon.term()
    assert daemon.wait() == -signal.SIGTERM


def test_sigterm_before_it_is_ready(start: Start, pack: Path, tmp_path: Path) -> None:
    daemon = start(config(pack, tmp_path / "j.db", filmed(hang_at_frame=0)))
    daemon.until(lambda: "monitor on" in daemon.stderr, "its start")
    assert daemon.stop() == 0
    assert proven(tmp_path / "j.db").runs[-1].state is RunState.CLOSED


def test_a_network_that_fails_at_run_time_ends_it_with_1(start: Start, tmp_path: Path) -> None:
    pack = make_pack(tmp_path / "pack")
    swap(pack, "gate", failing_gate(TILE, level=BAND[3]))
    daemon = start(config(pack, tmp_path / "j.db", played(pictures(tmp_path / "pictures")), line=lossless()))
    assert daemon.wait() == 1
    assert "network gate failed" in daemon.stderr
    assert "Traceback" not in daemon.stderr  # worded, so a trace would only hide it
    found = proven(tmp_path / "j.db")
    assert found.runs[-1].state is RunState.ABORTED
    books = found.books[0]
    assert books.lost[Reason.ABORTED] > 0
    assert books.issued == books.inspected + books.lost[Reason.ABORTED]

    # And systemd starts it again: with the network mended it tells of the hole.
    make_pack(pack)
    daemon = start(config(pack, tmp_path / "j.db", played(tmp_path / "pictures"), line=lossless())).ready()
    assert daemon.stop() == 0
    gap = next(event.data for event in journalled(tmp_path / "j.db", "gap"))
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.frames) == (Reason.CRASH, books.lost[Reason.ABORTED])
    proven(tmp_path / "j.db")


# ---------------------------------------------------------------- it refuses: 78 and one line


def refused(path: Path, *needles: str) -> None:
    """`run` refuses with 78 and one line that holds all of `needles`, and so does `check`."""
    done = command("run", path)
    said = io.StringIO()
    with redirect_stderr(said):
        code = main(["check", str(path)])
    for returned, text in ((done.returncode, done.stderr), (code, said.getvalue())):
        assert returned == 78, text
        assert len(text.splitlines()) == 1, text
        assert [needle for needle in needles if needle not in text] == [], text
    assert done.stdout == ""


@pytest.fixture
def good(pack: Path, tmp_path: Path) -> dict[str, Any]:
    return config(pack, tmp_path / "j.db", filmed(frames=3, pace="free"))


@pytest.mark.parametrize(
    ("place", "key", "needles"),
    [
        ((), "camera", ("`camera`", "`cameras`")),
        (("cameras", 0), "pitch", ("cameras", "`pitch`", "`pitch_mm`")),
        (("cameras", 0, "options"), "widht_px", ("cameras[0].options", "`widht_px`", "`width_px`")),
    ],
)
def test_an_unknown_key_is_named(
    good: dict[str, Any], tmp_path: Path, place: tuple[Any, ...], key: str, needles: tuple[str, ...]
) -> None:
    section: Any = good
    for step in place:
        section = section[step]
    section[key] = 1
    refused(write(tmp_path, good), *needles)
    assert not (tmp_path / "j.db").exists()


def test_what_is_no_configuration_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("line: {name: [hot\ncameras: ]")
    refused(broken, str(broken), "not valid YAML")
    refused(tmp_path / "none.yaml", "none.yaml")


def test_a_pack_that_is_missing_or_altered_is_refused(good: dict[str, Any], tmp_path: Path) -> None:
    refused(write(tmp_path, good | {"pack": str(tmp_path / "nowhere")}), "nowhere", "manifest.yaml")
    changed = make_pack(tmp_path / "changed")
    file = altered(changed)
    refused(write(tmp_path, good | {"pack": str(changed)}), str(file), "altered")
    file.unlink()
    refused(write(tmp_path, good | {"pack": str(changed)}), str(file))


def test_a_port_in_use_is_refused(good: dict[str, Any], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        refused(write(tmp_path, good | {"monitor": {"port": port}}), f"127.0.0.1:{port}", "in use")
        refused(write(tmp_path, good | {"sinks": [zeromq(f"tcp://127.0.0.1:{port}")]}), f"127.0.0.1:{port}", "in use")
    refused(write(tmp_path, good | {"sinks": [zeromq("tcp://0.0.0.0:5570")]}), "0.0.0.0:5570", "open to the network")


def test_a_journal_that_cannot_be_is_refused(good: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "j.db", tmp_path / "file" / "j.db", tmp_path / "file"):
        if path == tmp_path / "file":
            path.write_text("this is no journal, and it is longer than the head of one: " + "x" * 200)
        refused(write(tmp_path, good | {"journal": {"path": str(path)}}), str(path))
    assert (tmp_path / "file").read_text().startswith("this is no journal")
    read_only = Path("/proc/self")  # nobody may make a file here, not even root
    refused(write(tmp_path, good | {"journal": {"path": str(read_only / "j.db")}}), "/proc/self/j.db")


def test_a_journal_of_a_newer_version_is_refused(good: dict[str, Any], tmp_path: Path) -> None:
    assert command("run", write(tmp_path, good | {"monitor": None})).returncode == 0
    with sqlite3.connect(tmp_path / "j.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    refused(write(tmp_path, good), "j.db", "newer")


def test_a_journal_that_another_daemon_holds_is_refused(
    start: Start, pack: Path, good: dict[str, Any], tmp_path: Path
) -> None:
    daemon = start(config(pack, tmp_path / "j.db", filmed())).ready()
    refused(write(tmp_path, good, "second.yaml"), "j.db", "another daemon")
    assert daemon.get("/healthz")[0] == 200
    assert daemon.stop() == 0
    assert command("run", write(tmp_path, good | {"monitor": None}, "second.yaml")).returncode == 0
    assert len(proven(tmp_path / "j.db").runs) == 2


def test_an_events_file_without_a_folder_is_refused(good: dict[str, Any], tmp_path: Path) -> None:
    sink = {"kind": "jsonl", "options": {"path": str(tmp_path / "none" / "events.jsonl")}}
    refused(write(tmp_path, good | {"sinks": [sink]}), "none/events.jsonl", "mkdir")
