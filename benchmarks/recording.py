"""What recording costs: the capture thread's copy, the writer, the memory that waits for the disk; and raw replay.

    python benchmarks/recording.py --folder /data          # half a minute; the disk of --folder is what is measured

`paced` gives frames of 2048x256 at 125 frames/s (65 MB/s, what one GigE camera carries) and looks at the system's dirty
pages, with the disk led by the writer and left to itself; `free` gives them as fast as they come, so some find no room.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import describe

from inspector import pack
from inspector.cameras import _recording, replay
from inspector.coils import CoilMap
from inspector.config import Config, convert
from inspector.metrics import Metrics
from inspector.pool import Pool
from inspector.recording import Recording
from inspector.records import Frame

PACK = Path(__file__).parent.parent / "engines" / "severstal"
HEIGHT, WIDTH = 256, 2048


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each part runs")
    asked = parser.parse_args()
    print(json.dumps(describe()))
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        _show("paced", record(Path(folder) / "paced", asked.seconds, 125.0))
        _show("free", record(Path(folder) / "free", asked.seconds, None))
        for turn in ("from the disk", "from the cache"):
            print(f"replay {turn}: {play(Path(folder) / 'free'):,.0f} frames/s")
        _show("paced, the disk left to itself", record(Path(folder) / "plain", asked.seconds, 125.0, led=False))
    return 0


def record(folder: Path, seconds: float, rate: float | None, led: bool = True) -> dict[str, float]:
    """Frames through a tap and the writer of a line; returns figures."""
    if not led:
        _recording._Behind.written = lambda *_: None  # type: ignore[method-assign]
    made = _recording_of(folder)
    (tap,) = made.taps("a")
    made.open()
    stop = threading.Event()
    writer = threading.Thread(target=made.serve, args=[stop])
    writer.start()
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    before, started, copies, number = _dirty(), time.monotonic(), list[float](), 0
    dirty = 0.0
    spent = time.process_time()
    while (now := time.monotonic()) - started < seconds:
        if rate is not None and number / rate > now - started:
            time.sleep(0.001)
            continue
        begun = time.perf_counter()
        frame = Frame("a", number, time.time_ns(), time.monotonic_ns(), number * HEIGHT, pixels)
        tap.frame(frame)
        tap.taken(frame)
        copies.append(time.perf_counter() - begun)
        number += 1
        if number % 50 == 0:
            dirty = max(dirty, _dirty() - before)
        if rate is None:
            time.sleep(0.0005)
    stop.set()
    writer.join()
    spent, passed = time.process_time() - spent, time.monotonic() - started
    done = made._metrics.recorded_frames.labels("a")._value.get()
    return {
        "frames/s": done / passed,
        "MB/s": done * HEIGHT * WIDTH / passed / 1e6,
        "not recorded": number - done,
        "copy, ms": statistics.median(copies) * 1e3,
        "copy p99, ms": statistics.quantiles(copies, n=100)[98] * 1e3,
        "CPU a frame, ms": spent / number * 1e3,
        "dirty at most, MB": dirty,
    }


def play(folder: Path) -> float:
    """Frames a second of the replay camera alone."""
    pool, frames = Pool(4), 0
    with replay.open("a", replay.Options(sources=sorted((folder / "window" / "a").iterdir()))) as camera:
        started = time.perf_counter()
        while not camera.ended:
            item = camera.read(pool, 1.0)
            if isinstance(item, Frame):
                frames += 1
                item.release()
    return frames / (time.perf_counter() - started)


def _recording_of(folder: Path) -> Recording:
    raw = {
        "line": {"name": "bench"},
        "pack": str(PACK),
        "cameras": [{"name": "a", "kind": "synthetic"}],
        "journal": {"path": str(folder / "journal.db")},
        "recording": {"path": str(folder), "window_gb": 2.0},
    }
    config = convert(raw, Config)
    assert config.recording is not None
    say: Callable[[str, str, str], None] = lambda *_: None  # noqa: E731
    return Recording(config, config.recording, pack.load(PACK), CoilMap(), Metrics(process=False), say)


def _dirty() -> float:
    """Megabytes that wait for any disk."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return (found["Dirty"] + found["Writeback"]) / 1e3


def _show(name: str, figures: dict[str, float]) -> None:
    print(f"{name}: " + ", ".join(f"{value:,.2f} {key}" for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
