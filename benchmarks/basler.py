"""Four emulated Basler cameras in one process: is every frame accounted for, do memory, threads and files stay?

    python benchmarks/basler.py                  # ten minutes of 4 x 100 frames/s of 2048 x 256
    python benchmarks/basler.py --seconds 30
    python benchmarks/basler.py --seconds 0      # only the ratio to a bare pypylon loop

Each camera runs as in the daemon: a capture worker fills slots of a pool and a channel; one more worker releases the
frames. `in the driver` is what pylon's own counter has seen and nobody has read yet when the run ends: it must lie
between 0 and `buffers`. Then one camera runs as fast as it can, in turn with a loop of pypylon's calls alone that
copies each image; the emulation makes a frame in about 70 microseconds, so this ratio is of overheads, not of a line.

Exit code 1: a frame is unaccounted for, or threads or files were left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

os.environ.setdefault("PYLON_CAMEMU", "4")

import numpy as np
from machine import cpu_by_thread, describe, memory_mb, spent_since

from inspector.cameras import basler
from inspector.cameras._pylon import Failed, pylon, shut
from inspector.capture import Capture
from inspector.channel import Channel
from inspector.ledger import Ledger
from inspector.metrics import Metrics
from inspector.pool import Pool
from inspector.records import Frame
from inspector.worker import Crew, Worker

CAMERAS = int(os.environ["PYLON_CAMEMU"])
HEIGHT, WIDTH, RATE = 256, 2048, 100.0
BUFFERS, SLOTS = 16, 8
WARM_S = 15.0
"""Before memory is looked at for the first time."""
ROUNDS, SLICE_S = 7, 1.0
REST_S = 1.0
"""Until threads that were told to end are gone."""


class Release:
    """The rest of the line: it gives the frames back."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def wait_s(self) -> float:
        return 0.5

    def work(self, item: Frame | None) -> Iterable[Any]:
        if item is not None:
            item.release()
            self._ledger.inspect(item.camera, 1)
        return ()

    def finish(self) -> Iterable[Any]:
        return ()


def camera(number: int, rate: float | None) -> basler.BaslerCamera:
    """An emulated camera, as from the YAML; `rate` None: as fast as it can."""
    free: dict[str, Any] = {"AcquisitionFrameRateEnable": False}
    options = basler.Options(
        device_class="BaslerCamEmu",
        serial=f"0815-{number:04}",
        width_px=WIDTH,
        height_px=HEIGHT,
        exposure_time_us=100.0,
        acquisition_frame_rate_hz=rate,
        buffers=BUFFERS,
        features=free if rate is None else {},
    )
    return basler.open(f"camera-{number}", options)


@dataclass
class Line:
    """Cameras, capture workers, a channel and the worker that releases."""

    cameras: list[basler.BaslerCamera]
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.names = [f"camera-{number}" for number in range(len(self.cameras))]
        self.ledger, metrics = Ledger(self.names), Metrics(process=False)
        self.pool = _touched(SLOTS * len(self.cameras))
        frames: Channel[Frame] = Channel(SLOTS, writers=len(self.cameras))
        self.states: list[tuple[str, str, str]] = []
        workers = [
            Worker(f"capture-{name}", self._capture(name, one, metrics), None, frames, metrics.stage("capture"))
            for name, one in zip(self.names, self.cameras, strict=True)
        ]
        self.crew = Crew([*workers, Worker("release", Release(self.ledger), frames)], self.stop.set)

    def _capture(self, name: str, one: basler.BaslerCamera, metrics: Metrics) -> Capture:
        def state(*said: str) -> None:
            self.states.append((said[0], said[1], said[2]))

        return Capture(name, one, self.pool, self.ledger, self.stop, metrics.camera(name), state)

    def inspected(self) -> int:
        return sum(books.inspected for books in self.ledger.totals().values())

    def driver_counts(self) -> dict[str, int]:
        """Frames that pylon has seen since the cameras were opened, by its own counter."""
        return {name: _driver_count(one) for name, one in zip(self.names, self.cameras, strict=True)}

    def end(self) -> None:
        self.stop.set()
        hanging = self.crew.join(30.0)
        if hanging or self.crew.failure is not None:
            raise RuntimeError(f"the line did not end: {hanging} {self.crew.failure}")


