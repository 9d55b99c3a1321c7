"""The one thread that writes: into the window, and into what is kept; and what it does when the disk refuses."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from inspector.cameras._index import Stood, Told, Unrecorded
from inspector.config import RecordingConfig
from inspector.errors import ConfigError, SinkError
from inspector.logbook import LogKind, as_kind
from inspector.metrics import Metrics
from inspector.recording.heading import Heading
from inspector.recording.intake import Change, Item, Known, Skipped
from inspector.recording.kept import Kept, Mark
from inspector.recording.window import Segment, Window
from inspector.records import Frame, Loss

log = logging.getLogger(__name__)

RETRY_S = 1.0
WARN_S = 60.0
"""A slow disk is told of in the log so often at most; the metric counts every frame."""
PART = "recording"


class Writer:
    """Writes what it is given, item by item. It never raises for the disk's sake: the recording is down then.

    Args:
        section: the settings.
        cameras: names of all.
        heading: what stands at the head of each piece.
        metrics: the line's.
        say: (part, state, detail) becomes a state event.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        section: RecordingConfig,
        cameras: Sequence[str],
        heading: Heading,
        metrics: Metrics,
        say: Callable[[str, str, str], None],
        clock: Callable[[], float],
    ) -> None:
        self.path = section.path
        self.marks: deque[Mark] = deque(maxlen=1000)
        """What is to be kept; any thread may add to it."""
        self._section = section
        self._heading = heading
        self._metrics = metrics
        self._say = say
        self._clock = clock
        window_bytes, keep_bytes = int(section.window_gb * 1e9), int(section.keep_gb * 1e9)
        self._window = Window(self.path / "window", heading, cameras, window_bytes, section.segment_s)
        before_ns, after_ns = round(section.before_s * 1e9), round(section.after_s * 1e9)
        deleted = metrics.recordings_deleted.inc
        self._kept = Kept(self.path / "kept", keep_bytes, before_ns, after_ns, self._told_of, deleted)
        self._holes: dict[str, tuple[int, int]] = {}
        """Camera -> (first, end) of the frames that the disk refused."""
        self._last_ns: dict[str, int] = {}
        """Camera -> exposure of its newest frame."""
        self._device: int | None = None
        self._up = True
        self._try_at = 0.0
        self._look_at = 0.0
        self._warn_at = 0.0
        self._show(cameras)

    def _show(self, names: Sequence[str]) -> None:
        for name in names:
            self._metrics.recorded_frames.labels(name)
            for reason in ("slow", "disk"):
                self._metrics.unrecorded_frames.labels(name, reason)
        self._metrics.recording_bytes.labels("window").set_function(lambda: self._window.bytes)
        self._metrics.recording_bytes.labels("kept").set_function(lambda: self._kept.bytes)
        self._metrics.recording_up.set(1)

    def open(self) -> None:
        """Take over what earlier runs left.

        Raises:
            ConfigError: the folder cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in ("window", "kept"):
                (self.path / name).mkdir(exist_ok=True)
            self._device = self.path.stat().st_dev
            self._try_link()
            self._window.take_over()
            self._kept.take_over()
            self._look_at_room()
        except OSError as error:
            raise ConfigError(
                f"recording.path: {self.path}: {error.strerror}. Name a folder that this user may write, on a disk "
                "with hard links such as ext4 or xfs"
            ) from None

    def _look_at_room(self) -> None:
        most = int((self._section.window_gb + self._section.keep_gb) * 1e9)
        more, free = most - self._window.bytes - self._kept.bytes, shutil.disk_usage(self.path).free
        if more > free:
            log.warning(
                "recording: window_gb and keep_gb ask for %.1f GB more than the disk of %s has left: it will be full",
                (more - free) / 1e9,
                self.path,
                extra=as_kind(LogKind.RECORDING_ROOM),
            )

    def _try_link(self) -> None:
        """Not every file system can: FAT and some shares cannot."""
        first, second = self.path / "window" / ".link", self.path / "kept" / ".link"
        try:
            first.touch()
            second.unlink(missing_ok=True)
            second.hardlink_to(first)
        finally:
            for path in (first, second):
                path.unlink(missing_ok=True)

    def _close(self) -> None:
        self._keep_marked()
        self._window.close_all()
        self._window.trim()
        self._kept.finish()

    def finish(self) -> None:
        """Nothing more comes."""
        self._guard(self._close)

    def fail(self, error: BaseException) -> None:
        """The thread ends with an error that is not the disk's."""
        self._metrics.recording_up.set(0)
        self._say(PART, "down", f"failed: {error!r}; restart the daemon to record again")

    # ------------------------------------------------------------ item by item

    def step(self, item: Item | None) -> None:
        """Write an item, if one came, and look after the rest."""
        try:
            if item is not None:
                self._take(item)
        finally:
            if isinstance(item, Frame):
                item.release()
        if self.marks:
            self._guard(self._keep_marked)
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + RETRY_S
            self._guard(self._look_after)

    def _take(self, item: Item) -> None:
        if isinstance(item, Known):
            self._heading.first, self._heading.coils = item.first, item.coils
            self._guard(lambda: self._note(item.entry))
        elif self._ready():
            if not self._guard(lambda: self._write(item)):
                self._miss(item)
        else:
            self._miss(item)

    def _note(self, entry: Told | Stood | None) -> None:
        if entry is not None:
            for recorder in self._window.recorders():
                recorder.write(entry)

    def _ready(self) -> bool:
        return self._up or self._clock() >= self._try_at

    def _write(self, item: Frame | Loss | Change | Skipped) -> None:
        segment = self._segment(item.camera)
        recorder = segment.recorder
        assert recorder is not None
        if isinstance(item, Frame):
            recorder.frame(item)
            self._last_ns[item.camera] = item.exposed_ns
            self._metrics.recorded_frames.labels(item.camera).inc()
        elif isinstance(item, Loss):
            recorder.loss(item)
        elif isinstance(item, Skipped):
            recorder.write(item.hole)
            self._warn(item)
        else:
            recorder.write(item.said)
        # Not before: a piece that fails at its first frame goes, with the hole in it.
        self._holes.pop(item.camera, None)
        self._turn(True, "")
        self._guard(lambda: self._place(segment))
        if isinstance(item, Change) and item.said.state == "down" and self._section.losses and segment.last_ns:
            self.marks.append(Mark(item.camera, segment.last_ns, "camera_down"))

    def _segment(self, camera: str) -> Segment:
        now_ns = time.monotonic_ns()
        if not self._up:
            self._look_at_disk()
        segment = self._window.current(camera, now_ns)
        hole = self._holes.get(camera)
        if hole is not None and segment.recorder is not None:
            first, end = hole
            line = Unrecorded(sequence=first, count=end - first, reason="disk", monotonic_ns=now_ns)
            segment.recorder.write(line)
        return segment

    def _place(self, segment: Segment) -> None:
        """Where the piece lies in time: what is no frame lies where the frame before it does."""
        last_ns = self._last_ns.get(segment.camera)
        if last_ns is None:
            return
        segment.exposed(last_ns)
        self._kept.grown(segment)

    def _miss(self, item: Frame | Loss | Change | Skipped) -> None:
        """The disk refuses: what goes by is a hole in the recording."""
        if isinstance(item, Change):
            return
        of = item.hole if isinstance(item, Skipped) else item
        count = 1 if isinstance(of, Frame) else of.count
        first, _ = self._holes.get(item.camera, (of.sequence, 0))
        self._holes[item.camera] = first, of.sequence + count
        if isinstance(item, Frame):
            self._metrics.unrecorded_frames.labels(item.camera, "disk").inc()

    def _keep_marked(self) -> None:
        while self.marks:
            mark = self.marks.popleft()
            self._kept.mark(mark, self._window.segments(mark.camera))

    def _told_of(self, folder: Path, mark: Mark) -> None:
        self._metrics.recordings_kept.inc()
        log.info("recording: %s of camera %s is kept in %s", mark.why, mark.camera, folder)
        self._say(PART, "kept", f"{mark.why} of camera {mark.camera}: {folder}")

    # ------------------------------------------------------------ when the disk refuses

    def _guard(self, do: Callable[[], object]) -> bool:
        """Do it; False, and the recording is down, when the disk refused."""
        try:
            do()
        except OSError as error:
            self._turn(False, f"{error.filename or self.path}: {error.strerror}. Make room, or put it back")
            return False
        except (SinkError, ConfigError) as error:
            self._turn(False, str(error))
            return False
        return True

    def _look_after(self) -> None:
        if self._up:
            self._look_at_disk()
            self._kept.trim()

    def _look_at_disk(self) -> None:
        """A folder that has gone takes writes for a long time without a word."""
        for folder in (self.path, self.path / "window", self.path / "kept"):
            if not folder.is_dir():
                raise SinkError(f"{folder}: has gone. Put it back")
        if self.path.stat().st_dev != self._device:
            raise SinkError(f"{self.path}: lies on another disk than before. Mount the right one, or restart")
        for recorder in self._window.recorders():
            if not recorder.folder.is_dir():
                raise SinkError(f"{recorder.folder}: has gone. Leave what is in the window alone")

    def _turn(self, up: bool, detail: str) -> None:
        """One line and one event a change."""
        if not up:
            self._try_at = self._clock() + RETRY_S
            with suppress(OSError):
                self._window.close_all(failed=True)
        if up is self._up:
            return
        self._up = up
        self._metrics.recording_up.set(up)
        if up:
            self._guard(self._take_over)
            log.warning("recording: frames are recorded again", extra=as_kind(LogKind.RECORDING_BACK))
        else:
            log.error(
                "recording: %s; the line goes on, its frames are not recorded",
                detail,
                extra=as_kind(LogKind.RECORDING_DOWN, reason=detail),
            )
        self._say(PART, "up" if up else "down", detail)

    def _take_over(self) -> None:
        self._window.take_over()
        self._kept.take_over()

    def _warn(self, item: Skipped) -> None:
        if self._clock() >= self._warn_at:
            self._warn_at = self._clock() + WARN_S
            log.warning(
                "recording: the disk was too slow for %d frame(s) of camera %s; they are inspected, not recorded",
                item.hole.count,
                item.camera,
                extra=as_kind(LogKind.RECORDING_SLOW, camera=item.camera, count=item.hole.count),
            )
