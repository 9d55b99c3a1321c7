"""A line that slowly sees other frames than it did must say so: lamps age, lenses foul, steels and packs change.

    off in gate scores   the distribution of gate scores is far from what it was
    off in brightness    the distribution of the frames' mean grey is
    off in pass rate     many more frames pass the gate than did, or many fewer
    off in alarm rate    many more frames show a defect than did, or many fewer

What it was: the first windows of the camera with this pack, which are learnt and kept (`baselines`), or where nothing
is learnt the pack's own reference. A state begins when a whole window is beyond the bound of the configuration, and
beyond three times what the learnt windows differ from their sum, and beyond chance (one look in a million, if frames
were independent); it ends well within the bound. Then the camera is "as usual", or another of the states still holds.

Frames that show no strip, or strip that stands, are left out. The same frames, learnt anew, give the same states,
whatever the batches. It costs about 3 us a frame.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from inspector.baselines import Baselines
from inspector.census import (
    BRIGHTNESS_EDGES,
    SCORE_EDGES,
    Census,
    chance_psi,
    foremost,
    named,
    psi,
    sigmas,
    times_as_many,
    total,
)
from inspector.config import DriftConfig
from inspector.events import Depth
from inspector.logbook import LogKind, as_kind
from inspector.metrics import DriftMetrics, Metrics
from inspector.pack import Pack
from inspector.records import Sight, Verdict, Verdicts
from inspector.sight import brightness

log = logging.getLogger(__name__)

GATE, BRIGHTNESS, PASSED, ALARMED = "gate_score", "brightness", "passed", "alarmed"
"""The measures, as the metrics name them; the configuration has the bound of each under the same name."""
OFF = {
    GATE: "off in gate scores",
    BRIGHTNESS: "off in brightness",
    PASSED: "off in pass rate",
    ALARMED: "off in alarm rate",
}
"""The state of each, the one that says most first."""
AS_USUAL = "as usual"

PIECES = 8
"""A window moves on by an eighth of itself."""
MARGIN = 3.0
"""So many times what the windows that were learnt differ from their sum is no longer usual."""
BACK_PSI = 0.5
"""A distance must come back to this share of its limit."""
BACK_TIMES = 0.8
"""... and a rate to this share of its bound, on a scale of logarithms."""
SURE_SIGMAS = 5.0
"""Rates that differ by fewer standard deviations may do so by chance."""

EDGES = {GATE: SCORE_EDGES, BRIGHTNESS: BRIGHTNESS_EDGES}
_HISTOGRAMS: dict[str, Callable[[Census], Sequence[int]]] = {
    GATE: lambda census: census.gate_scores,
    BRIGHTNESS: lambda census: census.brightness,
}
_HITS: dict[str, Callable[[Census], tuple[int, int]]] = {
    PASSED: lambda census: (census.passed, census.frames),
    ALARMED: lambda census: (census.alarmed, census.full),
}
"""Of how many frames how many do it."""
ENOUGH = 0.9
"""A rate is judged if it is known of so much of the frames: those that overload leaves out are not like the others."""
_DO = {PASSED: "pass the gate", ALARMED: "show a defect"}
_MEND = {
    GATE: "look at lamp, lens and flat-field; is it a new steel, or another gate",
    BRIGHTNESS: "look at lamp, exposure time, window and flat-field",
    PASSED: "look at lamp, lens and flat-field; is it a new steel, or another gate",
    ALARMED: "look at the newest defects: are they real, or are real ones missing",
}


def count(census: Census, verdict: Verdict) -> None:
    """Take a frame into a census; it must show strip, and its pixels must be there yet."""
    shows = brightness(verdict.frame.pixels, verdict.roi)
    found = any(region.reported for region in verdict.regions)
    alarmed = found if verdict.depth is Depth.FULL else None
    census.add(verdict.gate_score, shows, bool(verdict.passed), alarmed)


class Drift:
    """Watches all cameras of a line; for grading's thread.

    Args:
        config: the section.
        on_duty: the pack that judges from now on. While verdicts of another come they are left out, and when its own
            do they are counted, and compared, anew.
        cameras: their names.
        baselines: what was learnt of them.
        metrics: the line's.
    """

    def __init__(
        self,
        config: DriftConfig,
        on_duty: Callable[[], Pack],
        cameras: Iterable[str],
        baselines: Baselines,
        metrics: Metrics,
    ) -> None:
        engines = on_duty()
        self._config = config
        self._on_duty = on_duty
        self.baselines = baselines
        shown = {name: metrics.drift(name, OFF) for name in cameras}
        self._cameras = {name: _Camera(config, engines, baselines, name, own) for name, own in shown.items()}
        self._digest = engines.digest
        _tell_yardstick(config, engines)

    def see(self, verdicts: Verdicts) -> None:
        """Take verdicts in the order of their cameras' frames, before these are released; what changed is written to
        `Verdict.drifts`."""
        for verdict in verdicts.verdicts:
            frame = verdict.frame
            if verdict.roi.width and frame.counts_per_line != 0 and self._follow(verdict.pack_digest):
                verdict.drifts = self._cameras[frame.camera].see(verdict)

    def _follow(self, digest: str) -> bool:
        """Whether this is the pack that is counted now; it may just have become so."""
        if digest == self._digest:
            return True
        engines = self._on_duty()
        if engines.digest != digest:
            return False
        self._digest = digest
        for camera in self._cameras.values():
            camera.reset(engines)
        _tell_yardstick(self._config, engines)
        return True


def _tell_yardstick(config: DriftConfig, engines: Pack) -> None:
    if engines.manifest.reference is None:
        name = f"{engines.manifest.name} {engines.manifest.version}"
        rest = "; nothing is learnt either (drift.learn_windows), so drift is not watched"
        log.info(
            "pack %s has no reference to compare frames with%s. `python -m build_engines reference` makes one",
            *(name, rest if config.learn_windows is None else ""),
        )


@dataclass(frozen=True)
class Yardstick:
    """What frames are compared with."""

    census: Census
    words: str
    unlike: dict[str, float] = field(default_factory=dict)
    """Measure -> by how much what it is made of differs from it: indices, or standard deviations."""

    @classmethod
    def learnt(cls, windows: Sequence[Census]) -> Yardstick:
        whole = total(windows)
        unlike = {name: max(psi(of(window), of(whole)) for window in windows) for name, of in _HISTOGRAMS.items()}
        for name, hits in _HITS.items():
            known = [hits(window) for window in windows if _known(name, window)]
            unlike[name] = max((abs(sigmas(*one, *hits(whole))) for one in known), default=0.0)
        return cls(whole, f"the camera's first {whole.frames:,}", unlike)


class _Camera:
    """One camera's newest frames against what is usual."""

    def __init__(
        self, config: DriftConfig, engines: Pack, baselines: Baselines, name: str, shown: DriftMetrics
    ) -> None:
        self._config, self._baselines, self._name, self._shown = config, baselines, name, shown
        self._piece_frames = math.ceil(config.window_frames / PIECES)
        self._told: dict[str, str] = {}
        """Measure -> what it is about, of those that are off."""
        self._said: list[Sight] = []
        self._begin(engines)

    def _begin(self, engines: Pack) -> None:
        self._digest = engines.digest
        self._filling = Census()
        self._pieces: deque[Census] = deque(maxlen=PIECES)
        self._turn = 0
        reference = engines.manifest.reference
        self._pack = None if reference is None else Yardstick(reference.census, "the pack's reference")
        self._own: Yardstick | None = None
        if self._config.learn_windows is not None:
            self._know(self._baselines.of(self._digest, self._name), self._config.learn_windows)

    def reset(self, engines: Pack) -> None:
        if self._told:
            self._said.append((AS_USUAL, "another pack judges: its frames are counted anew"))
        for measure in self._told:
            self._shown.holds(measure, False)
        self._told.clear()
        self._shown.forget()
        self._begin(engines)

    def see(self, verdict: Verdict) -> list[Sight]:
        count(self._filling, verdict)
        said, self._said = self._said, []
        return said + self._move() if self._filling.frames >= self._piece_frames else said

    def _move(self) -> list[Sight]:
        """A piece is full: the window moves on."""
        self._pieces.append(self._filling)
        self._filling = Census()
        self._turn = (self._turn + 1) % PIECES
        window = total(self._pieces)
        self._show(window)
        if len(self._pieces) < PIECES:
            return []
        learn = self._config.learn_windows
        yardstick = self._pack if learn is None else self._own
        if yardstick is not None:
            return [sight for measure in OFF for sight in self._judge(measure, window, yardstick)]
        if learn is not None and self._turn == 0:
            self._know(self._baselines.learn(self._digest, self._name, window), learn)
        return []

    def _know(self, windows: Sequence[Census], needed: int) -> None:
        self._shown.learnt(min(1.0, len(windows) / needed))
        if len(windows) >= needed:
            self._own = Yardstick.learnt(windows)
            log.info("camera %s: drift is watched against %s frames", self._name, self._own.words)

    def _show(self, window: Census) -> None:
        rates = [(name, hits) for name, hits in _HITS.items() if _known(name, window)]
        for name in _HITS.keys() - dict(rates).keys():
            self._shown.forget(name)
        for name, hits in rates:
            done, frames = hits(window)
            self._shown.share(name, done / frames)
        for against, yardstick in (("own", self._own), ("pack", self._pack)):
            if yardstick is None:
                continue
            usual = yardstick.census
            for name, of in _HISTOGRAMS.items():
                self._shown.distance(name, against, psi(of(window), of(usual)))
            for name, hits in rates:
                if _known(name, usual):
                    self._shown.times(name, against, times_as_many(*hits(window), *hits(usual)))

    # ------------------------------------------------------------ what is beyond its bound

    def _judge(self, measure: str, window: Census, yardstick: Yardstick) -> list[Sight]:
        found = compare(measure, window, yardstick, self._config)
        if found is None:
            return []
        beyond, back, words = found
        off = measure in self._told
        return self._change(measure, not off, words) if (back if off else beyond) else []

    def _change(self, measure: str, begins: bool, words: str) -> list[Sight]:
        """One event a change. When one ends another that still holds is named, so the newest event is true."""
        self._shown.holds(measure, begins)
        if begins:
            self._told[measure] = f"{words}; {_MEND[measure]}"
            log.warning(
                "camera %s is %s: %s",
                self._name,
                OFF[measure],
                self._told[measure],
                extra=as_kind(LogKind.DRIFTS, camera=self._name, measure=measure),
            )
            return [(OFF[measure], self._told[measure])]
        del self._told[measure]
        over = f"no longer {OFF[measure]}: {words}"
        log.warning(
            "camera %s is %s", self._name, over, extra=as_kind(LogKind.AS_USUAL, camera=self._name, measure=measure)
        )
        left = next((each for each in OFF if each in self._told), None)
        return [(AS_USUAL, over)] if left is None else [(OFF[left], f"{over}; still {OFF[left]}: {self._told[left]}")]


