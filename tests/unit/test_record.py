"""record.py: the command in this process, to its end; what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inspector.__main__ import main
from inspector.errors import ConfigError
from inspector.record.session import Session
from tests.line.daemon import write
from tests.line.lines import config, filmed
from tests.packs import TILE


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def frames(piece: Path) -> list[int]:
    """Sequences of the frames in a recording."""
    lines = [json.loads(line) for line in (piece / "frames.jsonl").read_text().splitlines()]
    return [line["sequence"] for line in lines if line["kind"] == "frame"]


def free(name: str = "a", **options: Any) -> dict[str, Any]:
    return filmed(name, pace="free", **options)


def test_record_then_replay(tmp_path: Path, pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, config(pack, tmp_path / "j.db", filmed(frames_hz=200), filmed("b", frames_hz=200, seed=2)))
    out, events = tmp_path / "out", tmp_path / "events.jsonl"
    assert main(["record", str(path), "-o", str(out), "--frames", "40"]) == 0
    assert f"inspector replay {out}" in capsys.readouterr().out
    assert [frames(out / name) for name in "ab"] == [list(range(40))] * 2
    assert main(["replay", str(out), "--pack", str(pack), "--events", str(events)]) == 0
    assert "80 issued = 80 inspected + 0 lost" in capsys.readouterr().out
    found = [json.loads(line) for line in events.read_text().splitlines()]
    assert {event["subject"].split("/")[3] for event in found if event["subject"].startswith("defect/")} == {"a", "b"}
    assert {event["source"] for event in found} == {"/inspector/hot"}
    assert main(["record", str(path), "-o", str(out), "--frames", "1"]) == 78
    assert "holds a recording already" in capsys.readouterr().err


def test_a_strip_that_ends_and_a_pack_that_is_not_there(tmp_path: Path, pack: Path) -> None:
    """Nothing is inspected, so no pack is needed."""
    camera = free(frames=30, skip_frames=[7], die_at_frame=9)
    path = write(tmp_path, config(tmp_path / "no-pack", tmp_path / "j.db", camera))
    assert main(["record", str(path), "-o", str(tmp_path / "out")]) == 0
    found = frames(tmp_path / "out" / "a")
    assert found == [number for number in range(30) if number != 7][: len(found)]
    assert len(found) == 29
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "out/a/frames.jsonl").read_text().splitlines()]
    assert {kind: kinds.count(kind) for kind in set(kinds) - {"frame"}} == {"recording": 1, "state": 3, "loss": 1}


def test_a_camera_that_gives_nothing_is_no_success(
    tmp_path: Path, pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    camera = {"name": "a", "kind": "replay", "options": {"sources": [str(tmp_path / "empty")]}}
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "1.png").write_bytes(b"")
    path = write(tmp_path, config(pack, tmp_path / "j.db", camera))
    assert main(["record", str(path), "-o", str(tmp_path / "out")]) == 1
    assert "0 frames" in capsys.readouterr().out


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own; needs the right to mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_a_clean_end(tmp_path: Path, pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    camera = free(width_px=4096, height_px=256, prepared_frames=2)
    path = write(tmp_path, config(pack, tmp_path / "j.db", camera))
    with small_disk(tmp_path / "disk", 280) as disk:
        assert main(["record", str(path), "-o", str(disk / "out")]) == 1
        assert "disk is full" in capsys.readouterr().out
        found = frames(disk / "out" / "a")
        assert found
        assert (disk / "out" / "a" / "frames.raw").stat().st_size == len(found) * 4096 * 256
        assert main(["record", str(path), "-o", str(disk / "more")]) == 78
        assert re.search("more: the disk has only .* left. Make room", capsys.readouterr().err)


def test_what_does_not_fit_is_told_at_once(tmp_path: Path, pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, config(pack, tmp_path / "j.db", filmed()))
    assert main(["record", str(path), "-o", str(tmp_path / "out"), "--frames", str(10**12)]) == 1
    assert re.search("needs .* more and the disk has", capsys.readouterr().out)


def test_a_slow_disk_is_a_hole_and_no_wait(tmp_path: Path, pack: Path) -> None:
    """The writer does not run while the camera gives more than the queue holds."""
    from inspector.pipeline import load

    setup = load(write(tmp_path, config(pack, tmp_path / "j.db", free(frames=400))))
    session = Session(setup, setup.cameras, tmp_path / "out")
    session.crew.start()
    assert session.crew.join(60) == []
    session._writer.start()
    session.close()
    lane = session.lanes["a"]
    assert (lane.frames, lane.unrecorded) == (256, 144)
    assert (tmp_path / "out/a/frames.raw").stat().st_size == 256 * TILE[0] * TILE[1]
    last = json.loads((tmp_path / "out/a/frames.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["sequence"], last["count"], last["reason"]) == ("unrecorded", 256, 144, "slow")


@pytest.mark.parametrize(
    ("extra", "words"),
    [(["--camera", "nobody"], "there is no camera 'nobody'; known: a"), (["--camera", "a"], "file: is a file")],
)
def test_what_cannot_be_recorded_is_told(
    tmp_path: Path, pack: Path, extra: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    path = write(tmp_path, config(pack, tmp_path / "j.db", filmed()))
    assert main(["record", str(path), "-o", str(tmp_path / "file"), *extra]) == 78
    assert words in capsys.readouterr().err


def test_a_flat_field_that_cannot_be_read_is_told(tmp_path: Path, pack: Path) -> None:
    from inspector.pipeline import load

    camera = filmed() | {"flat_field": str(tmp_path / "none.npz")}
    setup = load(write(tmp_path, config(pack, tmp_path / "j.db", camera)))
    with pytest.raises(ConfigError, match=r"none\.npz: cannot be read"):
        Session(setup, setup.cameras, tmp_path / "out")
