"""The command line as others script against it: what it prints, what it leaves alone, its exit codes."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import msgspec
import pytest

import inspector
from inspector.__main__ import main
from inspector.cameras import synthetic
from inspector.config import convert
from inspector.events import Defect, Event, Gap
from inspector.pool import Pool
from tests.conftest import Start
from tests.line.daemon import Daemon, command, environment, journalled, proven, write, written
from tests.line.lines import altered, config, filmed, lossless, picture, pictures, played
from tests.packs import make_pack

COMMANDS = ("run", "check", "demo", "replay", "listen", "audit", "doctor")


def said(*arguments: str | Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as done:
            code = int(done.code or 0)
    return code, out.getvalue(), err.getvalue()


# ---------------------------------------------------------------- usage


def test_help_and_version() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
    for name in COMMANDS:
        code, out, _ = said(name, "--help")
        assert code == 0
        assert f"inspector {name}" in out
    assert said("--version") == (0, f"inspector {inspector.__version__}\n", "")


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("inspect",),
        ("run",),
        ("run", "a", "b"),
        ("replay", "x"),
        ("replay", "x", "--pack", "y", "--batch", "0"),
        ("demo", "--seconds", "soon"),
        ("audit", "--json"),
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_wrong_usage_is_2(wrong: tuple[str, ...]) -> None:
    code, out, err = said(*wrong)
    assert (code, out) == (2, "")
    assert "usage: inspector" in err


# ---------------------------------------------------------------- check


def test_check_prints_the_line_and_opens_nothing(pack: Path, tmp_path: Path) -> None:
    sources = pictures(tmp_path / "pictures")
    sinks = [
        {"kind": "jsonl", "options": {"path": str(tmp_path / "events.jsonl")}},
        {"kind": "zeromq", "options": {"address": f"ipc://{tmp_path}/s"[:100]}},
    ]
    setup = config(pack, tmp_path / "j.db", played(sources, "left"), filmed("right"), sinks=sinks)
    path = write(tmp_path, setup)
    before = sorted(tmp_path.iterdir())
    code, out, err = said("check", path)
    assert (code, err) == (0, "")
    for word in ("hot", "bands", "class4", "onnx", "camera left", "replay", "camera right", "synthetic", "j.db"):
        assert word in out, word
    for word in ("sink jsonl", "sink zeromq", "monitor", "/readyz"):
        assert word in out, word
    assert sorted(tmp_path.iterdir()) == before


def test_check_of_a_line_that_runs_forgives_it_what_it_has_and_nothing_else(
    start: Start, pack: Path, tmp_path: Path, ipc: str
) -> None:
    """What an upgrade and a reload ask: would the daemon that comes next take this?"""
    sinks = [{"kind": "zeromq", "options": {"address": ipc}}]
    setup = config(
        pack, tmp_path / "j.db", filmed(), sinks=sinks, control={"address": f"{ipc}.c"}, history={"address": f"{ipc}.h"}
    )
    daemon = start(setup).ready()
    port = int(daemon.monitor().rpartition(":")[2])
    file = write(tmp_path, setup | {"monitor": {"port": port}})
    code, _, err = said("check", file)
    assert (code, "another daemon" in err) == (78, True)
    assert said("check", "--running", file)[0] == 0
    code, _, err = said("check", "--running", write(tmp_path, setup | {"pack": str(tmp_path)}))
    assert (code, "manifest.yaml" in err) == (78, True)
    assert daemon.stop() == 0


def test_check_leaves_a_finished_journal_alone(pack: Path, tmp_path: Path) -> None:
    path = write(tmp_path, config(pack, tmp_path / "j.db", filmed(pace="free", frames=3), monitor=None))
    assert command("run", path).returncode == 0
    before = {file: file.read_bytes() for file in (tmp_path / "j.db", tmp_path / "j.db.lock")}
    assert said("check", path)[0] == 0
    assert {file: file.read_bytes() for file in before} == before
    assert not (tmp_path / "j.db-wal").exists() or (tmp_path / "j.db-wal").stat().st_size == 0


# ---------------------------------------------------------------- audit


@pytest.fixture(scope="module")
def closed_journal(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The journal of a strip of 60 frames, four of them missing."""
    folder = tmp_path_factory.mktemp("closed")
    camera = filmed(pace="free", frames=60, skip_frames=[5, 6, 7, 30])
    setup = config(pack, folder / "j.db", camera, line=lossless(), monitor=None)
    assert command("run", write(folder, setup)).returncode == 0
    return (folder / "j.db").read_bytes()


