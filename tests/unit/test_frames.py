"""frames.py: a line for each frame that the books count, whatever became of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspector.errors import SinkError
from inspector.events import Reason
from inspector.frames import TOGETHER, Frames
from inspector.ledger import Ledger
from inspector.records import Frame, Graded, Loss, Roi, Settled, Verdict, Verdicts
from tests.disks import room_for
from tests.grading import Rig, assert_books, clean, defects, running_in
from tests.packs import paint

DIGEST = "sha256:0011"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_in(tmp_path_factory.mktemp("rig")) as made:
        yield made


@contextmanager
def framed(file: Path, first: Mapping[str, int] | None = None) -> Iterator[Frames]:
    with Frames(file, first or {}) as frames:
        yield frames


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def verdict(sequence: int, score: float = 0.5, passed: bool | None = True, camera: str = "a") -> Verdict:
    frame = Frame(camera, sequence, 0, 0, 0, np.zeros((4, 4), dtype=np.uint8), source=f"{sequence}.png")
    return Verdict(frame, Roi(0, 4), score, pack_digest=DIGEST, passed=passed)


def inspected(first: int, last: int, camera: str = "a") -> Graded:
    return Graded([Settled(camera, first, last, None, 0)])


def test_a_line_says_what_the_cascade_and_the_books_say(tmp_path: Path) -> None:
    file = tmp_path / "frames.jsonl"
    with framed(file) as frames:
        frames.see(Verdicts(0, [verdict(0, 0.1234567, True), verdict(1, 0.04, False), verdict(2, 0.0, None)]))
        frames.book(inspected(0, 2))
        frames.book(Graded([Settled("a", 3, 3, Reason.UNREADABLE, 0, source="torn.png")]))
        frames.finish({"a": 4})
    shared = {"camera": "a", "outcome": "inspected", "events": 0, "pack_digest": DIGEST}
    assert lines(file) == [
        {**shared, "frame_sequence": 0, "source": "0.png", "gate_score": 0.123457, "passed": True},
        {**shared, "frame_sequence": 1, "source": "1.png", "gate_score": 0.04, "passed": False},
        {**shared, "frame_sequence": 2, "source": "2.png", "gate_score": None, "passed": None},
        {
            "camera": "a",
            "frame_sequence": 3,
            "source": "torn.png",
            "outcome": "unreadable",
            "gate_score": None,
            "passed": None,
            "events": 0,
            "pack_digest": None,
        },
    ]


def test_the_lines_of_a_graded_strip_are_its_books_and_its_events(rig: Rig, tmp_path: Path) -> None:
    """A defect over three frames, one in a frame of its own, a hole, and a loss that no frame comes behind."""
    strip = clean(32 * 8)
    paint(strip, 1, 20, 10, 60, 8)  # frames 0 to 2
    paint(strip, 2, 8, 40, 6, 6)
    paint(strip, 3, 32 * 6 + 9, 5, 5, 5)
    cut = rig.frames(strip, [32] * 8, source="s")
    del cut[4]
    ledger = Ledger(["a"])
    ledger.lose(Loss("a", 8, 2, Reason.UNREADABLE, "torn", "end.avi#8"))
    file = tmp_path / "frames.jsonl"
    graded = rig.run(cut, ledger=ledger)
    with framed(file) as frames:
        frames.see(Verdicts(0, [Verdict(frame, Roi(0, 4), 0.5, passed=True) for frame in cut]))
        for each in graded:
            frames.book(each)
        frames.finish(ledger.issued())
    found = lines(file)
    assert_books(graded, {"a": len(found)})
    assert [line["frame_sequence"] for line in found] == list(range(10))
    fates = {"inspected": [0, 1, 2, 3, 5, 6, 7], "missing": [4], "unreadable": [8, 9]}
    for outcome, numbers in fates.items():
        assert [line["frame_sequence"] for line in found if line["outcome"] == outcome] == numbers
    assert [line["source"] for line in found[3:6]] == ["s3", None, "s5"]
    assert [line["source"] for line in found[8:]] == ["end.avi#8"] * 2
    assert [line["events"] for line in found] == [2, 1, 1, 0, 0, 0, 1, 0, 0, 0]
    assert sum(line["events"] for line in found) == sum(defect.frames for defect in defects(graded))


def test_numbers_are_those_of_events_for_each_camera(tmp_path: Path) -> None:
    file = tmp_path / "frames.jsonl"
    with framed(file, {"a": 100}) as frames:
        frames.see(Verdicts(0, [verdict(0), verdict(0, camera="b"), verdict(1), verdict(1, camera="b")]))
        frames.book(Graded([Settled("b", 0, 1, None, 0), Settled("a", 0, 0, None, 0)]))
        frames.book(Graded([Settled("a", 1, 2, Reason.OVERRUN, 0)]))
        frames.finish({"a": 4, "b": 2})
    found = lines(file)
    by_camera = {name: [line for line in found if line["camera"] == name] for name in "ab"}
    assert [(line["frame_sequence"], line["outcome"]) for line in by_camera["a"]] == [
        (100, "inspected"), (101, "overrun"), (102, "overrun"), (103, "aborted"),
    ]  # fmt: skip
    assert [line["frame_sequence"] for line in by_camera["b"]] == [0, 1]


def test_what_was_in_flight_when_the_line_came_down_is_aborted_as_in_the_journal(tmp_path: Path) -> None:
    file = tmp_path / "frames.jsonl"
    with framed(file) as frames:
        frames.see(Verdicts(0, [verdict(0), verdict(1)]))
        frames.book(inspected(0, 0))
        frames.finish({"a": 3})
    assert [(line["source"], line["outcome"], line["gate_score"]) for line in lines(file)] == [
        ("0.png", "inspected", 0.5),
        ("1.png", "aborted", None),
        (None, "aborted", None),
    ]


@pytest.mark.parametrize("count", [TOGETHER, 2 * TOGETHER + 1])
def test_a_loss_of_many_frames_has_a_line_for_each(tmp_path: Path, count: int) -> None:
    file = tmp_path / "frames.jsonl"
    with framed(file) as frames:
        frames.book(Graded([Settled("a", 0, count - 1, Reason.MISSING, 0)]))
    assert [line["frame_sequence"] for line in lines(file)] == list(range(count))


def test_an_older_file_gives_way_even_if_no_frame_came(tmp_path: Path) -> None:
    file = tmp_path / "frames.jsonl"
    file.write_text("of another run\n")
    with framed(file) as frames:
        frames.finish({"a": 0})
    assert file.read_text() == ""


def test_a_line_is_in_the_file_once_it_was_booked(tmp_path: Path) -> None:
    """A replay that is killed leaves what it has told."""
    file = tmp_path / "frames.jsonl"
    with framed(file) as frames:
        frames.see(Verdicts(0, [verdict(0), verdict(1)]))
        frames.book(inspected(0, 0))
        assert [line["source"] for line in lines(file)] == ["0.png"]


def test_a_full_disk_names_the_option_and_leaves_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "frames.jsonl"
    with framed(file) as frames:
        frames.see(Verdicts(0, [verdict(number) for number in range(4)]))
        frames.book(inspected(0, 0))
        with room_for(file.stat().st_size * 2 + 20), pytest.raises(SinkError, match=rf"^--frames {file}: .*full"):
            frames.book(inspected(1, 3))
        frames.finish({"a": 4})  # it was told: no second word, and nothing behind a hole
    assert [line["frame_sequence"] for line in lines(file)] == [0, 1]


def test_a_file_that_cannot_be_opened_names_the_option(tmp_path: Path) -> None:
    with (
        framed(tmp_path / "none" / "frames.jsonl") as frames,
        pytest.raises(SinkError, match=r"^--frames .*create its"),
    ):
        frames.finish({})
