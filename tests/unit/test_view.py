"""view.py and sight.py: each fault of a view is told within a stated number of frames, and once; good views never are.

Frames are synthetic steel of all looks, painted once; faults are put into the pixels, as a lamp or a lens would."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.cameras import synthetic
from inspector.config import EdgeConfig, ViewConfig
from inspector.flatfield import FlatField, Origin
from inspector.metrics import Metrics
from inspector.pool import Pool
from inspector.preprocess import find_edges
from inspector.records import Frame, Pixels, Roi, Sight
from inspector.sight import Window, odd_columns, spans
from inspector.steel import Look
from inspector.strip import Geometry
from inspector.view import STATES, View

GEOMETRY = Geometry(pitch_along_mm=0.5, pitch_across_mm=0.25, offset_mm=100.0, mm_per_count=0.5)
LOOKS: tuple[Look, ...] = ("smooth", "grainy", "ribbed", "scaled", "dark", "chequer")
QUICK = ViewConfig(window_frames=8, column_frames=64)
"""Small windows, so that few frames need painting; what is told after N windows is told after N of these."""
PLAIN = ViewConfig(window_frames=8)
"""The same, but columns are told as late as by default, long after these frames have come round again."""
TWO_WINDOWS = 3 * 8
"""Frames within which a fault is told: two whole windows, and the one in which it began."""
REAL = Path(os.environ.get("INSPECTOR_DATA", "no such folder")) / "severstal" / "images"

Fault = Callable[[Pixels], Pixels]


def painted(look: Look, frames: int = 32, seed: int = 1, edges: synthetic.Edges = "any") -> list[Pixels]:
    options = synthetic.Options(seed=seed, look=look, edges=edges, pace="free", frames=frames, width_px=1024)
    found, pool = [], Pool(2)
    with synthetic.open("a", options) as camera:
        while not camera.ended:
            frame = camera.read(pool, 1.0)
            if isinstance(frame, Frame):
                found.append(frame.pixels.copy())
                frame.release()
    return found


@pytest.fixture(scope="module")
def strips() -> dict[Look, list[Pixels]]:
    return {look: painted(look) for look in LOOKS}


@pytest.fixture(scope="module")
def strip() -> list[Pixels]:
    return painted("grainy", edges="none")


def said(
    frames: Iterable[Pixels], config: ViewConfig = QUICK, edges: EdgeConfig | None = None, blind_frames: int = 8
) -> list[tuple[int, Sight]]:
    """(number of the frame, what its view is told to be)."""
    view = View(config, blind_frames, GEOMETRY)
    found = []
    for number, pixels in enumerate(frames):
        frame = Frame("a", number, 0, 0, 0, pixels)
        found += [(number, sight) for sight in view.see(frame, find_edges(pixels, edges or EdgeConfig()))]
    return found


def states(told: list[tuple[int, Sight]]) -> list[str]:
    return [state for _, (state, _) in told]


def endless(frames: list[Pixels], fault: Fault = lambda pixels: pixels) -> Iterator[Pixels]:
    return itertools.cycle([fault(pixels) for pixels in frames])


def begun(frames: list[Pixels], fault: Fault, before: int = 20, faulty: int = 200, after: int = 0) -> Iterator[Pixels]:
    """Frames that are well, then with a fault, then well again."""
    well, ill = endless(frames), endless(frames, fault)
    yield from itertools.islice(well, before)
    yield from itertools.islice(ill, faulty)
    yield from itertools.islice(well, after)


# ---------------------------------------------------------------- faults


def lamp_at_a_fifth(pixels: Pixels) -> Pixels:
    return np.rint(pixels * 0.2).astype(np.uint8)


def too_bright(pixels: Pixels) -> Pixels:
    return np.clip(pixels.astype(int) * 6, 0, 255).astype(np.uint8)


def blurred(sigma: float) -> Fault:
    def fault(pixels: Pixels) -> Pixels:
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), dtype=np.uint8)

    return fault


def smeared(pixels: Pixels) -> Pixels:
    """Grease on 30 columns of the window."""
    dirty = pixels.copy()
    dirty[:, 500:530] = np.rint(dirty[:, 500:530] * 0.5).astype(np.uint8)
    return dirty


def dead_at(grey: int) -> Fault:
    def fault(pixels: Pixels) -> Pixels:
        dead = pixels.copy()
        dead[:, 600] = grey
        return dead

    return fault


def no_strip(pixels: Pixels) -> Pixels:
    return np.full_like(pixels, 3)


# ---------------------------------------------------------------- a good view is never told


@pytest.mark.parametrize("look", LOOKS)
def test_steel_of_any_look_is_seen_well(strips: dict[Look, list[Pixels]], look: Look) -> None:
    assert said(itertools.islice(endless(strips[look]), 300)) == []


def test_coils_of_all_looks_one_after_the_other_are_seen_well(strips: dict[Look, list[Pixels]]) -> None:
    coils = [strips[look] for look in LOOKS]
    assert said(pixels for coil in coils + coils[::-1] for pixels in coil * 2) == []


@pytest.mark.skipif(not REAL.is_dir(), reason="no real pictures: set INSPECTOR_DATA")
def test_real_rolls_are_seen_well_and_a_real_defocus_is_not() -> None:
    """Every roll as a piece of strip of its own, with the defaults: dark ones, bright ones, black beyond the edges."""
    rolls = [np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in sorted(REAL.iterdir())]
    frames = [np.roll(roll, 37 * k, axis=0) for roll in rolls for k in range(8)]
    defaults = ViewConfig()
    assert said(frames, defaults) == []
    mixed = [frames[k * 7 % len(frames)] for k in range(400)]
    assert said(mixed, defaults) == []
    for sigma in (2, 3):
        assert states(said(map(blurred(sigma), mixed[:100]), defaults)) == ["out of focus"]
    assert set(states(said(map(lamp_at_a_fifth, mixed[:100]), defaults))) == {"dark"}


def test_a_flat_grey_picture_has_nothing_to_be_out_of_focus() -> None:
    assert said([np.full((256, 1024), 90, dtype=np.uint8)] * 100) == []


def test_a_frame_that_is_too_small_to_judge_is_let_be() -> None:
    rng = np.random.default_rng(1)
    for height, width in ((1, 1), (2, 3), (7, 40), (32, 64), (1, 600)):
        frames = [rng.integers(60, 120, (height, width), dtype=np.uint8) for _ in range(100)]
        assert said(frames, edges=EdgeConfig(detect=False)) == []


# ---------------------------------------------------------------- each fault is told, once, and its end too


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("sigma", [2, 3])
def test_a_lens_out_of_focus_is_told(strips: dict[Look, list[Pixels]], look: Look, sigma: float) -> None:
    told = said(begun(strips[look], blurred(sigma), after=60), PLAIN)
    assert states(told) == ["out of focus", "sees well"]
    assert 20 <= told[0][0] < 20 + TWO_WINDOWS
    assert 220 <= told[1][0] < 220 + TWO_WINDOWS


@pytest.mark.parametrize("sensor", [2, 4])
def test_the_sensors_noise_is_not_taken_for_fine_detail(strip: list[Pixels], sensor: float) -> None:
    rng = np.random.default_rng(1)

    def noisy(pixels: Pixels) -> Pixels:
        return np.clip(np.rint(pixels + rng.normal(0, sensor, pixels.shape)), 0, 255).astype(np.uint8)

    assert said(map(noisy, strip)) == []
    assert states(said(noisy(blurred(2)(pixels)) for pixels in strip)) == ["out of focus"]


@pytest.mark.parametrize("look", LOOKS)
def test_a_lamp_at_a_fifth_is_told(strips: dict[Look, list[Pixels]], look: Look) -> None:
    """Dark steel is then so dark that no strip is found at all."""
    told = said(begun(strips[look], lamp_at_a_fifth), PLAIN)
    assert set(states(told)) <= {"dark", "blind", "sees strip"}
    assert states(told)[0] in ("dark", "blind")
    assert told[0][0] < 20 + TWO_WINDOWS


def test_glare_is_told(strip: list[Pixels]) -> None:
    told = said(begun(strip, too_bright, after=60))
    assert states(told) == ["glare", "sees well"]
    assert told[0][0] < 20 + TWO_WINDOWS
    assert "limit 50%" in told[0][1][1]


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_one_dead_column_is_told_after_long(strip: list[Pixels], grey: int) -> None:
    told = said(begun(strip, dead_at(grey), after=100))
    assert states(told) == ["dead columns", "sees well"]
    assert 20 + 64 - 8 <= told[0][0] < 20 + 64 + 8
    assert "columns 600 (250-250.25 mm)" in told[0][1][1]


@pytest.mark.parametrize("look", ["smooth", "scaled", "chequer"])
def test_a_smear_is_told_with_its_place(look: Look) -> None:
    told = said(begun(painted(look, edges="none"), smeared))
    assert states(told) == ["dead columns"]
    assert told[0][0] < 20 + 64 + 8
    assert "columns 500-529 (225-232.5 mm)" in told[0][1][1]


def test_a_scratch_that_ends_is_no_dead_column(strip: list[Pixels]) -> None:
    assert said(begun(strip, dead_at(255), faulty=48, after=200)) == []


def test_no_strip_is_told_at_once_and_with_the_words_of_old(strip: list[Pixels]) -> None:
    told = said(begun(strip, no_strip, before=5, faulty=30, after=50), blind_frames=8)
    assert told == [
        (12, ("blind", "8 frames in a row show no strip: look at lamp, lens and edges.dark_level")),
        (35, ("sees strip", "after 30 frames without any")),
    ]


def test_fewer_dark_frames_than_the_limit_are_a_seam(strip: list[Pixels]) -> None:
    assert said(begun(strip, no_strip, faulty=7, after=50), blind_frames=8) == []


def test_little_strip_is_told_where_a_limit_is_set(strip: list[Pixels]) -> None:
    def aside(pixels: Pixels) -> Pixels:
        moved = np.full_like(pixels, 3)
        moved[:, 700:] = pixels[:, 700:]
        return moved

    config = ViewConfig(window_frames=8, strip_below=0.5)
    told = said(begun(strip, aside, after=60), config)
    assert states(told) == ["little strip", "sees well"]
    assert "31% of the frame is strip (limit 50%)" in told[0][1][1]
    assert said(begun(strip, aside)) == []


def test_when_one_of_two_faults_ends_the_other_is_named(strip: list[Pixels]) -> None:
    frames = [
        *itertools.islice(endless(strip, blurred(3)), 40),
        *itertools.islice(endless(strip, lambda pixels: smeared(blurred(3)(pixels))), 100),
        *itertools.islice(endless(strip, smeared), 40),
        *itertools.islice(endless(strip), 80),
    ]
    told = said(frames)
    assert states(told) == ["out of focus", "dead columns", "dead columns", "sees well"]
    assert told[2][1][1].startswith("no longer out of focus: fine detail is 0.")
    assert "; still dead columns: columns 5" in told[2][1][1]
    assert told[3][1][1] == "no longer dead columns"


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ({"dark_below": None}, lamp_at_a_fifth),
        ({"glare_above": None}, too_bright),
        ({"focus_below": None}, blurred(3)),
        ({"column_off": None}, dead_at(0)),
        ({"watch": False}, too_bright),
    ],
)
def test_what_is_not_watched_is_not_told(setting: dict[str, bool | None], fault: Fault) -> None:
    bright = painted("ribbed", edges="none")
    assert said(begun(bright, fault)) != []
    config = ViewConfig(window_frames=8, column_frames=64, **setting)  # type: ignore[arg-type]
    assert said(begun(bright, fault), config) == []


def test_new_dirt_is_told_and_old_is_not_told_again(strip: list[Pixels]) -> None:
    def both(pixels: Pixels) -> Pixels:
        return dead_at(0)(smeared(pixels))

    frames = [*itertools.islice(endless(strip, dead_at(0)), 160), *itertools.islice(endless(strip, both), 160)]
    told = said(frames)
    assert states(told) == ["dead columns", "dead columns"]
    assert "columns 500-529 (225-232.5 mm), 600 (250-250.25 mm)" in told[1][1][1]


def test_frames_of_strip_that_stands_say_nothing(strip: list[Pixels]) -> None:
    view = View(QUICK, 8, GEOMETRY)
    still = np.ascontiguousarray(np.broadcast_to(strip[0][:1], strip[0].shape))
    for number in range(300):
        assert view.see(Frame("a", number, 0, 0, 0, still, counts_per_line=0.0), Roi(0, still.shape[1])) == []


def test_another_width_begins_anew(strip: list[Pixels]) -> None:
    narrow = [np.ascontiguousarray(pixels[:, :700]) for pixels in strip]
    frames = [each for pair in zip(strip, narrow, strict=True) for each in pair]
    assert said(frames * 3) == []


def test_a_dead_column_ends_with_the_width_it_was_found_at(strip: list[Pixels]) -> None:
    narrow = [np.ascontiguousarray(pixels[:, :500]) for pixels in strip]
    told = said([*itertools.islice(endless(strip, dead_at(0)), 100), *narrow])
    assert states(told) == ["dead columns", "sees well"]


# ---------------------------------------------------------------- laws


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_same_frames_give_the_same_sights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    faults: list[Fault] = [lamp_at_a_fifth, blurred(3), no_strip, lambda pixels: pixels]
    base = rng.integers(40, 180, (16, 300), dtype=np.uint8)
    frames = [pixels for _ in range(5) for pixels in [faults[int(rng.integers(4))](base)] * int(rng.integers(1, 40))]
    assert said(frames) == said(frames)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.integers(16, 400), st.data())
def test_figures_are_those_of_the_strip_alone(height: int, width: int, data: st.DataObject) -> None:
    """Whatever lies beyond the edges, and wherever they lie in each frame."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    inside, outside = Window(8, width), Window(8, width)
    strip_px, seen_px, seen = 0, 0, []
    for _ in range(8):
        left = data.draw(st.integers(0, width - 1))
        roi = Roi(left, data.draw(st.integers(left + 1, width)))
        pixels = np.full((height, width), 100, dtype=np.uint8)
        pixels[:, roi.left : roi.right] = rng.integers(90, 111)
        other = rng.integers(0, 256, (height, width), dtype=np.uint8)
        other[:, roi.left : roi.right] = pixels[:, roi.left : roi.right]
        inside.take(pixels, roi)
        outside.take(other, roi)
        strip_px, seen_px = strip_px + roi.width, seen_px + width
        seen.append((int(pixels[0, roi.left]), roi.width))
    one, two = inside.figures(), outside.figures()
    if one is None or two is None:
        assert one is two
        return
    assert one.brightness == pytest.approx(sum(grey * px for grey, px in seen) / strip_px / 255)
    assert one.strip == pytest.approx(strip_px / seen_px)
    assert (one.brightness, one.brightest, one.saturated, one.strip) == (
        two.brightness, two.brightest, two.saturated, two.strip,
    )  # fmt: skip
    brightest = max(grey for grey, _ in seen if 1000 * sum(px for other, px in seen if other >= grey) >= strip_px)
    assert one.brightest == pytest.approx(brightest / 255), "0.1 % of the strip reach it"
    assert np.array_equal(one.level, two.level, equal_nan=True)
    assert np.array_equal(one.spread, two.spread, equal_nan=True)


