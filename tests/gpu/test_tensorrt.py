"""The TensorRT runtime on a real GPU. Everything here is skipped without one; tests/unit/test_tensorrt.py has the rest.

INSPECTOR_GPU_LIBRARY=rtx runs it with TensorRT-RTX.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from build_engines import build as plans
from build_engines import compare, datasets, synthesize
from build_engines.compare import Tolerance
from build_engines.judging import batch_of
from inspector import pack as packs
from inspector.cascade import Cascade
from inspector.config import Config, convert
from inspector.errors import ConfigError
from inspector.pack import Pack
from inspector.pipeline import build
from inspector.plans import Cache
from inspector.pool import Pool
from inspector.records import Batch
from inspector.runtimes import _cuda, _graphs, onnx, tensorrt
from inspector.runtimes._frames import FRAMES, address_of
from inspector.runtimes._tensorrt import Target
from inspector.runtimes.tensorrt import Options, TensorRtRuntime

ENGINES = Path(__file__).parents[2] / "engines"
PACKS = sorted(path.parent for path in ENGINES.glob("*/manifest.yaml"))
LIBRARY: Any = os.environ.get("INSPECTOR_GPU_LIBRARY", "tensorrt")
COUNT = 48
ROOM_MB = 64
"""The driver keeps some memory once a library was loaded."""


def _missing() -> str:
    try:
        tensorrt.check(Options(library=LIBRARY))
    except ConfigError as error:
        return str(error)
    return ""


WHY = _missing()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(WHY), reason=WHY or "there is a GPU")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module", params=PACKS, ids=lambda folder: folder.name)
def pack(request: pytest.FixtureRequest, cache: Path) -> Pack:
    """A shipped pack whose plans are built."""
    pack = packs.load(request.param)
    library, (gpu, driver) = plans.choose(LIBRARY, False)
    target = Target(gpu, driver, "fp16", Options().batch)
    assert [each.network for each in plans.build(pack, library, target, Cache(cache), lambda _: None)]
    return pack


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    synthesize.write(synthesize.strip_frames(1, COUNT, 1600), folder)
    return folder


@pytest.fixture(scope="module")
def frames(data: Path, pack: Pack) -> list[Batch]:
    """Each frame as a batch of its own."""
    return [batch_of(sample, n, pack.manifest) for n, sample in enumerate(datasets.read(data))]


def options(cache: Path, **more: Any) -> Options:
    return Options(library=LIBRARY, cache=cache, **more)


@pytest.fixture(scope="module")
def runtime(pack: Pack, cache: Path) -> Iterator[TensorRtRuntime]:
    with tensorrt.open(options(cache), pack) as opened:
        yield opened


def together(parts: list[Batch]) -> Batch:
    """Batches of one frame as one."""
    tiles = [replace(tile, frame=place) for place, part in enumerate(parts) for tile in part.tiles]
    return Batch(0, [p.frames[0] for p in parts], [p.rois[0] for p in parts], tiles)


def events(cascade: Cascade, frames: list[Batch], size: int) -> list[Any]:
    """What the cascade says of every frame, to the bit, in batches of so many."""
    found = []
    for start in range(0, len(frames), size):
        for verdict in cascade.judge(together(frames[start : start + size])).verdicts:
            parts = [(r.class_number, r.x, r.y, r.mask.tobytes(), r.area_px) for r in verdict.regions]
            found.append((verdict.frame.sequence, parts))
    return found


def test_every_network_says_what_onnx_says(pack: Pack, cache: Path, data: Path) -> None:
    found = compare.compare(
        pack,
        datasets.read(data),
        lambda given: onnx.open(onnx.Options(workers=1), given),
        lambda given: tensorrt.open(options(cache, slots=1), given),
        Tolerance(changed=2 / COUNT),  # half precision flips a class now and then; the benchmark says how often
    )
    print("\n".join(compare.rows(found)))
    assert found.faults == []


def test_the_same_frames_give_the_same_events_whatever_the_batch(
    pack: Pack, runtime: TensorRtRuntime, frames: list[Batch]
) -> None:
    cascade = Cascade(pack, runtime.stream(), 12)
    whole = events(cascade, frames, 8)
    for size in (1, 3, 20):
        assert events(cascade, frames, size) == whole


def test_graphs_change_nothing(pack: Pack, cache: Path, frames: list[Batch]) -> None:
    found = []
    for graphs in (True, False):
        with tensorrt.open(options(cache, slots=1, cuda_graphs=graphs), pack) as opened:
            cascade = Cascade(pack, opened.stream(), 12)
            found.append([events(cascade, frames, 8) for _ in range(3)])
    assert found[0][0] == found[0][1] == found[0][2] == found[1][0]


def test_cuda_bindings_records(pack: Pack, cache: Path, frames: list[Batch], caplog: pytest.LogCaptureFixture) -> None:
    if _graphs.recorder() is None:
        pytest.skip("cuda-bindings is not installed")
    with tensorrt.open(options(cache, slots=1), pack) as opened:
        events(Cascade(pack, opened.stream(), 12), frames, 8)
    assert "without CUDA graphs" not in caplog.text


def test_slots_side_by_side_agree(pack: Pack, runtime: TensorRtRuntime, frames: list[Batch]) -> None:
    wanted = events(Cascade(pack, runtime.stream(), 12), frames, 8)
    found: dict[int, list[Any]] = {}

    def work(number: int) -> None:
        cascade = Cascade(pack, runtime.stream(), 12)
        found[number] = [events(cascade, frames, 5 + number) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(each == wanted for number in range(3) for each in found[number])


def test_a_frame_of_the_pool_is_read_where_it_lies(pack: Pack, runtime: TensorRtRuntime, frames: list[Batch]) -> None:
    tile = pack.manifest.tile
    slot = Pool(1, runtime.allocate).take(tile.height, tile.width, 0.0)
    assert slot is not None
    assert FRAMES.holds(address_of(slot.pixels), slot.pixels.nbytes)
    stream = runtime.stream()
    for batch in frames[:4]:
        stream.load([batch.tiles[0].pixels])
        wanted = stream.gate().tolist()
        slot.pixels[:] = batch.tiles[0].pixels
        stream.load([slot.pixels])
        assert stream.gate().tolist() == wanted


def test_device_memory_is_given_back(pack: Pack, cache: Path, frames: list[Batch]) -> None:
    (device,) = _cuda.devices([0])
    used = []
    for _ in range(4):
        with tensorrt.open(options(cache), pack) as opened:
            events(Cascade(pack, opened.stream(), 12), frames, 8)
        with device.active():
            used.append(device.used_bytes())
    device.close()
    assert used[-1] - used[0] <= ROOM_MB * 1e6, used


def test_the_books_of_a_line_on_the_gpu_balance(pack: Pack, cache: Path, tmp_path: Path) -> None:
    raw = {
        "line": {"name": "gpu", "when_full": "wait"},
        "pack": str(pack.folder),
        "cameras": [
            {"name": name, "kind": "synthetic", "options": {"frames": 100, "pace": "free", "seed": seed}}
            for seed, name in enumerate(["top", "bottom"])
        ],
        "runtime": {"kind": "tensorrt", "options": {"library": LIBRARY, "cache": str(cache)}},
        "journal": {"path": str(tmp_path / "journal.db")},
        "monitor": None,
    }
    with build(convert(raw, Config)) as line:
        assert line.crew.join(300) == []
        assert line.crew.failure is None
        totals = line.ledger.totals()
    assert {name: (books.issued, books.inspected) for name, books in totals.items()} == {
        "top": (100, 100),
        "bottom": (100, 100),
    }
