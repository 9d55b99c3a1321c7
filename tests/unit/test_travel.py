"""travel.py and grading.py: a strip that stands, creeps and runs back is told once, and a count that jumps is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, repeat
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.cameras._odometer import Encoder, Odometer
from inspector.coils import CoilMap
from inspector.config import GradingConfig
from inspector.events import Defect, Reason
from inspector.ledger import Ledger
from inspector.overlap import Overlap
from inspector.records import Frame, Graded, Pixels
from tests.grading import (
    FIRST,
    GEOMETRY,
    Rig,
    assert_books,
    clean,
    coil_events,
    defects,
    gaps,
    running_in,
    states,
)
from tests.packs import paint

HEIGHT = 32
ON, BACK, STAND = 1.0, -1.0, 0.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_in(tmp_path_factory.mktemp("pack")) as rig:
        yield rig


@pytest.fixture
def rig(running: Rig) -> Rig:
    return running


def film(strip: Pixels, rates: Sequence[float | None], start: int = 0) -> list[Frame]:
    """Frames of lines at a steady rate over a strip that moves so many counts (and rows) in each of a frame's lines.

    None: as 1, and the encoder does not measure it.
    """
    frames, place = [], float(start)
    for sequence, rate in enumerate(rates):
        step = 1.0 if rate is None else rate
        rows = np.floor(place + step * (np.arange(HEIGHT) + 0.5)).astype(int)
        pixels = strip[rows].copy()
        frame = Frame("a", sequence, 10**9 + sequence, sequence, FIRST + round(place), pixels, counts_per_line=rate)
        frames.append(frame)
        place += step * HEIGHT
    return frames


def to_the_end(rates: list[float]) -> list[float]:
    """And on, until two frames are past all that was seen: a last frame has none behind it that says where it ended."""
    steps = np.cumsum([0.0, *rates])
    return rates + [ON] * (int(steps.max() - steps[-1]) + 2)


def told(found: Sequence[Graded]) -> list[tuple[str, str]]:
    return [(s.part, s.state) for s in states(found)]


def places(found: Sequence[Graded]) -> list[tuple[int, float, float]]:
    return sorted((d.defect_class.number, d.position_mm.along, d.size_mm.along) for d in defects(found))


def length_mm(found: Sequence[Graded]) -> float:
    return sum(s.length_mm for graded in found for s in graded.settled)


def marked(frames: int) -> Pixels:
    """A defect in the middle of every 32 rows, the classes in turn."""
    strip = clean(frames * HEIGHT)
    for number in range(frames):
        paint(strip, number % 4 + 1, number * HEIGHT + 12, 10, 8, 10)
    return strip


def marks(first: int, end: int) -> list[tuple[int, float, float]]:
    """What is found of the marks [first, end)."""
    return sorted((number % 4 + 1, (number * HEIGHT + 16) * 0.5, 4.0) for number in range(first, end))


# ---------------------------------------------------------------- running back


@pytest.mark.parametrize("overlap", [0, 8])
def test_strip_that_is_seen_again_is_not_told_again(rig: Rig, overlap: int) -> None:
    frames = film(marked(10), [ON] * 5 + [BACK] * 3 + [ON] * 8)
    sharing = Overlap(overlap, GEOMETRY)
    for frame in frames:
        if overlap:
            sharing.add(frame)
    found = rig.run(frames, sizes=repeat(1), overlap=overlap)
    assert places(found) == marks(0, 10)
    assert told(found) == [("a", "reversed"), ("a", "forward again")]
    assert gaps(found) == []
    assert length_mm(found) == 160.0
    assert_books(found, {"a": 16})


def test_the_events_say_from_where_to_where(rig: Rig) -> None:
    found = rig.run(film(marked(10), [ON] * 5 + [BACK] * 3 + [ON] * 8))
    assert [s.detail for s in states(found)] == [
        "from 80.0 mm (count 5160), now at 80.0 mm (count 5160): what is seen again is not told again",
        "now at 80.0 mm (count 5160); the strip had run back to 32.0 mm (count 5064)",
    ]


def test_the_frame_that_passes_the_furthest_place_tells_of_what_is_new_in_it(rig: Rig) -> None:
    strip = clean(300)
    paint(strip, 1, 150, 10, 5, 10)
    paint(strip, 2, 166, 30, 5, 10)
    found = rig.run(film(strip, [ON] * 5 + [BACK, -0.5] + [ON] * 4))
    assert [(d.defect_class.number, d.frame_sequence) for d in defects(found)] == [(1, 4), (2, 8)]
    assert length_mm(found) == (112 + 4 * HEIGHT) * 0.5


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([ON, BACK, STAND]), st.integers(1, 6)), min_size=1, max_size=8),
    st.lists(st.integers(1, 5), min_size=1),
)
def test_however_the_strip_moves_each_defect_is_told_once(
    running: Rig, moves: list[tuple[float, int]], sizes: list[int]
) -> None:
    rates = to_the_end([rate for rate, count in moves for _ in range(count)])
    steps = np.cumsum([0, *(int(rate) for rate in rates)])
    start = 1 - int(steps.min())
    strip = marked(start + int(steps.max()) + 2)
    seen = {min(a, b) for a, b in pairwise(steps + start) if a != b}
    config = GradingConfig(merge_px=3, thumbnails=False, join_frames=3)
    found = running.run(film(strip, rates, start * HEIGHT), config=config, sizes=[*sizes, *repeat(3, 100)])
    first = start * 16.0
    expected = sorted((n % 4 + 1, (n * HEIGHT + 16) * 0.5 - first, 4.0) for n in seen)
    assert places(found) == expected
    assert gaps(found) == []
    assert length_mm(found) == max(steps) * 16.0
    assert_books(found, {"a": len(rates)})
    words = [state for _, state in told(found)]
    assert all(a != b for a, b in pairwise(words))
    turns = sum(a != b for a, b in pairwise([ON, *(rate for rate, _ in moves)]))
    assert len(words) <= 2 * turns


def test_what_lay_in_a_gap_is_told_when_the_strip_runs_back_over_it_and_only_then(rig: Rig) -> None:
    frames = film(marked(10), [ON] * 5 + [BACK] * 3 + [ON] * 3 + [BACK] * 3 + [ON] * 8)
    ledger = Ledger(["a"])
    ledger.issue("a", len(frames))
    found = rig.run([frame for frame in frames if frame.sequence != 3], sizes=repeat(1), ledger=ledger)
    assert places(found) == marks(0, 10)
    assert [(g.frames, g.along_mm.start, g.along_mm.end) for g in gaps(found)] == [(1, 48.0, 64.0)]


def test_a_strip_that_turns_within_a_frame(rig: Rig) -> None:
    """Its encoder triggers the lines of a strip that runs back too."""
    strip = marked(10)
    frames = film(strip, [None] * 4)
    again = film(strip, [None] * 6, start=3 * HEIGHT + 8)
    for frame in again:
        frame.sequence += 4
    found = rig.run(frames + again)
    # Where within the frame before it turned is not known: rather twice than never.
    assert Counter(places(found)) == Counter([*marks(0, 9), *marks(3, 4)])
    assert told(found) == [("a", "reversed"), ("a", "forward again")]
    assert length_mm(found) == (9 * HEIGHT + 8) * 0.5


def test_a_strip_that_runs_back_over_a_coils_head_does_not_forget_the_coil(rig: Rig) -> None:
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 64)
    found = rig.run(film(marked(8), [ON] * 4 + [BACK] * 3 + [ON] * 7), coils=coils, sizes=repeat(1))
    assert coil_events(found) == [
        ("C1", "start", FIRST),
        ("C1", "end", FIRST + 64),
        ("C2", "start", FIRST + 64),
        ("C2", "end", FIRST + 256),
    ]
    assert [d.coil for d in defects(found)] == ["C1"] * 2 + ["C2"] * 6
    assert [coil.name for coil in coils.known()] == ["C1", "C2"]


# ---------------------------------------------------------------- standing and creeping


def test_a_standing_strip_is_told_and_what_lies_under_the_camera_only_once(rig: Rig) -> None:
    strip = clean(256)
    paint(strip, 2, 124, 10, 8, 10)  # it stops in the middle of this one
    ledger = Ledger(["a"])
    found = rig.run(film(strip, [ON] * 4 + [STAND] * 30 + [ON] * 4), ledger=ledger, sizes=repeat(1))
    assert [(d.position_mm.along, d.size_mm.along, d.continues) for d in defects(found)] == [
        (63.0, 2.0, True),
        (65.0, 2.0, False),
    ]
    assert told(found) == [("a", "standing"), ("a", "running")]
    assert length_mm(found) == 128.0
    assert_books(found, {"a": 38})
    settled = [number for number, graded in enumerate(found) if graded.settled]
    waits = max(b - a for a, b in pairwise(settled))
    assert waits <= GradingConfig().join_frames, "frames do not wait for the strip to move"


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 3), st.integers(10, 80))
def test_a_creeping_strip_does_not_flap(running: Rig, lines: float, count: int) -> None:
    """So many lines of strip in each frame."""
    found = running.run(film(clean(600), [ON] * 3 + [lines / HEIGHT] * count + [ON] * 3))
    words = [state for _, state in told(found)]
    once, never = ["standing", "running"], list[str]()
    # Between half a line and a whole one it depends on where whole counts fall.
    assert words in ([once] if lines < 0.5 else [once, never] if lines < 1 else [never])
    assert length_mm(found) == pytest.approx((6 * HEIGHT + lines * count) * 0.5, abs=1.0)
    assert gaps(found) == []


@pytest.mark.parametrize("rate", [0.25, 0.5, 1.0, 1.2])
def test_a_slow_strip_has_its_true_length(rig: Rig, rate: float) -> None:
    strip = clean(600)
    paint(strip, 2, 100, 10, 24, 10)
    found = rig.run(film(strip, [ON] * 2 + [rate] * 12 + [ON]), sizes=repeat(2))
    (defect,) = defects(found)
    assert [defect.position_mm.along, defect.size_mm.along] == [
        pytest.approx(56.0, abs=0.5),
        pytest.approx(12.0, abs=0.7),
    ]
    assert defect.area_mm2 == pytest.approx(12 * 2.5, abs=2.0)
    assert told(found) == []
    assert gaps(found) == []
    assert length_mm(found) == pytest.approx((3 + 12 * rate) * 16, abs=1.0)


def test_a_strip_that_slows_down_has_no_jump_and_no_line_twice(rig: Rig) -> None:
    """Adapters know a frame's speed only from the one before."""
    rates = [1.0, 1.0, 0.8, 0.5, 0.3, 0.1, 0.3, 0.6, 1.0, 1.0]
    frames = film(clean(400), rates)
    for frame, late in zip(frames, [1.0, *rates], strict=False):
        frame.counts_per_line = late
    found = rig.run(frames)
    assert told(found) == []
    assert gaps(found) == []
    assert length_mm(found) == pytest.approx(sum(rates) * 16, abs=1.0)


