"""The synthetic strip: the same for a seed however it is cut, with truths that can be trusted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.errors import ConfigError
from inspector.steel import Strip
from inspector.steel.marks import PAINTERS, patch
from inspector.steel.plan import CLEARANCE_PX

BUSY = {1: 3.0, 2: 1.5, 3: 2.0, 4: 1.5}


@pytest.fixture(scope="module")
def busy() -> Strip:
    return Strip(5, width_px=420, length_lines=4096, rates=BUSY, pseudo_rate=2.0, edges="both", look="scaled")


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, 3000), lines=st.integers(2, 700), cut=st.data())
def test_a_cut_changes_nothing(busy: Strip, first: int, lines: int, cut: st.DataObject) -> None:
    upper_lines = cut.draw(st.integers(1, lines - 1))
    whole = busy.render(first, lines)
    upper = busy.render(first, upper_lines)
    lower = busy.render(first + upper_lines, lines - upper_lines)
    np.testing.assert_array_equal(whole.pixels, np.concatenate([upper.pixels, lower.pixels]))
    for number in (1, 2, 3, 4):
        cut_mask = np.concatenate([upper.mask(number), lower.mask(number)])
        np.testing.assert_array_equal(whole.mask(number), cut_mask)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(16, 500), height=st.integers(8, 300))
def test_every_size_and_seed_can_be_painted_and_repeats(seed: int, width: int, height: int) -> None:
    one, two = (Strip(seed, width, 600, BUSY, pseudo_rate=3.0) for _ in range(2))
    assert one.defects == two.defects
    first, second = one.render(100, height), two.render(100, height)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.pixels.shape == (height, width)
    assert first.pixels.dtype == np.uint8
    assert first.pixels.flags.c_contiguous


def test_another_seed_is_another_roll() -> None:
    one, two = (Strip(seed, 200, 256, {}, edges="none").render(0, 64).pixels for seed in (1, 2))
    assert np.abs(one.astype(int) - two).mean() > 3


def test_truths_lie_on_the_strip_touch_their_boxes_and_stay_apart(busy: Strip) -> None:
    assert {d.defect_class for d in busy.defects} == {1, 2, 3, 4}
    occupied = np.zeros((busy.length_lines, busy.width_px), dtype=np.uint8)
    for d in busy.defects:
        left, right = busy.surface.margins(d.first_line, d.lines)
        assert left <= d.first_px
        assert d.first_px + d.width_px <= right
        mask = busy.mask(d)
        assert mask.shape == (d.lines, d.width_px)
        assert mask[0].any()
        assert mask[-1].any()
        assert mask[:, 0].any()
        assert mask[:, -1].any()
        box = slice(d.first_line, d.end_line), slice(d.first_px, d.first_px + d.width_px)
        assert not occupied[box].any()
        occupied[box] = 1
    assert CLEARANCE_PX > 12  # judges merge components with at most 12 blank px between them


def test_beyond_the_edges_it_is_black_and_the_strip_is_not(busy: Strip) -> None:
    pixels = busy.render(0, 256).pixels
    left, right = busy.surface.edges(np.arange(256))
    assert pixels[:, : int(left.min()) - 3].max() <= 3
    assert pixels[:, int(right.max()) + 4 :].max() <= 3
    assert pixels[:, int(left.max()) + 30 : int(right.min()) - 30].mean() > 30


def test_defects_change_the_steel_only_near_their_truth(busy: Strip) -> None:
    with_defects = busy.render(0, 2048)
    clean = busy.render(0, 2048, defects=False)
    assert clean.truths == []
    changed = np.abs(with_defects.pixels.astype(int) - clean.pixels) > 2
    boxes = np.zeros_like(changed)
    for t in with_defects.truths:
        h, w = t.mask.shape
        boxes[t.first_line : t.first_line + h, t.first_px : t.first_px + w] = True
        assert changed[t.first_line : t.first_line + h, t.first_px : t.first_px + w].any()
    assert not (changed & ~boxes).any()


@pytest.mark.parametrize("kind", sorted(PAINTERS))
@pytest.mark.parametrize("size", [(6, 6), (6, 90), (300, 7), (120, 80)])
def test_every_blemish_fits_any_box(kind: str, size: tuple[int, int]) -> None:
    painted = patch(kind, 3, *size, 0.8)
    for array in (painted.gain, painted.add):
        assert array.shape == size
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert painted.mask.shape == size
    assert painted.mask.any() == (kind in ("pits", "line", "scratch", "abrasion", "scuff", "torn"))


def test_rates_are_kept() -> None:
    rates = {1: 0.2, 3: 0.5}
    strip = Strip(11, width_px=800, length_lines=1_000_000, rates=rates, edges="none")
    for number in (1, 2, 3, 4):
        expected = rates.get(number, 0.0) * 1000
        found = sum(d.defect_class == number for d in strip.defects)
        assert abs(found - expected) <= 5 * expected**0.5


def test_sizes_are_those_of_the_reference_set() -> None:
    strip = Strip(12, length_lines=2_000_000, rates={1: 0.2, 2: 0.2, 3: 0.2, 4: 0.2}, edges="none", weld=False)
    for number, median in ((1, 860), (2, 2_294), (4, 7_700)):  # DOMAIN: median component area, px
        areas = [int(strip.mask(d).sum()) for d in strip.defects if d.defect_class == number][:150]
        assert 0.75 * median < np.median(areas) < 1.33 * median


def test_lines_of_type_2_keep_to_an_edge() -> None:
    strip = Strip(13, length_lines=300_000, rates={2: 0.3}, edges="left")
    away = [d.first_px - strip.surface.margins(d.first_line, d.lines)[0] for d in strip.defects]
    assert np.median(away) < 120


def test_bands_hold_every_defect() -> None:
    bands = [(i * 256, 256) for i in range(0, 60, 3)]
    strip = Strip(14, width_px=640, length_lines=60 * 256, rates=BUSY, bands=bands)
    for i in range(60):
        assert bool(strip.render(i * 256, 256).truths) == ((i * 256, 256) in bands)


def test_one_weld_and_no_more() -> None:
    kinds = [b.kind for b in Strip(15, 400, 30_000).blemishes]
    assert kinds.count("weld") == 1
    assert "weld" not in [b.kind for b in Strip(15, 400, 30_000, weld=False).blemishes]


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"width_px": 4}, "at least 16 px"),
        ({"rates": {7: 1.0}}, "class 7"),
        ({"rates": {1: -1.0}}, "0 or more"),
        ({"pseudo_rate": -0.1}, "0 or more"),
        ({"rates": {}, "bands": [(0, 64)]}, "all 0"),
        ({"bands": [(900, 200)]}, "lie on the strip"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(settings_: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Strip(1, **{"length_lines": 1000, **settings_})  # type: ignore[arg-type]


def test_a_stretch_beyond_the_strip_is_refused(busy: Strip) -> None:
    with pytest.raises(ValueError, match="leave the strip"):
        busy.render(busy.length_lines - 10, 11)
