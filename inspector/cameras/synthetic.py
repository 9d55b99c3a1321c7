"""The `synthetic` camera: a line-scan camera over a synthetic strip, with its encoder, its ring buffer and its faults.

It ships: demos, benchmarks and drills run on it, and it is the simplest example of a camera. The strip is a
pure function of the options (see inspector.steel), so the same options give the same pixels, and `truths()` tells
what the line should have found. Frames are numbered on the strip by `position`, from the first opening on; what a
frame shows, its exposure time and its encoder count follow from the position alone.
"""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Annotated, Literal, Protocol, Self

import msgspec
from msgspec import Meta

from inspector.cameras import Link
from inspector.cameras._drills import Leg, Lost, Path, check_motion
from inspector.errors import CameraError, ConfigError
from inspector.events import Reason
from inspector.pool import Pool
from inspector.records import Frame, Loss
from inspector.steel import Blemish, Edges, Look, Strip
from inspector.steel import check as check_strip
from inspector.steel.reel import Bands, Reel

AtLeast0 = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]

RATES_PER_M = {1: 0.06, 2: 0.02, 3: 0.2, 4: 0.04}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a synthetic camera."""

    seed: AtLeast0 = 1
    """Chooses the strip: its look, its edges and all its blemishes."""
    width_px: Annotated[int, Meta(ge=16, le=32_768)] = 1600
    """Pixels across the lane."""
    height_px: Annotated[int, Meta(ge=8, le=16_384)] = 256
    """Lines in one frame."""
    line_rate_hz: Positive = 20_000.0
    """Lines a second; with `mm_per_line` it gives the strip's speed. 20 kHz at 0.5 mm is 10 m/s."""
    pace: Literal["line_rate", "free"] = "line_rate"
    """`line_rate`: frames come by the clock and overrun if they are not read; `free`: as fast as they are read."""
    ring_frames: Annotated[int, Meta(ge=1)] = 16
    """Frames that the camera's own buffer holds for a late reader; older ones are lost to an overrun."""
    length_m: Annotated[float, Meta(ge=0)] = 0.0
    """Length of the strip in metres; the last frame is whole. 0: as long as `frames` says."""
    frames: AtLeast0 = 0
    """Length of the strip in frames. 0: as long as `length_m` says; both 0: endless."""
    mm_per_line: Positive = 0.5
    """Strip travel in one line, millimetres. Only `length_m` and the rates a metre use it."""
    counts_per_line: Annotated[int, Meta(ge=1)] = 1
    """Encoder counts in one line."""
    first_encoder_count: int = 0
    """Encoder count at the strip's first line."""
    rates_per_m: dict[int, Annotated[float, Meta(ge=0)]] = msgspec.field(default_factory=lambda: dict(RATES_PER_M))
    """Defects in a metre of strip, by class 1 to 4; a class that is left out does not occur."""
    pseudo_per_m: Annotated[float, Meta(ge=0)] = 0.3
    """Pseudo-defects (paint, stamps, stains, scale, drips) in a metre of strip."""
    weld: bool = True
    """One weld seam on the strip."""
    edges: Edges = "any"
    """Strip edges in the lane: both, left, right, none, or any (the seed chooses)."""
    look: Look = "any"
    """Finish: smooth, grainy, ribbed, scaled, dark, chequer (tread plate), or any (the seed chooses a plain one)."""
    defective_share: Share | None = None
    """Share of frames that hold a defect, exact in every 100 frames; then the rates only weigh the classes, and no
    defect crosses frames. Left out: the rates alone decide."""
    prepared_frames: AtLeast0 = 0
    """Paint this many frames when the camera is first opened and serve them round and round, at several thousand
    frames a second and frames x height x width bytes of memory. 0: paint each frame when it is read."""
    die_at_frame: AtLeast0 | None = None
    """Drill: the camera dies when it should deliver this frame of the strip (0-based)."""
    die_times: Annotated[int, Meta(ge=1)] = 1
    """Drill: failures in all: the first is the death at `die_at_frame`, each further one a refused opening."""
    skip_frames: list[AtLeast0] = []
    """Drill: frames of the strip that vanish without a word and leave holes in the sequence."""
    hang_at_frame: AtLeast0 | None = None
    """Drill: from this frame on nothing comes, as from a dead link, until the camera is opened again."""
    motion: list[Leg] = []
    """Drill: the strip slows down, stands, runs back, or its encoder jumps. Lines come at the line rate all the same
    and the encoder measures the strip in each frame, but for jumps alone. Not with `prepared_frames`."""
    lost: list[Lost] = []
    """Drill: frames of the strip that do not arrive whole, or not in time."""
    reset_at_frame: AtLeast0 | None = None
    """Drill: the camera begins to count anew at this frame of the strip, while it is open."""


