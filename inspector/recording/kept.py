"""What lies around severe defects and losses: pieces of the window under a second name, which outlives the first.

A piece is linked when it is begun, so that a kill loses nothing of it, and nothing is written twice.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from inspector.cameras._index import FILES, FLAT_FIELD
from inspector.logbook import LogKind, as_kind
from inspector.recording.window import Segment, remove, size_of

log = logging.getLogger(__name__)

SHARE = 4
"""One kept recording holds at most this part of all: then the next mark begins another, and the oldest can go."""


@dataclass(slots=True, frozen=True)
class Mark:
    """Something to keep."""

    camera: str
    at_ns: int
    """Exposure, Unix ns."""
    why: str


@dataclass(slots=True, eq=False)
class Keep:
    """A kept recording."""

    folder: Path
    mark: Mark = Mark("", 0, "")
    """The first one that it was begun for."""
    from_ns: int = 0
    until_ns: int = 0
    """Exposures between the two belong to it."""
    segments: list[Segment] = field(default_factory=list)
    size: int = 0
    """Bytes that an earlier run left."""
    done: bool = True
    """Nothing more comes to it, unless another mark lies near."""

    @property
    def bytes(self) -> int:
        return self.size + sum(segment.bytes for segment in list(self.segments))


class Kept:
    """The kept recordings on disk; for the writing thread, but for `bytes`. Methods raise OSError.

    Args:
        folder: that holds them.
        most_bytes: of all.
        before_ns, after_ns: kept around a mark.
        on_kept: told (folder, mark) of a new one.
        on_deleted: called for one that made room.
    """

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        before_ns: int,
        after_ns: int,
        on_kept: Callable[[Path, Mark], None],
        on_deleted: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._before_ns = before_ns
        self._after_ns = after_ns
        self._on_kept = on_kept
        self._on_deleted = on_deleted
        self._all: list[Keep] = []
        self._active: dict[str, list[Keep]] = {}
        """Camera -> those that pieces may still come to."""

    @property
    def bytes(self) -> int:
        """Of all; a piece that two share counts twice. From any thread."""
        return sum(keep.bytes for keep in list(self._all))

    def take_over(self) -> None:
        """What is on disk, of this run and of earlier ones, by the time in its name."""
        known = {keep.folder: keep for keep in self._all}
        found = sorted(folder for folder in self._folder.glob("*") if folder.is_dir())
        self._all = [known.get(folder) or Keep(folder, size=size_of(folder)) for folder in found]
        self.trim()

    def mark(self, mark: Mark, segments: Sequence[Segment]) -> None:
        """Keep what is around it: of `segments`, the camera's, and of those to come."""
        from_ns, until_ns = mark.at_ns - self._before_ns, mark.at_ns + self._after_ns
        keep = self._near(mark.camera, from_ns, until_ns)
        if keep is None:
            keep = Keep(self._name(mark), mark, from_ns, until_ns)
            # The newest may still be shared with a mark to come; of those before, only what is not complete matters.
            before = [other for other in self._active.get(mark.camera, []) if not other.done]
            self._active[mark.camera] = [*before, keep]
        keep.from_ns, keep.until_ns, keep.done = min(keep.from_ns, from_ns), max(keep.until_ns, until_ns), False
        for segment in segments:
            self.grown(segment)

    def _near(self, camera: str, from_ns: int, until_ns: int) -> Keep | None:
        for keep in self._active.get(camera, []):
            if from_ns <= keep.until_ns and until_ns >= keep.from_ns and keep.bytes * SHARE <= self._most_bytes:
                return keep
        return None

    def grown(self, segment: Segment) -> None:
        """A piece has another frame: does it belong to what is kept now?"""
        if segment.first_ns is None or segment.last_ns is None:
            return
        for keep in self._active.get(segment.camera, []):
            if segment.first_ns > keep.until_ns:
                keep.done = True
            elif segment.last_ns >= keep.from_ns and segment not in keep.segments:
                self._link(segment, keep)

    def _link(self, segment: Segment, keep: Keep) -> None:
        new = not keep.segments
        target = keep.folder / segment.folder.name
        target.mkdir(parents=new, exist_ok=True)
        for name in (*FILES, FLAT_FIELD):
            with suppress(FileExistsError):
                source = segment.folder / name
                if name in FILES or source.exists():
                    os.link(source, target / name)
        keep.segments.append(segment)
        if new:
            self._all.append(keep)
            self._on_kept(keep.folder, keep.mark)
        self.trim()

    def finish(self) -> None:
        """Nothing more comes."""
        for keep in self._all:
            keep.done = True
        self.trim()

    def trim(self) -> None:
        """Delete the oldest until the rest fits; what is being kept now stays."""
        left = self.bytes
        for keep in list(self._all):
            if left <= self._most_bytes:
                break
            if keep.done:
                left -= keep.bytes
                self._all.remove(keep)
                self._active = {name: [k for k in keeps if k is not keep] for name, keeps in self._active.items()}
                remove(keep.folder)
                log.warning(
                    "recording: %s was deleted to make room for others (recording.keep_gb)",
                    keep.folder,
                    extra=as_kind(LogKind.RECORDING_DELETED),
                )
                self._on_deleted()

    def _name(self, mark: Mark) -> Path:
        at = datetime.fromtimestamp(mark.at_ns / 1e9, UTC)
        stem = f"{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03}Z-{mark.camera}-{mark.why}"
        places = (self._folder / (stem if number == 1 else f"{stem}-{number}") for number in itertools.count(1))
        return next(place for place in places if not place.exists())
