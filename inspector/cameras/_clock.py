"""A camera's own clock -> the host's: when a frame was exposed, and how well that is known.

What is known of `offset` (host time - camera time) is an interval. A reading of the camera's clock between two
readings of the host's bounds it from both sides. A frame that was whole in the host's memory at `arrived` bounds it
from above only: the exposure of row 0 was at least the frame's own duration earlier. Both bounds grow looser with the
camera's time that passes, because two clocks drift apart; each reading of the camera's clock replaces them, so a clock
that was set is right again at the next reading. Read it about once a second.
"""

from __future__ import annotations

import math
from collections import deque

DRIFT = 600e-6
"""Seconds a second by which the two clocks drift apart at most: 50 ppm for each quartz (the usual grade), and the
500 ppm by which Linux turns a clock that NTP disciplines (adjtimex(2), MAXFREQ)."""
WINDOW = 256
"""Newest frames whose spread of arrival tells how late a frame may come where the clock cannot be read."""
ENOUGH = 8
"""Frames before which that spread tells nothing."""


class CameraClock:
    """Maps one camera's time stamps. All times are integers in nanoseconds; the host's are Unix time."""

    def __init__(self) -> None:
        self._low: tuple[int, int] | None = None
        """(least offset, camera time at which it was known)."""
        self._high: tuple[int, int] | None = None
        self._late: deque[int] = deque(maxlen=WINDOW)

    def restart(self) -> None:
        """The camera was opened again or reset: nothing is known of its clock any more."""
        self._low = self._high = None
        self._late.clear()

    def latched(self, camera_ns: int, before_ns: int, after_ns: int) -> None:
        """The camera's clock was read, between these two readings of the host's.

        What was known before is given up: a clock may have been set since. Of several readings in a row take the one
        with the shortest way. A reading during which the host's clock was set back tells nothing.
        """
        if after_ns < before_ns:
            return
        self._low = before_ns - camera_ns, camera_ns
        self._high = after_ns - camera_ns, camera_ns

    def exposed(self, camera_ns: int, arrived_ns: int, duration_ns: int = 0) -> tuple[int, int | None]:
        """(exposure of row 0 in Unix ns, right within so many ns either way; None: nobody knows).

        Without a reading of the camera's clock the soonest of the newest frames counts as one that came without any
        delay. `within` is then what the latest came later than that: an estimate, that no delay common to all is in;
        and the exposure is rather too late than too early.

        Args:
            camera_ns: time stamp of row 0 on the camera's clock.
            arrived_ns: when the host had the whole frame.
            duration_ns: lines x line period, as far as known: the frame cannot have come sooner after its row 0.
        """
        most = arrived_ns - duration_ns - camera_ns
        if self._low is None or self._high is None:
            return self._guessed(camera_ns, most)
        low = self._low[0] - _slack(camera_ns, self._low[1])
        high = self._high[0] + _slack(camera_ns, self._high[1])
        if most < low:  # it came before it was exposed: one of the clocks was set
            self.restart()
            return self._guessed(camera_ns, most)
        if most < high:
            high, self._high = most, (most, camera_ns)
        return camera_ns + (low + high) // 2, max(1, (high - low + 1) // 2)

    def _guessed(self, camera_ns: int, most: int) -> tuple[int, int | None]:
        self._late.append(most)
        soonest = min(self._late)
        within = max(1, max(self._late) - soonest) if len(self._late) >= ENOUGH else None
        return camera_ns + soonest, within


def without_clock(arrived_ns: int, duration_ns: int) -> tuple[int, int | None]:
    """As `CameraClock.exposed` for a camera without time stamps: what the host can tell, and nobody knows how well."""
    return arrived_ns - duration_ns, None


def _slack(camera_ns: int, known_ns: int) -> int:
    """By how much a bound known at one time is looser at another."""
    return math.ceil(abs(camera_ns - known_ns) * DRIFT) + 1