# ---------------------------------------------------------------- as an adapter sees it


def by_encoder(strip: Pixels, rates: Sequence[float], start: int = 0) -> list[Frame]:
    """As `film`, with the places that a camera's encoder chunk gives: speeds are those of the frame before."""
    frames, odometer = film(strip, rates, start), Odometer(Encoder(source="chunk", lines="timed"), HEIGHT)
    for frame in frames:
        place = odometer.place(frame.sequence, frame.sequence * 0.01, frame.encoder_count)
        frame.encoder_count, frame.counts_per_line = place.encoder_count, place.counts_per_line
    return frames


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([ON, BACK, STAND]), st.integers(1, 6)), min_size=1, max_size=8),
    st.integers(0, 16),
    st.lists(st.integers(1, 5), min_size=1),
)
def test_by_the_encoders_own_value_each_defect_is_told_once_too(
    running: Rig, moves: list[tuple[float, int]], overlap: int, sizes: list[int]
) -> None:
    """A frame's speed is known only from the next frame, which grading waits for."""
    rates = to_the_end([rate for rate, count in moves for _ in range(count)])
    steps = np.cumsum([0, *(int(rate) for rate in rates)])
    start = 1 - int(steps.min())
    strip = marked(start + int(steps.max()) + 2)
    seen = {min(a, b) for a, b in pairwise(steps + start) if a != b}
    frames, sharing = by_encoder(strip, rates, start * HEIGHT), Overlap(overlap, GEOMETRY)
    for frame in frames:
        if overlap:
            sharing.add(frame)
    config = GradingConfig(merge_px=3, thumbnails=False, join_frames=3)
    found = running.run(frames, config=config, sizes=[*sizes, *repeat(3, 100)], overlap=overlap)
    expected = sorted((n % 4 + 1, (n * HEIGHT + 16) * 0.5 - start * 16.0, 4.0) for n in seen)
    assert places(found) == expected
    assert gaps(found) == []
    assert length_mm(found) == max(steps) * 16.0
    assert_books(found, {"a": len(rates)})
    assert "encoder jumped" not in [state for _, state in told(found)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-150, 200).filter(bool), min_size=1, max_size=6), st.sampled_from(["triggered", "timed"]))