class Clock(Protocol):
    """Time as the camera sees it; a test gives its own and never sleeps."""

    def unix_ns(self) -> int: ...

    def monotonic_ns(self) -> int: ...

    def wait(self, seconds: float) -> None: ...


class HostClock:
    """The host's own clocks."""

    def unix_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class SyntheticCamera:
    """A camera over a synthetic strip; the protocol is in inspector/cameras/__init__.py.

    `clock` is the host's unless a test gives its own.
    """

    def __init__(self, name: str, options: Options, clock: Clock | None = None) -> None:
        self.ended = False
        self.link = Link()
        self.position = 0
        """The next frame of the strip to deliver."""
        self._name = name
        self._o = options
        self._clock: Clock = clock if clock is not None else HostClock()
        self._length = _length(options)
        self._reel = _reel(options, self._length)
        self._skipped = frozenset(options.skip_frames)
        self._path = Path(options.motion, options.height_px)
        self._started: tuple[int, int] | None = None
        self._opened_at = 0
        self._failures_left = options.die_times if options.die_at_frame is not None else 0
        self._hang_left = options.hang_at_frame is not None
        self._open = False

    def truths(self, first_frame: int, end_frame: int) -> list[Blemish]:
        """True defects that begin in the frames [first_frame, end_frame) of the strip.

        Their lines count from the strip's first line: line = (encoder count - first_encoder_count) / counts_per_line.
        They can be asked for before the camera is opened and after it is closed.
        """
        end = end_frame if self._length is None else min(end_frame, self._length)
        return self._reel.truths(first_frame, end)

    def __enter__(self) -> Self:
        if self._died:
            self._failures_left -= 1
            raise CameraError(f"camera {self._name}: refuses to open (drill die_times); try again later")
        self._reel.prepare()
        if self._started is None:
            self._started = self._clock.unix_ns(), self._clock.monotonic_ns()
        elif self._o.pace == "line_rate":
            self.position = max(self.position, math.ceil(self._elapsed_ns() / self._frame_ns))
        self._opened_at = self.position
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hangs:
            self._hang_left = False
        self._open = False

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        """The next frame, or what overran; see inspector/cameras/__init__.py.

        Raises:
            CameraError: the camera is not open, or the drill `die_at_frame` says that it dies.
        """
        if not self._open:
            raise CameraError(f"camera {self._name}: read before it was opened; enter it first")
        deadline = self._clock.monotonic_ns() + round(timeout_s * 1e9)
        self._pass_skipped()
        if self.ended:
            return None
        self._maybe_die()
        if self._hangs:
            self._wait_until(deadline)
            return None
        if not self._wait_until(min(deadline, self._due_ns())):
            return None
        return self._overrun() or self._lose() or self._deliver(pool, deadline)

    # ------------------------------------------------------------ time

    @property
    def _frame_ns(self) -> float:
        return self._o.height_px * 1e9 / self._o.line_rate_hz

    def _elapsed_ns(self) -> int:
        assert self._started is not None
        return self._clock.monotonic_ns() - self._started[1]

    def _exposed_after_ns(self, position: int) -> int:
        """Exposure of row 0, nanoseconds after the strip's first line."""
        return round(position * self._frame_ns)

    def _due_ns(self) -> int:
        """When the next frame is whole, on the monotonic clock; 0 when the pace is free."""
        if self._o.pace == "free" or self._started is None:
            return 0
        return self._started[1] + self._exposed_after_ns(self.position + 1)

    def _wait_until(self, when_ns: int) -> bool:
        """Wait once, at most until `when_ns`; is the next frame whole by then?"""
        left = when_ns - self._clock.monotonic_ns()
        if left > 0:
            self._clock.wait(left / 1e9)
        return self._clock.monotonic_ns() >= self._due_ns()

    # ------------------------------------------------------------ frames

    def _pass_skipped(self) -> None:
        while self.position in self._skipped:
            self.position += 1
        self.ended = self._length is not None and self.position >= self._length

    def _overrun(self) -> Loss | None:
        """The frames that no longer fit the ring, if any; they are passed over."""
        if self._o.pace == "free":
            return None
        whole = int(self._elapsed_ns() / self._frame_ns)
        if self._length is not None:
            whole = min(whole, self._length)
        late = whole - self.position - self._o.ring_frames
        if late <= 0:
            return None
        loss = Loss(self._name, self.position - self._opened_at, late, Reason.OVERRUN, "the reader was late")
        self.position += late
        return loss

    def _lose(self) -> Loss | None:
        """The frames that the drill `lost` says do not arrive from here on, if any."""
        lost = next((one for one in self._o.lost if one.covers(self.position)), None)
        if lost is None:
            return None
        count = lost.at_frame + lost.count - self.position
        if self._length is not None:
            count = min(count, self._length - self.position)
        loss = Loss(self._name, self.position - self._opened_at, count, lost.why, "drill `lost`")
        self.link.packets_lost += count if lost.why is Reason.PACKETS else 0
        self.position += count
        return loss

    def _deliver(self, pool: Pool, deadline: int) -> Frame | None:
        o = self._o
        slot = pool.take(o.height_px, o.width_px, max(0.0, (deadline - self._clock.monotonic_ns()) / 1e9))
        if slot is None or self._started is None:
            return None
        position, self.position = self.position, self.position + 1
        path, reset = self._path, o.reset_at_frame
        if path.measured:
            self._reel.fill_lines(path.rows(position), slot.pixels)
        else:
            self._reel.fill(position, slot.pixels)
        return Frame(
            camera=self._name,
            sequence=position - self._opened_at,
            exposed_ns=self._started[0] + self._exposed_after_ns(position),
            monotonic_ns=self._clock.monotonic_ns(),
            encoder_count=o.first_encoder_count + round(path.line(position) * o.counts_per_line) + path.off(position),
            pixels=slot.pixels,
            piece=int(reset is not None and position >= reset),
            counts_per_line=path.rate(position) * o.counts_per_line if path.measured else None,
            after=Reason.RESET if position == reset else None,
            on_release=slot.release,
        )

    # ------------------------------------------------------------ drills

    @property
    def _died(self) -> bool:
        return 0 < self._failures_left < self._o.die_times

    @property
    def _hangs(self) -> bool:
        hang_at = self._o.hang_at_frame
        return self._hang_left and hang_at is not None and self.position >= hang_at

    def _maybe_die(self) -> None:
        die_at = self._o.die_at_frame
        if die_at is not None and self._failures_left == self._o.die_times and self.position >= die_at:
            self._failures_left -= 1
            self._open = False
            raise CameraError(f"camera {self._name}: dead at frame {self.position} (drill die_at_frame)")


