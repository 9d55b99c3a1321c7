"""The camera seam. A camera is one module here, named by `kind:`, with closed `Options` and one `open()`."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from inspector.pool import Pool
from inspector.records import Frame, Loss


class Camera(Protocol):
    """A source of frames. Acquired on enter and released on exit, both in the thread that reads it."""

    ended: bool
    """True once the strip has ended for good and everything was read: `read` returns None from then on."""

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