def test_wherever_the_strip_turns_nothing_is_missed(
    running: Rig, runs: list[int], lines: Literal["triggered", "timed"]
) -> None:
    """Within frames too: whatever a frame shows whole, running one way, is told; near its place, and not for ever."""
    steps = np.array(
        [np.sign(run) for run in runs for _ in range(abs(run))] + [1] * (64 + sum(map(abs, runs)) % HEIGHT)
    )
    steps = steps[: len(steps) // HEIGHT * HEIGHT]
    begins = np.concatenate([[0], np.cumsum(steps)])
    begins -= begins.min() - 40
    strip = marked(int(begins.max()) // HEIGHT + 3)
    odometer = Odometer(Encoder(source="chunk", lines=lines), HEIGHT)
    frames, seen = [], Counter[int]()
    for sequence, first in enumerate(range(0, len(steps), HEIGHT)):
        way, begin = steps[first : first + HEIGHT], int(begins[first])
        rows = begins[first : first + HEIGHT] - (way < 0)
        place = odometer.place(sequence, sequence * 0.01, FIRST + begin)
        count, rate = place.encoder_count, place.counts_per_line
        frames.append(Frame("a", sequence, 10**9 + sequence, 0, count, strip[rows].copy(), counts_per_line=rate))
        low, high = int(rows.min()), int(rows.max())
        if abs(int(way.sum())) == HEIGHT:
            seen.update(n for n in range(len(strip) // HEIGHT) if low <= n * HEIGHT + 12 and n * HEIGHT + 19 <= high)
    found = running.run(frames, config=GradingConfig(merge_px=3, thumbnails=False))
    head = FIRST + int(begins[0])
    events = [(number, along / 0.5 + head - FIRST) for number, along, _ in places(found)]
    for mark in seen:
        near = [at for number, at in events if number == mark % 4 + 1 and abs(at - mark * HEIGHT - 16) <= 2 * HEIGHT]
        assert near, mark
    assert len(events) <= len(strip) // HEIGHT + 5 * len(runs)
    assert "encoder jumped" not in [state for _, state in told(found)]
    assert_books(found, {"a": len(frames)})


def test_what_lies_behind_the_very_beginning_is_told_where_the_strip_turns(running: Rig) -> None:
    """The strip runs back behind where the line began, by less than a frame, and turns there."""
    law = test_wherever_the_strip_turns_nothing_is_missed.hypothesis.inner_test  # type: ignore[attr-defined]
    law(running, [64, 200, -126, -150], "triggered")


def test_a_frame_waits_for_the_next_one_or_for_the_end(rig: Rig) -> None:
    """Not for a strip that the plant says stands: then a replay would grade it at another moment."""
    frames = by_encoder(marked(4), [ON] * 3)
    ledger = Ledger(["a"])
    found = rig.run(frames, sizes=repeat(1), ledger=ledger, after={2: lambda grading: grading.stand()})
    assert [len(defects([graded])) for graded in found] == [0, 1, 0, 1, 1]
    assert ledger.totals()["a"].inspected == 3


# ---------------------------------------------------------------- jumps


@pytest.mark.parametrize("measured", [False, True])
def test_a_jump_ahead_is_a_gap_and_told(rig: Rig, measured: bool) -> None:
    frames = film(marked(8), [ON if measured else None] * 8)
    for frame in frames[4:]:
        frame.encoder_count += 4000
    found = rig.run(frames)
    assert [(g.reason, g.frames, g.along_mm.start, g.along_mm.end) for g in gaps(found)] == [
        (Reason.MISSING, 0, 64.0, 2064.0)
    ]
    (state,) = states(found)
    assert (state.part, state.state) == ("a", "encoder jumped")
    assert state.detail.startswith("from 64.0 mm (count 5128) to 2064.0 mm (count 9128): no strip")
    assert len(defects(found)) == 8


@pytest.mark.parametrize("measured", [False, True])
def test_a_jump_back_is_told_and_nothing_is_held_back(rig: Rig, measured: bool) -> None:
    """Nobody knows what strip it is: rather twice than never."""
    frames = film(marked(8), [ON if measured else None] * 8)
    for frame in frames[6:]:
        frame.encoder_count -= 100
    found = rig.run(frames)
    assert told(found) == [("a", "encoder jumped")]
    assert gaps(found) == []
    assert len(defects(found)) == 8
    assert length_mm(found) == 128.0


def test_a_count_that_is_wrong_once_is_told_both_ways(rig: Rig) -> None:
    frames = film(marked(8), [None] * 8)
    frames[4].encoder_count += 4000
    found = rig.run(frames)
    assert told(found) == [("a", "encoder jumped")] * 2
    assert len(defects(found)) == 8


def test_a_divider_that_is_set_wrong_is_told_once(rig: Rig) -> None:
    frames = film(marked(8), [None] * 8)
    for frame in frames:
        frame.encoder_count = FIRST + frame.sequence * 4 * HEIGHT
    found = rig.run(frames)
    assert told(found) == [("a", "encoder jumped")]
    assert len(gaps(found)) == 7


@pytest.mark.parametrize("after", [Reason.RESET, None])
def test_strip_that_passed_before_another_piece_is_a_gap_of_its_reason_and_no_jump(
    rig: Rig, after: Reason | None
) -> None:
    frames = film(clean(256), [None] * 6)
    for frame in frames[3:]:
        frame.encoder_count += 320
        frame.piece = 1
    frames[3].after = after
    found = rig.run(frames)
    (gap,) = gaps(found)
    assert (gap.reason, gap.along_mm.start, gap.along_mm.end) == (after or Reason.CAMERA_DOWN, 48.0, 208.0)
    assert states(found) == []


def test_a_reason_without_another_piece_counts_too(rig: Rig) -> None:
    frames = film(clean(256), [None] * 6)
    for frame in frames[3:]:
        frame.encoder_count += 320
    frames[3].after = Reason.UNDERRUN
    found = rig.run(frames)
    assert [gap.reason for gap in gaps(found)] == [Reason.UNDERRUN]
    assert states(found) == []


def test_frames_that_are_lost_while_the_strip_runs_back(rig: Rig) -> None:
    frames = film(marked(10), [ON] * 5 + [BACK] * 4 + [ON] * 9)
    ledger = Ledger(["a"])
    ledger.issue("a", len(frames))
    found = rig.run([frame for frame in frames if frame.sequence != 6], ledger=ledger)
    # How far the frame before the lost one ran back is not known: it is told again, rather than never.
    assert places(found) == sorted([*marks(0, 10), *marks(4, 5)])
    (gap,) = gaps(found)
    assert (gap.frames, gap.along_mm.start, gap.along_mm.end) == (1, 64.0, 64.0)
    assert told(found) == [("a", "reversed"), ("a", "forward again")]
    assert_books(found, {"a": 18})


def test_defects_keep_the_order_of_their_frames(rig: Rig) -> None:
    found: list[Defect] = defects(rig.run(film(marked(10), [ON] * 5 + [BACK] * 3 + [ON] * 8)))
    assert [d.frame_sequence for d in found] == sorted(d.frame_sequence for d in found)
