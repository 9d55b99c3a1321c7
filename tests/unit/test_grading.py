"""grading.py: whatever the cut into frames, the batches and the cameras' order, the same strip gives the same events,
and every frame has one fate. Strips are painted, and run through the real networks of tests/packs.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspector import thumbnails
from inspector.coils import CoilMap
from inspector.config import EdgeConfig, GradingConfig, SeverityRule
from inspector.drafting import severity
from inspector.events import CoilEvent, Defect, Reason, as_json
from inspector.grading import Grading
from inspector.joining import Joining
from inspector.journal import Resumed, rfc3339
from inspector.ledger import Ledger
from inspector.records import Frame, Graded, Loss, Pixels, Region, Roi, Verdict
from inspector.rle import decode
from inspector.strip import Geometry
from tests.grading import (
    FIRST,
    GEOMETRY,
    SECOND_NS,
    WIDTH,
    Rig,
    assert_books,
    clean,
    coil_events,
    cuts,
    defects,
    drafts,
    gaps,
    on_strip,
    packs_told,
    placed,
    running_in,
    states,
    strips,
    tops_of,
    truth,
)
from tests.packs import BAND, paint


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_in(tmp_path_factory.mktemp("pack")) as rig:
        yield rig


@pytest.fixture
def rig(running: Rig) -> Rig:
    running.released.clear()
    return running


# ---------------------------------------------------------------- the great law


@settings(max_examples=100, deadline=None)
@given(st.data(), strips(), st.sampled_from([0, 1, 3, 12]))
def test_the_cut_into_frames_does_not_change_the_events(
    running: Rig, data: st.DataObject, strip: Pixels, merge_px: int
) -> None:
    """Down to frames of one line. What is found is what was painted."""
    rows = strip.shape[0]
    config = GradingConfig(merge_px=merge_px, join_frames=10_000, thumbnails=False)
    results = []
    for heights in ([rows], data.draw(cuts(rows), "cut"), data.draw(cuts(rows, 20, 40), "cut")):
        sizes = data.draw(st.lists(st.integers(1, 9), min_size=1), "batches")
        found = defects(running.run(running.frames(strip, heights), sizes=chain(sizes, repeat(4)), config=config))
        masks = [(d.defect_class.number, on_strip(d, tops_of(heights), rows).tobytes()) for d in found]
        assert len(masks) == len(set(masks))
        assert set(masks) == truth(strip, merge_px, minimum=4)
        assert not any(d.continues for d in found)
        results.append(placed(found, heights, rows))
    assert results[0] == results[1] == results[2]


@st.composite
def interleavings(draw: st.DrawFn, counts: Sequence[int]) -> list[int]:
    """Camera numbers in an order in which their frames may come."""
    return draw(st.permutations([camera for camera, count in enumerate(counts) for _ in range(count)]))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.lists(strips(), min_size=1, max_size=3))
def test_batches_and_the_order_of_cameras_do_not_change_a_byte(
    running: Rig, data: st.DataObject, lanes: list[Pixels]
) -> None:
    heights = [data.draw(cuts(lane.shape[0], 10, 60)) for lane in lanes]
    names = ["a", "b", "c"][: len(lanes)]
    config = GradingConfig(merge_px=3, join_frames=2, thumbnails=False)

    def events(order: Sequence[int], sizes: Iterable[int]) -> tuple[dict[str, list[bytes]], dict[str, list[object]]]:
        waiting = [iter(running.frames(lane, h, name)) for lane, h, name in zip(lanes, heights, names, strict=True)]
        found = running.run([next(waiting[i]) for i in order], sizes=sizes, config=config)
        topics = defaultdict(list)
        for draft in drafts(found):
            topics[draft.topic].append(as_json(draft.data))
        fates: dict[str, list[object]] = defaultdict(list)
        for settled in (s for graded in found for s in graded.settled):
            fates[settled.camera] += [(n, settled.reason) for n in range(settled.first, settled.last + 1)]
        return dict(topics), dict(fates)

    counts = [len(h) for h in heights]
    plain = events([camera for camera, count in enumerate(counts) for _ in range(count)], repeat(1))
    order = data.draw(interleavings(counts), "order")
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=1), "batches")
    assert events(order, chain(sizes, repeat(5))) == plain


def test_a_defect_over_seams_is_one_event(rig: Rig) -> None:
    """Frames of different heights: the mask has the rows of all of them, stacked."""
    heights = [32, 20, 11, 32]
    strip = clean(95)
    paint(strip, 3, 20, 5, 40, 7)
    strip[40:43, 5:12] = 90  # in two pieces, near enough
    (found,) = defects(rig.run(rig.frames(strip, heights)))
    assert (found.frame_sequence, found.frames) == (0, 3)
    assert found.mask.size == (63, WIDTH)
    np.testing.assert_array_equal(decode(found.mask.rle, 63, WIDTH), strip[:63] > 190)
    assert (found.bbox_px.x, found.bbox_px.y, found.bbox_px.width, found.bbox_px.height) == (5, 20, 7, 40)
    assert found.area_px == 37 * 7


@pytest.mark.parametrize("merge_px", [0, 1, 3, 12])
@pytest.mark.parametrize("sideways", [False, True])
def test_pieces_merge_over_a_seam_as_they_do_within_a_frame(rig: Rig, merge_px: int, sideways: bool) -> None:
    for blank in (merge_px, merge_px + 1):
        for above in range(blank + 1 if not sideways else 1):
            strip = clean(64)
            paint(strip, 1, 32 - above - 5, 10, 5, 5)
            paint(strip, 1, 32 + (0 if sideways else blank - above), 15 + blank if sideways else 10, 5, 5)
            found = defects(rig.run(rig.frames(strip, [32, 32]), config=GradingConfig(merge_px=merge_px)))
            assert len(found) == (1 if blank <= merge_px else 2), (blank, above)


def test_two_defects_that_a_third_joins_are_one(rig: Rig) -> None:
    """A U whose arms lie in the first two frames, one arm longer than the other."""
    strip = clean(96)
    paint(strip, 2, 10, 5, 60, 4)
    paint(strip, 2, 40, 50, 30, 4)
    paint(strip, 2, 66, 5, 10, 49)
    (found,) = defects(rig.run(rig.frames(strip, [32, 32, 32])))
    np.testing.assert_array_equal(decode(found.mask.rle, 96, WIDTH), strip > 190)
    assert (found.frame_sequence, found.frames) == (0, 3)


def test_classes_are_never_joined(rig: Rig) -> None:
    strip = clean(64)
    paint(strip, 1, 22, 10, 10, 10)
    paint(strip, 4, 32, 10, 10, 10)
    found = defects(rig.run(rig.frames(strip, [32, 32])))
    assert sorted((d.defect_class.number, d.area_px) for d in found) == [(1, 100), (4, 100)]


def test_a_speck_at_a_seam_counts_only_with_its_other_half(rig: Rig) -> None:
    strip = clean(64)
    paint(strip, 1, 31, 10, 1, 3)
    assert defects(rig.run(rig.frames(strip, [32, 32]))) == []
    paint(strip, 1, 32, 10, 1, 1)
    (found,) = defects(rig.run(rig.frames(strip, [32, 32])))
    assert found.area_px == 4


# ---------------------------------------------------------------- cut long defects


@pytest.mark.parametrize("join_frames", [1, 2, 3, 4, 5])
def test_a_long_defect_is_cut_and_says_so(rig: Rig, join_frames: int) -> None:
    strip = clean(160)
    paint(strip, 3, 10, 20, 140, 3)
    config = GradingConfig(merge_px=3, join_frames=join_frames)
    found = defects(rig.run(rig.frames(strip, [32] * 5), config=config))
    assert [d.frame_sequence for d in found] == list(range(0, 5, join_frames))
    assert all(d.frames <= join_frames for d in found)
    assert [d.continues for d in found] == [True] * (len(found) - 1) + [False]
    masks = [on_strip(d, [0, 32, 64, 96, 128], 160) for d in found if d.mask.size[0] <= 160]
    np.testing.assert_array_equal(np.sum(masks, axis=0), strip > 190)


def test_of_a_scratch_as_long_as_the_coil_only_its_end_is_kept() -> None:
    """It is cut into events; what lies behind the cuts would slow down the line and fill its memory."""
    joining, height = Joining(GradingConfig(join_frames=2, thumbnails=False)), 32
    told = 0
    for number in range(200):
        frame = Frame("a", number, 0, 0, number * height, clean(height))
        region = Region(1, x=20, y=0, mask=np.ones((height, 3), dtype=bool), area_px=3 * height, score=0.9)
        told += len(joining.follow(Verdict(frame, Roi(0, WIDTH), 1.0, [region])))
    (goes_on,) = joining.open
    assert len(goes_on.parts) + len(goes_on.before) <= 3
    assert told == 99
    assert [defect.continues for defect in joining.close()] == [False]


def test_a_defect_that_ends_at_the_cut_does_not_continue(rig: Rig) -> None:
    strip = clean(96)
    paint(strip, 3, 10, 20, 54, 3)
    config = GradingConfig(merge_px=3, join_frames=2)
    (found,) = defects(rig.run(rig.frames(strip, [32, 32, 32]), config=config))
    assert (found.frames, found.continues) == (2, False)
    (last,) = defects(rig.run(rig.frames(strip[:64], [32, 32]), config=config))
    assert (last.frames, last.continues) == (2, False)


def test_the_small_rest_of_a_cut_defect_is_not_lost(rig: Rig) -> None:
    strip = clean(64)
    paint(strip, 3, 10, 20, 23, 1)
    found = defects(rig.run(rig.frames(strip, [32, 32]), config=GradingConfig(merge_px=3, join_frames=1)))
    assert [(d.area_px, d.continues) for d in found] == [(22, True), (1, False)]


def test_the_rest_of_a_cut_defect_counts_also_together_with_another(rig: Rig) -> None:
    """A long line, a speck beside it, and one that joins both behind the cut: too small without the line."""
    strip = clean(96)
    paint(strip, 3, 10, 20, 54, 1)
    paint(strip, 3, 63, 27, 1, 1)
    paint(strip, 3, 64, 23, 1, 1)
    found = defects(rig.run(rig.frames(strip, [32] * 3), config=GradingConfig(merge_px=3, join_frames=2)))
    assert [(d.frame_sequence, d.area_px, d.continues) for d in found] == [(0, 54, True), (1, 2, False)]


@settings(max_examples=100, deadline=None)
@given(st.data(), strips(), st.sampled_from([0, 3, 12]), st.integers(1, 4))
def test_cutting_loses_and_doubles_nothing(
    running: Rig, data: st.DataObject, strip: Pixels, merge_px: int, join_frames: int
) -> None:
    rows = strip.shape[0]
    heights = data.draw(cuts(rows, 5, 40))
    painted: dict[int, NDArray[np.bool_]] = {}
    for number, mask in truth(strip, merge_px, minimum=4):
        canvas = np.frombuffer(mask, dtype=np.bool_).reshape(strip.shape)
        painted[number] = painted.get(number, np.zeros(strip.shape, dtype=np.bool_)) | canvas
    config = GradingConfig(merge_px=merge_px, join_frames=join_frames, thumbnails=False)
    graded = running.run(running.frames(strip, heights), config=config)
    found = defects(graded)
    for number in BAND:
        masks = [on_strip(d, tops_of(heights), rows) for d in found if d.defect_class.number == number]
        total = np.sum(masks, axis=0) if masks else np.zeros(strip.shape)
        np.testing.assert_array_equal(total, painted.get(number, np.zeros(strip.shape)))
    assert_books(graded, {"a": len(heights)})


# ---------------------------------------------------------------- what is never joined


def across_the_seam() -> Pixels:
    strip = clean(64)
    paint(strip, 2, 20, 10, 24, 8)
    return strip


def test_pieces_never_join(rig: Rig) -> None:
    frames = rig.frames(across_the_seam(), [32, 32])
    frames[1].piece = 1
    found = rig.run(frames)
    assert [(d.frame_sequence, d.frames, d.area_px) for d in defects(found)] == [(0, 1, 96), (1, 1, 96)]
    assert gaps(found) == []


def test_nothing_joins_over_a_hole(rig: Rig) -> None:
    frames = rig.frames(across_the_seam(), [32, 32])
    frames[1].sequence = 2
    found = rig.run(frames)
    assert [(d.frame_sequence, d.area_px) for d in defects(found)] == [(0, 96), (2, 96)]


def test_frames_of_another_width_do_not_join(rig: Rig) -> None:
    frames = rig.frames(across_the_seam(), [32, 32])
    frames[1].pixels = np.ascontiguousarray(frames[1].pixels[:, :40])
    found = defects(rig.run(frames))
    assert [(d.mask.size, d.area_px) for d in found] == [((32, 64), 96), ((32, 40), 96)]


@pytest.mark.parametrize(("jump", "events"), [(0, 1), (2, 1), (-2, 1), (3, 2), (-3, 2), (-500, 2)])
def test_an_encoder_that_jumps_ends_a_defect(rig: Rig, jump: int, events: int) -> None:
    """A count or two is the encoder's own doubt; more is strip that nobody saw, or one that runs back."""
    frames = rig.frames(across_the_seam(), [32, 32])
    frames[1].encoder_count += jump
    found = rig.run(frames)
    assert len(defects(found)) == events
    assert len(gaps(found)) == (1 if jump > 2 else 0)


