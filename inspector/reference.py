"""Frames of an even, lit, moving surface -> the offset and gain of each column, or why they cannot be had.

Every frame becomes one profile: the mean of each of its columns. A gain is taken from the middle half of a column's
profiles, so that a blemish on the surface, which few frames show, leaves no ghost in every frame from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.errors import CalibrationError
from inspector.flatfield import local_level, unevenness
from inspector.records import Pixels

FULL = 250
"""Grey from which a pixel is taken for saturated."""
SATURATED = 0.01
"""Share of saturated pixels above which a mean is no mean any more."""
DARKEST = 30.0
"""Grey below which the target may not lie: noise and rounding would be spread over all columns."""
GAINS = (0.25, 4.0)
"""A gain beyond these is not believed; a column that needs more has no light."""
DEAD = 0.5
"""A column off its surroundings by more than this share is dead."""
STUCK = 0.1
"""So is one whose level varies from frame to frame less than this share of what is usual."""
RIM_PX = 8
"""Columns beside those without light that are not trusted either."""
WANDERS_PX = 16
"""So many columns that are lit in some frames only mean that the surface's edge moved over them."""
NOISE = 0.01
"""What the two halves of the frames may differ by at most, as a share of the level."""
STRUCTURE = 0.25
"""Mean square, grey squared, of the structure that a surface must show to prove that it moves."""
DARK_MOST = 32.0
"""Grey above which no sensor is dark."""
SAMPLED = 16
"""Pairs of neighbouring rows in a frame by which is seen whether the surface moves."""

Profile = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass
class Frames:
    """What is kept of the frames of a reference."""

    profiles: list[NDArray[np.float32]] = field(default_factory=list)
    """Mean grey of each column, [width], for each frame."""
    saturated: list[NDArray[np.float32]] = field(default_factory=list)
    """Share of saturated pixels of each column, [width], for each frame."""
    structure: list[float] = field(default_factory=list)
    """Mean square of what differs along the strip, but is alike on neighbouring rows, as noise is not."""

    def add(self, pixels: Pixels) -> None:
        """Take a frame, uint8 [H, W]. Raises CalibrationError: it is not as wide as those before."""
        if self.profiles and pixels.shape[1] != self.width:
            raise CalibrationError(f"a frame of {pixels.shape[1]} px came after one of {self.width}: let the width be")
        self.profiles.append(_mean(pixels))
        full = np.asarray(cv2.threshold(pixels, FULL - 1, 1, cv2.THRESH_BINARY)[1], dtype=np.uint8)
        self.saturated.append(_mean(full))
        self.structure.append(_structure(pixels, self.profiles[-1]))

    @property
    def width(self) -> int:
        return int(self.profiles[0].size)

    def __len__(self) -> int:
        return len(self.profiles)


def _mean(pixels: Pixels) -> NDArray[np.float32]:
    return np.asarray(cv2.reduce(pixels, 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F), dtype=np.float32).reshape(-1)


def _structure(pixels: Pixels, profile: NDArray[np.float32]) -> float:
    height = pixels.shape[0]
    if height < 2:
        return 0.0
    rows = np.unique(np.linspace(0, height - 2, SAMPLED).astype(np.intp))
    upper, lower = pixels[rows] - profile, pixels[rows + 1] - profile
    upper -= upper.mean(axis=1, keepdims=True)  # a lamp that flickers is no structure
    lower -= lower.mean(axis=1, keepdims=True)
    return float(np.mean(upper * lower))


@dataclass(frozen=True)
class Solved:
    """The gains of a reference, and what there is to say of them.

    Attributes:
        gain: [width].
        level: mean grey of each column, as the camera gave it, [width].
        target: grey that the corrected reference has.
        unlit: columns without light; they have the gain of the nearest good one.
        dead: columns that do not follow the light; likewise.
        noise: half of what the two halves of the frames differ by, as a share of the level: a gain is that sure.
        uneven: unevenness of the good columns before, as a share of their level (see `flatfield.unevenness`).
    """

    gain: Profile
    level: Profile
    target: float
    unlit: Flags
    dead: Flags
    noise: float
    uneven: float

    @property
    def good(self) -> Flags:
        return ~(self.unlit | self.dead)


def darkness(frames: Frames) -> Profile:
    """The offset of each column, [width], from frames without light.

    Raises:
        CalibrationError: light reached the sensor.
    """
    offset = np.median(np.stack(frames.profiles), axis=0).astype(np.float64)
    level = float(np.percentile(offset, 95))
    if level > DARK_MOST:
        raise CalibrationError(
            f"the frames have a grey of {level:.0f}, more than {DARK_MOST:.0f}: this is light, not the dark sensor. "
            "Switch the lamp off or cap the lens, and try again"
        )
    return offset


