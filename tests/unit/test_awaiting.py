"""A line that begins on the CPU and changes over to a GPU (in host memory) when its plans are built."""

from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inspector import awaiting, pipeline
from inspector import pack as packs
from inspector.config import Config, RuntimeConfig, convert
from inspector.engines import Duty, Engines
from inspector.errors import ConfigError, EngineError
from inspector.pack import Pack
from inspector.pipeline import Line
from inspector.plans import Cache, Key
from inspector.records import Frame
from inspector.runtimes import tensorrt
from inspector.worker import Pulse
from tests import host_gpu, networks
from tests.packs import TILE, make_pack

FRAMES = 120
LONG_S = 120.0


@pytest.fixture
def engines(tmp_path: Path) -> Pack:
    return packs.load(make_pack(tmp_path / "pack"))


@pytest.fixture
def rig(engines: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> host_gpu.Rig:
    """Its plans are not built yet."""
    made = host_gpu.Rig(tmp_path / "plans", engines, tensorrt.Options(precision="fp32", batch=(1, 2, 4)))
    monkeypatch.setattr(tensorrt, "cuda_platform", lambda options: made.platform())
    monkeypatch.setattr(tensorrt, "check", lambda options: None)
    monkeypatch.setattr(awaiting, "LOOK_S", 0.01)
    monkeypatch.setattr(awaiting, "TRIAL_S", 0.05)
    return made


def section(**more: Any) -> RuntimeConfig:
    options = {"precision": "fp32", "batch": [1, 2, 4], "cpu_until_built": True, **more}
    return RuntimeConfig(kind="tensorrt", options=options)


def config(engines: Pack, folder: Path, runtime: RuntimeConfig) -> Config:
    folder.mkdir()
    height, width = TILE
    camera = {
        "name": "top",
        "kind": "synthetic",
        "options": {"frames": FRAMES, "pace": "free", "height_px": height, "width_px": width, "defective_share": 0.2},
    }
    raw = {
        "line": {"name": "line1", "coil": "4711", "when_full": "wait"},
        "pack": str(engines.folder),
        "packs": {"folder": str(folder / "packs")},
        "cameras": [camera],
        "runtime": {"kind": runtime.kind, "options": runtime.options},
        "journal": {"path": str(folder / "journal.db")},
        "sinks": [{"kind": "jsonl", "required": True, "options": {"path": str(folder / "events.jsonl")}}],
        "monitor": None,
        "batch": {"size": 4},
    }
    return convert(raw, Config)


@contextmanager
def halting(made: Line, at: int) -> Iterator[threading.Event]:
    """The camera waits after so many frames until the event is set."""
    go = threading.Event()
    camera, read, given = made.cameras["top"], made.cameras["top"].read, [0]

    def gated(pool: Any, timeout_s: float) -> Any:
        if given[0] >= at and not go.wait(timeout_s):
            return None
        got = read(pool, timeout_s)
        given[0] += isinstance(got, Frame)
        return got

    camera.read = gated  # type: ignore[method-assign]
    yield go
    go.set()


def until(what: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(round(LONG_S / 0.02)):
        if what():
            return
        done.wait(0.02)
    raise AssertionError("it did not come")


def found(folder: Path) -> list[Any]:
    """What the line said of each defect, without the times."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    kept = ("frame_sequence", "defect_class", "bbox_px", "area_px", "score", "mask", "position_mm", "severity")
    return [{key: e["data"][key] for key in kept} for e in events if e["type"] == "inspector.defect.v1"]


def ran(config: Config) -> None:
    with pipeline.build(config) as line:
        assert line.crew.join(LONG_S) == []
        assert line.failed() is False


def test_the_line_changes_over_without_losing_a_frame(
    engines: Pack, rig: host_gpu.Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = config(engines, tmp_path / "plain", RuntimeConfig(options={"workers": 2}))
    ran(plain)
    chosen = config(engines, tmp_path / "gpu", section())
    built = pipeline.build(chosen)
    with caplog.at_level(logging.INFO), halting(built, 40) as go, built as line:
        assert line.runtime.name.startswith("onnxruntime")
        until(lambda: line.ledger.totals()["top"].inspected >= 20)
        assert "serves meanwhile" in caplog.text
        rig.build()
        until(lambda: line.runtime.name == "TensorRT 0.host on Host GPU")
        uploads = sum(len(device.uploads) for device in rig.machine.devices)
        go.set()
        assert line.crew.join(LONG_S) == []
        assert line.failed() is False
        books = line.ledger.totals()["top"]
        assert (books.issued, books.inspected, books.lost) == (FRAMES, FRAMES, {})
        assert sum(len(device.uploads) for device in rig.machine.devices) > uploads
    assert found(tmp_path / "gpu") == found(tmp_path / "plain") != []
    assert "took over from onnxruntime" in caplog.text
    assert rig.machine.locked == {}


def test_plans_that_are_there_serve_from_the_start(engines: Pack, rig: host_gpu.Rig) -> None:
    rig.build()
    first, wanted = awaiting.begin(engines, section())
    assert isinstance(first.runtime, tensorrt.TensorRtRuntime)
    assert wanted is None


def test_without_leave_a_missing_plan_is_a_configuration_error(
    engines: Pack, rig: host_gpu.Rig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no plan was built yet.*python -m build_engines build --pack"):
        pipeline.build(config(engines, tmp_path / "gpu", section(cpu_until_built=False)))


def test_other_runtimes_have_nothing_to_wait_for(engines: Pack) -> None:
    assert awaiting.begin(engines, RuntimeConfig())[1] is None


@contextmanager
def waiting(engines: Pack) -> Iterator[tuple[Duty, awaiting.Awaiting, list[str]]]:
    """On the CPU, and what is told of."""
    first, wanted = awaiting.begin(engines, section())
    assert wanted is not None
    engaged: list[str] = []
    with Duty(first) as duty:
        yield duty, awaiting.Awaiting(duty, wanted, lambda found: engaged.append(found.runtime.name)), engaged


def test_another_pack_that_took_over_meanwhile_stays(engines: Pack, rig: host_gpu.Rig) -> None:
    with waiting(engines) as (duty, waits, engaged):
        other = Engines.of(engines, RuntimeConfig(options={"workers": 1}))
        other.__enter__()
        duty.put(other, trial=False)
        rig.build()
        waits.serve(threading.Event())
        assert duty.current is other
        assert engaged == []
    assert rig.machine.locked == {}


def test_a_change_of_the_pack_that_comes_to_nothing_is_waited_for(engines: Pack, rig: host_gpu.Rig) -> None:
    with waiting(engines) as (duty, waits, engaged):
        rig.build()
        stop, looks = Pulse(), itertools.count()
        stop.beat = lambda: next(looks) and None
        thread = threading.Thread(target=waits.serve, args=[stop])
        with duty.changing, Engines.of(engines, RuntimeConfig(options={"workers": 1})) as other:
            first = duty.current
            duty.put(other, trial=True)
            thread.start()
            until(lambda: next(looks) > 10)
            duty.put(first, trial=False)
            assert engaged == []
        until(lambda: len(engaged) == 1)
        thread.join(LONG_S)
        assert duty.current.runtime.name.startswith("TensorRT")


def test_plans_that_cannot_be_opened_are_said_once_and_tried_again(
    engines: Pack, rig: host_gpu.Rig, caplog: pytest.LogCaptureFixture
) -> None:
    networks.swap(engines.folder, "types", networks.failing_types(TILE, 4))
    broken = packs.load(engines.folder)
    rig.pack = broken
    stop = threading.Event()
    with caplog.at_level(logging.WARNING):
        first, wanted = Engines.of(engines, RuntimeConfig()), Engines.of(broken, section())
        first.pack = broken
        first._open = True
        duty = Duty(first)
        rig.build()
        thread = threading.Thread(target=awaiting.Awaiting(duty, wanted, lambda found: None).serve, args=[stop])
        thread.start()
        until(lambda: len(rig.machine.devices) > 4)
        stop.set()
        thread.join(LONG_S)
    assert duty.current is first
    assert caplog.text.count("network types failed in TensorRT 0.host on Host GPU") == 1
    assert all(device.closed for device in rig.machine.devices)


def test_a_driver_that_does_not_answer_yet_is_waited_for(
    engines: Pack, rig: host_gpu.Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with waiting(engines) as (duty, waits, engaged):
        rig.build()
        answers = iter([ConfigError("the NVIDIA driver does not answer"), TypeError("a bug"), None])
        missing = tensorrt.TensorRtRuntime.missing

        def asked(runtime: tensorrt.TensorRtRuntime) -> str:
            if error := next(answers, None):
                raise error
            return missing(runtime)

        monkeypatch.setattr(tensorrt.TensorRtRuntime, "missing", asked)
        turn = duty.take(None, 0)
        thread = threading.Thread(target=waits.serve, args=[threading.Event()])
        thread.start()
        until(lambda: len(engaged) == 1)
        duty.give_back(turn)
        thread.join(LONG_S)
    assert "serves meanwhile: the NVIDIA driver does not answer" in caplog.text
    assert "serves meanwhile: TypeError: a bug" in caplog.text


def test_plans_that_were_read_are_not_read_again_each_second(
    engines: Pack, rig: host_gpu.Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.build()
    last = list(engines.networks())[-1]
    next((rig.folder / last).glob("*.json")).unlink()
    runtime, asked, find = rig.runtime(), list[str](), Cache.find

    def noted(cache: Cache, key: Key) -> bytes | None:
        asked.append(key.network)
        return find(cache, key)

    monkeypatch.setattr(Cache, "find", noted)
    for _ in range(3):
        assert f"{last}: " in runtime.missing()
    assert asked == [*engines.networks(), last, last]


def test_those_that_fail_on_duty_go_again(engines: Pack, rig: host_gpu.Rig) -> None:
    with waiting(engines) as (duty, waits, engaged):
        rig.build()
        turn = duty.take(None, 0)
        stop = threading.Event()
        thread = threading.Thread(target=waits.serve, args=[stop])
        thread.start()
        until(lambda: len(engaged) == 1)
        turn = duty.take(turn, 1)
        back = duty.fall_back(turn, EngineError("the GPU fell off the bus"))
        assert back is not None
        duty.give_back(duty.take(back, 2))
        thread.join(LONG_S)
        assert not thread.is_alive()
        assert engaged[1].startswith("onnxruntime")
        assert duty.current.runtime.name.startswith("onnxruntime")
    assert rig.machine.locked == {}
