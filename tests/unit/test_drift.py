"""drift.py and baselines.py: each change is told once when it comes and once when it goes, and chance never is.

Frames are drawn at random; only the verdicts that the watch sees are made here, the rest is the daemon's own."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspector import pack
from inspector.baselines import PACKS, Baselines
from inspector.census import Census, total
from inspector.config import DriftConfig
from inspector.drift import AS_USUAL, OFF, PIECES, Drift, Yardstick, compare, count
from inspector.events import Depth
from inspector.metrics import Metrics
from inspector.pack import Pack
from inspector.records import Frame, Region, Roi, Sight, Verdict, Verdicts
from tests.packs import add_reference, make_pack

WINDOW, WINDOWS = 400, 3
LEARNT = WINDOW * WINDOWS
QUICK = DriftConfig(window_frames=WINDOW, learn_windows=WINDOWS)
REFERRED = DriftConfig(window_frames=WINDOW, learn_windows=None)


@dataclass(frozen=True)
class Strip:
    """How frames are drawn: brightness and gate scores from bell curves, of the latter a share from high ones."""

    grey: float = 90.0
    score: float = 0.03
    defective: float = 0.05
    found: float = 0.8
    """Of the defective frames."""

    def verdicts(self, count: int, seed: int = 1) -> Iterator[Verdict]:
        rng = np.random.default_rng(seed)
        for number in range(count):
            defective = rng.random() < self.defective
            score = rng.uniform(0.6, 1) if defective else min(0.4, self.score * rng.lognormal(0, 0.6))
            pixels = np.full((16, 8), np.clip(self.grey * rng.lognormal(0, 0.1), 0, 255), dtype=np.uint8)
            verdict = Verdict(Frame("a", number, number, 0, number, pixels), Roi(0, 8), float(score))
            verdict.passed = verdict.gate_score >= 0.5
            if defective and rng.random() < self.found:
                verdict.regions.append(Region(1, 0, 0, np.ones((2, 2), dtype=np.bool_), 4, 0.9, needed_px=4))
            yield verdict


USUAL = Strip()
CHANGED = {
    "gate_score": replace(USUAL, score=0.06),
    "brightness": replace(USUAL, grey=78.0),
    "passed": replace(USUAL, defective=0.3, found=0.8 / 6),
    "alarmed": replace(USUAL, found=0.0),
}
"""Each changes its own measure, and the gate's scores with what passes the gate."""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return pack.load(make_pack(tmp_path_factory.mktemp("pack") / "bands"))


