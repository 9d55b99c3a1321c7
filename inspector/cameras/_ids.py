"""A camera's frame ids -> numbers without end: how many frames are missing between two, and when it began anew."""

from __future__ import annotations

FASTER = 4.0
"""Times as many frames as the time between two ids speaks for: more were not skipped, the camera counts anew."""
FEW = 64
"""So many frames more, as times of arrival are rough."""


class FrameIds:
    """Counts the frames of one stream.

    Args:
        bits: width of the ids; they wrap at 2**bits.
        skips_zero: 0 is never used, as in GigE Vision 1.x, where 65535 is followed by 1. A camera that sends a 0 all
            the same is taken at its word from then on.
    """

    def __init__(self, bits: int, *, skips_zero: bool) -> None:
        self._first = 1 if skips_zero else 0
        self._end = 1 << bits
        self._last: int | None = None

    def restart(self) -> None:
        """The stream was opened again: its next id says nothing of the one before."""
        self._last = None

    def missing(self, frame_id: int, *, about: float | None = None) -> int | None:
        """Frames that are missing between the last id and this one; None if the camera began to count anew.

        An id that lies in the half of the ring behind the last one was not skipped over, it was started again; and
        so was an id that comes twice.

        Args:
            frame_id: the id of this frame.
            about: how many frames passed since the last id by the time that passed, where that is known. It tells a
                count that began anew from a long hole: with 16 bits a 1 behind 40000 could be either.
        """
        last, self._last = self._last, frame_id
        if frame_id == 0:
            self._first = 0
        if last is None:
            return 0
        modulus = self._end - self._first
        ahead = (frame_id - last) % modulus
        if not 0 < ahead <= modulus // 2 or (about is not None and ahead > FASTER * about + FEW):
            return None
        return ahead - 1
