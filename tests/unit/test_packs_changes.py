"""packs/changes.py and trial.py: a change from the wish to its end, on real networks; every way for it to go back."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspector import pack
from inspector.config import Config, PacksConfig, convert
from inspector.engines import Duty, Engines
from inspector.errors import PackError, TelegramError
from inspector.metrics import Metrics, PackPhase
from inspector.packs.begin import begin
from inspector.packs.changes import Changes
from inspector.packs.comparing import Lateness
from inspector.packs.store import Store
from inspector.records import Batch, Frame, Roi, Tile
from inspector.stages import CascadeStage
from tests import networks
from tests.packs import TILE, make_pack, paint

HEIGHT, WIDTH = TILE
PATIENCE_S = 60.0
QUICK = {"shadow_frames": 4, "watch_frames": 4, "watch_s": 0, "shadow_share": 1.0, "time_factor": 1e6}
MANY = 100_000_000


@dataclass
class Line:
    """What a change needs of the line."""

    late: Lateness = field(default_factory=lambda: Lateness(0, 0))
    held_up: bool = False
    said: list[tuple[str, str]] = field(default_factory=list)
    on_duty: list[str] = field(default_factory=list)

    def busy(self) -> bool:
        return self.held_up

    def lateness(self) -> Lateness:
        return self.late

    def engaged(self, engines: Engines) -> None:
        self.on_duty.append(engines.pack.manifest.version)

    def tell(self, state: str, detail: str) -> None:
        self.said.append((state, detail))

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.said]


class Bench:
    """A duty with one worker, which is this thread, and the thread of changes."""

    def __init__(self, folder: Path, base: Path, **bounds: Any) -> None:
        self.config = convert(
            {
                "line": {"name": "hot"},
                "pack": str(base),
                "cameras": [{"name": "a", "kind": "synthetic"}],
                "journal": {"path": str(folder / "j.db")},
                "runtime": {"options": {"workers": 1}},
                "packs": {**QUICK, **bounds},
            },
            Config,
        )
        self.folder = folder
        self.store = Store(self.config.packs_folder, "hot")
        self.line = Line()
        self.metrics = Metrics(process=False)
        self.duty = Duty(Engines.of(begin(self.config, self.store).pack, self.config.runtime))
        self.changes = self._changes()
        self.numbers = itertools.count()
        self.judged: list[str] = []

    def _changes(self) -> Changes:
        begun = begin(self.config, self.store)
        return Changes(self.config, self.duty, self.store, begun, self.line, self.metrics)

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        self.changes.open()
        thread = threading.Thread(target=self.changes.serve, args=(stop,))
        with self.duty:
            thread.start()
            try:
                with CascadeStage(self.duty, 3, self.metrics, self.changes.tap) as self.stage:
                    yield
            finally:
                stop.set()
                thread.join(PATIENCE_S)
                assert not thread.is_alive()
                self.changes.close()

    def frame(self, defect: int = 0) -> None:
        """One frame through the worker."""
        pixels = np.full(TILE, 90, dtype=np.uint8)
        if defect:
            paint(pixels, defect, 8, 10, 6, 9)
        number = next(self.numbers)
        made = Frame("a", number, 0, 0, number * HEIGHT, pixels)
        (found,) = self.stage.work(Batch(number, [made], [Roi(0, WIDTH)], [Tile(0, 0, 0, pixels)]))
        self.judged.append(found.verdicts[0].pack_digest)

    def until(self, true: Callable[[], object], defect: int = 1) -> None:
        """Frames go through until something is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, (self.line.said, self.changes.status())
            self.frame(defect)

    def over(self) -> str:
        """What became of the change, once it is over."""
        self.until(lambda: self.changes.status().last and self.phase is PackPhase.IDLE)
        return self.changes.status().last

    @property
    def phase(self) -> PackPhase:
        return PackPhase(self.changes.status().phase)

    def stage_pack(self, folder: Path) -> None:
        self.changes.stage(self.store.stage(folder).name, "me")

    def counted(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("inspector_pack_changes_total", {"outcome": outcome})


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("old") / "bands")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("new") / "bands", version="2")