# ---------------------------------------------------------------- gaps


def spans(found: Iterable[Graded]) -> list[tuple[str, int, int, float, float]]:
    return [(g.reason.value, g.frame_sequence, g.frames, g.along_mm.start, g.along_mm.end) for g in gaps(found)]


def without(frames: list[Frame], *lost: int) -> list[Frame]:
    return [frame for frame in frames if frame.sequence not in lost]


def lossy(ledger: Ledger, sequence: int, reason: Reason, count: int = 1, detail: str = "") -> None:
    ledger.lose(Loss("a", sequence, count, reason, detail))


def test_a_hole_in_the_middle(rig: Rig) -> None:
    ledger = Ledger(["a"])
    lossy(ledger, 1, Reason.OVERLOAD, 2)
    found = rig.run(without(rig.frames(clean(160), [32] * 5), 1, 2), ledger=ledger)
    assert spans(found) == [("overload", 1, 2, 16.0, 48.0)]
    assert_books(found, {"a": 5})


def test_a_hole_at_the_start_belongs_to_the_strip(rig: Rig) -> None:
    """Places are those that the strip has when its first frames are not lost."""
    strip = clean(96)
    paint(strip, 1, 70, 10, 8, 8)
    whole = defects(rig.run(rig.frames(strip, [32] * 3)))
    ledger = Ledger(["a"])
    lossy(ledger, 0, Reason.UNREADABLE)
    found = rig.run(without(rig.frames(strip, [32] * 3), 0), ledger=ledger)
    assert spans(found) == [("unreadable", 0, 1, 0.0, 16.0)]
    assert [as_json(d) for d in defects(found)] == [as_json(d) for d in whole]
    assert coil_events(found)[0] == ("C1", "start", FIRST)
    assert_books(found, {"a": 3})


