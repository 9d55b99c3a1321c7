"""A blind, dark or fouled camera must not look like a perfect coil: its view is judged, and changes are told.

    blind          so many frames in a row show no strip at all
    little strip   less of the frame is strip than there should be
    dark           not even the brightest strip is bright
    glare          much of the strip is saturated
    dead columns   columns do not see what their neighbours see, for long
    out of focus   nothing fine is seen any more

A state begins when two windows of frames in a row are beyond its limit and ends when two are back by a tenth; then the
camera "sees well", or another of the states still holds. The same frames give the same states, whatever the batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from inspector.config import Config, ViewConfig
from inspector.flatfield import FlatField, unevenness
from inspector.metrics import Metrics, ViewMetrics
from inspector.records import Frame, Roi, Sight
from inspector.sight import Figures, Flags, Profile, Window, odd_columns, spans
from inspector.strip import Geometry

BLIND, STRIP, DARK, GLARE, COLUMNS, FOCUS = (
    "blind", "little strip", "dark", "glare", "dead columns", "out of focus",
)  # fmt: skip
STATES = (BLIND, STRIP, DARK, GLARE, COLUMNS, FOCUS)
"""The gravest first."""
SEES_STRIP, SEES_WELL = "sees strip", "sees well"

WINDOWS = 2
"""So many windows in a row must agree before a state begins or ends."""
BACK = 0.1
"""A figure must come back behind its limit by this share of it."""
EVEN_OVER = 32
"""Windows over which the unevenness of the columns is averaged."""
NEAR_PX = 8
"""A dead column so near to those that were told is no news."""
FORGIVE = -4
"""A window in which a column is as it should be makes up for so many in which it was odd."""
NAMED = 4
"""Groups of dead columns that an event names one by one."""


def views(
    config: Config, geometries: Mapping[str, Geometry], flat_fields: Mapping[str, FlatField | None], metrics: Metrics
) -> dict[str, View]:
    """Camera -> the watch over its view."""
    return {
        name: View(config.view, config.edges.blind_frames, geometry, _shown(name, flat_fields.get(name), metrics))
        for name, geometry in geometries.items()
    }


def _shown(name: str, flat_field: FlatField | None, metrics: Metrics) -> ViewMetrics:
    return metrics.view(name, STATES, None if flat_field is None else flat_field.origin.made_ns)


class View:
    """Watches how well one camera sees. For one thread, with the camera's frames in order, after the flat-field."""

    def __init__(
        self, config: ViewConfig, blind_frames: int, geometry: Geometry, metrics: ViewMetrics | None = None
    ) -> None:
        self._config = config
        self._geometry = geometry
        self._metrics = metrics
        self._strip = _Strip(blind_frames)
        self._limits = {
            STRIP: _Limit(config.strip_below, below=True),
            DARK: _Limit(config.dark_below, below=True),
            GLARE: _Limit(config.glare_above, below=False),
            FOCUS: _Limit(config.focus_below, below=True),
        }
        self._columns = _Columns(config)
        self._window: Window | None = None
        self._told: dict[str, str] = {}
        """State -> what it is about, of those that hold."""

    def see(self, frame: Frame, roi: Roi) -> list[Sight]:
        """Take a frame and the strip in it; what has changed by it."""
        said = self._strip.see(roi)
        for state, _ in said:
            self._hold(BLIND, state == BLIND)
        if not self._config.watch or frame.counts_per_line == 0:  # strip that stands shows one line for ever
            return said
        width = frame.pixels.shape[1]
        if self._window is None or self._window.width != width:
            self._window = Window(self._config.window_frames, width)
        if roi.width:
            self._window.take(frame.pixels, roi)
        else:
            self._window.blank()
        return said + self._judge(self._window, self._window.figures()) if self._window.full else said

    def _judge(self, window: Window, figures: Figures | None) -> list[Sight]:
        if figures is None:
            if self._metrics is not None:
                self._metrics.strip(0.0)
            return []
        window.leave_out(self._columns.see(figures))
        self._show(figures)
        seen = {STRIP: figures.strip, DARK: figures.brightest, GLARE: figures.saturated, FOCUS: figures.focus}
        said = []
        for state, limit in self._limits.items():
            changed = limit.see(seen[state])
            if changed is not None:
                said += self._change(state, changed, _FIGURES[state].format(seen[state], limit.limit))
        news = self._columns.news()
        if news is not None:
            said += self._change(COLUMNS, bool(news), self._named(news))
        return said

    def _show(self, figures: Figures) -> None:
        if self._metrics is not None:
            self._metrics.strip(figures.strip)
            self._metrics.show(figures.brightness, figures.saturated, figures.focus)
            self._metrics.columns(int(self._columns.dead.sum()), self._columns.unevenness)

    def _change(self, state: str, begins: bool, about: str) -> list[Sight]:
        """One event a change. When a state ends the gravest that is left is named, so the newest event is true."""
        self._hold(state, begins)
        if begins:
            self._told[state] = f"{about}: {_MEND[state]}"
            return [(state, self._told[state])]
        self._told.pop(state, None)
        left = next((each for each in STATES if each in self._told), None)
        over = f"no longer {_OVER[state]}" + (f": {about}" if about else "")
        return [(SEES_WELL, over)] if left is None else [(left, f"{over}; still {left}: {self._told[left]}")]

    def _hold(self, state: str, true: bool) -> None:
        if self._metrics is not None:
            self._metrics.holds(state, true)

    def _named(self, dead: Sequence[tuple[int, int]]) -> str:
        """Columns as a person finds them: pixels of the frame and millimetres across the strip."""
        if not dead:
            return ""
        across = self._geometry.across_mm
        each = [f"{a}{f'-{b}' if b > a else ''} ({across(a):g}-{across(b + 1):g} mm)" for a, b in dead[:NAMED]]
        more = f" and {len(dead) - NAMED} more places" if len(dead) > NAMED else ""
        frames = self._columns.needed * self._config.window_frames
        return f"columns {', '.join(each)}{more} have not seen what their neighbours see for {frames} frames"


