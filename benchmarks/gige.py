"""Frames a second of a GigE Vision camera through the daemon's capture against a bare Aravis loop; nothing inspected.

    python benchmarks/gige.py                     # two minutes; the bar is a ratio of 0.95
    python benchmarks/gige.py --drop 0 1 5        # so many per cent of the packets lost: is every frame accounted for?

Packets are real and run over the loopback of a private network, so it needs root, aravis-tools, and nft for --drop.
The camera (Aravis' simulator, a process of its own) and the client share the cores, and the camera sends as fast as
it can: whatever the client spends, the camera lacks. Turns of both sides alternate, because a machine drifts; a ratio
is taken within a round, and its median and range over the rounds are printed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aravis import Slice, bare
from machine import describe

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests/ has the simulator and the private network

from inspector.cameras import gige as adapter
from inspector.capture import Capture
from inspector.channel import Channel
from inspector.config import convert
from inspector.errors import ChannelClosed
from inspector.events import Reason
from inspector.ledger import Ledger
from inspector.metrics import Metrics
from inspector.pool import Pool
from inspector.records import Frame, Loss, WhenFull
from inspector.worker import Worker
from tests.gige import FakeCamera, private_network

BAR = 0.95
NAME = "benchmark"
QUEUE = 64
"""Frames that wait for the line at most, as in the daemon."""
FASTEST_HZ = 1000.0
"""The simulator's highest frame rate, beyond what two cores give at these sizes."""
FIRST_S = 10.0


@dataclass(frozen=True)
class Shape:
    """What the camera sends."""

    width: int
    height: int
    packet: int
    buffers: int
    rate_hz: float = FASTEST_HZ

    def options(self, address: str) -> adapter.Options:
        return convert(
            {
                "address": address,
                "width_px": self.width,
                "height_px": self.height,
                "acquisition_frame_rate_hz": self.rate_hz,
                "packet_size": self.packet,
                "buffers": self.buffers,
            },
            adapter.Options,
        )


class Line:
    """A camera, its capture and its channel as `pipeline.build` makes them; behind it frames are only released."""

    def __init__(self, shape: Shape, address: str) -> None:
        self.ledger = Ledger([NAME])
        self.metrics = Metrics(process=False)
        self.camera = adapter.open(NAME, shape.options(address))
        self.stop = threading.Event()
        self.released = 0
        self.failure = ""
        books = self.metrics.camera(NAME)
        capture = Capture(NAME, self.camera, Pool(QUEUE + 16), self.ledger, self.stop, books, self._hear)
        self._frames = Channel[Frame](QUEUE, WhenFull.DROP_OLDEST, on_drop=self._drop)
        self._worker = Worker("capture", capture, None, self._frames, self.metrics.stage("capture"))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Started, and its first frame here; afterwards everything that was on its way is released."""
        self._worker.start()
        try:
            if not self.take(FIRST_S):
                raise OSError(f"no frame for {FIRST_S:.0f} s: {self.failure or 'it is silent'}")
            yield
        finally:
            self.stop.set()
            while self._worker.alive or self._frames.statistics().queued:
                self.take(0.01)
            if self._worker.failure is not None:
                raise self._worker.failure

    def take(self, timeout_s: float) -> bool:
        """Release the next frame; False when none came."""
        try:
            frame = self._frames.get(timeout_s)
        except ChannelClosed:
            return False
        if frame is None:
            return False
        frame.release()
        self.released += 1
        return True

    def lost(self) -> dict[str, int]:
        return self.ledger.totals()[NAME].lost

    def _drop(self, frame: Frame) -> None:
        frame.release()
        self.ledger.lose(Loss(NAME, frame.sequence, 1, Reason.OVERLOAD))

    def _hear(self, part: str, state: str, detail: str) -> None:
        if state == "down":
            self.failure = detail


def captured(shape: Shape, address: str, seconds: float) -> Slice:
    """As `aravis.bare`, through capture and channel."""
    line = Line(shape, address)
    with line.running():
        before, lost = line.released, sum(line.lost().values())
        cpu, start = time.process_time(), time.perf_counter()
        now, end = start, start + seconds
        while now < end:
            if not line.take(1.0):
                raise OSError(f"no frame for a second: {line.failure or 'it is silent'}")
            now = time.perf_counter()
        frames, spent = line.released - before, time.process_time() - cpu
        lost = sum(line.lost().values()) - lost
    return Slice(frames, now - start, spent, lost)


# ---------------------------------------------------------------- throughput


def compare(shape: Shape, address: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Turns of both sides, the order changing every round."""
    sides = {
        "bare": lambda: bare(address, shape.height, shape.width, shape.rate_hz, shape.packet, shape.buffers, seconds),
        "capture": lambda: captured(shape, address, seconds),
    }
    slices: dict[str, list[Slice]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            slices[name].append(sides[name]())
    rates = {name: [s.frames / s.seconds for s in taken] for name, taken in slices.items()}
    row = {
        "width": shape.width,
        "height": shape.height,
        "packet_size": shape.packet,
        "frames_per_s": {name: _spread(values) for name, values in rates.items()},
        "ratio": _spread([c / b for c, b in zip(rates["capture"], rates["bare"], strict=True)]),
        "lost": {name: sum(s.lost for s in taken) for name, taken in slices.items()},
        "cpu_us_a_frame": {
            name: statistics.median(s.cpu_s / s.frames * 1e6 for s in taken) for name, taken in slices.items()
        },
    }
    print(_table_row(row), flush=True)
    return row


HEAD = (
    "| frame | packets | bare loop, frames/s | capture, frames/s | capture / bare (range) "
    "| CPU of the client a frame, bare and capture | lost, bare and capture |\n|---|---|---|---|---|---|---|"
)


def _table_row(row: dict[str, Any]) -> str:
    rates, ratio, cpu, lost = row["frames_per_s"], row["ratio"], row["cpu_us_a_frame"], row["lost"]
    return (
        f"| {row['width']}x{row['height']} | {row['packet_size']} B | {rates['bare']['median']:.0f} "
        f"| {rates['capture']['median']:.0f} | **{ratio['median']:.3f}** ({ratio['min']:.3f} to {ratio['max']:.3f}) "
        f"| {cpu['bare']:.0f} and {cpu['capture']:.0f} us | {lost['bare']} and {lost['capture']} |"
    )


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# ---------------------------------------------------------------- lost packets


def dropped(shape: Shape, address: str, network: Any, per_cent: float, seconds: float) -> dict[str, Any]:
    """One run with so many packets lost: what the camera sent, what came through, and what the books say."""
    line = Line(shape, address)
    with network.dropping(per_cent) as drops:
        with line.running():
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                line.take(1.0)
        came, gone = drops.packets
    books = line.ledger.totals()[NAME]
    lost = sum(books.lost.values())
    value = line.metrics.registry.get_sample_value
    row = {
        "per_cent": per_cent,
        "packets": came,
        "packets_dropped": gone,
        "packets_counted_lost": int(value("inspector_camera_packets_lost_total", {"camera": NAME}) or 0),
        "frames_sent": came / _packets(shape),
        "issued": books.issued,
        "released": line.released,
        "lost": dict(books.lost),
        "unaccounted": books.issued - line.released - lost,
    }
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(books.lost.items())) or "none"
    print(
        f"| {per_cent:g} % | {came:,} | {gone:,} | {row['packets_counted_lost']:,} | {books.issued:,} "
        f"| {line.released:,} | {reasons} | {row['unaccounted']} |",
        flush=True,
    )
    return row


