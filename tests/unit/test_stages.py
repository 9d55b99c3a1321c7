"""stages.py: the middle stages as a worker drives them: what comes of an item, of none in time, and of the end."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inspector import pack
from inspector.channel import Channel
from inspector.coils import CoilMap
from inspector.config import BatchConfig, EdgeConfig, GradingConfig
from inspector.engines import Duty, Engines
from inspector.errors import EngineError
from inspector.events import Depth, as_json
from inspector.grading import Grading
from inspector.ledger import Ledger
from inspector.metrics import Metrics
from inspector.overload import Limits, Overload
from inspector.pack import Pack
from inspector.preprocess import Preprocess
from inspector.records import Batch, Frame, Graded, Pixels, Roi, Verdict, Verdicts
from inspector.runtimes import onnx
from inspector.stages import IDLE_S, CascadeStage, GradingStage, PreprocessStage
from inspector.strip import Geometry
from tests import networks
from tests.packs import TILE, make_pack, paint

HEIGHT, WIDTH = TILE
NEVER_MS = 1e9


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return pack.load(make_pack(tmp_path_factory.mktemp("pack")))


@pytest.fixture(scope="module")
def runtime(engines: Pack) -> Iterator[onnx.OnnxRuntime]:
    with onnx.open(onnx.Options(workers=1), engines) as opened:
        yield opened


def picture(number: int = 0) -> Pixels:
    pixels = np.full(TILE, 90, dtype=np.uint8)
    if number:
        paint(pixels, number, 8, 10, 6, 9)
    return pixels


def frame(sequence: int, number: int = 0, *, arrived_ns: int | None = None, source: str | None = None) -> Frame:
    arrived = time.monotonic_ns() if arrived_ns is None else arrived_ns
    return Frame("a", sequence, sequence, arrived, sequence * HEIGHT, picture(number), source)


def batch(number: int, *pictures: Pixels) -> Batch:
    made = Preprocess(pack.TileSize(height=HEIGHT, width=WIDTH), EdgeConfig(), BatchConfig(size=100), {})
    for sequence, pixels in enumerate(pictures):
        made.add(Frame("a", sequence, 0, 0, 0, pixels))
    found = made.flush()
    assert found is not None
    found.number = number
    return found


# ---------------------------------------------------------------- preprocess


def preprocess_stage(size: int, deadline_ms: float = NEVER_MS) -> PreprocessStage:
    tile = pack.TileSize(height=HEIGHT, width=WIDTH)
    config = BatchConfig(size=size, deadline_ms=deadline_ms)
    return PreprocessStage(Preprocess(tile, EdgeConfig(), config, {}))


def test_a_full_batch_leaves_at_once() -> None:
    with preprocess_stage(size=3) as stage:
        given = [[b.frames for b in stage.work(frame(n))] for n in range(7)]
        assert [len(found) for found in given] == [0, 0, 1, 0, 0, 1, 0]
        assert [f.sequence for found in given for frames in found for f in frames] == [0, 1, 2, 3, 4, 5]


def test_an_overdue_batch_leaves_when_nothing_more_waits() -> None:
    """It still takes a frame that waits already: then it is fuller, and later by nothing."""
    with preprocess_stage(size=10, deadline_ms=1) as stage:
        assert list(stage.work(frame(0, arrived_ns=0))) == []
        assert stage.wait_s() == 0
        assert list(stage.work(frame(1, arrived_ns=0))) == []
        assert [[f.sequence for f in found.frames] for found in stage.work(None)] == [[0, 1]]
        assert stage.wait_s() == IDLE_S
        assert list(stage.work(None)) == []


def test_a_batch_that_is_not_due_stays() -> None:
    with preprocess_stage(size=10) as stage:
        assert stage.wait_s() == IDLE_S
        assert list(stage.work(frame(0))) == []
        assert stage.wait_s() > 0
        assert list(stage.work(None)) == []


def test_the_end_sends_what_is_left() -> None:
    with preprocess_stage(size=10) as stage:
        list(stage.work(frame(0)))
        assert [[f.sequence for f in found.frames] for found in stage.finish()] == [[0]]
        assert list(stage.finish()) == []


def test_batches_are_numbered_without_a_hole() -> None:
    with preprocess_stage(size=2) as stage:
        numbers = [b.number for n in range(7) for b in stage.work(frame(n))] + [b.number for b in stage.finish()]
    assert numbers == [0, 1, 2, 3]


# ---------------------------------------------------------------- cascade


def on_duty(engines: Pack, runtime: onnx.OnnxRuntime) -> Duty:
    return Duty(Engines(engines, runtime))


def test_verdicts_come_one_for_one_and_are_counted(engines: Pack, runtime: onnx.OnnxRuntime) -> None:
    metrics = Metrics(process=False)
    with CascadeStage(on_duty(engines, runtime), 3, metrics) as stage:
        assert list(stage.work(None)) == []
        found = [*stage.work(batch(0, picture(), picture(3))), *stage.work(batch(1, picture(3), picture(1), picture()))]
        assert list(stage.finish()) == []
    assert [(v.number, [len(one.regions) for one in v.verdicts]) for v in found] == [(0, [0, 1]), (1, [1, 1, 0])]
    value = metrics.registry.get_sample_value
    assert value("inspector_batch_size_frames_sum") == 5
    assert value("inspector_batch_size_frames_count") == 2
    assert value("inspector_gate_tiles_total") == 5
    assert value("inspector_gate_passed_total") == 3
    assert value("inspector_segmenter_tiles_total", {"defect_class": "class3"}) == 2
    assert value("inspector_segmenter_tiles_total", {"defect_class": "class1"}) == 1


def test_what_the_line_leaves_out_is_left_out_of_the_next_batch(engines: Pack, runtime: onnx.OnnxRuntime) -> None:
    now_ns, metrics, books = 0, Metrics(process=False), Channel[Frame](8)
    limits = Limits(too_old_s=0.1, young_s=0.05, up_after_s=0.2, down_after_s=1.0, down_after_most_s=1.0)
    overload = Overload(limits, (8, 8), metrics, lambda *told: None, books.statistics, clock=lambda: now_ns)
    with CascadeStage(on_duty(engines, runtime), 3, metrics, overload=overload) as stage:
        depths = []
        for number in range(12):
            now_ns += 300_000_000  # the frames arrived at 0 and get older
            (found,) = stage.work(batch(number, picture(3), picture()))
            depths.append({verdict.depth for verdict in found.verdicts})
            assert all(region.coarse is (depths[-1] != {Depth.FULL}) for region in found.verdicts[0].regions)
            assert len(found.verdicts[0].regions) == 1
        assert depths == [{Depth.FULL}] * 2 + [{Depth.TYPES}] + [{Depth.GATE}] * 9
        for _ in range(10):
            now_ns += 500_000_000
            assert list(stage.work(None)) == []
        assert overload.step == 0
        now_ns = 0
        (found,) = stage.work(batch(12, picture(3)))
        assert found.verdicts[0].depth is Depth.FULL
    assert metrics.registry.get_sample_value("inspector_gate_tiles_total") == 25
    assert metrics.registry.get_sample_value("inspector_segmenter_tiles_total", {"defect_class": "class3"}) == 3


def test_a_network_that_fails_fails_the_stage(tmp_path: Path) -> None:
    folder = make_pack(tmp_path)
    networks.swap(folder, "gate", networks.failing_gate(TILE, 200))
    broken = pack.load(folder)
    with (
        onnx.open(onnx.Options(workers=1), broken) as opened,
        CascadeStage(on_duty(broken, opened), 3, Metrics(process=False)) as stage,
    ):
        assert len(list(stage.work(batch(0, picture())))) == 1
        with pytest.raises(EngineError, match="network gate failed"):
            list(stage.work(batch(1, picture(2))))


# ---------------------------------------------------------------- grading


def grading(engines: Pack) -> Grading:
    geometry = Geometry(0.5, 0.5, 0.0, 0.5)
    config = GradingConfig(merge_px=3)
    return Grading("line", config, engines, {"a": geometry}, CoilMap("C"), Ledger(["a"]), {})


def judged(engines: Pack, runtime: onnx.OnnxRuntime, numbers: list[int], source: str | None = None) -> list[Verdicts]:
    """Batches of one frame each; a frame shows a defect of its class number."""
    with CascadeStage(on_duty(engines, runtime), 3, Metrics(process=False)) as stage:
        found = []
        for sequence, number in enumerate(numbers):
            made = batch(sequence, picture(number))
            made.frames = [frame(sequence, number, source=source)]
            found += list(stage.work(made))
        return found


def said(found: list[Graded]) -> list[bytes]:
    return [as_json(draft.data) for graded in found for draft in graded.drafts] + [
        as_json((settled.first, settled.last)) for graded in found for settled in graded.settled
    ]


def test_whatever_worker_was_first_the_order_is_that_of_the_strip(engines: Pack, runtime: onnx.OnnxRuntime) -> None:
    numbers = [0, 1, 3, 3, 0, 2, 4, 1]

    def run(order: list[int]) -> list[bytes]:
        verdicts = judged(engines, runtime, numbers)
        with GradingStage(grading(engines), lambda: False) as stage:
            found = [graded for n in order for graded in stage.work(verdicts[n])]
            return said(found + list(stage.finish()))

    in_order = run(list(range(8)))
    assert len([text for text in in_order if b'"kind":"defect"' in text]) == 6
    for seed in range(10):
        order = list(range(8))
        random.Random(seed).shuffle(order)
        assert run(order) == in_order


def test_nothing_is_graded_before_its_turn(engines: Pack, runtime: onnx.OnnxRuntime) -> None:
    verdicts = judged(engines, runtime, [1, 1, 1])
    with GradingStage(grading(engines), lambda: False) as stage:
        assert list(stage.work(verdicts[2])) == []
        assert list(stage.work(verdicts[1])) == []
        assert list(stage.work(None)) == []
        assert len(list(stage.work(verdicts[0]))) == 3


@pytest.mark.parametrize("idle", [False, True], ids=["frames_go_on", "nothing_comes"])
def test_the_strip_stands_once_what_was_delivered_is_graded(
    engines: Pack, runtime: onnx.OnnxRuntime, idle: bool
) -> None:
    verdicts = judged(engines, runtime, [0, 0, 0])
    with GradingStage(grading(engines), lambda: False) as stage:
        stage.stand(2 * HEIGHT if not idle else 10**9)
        found = [list(stage.work(item)) for item in ([None] if idle else []) + [verdicts[0], verdicts[1], verdicts[2]]]
    stood = [any(draft.topic.startswith("state/") for graded in each for draft in graded.drafts) for each in found]
    assert stood == ([True, True, False, False] if idle else [False, True, True]), "standing, then running"


def test_the_end_closes_the_books(engines: Pack, runtime: onnx.OnnxRuntime) -> None:
    with GradingStage(grading(engines), lambda: False) as stage:
        list(stage.work(judged(engines, runtime, [0])[0]))
        (last,) = stage.finish()
    assert [draft.topic for draft in last.drafts] == ["coil/v1/line/"]


def test_after_a_failure_the_rest_stays_in_flight(engines: Pack, runtime: onnx.OnnxRuntime) -> None:
    """The journal books it as aborted; an end of the strip would say that it was seen."""
    with GradingStage(grading(engines), lambda: True) as stage:
        list(stage.work(judged(engines, runtime, [0])[0]))
        assert list(stage.finish()) == []


def test_a_picture_whose_defect_is_open_is_still_shown(engines: Pack, runtime: onnx.OnnxRuntime) -> None:
    """Nothing is settled or drafted yet, but the report must know where the picture lies."""
    stage = GradingStage(grading(engines), lambda: False)
    first = Verdicts(0, [Verdict(frame(0, source="0.png"), Roi(0, WIDTH), 0.0)])
    list(stage.work(first))
    with CascadeStage(on_duty(engines, runtime), 3, Metrics(process=False)) as cascade:
        open_defect = picture()
        paint(open_defect, 1, HEIGHT - 6, 10, 6, 6)
        made = batch(1, open_defect)
        made.frames = [frame(1, source="1.png")]
        (verdicts,) = cascade.work(made)
    (given,) = stage.work(verdicts)
    assert (given.settled, given.drafts) == ([], [])
    assert [shown.source for shown in given.shown] == ["1.png"]
