"""coarse.py, and what becomes of its regions: verdicts, joined defects, events and books of strip that was not
inspected in full."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector import pack
from inspector.cascade import Cascade
from inspector.coarse import Box, groups
from inspector.coils import CoilMap
from inspector.config import EdgeConfig, GradingConfig
from inspector.errors import PackError
from inspector.events import NOT_TYPED, CoilEvent, Defect, Depth, Inspected
from inspector.grading import Grading
from inspector.preprocess import cut
from inspector.records import Batch, Frame, Graded, Pixels, Region, Roi, Verdict
from inspector.rle import decode
from inspector.runtimes import onnx
from tests import networks
from tests.grading import FIRST, Rig, assert_books, clean, coil_events, defects, drafts, running_in, states, strips
from tests.packs import BAND, TILE, make_pack, paint

HEIGHT, WIDTH = TILE
TYPES, GATE = Depth.TYPES, Depth.GATE


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_in(tmp_path_factory.mktemp("coarse")) as made:
        yield made


def judge(rig: Rig, depth: Depth, *pictures: Pixels, roi: Roi | None = None) -> list[Verdict]:
    frames = [Frame("cam", i, 0, 0, i * 100, picture) for i, picture in enumerate(pictures)]
    strip = [roi or Roi(0, picture.shape[1]) for picture in pictures]
    size = rig.engines.manifest.tile
    tiles = [tile for i, frame in enumerate(frames) for tile in cut(frame.pixels, strip[i], size, i)]
    return Cascade(rig.engines, rig.stream, 3).judge(Batch(0, frames, strip, tiles), depth).verdicts


def boxes(verdict: Verdict) -> list[tuple[int, int, int, int, int]]:
    return [(r.class_number, r.x, r.y, r.width, r.height) for r in verdict.regions]


def with_defects(*numbers: int) -> Pixels:
    picture = clean(HEIGHT)
    for place, number in enumerate(numbers):
        paint(picture, number, 4 + 6 * place, 10, 4, 9)
    return picture


# ---------------------------------------------------------------- verdicts


def test_without_segmenters_each_class_is_a_region_of_the_whole_tile(rig: Rig) -> None:
    empty, one, two = judge(rig, TYPES, clean(HEIGHT), with_defects(2), with_defects(1, 4))
    assert [verdict.depth for verdict in (empty, one, two)] == [TYPES] * 3
    assert (boxes(empty), empty.gate_score) == ([], 0.0)
    assert boxes(one) == [(2, 0, 0, WIDTH, HEIGHT)]
    assert boxes(two) == [(1, 0, 0, WIDTH, HEIGHT), (4, 0, 0, WIDTH, HEIGHT)]
    for region in chain(one.regions, two.regions):
        assert region.coarse
        assert region.mask.all()
        assert (region.area_px, region.score) == (WIDTH * HEIGHT, 1.0)


def test_without_types_a_tile_that_the_gate_passes_has_no_class(rig: Rig) -> None:
    empty, two = judge(rig, GATE, clean(HEIGHT), with_defects(1, 4))
    assert boxes(empty) == []
    assert boxes(two) == [(NOT_TYPED, 0, 0, WIDTH, HEIGHT)]
    assert two.regions[0].score == two.gate_score == 1.0


def test_what_is_left_out_is_not_asked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = rig.stream._run
    monkeypatch.setattr(rig.stream, "_run", lambda name, index: asked.append(name) or real(name, index))
    pictures = [with_defects(2), clean(HEIGHT)]
    judge(rig, GATE, *pictures)
    assert asked == ["gate", "gate"]
    asked.clear()
    judge(rig, TYPES, *pictures)
    assert asked == ["gate", "gate", "types"]
    asked.clear()
    judge(rig, Depth.FULL, *pictures)
    assert asked == ["gate", "gate", "types", "segment_2"]


def test_a_region_is_the_strip_of_its_tile_and_tiles_that_touch_are_one(rig: Rig) -> None:
    wide = clean(2 * HEIGHT, 4 * WIDTH)
    for column in (0, 1, 3):
        paint(wide, 1, 8, column * WIDTH + 20, 6, 9)
    paint(wide, 1, HEIGHT + 8, 20, 6, 9)
    (verdict,) = judge(rig, GATE, wide, roi=Roi(10, 4 * WIDTH - 5))
    assert boxes(verdict) == [(0, 10, 0, 2 * WIDTH - 10, 2 * HEIGHT), (0, 3 * WIDTH, 0, WIDTH - 5, HEIGHT)]


BOXES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 8), st.integers(1, 8)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=8,
)


@given(BOXES)
def test_groups_hold_every_box_and_lie_apart(given_boxes: list[Box]) -> None:
    found = groups(given_boxes)
    for left, top, right, bottom in given_boxes:
        assert any(a <= left and b <= top and c >= right and d >= bottom for a, b, c, d in found)
    for i, (a, b, c, d) in enumerate(found):
        assert all(c < e or g < a or d < f or h < b for e, f, g, h in found[i + 1 :])
    assert groups(found) == found
    assert sorted(groups(given_boxes[::-1])) == sorted(found)


@given(strips())
def test_nothing_that_the_cascade_reports_is_passed_over(rig: Rig, strip: Pixels) -> None:
    """Where the whole cascade finds something, less of it finds something too, and has its pixels in the box."""
    pictures = [strip[top : top + HEIGHT] for top in range(0, len(strip), HEIGHT)]
    whole = judge(rig, Depth.FULL, *pictures)
    for depth in (TYPES, GATE):
        for full, coarse in zip(whole, judge(rig, depth, *pictures), strict=True):
            assert coarse.gate_score == full.gate_score
            for region in full.regions:
                number = NOT_TYPED if depth is GATE else region.class_number
                assert any(_holds(other, region) for other in coarse.regions if other.class_number == number)


def _holds(outer: Region, inner: Region) -> bool:
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and outer.x + outer.width >= inner.x + inner.width
        and outer.y + outer.height >= inner.y + inner.height
    )


def test_a_class_that_is_doubted_is_told_where_none_is_believed(tmp_path: Path) -> None:
    """Scores of 0.0 to 0.9 by grey; floor 0.2, threshold 0.5."""
    folder = make_pack(tmp_path / "graded")
    networks.swap(folder, "types", networks.graded_types(TILE))
    engines = pack.load(folder)

    def grey(**levels: int) -> Pixels:
        picture = clean(HEIGHT)
        for place, (name, tenths) in enumerate(levels.items()):
            picture[4 * place : 4 * place + 3, :9] = BAND[int(name[1])] + tenths
        return picture

    with onnx.open(onnx.Options(workers=1), engines) as runtime:
        graded = Rig(engines, runtime.stream())
        pictures = [grey(c1=7, c3=3), grey(c1=3, c3=4), grey(c1=1), grey(c2=5, c4=9)]
        found = judge(graded, TYPES, *pictures)
    assert [[r.class_number for r in verdict.regions] for verdict in found] == [[1], [3], [], [2, 4]]
    assert found[1].regions[0].score == pytest.approx((1.0 * 0.4) ** 0.5)


def test_a_pack_may_not_use_the_number_of_no_class(tmp_path: Path) -> None:
    folder = make_pack(tmp_path / "pack")
    manifest = folder / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("number: 1\n", "number: 0\n").replace("  1: ", "  0: "))
    with pytest.raises(PackError, match="number classes from 1"):
        pack.load(folder)


# ---------------------------------------------------------------- events


def test_an_event_that_is_not_segmented_says_so_and_measures_nothing(rig: Rig) -> None:
    frames = rig.frames(np.vstack([clean(HEIGHT), with_defects(3), clean(HEIGHT)]), [HEIGHT] * 3)
    found = rig.run(frames, depths=repeat(TYPES))
    (defect,) = defects(found)
    assert (defect.frame_sequence, defect.frames, defect.continues) == (1, 1, False)
    assert not defect.segmented
    assert (defect.defect_class.number, defect.defect_class.name) == (3, "class3")
    assert defect.severity == "unmeasured"
    assert (defect.mask.size, defect.mask.rle) == ((HEIGHT, WIDTH), "")
    assert not decode(defect.mask.rle, *defect.mask.size).any()
    box = defect.bbox_px
    assert (box.x, box.y, box.width, box.height, defect.area_px) == (0, 0, WIDTH, HEIGHT, WIDTH * HEIGHT)
    assert (defect.size_mm.along, defect.size_mm.across) == (HEIGHT * 0.5, WIDTH * 0.25)
    assert_books(found, {"a": 3})


def test_an_event_without_types_has_a_topic_of_its_own(rig: Rig) -> None:
    found = rig.run(rig.frames(with_defects(3), [HEIGHT]), depths=repeat(GATE))
    (draft,) = [draft for draft in drafts(found) if isinstance(draft.data, Defect)]
    assert draft.topic == "defect/v1/line/a/0/"
    assert isinstance(draft.data, Defect)
    assert (draft.data.defect_class.number, draft.data.defect_class.name) == (0, "unknown")
    assert draft.thumbnail is not None


def test_a_severity_may_be_chosen(rig: Rig) -> None:
    config = GradingConfig(merge_px=3, unmeasured_severity="critical")
    found = rig.run(rig.frames(with_defects(3), [HEIGHT]), depths=repeat(TYPES), config=config)
    assert [defect.severity for defect in defects(found)] == ["critical"]


def test_frames_in_a_row_are_one_defect_up_to_so_many(rig: Rig) -> None:
    strip = np.vstack([with_defects(3)] * 7 + [clean(HEIGHT), with_defects(3)])
    config = GradingConfig(merge_px=3, join_frames=3)
    found = rig.run(rig.frames(strip, [HEIGHT] * 9), depths=repeat(TYPES), config=config)
    assert [(d.frame_sequence, d.frames, d.continues) for d in defects(found)] == [
        (0, 3, True),
        (3, 3, True),
        (6, 1, False),
        (8, 1, False),
    ]
    assert_books(found, {"a": 9})


def test_what_is_measured_and_what_is_not_are_never_one(rig: Rig) -> None:
    """A scratch over four frames; behind the second one the segmenters are left out."""
    strip = clean(4 * HEIGHT)
    paint(strip, 3, 0, 10, 4 * HEIGHT, 5)
    frames = rig.frames(strip, [HEIGHT] * 4)
    found = rig.run(frames, sizes=repeat(2), depths=[Depth.FULL, TYPES])
    first, second = defects(found)
    assert (first.segmented, first.frame_sequence, first.frames, first.area_px) == (True, 0, 2, 2 * HEIGHT * 5)
    assert (second.segmented, second.frame_sequence, second.frames) == (False, 2, 2)
    assert_books(found, {"a": 4})


def test_lines_that_frames_share_do_not_make_two_of_one(rig: Rig) -> None:
    strip, shared = np.vstack([with_defects(3)] * 3), 4
    frames = rig.frames(strip, [HEIGHT] * 3)
    for frame in frames[1:]:
        frame.overlap_lines = shared
        frame.encoder_count -= shared * frame.sequence
    found = rig.run(frames, sizes=repeat(1), depths=[TYPES, TYPES, Depth.FULL], overlap=shared)
    told = [(d.segmented, d.frame_sequence, d.frames, d.bbox_px.height) for d in defects(found)]
    assert told[0] == (False, 0, 2, 2 * HEIGHT - shared)
    assert [segmented for segmented, *_ in told[1:]] == [True]
    assert_books(found, {"a": 3})


@given(strips(), st.lists(st.sampled_from(list(Depth)), min_size=10, max_size=10), st.data())
def test_every_frame_has_one_fate_and_one_depth(
    rig: Rig, strip: Pixels, deep: list[Depth], data: st.DataObject
) -> None:
    heights = [HEIGHT] * (len(strip) // HEIGHT) + ([len(strip) % HEIGHT] if len(strip) % HEIGHT else [])
    found = rig.run(
        rig.frames(strip, heights), sizes=repeat(data.draw(st.integers(1, 3))), depths=chain(deep, repeat(GATE))
    )
    assert_books(found, {"a": len(heights)})
    settled = [one for graded in found for one in graded.settled]
    assert sum(one.last - one.first + 1 for one in settled) == len(heights)
    assert sum(one.length_mm for one in settled) == pytest.approx(len(strip) * 0.5)
    for defect in defects(found):
        spanned = {
            one.depth for one in settled if one.last >= defect.frame_sequence and one.first <= defect.frame_sequence
        }
        assert (Depth.FULL in spanned) is defect.segmented
        assert (defect.defect_class.number == NOT_TYPED) is (GATE in spanned)


# ---------------------------------------------------------------- what is told of the strip


def test_where_the_depth_changes_is_told(rig: Rig) -> None:
    frames = rig.frames(clean(6 * HEIGHT), [HEIGHT] * 6)
    found = rig.run(frames, sizes=repeat(1), depths=[Depth.FULL, TYPES, TYPES, GATE, Depth.FULL, Depth.FULL])
    told = [(s.part, s.state, s.detail) for s in states(found) if s.about == "depth"]
    assert told == [
        ("a", "not segmented", f"from 16.0 mm (count {FIRST + HEIGHT})"),
        ("a", "not typed", f"from 48.0 mm (count {FIRST + 3 * HEIGHT})"),
        ("a", "inspected in full", f"from 64.0 mm (count {FIRST + 4 * HEIGHT})"),
    ]
    parts = [(one.first, one.last, one.depth, one.length_mm) for graded in found for one in graded.settled]
    assert parts == [(n, n, d, 16.0) for n, d in enumerate([Depth.FULL, TYPES, TYPES, GATE, Depth.FULL, Depth.FULL])]


def test_the_end_of_a_coil_says_how_deep_it_was_inspected(rig: Rig) -> None:
    coils = CoilMap("C1")
    frames = rig.frames(clean(6 * HEIGHT), [HEIGHT] * 6)

    def tell(grading: Grading) -> Graded | None:
        coils.start("C2", FIRST + 3 * HEIGHT)
        coils.start("C3", FIRST + 5 * HEIGHT)
        return None

    found = rig.run(
        frames,
        sizes=repeat(1),
        coils=coils,
        after={1: tell},
        depths=[Depth.FULL, TYPES, GATE, Depth.FULL, Depth.FULL, TYPES],
    )
    events = [draft.data for draft in drafts(found) if isinstance(draft.data, CoilEvent)]
    assert [name for name, _, _ in coil_events(found)] == ["C1", "C1", "C2", "C2", "C3", "C3"]
    one = Inspected(frames=1, mm=16.0)
    assert [event.inspected for event in events] == [
        *(None, {Depth.FULL: one, TYPES: one, GATE: one}),
        *(None, None),
        *(None, {TYPES: one}),
    ]


def test_a_strip_that_is_inspected_in_full_tells_nothing_of_it(rig: Rig) -> None:
    found = rig.run(rig.frames(np.vstack([with_defects(3)] * 3), [HEIGHT] * 3))
    assert not [state for state in states(found) if state.about == "depth"]
    assert {one.depth for graded in found for one in graded.settled} == {Depth.FULL}
    assert all(event.inspected is None for d in drafts(found) if isinstance(event := d.data, CoilEvent))


def test_edges_bound_what_is_not_segmented(rig: Rig) -> None:
    picture = with_defects(3)
    picture[:, :8] = 0
    found = rig.run(
        rig.frames(picture, [HEIGHT]),
        depths=repeat(TYPES),
        edges=EdgeConfig(margin_px=2),
        config=GradingConfig(merge_px=3),
    )
    (defect,) = defects(found)
    assert (defect.bbox_px.x, defect.bbox_px.width) == (10, WIDTH - 10)
