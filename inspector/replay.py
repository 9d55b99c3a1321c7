"""`inspector replay`: a folder of pictures, a video or a recording through the same line, without losing a frame.

A recording of a line is inspected as that line inspected it: its cameras, settings and coils are taken from it.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from inspector import journal
from inspector.cameras import Camera
from inspector.cameras._sources import kind_of
from inspector.cameras.replay import InStep, ReplayCamera, told
from inspector.config import Config, convert, explain
from inspector.errors import ConfigError
from inspector.events import CoilEvent
from inspector.frames import Frames
from inspector.pipeline import Line, build
from inspector.recording.played import Played, Script, find
from inspector.report import CoilReport, Piece, render
from inspector.report import check as check_report
from inspector.report.journalled import RunFacts, gather
from inspector.service import stopped_by_signals, watch
from inspector.sinks import jsonl
from inspector.watching import Screen, console, summary, throughput, totals

CAMERA = "replay"
PITCH_MM = 0.5


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    sources: Sequence[Path]
    pack: Path
    events: Path | None = None
    frames: Path | None = None
    """Where a line for each frame goes."""
    report: Path | None = None
    journal: Path | None = None
    contiguous: bool = False
    frame_lines: int | None = None
    coil: str | None = None
    """None: as recorded, else `replay`."""
    batch: int = 4
    pitch_mm: float | None = None
    """None: as recorded, else PITCH_MM."""


def replay(request: Request) -> int:
    """Inspect the sources to their end; prints a summary. Returns the exit code: 0 only if the end was reached.

    Raises:
        ConfigError: a source, the pack or a target file cannot be used.
    """
    _check_targets(request)
    stop = threading.Event()
    with ExitStack() as held:
        held.enter_context(stopped_by_signals(stop))
        path = request.journal
        if path is None:
            path = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="inspector-"))) / "journal.db"
        played = find(request.sources)
        config = configuration(request, path, played)
        started_ns, started = time.time_ns(), time.monotonic()
        screen_console = console()
        line = build(config)
        if played is not None:
            _as_recorded(line, played, request)
        frames = _write_frames(line, played, request.frames, held) if request.frames is not None else None
        cameras = line.cameras.values()
        with line:
            known: list[int | None] = [getattr(camera, "total_frames", None) for camera in cameras]
            total = sum(count or 0 for count in known) if None not in known else None
            with Screen("replay", total, _metres(line, played), screen_console) as screen:
                code = watch(line, stop, lambda: screen.refresh(line))
            seconds = time.monotonic() - started
        whole = all(camera.ended for camera in cameras)
        audit = journal.audit(path)
        if frames is not None:  # by what the closed journal says: a line that failed had issued more than it could book
            run = line.journal.epoch
            frames.finish({own.camera: own.issued for own in audit.books if own.epoch == run})
        finished = _report(request, config, line, audit, seconds, started_ns)
    _summarise(request, line, played, finished, seconds, audit.balanced)
    if not whole:
        console().print("stopped before the end of the sources: the rest was not inspected", style="red")
    return code if code else int(not (audit.balanced and whole))


def _check_targets(request: Request) -> None:
    """Can what was asked for be written? Makes nothing.

    Raises:
        ConfigError: it cannot, with the option named.
    """
    if request.report is not None:
        check_report(request.report)
    targets = {
        "--events": request.events,
        "--frames": request.frames,
        "--report": request.report,
        "--journal": request.journal,
    }
    for option in ("--events", "--frames"):
        path = targets[option]
        if path is not None:
            try:
                jsonl.check(jsonl.Options(path=path))
            except ConfigError as error:
                raise ConfigError(f"{option} {error}") from None
    if request.frames is not None and request.frames.is_fifo():
        raise ConfigError(f"--frames {request.frames}: is a pipe, whose reader may fall behind. Name a file")
    asked = [(option, path) for option, path in targets.items() if path is not None]
    for at, (option, path) in enumerate(asked):
        for other, before in asked[:at]:
            if _same(path, before):
                raise ConfigError(f"{option} {path}: is the file of {other} too. Name another one")
        if any(_plays(source, path) for source in request.sources):
            raise ConfigError(f"{option} {path}: is a source, which would be lost. Name another file")


def _plays(source: Path, path: Path) -> bool:
    return _same(path, source) or (_same(path.parent, source) and kind_of(path) is not None)


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def configuration(request: Request, path: Path, played: Played | None = None) -> Config:
    """The line that a replay runs, lossless and without a network: that of the recordings, else one camera.

    Raises:
        ConfigError: the settings in a recording are none that this version knows.
    """
    sinks: list[dict[str, Any]] = []
    if request.events is not None:
        options_of_sink = {"path": str(request.events.absolute()), "append": False}
        sinks.append({"kind": "jsonl", "required": True, "options": options_of_sink})
    raw = {
        "pack": str(request.pack),
        "batch": {"size": request.batch},
        "journal": {"path": str(path.absolute()), "synchronous": request.journal is not None},
        "sinks": sinks,
        "monitor": None,
        "drift": {"watch": False},
        **(_pictures(request) if played is None else _recordings(request, played)),
    }
    raw["line"] |= {"when_full": "wait", "queue": 8}
    try:
        return convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{request.sources[0]}: its settings cannot be used: {explain(error, Config)}") from None


def _pictures(request: Request) -> dict[str, Any]:
    """One camera that plays them all."""
    pitch_mm = PITCH_MM if request.pitch_mm is None else request.pitch_mm
    options: dict[str, Any] = {"sources": [str(p) for p in request.sources], "contiguous": request.contiguous}
    if request.frame_lines is not None:
        options["frame_lines"] = request.frame_lines
    pitch = {"along": pitch_mm, "across": pitch_mm}
    return {
        "line": {"name": "replay", "coil": request.coil or "replay", "mm_per_count": pitch_mm},
        "cameras": [{"name": CAMERA, "kind": "replay", "options": options, "pitch_mm": pitch}],
    }


def _recordings(request: Request, played: Played) -> dict[str, Any]:
    """The line that was recorded; what the command line says wins."""
    setup, cameras = played.setup, played.cameras()
    for camera in cameras:
        camera["options"]["contiguous"] = request.contiguous
        if request.pitch_mm is not None:
            camera["pitch_mm"] = {"along": request.pitch_mm, "across": request.pitch_mm}
    line = {"name": setup.line, "coil": request.coil or setup.coil, "mm_per_count": setup.mm_per_count}
    return {"line": line, "cameras": cameras, **played.sections()}


def _as_recorded(line: Line, played: Played, request: Request) -> None:
    """What no setting says: coils, frame numbers, and the order of the frames of several cameras."""
    if not played.whole_runs:
        return
    line.looks.append(played.renumber)
    if request.coil is None:
        line.coils.recall(played.first_coil, played.coils)
        line.grading.after_frame = Script(played, line.coils, line.grading.stand).after_frame
    if len(line.cameras) > 1:
        in_step = InStep(line.cameras)
        for camera in line.cameras.values():
            assert isinstance(camera, ReplayCamera)
            camera.in_step = in_step


def _write_frames(line: Line, played: Played | None, path: Path, held: ExitStack) -> Frames:
    """A line for each frame goes to `path` while the line runs; `finish` makes the file whole."""
    first = played.numbers() if played is not None and played.whole_runs else {}
    frames = held.enter_context(Frames(path.absolute(), first))
    line.sees.append(frames.see)
    line.publish.booked = frames.book
    return frames


def _metres(line: Line, played: Played | None) -> float:
    """Of strip in a frame of one camera, for the screen."""
    lines = line.pack.manifest.tile.height
    if played is not None:
        lines = next(iter(played.lanes.values())).surveys[0].lines or lines
    return lines * line.config.cameras[0].pitch_mm.along / 1000 / len(line.cameras)


def _report(
    request: Request, config: Config, line: Line, audit: journal.Audit, seconds: float, started_ns: int
) -> CoilReport:
    tally, path = line.publish.tally, audit.path
    facts = RunFacts(
        epoch=line.journal.epoch,
        width_px=tally.width_px,
        length_mm=_length_mm(config, path, line.journal.epoch),
        throughput=throughput(line, max(tally.inspected_mm.values(), default=0.0), seconds),
        runtime=line.runtime.name,
        started_ns=started_ns,
        ended_ns=time.time_ns(),
        pieces=() if request.contiguous else [Piece(s.source, s.start_mm, s.end_mm) for s in tally.shown],
        depths=tally.depths,
    )
    found = gather(path, config, line.pack, facts, audit)
    if request.report is not None:
        render(found, request.report)
    return found


def _length_mm(config: Config, path: Path, epoch: int) -> float:
    """The strip that was played, with what could not be read."""
    coils = [e.data for e in journal.read_events(path, kinds=["coil"], epochs=[epoch])]
    counts = [coil.encoder_count for coil in coils if isinstance(coil, CoilEvent)]
    return (max(counts) - min(counts)) * config.line.mm_per_count if counts else 0.0


def _remarks(line: Line, played: Played) -> list[str]:
    """Why the events may be others than those of the line that was recorded."""
    digest = played.setup.pack_digest
    found = []
    if digest is not None and digest != line.pack.digest:
        found.append(f"recorded with pack {played.setup.pack} {digest[:19]}, inspected with another")
    if not played.whole_runs:
        found.append("recordings of several runs: coils and frame numbers are not those of the line")
    return found


def _passed_over(camera: Camera) -> list[str]:
    return camera.passed_over if isinstance(camera, ReplayCamera) else []


def _summarise(
    request: Request, line: Line, played: Played | None, found: CoilReport, seconds: float, balanced: bool
) -> None:
    out = console()
    sums = totals(line)
    kinds = [finding.defect.defect_class for finding in found.defects]
    classes = Counter(f"{kind.number} {kind.name}" for kind in kinds)
    lost = ", ".join(f"{count} {reason}" for reason, count in sorted(sums.by_reason.items()))
    for gap in found.gaps[:20]:
        out.print(f"not inspected: {gap.source or gap.camera}: {gap.detail or gap.reason}", style="red", markup=False)
    if not sums.inspected:
        out.print("nothing was inspected", style="bold red")
    for remark in _remarks(line, played) if played is not None else ():
        out.print(remark, style="yellow", markup=False)
    passed_over = [name for camera in line.cameras.values() for name in _passed_over(camera)]
    if passed_over:
        out.print(told(passed_over), style="yellow", markup=False)
    rows = [
        (
            "frames",
            f"{sums.issued:,} issued = {sums.inspected:,} inspected + {sums.lost:,} lost"
            + (f" ({lost})" if lost else ""),
        ),
        ("books", "balance" if balanced else "DO NOT BALANCE: run `inspector audit` on the journal"),
        ("defects", ", ".join(f"{count:,} x {name}" for name, count in sorted(classes.items())) or "none"),
        ("speed", f"{sums.inspected / seconds:,.1f} frames/s in {seconds:.1f} s on {line.runtime.name}"),
        ("pack", f"{line.pack.manifest.name} {line.pack.manifest.version} {line.pack.digest[:19]}"),
    ]
    for name, target in (
        ("events", request.events),
        ("each frame", request.frames),
        ("report", request.report),
        ("journal", request.journal),
    ):
        if target is not None:
            rows.append((name, str(target)))
    summary(out, "", rows)
