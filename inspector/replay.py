"""`inspector replay`: a folder of pictures, a video or a recording through the same line, without losing a frame."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector import journal
from inspector.config import Config, convert
from inspector.events import CoilEvent
from inspector.pipeline import Line, build
from inspector.report import CoilReport, Piece, render
from inspector.report import check as check_report
from inspector.report.journalled import RunFacts, gather
from inspector.service import stopped_by_signals, watch
from inspector.watching import Screen, console, summary, throughput, totals

CAMERA = "replay"


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    sources: Sequence[Path]
    pack: Path
    events: Path | None = None
    report: Path | None = None
    journal: Path | None = None
    contiguous: bool = False
    frame_lines: int | None = None
    coil: str = "replay"
    batch: int = 4
    pitch_mm: float = 0.5


def replay(request: Request) -> int:
    """Inspect the sources to their end; prints a summary. Returns the exit code: 0 only if the end was reached.

    Raises:
        ConfigError: a source, the pack or a target file cannot be used.
    """
    if request.report is not None:
        check_report(request.report)
    stop = threading.Event()
    with ExitStack() as held:
        held.enter_context(stopped_by_signals(stop))
        path = request.journal
        if path is None:
            path = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="inspector-"))) / "journal.db"
        config = configuration(request, path)
        started_ns, started = time.time_ns(), time.monotonic()
        screen_console = console()
        with build(config) as line:
            total = getattr(line.cameras[CAMERA], "total_frames", None)
            metres = line.pack.manifest.tile.height * request.pitch_mm / 1000
            with Screen("replay", total, metres, screen_console) as screen:
                code = watch(line, stop, lambda: screen.refresh(line))
            seconds = time.monotonic() - started
        whole = line.cameras[CAMERA].ended
        audit = journal.audit(path)
        finished = _report(request, config, line, audit, seconds, started_ns)
    _summarise(request, line, finished, seconds, audit.balanced)
    if not whole:
        console().print("stopped before the end of the sources: the rest was not inspected", style="red")
    return code if code else int(not (audit.balanced and whole))


def configuration(request: Request, path: Path) -> Config:
    """The line that a replay runs: lossless, one camera, no network."""
    sinks: list[dict[str, Any]] = []
    if request.events is not None:
        options_of_sink = {"path": str(request.events.absolute()), "append": False}
        sinks.append({"kind": "jsonl", "required": True, "options": options_of_sink})
    options: dict[str, Any] = {"sources": [str(p) for p in request.sources], "contiguous": request.contiguous}
    if request.frame_lines is not None:
        options["frame_lines"] = request.frame_lines
    raw = {
        "line": {
            "name": "replay",
            "coil": request.coil,
            "when_full": "wait",
            "queue": 8,
            "mm_per_count": request.pitch_mm,
        },
        "pack": str(request.pack),
        "cameras": [
            {
                "name": CAMERA,
                "kind": "replay",
                "options": options,
                "pitch_mm": {"along": request.pitch_mm, "across": request.pitch_mm},
            }
        ],
        "batch": {"size": request.batch},
        "journal": {"path": str(path.absolute()), "synchronous": request.journal is not None},
        "sinks": sinks,
        "monitor": None,
    }
    return convert(raw, Config)


def _report(
    request: Request, config: Config, line: Line, audit: journal.Audit, seconds: float, started_ns: int
) -> CoilReport:
    tally, path = line.publish.tally, audit.path
    facts = RunFacts(
        epoch=line.journal.epoch,
        width_px=tally.width_px,
        length_mm=_length_mm(config, path, line.journal.epoch),
        throughput=throughput(line, tally.inspected_mm.get(CAMERA, 0.0), seconds),
        runtime=line.runtime.name,
        started_ns=started_ns,
        ended_ns=time.time_ns(),
        pieces=() if request.contiguous else [Piece(s.source, s.start_mm, s.end_mm) for s in tally.shown],
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


def _summarise(request: Request, line: Line, found: CoilReport, seconds: float, balanced: bool) -> None:
    out = console()
    sums = totals(line)
    kinds = [finding.defect.defect_class for finding in found.defects]
    classes = Counter(f"{kind.number} {kind.name}" for kind in kinds)
    lost = ", ".join(f"{count} {reason}" for reason, count in sorted(sums.by_reason.items()))
    for gap in found.gaps[:20]:
        out.print(f"not inspected: {gap.source or gap.camera}: {gap.detail or gap.reason}", style="red", markup=False)
    if not sums.inspected:
        out.print("nothing was inspected", style="bold red")
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
    for name, target in (("events", request.events), ("report", request.report), ("journal", request.journal)):
        if target is not None:
            rows.append((name, str(target)))
    summary(out, "", rows)
