"""Numbers as the reader of a report wants them, and the verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from inspector.events import Depth
from inspector.report.coil import CoilReport


def count(number: int) -> str:
    """12,345"""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """1 defect, 2 defects"""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def metres(mm: float, digits: int = 2) -> str:
    return f"{mm / 1000:,.{digits}f} m"


def length(mm: float) -> str:
    """A length at the scale of a person: 340 mm, 12.4 m, 1,250 m, 14.2 km."""
    if abs(mm) < 1000:
        return f"{mm:,.0f} mm"
    if abs(mm) < 100_000:
        return f"{mm / 1000:,.1f} m"
    return f"{mm / 1000:,.0f} m" if abs(mm) < 10_000_000 else f"{mm / 1e6:,.2f} km"


def millimetres(mm: float) -> str:
    return f"{mm:,.1f}" if abs(mm) < 10 else f"{mm:,.0f}"


def area(mm2: float) -> str:
    if mm2 < 10_000:
        return f"{mm2:,.0f} mm²"
    return f"{mm2 / 100:,.0f} cm²" if mm2 < 1e6 else f"{mm2 / 1e6:,.2f} m²"


def share(fraction: float) -> str:
    """A share in percent, rounded down: only the whole reads 100 %, only nothing reads 0 %."""
    if fraction >= 1 or fraction <= 0:
        return "100 %" if fraction >= 1 else "0 %"
    percent = math.floor(fraction * 10_000) / 100
    return f"{percent:.2f} %" if percent else "< 0.01 %"


def moment(time: datetime) -> str:
    """2026-11-22 03:14:07 UTC; a time without a zone is taken as UTC."""
    known = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return known.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


def depth_words(depth: Depth) -> str:
    """What frames of a depth lack, in words."""
    return {Depth.FULL: "in full", Depth.TYPES: "not segmented", Depth.GATE: "not typed"}[depth]


@dataclass(slots=True, frozen=True)
class Judgement:
    """The verdict at a glance. `level`: perfect, fair, attention or alarm."""

    level: str
    headline: str
    notes: list[str]


def judge(coil: CoilReport) -> Judgement:
    """Nothing outranks books that do not balance: then no other figure can be believed."""
    order = coil.severity_order()
    worst = sum(1 for finding in coil.defects if finding.defect.severity == order[0]) if order else 0
    notes = _notes(coil)
    if not coil.balanced:
        return Judgement("alarm", "The books do not balance", notes)
    if not coil.inspected:
        return Judgement("alarm", "Nothing was inspected", notes)
    if worst:
        return Judgement("alarm", counted(worst, f"{order[0]} defect"), notes)
    if coil.coverage < 1:
        found = counted(len(coil.defects), "defect") if coil.defects else "No defect"
        return Judgement("attention", f"{found} found, but not all was inspected", notes)
    if coil.shallow:
        found = counted(len(coil.defects), "defect") if coil.defects else "No defect"
        return Judgement("attention", f"{found} found, but not all was inspected in full", notes)
    if coil.defects:
        return Judgement("fair", f"{counted(len(coil.defects), 'defect')}, none {order[0]}", notes)
    return Judgement("perfect", "A perfect coil" if not coil.pieces else "Not one defect", notes)


def _notes(coil: CoilReport) -> list[str]:
    notes = [*_book_notes(coil), *_cover_notes(coil), *_depth_notes(coil)]
    if coil.pieces:
        struck = len({finding.defect.source for finding in coil.defects})
        notes.append(
            f"{counted(len(coil.defects), 'defect')} in {count(struck)} of {counted(len(coil.pieces), 'picture')}"
        )
    elif coil.defects:
        rate = len(coil.defects) / max(coil.length_mm, 1.0) * 100_000
        notes.append(f"{counted(len(coil.defects), 'defect')} in all, {rate:,.1f} in 100 m of strip")
    return notes


def _book_notes(coil: CoilReport) -> list[str]:
    wrong = [row for row in coil.books if row.difference]
    return [
        f"{row.camera}: {counted(abs(row.difference), 'frame')} "
        + ("without a fate" if row.difference > 0 else "settled twice")
        + ". Run inspector audit on the journal before you trust this report"
        for row in wrong
    ]


def _depth_notes(coil: CoilReport) -> list[str]:
    return [
        f"{counted(frames, 'frame')} ({length(mm)}, over all cameras) {depth_words(depth)}, as the line was behind"
        for depth, (frames, mm) in coil.shallow.items()
    ]


def _cover_notes(coil: CoilReport) -> list[str]:
    if not coil.inspected:
        return ["No frame went through the networks"]
    if coil.coverage < 1:
        lost = coil.issued - coil.inspected
        missing = f"{length(coil.uninspected_mm)} of strip " if coil.uninspected_mm else ""
        return [f"{missing}{'(' if missing else ''}{counted(lost, 'frame')}{')' if missing else ''} not inspected"]
    if not coil.defects and not coil.shallow:
        return [f"{length(coil.length_mm)} of strip inspected, every millimetre of it, and not one defect"]
    return []
