"""The camera seam. A camera is one module here, named by `kind:`, with closed `Options` and one `open()`.

A module may also have `check(options)`, which looks at the options without opening anything, and
`discover(timeout_s)`, which lists what is there (`inspector cameras`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from inspector.pool import Pool
from inspector.records import Frame, Loss


@dataclass(slots=True)
class Link:
    """What a camera's driver counts on the way to the host, since the camera object was made; never falls."""

    packets_lost: int = 0
    """Network packets that never came."""
    packets_resent: int = 0
    """Network packets that came when they were asked for again."""


@dataclass(slots=True, frozen=True)
class Found:
    """A camera that was discovered."""

    kind: str
    address: str
    """What `options` name it by: an IP address, a serial number, a file."""
    vendor: str = ""
    model: str = ""
    serial: str = ""
    detail: str = ""
    """What else a person would want to know, such as that somebody else uses it."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The options that open it, as they would stand in the YAML."""


class Camera(Protocol):
    """A source of frames. Acquired on enter and released on exit, both in the thread that reads it."""

    ended: bool
    """True once the strip has ended for good and everything was read: `read` returns None from then on."""

    link: Link
    """Kept up to date by `read`."""

    def __enter__(self) -> Self:
        """Acquire the device.

        Raises:
            CameraError: it is not there or refuses; the caller may try again later.
        """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        """The next frame, copied once into a slot of `pool`, or frames that the camera knows it lost.

        Sequences count from 0 at every enter, without holes but for lost frames. None after `timeout_s` seconds
        without either, or when no slot came free (then the frame is still the camera's to deliver).

        Raises:
            CameraError: the camera is dead. It must be exited and entered again.
        """
