"""The `video` camera: a live stream (RTSP, HTTP), or a video file that is played at its own pace as if it were one.

For network cameras without GigE Vision, and to try a line with moving pictures. A file that is to be looked at frame
by frame, each accounted for, is a case for `replay`; a line-scan camera speaks GigE Vision or GenTL, not this.

- A stream has no frame numbers: frames are counted by its time stamps. A hole in them is MISSING (FAILED where the
  decoder refused something), stamps that jump are a RESET, and a stream without stamps shows no holes.
- What cannot be seen through OpenCV: pictures that the decoder patched up (over UDP, packets that were lost), what
  the camera left out before it stamped the frame, and a picture's size that changes while the stream is open: OpenCV
  scales it to the first one's.
- `exposed_ns` is when the frame came, freed of the network's jitter by its stamp. What the camera took to encode and
  send it, often 0.1-1 s, is in it and unknown: so `uncertainty_ns` is always None.
- Colour becomes grey by luma, exactly the channel when all three are equal. No rotation is applied.
- FFmpeg is kept quiet and told the transport, but what the environment says goes first (OPENCV_FFMPEG_LOGLEVEL,
  OPENCV_FFMPEG_DEBUG, OPENCV_LOG_LEVEL, OPENCV_FFMPEG_CAPTURE_OPTIONS).
- A file is read as fast as the line takes it, but not faster than its pace; no frame of it is skipped.

OpenCV 5 on FFmpeg 8, measured: the time-outs can be set for each open, the GIL is free in all calls, and a read
time-out ends the decoder, so that the stream must be opened again. While a process opens one stream, others wait.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self, cast

import cv2
import msgspec

from inspector.adapters import masked
from inspector.cameras import Link, _ffmpeg, _stream
from inspector.cameras._odometer import Odometer
from inspector.cameras._shots import printable
from inspector.cameras._stamps import Stamps, Times
from inspector.cameras._video import Crop, Options, check
from inspector.errors import CameraError
from inspector.events import Reason
from inspector.pool import Pool
from inspector.records import Frame, Loss, Pixels

__all__ = ["Crop", "Options", "VideoCamera", "check", "open"]

ASK_S = 2.0
"""Longest that a server may take to say whether it is there; opening it may take `open_timeout_s` on top."""
QUEUE_S = 2.0
"""Longest wait until other cameras are opened."""
ATTEMPTS = 300
"""Packets in a row that may be undecodable, as behind a stream's start, until its first whole picture."""


@dataclass(slots=True)
class _Grabbed:
    """A decoded frame on its way out; times in ns on the host's monotonic clock."""

    sequence: int
    view: Pixels
    ready_ns: int
    """When it came, or when the file's pace says that it comes."""
    exposed_ns: int
    taken_ns: int
    """For the odometer."""
    camera_ns: int | None
    after: Reason | None


