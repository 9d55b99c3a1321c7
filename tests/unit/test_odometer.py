"""cameras/_odometer.py: places are exact by counting, right to a frame over a reopening, or the encoder's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.cameras._odometer import FASTEST, PERIODS, Encoder, Odometer, Place

HEIGHT = 256
FRAME_S = 0.01


def chunked(**settings: object) -> Encoder:
    return Encoder(source="chunk", **settings)  # type: ignore[arg-type]


# ---------------------------------------------------------------- by counting


@given(
    st.lists(st.integers(1, 500), max_size=30),
    st.integers(0, 20),
    st.floats(0.01, 100),
    st.integers(-(10**9), 10**9),
    st.integers(1, 4000),
)
def test_places_are_exact_over_holes(steps: list[int], index: int, counts: float, first: int, height: int) -> None:
    """From the first line on, even when the first frames are lost; no error adds up."""
    odometer = Odometer(Encoder(counts_per_line=counts, first_count=first), height)
    for step in [0, *steps]:
        index += step
        expected = first + index * counts * height
        assert abs(odometer.place(index, index * FRAME_S).encoder_count - expected) <= 0.5 + abs(expected) * 1e-9


@given(
    st.lists(st.tuples(st.integers(PERIODS + 1, 40), st.floats(0, 60), st.integers(0, 30)), min_size=1, max_size=5),
    st.floats(0.5, 0.99),
)
def test_over_a_reopening_the_place_is_right_to_one_frame(lives: list[tuple[int, float, int]], noise: float) -> None:
    """The strip runs evenly; frames come up to a tenth of a frame late."""
    encoder = Encoder(counts_per_line=2.0, first_count=100)
    odometer, now_s, doubt = Odometer(encoder, HEIGHT), 1000.0, 0.0
    begun_s = now_s
    for frames, pause_s, lost_first in lives:
        odometer.opened()
        now_s += lost_first * FRAME_S
        doubt += lost_first * HEIGHT * 2 * 0.1 + 1e-3  # a period is known to a tenth
        for index in range(lost_first, lost_first + frames):
            late_s = (index * noise % 1.0) * FRAME_S / 10
            place = odometer.place(index, now_s + late_s)
            truth = 100 + (now_s - begun_s) / FRAME_S * HEIGHT * 2
            assert abs(place.encoder_count - truth) <= doubt + HEIGHT * 2
            now_s += FRAME_S
        doubt += HEIGHT * 2 + pause_s / FRAME_S * HEIGHT * 2 * 0.1
        now_s += pause_s


def test_time_that_passed_while_the_camera_was_down_is_strip() -> None:
    odometer = Odometer(Encoder(), HEIGHT)
    for index in range(20):
        odometer.place(index, index * FRAME_S)
    odometer.opened()
    assert odometer.place(0, 19 * FRAME_S + 1.5).encoder_count == (19 + 150) * HEIGHT
    assert odometer.place(3, 19 * FRAME_S + 1.53).encoder_count == (19 + 153) * HEIGHT


def test_opened_again_at_once_nothing_is_missing() -> None:
    odometer = Odometer(Encoder(), HEIGHT)
    for index in range(5):
        odometer.place(index, index * FRAME_S)
    odometer.opened()
    odometer.opened()
    assert odometer.place(0, 5.3 * FRAME_S).encoder_count == 5 * HEIGHT
    odometer.opened()
    assert odometer.place(9, 5.3 * FRAME_S).encoder_count == 6 * HEIGHT, "never back"


def test_a_count_that_went_on_after_a_reset_is_placed_by_time() -> None:
    """The adapter's numbers simply go on."""
    odometer = Odometer(Encoder(), HEIGHT)
    for index in range(10):
        odometer.place(index, index * FRAME_S)
    odometer.opened()
    assert odometer.place(10, 30 * FRAME_S).encoder_count == 30 * HEIGHT
    assert odometer.place(11, 31 * FRAME_S).encoder_count == 31 * HEIGHT


