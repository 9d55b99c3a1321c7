"""Is the disk large enough for what was asked?"""

from __future__ import annotations

import shutil
from pathlib import Path

from inspector.record.session import Session

SPARE_BYTES = 256 << 20
"""So much of the disk is left to others."""


def free_bytes(folder: Path) -> int:
    """Bytes that the disk of a folder, which need not be there yet, has left."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


class Room:
    """Is the disk large enough for what was asked? Known as soon as the first frames tell their size and rate."""

    def __init__(self, session: Session, seconds: float | None) -> None:
        self._session = session
        self._seconds = seconds
        self._asked = False

    def look(self, passed: float) -> str:
        """What is wrong, in words; empty: nothing."""
        lanes, frames = self._session.lanes.values(), self._session.frames
        free = free_for(self._session)
        if free < SPARE_BYTES:
            return f"the disk is full but for {size(free)}: stopped, and what was recorded is whole"
        if self._asked or not all(lane.frames for lane in lanes) or (frames is None and passed < 1):
            return ""
        self._asked = True
        if frames is not None:
            need = sum(lane.frame_bytes * (frames - lane.frames) for lane in lanes)
        else:
            need = int(sum(lane.bytes for lane in lanes) / passed * max(0.0, (self._seconds or 0.0) - passed))
        if need > free - SPARE_BYTES:
            return f"needs {size(need)} more and the disk has {size(free)} left: ask for less, or name another disk"
        return ""


def free_for(session: Session) -> int:
    """Bytes that its disk has left."""
    recorder = next(iter(session.lanes.values())).recorder
    assert recorder is not None
    return free_bytes(recorder.folder)


def size(count: float) -> str:
    """Bytes, for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Seconds, for people."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:,.1f} h" if hours >= 1 else f"{minutes:,.0f} min" if minutes >= 1 else f"{seconds:,.0f} s"