# ---------------------------------------------------------------- it stays


def test_it_is_compared_swapped_watched_and_kept(tmp_path: Path, old: Path, new: Path) -> None:
    bench = Bench(tmp_path, old)
    with bench.running():
        bench.stage_pack(new)
        with pytest.raises(TelegramError, match="is under way"):
            bench.stage_pack(new)
        assert bench.over().startswith("kept: bands 2")
        bench.frame()
        status = bench.changes.status()
        assert (status.on_duty.version, status.previous) == ("2", str(old))
    assert bench.line.states == ["shadow", "swapped", "kept"]
    assert bench.line.on_duty == ["2"]
    assert bench.judged[0] == pack.load(old).digest
    assert bench.judged[-1] == pack.load(new).digest
    assert sorted(set(bench.judged), key=bench.judged.index) == [pack.load(old).digest, pack.load(new).digest]
    assert bench.counted("kept") == 1
    again = begin(bench.config, bench.store)
    assert (again.pack.manifest.version, again.said) == ("2", [])


def test_what_was_before_comes_back_at_once_when_it_is_wanted(tmp_path: Path, old: Path, new: Path) -> None:
    bench = Bench(tmp_path, old, shadow_frames=0, watch_frames=0)
    with bench.running():
        with pytest.raises(TelegramError, match="no pack was on duty before"):
            bench.changes.rollback("me")
        bench.stage_pack(new)
        bench.over()
        bench.changes.rollback("me")
        bench.until(lambda: bench.line.states.count("kept") == 2)
    assert bench.line.states == ["swapped", "kept", "swapped", "kept"]
    memory = bench.store.recall()
    assert memory is not None
    assert (memory.on_duty, memory.previous) == (None, str(bench.store.packs()[0]))


def test_what_lies_there_now_instead_of_what_was_before_does_not_come_untried(
    tmp_path: Path, old: Path, new: Path
) -> None:
    base = shutil.copytree(old, tmp_path / "base")
    bench = Bench(tmp_path, base, shadow_frames=0, watch_frames=0)
    with bench.running():
        bench.stage_pack(new)
        bench.over()
        make_pack(base, version="3")  # as an upgrade of the program does
        bench.changes.rollback("me")
        bench.until(lambda: bench.line.states[-1] == "refused")
    assert "is another pack now than the one that was on duty before: stage it" in bench.line.said[-1][1]
    assert bench.duty.current.pack.manifest.version == "2"


def test_while_others_change_what_is_on_duty_it_waits(tmp_path: Path, old: Path, new: Path) -> None:
    bench = Bench(tmp_path, old, shadow_frames=0, watch_frames=0)
    with bench.running():
        with bench.duty.changing:
            bench.stage_pack(new)
            bench.until(lambda: bench.phase is PackPhase.LOADING and bench.changes._wish is None)
            for _ in range(20):
                bench.frame()
            assert bench.store.recall() is None, "not even begun"
        assert bench.over().startswith("kept")


def test_what_was_staged_before_the_start_is_taken_up_once(tmp_path: Path, old: Path, new: Path) -> None:
    bench = Bench(tmp_path, old, shadow_frames=0, watch_frames=0)
    bench.store.mark(bench.store.stage(new))
    with bench.running():
        assert bench.over().startswith("kept: bands 2")
    assert bench.store.marked() is None


# ---------------------------------------------------------------- it goes back


def test_one_that_does_not_fit_needs_a_restart(tmp_path: Path, old: Path) -> None:
    bench = Bench(tmp_path, old)
    with bench.running():
        bench.stage_pack(make_pack(tmp_path / "other", tile=(32, 32)))
        assert "tiles of 32 x 32 px, but the line runs with 32 x 64: this needs a restart" in bench.over()
        fewer = make_pack(tmp_path / "fewer", classes=3)
        bench.stage_pack(fewer)
        bench.until(lambda: "the classes 1 class1, 2 class2, 3 class3, but" in bench.changes.status().last)
        bench.stage_pack(old)
        bench.until(lambda: "it is on duty already" in bench.changes.status().last)
    assert bench.line.states == ["refused"] * 3
    assert bench.duty.current.pack.manifest.version == "1"


