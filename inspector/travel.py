"""One camera's way along the strip: what of a frame is new, what was seen before, and what no strip could have run.

A strip may stand, creep and run back. While it runs back, and until it has passed the furthest place again, frames show
strip that was seen before. Counts that lie where no strip could have run to are a jump of the encoder: they are taken
as they are, and told. Nothing here looks at a clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from inspector.records import Frame
from inspector.strip import Geometry

MARGIN = 1.25
"""Times the nominal travel of its lines that a frame can lie from the one before it; farther is a jump."""
STANDS = 0.5
"""A measured frame that shows less than so many lines' strip stands ..."""
RUNS = 2.0
"""... until one shows more than so many: between the two nothing is told, so that a creeping strip does not flap."""
GAPS_KEPT = 64
"""Newest gaps that are remembered: what lies there was never seen, and is told when the strip runs back over it."""


class Motion(StrEnum):
    FORWARD = "forward"
    STANDING = "standing"
    REVERSED = "reversed"


@dataclass(slots=True, frozen=True)
class Span:
    """Where the lines of a frame lie that the frame before does not show."""

    begin: int
    """Encoder count of the first of them."""
    end: int
    """Encoder count behind the last, as far as the frame can tell."""
    lines: int

    @classmethod
    def of(cls, frame: Frame, shared: int, geometry: Geometry) -> Span:
        """`shared`: rows at the top that were graded with the frame before."""
        begin = frame.encoder_count + geometry.counts_of_travel(shared, frame.counts_per_line)
        lines = int(frame.pixels.shape[0]) - shared
        return cls(begin, begin + geometry.counts_of_travel(lines, frame.counts_per_line), lines)


def remeasure(frame: Frame, following: Frame, geometry: Geometry) -> bool:
    """How much strip a frame's lines show, by where the next frame begins: cameras know a speed only afterwards.

    A frame of another piece, or farther off than a strip can run, says nothing, and one behind a hole only that the
    strip stood. Returns whether it is sure now.
    """
    if following.piece != frame.piece or following.after is not None:
        return False
    own = Span.of(frame, frame.overlap_lines, geometry)
    ran = Span.of(following, following.overlap_lines, geometry).begin - own.begin
    if following.sequence > frame.sequence + 1:
        return abs(ran) <= geometry.counts_of_lines(2)
    if abs(ran) > MARGIN * geometry.counts_of_lines(own.lines):
        return False
    frame.counts_per_line = ran / own.lines
    frame.encoder_count = own.begin - geometry.counts_of_travel(frame.overlap_lines, frame.counts_per_line)
    return True


@dataclass(slots=True, frozen=True)
class Step:
    """What a frame's place says; `Travel.take` makes it so."""

    motion: Motion
    turned: bool = False
    """The strip ran back, though it may have come past its furthest place again in this very frame."""
    swung: bool = False
    """It turned once more without having passed that place."""
    gap: tuple[int, int] | None = None
    """Counts between which strip passed that no frame shows."""
    jumped: bool = False
    """The encoder's count lies where the strip cannot have run to."""
    anew: bool = False
    """It jumped back: nothing that was seen before says anything of this strip."""
    parts: bool = False
    """The frame does not go on where the one before ended."""


