"""The coil report: what it says, what it must never say, and that nothing leaves it or gets into it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector import rle
from inspector.errors import ConfigError
from inspector.events import Along, Box, Defect, DefectClass, Depth, Event, Gap, Mask, Position, Reason, Size
from inspector.report import (
    CameraBooks,
    ClassTruth,
    CoilReport,
    Finding,
    GapStretch,
    LaneInfo,
    Missed,
    Piece,
    Throughput,
    Truth,
    page,
    render,
)
from inspector.report import chart as charts
from inspector.report import gallery as galleries
from inspector.report.words import judge, share
from inspector.thumbnails import crop_window, thumbnail_size

NAMES = {1: "pits", 2: "edge line", 3: "scratch", 4: "patch"}
WIDTH, LINES, PITCH = 1600, 256, 0.5


def a_defect(
    number: int = 0,
    box: tuple[int, int, int, int] = (100, 40, 60, 30),
    *,
    defect_class: int = 3,
    severity: str = "minor",
    source: str | None = None,
    name: str | None = None,
) -> Defect:
    """A defect with an elliptic mask in its box, in frame `number` of a coil."""
    x, y, width, height = box
    frames = (y + height - 1) // LINES + 1
    whole = np.zeros((frames * LINES, WIDTH), np.uint8)
    half = (width // 2, height // 2)
    cv2.ellipse(whole[y : y + height, x : x + width], half, half, 0, 0, 360, 1, -1)
    area = int(whole.sum())
    along = (number * LINES + y + height / 2) * PITCH
    return Defect(
        camera="top",
        frame_sequence=number,
        frames=frames,
        source=source,
        exposed_ns=0,
        exposed_time="1970-01-01T00:00:00Z",
        coil="4711",
        position_mm=Position(along=along, across=(x + width / 2) * PITCH),
        size_mm=Size(along=height * PITCH, across=width * PITCH),
        bbox_px=Box(x=x, y=y, width=width, height=height),
        area_px=area,
        area_mm2=area * PITCH**2,
        defect_class=DefectClass(number=defect_class, name=name or NAMES[defect_class]),
        score=0.9,
        severity=severity,
        mask=Mask(size=whole.shape, rle=rle.encode(whole)),
        continues=False,
        pack_digest="sha256:0",
    )


def a_finding(defect: Defect, thumbnail: bytes | None = None, real: bool | None = None) -> Finding:
    event = Event(
        id=f"1/{defect.frame_sequence}",
        source="urn:inspector:test",
        type="inspector.defect.v1",
        time="1970-01-01T00:00:00Z",
        subject="defect/v1/line/top/3/",
        dataschema="urn:inspector:schema:event:v1",
        epoch=1,
        sequence=1,
        data=defect,
    )
    return Finding(event, thumbnail, real)


def a_report(defects: Sequence[Finding] = (), gaps: Sequence[GapStretch] = (), issued: int = 1000) -> CoilReport:
    lost: dict[str, int] = {}
    for gap in gaps:
        lost[gap.reason] = lost.get(gap.reason, 0) + gap.frames
    return CoilReport(
        line="line-1",
        coil="4711",
        pack_name="severstal 1",
        pack_digest="sha256:" + "ab" * 32,
        runtime="onnx",
        cameras=[LaneInfo("top", 0.0, WIDTH * PITCH, PITCH, PITCH)],
        length_mm=issued * LINES * PITCH,
        books=[CameraBooks("top", issued, issued - sum(lost.values()), lost)],
        throughput=Throughput(156.0, 600.0, 12.5, 40.0, 60.0),
        started=datetime(2026, 1, 1, tzinfo=UTC),
        ended=datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
        defects=defects,
        gaps=gaps,
        classes=[DefectClass(number=number, name=name) for number, name in NAMES.items()],
    )


def jpeg(seed: int = 0, side: int = 60) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1])


class Elements(HTMLParser):
    """Every element of a page: (tag, attributes). Well-formed: each opened element is closed, in order."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})
    DRAWN = frozenset({"path", "rect", "circle", "use", "image", "stop"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def having(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of the elements of a class."""
        return [attrs for _, attrs in self.found if name in (attrs.get("class") or "").split()]


def data_of(text: str) -> dict[str, list[list[object]]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found.group(1))


# ---------------------------------------------------------------- what the page says


def test_strip_that_was_not_inspected_in_full_is_told() -> None:
    report = a_report(defects=[a_finding(a_defect(3))])
    whole = page(report)
    report.depths = {Depth.FULL: (900, 115_200.0), Depth.TYPES: (60, 7_680.0), Depth.GATE: (40, 5_120.0)}
    text, verdict = page(report), judge(report)
    assert verdict.level == "attention"
    assert verdict.headline == "1 defect found, but not all was inspected in full"
    for words in (
        "60 frames not segmented",
        "40 frames not typed",
        "60 frames (7.7 m, over all cameras) not segmented",
    ):
        assert words in text
        assert words not in whole
    report.defects = []
    assert "not one defect" not in page(report)
    assert judge(report).level == "attention"


def test_a_defect_that_was_not_measured_has_no_area() -> None:
    measured = a_defect(3)
    coarse = msgspec.structs.replace(
        *(a_defect(5, (0, 0, WIDTH, LINES), severity="unmeasured"),),
        segmented=False,
        area_px=WIDTH * LINES,
        area_mm2=WIDTH * LINES * PITCH**2,
        mask=Mask(size=(LINES, WIDTH), rle=""),
    )
    untyped = msgspec.structs.replace(coarse, defect_class=DefectClass(number=0, name="unknown"))
    text = page(a_report(defects=[a_finding(one, jpeg()) for one in (measured, coarse, untyped)]))
    elements = Elements(text)
    assert len(elements.having("card")) == 3
    assert text.count("<b>not segmented</b>: within 128 × 800 mm") == 2
    assert "0 unknown" in text
    assert f"{WIDTH * LINES * PITCH**2 / 100:,.0f} cm²" not in text


def test_a_perfect_coil_says_so() -> None:
    text = page(a_report())
    assert "A perfect coil" in text
    assert "100 %" in text
    assert 'class="hero perfect"' in text
    assert Elements(text).having("card") == []


@pytest.mark.parametrize(
    "gap", [GapStretch("top", 5000, 5128, 1, "overload"), GapStretch("top", 0, 0, 1, "unreadable", source="a.jpg")]
)
def test_a_clean_coil_with_a_gap_is_not_perfect(gap: GapStretch) -> None:
    text = page(a_report(gaps=[gap]))
    assert "perfect" not in Elements(text).having("hero")[0]["class"]
    assert "99.90 %" in text
    assert "not all was inspected" in text
    assert "No gap" not in text
    assert gap.reason in text


def test_coverage_is_never_rounded_up() -> None:
    assert share(0.999999) == "99.99 %"
    assert share(1e-9) == "< 0.01 %"
    assert (share(0.0), share(1.0)) == ("0 %", "100 %")
    lanes = [LaneInfo("top", 0, 800), LaneInfo("second", 800, 800)]
    report = a_report(gaps=[GapStretch("top", 0, 64_000, 500, "crash"), GapStretch("top", 32_000, 64_000, 0, "crash")])
    report.cameras = lanes
    report.books = [*report.books, CameraBooks("second", 1000, 1000)]
    assert report.coverage == pytest.approx(0.75)


def test_books_that_do_not_balance_outrank_all() -> None:
    report = a_report()
    report.books = [CameraBooks("top", 1000, 998, {"overload": 1})]
    assert judge(report).headline == "The books do not balance"
    text = page(report)
    assert "NOT balanced" in text
    assert "1 frame without a fate" in text


def test_nothing_inspected_is_no_success() -> None:
    report = a_report(issued=0)
    assert report.coverage == 0
    assert judge(report).level == "alarm"
    text = page(report)
    assert "Nothing was inspected" in text
    assert "0 %" in text


def test_one_defect_has_a_card_and_a_mark() -> None:
    elements = Elements(text := page(a_report([a_finding(a_defect(3, severity="critical"), jpeg())])))
    assert len(elements.having("card")) == len(elements.having("mark")) == 1
    assert "1 critical defect" in text
    assert "ringed" in (elements.having("mark")[0]["class"] or "")
    assert "12.50 ms" not in text
    assert "12.5 ms" in text


def test_two_thousand_defects() -> None:
    severities = ["minor", "major", "critical"]
    findings = [
        a_finding(a_defect(i % 990, (i % 1500, i % 200, 40, 30), defect_class=1 + i % 4, severity=severities[i % 3]))
        for i in range(2000)
    ]
    elements = Elements(text := page(a_report(findings)))
    assert len(elements.having("card")) == len(elements.having("mark")) == 2000
    assert [tag for tag, _ in elements.found].count("template") == 2000 - 24
    rows = data_of(text)["rows"]
    assert [row[5] for row in rows] == sorted(row[5] for row in rows), "most severe first"
    assert not elements.open


def test_more_defects_than_cards_are_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "MOST_CARDS", 10)
    findings = [a_finding(a_defect(i, severity="critical" if i == 30 else "minor")) for i in range(31)]
    elements = Elements(text := page(a_report(findings)))
    assert len(elements.having("card")) == 10
    assert "21 more are counted" in text
    assert data_of(text)["rows"][0][5] == 0, "the critical one is shown"


def test_pictures_beyond_the_budget_are_left_out_least_severe_first() -> None:
    findings = [a_finding(a_defect(i, severity="critical" if i == 2 else "minor"), jpeg(i)) for i in range(4)]
    report = a_report(findings)
    picture = len(galleries.data_uri(jpeg(2)) or "")
    shown = galleries.gallery(report, galleries.rank(report), budget=picture + 10)
    assert [card.picture is not None for card in shown.cards] == [True, False, False, False]
    assert shown.cards[0].defect.severity == "critical"
    assert shown.pictures_left_out == 1 or shown.pictures_left_out == 3
    assert all(card.path for card in shown.cards), "the outline stays"


def test_the_truth_is_shown_where_it_is_known() -> None:
    report = a_report([a_finding(a_defect(), real=False)])
    report.truth = Truth([ClassTruth(3, "scratch", 7, 1, 1)], "By a centre hit.", [Missed(3, 9000.0, 400.0)])
    elements = Elements(text := page(report))
    assert "Against the truth" in text
    assert "87.50 %" in text
    assert "false alarm" in text
    assert "By a centre hit." in text
    assert len(elements.having("missed")) == 2, "on the map and in the legend"
    assert "Against the truth" not in page(a_report())


def test_separate_pictures_are_named() -> None:
    report = a_report([a_finding(a_defect(1, source="b.jpg"))], issued=3)
    report.pieces = [Piece(f"{name}.jpg", i * 128.0, (i + 1) * 128.0) for i, name in enumerate("abc")]
    text = page(report)
    assert "1 defect in 1 of 3 pictures" in text
    assert 'data-source="b.jpg"' in text
    assert [piece[2] for piece in data_of(text)["pieces"]] == ["a.jpg", "b.jpg", "c.jpg"]


def test_an_event_of_another_kind_is_refused() -> None:
    finding = a_finding(a_defect())
    state = msgspec.structs.replace(finding.event, data=_gap_data())
    with pytest.raises(TypeError, match="is no defect"):
        page(a_report([Finding(state)]))


def _gap_data() -> Gap:
    return Gap(
        camera="top",
        frame_sequence=0,
        frames=1,
        reason=Reason.CRASH,
        detail="",
        source=None,
        coil="4711",
        along_mm=Along(start=0, end=1),
    )


# ---------------------------------------------------------------- what gets in and what leaves

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"'&{{7*7}}\u2028\udcff"


def hostile_report() -> CoilReport:
    defect = a_defect(source=HOSTILE, severity=HOSTILE, name=HOSTILE)
    report = a_report(
        [a_finding(msgspec.structs.replace(defect, camera=HOSTILE), b"GIF89a<svg onload=alert(3)>")],
        [GapStretch(HOSTILE, 0, 128, 1, HOSTILE, HOSTILE, HOSTILE)],
    )
    report.line = report.coil = report.pack_name = report.pack_digest = report.runtime = HOSTILE
    report.cameras = [LaneInfo(HOSTILE, 0, 400), LaneInfo(HOSTILE + "2", 400, 400)]
    report.books = [CameraBooks(HOSTILE, 10, 9, {HOSTILE: 1})]
    report.truth = Truth([ClassTruth(3, HOSTILE, 1, 0, 0)], HOSTILE, [Missed(3, 1.0, 1.0)])
    report.pieces = [Piece(HOSTILE, 0, 128)]
    report.classes = [DefectClass(number=3, name=HOSTILE)]
    return report


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    render(hostile_report(), tmp_path / "coil.html")
    text = (tmp_path / "coil.html").read_text(encoding="utf-8")
    elements = Elements(text)
    assert [tag for tag, _ in elements.found].count("script") == 2, "the data and the page's own"
    assert not [attrs for _, attrs in elements.found if any(name.startswith("on") for name in attrs)]
    assert "img" not in [tag for tag, _ in elements.found]
    assert "image" not in [tag for tag, _ in elements.found], "what is neither JPEG nor PNG is no picture"
    assert "49" not in (elements.having("hero")[0].get("class") or "")
    assert data_of(text)["severities"][-1] == HOSTILE


def test_nothing_is_asked_of_a_network() -> None:
    text = page(a_report([a_finding(a_defect(), jpeg())], [GapStretch("top", 0, 128, 1, "crash")]))
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    for tag, attrs in Elements(text).found:
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, attrs)
    assert not re.findall(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(", text)


def test_the_policy_allows_the_page_its_own_script_alone() -> None:
    text = page(a_report())
    script = text[text.rindex("<script>") + len("<script>") : text.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


# ---------------------------------------------------------------- the file


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "coil.html"
    render(a_report(), path)
    before = path.read_bytes()
    assert before.startswith(b"<!doctype html>")
    assert before.rstrip().endswith(b"</html>")
    assert path.stat().st_mode & 0o444 == 0o444

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match=r"coil\.html: .*No space left"):
        render(a_report([a_finding(a_defect())]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path], "no draft stays behind"


@pytest.mark.parametrize("where", ["no/such/folder/coil.html", "file/coil.html", "folder"])
def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        render(a_report(), tmp_path / where)


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(ConfigError, match="/dev/null"):
        render(a_report(), Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.html").write_text("old")
    (tmp_path / "link.html").symlink_to("real.html")
    render(a_report(), tmp_path / "link.html")
    assert (tmp_path / "link.html").is_symlink()
    assert "A perfect coil" in (tmp_path / "real.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- the drawings

boxes = st.tuples(st.integers(0, 1500), st.integers(0, 3 * LINES), st.integers(1, 900), st.integers(1, 700)).map(
    lambda b: (b[0], b[1], min(b[2], WIDTH - b[0]), b[3])
)


def points_of(path: str) -> list[tuple[int, int]]:
    """The points of a path of M, relative l and z."""
    points = []
    for part in path.split("z")[:-1]:
        start, _, steps = part.removeprefix("M").partition("l")
        x, y = map(int, start.split())
        points.append((x, y))
        numbers = list(map(int, steps.split()))
        for dx, dy in zip(numbers[0::2], numbers[1::2], strict=True):
            x, y = x + dx, y + dy
            points.append((x, y))
    return points


@settings(max_examples=60, deadline=None)
@given(boxes)
def test_the_outline_lies_in_the_thumbnail_and_around_the_mask(box: tuple[int, int, int, int]) -> None:
    defect = a_defect(0, box)
    width, height, path, plane = galleries.draw_mask(defect)
    window = crop_window(defect.bbox_px, defect.mask.size)
    assert (width, height) == thumbnail_size(window[2], window[3])
    points = points_of(path)
    assert points
    assert all(0 <= x < width and 0 <= y < height for x, y in points)
    across = [plane[0] + plane[1] * (x + 0.5) for x, _ in points]
    along = [plane[2] + plane[3] * (y + 0.5) for _, y in points]
    near = 2.5 * max(plane[1], plane[3]) + 2 * PITCH
    assert min(across) == pytest.approx(defect.position_mm.across - defect.size_mm.across / 2, abs=near)
    assert max(across) == pytest.approx(defect.position_mm.across + defect.size_mm.across / 2, abs=near)
    assert min(along) == pytest.approx(defect.position_mm.along - defect.size_mm.along / 2, abs=near)
    assert max(along) == pytest.approx(defect.position_mm.along + defect.size_mm.along / 2, abs=near)


@pytest.mark.parametrize("text", ["1", "1 x", "99999999 5", "-4 2"])
def test_a_torn_mask_costs_the_outline_only(text: str) -> None:
    defect = msgspec.structs.replace(a_defect(), mask=Mask(size=(LINES, WIDTH), rle=text))
    assert len(Elements(page(a_report([a_finding(defect)]))).having("card")) == 1


@given(st.floats(0.001, 1e6), st.integers(1, 20))
def test_ticks_are_few_nice_and_inside(span: float, most: int) -> None:
    values = charts.nice_values(0.0, span, most)
    assert 1 <= len(values) <= most + 1
    assert values[0] == 0
    assert values[-1] <= span * (1 + 1e-6)
    step = charts.nice_step(span, most)
    assert f"{step:e}"[0] in "125"


@pytest.mark.parametrize("metres", [20, 1234, 15_000])
def test_a_one_frame_gap_is_seen_at_any_length(metres: int) -> None:
    report = a_report(gaps=[GapStretch("top", 5000.0, 5128.0, 1, "overload")])
    report.length_mm = metres * 1000.0
    (bar,) = charts.draw(report, []).gaps
    assert bar.width >= 3
    assert bar.height == charts.STRIP_HEIGHT


def test_gaps_that_meet_are_one() -> None:
    parts = [GapStretch("top", i * 128.0, (i + 1) * 128.0, 1, "overload") for i in range(5)]
    other = GapStretch("top", 640.0, 768.0, 1, "crash")
    assert [(g.start_mm, g.end_mm, g.frames) for g in charts.join_gaps([*parts, other], 0.0)] == [
        (0.0, 640.0, 5),
        (640.0, 768.0, 1),
    ]


def test_thousands_of_gaps_stay_few_on_the_map() -> None:
    gaps = [GapStretch("top", i * 25.0, i * 25.0 + 12.0, 1, "overload") for i in range(5000)]
    bars = charts.draw(a_report(gaps=gaps, issued=10_000), []).gaps
    assert len(bars) < 1500


def test_marks_lie_where_the_defects_are() -> None:
    findings = [a_finding(a_defect(500, (0, 0, 40, 30))), a_finding(a_defect(0, (1560, 100, 40, 30)))]
    drawn = charts.draw(a_report(findings), findings)
    middle, head = drawn.marks
    assert middle.x == pytest.approx(charts.PLOT / 2, abs=1)
    assert middle.y > charts.STRIP_HEIGHT * 0.95, "the reference edge is at the bottom"
    assert head.x < 2
    assert head.y < charts.STRIP_HEIGHT * 0.05
    assert drawn.most_in_bin == 1
