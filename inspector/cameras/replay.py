"""The `replay` camera: pictures, videos and raw recordings as a strip, without losing a frame.

- A folder gives its pictures (JPEG, PNG, BMP, TIFF and what else the decoder knows; grey or colour), videos and
  recordings in natural order of their names. What a picture is, its content says, whatever its suffix; a file without
  one is played if it begins like a JPEG, PNG, BMP or TIFF. Folders in it are not searched. What is passed over is
  told, but for hidden files.
- Each file is a separate piece of strip unless `contiguous` is set; a video or a TIFF of many pages is one piece.
- A frame's source is the file's name, with `#page2` (TIFF), `#17` (frame of a video) or `#256` (first line, where
  `frame_lines` cuts) behind it where the file holds several; a recording gives the sources that were recorded.
- What cannot be read is lost as UNREADABLE with its source and a word on how to mend it, and never stops the rest.
  A video that ends before the number of frames in its header loses the rest, and the last one with it: it may be
  torn. Not noticed: bits that flipped inside a JPEG, and a video's own concealment of damage.
- Pixels are rows as stored: an EXIF orientation is not applied. Colour becomes grey by luma, exactly the channel when
  all three are equal. Pictures of more than 8 bits are refused, because a wrong scale would look like clean strip.
- Encoder counts run on over all pieces. A picture whose height is not known counts as high as the next good one.
  A recording keeps its own counts, moved on behind what was played before it.
- Recordings that follow one another in one run of a camera are one strip. Where the camera died, this one dies too and
  goes on when it is opened again: so the line behind it does what it did when it was recorded.
- Nothing depends on when it is played: the same files give the same frames, but for `monotonic_ns`.

The raw format is in _index.py, the Recorder that writes it in _recording.py.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Annotated, NoReturn, Self

import msgspec
from msgspec import Meta

from inspector.cameras import Link, _play, _recorded, _sources
from inspector.cameras._instep import InStep
from inspector.cameras._recording import Recorder
from inspector.cameras._shots import Died, Down, Missed, Shot, Stamp, Unreadable, Up, printable
from inspector.cameras._sources import Kind, Reel
from inspector.config import AtLeast1, Positive
from inspector.errors import CameraError
from inspector.pool import Pool, Slot
from inspector.records import Frame, Loss

__all__ = ["InStep", "Options", "Recorder", "ReplayCamera", "check", "open", "told"]

log = logging.getLogger(__name__)

TOLD = 5
"""So many names of what is passed over are told."""

Item = Shot | Missed | Up | Down


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a replay camera."""

    sources: Annotated[list[Path], Meta(min_length=1)]
    """Folders, pictures, videos or recordings, played in this order. In a YAML relative to its folder."""
    contiguous: bool = False
    """The files show one strip without a break: defects are joined across them."""
    repeat: Annotated[int, Meta(ge=0)] = 1
    """How often all of it is played; 0: for ever."""
    frame_lines: AtLeast1 | None = None
    """Cut pictures and videos that are higher into frames of this many lines; left out: never. Not for recordings."""
    counts_per_line: Positive = 1.0
    """Encoder counts in one line. Not for recordings."""
    first_encoder_count: int = 0
    """Encoder count at the first line. Not for recordings."""
    start_ns: int | None = None
    """Exposure of the first line, nanoseconds since the Unix epoch; the others follow at `line_rate_hz`.
    Left out: pictures and videos were exposed when their file was last changed. Not for recordings."""
    line_rate_hz: Positive = 20_000.0
    """Lines a second, for exposure times alone: replay goes as fast as it is read."""


