"""csv for a spreadsheet (RFC 4180, UTF-8): one row an event, in order along the coil, the same columns for all kinds.

Masks are left out: a spreadsheet's cell is too small for them (`--format rle` and `parquet` have them). Names come
from pictures and from the plant, and a spreadsheet takes a text that begins with one of ``= + - @`` for a formula: such
a text, and one that begins with an apostrophe itself, gets an apostrophe in front. Take that one off to have the text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import BinaryIO

from inspector.events import CoilEvent, Event
from inspector.export.columns import COLUMNS, Cell, Column, stretch_mm
from inspector.export.spool import Spool
from inspector.journal import rfc3339
from inspector.wording import safe

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
"""What a text must not begin with: https://owasp.org/www-community/attacks/CSV_Injection, and what undoes it."""


def write(events: Iterable[Event], out: BinaryIO) -> None:
    """Sorted by the place along the strip; what happened while the coil was on the line stands where it was then."""
    line = _Line()
    out.write(line.made([column.name for column in COLUMNS]))
    with Spool() as spool:
        reached: dict[int, float] = {}
        for event in events:
            run = reached.setdefault(event.epoch, float("-inf"))
            stretch = stretch_mm(event)
            if stretch is not None:
                reached[event.epoch] = max(run, stretch[0])
            spool.add(event.epoch, _place(event, stretch, run), line.made([_cell(column, event) for column in COLUMNS]))
        for _, _, row in spool.ordered():
            out.write(row)


def _place(event: Event, stretch: tuple[float, float] | None, reached: float) -> float:
    if stretch is not None:
        return stretch[0]
    if isinstance(event.data, CoilEvent):
        return float("-inf") if event.data.phase == "start" else float("inf")
    return reached


def _cell(column: Column, event: Event) -> str:
    value = column.of(event)
    if value is None:
        return ""
    if column.type == "time":
        return rfc3339(int(value))
    return text(value)


def text(value: Cell) -> str:
    """A value as a cell that no spreadsheet takes for a formula; what would steer a terminal is replaced."""
    if isinstance(value, str):
        return "'" + safe(value) if value.startswith(FORMULA) else safe(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


class _Line:
    """Rows as bytes, one at a time."""

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text)

    def made(self, cells: list[str]) -> bytes:
        self._writer.writerow(cells)
        row = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return row.encode()
