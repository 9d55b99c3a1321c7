"""`inspector calibrate`: frames of an even surface become the flat-field of a camera.

The camera is opened as the daemon opens it, so the daemon must not run. Nothing is written unless the frames are a
reference: see `reference.solve` for what is refused.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from inspector import adapters
from inspector.cameras import Camera
from inspector.config import CameraConfig, Config
from inspector.errors import CalibrationError, CameraError, ConfigError
from inspector.flatfield import FlatField, Origin, unevenness
from inspector.journal.lock import held
from inspector.pipeline import load
from inspector.pool import Pool
from inspector.records import Frame, Loss, Pixels
from inspector.reference import Flags, Frames, Profile, Solved, darkness, solve
from inspector.sight import spans
from inspector.wording import safe

CONFIG = Path("/etc/inspector/line.yaml")
FRAMES = 256
MOST = 4096
SKIPPED = 2
"""The first frames after a camera was opened are often odd."""
SLOTS = 4
READ_S = 0.25
SILENT_S = 10.0
"""Without a frame for so long, seconds, there will be none."""

Say = Callable[[str], None]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "config", nargs="?", type=Path, default=CONFIG, metavar="CONFIG.yaml", help=f"default: {CONFIG}"
    )
    parser.add_argument("--camera", metavar="NAME", help="which one; may be left out where there is only one")
    parser.add_argument("--frames", type=_frames, default=FRAMES, metavar="N", help=f"default: {FRAMES}")
    parser.add_argument("--dark", action="store_true", help="record the offset: lamp off or lens capped")
    parser.add_argument("--still", action="store_true", help="the surface has no pattern (a white tile) and may stand")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.npz", help="default: the camera's `flat_field`")


def _frames(text: str) -> int:
    value = int(text)
    if not 4 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 4 to {MOST}")
    return value


def run(options: argparse.Namespace) -> int:
    """Calibrate one camera.

    Raises:
        ConfigError: the configuration, the camera's name or the file is wrong.
        CameraError: the camera cannot be opened or died.
        CalibrationError: what the camera shows cannot be a reference.
    """
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 160)
    config = load(options.config)
    index = _which(config, options.camera)
    section = config.cameras[index]
    path = options.output or section.flat_field or options.config.parent / f"{section.name}.npz"
    former = _former(path, console)
    with _opened(config, index) as camera, _progress(console) as progress:
        session = _Session(section.name, camera, lambda text: progress.console.print(Text(f"{section.name}: {text}")))
        frames = Frames()
        for frame in _shown(progress, "the dark sensor" if options.dark else "the surface", options.frames, session):
            frames.add(frame)
        if options.dark:
            made, table = _dark(section.name, frames, former)
        else:
            solved, made = _lit(section.name, frames, former, options.still)
            after = Frames()
            for frame in _shown(progress, "check", max(4, options.frames // 4), session):
                made.correct(frame)
                after.add(frame)
            table = _table(section, solved, made, after)
    _save(made, path)
    _tell(console, table, path, section, options.config)
    return 0


def _which(config: Config, name: str | None) -> int:
    names = [camera.name for camera in config.cameras]
    if name is None and len(names) == 1:
        return 0
    if name not in names:
        wrong = "name one camera" if name is None else f"there is no camera {name!r}"
        raise ConfigError(f"--camera: {wrong}; the configuration has {', '.join(names)}")
    return names.index(name)


def _former(path: Path, console: Console) -> FlatField | None:
    """The flat-field that is replaced, for its offset; also finds out early that the new one could not be written."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: cannot be written: make its folder, or run this as its owner, or name another (-o)")
    if not path.exists():
        return None
    try:
        return FlatField.load(path)
    except ConfigError as error:
        console.print(Text(f"the file that is replaced is of no use: {error}", style="yellow"))
        return None


@contextmanager
def _opened(config: Config, index: int) -> Iterator[Camera]:
    """The camera, as the daemon opens it."""
    if held(config.journal.path):
        raise CameraError(
            f"camera {config.cameras[index].name}: the daemon of this line is running and holds it: stop the daemon "
            "first (systemctl stop inspector), calibrate, and start it again"
        )
    section, where = config.cameras[index], f"cameras[{index}]"
    adapter = adapters.module("cameras", section.kind, where)
    camera: Camera = adapter.open(section.name, adapters.options(adapter, section.options, f"{where}.options"))
    with camera:
        yield camera


# ---------------------------------------------------------------- frames


class _Session:
    """Frames of an open camera, one after the other."""

    def __init__(self, name: str, camera: Camera, say: Say, silent_s: float = SILENT_S) -> None:
        self._name = name
        self._camera = camera
        self._say = say
        self._silent_s = silent_s
        self._pool = Pool(SLOTS)
        self._skip = SKIPPED

    def frames(self, count: int) -> Iterator[Pixels]:
        """The pixels of the next `count` frames, each valid until the next; losses are said.

        Raises:
            CalibrationError: no frames come, or the strip stands or ended.
            CameraError: the camera is dead.
        """
        heard, stood = time.monotonic(), 0
        while count:
            got = self._camera.read(self._pool, READ_S)
            if isinstance(got, Loss):
                self._say(f"lost {got.count} frame(s): {got.reason} {got.detail}")
            if isinstance(got, Frame):
                if self._takes(got):
                    count, heard = count - 1, time.monotonic()
                    yield got.pixels
                else:
                    stood += got.counts_per_line == 0
                got.release()
            elif self._camera.ended:
                raise CalibrationError(f"camera {self._name}: it ended with {count} frames to go: ask for fewer")
            if time.monotonic() - heard > self._silent_s:
                raise CalibrationError(self._silent(stood))

    def _takes(self, frame: Frame) -> bool:
        if frame.counts_per_line == 0:
            return False
        self._skip -= 1
        return self._skip < 0

    def _silent(self, stood: int) -> str:
        why = "the strip stands, and its own pattern would stay in every frame: let it run"
        if not stood:
            why = "look at link and trigger; a camera that an encoder triggers needs the strip to run"
        return f"camera {self._name}: no frame of moving strip for {self._silent_s:g} s: {why}"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console, transient=True
    )


