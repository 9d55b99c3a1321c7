"""demo.py: a short coil through the real line to its report, and what it says of the truth."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspector import demo as module
from inspector.__main__ import main
from inspector.checking import check
from inspector.demo import HEIGHT, SEEDS, WIDTH, _Place, configuration, demo
from inspector.errors import ConfigError
from inspector.events import Box, Defect, DefectClass, Mask, Position, Size
from inspector.steel import Blemish
from tests.packs import make_pack


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six networks that only look at greys, of the size of the demo's frames."""
    return make_pack(tmp_path_factory.mktemp("pack"), tile=(HEIGHT, WIDTH), minimum_area_px=400)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_a_short_demo_ends_well(tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "coil.html"
    assert demo(seconds=0.5, report=report, engines=engines) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "books balance" in out
    found = re.search(r"frames ([\d,]+) issued = ([\d,]+) inspected \+ ([\d,]+) lost", out)
    assert found is not None
    issued, inspected, lost = (int(number.replace(",", "")) for number in found.groups())
    assert issued == inspected + lost
    assert issued % len(SEEDS) == 0
    assert re.search(r"defects [\d,]+ events; \d+ of \d+ true defects found, \d+ false alarms", out)
    page = report.read_text()
    assert module.COIL in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert [p.name for p in tmp_path.iterdir()] == ["coil.html"]


def test_its_line_is_one_that_an_engineer_could_write(tmp_path: Path, engines: Path) -> None:
    config = configuration(tmp_path, engines, speed=4.0, frames=20)
    assert [row[0] for row in check(config)][3:5] == ["camera top-left", "camera top-right"]
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_is_told_before_the_demo(tmp_path: Path, engines: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/coil\.html"):
        demo(seconds=1e9, report=tmp_path / "nowhere" / "coil.html", engines=engines)


def test_without_a_pack_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "inspector" / "demo.py"))
    assert main(["demo", "--seconds", "1"]) == 78
    assert "engines/severstal" in capsys.readouterr().err


# ---------------------------------------------------------------- events against the truth


def event(x: int, y: int, width: int, height: int, *, camera: str = "top-left", frame: int = 3) -> Defect:
    return Defect(
        camera=camera,
        frame_sequence=frame,
        frames=1,
        source=None,
        exposed_ns=0,
        exposed_time="",
        coil="C",
        position_mm=Position(along=0, across=0),
        size_mm=Size(along=0, across=0),
        bbox_px=Box(x=x, y=y, width=width, height=height),
        area_px=1,
        area_mm2=1,
        defect_class=DefectClass(number=1, name="one"),
        score=1,
        severity="minor",
        mask=Mask(size=(HEIGHT, WIDTH), rle=""),
        continues=False,
        pack_digest="",
    )


def place(first_line: int, first_px: int, lines: int, width_px: int) -> _Place:
    blemish = Blemish(1, 1, "pits", first_line, lines, first_px, width_px, contrast=1.0, seed=1)
    return _Place("top-left", blemish)


TRUE = (3 * HEIGHT + 100, 500, 40, 20)
"""A defect of 40 lines x 20 px in frame 3, at row 100 and column 500."""


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (event(500, 100, 20, 40), True),
        (event(500, 100, 20, 10), True),  # a quarter of it
        (event(500, 100, 20, 9), False),
        (event(400, 0, 400, 256), True),  # holds its middle
        (event(509, 119, 2, 2), True),  # small, but in the middle
        (event(500, 140, 20, 40), False),  # below it
        (event(500, 100, 20, 40, camera="top-right"), False),
        (event(500, 100, 20, 40, frame=4), False),
        (event(500, 100 + HEIGHT, 20, 40, frame=2), True),  # goes on from the frame before
    ],
)
def test_an_event_is_true_by_the_rule_of_the_report(found: Defect, holds: bool) -> None:
    assert place(*TRUE).holds(found) is holds