def test_a_hole_at_the_end(rig: Rig) -> None:
    ledger = Ledger(["a"])
    lossy(ledger, 2, Reason.OVERRUN, 3)
    found = rig.run(rig.frames(clean(64), [32] * 2), ledger=ledger)
    assert spans(found) == [("overrun", 2, 3, 32.0, 80.0)]
    assert coil_events(found)[-1] == ("C1", "end", FIRST + 160)
    assert_books(found, {"a": 5})


def test_a_hole_that_nobody_booked_is_missing(rig: Rig) -> None:
    found = rig.run(without(rig.frames(clean(96), [32] * 3), 1))
    assert spans(found) == [("missing", 1, 1, 16.0, 32.0)]


def test_several_reasons_share_a_hole_by_frames(rig: Rig) -> None:
    ledger = Ledger(["a"])
    lossy(ledger, 1, Reason.OVERLOAD)
    lossy(ledger, 3, Reason.OVERRUN, 2)
    found = rig.run(without(rig.frames(clean(192), [32] * 6), 1, 2, 3, 4), ledger=ledger)
    assert spans(found) == [
        ("overload", 1, 1, 16.0, 32.0),
        ("missing", 2, 1, 32.0, 48.0),
        ("overrun", 3, 2, 48.0, 80.0),
    ]
    assert_books(found, {"a": 6})


def test_lost_frames_are_as_long_as_they_are_and_the_rest_is_a_gap_of_its_own(rig: Rig) -> None:
    """The strip ran on while nothing was counted."""
    frames = without(rig.frames(clean(96), [32] * 3), 1)
    frames[1].encoder_count += 1000
    found = rig.run(frames)
    assert spans(found) == [("missing", 1, 1, 16.0, 32.0), ("missing", 2, 0, 32.0, 532.0)]
    assert [(s.part, s.state) for s in states(found)] == [("a", "encoder jumped")]


def test_a_camera_that_dies_within_a_frame_was_down_for_the_rest(rig: Rig) -> None:
    ledger = Ledger(["a"])
    lossy(ledger, 1, Reason.PACKETS)
    frames = without(rig.frames(clean(128), [32] * 4), 1)
    for frame in frames[1:]:
        frame.encoder_count += 1000
        frame.piece = 1 << 32
    found = rig.run(frames, ledger=ledger)
    assert spans(found) == [("packets", 1, 1, 16.0, 32.0), ("camera_down", 2, 0, 32.0, 532.0)]
    assert states(found) == []
    assert_books(found, {"a": 4})


