"""Events as a person reads them: one line each."""

from __future__ import annotations

from rich.text import Text

from inspector.records import CoilEvent, Defect, Event, Gap, Heartbeat, State

SEVERITY_STYLE = {"critical": "bold white on red", "major": "bold yellow", "minor": "cyan"}


def one_line(event: Event) -> Text:
    """Time, what, where: defects by severity, gaps as the alarms they are."""
    line = Text(event.time[11:23] + "  ", style="dim")
    return line + _said(event.data)


def _said(data: Defect | Gap | CoilEvent | State | Heartbeat) -> Text:
    if isinstance(data, Defect):
        return _defect(data)
    if isinstance(data, Gap):
        return _gap(data)
    if isinstance(data, CoilEvent):
        return Text(f"COIL      {data.coil} {data.phase} at encoder count {data.encoder_count:,}", style="bold")
    if isinstance(data, State):
        bad = data.state in ("down", "degraded", "stalled")
        return Text(f"STATE     {data.part} is {data.state} {data.detail}", style="bold red" if bad else "green")
    lost = sum(sum(books.lost.values()) for books in data.cameras.values())
    inspected = sum(books.inspected for books in data.cameras.values())
    text = f"heartbeat {data.state}, coil {data.coil}: {inspected:,} frames inspected, {lost:,} lost"
    return Text(text, style="dim" if not lost else "red")


def _defect(data: Defect) -> Text:
    place = data.source or f"{data.position_mm.along / 1000:9.3f} m"
    text = Text(f"{data.severity.upper():<9} ", style=SEVERITY_STYLE.get(data.severity, "bold"))
    text.append(f"{data.defect_class.number} {data.defect_class.name:<10}", style="bold")
    text.append(f" coil {data.coil}  {data.camera}  {place}, {data.position_mm.across:6.1f} mm across  ")
    text.append(
        f"{data.size_mm.along:.1f} x {data.size_mm.across:.1f} mm, {data.area_mm2:.0f} mm², score {data.score:.2f}"
    )
    return text


def _gap(data: Gap) -> Text:
    length = data.along_mm.end - data.along_mm.start
    text = Text("GAP       ", style="bold white on red")
    text.append(f"coil {data.coil}  {data.camera}  {data.along_mm.start / 1000:.3f} m, {length:.0f} mm not inspected: ")
    text.append(f"{data.frames} frame(s) {data.reason}", style="bold red")
    return text.append(f" {data.source or ''} {data.detail}")
