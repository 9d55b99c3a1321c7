"""Where things lie on the defect map: nice ticks, marks, gaps and histograms, in the units of its SVG.

The map is the frames turned a quarter, not mirrored: along runs from left (head end) to right, across upwards. The
script in the page moves the same elements when a reader zooms, so it uses the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from inspector.report.coil import CoilReport, Finding, GapStretch

LEFT, PLOT, RIGHT = 64, 1080, 96
"""The map's columns, SVG units: the across axis, the strip, the profile across."""
STRIP_HEIGHT = 300
BARS_HEIGHT = 64
BINS_ALONG = 135
BINS_ACROSS = 50
THINNEST_GAP = (1.2, 4.0)
"""A gap of one frame on 15 km of strip must still be seen; many such gaps are drawn thinner than a few."""
MOST_GAPS = 1500
"""More gaps than these are drawn as one where they touch on the map."""


@dataclass(slots=True, frozen=True)
class Tick:
    at: float
    """SVG units from the axis' start."""
    label: str


@dataclass(slots=True, frozen=True)
class Mark:
    index: int
    x: float
    y: float
    radius: float
    class_index: int
    severity_index: int


@dataclass(slots=True, frozen=True)
class Lane:
    name: str
    y: float
    height: float


@dataclass(slots=True, frozen=True)
class GapBar:
    """A hatched stretch; `start_mm` and `end_mm` let the script move it."""

    x: float
    y: float
    width: float
    height: float
    start_mm: float
    end_mm: float
    title: str


@dataclass(slots=True)
class Chart:
    """Everything that is drawn, full length in view."""

    length_mm: float
    across_from_mm: float
    across_mm: float
    ticks_along: list[Tick]
    ticks_across: list[Tick]
    lanes: list[Lane]
    marks: list[Mark]
    missed: list[Mark]
    gaps: list[GapBar]
    bars: list[str]
    """One SVG path for each class: the histogram along the coil, stacked."""
    most_in_bin: int
    profile: list[str]
    """The same across the strip."""
    radii: list[float] = field(default_factory=list)
    thinnest_gap: float = THINNEST_GAP[1]

    def x(self, mm: float) -> float:
        return round(min(max(mm / self.length_mm, 0.0), 1.0) * PLOT, 2)

    def y(self, mm: float) -> float:
        return round((1 - min(max((mm - self.across_from_mm) / self.across_mm, 0.0), 1.0)) * STRIP_HEIGHT, 2)


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5 x 10^n that cuts a span into at most `most` parts."""
    if span <= 0 or most < 1:
        return 1.0
    decade = 10.0 ** math.floor(math.log10(span / most))
    return next(decade * factor for factor in (1, 2, 5, 10, 20) if decade * factor * most >= span * (1 - 1e-9))


def nice_values(start: float, end: float, most: int) -> list[float]:
    """The multiples of a nice step within [start, end]."""
    step = nice_step(end - start, most)
    first = math.ceil(start / step - 1e-9)
    last = math.floor(end / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def plain(value: float) -> str:
    """A tick's label: 1,250 or 0.25, never 0.30000000000000004."""
    return f"{value + 0.0:,.6f}".rstrip("0").rstrip(".")


def draw(coil: CoilReport, shown: Sequence[Finding]) -> Chart:
    """The chart of a coil; `shown` are the defects that get a mark, most severe first."""
    length, start, across = _extent(coil)
    chart = Chart(length, start, across, [], [], [], [], [], [], [], 0, [])
    chart.ticks_along = _ticks_along(coil, chart)
    chart.ticks_across = [Tick(chart.y(mm), plain(mm)) for mm in nice_values(start, start + across, 6)]
    chart.lanes = [_lane(chart, lane.name, lane.offset_mm, lane.width_mm) for lane in coil.cameras]
    chart.radii = mark_radii(len(coil.severity_order()), len(shown))
    chart.marks = _marks(coil, chart, shown)
    chart.missed = _missed(coil, chart)
    chart.gaps = _gaps(coil, chart)
    _histograms(coil, chart)
    return chart


def _extent(coil: CoilReport) -> tuple[float, float, float]:
    """(length, first across, extent across) in mm: the lanes, and whatever was found beyond them."""
    defects = [finding.defect for finding in coil.defects]
    ends = [d.position_mm.along + d.size_mm.along / 2 for d in defects] + [gap.end_mm for gap in coil.gaps]
    length = max([coil.length_mm, *(piece.end_mm for piece in coil.pieces), *ends, 1.0])
    lows = [lane.offset_mm for lane in coil.cameras] or [d.position_mm.across - d.size_mm.across for d in defects]
    highs = [lane.offset_mm + lane.width_mm for lane in coil.cameras] or [
        d.position_mm.across + d.size_mm.across for d in defects
    ]
    start = min(lows, default=0.0)
    return length, start, max(max(highs, default=1000.0) - start, 1.0)


def _ticks_along(coil: CoilReport, chart: Chart) -> list[Tick]:
    if coil.pieces:
        numbers = [int(n) for n in nice_values(1, len(coil.pieces), 12) if n >= 1 and n == int(n)]
        return [Tick(chart.x(_middle(coil, n - 1)), plain(n)) for n in dict.fromkeys([1, *numbers])]
    return [Tick(chart.x(m * 1000), plain(m)) for m in nice_values(0, chart.length_mm / 1000, 12)]