class ReplayCamera:
    """Plays files as a camera; the protocol is in inspector/cameras/__init__.py.

    Every enter starts over, but after a recorded death. `read` waits for a free slot of the pool and, where cameras
    are played `in_step`, for the others.
    """

    in_step: InStep | None = None

    def __init__(self, name: str, options: Options, reels: list[Reel], passed_over: list[str]) -> None:
        self.ended = False
        self.link = Link()
        self.passed_over = passed_over
        """Names in the folders that are neither pictures nor videos nor recordings, as _sources.py gives them."""
        self._name = name
        self._o = options
        self._reels = reels
        self._issues = [_play.count(reel) for reel in reels]
        self._shots: Generator[Item, None, None] | None = None
        self._waiting: Item | None = None
        self._died = False
        self._rewind()

    @property
    def total_frames(self) -> int | None:
        """Frames to be issued, lost ones too, as far as known; None: for ever.

        It is corrected while a file turns out to hold more (pages of a TIFF, cuts by `frame_lines`).
        """
        return sum(self._issues) * self._o.repeat if self._o.repeat else None

    def __enter__(self) -> Self:
        for path in self._o.sources:
            try:
                path.stat()
            except OSError as error:
                shown = printable(str(path))
                raise CameraError(f"camera {self._name}: {shown}: {error.strerror}. Put it back") from None
        if self._died:  # it was opened again when it was recorded too: its numbers start over, the strip goes on
            self._died, self._sequence = False, 0
        else:
            self._rewind()
            self._shots = self._play_all()
        self._look()
        if isinstance(self._waiting, Down):
            self._die(self._waiting)
        if isinstance(self._waiting, Up):
            self._waiting = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._died and not self.ended:
            return  # it goes on behind its death
        shots, self._shots, self._waiting = self._shots, None, None
        if shots is not None:
            shots.close()
        if self.in_step is not None:
            self.in_step.leave(self._name)

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        """The next frame or loss; see inspector/cameras/__init__.py.

        Raises:
            CameraError: the camera is not open, or died when it was recorded.
        """
        if self._shots is None or self._died:
            raise CameraError(f"camera {self._name}: read before it was opened; enter it first")
        self._look()
        if not self._my_turn(timeout_s):
            return None
        if isinstance(self._waiting, Shot):
            return self._deliver(self._waiting, pool, timeout_s)
        if isinstance(self._waiting, Down):
            self._die(self._waiting)
        item, self._waiting = self._waiting, None
        if isinstance(item, Missed):
            return self._lose(item)
        self.ended = self.ended or item is None
        return None

    def _look(self) -> None:
        """See what comes next, if that is not known yet."""
        if self._waiting is None and self._shots is not None:
            self._waiting = next(self._shots, None)

    def _my_turn(self, timeout_s: float) -> bool:
        if self.in_step is None:
            return True
        if self._waiting is None:
            self.in_step.leave(self._name)
        elif self._waiting.came_ns is not None:
            return self.in_step.wait(self._name, self._waiting.came_ns, timeout_s)
        return True

    def _die(self, down: Down) -> NoReturn:
        """Raises Died. A camera that was never opened again has ended with it."""
        self._died, self._waiting = True, None
        self._look()
        self.ended = self._waiting is None
        raise Died(down.detail)

    # ------------------------------------------------------------ what comes next

    def _rewind(self) -> None:
        self.ended = False
        self._waiting = None
        self._sequence = 0
        self._issued = 0
        """Frames before the next one since the sources began, lost ones too."""
        self._piece = -1
        self._breaks = True
        self._lines = 0
        """Lines of strip before the next frame."""
        self._unmeasured = 0
        """Missed frames of unknown height that are not in `_lines` yet."""
        self._origin = (self._o.first_encoder_count, 0)
        """An encoder count, and which line it is of."""
        self._shift: int | None = None
        """What is added to the counts of the recording that is played; None before its first frame. Never to the first
        recording's: lost frames at its beginning do not move it."""

    def _play_all(self) -> Generator[Item, None, None]:
        for _ in range(self._o.repeat) if self._o.repeat else itertools.count():
            before = self._issued
            for number in range(len(self._reels)):
                yield from self._play(number)
            if self._issued == before:
                return  # a round of nothing, for instance of empty recordings, would go on for ever

    def _play(self, number: int) -> Generator[Item, None, None]:
        issued, self._shift = 0, None if self._issued else 0
        self._breaks = self._breaks or not self._o.contiguous
        with closing(_play.shots(self._reels[number], self._o.frame_lines)) as shots:
            for shot in shots:
                issued += shot.count if isinstance(shot, Missed) else isinstance(shot, Shot)
                self._issues[number] = max(issued, self._issues[number])
                yield shot
        self._issues[number] = issued

    # ------------------------------------------------------------ frames and losses

    def _deliver(self, shot: Shot, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        slot = pool.take(shot.height, shot.width, timeout_s)
        if slot is None:
            return None
        self._waiting = None
        try:
            shot.fill(slot.pixels)
        except Unreadable as error:
            slot.release()
            return self._lose(Missed(shot.source, str(error), lines=shot.height, breaks=shot.breaks))
        except BaseException:
            slot.release()
            raise
        return self._frame(shot, slot)

    def _frame(self, shot: Shot, slot: Slot) -> Frame:
        self._lines += self._unmeasured * shot.height
        self._unmeasured = 0
        if self._breaks or shot.breaks:
            self._piece += 1
            self._breaks = False
        stamp = shot.stamp or Stamp(0)
        frame = Frame(
            camera=self._name,
            sequence=self._sequence,
            exposed_ns=self._exposed_ns(shot),
            monotonic_ns=time.monotonic_ns(),
            encoder_count=self._encoder_count(shot),
            pixels=slot.pixels,
            source=shot.source,
            piece=self._piece,
            camera_ns=stamp.camera_ns,
            uncertainty_ns=stamp.uncertainty_ns,
            counts_per_line=stamp.counts_per_line,
            overlap_lines=stamp.overlap_lines,
            after=stamp.after,
            on_release=slot.release,
        )
        self._sequence += 1
        self._issued += 1
        self._lines += shot.height
        return frame

    def _lose(self, missed: Missed) -> Loss:
        loss = Loss(self._name, self._sequence, missed.count, missed.reason, missed.detail, missed.source)
        self._sequence += missed.count
        self._issued += missed.count
        self._breaks = self._breaks or missed.breaks
        if missed.lines is None:
            self._unmeasured += missed.count
        else:
            self._lines += missed.lines
        return loss

    def _encoder_count(self, shot: Shot) -> int:
        count, line = self._origin
        here = count + int((self._lines - line) * self._o.counts_per_line)
        if shot.encoder_count is None:
            return here
        if self._shift is None:
            self._shift = max(0, here - shot.encoder_count)
        self._origin = shot.encoder_count + self._shift, self._lines
        return self._origin[0]

    def _exposed_ns(self, shot: Shot) -> int:
        if shot.encoder_count is not None:
            return shot.exposed_ns
        if self._o.start_ns is None:
            return shot.exposed_ns + round(shot.row * 1e9 / self._o.line_rate_hz)
        return self._o.start_ns + round(self._lines * 1e9 / self._o.line_rate_hz)


def check(options: Options) -> None:
    """Are all sources there, with something in them to play? Nothing is decoded.

    Raises:
        ConfigError: one is missing, may not be read, is of no known kind, or is an empty folder.
    """
    _listed(options)


def open(name: str, options: Options) -> ReplayCamera:
    """A replay camera. The folders are listed here, once; what comes into them later is not played.

    Raises:
        ConfigError: as `check`.
    """
    camera = ReplayCamera(name, options, *_listed(options))
    if camera.passed_over:
        log.info("camera %s: %s", name, told(camera.passed_over))
    return camera


def told(passed_over: Sequence[str]) -> str:
    """What is passed over, for people: the first few names, and how many there are."""
    names = ", ".join([*passed_over[:TOLD], *(["..."] if len(passed_over) > TOLD else [])])
    count = "1 entry is" if len(passed_over) == 1 else f"{len(passed_over):,} entries are"
    return f"passed over: {names} ({count} no picture, video or recording)"


def _listed(options: Options) -> tuple[list[Reel], list[str]]:
    reels: list[Reel] = []
    passed_over: list[str] = []
    for path in options.sources:
        found, others = _sources.reels(path)
        reels += found
        passed_over += others
    return _spliced(reels), passed_over


def _spliced(reels: list[Reel]) -> list[Reel]:
    """Recordings that follow one another on one strip become one reel."""
    found: list[Reel] = []
    for recorded, group in itertools.groupby(reels, key=lambda reel: reel.kind is Kind.RECORDING):
        if not recorded:
            found += group
            continue
        for parts in _recorded.strips([reel.path for reel in group]):
            found.append(Reel(Kind.RECORDING, parts[0], printable(parts[0].name), tuple(parts)))
    return found
