"""The daemon as a process for an hour under load, with a fault every minute: what grows, what is lost or not told?

    python benchmarks/soak.py                 # an hour; needs root, aravis-tools, iproute2 and a C compiler
    python benchmarks/soak.py --minutes 10    # a look
    python benchmarks/soak.py --rate 60       # frames a second over both cameras; else 80 % of what is measured first
    python benchmarks/soak.py --without "pack swapped"   # one pack all the time: a heap that nothing large moves

Two cameras (a synthetic one, and a GigE Vision one that really sends packets), a journal on a small disk, two
subscribers, the monitor scraped every few seconds. Faults by turns, one a minute: the GigE camera is killed with -9 and
comes back, a subscriber is stopped for a while, the journal's disk fills up, a pack is staged and swapped in, the wall
clock is stepped. At the end the daemon is asked to stop and the journal is audited.

Exit code 1: the books do not balance, an event did not reach the honest subscriber, the log has more warnings than the
counters, or the daemon did not end well. Growth is printed beside its bar: it is a figure, not a verdict.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from daemon import Spec, Tap, running
from machine import describe
from othered import othered

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests/ has the simulator, the private network and the daemon

from inspector.client import subscribe
from inspector.errors import StreamError
from inspector.journal import audit, read_events
from tests.gige import FakeCamera, private_network
from tests.line.daemon import Daemon, command

PACK = Path(__file__).parent.parent / "engines" / "severstal"
HEIGHT, WIDTH = 256, 1600
LOAD = 0.8
GIGE_SHARE = 0.1
"""Of the frames, so that a killed camera leaves most of the load."""
DISK_MB = 2000
LOOK_S = 5.0
FAULT_S = 60.0
BROKEN_S = 25.0
"""How long a camera is gone, a subscriber stopped, a disk full, a clock wrong."""
STEP_S = 3600
WARM_SHARE, WARM_S = 0.1, 180.0
"""Growth is taken after this share of the time, and not before so many seconds: the heap finds its size first."""
HEARD_S = 60.0
MEMORY = ("resident_mb", "private_mb")


@dataclass(frozen=True)
class Look:
    """The process at one moment."""

    at_s: float
    resident_mb: float
    private_mb: float
    """Of it what is the process's own: neither files, such as the packs', nor the journal's shared memory."""
    threads: int
    descriptors: int
    changing: bool
    """A change of the pack is under way: two are loaded."""


