"""A camera -> frames: numbers that never repeat, losses booked at once, and a camera that comes back by itself.

A camera counts its frames from 0 whenever it is opened; here the count is carried on, so that a sequence names one
frame of the run. Success promises that a frame is in the channel or in the books, not that it is inspected.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from inspector.cameras import Camera, Link
from inspector.errors import CameraError
from inspector.events import Reason
from inspector.ledger import Ledger
from inspector.logbook import LogKind, as_kind
from inspector.metrics import CameraMetrics
from inspector.overlap import Overlap
from inspector.pool import Pool
from inspector.records import Frame, Loss

log = logging.getLogger(__name__)


class Tap(Protocol):
    """Somebody who wants to see what a camera gave, as it gave it: before flat-field and overlap.

    Called in the capture thread, so it must neither wait nor fail; the frame's pixels are only lent.
    """

    def frame(self, frame: Frame) -> None: ...

    def loss(self, loss: Loss) -> None: ...

    def state(self, state: str, detail: str) -> None:
        """The camera is `up` or `down`."""


READ_S = 0.25
"""Longest wait for a frame before the loop looks round."""
SAY_S = 1.0
"""Between two lines in the log about lost frames."""
BACK_OFF_S = 1.0
"""Between attempts to open a camera; never more than one attempt a second."""
CAUSES = 8
"""So many different reasons why it is down go to the log until it is up again."""


class Unsaid:
    """Lost frames that the log does not have yet; any thread may add."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[Reason, int] = {}
        self._at = 0.0

    def add(self, reason: Reason, count: int) -> None:
        with self._lock:
            self._counts[reason] = self._counts.get(reason, 0) + count

    def due(self, at_once: bool = False) -> dict[Reason, int]:
        """What is to be said now, once every SAY_S at most unless `at_once`; it counts as said then."""
        if not self._counts or (not at_once and self._clock() < self._at):
            return {}
        with self._lock:
            counts, self._counts = self._counts, {}
        self._at = self._clock() + SAY_S
        return counts


