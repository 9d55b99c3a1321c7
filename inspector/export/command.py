"""`inspector export JOURNAL --coil NAME`: what is asked for, where it goes, and what must be said of it.

Exit codes: 0 the file holds all that the coil had; 1 there is no such coil, or the file is written but something of the
coil is missing from it, as stderr says; 78 the command cannot be carried out as given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from inspector.config import load
from inspector.errors import ConfigError
from inspector.events import Event
from inspector.export import coils, lines, output, parquet, runlengths, sheet
from inspector.export.coils import KINDS, Coil
from inspector.journal import Run, read_runs
from inspector.journal.store import damaged
from inspector.wording import safe

DEFAULT_KINDS = {"jsonl": KINDS, "csv": ("defect", "gap"), "parquet": KINDS, "rle": ("defect",)}
"""Format -> the kinds of events that it holds unless others are asked for."""
FORMATS = tuple(DEFAULT_KINDS)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("journal", type=Path, metavar="JOURNAL", help="the file, or a YAML that names it")
    parser.add_argument("--coil", metavar="NAME", help="left out: list the coils in the journal")
    parser.add_argument("--format", choices=FORMATS, help="default: what FILE ends in; rle: run lengths by picture")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="left out or -: standard output")
    parser.add_argument("--kinds", type=_kinds, metavar="KIND,...", help=f"of {', '.join(KINDS)}")


def run(options: argparse.Namespace) -> int:
    """Write the export, or list the coils; returns the exit code.

    Raises:
        ConfigError: the arguments do not go together, or name a file that cannot be used.
        JournalError: the journal cannot be read.
        SinkError: the file cannot be written; nothing is left of it.
        InspectorError: there is no such coil.
    """
    path = _journal(options.journal)
    if options.coil is None:
        return _list(path)
    file = None if options.output in (None, Path("-")) else options.output
    chosen = _format(options.format, file)
    kinds = options.kinds or DEFAULT_KINDS[chosen]
    _check(chosen, kinds, file)
    coil = coils.named(coils.survey(path), options.coil, path)
    runs = [each for each in read_runs(path) if each.epoch in coil.epochs]
    with output.opened(file) as out:
        faults = _write(chosen, path, coil, kinds, runs, out)
    return _tell(coil, [*coil.faults(runs), *faults])


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(text.split(",")))
    if not set(kinds) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of kinds such as defect,gap; there are {KINDS}")
    return kinds


def _journal(path: Path) -> Path:
    return load(path).journal.path if path.suffix in (".yaml", ".yml") else path


def _format(asked: str | None, file: Path | None) -> str:
    if asked is not None:
        return asked
    suffix = file.suffix.removeprefix(".").lower() if file else ""
    if suffix in FORMATS:
        return suffix
    said = f"{file}: its name does not say the format" if file else "standard output has no format of its own"
    raise ConfigError(f"{said}; add --format {'|'.join(FORMATS)}")


def _check(chosen: str, kinds: tuple[str, ...], file: Path | None) -> None:
    if chosen == "rle" and kinds != ("defect",):
        raise ConfigError("--kinds: run lengths are of defects only; leave it out, or take another --format")
    if chosen == "parquet":
        if file is None:
            raise ConfigError("--format parquet needs a file: add -o FILE.parquet")
        parquet.check()
    if file is not None:
        output.check(file)


def _write(chosen: str, path: Path, coil: Coil, kinds: tuple[str, ...], runs: list[Run], out: BinaryIO) -> list[str]:
    """Write the file; returns what of the coil is missing from it."""
    if chosen == "rle":
        return _remarks(runlengths.write(partial(_events, path, coil.name, ("defect", "gap")), out))
    if chosen == "jsonl":
        lines.write(coils.bodies(path, coil.name, kinds), out)
    elif chosen == "csv":
        sheet.write(_events(path, coil.name, kinds), out)
    else:
        parquet.write(_events(path, coil.name, kinds), out, coil.name, runs)
    return []


def _events(path: Path, coil: str, kinds: tuple[str, ...]) -> Iterator[Event]:
    decode = msgspec.json.Decoder(Event).decode
    for body in coils.bodies(path, coil, kinds):
        try:
            yield decode(body)
        except msgspec.MsgspecError as error:
            raise damaged(path, error) from None


def _remarks(remarks: runlengths.Remarks) -> list[str]:
    if remarks.unnamed:
        _say(
            f"{remarks.unnamed} replayed frames are called CAMERA_SEQUENCE: defects go on into them, "
            "and an event names only the picture in which its defect begins"
        )
    why = "their frames are not all of one height, so the masks cannot be cut into frames; `--format jsonl` has them"
    faults = [f"{remarks.uncut} defects over several frames are left out: {why}"] if remarks.uncut else []
    if remarks.unsegmented:
        faults.append(f"{remarks.unsegmented} defects that were not segmented, under overload, are left out")
    return faults


def _tell(coil: Coil, faults: list[str]) -> int:
    if coil.state != "ended":
        _say(f"coil {coil.name} is {coil.state}" if coil.state == "on the line" else f"coil {coil.name} {coil.state}")
    for fault in faults:
        _say(f"coil {coil.name} is not complete: {fault}")
    return 1 if faults else 0


def _say(text: str) -> None:
    print(f"inspector export: {safe(text)}", file=sys.stderr)


def _list(path: Path) -> int:
    rows = [("coil", "first event", "last event", "events", "state")]
    found = coils.survey(path).values()
    rows += [(safe(c.name), _minute(c.first), _minute(c.last), f"{c.events:,}", c.state) for c in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, first, last, events, state in rows:
        print(f"{name:<{widths[0]}}  {first:<{widths[1]}}  {last:<{widths[2]}}  {events:>{widths[3]}}  {state}")
    return 0


def _minute(time: str) -> str:
    return time[:19].replace("T", " ") + "Z" if "T" in time else time
