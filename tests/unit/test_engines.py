"""engines.py: which engines judge which batch, over swaps, failures and ends, however many workers there are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector import pack
from inspector.config import RuntimeConfig
from inspector.engines import Duty, Engines, Turn
from inspector.errors import ConfigError, EngineError
from inspector.metrics import Metrics
from inspector.records import Batch, Frame, Pixels, Roi, Tile, Verdicts
from inspector.runtimes import onnx
from inspector.stages import CascadeStage
from tests import networks
from tests.packs import TILE, make_pack, paint

HEIGHT, WIDTH = TILE


def nothing() -> threading.Event:
    return threading.Event()


def given_up() -> threading.Event:
    """A stop that is set: `retire` looks once."""
    made = threading.Event()
    made.set()
    return made


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Engines]]:
    """Four open engines; the packs differ in nothing but their version. They are only told apart here."""
    folder = make_pack(tmp_path_factory.mktemp("pack"))
    loaded = pack.load(folder)
    made = [msgspec.structs.replace(loaded, digest=f"sha256:{number:064d}") for number in range(4)]
    with onnx.open(onnx.Options(workers=1), loaded) as runtime:
        yield [Engines(each, runtime) for each in made]


def test_a_gate_is_judged_by_the_threshold_of_what_runs_it(opened: list[Engines]) -> None:
    old, runtime = opened[0].pack, opened[0].runtime
    gate = msgspec.structs.replace(old.manifest.gate, threshold=0.4, gpu_threshold=0.3)
    for precision, wanted in (("int8", 0.3), ("float32", 0.4)):  # the runtime's own is float32
        own = msgspec.structs.replace(gate, precision=precision)
        made = msgspec.structs.replace(old, manifest=msgspec.structs.replace(old.manifest, gate=own))
        assert Engines(made, runtime).pack.manifest.gate.threshold == wanted
        assert Engines(made, runtime).digest == old.digest


# ---------------------------------------------------------------- which batch


def test_batches_that_were_asked_for_stay_with_the_old(opened: list[Engines]) -> None:
    old, new, *_ = opened
    duty = Duty(old)
    slow, fast = duty.take(None), duty.take(None)
    fast = duty.take(fast, 7)
    assert duty.put(new, trial=True) == 8
    assert duty.current is new
    slow = duty.take(slow, 6)  # it took its batch before the swap and asks only now
    assert (fast.engines, slow.engines) == (old, old)
    assert duty.take(slow, 8).engines is new


def test_a_swap_begins_behind_all_that_was_asked_for_in_whatever_order(opened: list[Engines]) -> None:
    old, new, *_ = opened
    duty = Duty(old)
    fast, slow = duty.take(None), duty.take(None)
    fast = duty.take(fast, 5)
    slow = duty.take(slow, 3)
    assert duty.put(new, trial=True) == 6
    assert duty.take(slow, 4).engines is old, "batch 5 was judged by the old"
    assert duty.take(fast, 6).engines is new


@given(st.data())
def test_in_the_order_of_the_strip_each_has_one_stretch(opened: list[Engines], data: st.DataObject) -> None:
    """Workers take batches in order and ask late; swaps come at any time; what was retired is never asked for."""
    duty = Duty(opened[0])
    workers: list[Turn] = [duty.take(None) for _ in range(3)]
    holding: list[int | None] = [None] * 3
    next_batch, judged, on, retired = 0, {}, 0, set()
    for _ in range(data.draw(st.integers(1, 40))):
        step = data.draw(st.sampled_from(["get", "ask", "idle", "swap", "retire"]))
        who = data.draw(st.integers(0, 2))
        held = holding[who]
        if step == "get" and held is None:
            holding[who], next_batch = next_batch, next_batch + 1
        elif step == "ask" and held is not None:
            workers[who] = duty.take(workers[who], held)
            judged[held] = workers[who].engines
            holding[who] = None
        elif step == "idle" and held is None:
            workers[who] = duty.take(workers[who])
        elif step == "swap" and on < 3:
            on += 1
            duty.put(opened[on], trial=True)
        elif step == "retire" and on and duty.retire(opened[on - 1], given_up()):
            retired |= {each.digest for each in opened[:on]}
        assert not retired & {turn.engines.digest for turn in workers}
    numbers = [opened.index(judged[number]) for number in sorted(judged)]
    assert numbers == sorted(numbers)


# ---------------------------------------------------------------- when the old may be closed


def test_the_old_are_closed_only_when_no_worker_can_come_back_to_them(opened: list[Engines]) -> None:
    old, new, *_ = opened
    duty = Duty(old)
    first, second = duty.take(None), duty.take(None)
    duty.put(new, trial=True)
    first = duty.take(first, 0)
    assert not duty.retire(old, given_up())
    second = duty.take(second)  # without a batch: its next one is newer than any
    assert second.engines is new
    assert duty.retire(old, nothing())
    assert duty.retire(old, nothing()), "it is gone already"
    duty.give_back(first)
    duty.give_back(second)


def test_a_worker_that_comes_late_after_a_way_back_keeps_the_new_ones_open(opened: list[Engines]) -> None:
    """Old, new, old again: it holds the old ones, but its batch may be one of the new."""
    old, new, *_ = opened
    duty = Duty(old)
    late, early = duty.take(None), duty.take(None)
    duty.put(new, trial=True)
    early = duty.take(early, 1)
    duty.put(old, trial=False)
    early = duty.take(early, 2)
    assert early.engines is old
    assert not duty.retire(new, given_up())
    late = duty.take(late, 0)
    assert late.engines is new
    late = duty.take(late, 3)
    assert duty.retire(new, nothing())


def test_a_worker_that_ends_holds_nothing_back(opened: list[Engines]) -> None:
    old, new, *_ = opened
    duty = Duty(old)
    gone = duty.take(None)
    duty.put(new, trial=True)
    duty.give_back(gone)
    assert duty.retire(old, nothing())


# ---------------------------------------------------------------- when they fail


def test_on_trial_those_before_come_back(opened: list[Engines]) -> None:
    old, new, *_ = opened
    duty = Duty(old)
    one, other = duty.take(None), duty.take(None)
    duty.put(new, trial=True)
    one, other = duty.take(one, 0), duty.take(other, 1)
    error = EngineError("a network failed")
    for worker in (one, other):
        before = duty.fall_back(worker, error)
        assert before is not None
        assert before.engines is old
        assert duty.take(before, 2).engines is old
    assert duty.failure == (new, error)
    assert duty.current is old
    assert duty.retire(new, nothing())


def test_what_is_no_longer_on_trial_fails_for_good(opened: list[Engines]) -> None:
    old, new, *_ = opened
    error = EngineError("a network failed")
    duty = Duty(old)
    worker = duty.take(None)
    assert duty.fall_back(worker, error) is None
    duty.put(new, trial=True)
    worker = duty.take(worker, 0)
    assert duty.passed(new)
    assert duty.fall_back(worker, error) is None, "there is nothing to go back to"
    duty.put(old, trial=True)
    worker = duty.take(worker, 1)
    assert duty.fall_back(worker, error) is not None
    assert not duty.passed(old), "it failed just before"


def test_what_came_back_does_not_give_way_to_what_was_bad(opened: list[Engines]) -> None:
    old, new, *_ = opened
    duty = Duty(old)
    worker = duty.take(None)
    duty.put(new, trial=True)
    duty.put(old, trial=False)
    worker = duty.take(worker, 0)
    assert worker.engines is old
    assert duty.fall_back(worker, EngineError("a network failed")) is None


# ---------------------------------------------------------------- in a worker


def picture(number: int = 0) -> Pixels:
    pixels = np.full(TILE, 90, dtype=np.uint8)
    if number:
        paint(pixels, number, 8, 10, 6, 9)
    return pixels


def batch(number: int, defect: int) -> Batch:
    frame = Frame("a", number, 0, 0, number * HEIGHT, picture(defect))
    return Batch(number, [frame], [Roi(0, WIDTH)], [Tile(0, 0, 0, frame.pixels)])


def judged(stage: CascadeStage, number: int, defect: int = 0) -> Verdicts:
    (found,) = stage.work(batch(number, defect))
    return found


def test_verdicts_name_the_pack_that_made_them(opened: list[Engines]) -> None:
    old, new, *_ = opened
    duty = Duty(old)
    seen: list[tuple[int, str]] = []
    with CascadeStage(
        duty, 3, Metrics(process=False), lambda b, v: seen.append((b.number, v.verdicts[0].pack_digest))
    ) as stage:
        before = judged(stage, 0).verdicts[0]
        duty.put(new, trial=True)
        after = judged(stage, 1).verdicts[0]
    assert (before.pack_digest, after.pack_digest) == (old.digest, new.digest)
    assert seen == [(0, old.digest), (1, new.digest)]
    assert duty.retire(old, nothing()), "the worker has ended"


def test_an_idle_worker_lets_go_of_the_old(opened: list[Engines]) -> None:
    old, new, *_ = opened
    duty = Duty(old)
    with CascadeStage(duty, 3, Metrics(process=False)) as stage:
        duty.put(new, trial=True)
        assert not duty.retire(old, given_up())
        assert list(stage.work(None)) == []
        assert duty.retire(old, nothing())


def test_a_batch_on_which_the_new_fail_is_judged_by_the_old(opened: list[Engines], tmp_path: Path) -> None:
    folder = make_pack(tmp_path)
    networks.swap(folder, "gate", networks.failing_gate(TILE, 200))
    bad = Engines.of(pack.load(folder), RuntimeConfig(options={"workers": 1}))
    duty = Duty(opened[0])
    with bad, CascadeStage(duty, 3, Metrics(process=False)) as stage:
        duty.put(bad, trial=True)
        assert judged(stage, 0).verdicts[0].pack_digest == bad.digest
        failed = judged(stage, 1, defect=2).verdicts[0]
        assert failed.pack_digest == opened[0].digest
        assert [region.class_number for region in failed.regions] == [2]
        assert judged(stage, 2).verdicts[0].pack_digest == opened[0].digest
    assert duty.failure is not None
    assert "network gate failed" in str(duty.failure[1])


def test_a_runtime_that_is_not_there_is_named(opened: list[Engines]) -> None:
    with pytest.raises(ConfigError, match="there is no 'magic'"):
        Engines.of(opened[0].pack, RuntimeConfig(kind="magic"))
    assert "bands 1 (000000000000)" in opened[0].named
