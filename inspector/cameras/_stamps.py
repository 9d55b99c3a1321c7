"""Presentation time stamps of a video -> how many frames are missing between two, and when they were exposed."""

from __future__ import annotations

from collections import deque
from statistics import median

from inspector.cameras._clock import CameraClock

STEPS = 9
"""Newest steps whose median is the frame period."""
LATE = 0.75
"""A stamp may come so many periods late before a frame counts as missing: network cameras stamp unevenly."""
FASTEST_HZ = 1000.0
"""A stream that states a higher rate states none: FFmpeg falls back on the ticks of the stamps' own clock."""
AHEAD_NS = 2_000_000_000
"""So much further than the host's clock the stamps may go in one step; beyond it the stream's clock was set."""
LEARNED = 64
"""Frames of a stream after which the soonest of them tells how late its first one came."""
STALE_NS = 1_000_000_000
"""A frame that was waited for and that its stamp makes so old shows that the stamps run slower than time: FFmpeg
makes them up, at 25 a second, where a stream has none."""


class Stamps:
    """Counts the frames of one stream, which has no frame numbers, by its time stamps.

    Args:
        rate_hz: the rate that the frames must have, frames a second; None: the rate they do have, so that a camera
            that slows down for good is told to miss frames only until half of the last nine steps were slow.
        stated_hz: what the stream itself says, for the first steps.
    """

    def __init__(self, rate_hz: float | None, stated_hz: float) -> None:
        self._fixed_ns = None if rate_hz is None else 1e9 / rate_hz
        self._steps: deque[float] = deque(maxlen=STEPS)
        if 0 < stated_hz <= FASTEST_HZ:
            self._steps.append(1e9 / stated_hz)
        self._last: tuple[int, int | None] | None = None

    def missing(self, stamp_ns: int, arrived_ns: int | None = None) -> int | None:
        """Frames that are missing before this one; None if the stamps began anew.

        Args:
            stamp_ns: of the frame, on the stream's clock.
            arrived_ns: when it came, on a clock of the host; None where it is read from a file.
        """
        last, self._last = self._last, (stamp_ns, arrived_ns)
        if last is None:
            return 0
        step = stamp_ns - last[0]
        passed = None if arrived_ns is None or last[1] is None else arrived_ns - last[1]
        if step < 0 or (passed is not None and step > passed + AHEAD_NS):
            return None
        period = self.period_ns
        if step > 0:
            self._steps.append(step)
        if period is None or step < (1 + LATE) * period:
            return 0
        return max(1, round(step / period) - 1)

    @property
    def period_ns(self) -> float | None:
        """Between two frames; None while that is not known."""
        if self._fixed_ns is not None:
            return self._fixed_ns
        return median(self._steps) if self._steps else None


class Times:
    """When the frames of a stream were exposed, on the host's monotonic clock; it outlives the stream's openings.

    While a stream is opened its first frames pile up, so they come later than the others, by about the same at every
    opening. For the exposure time the soonest frame counts (see _clock.py). For the length of a gap the first frame
    behind it counts, and that is moved back by what was learned at the opening before.
    """

    def __init__(self) -> None:
        self._clock = CameraClock()
        self._pile_ns = 0
        """How late the first frame of an opening comes."""
        self._last = (0, 0)
        """(when it was taken, when it arrived) of the last frame."""
        self.opened()

    def opened(self) -> None:
        """The stream was opened (again)."""
        self._clock.restart()
        self._count = 0
        self._anchor_ns = 0
        self._from_start = True

    def began_anew(self) -> None:
        """The stream's stamps began anew while it was open: nothing has piled up."""
        self.opened()
        self._from_start = False

    def of(self, stamp_ns: int | None, arrived_ns: int, *, fresh: bool) -> tuple[int, int]:
        """(exposure, the time for the odometer) of a frame.

        Args:
            stamp_ns: on the stream's clock; None where it has no stamp.
            arrived_ns: when it came.
            fresh: it was waited for, so it had not come earlier.
        """
        if stamp_ns is None:
            self._last = arrived_ns, arrived_ns
            return self._last
        exposed_ns = self._exposed(stamp_ns, arrived_ns, fresh)
        if not self._count:
            first_ns = arrived_ns - self._pile_ns if self._from_start else self._last[0] + arrived_ns - self._last[1]
            self._anchor_ns = first_ns - stamp_ns
        elif self._count == LEARNED and self._from_start:
            self._pile_ns = max(0, self._pile_ns + self._anchor_ns + stamp_ns - exposed_ns)
        taken_ns = self._anchor_ns + stamp_ns if self._count < LEARNED else exposed_ns
        self._count += 1
        self._last = taken_ns, arrived_ns
        return exposed_ns, taken_ns

    def _exposed(self, stamp_ns: int, arrived_ns: int, fresh: bool) -> int:
        exposed_ns, _ = self._clock.exposed(stamp_ns, arrived_ns)
        if fresh and arrived_ns - exposed_ns > STALE_NS:
            self._clock.restart()
            exposed_ns, _ = self._clock.exposed(stamp_ns, arrived_ns)
        return exposed_ns
