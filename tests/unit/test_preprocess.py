"""preprocess.py: every pixel of the strip reaches the networks once its frame came, in its place, corrected."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspector.config import BatchConfig, EdgeConfig
from inspector.errors import ConfigError
from inspector.flatfield import FlatField
from inspector.pack import TileSize
from inspector.preprocess import Preprocess, cut, find_edges, tile_starts
from inspector.records import Batch, Frame, Pixels, Roi

TILE = TileSize(height=16, width=40)
EDGES = EdgeConfig()
MS = 1_000_000


def frame(pixels: Pixels, sequence: int = 0, camera: str = "cam0", monotonic_ns: int = 0) -> Frame:
    return Frame(camera, sequence, 0, monotonic_ns, 0, pixels)


def preprocess(
    size: int = 1, tile: TileSize = TILE, flat: Mapping[str, FlatField | None] | None = None, detect: bool = True
) -> Preprocess:
    return Preprocess(tile, EdgeConfig(detect=detect), BatchConfig(size=size, deadline_ms=20.0), flat or {})


def numbered(height: int, width: int) -> Pixels:
    """Pixels that differ from their neighbours and from black, so that a wrong place shows."""
    rows, columns = np.mgrid[:height, :width]
    return np.asarray((rows * 31 + columns * 7) % 200 + 50, dtype=np.uint8)


def steel(height: int, width: int, seed: int = 0, grey: int = 80) -> Pixels:
    noise = np.random.default_rng(seed).normal(grey, 12, (height, width))
    return np.clip(noise, 0, 255).astype(np.uint8)


def black(height: int, width: int, seed: int = 1) -> Pixels:
    return np.random.default_rng(seed).integers(0, 6, (height, width), dtype=np.uint8)


sizes = st.tuples(st.integers(1, 90), st.integers(1, 190))
tiles = st.builds(TileSize, height=st.integers(1, 40), width=st.integers(1, 70))


# ---------------------------------------------------------------- tiles


@settings(deadline=None)
@given(sizes, tiles, st.data())
def test_tiles_show_every_pixel_of_the_strip_in_its_place(
    size: tuple[int, int], tile: TileSize, data: st.DataObject
) -> None:
    height, width = size
    left = data.draw(st.integers(0, width - 1))
    roi = Roi(left, data.draw(st.integers(left + 1, width)))
    pixels = numbered(height, width)
    seen: NDArray[np.bool_] = np.zeros(size, dtype=bool)
    for part in cut(pixels, roi, tile, frame=3):
        assert part.frame == 3
        assert part.pixels.shape == (tile.height, tile.width)
        assert part.pixels.flags.c_contiguous
        assert 0 <= part.y <= max(0, height - tile.height)
        assert 0 <= part.x <= max(0, width - tile.width)
        assert part.x < roi.right
        assert part.x + tile.width > roi.left
        rows, columns = min(tile.height, height - part.y), min(tile.width, width - part.x)
        assert (part.pixels[:rows, :columns] == pixels[part.y : part.y + rows, part.x : part.x + columns]).all()
        assert not part.pixels[rows:].any()
        assert not part.pixels[:, columns:].any()
        seen[part.y : part.y + rows, part.x : part.x + columns] = True
    assert seen[:, roi.left : roi.right].all()


@given(st.integers(1, 9000), st.integers(1, 2000))
def test_there_are_as_few_tiles_as_cover_the_frame(extent: int, tile: int) -> None:
    found = tile_starts(extent, tile)
    assert len(found) == -(-extent // tile)
    assert found[0] == 0
    assert found[-1] == max(0, extent - tile)
    assert all(0 < b - a <= tile for a, b in pairwise(found))


def test_a_frame_of_the_tiles_size_is_its_own_tile() -> None:
    pixels = steel(TILE.height, TILE.width)
    batch = preprocess().add(frame(pixels))
    assert batch is not None
    assert [part.pixels is pixels for part in batch.tiles] == [True]


def test_a_tall_frame_of_the_tiles_width_is_not_copied() -> None:
    pixels = steel(3 * TILE.height, TILE.width)
    parts = cut(pixels, Roi(0, TILE.width), TILE, frame=0)
    assert [part.y for part in parts] == [0, 16, 32]
    assert all(np.shares_memory(part.pixels, pixels) for part in parts)


def test_the_last_lane_ends_with_the_frame() -> None:
    parts = cut(numbered(16, 100), Roi(0, 100), TILE, frame=0)
    assert [(part.y, part.x) for part in parts] == [(0, 0), (0, 40), (0, 60)]


def test_lanes_beyond_the_edges_of_the_strip_are_left_out() -> None:
    parts = cut(numbered(16, 200), Roi(45, 130), TILE, frame=0)
    assert [part.x for part in parts] == [40, 80, 120]
    assert cut(numbered(16, 200), Roi(0, 0), TILE, frame=0) == []


# ---------------------------------------------------------------- the strip's edges


@settings(deadline=None)
@given(
    st.integers(1, 300), st.integers(0, 500), st.integers(60, 500), st.integers(0, 500), st.integers(80, 230),
    st.integers(0, 20),
)  # fmt: skip
def test_the_edges_of_a_painted_strip_are_found(
    height: int, left: int, strip: int, right: int, grey: int, margin: int
) -> None:
    pixels = np.hstack([black(height, left), steel(height, strip, grey=grey), black(height, right)])
    roi = find_edges(np.ascontiguousarray(pixels), EdgeConfig(margin_px=margin))
    assert abs(roi.left - (left + margin if left else 0)) <= 3
    assert abs(roi.right - (left + strip - (margin if right else 0))) <= 3


def test_dark_bands_and_patches_inside_are_strip() -> None:
    pixels = steel(256, 800)
    pixels[:, 60:400] = black(256, 340)
    assert find_edges(pixels, EDGES) == Roi(0, 800)


def test_a_dark_defect_at_the_edge_is_not_cut_off() -> None:
    pixels = np.hstack([black(256, 200), steel(256, 600)])
    pixels[40:170, 200:330] = 0
    assert find_edges(np.ascontiguousarray(pixels), EDGES) == Roi(204, 800)


def test_a_slanting_edge_keeps_all_of_the_strip() -> None:
    pixels = steel(256, 800)
    for row in range(256):
        pixels[row, 700 - row // 4 :] = 2
    assert find_edges(pixels, EdgeConfig(margin_px=0)).right >= 695


def test_a_hot_pixel_column_and_a_glint_in_the_black_are_no_strip() -> None:
    pixels = np.hstack([black(256, 300), steel(256, 500)])
    pixels[:, 20] = 255
    pixels[100:110, 100:140] = 60
    assert find_edges(np.ascontiguousarray(pixels), EDGES) == Roi(304, 800)


@pytest.mark.parametrize(("height", "width"), [(256, 1600), (1, 1), (3, 7)])
def test_a_frame_that_is_dark_all_over_has_no_strip_and_no_tiles(height: int, width: int) -> None:
    batch = preprocess().add(frame(black(height, width)))
    assert batch is not None
    assert batch.rois == [Roi(0, 0)]
    assert batch.tiles == []
    assert len(batch.frames) == 1


def test_a_margin_wider_than_the_strip_leaves_none() -> None:
    pixels = np.hstack([black(20, 50), steel(20, 15), black(20, 50)])
    assert find_edges(np.ascontiguousarray(pixels), EdgeConfig(margin_px=8)) == Roi(0, 0)


def test_edges_are_not_looked_for_when_told_so() -> None:
    assert find_edges(black(16, 40), EdgeConfig(detect=False)) == Roi(0, 40)


# ---------------------------------------------------------------- batches


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 9), st.sets(st.integers(0, 40)))
def test_every_frame_is_in_one_batch_and_in_order(cameras: list[str], size: int, flushed: set[int]) -> None:
    stage = preprocess(size=size)
    given_in = [frame(steel(16, 40), sequence=i, camera=name) for i, name in enumerate(cameras)]
    batches: list[Batch | None] = []
    for i, item in enumerate(given_in):
        batches.append(stage.add(item))
        if i in flushed:
            batches.append(stage.flush())
    batches.append(stage.flush())
    out = [batch for batch in batches if batch is not None]
    assert [item for batch in out for item in batch.frames] == given_in
    assert [batch.number for batch in out] == list(range(len(out)))
    assert all(1 <= len(batch.frames) <= size for batch in out)
    assert all(len(batch.rois) == len(batch.frames) for batch in out)
    assert all([part.frame for part in batch.tiles] == list(range(len(batch.frames))) for batch in out)
    assert stage.flush() is None


def test_frames_of_other_sizes_share_a_batch() -> None:
    stage = preprocess(size=3, detect=False)
    for height, width in ((16, 40), (8, 20)):
        assert stage.add(frame(steel(height, width))) is None
    batch = stage.add(frame(steel(20, 90)))
    assert batch is not None
    assert [part.frame for part in batch.tiles] == [0, 1, 2, 2, 2, 2, 2, 2]


def test_the_deadline_is_that_of_the_frame_that_has_waited_longest() -> None:
    stage = preprocess(size=4)
    assert stage.due_in_s(now_ns=0) is None
    stage.add(frame(steel(16, 40), monotonic_ns=100 * MS, camera="a"))
    assert stage.due_in_s(now_ns=100 * MS) == 0.020
    stage.add(frame(steel(16, 40), monotonic_ns=95 * MS, camera="b"))
    assert stage.due_in_s(now_ns=100 * MS) == 0.015
    assert stage.due_in_s(now_ns=115 * MS) == 0.0
    assert stage.due_in_s(now_ns=900 * MS) == 0.0
    stage.flush()
    assert stage.due_in_s(now_ns=900 * MS) is None


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(7)), st.integers(1, 7))
def test_batching_and_order_do_not_change_what_a_frame_becomes(order: list[int], size: int) -> None:
    def prepared(numbers: list[int], together: int) -> dict[int, tuple[Roi, list[tuple[int, int, bytes]]]]:
        flat = FlatField(np.linspace(0, 9, 100), np.linspace(0.8, 1.7, 100))
        stage = preprocess(size=together, flat={"cam0": flat})
        batches = [stage.add(frame(np.hstack([black(20, 9 * n), steel(20, 100 - 9 * n, n)]), n)) for n in numbers]
        found = {}
        for batch in (*batches, stage.flush()):
            for i, item in enumerate(batch.frames if batch else []):
                parts = [(p.y, p.x, p.pixels.tobytes()) for p in batch.tiles if p.frame == i] if batch else []
                found[item.sequence] = (batch.rois[i] if batch else Roi(0, 0), parts)
        return found

    assert prepared(order, size) == prepared(list(range(7)), 1)


# ---------------------------------------------------------------- flat-field


def test_a_shaded_even_surface_becomes_even() -> None:
    columns = np.linspace(-1, 1, 1600)
    shading, dark = 1.0 - 0.6 * columns**2, 4.0 + 3.0 * np.cos(40 * columns)
    surface = np.clip(np.rint(steel(256, 1600, grey=120) * shading + dark), 0, 255).astype(np.uint8)
    before = surface.mean(0)
    batch = preprocess(tile=TileSize(height=256, width=1600), flat={"cam0": FlatField(dark, 1 / shading)}).add(
        frame(surface)
    )
    assert batch is not None
    after = batch.tiles[0].pixels.mean(0)
    assert np.ptp(before) > 60
    assert np.abs(after - 120).max() < 4


def test_the_identity_changes_nothing_and_other_cameras_are_left_alone() -> None:
    pixels = numbered(70, 40)
    kept = pixels.copy()
    FlatField.identity(40).correct(pixels)
    assert (pixels == kept).all()
    preprocess(flat={"cam1": FlatField(np.zeros(40), np.full(40, 2.0)), "cam0": None}).add(frame(pixels))
    assert (pixels == kept).all()


def test_a_flat_field_of_another_width_stops_the_line_and_loses_nothing() -> None:
    stage = preprocess(size=4, flat={"wide": FlatField.identity(40)})
    first = frame(steel(16, 40), camera="wide")
    stage.add(first)
    with pytest.raises(ConfigError, match="40 columns, but camera wide sends 39"):
        stage.add(frame(steel(16, 39), camera="wide"))
    batch = stage.flush()
    assert batch is not None
    assert batch.frames == [first]


def test_batches_may_become_wider_and_narrower_again() -> None:
    stage = preprocess(size=2)
    sizes: list[int] = []
    for number in range(12):
        if number in (2, 8):
            stage.resize(3 if number == 2 else 1)
        batch = stage.add(frame(steel(16, 40), sequence=number))
        sizes += [len(batch.frames)] if batch is not None else []
    assert sizes == [2, 3, 3, 1, 1, 1, 1]
