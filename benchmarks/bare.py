"""The bare loop that the daemon is measured against: the same network calls on the same frames, and nothing else.

Which calls those are is settled beforehand, with the daemon's own parts and the pack's thresholds; the script then
holds the daemon's own counters against them, so that both sides did the same work to the call.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnxruntime

from inspector import preprocess
from inspector.cameras import synthetic
from inspector.config import EdgeConfig
from inspector.flatfield import FlatField
from inspector.pack import Pack
from inspector.pool import Pool
from inspector.records import Frame, Pixels


@dataclass(frozen=True)
class Step:
    """One tile and the networks that see it; the pixels are ready for a session: uint8 [1, 1, H, W]."""

    pixels: Pixels
    calls: tuple[str, ...]


Work = list[list[Step]]
"""For each frame its steps."""


@dataclass(frozen=True)
class Variant:
    """A way to run the loop: so many Python threads, and so many threads inside each network."""

    threads: int
    inside: int

    @property
    def name(self) -> str:
        return f"{self.threads} x {self.inside}"


def variants(cores: int) -> list[Variant]:
    """One thread for each core first; then one network over all cores. With one core they are the same."""
    return list(dict.fromkeys([Variant(cores, 1), Variant(1, cores)]))


def prepare(options: synthetic.Options, pack: Pack, edges: EdgeConfig, flat_field: FlatField | None) -> Work:
    """The frames of a camera with these options, once round its prepared strip, and the calls each of them takes."""
    sessions = load(pack, 1)
    work: Work = []
    pool = Pool(1)
    with synthetic.open("bare", options) as camera:
        for _ in range(options.prepared_frames):
            frame = camera.read(pool, 60.0)
            assert isinstance(frame, Frame)
            if flat_field is not None:
                flat_field.correct(frame.pixels)
            roi = preprocess.find_edges(frame.pixels, edges)
            tiles = preprocess.cut(frame.pixels, roi, pack.manifest.tile, 0)
            work.append([_step(tile.pixels.copy()[None, None], sessions, pack) for tile in tiles])
            frame.release()
    return work


def _step(pixels: Pixels, sessions: dict[str, onnxruntime.InferenceSession], pack: Pack) -> Step:
    manifest, feed = pack.manifest, {"frames": pixels}
    calls = ["gate"]
    if sessions["gate"].run(None, feed)[0][0] >= manifest.gate.threshold:
        calls.append("types")
        scores = sessions["types"].run(None, feed)[0][0]
        named = zip(manifest.classes, scores, strict=True)
        calls += [f"segment_{c.number}" for c, score in named if score >= np.float32(manifest.types.floors[c.number])]
    return Step(pixels, tuple(calls))


def calls(work: Work) -> Counter[str]:
    """How often each network is called once round."""
    return Counter(name for steps in work for step in steps for name in step.calls)


def load(pack: Pack, inside: int) -> dict[str, onnxruntime.InferenceSession]:
    """Sessions with `inside` threads each. They spin when there are several: that is onnxruntime's fast setting."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = inside
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    return {
        name: onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
        for name, (file, _) in pack.networks().items()
    }


class Bare:
    """The loop of one variant, warm."""

    def __init__(self, pack: Pack, variant: Variant) -> None:
        self.variant = variant
        self._sessions = load(pack, variant.inside)
        pixels = np.zeros((1, 1, pack.manifest.tile.height, pack.manifest.tile.width), dtype=np.uint8)
        for session in self._sessions.values():
            session.run(None, {"frames": pixels})

    def run(self, work: Work, frames: int) -> tuple[float, float]:
        """Wall seconds and CPU seconds for `frames` frames, round and round `work`."""
        ticket = itertools.count()
        loops = range(self.variant.threads)
        threads = [threading.Thread(target=self._loop, args=(work, frames, ticket)) for _ in loops]
        cpu, start = time.process_time(), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start, time.process_time() - cpu

    def _loop(self, work: Work, frames: int, ticket: itertools.count[int]) -> None:
        while (number := next(ticket)) < frames:
            for step in work[number % len(work)]:
                feed = {"frames": step.pixels}
                for name in step.calls:
                    self._sessions[name].run(None, feed)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
