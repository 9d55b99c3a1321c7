"""Every metric as a page of tables, from the one table in `inspector.metrics`, in the groups that its comments name."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from enum import StrEnum
from textwrap import dedent

from docs.make.markdown import table
from inspector import metrics
from inspector.metrics import AGE_EDGES_S, PREFIX, Metrics, Row
from inspector.schema import notes_beneath

INTRODUCTION = f"""\
# Every metric

<!-- Made from the code by `python -m docs.make`: change inspector/metrics.py, not this page. -->

Served at `http://HOST:9464/metrics` (`monitor:` in the YAML) for Prometheus. Alerts on them lie in
[`deploy/prometheus`](../deploy/prometheus), a dashboard in [`deploy/grafana`](../deploy/grafana); the
[handbook](handbook.md) says what to do about an alert.

- Units are base units. A counter ends in `_total` and falls only when the daemon starts anew: use `rate()` or
  `increase()`.
- What is not known is NaN or absent, never a magic number. Label sets that are known at start are there from then on,
  at 0.
- Nothing is averaged here. A histogram `X` is scraped as `X_bucket`, `X_sum` and `X_count`; the edges of those of
  seconds are {", ".join(f"{edge:g}" for edge in AGE_EDGES_S)}.
- Beside these there are `process_*`: CPU time, memory and open files of the daemon.
"""

HEADING = re.compile(r"\s*# -{4} (.+)")


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for heading, rows in groups():
        title, _, more = map(_capital, heading.partition(": "))
        lines += [f"## {title}", "", *([f"{more}.", ""] if more else [])]
        lines += table(
            ("metric", "kind", "labels", "meaning"),
            [(f"`{r.name}`", r.kind, ", ".join(r.labels) or "-", r.meaning) for r in rows],
        )
        lines.append("")
    lines += [
        "## Values of labels",
        "",
        "`camera`, `sink` and `defect_class` are names of the YAML and of the pack.",
        "",
    ]
    for kind in values():
        lines += [f"### {kind.__name__}", "", inspect.cleandoc(kind.__doc__ or ""), "", *choices(kind), ""]
    return "\n".join(lines)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def groups() -> list[tuple[str, list[Row]]]:
    """The rows of the table under the headings (`# ---- ...`) that stand above them in the code."""
    places = _places()
    found: dict[str, list[Row]] = {}
    heading = "Metrics"
    for row in Metrics(process=False).table:
        heading = places.get(row.name.removeprefix(f"{PREFIX}_").removesuffix("_info"), heading)
        found.setdefault(heading, []).append(row)
    return list(found.items())


def _places() -> dict[str, str]:
    """Name of a metric without its prefix -> the heading above it."""
    source = dedent(inspect.getsource(Metrics.__init__))
    headings = [(i, found[1]) for i, line in enumerate(source.splitlines(), 1) if (found := HEADING.match(line))]
    return {
        name: next((heading for at, heading in reversed(headings) if at < line), "Metrics")
        for name, line in _named(ast.parse(source))
    }


def _named(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, line) of what is made by `counter("name", ...)` and its like."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(), args=[ast.Constant(value=str(name)), *_], lineno=line):
                yield name, line


def values() -> list[type[StrEnum]]:
    """The closed lists that label a metric."""
    return [
        each
        for each in vars(metrics).values()
        if isinstance(each, type) and issubclass(each, StrEnum) and each is not StrEnum
    ]


def choices(kind: type[StrEnum]) -> list[str]:
    """The values and their meanings.

    Raises:
        LookupError: a value has no documentation beneath itself.
    """
    notes = notes_beneath(kind)
    bare = next((choice.name for choice in kind if choice.name not in notes), None)
    if bare:
        raise LookupError(
            f"{kind.__module__}.{kind.__qualname__}.{bare}: no documentation beneath it; say what it means"
        )
    return table(("value", "meaning"), [(f"`{choice.value}`", notes[choice.name]) for choice in kind])
