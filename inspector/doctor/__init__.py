"""What this machine can do: processor, GPU, runtimes, cameras, packs, limits; what is missing and what mends it.

Nothing is opened or changed. Vendors' libraries are tried in a process of their own, so that one that crashes is a
row of the report and not its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from inspector.doctor import machine, plans, software
from inspector.doctor.findings import Finding, Report, State, as_json, show

__all__ = ["Finding", "Report", "State", "as_json", "doctor", "main", "show"]


def doctor(packs: Sequence[Path] = (), root: Path = machine.ROOT) -> Report:
    """Examine everything.

    Args:
        packs: folders of packs, or folders that hold some; empty: `./engines`.
        root: where /proc and /sys are read.
    """
    rows = [
        *machine.examine(root),
        *software.examine(machine.driver_version(root)),
        *software.packs(packs),
        *plans.examine(packs, root),
    ]
    return Report(findings=rows)


def main(packs: Sequence[Path], in_json: bool, out: TextIO) -> int:
    """`inspector doctor`: prints the report to `out` and returns the exit code."""
    report = doctor(packs)
    if in_json:
        out.write(as_json(report).decode() + "\n")
    else:
        show(report, out)
    return report.exit_code
