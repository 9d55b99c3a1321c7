"""Tables in Markdown, and the places for them in pages that people write."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

Tables = Mapping[str, Callable[[], list[str]]]
"""Name of a table -> what makes its lines."""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; a cell may be of several lines and hold any character."""
    lines = [headings, ["---"] * len(headings), *([_cell(text) for text in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def filled(path: Path, tables: Tables) -> str:
    """The page with each table between its `<!-- NAME: ... -->` and the next `<!-- end -->` made anew.

    Raises:
        LookupError: a table has no place in it, or several.
    """
    text = path.read_text(encoding="utf-8")
    for name, lines in tables.items():
        place = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)
        if len(place.findall(text)) != 1:
            raise LookupError(f"{path}: `<!-- {name}: ... -->` must stand there once, with `<!-- end -->` behind it")
        made = "\n".join(lines())
        text = place.sub(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)  # type: ignore[misc]
    return text