@pytest.mark.parametrize(("really", "believed"), [(1.04, 1.0), (0.95, 1.0), (1.5, 1.5), (0.5, 0.5)])
def test_an_expected_period_holds_while_the_measured_ones_bear_it_out(really: float, believed: float) -> None:
    odometer = Odometer(Encoder(), HEIGHT, FRAME_S)
    for index in range(12):
        odometer.place(index, index * really * FRAME_S)
    assert odometer.frame_s == pytest.approx(believed * FRAME_S)


@pytest.mark.parametrize(("frame_s", "frames"), [(None, 1), (FRAME_S, 100)])
def test_until_frames_have_told_the_settings_say_how_long_one_takes(frame_s: float | None, frames: int) -> None:
    odometer = Odometer(Encoder(), HEIGHT, frame_s)
    assert odometer.frame_s == frame_s
    odometer.place(0, 0.0)
    odometer.opened()
    assert odometer.place(0, 1.0).encoder_count == frames * HEIGHT


def test_a_frame_takes_what_the_newest_took() -> None:
    odometer, now_s = Odometer(Encoder(), HEIGHT), 0.0
    for index in range(2 * PERIODS):
        odometer.place(index, now_s)
        now_s += FRAME_S if index < PERIODS else 3 * FRAME_S
    assert odometer.frame_s == pytest.approx(3 * FRAME_S)
    odometer.place(2 * PERIODS, now_s + 60)  # the strip stood
    assert odometer.frame_s == pytest.approx(3 * FRAME_S)


def test_a_first_frame_off_the_beat_makes_no_frame_shorter() -> None:
    """A camera that dies again and again after a few frames, the first of which comes when it is ready."""
    odometer, now_s = Odometer(Encoder(), HEIGHT), 0.0
    for _ in range(10):
        odometer.opened()
        for index in range(7):
            odometer.place(index, now_s)
            now_s += FRAME_S if index else FRAME_S / 10
        now_s += 1.0
    assert odometer.frame_s == pytest.approx(FRAME_S)


def test_the_jitter_of_single_frames_goes_out() -> None:
    odometer = Odometer(Encoder(), HEIGHT)
    for index in range(PERIODS + 1):
        odometer.place(index, (index + 0.01 * (-1) ** index) * FRAME_S)
    assert odometer.frame_s == pytest.approx(FRAME_S, rel=0.003)


def test_two_periods_that_have_nothing_in_common() -> None:
    odometer = Odometer(Encoder(), HEIGHT)
    for index, taken_s in enumerate([0.0, 1.0, 3.0]):
        odometer.place(index, taken_s)
    assert odometer.frame_s == 1.0


def test_a_time_that_runs_back_is_no_period() -> None:
    odometer = Odometer(Encoder(), HEIGHT)
    for index, taken_s in enumerate([0.0, FRAME_S, FRAME_S - 60.0, 2 * FRAME_S - 60.0, 2 * FRAME_S - 61.0]):
        odometer.place(index, taken_s)
    assert odometer.frame_s == pytest.approx(FRAME_S)


def test_a_hole_does_not_make_frames_longer() -> None:
    odometer = Odometer(Encoder(), HEIGHT)
    odometer.place(0, 0.0)
    odometer.place(50, 50 * FRAME_S)
    assert odometer.frame_s == pytest.approx(FRAME_S)


# ---------------------------------------------------------------- by the encoder's value


@given(
    st.sampled_from([8, 16, 32, 64]),
    st.integers(0, 2**64),
    st.lists(st.floats(-0.49, 0.49), max_size=20),
    st.integers(-(10**6), 10**6),
)
def test_values_are_passed_on_without_their_wraps(bits: int, start: int, moves: list[float], first: int) -> None:
    """Whichever way, up to half a ring at a time; what a jump is, is not decided here."""
    odometer = Odometer(chunked(chunk_bits=bits, first_count=first), HEIGHT)
    value = start % 2**bits
    for index, move in enumerate([0.0, *moves]):
        value += int(move * 2**bits)
        assert odometer.place(index, index * FRAME_S, value % 2**bits).encoder_count == first + value


