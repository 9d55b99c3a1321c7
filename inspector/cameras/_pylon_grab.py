"""A Basler camera that is open and grabs: its results, one by one, into frames and losses."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from inspector.cameras import Link, _pylon
from inspector.cameras._clock import CameraClock, without_clock
from inspector.cameras._genicam import Settings, silent_after_s
from inspector.cameras._odometer import Odometer
from inspector.cameras._pylon_books import Counted, Counters, Numbers, blame
from inspector.errors import CameraError
from inspector.events import Reason
from inspector.pool import Pool
from inspector.records import Frame, Loss, Pixels

LOOK_S = 1.0
"""Between looks at the camera's clock and the driver's counters, and whether the camera is still there."""
NO_PIXELS: Pixels = np.empty((0, 0), dtype=np.uint8)


@dataclass(slots=True, frozen=True)
class Pace:
    """What the camera says of its frames, once it is set up."""

    height: int
    triggered: bool
    """It waits for triggers, so its silence means nothing."""
    lines_ns: int
    """Its lines take so long, ns: a frame cannot be whole sooner; 0: not known."""
    frame_s: float | None
    """From frame to frame, seconds; None: the triggers decide, or it does not say."""

    @classmethod
    def of(cls, nodes: Any) -> Pace:
        height, triggered = int(nodes.GetNode("Height").GetValue()), _pylon.triggered(nodes)
        lines_hz = _pylon.number(nodes, "BslResultingAcquisitionLineRate", "ResultingLineRateAbs", "ResultingLineRate")
        frames_hz = _pylon.number(
            nodes, "BslResultingAcquisitionFrameRate", "ResultingFrameRateAbs", "ResultingFrameRate"
        )
        frame_s = height / lines_hz if lines_hz else 1 / frames_hz if frames_hz else None
        return cls(height, triggered, round(height / lines_hz * 1e9) if lines_hz else 0, None if triggered else frame_s)


@dataclass(slots=True)
class _Got:
    """A good frame that still lies in the driver's buffer; of `frame` only the pixels are missing."""

    result: Any
    frame: Frame