def test_one_that_does_not_load_is_refused(tmp_path: Path, old: Path) -> None:
    torn = make_pack(tmp_path / "torn", version="2")
    networks.swap(torn, "types", b"no network")
    bench = Bench(tmp_path, old)
    with bench.running():
        bench.stage_pack(torn)
        assert "cannot load network types" in bench.over()
    assert bench.line.states == ["refused"]


def test_a_network_that_fails_in_the_shadow_is_refused(tmp_path: Path, old: Path) -> None:
    bad = make_pack(tmp_path / "bad", version="2")
    networks.swap(bad, "gate", networks.failing_gate(TILE, 200))
    bench = Bench(tmp_path, old)
    with bench.running():
        bench.stage_pack(bad)
        assert "network gate failed" in bench.over()
    assert bench.line.states == ["shadow", "refused"]
    assert set(bench.judged) == {pack.load(old).digest}


def test_a_network_that_fails_on_duty_gives_way_at_once(tmp_path: Path, old: Path) -> None:
    bad = make_pack(tmp_path / "bad", version="2")
    networks.swap(bad, "gate", networks.failing_gate(TILE, 200))
    bench = Bench(tmp_path, old, shadow_frames=0, watch_frames=MANY)
    with bench.running():
        bench.stage_pack(bad)
        bench.until(lambda: bench.phase is PackPhase.WATCH, defect=0)
        bench.frame(defect=3)
        assert bench.judged[-1] == pack.load(old).digest, "the frame it failed on is judged by the old one"
        assert "network gate failed" in bench.over()
    assert bench.line.states == ["swapped", "rolled back"]
    assert bench.line.on_duty == ["2", "1"]


def test_one_that_alarms_on_everything_goes_back_after_the_swap(tmp_path: Path) -> None:
    quiet = make_pack(tmp_path / "quiet", classes=1, level=250)
    loud = make_pack(tmp_path / "loud", classes=1, level=0, version="2")
    bench = Bench(tmp_path, quiet, shadow_frames=0, watch_frames=MANY)
    with bench.running():
        bench.stage_pack(loud)
        assert "rolled_back: bands 2" in bench.over()
        assert "it alarms on 100.0%" in bench.changes.status().last
    assert bench.line.states == ["swapped", "rolled back"]
    assert begin(bench.config, bench.store).pack.manifest.version == "1"


def test_frames_that_become_late_send_it_back(tmp_path: Path, old: Path, new: Path) -> None:
    bench = Bench(tmp_path, old, shadow_frames=0, watch_frames=MANY)
    bench.line.late = Lateness(1000, 0)
    with bench.running():
        bench.stage_pack(new)
        bench.until(lambda: bench.phase is PackPhase.WATCH)
        bench.line.held_up = True  # so busy that nothing can be compared
        bench.line.late = Lateness(2000, 900)
        assert "later than line.deadline_ms" in bench.over()
    assert bench.line.states == ["swapped", "rolled back"]


@pytest.mark.parametrize("phase", [PackPhase.SHADOW, PackPhase.WATCH])
def test_it_is_cancelled_in_every_phase(tmp_path: Path, old: Path, new: Path, phase: PackPhase) -> None:
    frames = MANY if phase is PackPhase.SHADOW else 0
    bench = Bench(tmp_path, old, shadow_frames=frames, watch_frames=MANY)
    with bench.running():
        with pytest.raises(TelegramError, match="no change of the pack is under way"):
            bench.changes.cancel("me")
        bench.stage_pack(new)
        bench.until(lambda: bench.phase is phase)
        with pytest.raises(TelegramError, match="is under way"):
            bench.changes.reload(bench.config.packs, new)
        if phase is PackPhase.WATCH:
            bench.changes.rollback("me")
        else:
            with pytest.raises(TelegramError, match="no pack was on duty before"):
                bench.changes.rollback("me")
            bench.changes.cancel("me")
        assert "cancelled by me" in bench.over()
    assert bench.line.states[-1] == ("cancelled" if phase is PackPhase.SHADOW else "rolled back")
    assert bench.duty.current.pack.manifest.version == "1"