def test_what_frames_lack_when_they_are_lost_on_a_slow_strip_is_theirs(rig: Rig) -> None:
    frames = without(rig.frames(clean(160), [32] * 5), 2, 3)
    frames[2].encoder_count -= 40
    for frame in frames:
        frame.counts_per_line = 1.0
    assert spans(rig.run(frames)) == [("missing", 2, 2, 32.0, 44.0)]


def test_an_unreadable_picture_is_named(rig: Rig) -> None:
    ledger = Ledger(["a"])
    ledger.lose(Loss("a", 1, 1, Reason.UNREADABLE, "torn", "2.png"))
    found = rig.run(without(rig.frames(clean(96), [32] * 3), 1), ledger=ledger)
    (gap,) = gaps(found)
    assert (gap.source, gap.detail, gap.camera, gap.coil) == ("2.png", "torn", "a", "C1")
    (lost,) = [settled for graded in found for settled in graded.settled if settled.reason is not None]
    assert (lost.first, lost.last, lost.source) == (1, 1, "2.png")


def test_strip_that_ran_by_without_frames_is_a_gap(rig: Rig) -> None:
    frames = rig.frames(clean(96), [32] * 3)
    for frame in frames[1:]:
        frame.encoder_count += 400
    assert spans(rig.run(frames)) == [("missing", 1, 0, 16.0, 216.0)]


def test_strip_that_ran_by_while_the_camera_was_down_says_so(rig: Rig) -> None:
    frames = rig.frames(clean(96), [32] * 3)
    for frame in frames[1:]:
        frame.encoder_count += 400
        frame.piece = 1 << 32
    assert spans(rig.run(frames)) == [("camera_down", 1, 0, 16.0, 216.0)]


def test_an_encoder_that_runs_back_is_no_gap_and_places_follow_it(rig: Rig) -> None:
    strip = clean(64)
    paint(strip, 1, 40, 10, 8, 8)
    frames = rig.frames(strip, [32, 32])
    frames[1].encoder_count = FIRST
    found = rig.run(frames)
    assert spans(found) == []
    assert defects(found)[0].position_mm.along == 6.0


def test_a_camera_that_lost_everything(rig: Rig) -> None:
    ledger = Ledger(["a", "b"])
    ledger.lose(Loss("b", 0, 3, Reason.UNREADABLE, "torn"))
    found = rig.run(rig.frames(clean(64), [32, 32]), ledger=ledger, geometries=dict.fromkeys("ab", GEOMETRY))
    (gap,) = gaps(found)
    assert (gap.camera, gap.frames, gap.reason) == ("b", 3, Reason.UNREADABLE)
    assert_books(found, {"a": 2, "b": 3})


@pytest.mark.parametrize(("frames", "first", "length"), [(7, 1000, 500.0), (0, 1000, 500.0), (7, -300, 0.0)])
def test_strip_that_passed_while_the_daemon_was_dead_is_a_gap(rig: Rig, frames: int, first: int, length: float) -> None:
    """Also when the encoder starts anew: then its length is not known, but the frames are."""
    resumed = {"a": Resumed(epoch=1, frames=frames, end_count=FIRST)}
    found = rig.run(rig.frames(clean(64), [32, 32], first=FIRST + first), resumed=resumed)
    (gap,) = gaps(found)
    assert (gap.reason, gap.frames) == (Reason.CRASH, frames)
    assert gap.along_mm.end - gap.along_mm.start == length
    assert_books(found, {"a": 2})


def test_a_daemon_that_was_back_in_time_has_no_gap(rig: Rig) -> None:
    resumed = {"a": Resumed(epoch=1, frames=0, end_count=FIRST)}
    assert gaps(rig.run(rig.frames(clean(64), [32, 32]), resumed=resumed)) == []


def test_strip_lost_before_the_first_frame_is_told_once(rig: Rig) -> None:
    """What the crash took ends where the books of this run begin."""
    resumed = {"a": Resumed(epoch=1, frames=2, end_count=FIRST - 100)}
    found = rig.run(without(rig.frames(clean(96), [32] * 3), 0), resumed=resumed)
    assert spans(found) == [("crash", 0, 2, -50.0, 0.0), ("missing", 0, 1, 0.0, 16.0)]


def test_a_crash_is_told_with_the_first_fate(rig: Rig) -> None:
    """A kill between the two would tell it twice, or never."""
    resumed = {"a": Resumed(epoch=1, frames=2, end_count=FIRST - 100)}
    strip = clean(128)
    paint(strip, 1, 5, 10, 80, 5)  # holds back the fates of three frames
    found = rig.run(rig.frames(strip, [32] * 4), resumed=resumed, sizes=repeat(1))
    fates = [bool(graded.settled) for graded in found]
    told = [bool(gaps([graded])) for graded in found]
    assert fates.index(True) == told.index(True) == 2
    assert told.count(True) == 1


def test_a_crash_of_which_no_place_is_known_lies_before_the_first_frame(rig: Rig) -> None:
    """The run was killed before it settled anything."""
    resumed = {"a": Resumed(epoch=1, frames=3, end_count=None)}
    assert spans(rig.run(rig.frames(clean(64), [32, 32]), resumed=resumed)) == [("crash", 0, 3, -48.0, 0.0)]


def test_a_gap_over_several_coils_is_told_for_each_of_them(rig: Rig) -> None:
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 64)
    coils.start("C3", FIRST + 100)
    coils.start("C4", FIRST + 160)  # begins where the gap ends
    found = rig.run(without(rig.frames(clean(192), [32] * 6), 1, 2, 3, 4), coils=coils)
    assert [(gap.coil, gap.frames, gap.along_mm.start, gap.along_mm.end) for gap in gaps(found)] == [
        ("C1", 4, 16.0, 32.0),
        ("C2", 0, 0.0, 18.0),
        ("C3", 0, 0.0, 30.0),
    ]
    assert_books(found, {"a": 6})


