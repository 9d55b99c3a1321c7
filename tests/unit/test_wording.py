"""wording.py: an event as one line that a person reads, and that cannot steer the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.events import (
    Along,
    Box,
    CameraTotals,
    CoilEvent,
    Data,
    Defect,
    DefectClass,
    Depth,
    Event,
    Gap,
    Heartbeat,
    Inspected,
    Mask,
    Position,
    Reason,
    Size,
    State,
)
from inspector.wording import describe, safe


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def event(data: Data, at: str = "2026-01-31T23:59:58.123456789Z") -> Event:
    return Event(
        id="1/x/1", source="/s", type="t", time=at, subject="x/", dataschema="d", epoch=1, sequence=1, data=data
    )


def defect(severity: str = "major", name: str = "scratch", camera: str = "top1") -> Defect:
    return Defect(
        camera=camera,
        frame_sequence=7,
        frames=2,
        source="a.png",
        exposed_ns=0,
        exposed_time="1970-01-01T00:00:00.000000000Z",
        coil="4711",
        position_mm=Position(along=12_345.5, across=402.4),
        size_mm=Size(along=60.25, across=8.0),
        bbox_px=Box(x=1, y=2, width=16, height=120),
        area_px=900,
        area_mm2=225.0,
        defect_class=DefectClass(number=3, name=name),
        score=0.876,
        severity=severity,
        mask=Mask(size=(256, 1600), rle="1 1"),
        continues=False,
        pack_digest="sha256:0",
    )


def gap(detail: str = "the line was behind", source: str | None = None) -> Gap:
    return Gap(
        camera="top1",
        frame_sequence=9,
        frames=3,
        reason=Reason.OVERLOAD,
        detail=detail,
        source=source,
        coil="4711",
        along_mm=Along(start=1000.0, end=1384.0),
    )


def test_a_defect_says_what_and_where_and_how_bad() -> None:
    line, style = describe(event(defect("critical")))
    assert line.startswith("23:59:58.123  ")
    for part in ("top1", "coil 4711", "12.345 m", "402 mm", "3 scratch", "CRITICAL", "60.2 x 8.0 mm", "score 0.88"):
        assert part in line
    assert style == "bold red"
    assert describe(event(defect("major")))[1] == "yellow"
    assert describe(event(defect("whatever the rules say")))[1] == ""


def test_what_was_not_measured_says_so() -> None:
    coarse = msgspec.structs.replace(defect("unmeasured"), segmented=False)
    assert "within 60.2 x 8.0 mm, not segmented" in describe(event(coarse))[0]
    assert "not typed" not in describe(event(coarse))[0]
    untyped = msgspec.structs.replace(coarse, defect_class=DefectClass(number=0, name="unknown"))
    assert "0 unknown" in describe(event(untyped))[0]
    assert "within 60.2 x 8.0 mm, not segmented, not typed" in describe(event(untyped))[0]


def test_a_gap_is_an_alarm_with_its_length_and_reason() -> None:
    line, style = describe(event(gap()))
    assert "1.000 m  !!! GAP: 0.384 m NOT INSPECTED, to 1.384 m, 3 frame(s) (overload: the line was behind)" in line
    assert style == "bold white on red"
    assert describe(event(gap("", "torn.png")))[0].endswith("3 frame(s) torn.png (overload)")


@pytest.mark.parametrize(
    ("state", "detail", "text", "style"),
    [
        ("up", "", "state: top1 is up", "green"),
        ("ok", "", "state: top1 is ok", "green"),
        ("down", "the cable is out", "state: top1 is down: the cable is out", "bold yellow"),
        ("degraded", "full", "state: top1 is degraded: full", "bold yellow"),
        ("not typing", "step 3", "state: top1 is not typing: step 3", "bold yellow"),
        ("keeping up", "", "state: top1 is keeping up", "green"),
    ],
)
def test_a_state_says_who_and_why(state: str, detail: str, text: str, style: str) -> None:
    assert describe(event(State(part="top1", state=state, detail=detail))) == (f"23:59:58.123  {text}", style)


def test_a_coil_says_its_number_and_where() -> None:
    line, _ = describe(event(CoilEvent(coil="4711", phase="start", encoder_count=12_000)))
    assert "coil 4711 start at encoder count 12000" in line
    inspected = {Depth.FULL: Inspected(frames=3, mm=1024.0), Depth.GATE: Inspected(frames=9, mm=2048.0)}
    line, _ = describe(event(CoilEvent(coil="4711", phase="end", encoder_count=1, inspected=inspected)))
    assert line.endswith("---- not all in full: 1.0 m full, 2.0 m gate")


def test_the_end_of_a_coil_says_which_packs_judged_it() -> None:
    first, then = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
    end = CoilEvent(coil="4711", phase="end", encoder_count=1, packs=(first,))
    assert describe(event(end))[0].endswith("---- pack abababababab")
    inspected = {Depth.GATE: Inspected(frames=9, mm=2048.0)}
    both = msgspec.structs.replace(end, packs=(first, then), inspected=inspected)
    assert describe(event(both))[0].endswith("---- packs abababababab, cdcdcdcdcdcd; not all in full: 2.0 m gate")


def test_a_heartbeat_sums_up_what_was_lost_and_who_missed_what() -> None:
    cameras = {
        "a": CameraTotals(issued=12, inspected=10, lost={"overload": 1, "missing": 1}),
        "b": CameraTotals(issued=5, inspected=5, lost={}),
    }
    beat = Heartbeat(state="running", coil="4711", high_water={}, cameras=cameras, undelivered={"jsonl": 0, "zmq": 4})
    line, _ = describe(event(beat))
    assert line == (
        "23:59:58.123  heartbeat: running, coil 4711; a 10 inspected 2 lost; b 5 inspected 0 lost; 4 undelivered by zmq"
    )
    judged = msgspec.structs.replace(beat, pack_digest="sha256:" + "ab" * 32)
    assert "heartbeat: running, coil 4711, pack abababababab; a 10" in describe(event(judged))[0]
    assert "; overload step 3; a 10 inspected" in describe(event(msgspec.structs.replace(beat, overload_step=3)))[0]


@pytest.mark.parametrize("at", ["2026-01-31T23:59:58Z", "2026-01-31T23:59:58.5Z", "2026-01-31T23:59:58.000000001Z"])
def test_any_rfc_3339_time_will_do(at: str) -> None:
    assert describe(event(State(part="p", state="up", detail=""), at))[0].startswith("23:59:58.")


@settings(deadline=None)
@given(st.text())
def test_nothing_in_a_name_can_steer_a_terminal(text: str) -> None:
    shown = safe(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert [a for a, b in zip(shown, text, strict=True) if b.isprintable()] == [c for c in text if c.isprintable()]


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20))
def test_every_event_is_one_line(text: str) -> None:
    for data in (
        defect(name=text, camera=text),
        gap(detail=text, source=text),
        State(part=text, state=text, detail=text),
        CoilEvent(coil=text, phase="end", encoder_count=1, packs=(text,)),
        Heartbeat(state=text, coil=text, high_water={}, cameras={}, undelivered={text: 1}, pack_digest=text),
    ):
        assert describe(event(data))[0].isprintable()


def test_an_escape_sequence_is_shown_and_not_obeyed() -> None:
    assert safe("\x1b[31mred\x07\n\u202e") == "\ufffd[31mred\ufffd\ufffd\ufffd"
