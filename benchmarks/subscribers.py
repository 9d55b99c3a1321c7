"""What subscribers cost the line: frames a second with one, ten and a hundred more of them, one of which never reads.

    python benchmarks/subscribers.py               # about four minutes; the bar is a change of less than 2 %

One running line; slices with and without the crowd alternate, so that a ratio is taken between neighbours. The crowd
lives in one process of its own, but on the same cores: what it costs to receive is in the frames a second, and not the
line's to pay, so the line's own processor time a frame stands beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from bare import cores
from daemon import Spec, Tap, running
from machine import describe

from inspector.service import stopped_by_signals

PACK = Path(__file__).parent.parent / "engines" / "severstal"
LIMIT_S = 300.0

CROWD = """
import sys, threading, zmq
context = zmq.Context(io_threads=1)
for line in sys.stdin:
    count = int(line)
    sockets = [context.socket(zmq.SUB) for _ in range(count)]
    poller = zmq.Poller()
    for index, socket in enumerate(sockets):
        socket.linger = 0
        socket.connect(sys.argv[1])
        socket.subscribe(b"")
        if index:
            poller.register(socket, zmq.POLLIN)  # the first one never reads
    for socket in sockets[1:]:
        socket.recv_multipart()
    stop = threading.Event()
    def read():
        while not stop.wait(0 if count > 1 else 0.1):  # a poller of nothing would not wait
            for socket, _ in poller.poll(100):
                socket.recv_multipart()
    reader = threading.Thread(target=read)
    reader.start()
    print("there", flush=True)
    sys.stdin.readline()
    stop.set()
    reader.join()
    for socket in sockets:
        socket.close()
    print("gone", flush=True)
"""


class Crowd:
    """So many subscribers while the block runs."""

    def __init__(self, process: subprocess.Popen[str], count: int) -> None:
        self._process = process
        self._count = count

    def __enter__(self) -> Self:
        self._tell(str(self._count), "there")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell("", "gone")

    def _tell(self, text: str, answer: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(text, file=self._process.stdin, flush=True)
        if self._process.stdout.readline().strip() != answer:
            raise RuntimeError("the crowd has gone")


def main() -> int:
    """Exit code 0: everything ran, whatever the figures are."""
    asked = _arguments()
    spec = Spec(str(asked.pack), 256, 1600, asked.share / 100, 100, 1, cores(), 8)
    tap = Tap()
    with (
        stopped_by_signals(threading.Event()),
        tempfile.TemporaryDirectory() as folder,
        running(spec, Path(folder), tap.attach),
        subprocess.Popen(
            [sys.executable, "-c", CROWD, f"ipc://{folder}/events"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        tap.pass_frames(spec.prepared, LIMIT_S)
        found = [_compare(tap, process, count, asked.frames, asked.rounds) for count in asked.crowds]
        process.kill()
    if asked.json:
        asked.json.write_text(json.dumps({"machine": describe(), "rows": found}, indent=1) + "\n")
    return 0


def _compare(tap: Tap, process: subprocess.Popen[str], count: int, frames: int, rounds: int) -> dict[str, object]:
    walls: list[float] = []
    cpus: list[float] = []
    rates: list[float] = []
    for number in range(rounds):
        order = (True, False) if number % 2 else (False, True)
        took = {crowded: _slice(tap, process, count if crowded else 0, frames) for crowded in order}
        walls.append(took[False][0] / took[True][0])
        cpus.append(took[True][1] / took[False][1])
        rates.append(frames / took[True][0])
    wall, cpu = statistics.median(walls), statistics.median(cpus)
    print(
        f"{count:>4} more, one of them stalled: {statistics.median(rates):6.1f} frames/s, {wall:.3f} of that without "
        f"({min(walls):.3f}-{max(walls):.3f}); the line's own CPU a frame {cpu:.3f} times "
        f"({min(cpus):.3f}-{max(cpus):.3f})",
        flush=True,
    )
    return {"subscribers": count, "frames_per_s": rates, "ratio": wall, "ratios": walls, "cpu_ratio": cpu}


def _slice(tap: Tap, process: subprocess.Popen[str], count: int, frames: int) -> tuple[float, float]:
    """(wall seconds, the line's CPU seconds) for so many frames."""
    if not count:
        return _timed(tap, frames)
    with Crowd(process, count):
        return _timed(tap, frames)


def _timed(tap: Tap, frames: int) -> tuple[float, float]:
    before = time.process_time()
    return tap.pass_frames(frames, LIMIT_S), time.process_time() - before


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, default=PACK)
    parser.add_argument("--crowds", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--share", type=float, default=15.0, help="defective frames, percent (default: 15)")
    parser.add_argument("--frames", type=int, default=200, help="in each slice (default: 200)")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