def down(*cameras: str) -> Callable[[Grading], None]:
    def tell(grading: Grading) -> None:
        grading.down = lambda: cameras

    return tell


def test_a_camera_that_is_down_at_the_end_leaves_a_gap(rig: Rig) -> None:
    """Nothing of the strip that the other camera saw meanwhile may look inspected."""
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 96)
    frames = [*rig.frames(clean(64), [32] * 2, "a"), *rig.frames(clean(128), [32] * 4, "b")]
    found = rig.run(frames, coils=coils, after={1: down("a")})
    assert [(gap.camera, gap.coil, gap.frames, gap.along_mm.start, gap.along_mm.end) for gap in gaps(found)] == [
        ("a", "C1", 0, 32.0, 48.0),
        ("a", "C2", 0, 0.0, 16.0),
    ]
    assert {gap.reason for gap in gaps(found)} == {Reason.CAMERA_DOWN}


def test_a_camera_that_was_never_there_saw_nothing(rig: Rig) -> None:
    found = rig.run(rig.frames(clean(64), [32] * 2), geometries=dict.fromkeys("ab", GEOMETRY), after={1: down("b")})
    assert [(gap.camera, gap.along_mm.start, gap.along_mm.end) for gap in gaps(found)] == [("b", 0.0, 32.0)]


def test_the_only_camera_being_down_says_that_nobody_knows_how_much_passed(rig: Rig) -> None:
    (gap,) = gaps(rig.run(rig.frames(clean(64), [32] * 2), after={1: down("a")}))
    assert (gap.reason, gap.along_mm.start, gap.along_mm.end) == (Reason.CAMERA_DOWN, 32.0, 32.0)
    assert "nobody saw" in gap.detail


def test_a_camera_that_never_comes_leaves_the_gap_to_the_next_run(rig: Rig) -> None:
    """The journal tells the next run of it again, as no frame of this camera was settled since."""
    resumed = {"a": Resumed(epoch=1, frames=4, end_count=123)}
    assert drafts(rig.run([], geometries={"a": GEOMETRY}, resumed=resumed)) == []


# ---------------------------------------------------------------- coils


def test_a_coil_begins_and_ends_once_for_all_cameras(rig: Rig) -> None:
    frames = rig.frames(clean(64), [32, 32], "a") + rig.frames(clean(96), [32] * 3, "b")
    assert coil_events(rig.run(frames)) == [("C1", "start", FIRST), ("C1", "end", FIRST + 96)]


def test_a_new_coil_starts_at_its_head(rig: Rig) -> None:
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 64)
    strip = clean(128)
    paint(strip, 1, 50, 10, 28, 8)  # over the weld
    paint(strip, 3, 100, 10, 8, 8)
    found = rig.run(rig.frames(strip, [32] * 4), coils=coils, sizes=repeat(1))
    assert coil_events(found) == [
        ("C1", "start", FIRST),
        ("C1", "end", FIRST + 64),
        ("C2", "start", FIRST + 64),
        ("C2", "end", FIRST + 128),
    ]
    assert [(d.coil, d.area_px, d.position_mm.along) for d in defects(found)] == [
        ("C1", 14 * 8, 28.5),
        ("C2", 14 * 8, 3.5),
        ("C2", 64, 20.0),
    ]


def test_a_head_inside_a_frame_divides_its_defects(rig: Rig) -> None:
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 48)
    strip = clean(96)
    paint(strip, 1, 34, 10, 4, 8)
    paint(strip, 1, 56, 10, 4, 8)
    found = rig.run(rig.frames(strip, [32] * 3), coils=coils)
    assert [(d.coil, d.position_mm.along) for d in defects(found)] == [("C1", 18.0), ("C2", 5.0)]


def test_a_coil_that_passed_in_a_hole_is_told(rig: Rig) -> None:
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 40)
    coils.start("C3", FIRST + 56)
    found = rig.run(without(rig.frames(clean(96), [32] * 3), 1), coils=coils)
    assert [(coil, phase) for coil, phase, _ in coil_events(found)] == [
        ("C1", "start"),
        ("C1", "end"),
        ("C2", "start"),
        ("C2", "end"),
        ("C3", "start"),
        ("C3", "end"),
    ]


def test_frames_that_were_graded_before_a_late_telegram_keep_their_coil(rig: Rig) -> None:
    coils = CoilMap("C1")
    strip = clean(96)
    for row in (4, 52, 70):
        paint(strip, 1, row, 10, 6, 8)
    late = {2: lambda _: coils.start("C2", FIRST + 40) and None}
    found = rig.run(rig.frames(strip, [32] * 3), coils=coils, sizes=repeat(1), after=late)
    assert [(d.coil, d.position_mm.along) for d in defects(found)] == [("C1", 3.5), ("C1", 27.5), ("C2", 16.5)]
    events = [draft.data for draft in drafts(found) if isinstance(draft.data, CoilEvent)]
    assert [(e.coil, e.phase, e.encoder_count, e.known_from) for e in events] == [
        ("C1", "start", FIRST, None),
        ("C1", "end", FIRST + 40, FIRST + 64),
        ("C2", "start", FIRST + 40, FIRST + 64),
        ("C2", "end", FIRST + 96, None),
    ]


def test_the_coil_on_the_line_is_named_after_the_daemon_has_started(rig: Rig) -> None:
    coils = CoilMap()
    strip = clean(64)
    paint(strip, 1, 40, 10, 6, 8)
    found = rig.run(
        rig.frames(strip, [32] * 2),
        coils=coils,
        sizes=repeat(1),
        after={1: lambda _: coils.start("4711", FIRST - 1000) and None},
    )
    assert [(d.coil, d.position_mm.along) for d in defects(found)] == [("4711", 521.5)]
    assert coil_events(found) == [
        ("unknown", "start", FIRST),
        ("unknown", "end", FIRST),
        ("4711", "start", FIRST - 1000),
        ("4711", "end", FIRST + 64),
    ]


