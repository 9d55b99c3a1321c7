"""A camera's own clock -> the host's: when a frame was exposed, and how well that is known.

What is known of `offset` (host time - camera time) is an interval. A frame that was whole in the host's memory at
`arrived` bounds it from above: the exposure of row 0 was at least the frame's own duration earlier. A reading of the
camera's clock between two readings of the host's bounds it from both sides. The interval grows with time, because
two quartz clocks drift apart; it starts anew when a bound contradicts it, because then one of the clocks was set.
"""

from __future__ import annotations

from collections import deque

DRIFT = 100e-6
"""Seconds a second by which two quartz clocks drift apart at most (50 ppm each, the usual grade)."""
WINDOW = 256
"""Newest frames whose spread of arrival tells how late a frame may come where the clock cannot be read."""


class CameraClock:
    """Maps one camera's time stamps. All times are integers in nanoseconds; the host's are Unix time."""

    def __init__(self) -> None:
        self._low: float | None = None
        self._high: float | None = None
        self._at = 0
        self._lateness: deque[float] = deque(maxlen=WINDOW)

    def restart(self) -> None:
        """The camera was opened again or reset: nothing is known of its clock any more."""
        self._low = self._high = None
        self._lateness.clear()

    def latched(self, camera_ns: int, before_ns: int, after_ns: int) -> None:
        """The camera's clock was read, between these two readings of the host's."""
        self._narrow(before_ns - camera_ns, after_ns - camera_ns, after_ns)

    def exposed(self, camera_ns: int, arrived_ns: int, duration_ns: int = 0) -> tuple[int, int]:
        """(exposure of row 0 in Unix ns, right within so many ns either way).

        Args:
            camera_ns: time stamp of row 0 on the camera's clock.
            arrived_ns: when the host had the whole frame.
            duration_ns: lines x line period, as far as known: the frame cannot have come sooner after its row 0.
        """
        most = arrived_ns - duration_ns - camera_ns
        self._narrow(None, most, arrived_ns)
        assert self._high is not None
        if self._low is not None:
            offset, within = (self._low + self._high) / 2, (self._high - self._low) / 2
        else:
            # Nothing says how late the soonest frame came. What the others were later is the best there is to say.
            self._lateness.append(most)
            offset, within = self._high, max(self._lateness) - min(self._lateness)
        return camera_ns + round(offset), max(1, round(within))

    def _narrow(self, low: int | None, high: int, now_ns: int) -> None:
        slack = abs(now_ns - self._at) * DRIFT
        self._at = now_ns
        known_low = None if self._low is None else self._low - slack
        known_high = None if self._high is None else self._high + slack
        contradiction = (known_low is not None and high < known_low) or (
            low is not None and known_high is not None and low > known_high
        )
        if contradiction:
            known_low = known_high = None
            self._lateness.clear()
        self._high = high if known_high is None else min(high, known_high)
        if low is not None:
            known_low = low if known_low is None else max(low, known_low)
        self._low = known_low


def without_clock(arrived_ns: int, duration_ns: int) -> tuple[int, int | None]:
    """As `CameraClock.exposed` for a camera without time stamps: what the host can tell, and nobody knows how well."""
    return arrived_ns - duration_ns, None