def _middle(coil: CoilReport, index: int) -> float:
    return (coil.pieces[index].start_mm + coil.pieces[index].end_mm) / 2


def _lane(chart: Chart, name: str, offset_mm: float, width_mm: float) -> Lane:
    top = chart.y(offset_mm + width_mm)
    return Lane(name, top, round(chart.y(offset_mm) - top, 2))


def mark_radii(severities: int, marks: int) -> list[float]:
    """Radius by severity, most severe first; smaller where there are very many marks."""
    crowd = min(1.0, max(0.45, math.sqrt(500 / max(marks, 1))))
    steps = max(severities - 1, 1)
    return [round((8.5 - 4.9 * rank / steps) * crowd, 2) for rank in range(severities)]


def _marks(coil: CoilReport, chart: Chart, shown: Sequence[Finding]) -> list[Mark]:
    classes = {entry.number: index for index, entry in enumerate(coil.class_order())}
    severities = {name: index for index, name in enumerate(coil.severity_order())}
    marks = []
    for index, finding in enumerate(shown):
        defect = finding.defect
        rank = severities[defect.severity]
        x, y = chart.x(defect.position_mm.along), chart.y(defect.position_mm.across)
        marks.append(Mark(index, x, y, chart.radii[rank], classes[defect.defect_class.number], rank))
    return marks


def _missed(coil: CoilReport, chart: Chart) -> list[Mark]:
    classes = {entry.number: index for index, entry in enumerate(coil.class_order())}
    return [
        Mark(i, chart.x(m.along_mm), chart.y(m.across_mm), 7.0, classes.get(m.defect_class, 0), 0)
        for i, m in enumerate(coil.truth.missed if coil.truth else ())
    ]


def _gaps(coil: CoilReport, chart: Chart) -> list[GapBar]:
    lanes = {lane.name: lane for lane in chart.lanes}
    whole = Lane("", 0.0, STRIP_HEIGHT)
    touching = chart.length_mm / PLOT if len(coil.gaps) > MOST_GAPS else 0.0
    joined = join_gaps(coil.gaps, touching)
    chart.thinnest_gap = min(max(PLOT / (8 * max(len(joined), 1)), THINNEST_GAP[0]), THINNEST_GAP[1])
    bars = []
    for gap in joined:
        lane = lanes.get(gap.camera, whole)
        x = chart.x(gap.start_mm)
        title = f"{gap.camera}: {gap.frames:,} frames not inspected, {gap.reason}" + (
            f" ({gap.source})" if gap.source else ""
        )
        width = round(max(chart.x(gap.end_mm) - x, chart.thinnest_gap), 2)
        bars.append(GapBar(x, lane.y, width, lane.height, gap.start_mm, gap.end_mm, title))
    return bars


def join_gaps(gaps: Sequence[GapStretch], touching_mm: float) -> list[GapStretch]:
    """Gaps of a camera that meet for the same reason, or come closer than `touching_mm`, as one."""
    joined: list[GapStretch] = []
    for gap in sorted(gaps, key=lambda g: (g.camera, g.start_mm)):
        last = joined[-1] if joined else None
        near = last is not None and last.camera == gap.camera and gap.start_mm - last.end_mm <= touching_mm
        if last is None or not near or (not touching_mm and (last.reason, last.source) != (gap.reason, gap.source)):
            joined.append(gap)
            continue
        reason = last.reason if last.reason == gap.reason else "several reasons"
        end = max(last.end_mm, gap.end_mm)
        joined[-1] = GapStretch(
            gap.camera, last.start_mm, end, last.frames + gap.frames, reason, last.detail or gap.detail, last.source
        )
    return joined


def _histograms(coil: CoilReport, chart: Chart) -> None:
    classes = {entry.number: index for index, entry in enumerate(coil.class_order())}
    along = [[0] * BINS_ALONG for _ in classes]
    across = [[0] * BINS_ACROSS for _ in classes]
    for finding in coil.defects:
        place, row = finding.defect.position_mm, classes[finding.defect.defect_class.number]
        along[row][min(int(chart.x(place.along) / PLOT * BINS_ALONG), BINS_ALONG - 1)] += 1
        across[row][min(int(chart.y(place.across) / STRIP_HEIGHT * BINS_ACROSS), BINS_ACROSS - 1)] += 1
    chart.most_in_bin = max((sum(column) for column in zip(*along, strict=True)), default=0)
    chart.bars = bar_paths(along, PLOT / BINS_ALONG, BARS_HEIGHT, upright=True)
    chart.profile = bar_paths(across, STRIP_HEIGHT / BINS_ACROSS, RIGHT - 24, upright=False)


def bar_paths(counts: list[list[int]], step: float, height: float, *, upright: bool) -> list[str]:
    """Stacked bars as one SVG path for each class: up from `height`, or to the right from 0."""
    most = max((sum(column) for column in zip(*counts, strict=True)), default=0)
    if not most:
        return ["" for _ in counts]
    base = [0.0] * len(counts[0])
    paths = []
    for row in counts:
        parts = []
        for index, number in enumerate(row):
            if number:
                size = number / most * height
                at, low = f"{index * step:.2f}", base[index]
                wide = f"{step * 0.86:.2f}"
                parts.append(
                    f"M{at} {height - low:.2f}h{wide}v-{size:.2f}h-{wide}z"
                    if upright
                    else f"M{low:.2f} {at}h{size:.2f}v{wide}h-{size:.2f}z"
                )
                base[index] += size
        paths.append("".join(parts))
    return paths
