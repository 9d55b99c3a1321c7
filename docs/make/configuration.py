"""Every key of the YAML as a page of tables, from the closed types of `inspector.config` and of every adapter."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec

from docs.make.markdown import table
from docs.make.types import default, unit, words
from inspector import adapters
from inspector.config import Config
from inspector.schema import notes_beneath

SEAMS = {"cameras": "cameras[]", "runtimes": "runtime", "sinks": "sinks[]"}
"""Folder of adapters -> the section whose `kind` names one of them, and whose `options` are its own."""

INTRODUCTION = """\
# Every key of the YAML

<!-- Made from the code by `python -m docs.make`: change the documentation beneath the field there, not here. -->

One file describes one line: `inspector check line.yaml` says whether it is right, `inspector run line.yaml` runs it.
[`deploy/line.yaml`](../deploy/line.yaml) is a file to begin with, the [handbook](handbook.md) says what to set first.

- **An unknown key is an error**, so is one that stands twice; the message names the key that was probably meant.
- **Left out** means the default that stands here. `null` is a value of its own where the type names it.
- **Relative paths** are taken from the YAML's own folder.
- **A name** has letters, digits, `_`, `.` and `-`, 64 at most, and begins with a letter or a digit. Texts that look
  like a number or a date want quotes: `coil: "4711"`.
- `[]` stands for each entry of a list: `cameras[].name` is the key `name` of every camera.
- GB are 10^9 bytes.
"""

COLUMNS = ("key", "is", "left out", "unit", "what it does")


@dataclass(frozen=True)
class Key:
    """A row: `path` is relative to the section."""

    path: str
    kind: str
    default: str
    note: str


def page() -> str:
    """The whole page.

    Raises:
        LookupError: a key has no documentation beneath itself.
    """
    sections = [field for field in fields_of(Config) if struct_of(field.type)]
    lines = [INTRODUCTION, "## The file", ""]
    lines += _table("", keys(Config, deep=False))
    for field in sections:
        name = _name(field)
        lines += [
            "",
            f"## `{name}`",
            "",
            *_about(struct_of(field.type).cls),
            *_table(name, keys(struct_of(field.type).cls)),
        ]
        lines += [line for seam, section in SEAMS.items() if section == name for line in _seam(seam, name)]
    return "\n".join(lines) + "\n"


def keys(struct: type, path: str = "", deep: bool = True) -> list[Key]:
    """The keys of a section, with those of the sections in it if `deep`, in the order of the code."""
    notes = _notes(struct)
    found = []
    for field in fields_of(struct):
        key = f"{path}{_name(field)}"
        found.append(Key(key, words(field.type), default(field), _note(struct, field, notes)))
        within = struct_of(field.type)
        if deep and within:
            found += keys(within.cls, f"{key}.")
    return found


def _note(struct: type, field: Any, notes: dict[str, str]) -> str:
    """What stands beneath the field; a section may say it itself."""
    within = struct_of(field.type)
    note = notes.get(field.name) or (within and within.cls.__doc__)
    if not note:
        where = f"{struct.__module__}.{struct.__qualname__}.{field.name}"
        raise LookupError(f"{where}: no documentation beneath it; say what it does, and in which unit")
    return str(note)


def _notes(struct: type) -> dict[str, str]:
    """Field -> the documentation beneath it, in the class itself or in one that it builds on."""
    found: dict[str, str] = {}
    for each in reversed(_lineage(struct)):
        found |= notes_beneath(each)
    return found


def fields_of(struct: type) -> Sequence[msgspec.inspect.Field]:
    kind = msgspec.inspect.type_info(struct)
    assert isinstance(kind, msgspec.inspect.StructType)
    return kind.fields


def _lineage(struct: type) -> list[type]:
    """The class and those that it builds on, as far as they have keys."""
    return [each for each in struct.__mro__ if issubclass(each, msgspec.Struct) and vars(each).get("__annotations__")]


def struct_of(kind: Any) -> Any:
    """The section behind a type: itself, or in `X | None`, or the entries of a list; else None."""
    match kind:
        case msgspec.inspect.StructType():
            return kind
        case msgspec.inspect.Metadata(type=inner) | msgspec.inspect.ListType(item_type=inner):
            return struct_of(inner)
        case msgspec.inspect.UnionType(types=types):
            return next(filter(None, map(struct_of, types)), None)
    return None


def _name(field: Any) -> str:
    many = struct_of(field.type) and isinstance(field.type, msgspec.inspect.ListType)
    return f"{field.encode_name}[]" if many else str(field.encode_name)


def _table(section: str, found: Sequence[Key]) -> list[str]:
    rows = [(f"`{k.path}`", k.kind, k.default, unit(f"{section}.{k.path}"), k.note) for k in found]
    return table(COLUMNS, rows)


def _about(struct: type) -> list[str]:
    return [inspect.cleandoc(struct.__doc__), ""] if struct.__doc__ else []


# ---------------------------------------------------------------- adapters


def _seam(seam: str, section: str) -> Iterator[str]:
    """Tables of the options of every kind, and before them those that several kinds have from one class."""
    modules = {kind: adapters.module(seam, kind, section) for kind in adapters.kinds(seam)}
    yield from ("", f"`kind` is one of {', '.join(f'`{kind}`' for kind in modules)}; what each takes as `options`:")
    bases: dict[type, list[str]] = {}
    for kind, module in modules.items():
        for base in _lineage(module.Options)[1:]:
            bases.setdefault(base, []).append(kind)
    for base, kinds in bases.items():
        named = ", ".join(f"`{kind}`" for kind in kinds)
        yield from ("", f"### `{section}.options` of {named}", "", *_about(base))
        yield from _table("", keys(base))
    for kind, module in modules.items():
        yield from ("", f"### `{section}.options` of `{kind}`", "", _first_sentence(module), "")
        above = {key.path for base in _lineage(module.Options)[1:] for key in keys(base)}
        yield from _table("", [key for key in keys(module.Options) if key.path not in above])
        if above:
            yield from ("", "And those that it shares with others, above.")


def _first_sentence(module: ModuleType) -> str:
    return inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0]