DROP_HEAD = (
    "| dropped | packets sent | packets dropped | counted by the driver as lost | frames issued | delivered | lost "
    "| unaccounted |\n|---|---|---|---|---|---|---|---|"
)


def _packets(shape: Shape) -> int:
    """Of a frame: leader, data, trailer. Headers of IP, UDP and GVSP take 36 bytes of each."""
    return 2 + math.ceil(shape.height * shape.width / (shape.packet - 36))


# ---------------------------------------------------------------- the command


def main() -> int:
    """Exit code 0: everything ran and every frame is accounted for, whatever the other figures are."""
    asked = _arguments()
    logging.getLogger("inspector").setLevel(logging.ERROR)  # with lost packets it would tell of every frame
    found: dict[str, Any] = {"machine": describe()}
    machine = found["machine"]
    print(f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}\n")
    with private_network() as network, FakeCamera() as camera:
        if asked.drop:
            print(DROP_HEAD)
            width, height = asked.sizes[0]
            shape = Shape(width, height, asked.packets[0], asked.buffers, asked.rate)
            found["drop"] = [dropped(shape, camera.address, network, share, asked.seconds) for share in asked.drop]
        else:
            print(HEAD)
            found["rows"] = [
                compare(Shape(*size, packet, asked.buffers), camera.address, asked.rounds, asked.seconds)
                for size in asked.sizes
                for packet in asked.packets
            ]
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(row["unaccounted"] for row in found.get("drop", [])))


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sizes", type=_size, nargs="+", default=[(2048, 256), (1600, 256)], metavar="WxH", help="pixels of a frame")
    add("--packets", type=int, nargs="+", default=[9000, 1400], help="bytes of a packet")
    add("--buffers", type=int, default=16, help="frames that the driver can hold, on both sides")
    add("--rounds", type=int, default=5, help="turns of each side")
    add("--seconds", type=float, default=3.0, help="how long a turn takes, from its first frame on")
    add("--drop", type=float, nargs="+", metavar="PER_CENT", help="instead: the first size with packets lost")
    add("--rate", type=float, default=100.0, help="frames a second with --drop")
    add("--json", type=Path, metavar="FILE", help="write all figures there too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
