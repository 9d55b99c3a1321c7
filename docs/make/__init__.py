"""Makes the parts of the documentation that are taken from the code, so that they cannot drift away from it.

    python -m docs.make    # from the checkout's root: writes configuration.md, metrics.md, the tables of sizing.md

Nothing here knows a single key or metric: a new one needs its documentation beneath itself, and this command again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from docs.make import configuration, metrics, sizing

FOLDER = Path(__file__).parents[1]


def _sizing() -> str:
    return sizing.filled((FOLDER / "sizing.md").read_text(encoding="utf-8"))


MADE: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration.page,
    "metrics.md": metrics.page,
    "sizing.md": _sizing,
}
"""File in docs/ -> what makes the text that should stand in it."""
