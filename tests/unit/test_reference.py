"""reference.py: calibrated on an uneven lamp and an uneven sensor, frames are even within noise; what cannot be a
reference is refused with what to do."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspector.errors import CalibrationError
from inspector.flatfield import FlatField
from inspector.records import Pixels
from inspector.reference import GAINS, Frames, Profile, darkness, solve

WIDTH, HEIGHT = 400, 64


@dataclass
class Bench:
    """A camera over an even, lit surface with a texture that moves; everything is drawn from the seed."""

    seed: int = 1
    width: int = WIDTH
    grey: float = 110.0
    texture: float = 0.06
    """Deviation of the surface's texture, of its level."""
    lamp: float = 0.4
    """How much darker the rims are than the middle."""
    pattern: float = 0.03
    """Deviation of the columns' sensitivity."""
    dark: float = 6.0
    sensor: float = 1.5
    """Deviation of the sensor's noise, grey."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        x = np.linspace(-1, 1, self.width)
        self.light: Profile = (1 - self.lamp * (x - self.rng.uniform(-0.3, 0.3)) ** 2) * (
            1 + self.pattern * self.rng.standard_normal(self.width)
        )
        self.offset: Profile = np.rint(self.rng.uniform(0, self.dark, self.width))

    def surface(self) -> NDArray[np.float64]:
        grain = self.rng.standard_normal((HEIGHT, self.width), dtype=np.float32)
        smooth = cv2.GaussianBlur(grain, (0, 0), 1.0)
        return np.asarray(self.grey * (1 + self.texture * smooth / smooth.std()), dtype=np.float64)

    def seen(self, surface: NDArray[np.float64], lamp: float = 1.0) -> Pixels:
        noise = self.rng.normal(0, self.sensor, surface.shape)
        return np.clip(np.rint(surface * self.light * lamp + self.offset + noise), 0, 255).astype(np.uint8)

    def frame(self, lamp: float = 1.0) -> Pixels:
        return self.seen(self.surface(), lamp)

    def frames(self, count: int = 48) -> Frames:
        return taken([self.frame() for _ in range(count)])


def taken(pictures: list[Pixels]) -> Frames:
    frames = Frames()
    for picture in pictures:
        frames.add(picture)
    return frames


NO_OFFSET: Profile = np.zeros(WIDTH)


# ---------------------------------------------------------------- the law


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**32 - 1), st.integers(200, 900), st.floats(80, 150), st.floats(0, 0.3), st.floats(0, 0.05),
    st.floats(0, 10), st.floats(0.5, 3),
)  # fmt: skip
def test_corrected_frames_are_even_within_noise(
    seed: int, width: int, grey: float, lamp: float, pattern: float, dark: float, sensor: float
) -> None:
    bench = Bench(seed, width, grey, lamp=lamp, pattern=pattern, dark=dark, sensor=sensor)
    black = taken([bench.seen(np.zeros((HEIGHT, width))) for _ in range(16)])
    offset = np.rint(darkness(black))
    solved = solve(bench.frames(), offset)
    flat_field = FlatField(offset, solved.gain)
    means = []
    for _ in range(16):
        picture = bench.frame()
        flat_field.correct(picture)
        means.append(picture.mean(axis=0))
    level = np.mean(means, axis=0)
    true = bench.grey * bench.light
    alike = 2 * np.sqrt(np.pi)  # so many neighbouring rows of the texture count as one
    noise = np.hypot(bench.texture * np.sqrt(alike), sensor / true) / np.sqrt(16 * HEIGHT) * np.sqrt(1 + 16 / 24)
    rounding = 1 / true  # of the offset, and of each pixel
    assert (np.abs(level / solved.target - 1) < 5.5 * noise + rounding).all()
    assert not solved.dead.any()
    assert not solved.unlit.any()


def test_the_target_is_the_mean_level_so_that_brightness_stays() -> None:
    bench = Bench(dark=0)
    solved = solve(bench.frames(), NO_OFFSET)
    assert solved.target == pytest.approx(bench.grey * bench.light.mean(), rel=0.01)
    assert solved.uneven > 0.05
    assert np.abs(solved.gain * bench.light / bench.light.mean() - 1).max() < 0.03


def test_a_lamp_that_flickers_and_dims_does_not_matter() -> None:
    bench, steady = Bench(), Bench()
    frames = taken([bench.frame(lamp) for lamp in bench.rng.uniform(0.7, 1.1, 48)])
    one, other = solve(frames, bench.offset), solve(steady.frames(), steady.offset)
    share = (one.gain / one.gain.mean()) / (other.gain / other.gain.mean())
    assert np.abs(share - 1).max() < 0.05


@pytest.mark.parametrize("grey", [0.1, 2.0])
def test_a_blemish_on_the_surface_leaves_no_ghost(grey: float) -> None:
    """A patch and a scratch in some frames; the same frames without them give the same gains."""
    blemished, clean = Bench(dark=0), Bench(dark=0)
    pictures = []
    for number in range(48):
        surface = blemished.surface()
        if number % 5 == 0:
            surface[:, 100:140] *= grey
        if 10 <= number < 20:
            surface[:, 300] *= grey
        pictures.append(blemished.seen(surface))
    found, expected = solve(taken(pictures), NO_OFFSET), solve(clean.frames(), NO_OFFSET)
    assert np.abs(found.gain / expected.gain - 1).max() < 0.02


# ---------------------------------------------------------------- columns that are mended


def test_columns_beyond_the_surface_have_the_gain_of_the_nearest_good_one() -> None:
    bench = Bench(dark=0)
    bench.light[:60] = 0.01
    bench.light[-30:] = 0.0
    solved = solve(bench.frames(), NO_OFFSET)
    unlit = np.flatnonzero(solved.unlit)
    assert list(unlit) == [*range(68), *range(WIDTH - 38, WIDTH)]
    assert (solved.gain[:68] == solved.gain[68]).all()
    assert (solved.gain[-38:] == solved.gain[-39]).all()


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_a_dead_column_has_the_gain_of_its_neighbour(grey: int) -> None:
    bench = Bench(dark=0)
    pictures = [bench.frame() for _ in range(48)]
    for picture in pictures:
        picture[:, 200] = grey
    solved = solve(taken(pictures), NO_OFFSET)
    assert list(np.flatnonzero(solved.dead)) == [200]
    assert solved.gain[200] in (solved.gain[199], solved.gain[201])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_gains_are_bounded_whatever_the_columns_give(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bench = Bench(seed=seed % 1000, dark=0)
    bench.light[rng.integers(0, WIDTH, 30)] *= rng.uniform(0, 3, 30)
    solved = solve(bench.frames(16), NO_OFFSET)
    assert GAINS[0] <= solved.gain.min() <= solved.gain.max() <= GAINS[1]


# ---------------------------------------------------------------- what is refused


def refused(frames: Frames, says: str, offset: Profile = NO_OFFSET) -> None:
    with pytest.raises(CalibrationError, match=says):
        solve(frames, offset)


def test_a_dark_surface_is_refused() -> None:
    refused(Bench(grey=25, dark=0).frames(), r"too dark: .* grey of 2\d .*Is the lamp on\?")


def test_a_lamp_that_is_off_is_refused() -> None:
    black = Bench(grey=4, texture=0.5)
    frames = taken([black.frame() for _ in range(16)])
    with pytest.raises(CalibrationError, match="too dark"):
        solve(frames, NO_OFFSET, still=True)


def test_a_saturated_surface_is_refused() -> None:
    refused(Bench(grey=255, dark=0).frames(), r"saturated: .* at full scale, most at column \d+\. Close the aperture")


def test_glare_in_one_place_is_refused() -> None:
    bench = Bench(dark=0)
    bench.light[100:130] = 3.0
    refused(bench.frames(), r"saturated: .* most at column (9|1[0-2])\d\.")


def test_a_surface_that_stands_is_refused() -> None:
    """A line camera sees one and the same line in every row."""
    bench = Bench()
    line = np.broadcast_to(bench.surface()[:1], (HEIGHT, WIDTH)).copy()
    refused(taken([bench.seen(line) for _ in range(32)]), "the surface stands.*--still")


def test_black_and_white_pictures_are_told_as_such_though_they_look_as_if_they_stood() -> None:
    refused(taken([np.zeros((HEIGHT, WIDTH), np.uint8)] * 16), "too dark")
    refused(taken([np.full((HEIGHT, WIDTH), 255, np.uint8)] * 16), "saturated")


def test_the_same_few_pictures_again_and_again_are_refused() -> None:
    bench = Bench()
    pictures = [bench.frame() for _ in range(3)]
    refused(taken(pictures * 10), "only 3 of 30 frames differ: the surface must move")


def test_a_white_tile_may_stand_if_one_says_so() -> None:
    bench = Bench(texture=0.0, dark=0)
    frames = taken([bench.seen(np.full((HEIGHT, WIDTH), bench.grey)) for _ in range(32)])
    refused(frames, "--still")
    solved = solve(frames, NO_OFFSET, still=True)
    assert np.abs(solved.gain * bench.light / bench.light.mean() - 1).max() < 0.02


def test_an_edge_that_wanders_is_refused() -> None:
    bench = Bench(dark=0)
    pictures = []
    for number in range(48):
        picture = bench.frame()
        picture[:, : 20 + number] = 3
        pictures.append(picture)
    refused(taken(pictures), r"an edge of the surface lies in view and moved between the columns 3\d and 5\d")


def test_a_surface_that_fills_less_than_half_of_the_view_is_refused() -> None:
    bench = Bench(dark=0)
    bench.light[:250] = 0
    refused(bench.frames(), r"only the columns 250 to 399 of 400 have light")


def test_too_much_noise_is_refused_with_how_many_frames_would_do() -> None:
    rough = Bench(texture=0.5, dark=0, grey=90)
    frames = taken([rough.seen(np.repeat(rough.surface()[:8], 8, axis=0)) for _ in range(8)])
    refused(frames, r"two halves of the 8 frames differ by \d.*take about \d+ frames \(--frames\)")


def test_light_is_no_dark_sensor() -> None:
    with pytest.raises(CalibrationError, match="cap the lens"):
        darkness(Bench().frames(8))


def test_a_few_frames_are_no_reference() -> None:
    refused(Bench().frames(3), "at least 4")


def test_another_width_in_between_is_refused() -> None:
    frames = Bench().frames(4)
    with pytest.raises(CalibrationError, match="a frame of 401 px came after one of 400"):
        frames.add(Bench(width=401).frame())
