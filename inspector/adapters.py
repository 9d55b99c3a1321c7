"""From a `kind:` in the YAML to the adapter module of that name, and its closed options.

There is no registry: a new camera, runtime or sink is one new file in its folder. Vendors' packages are imported
by the adapter, so only when it is configured.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import msgspec

from inspector.config import convert, explain
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
