"""How often something may be done."""

from __future__ import annotations

import time
from collections.abc import Callable


class Bucket:
    """Tokens that come at `rate` a second, `most` at a time. A debt is allowed, and waited off before the next.

    `clock` gives seconds.
    """

    def __init__(self, rate: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = rate, most, clock
        self._level, self._at = most, clock()

    def wait_s(self) -> float:
        """Seconds until something may be taken; 0: now."""
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, -self._level / self._rate)

    def take(self, tokens: float) -> None:
        """Spend, below zero if need be."""
        self._level -= tokens


class Seldom:
    """Says yes at once and then not again for `every_s`: for a log that a stranger must not fill."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._next = clock()

    def now(self) -> bool:
        due = self._clock() >= self._next
        if due:
            self._next = self._clock() + self._every_s
        return due
