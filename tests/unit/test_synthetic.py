"""The synthetic camera: places, times, rates, losses and drills are exact; nothing here waits for real."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.cameras.synthetic import Options, SyntheticCamera
from inspector.cameras.synthetic import open as open_camera
from inspector.errors import CameraError, ConfigError
from inspector.events import Reason
from inspector.pool import Pool
from inspector.records import Frame, Loss
from inspector.steel.reel import ENDLESS_FRAMES, Schedule

SMALL: dict[str, Any] = {"width_px": 64, "height_px": 32, "line_rate_hz": 32_000.0, "rates_per_m": {3: 2.0}}
FRAME_NS = 1_000_000


class ManualClock:
    """Time that passes only when somebody waits or the test says so."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000

    def unix_ns(self) -> int:
        return self.now_ns + 1_700_000_000_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wait(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


def camera(clock: ManualClock | None = None, **options: Any) -> SyntheticCamera:
    return SyntheticCamera("lane", Options(**{**SMALL, **options}), clock or ManualClock())


def read_all(source: SyntheticCamera, pool: Pool | None = None) -> list[Frame | Loss]:
    """Everything until the strip ends; frames are given back at once, their pixels copied."""
    pool = pool or Pool(1)
    got: list[Frame | Loss] = []
    while not source.ended:
        item = source.read(pool, 1.0)
        if isinstance(item, Frame):
            item.pixels = item.pixels.copy()
            item.release()
        if item is not None:
            got.append(item)
    return got


def frames_of(items: list[Frame | Loss]) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


def test_frames_carry_exact_places_and_times() -> None:
    clock = ManualClock()
    with camera(clock, frames=5, counts_per_line=4, first_encoder_count=-100) as source:
        start = clock.unix_ns()
        frames = frames_of(read_all(source))
    assert [f.sequence for f in frames] == [0, 1, 2, 3, 4]
    assert [f.encoder_count for f in frames] == [-100 + i * 32 * 4 for i in range(5)]
    assert [f.exposed_ns for f in frames] == [start + i * FRAME_NS for i in range(5)]
    # a frame can be read when its last line is exposed, not before
    assert [f.monotonic_ns for f in frames] == [5_000_000_000 + (i + 1) * FRAME_NS for i in range(5)]


def test_free_pace_does_not_wait_and_keeps_the_same_times() -> None:
    clock = ManualClock()
    with camera(clock, frames=3, pace="free") as source:
        frames = frames_of(read_all(source))
    assert clock.now_ns == 5_000_000_000
    assert np.diff([f.exposed_ns for f in frames]).tolist() == [FRAME_NS] * 2


@pytest.mark.parametrize("prepared", [0, 6])
def test_the_same_options_give_the_same_pixels(prepared: int) -> None:
    shots = []
    for _ in range(2):
        with camera(frames=8, pace="free", prepared_frames=prepared, seed=9) as source:
            shots.append(np.concatenate([f.pixels for f in frames_of(read_all(source))]))
    np.testing.assert_array_equal(*shots)
    assert shots[0].shape == (8 * 32, 64)


def test_live_and_prepared_frames_show_the_same_strip() -> None:
    def shot(prepared: int) -> np.ndarray[Any, Any]:
        with camera(frames=6, pace="free", prepared_frames=prepared) as source:
            return np.concatenate([f.pixels for f in frames_of(read_all(source))])

    np.testing.assert_array_equal(shot(0), shot(6))


def test_prepared_frames_come_round_again() -> None:
    with camera(frames=7, pace="free", prepared_frames=3) as source:
        frames = frames_of(read_all(source))
    np.testing.assert_array_equal(frames[0].pixels, frames[6].pixels)
    assert [f.sequence for f in frames] == list(range(7))


def test_length_in_metres_is_rounded_up_to_whole_frames() -> None:
    with camera(length_m=0.1, mm_per_line=1.0, pace="free") as source:  # 100 lines of 32 a frame
        assert len(read_all(source)) == 4
        assert source.ended
        assert source.read(Pool(1), 0.0) is None


# ---------------------------------------------------------------- truth


def test_truths_are_where_the_strip_changes() -> None:
    source = camera(frames=40, pace="free", rates_per_m={1: 4.0, 4: 2.0}, width_px=200, weld=False, pseudo_per_m=0)
    twin = camera(frames=40, pace="free", rates_per_m={}, width_px=200, weld=False, pseudo_per_m=0)
    with source, twin:
        marked, clean = (np.concatenate([f.pixels for f in frames_of(read_all(c))]) for c in (source, twin))
    truths = source.truths(0, 40)
    assert truths
    changed = np.abs(marked.astype(int) - clean) > 2
    for t in truths:
        box = slice(t.first_line, t.end_line), slice(t.first_px, t.first_px + t.width_px)
        assert changed[box].any()
        changed[box] = False
    assert not changed.any()


def test_rates_are_defects_per_metre() -> None:
    source = camera(length_m=2000.0, mm_per_line=2.0, rates_per_m={1: 0.1, 3: 0.2}, width_px=800)
    found = Counter(t.defect_class for t in source.truths(0, 10**6))
    assert abs(found[1] - 200) < 5 * 200**0.5
    assert abs(found[3] - 400) < 5 * 400**0.5
    assert set(found) == {1, 3}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.15, 0.53, 1.0])