Found = tuple[bool, bool, str]
"""(beyond the bound, well within it, the figures in words)."""


def compare(measure: str, window: Census, yardstick: Yardstick, config: DriftConfig) -> Found | None:
    """A measure of a window against a yardstick; None where it is not watched, or too little is known."""
    bound: float | None = getattr(config, measure)
    if bound is None or not (_known(measure, window) and _known(measure, yardstick.census)):
        return None
    return (_distance if measure in _HISTOGRAMS else _rate)(measure, window, yardstick, bound)


def _known(measure: str, census: Census) -> bool:
    """Whether enough is known of the frames to judge this measure of them."""
    return measure in _HISTOGRAMS or _HITS[measure](census)[1] >= max(1.0, ENOUGH * census.frames)


def _distance(measure: str, window: Census, yardstick: Yardstick, bound: float) -> Found:
    of, edges, usual = _HISTOGRAMS[measure], EDGES[measure], yardstick.census
    now, was = of(window), of(usual)
    index = psi(now, was)
    chance = chance_psi(window.frames, usual.frames, len(now))
    limit = max(bound, chance, MARGIN * yardstick.unlike.get(measure, 0.0))
    most = foremost(now, was)
    words = (
        f"{window.frames:,} frames are {index:.2f} from {yardstick.words} (population stability index, limit "
        f"{limit:.2f}); {now[most] / window.frames:.1%} have {named(most, edges)}, {was[most] / usual.frames:.1%} had"
    )
    return index > limit, index < BACK_PSI * limit, words


def _short(times: float) -> str:
    return f"{times:.2f}" if times < 10 else f"{times:,.0f}"


def _rate(measure: str, window: Census, yardstick: Yardstick, bound: float) -> Found:
    (hits, frames), (others, other_frames) = _HITS[measure](window), _HITS[measure](yardstick.census)
    times = times_as_many(hits, frames, others, other_frames)
    apart = abs(sigmas(hits, frames, others, other_frames))
    sure = max(SURE_SIGMAS, MARGIN * yardstick.unlike.get(measure, 0.0))
    off = abs(math.log(times)) / math.log(bound)
    words = (
        f"{hits / frames:.2%} of {frames:,} frames {_DO[measure]}, of {yardstick.words} "
        f"{others / other_frames:.2%} did: {_short(times)} times as many (limits {1 / bound:.2g} and {bound:g}), by "
        f"{apart:.1f} standard deviations (limit {sure:.1f})"
    )
    return off > 1 and apart > sure, off < BACK_TIMES, words
