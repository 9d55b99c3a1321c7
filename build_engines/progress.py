"""Bars on stderr for what takes minutes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def shown(items: Iterable[Item], doing: str, total: int | None = None) -> Iterable[Item]:
    """The items, with a bar that goes away behind the last one; `total` where their number is not known by itself."""
    return track(items, doing, total=total, transient=True, console=Console(stderr=True))
