"""`check(config)`: is every setting right, is every file, folder and port there? Nothing is left open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from inspector import adapters, pack
from inspector.baselines import beside
from inspector.config import DEFAULT_RULES, Config
from inspector.control import check as check_control
from inspector.errors import ConfigError, JournalError, TakenError
from inspector.flatfield import FlatField
from inspector.history import check as check_history
from inspector.journal import check as check_journal
from inspector.monitor import check as check_monitor
from inspector.overload import check as check_overload
from inspector.packs.begin import begin
from inspector.packs.store import Store
from inspector.recording import check as check_recording

Row = tuple[str, str, str]


def check(config: Config, running: bool = False) -> list[Row]:
    """Validate everything that can be without opening it; the line as rows (part, kind or value, detail).

    `running`: a daemon of this line runs already, so that its addresses and its journal are taken.

    Raises:
        ConfigError: the first thing that is wrong, with the setting or file named.
    """
    engines = pack.load(config.pack)
    classes = ", ".join(f"{c.number} {c.name}" for c in engines.manifest.classes)
    rows = [
        ("line", config.line.name, f"coil {config.line.coil}, {config.line.mm_per_count} mm per encoder count"),
        ("pack", engines.manifest.name, f"{engines.digest[:19]} classes {classes}"),
        ("runtime", config.runtime.kind, _check_adapter("runtimes", config.runtime, "runtime")),
    ]
    begun = begin(config, Store(config.packs_folder, config.line.name))
    on_duty = begun.pack
    rows += [("pack", state, detail) for state, detail in begun.said]
    if on_duty.digest != engines.digest:
        rows.insert(2, ("pack on duty", on_duty.manifest.name, f"{on_duty.digest[:19]} {on_duty.folder}"))
    _check_rules(config, set(on_duty.class_names))
    corrections = flat_fields(config)
    for index, camera in enumerate(config.cameras):
        detail = _check_adapter("cameras", camera, f"cameras[{index}]")
        flat = "flat-field" if corrections[camera.name] else "no flat-field"
        rows.append((f"camera {camera.name}", camera.kind, f"{detail}; {flat}"))
    _check_distinct(config)
    try:
        check_journal(config.journal.path, running)
    except JournalError as error:
        raise ConfigError(str(error)) from None
    rows.append(("journal", str(config.journal.path), "synchronous" if config.journal.synchronous else "normal"))
    for index, sink in enumerate(config.sinks):
        rows.append((f"sink {sink.label}", sink.kind, _check_adapter("sinks", sink, f"sinks[{index}]", running)))
    rows.append(("overload", "steps" if config.overload else "none", check_overload(config)))
    rows.append(("drift", "watched" if config.drift.watch else "not watched", _drift(config, engines)))
    recorded = check_recording(config)
    if config.recording is not None:
        rows.append(("recording", str(config.recording.path), recorded))
    return rows + _check_servers(config, running)


def _drift(config: Config, engines: pack.Pack) -> str:
    section, reference = config.drift, engines.manifest.reference
    if not section.watch:
        return "drift.watch is false"
    if section.learn_windows is not None:
        learnt = section.learn_windows * section.window_frames
        return f"{section.window_frames:,} frames against each camera's first {learnt:,}: {beside(config.journal.path)}"
    if reference is None:
        return "of nothing: the pack has no reference, and drift.learn_windows is null"
    return f"{section.window_frames:,} frames against the pack's reference: {reference.made_on}"


def _free(check_address: Callable[[], None], running: bool) -> None:
    """What is taken is no fault where the daemon that has it runs already."""
    try:
        check_address()
    except TakenError:
        if not running:
            raise


def _check_servers(config: Config, running: bool) -> list[Row]:
    rows = []
    history, control, monitor = config.history, config.control, config.monitor
    if history is not None:
        _free(lambda: check_history(history), running)
        rows.append(("history", history.address, _who(history.keys)))
    if control is not None:
        _free(lambda: check_control(control), running)
        rows.append(("control", control.address, _who(control.keys)))
    if monitor is not None:
        _free(lambda: check_monitor(monitor), running)
        rows.append(("monitor", f"http://{monitor.host}:{monitor.port}", _watchers(monitor.host)))
    return rows


def _check_distinct(config: Config) -> None:
    """Two sockets of one line at one place: each alone could be had."""
    found: list[str] = []
    for address in _addresses(config):
        other = next((known for known in found if _clash(known, address)), None)
        if other is not None:
            raise ConfigError(f"{other} and {address} are two sockets of this line at one place: give each its own")
        found.append(address)


def _addresses(config: Config) -> Iterator[str]:
    for index, sink in enumerate(config.sinks):
        adapter = adapters.module("sinks", sink.kind, f"sinks[{index}]")
        address = getattr(adapters.options(adapter, sink.options, f"sinks[{index}].options"), "address", [])
        yield from [address] if isinstance(address, str) else address
    for section in (config.history, config.control):
        if section is not None:
            yield section.address
    if config.monitor is not None:
        yield f"tcp://{config.monitor.host}:{config.monitor.port or '*'}"


def _clash(one: str, other: str) -> bool:
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    if not one.startswith("tcp://") or not other.startswith("tcp://"):
        return one == other
    hosts = {each.removeprefix("tcp://").replace("localhost", "127.0.0.1") for each in (host, other_host)}
    return port == other_port != "*" and (len(hosts) == 1 or bool(hosts & {"*", "0.0.0.0", "[::]", "::"}))


def _watchers(host: str) -> str:
    here = host == "localhost" or host.startswith("127.") or host == "::1"
    return "/metrics /healthz /readyz, " + ("this machine only" if here else "for everybody who reaches this machine")


def _who(keys: Path | None) -> str:
    return f"clients with a key in {keys}" if keys else "this machine only"


def _check_adapter(seam: str, section: Any, where: str, running: bool = False) -> str:
    adapter = adapters.module(seam, section.kind, where)
    options = adapters.options(adapter, section.options, f"{where}.options")
    check_options = vars(adapter).get("check")
    if check_options is not None:
        try:
            _free(lambda: check_options(options), running)
        except ConfigError as error:
            raise ConfigError(f"{where}.options: {error}") from None
    return adapters.shown(section.options) or "defaults"


def _check_rules(config: Config, classes: set[int]) -> None:
    for index, rule in enumerate(config.grading.severity):
        unknown = set(rule.classes) - classes
        # The rules that are there by default name classes of the shipped pack; another pack may have fewer.
        if unknown and rule not in DEFAULT_RULES:
            known = ", ".join(map(str, sorted(classes)))
            raise ConfigError(f"grading.severity[{index}].classes: the pack has no class {min(unknown)}, only {known}")


def flat_fields(config: Config) -> dict[str, FlatField | None]:
    """Camera -> its flat-field, None where it has none.

    Raises:
        ConfigError: a file is missing or wrong.
    """
    return {c.name: FlatField.load(c.flat_field) if c.flat_field else None for c in config.cameras}
