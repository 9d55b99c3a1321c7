"""`inspector coil start|end|show`: tell a running line of its coils by hand, as the plant's computer does by itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from inspector.client import Control
from inspector.client.control import Coils, CoilTold
from inspector.wording import safe

ADDRESS = "ipc:///run/inspector/control"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    asks = parser.add_subparsers(title="telegrams", metavar="start|end|show", required=True)
    start = asks.add_parser("start", help="a coil's head lies at an encoder count")
    start.add_argument("coil", metavar="NUMBER")
    end = asks.add_parser("end", help="a coil's tail lies at an encoder count; what follows belongs to no coil")
    end.add_argument("coil", metavar="NUMBER", nargs="?", help="refuse if another coil lies there")
    for telegram in (start, end):
        telegram.add_argument("--count", type=int, help="encoder count; default: the newest that a camera delivered")
    show = asks.add_parser("show", help="the coils that the line knows")
    for each, ask in ((start, _start), (end, _end), (show, _show)):
        each.add_argument("--address", default=ADDRESS, help=f"of the control socket (default: {ADDRESS})")
        each.add_argument("--keys", type=Path, metavar="FILE", help="this client's NAME.key_secret")
        each.add_argument("--server-key", metavar="KEY", help="the daemon's public key, or its server.key")
        each.set_defaults(ask=ask)


def run(options: argparse.Namespace) -> int:
    """Ask once and print the answer.

    Raises:
        Refused: the daemon gives no answer, or says no.
        ConfigError: the address or a key file is wrong.
    """
    with Control(options.address, keys=options.keys, server_key=options.server_key) as control:
        for line in options.ask(control, options):
            print(safe(line))
    return 0


def _start(control: Control, options: argparse.Namespace) -> list[str]:
    told = control.coil_start(options.coil, options.count)
    return [f"coil {told.coil} starts at count {told.encoder_count}: {_when(told)}"]


def _end(control: Control, options: argparse.Namespace) -> list[str]:
    told = control.coil_end(options.coil, options.count)
    return [f"coil {told.previous} ends at count {told.encoder_count}: {_when(told)}"]


def _when(told: CoilTold) -> str:
    metres = told.distance_mm / 1000
    if told.repeated:
        return "as it was told before"
    if told.when == "late":
        return f"late, {metres:.3f} m of it were inspected before and stay reported under the coil before"
    return f"{metres:.3f} m before it comes under the cameras" if metres else "just now"


def _show(control: Control, options: argparse.Namespace) -> list[str]:
    return shown(control.coils())


def shown(known: Coils) -> list[str]:
    """The coils as lines of a table. Several pieces of strip may have one name (`unknown`): the count says which."""
    lines = [f"{'coil':<24} {'head count':>14} {'tail count':>14}"]
    graded = known.encoder_count
    begun = [span for span in known.coils if graded is not None and (span.head_count or 0) <= graded]
    for span in known.coils:
        mark = "  <- on the line" if begun and span is begun[-1] else ""
        tail = "" if span.end_count is None else str(span.end_count)
        lines.append(f"{span.coil:<24} {span.head_count:>14} {tail:>14}{mark}")
    return [*lines, f"inspected up to count {graded}"]
