"""Events as a person reads them: one line each."""

from __future__ import annotations

from datetime import datetime

from inspector.events import NOT_TYPED, CoilEvent, Defect, Event, Gap, Heartbeat, State, short_digest

GOOD = {"ok", "up", "running", "sees strip", "sees well", "keeping up", "inspected in full", "as usual"}
"""States in which nothing is wrong."""


def describe(event: Event) -> tuple[str, str]:
    """An event as one line for people (local time) and the style that it is shown in."""
    clock = datetime.fromisoformat(event.time).astimezone().strftime("%H:%M:%S.%f")[:-3]
    match event.data:
        case Defect() as data:
            text, style = _defect(data)
        case Gap() as data:
            text, style = _gap(data)
        case CoilEvent() as data:
            text, style = f"---- coil {data.coil} {data.phase} at encoder count {data.encoder_count} ----", "bold cyan"
            text += _judged(data)
        case State() as data:
            style = "green" if data.state in GOOD else "bold yellow"
            text = f"state: {data.part} is {data.state}" + (f": {data.detail}" if data.detail else "")
        case Heartbeat() as data:
            text, style = _heartbeat(data), "dim"
    return safe(f"{clock}  {text}"), style


def _defect(data: Defect) -> tuple[str, str]:
    where = f"{data.position_mm.along / 1000:10.3f} m  across {data.position_mm.across:6.0f} mm"
    what = f"{data.defect_class.number} {data.defect_class.name:<14} {data.severity.upper():<9}"
    size = f"{data.size_mm.along:.1f} x {data.size_mm.across:.1f} mm"
    if not data.segmented:
        size = f"within {size}, not segmented" + (", not typed" if data.defect_class.number == NOT_TYPED else "")
    style = {"critical": "bold red", "major": "yellow"}.get(data.severity, "")
    return f"{data.camera:<10} coil {data.coil:<10} {where}  {what} size {size:<18} score {data.score:.2f}", style


def _gap(data: Gap) -> tuple[str, str]:
    start, end = data.along_mm.start / 1000, data.along_mm.end / 1000
    why = f"{data.reason}: {data.detail}" if data.detail else str(data.reason)
    source = f" {data.source}" if data.source else ""
    text = (
        f"{start:10.3f} m  !!! GAP: {end - start:.3f} m NOT INSPECTED, to {end:.3f} m, {data.frames} frame(s){source}"
    )
    return f"{data.camera:<10} coil {data.coil:<10} {text} ({why})", "bold white on red"


def _judged(data: CoilEvent) -> str:
    """By which packs, and how deep where that is not all in full."""
    told = []
    if data.packs is not None:
        told.append(f"pack{'s' * (len(data.packs) > 1)} " + ", ".join(short_digest(digest) for digest in data.packs))
    if data.inspected is not None:
        depths = (f"{each.mm / 1000:.1f} m {depth}" for depth, each in data.inspected.items())
        told.append("not all in full: " + ", ".join(depths))
    return " " + "; ".join(told) if told else ""


def _heartbeat(data: Heartbeat) -> str:
    cameras = [f"{name} {c.inspected} inspected {sum(c.lost.values())} lost" for name, c in data.cameras.items()]
    missed = [f"{count} undelivered by {sink}" for sink, count in data.undelivered.items() if count]
    behind = [f"overload step {data.overload_step}"] if data.overload_step else []
    duty = f", pack {short_digest(data.pack_digest)}" if data.pack_digest is not None else ""
    return f"heartbeat: {data.state}, coil {data.coil}{duty}; " + "; ".join([*behind, *cameras, *missed])


def safe(text: str) -> str:
    """Names come from outside: nothing in them may steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
