"""Who was turned away and why: counted all, told in the log without a stranger being able to fill it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from inspector.logbook import LogKind, as_kind

TELL_S = 10.0
"""One line in the log at most so often; what came in between is told as a number."""

log = logging.getLogger(__name__)


class Refusals:
    """The refusals of one socket."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        """Reason -> how often, since the start."""
        self._name = name
        self._clock = clock
        self._untold: Counter[str] = Counter()
        self._last = ""
        self._tell_at = clock()

    def add(self, reason: str, who: str) -> None:
        """Count one. `reason` is one of few texts, `who` is for people."""
        self.counts[reason] += 1
        self._untold[reason] += 1
        self._last = who
        self.tell()

    def tell(self) -> None:
        """One line if something is untold and it is time."""
        if not self._untold or self._clock() < self._tell_at:
            return
        self._tell_at = self._clock() + TELL_S
        text = ", ".join(f"{reason} ({count})" if count > 1 else reason for reason, count in self._untold.items())
        log.warning(
            "%s: turned away: %s; the last was %s",
            self._name,
            text,
            self._last,
            extra=as_kind(LogKind.TURNED_AWAY, part=self._name),
        )
        self._untold.clear()