@pytest.mark.parametrize("prepared", [0, 7])
def test_the_share_of_defective_frames_is_exact(share: float, prepared: int) -> None:
    rates = {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}
    source = camera(frames=300, defective_share=share, prepared_frames=prepared, rates_per_m=rates, edges="both")
    truths = source.truths(0, 300)
    defective = {t.first_line // 32 for t in truths}
    assert len(defective) == round(300 * share)
    assert all((t.end_line - 1) // 32 == t.first_line // 32 for t in truths)
    for block in (0, 1, 2):
        assert len([f for f in defective if f // 100 == block]) == round(100 * share)


def test_frames_called_clean_are_clean_in_the_pixels() -> None:
    options: dict[str, Any] = {"frames": 60, "pace": "free", "prepared_frames": 5, "pseudo_per_m": 0.0, "weld": False}
    with camera(defective_share=0.53, **options) as source, camera(defective_share=0.0, **options) as clean:
        marked, bare = frames_of(read_all(source)), frames_of(read_all(clean))
    known = {f.pixels.tobytes() for f in bare}
    truly = {t.first_line // 32 for t in source.truths(0, 60)}
    assert {f.sequence for f in marked if f.pixels.tobytes() not in known} == truly


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.01, 0.15, 0.53, 0.333]))
def test_the_schedule_counts_both_sorts_without_gaps(seed: int, share: float) -> None:
    ranks: dict[bool, list[int]] = {True: [], False: []}
    schedule = Schedule(seed, share)
    for position in range(350):
        defective, rank = schedule.at(position)
        ranks[defective].append(rank)
    for sort in (True, False):
        assert ranks[sort] == list(range(len(ranks[sort])))


def test_an_endless_strip_repeats() -> None:
    source = camera(rates_per_m={1: 5.0})
    first = source.truths(0, 400)
    again = source.truths(ENDLESS_FRAMES, ENDLESS_FRAMES + 400)
    assert first
    assert [t.first_line + ENDLESS_FRAMES * 32 for t in first] == [t.first_line for t in again]
    assert not source.ended


# ---------------------------------------------------------------- losses


@settings(max_examples=40, deadline=None)
@given(delays=st.lists(st.integers(0, 12), min_size=1, max_size=12), ring=st.integers(1, 5))
def test_what_overruns_is_told_and_the_books_balance(delays: list[int], ring: int) -> None:
    clock = ManualClock()
    pool = Pool(1)
    expected = lost = 0
    with camera(clock, frames=60, ring_frames=ring, prepared_frames=2) as source:
        for late in delays + [0] * 200:
            clock.now_ns += late * FRAME_NS
            item = source.read(pool, 0.01)
            if item is None:
                continue
            assert item.sequence == expected
            expected += item.count if isinstance(item, Loss) else 1
            if isinstance(item, Loss):
                assert item.reason is Reason.OVERRUN
                lost += item.count
            else:
                assert clock.now_ns - item.monotonic_ns == 0
                item.release()
        assert source.ended
    assert expected == 60
    assert lost == 0 or sum(delays) > ring


def test_a_late_reader_within_the_ring_loses_nothing() -> None:
    clock = ManualClock()
    with camera(clock, frames=8, ring_frames=8) as source:
        clock.now_ns += 8 * FRAME_NS
        items = read_all(source)
    assert [type(i) for i in items] == [Frame] * 8


def test_a_full_pool_leaves_the_frame_with_the_camera() -> None:
    pool = Pool(1)
    with camera(frames=2, pace="free") as source:
        first = source.read(pool, 0.0)
        assert isinstance(first, Frame)
        assert source.read(pool, 0.0) is None
        first.release()
        second = source.read(pool, 0.0)
        assert isinstance(second, Frame)
        assert second.sequence == 1


def test_a_read_never_waits_longer_than_it_may() -> None:
    clock = ManualClock()
    with camera(clock, line_rate_hz=32.0) as source:  # one frame a second
        assert source.read(Pool(1), 0.25) is None
    assert clock.now_ns == 5_250_000_000


# ---------------------------------------------------------------- drills


def test_skipped_frames_leave_holes_and_nothing_else() -> None:
    with camera(frames=8, pace="free", skip_frames=[0, 3, 4, 7], counts_per_line=1) as source:
        frames = frames_of(read_all(source))
    assert [f.sequence for f in frames] == [1, 2, 5, 6]
    assert [f.encoder_count for f in frames] == [s * 32 for s in (1, 2, 5, 6)]


def test_a_dead_camera_comes_back_after_its_refusals_with_the_strip_moved_on() -> None:
    clock = ManualClock()
    pool = Pool(4)
    source = camera(clock, frames=20, die_at_frame=3, die_times=3)
    with source, pytest.raises(CameraError, match="dead at frame 3"):
        read_all(source)
    for _ in range(2):
        clock.now_ns += FRAME_NS
        with pytest.raises(CameraError, match="refuses"):
            source.__enter__()
    clock.now_ns += 2 * FRAME_NS
    with source:
        frames = frames_of(read_all(source, pool))
    assert frames[0].sequence == 0  # counts from 0 at every opening
    assert frames[0].encoder_count == 7 * 32  # the strip ran on
    assert frames[-1].encoder_count == 19 * 32


def test_at_free_pace_nothing_is_lost_by_dying() -> None:
    source = camera(frames=6, pace="free", die_at_frame=2)
    with source, pytest.raises(CameraError):
        read_all(source)
    with source:
        assert [f.encoder_count for f in frames_of(read_all(source))] == [64, 96, 128, 160]


def test_a_hanging_camera_says_nothing_until_it_is_opened_again() -> None:
    source = camera(frames=4, pace="free", hang_at_frame=2)
    pool = Pool(4)
    with source:
        assert [type(source.read(pool, 0.5)) for _ in range(4)] == [Frame, Frame, type(None), type(None)]
        assert not source.ended
    with source:
        assert len(read_all(source, pool)) == 2


def test_reading_a_closed_camera_is_an_error() -> None:
    with pytest.raises(CameraError, match="before it was opened"):
        camera().read(Pool(1), 0.0)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rates_per_m": {9: 1.0}}, "class 9"),
        ({"rates_per_m": {}, "defective_share": 0.5}, "all 0"),
        ({"height_px": 16, "defective_share": 0.5}, "20 lines"),
        ({"prepared_frames": 1, "defective_share": 0.5}, "prepared_frames"),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_opening(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_camera("lane", Options(**{**SMALL, **options}))


@pytest.mark.parametrize("raw", [{"sede": 1}, {"width_px": 3}, {"pace": "fast"}, {"defective_share": 1.5}])
def test_unknown_keys_and_wrong_values_are_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(raw, Options)


# ---------------------------------------------------------------- drills of motion and loss


def leg(at_frame: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"at_frame": at_frame, "kind": kind, **more}


def moving(*legs: dict[str, Any], **options: Any) -> SyntheticCamera:
    """A camera made from what would stand in the YAML."""
    raw = {**SMALL, "pace": "free", "frames": 12, "motion": list(legs), **options}
    return open_camera("lane", msgspec.convert(raw, Options))


def shots(source: SyntheticCamera) -> list[Frame]:
    with source:
        return frames_of(read_all(source))


def test_a_strip_that_moves_shows_what_lies_under_the_camera() -> None:
    legs = leg(2, "slow", share=0.5), leg(4, "stand"), leg(6, "run"), leg(8, "reverse"), leg(9, "run")
    frames = shots(moving(*legs, counts_per_line=2, first_encoder_count=100))
    straight = np.concatenate([f.pixels for f in shots(moving())])
    lines = [0, 32, 64, 80, 96, 96, 96, 128, 160, 128, 160, 192]
    assert [f.encoder_count for f in frames] == [100 + 2 * line for line in lines]
    assert [f.counts_per_line for f in frames] == [2, 2, 1, 1, 0, 0, 2, 2, -2, 2, 2, 2]
    for frame, line, rate in zip(frames, lines, [1, 1, 0.5, 0.5, 0, 0, 1, 1, -1, 1, 1, 1], strict=True):
        rows = [int(np.floor(line + rate * (row + 0.5))) for row in range(32)]
        np.testing.assert_array_equal(frame.pixels, straight[rows])


def test_an_encoder_that_jumps_leaves_the_pixels_alone() -> None:
    frames, straight = shots(moving(leg(3, "jump", counts=500), leg(5, "jump", counts=-900))), shots(moving())
    offs = [f.encoder_count - plain.encoder_count for f, plain in zip(frames, straight, strict=True)]
    assert offs == [0] * 3 + [500] * 2 + [-400] * 7
    assert [f.counts_per_line for f in frames] == [None] * 12
    for frame, plain in zip(frames, straight, strict=True):
        np.testing.assert_array_equal(frame.pixels, plain.pixels)


def frame_at(source: SyntheticCamera, position: int) -> Frame:
    with source:
        source.position = position
        got = source.read(Pool(1), 1.0)
    assert isinstance(got, Frame)
    return got


def test_an_endless_strip_moves_over_its_own_end() -> None:
    total = ENDLESS_FRAMES * 32
    end = np.concatenate([frame_at(moving(frames=0), ENDLESS_FRAMES + k).pixels for k in (-1, 0)])
    position = (total - 32) // 24 + 1  # 24 lines each from frame 1 on
    frame = frame_at(moving(leg(1, "slow", share=0.75), frames=0), position)
    line = 32 + (position - 1) * 24
    assert total - 24 < line < total
    rows = [int(np.floor(line + 0.75 * (row + 0.5))) - (total - 32) for row in range(32)]
    assert min(rows) < 32 <= max(rows)
    np.testing.assert_array_equal(frame.pixels, end[rows])


@pytest.mark.parametrize(
    ("legs", "options", "message"),
    [
        ([leg(3, "stand"), leg(3, "run")], {}, "later frame"),
        ([leg(2, "reverse")], {}, "beyond its head"),
        ([leg(20, "reverse")], {"frames": 0}, "beyond its head"),
        ([leg(2, "stand")], {"prepared_frames": 4}, "prepared_frames"),
    ],
)
def test_motion_that_cannot_be_is_refused(legs: list[dict[str, Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        moving(*legs, **options)


def test_a_strip_may_run_back_as_far_as_it_ran() -> None:
    assert [f.encoder_count for f in shots(moving(leg(4, "reverse"), leg(8, "run")))][4:9] == [128, 96, 64, 32, 0]


def test_lost_frames_say_why_and_packets_are_counted() -> None:
    lost = [{"at_frame": 2, "count": 3}, {"at_frame": 6, "reason": "failed"}, {"at_frame": 11, "count": 9}]
    source = moving(lost=lost)
    with source:
        seen = read_all(source)
    losses = [(item.sequence, item.count, item.reason) for item in seen if isinstance(item, Loss)]
    assert losses == [(2, 3, Reason.PACKETS), (6, 1, Reason.FAILED), (11, 1, Reason.PACKETS)]
    assert [f.sequence for f in frames_of(seen)] == [0, 1, 5, 7, 8, 9, 10]
    assert source.link.packets_lost == 4
    assert source.ended


def test_a_camera_that_counts_anew_begins_another_piece() -> None:
    frames = shots(moving(reset_at_frame=5))
    assert [f.sequence for f in frames] == list(range(12))
    assert [f.piece for f in frames] == [0] * 5 + [1] * 7
    assert [f.after for f in frames] == [None] * 5 + [Reason.RESET] + [None] * 6
