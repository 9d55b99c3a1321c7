"""The thumbnail contract: what grading cuts is what a report draws on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector import rle
from inspector.events import Box, Mask
from inspector.thumbnails import LIMIT_PX, MARGIN_PX, crop_window, mask_in_window, outline, shrink, thumbnail_size

sizes = st.tuples(st.integers(1, 600), st.integers(1, 2000))


@st.composite
def boxes_in_frames(draw: st.DrawFn) -> tuple[Box, tuple[int, int]]:
    rows, columns = draw(sizes)
    x, y = draw(st.integers(0, columns - 1)), draw(st.integers(0, rows - 1))
    width, height = draw(st.integers(1, columns - x)), draw(st.integers(1, rows - y))
    return Box(x=x, y=y, width=width, height=height), (rows, columns)


@given(boxes_in_frames())
def test_the_window_is_the_box_and_its_margin_within_the_frames(placed: tuple[Box, tuple[int, int]]) -> None:
    box, (rows, columns) = placed
    x, y, width, height = crop_window(box, (rows, columns))
    assert x == max(0, box.x - MARGIN_PX)
    assert y == max(0, box.y - MARGIN_PX)
    assert x + width == min(columns, box.x + box.width + MARGIN_PX)
    assert y + height == min(rows, box.y + box.height + MARGIN_PX)


def test_a_box_outside_its_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        crop_window(Box(x=2000, y=0, width=10, height=10), (256, 1600))


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_shrink_keeps_the_promised_size(size: tuple[int, int]) -> None:
    pixels = np.full(size, 7, np.uint8)
    small = shrink(pixels)
    assert (small.shape[1], small.shape[0]) == thumbnail_size(size[1], size[0])
    assert max(small.shape) <= LIMIT_PX
    assert small.dtype == np.uint8
    assert small.flags.c_contiguous
    assert not np.shares_memory(small, pixels)
    assert (small == 7).all()
    if max(size) <= LIMIT_PX:
        assert small.shape == size


@settings(max_examples=40, deadline=None)
@given(boxes_in_frames(), st.integers(0, 2**32 - 1))
def test_the_mask_in_a_window_is_a_part_of_the_whole(placed: tuple[Box, tuple[int, int]], seed: int) -> None:
    box, (rows, columns) = placed
    whole = np.random.default_rng(seed).random((rows, columns)) < 0.5
    window = x, y, width, height = crop_window(box, (rows, columns))
    part = mask_in_window(Mask(size=(rows, columns), rle=rle.encode(whole)), window)
    assert (part == whole[y : y + height, x : x + width]).all()


def test_a_thin_scratch_keeps_its_outline_when_shrunk() -> None:
    mask = np.zeros((4000, 60), np.bool_)
    mask[30:3970, 30:32] = True
    scale = LIMIT_PX / 4000
    (contour,) = outline(mask, scale)
    assert np.ptp(contour[:, 1]) > 0.95 * 3940 * scale


def test_a_frayed_mask_gets_a_short_outline() -> None:
    mask = np.random.default_rng(1).random((400, 400)) < 0.6
    assert 0 < sum(map(len, outline(mask, 1.0))) <= 400
    assert outline(np.zeros((5, 5), np.bool_), 1.0) == []
