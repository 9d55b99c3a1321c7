"""What a GenTL camera costs the daemon's other threads: a ticker's lateness beside it, in its process and in ours.

    python benchmarks/gentl.py                    # half a minute

One thread sleeps 0.5 ms over and over and notes how late it wakes; the other reads TLSimu, 2048x256, about 180 frames
a second. `alone`: nobody reads. `inspector`: the `gentl` camera, whose producer runs in a process of its own.
`harvesters`: its fetch() in a thread of this process, as its manual shows it, with the one copy that a line needs.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harvesters.core import Harvester
from machine import describe

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests/ knows the simulator

from inspector.pool import Pool
from inspector.records import Frame
from tests.gentl import TLSIMU, made

TICK_S = 0.0005
WIDTH, HEIGHT = 2048, 256
BUFFERS = 16

Read = Callable[[threading.Event], int]


def nobody(stop: threading.Event) -> int:
    """The machine's own lateness."""
    stop.wait()
    return 0


def in_its_own(stop: threading.Event) -> int:
    """The camera as the capture thread reads it."""
    frames, pool = 0, Pool(4)
    with made(width_px=WIDTH, height_px=HEIGHT, buffers=BUFFERS) as camera:
        while not stop.is_set():
            item = camera.read(pool, 0.25)
            if isinstance(item, Frame):
                frames += 1
                item.release()
    return frames


def in_ours(stop: threading.Event) -> int:
    """The package's own way."""
    frames, pool = 0, Pool(4)
    harvester = Harvester()
    harvester.add_file(str(TLSIMU))
    harvester.update()
    camera = harvester.create({"serial_number": "SN_InterfaceA_0"})
    camera.remote_device.node_map.Width.value, camera.remote_device.node_map.Height.value = WIDTH, HEIGHT
    camera.num_buffers = BUFFERS
    camera.start()
    while not stop.is_set():
        with camera.fetch(timeout=3) as buffer:
            image = buffer.payload.components[0]
            slot = pool.take(image.height, image.width, 0.0)
            assert slot is not None
            np.copyto(slot.pixels, image.data.reshape(image.height, image.width))
            slot.release()
            frames += 1
    camera.destroy()
    harvester.reset()
    return frames


def lateness(read: Read, seconds: float) -> tuple[float, list[float]]:
    """Frames a second, and how much later than asked each tick came, milliseconds."""
    stop, late, frames = threading.Event(), list[float](), list[int]()
    thread = threading.Thread(target=lambda: frames.append(read(stop)))
    thread.start()
    time.sleep(1.5)  # until it is open and runs
    end = time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        time.sleep(TICK_S)
        late.append((time.perf_counter() - before - TICK_S) * 1000)
    stop.set()
    thread.join()
    return frames[0] / (seconds + 1.5), late


def main() -> None:
    """Prints a table for docs/cameras.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each row")
    seconds = parser.parse_args().seconds
    logging.disable(logging.WARNING)
    print(describe())
    print("\n| beside | frames/s | tick late, ms: median | 99 % | worst |\n|---|---|---|---|---|")
    for name, read in (("alone", nobody), ("inspector", in_its_own), ("harvesters", in_ours)):
        rate, late = lateness(read, seconds)
        cuts = statistics.quantiles(late, n=100)
        print(f"| {name} | {rate:.0f} | {statistics.median(late):.2f} | {cuts[98]:.2f} | {max(late):.1f} |", flush=True)


if __name__ == "__main__":
    main()
