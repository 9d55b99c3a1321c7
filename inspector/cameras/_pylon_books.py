"""pylon's ids and counters -> which frames are missing before this one, and why. Nothing here needs pylon."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from inspector.cameras import Link
from inspector.cameras._ids import FrameIds
from inspector.events import Reason

NO_ID = 2**64 - 1
"""GetBlockID of a frame that has none."""
MISSING_DATA = {
    0xE1000014,  # GigE: "the buffer was incompletely grabbed": packets are missing
    0xE2000212,  # USB: "payload data has been discarded", for want of bandwidth
}
"""Codes of a grab result that tell of data lost on the way."""


def blame(code: int, description: str) -> tuple[Reason, str]:
    """(why, in words) a grab result is bad.

    Args:
        code: GetErrorCode; 0 where pylon has none.
        description: GetErrorDescription.
    """
    said = f"{description.strip() or 'pylon does not say why'} (0x{code:08X})"
    if code in MISSING_DATA:
        return Reason.PACKETS, said
    return (Reason.TIMEOUT if "timed out" in description.lower() else Reason.FAILED), said


@dataclass(slots=True)
class Counted:
    """One grab result's place among the frames that the camera issued."""

    index: int
    """Its number since the camera was opened, lost ones counted."""
    missing: list[tuple[int, Reason, str]] = field(default_factory=list)
    """(how many, why, in words) of the frames just before it, in this order."""
    restarted: bool = False
    """The camera began to count anew: nobody knows what is missing before this frame."""


class Numbers:
    """The frames of one opening, by their block ids.

    GigE: 16 bits from 1 that skip 0, or 64 bits where the camera has extended ids, which shows at 65536 at the
    latest; 0: the camera has none. Others: 64 bits from 0.
    """

    def __init__(self, *, gige: bool) -> None:
        self._gige = gige
        self._ids = FrameIds(16 if gige else 64, skips_zero=gige)
        self._wide = not gige
        self._last: int | None = None
        self._next = 0
        self._unnumbered = 0
        """Frames since the last one with an id."""
        self._underruns = 0
        """Frames that the driver had no buffer for and that were not missed yet: queued ones come first."""

    def count(self, block: int, *, skipped: int = 0, underruns: int = 0, about: float | None = None) -> Counted:
        """The next grab result, good or bad.

        Args:
            block: GetBlockID.
            skipped: GetNumberOfSkippedImages.
            underruns: frames that the driver found no free buffer for since the last call.
            about: as in FrameIds.missing.
        """
        self._underruns += underruns
        if block == NO_ID or (self._gige and block == 0):
            gap: int | None = skipped + self._underruns
            self._unnumbered += skipped + self._underruns + 1
        else:
            gap = self._gap(block, about)
        counted = Counted(self._next + (gap or 0), self._reasons(gap or 0, skipped), restarted=gap is None)
        self._next = counted.index + 1
        return counted

    def _gap(self, block: int, about: float | None) -> int | None:
        if not self._wide and block > 0xFFFF:
            self._wide, self._ids = True, FrameIds(64, skips_zero=True)
            if self._last is not None:
                self._ids.missing(self._last)
        self._last = block
        missing = self._ids.missing(block, about=about)
        unnumbered, self._unnumbered = self._unnumbered, 0
        return None if missing is None else max(0, missing - unnumbered)

    def _reasons(self, gap: int, skipped: int) -> list[tuple[int, Reason, str]]:
        underrun = min(gap, self._underruns)
        self._underruns -= underrun
        skipped = min(gap - underrun, skipped)
        found = [
            (
                underrun,
                Reason.UNDERRUN,
                "the driver had no free buffer; raise `buffers`",
            ),
            (skipped, Reason.OVERRUN, "pylon skipped these images"),
            (gap - underrun - skipped, Reason.MISSING, "a hole in the camera's frame ids"),
        ]
        return [entry for entry in found if entry[0]]


class Counters:
    """The stream grabber's statistics of one opening; what a transport layer does not count stays 0.

    Args:
        nodes: node map of the stream grabber, grabbing.
        link: is kept up to date by `update`; it goes on over all openings.
    """

    def __init__(self, nodes: Any, link: Link) -> None:
        self._link = link
        self._lost = _Counter(nodes, "Statistic_Failed_Packet_Count")
        self._resent = _Counter(nodes, "Statistic_Resend_Packet_Count")
        self._underruns = _Counter(nodes, "Statistic_Buffer_Underrun_Count")

    def update(self) -> None:
        """Bring `link` up to date."""
        self._link.packets_lost += self._lost.new()
        self._link.packets_resent += self._resent.new()

    def underruns(self) -> int:
        """Frames that came when no buffer was free, since the last call."""
        return self._underruns.new()


class _Counter:
    def __init__(self, nodes: Any, name: str) -> None:
        node = nodes.GetNode(name)
        self._node = node if node.IsValid() else None
        self._last = self._read()

    def _read(self) -> int:
        return int(self._node.GetValue()) if self._node is not None and self._node.IsReadable() else 0

    def new(self) -> int:
        """Counts since the last call; one that fell began again."""
        before, self._last = self._last, self._read()
        return self._last - before if self._last >= before else self._last