class Capture:
    """One camera's source of frames; owned by one thread."""

    def __init__(
        self,
        name: str,
        camera: Camera,
        pool: Pool,
        ledger: Ledger,
        stop: threading.Event,
        metrics: CameraMetrics,
        on_state: Callable[[str, str, str], None],
        clock: Callable[[], float] = time.monotonic,
        silent_s: float | None = None,
        taps: Sequence[Tap] = (),
        overlap: Overlap | None = None,
    ) -> None:
        self.name = name
        self.encoder_count: int | None = None
        """Of the newest frame."""
        self.trouble = ""
        """Why it is down, by the newest attempt to open it; empty while it is up."""
        self._causes: set[str] = set()
        """Why it is down, as far as the log has it."""
        self._camera = camera
        self._pool = pool
        self._ledger = ledger
        self._stop = stop
        self._metrics = metrics
        self._on_state = on_state
        self._clock = clock
        self._open = False
        self._up: bool | None = None
        self._base = 0
        self._next = 0
        self._opened = -1
        self._try_at = 0.0
        self._silent_s = silent_s
        self._heard_at = 0.0
        self._taps = taps
        self._overlap = overlap
        self._slots = pool if overlap is None else overlap.pool(pool)
        self._told = Link()
        self._unsaid = Unsaid(clock)
        self._behind = Unsaid(clock)

    @property
    def ended(self) -> bool:
        """Nothing more will come: the strip ended or the line was told to stop."""
        return self._stop.is_set() or self._camera.ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._say_losses(at_once=True)
        try:
            self._close()
        except CameraError as failure:  # every frame it gave is in the line: no reason to fail what drains
            log.warning(
                "camera %s could not be closed: %s",
                self.name,
                self._why(failure),
                extra=as_kind(LogKind.CAMERA_NOT_CLOSED, camera=self.name, reason=self._why(failure)),
            )

    def work(self) -> Iterator[Frame]:
        """At most one frame; waits for it READ_S seconds at most."""
        try:
            if not self._open and not self._reopen():
                return
            got = self._camera.read(self._slots, READ_S)
            self._watch_silence(got is not None)
        except CameraError as error:
            self._fail(error)
            return
        finally:
            self._show_link()
            self._say_losses()
        if isinstance(got, Frame):
            yield self._number(got)
        elif got is not None:
            self._lose(replace(got, camera=self.name, sequence=self._base + got.sequence))

    def _watch_silence(self, heard: bool) -> None:
        """A dead link gives no error, only nothing. A full pool is ours, not the camera's silence."""
        now = self._clock()
        if heard or self._camera.ended or self._pool.in_use >= self._pool.slots:
            self._heard_at = now
        elif self._silent_s is not None and now - self._heard_at > self._silent_s:
            raise CameraError(
                f"camera {self.name}: no frame for {self._silent_s:g} s (silent_s); look at link and trigger"
            )

    def _show_link(self) -> None:
        """What the driver counted since the last look, as metrics."""
        link, told = self._camera.link, self._told
        if link.packets_lost != told.packets_lost:
            self._metrics.packets_lost.inc(link.packets_lost - told.packets_lost)
            told.packets_lost = link.packets_lost
        if link.packets_resent != told.packets_resent:
            self._metrics.packets_resent.inc(link.packets_resent - told.packets_resent)
            told.packets_resent = link.packets_resent

    def _number(self, frame: Frame) -> Frame:
        frame.camera = self.name
        frame.sequence += self._base
        if frame.sequence > self._next:
            hole = frame.sequence - self._next
            self._lose(Loss(self.name, self._next, hole, Reason.MISSING, "the camera skipped these frame numbers"))
        frame.piece += self._opened << 32  # pieces of strip never run on over a reopened camera
        self._next = frame.sequence + 1
        self.encoder_count = frame.encoder_count
        self._ledger.issue(self.name, self._next)
        self._metrics.captured.inc()
        if frame.uncertainty_ns is not None:
            self._metrics.clock_within(frame.uncertainty_ns / 1e9)
        for tap in self._taps:
            tap.frame(frame)
        if self._overlap is not None:
            self._overlap.add(frame)
        return frame

    def _lose(self, loss: Loss) -> None:
        self._next = max(self._next, loss.sequence + loss.count)
        self._ledger.lose(loss)
        for tap in self._taps:
            tap.loss(loss)
        self._unsaid.add(loss.reason, loss.count)
        self._say_losses(loss.detail)

    def dropped(self) -> None:
        """The line was behind and dropped a frame of this camera; from any thread. The log has it a little later."""
        self._behind.add(Reason.OVERLOAD, 1)

    def _say_losses(self, detail: str = "", at_once: bool = False) -> None:
        """One line of each sort a second at most, however many frames are lost."""
        if unsaid := self._unsaid.due(at_once):
            lost = ", ".join(f"{count} {reason}" for reason, count in unsaid.items())
            log.warning(
                "camera %s lost frames: %s; %s",
                self.name,
                lost,
                detail or "since the last such line",
                extra=as_kind(
                    LogKind.FRAMES_LOST, camera=self.name, reason=" ".join(unsaid), count=sum(unsaid.values())
                ),
            )
        if behind := self._behind.due(at_once):
            count = sum(behind.values())
            log.warning(
                "camera %s: the line is behind; frames dropped since the last such line: %d",
                self.name,
                count,
                extra=as_kind(LogKind.LINE_BEHIND, camera=self.name, count=count),
            )

    def _reopen(self) -> bool:
        wait_s = self._try_at - self._clock()
        if wait_s > 0 and self._stop.wait(min(wait_s, READ_S)):
            return False
        if self._clock() < self._try_at:
            return False
        self._try_at = self._clock() + BACK_OFF_S
        self._camera.__enter__()
        self._open = True
        self._heard_at = self._clock()
        self._opened += 1
        self._base = self._next
        self._say(True, "")
        return True

    def _fail(self, error: CameraError) -> None:
        ran = self._open  # then it was opened more than a second ago, or `_try_at` says when that will be
        with suppress(CameraError):  # a dead camera may refuse even to be let go
            self._close()
        if error.at_once:
            self._try_at = 0.0
        elif not ran:
            self._try_at = max(self._try_at, self._clock() + BACK_OFF_S)
        self._say(False, self._why(error))

    def _why(self, error: CameraError) -> str:
        """What it says, without the camera's name: the reader has that already."""
        return str(error).removeprefix(f"camera {self.name}: ")

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._camera.__exit__(None, None, None)

    def _say(self, up: bool, detail: str) -> None:
        """One line and one event a change, however often it fails; another line when it fails for another reason."""
        self.trouble = detail
        if up is self._up:
            if detail not in self._causes and len(self._causes) < CAUSES:
                self._causes.add(detail)
                log.warning(
                    "camera %s is still down: %s",
                    self.name,
                    detail,
                    extra=as_kind(LogKind.CAMERA_STILL_DOWN, camera=self.name, reason=detail),
                )
            return
        self._causes = {detail}
        first, self._up = self._up is None, up
        self._metrics.up.set(up)
        if up and not first:
            self._metrics.reopens.inc()
        if not up:
            log.error(
                "camera %s is down: %s; trying again every %.0f s",
                self.name,
                detail,
                BACK_OFF_S,
                extra=as_kind(LogKind.CAMERA_DOWN, camera=self.name, reason=detail),
            )
        elif not first:
            log.warning("camera %s is back", self.name, extra=as_kind(LogKind.CAMERA_BACK, camera=self.name))
        for tap in self._taps:
            tap.state("up" if up else "down", detail)
        self._on_state(self.name, "up" if up else "down", detail)