def test_a_window_begins_anew(strip: list[Pixels]) -> None:
    width = strip[0].shape[1]
    used, fresh = Window(8, width), Window(8, width)
    for pixels in strip[:8]:
        used.take(pixels, Roi(100, 900))
    used.figures()
    for pixels in strip[8:16]:
        used.take(pixels, Roi(0, width))
        fresh.take(pixels, Roi(0, width))
    one, two = used.figures(), fresh.figures()
    assert one is not None
    assert two is not None
    assert (one.brightness, one.brightest, one.strip) == (two.brightness, two.brightest, two.strip)
    assert (one.level == two.level).all()


def test_columns_beside_an_edge_are_not_judged(strip: list[Pixels]) -> None:
    window = Window(8, strip[0].shape[1])
    for pixels in strip[:8]:
        window.take(dead_at(255)(pixels), Roi(550, 1024))
    figures = window.figures()
    assert figures is not None
    marks = odd_columns(figures, 0.15)
    assert not marks[: 550 + 100].any()
    assert (marks[700:] != 0).all()


@given(st.lists(st.booleans(), max_size=50))
def test_spans_are_the_runs(flags: list[bool]) -> None:
    found = spans(np.array(flags, dtype=bool))
    assert [n for a, b in found for n in range(a, b + 1)] == [n for n, flag in enumerate(flags) if flag]
    assert all(b + 1 < c for (_, b), (c, _) in itertools.pairwise(found))