class Grab:
    """A camera that is open and grabs."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        device: Any,
        pace: Pace,
        odometer: Odometer,
        link: Link,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._o = settings
        self._device = device
        self._pace = pace
        self._odometer = odometer
        self._now = clock
        self._losses: deque[Loss] = deque()
        self._waiting: _Got | None = None
        self._numbers = Numbers(gige=bool(device.IsGigE()))
        self._time = CameraClock()
        self._latch = _pylon.Latch.of(device.GetNodeMap())
        self._newest_ns: int | None = None
        self._piece = 0
        odometer.opened()
        _pylon.start(device)
        self._counters = Counters(device.GetStreamGrabberNodeMap(), link)
        self._heard_s = clock()
        self._looked_s = -math.inf

    def close(self) -> None:
        """Give everything back. This object must be forgotten then: pylon keeps files open as long as it lives."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.result.Release()
        _pylon.shut(self._device)

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        """As Camera.read; pylon's errors are not translated yet."""
        deadline = time.monotonic() + timeout_s
        if self._now() - self._looked_s >= LOOK_S:
            self._look_round()
        if self._waiting is None and not self._losses:
            self._fetch(timeout_s)
        if self._losses:
            return self._losses.popleft()
        return self._deliver(pool, max(0.0, deadline - time.monotonic()))

    # ------------------------------------------------------------ from the driver

    def _fetch(self, timeout_s: float) -> None:
        result = _pylon.retrieve(self._device, timeout_s)
        if result is None:
            self._hear_nothing()
            return
        self._heard_s = self._now()
        try:
            frame = self._account(result)
        except BaseException:
            result.Release()
            raise
        if frame is None:
            result.Release()
        else:
            self._waiting = _Got(result, frame)

    def _account(self, result: Any) -> Frame | None:
        """Book what is missing before this result; None if it is bad itself."""
        arrived_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        camera_ns = self._latch.ns(result.GetTimeStamp()) or None
        counted = self._count(result, camera_ns)
        index = counted.index - sum(count for count, _, _ in counted.missing)
        for count, reason, detail in counted.missing:
            self._losses.append(Loss(self._name, index, count, reason, detail))
            index += count
        if counted.restarted:
            self._time.restart()
            self._odometer.opened()
            self._piece += 1
        if not result.GrabSucceeded():
            reason, detail = blame(result.GetErrorCode(), result.GetErrorDescription())
            self._losses.append(Loss(self._name, counted.index, 1, reason, detail))
            return None
        exposed_ns, within_ns = self._exposed(camera_ns, arrived_ns)
        taken_s = (monotonic_ns - (arrived_ns - exposed_ns)) / 1e9
        place = self._odometer.place(counted.index, taken_s, self._chunk(result))
        return Frame(
            camera=self._name,
            sequence=counted.index,
            exposed_ns=exposed_ns,
            monotonic_ns=monotonic_ns,
            encoder_count=place.encoder_count,
            pixels=NO_PIXELS,
            piece=self._piece,
            camera_ns=camera_ns,
            uncertainty_ns=within_ns,
            counts_per_line=place.counts_per_line,
            after=Reason.RESET if counted.restarted else None,
        )

    def _count(self, result: Any, camera_ns: int | None) -> Counted:
        """The result's place among the frames; a camera whose clock went back began anew whatever its ids say."""
        before, self._newest_ns = self._newest_ns, camera_ns
        about = None
        if camera_ns is not None and before is not None and camera_ns < before:
            about = -math.inf
        elif camera_ns is not None and before is not None and self._odometer.frame_s:
            about = (camera_ns - before) / 1e9 / self._odometer.frame_s
        skipped, underruns = result.GetNumberOfSkippedImages(), self._counters.underruns()
        return self._numbers.count(result.GetBlockID(), skipped=skipped, underruns=underruns, about=about)

    def _exposed(self, camera_ns: int | None, arrived_ns: int) -> tuple[int, int | None]:
        if camera_ns is None:
            return without_clock(arrived_ns, self._pace.lines_ns)
        return self._time.exposed(camera_ns, arrived_ns, self._pace.lines_ns)

    def _chunk(self, result: Any) -> int | None:
        if self._o.encoder.source != "chunk" or not result.IsChunkDataAvailable():
            return None
        value = _pylon.number(result.GetChunkDataNodeMap(), self._o.encoder.chunk)
        return None if value is None else int(value)

    # ------------------------------------------------------------ to the pool

    def _deliver(self, pool: Pool, timeout_s: float) -> Frame | None:
        if self._waiting is None:
            return None
        result, frame = self._waiting.result, self._waiting.frame
        slot = pool.take(result.GetHeight(), result.GetWidth(), timeout_s)
        self._heard_s = self._now()  # a late reader is not the camera's silence
        if slot is None:
            return None
        self._waiting = None
        try:
            _copy(result, slot.pixels)
        except BaseException:
            slot.release()
            raise
        finally:
            result.Release()
        frame.pixels, frame.on_release = slot.pixels, slot.release
        return frame

    # ------------------------------------------------------------ is it still there

    def _look_round(self) -> None:
        self._looked_s = self._now()
        if self._device.IsCameraDeviceRemoved():
            raise CameraError(f"camera {self._name}: was pulled, or its link is down")
        self._counters.update()
        if self._now() - self._heard_s >= LOOK_S:
            _pylon.ask(self._device.GetNodeMap())
            return
        with suppress(_pylon.Failed):  # frames come: that it does not tell the time is no reason to open it again
            latched = self._latch.read()
            if latched is not None:
                self._time.latched(*latched)

    def _hear_nothing(self) -> None:
        if not self._device.IsGrabbing():
            raise CameraError(f"camera {self._name}: pylon stopped grabbing")
        limit_s = silent_after_s(self._o, self._odometer.frame_s)
        if self._pace.triggered or self._now() - self._heard_s <= limit_s:
            return
        raise CameraError(
            f"camera {self._name}: no frame for {limit_s:g} s (frame_timeout_s); look at its cable and its power"
        )


def _copy(result: Any, pixels: Pixels) -> None:
    """The one copy. numpy frees the GIL for it; rows may be padded."""
    height, width = pixels.shape
    with result.GetImageMemoryView() as view:
        np.copyto(pixels, np.frombuffer(view, dtype=np.uint8).reshape(height, -1)[:, :width])
