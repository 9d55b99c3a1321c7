"""Makes the parts of the documentation that are taken from the code, so that they cannot drift away from it.

    python -m docs.make    # from the checkout's root: writes configuration.md, metrics.md, the tables of sizing.md

Nothing here knows a single key or metric: a new one needs its documentation beneath itself, and this command again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from docs.make import configuration, metrics, sizing
from docs.make.markdown import filled

FOLDER = Path(__file__).parents[1]


MADE: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration.page,
    "metrics.md": metrics.page,
    "sizing.md": partial(filled, FOLDER / "sizing.md", sizing.TABLES),
}
"""File in docs/ -> what makes the text that should stand in it."""