@pytest.fixture(scope="module")
def referred(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The same with a reference of usual strip."""
    folder = make_pack(tmp_path_factory.mktemp("pack") / "bands")
    return pack.load(add_reference(folder, census_of(USUAL.verdicts(5000, seed=99))))


def census_of(verdicts: Iterable[Verdict]) -> Census:
    census = Census()
    for verdict in verdicts:
        count(census, verdict)
    return census


@dataclass
class Watch:
    """A watch over camera `a`, and what it told."""

    drift: Drift
    metrics: Metrics
    duty: list[Pack]
    """The pack on duty."""

    def see(self, verdicts: Iterable[Verdict]) -> list[tuple[int, Sight]]:
        """(how many frames had been seen, what was told)."""
        told = []
        for number, verdict in enumerate(verdicts, start=1):
            verdict.pack_digest = self.duty[0].digest
            self.drift.see(Verdicts(0, [verdict]))
            told += [(number, sight) for sight in verdict.drifts]
        return told

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"inspector_{name}", {"camera": "a", **labels})


Watching = Callable[..., Watch]


@pytest.fixture
def watching(tmp_path: Path, engines: Pack) -> Watching:
    """watching(config, engines, file): a line that starts."""

    def begin(config: DriftConfig = QUICK, own: Pack = engines, file: Path = tmp_path / "line.drift.json") -> Watch:
        metrics = Metrics(process=False)
        known = Baselines(file, config.window_frames, metrics.drift_unsaved.inc)
        duty = [own]
        return Watch(Drift(config, lambda: duty[0], ["a"], known, metrics), metrics, duty)

    return begin


def states(told: list[tuple[int, Sight]]) -> list[str]:
    return [state for _, (state, _) in told]


# ---------------------------------------------------------------- what is told


def test_chance_is_never_told(watching: Watching) -> None:
    """100 windows, which are 800 looks at each of four measures: less than 0.004 would be told of independent ones."""
    watch = watching()
    assert watch.see(USUAL.verdicts(LEARNT + 100 * WINDOW, seed=5)) == []
    assert watch.value("drift_learnt_ratio") == 1
    assert 0 < (watch.value("drift_psi", measure="brightness", against="own") or 0) < 0.25


@pytest.mark.parametrize("measure", OFF)
def test_a_change_is_told_when_it_comes_and_when_it_goes(watching: Watching, measure: str) -> None:
    bounds: dict[str, Any] = {name: None for name in OFF if name != measure}
    watch = watching(DriftConfig(window_frames=WINDOW, learn_windows=WINDOWS, **bounds))
    assert watch.see(USUAL.verdicts(LEARNT + WINDOW)) == []
    told = watch.see(CHANGED[measure].verdicts(3 * WINDOW, seed=2))
    assert states(told) == [OFF[measure]]
    assert told[0][0] <= WINDOW
    assert "the camera's first 1,200" in told[0][1][1]
    assert "; look at " in told[0][1][1]
    assert watch.value("drift_state", measure=measure) == 1
    assert watch.value("drift_warnings_total", measure=measure) == 1
    told = watch.see(USUAL.verdicts(3 * WINDOW, seed=3))
    assert [(state, detail.partition(":")[0]) for _, (state, detail) in told] == [
        (AS_USUAL, f"no longer {OFF[measure]}")
    ]
    assert told[0][0] <= WINDOW
    assert watch.value("drift_state", measure=measure) == 0
    assert watch.value("drift_warnings_total", measure=measure) == 1


def test_what_is_not_watched_is_not_told(watching: Watching) -> None:
    bounds: dict[str, Any] = dict.fromkeys(OFF, None)
    watch = watching(DriftConfig(window_frames=WINDOW, learn_windows=WINDOWS, **bounds))
    for strip in (USUAL, *CHANGED.values()):
        assert watch.see(strip.verdicts(LEARNT)) == []
    assert (watch.value("drift_psi", measure="brightness", against="own") or 0) > 0.01


def test_the_newest_event_is_true(watching: Watching) -> None:
    """Two are off; one comes back, and the other is named again with what has ended."""
    watch = watching()
    watch.see(USUAL.verdicts(LEARNT + WINDOW))
    dim = replace(CHANGED["passed"], grey=78.0)
    assert set(states(watch.see(dim.verdicts(2 * WINDOW, seed=2)))) == {OFF[m] for m in OFF if m != "alarmed"}
    told = watch.see(CHANGED["passed"].verdicts(2 * WINDOW, seed=3))
    assert states(told) == [OFF["gate_score"]]
    assert "no longer off in brightness" in told[0][1][1]
    assert "; still off in gate scores: " in told[0][1][1]


def test_a_line_of_several_steels_learns_that_it_has_them(watching: Watching) -> None:
    """They come coil by coil, each far from the others: what was usual while it learnt is no drift later."""
    watch = watching(DriftConfig(window_frames=WINDOW, learn_windows=8))
    steels = [USUAL, replace(USUAL, grey=60.0, score=0.1, defective=0.3), replace(USUAL, grey=130.0)]
    coils = [list(itertools.islice(steel.verdicts(300, seed=number), 300)) for number, steel in enumerate(steels * 20)]
    assert watch.see(itertools.chain.from_iterable(coils)) == []
    assert watch.value("drift_learnt_ratio") == 1
    assert states(watch.see(replace(USUAL, grey=20.0).verdicts(WINDOW, seed=7))) == [OFF["brightness"]]


def test_frames_without_strip_or_of_strip_that_stands_are_left_out(watching: Watching) -> None:
    watch = watching()
    for verdict in USUAL.verdicts(LEARNT * 2):
        verdict.roi = Roi(0, 0)
        watch.see([verdict])
    for verdict in USUAL.verdicts(LEARNT * 2):
        verdict.frame.counts_per_line = 0
        watch.see([verdict])
    assert watch.value("drift_learnt_ratio") == 0
    assert watch.value("drift_frames_ratio", measure="passed") is None


def test_what_overload_leaves_out_is_no_change_of_the_alarm_rate(watching: Watching) -> None:
    """Nobody knows whether frames show a defect that were not inspected in full; that they pass the gate is known."""
    watch = watching()
    watch.see(USUAL.verdicts(LEARNT + WINDOW))
    hasty = replace(USUAL, found=0.0, defective=0.3)
    busy = list(hasty.verdicts(2 * WINDOW, seed=2))
    for verdict in busy[: int(1.8 * WINDOW)]:
        verdict.depth = Depth.GATE
    assert set(states(watch.see(busy[:WINDOW]))) == {OFF["passed"], OFF["gate_score"]}
    assert watch.value("drift_frames_ratio", measure="alarmed") is None
    assert watch.value("drift_times_ratio", measure="passed", against="own") is not None
    assert watch.see(busy[WINDOW:]) == []
    assert states(watch.see(hasty.verdicts(WINDOW, seed=3))) == [OFF["alarmed"]]


def counted(frames: int, brighter: float = 0.0, alarmed: float = 0.0, full: float = 1.0) -> Census:
    """So many frames of two greys, shares of them brighter, alarmed and inspected in full."""
    bright = [0] * 32
    bright[10], bright[20] = frames - round(frames * brighter), round(frames * brighter)
    scores = [frames, *[0] * 19]
    alarms, known = round(frames * alarmed), round(frames * full)
    return Census(frames=frames, gate_scores=scores, brightness=bright, full=known, alarmed=alarms)


@pytest.mark.parametrize(
    ("frames", "brighter", "beyond", "back"),
    [(10**6, 0.5, True, False), (10**6, 0.32, False, False), (10**6, 0.2, False, True), (100, 0.5, False, True)],
    ids=["beyond", "between", "within", "few frames"],
)
def test_a_limit_is_left_at_half_of_it_and_few_frames_reach_none(
    frames: int, brighter: float, beyond: bool, back: bool
) -> None:
    yardstick = Yardstick(counted(frames, brighter=0.15), "the reference")
    found = compare("brightness", counted(frames, brighter), yardstick, QUICK)
    assert found is not None
    assert found[:2] == (beyond, back), found[2]


@pytest.mark.parametrize(("full", "judged"), [(1.0, True), (0.91, True), (0.89, False), (0.0, False)])
def test_an_alarm_rate_that_is_known_of_too_few_frames_is_not_judged(full: float, judged: bool) -> None:
    rare, often = counted(10**6, alarmed=0.01), counted(10**6, alarmed=0.1 * full, full=full)
    for window, usual in ((often, rare), (rare, often)):
        found = compare("alarmed", window, Yardstick(usual, "the reference"), QUICK)
        assert (found is not None and found[0]) == judged


def test_batches_change_nothing(watching: Watching, tmp_path: Path) -> None:
    told = []
    for size in (1, 7, 64):
        watch = watching(file=tmp_path / f"{size}.json")
        verdicts = [*USUAL.verdicts(LEARNT + WINDOW), *CHANGED["brightness"].verdicts(WINDOW, seed=2)]
        for verdict in verdicts:
            verdict.pack_digest = watch.duty[0].digest
        for first in range(0, len(verdicts), size):
            watch.drift.see(Verdicts(0, verdicts[first : first + size]))
        told.append([(number, verdict.drifts) for number, verdict in enumerate(verdicts) if verdict.drifts])
    assert told[0]
    assert told[0] == told[1] == told[2]


# ---------------------------------------------------------------- what it is measured from


def test_the_packs_reference_is_shown_and_told_only_where_nothing_is_learnt(watching: Watching, referred: Pack) -> None:
    """What a pack was made on is not this line: that is a figure, no alarm."""
    other = CHANGED["brightness"]
    learning = watching(own=referred)
    assert learning.see(other.verdicts(LEARNT + 2 * WINDOW)) == []
    assert (learning.value("drift_psi", measure="brightness", against="pack") or 0) > 0.25
    assert (learning.value("drift_psi", measure="brightness", against="own") or 1) < 0.25
    told = watching(REFERRED, referred).see(other.verdicts(2 * WINDOW))
    assert states(told) == [OFF["brightness"]]
    assert told[0][0] == WINDOW
    assert "from the pack's reference" in told[0][1][1]
    assert watching(REFERRED, referred).see(USUAL.verdicts(20 * WINDOW, seed=4)) == []


def test_without_any_reference_nothing_is_told_and_that_is_said_once(
    watching: Watching, engines: Pack, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "inspector"):
        watch = watching(REFERRED, engines)
        assert watch.see([*USUAL.verdicts(WINDOW * 2), *CHANGED["brightness"].verdicts(WINDOW * 2)]) == []
    (record,) = caplog.records
    assert record.getMessage() == (
        "pack bands 1 has no reference to compare frames with; nothing is learnt either (drift.learn_windows), so "
        "drift is not watched. `python -m build_engines reference` makes one"
    )
    assert watch.value("drift_learnt_ratio") is None
    assert (watch.value("drift_frames_ratio", measure="passed") or 0) > 0


def test_learning_goes_on_over_restarts(watching: Watching) -> None:
    frames = USUAL.verdicts(LEARNT + WINDOW)
    for learnt in range(1, WINDOWS + 1):
        watch = watching()
        assert watch.see(itertools.islice(frames, WINDOW)) == []
        assert watch.value("drift_learnt_ratio") == pytest.approx(learnt / WINDOWS)
        watch.drift.baselines.close()
    again = watching()
    assert again.value("drift_learnt_ratio") == 1
    assert states(again.see(CHANGED["brightness"].verdicts(WINDOW, seed=2))) == [OFF["brightness"]]


def test_another_pack_is_learnt_anew_and_the_old_one_finds_its_own(
    watching: Watching, engines: Pack, referred: Pack
) -> None:
    watch = watching()
    watch.see(USUAL.verdicts(LEARNT))
    assert states(watch.see(CHANGED["gate_score"].verdicts(WINDOW, seed=2))) == [OFF["gate_score"]]
    watch.duty[0] = referred
    told = watch.see(CHANGED["gate_score"].verdicts(WINDOW - 1, seed=3))
    assert told == [(1, (AS_USUAL, "another pack judges: its frames are counted anew"))]
    assert watch.value("drift_state", measure="gate_score") == 0
    assert watch.value("drift_learnt_ratio") == 0
    assert watch.value("drift_psi", measure="gate_score", against="own") is None
    assert watch.value("drift_psi", measure="gate_score", against="pack") is not None
    for verdict in USUAL.verdicts(WINDOW):  # of the pack that was on duty before, and may still be on their way
        verdict.pack_digest = engines.digest
        watch.drift.see(Verdicts(0, [verdict]))
    assert watch.value("drift_learnt_ratio") == 0
    assert watch.see(CHANGED["gate_score"].verdicts(LEARNT + WINDOW, seed=4)) == []
    assert watch.value("drift_learnt_ratio") == 1
    watch.duty[0] = engines
    assert states(watch.see(CHANGED["gate_score"].verdicts(WINDOW, seed=2))) == [OFF["gate_score"]]


def test_a_census_of_the_cascade_counts_what_is_reported(engines: Pack) -> None:
    verdict = next(iter(Strip(grey=51.0, defective=1.0, found=1.0).verdicts(1)))
    verdict.frame.pixels[:] = 51
    verdict.frame.pixels[:, 6:] = 0  # beyond the strip
    verdict.roi = Roi(0, 6)
    census = Census()
    count(census, verdict)
    verdict.regions[0].needed_px = 5  # only kept as it may go on in the next frame
    verdict.passed = False
    count(census, verdict)
    assert (census.frames, census.passed, census.alarmed) == (2, 1, 1)
    expected = Census()
    expected.add(0.0, 0.2, False, False)
    assert [n // 2 for n in census.brightness] == expected.brightness


# ---------------------------------------------------------------- the file


def test_what_was_learnt_is_the_sum_of_its_windows(tmp_path: Path) -> None:
    file = tmp_path / "line.drift.json"
    windows = [census_of(USUAL.verdicts(WINDOW, seed=seed)) for seed in range(3)]
    known = Baselines(file, WINDOW)
    for window in windows:
        known.learn("sha256:1", "a", window)
    known.learn("sha256:1", "b", windows[0])
    known.save()
    again = Baselines(file, WINDOW)
    assert list(again.of("sha256:1", "a")) == windows
    assert total(again.of("sha256:1", "a")).frames == LEARNT
    assert list(again.of("sha256:1", "b")) == windows[:1]
    assert list(again.of("sha256:2", "a")) == []


def test_the_baselines_of_few_packs_are_kept(tmp_path: Path) -> None:
    known = Baselines(tmp_path / "f.json", WINDOW)
    window = census_of(USUAL.verdicts(WINDOW))
    for number in range(PACKS + 1):
        known.learn(str(number), "a", window)
        known.learn("first", "a", window)
    assert len(known.of("first", "a")) == PACKS + 1
    assert [len(known.of(str(number), "a")) for number in range(PACKS + 1)] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda file: file.write_text(file.read_text()[:-9]), "cannot be read"),
        (lambda file: file.write_text(file.read_text().replace('"frames":400', '"frames":401')), "add up to frames"),
        (lambda file: file.write_text(file.read_text().replace('"version":1', '"version":2')), "version 2"),
        (
            lambda file: file.write_text(file.read_text().replace('window_frames":400', 'window_frames":80')),
            "80 frames",
        ),
        (lambda file: (file.unlink(), file.mkdir()), "cannot be read"),
    ],
    ids=["torn", "altered", "version", "windows", "folder"],
)
def test_a_file_that_is_not_its_own_is_told_and_learnt_anew(
    tmp_path: Path, spoil: Callable[[Path], object], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "line.drift.json"
    known = Baselines(file, WINDOW)
    known.learn("sha256:1", "a", census_of(USUAL.verdicts(WINDOW)))
    known.save()
    spoil(file)
    assert list(Baselines(file, WINDOW).of("sha256:1", "a")) == []
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{file}: ")
    assert word in record.getMessage()
    assert "What is usual is learnt anew" in record.getMessage()


def test_a_full_disk_is_told_once_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failures: list[int] = []
    known = Baselines(tmp_path / "no folder yet" / "f.json", WINDOW, lambda: failures.append(1))
    known.learn("sha256:1", "a", census_of(USUAL.verdicts(WINDOW)))
    known.save()
    known.save()
    assert len(failures) == 2
    assert len(caplog.records) == 1
    (tmp_path / "no folder yet").mkdir()
    known.save()
    known.save()
    assert len(failures) == 2
    assert [path.name for path in (tmp_path / "no folder yet").iterdir()] == ["f.json"]


def test_a_window_is_made_of_whole_pieces() -> None:
    assert WINDOW % PIECES == 0