def test_a_value_that_jumps_is_passed_on() -> None:
    odometer = Odometer(chunked(), HEIGHT)
    places = [odometer.place(n, n * FRAME_S, raw).encoder_count for n, raw in enumerate([0, 256, 900_256, 900_512, 3])]
    assert places == [0, 256, 900_256, 900_512, 3]


def test_over_a_reopening_the_value_says_where_the_strip_is() -> None:
    odometer = Odometer(chunked(chunk_bits=16, lines="timed"), HEIGHT)
    odometer.place(7, 0.0, 65_000)
    odometer.place(8, FRAME_S, 65_100)
    odometer.opened()
    assert odometer.place(20, 60.0, 2_000) == Place(67_536, 100 / HEIGHT), "no speed over the pause"
    assert odometer.place(21, 60.1, 2_256) == Place(67_792, 1.0)


def test_triggered_lines_are_a_pitch_each_whatever_the_speed() -> None:
    odometer = Odometer(chunked(counts_per_line=4.0), HEIGHT)
    assert [odometer.place(n, n, n * HEIGHT * 4).counts_per_line for n in range(3)] == [None] * 3


def test_triggered_lines_of_a_strip_that_runs_back_are_measured() -> None:
    odometer = Odometer(chunked(counts_per_line=4.0), HEIGHT)
    values = [0, 1024, 1536, 512, -512, 512, 1536, 1530, 9000]
    assert [odometer.place(n, n, value % 2**32) for n, value in enumerate(values)] == [
        *(Place(0), Place(1024), Place(1536, 2.0), Place(512, -4.0), Place(-512, -4.0), Place(512)),
        *(Place(1536), Place(1530, -6 / HEIGHT), Place(9000)),
    ]
    odometer.place(9, 9.0, 8000)
    odometer.opened()
    assert odometer.place(0, 10.0, 7000) == Place(7000)


@given(st.lists(st.tuples(st.integers(-1200, 1200), st.integers(1, 5)), min_size=1, max_size=20))
def test_timed_lines_are_measured(steps: list[tuple[int, int]]) -> None:
    """A strip that slows down, stands and runs back; lost frames between count as lines."""
    odometer = Odometer(chunked(counts_per_line=4.0, lines="timed", chunk_bits=32), HEIGHT)
    value, index = 5000, 0
    assert odometer.place(0, 0.0, value) == Place(value, 4.0)
    for move, frames in steps:
        value += move * frames
        index += frames
        place = odometer.place(index, index * FRAME_S, value % 2**32)
        assert place.encoder_count == value
        assert place.counts_per_line == pytest.approx(move / HEIGHT)


@pytest.mark.parametrize("jump", [2**30, -(2**30), 2000])
def test_a_jump_is_no_speed(jump: int) -> None:
    odometer = Odometer(chunked(counts_per_line=4.0, lines="timed"), HEIGHT)
    value = 5000
    odometer.place(0, 0.0, value)
    odometer.place(1, 1.0, value + 512)
    assert abs(jump) > FASTEST * 4 * HEIGHT
    assert odometer.place(2, 2.0, (value + 512 + jump) % 2**32) == Place(value + 512 + jump, 2.0)


def test_a_frame_whose_value_did_not_come_is_placed_by_its_lines() -> None:
    odometer = Odometer(chunked(counts_per_line=1.0), HEIGHT)
    odometer.place(0, 0.0, 9000)
    odometer.place(1, 1.0, 9256)
    assert odometer.place(3, 3.0, None) == Place(9768)
    assert odometer.place(4, 4.0, 10024) == Place(10024)
    odometer.opened()
    assert odometer.place(0, 7.0, None) == Place(10024 + 3 * HEIGHT)