def test_a_coil_that_was_named_wrongly_is_corrected(rig: Rig) -> None:
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 32)
    correct = {2: lambda _: coils.start("C2b", FIRST + 32) and None}
    found = rig.run(rig.frames(clean(96), [32] * 3), coils=coils, sizes=repeat(1), after=correct, digests="123")
    assert [name for name, phase, _ in coil_events(found) if phase == "start"] == ["C1", "C2", "C2b"]
    told = [(name, packs) for name, phase, packs in packs_told(found) if phase == "end"]
    assert told == [("C1", ("1",)), ("C2", ("2",)), ("C2b", ("3",))], "each of what was reported under its name"


def test_an_encoder_that_counts_anew_after_a_restart_is_told(rig: Rig) -> None:
    coils = CoilMap("C1")
    coils.start("C7", FIRST + 5000)
    resumed = {"a": Resumed(epoch=1, frames=0, end_count=FIRST + 9000)}
    found = rig.run(rig.frames(clean(32), [32]), coils=coils, resumed=resumed)
    assert [(s.part, s.state) for s in states(found)] == [("encoder", "reset")]
    assert [name for name, _, _ in coil_events(found)] == ["C1", "C1"]


def test_an_encoder_that_counts_anew_in_the_middle_ends_the_coil(rig: Rig) -> None:
    coils = CoilMap("C1")
    far = GEOMETRY.counts_of_mm(60_000)
    coils.start("C7", FIRST + 10)
    coils.start("C8", FIRST + 5 * far)
    strip = clean(128)
    paint(strip, 1, 100, 10, 6, 8)
    frames = rig.frames(strip, [32] * 4)
    for frame in frames[2:]:
        frame.encoder_count -= far
    found = rig.run(frames, coils=coils, sizes=repeat(1))
    assert [(s.part, s.state) for s in states(found)] == [("encoder", "reset")]
    assert coil_events(found) == [
        ("C1", "start", FIRST),
        ("C1", "end", FIRST + 10),
        ("C7", "start", FIRST + 10),
        ("C7", "end", FIRST + 64),
        ("C1", "start", FIRST + 64 - far),
        ("C1", "end", FIRST + 128 - far),
    ]
    assert [(d.coil, d.position_mm.along) for d in defects(found)] == [("C1", 19.5)]
    assert [coil.name for coil in coils.known()] == ["C1"], "what lay ahead lies nowhere now"


def test_a_standing_strip_tells_of_what_waits_and_goes_on_in_another_event(rig: Rig) -> None:
    strip = clean(96)
    paint(strip, 1, 20, 10, 24, 8)  # over the first seam
    stand = {1: lambda grading: grading.stand()}
    ledger = Ledger(["a"])
    found = rig.run(rig.frames(strip, [32] * 3), sizes=repeat(1), ledger=ledger, after=stand)
    assert [[type(d.data).__name__ for d in graded.drafts] for graded in found] == [
        ["CoilEvent"],
        ["Defect", "State"],
        ["State", "Defect"],
        [],
        ["CoilEvent"],
    ]
    assert [(d.area_px, d.continues) for d in defects(found)] == [(12 * 8, True), (12 * 8, False)]
    assert [s.state for s in states(found)] == ["standing", "running"]
    assert ledger.totals()["a"].inspected == 3


def test_the_end_of_a_coil_names_the_packs_that_judged_it(rig: Rig) -> None:
    """In the order in which they came, each once, though nothing was found; a frame on two coils is of both."""
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 80)
    coils.start("C3", FIRST + 128)
    digests = ["old", "new", "old", "new", "third"]
    found = rig.run(rig.frames(clean(160), [32] * 5), coils=coils, sizes=repeat(1), digests=digests)
    assert packs_told(found) == [
        *(("C1", "start", None), ("C1", "end", ("old", "new"))),
        *(("C2", "start", None), ("C2", "end", ("old", "new"))),
        *(("C3", "start", None), ("C3", "end", ("third",))),
    ]


def test_what_another_camera_shows_of_a_coil_is_judged_too(rig: Rig) -> None:
    """One that lags names its pack while the coil is on the line, one that is ahead names it for the next coil."""
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 64)
    ahead, behind = rig.frames(clean(96), [32] * 3), rig.frames(clean(96), [32] * 3, "b")
    queue = [ahead[0], ahead[1], behind[0], ahead[2], behind[1], behind[2]]
    digests = ["1", "2", "3", "4", "5", "6"]
    found = rig.run(queue, coils=coils, sizes=repeat(1), digests=digests)
    assert [packs for _, phase, packs in packs_told(found) if phase == "end"] == [("1", "2", "3"), ("4", "6")]


def test_a_coil_of_which_nothing_was_inspected_names_no_pack(rig: Rig) -> None:
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 40)
    coils.start("C3", FIRST + 56)
    found = rig.run(without(rig.frames(clean(96), [32] * 3), 1), coils=coils, digests=repeat("p"))
    ends = [(coil, packs) for coil, phase, packs in packs_told(found) if phase == "end"]
    assert ends == [("C1", ("p",)), ("C2", None), ("C3", ("p",))]


def test_an_encoder_that_counts_anew_ends_the_coil_with_its_packs(rig: Rig) -> None:
    frames = rig.frames(clean(128), [32] * 4)
    for frame in frames[2:]:
        frame.encoder_count -= GEOMETRY.counts_of_mm(60_000)
    found = rig.run(frames, sizes=repeat(1), digests=["1", "1", "2", "2"])
    assert [packs for _, phase, packs in packs_told(found) if phase == "end"] == [("1",), ("2",)]


def test_a_line_without_frames_has_no_coil(rig: Rig) -> None:
    assert drafts(rig.run([], geometries={"a": GEOMETRY})) == []


# ---------------------------------------------------------------- the books


