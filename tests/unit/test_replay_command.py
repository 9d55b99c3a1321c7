"""replay.py: a folder of pictures, good and bad, from the command to the files that it leaves."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inspector import journal
from inspector.__main__ import main
from inspector.errors import ConfigError
from inspector.events import Defect
from inspector.grading import Grading
from inspector.pipeline import Line
from inspector.records import Graded, Pixels, Verdicts
from inspector.replay import Request, replay
from inspector.report import CoilReport, render
from inspector.rle import decode
from inspector.service import watch
from tests import networks
from tests.packs import TILE, make_pack, paint

HEIGHT, WIDTH = TILE


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack"))


def picture(*boxes: tuple[int, int, int, int, int], height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    pixels = np.full((height, width), 90, dtype=np.uint8)
    for number, y, x, h, w in boxes:
        paint(pixels, number, y, x, h, w)
    return pixels


def colour(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[:, :, None], 3, axis=2)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Good pictures among bad ones: grey, colour, of odd sizes, clean, torn, empty, and no picture at all."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    good: dict[str, Pixels] = {
        "01.png": picture((1, 5, 8, 6, 7)),
        "02.bmp": colour(picture((2, 10, 20, 8, 9))),
        "04.png": picture((3, 20, 100, 30, 10), (4, 2, 5, 9, 9), height=77, width=150),
        "06.tiff": picture((1, 3, 3, 5, 5), height=11, width=20),
        "07.png": picture(),
        "10.png": picture((2, 0, 0, HEIGHT, 6)),
    }
    for name, pixels in good.items():
        assert cv2.imwrite(str(folder / name), pixels)
    whole = (folder / "01.png").read_bytes()
    (folder / "03.png").write_bytes(whole[: len(whole) // 2])
    (folder / "05.jpg").write_bytes(b"")
    (folder / "08.png").write_text("no picture")
    (folder / "notes.txt").write_text("roll 4711")
    return folder


@pytest.fixture
def request_of(tmp_path: Path, pictures: Path, engines: Path) -> Request:
    return Request(
        sources=[pictures],
        pack=engines,
        events=tmp_path / "events.jsonl",
        frames=tmp_path / "frames.jsonl",
        report=tmp_path / "report.html",
        journal=tmp_path / "journal.db",
    )


def written(request: Request) -> list[dict[str, Any]]:
    assert request.events is not None
    return [json.loads(line) for line in request.events.read_text().splitlines()]


def framed(request: Request) -> list[dict[str, Any]]:
    assert request.frames is not None
    return [json.loads(line) for line in request.frames.read_text().splitlines()]


def of_kind(request: Request, kind: str) -> list[dict[str, Any]]:
    return [event["data"] for event in written(request) if event["data"]["kind"] == kind]


def test_a_folder_with_bad_pictures_among_good_ones(request_of: Request) -> None:
    assert replay(request_of) == 0
    assert [(d["source"], d["defect_class"]["number"], d["area_px"]) for d in of_kind(request_of, "defect")] == [
        ("01.png", 1, 42),
        ("02.bmp", 2, 72),
        ("04.png", 4, 81),
        ("04.png", 3, 300),
        ("06.tiff", 1, 25),
        ("10.png", 2, 192),
    ]
    gaps = of_kind(request_of, "gap")
    assert [(gap["source"], gap["reason"], gap["frames"]) for gap in gaps] == [
        ("03.png", "unreadable", 1),
        ("05.jpg", "unreadable", 1),
        ("08.png", "unreadable", 1),
    ]
    assert all(gap["detail"] for gap in gaps)
    assert "0 bytes" in gaps[1]["detail"]


def test_masks_are_those_that_were_painted(request_of: Request, pictures: Path) -> None:
    assert replay(request_of) == 0
    found = of_kind(request_of, "defect")
    by_source: dict[str, np.ndarray] = {}
    for defect in found:
        height, width = defect["mask"]["size"]
        mask = decode(defect["mask"]["rle"], height, width)
        by_source[defect["source"]] = by_source.get(defect["source"], np.zeros_like(mask)) | mask
    assert len(by_source) == 5
    for source, mask in by_source.items():
        pixels = cv2.imread(str(pictures / source), cv2.IMREAD_GRAYSCALE)
        assert pixels is not None
        np.testing.assert_array_equal(mask, pixels > 190)


def test_places_run_on_over_all_pictures(request_of: Request) -> None:
    """Those that cannot be read too; a place is that of the box's middle, at 0.5 mm a pixel."""
    assert replay(request_of) == 0
    first, second = of_kind(request_of, "defect")[:2]
    assert first["position_mm"] == {"along": 4.0, "across": 5.75}
    assert second["position_mm"] == {"along": 16.0 + 7.0, "across": 12.25}
    gap = of_kind(request_of, "gap")[0]
    # 03.png: its own header still tells its height
    assert (gap["along_mm"]["start"], gap["along_mm"]["end"]) == (32.0, 48.0)