@dataclass
class Fault:
    """Something that goes wrong for a while."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], None] = lambda: None
    times: int = 0


def main() -> int:
    """See the head of the file."""
    asked = _arguments()
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        rate = asked.rate or LOAD * fastest(asked.share, folder)
        print(f"{rate:.1f} frames/s for {asked.minutes:g} minutes", flush=True)
        held.enter_context(private_network())
        disk = held.enter_context(small_disk(folder / "disk"))
        found = {"machine": describe(), **soak(asked, folder, disk, rate)}
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["problems"] else 0


def soak(asked: argparse.Namespace, folder: Path, disk: Path, rate: float) -> dict[str, Any]:
    """The figures of a whole run."""
    config, clock, journal = folder / "line.yaml", folder / "clock", disk / "line.db"
    config.write_text(yaml.safe_dump(line_of(folder, journal, rate, asked.share), sort_keys=False))
    clock.write_bytes(bytes(8))
    with (
        FakeCamera("127.0.0.1", "SOAK") as camera,
        Daemon(config, wrapper=_wrapped(clock)) as daemon,
        Honest(f"ipc://{folder}/events") as honest,
        listening(f"ipc://{folder}/events") as lazy,
    ):
        daemon.ready()
        faults = [
            Fault("camera killed", camera.kill, camera.restart),
            Fault("subscriber stalled", _signal(lazy, signal.SIGSTOP), _signal(lazy, signal.SIGCONT)),
            _full(disk),
            _swapped(config, folder),
            _stepped(clock),
        ]
        faults = [fault for fault in faults if fault.name not in asked.without]
        looks = follow(daemon, faults, asked.minutes * 60)
        counters = daemon.metrics()
        code = daemon.stop()
        missing = honest.missing(journal)
        proof = audit(journal)
    warnings = len(re.findall(r"^\S+ \S+ (?:WARNING|ERROR) ", daemon.stderr, re.MULTILINE))
    counted = sum(value for name, value in counters.items() if name.startswith("warnings_total"))
    problems = [f"books: {problem}" for problem in proof.problems]
    problems += [f"{missing} events did not reach the honest subscriber"] if missing else []
    problems += [f"the daemon ended with {code}"] if code else []
    problems += [f"{warnings} warnings in the log, {counted:.0f} counted"] if warnings > counted else []
    return {
        "frames_per_s": rate,
        "minutes": asked.minutes,
        "faults": {fault.name: fault.times for fault in faults},
        "growth": growth(looks),
        "issued": sum(books.issued for books in proof.books),
        "lost": {name: value for name, value in counters.items() if name.startswith("frames_lost_total") and value},
        "events": proof.events,
        "changes": {name: value for name, value in counters.items() if name.startswith("pack_changes_total") and value},
        "warnings": {name: value for name, value in counters.items() if name.startswith("warnings_total") and value},
        "problems": problems,
    }


# ---------------------------------------------------------------- the line


def fastest(share: float, folder: Path) -> float:
    """Frames a second of one synthetic camera without a clock."""
    spec = Spec(str(PACK), HEIGHT, WIDTH, share, 100, 1, len(os.sched_getaffinity(0)))
    tap = Tap()
    with tempfile.TemporaryDirectory(dir=folder) as own, running(spec, Path(own), tap.attach):
        tap.pass_frames(100, 600)
        return 300 / tap.pass_frames(300, 600)


@contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """A file system of its own, which may be filled without harm."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "soak", str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def line_of(folder: Path, journal: Path, rate: float, share: float) -> dict[str, Any]:
    """The YAML of a line such as a plant's."""
    synthetic = {
        "height_px": HEIGHT,
        "width_px": WIDTH,
        "line_rate_hz": rate * (1 - GIGE_SHARE) * HEIGHT,
        "prepared_frames": 200,
        "defective_share": share,
    }
    gige = {
        "address": "127.0.0.1",
        "height_px": HEIGHT,
        "width_px": WIDTH,
        "acquisition_frame_rate_hz": rate * GIGE_SHARE,
        "packet_size": 9000,
    }
    return {
        "line": {"name": "soak"},
        "pack": str(PACK),
        "cameras": [
            {"name": "top", "kind": "synthetic", "options": synthetic},
            {"name": "bottom", "kind": "gige", "silent_s": 2.0, "options": gige},
        ],
        "journal": {"path": str(journal), "keep_gb": None},
        "sinks": [{"kind": "zeromq", "options": {"address": f"ipc://{folder}/events"}}],
        "history": {"address": f"ipc://{folder}/history"},
        "control": {"address": f"ipc://{folder}/control"},
        "monitor": {"port": 0},
        # A change must be over before the next fault, and a machine that others use too must not send it back.
        "packs": {
            "shadow_frames": 50,
            "watch_frames": 50,
            "watch_s": 10.0,
            "shadow_share": 0.2,
            "time_factor": 100.0,
            "late_margin": 1.0,
        },
    }


