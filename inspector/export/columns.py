"""An event as a flat row: the one table of columns of csv and Parquet. Lengths along the strip count from the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from inspector.events import CoilEvent, Defect, Event, Gap, State
from inspector.strip import thousandths

Type = Literal["name", "text", "integer", "real", "truth", "time"]
"""`name`: a text that comes again and again. `time`: nanoseconds since the Unix epoch, UTC."""

Cell = str | int | float | bool | None


@dataclass(slots=True, frozen=True)
class Column:
    """A column, and what it holds for an event; None where it says nothing of that kind of event."""

    name: str
    type: Type
    of: Callable[[Event], Cell]


def _any(column: str, type_: Type, *path: str) -> Column:
    """What the event's data have at `path`, whatever kind they are of."""

    def of(event: Event) -> Cell:
        value: Any = event.data
        for step in path:
            value = getattr(value, step, None)
        return str(value) if isinstance(value, str) else value

    return Column(column, type_, of)


def stretch_mm(event: Event) -> tuple[float, float] | None:
    """Where a defect or gap begins and ends along the strip, mm."""
    match event.data:
        case Defect(position_mm=position, size_mm=size):
            half = size.along / 2
            return thousandths(position.along - half), thousandths(position.along + half)
        case Gap(along_mm=along):
            return along.start, along.end
        case _:
            return None


def _start(event: Event) -> Cell:
    stretch = stretch_mm(event)
    return None if stretch is None else stretch[0]


def _end(event: Event) -> Cell:
    stretch = stretch_mm(event)
    return None if stretch is None else stretch[1]


def _length(event: Event) -> Cell:
    match event.data:
        case Defect(size_mm=size):
            return size.along
        case Gap(along_mm=along):
            return thousandths(along.end - along.start)
        case _:
            return None


def _state(event: Event) -> Cell:
    match event.data:
        case State(state=state):
            return state
        case CoilEvent(phase=phase):
            return phase
        case _:
            return None


def nanoseconds(time: str) -> int:
    """An event's RFC 3339 time with up to nine digits behind the second, in ns since the Unix epoch."""
    whole, _, digits = time.removesuffix("Z").partition(".")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return int(seconds) * 1_000_000_000 + int(digits.ljust(9, "0") or 0)


def _measured(column: str, type_: Type, name: str) -> Column:
    """What is known of a defect that was segmented only."""

    def of(event: Event) -> Cell:
        found: Cell = getattr(event.data, name) if isinstance(event.data, Defect) and event.data.segmented else None
        return found

    return Column(column, type_, of)


def _pack_digest(event: Event) -> Cell:
    if isinstance(event.data, CoilEvent):
        return None if event.data.packs is None else " ".join(event.data.packs)
    found: Cell = getattr(event.data, "pack_digest", None)
    return found


def _mask_height(event: Event) -> Cell:
    return event.data.mask.size[0] if isinstance(event.data, Defect) else None


def _mask_width(event: Event) -> Cell:
    return event.data.mask.size[1] if isinstance(event.data, Defect) else None


COLUMNS = (
    Column("kind", "name", lambda event: str(event.data.__struct_config__.tag)),
    _any("coil", "name", "coil"),
    _any("camera", "name", "camera"),
    Column("start_mm", "real", _start),
    Column("end_mm", "real", _end),
    Column("length_mm", "real", _length),
    _any("across_mm", "real", "position_mm", "across"),
    _any("width_mm", "real", "size_mm", "across"),
    _measured("area_mm2", "real", "area_mm2"),
    _any("class", "integer", "defect_class", "number"),
    _any("class_name", "name", "defect_class", "name"),
    _any("severity", "name", "severity"),
    _any("score", "real", "score"),
    _any("continues", "truth", "continues"),
    _any("reason", "name", "reason"),
    _any("part", "name", "part"),
    Column("state", "name", _state),
    _any("detail", "text", "detail"),
    _any("encoder_count", "integer", "encoder_count"),
    _any("picture", "text", "source"),
    _any("frame_sequence", "integer", "frame_sequence"),
    _any("frames", "integer", "frames"),
    _any("x_px", "integer", "bbox_px", "x"),
    _any("y_px", "integer", "bbox_px", "y"),
    _any("width_px", "integer", "bbox_px", "width"),
    _any("height_px", "integer", "bbox_px", "height"),
    _measured("area_px", "integer", "area_px"),
    _any("exposed_time", "time", "exposed_ns"),
    Column("time", "time", lambda event: nanoseconds(event.time)),
    Column("source", "name", lambda event: event.source),
    Column("epoch", "integer", lambda event: event.epoch),
    Column("sequence", "integer", lambda event: event.sequence),
    Column("id", "text", lambda event: event.id),
    Column("pack_digest", "name", _pack_digest),
    _any("segmented", "truth", "segmented"),
)
"""`across_mm` is the defect's middle; `part` and `state` are a state's, `state` also a coil event's start or end.
`pack_digest` of a coil's end has those of all its packs, with blanks between them."""

MASK = (
    Column("mask_height_px", "integer", _mask_height),
    Column("mask_width_px", "integer", _mask_width),
    _any("mask_rle", "text", "mask", "rle"),
)
