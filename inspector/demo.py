"""`inspector demo`: a whole synthetic coil through the real line, and a report of what was found against the truth.

Everything is the daemon's own: the cameras, the six networks, the journal, the ZeroMQ socket that the events shown
here come from. Only the strip is painted. The line's speed is what this machine can inspect, at most 10 m/s.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import zmq
from rich.console import Console

from inspector import journal, pack
from inspector.cameras.synthetic import SyntheticCamera
from inspector.config import Config, convert
from inspector.ending import end
from inspector.errors import ConfigError
from inspector.events import Defect, Event
from inspector.pipeline import Line, build
from inspector.report import CoilReport, render
from inspector.report import check as check_report
from inspector.report.coil import ClassTruth, Missed, Truth
from inspector.report.journalled import RunFacts, gather
from inspector.report.words import count, depth_words
from inspector.service import stopped_by_signals, watch
from inspector.steel import Blemish
from inspector.watching import Screen, console, summary, throughput, totals

COIL = "DEMO-4711"
PITCH_MM = 0.5
HEIGHT, WIDTH = 256, 1600
FRAME_M = HEIGHT * PITCH_MM / 1000
SEEDS: dict[str, tuple[int, str]] = {"top-left": (11, "left"), "top-right": (12, "right")}
"""Two lanes of one strip of 1.6 m: camera -> (seed, the strip edge that it sees)."""
TOP_SPEED_MPS = 10.0
USED = 0.6
"""Share of the measured capacity that the demo's line speed uses; the rest is for defects and the screen."""
PROBE_FRAMES = 60
"""Of each camera, to measure the machine with."""
RULE = "an event is true when its box covers a quarter of a true defect's box, or holds its middle"


def demo(seconds: float, report: Path, engines: Path | None = None) -> int:
    """Run the demo; returns 0 only if the line ended well and the books balance.

    Raises:
        ConfigError: there is no pack to run, or the report cannot be written.
    """
    out = console()
    engines = engines or find_pack()
    check_report(report)
    stop = threading.Event()
    with stopped_by_signals(stop), tempfile.TemporaryDirectory(prefix="inspector-demo-") as folder:
        with out.status("warming the networks and measuring this machine"):
            speed = line_speed(Path(folder), engines, stop)
        frames = max(8, round(seconds * speed / FRAME_M))
        config = configuration(Path(folder), engines, speed, frames)
        metres = frames * FRAME_M
        out.print(f"[bold]coil {COIL}[/]: {metres:.0f} m of strip 1.6 m wide at {speed:.1f} m/s, two cameras\n")
        started_ns, started = time.time_ns(), time.monotonic()
        with build(config) as line, _Subscriber(f"ipc://{folder}/events") as events:
            with Screen("inspecting", frames * len(SEEDS), FRAME_M / len(SEEDS), out) as screen:

                def tick() -> None:
                    for event in events.take():
                        screen.show(event)
                    screen.refresh(line)

                code = watch(line, stop, tick)
                tick()
            seconds = time.monotonic() - started
        audit = journal.audit(config.journal.path)
        found = _report(config, line, audit, seconds, started_ns)
        render(found, report)
    _summarise(out, found, audit.balanced, report)
    return code if code else int(not audit.balanced)


def find_pack() -> Path:
    """The shipped pack: beside the package in a checkout, or ./engines/severstal.

    Raises:
        ConfigError: neither is there.
    """
    places = [Path(__file__).parent.parent / "engines" / "severstal", Path("engines/severstal")]
    for place in places:
        if (place / pack.MANIFEST).is_file():
            return place
    raise ConfigError("engines/severstal: no pack there. Run the demo from a checkout of the project")


def line_speed(folder: Path, engines: Path, stop: threading.Event) -> float:
    """Metres a second that this machine can paint and inspect, at most TOP_SPEED_MPS, in steps of 0.1.

    Measured with the first metres of the strip through the same line, without losing a frame, as fast as it goes.
    """
    (folder / "probe").mkdir()
    with build(configuration(folder / "probe", engines, TOP_SPEED_MPS, PROBE_FRAMES, probe=True)) as line:
        started = time.monotonic()
        watch(line, stop)
        frames_per_s = totals(line).inspected / (time.monotonic() - started)
    speed = min(TOP_SPEED_MPS, USED * frames_per_s / len(SEEDS) * FRAME_M)
    return max(0.1, int(speed * 10) / 10)


def configuration(folder: Path, engines: Path, speed: float, frames: int, probe: bool = False) -> Config:
    """The demo's line, as an engineer would write it in YAML; a probe loses nothing and takes its time."""
    cameras: list[dict[str, Any]] = []
    for index, (name, (seed, edges)) in enumerate(SEEDS.items()):
        cameras.append(
            {
                "name": name,
                "kind": "synthetic",
                "offset_mm": index * WIDTH * PITCH_MM,
                "options": {
                    "seed": seed,
                    "edges": edges,
                    "frames": frames,
                    "line_rate_hz": speed * 1000 / PITCH_MM,
                    "ring_frames": 64,
                    "pace": "free" if probe else "line_rate",
                },
            }
        )
    raw = {
        "line": {
            "name": "demo",
            "coil": COIL,
            "mm_per_count": PITCH_MM,
            "queue": 8 if probe else 200,
            "when_full": "wait" if probe else "drop_oldest",
        },
        "pack": str(engines),
        "cameras": cameras,
        "journal": {"path": str(folder / "journal.db")},
        "sinks": [{"kind": "zeromq", "options": {"address": f"ipc://{folder}/events"}}],
        "monitor": {"port": 0},
    }
    return convert(raw, Config)