@settings(max_examples=100, deadline=None)
@given(st.data(), st.lists(strips(), min_size=1, max_size=2), st.integers(1, 3))
def test_every_frame_is_settled_once_and_only_behind_its_events(
    running: Rig, data: st.DataObject, lanes: list[Pixels], join_frames: int
) -> None:
    """Whatever is lost, for whatever reason, booked or not."""
    running.released.clear()
    names = ["a", "b"][: len(lanes)]
    ledger = Ledger(names)
    issued, given_frames, lost = {}, [], dict.fromkeys(names, 0)
    for name, lane in zip(names, lanes, strict=True):
        frames = running.frames(lane, data.draw(cuts(lane.shape[0], 8, 40)), name)
        gone = data.draw(st.sets(st.integers(0, len(frames) - 1), max_size=len(frames) - 1), "lost")
        booked = data.draw(st.sets(st.sampled_from(sorted(gone))) if gone else st.just(set[int]()), "booked")
        for number in sorted(booked):
            reason = data.draw(st.sampled_from([Reason.OVERLOAD, Reason.OVERRUN, Reason.UNREADABLE]))
            ledger.lose(Loss(name, number, 1, reason))
        ledger.issue(name, len(frames))
        issued[name], lost[name] = len(frames), len(gone)
        given_frames.append(without(frames, *gone))
    order = data.draw(interleavings([len(frames) for frames in given_frames]))
    waiting = [iter(frames) for frames in given_frames]
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1))
    config = GradingConfig(merge_px=3, join_frames=join_frames, thumbnails=False)
    queue = [next(waiting[i]) for i in order]
    found = running.run(queue, sizes=chain(sizes, repeat(2)), config=config, ledger=ledger)
    assert_books(found, issued)
    for name, totals in ledger.totals().items():
        assert (totals.issued, totals.inspected) == (issued[name], issued[name] - lost[name])
        assert sum(totals.lost.values()) == lost[name]
        assert sum(gap.frames for gap in gaps(found) if gap.camera == name) == lost[name]
    assert running.released == {(frame.camera, frame.sequence): 1 for frame in queue}
    born = sorted(camera for graded in found for camera, _ in graded.born)
    assert born == sorted(frame.camera for frame in queue)


def test_inspected_length_is_that_of_the_frames(rig: Rig) -> None:
    found = rig.run(without(rig.frames(clean(110), [32, 32, 32, 14]), 1))
    settled = [s for graded in found for s in graded.settled if s.reason is None]
    assert sum(s.length_mm for s in settled) == 39.0
    assert {s.width_px for s in settled} == {WIDTH}
    assert settled[-1].end_count == FIRST + 110


def test_the_width_that_is_told_is_that_of_the_widest_frame(rig: Rig) -> None:
    frames = rig.frames(clean(96), [32] * 3)
    frames[2].pixels = clean(32, 40)
    found = rig.run(frames, sizes=repeat(3))
    assert [s.width_px for graded in found for s in graded.settled] == [WIDTH]


def test_every_picture_of_a_replay_is_shown_once(rig: Rig) -> None:
    """Also one whose defect is still open."""
    frames = rig.frames(across_the_seam(), [32, 32], source="p")
    for number, frame in enumerate(frames):
        frame.piece = number
    found = rig.run(frames, sizes=repeat(1))
    shown = [(s.source, s.start_mm, s.end_mm) for graded in found if graded for s in graded.shown]
    assert shown == [("p0", 0.0, 16.0), ("p1", 16.0, 32.0)]


# ---------------------------------------------------------------- what an event says


def test_places_come_from_encoder_and_pitch(rig: Rig) -> None:
    geometry = Geometry(pitch_along_mm=0.4, pitch_across_mm=0.2, offset_mm=800.0, mm_per_count=0.1)
    strip = clean(96)
    paint(strip, 4, 70, 20, 10, 5)
    frames = rig.frames(strip, [32] * 3, "b", geometry=geometry, source="p")
    assert [frame.encoder_count - FIRST for frame in frames] == [0, 128, 256]
    (found,) = defects(rig.run(frames, geometries={"b": geometry}))
    assert (found.position_mm.along, found.position_mm.across) == (30.0, 804.5)
    assert (found.size_mm.along, found.size_mm.across) == (4.0, 1.0)
    assert (found.area_px, found.area_mm2) == (50, 4.0)
    assert (found.camera, found.frame_sequence, found.frames, found.source) == ("b", 2, 1, "p2")
    assert (found.defect_class.number, found.defect_class.name) == (4, "class4")
    assert (found.bbox_px.x, found.bbox_px.y, found.bbox_px.width, found.bbox_px.height) == (20, 6, 5, 10)
    assert found.exposed_ns == frames[2].exposed_ns
    assert found.exposed_time == rfc3339(found.exposed_ns)
    assert found.pack_digest == rig.engines.digest
    assert 0 < found.score <= 1


def test_topics_name_line_camera_and_class(rig: Rig) -> None:
    strip = clean(96)
    paint(strip, 4, 70, 20, 10, 5)
    found = drafts(rig.run(without(rig.frames(strip, [32] * 3, "b"), 1)))
    assert [draft.topic for draft in found] == [
        "coil/v1/line/",
        "gap/v1/line/b/",
        "defect/v1/line/b/4/",
        "coil/v1/line/",
    ]


@given(st.integers(0, 4_000_000_000), st.integers(0, 999_999_999))
def test_times_keep_every_nanosecond(seconds: int, nanoseconds: int) -> None:
    text = rfc3339(seconds * SECOND_NS + nanoseconds)
    assert text.endswith(f".{nanoseconds:09d}Z")
    assert np.datetime64(text[:-1], "ns").astype(int) == seconds * SECOND_NS + nanoseconds


# ---------------------------------------------------------------- severity

RULES = [
    SeverityRule(severity="scrap", classes=[4], min_area_mm2=100.0),
    SeverityRule(severity="edge", within_mm_of_edge=5.0),
    SeverityRule(severity="long", min_length_mm=50.0),
    SeverityRule(severity="sure", min_score=0.9, classes=[1, 2]),
]
FAR = float("inf")


