"""The `gige` camera: any GenICam camera with GigE Vision, through the C library Aravis 0.8.

- Opened by its IP address, without a broadcast. `address: Fake_1` is the library's own simulator, for demos and tests.
- Every way of losing a frame is told apart: `packets` (holes in it), `timeout` (its end did not come), `underrun` (no
  free buffer), `failed` (the driver calls it bad), `missing` (its number never came), `reset` (ids began anew).
- Exposure is the camera's own time stamp. Where the camera's clock can be read it is, once a second, and bounds the
  host's time from both sides; else the soonest packets do.
- A camera that falls silent is dead after `frame_timeout_s` when it runs by itself, and when it does not answer the
  reading of a register any more, whatever it does. The driver's own signal comes after 6 s: it is not used.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from inspector.cameras import Found, Link, _aravis
from inspector.cameras._aravis import Refused
from inspector.cameras._aravis_stream import NO_ID, Popped, Status
from inspector.cameras._genicam import check_pixels
from inspector.cameras._gige_count import Arrival, FrameCount
from inspector.cameras._gige_options import Options
from inspector.cameras._gige_session import Session
from inspector.cameras._gige_watch import ExposureTimes, Silence, packets_lost
from inspector.cameras._odometer import Odometer
from inspector.errors import CameraError, ConfigError
from inspector.events import Reason
from inspector.logbook import LogKind, as_kind
from inspector.pool import Pool
from inspector.records import Frame, Loss

__all__ = ["GigeCamera", "Options", "check", "discover", "open"]

log = logging.getLogger(__name__)

SLICE_S = 0.25
"""Longest wait in the driver before the camera's silence is looked at."""
LINK_S = 1.0
"""How often the driver's packet counters are read while nothing is lost."""


class GigeCamera:
    """A GigE Vision camera; the protocol is in inspector/cameras/__init__.py."""

    def __init__(self, name: str, options: Options) -> None:
        self.ended = False
        self.link = Link()
        self._name = name
        self._o = options
        self._odometer: Odometer | None = None
        self._height = 0
        self._memory: NDArray[np.uint8] | None = None
        self._found: str | None = None
        """Its IP address the last time."""
        self._opening: _Opening | None = None

    def __enter__(self) -> Self:
        try:
            session = Session(self._name, self._o, self._memory, self._found)
        except (CameraError, Refused) as error:
            self._found = None
            raise CameraError(f"camera {self._name}: {error}") from None
        try:
            odometer = self._strip(session)
            self._opening = _Opening(self._name, self._o, session, odometer, self.link)
        except BaseException:
            session.close()
            raise
        self._memory, self._found = session.memory, session.found
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.close()

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        """The next frame or loss; see inspector/cameras/__init__.py.

        Raises:
            CameraError: the camera is not open, or dead.
        """
        if self._opening is None:
            raise CameraError(f"camera {self._name}: read before it was opened; enter it first")
        return self._opening.read(pool, timeout_s)

    def _strip(self, session: Session) -> Odometer:
        """The way along the strip runs on over all openings."""
        height = session.format.height
        if self._odometer is None:
            self._odometer, self._height = Odometer(self._o.encoder, height, session.format.frame_s), height
        elif height != self._height:
            raise CameraError(
                f"camera {self._name}: a frame has {height} lines now and had {self._height}; state height_px"
            )
        self._odometer.opened()
        return self._odometer


