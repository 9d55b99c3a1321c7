"""The bare engines that the line on a GPU is measured against: the same networks on the same frames, back to back.

Which tiles each network sees is settled beforehand, by the daemon's own cascade. Then the batches go through two
slots in turn, without a look at what any network says and without a copy back: nothing that asks the gate first can
be faster on this GPU with these plans.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inspector import preprocess
from inspector.cameras import synthetic
from inspector.cascade import Cascade
from inspector.config import EdgeConfig, GradingConfig
from inspector.pack import Pack
from inspector.pool import Pool
from inspector.records import Batch, Frame, Pixels, Roi
from inspector.runtimes import Patch, Stream
from inspector.runtimes._slot import Slot
from inspector.runtimes.tensorrt import TensorRtRuntime

Wanted = dict[str, list[int]]
"""Network -> the tiles of a batch that it sees."""


@dataclass
class Noted:
    """A stream that notes what its networks are asked."""

    stream: Stream
    wanted: Wanted = field(default_factory=dict)

    def load(self, tiles: Sequence[Pixels]) -> None:
        self.wanted = {"gate": list(range(len(tiles)))}
        self.stream.load(tiles)

    def gate(self) -> NDArray[np.float32]:
        return self.stream.gate()

    def types(self, indices: Sequence[int]) -> NDArray[np.float32]:
        self.wanted["types"] = list(indices)
        return self.stream.types(indices)

    def expect(self, wanted: Mapping[int, Sequence[int]]) -> None:
        self.wanted |= {f"segment_{number}": list(indices) for number, indices in wanted.items()}
        self.stream.expect(wanted)

    def segment(self, class_number: int, indices: Sequence[int]) -> Sequence[Patch]:
        return self.stream.segment(class_number, indices)


@dataclass(frozen=True)
class Work:
    """A batch whose frames lie where a camera would have put them, and what is asked of it."""

    batch: Batch
    tiles: list[Pixels]
    wanted: Wanted


def painted(options: synthetic.Options, runtime: TensorRtRuntime, count: int) -> list[Frame]:
    """Frames of a camera in memory that the GPU reads by itself."""
    pool = Pool(count, runtime.allocate)
    frames = []
    with synthetic.open("bare", options) as camera:
        while len(frames) < count:
            frame = camera.read(pool, 60.0)
            assert isinstance(frame, Frame)
            frames.append(frame)
    return frames


def prepare(frames: list[Frame], pack: Pack, edges: EdgeConfig, size: int, stream: Stream) -> list[Work]:
    """The batches of these frames and what the cascade asks of each."""
    noted = Noted(stream)
    cascade = Cascade(pack, noted, GradingConfig().merge_px)
    works = []
    for start in range(0, len(frames), size):
        part = frames[start : start + size]
        rois: list[Roi] = [preprocess.find_edges(frame.pixels, edges) for frame in part]
        tiles = [t for i, f in enumerate(part) for t in preprocess.cut(f.pixels, rois[i], pack.manifest.tile, i)]
        batch = Batch(len(works), part, rois, tiles)
        noted.wanted = {}
        cascade.judge(batch)
        works.append(Work(batch, [tile.pixels for tile in tiles], noted.wanted))
    return works


class Bare:
    """The loop, warm: two slots of a runtime of its own."""

    def __init__(self, runtime: TensorRtRuntime) -> None:
        self.slots = [runtime.stream(), runtime.stream()]

    def run(self, works: Sequence[Work], frames: int) -> float:
        """Seconds for so many frames, round and round the works, two batches in flight."""
        done, turn = 0, 0
        start = time.perf_counter()
        while done < frames:
            work, slot = works[turn % len(works)], self.slots[turn % 2]
            slot.settle()
            slot.blind(work.tiles, work.wanted)
            done, turn = done + len(work.batch.frames), turn + 1
        for slot in self.slots:
            slot.settle()
        return time.perf_counter() - start

    def branch_ms(self, work: Work, repeats: int) -> dict[str, float]:
        """What it costs to ask before going on, milliseconds a batch: median with asking less median without."""
        asked: dict[str, Callable[[Slot], object]] = {
            "types": lambda slot: (slot.gate(), slot.types(work.wanted["types"])),
        }
        numbers = {int(name.removeprefix("segment_")): tiles for name, tiles in work.wanted.items() if "_" in name}
        if numbers:
            asked["types and segmenters"] = lambda slot: (
                slot.gate(),
                slot.types(work.wanted["types"]),
                slot.expect(numbers),
                [slot.segment(number, tiles) for number, tiles in numbers.items()],
            )
        found = {}
        for name, ask in asked.items():
            same = {k: v for k, v in work.wanted.items() if "segmenters" in name or not k.startswith("segment_")}
            slot = self.slots[0]
            with_asking = _median(lambda slot=slot, ask=ask: (slot.load(work.tiles), ask(slot)), repeats)
            without = _median(lambda slot=slot, same=same: (slot.blind(work.tiles, same), slot.settle()), repeats)
            branches = 2 if "segmenters" in name else 1
            found[name] = (with_asking - without) * 1e3 / branches
        return found


def _median(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
