"""What the doctor found, and how it is shown: a table for people, JSON for scripts."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TextIO

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, but worse than it could, or only in part."""
    MISSING = "missing"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the report."""

    section: str
    name: str
    state: State
    found: str
    mend: str = ""
    """The command, or the step, that mends it."""
    needed: bool = False
    """Without it the line cannot run with the default runtime."""

    @property
    def fatal(self) -> bool:
        return self.needed and self.state is State.MISSING


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All rows, in the order they are shown."""

    findings: list[Finding]

    @property
    def exit_code(self) -> int:
        """0: the line can run on this machine with the default runtime; 1: something needed is missing."""
        return int(any(finding.fatal for finding in self.findings))

    @property
    def verdict(self) -> str:
        fatal = [finding.name for finding in self.findings if finding.fatal]
        if fatal:
            return f"The line cannot run here yet. Needed and missing: {', '.join(fatal)}"
        return "The line can run on this machine with the default runtime."


def as_json(report: Report) -> bytes:
    """One object: `ok`, `verdict`, `findings`."""
    whole = {"ok": report.exit_code == 0, "verdict": report.verdict, "findings": report.findings}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2)


MARKS = {State.OK: ("ok", "green"), State.WARNING: ("warning", "yellow"), State.MISSING: ("missing", "dim")}


def show(report: Report, out: TextIO) -> None:
    """Print it: a coloured table on a terminal, plain tab-separated lines when piped."""
    if out.isatty():
        _show_table(report, Console(file=out))
        return
    out.writelines(_plain(report.findings))
    out.write(f"{report.verdict}\n")


def _plain(findings: Iterable[Finding]) -> Iterable[str]:
    for f in findings:
        state = f"{f.state}, needed" if f.fatal else str(f.state)
        yield "\t".join([f.section, f.name, state, f.found, *([f.mend] if f.mend else [])]) + "\n"


def _show_table(report: Report, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("part", "state", "found, and what mends it"):
        table.add_column(heading, overflow="fold")
    section = ""
    for finding in report.findings:
        if finding.section != section:
            section = finding.section
            table.add_row(Text(section, style="bold cyan"))
        word, style = ("MISSING", "bold red") if finding.fatal else MARKS[finding.state]
        found = Text(finding.found)
        if finding.mend:
            found.append(f"\n{finding.mend}", style="italic")
        table.add_row(Text(f"  {finding.name}"), Text(word, style=style), found)
    console.print(table)
    console.print(Text(report.verdict, style="bold red" if report.exit_code else "bold green"))