def test_a_line_without_a_moment_to_spare_does_not_try_for_ever(tmp_path: Path, old: Path, new: Path) -> None:
    bench = Bench(tmp_path, old, shadow_frames=MANY, patience_s=0.01)
    bench.line.held_up = True
    with bench.running():
        bench.stage_pack(new)
        assert "0 of 100000000 frames could be compared in 0.01 s" in bench.over()
    skipped = bench.metrics.registry.get_sample_value("inspector_pack_skipped_frames_total")
    assert skipped is not None


def test_the_end_of_the_line_cuts_it_short(tmp_path: Path, old: Path, new: Path) -> None:
    bench = Bench(tmp_path, old, shadow_frames=MANY)
    with bench.running():
        bench.stage_pack(new)
        bench.until(lambda: bench.changes.status().compared)
    assert [state for state, _ in begin(bench.config, bench.store).said] == ["cut short"]


def test_a_bug_in_a_change_leaves_the_line_alone(
    tmp_path: Path, old: Path, new: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, old)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(pack, "check_fit", broken)
    with bench.running():
        bench.stage_pack(new)
        assert "a bug" in bench.over()
        assert "ZeroDivisionError" in caplog.text
        monkeypatch.undo()
        bench.stage_pack(new)
        bench.until(lambda: bench.line.states[-1] == "kept")


# ---------------------------------------------------------------- the YAML is read again


def test_what_the_yaml_names_now_is_tried(tmp_path: Path, old: Path, new: Path) -> None:
    base = shutil.copytree(old, tmp_path / "base")
    bench = Bench(tmp_path, base, shadow_frames=0, watch_frames=0)
    bounds = PacksConfig(shadow_frames=0, watch_frames=0, watch_s=0)
    with bench.running():
        assert bench.changes.reload(bounds, base) is None
        assert bench.changes.reload(bounds, new) == f"the pack in {new}"
        bench.until(lambda: bench.line.states[-1:] == ["kept"])
        assert bench.changes.reload(bounds, new) is None
        make_pack(tmp_path / "base", version="3")
        assert bench.changes.reload(bounds, base) == f"the pack in {base}"
        bench.until(lambda: bench.line.states.count("kept") == 2)
        memory = bench.store.recall()
        assert memory is not None
        assert (memory.base, memory.on_duty, memory.previous) == (str(base), None, str(new))
        (base / "gate.onnx").write_bytes(b"torn")
        with pytest.raises(PackError, match="network gate was altered"):
            bench.changes.reload(bounds, base)
    assert bench.duty.current.pack.manifest.version == "3"


def test_what_was_staged_and_is_named_now_is_only_remembered(tmp_path: Path, old: Path, new: Path) -> None:
    bench = Bench(tmp_path, old, shadow_frames=0, watch_frames=0)
    with bench.running():
        bench.stage_pack(new)
        bench.over()
        bench.changes.reload(bench.config.packs, new)
        bench.until(lambda: bench.line.states.count("kept") == 2)
    assert bench.line.on_duty == ["2"], "it was on duty already"
    memory = bench.store.recall()
    assert memory is not None
    assert (memory.base, memory.on_duty, memory.previous) == (str(new), None, str(old))


def test_one_that_the_yaml_names_and_that_goes_back_comes_again_at_a_restart(tmp_path: Path, old: Path) -> None:
    bench = Bench(tmp_path, old)
    with bench.running():
        bench.changes.reload(bench.config.packs, make_pack(tmp_path / "other", tile=(32, 32)))
        assert "a restart would start with it all the same: mend `pack:`" in bench.over()
