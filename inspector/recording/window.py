"""The rolling window: pieces of a few seconds for each camera, the oldest deleted first."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from inspector.cameras._recording import Recorder
from inspector.errors import SinkError
from inspector.recording.heading import Heading

SHARE = 8
"""A piece holds at most this part of the window, so that a small window has several too."""


@dataclass(slots=True, eq=False)
class Segment:
    """A piece of the window: a recording of one camera."""

    camera: str
    folder: Path
    recorder: Recorder | None = None
    """None once it is closed."""
    opened_ns: int = 0
    """Monotonic clock."""
    first_ns: int | None = None
    last_ns: int | None = None
    """Exposure of its frames, Unix ns; None: it has none, or is of an earlier run."""
    size: int = 0
    """Bytes, once it is closed."""

    @property
    def bytes(self) -> int:
        recorder = self.recorder
        return self.size if recorder is None else recorder.bytes

    def exposed(self, at_ns: int) -> None:
        """A frame was written."""
        self.first_ns = at_ns if self.first_ns is None else min(self.first_ns, at_ns)
        self.last_ns = at_ns if self.last_ns is None else max(self.last_ns, at_ns)

    def close(self) -> None:
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            self.size = recorder.bytes
            recorder.close()


class Window:
    """The pieces on disk; for the writing thread, but for `bytes`.

    Every method raises OSError, SinkError or ConfigError when the disk refuses.
    """

    def __init__(
        self, folder: Path, heading: Heading, cameras: Sequence[str], most_bytes: int, segment_s: float
    ) -> None:
        self._folder = folder
        self._heading = heading
        self._segment_ns = round(segment_s * 1e9)
        self._segment_bytes = max(1, most_bytes // (SHARE * len(cameras)))
        # What is open grows behind the back of `trim`, by one piece of each camera at most.
        self._most_bytes = most_bytes - most_bytes // SHARE
        self._stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        self._parts = dict.fromkeys(cameras, 0)
        self._open: dict[str, Segment] = {}
        self._closed: list[Segment] = []

    @property
    def bytes(self) -> int:
        """Of the whole window; from any thread."""
        return sum(segment.bytes for segment in [*self._closed, *self._open.values()])

    def take_over(self) -> None:
        """What is on disk and not open, of this run and of earlier ones, is the window from now on."""
        mine = {segment.folder for segment in self._open.values()}
        found = [folder for folder in self._folder.glob("*/*") if folder.is_dir() and folder not in mine]
        found.sort(key=lambda folder: folder.stat().st_mtime_ns)
        known = {segment.folder: segment for segment in self._closed}
        self._closed = [known.get(f) or Segment(f.parent.name, f, size=size_of(f)) for f in found]
        self.trim()

    def segments(self, camera: str) -> list[Segment]:
        """Of this camera, the oldest first."""
        found = [segment for segment in self._closed if segment.camera == camera]
        return found + [segment for name, segment in self._open.items() if name == camera]

    def current(self, camera: str, now_ns: int) -> Segment:
        """The piece to write to; a new one where the last one is long enough. `now_ns` is monotonic."""
        segment = self._open.get(camera)
        if segment is not None and (
            now_ns - segment.opened_ns >= self._segment_ns or segment.bytes >= self._segment_bytes
        ):
            self.close(camera)
            self.trim()
            segment = None
        return segment or self._begin(camera, now_ns)

    def _begin(self, camera: str, now_ns: int) -> Segment:
        part = self._parts[camera]
        folder = self._folder / camera / f"{self._stamp}-{self._heading.run}-{part:06}"
        try:
            folder.parent.mkdir(exist_ok=True)  # not what is above it: that may be a disk that was pulled
        except FileNotFoundError:
            raise SinkError(f"{self._folder}: has gone. Put it back") from None
        recorder = Recorder(folder, camera, self._heading.header(camera, part), self._heading.flat_fields[camera])
        self._parts[camera] = part + 1
        self._open[camera] = segment = Segment(camera, folder, recorder, now_ns)
        return segment

    def recorders(self) -> list[Recorder]:
        """Those that are written to now."""
        return [segment.recorder for segment in self._open.values() if segment.recorder is not None]

    def close(self, camera: str, failed: bool = False) -> None:
        """End the camera's piece; one that failed before its first frame, as on a full disk, goes."""
        segment = self._open.pop(camera, None)
        if segment is None:
            return
        empty = segment.recorder is not None and not segment.recorder.frames
        segment.close()
        if empty and failed:
            remove(segment.folder)
        else:
            self._closed.append(segment)

    def close_all(self, failed: bool = False) -> None:
        for camera in list(self._open):
            self.close(camera, failed)

    def trim(self) -> None:
        """Delete the oldest until the rest fits."""
        left = self.bytes
        while left > self._most_bytes and self._closed:
            oldest = self._closed.pop(0)
            left -= oldest.bytes
            remove(oldest.folder)


def remove(folder: Path) -> None:
    """Delete a recording, or what is left of it."""
    shutil.rmtree(folder, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder and below it."""
    return sum(_sizes(folder.rglob("*")))


def _sizes(paths: Iterable[Path]) -> Iterable[int]:
    for path in paths:
        try:
            if path.is_file():
                yield path.stat().st_size
        except OSError:  # it has just gone
            continue
