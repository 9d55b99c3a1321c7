"""The page itself: the templates of inspector/templates filled in, and the file written in one piece."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from inspector.errors import ConfigError
from inspector.events import DefectClass
from inspector.report import chart, words
from inspector.report.coil import CoilReport, Finding, GapStretch
from inspector.report.gallery import Card, Gallery, gallery, rank

TEMPLATES = Path(__file__).parent.parent / "templates"
FIRST_CARDS = 24
"""Cards that are in the page at once; the rest wait in templates until the reader asks for more."""
MOST_ROWS = 100
"""Rows of the tables of gaps and of pictures."""


@dataclass(slots=True, frozen=True)
class ClassRow:
    """One class in figures; areas are of the defects that were measured."""

    entry: DefectClass
    index: int
    by_severity: list[int]
    total: int
    area_mm2: float
    largest_mm2: float
    per_100: float
    """Defects in 100 m of strip, or in 100 pictures."""


@dataclass(slots=True, frozen=True)
class PictureRow:
    """One picture of a replayed folder: defects by severity."""

    source: str
    by_severity: list[int]
    total: int
    area_mm2: float


def render(report: CoilReport, path: Path) -> None:
    """Write the report to `path`: the whole file or, on any failure, what was there before.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = page(report).encode("utf-8", "replace")
    target = Path(os.path.realpath(path))  # a link stays, what it leads to is written
    draft = target.with_name(f".report-{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        if target.exists() and not target.is_file():
            raise OSError("it is there and is not a file")
        _write(draft, text)
        draft.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ConfigError(
            f"{path}: the report cannot be written: {error.strerror or error}. "
            "Name a file in a folder that exists, is writable and has room"
        ) from None


def check(path: Path) -> None:
    """Whether a report could be written there, before the work that it would tell of. Makes nothing.

    Raises:
        ConfigError: it could not.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: the report cannot be written. Name a file in a folder that exists and is writable")


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def page(report: CoilReport) -> str:
    """The report as one HTML text."""
    ranked = rank(report)
    cards = gallery(report, ranked)
    drawn = chart.draw(report, ranked[: len(cards.cards)])
    script = _script()
    gaps = sorted(report.gaps, key=lambda gap: (gap.start_mm - gap.end_mm, gap.start_mm))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            coil=report,
            verdict=words.judge(report),
            chart=drawn,
            geometry=chart,
            gallery=cards,
            first_cards=FIRST_CARDS,
            data=_data(report, drawn, cards),
            classes=class_rows(report),
            severities=report.severity_order(),
            severity_counts=_severity_counts(report),
            pictures=picture_rows(report, ranked)[:MOST_ROWS],
            gaps=gaps[:MOST_ROWS],
            gap_reasons=gap_reasons(report.gaps),
            rows=MOST_ROWS,
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _script() -> str:
    return (TEMPLATES / "report.js").read_text(encoding="utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    """Autoescape everything: names come from cameras, files and plant computers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=words.count,
        counted=words.counted,
        metres=words.metres,
        length=words.length,
        millimetres=words.millimetres,
        area=words.area,
        share=words.share,
        moment=words.moment,
        duration=words.duration,
        depth=words.depth_words,
        length_of=len,
    )
    return environment


def class_rows(report: CoilReport) -> list[ClassRow]:
    """One row for each class of the pack, those without a defect too."""
    rows = []
    for index, entry in enumerate(report.class_order()):
        own = [f.defect for f in report.defects if f.defect.defect_class.number == entry.number]
        areas = [defect.area_mm2 for defect in own if defect.segmented]
        by_severity = Counter(defect.severity for defect in own)
        counts = [by_severity[name] for name in report.severity_order()]
        hundreds = len(report.pieces) / 100 if report.pieces else report.length_mm / 100_000
        rate = len(own) / hundreds if hundreds > 0 else 0.0
        rows.append(ClassRow(entry, index, counts, len(own), sum(areas), max(areas, default=0.0), rate))
    return rows


def picture_rows(report: CoilReport, ranked: Sequence[Finding]) -> list[PictureRow]:
    """Pictures with a defect, worst first; none for a coil in one piece."""
    if not report.pieces:
        return []
    found: dict[str, list[Finding]] = {}
    for finding in ranked:
        found.setdefault(finding.defect.source or "", []).append(finding)
    order = report.severity_order()
    rows = []
    for source, own in found.items():
        severities = Counter(finding.defect.severity for finding in own)
        area = sum(finding.defect.area_mm2 for finding in own if finding.defect.segmented)
        rows.append(PictureRow(source, [severities[name] for name in order], len(own), area))
    return sorted(rows, key=lambda row: ([-number for number in row.by_severity], -row.area_mm2))


def gap_reasons(gaps: Sequence[GapStretch]) -> list[tuple[str, int, int, float]]:
    """(reason, gaps, frames, mm of strip) of each reason, the one with the most frames first."""
    found: dict[str, list[GapStretch]] = {}
    for gap in gaps:
        found.setdefault(gap.reason, []).append(gap)
    rows = [
        (why, len(own), sum(g.frames for g in own), sum(g.end_mm - g.start_mm for g in own))
        for why, own in found.items()
    ]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def _severity_counts(report: CoilReport) -> list[tuple[str, int]]:
    numbers = Counter(finding.defect.severity for finding in report.defects)
    return [(name, numbers[name]) for name in report.severity_order()]


def _data(report: CoilReport, drawn: chart.Chart, cards: Gallery) -> dict[str, Any]:
    """What the script needs; one short row for each card, in the order of the cards."""
    return {
        "length": drawn.length_mm,
        "acrossFrom": drawn.across_from_mm,
        "across": drawn.across_mm,
        "plot": chart.PLOT,
        "strip": chart.STRIP_HEIGHT,
        "barsHeight": chart.BARS_HEIGHT,
        "bins": chart.BINS_ALONG,
        "thinnestGap": drawn.thinnest_gap,
        "classes": [f"{entry.number} {entry.name}" for entry in report.class_order()],
        "severities": report.severity_order(),
        "pieces": [[round(p.start_mm, 1), round(p.end_mm, 1), p.source] for p in report.pieces],
        "rows": [_row(card) for card in cards.cards],
    }


def _row(card: Card) -> list[Any]:
    defect = card.defect
    return [
        round(defect.position_mm.along, 1),
        round(defect.position_mm.across, 1),
        round(defect.size_mm.along, 1),
        round(defect.size_mm.across, 1),
        card.class_index,
        card.severity_index,
        round(defect.area_mm2, 1),
        round(defect.score, 3),
        defect.source or "",
        [float(f"{value:.6g}") for value in card.plane],
    ]
