"""From a `kind:` in the YAML to the adapter module of that name, and its closed options.

There is no registry: a new camera, runtime or sink is one new file in its folder. Vendors' packages are imported
by the adapter, so only when it is configured.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from inspector.config import Config, convert, explain
from inspector.errors import ConfigError


def kinds(seam: str) -> list[str]:
    """The kinds of a seam (`cameras`, `runtimes`, `sinks`): the names of the modules in its folder."""
    package = importlib.import_module(f"inspector.{seam}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def module(seam: str, kind: str, where: str) -> ModuleType:
    """The adapter module of `kind`; `where` names the setting in messages.

    Raises:
        ConfigError: there is no such kind, or a package that it needs is not installed.
    """
    known = kinds(seam)
    if kind not in known:
        raise ConfigError(f"{where}.kind: there is no '{kind}'; known: {', '.join(known)}")
    try:
        return importlib.import_module(f"inspector.{seam}.{kind}")
    except ImportError as error:
        hint = f"pip install 'inspector[{kind}]'"
        raise ConfigError(f"{where}.kind: '{kind}' needs a package that is missing ({error}). Try: {hint}") from None


def options(adapter: ModuleType, raw: dict[str, Any], where: str) -> Any:
    """The adapter's `Options`, from the mapping in the YAML.

    Raises:
        ConfigError: an unknown key or a wrong value, named by its path.
    """
    try:
        return convert(raw, adapter.Options)
    except msgspec.ValidationError as error:
        raise ConfigError(explain(error, adapter.Options, where)) from None


_ADDRESS = re.compile(r"\S*://\S*")
_USER = re.compile(r"://\S*@")
_SECRET = re.compile(r"(?i)(pass(?:word|wd|phrase)?|pwd|token|secret|key)=[^&;,/\s'\"]+")


def masked(text: str) -> str:
    """`text` without what stands in its addresses to prove who asks: `rtsp://USER:PASSWORD@host/?token=T`.

    What is between `://` and the last `@` of an address goes, so that a password with `/` or `@` in it goes too.
    """
    return _ADDRESS.sub(lambda found: _SECRET.sub(r"\1=***", _USER.sub("://***@", found[0])), text)


def shown(options: dict[str, Any]) -> str:
    """The options as they stand in the YAML, in one line; what is secret in addresses is masked."""
    return masked(", ".join(f"{key}={value}" for key, value in options.items()))


def anchored(config: Config, folder: Path) -> Config:
    """Relative paths in the options of every adapter, taken from `folder` as those of the configuration itself are.

    Raises:
        ConfigError: an adapter or one of its options is unknown.
    """
    changed: dict[str, Any] = {"runtime": _anchored("runtimes", config.runtime, "runtime", folder)}
    for seam, sections in (("cameras", config.cameras), ("sinks", config.sinks)):
        changed[seam] = [_anchored(seam, s, f"{seam}[{i}]", folder) for i, s in enumerate(sections)]
    return msgspec.structs.replace(config, **changed)


def _anchored(seam: str, section: Any, where: str, folder: Path) -> Any:
    adapter = module(seam, section.kind, where)
    chosen = options(adapter, section.options, f"{where}.options")
    raw = dict(section.options)
    for key in raw:
        value = getattr(chosen, key)
        if isinstance(value, Path):
            raw[key] = str(folder / value)
        elif isinstance(value, list) and value and all(isinstance(entry, Path) for entry in value):
            raw[key] = [str(folder / entry) for entry in value]
    return msgspec.structs.replace(section, options=raw)