def test_the_books_of_the_journal_balance(request_of: Request) -> None:
    assert replay(request_of) == 0
    assert request_of.journal is not None
    found = journal.audit(request_of.journal)
    assert found.problems == []
    (books,) = found.books
    assert (books.issued, books.inspected, dict(books.lost)) == (9, 6, {"unreadable": 3})
    stored = [e.data for e in journal.read_events(request_of.journal, kinds=["defect"])]
    assert [d.source for d in stored if isinstance(d, Defect)] == [d["source"] for d in of_kind(request_of, "defect")]
    assert len(list(journal.read_thumbnails(request_of.journal))) == 6


def test_the_report_stands_alone_and_names_every_picture_with_a_defect(request_of: Request) -> None:
    assert replay(request_of) == 0
    assert request_of.report is not None
    page = request_of.report.read_text()
    for name in ("01.png", "02.bmp", "03.png", "04.png", "05.jpg", "06.tiff", "08.png", "10.png", "class3"):
        assert name in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)


def test_the_report_is_as_long_as_the_strip_with_its_gaps(request_of: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the last pictures would lie behind the end of the map."""
    lengths = []

    def noting(found: CoilReport, path: Path) -> None:
        lengths.append(found.length_mm)
        render(found, path)

    monkeypatch.setattr("inspector.replay.render", noting)
    assert replay(request_of) == 0
    last = of_kind(request_of, "defect")[-1]
    assert lengths[0] == pytest.approx(last["position_mm"]["along"] + HEIGHT / 2 * 0.5)


def test_the_summary_says_what_was_not_inspected(request_of: Request, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(request_of) == 0
    out = capsys.readouterr().out
    assert "9 issued = 6 inspected + 3 lost (3 unreadable)" in " ".join(out.split())
    for name in ("03.png", "05.jpg", "08.png"):
        assert f"not inspected: {name}" in out
    assert "balance" in out
    assert "2 x 1 class1" in out


def test_each_frame_has_a_line_that_agrees_with_books_and_events(request_of: Request) -> None:
    assert replay(request_of) == 0
    found = framed(request_of)
    assert [line["frame_sequence"] for line in found] == list(range(9))
    assert [(line["source"], line["events"]) for line in found if line["outcome"] == "inspected"] == [
        ("01.png", 1), ("02.bmp", 1), ("04.png", 2), ("06.tiff", 1), ("07.png", 0), ("10.png", 1),
    ]  # fmt: skip
    lost = [line for line in found if line["outcome"] != "inspected"]
    assert [(line["frame_sequence"], line["source"], line["outcome"]) for line in lost] == [
        (gap["frame_sequence"], gap["source"], gap["reason"]) for gap in of_kind(request_of, "gap")
    ]
    assert all(line["gate_score"] is line["passed"] is line["pack_digest"] is None for line in lost)
    for line in found:
        if line["outcome"] == "inspected":
            assert line["passed"] is (line["source"] != "07.png")
            assert line["gate_score"] == (0.0 if line["source"] == "07.png" else 1.0)
    (digest,) = {line["pack_digest"] for line in found} - {None}
    assert digest == of_kind(request_of, "defect")[0]["pack_digest"]


def test_frames_that_nothing_of_which_is_strip_were_asked_nothing(tmp_path: Path, request_of: Request) -> None:
    assert cv2.imwrite(str(tmp_path / "dark.png"), np.zeros(TILE, dtype=np.uint8))
    dark = replace(request_of, sources=[tmp_path / "dark.png"])
    assert replay(dark) == 0
    (line,) = framed(dark)
    assert (line["source"], line["outcome"], line["gate_score"], line["passed"]) == (
        "dark.png", "inspected", None, None,
    )  # fmt: skip


def test_what_is_passed_over_is_told_where_the_books_are(
    request_of: Request, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "11").write_bytes((pictures / "01.png").read_bytes())
    assert replay(request_of) == 0
    out = capsys.readouterr().out
    assert out.count("passed over: notes.txt (1 entry is no picture, video or recording)") == 1
    assert "10 issued = 7 inspected + 3 lost" in out
    (pictures / "notes.txt").unlink()
    assert replay(replace(request_of, journal=None)) == 0
    assert "passed over" not in capsys.readouterr().out


def test_the_batch_does_not_change_a_byte(request_of: Request) -> None:
    results = []
    for batch in (1, 4, 50):
        assert replay(replace(request_of, batch=batch, journal=None, report=None)) == 0
        results.append([event["data"] for event in written(request_of) if event["data"]["kind"] != "state"])
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == 6 + 3 + 2


def test_the_batch_does_not_change_a_line_for_a_frame_either(request_of: Request) -> None:
    found = []
    for batch in (1, 50):
        assert replay(replace(request_of, batch=batch, journal=None, report=None)) == 0
        found.append(framed(request_of))
    assert found[0] == found[1]
    assert len(found[0]) == 9


def test_pictures_of_one_strip_are_joined_only_if_asked(tmp_path: Path, request_of: Request) -> None:
    folder = tmp_path / "strip"
    folder.mkdir()
    for name in ("1.png", "2.png", "10.png"):
        assert cv2.imwrite(str(folder / name), picture((3, 0, 10, HEIGHT, 5)))
    apart = replace(request_of, sources=[folder])
    assert replay(apart) == 0
    assert [(d["source"], d["frames"]) for d in of_kind(apart, "defect")] == [("1.png", 1), ("2.png", 1), ("10.png", 1)]
    assert replay(replace(apart, contiguous=True, journal=None)) == 0
    assert [(d["source"], d["frames"], d["mask"]["size"]) for d in of_kind(apart, "defect")] == [
        ("1.png", 3, [3 * HEIGHT, WIDTH])
    ]
    assert [(line["source"], line["events"]) for line in framed(apart)] == [("1.png", 1), ("2.png", 1), ("10.png", 1)]


def test_high_pictures_can_be_cut(tmp_path: Path, request_of: Request) -> None:
    assert cv2.imwrite(str(tmp_path / "high.png"), picture((3, 20, 10, 60, 5), height=100))
    cut = replace(request_of, sources=[tmp_path / "high.png"], frame_lines=HEIGHT)
    assert replay(cut) == 0
    (found,) = of_kind(cut, "defect")
    assert (found["source"], found["frames"], found["area_px"]) == ("high.png#0", 3, 300)
    assert found["mask"]["size"] == [3 * HEIGHT, WIDTH]


def test_coil_and_pitch_are_those_asked_for(request_of: Request) -> None:
    assert replay(replace(request_of, coil="A-17", pitch_mm=2.0)) == 0
    first = of_kind(request_of, "defect")[0]
    assert (first["coil"], first["position_mm"], first["area_mm2"]) == ("A-17", {"along": 16.0, "across": 23.0}, 168.0)


def test_nothing_but_bad_pictures_is_told_and_balances(tmp_path: Path, request_of: Request) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"")
    (folder / "2.png").write_bytes(b"x" * 100)
    bad = replace(request_of, sources=[folder])
    assert replay(bad) == 0
    assert [gap["source"] for gap in of_kind(bad, "gap")] == ["1.png", "2.png"]
    assert bad.report is not None
    assert "1.png" in bad.report.read_text()


def test_a_replay_that_is_stopped_is_no_success(
    tmp_path: Path, request_of: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was taken is inspected and the books hold, but nobody must believe that all of the folder was looked at."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(400):  # far more than the line holds, so they cannot all have been read when it is stopped
        (folder / f"{number}.png").symlink_to(request_of.sources[0] / "01.png")

    def stopped(line: Line, stop: threading.Event, tick: Callable[[], None]) -> int:
        line.stop.set()
        return watch(line, stop, tick)

    monkeypatch.setattr("inspector.replay.watch", stopped)
    assert replay(replace(request_of, sources=[folder])) == 1
    assert "stopped before the end of the sources" in capsys.readouterr().out
    assert request_of.journal is not None
    audit = journal.audit(request_of.journal)
    assert audit.balanced
    assert len(framed(request_of)) == audit.books[0].issued < 400


def test_no_file_is_left_but_those_asked_for(tmp_path: Path, request_of: Request) -> None:
    before = set(tmp_path.rglob("*"))
    assert replay(replace(request_of, journal=None, events=None, frames=None, report=None)) == 0
    assert set(tmp_path.rglob("*")) == before


def test_a_network_that_fails_is_exit_code_1_and_the_books_hold(tmp_path: Path, request_of: Request) -> None:
    folder = make_pack(tmp_path / "failing")
    networks.swap(folder, "gate", networks.failing_gate(TILE, 225))  # 04.png has a defect of class 4
    failing = replace(request_of, pack=folder, batch=1)
    assert replay(failing) == 1
    assert failing.journal is not None
    audit = journal.audit(failing.journal)
    assert audit.problems == []
    outcomes = Counter(line["outcome"] for line in framed(failing))
    assert outcomes.pop("inspected", 0) == audit.books[0].inspected
    assert outcomes == audit.books[0].lost
    assert outcomes["aborted"] > 0


# ---------------------------------------------------------------- what cannot be used


def test_what_cannot_be_used_is_named_before_anything_is_inspected(tmp_path: Path, request_of: Request) -> None:
    nowhere = tmp_path / "nowhere"
    empty = tmp_path / "empty"
    empty.mkdir()
    for wrong, words in (
        (replace(request_of, sources=[nowhere]), "nowhere"),
        (replace(request_of, sources=[empty]), "empty"),
        (replace(request_of, pack=nowhere), "nowhere"),
        (replace(request_of, events=nowhere / "events.jsonl"), "nowhere/events.jsonl"),
        (replace(request_of, report=nowhere / "report.html"), "nowhere/report.html"),
        (replace(request_of, report=empty), "empty"),
        (replace(request_of, journal=nowhere / "journal.db"), "nowhere/journal.db"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            replay(wrong)
    assert not (tmp_path / "events.jsonl").exists()
    assert not (tmp_path / "frames.jsonl").exists()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("option", ["events", "frames"])
def test_a_target_that_cannot_be_written_is_told_by_its_option_and_how_to_mend_it(
    tmp_path: Path, request_of: Request, option: str
) -> None:
    """Not by a key of a YAML that nobody wrote."""
    file, closed = tmp_path / "no" / "where" / "f.jsonl", tmp_path / "closed"
    for path, words in (
        (file, f"--{option} {file}: there is no folder {file.parent}. Create it: mkdir -p {file.parent}"),
        (tmp_path, f"--{option} {tmp_path}: is a folder; name a file in it"),
    ):
        with pytest.raises(ConfigError) as told:
            replay(replace(request_of, **{option: path}))
        assert str(told.value) == words
    closed.mkdir(mode=0o500)
    if not os.access(closed, os.W_OK):  # root may write everywhere
        with pytest.raises(ConfigError, match=rf"^--{option} .*cannot be written by this user"):
            replay(replace(request_of, **{option: closed / "f.jsonl"}))


def test_frames_and_events_need_a_file_each(tmp_path: Path, request_of: Request) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "events.jsonl")
    for path in (tmp_path / "events.jsonl", tmp_path / "link"):
        with pytest.raises(ConfigError, match=r"^--frames .*is the file of --events too. Name another one"):
            replay(replace(request_of, frames=path))


@pytest.mark.parametrize("option", ["events", "frames", "report", "journal"])
def test_no_target_is_a_source_or_another_target(
    tmp_path: Path, pictures: Path, request_of: Request, option: str
) -> None:
    before = (pictures / "01.png").read_bytes()
    with pytest.raises(ConfigError, match=rf"^--{option} .*01.png: is a source, which would be lost"):
        replay(replace(request_of, **{option: pictures / "01.png"}))
    os.link(pictures / "01.png", tmp_path / "linked")
    with pytest.raises(ConfigError, match=rf"^--{option} .*linked: is a source"):
        replay(replace(request_of, sources=[pictures / "01.png"], **{option: tmp_path / "linked"}))
    assert (pictures / "01.png").read_bytes() == before
    other = "events" if option == "journal" else "journal"
    with pytest.raises(
        ConfigError, match=rf"^--journal .*: is the file of --{other if option == 'journal' else option}"
    ):
        replay(replace(request_of, **{option: getattr(request_of, other)}))


def test_a_pipe_is_no_place_for_frames(tmp_path: Path, request_of: Request) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"^--frames .*pipe: is a pipe, whose reader may fall behind. Name a file"):
        replay(replace(request_of, frames=tmp_path / "pipe"))


def test_a_stage_that_fails_leaves_as_many_lines_as_the_books_count(
    tmp_path: Path, request_of: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(200):
        assert cv2.imwrite(str(folder / f"{number}.png"), picture())
    calls, grade = count(), Grading.grade

    def failing(self: Grading, verdicts: Verdicts) -> Graded:
        if next(calls) == 3:
            raise RuntimeError("out of order")
        return grade(self, verdicts)

    monkeypatch.setattr(Grading, "grade", failing)
    assert replay(replace(request_of, sources=[folder], batch=4)) == 1
    assert request_of.journal is not None
    assert len(framed(request_of)) == journal.audit(request_of.journal).books[0].issued


def test_a_frames_file_that_finds_no_room_is_exit_code_1_and_the_books_hold(
    request_of: Request, caplog: pytest.LogCaptureFixture
) -> None:
    assert replay(replace(request_of, frames=Path("/dev/full"), report=None)) == 1
    assert "--frames /dev/full: takes no more lines" in caplog.text
    assert request_of.journal is not None
    assert journal.audit(request_of.journal).problems == []


def test_the_command_line_does_the_same(
    request_of: Request, pictures: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(pictures), "--pack", str(engines), "--events", str(request_of.events)]) == 0
    assert len(of_kind(request_of, "defect")) == 6
    assert main(["replay", str(pictures / "none.png"), "--pack", str(engines)]) == 78
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "none.png" in error[0]
