"""overlap.py, seams.py and joining.py: lines that two frames share are one strip: seen whole, told and counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise, repeat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspector import thumbnails
from inspector.coils import CoilMap
from inspector.config import GradingConfig
from inspector.events import Defect, Reason, as_json
from inspector.joining import Joining
from inspector.overlap import Overlap
from inspector.pool import Pool
from inspector.records import Frame, Graded, Pixels, Region, Roi, Verdict
from inspector.rle import decode
from inspector.seams import near
from inspector.strip import Geometry
from tests.grading import (
    FIRST,
    GEOMETRY,
    WIDTH,
    Rig,
    assert_books,
    clean,
    coil_events,
    defects,
    drafts,
    gaps,
    running_in,
    strips,
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


def even(rows: int, height: int) -> list[int]:
    """Heights of frames, `rows` together: all alike but the last."""
    rest = rows % height
    return [height] * (rows // height) + ([rest] if rest else [])


def overlapped(frames: list[Frame], lines: int, geometry: Geometry = GEOMETRY) -> list[Frame]:
    overlap = Overlap(lines, geometry)
    for frame in frames:
        overlap.add(frame)
    return frames


def tops(frames: Sequence[Frame]) -> dict[int, int]:
    """Sequence -> the row of the strip that its row 0 shows; there is a count a line."""
    return {frame.sequence: frame.encoder_count - FIRST for frame in frames}


def on_strip(defect: Defect, top: int, rows: int) -> NDArray[np.bool_]:
    height, width = defect.mask.size
    canvas = np.zeros((rows, width), dtype=np.bool_)
    canvas[top : top + height] = decode(defect.mask.rle, height, width)
    return canvas


def placed(found: Sequence[Defect], frames: Sequence[Frame], rows: int) -> list[tuple[object, ...]]:
    """Everything of the events that neither the cut nor the overlap must change."""
    top = tops(frames)
    return sorted(
        (
            (d.coil, as_json(d.position_mm), as_json(d.size_mm)),
            (d.bbox_px.x, d.bbox_px.width, d.bbox_px.height, d.bbox_px.y + top[d.frame_sequence]),
            (d.area_px, d.area_mm2, d.defect_class.number, d.severity),
            on_strip(d, top[d.frame_sequence], rows).tobytes(),
        )
        for d in found
    )


# ---------------------------------------------------------------- the law


@settings(max_examples=150, deadline=None)
@given(st.data(), strips(), st.sampled_from([0, 1, 3, 12]), st.integers(4, 60))
def test_no_overlap_changes_what_is_found(
    running: Rig, data: st.DataObject, strip: Pixels, merge_px: int, height: int
) -> None:
    """The same defects, places, areas and masks as of the strip in one piece, whatever frames share."""
    rows = strip.shape[0]
    lines = data.draw(st.integers(0, height), "overlap")
    config = GradingConfig(merge_px=merge_px, join_frames=10_000, thumbnails=False)
    sizes = chain(data.draw(st.lists(st.integers(1, 9), min_size=1), "batches"), repeat(4))
    frames = overlapped(running.frames(strip, even(rows, height)), lines)
    graded = running.run(frames, sizes=sizes, config=config, overlap=lines)
    found = placed(defects(graded), frames, rows)
    uncut = running.frames(strip, [rows])
    assert found == placed(defects(running.run(uncut, config=config)), uncut, rows)
    assert {(one[2][2], one[3]) for one in found} == truth(strip, merge_px, minimum=4)  # type: ignore[index]
    assert_books(graded, {"a": len(frames)})
    assert sum(s.length_mm for one in graded for s in one.settled) == rows * 0.5
    assert all(frame.overlap_lines in (0, lines) for frame in frames)


@settings(max_examples=100, deadline=None)
@given(st.data(), strips(), st.sampled_from([0, 3, 12]), st.integers(1, 4), st.integers(0, 30))
def test_cutting_long_defects_loses_and_doubles_nothing(
    running: Rig, data: st.DataObject, strip: Pixels, merge_px: int, join_frames: int, more: int
) -> None:
    rows, height = strip.shape[0], merge_px + 2 + more  # so that no frame lies wholly between two pieces of one
    lines = data.draw(st.integers(1, height), "overlap")
    painted: dict[int, NDArray[np.bool_]] = {number: np.zeros(strip.shape, dtype=np.bool_) for number in BAND}
    for number, mask in truth(strip, merge_px, minimum=4):
        painted[number] |= np.frombuffer(mask, dtype=np.bool_).reshape(strip.shape)
    frames = overlapped(running.frames(strip, even(rows, height)), lines)
    config = GradingConfig(merge_px=merge_px, join_frames=join_frames, thumbnails=False)
    graded = running.run(frames, config=config, overlap=lines)
    top = tops(frames)
    for number in BAND:
        masks = [on_strip(d, top[d.frame_sequence], rows) for d in defects(graded) if d.defect_class.number == number]
        total = np.sum(masks, axis=0) if masks else np.zeros(strip.shape)
        np.testing.assert_array_equal(total, painted[number])
    assert_books(graded, {"a": len(frames)})


@settings(max_examples=60, deadline=None)
@given(st.data(), strips(), st.integers(8, 40))
def test_a_lost_frame_loses_only_the_strip_that_no_other_shows(
    running: Rig, data: st.DataObject, strip: Pixels, height: int
) -> None:
    """Frames that the line drops: what the next one shows of them is inspected, and no line is counted twice."""
    rows = strip.shape[0] // height * height or height
    strip = np.resize(strip, (rows, WIDTH))
    lines = data.draw(st.integers(1, height), "overlap")
    frames = overlapped(running.frames(strip, even(rows, height)), lines)
    gone = data.draw(st.sets(st.integers(0, len(frames) - 1), max_size=len(frames) - 1), "lost")
    left = [frame for frame in frames if frame.sequence not in gone]
    graded = running.run(left, config=GradingConfig(merge_px=3, thumbnails=False), overlap=lines)
    seen = np.zeros(rows, dtype=np.bool_)
    for frame in left:
        top = frame.encoder_count - FIRST
        seen[top : top + frame.pixels.shape[0]] = True
    assert sum(s.length_mm for one in graded for s in one.settled) == seen[:rows].sum() * 0.5
    last = left[-1].sequence == len(frames) - 1
    if last:
        assert sum(gap.along_mm.end - gap.along_mm.start for gap in gaps(graded)) == (rows - seen.sum()) * 0.5


# ---------------------------------------------------------------- one by one


def test_a_defect_on_the_seam_is_seen_whole_and_told_once(rig: Rig) -> None:
    strip = clean(96)
    paint(strip, 2, 28, 10, 8, 6)
    frames = overlapped(rig.frames(strip, [32] * 3), 16)
    (found,) = defects(rig.run(frames, overlap=16))
    assert (found.frame_sequence, found.frames, found.mask.size) == (0, 2, (64, WIDTH))
    assert (found.bbox_px.y, found.bbox_px.height, found.area_px) == (28, 8, 48)
    assert found.position_mm.along == 16.0


def test_a_defect_that_both_frames_show_whole_is_one_of_the_first(rig: Rig) -> None:
    strip = clean(96)
    paint(strip, 2, 20, 10, 6, 6)
    frames = overlapped(rig.frames(strip, [32] * 3), 16)
    (found,) = defects(rig.run(frames, overlap=16))
    assert (found.frame_sequence, found.frames, found.mask.size, found.area_px) == (0, 1, (32, WIDTH), 36)


@pytest.mark.parametrize("seen_by", [0, 1])
def test_what_only_one_of_two_frames_shows_in_the_shared_lines_is_told_once(rig: Rig, seen_by: int) -> None:
    """The networks need not agree."""
    strip = clean(64)
    frames = overlapped(rig.frames(strip, [32, 32]), 16)
    paint(frames[seen_by].pixels, 2, 20 if seen_by == 0 else 4, 10, 6, 6)
    (found,) = defects(rig.run(frames, overlap=16))
    assert (found.frame_sequence, found.frames, found.area_px) == (seen_by, 1, 36)
    assert found.position_mm.along == 11.5


def test_the_pixels_that_either_frame_saw_are_the_defect(rig: Rig) -> None:
    frames = overlapped(rig.frames(clean(64), [32, 32]), 16)
    paint(frames[0].pixels, 2, 18, 10, 6, 6)
    paint(frames[1].pixels, 2, 4, 12, 6, 6)  # the rows 20 to 25
    (found,) = defects(rig.run(frames, overlap=16))
    assert (found.bbox_px.x, found.bbox_px.y, found.bbox_px.width, found.bbox_px.height) == (10, 18, 8, 8)
    assert found.area_px == 36 + 36 - 4 * 4


def test_a_thumbnail_shows_the_strip_once(rig: Rig) -> None:
    strip = np.random.default_rng(5).integers(60, 120, (96, 200), dtype=np.uint8)
    paint(strip, 2, 25, 90, 40, 8)
    frames = overlapped(rig.frames(strip, [32] * 3), 12)
    (draft,) = [d for d in drafts(rig.run(frames, sizes=repeat(1), overlap=12)) if isinstance(d.data, Defect)]
    assert isinstance(draft.data, Defect)
    rows, width = draft.data.mask.size
    x, y, w, h = thumbnails.crop_window(draft.data.bbox_px, (rows, width))
    assert draft.thumbnail is not None
    np.testing.assert_array_equal(draft.thumbnail, strip[y : y + h, x : x + w])


def test_at_a_new_coil_the_shared_lines_stay_with_the_old_one(rig: Rig) -> None:
    coils = CoilMap("C1")
    coils.start("C2", FIRST + 32)
    strip = clean(96)
    paint(strip, 2, 20, 10, 24, 6)  # over the head
    paint(strip, 1, 26, 40, 4, 6)  # before it, in the shared lines
    frames = overlapped(rig.frames(strip, [32] * 3), 16)
    found = rig.run(frames, overlap=16, coils=coils)
    assert sorted((d.coil, d.defect_class.number, d.area_px) for d in defects(found)) == [
        ("C1", 1, 24),
        ("C1", 2, 72),
        ("C2", 2, 72),
    ]
    assert coil_events(found)[1:3] == [("C1", "end", FIRST + 32), ("C2", "start", FIRST + 32)]


def test_a_standing_strip_tells_of_the_shared_lines_once(rig: Rig) -> None:
    strip = clean(96)
    paint(strip, 2, 20, 10, 24, 6)
    paint(strip, 1, 26, 40, 4, 6)
    frames = overlapped(rig.frames(strip, [32] * 3), 16)
    found = rig.run(frames, overlap=16, sizes=repeat(1), after={1: lambda grading: grading.stand()})
    assert [(d.defect_class.number, d.area_px, d.continues) for d in defects(found)] == [
        (2, 72, True),
        (1, 24, True),
        (2, 72, False),
    ]


def test_an_encoder_that_jumps_parts_the_frames_though_they_share_lines(rig: Rig) -> None:
    strip = clean(96)
    paint(strip, 2, 20, 10, 24, 6)
    frames = rig.frames(strip, [32] * 3)
    for frame in frames[1:]:
        frame.encoder_count += 1000
    found = rig.run(overlapped(frames, 16), overlap=16)
    assert [d.area_px for d in defects(found)] == [72, 72]
    assert [(g.reason, g.along_mm.start, g.along_mm.end) for g in gaps(found)] == [(Reason.MISSING, 16.0, 516.0)]


# ---------------------------------------------------------------- frames that disagree


def region(number: int, y: int, height: int, score: float = 0.8, x: int = 10, width: int = 6) -> Region:
    mask = np.ones((height, width), dtype=np.bool_)
    return Region(number, x, y, mask, int(mask.size), score)


def joined(first: list[Region], second: list[Region], shared: int = 16) -> list[tuple[int, int, int]]:
    """(class, rows from, to) of what two frames of 32 and of `shared` + 32 lines show; rows of the first one."""
    joining = Joining(GradingConfig(merge_px=3, thumbnails=False), shared)
    done = []
    for sequence, (height, found) in enumerate([(32, first), (shared + 32, second)]):
        frame = Frame("a", sequence, 0, 0, 0, clean(height), overlap_lines=shared if sequence else 0)
        done += joining.follow(Verdict(frame, Roi(0, WIDTH), 1.0, found))
    done += joining.close()
    top = {0: 0, 1: 32 - shared}
    return sorted(
        (d.class_number, d.box.y + top[d.first.sequence], d.box.y + d.box.height + top[d.first.sequence]) for d in done
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # cut by the end of the first frame, whole in the second
        ([region(1, 26, 6, 0.9)], [region(3, 10, 12, 0.5)], [(3, 26, 38)]),
        # whole in the first one, cut by the top of the second
        ([region(1, 8, 14, 0.5)], [region(3, 0, 6, 0.9)], [(1, 8, 22)]),
        # whole in both: the surer one, and of equal ones the earlier
        ([region(1, 18, 8, 0.5)], [region(3, 2, 8, 0.9)], [(3, 18, 26)]),
        ([region(1, 18, 8, 0.9)], [region(3, 2, 8, 0.5)], [(1, 18, 26)]),
        ([region(1, 18, 8)], [region(3, 2, 8)], [(1, 18, 26)]),
        # cut in both: no strip is given up
        ([region(1, 4, 28, 0.9)], [region(3, 0, 30, 0.5)], [(1, 4, 32), (3, 32, 46)]),
        ([region(1, 4, 28, 0.5)], [region(3, 0, 30, 0.9)], [(1, 4, 16), (3, 16, 46)]),
        # not at one place
        ([region(1, 18, 8)], [region(3, 2, 8, x=30)], [(1, 18, 26), (3, 18, 26)]),
        ([region(1, 18, 8)], [region(3, 9, 8)], [(1, 18, 26), (3, 25, 33)]),
        # both frames see the one class, only the second sees another too: then it is no quarrel
        ([region(1, 18, 8)], [region(1, 2, 8), region(3, 2, 8)], [(1, 18, 26), (3, 18, 26)]),
        ([region(1, 18, 8), region(3, 18, 8)], [region(3, 2, 8)], [(1, 18, 26), (3, 18, 26)]),
    ],
)
def test_where_two_frames_name_different_classes_one_is_told(
    first: list[Region], second: list[Region], expected: list[tuple[int, int, int]]
) -> None:
    assert joined(first, second) == expected


@settings(max_examples=200)
@given(st.data(), st.integers(1, 6))
def test_near_is_what_the_definition_says(data: st.DataObject, reach: int) -> None:
    def drawn() -> Region:
        height, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
        cells = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
        mask = np.array(cells, dtype=np.bool_).reshape(height, width)
        return Region(1, data.draw(st.integers(0, 20)), data.draw(st.integers(-10, 10)), mask, int(mask.sum()), 1.0)

    a, b = drawn(), drawn()
    points = [[(r.y + int(y), r.x + int(x)) for y, x in np.argwhere(r.mask)] for r in (a, b)]
    expected = any(max(abs(y - v), abs(x - u)) <= reach for y, x in points[0] for v, u in points[1])
    assert near(a, b, reach) == near(b, a, reach) == expected


# ---------------------------------------------------------------- the frames themselves


def from_pool(pool: Pool, sequence: int, rows: Pixels) -> Frame:
    """A frame as a camera makes it: copied into a slot."""
    height, width = rows.shape
    slot = pool.take(height, width, 0.0)
    assert slot is not None
    np.copyto(slot.pixels, rows)
    return Frame(
        camera="a",
        sequence=sequence,
        exposed_ns=10**9 + sequence * 32_000,
        monotonic_ns=0,
        encoder_count=FIRST + sequence * height,
        pixels=slot.pixels,
        camera_ns=5 + sequence * 32_000,
        on_release=slot.release,
    )


def rows_of(first: int, count: int = 32, width: int = 8) -> Pixels:
    """Each row its own grey."""
    return np.repeat((np.arange(first, first + count) % 251).astype(np.uint8)[:, None], width, axis=1)


@given(st.integers(1, 40), st.integers(2, 5))
def test_the_frames_lie_over_each_other_in_their_slots(lines: int, count: int) -> None:
    """Whatever is done to the pixels afterwards, as the flat-field does; nothing but the shared lines is copied."""
    pool, overlap = Pool(2), Overlap(lines, GEOMETRY)
    slots = overlap.pool(pool)
    for number in range(count):
        frame = from_pool(slots, number, rows_of(number * 32))
        own = frame.pixels
        overlap.add(frame)
        shared = min(lines, 32) if number else 0
        assert (frame.overlap_lines, frame.pixels.shape) == (shared, (32 + shared, 8))
        np.testing.assert_array_equal(frame.pixels, rows_of(number * 32 - shared, 32 + shared))
        assert np.shares_memory(frame.pixels, own)
        assert frame.pixels.flags.c_contiguous
        assert frame.pixels.flags.writeable
        assert frame.encoder_count == FIRST + number * 32 - shared
        assert frame.exposed_ns == 10**9 + number * 32_000 - shared * 1000
        assert frame.camera_ns == 5 + number * 32_000 - shared * 1000
        frame.pixels[:] = 255 - frame.pixels
        assert (pool.in_use, slots.in_use) == (1, 1)
        frame.release()
    assert pool.in_use == 0


def test_pixels_that_lie_elsewhere_are_copied() -> None:
    overlap = Overlap(4, GEOMETRY)
    for number in range(2):
        frame = Frame("a", number, 0, 0, FIRST + number * 32, rows_of(number * 32))
        overlap.add(frame)
    np.testing.assert_array_equal(frame.pixels, rows_of(28, 36))


def no_change(frame: Frame) -> None:
    """It follows."""


def after_hole(frame: Frame) -> None:
    frame.sequence += 1


def new_piece(frame: Frame) -> None:
    frame.piece = 1


def higher(frame: Frame) -> None:
    frame.pixels = rows_of(32, 40)


def wider(frame: Frame) -> None:
    frame.pixels = rows_of(32, width=9)


@pytest.mark.parametrize("change", [no_change, after_hole, new_piece, higher, wider])
def test_a_frame_without_a_predecessor_is_as_the_camera_gave_it(change: Callable[[Frame], None]) -> None:
    overlap, frames = Overlap(4, GEOMETRY), [Frame("a", n, n * 320, 0, n, rows_of(n * 32)) for n in range(3)]
    overlap.add(frames[0])
    change(frames[1])
    own = frames[1].pixels
    frames[2] = Frame("a", frames[1].sequence + 1, 9, 0, 2, rows_of(64, *own.shape), piece=frames[1].piece)
    overlap.add(frames[1])
    follows = change is no_change
    assert (frames[1].pixels is own, frames[1].overlap_lines) == ((False, 4) if follows else (True, 0))
    assert (frames[1].exposed_ns, frames[1].encoder_count) == ((320 - 40, 1 - 4) if follows else (320, 1))
    overlap.add(frames[2])
    assert frames[2].overlap_lines == 4, "from then on it goes on"
    np.testing.assert_array_equal(frames[2].pixels[:4], own[-4:])


@pytest.mark.parametrize("rate", [None, 1.0, 0.5, 0.0, -0.75])
def test_the_count_moves_back_by_the_strip_in_the_lines(rate: float | None) -> None:
    overlap = Overlap(8, Geometry(0.5, 0.5, 0.0, 0.1))
    for number in range(2):
        frame = Frame("a", number, 0, 0, 1000, rows_of(0), counts_per_line=rate)
        overlap.add(frame)
    assert frame.encoder_count == 1000 - (40 if rate is None else round(8 * rate))
    assert frame.counts_per_line == rate


def settled_lengths(found: Sequence[Graded]) -> list[float]:
    return [s.length_mm for graded in found for s in graded.settled if s.reason is None]


def test_no_line_is_counted_twice(rig: Rig) -> None:
    frames = overlapped(rig.frames(clean(128), [32] * 4), 16)
    found = rig.run(frames, overlap=16, sizes=repeat(1))
    assert settled_lengths(found) == [16.0] * 4
    ends = [s.end_count for graded in found for s in graded.settled]
    assert [b - a for a, b in pairwise(ends)] == [32] * 3
