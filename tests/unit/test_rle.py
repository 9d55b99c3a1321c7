"""rle.py: what is encoded comes back, a box gives the text of its picture, and a bad text is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from inspector.rle import decode, encode, encode_box

Mask = NDArray[np.bool_]
law = settings(deadline=None, max_examples=150)
masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9))


def slow(mask: Mask) -> str:
    """The format's definition, pixel by pixel: number them from 1 down the columns, write each run down."""
    runs: list[list[int]] = []
    for number, on in enumerate((row for column in mask.T.tolist() for row in column), start=1):
        if on and runs and sum(runs[-1]) == number:
            runs[-1][1] += 1
        elif on:
            runs.append([number, 1])
    return " ".join(f"{start} {length}" for start, length in runs)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Mask, int, int, int, int]:
    """(box, x, y, height and width of the picture); a third of the boxes fill the picture's height."""
    box = draw(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.sampled_from([0, 1, 1])))
    above, below = draw(st.sampled_from([(0, 0), (0, 3), (2, 0), (1, 4)]))
    left, right = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    return box, left, above, above + box.shape[0] + below, left + box.shape[1] + right


@law
@given(masks)
def test_what_is_encoded_comes_back(mask: Mask) -> None:
    assert np.array_equal(decode(encode(mask), *mask.shape), mask)


@law
@given(masks)
def test_the_text_is_the_formats_definition(mask: Mask) -> None:
    assert encode(mask) == slow(mask)


@law
@given(boxes())
def test_a_box_gives_the_text_of_its_whole_picture(case: tuple[Mask, int, int, int, int]) -> None:
    box, x, y, height, width = case
    picture = np.zeros((height, width), dtype=np.bool_)
    picture[y : y + box.shape[0], x : x + box.shape[1]] = box
    assert encode_box(box, x, y, height) == encode(picture)


@law
@given(masks, st.randoms(use_true_random=False))
def test_runs_may_come_in_any_order(mask: Mask, random: Any) -> None:
    words = encode(mask).split()
    pairs = list(zip(words[0::2], words[1::2], strict=True))
    random.shuffle(pairs)
    assert np.array_equal(decode(" ".join(f"{a} {b}" for a, b in pairs), *mask.shape), mask)


def test_columns_come_first_and_numbers_begin_with_1() -> None:
    mask = np.zeros((4, 3), dtype=np.bool_)
    mask[1:3, 0] = mask[0, 2] = True
    assert encode(mask) == "2 2 9 1"


def test_a_run_goes_on_into_the_next_column() -> None:
    mask = np.zeros((3, 3), dtype=np.bool_)
    mask[:, 0] = mask[0, 1] = True
    assert encode(mask) == encode_box(mask[:, :2], 0, 0, 3) == "1 4"


def test_full_columns_of_a_box_join_only_where_the_box_fills_the_pictures_height() -> None:
    full = np.ones((4, 3), dtype=np.bool_)
    assert encode_box(full, 2, 0, 4) == "9 12"
    assert encode_box(full, 2, 0, 5) == "11 4 16 4 21 4"
    assert encode_box(full, 2, 1, 5) == "12 4 17 4 22 4"


@pytest.mark.parametrize("shape", [(1, 1), (0, 0), (0, 5), (5, 0), (256, 1600)])
def test_an_empty_mask_is_an_empty_text(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, dtype=np.bool_)
    assert encode(mask) == ""
    assert np.array_equal(decode("", *shape), mask)
    assert encode_box(mask, 3, 2, shape[0] + 2) == ""


def test_any_non_zero_grey_is_foreground() -> None:
    assert encode(np.array([[0, 1], [128, 255]], dtype=np.uint8)) == "2 3"


def test_a_whole_reference_frame_is_one_run() -> None:
    mask = np.ones((256, 1600), dtype=np.bool_)
    assert encode(mask) == encode_box(mask, 0, 0, 256) == "1 409600"
    assert decode("1 409600", 256, 1600).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1", "the last start has no length"),
        ("1 2 3", "the last start has no length"),
        ("1 two", "not a whole number"),
        ("1 2.0", "not a whole number"),
        ("1 99999999999999999999", "not a whole number in reach"),
        ("0 1", "leaves the picture of 3 x 4 px"),
        ("-3 9", "leaves the picture"),
        ("1 0", "leaves the picture"),
        ("1 -1", "leaves the picture"),
        ("13 1", "leaves the picture"),
        ("12 2", "leaves the picture"),
        ("1 13", "leaves the picture"),
        ("1 9223372036854775807", "leaves the picture"),
        ("9223372036854775807 9223372036854775807", "leaves the picture"),
        ("1 1 4611686018427387905 4611686018427387904", "leaves the picture"),
    ],
)
def test_a_bad_text_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode(text, 3, 4)


@law
@given(st.lists(st.one_of(st.integers(-3, 20), st.integers(), st.text(max_size=3)), max_size=6), st.integers(0, 4))
def test_any_text_is_a_mask_or_a_value_error(words: list[object], height: int) -> None:
    try:
        mask = decode(" ".join(map(str, words)), height, 4)
    except ValueError:
        return
    assert mask.shape == (height, 4)
    assert mask.dtype == np.bool_
    assert np.array_equal(decode(encode(mask), height, 4), mask)
