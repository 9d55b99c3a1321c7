"""Every frame of a GigE Vision stream, good or bad, is counted exactly once, in the order of the strip.

The driver hands frames over in the order in which their first packets came, good and bad ones. A bad one whose leader
packet was lost has no id: it is counted at once, and taken off the hole that the next id shows. A frame that found no
free buffer, or of which no packet came, is only seen as such a hole.
"""

from __future__ import annotations

from dataclasses import dataclass

from inspector.cameras._aravis_stream import NO_ID, Popped, Status
from inspector.cameras._ids import FrameIds
from inspector.events import Reason
from inspector.records import Loss

_BAD = {
    Status.MISSING_PACKETS: (Reason.PACKETS, "packets are missing; look at cable, switch, MTU and packet_size"),
    Status.TIMEOUT: (Reason.TIMEOUT, "its last packets did not come within frame_retention_ms"),
}
_FULL = "no buffer was free; the line is behind, or `buffers` are too few"


@dataclass(slots=True)
class Arrival:
    """What the driver knew when it handed a frame over.

    Attributes:
        frame_id: NO_ID if it is not known.
        underruns: `n_underruns` of the stream: packets so far for which there was no buffer.
        about: frames that passed since the last id by the time that passed; None: not known.
    """

    frame_id: int
    underruns: int = 0
    about: float | None = None


class FrameCount:
    """Counts the frames of one opening from 0.

    Args:
        camera: its name, for the losses.
        packets: packets in one frame.
        wide: ids have 64 bits (GevGVSPExtendedIDMode); else 16, until one comes that is greater.
        holes_show: a frame without a buffer uses up an id, as it does but in the library's own simulator.
    """

    def __init__(self, camera: str, packets: int, *, wide: bool = False, holes_show: bool = True) -> None:
        self.next = 0
        """The number of the next frame."""
        self._camera = camera
        self._packets = packets
        self._holes_show = holes_show
        self._wide = wide
        self._ids = FrameIds(64 if wide else 16, skips_zero=True)
        self._last_id: int | None = None
        self._without_id = 0
        """Frames counted since the last known id."""
        self._underruns = 0
        """Packets without a buffer that are in the books."""
        self.vanished = 0
        """Frames of which no packet came."""

    def arrive(self, arrival: Arrival) -> tuple[list[Loss], bool]:
        """A frame came, good or bad: (what was lost before it, did the camera begin to count anew?)."""
        if arrival.frame_id == NO_ID:
            self._without_id += 1
            return [], False
        missing = self._missing(arrival)
        hole = max(0, (missing or 0) - self._without_id)
        self._without_id = 0
        if not self._holes_show:
            hole += self._short_of_buffers(arrival.underruns)
        return self._holes(hole, arrival.underruns), missing is None

    def good(self) -> int:
        """The number of the frame that came."""
        self.next += 1
        return self.next - 1

    def bad(self, popped: Popped, arrival: Arrival, size: int) -> Loss:
        """The frame that came is no good; `size` is what a good one has, bytes."""
        if popped.status == Status.SUCCESS:
            reason, why = Reason.FAILED, f"it has {popped.size} bytes instead of {size}"
        else:
            status = Status(popped.status)
            reason, why = _BAD.get(status, (Reason.FAILED, f"the driver calls its buffer {status.name}"))
        if arrival.frame_id == NO_ID and arrival.underruns > self._underruns:
            reason, why = Reason.UNDERRUN, "a buffer came free in the middle of it only"
        return Loss(self._camera, self.good(), 1, reason, why)

    def _missing(self, arrival: Arrival) -> int | None:
        frame_id = arrival.frame_id
        if frame_id > 0xFFFF and not self._wide:
            self._wide, self._ids = True, FrameIds(64, skips_zero=True)
            if self._last_id is not None:
                self._ids.missing(self._last_id)
        self._last_id = frame_id
        return self._ids.missing(frame_id, about=arrival.about)

    def _short_of_buffers(self, underruns: int) -> int:
        """Frames that found no buffer and are not in the books yet, by their packets."""
        return -(-(underruns - self._underruns) // self._packets)

    def _holes(self, hole: int, underruns: int) -> list[Loss]:
        if not hole:
            return []
        short = min(hole, self._short_of_buffers(underruns))
        self._underruns = min(underruns, self._underruns + short * self._packets)
        self.vanished += hole - short
        losses = [(short, Reason.UNDERRUN, _FULL), (hole - short, Reason.MISSING, "no packet of it came")]
        found = []
        for count, reason, detail in losses:
            if count:
                found.append(Loss(self._camera, self.next, count, reason, detail))
                self.next += count
        return found