def test_audit_proves_a_good_journal(closed_journal: bytes, tmp_path: Path) -> None:
    (tmp_path / "j.db").write_bytes(closed_journal)
    code, out, err = said("audit", tmp_path / "j.db")
    assert (code, err) == (0, "")
    assert "60" in out
    assert "missing 4" in out
    assert "The books balance" in out


@pytest.mark.parametrize(
    ("tampering", "told"),
    [
        ("DELETE FROM fate WHERE reason IS NOT NULL AND first = 30", "frame 30: no fate"),
        ("UPDATE fate SET first = first + 1 WHERE first = 0", "frame 0: no fate"),
        ("UPDATE fate SET last = last + 1 WHERE last = 59", "only 60 frames were issued"),
        ("UPDATE fate SET last = last + 1 WHERE first = 5", "more than one fate"),
        ("UPDATE fate SET reason = NULL WHERE first = 5", "missing"),
        ("UPDATE book SET issued = issued + 1", "frame 60: no fate"),
        ("DELETE FROM event WHERE id = (SELECT max(id) FROM event WHERE kind = 'defect')", "absent"),
    ],
)
def test_audit_finds_what_was_tampered_with(closed_journal: bytes, tmp_path: Path, tampering: str, told: str) -> None:
    path = tmp_path / "j.db"
    path.write_bytes(closed_journal)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute(tampering).rowcount == 1
    code, out, _ = said("audit", path)
    assert code == 1
    assert "THE BOOKS DO NOT BALANCE" in out
    assert told in out