class _Subscriber:
    """Hears what any subscriber of the daemon hears."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._decoder = msgspec.json.Decoder(Event)

    def __enter__(self) -> _Subscriber:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.connect(self._address)
        for topic in (b"defect/", b"gap/", b"coil/", b"state/"):
            self._socket.subscribe(topic)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close(linger=0)
        end(self._context, "demo")

    def take(self) -> Sequence[Event]:
        """What has come since the last call."""
        found = []
        while self._socket.poll(0):
            found.append(self._decoder.decode(self._socket.recv_multipart()[1]))
        return found


# ---------------------------------------------------------------- what was found against the truth


@dataclass(frozen=True)
class _Place:
    """A true defect of one camera; its box is in lines of the strip and pixels of the lane."""

    camera: str
    blemish: Blemish

    def holds(self, event: Defect) -> bool:
        if event.camera != self.camera:
            return False
        b, box = self.blemish, event.bbox_px
        top = event.frame_sequence * HEIGHT + box.y
        tall = min(b.first_line + b.lines, top + box.height) - max(b.first_line, top)
        wide = min(b.first_px + b.width_px, box.x + box.width) - max(b.first_px, box.x)
        middle = (
            top <= b.first_line + b.lines / 2 <= top + box.height
            and box.x <= b.first_px + b.width_px / 2 <= box.x + box.width
        )
        return middle or (tall > 0 and wide > 0 and tall * wide >= 0.25 * b.lines * b.width_px)


def compare(events: Sequence[Event], places: Sequence[_Place], line: Line) -> tuple[Truth, dict[str, bool]]:
    """The truth for the report, and for every event whether a true defect lies there; what was not segmented has no
    place to compare, and is neither."""
    found: set[int] = set()
    real: dict[str, bool] = {}
    for event in events:
        data = event.data
        if isinstance(data, Defect) and data.segmented:
            hits = [i for i, place in enumerate(places) if place.holds(data)]
            found.update(hits)
            real[event.id] = bool(hits)
    classes = []
    for entry in line.pack.manifest.classes:
        own = [i for i, place in enumerate(places) if place.blemish.defect_class == entry.number]
        mine = (e for e in events if isinstance(e.data, Defect) and e.data.defect_class.number == entry.number)
        false = sum(real.get(event.id) is False for event in mine)
        hit = sum(i in found for i in own)
        classes.append(ClassTruth(entry.number, entry.name, hit, len(own) - hit, false))
    missed = [_missed(place, line.config) for i, place in enumerate(places) if i not in found]
    return Truth(classes, RULE, missed), real


def _missed(place: _Place, config: Config) -> Missed:
    offset = next(c.offset_mm for c in config.cameras if c.name == place.camera)
    b = place.blemish
    along = (b.first_line + b.lines / 2) * PITCH_MM
    return Missed(b.defect_class, along, offset + (b.first_px + b.width_px / 2) * PITCH_MM)


def _report(config: Config, line: Line, audit: journal.Audit, seconds: float, started_ns: int) -> CoilReport:
    events = list(journal.read_events(config.journal.path, kinds=["defect"]))
    places = []
    for name, camera in line.cameras.items():
        if isinstance(camera, SyntheticCamera):
            issued = line.ledger.totals()[name].issued
            places += [_Place(name, b) for b in camera.truths(0, issued)]
    truth, real = compare(events, places, line)
    length_mm = max(line.ledger.totals()[name].issued for name in SEEDS) * FRAME_M * 1000
    facts = RunFacts(
        epoch=line.journal.epoch,
        width_px=dict.fromkeys(SEEDS, WIDTH),
        length_mm=length_mm,
        throughput=throughput(line, length_mm, seconds),
        runtime=line.runtime.name,
        started_ns=started_ns,
        ended_ns=time.time_ns(),
        depths=line.publish.tally.depths,
    )
    return gather(config.journal.path, config, line.pack, facts, audit, truth, real)


def _summarise(out: Console, found: CoilReport, balanced: bool, report: Path) -> None:
    truth = found.truth
    hits = sum(c.found for c in truth.classes) if truth else 0
    real = sum(c.real for c in truth.classes) if truth else 0
    false = sum(c.false for c in truth.classes) if truth else 0
    speed = found.throughput
    ages = f", age p50 {speed.age_p50_ms:.0f} ms, p99 {speed.age_p99_ms:.0f} ms" if speed.age_p99_ms else ""
    lost = sum(row.lost_frames for row in found.books)
    shallow = "".join(f", {depth_words(depth)}: {count(frames)} frames" for depth, (frames, _) in found.shallow.items())
    rows = [
        ("coverage", f"{found.coverage:.2%} of {found.length_mm / 1000:.1f} m{shallow}"),
        ("frames", f"{found.issued:,} issued = {found.inspected:,} inspected + {lost:,} lost"),
        ("books", "[green]balance[/]" if balanced else "[bold red]DO NOT BALANCE[/]"),
        ("defects", f"{len(found.defects):,} events; {hits} of {real} true defects found, {false} false alarms"),
        ("speed", f"{speed.frames_per_s:.0f} frames/s{ages}"),
        ("report", f"[bold]{report}[/] (open it in a browser)"),
    ]
    summary(out, "", rows)
