"""Drills of the synthetic camera: how its strip moves, and what it loses on the way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from inspector.errors import ConfigError
from inspector.events import Reason

AtLeast0 = Annotated[int, Meta(ge=0)]


class Leg(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A change of the strip's motion; it holds until the next one."""

    at_frame: AtLeast0
    """The first frame of it, counted from the first opening on."""
    kind: Literal["run", "slow", "stand", "reverse", "jump"]
    """`run`: a line of strip in a line of the frame; `slow`: `share` of one; `stand`: none; `reverse`: one backward;
    `jump`: as before, but the encoder's count is off by `counts` from here on."""
    share: Annotated[float, Meta(gt=0, le=1)] = 0.25
    """Of the full speed, for `slow`."""
    counts: int = 0
    """Encoder counts, for `jump`; negative: back."""

    @property
    def rate(self) -> float | None:
        """Lines of strip in a line of the frame; None: as before."""
        return {"run": 1.0, "slow": self.share, "stand": 0.0, "reverse": -1.0, "jump": None}[self.kind]


class Lost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frames that do not arrive."""

    at_frame: AtLeast0
    """The first of them, counted from the first opening on."""
    count: Annotated[int, Meta(ge=1)] = 1
    """How many."""
    reason: Literal["packets", "underrun", "failed", "timeout"] = "packets"
    """Why."""

    def covers(self, frame: int) -> bool:
        return self.at_frame <= frame < self.at_frame + self.count

    @property
    def why(self) -> Reason:
        return Reason(self.reason)


class Path:
    """Where each frame of a moving strip lies, in lines from the strip's head.

    Args:
        legs: in order of their frames.
        height: lines in a frame.
    """

    def __init__(self, legs: Sequence[Leg], height: int) -> None:
        self._height = height
        self._jumps = [leg for leg in legs if leg.kind == "jump"]
        self._turns: list[tuple[int, float, float]] = [(0, 0.0, 1.0)]
        """(first frame, line at which it begins, lines of strip in a line) of each stretch at one speed."""
        for leg in legs:
            if leg.rate is not None:
                self._turns.append((leg.at_frame, self.line(leg.at_frame), leg.rate))
        self.measured = len(self._turns) > 1
        """Whether the speed ever changes, so that frames say how much strip is in their lines."""

    def line(self, frame: int) -> float:
        """Where the frame's first line lies."""
        first, line, rate = self._stretch(frame)
        return line + (frame - first) * rate * self._height

    def rate(self, frame: int) -> float:
        """Lines of strip in one of its lines."""
        return self._stretch(frame)[2]

    def off(self, frame: int) -> int:
        """Encoder counts by which the count is off there."""
        return sum(leg.counts for leg in self._jumps if leg.at_frame <= frame)

    def rows(self, frame: int) -> NDArray[np.int64]:
        """The line of strip that each of its lines shows, int64 [height]."""
        middles = self.line(frame) + self.rate(frame) * (np.arange(self._height) + 0.5)
        return np.asarray(np.floor(middles), dtype=np.int64)

    def _stretch(self, frame: int) -> tuple[int, float, float]:
        return next(turn for turn in reversed(self._turns) if turn[0] <= frame)

    def lowest(self, frames: int | None) -> float:
        """The line farthest back among so many frames; None: without end."""
        if frames is None:
            return float("-inf") if self._turns[-1][2] < 0 else min(line for _, line, _ in self._turns)
        return min(self.line(frames), *(line for frame, line, _ in self._turns if frame <= frames))


def check_motion(legs: Sequence[Leg], height: int, frames: int | None) -> None:
    """Do the legs make sense?

    Raises:
        ConfigError: they are out of order, or the strip would run back beyond its head.
    """
    if any(a.at_frame >= b.at_frame for a, b in pairwise(legs)):
        raise ConfigError("synthetic: motion: each leg must begin at a later frame than the one before")
    if Path(legs, height).lowest(frames) < 0:
        raise ConfigError("synthetic: motion: the strip runs back beyond its head; let it run farther before, or turn")