class Travel:
    """Where one camera is on the strip, and where it was."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._two_lines = geometry.counts_of_lines(2)
        self.motion = Motion.FORWARD
        self.end: int | None = None
        """Encoder count behind the newest frame, or behind what was lost after it; None before the first one."""
        self.begin = 0
        """Encoder count at the newest frame's first line."""
        self.furthest = 0
        """Greatest count that any frame reached, by its own account."""
        self.told_to = 0
        """Where the strip had come to for sure when it last stopped or turned."""
        self.back_to = 0
        """Where it has run back to since then."""
        self._back_sure = 0
        """Likewise, but without what only frames show that may have turned on their way: nobody knows where in them."""
        self._piece = 0
        self._from = 0
        """Where the strip began: what lies before that was never seen."""
        self._passed = 0
        """Greatest count up to which frames go on one from another; a measured frame's end is known from the next."""
        self._sure = 0
        """Greatest count at which a frame began: only then is it sure that the one before did not turn."""
        self._again = range(0)
        """Sequences of the newest frames that show strip before `told_to` once more."""
        self._unsure: dict[int, int] = {}
        """Sequence -> the count up to which the frame may reach, for those of which that is only guessed."""
        self._off = 0
        """By how much the newest frame lay too far: a divider that is set wrong is told once, not with each frame."""
        self._backward = False
        """Whether it ran back in those frames."""
        self._gaps: deque[tuple[int, int]] = deque(maxlen=GAPS_KEPT)

    def start(self, count: int, piece: int) -> None:
        """The strip begins here for this camera, or anew."""
        self.end = self.furthest = self.begin = self._passed = self._sure = count
        self._from, self._piece, self._again = count, piece, range(0)
        self.motion = Motion.FORWARD

    def miss(self, start: int, stop: int) -> None:
        """Strip between two counts was not seen."""
        if stop > start:
            self._gaps.append((start, stop))

    def doubt(self, frame: Frame) -> None:
        """How much strip a frame shows is only guessed: if it may be new strip it is told, rather twice than never."""
        span = Span.of(frame, frame.overlap_lines, self._geometry)
        self._unsure = {one: reach for one, reach in self._unsure.items() if one in self._again}
        self._unsure[frame.sequence] = span.begin + self._geometry.counts_of_lines(span.lines)

    def was_told(self, sequence: int, middle: float) -> bool:
        """Whether what lies at this count was inspected before a frame showed it (again)."""
        told_to = self.told_to + self._geometry.counts_of_lines(1)
        if sequence not in self._again or not self._from <= middle <= told_to:
            return False
        if self._unsure.get(sequence, told_to) > told_to:
            return False
        return not any(start <= middle < stop for start, stop in self._gaps)

    def behind(self, lines: int, frame: Frame, span: Span) -> int:
        """The encoder count behind so many lost lines, before the frame that came next.

        Where that lies farther than they reach, the strip between is another gap: nobody counted it.
        """
        assert self.end is not None
        nominal = self._geometry.counts_of_lines(lines)
        share = MARGIN if frame.counts_per_line is not None else 1.0
        fits = span.begin - self.end <= share * nominal + self._two_lines
        return max(self.end, span.begin) if fits else self.end + nominal

    # ------------------------------------------------------------ frame by frame

    def goes_on(self, frame: Frame, span: Span) -> bool:
        """As `look` and `take` together, for by far the most frames: the next pitch of strip for each line."""
        plain = frame.counts_per_line is None and self.motion is Motion.FORWARD and frame.piece == self._piece
        if not plain or self.end != self._passed or abs(span.begin - self._passed) > self._two_lines:
            return False
        self._off, self.begin, self.end = 0, span.begin, span.end
        self._sure, self._passed = max(self._sure, span.begin), max(self._passed, span.end)
        self.furthest = max(self.furthest, span.end)
        return True

    def look(self, frame: Frame, span: Span, lost: int) -> Step:
        """What a frame's place says, `lost` frames after the one before, and those booked. Changes nothing."""
        assert self.end is not None
        measured, lines = frame.counts_per_line is not None, self._geometry.counts_of_lines
        doubt = lines(max(2, span.lines // 16) if measured else 2)
        goes_on = frame.piece == self._piece and frame.after is None
        ran = goes_on and abs(span.begin - self.begin) <= MARGIN * lines(span.lines * (lost + 1))
        off = span.begin - self.end
        steady = not lost and measured and ran
        joins = not lost and (steady or abs(off) <= self._two_lines)
        if not ran and span.begin < self._passed - doubt:
            return Step(Motion.FORWARD, jumped=True, anew=True, parts=True)
        if not steady and off > self._two_lines:
            gap = max(self.end, self._passed), span.begin
            motion = Motion.FORWARD if gap[0] < gap[1] else self.motion
            jumped = goes_on and abs(off - self._off) > self._two_lines
            return Step(motion, gap=gap, jumped=jumped, parts=True)
        passed = max(self._passed, span.begin)
        turned = min(span.begin, span.end) < passed - doubt and self.motion is not Motion.REVERSED
        if (turned or self.motion is Motion.REVERSED) and span.end <= passed + doubt:
            swung = not turned and abs(span.end - span.begin) > doubt and (span.end < span.begin) is not self._backward
            return Step(Motion.REVERSED, turned, swung, parts=turned or swung or not joins)
        motion = self._speed(span, measured)
        return Step(motion, turned, parts=turned or not joins or motion is not self.motion)

    def _speed(self, span: Span, measured: bool) -> Motion:
        lines = abs(span.end - span.begin) / max(1, self._geometry.counts_of_lines(1))
        limit = RUNS if self.motion is Motion.STANDING else STANDS
        return Motion.STANDING if measured and lines < limit else Motion.FORWARD

    def take(self, frame: Frame, span: Span, step: Step) -> None:
        """The frame is where it says."""
        if step.anew:
            self.start(span.begin, frame.piece)
        self._off = 0 if step.gap is None else span.begin - (self.end or 0)
        self._sure = max(self._sure, span.begin)
        sequence, was = frame.sequence, self.motion
        stops = step.motion is Motion.STANDING and was is not Motion.STANDING
        if step.turned or step.swung or stops:
            self._fill_gaps()
            self._again = range(sequence, sequence)
            self.told_to = self.told_to if step.swung else self._sure
            self.back_to, self._backward = span.begin, span.end < span.begin
            self._back_sure = span.begin
        if step.turned or Motion.FORWARD is not step.motion or was is Motion.REVERSED:
            self._again = range(self._again.start, sequence + 1)
            self.back_to = min(self.back_to, span.begin, span.end)
            straight = abs(span.end - span.begin) >= self._geometry.counts_of_lines(span.lines) - self._two_lines
            self._back_sure = min(self._back_sure, span.begin, span.end if straight else span.begin)
        self.motion, self._piece = step.motion, frame.piece
        self.begin, self.end = span.begin, span.end
        self._passed = max(self._passed, span.begin if frame.counts_per_line is not None else span.end)
        self.furthest = max(self.furthest, span.end)

    def _fill_gaps(self) -> None:
        """What was seen since the strip turned is no gap any more: the next time it was told."""
        if not self._again:
            return
        low, high = self._back_sure, self.told_to
        self._from = min(self._from, low)
        cut = [piece for a, b in self._gaps for piece in ((a, min(b, low)), (max(a, high), b)) if piece[1] > piece[0]]
        self._gaps = deque(cut, maxlen=GAPS_KEPT)
