"""What a setting may be, in words, and its unit, which stands in its name."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import yaml

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z"
"""The pattern of `config.Name`, which a table calls a name."""

NO_LIMIT = 1e9
"""Bounds from here on only keep nonsense out."""

UNITS = {
    "bits": "bits",
    "bytes": "bytes",
    "counts": "counts",
    "days": "days",
    "events": "events",
    "frames": "frames",
    "gb": "GB",
    "hz": "Hz",
    "lines": "lines",
    "m": "m",
    "mm": "mm",
    "mm2": "mm²",
    "ms": "ms",
    "ns": "ns",
    "px": "px",
    "s": "s",
    "us": "µs",
}
"""Last word of a key -> its unit."""


def unit(path: str) -> str:
    """The unit of a key such as `cameras[].pitch_mm.along`: that of the innermost part which names one."""
    for key in reversed(path.split(".")):
        words = key.removesuffix("[]").split("_")
        if len(words) > 2 and words[-2] == "per":
            return f"{UNITS.get(words[-3], '')}/{UNITS.get(words[-1], words[-1])}"
        if len(words) > 1 and words[-1] in UNITS:
            return UNITS[words[-1]]
    return ""


def words(kind: Any) -> str:
    """A type of msgspec.inspect as an engineer would say it.

    Raises:
        TypeError: it is none that a setting has had so far; say it in words here.
    """
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return words(inner)
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.IntType():
            return f"whole number{_bounds(kind)}"
        case msgspec.inspect.FloatType():
            return f"number{_bounds(kind)}"
        case msgspec.inspect.StrType():
            return _text(kind)
        case msgspec.inspect.NoneType():
            return "null"
        case msgspec.inspect.LiteralType(values=values):
            return _choice(values)
        case msgspec.inspect.EnumType(cls=choices):
            return _choice([choice.value for choice in choices])
        case msgspec.inspect.CustomType(cls=custom):
            return custom.__name__.lower()
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(words(each) for each in types)
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            item = words(kind.item_type)
            least = f", at least {kind.min_length}" if kind.min_length else ""
            return f"list of {'sections' if item == 'section' else item}{least}"
        case msgspec.inspect.TupleType(item_types=items):
            return f"list of {len(items)}: {', '.join(dict.fromkeys(map(words, items)))}"
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return f"mapping of {words(key)} to {words(value)}"
        case msgspec.inspect.StructType():
            return "section"
        case msgspec.inspect.AnyType():
            return "anything"
    raise TypeError(f"no words for the type {kind}: docs/make/types.py")


def _choice(values: Any) -> str:
    return " or ".join(f"`{value}`" for value in values)


def _text(kind: msgspec.inspect.StrType) -> str:
    if kind.pattern == NAME:
        return "name"
    if kind.pattern:
        return f"text like `{kind.pattern}`"
    return f"text{_between(kind.min_length, kind.max_length, ' characters')}"


def _bounds(kind: Any) -> str:
    low = kind.ge if kind.ge is not None and kind.ge > -NO_LIMIT else None
    high = kind.le if kind.le is not None and kind.le < NO_LIMIT else None
    if kind.gt is None:
        return _between(low, high)
    return f" (above {_figure(kind.gt)}" + (f", at most {_figure(high)})" if high is not None else ")")


def _between(low: Any, high: Any, what: str = "") -> str:
    if low is not None and high is not None:
        return f" ({_figure(low)} to {_figure(high)}{what})"
    if low is not None:
        return f" (at least {_figure(low)}{what})"
    return f" (at most {_figure(high)}{what})" if high is not None else ""


def _figure(value: float) -> str:
    return f"{value:,.12g}"


def default(field: msgspec.inspect.Field) -> str:
    """What a key is when it is left out, as it would stand in the YAML."""
    if field.required:
        return "**needed**"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct):
        return ""  # the defaults of its own keys
    return f"`{_yaml(plain(value))}`"


def plain(value: Any) -> Any:
    """A default as plain YAML values; of structs what differs from their own defaults."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        own = {field.encode_name: (getattr(value, field.name), field) for field in fields}
        return {key: plain(one) for key, (one, field) in own.items() if field.required or one != left_out(field)}
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return msgspec.to_builtins(value, enc_hook=str)


def left_out(field: Any) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return re.sub(r"\n(\.\.\.\n)?\Z", "", text)