def test_audit_of_what_is_no_journal_is_1_and_one_line(closed_journal: bytes, tmp_path: Path) -> None:
    (tmp_path / "torn.db").write_bytes(closed_journal[: len(closed_journal) // 2])
    (tmp_path / "text.db").write_text("no journal at all " * 100)
    (tmp_path / "empty.db").touch()
    for name in ("none.db", "torn.db", "text.db", "empty.db"):
        code, out, err = said("audit", tmp_path / name)
        assert (code, out) == (1, ""), name
        assert name in err
        assert len(err.splitlines()) == 1


# ---------------------------------------------------------------- listen


def test_listen_prints_what_is_journalled(start: Start, pack: Path, tmp_path: Path, ipc: str) -> None:
    sinks = [{"kind": "zeromq", "options": {"address": ipc}}]
    setup = config(pack, tmp_path / "j.db", played(pictures(tmp_path / "pictures")), sinks=sinks, line=lossless())
    daemon = start(setup).ready()
    with subprocess.Popen(
        [sys.executable, "-m", "inspector", "listen", ipc, "--json", "--topic", "defect/v1/hot/a/2/"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as ears:
        try:
            lines = read_lines(ears, 30, daemon)
            ears.send_signal(signal.SIGTERM)
            _, err = ears.communicate(timeout=60)
        finally:
            ears.kill()
    assert ears.returncode == 0
    assert daemon.stop() == 0
    heard = [msgspec.json.decode(line, type=Event) for line in lines]
    stored = [event for event in journalled(tmp_path / "j.db", "defect") if event.subject == "defect/v1/hot/a/2/"]
    first = heard[0].sequence - 1
    assert heard == stored[first : first + 30]
    assert b"LOST" not in err


def read_lines(process: subprocess.Popen[bytes], count: int, daemon: Daemon) -> list[bytes]:
    assert process.stdout is not None
    os_file, data = process.stdout.fileno(), b""

    def enough() -> bool:
        nonlocal data
        while select.select([os_file], [], [], 0)[0]:
            more = os.read(os_file, 65536)
            assert more, "listen ended by itself"
            data += more
        return data.count(b"\n") >= count

    daemon.until(enough, f"{count} lines of listen")
    return data.split(b"\n")[:count]


def test_listen_to_a_bad_address_is_78() -> None:
    code, out, err = said("listen", "127.0.0.1:5570")
    assert (code, out) == (78, "")
    assert "tcp://127.0.0.1:5570" in err


# ---------------------------------------------------------------- doctor


def test_doctor_knows_a_good_pack_from_an_altered_one(pack: Path, tmp_path: Path) -> None:
    done = command("doctor", pack)
    assert done.returncode == 0, done.stdout
    assert "bands" in done.stdout
    broken = make_pack(tmp_path / "broken")
    altered(broken)
    code, out, _ = said("doctor", broken, "--json")
    assert code == 1
    assert "altered" in json.dumps(json.loads(out))


# ---------------------------------------------------------------- replay


def test_replay_of_good_and_bad_pictures(pack: Path, tmp_path: Path) -> None:
    sources = pictures(tmp_path / "pictures", count=6)
    whole = cv2.imencode(".jpg", picture(0))[1].tobytes()
    (sources / "1a.jpg").write_bytes(whole[: len(whole) // 2])
    (sources / "3a.png").touch()
    (sources / "notes.txt").write_text("not a picture, and not named like one")
    done = command(
        *("replay", sources, "--pack", pack, "--journal", tmp_path / "j.db"),
        *("--events", tmp_path / "events.jsonl", "--report", tmp_path / "coil.html"),
    )
    assert done.returncode == 0, done.stderr
    books = proven(tmp_path / "j.db").books[0]
    assert (books.issued, books.inspected, books.lost) == (8, 6, {"unreadable": 2})
    events = written(tmp_path / "events.jsonl")
    assert events == journalled(tmp_path / "j.db")
    gaps = [event.data for event in events if isinstance(event.data, Gap)]
    assert [(gap.source, gap.reason, gap.frames) for gap in gaps] == [
        ("1a.jpg", "unreadable", 1),
        ("3a.png", "unreadable", 1),
    ]
    defects = [event.data for event in events if isinstance(event.data, Defect)]
    assert [(defect.source, defect.defect_class.number) for defect in defects] == [
        ("1.png", 1),
        ("3.png", 2),
        ("5.png", 3),
    ]
    for word in ("1a.jpg", "3a.png", "8 issued = 6 inspected + 2 lost", "balance"):
        assert word in done.stdout, done.stdout
    assert "1a.jpg" in (tmp_path / "coil.html").read_text()


def test_replay_tells_of_every_picture_what_a_stranger_needs_to_score_it(pack: Path, tmp_path: Path) -> None:
    """A clean one, a defective one, a torn one, one without a suffix, and a table that is none."""
    sources = tmp_path / "images"
    sources.mkdir()
    for name, number in (("clean.png", 0), ("defect.png", 3)):
        cv2.imwrite(str(sources / name), picture(number))
    (sources / "nameless").write_bytes((sources / "defect.png").read_bytes())
    whole = (sources / "clean.png").read_bytes()
    (sources / "torn.png").write_bytes(whole[: len(whole) // 2])
    (sources / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n")
    done = command(
        *("replay", sources, "--pack", pack, "--journal", tmp_path / "j.db"),
        *("--events", tmp_path / "events.jsonl", "--frames", tmp_path / "frames.jsonl"),
    )
    assert done.returncode == 0, done.stderr
    assert "passed over: train.csv (1 entry is no picture, video or recording)" in done.stdout
    assert str(tmp_path / "frames.jsonl") in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    events = [event.data for event in written(tmp_path / "events.jsonl")]
    books = proven(tmp_path / "j.db").books[0]
    assert [(line["source"], line["outcome"], line["passed"], line["events"]) for line in lines] == [
        ("clean.png", "inspected", False, 0),
        ("defect.png", "inspected", True, 1),
        ("nameless", "inspected", True, 1),
        ("torn.png", "unreadable", None, 0),
    ]
    assert [(line["camera"], line["frame_sequence"]) for line in lines] == [
        (books.camera, number) for number in range(books.issued)
    ]
    assert [line["source"] for line in lines if line["events"]] == [
        event.source for event in events if isinstance(event, Defect)
    ]
    assert [(line["source"], line["outcome"]) for line in lines if line["gate_score"] is None] == [
        (event.source, event.reason) for event in events if isinstance(event, Gap)
    ]
    assert Counter(line["outcome"] for line in lines) == {"inspected": books.inspected, **books.lost}
    assert lines[0]["gate_score"] < lines[1]["gate_score"] == lines[2]["gate_score"]


@pytest.mark.parametrize("option", ["--events", "--frames"])
def test_replay_names_the_option_whose_file_cannot_be_written(pack: Path, tmp_path: Path, option: str) -> None:
    file = tmp_path / "none" / "out.jsonl"
    code, _, err = said("replay", pictures(tmp_path / "pictures"), "--pack", pack, option, file)
    assert code == 78
    assert err == (f"inspector: {option} {file}: there is no folder {file.parent}. Create it: mkdir -p {file.parent}\n")


def test_replay_without_a_source_or_pack_is_78(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, engines, name in (
        (tmp_path / "none", pack, "none"),
        (tmp_path / "empty", pack, "empty"),
        (pictures(tmp_path / "pictures"), tmp_path / "no-pack", "no-pack"),
    ):
        code, _, err = said("replay", source, "--pack", engines)
        assert code == 78
        assert name in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("height", "width"), [(32, 64), (50, 150)], ids=["as the tile", "in lanes"])
def test_the_same_frames_live_and_replayed_give_the_same_events(
    start: Start, pack: Path, tmp_path: Path, height: int, width: int
) -> None:
    count = 40
    camera = filmed(pace="free", frames=count, height_px=height, width_px=width, prepared_frames=0, edges="left")
    daemon = start(config(pack, tmp_path / "live.db", camera, line=lossless(), batch={"size": 5}))
    assert daemon.wait() == 0

    save(camera["options"], tmp_path / "pictures")
    code, _, err = said(
        *("replay", tmp_path / "pictures", "--contiguous", "--pack", pack, "--journal", tmp_path / "replayed.db"),
        *("--coil", "c1", "--batch", "3"),
    )
    assert code == 0, err
    live, replayed = told(tmp_path / "live.db"), told(tmp_path / "replayed.db")
    assert len(live) > count / 2
    assert live == replayed
    for name in ("live.db", "replayed.db"):
        books = proven(tmp_path / name).books[0]
        assert (books.issued, books.inspected) == (count, count)


def save(options: dict[str, Any], folder: Path) -> None:
    """The frames of a synthetic camera as pictures without loss."""
    folder.mkdir()
    pool = Pool(1)
    with synthetic.open("a", convert(options, synthetic.Options)) as camera:
        while (frame := camera.read(pool, 1.0)) is not None:
            cv2.imwrite(str(folder / f"{frame.sequence:04}.png"), frame.pixels)  # type: ignore[union-attr]
            frame.release()  # type: ignore[union-attr]


def told(path: Path) -> list[dict[str, Any]]:
    """The defects of a journal, but for who saw them and when."""
    found = [msgspec.to_builtins(event.data) for event in journalled(path, "defect")]
    for data in found:
        for key in ("camera", "source", "exposed_ns", "exposed_time"):
            del data[key]
    return found
