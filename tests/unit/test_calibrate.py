"""calibrate.py: the command over cameras that play pictures: what it writes, says and refuses."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pytest
import yaml

from inspector.__main__ import main
from inspector.calibrate import SKIPPED, _Session
from inspector.cameras import Link, synthetic
from inspector.errors import CalibrationError, CameraError
from inspector.events import Reason
from inspector.flatfield import FlatField
from inspector.journal import Journal
from inspector.pool import Pool
from inspector.records import Frame, Loss, Pixels
from tests.unit.test_reference import Bench

FRAMES = 24
NEEDED = SKIPPED + FRAMES + FRAMES // 4


def said(*arguments: str | Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["calibrate", *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def pictures(folder: Path, frames: list[Pixels]) -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:03}.png"), frame)
    return folder


def played(folder: Path, name: str = "top1", **settings: Any) -> dict[str, Any]:
    return {"name": name, "kind": "replay", "options": {"sources": [str(folder)]}, **settings}


def line(tmp_path: Path, pack: Path, *cameras: dict[str, Any]) -> Path:
    path = tmp_path / "line.yaml"
    raw = {"line": {"name": "hot"}, "pack": str(pack), "cameras": list(cameras), "journal": {"path": "j.db"}}
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def lit(tmp_path: Path, bench: Bench) -> Path:
    return pictures(tmp_path / "lit", [bench.frame() for _ in range(NEEDED)])


# ---------------------------------------------------------------- what it makes


def test_a_camera_is_calibrated_and_its_frames_are_even(tmp_path: Path, pack: Path, bench: Bench, lit: Path) -> None:
    config = line(tmp_path, pack, played(lit, flat_field="top1.npz"))
    code, out, err = said(config, "--camera", "top1", "--frames", str(FRAMES))
    assert code == 0, err
    made = FlatField.load(tmp_path / "top1.npz")
    assert (made.origin.camera, made.origin.frames, made.width) == ("top1", FRAMES, bench.width)
    assert made.origin.reference is not None
    assert np.abs(made.origin.reference - bench.grey * bench.light - bench.offset).max() < 4
    picture = bench.frame()
    before, after = np.ptp(picture.mean(axis=0)), picture.copy()
    made.correct(after)
    assert np.ptp(after.mean(axis=0)) < before / 2
    assert f"{FRAMES} frames of {bench.width} columns" in out
    assert "% before, " in out
    assert "measured on 6 more frames" in out
    assert "without light │ no columns" in out
    assert "none measured" in out
    assert "flat_field:" not in out
    assert f"written to {tmp_path / 'top1.npz'}" in err


def test_the_offset_is_measured_first_and_kept(tmp_path: Path, pack: Path, bench: Bench, lit: Path) -> None:
    black = [bench.seen(np.zeros((64, bench.width))) for _ in range(NEEDED)]
    dark = pictures(tmp_path / "dark", black)
    file = tmp_path / "top1.npz"
    code, out, err = said(line(tmp_path, pack, played(dark)), "--dark", "--frames", str(FRAMES), "-o", file)
    assert code == 0, err
    assert "the same command without --dark" in out
    first = FlatField.load(file)
    assert np.abs(first.offset - bench.offset).max() <= 1
    assert (first.gain == 1).all()
    assert (first.origin.dark_frames, first.origin.frames) == (FRAMES, 0)

    code, out, err = said(line(tmp_path, pack, played(lit)), "--frames", str(FRAMES), "-o", file)
    assert code == 0, err
    second = FlatField.load(file)
    assert (second.offset == first.offset).all()
    assert (second.origin.dark_ns, second.origin.frames) == (first.origin.dark_ns, FRAMES)
    share = second.gain * bench.light
    assert np.abs(share / share.mean() - 1).max() < 0.05
    assert FlatField.load(tmp_path / "top1.npz.bak").origin.frames == 0

    code, _, err = said(line(tmp_path, pack, played(dark)), "--dark", "--frames", str(FRAMES), "-o", file)
    assert code == 0, err
    assert (FlatField.load(file).gain == second.gain).all()


def test_the_yaml_to_write_is_shown_where_it_is_missing(tmp_path: Path, pack: Path, lit: Path) -> None:
    config = line(tmp_path, pack, played(lit))
    code, out, err = said(config, "--frames", str(FRAMES))
    assert code == 0, err
    assert (tmp_path / "top1.npz").exists()
    assert f"In {config}, under `- name: top1`:" in out
    assert "    flat_field: top1.npz" in out


def test_a_file_that_cannot_be_used_is_replaced_and_said(tmp_path: Path, pack: Path, lit: Path) -> None:
    (tmp_path / "top1.npz").write_text("nonsense")
    code, _, err = said(line(tmp_path, pack, played(lit)), "--frames", str(FRAMES))
    assert code == 0
    assert "the file that is replaced is of no use" in err
    assert FlatField.load(tmp_path / "top1.npz").origin.frames == FRAMES
    assert (tmp_path / "top1.npz.bak").read_text() == "nonsense"


# ---------------------------------------------------------------- what it refuses, and that it leaves all as it was


def test_what_is_no_reference_changes_nothing(tmp_path: Path, pack: Path) -> None:
    dim = Bench(grey=20, dark=0)
    folder = pictures(tmp_path / "dim", [dim.frame() for _ in range(NEEDED)])
    file = tmp_path / "top1.npz"
    FlatField.identity(dim.width).save(file)
    before = file.read_bytes()
    code, out, err = said(line(tmp_path, pack, played(folder)), "--frames", str(FRAMES))
    assert (code, out) == (1, "")
    assert "inspector: camera top1: too dark" in err
    assert file.read_bytes() == before
    assert not (tmp_path / "top1.npz.bak").exists()


def test_a_light_that_changes_meanwhile_is_found_on_further_frames(tmp_path: Path, pack: Path, bench: Bench) -> None:
    frames = [bench.frame() for _ in range(SKIPPED + FRAMES)]
    bench.light = bench.light[::-1] ** 2
    frames += [bench.frame() for _ in range(FRAMES // 4)]
    config = line(tmp_path, pack, played(pictures(tmp_path / "p", frames)))
    code, _, err = said(config, "--frames", str(FRAMES))
    assert code == 1
    assert "the light changed" in err
    assert not (tmp_path / "top1.npz").exists()


def test_a_camera_that_ends_too_soon_is_told(tmp_path: Path, pack: Path, lit: Path) -> None:
    code, _, err = said(line(tmp_path, pack, played(lit)), "--frames", str(NEEDED))
    assert code == 1
    assert "camera top1: it ended with" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--camera", "top3"], "--camera: there is no camera 'top3'; the configuration has top1, top2"),
        ([], "--camera: name one camera; the configuration has top1, top2"),
        (["--camera", "top1", "-o", "nowhere/x.npz"], "nowhere/x.npz: cannot be written"),
    ],
)
def test_a_wrong_request_is_a_wrong_configuration(tmp_path: Path, pack: Path, arguments: list[str], says: str) -> None:
    cameras = [{"name": name, "kind": "synthetic"} for name in ("top1", "top2")]
    code, _, err = said(line(tmp_path, pack, *cameras), *arguments)
    assert code == 78
    assert says in err


def test_a_camera_that_the_daemon_holds_is_left_to_it(tmp_path: Path, pack: Path, lit: Path) -> None:
    config = line(tmp_path, pack, played(lit))
    with Journal.open(
        tmp_path / "j.db", line="hot", source="/hot", synchronous=False, capacity_frames=9, cameras=["top1"], digest=""
    ):
        code, _, err = said(config, "--frames", str(FRAMES))
    assert code == 1
    assert "the daemon of this line is running and holds it: stop the daemon first" in err
    assert not (tmp_path / "top1.npz").exists()


class Taken(synthetic.SyntheticCamera):
    """A camera that somebody else has open."""

    def __enter__(self) -> Self:
        raise CameraError("camera top1: access denied")


def test_a_camera_that_does_not_open_is_said_in_its_own_words(
    tmp_path: Path, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "open", Taken)
    code, _, err = said(line(tmp_path, pack, {"name": "top1", "kind": "synthetic"}))
    assert code == 1
    assert "camera top1: access denied" in err


# ---------------------------------------------------------------- frames


class Scripted:
    """A camera that gives what it is told to, then nothing."""

    def __init__(self, *gives: Frame | Loss) -> None:
        self.ended = False
        self.link = Link()
        self._gives = list(gives)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        return self._gives.pop(0) if self._gives else None


def frame(grey: int, counts_per_line: float | None = None, released: list[int] | None = None) -> Frame:
    given = Frame("a", grey, 0, 0, 0, np.full((4, 8), grey, dtype=np.uint8), counts_per_line=counts_per_line)
    if released is not None:
        given.on_release = lambda: released.append(grey)
    return given


def test_losses_are_said_and_frames_of_standing_strip_passed_over() -> None:
    heard: list[str] = []
    released: list[int] = []
    loss = Loss("a", 3, 2, Reason.PACKETS, "the network")
    gives = [frame(n, 0.0 if n == 4 else None, released) for n in range(7)]
    session = _Session("a", Scripted(*gives[:3], loss, *gives[3:]), heard.append)
    assert [int(pixels[0, 0]) for pixels in session.frames(3)] == [2, 3, 5]
    assert [int(pixels[0, 0]) for pixels in session.frames(1)] == [6]
    assert heard == ["lost 2 frame(s): packets the network"]
    assert released == list(range(7))


def test_a_strip_that_stands_is_not_waited_for_for_ever() -> None:
    session = _Session("a", Scripted(*[frame(1, 0.0)] * 5), print, silent_s=0.0)
    with pytest.raises(CalibrationError, match="the strip stands"):
        list(session.frames(4))


def test_a_camera_that_is_silent_is_not_waited_for_for_ever() -> None:
    with synthetic.open("a", synthetic.Options(hang_at_frame=3, width_px=16, height_px=8, pace="free")) as camera:
        session = _Session("a", camera, print, silent_s=0.0)
        with pytest.raises(CalibrationError, match="no frame of moving strip for 0 s: look at link and trigger"):
            list(session.frames(4))