def _touched(slots: int) -> Pool:
    """A pool whose memory is all there from the start, as a late reader would have it sooner or later."""
    pool = Pool(slots)
    taken = [pool.take(HEIGHT, WIDTH, 0.0) for _ in range(slots)]
    for slot in taken:
        assert slot is not None
        slot.pixels[:] = 0
        slot.release()
    return pool


def _driver_count(one: basler.BaslerCamera) -> int:
    grab = one._grab
    if grab is None:
        return 0
    return int(grab._device.GetStreamGrabberNodeMap().GetNode("Statistic_Total_Buffer_Count").GetValue())


def left() -> dict[str, int]:
    """Threads, pylon's too, and open files of this process."""
    return {"threads": len(os.listdir("/proc/self/task")), "files": len(os.listdir("/proc/self/fd"))}


def steady(seconds: float, every_s: float) -> dict[str, Any]:
    """All cameras at their pace."""
    _warm_up()
    idle = left()
    line = Line([camera(number, RATE) for number in range(CAMERAS)])
    line.crew.start()
    time.sleep(min(WARM_S, seconds / 2))
    rows, start, before = [_row(line, 0.0)], time.monotonic(), cpu_by_thread()
    while (passed := time.monotonic() - start) < seconds and line.crew.alive:
        time.sleep(min(every_s, seconds - passed))
        rows.append(_row(line, time.monotonic() - start))
        print("  " + ", ".join(f"{key} {value:g}" for key, value in rows[-1].items()), flush=True)
    spent = spent_since(before, cpu_by_thread())
    issued = line.ledger.issued()
    driver = line.driver_counts()
    line.end()
    frames = rows[-1]["frames"] - rows[0]["frames"]
    return {
        "seconds": rows[-1]["seconds"],
        "rows": rows,
        "cameras": [_account(line, name, driver[name] - issued[name]) for name in line.names],
        "cpu_us_a_frame": sum(spent.values()) / max(1, frames) * 1e6,
        "idle_before": idle,
        "idle_after": left(),
        "states": line.states,
    }


def _warm_up() -> None:
    """What Python and pylon load once and for all is not a leak."""
    line = Line([camera(number, RATE) for number in range(CAMERAS)])
    line.crew.start()
    while line.inspected() < CAMERAS * 10 and line.crew.alive:
        time.sleep(0.05)
    line.end()
    time.sleep(REST_S)


def _row(line: Line, passed: float) -> dict[str, float]:
    return {"seconds": round(passed, 1), "frames": line.inspected(), "rss_mb": round(memory_mb()["now"], 1), **left()}


def _account(line: Line, name: str, in_driver: int) -> dict[str, Any]:
    books = line.ledger.totals()[name]
    lost = sum(books.lost.values())
    return {
        "camera": name,
        "issued": books.issued,
        "inspected": books.inspected,
        "lost": {str(reason): count for reason, count in books.lost.items()},
        "unaccounted": books.issued - books.inspected - lost,
        "in_driver": in_driver,
    }


# ---------------------------------------------------------------- against a bare loop


