"""Cameras that were recorded together are played together."""

from __future__ import annotations

import threading
from collections.abc import Iterable

NEVER_NS = 1 << 63


class InStep:
    """Cameras that were recorded together, in the order in which the line took their frames in. Thread-safe."""

    def __init__(self, names: Iterable[str]) -> None:
        self._at = dict.fromkeys(names, -1)
        """Camera -> when its next item was taken in, as far as it has been looked at."""
        self._changed = threading.Condition()

    def wait(self, name: str, came_ns: int, timeout_s: float) -> bool:
        """Wait until every other camera has come to `came_ns`; False if that took longer."""
        with self._changed:
            self._move(name, came_ns)
            return self._changed.wait_for(lambda: min(self._at, key=self._at.__getitem__) == name, timeout_s)

    def leave(self, name: str) -> None:
        """Nobody needs to wait for this camera any more."""
        with self._changed:
            self._move(name, NEVER_NS)

    def _move(self, name: str, came_ns: int) -> None:
        if self._at[name] != came_ns:
            self._at[name] = came_ns
            self._changed.notify_all()
