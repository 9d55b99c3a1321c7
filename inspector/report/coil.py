"""What a coil report is made from, and the sums that follow from it alone. Plain values: no journal, no camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from inspector.events import Defect, DefectClass, Depth, Event

SEVERITIES = ("critical", "major", "minor")


@dataclass(slots=True, frozen=True)
class LaneInfo:
    """A camera and the lane it sees: columns from `offset_mm` on, `width_mm` wide, across the strip."""

    name: str
    offset_mm: float
    width_mm: float
    pitch_along_mm: float = 0.0
    pitch_across_mm: float = 0.0


@dataclass(slots=True, frozen=True)
class GapStretch:
    """Strip that was not inspected, millimetres from the head end; start = end where its length is not known."""

    camera: str
    start_mm: float
    end_mm: float
    frames: int
    reason: str
    detail: str = ""
    source: str | None = None


@dataclass(slots=True, frozen=True)
class Finding:
    """A defect event and its thumbnail (JPEG or PNG bytes, cut as thumbnails.py says), if one was kept.

    `real` says whether it matches a true defect; None where the truth is not known.
    """

    event: Event
    thumbnail: bytes | None = None
    real: bool | None = None

    @property
    def defect(self) -> Defect:
        """Raises TypeError when the event is of another kind."""
        if not isinstance(self.event.data, Defect):
            raise TypeError(f"event {self.event.id} is no defect: a report lists defects")
        return self.event.data


@dataclass(slots=True, frozen=True)
class CameraBooks:
    """The books of one camera: they balance when issued = inspected + lost."""

    camera: str
    issued: int
    inspected: int
    lost: Mapping[str, int] = field(default_factory=dict)

    @property
    def lost_frames(self) -> int:
        return sum(self.lost.values())

    @property
    def difference(self) -> int:
        """Frames without a fate (more than 0) or with two (less)."""
        return self.issued - self.inspected - self.lost_frames


@dataclass(slots=True, frozen=True)
class Throughput:
    """How fast the line ran. Ages are milliseconds from exposure to event; None where they were not measured."""

    frames_per_s: float
    metres_per_min: float
    age_p50_ms: float | None
    age_p99_ms: float | None
    duration_s: float


@dataclass(slots=True, frozen=True)
class ClassTruth:
    """Events of one class against the truth. `found` + `missed` is the number of true defects."""

    number: int
    name: str
    found: int
    missed: int
    false: int

    @property
    def real(self) -> int:
        return self.found + self.missed


@dataclass(slots=True, frozen=True)
class Missed:
    """Where a true defect lies that was not reported (an escape), millimetres."""

    defect_class: int
    along_mm: float
    across_mm: float


@dataclass(slots=True, frozen=True)
class Truth:
    """The comparison with the truth, where it is known: a synthetic coil, or labelled pictures."""

    classes: Sequence[ClassTruth]
    rule: str = ""
    """How events were matched, one sentence for the reader."""
    missed: Sequence[Missed] = ()


@dataclass(slots=True, frozen=True)
class Piece:
    """A separate piece of strip, such as one picture of a replayed folder, in the order of inspection."""

    source: str
    start_mm: float
    end_mm: float


@dataclass(slots=True)
class CoilReport:
    """One coil as it was inspected.

    Attributes:
        length_mm: strip that passed the cameras from head to tail, gaps included.
        classes: the pack's classes, so that those without a defect are listed too.
        severities: most severe first; others that the defects name are put behind them.
        pieces: separate pieces of strip; none for a coil in one piece.
        started, ended: with a time zone, or UTC.
    """

    line: str
    coil: str
    pack_name: str
    pack_digest: str
    runtime: str
    cameras: Sequence[LaneInfo]
    length_mm: float
    books: Sequence[CameraBooks]
    throughput: Throughput
    started: datetime
    ended: datetime
    defects: Sequence[Finding] = ()
    gaps: Sequence[GapStretch] = ()
    classes: Sequence[DefectClass] = ()
    severities: Sequence[str] = SEVERITIES
    pieces: Sequence[Piece] = ()
    truth: Truth | None = None
    depths: Mapping[Depth, tuple[int, float]] = field(default_factory=dict)
    """Depth -> (frames inspected in it, millimetres of strip, the cameras' added up); empty: all in full."""

    @property
    def shallow(self) -> dict[Depth, tuple[int, float]]:
        """What was inspected, but not in full."""
        return {depth: seen for depth, seen in self.depths.items() if depth is not Depth.FULL and seen[0]}

    @property
    def issued(self) -> int:
        return sum(row.issued for row in self.books)

    @property
    def inspected(self) -> int:
        return sum(row.inspected for row in self.books)

    @property
    def balanced(self) -> bool:
        return all(row.difference == 0 for row in self.books)

    @property
    def uninspected_mm(self) -> float:
        """Length of strip that at least one camera did not see."""
        return covered_mm([(gap.start_mm, gap.end_mm) for gap in self.gaps], self.length_mm)

    @property
    def coverage(self) -> float:
        """Share of the strip that was inspected, 0..1: by area or by frames, whichever says less.

        Frames speak where a lost one has no length, such as a picture that could not be read.
        """
        if not self.issued:
            return 0.0
        return max(0.0, min(self.inspected / self.issued, self._area_coverage()))

    def _area_coverage(self) -> float:
        whole = sum(lane.width_mm for lane in self.cameras) * self.length_mm
        if whole <= 0:
            return 1.0
        lost = sum(lane.width_mm * self._gap_mm(lane.name) for lane in self.cameras)
        return 1.0 - lost / whole

    def _gap_mm(self, camera: str) -> float:
        return covered_mm([(g.start_mm, g.end_mm) for g in self.gaps if g.camera == camera], self.length_mm)

    def severity_order(self) -> list[str]:
        """All severities that the report names, most severe first."""
        return list(dict.fromkeys([*self.severities, *(finding.defect.severity for finding in self.defects)]))

    def class_order(self) -> list[DefectClass]:
        """All classes that the report names, by number."""
        known = {entry.number: entry for entry in self.classes}
        for finding in self.defects:
            known.setdefault(finding.defect.defect_class.number, finding.defect.defect_class)
        return [known[number] for number in sorted(known)]


def covered_mm(stretches: Sequence[tuple[float, float]], length_mm: float) -> float:
    """Length of the union of stretches within [0, length_mm]."""
    total, reached = 0.0, 0.0
    for start, end in sorted(stretches):
        first, last = max(start, reached), min(end, length_mm)
        if last > first:
            total += last - first
            reached = last
    return total
