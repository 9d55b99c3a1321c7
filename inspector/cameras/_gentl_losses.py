"""Which frames are missing between two records, and why: each is counted once, whoever lost it.

Three count: the camera's frame ids have holes, the camera's process says how many frames it had to let go because the
daemon was late, and the producer says how often it had no buffer. Frames of the second kind were fetched, so they are
part of a hole in the ids. Whether those of the third kind are depends on who gives the ids: the camera (then they
are) or the producer when it fills a buffer (then they are not, and would be lost without a trace).
"""

from __future__ import annotations

from dataclasses import dataclass

from inspector.cameras._gentl_words import UNKNOWN, Record
from inspector.cameras._ids import FrameIds
from inspector.events import Reason

LATE = "the daemon held all `buffers` of them: give it more, or find what holds it up"
STARVED = "the producer had no free buffer: give it more `buffers`, or the host more processor"
HOLE = "the camera's frame ids have a hole"


@dataclass(frozen=True, slots=True)
class Missing:
    """Frames that did not come."""

    count: int
    reason: Reason
    detail: str


class Losses:
    """The losses of one opening.

    Args:
        bits: width of the camera's frame ids; 16-bit ids skip 0, as GigE Vision's do.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._ids = FrameIds(bits, skips_zero=bits == 16)
        self._dropped = self._underruns = 0
        self._has_ids = False
        self._told = 0
        """Buffers without an id, and what was dropped before them: in the books already, but in the next hole too."""
        self._credit = 0
        """Underruns that no hole has shown yet."""
        self._overdue = 0
        """Those that the next id must show, or no id ever will."""

    def before(self, record: Record, about: float | None = None) -> tuple[list[Missing], bool]:
        """What is missing just before this frame or bad buffer, and whether the camera began to count anew there.

        Args:
            record: of the frame or buffer.
            about: how many frames passed since the last one by the time that passed; as `FrameIds.missing` wants it.
        """
        dropped = self.dropped(record.dropped)
        self._credit += record.underruns - self._underruns
        self._underruns = record.underruns
        if record.frame_id == UNKNOWN:
            return self._before_nameless(dropped), False
        hole, restarted = self._hole(record.frame_id, about)
        beyond = max(0, hole - dropped - self._told)
        starved = min(beyond, self._credit)
        traceless = max(0, self._overdue - starved)
        self._credit -= starved + traceless
        self._overdue = self._credit if record.settled else 0
        self._told = 0
        return _said((dropped, LATE), (starved + traceless, STARVED), (beyond - starved, HOLE)), restarted

    def _before_nameless(self, dropped: int) -> list[Missing]:
        self._told += dropped + 1
        if self._has_ids:
            return _said((dropped, LATE))
        starved, self._credit = self._credit, 0  # no id will ever show them
        return _said((dropped, LATE), (starved, STARVED))

    def dropped(self, so_far: int) -> int:
        """Frames that the process let go since it was asked last."""
        new, self._dropped = so_far - self._dropped, so_far
        return new

    def _hole(self, frame_id: int, about: float | None) -> tuple[int, bool]:
        self._has_ids = True
        if frame_id >> self._bits:  # a producer that unwraps the camera's short ids
            self._bits = 64
            self._ids = FrameIds(64, skips_zero=False)
        missing = self._ids.missing(frame_id, about=about)
        return missing or 0, missing is None


def _said(*parts: tuple[int, str]) -> list[Missing]:
    reasons = {LATE: Reason.UNDERRUN, STARVED: Reason.UNDERRUN, HOLE: Reason.MISSING}
    return [Missing(count, reasons[detail], detail) for count, detail in parts if count > 0]