def solve(frames: Frames, offset: Profile, still: bool = False) -> Solved:
    """The gain of each column. `still`: the surface has no structure, so it need not move.

    Raises:
        CalibrationError: the frames cannot be a reference; the message says what to do.
    """
    if len(frames) < 4:
        raise CalibrationError(f"{len(frames)} frame(s) are too few for a reference: take at least 4")
    profiles = np.maximum(np.stack(frames.profiles).astype(np.float64) - offset, 0.0)
    usual = np.median(profiles, axis=0)
    unlit = _unlit(profiles, usual)
    _not_saturated(frames, unlit)
    if not still:  # asked last: a picture that is black or white looks as if it stood
        _moves(frames)
    flicker = np.median(profiles[:, ~unlit] / np.maximum(usual[~unlit], 1e-3), axis=1)
    profiles /= np.maximum(flicker, 1e-3)[:, None]
    level = _middle(profiles)
    dead = _dead(profiles, level, unlit)
    good = ~(unlit | dead)
    target = float(level[good].mean())
    if target < DARKEST:
        raise CalibrationError(_too_dark(target))
    halves = np.array_split(profiles[:, good], 2)
    apart = np.abs(_middle(halves[0]) - _middle(halves[1])) / 2 / level[good]
    noise = float(1.4826 * np.median(apart))
    if noise > NOISE:
        needed = len(frames) * (noise / NOISE) ** 2
        raise CalibrationError(
            f"two halves of the {len(frames)} frames differ by {2 * noise:.1%} (at most {2 * NOISE:.0%}): take about "
            f"{needed:.0f} frames (--frames), or a more even surface"
        )
    gain = np.clip(target / np.maximum(level, 1e-3), *GAINS)
    gain = gain[_nearest(good)]
    return Solved(gain, level + offset, target, unlit, dead, noise, unevenness(np.where(good, level, np.nan)) or 0.0)


def _too_dark(level: float) -> str:
    return (
        f"too dark: the surface has a grey of {level:.0f} above the dark sensor, and {DARKEST:.0f} are needed. "
        "Is the lamp on? Open the aperture, expose longer, or use a brighter surface"
    )


def _moves(frames: Frames) -> None:
    different = len({profile.tobytes() for profile in frames.profiles})
    if 4 * different < len(frames):
        raise CalibrationError(
            f"only {different} of {len(frames)} frames differ: the surface must move, so that its own pattern "
            "averages out. Let the strip run"
        )
    if float(np.median(frames.structure)) < STRUCTURE:
        raise CalibrationError(
            "the frames differ by noise alone: the surface stands, and its own pattern would stay in every frame. Let "
            "it move; or, if it is a white tile that has no pattern, say --still"
        )


def _unlit(profiles: Profile, usual: Profile) -> Flags:
    """The columns without light, at the sides; grown by RIM_PX. An edge may lie there, but it may not wander."""
    light = float(np.percentile(usual, 90))
    if light < DARKEST / 2:
        raise CalibrationError(_too_dark(light))
    lit = profiles > light / (2 * GAINS[1])
    share = lit.mean(axis=0)
    wanders = np.flatnonzero((share > 0.25) & (share < 0.75))
    if wanders.size > WANDERS_PX:
        raise CalibrationError(
            f"an edge of the surface lies in view and moved between the columns {wanders[0]} and {wanders[-1]}: use a "
            "surface that fills the view, or hold its edges still"
        )
    inside = np.flatnonzero(share > 0.5)
    first, end = int(inside[0]), int(inside[-1]) + 1
    if 2 * (end - first) < usual.size:
        raise CalibrationError(
            f"only the columns {first} to {end - 1} of {usual.size} have light: use a surface that fills the view"
        )
    unlit = np.ones(usual.size, dtype=bool)
    unlit[first + (RIM_PX if first else 0) : end - (RIM_PX if end < usual.size else 0)] = False
    return unlit


def _not_saturated(frames: Frames, unlit: Flags) -> None:
    share = np.stack(frames.saturated)[:, ~unlit].mean(axis=0)
    blocks = np.array_split(share, max(1, share.size // 16))
    broad = np.array([np.median(block) for block in blocks])  # a hot column is no light
    if broad.mean() > SATURATED or broad.max() > 5 * SATURATED:
        first = int(np.flatnonzero(~unlit)[sum(block.size for block in blocks[: int(broad.argmax())])])
        raise CalibrationError(
            f"saturated: {share.mean():.1%} of the pixels are at full scale, most at column {first}. Close the "
            "aperture, expose shorter, or dim the lamp"
        )


def _middle(profiles: Profile) -> Profile:
    """The mean of the middle half of each column, [width], from [frames, width]."""
    count = profiles.shape[0]
    ordered = np.sort(profiles, axis=0)
    middle: Profile = ordered[count // 4 : count - count // 4].mean(axis=0)
    return middle


def _dead(profiles: Profile, level: Profile, unlit: Flags) -> Flags:
    """Columns that do not follow the light: far off their surroundings, or without any change from frame to frame."""
    lit = np.flatnonzero(~unlit)
    around = local_level(level[lit])
    change = profiles[:, lit].std(axis=0)
    dead = np.zeros(level.size, dtype=bool)
    dead[lit] = (np.abs(level[lit] - around) > DEAD * around) | (change < STUCK * np.median(change))
    return dead


def _nearest(good: Flags) -> NDArray[np.intp]:
    """For each column the nearest good one; itself if it is."""
    places = np.flatnonzero(good)
    after = np.clip(np.searchsorted(places, np.arange(good.size)), 0, places.size - 1)
    before = np.maximum(after - 1, 0)
    columns = np.arange(good.size)
    nearer = np.abs(places[before] - columns) < np.abs(places[after] - columns)
    return np.where(nearer, places[before], places[after]).astype(np.intp)
