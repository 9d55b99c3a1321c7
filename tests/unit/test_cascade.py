"""cascade.py: what each network is asked, the soft veto, and probability maps to regions, against a slow reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from inspector import pack
from inspector.cascade import AMPLE, Cascade, apart, regions, veto_factor
from inspector.config import EdgeConfig
from inspector.pack import Manifest, Pack
from inspector.preprocess import cut, find_edges
from inspector.records import Batch, Frame, Pixels, Region, Roi, Verdict, sized
from inspector.runtimes import Patch, Stream
from inspector.runtimes import onnx as runtime_onnx
from tests import networks
from tests.packs import BAND, TILE, make_pack, paint

HEIGHT, WIDTH = TILE
MERGE_PX = 3


@dataclass
class Counting:
    """The real stream, and what it was asked: tile numbers in the current batch."""

    stream: Stream
    gated: list[int] = field(default_factory=list)
    typed: list[list[int]] = field(default_factory=list)
    expected: list[dict[int, list[int]]] = field(default_factory=list)
    segmented: list[tuple[int, list[int]]] = field(default_factory=list)

    def load(self, tiles: Sequence[Pixels]) -> None:
        self.gated.append(len(tiles))
        self.stream.load(tiles)

    def gate(self) -> NDArray[np.float32]:
        return self.stream.gate()

    def types(self, indices: Sequence[int]) -> NDArray[np.float32]:
        self.typed.append(list(indices))
        return self.stream.types(indices)

    def expect(self, wanted: Mapping[int, Sequence[int]]) -> None:
        self.expected.append({number: list(indices) for number, indices in wanted.items()})
        self.stream.expect(wanted)

    def segment(self, class_number: int, indices: Sequence[int]) -> Sequence[Patch]:
        self.segmented.append((class_number, list(indices)))
        return self.stream.segment(class_number, indices)


@dataclass
class Bench:
    """A cascade on real networks, and the record of what they were asked."""

    pack: Pack
    asked: Counting
    cascade: Cascade

    def judge(self, pictures: Sequence[Pixels], rois: Sequence[Roi] | None = None) -> list[Verdict]:
        size = self.pack.manifest.tile
        frames = [Frame("cam", i, 0, 0, i * 100, picture) for i, picture in enumerate(pictures)]
        strip = list(rois) if rois is not None else [Roi(0, picture.shape[1]) for picture in pictures]
        tiles = [tile for i, frame in enumerate(frames) for tile in cut(frame.pixels, strip[i], size, i)]
        found = self.cascade.judge(Batch(7, frames, strip, tiles))
        assert found.number == 7
        assert [verdict.frame for verdict in found.verdicts] == frames
        return found.verdicts


def bench(folder: Path, merge_px: int = MERGE_PX) -> Iterator[Bench]:
    engines = pack.load(folder)
    with runtime_onnx.open(runtime_onnx.Options(workers=1), engines) as runtime:
        asked = Counting(runtime.stream())
        yield Bench(engines, asked, Cascade(engines, asked, merge_px))


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    yield from bench(make_pack(tmp_path_factory.mktemp("easy")))


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Type scores of 0.0 to 0.9, by grey; the floor is 0.2, the threshold 0.5, the minimum area 4 px, the factor 3."""
    folder = make_pack(tmp_path_factory.mktemp("graded"), factor=3.0)
    networks.swap(folder, "types", networks.graded_types(TILE))
    yield from bench(folder)


@pytest.fixture
def counted(easy: Bench) -> Bench:
    easy.asked.gated.clear()
    easy.asked.typed.clear()
    easy.asked.segmented.clear()
    return easy