def _shown(progress: Progress, what: str, count: int, session: _Session) -> Iterable[Pixels]:
    return progress.track(session.frames(count), total=count, description=what)


# ---------------------------------------------------------------- what comes of them


def _dark(name: str, frames: Frames, former: FlatField | None) -> tuple[FlatField, Table]:
    """The offset; gains are kept until the lit run makes new ones."""
    try:
        offset = darkness(frames)
    except CalibrationError as error:
        raise CalibrationError(f"camera {name}: {error}") from None
    gain = former.gain if former is not None and former.width == frames.width else np.ones(frames.width)
    origin = former.origin if former is not None else Origin()
    origin = replace(origin, camera=name, dark_ns=time.time_ns(), dark_frames=len(frames))
    made = FlatField(offset, gain, name=name, origin=origin)
    table = _rows(f"camera {name}: the dark sensor, {len(frames)} frames")
    table.add_row("offset", f"{offset.mean():.1f} grey, {offset.min():.1f} to {offset.max():.1f}")
    table.add_row("next", "the lamp on, and the same command without --dark")
    return made, table


def _lit(name: str, frames: Frames, former: FlatField | None, still: bool) -> tuple[Solved, FlatField]:
    offset: Profile = np.zeros(frames.width)
    origin = Origin()
    if former is not None and former.width == frames.width:
        offset, origin = former.offset.astype(np.float64), former.origin
    try:
        solved = solve(frames, offset, still)
    except CalibrationError as error:
        raise CalibrationError(f"camera {name}: {error}") from None
    origin = replace(
        origin,
        made_ns=time.time_ns(),
        camera=name,
        frames=len(frames),
        target=solved.target,
        reference=solved.level.astype(np.float32),
    )
    return solved, FlatField(offset, solved.gain, name=name, origin=origin)


def _table(section: CameraConfig, solved: Solved, made: FlatField, after: Frames) -> Table:
    level = np.median(np.stack(after.profiles), axis=0).astype(np.float64)
    even = unevenness(np.where(solved.good, level, np.nan)) or 0.0
    if even > max(solved.uneven, 0.05):
        raise CalibrationError(
            f"camera {section.name}: corrected frames are uneven by {even:.1%}, more than before: the light changed "
            "meanwhile. Wait until the lamp is warm, and try again"
        )
    table = _rows(f"camera {section.name}: {made.origin.frames} frames of {made.width} columns")
    table.add_row("level", f"{solved.target:.0f} grey")
    table.add_row("uneven", f"{solved.uneven:.1%} before, {even:.1%} after (measured on {len(after)} more frames)")
    table.add_row("gain", f"{made.gain.min():.2f} to {made.gain.max():.2f}, sure within {solved.noise:.2%}")
    table.add_row("offset", _offset(made))
    table.add_row("without light", _columns(solved.unlit))
    table.add_row("dead", _columns(solved.dead))
    return table


def _offset(made: FlatField) -> str:
    if made.origin.dark_ns is None and not made.offset.any():
        return "none measured: for one, run with --dark first (lamp off or lens capped), then again with light"
    day = (
        "" if made.origin.dark_ns is None else time.strftime(", of %Y-%m-%d", time.localtime(made.origin.dark_ns / 1e9))
    )
    return f"{made.offset.mean():.1f} grey{day}"


def _columns(flags: Flags) -> str:
    found = spans(flags)
    if not found:
        return "no columns"
    each = [f"{a}-{b}" if b > a else f"{a}" for a, b in found[:8]]
    more = f" and {len(found) - 8} more places" if len(found) > 8 else ""
    return f"{int(flags.sum())} columns, which have the gain of the nearest good one: {', '.join(each)}{more}"


def _rows(title: str) -> Table:
    table = Table(title=Text(safe(title)), title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("found", overflow="fold")
    return table


def _save(made: FlatField, path: Path) -> None:
    try:
        made.save(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}. Name another file (-o)") from None


def _tell(console: Console, table: Table, path: Path, section: CameraConfig, config: Path) -> None:
    out = Console(width=None if sys.stdout.isatty() else 160)
    out.print(table)
    console.print(Text(f"written to {path}; the daemon takes it at its next start"))
    if section.flat_field is None or section.flat_field.resolve() != path.resolve():
        with suppress(ValueError):
            path = path.resolve().relative_to(config.parent.resolve())
        out.print(Text(f"\nIn {config}, under `- name: {section.name}`:\n\n    flat_field: {path}\n"))
