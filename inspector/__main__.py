"""The command line. Exit codes: 0 well, 1 failed or a difference found, 2 wrong usage, 78 wrong configuration."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from inspector import __version__, logbook
from inspector.errors import ConfigError, InspectorError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors are one line on standard error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments).parse_args(_with_keys(arguments))
    logbook.setup(options.verbose)
    try:
        return int(options.command(options))
    except ConfigError as error:
        print(f"inspector: {error}", file=sys.stderr)
        return 78
    except InspectorError as error:
        print(f"inspector: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0


def _with_keys(arguments: Sequence[str]) -> list[str]:
    """One in 85 public keys begins with a `-`, which argparse takes for another option unless it is joined by a `=`."""
    found: list[str] = []
    for argument in arguments:
        if found and found[-1] in TAKE_A_KEY and len(argument) == KEY_LENGTH:
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return found


TAKE_A_KEY = ("--server-key", "--public")
KEY_LENGTH = 40
"""Characters of a CURVE key in Z85."""

MODULES = {
    "cameras": ("inspector.discovery", "look for cameras (broadcasts on the network)"),
    "calibrate": ("inspector.calibrate", "record the flat-field of a camera from an even, lit, moving surface"),
    "coil": ("inspector.coil", "tell a running line that a coil starts or ends, or show those it knows"),
    "record": ("inspector.record", "write the raw frames of a line's cameras to disk"),
    "packs": ("inspector.packsmith", "list, verify and stage packs of engines; another one onto a running line"),
    "keys": ("inspector.keysmith", "make and list the keys of clients"),
    "export": ("inspector.export", "a coil's events as JSON lines, CSV, Parquet or run lengths"),
    "bridge": ("inspector.bridge", "forward events to NATS JetStream or MQTT"),
}
"""Commands with a module of their own, which says what their arguments are; imported only when asked for."""


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inspector", description="Real-time inspection of steel strip.")
    parser.add_argument("--version", action="version", version=f"inspector {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more in the log")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="the daemon: inspects until SIGTERM")
    run.add_argument("config", type=Path, metavar="CONFIG.yaml")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="validate a configuration without opening anything")
    check.add_argument("config", type=Path, metavar="CONFIG.yaml")
    check.add_argument("--running", action="store_true", help="the line runs: its addresses and its journal are taken")
    check.set_defaults(command=_check)

    demo = commands.add_parser("demo", help="a whole synthetic coil through the real line, and its report")
    demo.add_argument("--seconds", type=_positive, default=40.0, help="how long the coil runs (default: 40)")
    demo.add_argument("--report", type=Path, default=Path("coil.html"), metavar="FILE.html", help="default: coil.html")
    demo.add_argument("--pack", type=Path, metavar="ENGINES_DIR", help="default: the shipped engines/severstal")
    demo.set_defaults(command=_demo)

    _add_replay(commands.add_parser("replay", help="inspect pictures, a video or a recording"))

    listen = commands.add_parser("listen", help="print events of a running daemon")
    listen.add_argument("address", metavar="ADDRESS", help="such as tcp://127.0.0.1:5570")
    listen.add_argument("--topic", action="append", default=[], metavar="PREFIX", help="may be repeated; default: all")
    listen.add_argument("--json", action="store_true", help="whole events, a line each")
    listen.add_argument("--keys", type=Path, metavar="FILE", help="this client's NAME.key_secret")
    listen.add_argument("--server-key", metavar="KEY", help="the daemon's public key, or its server.key")
    listen.set_defaults(command=_listen)

    audit = commands.add_parser("audit", help="prove that issued = inspected + lost, for every camera and run")
    audit.add_argument("journal", type=Path, metavar="JOURNAL")
    audit.set_defaults(command=_audit)

    doctor = commands.add_parser("doctor", help="what this machine can do, and what is missing")
    doctor.add_argument("packs", nargs="*", type=Path, metavar="PACK", help="default: those in ./engines")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)

    for name, (module, words) in MODULES.items():
        command = commands.add_parser(name, help=words)
        if name in arguments:
            chosen = import_module(module)
            chosen.arguments(command)
            command.set_defaults(command=chosen.run)
    return parser


def _add_replay(replay: argparse.ArgumentParser) -> None:
    replay.add_argument("sources", nargs="+", type=Path, metavar="SOURCE")
    replay.add_argument("--pack", type=Path, required=True, metavar="ENGINES_DIR")
    replay.add_argument("--events", type=Path, metavar="FILE.jsonl", help="write every event as a JSON line")
    replay.add_argument(
        "--frames", type=Path, metavar="FILE.jsonl", help="write every frame's fate and score as a JSON line"
    )
    replay.add_argument("--report", type=Path, metavar="FILE.html", help="write the coil report")
    replay.add_argument("--journal", type=Path, metavar="FILE", help="keep the journal here")
    replay.add_argument("--contiguous", action="store_true", help="the pictures show one strip without a break")
    replay.add_argument("--frame-lines", type=_count, metavar="N", help="cut higher pictures and videos into N lines")
    replay.add_argument("--coil", help="number of the coil in events (default: as recorded, else replay)")
    replay.add_argument(
        "--pitch-mm", type=_positive, help="size of a pixel on the strip (default: as recorded, or 0.5)"
    )
    replay.add_argument("--batch", type=_count, default=4, help="frames in a batch at most; events do not depend on it")
    replay.set_defaults(command=_replay)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 1,000,000")
    return value


# Each command imports what it needs: `audit` on a server without ONNX Runtime still works.


def _run(options: argparse.Namespace) -> int:
    from inspector.service import run

    return run(options.config)


def _check(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from inspector.checking import check
    from inspector.pipeline import load

    table = Table(title=f"{options.config}: valid", title_justify="left")
    for heading in ("part", "what", "detail"):
        table.add_column(heading, overflow="fold")
    for row in check(load(options.config), options.running):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from inspector.demo import demo

    _quiet(options)
    return demo(options.seconds, options.report, options.pack)


def _replay(options: argparse.Namespace) -> int:
    from inspector.replay import Request, replay

    _quiet(options)
    request = Request(
        sources=options.sources,
        pack=options.pack,
        events=options.events,
        frames=options.frames,
        report=options.report,
        journal=options.journal,
        contiguous=options.contiguous,
        frame_lines=options.frame_lines,
        coil=options.coil,
        batch=options.batch,
        pitch_mm=options.pitch_mm,
    )
    return replay(request)


def _listen(options: argparse.Namespace) -> int:
    import threading

    from inspector.client.address import load_keys
    from inspector.listen import listen
    from inspector.service import stopped_by_signals

    keys = load_keys(options.keys, options.server_key, (options.address,))
    stop = threading.Event()
    with stopped_by_signals(stop):
        return listen(options.address, options.topic, options.json, sys.stdout, stop, keys=keys)


def _audit(options: argparse.Namespace) -> int:
    from inspector.journal import audit, format_audit

    found = audit(options.journal)
    print(format_audit(found))
    return 0 if found.balanced else 1


def _doctor(options: argparse.Namespace) -> int:
    from inspector.doctor import main as doctor

    return doctor(options.packs, options.json, sys.stdout)


def _quiet(options: argparse.Namespace) -> None:
    """The screen says what the log would."""
    if not options.verbose:
        logging.getLogger("inspector").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