class _Opening:
    """The camera from one enter to its exit."""

    def __init__(self, name: str, options: Options, session: Session, odometer: Odometer, link: Link) -> None:
        self._name = name
        self._o = options
        self._session = session
        self._stream = session.stream
        self._odometer = odometer
        self._link = link
        self._link_before = Link(link.packets_lost, link.packets_resent)
        self._link_at = 0.0
        self._hurt = 0
        """So many frames more the driver's packet counters are read: they are ahead by the frames that wait."""
        form = session.format
        self._format = form
        pixels = form.width * form.height
        self._images = session.memory[:, :pixels].reshape(-1, form.height, form.width)
        self._least_bytes = form.payload if session.chunks is None else pixels  # a chunk may be left out
        self._times = ExposureTimes(session.device if session.line is not None else None)
        self._silence = Silence(session, options.frame_timeout_s)
        self._count = FrameCount(name, session.packets, wide=session.extended_ids, holes_show=session.line is not None)
        self._losses: deque[Loss] = deque()
        self._waiting: tuple[Popped, bool] | None = None
        """A good frame that has no slot yet; did the camera begin to count anew with it?"""
        self._stamp: tuple[bool, int] | None = None
        """Time of the last frame with an id, ns, and whether it is on the camera's clock."""
        self._id = -1
        """Of the last frame with one."""
        self._piece = 0
        self._chunk_missed = False

    def close(self) -> None:
        if self._waiting is not None:
            self._stream.push(self._waiting[0].handle)
            self._waiting = None
        self._session.close()

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        deadline = time.monotonic() + timeout_s
        while not self._losses and self._waiting is None:
            wait_s = max(0.0, min(deadline - time.monotonic(), SLICE_S))
            popped = self._stream.pop(wait_s)
            if popped is not None:
                self._take(popped)
            else:
                self._listen(wait_s)
                if time.monotonic() >= deadline:
                    return None
        if self._losses:
            return self._losses.popleft()
        return self._deliver(pool, deadline)

    # ------------------------------------------------------------ what came

    def _take(self, popped: Popped) -> None:
        """Book what was lost before this frame, and the frame itself if it is bad."""
        self._silence.broken()
        arrival = Arrival(popped.frame_id, self._stream.count("n_underruns"), self._about(popped))
        losses, anew = self._count.arrive(arrival)
        self._losses.extend(losses)
        if popped.status == Status.SUCCESS and self._least_bytes <= popped.size <= self._format.payload:
            self._waiting = popped, anew
        else:
            self._losses.append(self._count.bad(popped, arrival, self._least_bytes))
            self._stream.push(popped.handle)
        self._look_at_link()

    def _about(self, popped: Popped) -> float | None:
        """Frames that passed since the last one with an id, by the time that passed; None too if its id just follows.

        By the camera's clock, if it has one: after a stall the host sees packets of seconds in one moment.
        """
        if popped.frame_id == NO_ID:
            return None
        before, self._stamp = self._stamp, (popped.has_camera_time, popped.time_ns())
        follows, self._id = popped.frame_id == self._id + 1, popped.frame_id
        if follows or before is None or before[0] != self._stamp[0]:
            return None
        frame_s = self._odometer.frame_s
        if not frame_s:
            return None
        return max(0.0, (self._stamp[1] - before[1]) / 1e9 / frame_s)

    def _listen(self, silent_s: float) -> None:
        complaint = self._silence.went_on(silent_s, self._odometer.frame_s)
        if complaint is not None:
            self._session.answers = False
            raise CameraError(f"camera {self._name}: {self._o.address}: {complaint}")

    def _look_at_link(self) -> None:
        now = time.monotonic()
        self._hurt = self._o.buffers + 1 if self._losses else max(0, self._hurt - 1)
        if not self._hurt and now - self._link_at < LINK_S:
            return
        self._link_at = now
        frames = self._count.next + (self._waiting is not None)
        lost = packets_lost(self._stream, frames, self._count.vanished, self._session.packets)
        self._link.packets_lost = max(self._link.packets_lost, self._link_before.packets_lost + lost)
        self._link.packets_resent = self._link_before.packets_resent + self._stream.count("n_resent_packets")

    # ------------------------------------------------------------ what is delivered

    def _deliver(self, pool: Pool, deadline: float) -> Frame | None:
        assert self._waiting is not None
        popped, anew = self._waiting
        form = self._format
        slot = pool.take(form.height, form.width, max(0.0, deadline - time.monotonic()))
        if slot is None:
            return None
        self._waiting = None
        np.copyto(slot.pixels, self._image(popped))
        chunk = self._chunk(popped)
        self._stream.push(popped.handle)
        frame = self._frame(popped, slot.pixels, anew, chunk)
        frame.on_release = slot.release
        return frame

    def _image(self, popped: Popped) -> NDArray[np.uint8]:
        row = self._stream.rows[popped.handle]
        if self._session.chunks is None:
            image: NDArray[np.uint8] = self._images[row]
            return image
        form, start = self._format, self._stream.image_at(popped.handle)
        flat: NDArray[np.uint8] = self._session.memory[row, start : start + form.width * form.height]
        return flat.reshape(form.height, form.width)

    def _chunk(self, popped: Popped) -> int | None:
        """The encoder's value; None if this frame came without: then lines are counted on from the last one."""
        if self._session.chunks is None:
            return None
        try:
            return self._session.chunks.integer(popped.handle, self._o.encoder.chunk)
        except Refused as error:
            if not self._chunk_missed:
                log.warning(
                    "camera %s: frames come without %s: %s",
                    self._name,
                    self._o.encoder.chunk,
                    error,
                    extra=as_kind(LogKind.ENCODER_MISSING, camera=self._name),
                )
            self._chunk_missed = True
            return None

    def _frame(self, popped: Popped, pixels: NDArray[np.uint8], anew: bool, chunk: int | None) -> Frame:
        if anew:
            self._odometer.opened()
            self._times.restart()
            self._piece += 1
        sequence = self._count.good()
        exposed_ns, camera_ns, within_ns = self._times.of(popped)
        # Not when it arrived: a busy host sees a frame late, and after an outage that would be strip.
        taken_ns = exposed_ns - popped.unix_ns + popped.monotonic_ns
        place = self._odometer.place(sequence, taken_ns / 1e9, chunk)
        return Frame(
            camera=self._name,
            sequence=sequence,
            exposed_ns=exposed_ns,
            monotonic_ns=popped.monotonic_ns,
            encoder_count=place.encoder_count,
            pixels=pixels,
            piece=self._piece,
            camera_ns=camera_ns,
            uncertainty_ns=within_ns,
            counts_per_line=place.counts_per_line,
            after=Reason.RESET if anew else None,
        )


def check(options: Options) -> None:
    """Do the options agree with each other? Nothing is opened.

    Raises:
        ConfigError: they do not.
    """
    check_pixels("gige", options)
    if re.fullmatch(r"[\d.]+", options.address) and not _aravis.is_ip(options.address) and "." in options.address:
        raise ConfigError(f"gige: address: {options.address} is no IP address, like 192.168.1.20")


def open(name: str, options: Options) -> GigeCamera:
    """A GigE Vision camera. It is not asked for before it is entered.

    Raises:
        ConfigError: as `check`.
    """
    check(options)
    return GigeCamera(name, options)


def discover(timeout_s: float) -> list[Found]:
    """Cameras that answer a broadcast on every network card. The library waits for a second, whatever `timeout_s` is.

    A camera in another subnet than the card is listed too, but cannot be opened before its address is changed.
    """
    return [
        Found("gige", entry.address, entry.vendor, entry.model, entry.serial, options={"address": entry.address})
        for entry in _aravis.discover()
    ]