def clean(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    return np.full((height, width), 90, dtype=np.uint8)


def with_defect(number: int, y: int = 8, x: int = 10, height: int = 6, width: int = 9) -> Pixels:
    picture = clean()
    paint(picture, number, y, x, height, width)
    return picture


def picture_of(found: Sequence[Region], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Class numbers where regions lie."""
    canvas = np.zeros(shape, dtype=np.uint8)
    for region in found:
        window = canvas[region.y : region.y + region.height, region.x : region.x + region.width]
        assert not window[region.mask].any(), "two regions share a pixel"
        window[region.mask] = region.class_number
    return canvas


# ---------------------------------------------------------------- compaction


def test_a_clean_batch_asks_the_gate_alone(counted: Bench) -> None:
    verdicts = counted.judge([clean(), clean(), clean()])
    assert counted.asked.gated == [3]
    assert counted.asked.typed == []
    assert counted.asked.segmented == []
    assert [(v.gate_score, v.regions) for v in verdicts] == [(0.0, [])] * 3
    assert counted.cascade.passed == 0
    assert counted.cascade.segmented == {}


def test_later_networks_see_only_what_earlier_ones_let_through(counted: Bench) -> None:
    both = with_defect(2, y=2)
    paint(both, 4, 20, 40, 5, 5)
    verdicts = counted.judge([clean(), with_defect(2), clean(), both, with_defect(4)])
    assert counted.asked.typed == [[1, 3, 4]]
    assert counted.asked.segmented == [(2, [1, 3]), (4, [3, 4])]
    assert counted.cascade.passed == 3
    assert counted.cascade.segmented == {"class2": 2, "class4": 2}
    assert [sorted(r.class_number for r in v.regions) for v in verdicts] == [[], [2], [], [2, 4], [4]]


def test_each_frame_knows_whether_the_gate_let_it_through(counted: Bench) -> None:
    """By any of its tiles; of what is no strip nobody was asked."""
    wide = np.concatenate([with_defect(2), clean()], axis=1)
    pictures = [clean(), with_defect(2), wide, wide[:, ::-1].copy(), clean()]
    rois = [*(Roi(0, picture.shape[1]) for picture in pictures[:-1]), Roi(0, 0)]
    verdicts = counted.judge(pictures, rois)
    assert counted.asked.gated == [6]
    assert [verdict.passed for verdict in verdicts] == [False, True, True, True, None]
    assert [verdict.gate_score > 0.5 for verdict in verdicts] == [False, True, True, True, False]


def test_the_counts_are_those_of_the_last_batch(counted: Bench) -> None:
    counted.judge([with_defect(1)])
    assert counted.cascade.passed == 1
    counted.judge([clean()])
    assert counted.cascade.passed == 0
    assert counted.cascade.segmented == {}


def test_something_that_is_no_class_passes_the_gate_and_no_more(counted: Bench) -> None:
    strange = clean()
    strange[5:9, 5:9] = 255
    (verdict,) = counted.judge([strange])
    assert counted.asked.typed == [[0]]
    assert counted.asked.segmented == []
    assert verdict.gate_score == 1.0
    assert verdict.regions == []


def test_an_empty_batch_and_a_frame_without_strip(counted: Bench) -> None:
    assert counted.judge([]) == []
    dark = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    dark_roi = find_edges(dark, EdgeConfig())
    verdicts = counted.judge([dark, with_defect(3)], [dark_roi, Roi(0, WIDTH)])
    assert counted.asked.gated[-1] == 1, "a frame without strip has no tile"
    assert verdicts[0].regions == []
    assert [r.class_number for r in verdicts[1].regions] == [3]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(1, 9))
def test_a_verdict_does_not_depend_on_the_batch(easy: Bench, kinds: list[int], size: int) -> None:
    pictures = [with_defect(kind) if kind else clean() for kind in kinds]
    whole = easy.judge(pictures)
    parts = [v for start in range(0, len(pictures), size) for v in easy.judge(pictures[start : start + size])]
    assert list(map(flat, whole)) == list(map(flat, parts))


def flat(verdict: Verdict) -> tuple[float, list[tuple[object, ...]]]:
    return verdict.gate_score, [
        (r.class_number, r.x, r.y, r.mask.shape, r.mask.tobytes(), r.area_px, r.score, r.needed_px)
        for r in verdict.regions
    ]


# ---------------------------------------------------------------- the soft veto


def manifest_with(manifest: Manifest, threshold: float, floor: float, factor: float) -> Manifest:
    types = msgspec.structs.replace(manifest.types, thresholds={1: threshold}, floors={1: floor})
    return msgspec.structs.replace(manifest, types=types, veto_area_factor=factor)


unit = st.floats(0, 1)


@given(unit, unit, st.floats(1, 20), unit, unit)
def test_the_veto_is_1_at_the_threshold_the_factor_at_the_floor_and_falls_between(
    easy: Bench, a: float, b: float, factor: float, one: float, two: float
) -> None:
    floor, threshold = min(a, b), max(a, b)
    manifest = manifest_with(easy.pack.manifest, threshold, floor, factor)
    assert veto_factor(manifest, 1, threshold) == 1.0
    assert veto_factor(manifest, 1, 1.0) == 1.0
    if floor < threshold:
        assert veto_factor(manifest, 1, floor) == pytest.approx(factor)
    low, high = (floor + score * (1 - floor) for score in (min(one, two), max(one, two)))
    assert 1.0 <= veto_factor(manifest, 1, high) <= veto_factor(manifest, 1, low) <= factor * (1 + 1e-12)


def test_a_floor_at_or_above_the_threshold_means_no_doubt(easy: Bench) -> None:
    assert veto_factor(manifest_with(easy.pack.manifest, 0.5, 0.5, 9.0), 1, 0.5) == 1.0
    assert veto_factor(manifest_with(easy.pack.manifest, 0.4, 0.6, 9.0), 1, 0.6) == 1.0


def test_halfway_is_halfway(easy: Bench) -> None:
    assert veto_factor(manifest_with(easy.pack.manifest, 0.6, 0.2, 3.0), 1, 0.4) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("tenths", "needed"),
    [(9, 4), (5, 4), (4, 7), (3, 9), (2, 12)],  # 4 px x (1 + 2 x doubt), doubt = (0.5 - score) / 0.3
)
def test_a_doubted_class_must_show_a_larger_area(graded: Bench, tenths: int, needed: int) -> None:
    for area in (needed - 1, needed):
        picture = clean()
        picture[15, 20 : 20 + area] = BAND[3] + tenths
        (verdict,) = graded.judge([picture])
        assert [(r.area_px, r.needed_px) for r in verdict.regions] == ([(area, needed)] if area == needed else [])


def test_below_the_floor_the_segmenter_is_not_asked(graded: Bench) -> None:
    graded.asked.segmented.clear()
    picture = clean()
    picture[10:30, 10:30] = BAND[3] + 1
    (verdict,) = graded.judge([picture])
    assert graded.asked.segmented == []
    assert verdict.regions == []


def test_a_region_too_small_is_kept_only_beside_a_seam(easy: Bench) -> None:
    """Its other part may lie in the next frame, so grading decides."""
    kept = []
    for row in range(HEIGHT):
        picture = clean()
        picture[row, 30] = BAND[1] + 5
        (verdict,) = easy.judge([picture])
        kept += [row for r in verdict.regions if (r.area_px, r.needed_px) == (1, 4)]
    assert kept == [*range(MERGE_PX + 1), *range(HEIGHT - MERGE_PX - 1, HEIGHT)]


def test_a_region_that_is_nowhere_sure_is_kept_only_beside_a_seam(graded: Bench) -> None:
    """`graded`: what a segmenter says is the same everywhere in a region, 240 / 255."""
    own = graded.pack.manifest
    for seed, kept in ((0.94, True), (0.95, False)):
        parts = [msgspec.structs.replace(part, seed=seed) for part in own.segmenters]
        manifest = msgspec.structs.replace(own, segmenters=parts)
        engines = msgspec.structs.replace(graded.pack, manifest=manifest)
        bench = Bench(engines, graded.asked, Cascade(engines, graded.asked, MERGE_PX))
        middle, seam = clean(), clean()
        middle[10:20, 10:20] = seam[:6, 10:20] = BAND[2] + 9
        verdicts = bench.judge([middle, seam])
        assert [len(verdict.regions) for verdict in verdicts] == [int(kept), 1]
        (beside,) = verdicts[1].regions
        assert beside.reported == kept
        assert beside.peak == 240


def region(number: int, x: int, width: int, score: float, needed_px: int = 0) -> Region:
    """Ten rows high, from row 0."""
    return Region(number, x, 0, np.ones((10, width), dtype=np.bool_), 10 * width, score, needed_px)


def test_one_place_has_one_defect() -> None:
    large, inside, half, beside = (
        region(1, 0, 40, 0.6),
        region(2, 10, 10, 0.5),
        region(3, 30, 20, 0.4),
        region(4, 60, 10, 0.1),
    )
    assert apart([large, inside, half, beside], (64, 96)) == [large, half, beside]
    surer = region(2, 10, 10, 0.9)
    assert apart([large, surer], (64, 96)) == [large, surer], "the large one is not in the small one"
    assert apart([region(1, 0, 40, 0.9), region(1, 10, 10, 0.5)], (64, 96))[1:], "one class does not hide its own"
    unsure = region(2, 0, 40, 0.9, needed_px=500)
    assert apart([unsure, large], (64, 96)) == [large], "what may come to nothing hides nothing"


def test_scores_join_what_types_and_segmenter_say_and_how_large_it_is(graded: Bench) -> None:
    picture = clean()
    picture[10:20, 10:20] = BAND[2] + 4
    (verdict,) = graded.judge([picture])
    (region,) = verdict.regions
    assert region.score == pytest.approx((0.4 * 240 / 255) ** (1 / 3), rel=1e-6)
    assert region.ample_px == 4 * AMPLE
    whole = sized(region.score, region.area_px, region.ample_px)
    assert whole == pytest.approx((0.4 * 240 / 255 * 100 / (100 + 4 * AMPLE)) ** (1 / 3), rel=1e-6)
    assert sized(0.7, 5, 0) == 0.7


# ---------------------------------------------------------------- tiles


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3 * HEIGHT), st.integers(1, 3 * WIDTH), st.data())
def test_tiles_give_the_regions_of_the_whole_picture(easy: Bench, height: int, width: int, data: st.DataObject) -> None:
    """Frames of any size: smaller than a tile, larger, or cut so that tiles overlap."""
    picture = clean(height, width)
    for _ in range(data.draw(st.integers(1, 6))):
        y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        tall, wide = data.draw(st.integers(1, height)), data.draw(st.integers(1, 2 * WIDTH))
        paint(picture, data.draw(st.integers(1, 4)), y, x, tall, wide)
    (verdict,) = easy.judge([picture])
    for number in BAND:
        sure = np.where(picture == BAND[number] + 5, 240, 0).astype(np.uint8)
        wanted = regions(sure, Roi(0, width), number, 0.5, MERGE_PX)
        wanted = [r for r in wanted if r.area_px >= 4 or r.y <= MERGE_PX or r.y + r.height >= height - MERGE_PX]
        found = [r for r in verdict.regions if r.class_number == number]
        assert [(r.x, r.y, r.mask.tolist()) for r in found] == [(r.x, r.y, r.mask.tolist()) for r in wanted]


def test_a_defect_across_lanes_is_one_region(easy: Bench) -> None:
    picture = clean(HEIGHT, 3 * WIDTH - 10)
    paint(picture, 4, 5, 20, 10, 2 * WIDTH)
    (verdict,) = easy.judge([picture])
    (region,) = verdict.regions
    assert (region.x, region.y, region.width, region.height) == (20, 5, 2 * WIDTH, 10)
    assert region.area_px == 20 * WIDTH
    assert region.mask.all()


def segment_as_bright_as_its_tile() -> onnx.ModelProto:
    """Class 1 pixels get the brightest grey of their tile: two tiles say different things of one pixel."""
    nodes = [
        helper.make_node("Cast", ["frames"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["grey"], ["most"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Cast", ["most"], ["most8"], to=TensorProto.UINT8),
        networks.constant("low", np.float32(BAND[1])),
        networks.constant("high", np.float32(BAND[1] + 9)),
        helper.make_node("GreaterOrEqual", ["grey", "low"], ["a"]),
        helper.make_node("LessOrEqual", ["grey", "high"], ["b"]),
        helper.make_node("And", ["a", "b"], ["band"]),
        networks.constant("none", np.uint8(0)),
        helper.make_node("Where", ["band", "most8", "none"], ["map"]),
        networks.constant("axis", np.array([1], dtype=np.int64)),
        helper.make_node("Squeeze", ["map", "axis"], ["probability"]),
    ]
    return networks.graph(nodes, TILE, ("probability", TensorProto.UINT8, list(TILE)))


@pytest.mark.parametrize("x", [5, 90])
def test_where_lanes_overlap_the_surer_one_counts(tmp_path: Path, x: int) -> None:
    folder = make_pack(tmp_path)
    networks.swap(folder, "segment_1", segment_as_bright_as_its_tile())
    picture = clean(HEIGHT, 100)  # tiles at the columns 0 and 36
    paint(picture, 1, 10, 45, 6, 10)
    picture[0, x] = 255  # in one of them
    for made in bench(folder):
        (verdict,) = made.judge([picture])
        (region,) = verdict.regions
        assert region.peak == 255
        assert region.score == pytest.approx(1.0)


def test_tiles_beyond_the_edge_are_not_asked(counted: Bench) -> None:
    counted.judge([clean(HEIGHT, 3 * WIDTH)], [Roi(WIDTH + 3, 2 * WIDTH - 3)])
    assert counted.asked.gated == [1]


# ---------------------------------------------------------------- regions, against a slow reference


def reference(picture: NDArray[np.uint8], roi: Roi, level: int, merge_px: int) -> list[frozenset[tuple[int, int]]]:
    """Groups of pixels: two are one defect when at most `merge_px` blank rows and columns lie between them."""
    rows, columns = np.nonzero(picture >= level)
    left = {(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if roi.left <= c < roi.right}
    reach = range(-merge_px - 1, merge_px + 2)
    groups = []
    while left:
        group, border = set[tuple[int, int]](), [left.pop()]
        while border:
            row, column = border.pop()
            group.add((row, column))
            near = {(row + dr, column + dc) for dr in reach for dc in reach} & left
            left -= near
            border += near
        groups.append(frozenset(group))
    return groups


def pixels_of(region: Region) -> frozenset[tuple[int, int]]:
    rows, columns = np.nonzero(region.mask)
    return frozenset(zip((rows + region.y).tolist(), (columns + region.x).tolist(), strict=True))


@st.composite
def maps(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Sparse pixels and a few boxes of any probability."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    picture = np.zeros((height, width), dtype=np.uint8)
    value = st.integers(0, 255)
    for _ in range(draw(st.integers(0, 3))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        picture[y : y + draw(st.integers(1, 6)), x : x + draw(st.integers(1, 6))] = draw(value)
    for _ in range(draw(st.integers(0, 8))):
        picture[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = draw(value)
    return picture


@settings(max_examples=200, deadline=None)
@given(maps(), st.integers(0, 25), st.integers(0, 25), st.integers(1, 255), st.integers(0, 6))
def test_regions_are_those_of_the_reference(
    picture: NDArray[np.uint8], left: int, right: int, level: int, merge_px: int
) -> None:
    roi = Roi(left, right)
    found = regions(picture, roi, 3, level / 255, merge_px)
    assert {pixels_of(r) for r in found} == set(reference(picture, roi, level, merge_px))
    assert len(found) == len({pixels_of(r) for r in found})
    assert [(r.y, r.x) for r in found] == sorted((r.y, r.x) for r in found)
    for region in found:
        own = pixels_of(region)
        assert region.area_px == len(own)
        assert all(line.any() for line in (region.mask[0], region.mask[-1], region.mask[:, 0], region.mask[:, -1]))
        assert region.class_number == 3
        assert region.score == pytest.approx(sum(int(picture[p]) for p in own) / len(own) / 255)
        assert level / 255 <= region.score + 1e-9
        assert region.score <= 1.0


@pytest.mark.parametrize("merge_px", [0, 1, 2, 3, 12])
@pytest.mark.parametrize("way", [(1, 0), (0, 1), (1, 1)])
def test_pieces_merge_at_the_same_distance_in_every_direction(merge_px: int, way: tuple[int, int]) -> None:
    for distance in range(1, merge_px + 4):
        picture = np.zeros((40, 40), dtype=np.uint8)
        picture[10, 10] = picture[10 + distance * way[0], 10 + distance * way[1]] = 255
        found = regions(picture, Roi(0, 40), 1, 0.5, merge_px)
        assert len(found) == (1 if distance <= merge_px + 1 else 2), distance


@pytest.mark.parametrize("merge_px", [0, 1, 12])
def test_as_many_regions_as_fit_into_a_frame(merge_px: int) -> None:
    """Dust all over a frame of the reference size, none of it near enough to merge."""
    step = merge_px + 2
    picture = np.zeros((256, 1600), dtype=np.uint8)
    picture[::step, ::step] = 255
    found = regions(picture, Roi(0, 1600), 1, 0.5, merge_px)
    assert len(found) == -(-256 // step) * -(-1600 // step)
    assert {r.area_px for r in found} == {1}


def test_regions_do_not_change_the_map() -> None:
    picture = np.full((5, 5), 255, dtype=np.uint8)
    regions(picture, Roi(1, 4), 1, 0.5, 2)
    assert picture.min() == 255


def test_a_map_with_nothing_in_it_has_no_region() -> None:
    assert regions(np.full((5, 5), 100, dtype=np.uint8), Roi(0, 5), 1, 0.5, 12) == []
    assert regions(np.full((5, 5), 255, dtype=np.uint8), Roi(0, 0), 1, 0.5, 12) == []


def test_a_threshold_of_0_does_not_make_everything_a_defect() -> None:
    assert regions(np.zeros((5, 5), dtype=np.uint8), Roi(0, 5), 1, 0.0, 12) == []


def test_a_region_keeps_no_hold_of_the_map() -> None:
    """The map is valid until the runtime's next call only."""
    picture = np.full((5, 5), 255, dtype=np.uint8)
    (region,) = regions(picture, Roi(0, 5), 1, 0.5, 2)
    picture[:] = 0
    assert region.mask.all()
    assert region.area_px == 25


def test_pixels_beyond_the_edge_are_no_defect(easy: Bench) -> None:
    picture = clean()
    paint(picture, 2, 5, 0, 10, WIDTH)
    (verdict,) = easy.judge([picture], [Roi(12, 50)])
    np.testing.assert_array_equal(picture_of(verdict.regions, picture.shape)[5:15, 12:50], 2)
    assert sum(r.area_px for r in verdict.regions) == 10 * 38
