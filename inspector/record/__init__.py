"""`inspector record`: the raw frames of a line's cameras to disk, with all that is known of them. Nothing is inspected.

    FOLDER/CAMERA/      a recording each (see cameras/_index.py); `inspector replay FOLDER` plays them all

No camera waits for the disk: frames that it is too slow for are counted, and are holes in the recording.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from inspector.cameras._recorded import is_recording
from inspector.config import CameraConfig, Config
from inspector.errors import ConfigError
from inspector.pipeline import load
from inspector.record.room import SPARE_BYTES, Room, duration, free_bytes, free_for, size
from inspector.record.session import TICK_S, Session
from inspector.service import stopped_by_signals
from inspector.watching import console, summary

CONFIG = Path("/etc/inspector/line.yaml")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("config", nargs="?", type=Path, default=CONFIG, metavar="CONFIG.yaml", help=str(CONFIG))
    parser.add_argument("--camera", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--seconds", type=_positive, metavar="S", help="stop after so long; default: at Ctrl-C")
    end.add_argument("--frames", type=_count, metavar="N", help="stop when every camera has given so many")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of frames")
    return value


def run(options: argparse.Namespace) -> int:
    """Record until the end that was asked for. Returns 0 when frames of every camera were recorded until then.

    Raises:
        ConfigError: the configuration, a camera's name or the folder is wrong.
    """
    config = load(options.config)
    cameras = _chosen(config, options.camera)
    _check_folder(options.output, cameras)
    stop = threading.Event()
    with stopped_by_signals(stop):
        session = Session(config, cameras, options.output, options.frames)
        try:
            trouble = _record(session, stop, options.seconds)
        finally:
            session.close()
    trouble = trouble or session.trouble
    _summarise(session, options.output, trouble)
    return int(bool(trouble) or not all(lane.frames for lane in session.lanes.values()))


def _chosen(config: Config, names: Sequence[str] | None) -> list[CameraConfig]:
    known = {camera.name: camera for camera in config.cameras}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigError(f"--camera: there is no camera {unknown[0]!r}; known: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def _check_folder(folder: Path, cameras: Sequence[CameraConfig]) -> None:
    """Nothing is ever recorded over, or into the middle of something else."""
    for place in (folder, *(folder / camera.name for camera in cameras)):
        if is_recording(place):
            raise ConfigError(f"{place}: holds a recording already. Name a new folder")
        if place.exists() and not place.is_dir():
            raise ConfigError(f"{place}: is a file. Name a new folder")
    free = free_bytes(folder)
    if free < SPARE_BYTES:
        raise ConfigError(f"{folder}: the disk has only {size(free)} left. Make room, or name another disk")


# ---------------------------------------------------------------- what a person sees


def _record(session: Session, stop: threading.Event, seconds: float | None) -> str:
    """Record to the end; returns what went wrong, in words."""
    started = time.monotonic()
    session.start()
    room = Room(session, seconds)
    with Live(console=console(), transient=True, auto_refresh=False) as screen:
        while not (session.done or stop.is_set()):
            session.crew.join(TICK_S)
            passed = time.monotonic() - started
            screen.update(_table(session, passed), refresh=True)
            trouble = room.look(passed)
            if trouble:
                return trouble
            if seconds is not None and passed >= seconds:
                break
    return ""


def _table(session: Session, seconds: float) -> Table:
    """A line for each camera."""
    table = Table.grid(padding=(0, 2))
    rate = sum(lane.bytes for lane in session.lanes.values()) / max(seconds, 1e-6)
    for name, lane in session.lanes.items():
        if lane.down is not None:
            table.add_row(Text(name, "bold"), Text(lane.down, "red"))
            continue
        style = "red" if lane.lost or lane.unrecorded else "green"
        table.add_row(
            Text(name, "bold"),
            f"{lane.frames:,} frames",
            f"{lane.frames / max(seconds, 1e-6):,.0f}/s",
            size(lane.bytes),
            Text(f"{lane.lost:,} lost, {lane.unrecorded:,} not recorded", style),
        )
    if rate:
        left = max(0, free_for(session) - SPARE_BYTES) / rate
        table.add_row("", f"{seconds:,.0f} s, {size(rate)}/s, room for {duration(left)}")
    return table


def _summarise(session: Session, folder: Path, trouble: str) -> None:
    out = console()
    if trouble:
        out.print(trouble, style="bold red", markup=False)
    rows = []
    for name, lane in session.lanes.items():
        said = f"{lane.frames:,} frames, {size(lane.bytes)}"
        if lane.lost:
            reasons = session.ledger.totals()[name].lost
            said += f"; {lane.lost:,} lost ({', '.join(f'{n} {reason}' for reason, n in sorted(reasons.items()))})"
        if lane.unrecorded:
            said += f"; {lane.unrecorded:,} not recorded: the disk was too slow"
        if lane.down is not None:
            said += f"; down: {lane.down}"
        rows.append((name, escape(said)))
    rows.append(("play it", escape(f"inspector replay {folder} --pack ENGINES_DIR")))
    summary(out, "", rows)