# ---------------------------------------------------------------- metrics


def test_the_figures_and_states_are_metrics(strip: list[Pixels]) -> None:
    metrics = Metrics(process=False)
    view = View(QUICK, 8, GEOMETRY, metrics.view("a", STATES, made_ns=1_000_000_000))
    value = metrics.registry.get_sample_value

    def has(name: str, **labels: str) -> float | None:
        return value(f"inspector_{name}", {"camera": "a", **labels})

    def show(frames: Iterable[Pixels]) -> None:
        for number, pixels in enumerate(frames):
            view.see(Frame("a", number, 0, 0, 0, pixels), find_edges(pixels, EdgeConfig()))

    assert has("camera_brightness_ratio") is None
    assert {state: has("camera_view_state", state=state) for state in STATES} == dict.fromkeys(STATES, 0.0)
    assert (has("flat_field_age_seconds") or 0) > 1e9
    assert has("flat_field_residual_ratio") is None
    show(strip)
    mean = np.mean([pixels.mean() for pixels in strip[-8:]]) / 255
    assert has("camera_brightness_ratio") == pytest.approx(mean, rel=0.02)
    assert has("camera_strip_in_view_ratio") == 1
    assert 0.12 < (has("camera_focus_ratio") or 0) < 0.6
    assert has("camera_dead_columns") == 0
    assert 0 < (has("flat_field_residual_ratio") or 0) < 0.5
    show(begun(strip, lambda pixels: blurred(3)(smeared(pixels))))
    assert has("camera_view_state", state="out of focus") == 1
    assert has("camera_view_state", state="dead columns") == 1
    assert 30 <= (has("camera_dead_columns") or 0) <= 40
    show(begun(strip, no_strip))
    assert has("camera_view_state", state="blind") == 1
    assert has("camera_strip_in_view_ratio") == 0


def test_the_residual_falls_when_the_flat_field_fits(strip: list[Pixels]) -> None:
    """An uneven lamp over even steel: the figure tells of it, and is next to 0 once it is corrected."""
    rng = np.random.default_rng(1)
    lamp = 0.75 + 0.25 * np.cos(np.linspace(-2, 2, 1024))
    even = [np.clip(np.rint(rng.normal(120, 8, (256, 1024)) * lamp), 0, 255).astype(np.uint8) for _ in range(8)]

    def residual(flat_field: FlatField) -> float:
        metrics = Metrics(process=False)
        view = View(QUICK, 8, GEOMETRY, metrics.view("a", STATES, flat_field.origin.made_ns))
        for number, pixels in enumerate(even * 4):
            corrected = pixels.copy()
            flat_field.correct(corrected)
            view.see(Frame("a", number, 0, 0, 0, corrected), Roi(0, 1024))
        found = metrics.registry.get_sample_value("inspector_flat_field_residual_ratio", {"camera": "a"})
        assert found is not None
        return found

    made = Origin(made_ns=1)
    assert residual(FlatField(np.zeros(1024), np.ones(1024), origin=made)) > 0.05
    assert residual(FlatField(np.zeros(1024), 1 / lamp, origin=made)) < 0.01
