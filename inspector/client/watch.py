"""How far a subscriber is behind the line, and whether the line is heard at all."""

from __future__ import annotations

import datetime
from collections import deque

from inspector.errors import Lagging

HOUR_S = 3600.0
TRAIL = 600
"""Points of a trail that are kept."""


class Transit:
    """How much later than usual a heartbeat is heard.

    The clocks of two machines differ by an unknown amount, so the quickest heartbeat of the last one to two hours is
    what the others are measured by; clocks that drift apart over months make no lag.
    """

    def __init__(self) -> None:
        self._least = self._least_before = float("inf")
        self._turn_at = float("-inf")

    def late(self, sent_s: float, now: float) -> float:
        """Seconds. `sent_s` is by the daemon's clock, `now` by ours."""
        if now >= self._turn_at:
            self._least_before, self._least, self._turn_at = self._least, float("inf"), now + HOUR_S
        transit = now - sent_s
        self._least = min(self._least, transit)
        return transit - min(self._least, self._least_before)


class Trail:
    """Where the journal's end was when: how long ago the line was at the place that a repair has reached.

    What was in the journal when the repair began is the past, and being behind in it is no lag.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def note(self, now: float, last: int) -> None:
        """The journal ends at the cursor `last`."""
        self._points.append((now, last))
        if len(self._points) > TRAIL:
            self._points = deque(list(self._points)[::2])

    def behind(self, now: float, cursor: int) -> float:
        """Seconds since the journal ended where we are."""
        points = self._points
        while len(points) > 1 and points[1][1] <= cursor:
            points.popleft()
        return now - points[0][0] if points and points[0][1] <= cursor else 0.0


class Lag:
    """How far behind the line one source is followed, and when that is to be told.

    Live, a heartbeat tells it; one from before the end of a repair counts from there. In a repair the trail does.

    Attributes:
        seconds: the last that is known.
    """

    def __init__(self, source: str, limit_s: float | None) -> None:
        self._source = source
        self._limit_s = limit_s
        self._transit = Transit()
        self._trail = Trail()
        self._caught_up_at = float("-inf")
        self._told = False
        self.seconds = 0.0

    def restarted(self) -> None:
        """The daemon has; its clock may have been set meanwhile."""
        self._transit = Transit()

    def heard(self, time: str, now: float, reading: bool) -> list[Lagging]:
        """A heartbeat that was sent at `time` (RFC 3339)."""
        try:
            sent_s = datetime.datetime.fromisoformat(time).timestamp()
        except ValueError:
            return []
        late_s = self._transit.late(sent_s, now)
        return [] if reading else self._judge(max(0.0, min(late_s, now - self._caught_up_at)))

    def reading(self) -> None:
        """A repair begins."""
        self._trail = Trail()

    def read(self, last: int, now: float) -> None:
        """An answer: the journal ended there."""
        self._trail.note(now, last)

    def reached(self, cursor: int, now: float) -> list[Lagging]:
        """All up to this cursor was handed over."""
        return self._judge(self._trail.behind(now, cursor))

    def caught_up(self, now: float) -> None:
        """The repair has ended."""
        self._caught_up_at = now
        self._judge(0.0)

    def _judge(self, seconds: float) -> list[Lagging]:
        """Said once, and again only after it was better."""
        self.seconds = seconds
        told, self._told = self._told, self._limit_s is not None and seconds > self._limit_s
        if told or not self._told:
            return []
        return [
            Lagging(
                f"{self._source}: {seconds:.0f} s behind the line (max_lag_s is {self._limit_s:g}): what is done with "
                "each event takes too long; do it elsewhere, subscribe to fewer topics, or raise max_lag_s"
            )
        ]


class Silence:
    """Tells when an address has not been heard for too long, once, and when it is back."""

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s = limit_s
        self._heard_at = self._told_at = now
        self._silent = False

    def heard(self, now: float) -> float:
        """A heartbeat came; returns for how many seconds silence had been told of, 0 if it had not."""
        gone_s = now - self._heard_at if self._silent else 0.0
        self._heard_at = self._told_at = now
        self._silent = False
        return gone_s

    def wait_s(self, now: float) -> float:
        """So long until silence may have to be told."""
        return max(0.0, self._told_at + self._limit_s - now)

    def noticed(self, now: float, again: bool) -> float:
        """Seconds of silence, if that is to be told now: once, or each time it has lasted so long `again`."""
        if now - self._told_at < self._limit_s or (self._silent and not again):
            return 0.0
        self._silent, self._told_at = True, now
        return now - self._heard_at