class VideoCamera:
    """Reads a stream or a file; the protocol is in inspector/cameras/__init__.py.

    `read` waits for a frame of a stream up to `read_timeout_s`, whatever its own time-out: OpenCV cannot be asked
    whether one is there. A file starts over at every enter, and the strip goes on.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.ended = False
        self.link = Link()
        self._name = name
        self._o = options
        self._shown = masked(options.url) if options.url is not None else printable(str(options.path))
        self._capture: cv2.VideoCapture | None = None
        self._times = Times()
        self._odometer: Odometer | None = None
        self._size: tuple[int, int] | None = None
        """(height, width) of the frames that the odometer counts."""
        self._strip_end = options.encoder.first_count
        """Encoder count behind the last frame."""

    def __enter__(self) -> Self:
        self._capture = self._opened()
        self._stamps = Stamps(self._o.frame_rate_hz, self._capture.get(cv2.CAP_PROP_FPS))
        self._times.opened()
        self._picture: Pixels | None = None
        """Memory of the newest picture, BGR [height, width, 3]."""
        self._grabbed: _Grabbed | None = None
        self._losses: deque[Loss] = deque()
        self._sequence = self._piece = self._failed = 0
        self._start_ns: int | None = None
        """Where a file's stamp 0 lies on the host's monotonic clock."""
        self._last_stamp: int | None = None
        self.ended = False
        if self._odometer is not None:
            self._odometer.opened()
        if self._o.pace == "free":  # no time passes between two openings
            self._odometer = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        capture, self._capture, self._grabbed = self._capture, None, None
        if capture is not None:
            capture.release()

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        """The next frame or loss; see inspector/cameras/__init__.py.

        Raises:
            CameraError: the camera is not open, the stream ended or fell silent, or the crop does not fit the picture.
        """
        if self._capture is None:
            raise CameraError(f"camera {self._name}: read before it was opened; enter it first")
        deadline_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        if self._grabbed is None and not self._losses and not self.ended:
            self.ended = not self._grab(self._capture)
        if self._losses:
            return self._losses.popleft()
        if self._grabbed is None or not _wait(self._grabbed.ready_ns, deadline_ns):
            return None
        return self._deliver(self._grabbed, pool, deadline_ns)

    # ------------------------------------------------------------ opening

    def _opened(self) -> cv2.VideoCapture:
        if self._o.url is None:
            opened = self._capture_of(str(self._o.path))
            return opened or self._give_up("cannot be opened as a video; put it back, or store it as FFV1 in .avi")
        knocks = _stream.knocks_first(self._o.url)
        status = self._ask(self._o.url) if knocks else None
        opened = self._capture_of(self._o.url)
        if opened is None:
            status = status if knocks else self._ask(self._o.url)
            self._give_up(_stream.explained(status, self._o.url))
        return opened

    def _ask(self, url: str) -> int | None:
        try:
            return _stream.ask(url, min(ASK_S, self._o.open_timeout_s))
        except _stream.Unreachable as error:
            self._give_up(str(error))

    def _capture_of(self, source: str) -> cv2.VideoCapture | None:
        o = self._o
        try:
            return _ffmpeg.capture(
                source,
                transport=o.transport,
                open_s=o.open_timeout_s,
                read_s=o.read_timeout_s,
                threads=o.decoder_threads,
                queue_s=QUEUE_S,
            )
        except _ffmpeg.Busy:
            self._give_up("other cameras are being opened; it is tried again")

    def _give_up(self, why: str) -> NoReturn:
        raise CameraError(f"camera {self._name}: {self._shown}: {why}") from None

    # ------------------------------------------------------------ what comes next

    def _grab(self, capture: cv2.VideoCapture) -> bool:
        """Decode the next frame and see what is missing before it. False at the end of a file."""
        began = time.monotonic_ns()
        for _ in range(ATTEMPTS):
            picture = self._decode(capture)
            if picture is not None:
                self._take(picture, began, _ffmpeg.stamp_ns(capture))
                return True
            self._failed += 1
            if self._o.path is None and time.monotonic_ns() - began > 0.9e9 * self._o.read_timeout_s:
                self._give_up(f"no frame for {self._o.read_timeout_s:g} s (read_timeout_s); look at camera and network")
        if not self._sequence:
            self._give_up("holds no picture that can be decoded; look at it with another player")
        if self._o.path is None:
            self._give_up("the stream ended, or the connection broke; look at camera and network")
        return False

    def _decode(self, capture: cv2.VideoCapture) -> Pixels | None:
        """The next picture, BGR [height, width, 3], in memory that is used again; None where there is none."""
        with suppress(cv2.error):
            if capture.grab():
                whole, picture = capture.retrieve(self._picture)
                if whole:
                    self._picture = cast(Pixels, picture)
                    return self._picture
        return None

    def _take(self, picture: Pixels, began_ns: int, stamp_ns: int) -> None:
        arrived_ns = time.monotonic_ns()
        view = self._o.crop.of(picture)
        self._measure(view, picture)
        stamp = None if stamp_ns == self._last_stamp else stamp_ns
        self._last_stamp = stamp_ns
        missing = self._stamps.missing(stamp_ns, None if self._o.url is None else arrived_ns)
        if missing is None:
            self._begin_anew()
        self._book(self._failed if missing is None or stamp is None else missing)
        exposed_ns, taken_ns = self._when(stamp, began_ns, arrived_ns)
        ready_ns = arrived_ns if self._o.url is not None else exposed_ns
        after = Reason.RESET if missing is None else None
        self._grabbed = _Grabbed(self._sequence, view, ready_ns, exposed_ns, taken_ns, stamp, after)
        self._sequence += 1

    def _measure(self, view: Pixels, picture: Pixels) -> None:
        """The frame's size, which a stream may change while it is not open."""
        size, crop, (height, width) = view.shape[:2], self._o.crop, picture.shape[:2]
        if not view.size or crop.height_px not in (None, size[0]) or crop.width_px not in (None, size[1]):
            self._give_up(f"crop: reaches beyond the picture, which has {width} x {height} px; mend it")
        if self._odometer is None or self._size is None or size[0] != self._size[0]:
            period_ns = self._stamps.period_ns
            encoder = msgspec.structs.replace(self._o.encoder, first_count=self._strip_end)
            self._odometer = Odometer(encoder, size[0], None if period_ns is None else period_ns / 1e9)
        self._size = size

    def _begin_anew(self) -> None:
        """The stream's clock was set: its stamps say nothing of the strip before."""
        self._piece += 1
        self._times.began_anew()
        self._start_ns = None
        if self._odometer is not None:
            self._odometer.opened()

    def _book(self, missing: int) -> None:
        """Frames that are missing before the next one. What came undecodable before the first is no loss.

        The decoder may throw away several packets for each that it refuses, so the whole hole is put down to it.
        """
        refused, self._failed = self._failed > 0, 0
        if not self._sequence or not missing:
            return
        if refused:
            self._lose(missing, Reason.FAILED, "the decoder refused them; look at the network and the camera")
        else:
            self._lose(missing, Reason.MISSING, "a hole in the stream's time stamps")

    def _lose(self, count: int, reason: Reason, detail: str) -> None:
        self._losses.append(Loss(self._name, self._sequence, count, reason, detail))
        self._sequence += count

    def _when(self, stamp_ns: int | None, began_ns: int, arrived_ns: int) -> tuple[int, int]:
        """(exposure, the time for the odometer), on the host's monotonic clock. A file is exposed when it is due."""
        if self._o.url is not None:
            fresh = arrived_ns - began_ns > (self._stamps.period_ns or 0) / 4
            return self._times.of(stamp_ns, arrived_ns, fresh=fresh)
        if self._o.pace == "free":
            return arrived_ns, arrived_ns
        if stamp_ns is None:
            stamp_ns = round(self._sequence * (self._stamps.period_ns or 0))
        if self._start_ns is None:
            self._start_ns = arrived_ns - stamp_ns
        return self._start_ns + stamp_ns, self._start_ns + stamp_ns

    # ------------------------------------------------------------ what goes out

    def _deliver(self, grabbed: _Grabbed, pool: Pool, deadline_ns: int) -> Frame | None:
        height, width = grabbed.view.shape[:2]
        slot = pool.take(height, width, max(0, deadline_ns - time.monotonic_ns()) / 1e9)
        if slot is None or self._odometer is None:
            return None
        cv2.cvtColor(grabbed.view, cv2.COLOR_BGR2GRAY, dst=slot.pixels)
        place = self._odometer.place(grabbed.sequence, grabbed.taken_ns / 1e9)
        self._strip_end = place.encoder_count + round(height * self._o.encoder.counts_per_line)
        self._grabbed = None
        return Frame(
            camera=self._name,
            sequence=grabbed.sequence,
            exposed_ns=grabbed.exposed_ns + time.time_ns() - time.monotonic_ns(),
            monotonic_ns=grabbed.ready_ns,
            encoder_count=place.encoder_count,
            pixels=slot.pixels,
            piece=self._piece,
            camera_ns=grabbed.camera_ns,
            after=grabbed.after,
            on_release=slot.release,
        )


def _wait(until_ns: int, deadline_ns: int) -> bool:
    """Wait until then, but not beyond the deadline; is it time now?"""
    left_ns = min(until_ns, deadline_ns) - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
    return time.monotonic_ns() >= until_ns


def open(name: str, options: Options) -> VideoCamera:
    """A video camera. Nothing is opened before it is entered.

    Raises:
        ConfigError: as `check`.
    """
    check(options)
    _ffmpeg.quiet()
    return VideoCamera(name, options)
