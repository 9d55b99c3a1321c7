"""`inspector cameras`: which cameras can be found from here, and the lines of YAML that open them.

The only place where discovery is asked for: it broadcasts on the network. The daemon opens cameras by address.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import yaml
from rich.table import Table

from inspector import adapters
from inspector.cameras import Found
from inspector.errors import CameraError, ConfigError
from inspector.watching import console
from inspector.wording import safe

SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Searched:
    """What came of looking for cameras of one kind."""

    kind: str
    found: Sequence[Found]
    trouble: str = ""
    """Why nobody could look."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--kind", action="append", choices=_kinds(), metavar="KIND", help=f"may be repeated; of: {', '.join(_kinds())}"
    )
    parser.add_argument("--seconds", type=_seconds, default=SECONDS, help=f"how long each kind looks ({SECONDS:g})")
    parser.add_argument("--json", action="store_true", help="a JSON object a camera, a line each")


def run(options: argparse.Namespace) -> int:
    """Look, and show what was found. Exits with 1 when there is no camera."""
    searched = search(options.kind or _kinds(), options.seconds)
    show = _as_json if options.json else _as_table
    show(searched)
    return 0 if any(each.found for each in searched) else 1


def search(kinds: Sequence[str], seconds: float) -> list[Searched]:
    """Ask each kind that can look for cameras; one that cannot be used is told, not raised."""
    return [searched for kind in kinds if (searched := _search(kind, seconds)) is not None]


def _search(kind: str, seconds: float) -> Searched | None:
    try:
        look: Callable[[float], list[Found]] | None = vars(adapters.module("cameras", kind, "cameras")).get("discover")
        return None if look is None else Searched(kind, look(seconds))
    except (ConfigError, CameraError) as error:
        return Searched(kind, [], str(error))


def snippet(found: Found) -> str:
    """The camera as it would stand under `cameras:` in the YAML."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", found.serial or found.address).strip("_.-")[:64] or "camera"
    entry = [{"name": name, "kind": found.kind, "options": dict(found.options)}]
    text: str = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True)
    return f"{text}  pitch_mm: {{along: 0.5, across: 0.5}}   # strip in a line and in a pixel, mm: state yours\n"


def _as_table(searched: Sequence[Searched]) -> None:
    out = console()
    table = Table(title_justify="left", box=None, padding=(0, 2))
    for heading in ("kind", "address", "vendor", "model", "serial", ""):
        table.add_column(heading, overflow="fold")
    found = [camera for each in searched for camera in each.found]
    for c in found:
        table.add_row(*map(safe, (c.kind, c.address, c.vendor, c.model, c.serial, c.detail)))
    if found:
        out.print(table, markup=False)
        out.print("\n# under `cameras:`")
        for camera in found:
            out.print(snippet(camera), end="", markup=False)
    if not searched:
        out.print("cameras of this kind cannot be looked for: they are named in the YAML")
    for each in searched:
        if each.trouble:
            out.print(f"{each.kind}: {each.trouble}", style="yellow", markup=False)
        elif not each.found:
            out.print(f"{each.kind}: none found")


def _as_json(searched: Sequence[Searched]) -> None:
    for each in searched:
        if each.trouble:
            print(json.dumps({"kind": each.kind, "trouble": each.trouble}))
        for camera in each.found:
            print(msgspec.json.encode(camera).decode())


def _kinds() -> list[str]:
    return adapters.kinds("cameras")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 60:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds up to 60")
    return value