_FIGURES = {
    STRIP: "{:.0%} of the frame is strip (limit {:.0%})",
    DARK: "the brightest strip reaches {:.0%} of full scale (limit {:.0%})",
    GLARE: "{:.0%} of the strip is saturated (limit {:.0%})",
    FOCUS: "fine detail is {:.3f} of the coarser (limit {:g})",
}
_MEND = {
    STRIP: "look at the camera's aim and at the strip's edges",
    DARK: "look at lamp, exposure time and window",
    GLARE: "look at lamp, exposure time and gain",
    FOCUS: "look at focus and distance, clean lens and window",
    COLUMNS: "clean window, lens and lamp, then calibrate; a scratch all along the strip looks the same",
}
_OVER = {STRIP: "little strip", DARK: "dark", GLARE: "glaring", FOCUS: "out of focus", COLUMNS: "dead columns"}


class _Strip:
    """Whether strip is seen at all: a count of frames, so that a lamp that fails is told at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._dark = 0

    def see(self, roi: Roi) -> list[Sight]:
        limit, dark = self._limit, self._dark
        if roi.width:
            self._dark = 0
            return [(SEES_STRIP, f"after {dark} frames without any")] if dark >= limit else []
        self._dark += 1
        if self._dark != limit:
            return []
        return [(BLIND, f"{limit} frames in a row show no strip: look at lamp, lens and edges.dark_level")]


class _Limit:
    """A figure against its limit; it takes WINDOWS windows in a row to cross it, and a tenth more to come back."""

    def __init__(self, limit: float | None, below: bool) -> None:
        self.limit = limit or 0.0
        self._unwatched = limit is None
        self._sign = 1 if below else -1
        self._beyond = False
        self._turns = 0

    def see(self, figure: float | None) -> bool | None:
        """True when the figure has gone beyond the limit for good, False when it is back, None while nothing changes.

        A figure that is None says nothing either way.
        """
        if self._unwatched or figure is None:
            return None
        margin = self._sign * BACK * self.limit if self._beyond else 0.0
        beyond = self._sign * (self.limit + margin - figure) > 0
        self._turns = self._turns + 1 if beyond is not self._beyond else 0
        if self._turns < WINDOWS:
            return None
        self._beyond, self._turns = beyond, 0
        return beyond


class _Columns:
    """Which columns have been odd for long, and how even the others are."""

    def __init__(self, config: ViewConfig) -> None:
        self._off = config.column_off
        self.needed = ceil(config.column_frames / config.window_frames)
        self._odd = np.zeros(0, dtype=np.int64)
        self.dead: Flags = np.zeros(0, dtype=bool)
        self._known: Flags = np.zeros(0, dtype=bool)
        """Columns that were told, and those near to them."""
        self._told = False
        self._even: Profile | None = None
        self._windows = 0

    def see(self, figures: Figures) -> Flags:
        """Take a window; returns the columns that are odd in it.

        A column is dead after `needed` windows that show it odd, and alive again after a quarter as many.
        """
        self._average(figures.level)
        if self._off is None:
            return np.zeros(figures.level.size, dtype=bool)
        marks = odd_columns(figures, self._off)
        if self._odd.size != marks.size:
            self._odd = np.zeros(marks.size, dtype=np.int64)
            self.dead, self._known = np.zeros((2, marks.size), dtype=bool)
        unjudged = np.where(self.dead, 0, -1)  # what is dead stays so while a narrow strip does not show it
        step = np.where(marks > 0, 1, np.where(marks < 0, FORGIVE, unjudged))
        self._odd = np.clip(self._odd + step, 0, self.needed)
        self.dead = (self._odd >= self.needed) | (self.dead & (self._odd > 0))
        return marks > 0

    def _average(self, level: Profile) -> None:
        share = level / np.nanmean(level)
        if self._even is None or self._even.size != share.size:
            self._even, self._windows = share, 1
            return
        self._windows = min(self._windows + 1, EVEN_OVER)
        known, new = np.isfinite(self._even), np.isfinite(share)
        both = known & new
        self._even[both] += (share[both] - self._even[both]) / self._windows
        self._even[new & ~known] = share[new & ~known]

    @property
    def unevenness(self) -> float | None:
        return None if self._even is None else unevenness(self._even)

    def news(self) -> list[tuple[int, int]] | None:
        """The dead columns if there are others than were told, [] if there are none any more; None: no news."""
        if not self.dead.any():
            over, self._told = self._told, False
            self._known[:] = False
            return [] if over else None
        if not (self.dead & ~self._known).any():
            return None
        self._told = True
        self._known |= np.convolve(self.dead, np.ones(2 * NEAR_PX + 1, dtype=np.int64), mode="same") > 0
        return _together(spans(self.dead))


def _together(each: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that lie near to each other are one to whoever cleans the window."""
    found: list[tuple[int, int]] = []
    for first, last in each:
        if found and first - found[-1][1] <= NEAR_PX:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found
