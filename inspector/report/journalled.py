"""A coil report from the journal of a run: what is shown is what was made durable, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from inspector import journal
from inspector.config import Config
from inspector.events import CoilEvent, Defect, DefectClass, Depth, Event, Gap, Position
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

    A run that saw several coils is shown as the one strip that it was, from the head of its first coil on.

    Raises:
        JournalError: the journal cannot be read.
    """
    defects, gaps = [], []
    heads = _Heads(path, facts.epoch, config.line.mm_per_count)
    pictures = dict(journal.read_thumbnails(path, epochs=[facts.epoch]))
    for event in journal.read_events(path, kinds=["coil", "defect", "gap"], epochs=[facts.epoch]):
        match event.data:
            case CoilEvent() as coil:
                heads.pass_by(coil)
            case Gap() as gap:
                start, end = heads.along(gap.coil, gap.along_mm.start), heads.along(gap.coil, gap.along_mm.end)
                gaps.append(GapStretch(gap.camera, start, end, gap.frames, gap.reason, gap.detail, gap.source))
            case Defect() as defect:
                found = Finding(heads.moved(event, defect), pictures.get(event.id), (real or {}).get(event.id))
                defects.append(found)
    books = [row for row in audit.books if row.epoch == facts.epoch]
    return CoilReport(
        line=config.line.name,
        coil=", ".join(heads.names) or config.line.coil,
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


class _Heads:
    """Where the coils of a run lie on its strip: their events count from their own heads."""

    def __init__(self, path: Path, epoch: int, mm_per_count: float) -> None:
        told = [event.data for event in journal.read_events(path, kinds=["coil"], epochs=[epoch])]
        starts = [coil for coil in told if isinstance(coil, CoilEvent) and coil.phase == "start"]
        self.names = list(dict.fromkeys(coil.coil for coil in starts))
        self._mm_per_count = mm_per_count
        self._first = starts[0].encoder_count if starts else 0
        self._head_mm: dict[str, float] = {}
        for coil in reversed(starts):  # a defect may be told just before the start of its coil
            self.pass_by(coil)

    def pass_by(self, coil: CoilEvent) -> None:
        """From now on this is the coil of that name: several may have it, such as strip that belongs to none."""
        if coil.phase == "start":
            self._head_mm[coil.coil] = (coil.encoder_count - self._first) * self._mm_per_count

    def along(self, coil: str, mm: float) -> float:
        """Millimetres from the head of the first coil."""
        return self._head_mm.get(coil, 0.0) + mm

    def moved(self, event: Event, defect: Defect) -> Event:
        place = Position(along=self.along(defect.coil, defect.position_mm.along), across=defect.position_mm.across)
        if place == defect.position_mm:
            return event
        return msgspec.structs.replace(event, data=msgspec.structs.replace(defect, position_mm=place))


def _severities(config: Config) -> list[str]:
    rules = [rule.severity for rule in config.grading.severity]
    return list(dict.fromkeys([*rules, config.grading.default_severity]))
