"""What is watched while a `gige` camera streams: its clock, its silence, and the packets on the way."""

from __future__ import annotations

import time
from contextlib import suppress

from inspector.cameras import _gvcp
from inspector.cameras._aravis import Device, Refused
from inspector.cameras._aravis_stream import Popped, Stream
from inspector.cameras._clock import CameraClock, without_clock
from inspector.cameras._gige_session import Session

LATCH_S = 1.0
"""How often the camera's clock is read."""
SLOW_NS = 5_000_000
"""A reading that took longer than this says less than the last one with its drift."""
AT_FIRST = 5
"""Readings of the clock when the camera is opened, of which the best counts."""
LATCH_GRAIN_NS = 1000
"""The driver notes the arrival of a packet in whole microseconds."""

SILENT_S = 1.0
PERIODS = 8
"""A camera that runs by itself is dead after this silence: seconds or frame periods, whichever is longer."""
UNKNOWN_S = 5.0
"""The same before anything is known of its period."""
ASK_S = 0.5
"""A silent camera is asked so often whether it is there; so many questions without an answer are its death."""
QUESTIONS = 2


class Latch:
    """Reads the camera's clock between two readings of the host's.

    By the registers that every GigE Vision camera with a clock has; `works` is False for one that has none.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._ticks_hz = 0
        self.works = False
        with suppress(Refused):
            self._ticks_hz = int.from_bytes(device.read_memory(_gvcp.TICK_FREQUENCY, 8), "big")
            self.works = self._ticks_hz > 0 and self.read()[0] > 0

    def read(self) -> tuple[int, int, int]:
        """(camera's clock, Unix time before, Unix time after), nanoseconds.

        Raises:
            Refused: the camera does not answer; that takes 3 s.
        """
        before = time.time_ns()
        self._device.write_register(_gvcp.TIMESTAMP_CONTROL, _gvcp.LATCH)
        after = time.time_ns()
        ticks = int.from_bytes(self._device.read_memory(_gvcp.TIMESTAMP, 8), "big")
        return ticks * 1_000_000_000 // self._ticks_hz, before, after


class ExposureTimes:
    """When frames were exposed. `device` is None for a camera whose clock is not read."""

    def __init__(self, device: Device | None) -> None:
        self._clock = CameraClock()
        self._last_ns = 0
        self._latched_at = time.monotonic()
        self._latch = Latch(device) if device is not None else None
        if self._latch is None or not self._latch.works:
            self._latch = None
            return
        with suppress(Refused):
            readings = [self._latch.read() for _ in range(AT_FIRST)]
            self._clock.latched(*min(readings, key=lambda reading: reading[2] - reading[1]))

    def restart(self) -> None:
        """The camera began anew."""
        self._clock.restart()

    def of(self, popped: Popped) -> tuple[int, int | None, int | None]:
        """(exposure in Unix ns, on the camera's clock, right within so many ns). The last two may be unknown."""
        camera_ns = popped.timestamp_ns
        # The leader comes when the first row was taken, at the soonest; often the host sees it much before the rest.
        arrived_ns = min(popped.system_ns + LATCH_GRAIN_NS, popped.unix_ns) if popped.system_ns else popped.unix_ns
        if not popped.has_camera_time:
            exposed_ns, within = without_clock(arrived_ns, 0)
            return exposed_ns, None, within
        if camera_ns < self._last_ns:  # the clock was set back
            self._clock.restart()
        self._last_ns = camera_ns
        self._read()
        exposed_ns, within = self._clock.exposed(camera_ns, arrived_ns)
        return exposed_ns, camera_ns, within

    def _read(self) -> None:
        if self._latch is None or time.monotonic() - self._latched_at < LATCH_S:
            return
        self._latched_at = time.monotonic()
        with suppress(Refused):  # if the camera is dead its silence will tell
            camera_ns, before, after = self._latch.read()
            if after - before < SLOW_NS:
                self._clock.latched(camera_ns, before, after)


class Silence:
    """Tells a camera that has nothing to say from a dead one. Time counts only while somebody waits for a frame."""

    def __init__(self, session: Session, frame_timeout_s: float | None) -> None:
        self._line = session.line
        self._stream = session.stream
        self._free_running = not session.format.triggered
        self._limit_s = frame_timeout_s
        self._packets = 0
        self.broken()

    def broken(self) -> None:
        """A frame came."""
        self._silent_s = 0.0
        self._asked_at = 0.0
        self._questions = 0

    def went_on(self, seconds: float, frame_s: float | None) -> str | None:
        """Nothing came for so many seconds more: what is wrong, if the camera is dead, and what to do.

        Args:
            frame_s: how long a frame takes, as far as known.
        """
        packets = self._stream.count("n_received_packets")
        if packets != self._packets:  # a long frame is on its way
            self._packets = packets
            self.broken()
        self._silent_s += seconds
        return self._asked() or self._too_long(frame_s)

    def _too_long(self, frame_s: float | None) -> str | None:
        limit_s = self._limit_s
        if limit_s is None and self._free_running:
            limit_s = UNKNOWN_S if frame_s is None else max(SILENT_S, PERIODS * frame_s)
        if limit_s is None or self._silent_s < limit_s:
            return None
        if self._packets:
            return f"no frame for {limit_s:g} s (frame_timeout_s); look at its cable, its power and its trigger"
        return (
            f"not one packet for {limit_s:g} s; look for a firewall, for a switch that does not take packets of this "
            "size (packet_size: 1500), and at the trigger"
        )

    def _asked(self) -> str | None:
        if self._line is None:
            return None
        privilege = self._line.answer() if self._questions else None
        if privilege is not None:
            self._questions = 0
            if not privilege & _gvcp.CONTROLLED:
                return "it knows nothing of us any more: it was restarted, or the link was down"
        if self._silent_s - self._asked_at >= ASK_S:
            if self._questions >= QUESTIONS:
                return "it does not answer; look at its cable and its power"
            self._asked_at = self._silent_s
            self._questions += 1
            self._line.ask(_gvcp.PRIVILEGE)
        return None


def packets_lost(stream: Stream, frames: int, vanished: int, packets: int) -> int:
    """How many packets of the frames so far never came: rather too few than too many, by those of the next frame.

    Those that should have come less those that came; what the driver counts is every packet of a bad frame from the
    first hole on, so it bounds it from above.

    Args:
        frames: issued so far.
        vanished: those of them of which no packet came.
        packets: in one frame.
    """
    came = stream.count("n_received_packets") - stream.count("n_duplicated_packets")
    most = stream.count("n_missing_packets") + packets * vanished
    return max(0, min(frames * packets - came, most))
