"""Cameras, the queue before the disk, and one recording for each camera."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from inspector import adapters, pack
from inspector.cameras import Camera
from inspector.cameras._recording import Recorder
from inspector.capture import Capture
from inspector.config import CameraConfig, Config
from inspector.errors import ConfigError, SinkError
from inspector.ledger import Ledger
from inspector.metrics import Metrics
from inspector.pool import Pool
from inspector.publish import Serve
from inspector.recording.heading import Heading
from inspector.recording.intake import Change, Intake, Item, Known, Skipped
from inspector.records import Frame, Loss
from inspector.worker import Crew, Worker

TICK_S = 0.2
QUEUE_FRAMES = 256
"""Frames of all cameras that wait for the disk at most, in memory."""
JOIN_S = 30.0


@dataclass(slots=True)
class LaneState:
    """One camera, as far as it has been recorded."""

    frames: int = 0
    bytes: int = 0
    frame_bytes: int = 0
    lost: int = 0
    unrecorded: int = 0
    down: str | None = "not opened yet"
    """Why the camera gives nothing; None: it is up."""
    lines: int = 0
    recorder: Recorder | None = field(default=None, repr=False)

    def full(self, most: int | None) -> bool:
        return most is not None and self.frames >= most


class Session:
    """Cameras, the queue before the disk, and one recording for each camera; one thread writes."""

    def __init__(
        self, config: Config, cameras: Sequence[CameraConfig], folder: Path, frames: int | None = None
    ) -> None:
        """`frames`: of each camera; None: until it is stopped. Raises ConfigError."""
        names = [camera.name for camera in cameras]
        self.frames = frames
        self.lanes = {name: LaneState() for name in names}
        self.stop = threading.Event()
        self.failure: SinkError | None = None
        self.ledger = Ledger(names)
        self._written = threading.Event()
        self._intake = Intake(QUEUE_FRAMES, self._skipped)
        self._held = ExitStack()
        heading = Heading(config, cameras, *_pack(config))
        made = [_camera(camera, config) for camera in cameras]
        for name in names:
            self.lanes[name].recorder = self._held.enter_context(
                Recorder(folder / name, name, heading.header(name, 0), heading.flat_fields[name])
            )
        metrics = Metrics(process=False)
        captures = [
            Capture(
                camera.name,
                source,
                Pool(4),
                self.ledger,
                self.stop,
                metrics.camera(camera.name),
                self._state,
                silent_s=camera.silent_s,
                taps=[self._intake.tap(camera.name)],
            )
            for camera, source in zip(cameras, made, strict=True)
        ]
        workers = [Worker(f"capture-{capture.name}", _Released(capture, self._intake)) for capture in captures]
        self.crew = Crew(workers, stop_sources=self.stop.set)
        self._writer = Worker("record", Serve("record", self._write_all, self._written))

    def start(self) -> None:
        self._writer.start()
        self.crew.start()

    def close(self) -> None:
        """Stop the cameras, write what waits."""
        self.stop.set()
        self.crew.join(JOIN_S)
        self._written.set()
        self._writer.join(JOIN_S)
        self._held.close()

    @property
    def trouble(self) -> str:
        """What ended it before its time, in words; empty: nothing."""
        if self.failure is not None:
            return str(self.failure)
        failures = [(w.name, w.failure) for w in (*self.crew.workers, self._writer) if w.failure is not None]
        return "; ".join(f"{name}: {error}" for name, error in failures)

    @property
    def done(self) -> bool:
        """Nothing more will be recorded."""
        return bool(self.trouble) or not self.crew.alive or all(lane.full(self.frames) for lane in self.lanes.values())

    def _state(self, camera: str, state: str, detail: str) -> None:
        self.lanes[camera].down = None if state == "up" else detail

    def _skipped(self, camera: str, frames: int) -> None:
        if not self.lanes[camera].full(self.frames):
            self.lanes[camera].unrecorded += frames

    # ------------------------------------------------------------ the writing thread

    def _write_all(self, written: threading.Event) -> None:
        """Until `written` is set, which happens when the cameras have ended, and nothing waits any more."""
        while (item := self._intake.get(TICK_S)) is not None or not written.is_set():
            if item is not None:
                self._take(item)
        for item in self._intake.rest():
            self._take(item)

    def _take(self, item: Item) -> None:
        try:
            if self.failure is None and not isinstance(item, Known):
                self._write(item)
        except SinkError as error:
            self.failure = error
        finally:
            if isinstance(item, Frame):
                item.release()

    def _write(self, item: Frame | Loss | Change | Skipped) -> None:
        lane = self.lanes[item.camera]
        recorder = lane.recorder
        if recorder is None or lane.full(self.frames):
            return
        if isinstance(item, Frame):
            recorder.frame(item)
            lane.frames += 1
            lane.frame_bytes, lane.lines = item.pixels.size, lane.lines + item.pixels.shape[0]
        elif isinstance(item, Loss):
            recorder.loss(item)
            lane.lost += item.count
        elif isinstance(item, Skipped):
            recorder.write(item.hole)
        else:
            recorder.write(item.said)
        lane.bytes = recorder.bytes


class _Released:
    """A capture whose frames nobody needs but its taps."""

    def __init__(self, capture: Capture, intake: Intake) -> None:
        self._capture = capture
        self._intake = intake

    @property
    def ended(self) -> bool:
        return self._capture.ended

    def __enter__(self) -> Self:
        self._capture.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.__exit__(kind, error, trace)

    def work(self) -> Iterator[None]:
        for frame in self._capture.work():
            self._intake.taken(frame)
            frame.release()
        yield from ()


def _camera(camera: CameraConfig, config: Config) -> Camera:
    where = f"cameras[{config.cameras.index(camera)}]"
    adapter = adapters.module("cameras", camera.kind, where)
    opened: Camera = adapter.open(camera.name, adapters.options(adapter, camera.options, f"{where}.options"))
    return opened


def _pack(config: Config) -> tuple[str, str | None]:
    """Name and digest of the line's pack; a line without one can be recorded all the same."""
    try:
        engines = pack.load(config.pack)
    except ConfigError:
        return "", None
    return f"{engines.manifest.name} {engines.manifest.version}", engines.digest