def ratio() -> dict[str, Any]:
    """Frames a second of one camera as fast as it can: the line, and pypylon alone, in turn.

    Once in some 100,000 frames of the emulation that nothing paces, pylon says that it has a result, finds none and
    stops grabbing, in either loop; such a round is taken again.
    """
    ours, bare = [], []
    while len(ours) < ROUNDS:
        one, other = _bare(), _ours()
        if one is not None and other is not None:
            bare.append(one)
            ours.append(other)
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    return {
        "line": statistics.median(ours),
        "bare": statistics.median(bare),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def _ours() -> float | None:
    line = Line([camera(0, None)])
    line.crew.start()
    while not line.inspected() and line.crew.alive:
        time.sleep(0.01)
    first, start = line.inspected(), time.perf_counter()
    time.sleep(SLICE_S)
    rate = (line.inspected() - first) / (time.perf_counter() - start)
    line.end()
    return rate if len(line.states) == 1 else None


def _bare() -> float | None:
    """pypylon's own example, with the copy that a line needs."""
    info = pylon.DeviceInfo()
    info.SetDeviceClass("BaslerCamEmu")
    info.SetSerialNumber("0815-0000")
    device = pylon.InstantCamera(pylon.TlFactory.GetInstance().CreateDevice(info))
    device.Open()
    for name, value in (("Width", WIDTH), ("Height", HEIGHT), ("ExposureTimeAbs", 100.0)):
        getattr(device, name).Value = value
    device.AcquisitionFrameRateEnable.Value = False
    device.MaxNumBuffer.Value = BUFFERS
    device.StartGrabbing(pylon.GrabStrategy_OneByOne)
    pixels, frames = np.empty((HEIGHT, WIDTH), dtype=np.uint8), 0
    start = time.perf_counter()
    try:
        while (passed := time.perf_counter() - start) < SLICE_S:
            with device.RetrieveResult(1000) as result:
                if result.GrabSucceeded():
                    pixels[:] = result.GetArray()
                    frames += 1
    except Failed:
        return None
    finally:
        shut(device)
    return frames / passed


# ---------------------------------------------------------------- the figures


def main() -> int:
    """Exit code 1: a frame is unaccounted for, or something was left behind."""
    asked = _arguments()
    found: dict[str, Any] = {"machine": describe(), "pylon": list(pylon.GetPylonVersion())}
    if asked.seconds > 0:
        found["steady"] = steady(asked.seconds, asked.every)
    found["free"] = ratio()
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(markdown(found))
    return 0 if "steady" not in found or _holds(found["steady"]) else 1


def _holds(run: dict[str, Any]) -> bool:
    accounted = all(one["unaccounted"] == 0 and 0 <= one["in_driver"] <= BUFFERS for one in run["cameras"])
    return accounted and all(run["idle_after"][key] <= count for key, count in run["idle_before"].items())


def markdown(found: dict[str, Any]) -> str:
    """The figures as tables for docs/performance.md."""
    machine = found["machine"]
    version = ".".join(map(str, found["pylon"]))
    parts = [f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, pylon {version} (emulation)."]
    if "steady" in found:
        parts += _steady(found["steady"])
    free = found["free"]
    spread = free["ratio"]
    parts.append(
        f"As fast as one camera can: {free['line']:,.0f} frames/s through capture and channel, {free['bare']:,.0f} in "
        f"a bare pypylon loop; ratio **{spread['median']:.3f}** ({spread['min']:.3f} to {spread['max']:.3f})."
    )
    return "\n\n".join(parts) + "\n"


def _steady(run: dict[str, Any]) -> list[str]:
    head = "| camera | frames issued | inspected | lost | unaccounted | in the driver |\n|---|---|---|---|---|---|"
    rows = [
        f"| {one['camera']} | {one['issued']:,} | {one['inspected']:,} | {sum(one['lost'].values())} "
        f"| **{one['unaccounted']}** | {one['in_driver']} |"
        for one in run["cameras"]
    ]
    looks = run["rows"]
    memory = [row["rss_mb"] for row in looks]
    slope = float(np.polyfit([row["seconds"] for row in looks], memory, 1)[0]) * 600
    frames = (looks[-1]["frames"] - looks[0]["frames"]) / max(1e-9, run["seconds"])
    counts = {key: sorted({row[key] for row in looks}) for key in ("threads", "files")}
    load = (
        f"{CAMERAS} cameras at {RATE:g} frames/s of {WIDTH} x {HEIGHT} for {run['seconds']:.0f} s: {frames:.1f} "
        f"frames/s in all, {run['cpu_us_a_frame']:.0f} us of CPU a frame (the emulation's own work in it)."
    )
    stays = (
        f"Resident memory {memory[0]:.1f} MB at the start, {memory[-1]:.1f} MB at the end ({min(memory):.1f} to "
        f"{max(memory):.1f}; a straight line through all looks: {slope:+.1f} MB in ten minutes); threads "
        f"{counts['threads']}, open files {counts['files']} throughout; idle before and after: {run['idle_before']}, "
        f"{run['idle_after']}."
    )
    return [load, "\n".join([head, *rows]), stays]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="length of the paced run; 0: none")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between looks at memory")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
