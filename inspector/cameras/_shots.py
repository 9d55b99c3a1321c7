"""What the parts of the replay camera hand to one another: a frame to be, frames that cannot be had, a death."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inspector.errors import CameraError
from inspector.events import Reason
from inspector.records import Pixels

MAX_PX = 1 << 28
"""No frame is larger (16,384 px x 16,384 lines): a damaged header must not ask for all the memory."""


class Unreadable(CameraError):
    """A picture or record cannot be used; `lines` is its height where that much could be read.

    It never leaves the camera: the frame becomes a `Loss` with the message as its detail.
    """

    def __init__(self, detail: str, lines: int | None = None) -> None:
        super().__init__(detail)
        self.lines = lines


class Died(CameraError):
    """The camera died here when it was recorded; it came back, so it may be opened again at once."""

    at_once = True


@dataclass(slots=True, frozen=True)
class Stamp:
    """What a recording knows of a frame besides; see records.Frame."""

    came_ns: int
    """Its place among the frames of all cameras; see _index.Entry."""
    camera_ns: int | None = None
    uncertainty_ns: int | None = None
    counts_per_line: float | None = None
    overlap_lines: int = 0
    after: Reason | None = None


@dataclass(slots=True, frozen=True)
class Shot:
    """A frame of [height, width] px that `fill` writes into a slot, its one copy.

    `fill` may raise Unreadable. `exposed_ns` belongs to row 0 of the file's own frame, and this one starts `row`
    lines below it. `breaks`: it does not go on from the shot before, though they are in one file.
    `encoder_count` is set only by recordings, whose counts and times are the camera's own.
    """

    height: int
    width: int
    fill: Callable[[Pixels], None]
    source: str | None
    exposed_ns: int
    row: int = 0
    breaks: bool = False
    encoder_count: int | None = None
    stamp: Stamp | None = None

    @property
    def came_ns(self) -> int | None:
        """When the line that recorded it took it in, on the monotonic clock of its host; None: it was not recorded."""
        return None if self.stamp is None else self.stamp.came_ns


@dataclass(slots=True, frozen=True)
class Missed:
    """`count` frames that cannot be had; `lines` is how much strip they showed together, None if unknown."""

    source: str | None
    detail: str
    count: int = 1
    reason: Reason = Reason.UNREADABLE
    lines: int | None = None
    breaks: bool = False
    came_ns: int | None = None
    """None: it has no place among other cameras' frames, as what is lost is met with the next frame of its camera."""


@dataclass(slots=True, frozen=True)
class Up:
    """The camera was opened when it was recorded."""

    came_ns: int | None


@dataclass(slots=True, frozen=True)
class Down:
    """The camera died when it was recorded, or could not be opened."""

    detail: str
    came_ns: int | None


def printable(name: str) -> str:
    """A file name as text that JSON can carry: bytes of it that are not UTF-8 become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
