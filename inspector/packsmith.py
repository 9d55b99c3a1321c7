"""`inspector packs`: what packs there are, whether one is good, and another one onto a running line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from inspector import pack
from inspector.client import Control
from inspector.client.control import PacksState
from inspector.config import Config, RuntimeConfig
from inspector.engines import Engines
from inspector.errors import ConfigError, EngineError, InspectorError, PackError, Refused
from inspector.pack import Pack
from inspector.packs.begin import begin
from inspector.packs.store import Memory, Store
from inspector.pipeline import load
from inspector.wording import safe

CONFIG = Path("/etc/inspector/line.yaml")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    show = actions.add_parser("list", help="the packs that the line knows, and which of them is on duty")
    show.add_argument("--json", action="store_true", help="a JSON array")
    show.set_defaults(action=_list)

    verify = actions.add_parser("verify", help="is a pack whole, do its networks run, does it fit the line?")
    verify.add_argument("folder", type=Path, metavar="DIR")
    verify.set_defaults(action=_verify)

    stage = actions.add_parser("stage", help="verify a pack, copy it to the line's packs, and have the line try it")
    stage.add_argument("folder", type=Path, metavar="DIR")
    stage.set_defaults(action=_stage)

    status = actions.add_parser("status", help="what pack is on duty, and what a change is at")
    status.add_argument("--json", action="store_true", help="a JSON object")
    status.set_defaults(action=_status)

    cancel = actions.add_parser("cancel", help="end the change under way: the old pack stays or comes back")
    cancel.set_defaults(action=_cancel)

    rollback = actions.add_parser("rollback", help="the pack that was on duty before comes back, at once")
    rollback.set_defaults(action=_rollback)

    for each in (show, verify, stage, status, cancel, rollback):
        each.add_argument(
            "config", type=Path, nargs="?", default=CONFIG, metavar="CONFIG", help=f"of the line (default: {CONFIG})"
        )
    for each in (show, stage, status, cancel, rollback):
        each.add_argument(
            "--keys", type=Path, metavar="FILE", help="this client's NAME.key_secret, if control has keys"
        )
        each.add_argument("--server-key", metavar="KEY", help="the daemon's public key (default: of control.keys)")


def run(options: argparse.Namespace) -> int:
    """Do what `arguments` parsed; returns the exit code.

    Raises:
        ConfigError: the configuration or a pack is wrong.
        Refused: the daemon gives no answer, or says no.
    """
    return int(options.action(options))


# ---------------------------------------------------------------- list


def _list(options: argparse.Namespace) -> int:
    config = load(options.config)
    rows = list(_rows(config, _asked(config, options)))
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    table = Table(title=f"packs of line {config.line.name}", title_justify="left")
    for heading in ("pack", "version", "digest", "state", "figures", "folder"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(safe(str(row[key])) for key in ("name", "version", "digest", "state", "figures", "folder")))
    Console(width=None if sys.stdout.isatty() else 200).print(table, markup=False)
    return 0


def _asked(config: Config, options: argparse.Namespace) -> PacksState | None:
    """What the daemon says; None when it does not run, or has no control socket."""
    if config.control is None:
        return None
    try:
        with _control(config, options) as control:
            return control.packs()
    except InspectorError:
        return None


def _rows(config: Config, now: PacksState | None) -> Iterator[dict[str, Any]]:
    """Each pack once: that of `pack:`, that on duty, the one before, and all that are staged."""
    store = Store(config.packs_folder, config.line.name)
    memory = _remembered(store)
    on_duty = now.folder if now else (memory and memory.on_duty) or str(config.pack)
    previous = now.previous if now else memory and memory.previous
    marked = _marked(store)
    folders = [config.pack, *(Path(each) for each in (on_duty, previous) if each), *store.packs()]
    for folder in dict.fromkeys(each.absolute() for each in folders):
        states = [
            ("on duty" if now else "at the next start") if str(folder) == str(Path(on_duty).absolute()) else "",
            "before" if previous and folder == Path(previous).absolute() else "",
            "waits" if folder == marked else "",
            "named by pack:" if folder == config.pack.absolute() else "",
        ]
        try:
            yield _row(pack.load(folder), ", ".join(state for state in states if state))
        except PackError as error:
            yield {"name": folder.name, "version": "", "digest": "", "state": "broken", "figures": str(error)} | {
                "folder": str(folder)
            }


def _remembered(store: Store) -> Memory | None:
    try:
        return store.recall()
    except PackError:
        return None


def _marked(store: Store) -> Path | None:
    try:
        found = store.marked()
    except PackError:
        return None
    return None if found is None else found.absolute()


def _row(found: Pack, state: str) -> dict[str, Any]:
    return {
        "name": found.manifest.name,
        "version": found.manifest.version,
        "digest": found.digest,
        "state": state,
        "figures": _figures(found),
        "folder": str(found.folder),
    }


def _figures(found: Pack) -> str:
    """What the manifest says of the gate, which decides most: its threshold, and what it was measured at."""
    gate = found.manifest.gate
    parts = [f"gate threshold {gate.threshold:g}"]
    if gate.gpu_threshold is not None:
        parts[0] += f" ({gate.gpu_threshold:g} on a GPU)"
    for name, figure in gate.figures.items():
        if isinstance(figure, dict):
            parts.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figure.items()))
    return "; ".join(parts)


# ---------------------------------------------------------------- verify


def _verify(options: argparse.Namespace) -> int:
    found = pack.load(options.folder)
    config = load(options.config) if options.config != CONFIG or CONFIG.is_file() else None
    print(f"{found.folder}: {found.manifest.name} {found.manifest.version}, {found.digest}")
    print("  every file is as the manifest says")
    print(f"  the networks run on {_try_out(found, config.runtime if config else RuntimeConfig())}")
    if config is None:
        print(f"  not compared with a line: there is no {CONFIG}; name the line's configuration")
        return 0
    running = begin(config, Store(config.packs_folder, config.line.name)).pack
    pack.check_fit(found, running)
    print(f"  it fits line {config.line.name}, which has {running.manifest.name} {running.manifest.version}")
    return 0


def _try_out(found: Pack, runtime: RuntimeConfig) -> str:
    """Load every network and run it on a black tile; returns what ran them.

    Raises:
        PackError: a network does not load, fails, or answers what cannot be.
    """
    engines = Engines.of(found, runtime)
    tile = found.manifest.tile
    try:
        with engines:
            stream = engines.stream()
            stream.load([np.zeros((tile.height, tile.width), dtype=np.uint8)])
            scores = {"gate": stream.gate(), "types": stream.types([0])}
            for name, score in scores.items():
                if not bool(np.all((score >= 0) & (score <= 1))):  # false for NaN too
                    raise PackError(f"{found.folder}: {name} gives {score.ravel()} for a black tile, not 0 to 1")
            for number in found.class_names:
                stream.segment(number, [0])
    except EngineError as error:
        raise PackError(f"{found.folder}: {error}. Export the pack again") from None
    return engines.runtime.name


# ---------------------------------------------------------------- onto the line


def _stage(options: argparse.Namespace) -> int:
    config = load(options.config)
    found = pack.load(options.folder)
    store = Store(config.packs_folder, config.line.name)
    pack.check_fit(found, begin(config, store).pack)
    _try_out(found, config.runtime)
    staged = store.stage(options.folder)
    print(f"staged: {staged}")
    now = _asked(config, options)
    if now is not None and now.phase != "idle":
        raise Refused(f"another change is under way ({now.phase}): wait for its end or cancel it, then stage again")
    store.mark(staged)
    if config.control is None:
        print(
            "The line has no control socket: SIGHUP (systemctl reload inspector) makes it look; so does its next start."
        )
        return 0
    try:
        with _control(config, options) as control:
            _print(control.stage_pack(staged.name))
    except Refused as error:
        raise Refused(f"{error}. The pack is staged all the same: SIGHUP, or the next start, takes it up") from None
    print(f"It is tried now: inspector packs status {options.config}")
    return 0


def _status(options: argparse.Namespace) -> int:
    with _control(load(options.config), options) as control:
        state = control.packs()
    if options.json:
        print(msgspec.json.encode(state).decode())
    else:
        _print(state)
    return 0


def _cancel(options: argparse.Namespace) -> int:
    with _control(load(options.config), options) as control:
        _print(control.cancel_pack())
    return 0


def _rollback(options: argparse.Namespace) -> int:
    with _control(load(options.config), options) as control:
        _print(control.roll_back_pack())
    return 0


def _print(state: PacksState) -> None:
    duty = state.on_duty
    lines = [f"on duty: {duty.name} {duty.version} ({duty.digest[7:19]}), {state.folder}"]
    if state.phase != "idle":
        new = state.candidate
        named = f"{new.name} {new.version} ({new.digest[7:19]})" if new else "a pack"
        lines.append(
            f"{state.phase}: {named}, {state.compared} of {state.wanted} frames compared, {state.skipped} left out"
        )
        lines += [f"  {state.seen}"] if state.seen else []
    if state.last:
        lines.append(f"last change: {state.last}")
    if state.previous:
        lines.append(f"before: {state.previous}")
    for line in lines:
        print(safe(line))


def _control(config: Config, options: argparse.Namespace) -> Control:
    """Raises ConfigError when the line has no control socket."""
    if config.control is None:
        raise ConfigError(f"{options.config}: control: the line has no control socket to ask: add the section")
    server = options.server_key
    if server is None and config.control.keys is not None:
        server = str(config.control.keys / "server.key")
    return Control(config.control.address, keys=options.keys, server_key=server)
