"""A camera's frame ids -> numbers without end: how many frames are missing between two, and when it began anew."""

from __future__ import annotations


class FrameIds:
    """Counts the frames of one stream.

    Args:
        bits: width of the ids; they wrap at 2**bits.
        skips_zero: 0 is never used, as in GigE Vision 1.x, where 65535 is followed by 1.
    """

    def __init__(self, bits: int, *, skips_zero: bool) -> None:
        self._first = 1 if skips_zero else 0
        self._modulus = (1 << bits) - self._first
        self._last: int | None = None

    def restart(self) -> None:
        """The stream was opened again: its next id says nothing of the one before."""
        self._last = None

    def missing(self, frame_id: int) -> int | None:
        """Frames that are missing between the last id and this one; None if the camera began to count anew.

        An id that lies in the half of the ring behind the last one was not skipped over, it was started again; and
        so was an id that comes twice.
        """
        place = (frame_id - self._first) % self._modulus
        last, self._last = self._last, place
        if last is None:
            return 0
        ahead = (place - last) % self._modulus
        return ahead - 1 if 0 < ahead <= self._modulus // 2 else None
