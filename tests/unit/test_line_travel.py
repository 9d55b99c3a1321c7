"""Overlap, and a strip that stands, runs back and jumps, through the whole line: from a camera to the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inspector import journal
from inspector.config import Config, convert
from inspector.events import Defect, Event, Gap, State
from inspector.pipeline import Line, build
from tests.packs import TILE, make_pack, paint

HEIGHT, WIDTH = TILE
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack"))


def run(folder: Path, engines: Path, camera: dict[str, Any]) -> tuple[Line, list[Event]]:
    """Run a line to its strip's end; its books balance. Returns what the journal has."""
    raw = {
        "line": {"name": "line", "coil": "C1", "when_full": "wait"},
        "pack": str(engines),
        "cameras": [{"name": "a", **camera}],
        "edges": {"detect": False},
        "grading": {"merge_px": 3},
        "journal": {"path": str(folder / "journal.db"), "synchronous": False},
        "monitor": None,
    }
    with build(convert(raw, Config)) as line:
        assert line.crew.join(PATIENCE_S) == []
    assert line.crew.failure is None
    assert journal.audit(folder / "journal.db").problems == []
    return line, list(journal.read_events(folder / "journal.db"))


def of(events: Sequence[Event], kind: type) -> list[Any]:
    return [event.data for event in events if isinstance(event.data, kind)]


def synthetic(**options: Any) -> dict[str, Any]:
    settings = {"width_px": WIDTH, "height_px": 24, "frames": 40, "pace": "free", "seed": 3, "weld": False}
    return {"kind": "synthetic", "options": {**settings, **options}}


def strip_metres(line: Line) -> float | None:
    return line.metrics.registry.get_sample_value("inspector_strip_inspected_metres_total", {"camera": "a"})


def words(events: Sequence[Event]) -> list[str]:
    return [state.state for state in of(events, State) if state.part == "a" and state.state not in ("up", "down")]


# ---------------------------------------------------------------- overlap


def rows(folder: Path, height: int) -> Path:
    """A strip with defects on and beside the seams of its pictures, of so many rows each."""
    folder.mkdir()
    strip = np.full((10 * height, WIDTH), 90, dtype=np.uint8)
    for number in range(1, 10):
        paint(strip, number % 4 + 1, number * height - 2 * number + 4, 10, 8, 12)
    for number in range(10):
        cv2.imwrite(str(folder / f"{number}.png"), strip[number * height : (number + 1) * height])
    return folder


@pytest.mark.parametrize("lines", [1, 8, 24])
def test_what_frames_share_is_told_once_and_counted_once(tmp_path: Path, engines: Path, lines: int) -> None:
    camera = {"kind": "replay", "options": {"sources": [str(rows(tmp_path / "strip", 24))], "contiguous": True}}
    (tmp_path / "plain").mkdir()
    (tmp_path / "shared").mkdir()
    plain, expected = run(tmp_path / "plain", engines, camera)
    shared, found = run(tmp_path / "shared", engines, {**camera, "overlap_lines": lines})

    def told(events: Sequence[Event]) -> Counter[tuple[Any, ...]]:
        return Counter((d.defect_class.number, d.position_mm, d.size_mm, d.area_px) for d in of(events, Defect))

    assert told(found) == told(expected)
    assert len(told(found)) == 9
    assert strip_metres(shared) == strip_metres(plain) == pytest.approx(0.12)
    assert of(found, Gap) == []


def test_frames_that_fill_a_tile_with_what_they_share_are_one_tile(tmp_path: Path, engines: Path) -> None:
    line, _ = run(tmp_path, engines, {**synthetic(), "overlap_lines": HEIGHT - 24})
    assert line.metrics.registry.get_sample_value("inspector_gate_tiles_total") == 40


def test_lost_frames_break_what_is_shared(tmp_path: Path, engines: Path) -> None:
    camera = synthetic(lost=[{"at_frame": 5, "count": 2}, {"at_frame": 20, "reason": "failed"}], reset_at_frame=30)
    line, events = run(tmp_path, engines, {**camera, "overlap_lines": 8})
    gaps = [(g.reason.value, g.frames, g.along_mm.start, g.along_mm.end) for g in of(events, Gap)]
    assert gaps == [("packets", 2, 60.0, 84.0), ("failed", 1, 240.0, 252.0)]
    assert strip_metres(line) == pytest.approx(37 * 0.012)
    assert line.ledger.totals()["a"].inspected == 37


# ---------------------------------------------------------------- motion


def legs(*changes: tuple[int, str]) -> list[dict[str, Any]]:
    return [{"at_frame": at, "kind": kind} for at, kind in changes]


def test_a_strip_that_stands_and_runs_back_is_told_and_counted_once(tmp_path: Path, engines: Path) -> None:
    motion = legs((5, "stand"), (9, "run"), (15, "reverse"), (20, "run"))
    line, events = run(tmp_path, engines, synthetic(motion=motion, frames=35))
    assert words(events) == ["standing", "running", "reversed", "forward again"]
    assert of(events, Gap) == []
    assert strip_metres(line) == pytest.approx((35 - 4 - 2 * 5) * 0.012)
    assert line.ledger.totals()["a"].inspected == 35


def test_a_jump_of_the_encoder_is_a_gap_and_told(tmp_path: Path, engines: Path) -> None:
    motion = [{"at_frame": 10, "kind": "jump", "counts": 2000}, {"at_frame": 20, "kind": "jump", "counts": -3000}]
    _, events = run(tmp_path, engines, {**synthetic(motion=motion), "overlap_lines": 8})
    assert words(events) == ["encoder jumped", "encoder jumped"]
    gaps = [(g.reason.value, g.frames, g.along_mm.start, g.along_mm.end) for g in of(events, Gap)]
    assert gaps == [("missing", 0, 120.0, 1120.0)]
