"""The JSON Schema of the event stream, made from the records of `inspector.events` so that the two cannot drift apart.

`event.v1.json` beside this file is what subscribers in other languages validate against; a test fails when it and
the records differ, and then `python -m inspector.schema > inspector/schema/event.v1.json` writes it anew. Inside v1
records only ever gain fields, so the schema allows properties that it does not know.
"""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec

from inspector import events

SCHEMA_ID = "urn:inspector:schema:event:v1"
"""What the `dataschema` of each event says."""

PUBLISHED = Path(__file__).with_name("event.v1.json")

DIALECT = "https://json-schema.org/draft/2020-12/schema"

REFINED: dict[str, dict[str, dict[str, Any]]] = {
    "Event": {
        "id": {"minLength": 1},
        "source": {"minLength": 1, "format": "uri-reference"},
        "type": {"pattern": r"^inspector\.[a-z]+\.v1$"},
        "time": {"format": "date-time"},
        "subject": {"pattern": "^[a-z]+/v1/.*/$"},
        "dataschema": {"const": SCHEMA_ID},
        "epoch": {"minimum": 0},
        "sequence": {"minimum": 1},
    },
    "Defect": {
        "frame_sequence": {"minimum": 0},
        "frames": {"minimum": 1},
        "exposed_time": {"format": "date-time"},
        "area_px": {"minimum": 1},
        "area_mm2": {"minimum": 0},
        "score": {"minimum": 0, "maximum": 1},
    },
    "CoilEvent": {"packs": {"minItems": 1, "uniqueItems": True}},
    "Gap": {"frame_sequence": {"minimum": 0}, "frames": {"minimum": 1}},
    "Heartbeat": {"overload_step": {"minimum": 0, "maximum": 4}},
    "Inspected": {"frames": {"minimum": 0}, "mm": {"minimum": 0}},
    "Mask": {"rle": {"pattern": "^([1-9][0-9]* [1-9][0-9]*( [1-9][0-9]* [1-9][0-9]*)*)?$"}},
}
"""What holds beyond the types: struct -> property -> keywords."""


ALWAYS_SENT = ("specversion", "datacontenttype")
"""Fields of the envelope that have a default in the records; any later default means that old events lack the field."""


def event_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of an `Event` and of the data of every kind."""
    name = "#/$defs/{name}"
    (root,), parts = msgspec.json.schema_components([events.Event], ref_template=name)
    for title, part in parts.items():
        _describe(title, part)
    return {
        "$schema": DIALECT,
        "$id": SCHEMA_ID,
        "title": "An event of a strip inspection line",
        **root,
        "$defs": dict(sorted(parts.items())),
    }


def text() -> str:
    """`event_schema()` as it lies in the file."""
    return json.dumps(event_schema(), indent=2, ensure_ascii=False) + "\n"


def _describe(title: str, part: dict[str, Any]) -> None:
    """Add what msgspec does not see: the docstrings beneath fields, limits, and what is sent in spite of a default."""
    if "description" in part:
        part["description"] = inspect.cleandoc(part["description"])
    if "properties" not in part:
        return
    part["required"] += [field for field in part["properties"] if field in ALWAYS_SENT]
    notes = notes_beneath(getattr(events, title))
    for field, schema in part["properties"].items():
        if field in ALWAYS_SENT:
            del schema["default"]
        schema.update(REFINED.get(title, {}).get(field, {}))
        if field in notes:
            schema["description"] = notes[field]


def notes_beneath(kind: type) -> dict[str, str]:
    """Field of a struct, or member of an enumeration -> the docstring beneath it."""
    (definition,) = ast.parse(dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    notes = {}
    for line, below in zip(definition.body, definition.body[1:], strict=False):
        match line, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(note))),
            ):
                notes[name] = inspect.cleandoc(note)
    return notes