def _length(options: Options) -> int | None:
    """Frames of the strip, or None for an endless one; the shorter of `frames` and `length_m` holds."""
    lengths = [options.frames] if options.frames else []
    if options.length_m:
        lengths.append(math.ceil(options.length_m * 1000 / (options.mm_per_line * options.height_px)))
    return min(lengths, default=None)


def _reel(o: Options, frames: int | None) -> Reel:
    """The strip that the options describe, not painted yet."""
    per_1000 = o.mm_per_line  # 1,000 lines are this many metres

    def paint(lines: int, bands: Bands | None) -> Strip:
        rates = {number: rate * per_1000 for number, rate in o.rates_per_m.items()}
        pseudo = o.pseudo_per_m * per_1000
        return Strip(
            o.seed, o.width_px, lines, rates, pseudo_rate=pseudo, look=o.look, edges=o.edges, weld=o.weld, bands=bands
        )

    return Reel(
        paint,
        seed=o.seed,
        height_px=o.height_px,
        frames=frames,
        prepared_frames=o.prepared_frames,
        defective_share=o.defective_share,
    )


def check(options: Options) -> None:
    """Do the options agree with each other? Nothing is painted.

    Raises:
        ConfigError: they do not.
    """
    check_motion(options.motion, options.height_px, _length(options))
    if options.motion and options.prepared_frames:
        raise ConfigError("synthetic: motion: needs every line of the strip; leave `prepared_frames` out")
    share = options.defective_share
    if options.prepared_frames == 1 and share is not None and 0 < share < 1:
        raise ConfigError("synthetic: prepared_frames: 1 cannot be both clean and defective: take 2")
    bands = [(0, options.height_px)] if share else None
    check_strip(options.width_px, options.height_px, options.rates_per_m, options.pseudo_per_m, bands)


def open(name: str, options: Options) -> SyntheticCamera:
    """A synthetic camera. Nothing is painted before it is entered.

    Raises:
        ConfigError: as `check`.
    """
    check(options)
    return SyntheticCamera(name, options)
