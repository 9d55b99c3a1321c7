"""From the records of a camera's process to frames and losses: numbers, times and places, and the one copy."""

from __future__ import annotations

import logging
import time
from collections import deque

import numpy as np

from inspector.cameras._clock import CameraClock, without_clock
from inspector.cameras._genicam import Settings, silent_after_s
from inspector.cameras._gentl_losses import LATE, Losses
from inspector.cameras._gentl_process import Process
from inspector.cameras._gentl_words import UNKNOWN, Kind, Ready, Record
from inspector.cameras._odometer import Odometer
from inspector.errors import CameraError
from inspector.events import Reason
from inspector.logbook import LogKind, as_kind
from inspector.pool import Pool
from inspector.records import Frame, Loss

log = logging.getLogger(__name__)

LISTEN_S = 0.5
"""Between looks at what the process prints while frames come."""


class Feed:
    """A camera that is open and streams. Its errors do not name the camera yet.

    Args:
        name: the camera's, for frames and losses.
        settings: of the camera.
        bits: width of its frame ids; None: as the process says.
        process: has said that it is ready.
        ready: what it said.
        odometer: outlives this opening.
    """

    def __init__(
        self, name: str, settings: Settings, bits: int | None, process: Process, ready: Ready, odometer: Odometer
    ) -> None:
        self.process = process
        self._name = name
        self._o = settings
        self._ready = ready
        self._odometer = odometer
        self._missing = Losses(bits or ready.id_bits)
        self._clock: CameraClock | None = CameraClock()
        self._failure: CameraError | None = None
        self._losses: deque[Loss] = deque()
        self._waiting: Frame | None = None
        self._record = Record(Kind.READY)
        """Of the newest frame."""
        self._sequence = self._piece = 0
        self._heard_ns = self._listened_ns = time.monotonic_ns()
        self._chunkless = False
        self._arrived_ns = 0
        """When the newest frame or bad buffer came."""
        odometer.opened()

    def close(self) -> None:
        """Give everything back."""
        self._waiting = None  # it looks into the memory that goes now
        self.process.stop()

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        """As Camera.read."""
        deadline = time.monotonic() + timeout_s
        if self._waiting is None and not self._losses:
            self._fetch(timeout_s)
        if self._losses:
            return self._losses.popleft()
        return self._deliver(pool, max(0.0, deadline - time.monotonic()))

    # ------------------------------------------------------------ from the process

    def _fetch(self, timeout_s: float) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            record = self.process.get(timeout_s)
            if record is None:
                self._hear_nothing()
        except CameraError as failure:
            # What the process let go after its last frame is known too, and is told first.
            self._failure = failure
            self._lose(self._missing.dropped(self.process.ring.dropped), Reason.UNDERRUN, LATE)
            if not self._losses:
                raise
            return
        if record is not None:
            self._account(record)

    def _hear_nothing(self) -> None:
        self.process.look()
        limit_s = silent_after_s(self._o, self._odometer.frame_s)
        silent = time.monotonic_ns() - self._heard_ns > limit_s * 1e9
        if silent and not self._ready.triggered and self.process.beats:  # else it is the process that is silent
            raise CameraError(f"no frame for {limit_s:g} s (frame_timeout_s); look at its cable and its power")

    def _account(self, record: Record) -> None:
        """Book what is missing before a record, and the record itself if it is bad."""
        about, frame_s = None, self._odometer.frame_s
        if self._arrived_ns and frame_s:
            about = (record.arrived_ns - self._arrived_ns) / 1e9 / frame_s
        if record.arrived_ns - self._listened_ns > LISTEN_S * 1e9:
            self._listened_ns = record.arrived_ns
            self.process.listen()
        missing, restarted = self._missing.before(record, about)
        self._heard_ns = self._arrived_ns = record.arrived_ns
        for part in missing:
            self._lose(part.count, part.reason, part.detail)
        if restarted:
            self._begin_anew()
        if record.kind == Kind.FRAME:
            self._waiting = self._frame(record, restarted)
            self._record = record
            self._sequence += 1
        elif record.kind == Kind.BAD:
            reason = Reason.PACKETS if self._ready.link == "GEV" else Reason.FAILED
            self._lose(1, reason, "the producer gave an incomplete buffer")

    def _lose(self, count: int, reason: Reason, detail: str) -> None:
        if count > 0:
            self._losses.append(Loss(self._name, self._sequence, count, reason, detail))
            self._sequence += count

    def _begin_anew(self) -> None:
        self._odometer.opened()
        self._piece += 1
        if self._clock is not None:
            self._clock.restart()
        self._record = Record(Kind.READY)

    def _frame(self, record: Record, restarted: bool) -> Frame:
        exposed_ns, within_ns, camera_ns = self._exposed(record)
        place = self._odometer.place(self._sequence, record.arrived_ns / 1e9, self._encoder_value(record))
        return Frame(
            camera=self._name,
            sequence=self._sequence,
            exposed_ns=exposed_ns,
            monotonic_ns=record.arrived_ns,
            encoder_count=place.encoder_count,
            pixels=self.process.ring.pixels(record),
            piece=self._piece,
            camera_ns=camera_ns,
            uncertainty_ns=within_ns,
            counts_per_line=place.counts_per_line,
            after=Reason.RESET if restarted else None,
        )

    def _encoder_value(self, record: Record) -> int | None:
        encoder = self._o.encoder
        if encoder.source != "chunk":
            return None
        if not record.has_chunk and not self._chunkless:
            log.warning(
                "camera %s: a frame came without %s; lines are counted instead",
                self._name,
                encoder.chunk,
                extra=as_kind(LogKind.ENCODER_MISSING, camera=self._name),
            )
            self._chunkless = True
        return record.chunk if record.has_chunk else None

    def _exposed(self, record: Record) -> tuple[int, int | None, int | None]:
        """Exposure of row 0 in Unix ns, right within so many ns, and on the camera's clock."""
        rate_hz = self._ready.line_rate_hz
        lines_ns = round(record.height / rate_hz * 1e9) if rate_hz else 0
        stamp, before = record.camera_ns, self._record.camera_ns
        if self._clock is not None and UNKNOWN not in (stamp, before) and stamp <= before:
            log.info("camera %s: its time stamps run backwards, so they are not used", self._name)
            self._clock = None
        if self._clock is None or stamp == UNKNOWN:
            return *without_clock(record.arrived_unix_ns, lines_ns), None
        return *self._clock.exposed(stamp, record.arrived_unix_ns, lines_ns), stamp

    # ------------------------------------------------------------ to the pool

    def _deliver(self, pool: Pool, timeout_s: float) -> Frame | None:
        frame = self._waiting
        if frame is None:
            return None
        height, width = frame.pixels.shape
        slot = pool.take(height, width, timeout_s)
        if slot is None:
            self._heard_ns = time.monotonic_ns()  # a late reader is not the camera's silence
            return None
        self._waiting = None
        np.copyto(slot.pixels, frame.pixels)  # numpy frees the GIL for it
        self.process.ring.give_back(self._record.slot)
        frame.pixels, frame.on_release = slot.pixels, slot.release
        return frame


def frame_s(ready: Ready) -> float | None:
    """From frame to frame, seconds, as far as the camera says."""
    if ready.triggered:
        return None
    if ready.line_rate_hz:
        return ready.height / ready.line_rate_hz
    return 1 / ready.frame_rate_hz if ready.frame_rate_hz else None
