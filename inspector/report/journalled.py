"""A coil report from the journal of a run: what is shown is what was made durable, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from inspector import journal
from inspector.config import Config
from inspector.events import DefectClass, Depth, Gap
from inspector.pack import Pack
from inspector.report.coil import CameraBooks, CoilReport, Finding, GapStretch, LaneInfo, Piece, Throughput, Truth


@dataclass(slots=True, frozen=True)
class RunFacts:
    """What the journal does not hold: lane widths, length and speed of the run that was just seen."""

    epoch: int
    width_px: dict[str, int]
    length_mm: float
    throughput: Throughput
    runtime: str
    started_ns: int
    ended_ns: int
    pieces: Sequence[Piece] = ()
    depths: Mapping[Depth, tuple[int, float]] = field(default_factory=dict)


def gather(
    path: Path,
    config: Config,
    pack: Pack,
    facts: RunFacts,
    audit: journal.Audit,
    truth: Truth | None = None,
    real: dict[str, bool] | None = None,
) -> CoilReport:
    """The report of one run of an audited journal; `real`: event id -> it matches a true defect, where that is known.

    Raises:
        JournalError: the journal cannot be read.
    """
    defects, gaps = [], []
    pictures = dict(journal.read_thumbnails(path, epochs=[facts.epoch]))
    for event in journal.read_events(path, kinds=["defect", "gap"], epochs=[facts.epoch]):
        if isinstance(event.data, Gap):
            gap = event.data
            stretch = (gap.along_mm.start, gap.along_mm.end)
            gaps.append(GapStretch(gap.camera, *stretch, gap.frames, gap.reason, gap.detail, gap.source))
        else:
            defects.append(Finding(event, pictures.get(event.id), (real or {}).get(event.id)))
    books = [row for row in audit.books if row.epoch == facts.epoch]
    return CoilReport(
        line=config.line.name,
        coil=config.line.coil,
        pack_name=f"{pack.manifest.name} {pack.manifest.version}",
        pack_digest=pack.digest,
        runtime=facts.runtime,
        cameras=[
            LaneInfo(
                c.name,
                c.offset_mm,
                facts.width_px.get(c.name, pack.manifest.tile.width) * c.pitch_mm.across,
                c.pitch_mm.along,
                c.pitch_mm.across,
            )
            for c in config.cameras
        ],
        length_mm=facts.length_mm,
        books=[
            CameraBooks(row.camera, row.issued, row.inspected, {str(k): v for k, v in row.lost.items()})
            for row in books
        ],
        throughput=facts.throughput,
        started=datetime.fromtimestamp(facts.started_ns / 1e9, UTC),
        ended=datetime.fromtimestamp(facts.ended_ns / 1e9, UTC),
        defects=defects,
        gaps=gaps,
        classes=[DefectClass(number=c.number, name=c.name) for c in pack.manifest.classes],
        severities=_severities(config),
        pieces=facts.pieces,
        truth=truth,
        depths=facts.depths,
    )


def _severities(config: Config) -> list[str]:
    rules = [rule.severity for rule in config.grading.severity]
    return list(dict.fromkeys([*rules, config.grading.default_severity]))
