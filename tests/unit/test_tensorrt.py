"""runtimes/tensorrt.py on a GPU in host memory: the same events as ONNX, few copies, and nothing left behind."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector import pack
from inspector.cascade import Cascade
from inspector.errors import ConfigError, EngineError, PackError
from inspector.pack import Pack
from inspector.plans import Cache
from inspector.pool import Pool
from inspector.preprocess import cut
from inspector.records import Batch, Frame, Pixels, Region, Roi
from inspector.runtimes import _cuda, _tensorrt, tensorrt
from inspector.runtimes import onnx as onnx_runtime
from inspector.runtimes._frames import FrameMemory, address_of
from inspector.runtimes._slot import boxes_of
from inspector.runtimes.tensorrt import Options, TensorRtRuntime
from tests import networks
from tests.host_gpu import HostDevice, HostRecorder, Rig
from tests.packs import TILE, make_pack, paint

HEIGHT, WIDTH = TILE
SIZE = HEIGHT * WIDTH


@pytest.fixture
def engines(tmp_path: Path) -> Pack:
    return pack.load(make_pack(tmp_path / "pack"))


def rig_of(engines: Pack, recorder: HostRecorder | None = None, mixed: int | None = None, **options: Any) -> Rig:
    chosen = msgspec.convert({"precision": "fp32", "slots": 1, **options}, Options)
    rig = Rig(engines.folder.parent / "plans", engines, chosen, recorder, mixed)
    rig.build()
    return rig


def the_device(rig: Rig) -> HostDevice:
    """The one that the networks run on; another is opened for the locks alone."""
    return rig.machine.devices[0]


def picture(*defects: tuple[int, int, int], height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """Grey strip with defects (class, y, x) of 6 x 9 px."""
    pixels = np.full((height, width), 90, dtype=np.uint8)
    for number, y, x in defects:
        paint(pixels, number, y=y, x=x, height=6, width=9)
    return pixels


def batch_of(pictures: list[Pixels], engines: Pack) -> Batch:
    frames = [Frame("cam", i, 0, 0, i * 100, pixels) for i, pixels in enumerate(pictures)]
    rois = [Roi(2, pixels.shape[1] - 2) for pixels in pictures]
    tiles = [t for i, f in enumerate(frames) for t in cut(f.pixels, rois[i], engines.manifest.tile, i)]
    return Batch(0, frames, rois, tiles)


Found = list[tuple[float, list[tuple[Any, ...]]]]


def judged(cascade: Cascade, batch: Batch) -> Found:
    """Everything that a verdict says, to the bit."""
    return [(v.gate_score, [told(region) for region in v.regions]) for v in cascade.judge(batch).verdicts]


def told(region: Region) -> tuple[Any, ...]:
    box = region.x, region.y, region.mask.shape, region.mask.tobytes()
    return (region.class_number, *box, region.area_px, region.score, region.needed_px)


# ---------------------------------------------------------------- the same events

defects = st.tuples(st.integers(1, 4), st.integers(0, HEIGHT - 7), st.integers(0, WIDTH - 10))
frames = st.lists(st.lists(defects, max_size=3), min_size=1, max_size=9)
sizes = st.sampled_from([(HEIGHT, WIDTH), (HEIGHT, WIDTH), (HEIGHT + 20, WIDTH + 50), (HEIGHT - 8, WIDTH - 20)])


@settings(deadline=None, max_examples=25)
@given(strips=st.lists(st.tuples(frames, sizes), min_size=1, max_size=4), mixed=st.none() | st.integers(0, 9))
def test_the_same_frames_give_the_same_events_as_onnx(
    tmp_path_factory: pytest.TempPathFactory, strips: list[Any], mixed: int | None
) -> None:
    engines = shared_pack(tmp_path_factory)
    rig = rig_of(engines, HostRecorder(), mixed, batch=[1, 2, 4])
    with onnx_runtime.open(onnx_runtime.Options(workers=1), engines) as ours, rig.runtime() as theirs:
        wanted, found = (Cascade(engines, runtime.stream(), 3) for runtime in (ours, theirs))
        for pictures, (height, width) in strips:
            batch = batch_of([picture(*own, height=height, width=width) for own in pictures], engines)
            assert judged(found, batch) == judged(wanted, batch)


_shared: list[Pack] = []


def shared_pack(factory: pytest.TempPathFactory) -> Pack:
    """Its segmenters are convolutions, so that scores differ from pixel to pixel."""
    if not _shared:
        folder = make_pack(factory.mktemp("shared") / "pack", minimum_area_px=1)
        networks.swap(folder, "segment_2", networks.conv_segment(TILE, seed=5))
        _shared.append(pack.load(folder))
    return _shared[0]


# ---------------------------------------------------------------- what crosses the bus


def test_a_frame_of_the_pool_is_uploaded_once_and_as_it_lies(engines: Pack) -> None:
    rig = rig_of(engines)
    with rig.runtime() as runtime:
        pool = Pool(4, runtime.allocate)
        slots = [pool.take(HEIGHT, WIDTH, 0.0) for _ in range(4)]
        pictures = [slot.pixels for slot in slots if slot is not None]
        for pixels, number in zip(pictures, (1, 2, 3, 4), strict=True):
            pixels[:] = picture((number, 10, 20))
        own = picture((1, 4, 5))
        the_device(rig).uploads.clear()
        cascade = Cascade(engines, runtime.stream(), 3)
        assert all(regions for _, regions in judged(cascade, batch_of([*pictures, own], engines)))
        *direct, copied = the_device(rig).uploads
        assert direct == [address_of(pixels) for pixels in pictures]
        assert copied != address_of(own)  # it is not page-locked


def test_what_comes_back_is_scores_extents_and_boxes(engines: Pack) -> None:
    rig = rig_of(engines)
    pictures = [picture(), picture((1, 4, 5)), picture((3, 20, 40)), picture()]
    with rig.runtime() as runtime:
        cascade, device = Cascade(engines, runtime.stream(), 3), the_device(rig)
        before = device.downloaded_bytes
        judged(cascade, batch_of(pictures, engines))
        scores = 4 * 4 + 2 * 4 * 4
        extents = 2 * (HEIGHT + WIDTH)
        boxes = 2 * 6 * 9
        assert device.downloaded_bytes - before == scores + extents + boxes


def test_tiles_are_gathered_on_the_device_only_where_some_are_left_out(engines: Pack) -> None:
    rig = rig_of(engines)
    with rig.runtime() as runtime:
        cascade, device = Cascade(engines, runtime.stream(), 3), the_device(rig)
        for pictures, copies in (
            ([picture((1, 4, 5)), picture((1, 4, 5))], 0),  # all pass, all of one class
            ([picture((1, 4, 5)), picture()], 0),  # the first passes
            ([picture(), picture((1, 4, 5)), picture((1, 9, 5)), picture(), picture((1, 0, 0))], 2 + 2),
        ):
            before = device.copies
            judged(cascade, batch_of(pictures, engines))
            assert device.copies - before == copies  # neighbours go together, for types and for the segmenter


def test_segmenters_are_at_work_before_the_first_is_asked(engines: Pack) -> None:
    rig = rig_of(engines)
    with rig.runtime() as runtime:
        stream, device = runtime.stream(), the_device(rig)
        stream.load([picture((1, 4, 5), (2, 20, 5), (4, 4, 40))])
        stream.gate()
        waiting = lambda: sum(bool(queue._waiting) for queue in device.queues.values())  # noqa: E731
        assert waiting() == 0
        stream.expect({1: [0], 2: [0], 4: [0]})
        assert waiting() == 3
        for number in (1, 2, 4):
            (patch,) = stream.segment(number, [0])
            assert patch.values.shape == (6, 9)
        assert waiting() == 0


def test_answers_do_not_depend_on_what_was_expected(engines: Pack) -> None:
    rig = rig_of(engines)
    with rig.runtime() as runtime:
        stream = runtime.stream()
        stream.load([picture((1, 4, 5)), picture((1, 9, 30))])
        stream.expect({1: [0]})
        first, second = stream.segment(1, [1, 0])
        assert (first.y, first.x, second.y, second.x) == (9, 30, 4, 5)


def test_a_batch_that_nobody_asked_for_is_behind_the_next_one(engines: Pack) -> None:
    rig = rig_of(engines)
    with rig.runtime() as runtime:
        stream = runtime.stream()
        for number, y in ((1, 3), (2, 8), (1, 15)):
            stream.load([picture((number, y, 5))])
            stream.expect({1: [0], 2: [0]})
        (patch,) = stream.segment(1, [0])
        assert patch.y == 15
        stream.load([picture((1, 20, 5))])
        (patch,) = stream.segment(1, [0])
        assert patch.y == 20


def test_answers_of_a_batch_beyond_the_plans_are_put_together(engines: Pack) -> None:
    rig = rig_of(engines, batch=[1, 2, 3])
    with rig.runtime() as runtime:
        stream = runtime.stream()
        stream.load([picture((1, k, 5)) if k % 2 else picture() for k in range(8)])
        assert stream.gate().tolist() == [0, 1] * 4
        np.testing.assert_array_equal(stream.types([1, 2, 3, 4, 5])[:, 0], [1, 0, 1, 0, 1])
        assert [patch.y for patch in stream.segment(1, [1, 3, 5, 7])] == [1, 3, 5, 7]


def test_a_batch_does_not_grow_under_a_network_that_nobody_asked_for(engines: Pack) -> None:
    rig = rig_of(engines)
    with rig.runtime() as runtime:
        stream = runtime.stream()
        stream.load([picture((1, 3, 5))])
        stream.expect({1: [0]})
        stream.load([picture((1, 8, 5 + k)) for k in range(12)])
        assert [patch.x for patch in stream.segment(1, [2, 11])] == [7, 16]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 255), st.integers(0, 2**32 - 1))
def test_a_box_holds_every_pixel_of_the_level_and_is_tight(height: int, width: int, level: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    greys = draw.integers(0, 256, (height, width)).astype(np.uint8)
    greys[draw.random((height, width)) < 0.9] = 0
    extent = np.concatenate([greys.max(axis=1), greys.max(axis=0)])[None]
    ((top, bottom, left, right),) = boxes_of(extent, height, level)
    rows, columns = np.nonzero(greys >= level)
    if rows.size:
        assert (top, bottom, left, right) == (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
    else:
        assert (top, bottom, left, right) == (0, 0, 0, 0)


# ---------------------------------------------------------------- memory and slots


def test_everything_is_given_back(engines: Pack) -> None:
    rig = rig_of(engines, HostRecorder(), devices=[0, 1], slots=2)
    for _ in range(2):
        runtime = rig.runtime()
        with runtime:
            pool = Pool(1, runtime.allocate)
            slot = pool.take(HEIGHT, WIDTH, 0.0)
            assert slot is not None
            slot.pixels[:] = picture((1, 4, 5))
            for _ in range(5):
                judged(Cascade(engines, runtime.stream(), 3), batch_of([slot.pixels] * 20, engines))
        assert slot.pixels.max() > 200  # frames outlive their runtime
    assert rig.machine.locked == {}
    assert all(device.closed and not device.allocated for device in rig.machine.devices)
    assert rig.recorder is not None
    assert rig.recorder.freed == rig.recorder.recorded > 0


def test_it_gives_back_what_it_took_before_it_failed(engines: Pack) -> None:
    networks.swap(engines.folder, "types", networks.failing_types(TILE, 4))
    rig = rig_of(pack.load(engines.folder))
    with pytest.raises(EngineError, match=r"network types failed in TensorRT 0\.host on Host GPU"), rig.runtime():
        pass
    assert rig.machine.locked == {}
    assert all(device.closed for device in rig.machine.devices)


def test_plans_are_given_back_while_workers_still_keep_their_slots(engines: Pack) -> None:
    rig = rig_of(engines)
    with rig.runtime() as runtime:
        kept = runtime.stream()
        assert len(rig.machine.plans) == len(engines.networks())
    assert list(rig.machine.plans) == []  # as long as the GPU is open, and not whenever the worker forgets its slot
    with pytest.raises(EngineError, match="was closed"):
        kept.gate()


def test_whatever_memory_is_refused_the_rest_is_given_back(engines: Pack) -> None:
    rig = rig_of(engines, HostRecorder(), slots=2, batch=[1, 1, 2])
    refused = 0
    while True:
        rig.machine.allowed = refused
        try:
            with rig.runtime():
                pass
        except EngineError as error:
            assert "out of memory" in str(error)  # noqa: PT017 (it must end at some time)
        else:
            break
        finally:
            assert all(device.closed for device in rig.machine.devices)
            assert rig.machine.locked == {}
        refused += 1
    assert refused > 20
    assert list(rig.machine.plans) == []


def test_a_gpu_that_has_failed_is_left_without_another_error(engines: Pack, caplog: pytest.LogCaptureFixture) -> None:
    rig = rig_of(engines)
    with rig.runtime() as runtime:
        stream = runtime.stream()
        rig.machine.dead = True
        with pytest.raises(EngineError, match="fallen off the bus"):
            stream.load([picture()])
    assert all(device.closed for device in rig.machine.devices)
    assert "does not take everything back" in caplog.text


def test_frames_that_cannot_be_page_locked_are_copied(engines: Pack, caplog: pytest.LogCaptureFixture) -> None:
    rig = rig_of(engines)
    with rig.runtime() as runtime:
        stream = runtime.stream()
        rig.machine.allowed = 0
        slot = Pool(1, runtime.allocate).take(HEIGHT, WIDTH, 0.0)
        assert slot is not None
        assert "cannot be page-locked (out of memory)" in caplog.text
        rig.machine.allowed = None
        slot.pixels[:] = picture((1, 4, 5))
        stream.load([slot.pixels])
        assert stream.gate().tolist() == [1.0]
        assert address_of(slot.pixels) not in the_device(rig).uploads
    assert rig.machine.locked == {}


def test_slots_are_spread_over_the_gpus_and_a_spare_one_is_made(engines: Pack) -> None:
    rig = rig_of(engines, devices=[0, 1], slots=2)
    with rig.runtime() as runtime:
        assert runtime.workers == 4
        assert [stream._device.index for stream in (runtime.stream() for _ in range(5))] == [0, 1, 0, 1, 0]


def test_frames_stay_page_locked_while_any_runtime_reads_them(engines: Pack) -> None:
    rig = rig_of(engines)
    first, second = rig.runtime(), rig.runtime()
    with first:
        memory = first.allocate(100_000)
        with second:
            first.__exit__(None, None, None)
            assert len([size for size in rig.machine.locked.values() if size == memory.nbytes]) == 1
            assert rig.frames.holds(address_of(memory), memory.nbytes)
    assert rig.machine.locked == {}


def test_frame_memory_is_page_locked_when_a_runtime_comes_later() -> None:
    frames = FrameMemory()
    memory = frames.allocate(100)
    address = address_of(memory)
    assert memory.nbytes >= 100
    assert not frames.holds(address, 100)


def test_memory_on_the_device_does_not_grow(engines: Pack) -> None:
    rig = rig_of(engines, HostRecorder())
    with rig.runtime() as runtime:
        cascade, device = Cascade(engines, runtime.stream(), 3), the_device(rig)
        batch = batch_of([picture((1, 4, 5)), picture(), picture((2, 4, 5))] * 3, engines)
        used = []
        for _ in range(6):
            judged(cascade, batch)
            used.append((device.used_bytes(), len(device.queues), len(rig.machine.locked)))
        assert len(set(used)) == 1


# ---------------------------------------------------------------- CUDA graphs


def test_a_batch_size_is_recorded_once_and_launched_after(engines: Pack) -> None:
    rig = rig_of(engines, HostRecorder())
    with rig.runtime() as runtime:
        assert rig.recorder is not None
        cascade = Cascade(engines, runtime.stream(), 3)
        batch = batch_of([picture((1, 4, 5)), picture(), picture((1, 4, 9))], engines)
        wanted = judged(cascade, batch)
        recorded, launched = rig.recorder.recorded, rig.recorder.launched
        assert recorded == 16 * len(engines.networks())  # before the first frame, for every number of tiles
        assert judged(cascade, batch) == wanted
        assert rig.recorder.recorded == recorded
        assert rig.recorder.launched == launched + 3  # gate, types, segment_1


def test_a_batch_that_moved_is_recorded_anew(engines: Pack) -> None:
    rig = rig_of(engines, HostRecorder(), batch=[1, 2, 4])
    with rig.runtime() as runtime:
        cascade = Cascade(engines, runtime.stream(), 3)
        small, large = ([picture((1, 4, 5 + i)) for i in range(count)] for count in (2, 9))
        wanted = judged(cascade, batch_of(small, engines))
        judged(cascade, batch_of(large, engines))
        assert judged(cascade, batch_of(small, engines)) == wanted
        assert rig.recorder is not None
        assert rig.recorder.freed > 0


def test_without_recordings_the_networks_are_called(engines: Pack, caplog: pytest.LogCaptureFixture) -> None:
    rig = rig_of(engines, HostRecorder(fails=True))
    with caplog.at_level(logging.WARNING), rig.runtime() as runtime:
        cascade = Cascade(engines, runtime.stream(), 3)
        for _ in range(3):
            ((score, regions),) = judged(cascade, batch_of([picture((1, 4, 5))], engines))
            assert (score, len(regions)) == (1.0, 1)
    lines = [record.message for record in caplog.records]
    assert len(lines) == len(set(lines)) == len(engines.networks())
    assert "network gate runs without CUDA graphs: operation not permitted when stream is capturing" in lines


# ---------------------------------------------------------------- what can be wrong


def test_a_missing_plan_says_how_to_build_it(engines: Pack) -> None:
    rig = Rig(engines.folder.parent / "none", engines, Options(cache=Path("/var/cache/plans"), batch=(1, 4, 8)))
    with pytest.raises(PackError) as error, rig.runtime():
        pass
    said = str(error.value)
    assert said.startswith(f"{engines.folder / 'gate.onnx'}: ")
    assert "gate: no plan was built yet" in said
    command = f"python -m build_engines build --pack {engines.folder} --library tensorrt --cache /var/cache/plans"
    assert f"{command} --batch 1 4 8" in said
    assert rig.machine.locked == {}


def test_the_command_names_the_units_cache_and_the_gpu(engines: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/inspector")
    rig = Rig(engines.folder.parent / "none", engines, Options(devices=(1,)))
    with pytest.raises(PackError, match=r"--library tensorrt --cache /var/cache/inspector/plans --device 1$"):
        rig.runtime().__enter__()
    assert rig.runtime().missing().endswith("--device 1")


def test_a_plan_of_another_gpu_says_what_changed(engines: Pack) -> None:
    rig = rig_of(engines)
    plan = next((rig.folder / "types").glob("*.json"))
    plan.write_text(plan.read_text().replace("Host GPU", "Other GPU"))
    with pytest.raises(PackError, match=r"types\.onnx.*the GPU changed: built for Other GPU, here Host GPU"):
        rig.runtime().__enter__()


def test_an_altered_network_wants_another_plan(engines: Pack) -> None:
    rig_of(engines)
    networks.swap(engines.folder, "gate", networks.conv_gate(TILE))
    other = pack.load(engines.folder)
    rig = Rig(engines.folder.parent / "plans", other, Options(precision="fp32", slots=1))
    with pytest.raises(PackError, match=r"the network \(its ONNX file\) changed"), rig.runtime():
        pass


def test_a_threshold_may_change_without_another_plan(engines: Pack) -> None:
    rig = rig_of(engines)
    manifest = engines.folder / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("  threshold: 0.5\n  min", "  threshold: 0.95\n  min"))
    other = pack.load(engines.folder)
    assert {part.threshold for part in other.manifest.segmenters} == {0.95}
    with Rig(rig.folder, other, rig.options).runtime() as runtime:
        stream = runtime.stream()
        stream.load([picture((1, 4, 5))])
        (patch,) = stream.segment(1, [0])
        assert patch.values.size == 0  # 240 of 255 is below


def test_a_torn_plan_is_refused(engines: Pack) -> None:
    rig = rig_of(engines)
    next((rig.folder / "segment_2").glob("*.plan")).write_bytes(b"torn")
    with pytest.raises(PackError, match=r"altered or is torn.*build"), rig.runtime():
        pass


def test_an_error_on_the_gpu_names_network_and_gpu_and_the_next_batch_is_not_hurt(engines: Pack) -> None:
    networks.swap(engines.folder, "gate", networks.failing_gate(TILE, 250))
    with rig_of(pack.load(engines.folder)).runtime() as runtime:
        stream = runtime.stream()
        stream.load([np.full(TILE, 251, dtype=np.uint8)])
        with pytest.raises(EngineError, match=r"network gate failed in TensorRT 0\.host on Host GPU: the GPU failed"):
            stream.gate()
        stream.load([np.full(TILE, 7, dtype=np.uint8)])
        assert stream.gate().tolist() == [0.25]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"batch": (2, 4, 8)}, "begin with 1"), ({"batch": (1, 9, 8)}, "must grow"), ({"devices": (1, 1)}, "twice")],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tensorrt.check(Options(**options))


@pytest.mark.skipif(_tensorrt.has_driver(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_nothing_is_imported_and_it_says_so(engines: Pack) -> None:
    for call in (lambda: tensorrt.check(Options()), tensorrt.open(Options(), engines).__enter__):
        with pytest.raises(ConfigError, match=r"(has no|needs an) NVIDIA driver"):
            call()
    assert "pycuda" not in sys.modules
    assert "tensorrt" not in sys.modules


def test_without_pycuda_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "has_driver", lambda: True)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(ConfigError, match=r"pycuda cannot be imported.*pip install 'inspector\[gpu\]'"):
        _cuda.require()


class Refused(Exception):
    """What pycuda raises."""


@pytest.mark.parametrize("where", ["push", "work", "pop"])
def test_whatever_the_driver_refuses_is_an_engine_error(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def step(name: str) -> None:
        said.append(name)
        if name == where:
            raise Refused(f"{name}: an illegal memory access was encountered")

    context = SimpleNamespace(push=lambda: step("push"), detach=lambda: None)
    gpu = SimpleNamespace(pci_bus_id=lambda: "0000:01:00.0", name=lambda: "GPU", retain_primary_context=lambda: context)
    driver = SimpleNamespace(Device=lambda index: gpu, Error=Refused, Context=SimpleNamespace(pop=lambda: step("pop")))
    monkeypatch.setattr(_cuda.ctypes, "CDLL", lambda name: None)
    device = _cuda.CudaDevice(driver, 0)
    with pytest.raises(EngineError, match=f"the GPU failed: {where}"), device.active():
        step("work")
    assert said == (["push"] if where == "push" else ["push", "work", "pop"])


def test_many_threads_with_slots_of_their_own_agree(engines: Pack) -> None:
    rig = rig_of(engines, HostRecorder(), mixed=1, slots=4, batch=[1, 2, 4])
    batches = [batch_of([picture((1 + (i + k) % 4, 3 * k, 5 * i)) for k in range(5)], engines) for i in range(4)]
    with onnx_runtime.open(onnx_runtime.Options(workers=1), engines) as ours:
        wanted = [judged(Cascade(engines, ours.stream(), 3), batch) for batch in batches]
    with rig.runtime() as runtime:
        found: dict[int, Found] = {}
        threads = [threading.Thread(target=_judge(runtime, engines, batches, found, i)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [found[i] for i in range(4)] == wanted


def _judge(
    runtime: TensorRtRuntime, engines: Pack, batches: list[Batch], found: dict[int, Found], index: int
) -> Callable[[], None]:
    def work() -> None:
        cascade = Cascade(engines, runtime.stream(), 3)
        for turn in range(4):
            own = (index + turn) % 4
            found[own] = judged(cascade, batches[own])

    return work


def test_the_cache_is_the_users_unless_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    assert isinstance(tensorrt.cuda_platform(Options()).cache, Cache)
    assert tensorrt.cuda_platform(Options()).cache.folder == tmp_path / "plans"
    assert tensorrt.cuda_platform(Options(cache=tmp_path / "own")).cache.folder == tmp_path / "own"
