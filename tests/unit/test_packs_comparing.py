"""packs/comparing.py and sampling.py: what counts as a difference, when a bound is left, which frames are taken."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.config import PacksConfig
from inspector.packs.comparing import LATE_FRAMES, TIMED, Comparison, Difference, Lateness, alarms, too_late
from inspector.packs.pair import Patience
from inspector.packs.sampling import KEPT, ROOM, Album, Sample, Sampler
from inspector.records import Batch, Frame, Region, Roi, Verdict, Verdicts

BOUNDS = PacksConfig(alarm_factor=2.0, alarm_margin=0.02, time_factor=1.5, late_margin=0.05)


def verdict(*classes: int, area: int = 10, gate: float = 0.5, sequence: int = 0, digest: str = "") -> Verdict:
    frame = Frame("a", sequence, 0, 0, 0, np.full((4, 6), sequence % 256, dtype=np.uint8))
    mask = np.ones((2, 5), dtype=np.bool_)
    regions = [Region(number, 0, 0, mask, area, 0.9, needed_px=10) for number in classes]
    return Verdict(frame, Roi(0, 6), gate, regions, pack_digest=digest)


def compared(both: int = 0, only_old: int = 0, only_new: int = 0, neither: int = 0) -> Comparison:
    found = Comparison()
    for count, old, new in ((both, [1], [1]), (only_old, [1], []), (only_new, [], [1]), (neither, [], [])):
        for _ in range(count):
            found.add(verdict(*old), verdict(*new))
    return found


# ---------------------------------------------------------------- differences


def test_what_is_too_small_is_no_alarm() -> None:
    assert alarms(verdict(1, 2)) == {1, 2}
    assert alarms(verdict(1, area=9)) == set()


def test_each_difference_has_its_kind() -> None:
    found = Comparison()
    assert found.add(verdict(1), verdict(1, 1)) is None
    assert found.add(verdict(1), verdict(gate=0.1)) is Difference.ONLY_OLD
    assert found.add(verdict(), verdict(2)) is Difference.ONLY_NEW
    assert found.add(verdict(1), verdict(1, 2)) is Difference.CLASSES
    assert (found.frames, found.old_alarms, found.new_alarms) == (4, 3, 3)
    assert found.old_scores[5] == 4
    assert (found.new_scores[1], found.new_scores[5]) == (1, 3)
    assert found.score_change == pytest.approx(0.4)
    assert set(found.figures()) >= {"frames", "only_old", "only_new", "classes", "time_ratio"}
    assert "only the new on 1" in found.words()
    assert Comparison().words() == "no frame compared"


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (compared(both=10, neither=90), None),
        (compared(both=10, only_new=12, neither=78), None),  # 22 % is twice 10 % and the margin
        (compared(both=10, only_new=13, neither=77), "more than 22.0%"),
        (compared(only_new=2, neither=98), None),
        (compared(only_new=3, neither=97), "more than 2.0%"),
        (compared(both=3, only_old=7, neither=90), None),
        (compared(both=2, only_old=8, neither=90), "less than 3.0%"),
        (Comparison(), None),
    ],
)
def test_at_the_end_the_alarm_rate_is_taken_as_it_is(found: Comparison, words: str | None) -> None:
    reason = found.beyond(BOUNDS, done=True)
    assert reason is None if words is None else reason is not None and words in reason


def test_before_the_end_only_what_is_beyond_doubt_counts() -> None:
    assert compared(only_new=3, neither=20).beyond(BOUNDS, done=False) is None
    assert compared(only_new=1).beyond(BOUNDS, done=False) is None
    explodes = [compared(only_new=n).beyond(BOUNDS, done=False) for n in range(1, 30)]
    assert explodes.index(next(filter(None, explodes))) < 15, "a pack that alarms on every frame is known soon"


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_what_goes_back_early_would_go_back_at_the_end(both: int, old: int, new: int, neither: int) -> None:
    found = compared(both, old, new, neither)
    if found.beyond(BOUNDS, done=False) is not None:
        assert found.beyond(BOUNDS, done=True) is not None


def test_time_is_judged_by_the_same_frames_and_beyond_chance() -> None:
    found = compared(both=1)
    assert found.time_ratio is None
    for _ in range(TIMED - 1):
        found.time(0.010, 0.020)
    assert found.time_ratio == pytest.approx(2.0)
    assert found.beyond(BOUNDS, done=False) is None, "not enough frames yet"
    found.time(0.010, 0.020)
    assert "2.00 times as long" in (found.beyond(BOUNDS, done=False) or "")
    noisy = compared(both=1)
    for number in range(TIMED):
        noisy.time(0.010, 0.002 if number % 2 else 0.3)
    assert (noisy.time_ratio or 0) > BOUNDS.time_factor
    assert noisy.beyond(BOUNDS, done=True) is None, "that may be chance"
    cheap = compared(both=1)
    for _ in range(TIMED):
        cheap.time(0.010, 0.001)
    assert cheap.beyond(BOUNDS, done=True) is None


def test_late_frames_are_judged_against_those_before() -> None:
    before = Lateness(1000, 100)
    assert too_late(before, Lateness(1000, 150), BOUNDS, done=True) is None
    assert "16.0% of 1000 frames are later" in (too_late(before, Lateness(1000, 160), BOUNDS, done=True) or "")
    assert too_late(before, Lateness(1000, 160), BOUNDS, done=False) is None
    assert too_late(before, Lateness(1000, 900), BOUNDS, done=False) is not None
    assert too_late(before, Lateness(LATE_FRAMES - 1, LATE_FRAMES - 1), BOUNDS, done=True) is None
    assert too_late(Lateness(0, 0), Lateness(1000, 900), BOUNDS, done=True) is None
    assert Lateness(10, 4).since(Lateness(4, 3)) == Lateness(6, 1)
    both = Lateness(1000, 1900)  # late, and less deeply inspected as well
    assert "100.0% of 1000 frames" in (too_late(before, both, BOUNDS, done=False) or "")
    assert too_late(both, both, BOUNDS, done=False) is None


def test_patience_runs_out_only_while_frames_come() -> None:
    now = [0.0]
    patience = Patience(10.0, lambda: now[0])
    now[0] = 100.0
    assert not patience.over(0), "the strip stood"
    now[0] = 109.0
    assert not patience.over(5)
    now[0] = 200.0
    assert not patience.over(5)
    now[0] = 202.0
    assert patience.over(6)


# ---------------------------------------------------------------- sampling


def offered(sampler: Sampler, *sequences: int) -> None:
    verdicts = [verdict(sequence=sequence) for sequence in sequences]
    frames = [each.frame for each in verdicts]
    sampler.offer(Batch(0, frames, [Roi(0, 6)] * len(frames), []), Verdicts(0, verdicts))
    for frame in frames:
        frame.pixels[:] = 255  # the slot is used again


@pytest.mark.parametrize(("share", "taken"), [(1.0, [0, 1, 2, 3, 4, 5]), (0.5, [1, 3, 5]), (1 / 3, [2, 5])])
def test_every_so_manieth_frame_is_taken_with_pixels_of_its_own(share: float, taken: list[int]) -> None:
    sampler = Sampler(share)
    offered(sampler, 0, 1)
    offered(sampler, 2, 3, 4)
    offered(sampler, 5)
    found = sampler.waiting.take(10)
    assert [sample.frame.sequence for sample in found] == taken
    assert [int(sample.frame.pixels[0, 0]) for sample in found] == taken
    assert sampler.passed == 6


def test_without_room_frames_are_left_out_and_counted() -> None:
    left: list[int] = []
    sampler = Sampler(1.0, left.append)
    for number in range(ROOM + 3):
        offered(sampler, number)
    assert [sample.frame.sequence for sample in sampler.waiting.take(100)] == list(range(ROOM))
    assert sampler.skipped == sum(left) == 3


def test_differing_frames_are_written_so_many_at_most(tmp_path: Path) -> None:
    album = Album(tmp_path / "samples", "new", most=2)
    for sequence in (7, 8, 9):
        old, new = verdict(1, sequence=sequence, digest="sha256:old"), verdict(sequence=sequence, digest="sha256:new")
        album.add(Sample(old.frame, old.roi, old), Difference.ONLY_OLD, old, new)
    album.close({"outcome": "refused"})
    names = sorted(path.name for path in album.folder.iterdir())
    assert names == [
        *("only_old-a-7.json", "only_old-a-7.png", "only_old-a-8.json", "only_old-a-8.png"),
        "outcome.json",
    ]
    picture = cv2.imread(str(album.folder / "only_old-a-7.png"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    assert np.array_equal(picture, np.full((4, 6), 7))
    told = json.loads((album.folder / "only_old-a-7.json").read_text())
    assert (told["frame_sequence"], told["difference"]) == (7, "only_old")
    assert (told["old"]["pack_digest"], told["new"]["pack_digest"]) == ("sha256:old", "sha256:new")
    assert [region["class_number"] for region in told["old"]["regions"]] == [1]


def test_samples_of_old_changes_go(tmp_path: Path) -> None:
    for number in range(KEPT + 2):
        (tmp_path / f"20200101T0000{number:02d}Z-x").mkdir()
    Album(tmp_path, "new", most=1).close({})
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == KEPT
    assert left[-1].endswith("-new")


def test_a_disk_that_refuses_costs_the_pictures_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "samples").write_text("a file stands in the way")
    album = Album(tmp_path / "samples", "new", most=9)
    for _ in range(3):
        album.add(Sample(verdict().frame, Roi(0, 6), verdict()), Difference.ONLY_NEW, verdict(), verdict(1))
    album.close({})
    assert caplog.text.count("no samples are written") == 1
