"""What a person sees while a line runs in a terminal: events as they come, and a bar of frames, speed and losses."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from inspector.events import Event
from inspector.pipeline import Line
from inspector.report import Throughput
from inspector.wording import describe


@dataclass(slots=True)
class Totals:
    """The sums over all cameras."""

    issued: int = 0
    inspected: int = 0
    lost: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)


def totals(line: Line) -> Totals:
    """What the books of a line say now."""
    found = Totals()
    for books in line.ledger.totals().values():
        found.issued += books.issued
        found.inspected += books.inspected
        for reason, count in books.lost.items():
            found.lost += count
            found.by_reason[reason] = found.by_reason.get(reason, 0) + count
    return found


def throughput(line: Line, inspected_mm: float, seconds: float) -> Throughput:
    """How fast a line that has ended was, over `seconds`, for `inspected_mm` of strip."""
    ages = line.publish.tally.ages
    return Throughput(
        totals(line).inspected / seconds,
        inspected_mm / 1000 / seconds * 60,
        ages.percentile_ms(50),
        ages.percentile_ms(99),
        seconds,
    )


class Screen:
    """A progress bar at the foot of the terminal and events above it. A pipe gets the events only."""

    def __init__(self, title: str, total_frames: int | None, metres_per_frame: float, console: Console) -> None:
        self.console = console
        self.defects = 0
        self._metres_per_frame = metres_per_frame
        self._started = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            _Figures(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total_frames)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        """One event, above the bar."""
        if event.subject.startswith("defect/"):
            self.defects += 1
        text, style = describe(event)
        self._bar.console.print(Text(text, style), overflow="ellipsis", no_wrap=True)

    def refresh(self, line: Line) -> None:
        """Bring the bar up to the line's books."""
        sums = totals(line)
        seconds = max(1e-6, time.monotonic() - self._started)
        figures = f"{sums.inspected * self._metres_per_frame:,.1f} m  {sums.inspected / seconds:,.0f} frames/s  "
        text = Text(figures)
        text.append(f"{self.defects:,} defects  ", style="bold yellow" if self.defects else "")
        text.append(f"{sums.lost:,} lost", style="bold red" if sums.lost else "green")
        settled = sums.inspected + sums.lost
        self._bar.update(self._task, completed=settled, figures=text)


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        figures = task.fields.get("figures")
        return figures if isinstance(figures, Text) else Text("")


def summary(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    """The last word: a small table."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)


def console() -> Console:
    """Standard output; a pipe gets plain, unwrapped lines."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)