class Honest:
    """A subscriber that keeps up, with the client library: it must get every event once."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ids: set[str] = set()
        self._done = False

    def __enter__(self) -> Honest:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True

    def _listen(self) -> None:
        with subscribe(self._address, since="beginning", max_lag_s=None) as events:
            while not self._done:
                with suppress(StreamError):
                    self._ids.add(next(events).id)

    def missing(self, journal: Path) -> int:
        """Events of the journal that have not come, once the last ones had time to."""
        deadline = time.monotonic() + HEARD_S
        while (left := {event.id for event in read_events(journal)} - self._ids) and time.monotonic() < deadline:
            time.sleep(1.0)
        return len(left)


@contextmanager
def listening(address: str) -> Iterator[subprocess.Popen[bytes]]:
    """`inspector listen`, to be stopped and let go on."""
    words = [sys.executable, "-m", "inspector", "listen", address]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


# ---------------------------------------------------------------- faults


def _signal(process: subprocess.Popen[bytes], number: int) -> Callable[[], None]:
    return lambda: process.send_signal(number)


def _full(disk: Path) -> Fault:
    ballast = disk / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):  # the daemon writes too: what is free is known only when it is gone
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    return Fault("disk full", fill, lambda: ballast.unlink(missing_ok=True))


def _swapped(config: Path, folder: Path) -> Fault:
    """The shipped pack and one of another version, by turns."""
    other = othered(PACK, folder / "other", lambda manifest: manifest.update(version="0.0.1"))
    turns = itertools.cycle([other, PACK])

    def stage() -> None:
        done = command("packs", "stage", next(turns), config)
        if done.returncode:
            print(f"packs stage: {done.stderr.strip()}", file=sys.stderr)

    return Fault("pack swapped", stage)


def _wrapped(clock: Path) -> list[str]:
    """A command under which the wall clock can be stepped; the monotonic one, by which it waits, is left alone."""
    library = clock.with_suffix(".so")
    source = Path(__file__).with_name("wrongclock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return ["env", f"WRONGCLOCK={clock}", f"LD_PRELOAD={library}"]


def _stepped(clock: Path) -> Fault:
    return Fault("clock stepped", lambda: _step(clock, STEP_S), lambda: _step(clock, 0))


def _step(clock: Path, seconds: int) -> None:
    with clock.open("r+b") as file:  # in place: it is mapped
        file.write(struct.pack("=q", seconds))


# ---------------------------------------------------------------- the run


def follow(daemon: Daemon, faults: list[Fault], seconds: float) -> list[Look]:
    """Look every few seconds, break something every minute and mend it again."""
    start = time.monotonic()
    looks: list[Look] = []
    turns = itertools.cycle(faults)
    broken: Fault | None = None
    turn_at = start + FAULT_S / 2
    while (now := time.monotonic()) - start < seconds:
        if broken is None and now >= turn_at:
            broken = next(turns)
            broken.times += 1
            broken.begin()
        elif broken is not None and now >= turn_at + BROKEN_S:
            broken.end()
            broken, turn_at = None, turn_at + FAULT_S
        metrics = daemon.metrics()
        looks.append(look(daemon, now - start, metrics["pack_change_phase{phase=idle}"] != 1))
        _print(looks[-1], broken, metrics)
        time.sleep(LOOK_S)
    if broken is not None:
        broken.end()
    return looks


def look(daemon: Daemon, at_s: float, changing: bool) -> Look:
    """What the kernel says of the daemon."""
    process = Path(f"/proc/{daemon.pid}")
    lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    descriptors = len(list((process / "fd").iterdir()))
    resident, private = (int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon"))
    return Look(at_s, resident, private, int(lines["Threads"]), descriptors, changing)


def _print(look: Look, broken: Fault | None, metrics: dict[str, float]) -> None:
    sums = {
        word: sum(value for name, value in metrics.items() if name.startswith(f"frames_{word}_total"))
        for word in ("inspected", "lost")
    }
    print(
        f"{look.at_s:6.0f} s  {look.resident_mb:7.1f} MB  {look.threads} threads  {look.descriptors} descriptors  "
        f"{'2 packs' if look.changing else '1 pack '}  {sums['inspected']:.0f} inspected, {sums['lost']:.0f} lost  "
        f"{broken.name if broken else ''}",
        flush=True,
    )


def growth(looks: list[Look]) -> dict[str, Any]:
    """What grew after the warm-up, by a straight line through the looks at which one pack was loaded.

    The bars are those of the issue. What a second pack takes for a while is in `most`.
    """
    warm_s = max(WARM_S, WARM_SHARE * looks[-1].at_s)
    late = [look for look in looks if look.at_s >= warm_s] or looks
    warm = [look for look in late if not look.changing] or late
    hours = [look.at_s / 3600 for look in warm]
    return {
        **{f"{key}_an_hour": _slope(hours, [getattr(look, key) for look in warm]) for key in MEMORY},
        "first": asdict(warm[0]),
        "last": asdict(warm[-1]),
        "most": {key: max(getattr(look, key) for look in late) for key in (*MEMORY, "threads", "descriptors")},
    }


def _slope(hours: list[float], values: list[float]) -> float:
    return float(np.polyfit(hours, values, 1)[0]) if len(values) > 1 else 0.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, help="frames a second; else 80 %% of what is measured first")
    parser.add_argument("--share", type=float, default=0.01, help="of the frames that hold a defect")
    parser.add_argument(
        "--without", action="append", default=[], metavar="FAULT", help='leave a fault out, such as "pack swapped"'
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