@pytest.mark.parametrize(
    ("number", "area_mm2", "length_mm", "score", "edge_mm", "expected"),
    [
        (4, 100.0, 1.0, 0.5, FAR, "scrap"),
        (4, 99.9, 1.0, 0.5, FAR, "none"),
        (3, 500.0, 1.0, 0.5, FAR, "none"),
        (4, 100.0, 90.0, 0.5, 0.0, "scrap"),
        (3, 1.0, 90.0, 0.5, 5.0, "edge"),
        (3, 1.0, 90.0, 0.5, 5.1, "long"),
        (3, 1.0, 50.0, 0.5, FAR, "long"),
        (3, 1.0, 49.9, 0.5, FAR, "none"),
        (1, 1.0, 1.0, 0.9, FAR, "sure"),
        (2, 1.0, 1.0, 0.899, FAR, "none"),
        (3, 1.0, 1.0, 1.0, FAR, "none"),
    ],
)
def test_the_first_rule_that_holds_gives_the_severity(
    number: int, area_mm2: float, length_mm: float, score: float, edge_mm: float, expected: str
) -> None:
    config = GradingConfig(severity=RULES, default_severity="none")
    assert severity(config, number, area_mm2, length_mm, score, edge_mm) == expected


@given(st.permutations(RULES), st.integers(1, 4), *[st.floats(0, 200)] * 2, st.floats(0, 1), st.floats(0, 20))
def test_rules_are_tried_from_the_top(
    rules: list[SeverityRule], number: int, area: float, length: float, score: float, edge: float
) -> None:
    def one(rule: SeverityRule) -> str:
        return severity(GradingConfig(severity=[rule], default_severity="none"), number, area, length, score, edge)

    holding = [rule.severity for rule in rules if one(rule) == rule.severity]
    config = GradingConfig(severity=rules, default_severity="none")
    assert severity(config, number, area, length, score, edge) == (holding[0] if holding else "none")


@pytest.mark.parametrize(
    ("x", "expected"),
    [(14, "edge"), (22, "edge"), (23, "inside"), (43, "inside"), (44, "edge"), (49, "edge")],
)
def test_the_distance_is_to_the_edge_that_was_found(rig: Rig, x: int, expected: str) -> None:
    """Strip in the columns 14 to 53; 2 mm are 8 px; the defect is 2 px wide."""
    strip = np.zeros((32, WIDTH), dtype=np.uint8)
    strip[:, 10:58] = 90
    paint(strip, 1, 10, x, 6, 2)
    rules = [SeverityRule(severity="edge", within_mm_of_edge=2.0)]
    config = GradingConfig(severity=rules, default_severity="inside", merge_px=3)
    (found,) = defects(rig.run(rig.frames(strip, [32]), config=config, edges=EdgeConfig()))
    assert found.severity == expected


def test_a_lane_without_an_edge_is_never_near_one(rig: Rig) -> None:
    strip = clean(32)
    paint(strip, 1, 10, 0, 6, 2)
    rules = [SeverityRule(severity="edge", within_mm_of_edge=1e9)]
    config = GradingConfig(severity=rules, default_severity="inside")
    (found,) = defects(rig.run(rig.frames(strip, [32]), config=config, edges=EdgeConfig()))
    assert found.severity == "inside"


def test_severity_is_that_of_the_whole_defect(rig: Rig) -> None:
    """Not of its part in one frame."""
    strip = clean(64)
    paint(strip, 1, 20, 10, 24, 8)
    config = GradingConfig(severity=[SeverityRule(severity="long", min_length_mm=12.0)], default_severity="short")
    (found,) = defects(rig.run(rig.frames(strip, [32, 32]), config=config))
    assert found.severity == "long"


# ---------------------------------------------------------------- thumbnails


def test_a_thumbnail_shows_the_defect_and_what_is_around_it(rig: Rig) -> None:
    strip = np.random.default_rng(5).integers(60, 120, (96, 200), dtype=np.uint8)
    paint(strip, 2, 25, 90, 40, 8)
    for draft in drafts(rig.run(rig.frames(strip, [32, 20, 44]), sizes=repeat(1))):
        if isinstance(draft.data, Defect):
            rows, width = draft.data.mask.size
            assert draft.data.frames == 3
            x, y, w, h = thumbnails.crop_window(draft.data.bbox_px, (rows, width))
            assert draft.thumbnail is not None
            np.testing.assert_array_equal(draft.thumbnail, strip[y : y + h, x : x + w])
            break
    else:
        pytest.fail("no defect was found")


def test_a_thumbnail_outlives_its_frame(rig: Rig) -> None:
    """The slot is used again as soon as the frame is released."""
    strip = across_the_seam()
    frames = rig.frames(strip, [32, 32])
    for frame in frames:
        frame.on_release = lambda pixels=frame.pixels: pixels.fill(7)
    (draft,) = [d for d in drafts(rig.run(frames, sizes=repeat(1))) if isinstance(d.data, Defect)]
    assert draft.thumbnail is not None
    np.testing.assert_array_equal(draft.thumbnail, strip[:, : draft.thumbnail.shape[1]][: draft.thumbnail.shape[0]])


def test_a_large_defect_has_a_small_thumbnail(rig: Rig) -> None:
    strip = clean(640, 1000)
    paint(strip, 4, 5, 5, 630, 990)
    (draft,) = [d for d in drafts(rig.run(rig.frames(strip, [64] * 10))) if isinstance(d.data, Defect)]
    assert draft.thumbnail is not None
    assert max(draft.thumbnail.shape) == thumbnails.LIMIT_PX
    assert draft.thumbnail.shape == (307, 480)


def test_thumbnails_can_be_left_out(rig: Rig) -> None:
    config = GradingConfig(thumbnails=False, merge_px=3)
    found = drafts(rig.run(rig.frames(across_the_seam(), [32, 32]), config=config))
    assert [d.thumbnail for d in found] == [None] * len(found)
    assert len(found) == 3
