"""Every metric of the daemon, once: the table is `Metrics.__init__`, and docs/metrics.md is made from it.

Names start with `inspector_`; units are base units; a counter ends in `_total`; what is unknown is NaN or absent,
never a magic number; nothing is averaged here, a query does that. Label sets whose values are known at start exist
from the start with 0, so that a first loss is a rise and not a new series. Hot paths use the handles that
`camera()`, `stage()` and `sink()` give: their labels are looked up once.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import nan
from typing import Protocol, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from inspector import __version__
from inspector.events import Depth, Reason
from inspector.logbook import COUNTED, LogKind

PREFIX = "inspector"

AGE_EDGES_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02,
    0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
"""Seconds. The edges lie on the objectives, so that "share within the objective" is read and not interpolated."""

BATCH_EDGES = (1, 2, 4, 8, 16, 32, 64)
"""Frames."""

LOST_AT: Mapping[Reason, str] = {
    Reason.UNREADABLE: "camera",
    Reason.MISSING: "camera",
    Reason.OVERRUN: "camera",
    Reason.PACKETS: "camera",
    Reason.UNDERRUN: "camera",
    Reason.FAILED: "camera",
    Reason.TIMEOUT: "camera",
    Reason.RESET: "camera",
    Reason.CAMERA_DOWN: "camera",
    Reason.OVERLOAD: "capture",
    Reason.CRASH: "restart",
    Reason.ABORTED: "line",
}
"""The stage that loses frames for each reason, where the caller knows no better."""


class Undelivered(StrEnum):
    """Why a sink did not take an event (which is in the journal all the same). Closed: it labels a metric."""

    REFUSED = "refused"
    """The sink took the call and refused the event, such as a full pipe."""
    QUEUE_FULL = "queue_full"
    """The sink was too slow and its oldest waiting event was passed over."""
    DOWN = "down"
    """The sink was broken and had not been entered again yet."""


class Outcome(StrEnum):
    """What became of a request. Closed: it labels a metric."""

    OK = "ok"
    """It was done."""
    REFUSED = "refused"
    """It was not understood, or asked for what cannot be."""
    FAILED = "failed"
    """The daemon could not, through no fault of the request."""


class Direction(StrEnum):
    """Of a step of the overload ladder. Closed: it labels a metric."""

    UP = "up"
    """Less is asked of each frame."""
    DOWN = "down"
    """More is asked again."""


STEP_REASONS: Mapping[str, Direction] = {
    "age": Direction.UP,
    "queue": Direction.UP,
    "dropped": Direction.UP,
    "calm": Direction.DOWN,
}
"""Why a step of the overload ladder is taken; `overload.Why` says what each means."""


class PackPhase(StrEnum):
    """What a change of the pack is at. Closed: it labels a metric."""

    IDLE = "idle"
    """Nothing is going on."""
    LOADING = "loading"
    """The new pack is loaded and warmed beside the old one."""
    SHADOW = "shadow"
    """It judges frames that the line has judged; nothing of it is reported."""
    WATCH = "watch"
    """It is on duty, and the old one can come back."""


class PackOutcome(StrEnum):
    """What became of a change of the pack. Closed: it labels a metric."""

    KEPT = "kept"
    """The new pack is on duty for good."""
    REFUSED = "refused"
    """It never was on duty: it is not whole, does not fit, or left a bound in its shadow."""
    ROLLED_BACK = "rolled_back"
    """It was on duty and went back: it left a bound, failed, or somebody wanted it so."""
    CANCELLED = "cancelled"
    """Somebody wanted it so before it was on duty."""


class QueueStatistics(Protocol):
    """What is read of a queue at scrape time; `channel.Statistics` is one."""

    @property
    def queued(self) -> int: ...

    @property
    def capacity(self) -> int: ...


M = TypeVar("M", Counter, Gauge, Histogram, Info)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: `name` as it is scraped."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


class Metrics:
    """The metrics of one daemon in one registry of their own.

    Args:
        registry: where to register; a new one when left out, so that tests and replays do not meet.
        deadline_s: age from which a frame counts as late; None: none does.
        process: add `process_*` (CPU, memory, open files) of this process.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, deadline_s: float | None = None, process: bool = True
    ) -> None:
        # A `_created` series beside every counter would double the scrape for nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry() if registry is None else registry
        self.table: list[Row] = []
        self._deadline_s = deadline_s
        self._cameras: dict[str, CameraMetrics] = {}
        self._sinks: dict[str, SinkMetrics] = {}
        self._engines: list[tuple[str, str, str, str]] = []
        self._pack: tuple[str, str, str] | None = None
        counter, gauge, histogram, info = self._counter, self._gauge, self._histogram, self._info

        # ---- frames: captured + lost at the camera = issued; issued = inspected + lost + in flight
        self.frames_captured = counter("frames_captured_total", "Frames that a camera delivered.", "camera")
        self.frames_lost = counter(
            "frames_lost_total", "Frames that were issued and not inspected.", "camera", "stage", "reason"
        )
        self.frames_inspected = counter("frames_inspected_total", "Frames whose verdict is final.", "camera")
        self.frame_age = histogram(
            "frame_age_seconds", "Age of a frame, from exposure to its events handed out.", AGE_EDGES_S, "camera"
        )
        self.deadline_missed = counter("deadline_missed_total", "Frames whose age was above the deadline.", "camera")
        self.coverage = gauge(
            "coverage_ratio", "Inspected of all frames settled in this run; NaN before the first.", "camera"
        )
        self.strip_inspected = counter("strip_inspected_metres_total", "Length of strip inspected.", "camera")

        # ---- overload: the frames and metres of each depth add up to those inspected
        self.frames_depth = counter(
            "frames_depth_total",
            "Frames inspected in full, or, as the line was behind, by gate and types or by the gate alone.",
            "camera",
            "depth",
        )
        self.strip_depth = counter(
            "strip_depth_metres_total", "Length of strip inspected in each depth.", "camera", "depth"
        )
        self.overload_step = gauge(
            "overload_step",
            "0: nothing is left out, 1: wide batches, 2: no segmenters, 3: no types, 4: frames are dropped; NaN where "
            "nothing may be left out.",
        )
        self.overload_step.set(nan)
        self.overload_steps = counter(
            "overload_steps_total",
            "Steps that were taken because the line was behind, or no longer.",
            "direction",
            "reason",
        )

        # ---- cameras
        self.camera_up = gauge("camera_up", "1 while the camera is open and delivers, else 0.", "camera")
        self.camera_reopens = counter("camera_reopens_total", "Times that a dead camera was opened again.", "camera")
        self.camera_packets_lost = counter(
            "camera_packets_lost_total", "Network packets that the camera's driver missed.", "camera"
        )
        self.camera_packets_resent = counter(
            "camera_packets_resent_total", "Network packets that came when they were asked for again.", "camera"
        )
        self.camera_clock = gauge(
            "camera_clock_uncertainty_seconds",
            "How well the camera's clock is known, either way; absent where it has none.",
            "camera",
        )

        # ---- how well a camera sees: of the newest window of frames, after the flat-field
        self.camera_brightness = gauge("camera_brightness_ratio", "Mean grey of the strip, of full scale.", "camera")
        self.camera_saturated = gauge("camera_saturated_ratio", "Share of the strip that is saturated.", "camera")
        self.camera_focus = gauge(
            "camera_focus_ratio",
            "Fine detail against coarser: 0.06 when nothing fine is seen, 0.12 to 0.6 for sharp steel; "
            "NaN while the strip has no structure to judge by.",
            "camera",
        )
        self.camera_dead_columns = gauge(
            "camera_dead_columns", "Columns that for long have not seen what their neighbours see.", "camera"
        )
        self.camera_strip = gauge("camera_strip_in_view_ratio", "Share of the frames' width that is strip.", "camera")
        self.camera_view = gauge(
            "camera_view_state", "1 while the camera is blind, dark, out of focus and so on, else 0.", "camera", "state"
        )
        self.flat_field_age = gauge(
            "flat_field_age_seconds", "Since the flat-field was made; absent without one.", "camera"
        )
        self.flat_field_residual = gauge(
            "flat_field_residual_ratio",
            "How uneven the corrected columns are over many frames, of their level; absent without a flat-field.",
            "camera",
        )

        # ---- whether a camera's frames are still what they were: of the newest `drift.window_frames` of them
        self.drift_psi = gauge(
            "drift_psi",
            "Population stability index of gate scores or brightness, against what the camera showed first (own) or "
            "the pack's reference (pack): below 0.1 nothing has changed, above 0.25 much has.",
            "camera",
            "measure",
            "against",
        )
        self.drift_frames = gauge(
            "drift_frames_ratio", "Share of the frames that pass the gate, or show a defect.", "camera", "measure"
        )
        self.drift_times = gauge(
            "drift_times_ratio", "That share over what it is in the reference.", "camera", "measure", "against"
        )
        self.drift_state = gauge(
            "drift_state", "1 while a measure of the camera's frames is off, else 0.", "camera", "measure"
        )
        self.drift_warnings = counter("drift_warnings_total", "Times that a measure went off.", "camera", "measure")
        self.drift_learnt = gauge(
            "drift_learnt_ratio", "How much of what is usual has been learnt; absent where nothing is.", "camera"
        )
        self.drift_unsaved = counter("drift_unsaved_total", "Times that what was learnt could not be written to disk.")

        # ---- stages: items are frames up to grading, events from the journal on
        self.stage_in = counter("stage_in_total", "Items that a stage took.", "stage")
        self.stage_out = counter("stage_out_total", "Items that a stage handed on.", "stage")
        self.stage_in_progress = gauge("stage_in_progress", "Items that a stage holds now.", "stage")
        self.stage_batches = counter("stage_batches_total", "Batches that a stage finished.", "stage")
        self.stage_busy = counter("stage_busy_seconds_total", "Time that a stage's threads spent working.", "stage")
        self.stage_last_success = gauge(
            "stage_last_success_timestamp_seconds", "Unix time of the last finished batch; absent before.", "stage"
        )
        self.queue_items = gauge("queue_items", "Items that wait in a queue.", "queue")
        self.queue_capacity = gauge("queue_capacity_items", "Items that a queue holds at most.", "queue")
        self.pool_slots_in_use = gauge("pool_slots_in_use", "Frame buffers that hold a frame now.")
        self.pool_slots = gauge("pool_slots", "Frame buffers there are.")

        # ---- networks
        self.batch_size = histogram("batch_size_frames", "Frames that went through the networks together.", BATCH_EDGES)
        self.tiles_gated = counter("gate_tiles_total", "Tiles that the gate judged.")
        self.gate_passed = counter("gate_passed_total", "Tiles that the gate let through to the types.")
        self.tiles_segmented = counter("segmenter_tiles_total", "Tiles that a segmenter was asked.", "defect_class")
        self.engine = info("engine", "1 for each network in use.", "model", "digest", "runtime", "precision")

        # ---- changes of the pack
        self.pack = info("pack", "1 for the pack on duty.", "name", "version", "digest")
        self.pack_phase = gauge("pack_change_phase", "1 for what a change of the pack is at, else 0.", "phase")
        self.pack_changes = counter("pack_changes_total", "Changes of the pack that ended.", "outcome")
        self.pack_compared = counter("pack_compared_frames_total", "Frames that two packs judged.")
        self.pack_skipped = counter(
            "pack_skipped_frames_total", "Frames left out of the comparison, as the line was behind or it had no room."
        )
        self.pack_differences = counter(
            "pack_differences_total", "Compared frames on which two packs differ.", "difference"
        )
        self.pack_alarms = gauge(
            "pack_alarm_ratio", "Share of the frames compared on which a pack found a defect; NaN before.", "pack"
        )
        self.pack_time = gauge(
            "pack_time_ratio", "Time of the new pack's networks by the old one's, same frames; NaN before."
        )
        self.reloads = counter("reloads_total", "Times that the configuration was read again.", "outcome")

        # ---- events
        self.defects = counter("defects_total", "Defect events.", "defect_class", "severity")
        self.gaps = counter("gaps_total", "Gap events: strip that was not inspected.", "reason")
        self.events_published = counter("events_published_total", "Events that a sink took.", "sink")
        self.events_undelivered = counter(
            "events_undelivered_total", "Events that a sink did not take; the journal has them.", "sink", "reason"
        )

        # ---- journal
        self.journal_bytes = gauge("journal_bytes", "Size of the journal's files; NaN while it cannot be read.")
        self.journal_pending = gauge("journal_pending_events", "Events that wait to become durable.")
        self.journal_unjournalled = counter(
            "journal_unjournalled_total", "Events given up because the journal could not be written for too long."
        )
        self.journal_retired = counter("journal_retired_total", "Events deleted as their coils are no longer kept.")
        self.journal_failures = counter("journal_commit_failures_total", "Commits that failed and are tried again.")
        self.journal_commit = histogram("journal_commit_seconds", "Time of one durable commit.", AGE_EDGES_S)

        # ---- recording
        self.recording_up = gauge("recording_up", "1 while frames can be recorded, else 0; NaN where none should be.")
        self.recording_up.set(nan)
        self.recorded_frames = counter("recorded_frames_total", "Frames that were written to the recording.", "camera")
        self.unrecorded_frames = counter(
            "unrecorded_frames_total",
            "Frames that are not in the recording: the disk was slow or refused.",
            "camera",
            "reason",
        )
        self.recording_bytes = gauge("recording_bytes", "Size of the recording: the window, and what is kept.", "part")
        self.recordings_kept = counter("recordings_kept_total", "Recordings kept for a severe defect or a loss.")
        self.recordings_deleted = counter("recordings_deleted_total", "Kept recordings deleted to make room.")

        # ---- what clients ask at the history and control sockets
        self.requests = counter("requests_total", "Requests that were answered.", "socket", "ask", "outcome")
        self.answers_unsent = counter(
            "answers_unsent_total", "Answers that a client did not take: it has gone, or does not read.", "socket"
        )
        self.request_waits = counter(
            "request_waits_total", "Times that requests had to wait because too many had come.", "socket"
        )
        self.turned_away = counter(
            "turned_away_total", "Connections that were not let in, or cut for what they sent.", "socket"
        )
        self.history_events = counter("history_events_total", "Events that were sent again from the journal.")

        # ---- the log
        self.warnings = counter("warnings_total", "Warnings and errors; the log may leave repeated ones out.", "kind")
        for kind in COUNTED:
            self.warnings.labels(kind)

        # ---- the daemon
        self.ready = gauge("ready", "1 while /readyz says 200: models warm and every camera in, else 0.")
        self.build = info("build", "1; what runs here.", "version", "python")
        self.build.labels(__version__, platform.python_version()).info({})
        if process:
            ProcessCollector(registry=self.registry)

    # ---------------------------------------------------------------- what is known at start

    def for_cameras(self, names: Iterable[str]) -> None:
        """Series of these cameras exist from now on, at 0."""
        for name in names:
            self.camera(name)
        for reason in Reason:
            self.gaps.labels(reason)
        for why, direction in STEP_REASONS.items():
            self.overload_steps.labels(direction, why)

    def for_sinks(self, labels: Iterable[str]) -> None:
        """Series of these sinks exist from now on, at 0."""
        for label in labels:
            self.sink(label)

    def for_defects(self, class_names: Iterable[str], severities: Sequence[str]) -> None:
        """Series of these classes, by severity, exist from now on, at 0."""
        for name in class_names:
            self.tiles_segmented.labels(name)
            for severity in severities:
                self.defects.labels(name, severity)

    def for_unmeasured(self, class_names: Iterable[str], severity: str) -> None:
        """Series of defects that are not segmented exist from now on, at 0."""
        for name in class_names:
            self.defects.labels(name, severity)

    def engines(self, digests: Mapping[str, str], runtime: str, precisions: Mapping[str, str]) -> None:
        """The networks in use: name -> SHA-256, and name -> precision. Those named before are gone."""
        before, self._engines = (
            self._engines,
            [(model, digest, runtime, precisions[model]) for model, digest in digests.items()],
        )
        for labels in self._engines:
            self.engine.labels(*labels).info({})
        for labels in before:  # a scrape between the two sees both, and never none
            if labels not in self._engines:
                self.engine.remove(*labels)

    def on_duty(self, name: str, version: str, digest: str) -> None:
        """The pack on duty; the one named before is gone."""
        before, self._pack = self._pack, (name, version, digest)
        self.pack.labels(*self._pack).info({})
        if before is not None and before != self._pack:
            self.pack.remove(*before)

    def for_packs(self, differences: Iterable[str]) -> None:
        """Series of changes of the pack exist from now on, at 0."""
        for outcome in PackOutcome:
            self.pack_changes.labels(outcome)
        for difference in differences:
            self.pack_differences.labels(difference)
        for reloaded in (Outcome.OK, Outcome.REFUSED):
            self.reloads.labels(reloaded)
        self.pack_turns(PackPhase.IDLE)

    def pack_turns(self, phase: PackPhase) -> None:
        """A change of the pack has come to this; what is compared next is compared anew."""
        for each in PackPhase:
            self.pack_phase.labels(each).set(each is phase)
        if phase is not PackPhase.IDLE:
            for pack in ("old", "new"):
                self.pack_alarms.labels(pack).set(nan)
            self.pack_time.set(nan)

    def compared(self, difference: str | None, old: float, new: float, time_ratio: float | None) -> None:
        """Book a frame that two packs judged; `old` and `new` are their alarm rates so far."""
        self.pack_compared.inc()
        if difference is not None:
            self.pack_differences.labels(difference).inc()
        self.pack_alarms.labels("old").set(old)
        self.pack_alarms.labels("new").set(new)
        self.pack_time.set(nan if time_ratio is None else time_ratio)

    def in_progress(self, stage: str) -> float:
        """Items that a stage holds now."""
        return _value(self.stage_in_progress.labels(stage), "")

    def lateness(self) -> tuple[int, int]:
        """(frames whose events went out, those of them that were later than the deadline) so far."""
        cameras = list(self._cameras.values())
        frames = sum(int(_value(each.age, "_count")) for each in cameras)
        return frames, sum(int(_value(each.deadline_missed)) for each in cameras)

    def not_in_full(self) -> int:
        """Frames inspected so far for which segmenters, or more, were left out."""
        return sum(each.not_in_full for each in list(self._cameras.values()))

    # ---------------------------------------------------------------- handles with their labels bound

    def camera(self, name: str) -> CameraMetrics:
        """The metrics of one camera; the same handle every time."""
        if name not in self._cameras:
            self._cameras[name] = CameraMetrics(self, name)
        return self._cameras[name]

    def warned(self, kind: LogKind) -> None:
        """Book a line of the log."""
        self.warnings.labels(kind).inc()

    def stage(self, name: str) -> StageMetrics:
        """The metrics of one stage; several workers may share a handle."""
        return StageMetrics(self, name)

    def view(self, camera: str, states: Iterable[str], made_ns: int | None) -> ViewMetrics:
        """The metrics of how well a camera sees; series of `states` exist from now on, at 0.

        `made_ns`: when its flat-field was made, Unix ns; None: it has none.
        """
        return ViewMetrics(self, camera, states, made_ns)

    def drift(self, camera: str, measures: Iterable[str]) -> DriftMetrics:
        """The metrics of how far a camera's frames are from what they were; states and counters exist from now on."""
        return DriftMetrics(self, camera, measures)

    def sink(self, label: str) -> SinkMetrics:
        """The metrics of one sink; the same handle every time."""
        if label not in self._sinks:
            self._sinks[label] = SinkMetrics(self, label)
        return self._sinks[label]

    def desk(self, socket: str, asks: Iterable[str]) -> DeskMetrics:
        """The metrics of a socket at which clients ask; series of these asks exist from now on, at 0."""
        return DeskMetrics(self, socket, asks)

    # ---------------------------------------------------------------- read at scrape time

    def watch_queue(self, name: str, statistics: Callable[[], QueueStatistics]) -> None:
        """Show a queue; `statistics` is called by the scraping thread."""
        self.queue_items.labels(name).set_function(lambda: statistics().queued)
        self.queue_capacity.labels(name).set_function(lambda: statistics().capacity)

    def watch_pool(self, slots: int, in_use: Callable[[], int]) -> None:
        """Show the frame pool; `in_use` is called by the scraping thread."""
        self.pool_slots.set(slots)
        self.pool_slots_in_use.set_function(in_use)

    def watch_journal(self, size_bytes: Callable[[], int], pending: Callable[[], int]) -> None:
        """Show the journal; both are called by the scraping thread."""
        self.journal_bytes.set_function(lambda: _or_nan(size_bytes))
        self.journal_pending.set_function(pending)

    # ---------------------------------------------------------------- per batch

    def ages(self, frames: Iterable[tuple[str, int]], now_ns: int) -> None:
        """Book the age of frames (camera, exposure) whose events went out at `now_ns`, both on the same clock.

        A clock that was set back counts as age 0: a negative one would make the histogram's sum fall.
        """
        for camera, exposed_ns in frames:
            self.camera(camera).aged(max(0, now_ns - exposed_ns) * 1e-9, self._deadline_s)

    def cascaded(self, frames: int, tiles: int, passed: int, segmented: Mapping[str, int]) -> None:
        """Book a batch that went through the networks; `segmented` is tiles by class name."""
        self.batch_size.observe(frames)
        self.tiles_gated.inc(tiles)
        self.gate_passed.inc(passed)
        for name, count in segmented.items():
            self.tiles_segmented.labels(name).inc(count)

    def overload_stepped(self, step: int, *, up: bool, why: str) -> None:
        """Book a step of the overload ladder; `why` is one of STEP_REASONS."""
        self.overload_step.set(step)
        self.overload_steps.labels(Direction.UP if up else Direction.DOWN, why).inc()

    # ---------------------------------------------------------------- making the table

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return self._add(
            Counter(name, meaning, labels, namespace=PREFIX, registry=self.registry), name, meaning, labels
        )

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return self._add(Gauge(name, meaning, labels, namespace=PREFIX, registry=self.registry), name, meaning, labels)

    def _histogram(self, name: str, meaning: str, edges: Sequence[float], *labels: str) -> Histogram:
        made = Histogram(name, meaning, labels, namespace=PREFIX, registry=self.registry, buckets=edges)
        return self._add(made, name, meaning, labels)

    def _info(self, name: str, meaning: str, *labels: str) -> Info:
        made = Info(name, meaning, labels, namespace=PREFIX, registry=self.registry)
        return self._add(made, f"{name}_info", meaning, labels)

    def _add(self, metric: M, name: str, meaning: str, labels: tuple[str, ...]) -> M:
        self.table.append(Row(f"{PREFIX}_{name}", type(metric).__name__.lower(), labels, meaning))
        return metric


class CameraMetrics:
    """One camera's metrics. Counters may be used from any thread."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.captured = metrics.frames_captured.labels(name)
        self.inspected = metrics.frames_inspected.labels(name)
        self.age = metrics.frame_age.labels(name)
        self.deadline_missed = metrics.deadline_missed.labels(name)
        self.strip_metres = metrics.strip_inspected.labels(name)
        self._depths = {
            depth: (metrics.frames_depth.labels(name, depth), metrics.strip_depth.labels(name, depth))
            for depth in Depth
        }
        self.up = metrics.camera_up.labels(name)
        self.reopens = metrics.camera_reopens.labels(name)
        self.packets_lost = metrics.camera_packets_lost.labels(name)
        self.packets_resent = metrics.camera_packets_resent.labels(name)
        self._clock: Gauge | None = None  # a camera without a clock has no series
        self._clocks = metrics.camera_clock
        self._name, self._frames_lost = name, metrics.frames_lost
        self._lost = {(stage, reason): self._lost_series(stage, reason) for reason, stage in LOST_AT.items()}
        metrics.coverage.labels(name).set_function(self.coverage)

    def lost(self, reason: Reason, count: int = 1, stage: str | None = None) -> None:
        """Book `count` lost frames; `stage` where it is another than the usual one of this reason."""
        key = (stage or LOST_AT[reason], reason)
        series = self._lost.get(key)
        if series is None:
            series = self._lost[key] = self._lost_series(*key)
        series.inc(count)

    @property
    def not_in_full(self) -> int:
        """Frames inspected so far for which segmenters, or more, were left out."""
        return sum(int(_value(of)) for depth, (of, _) in self._depths.items() if depth is not Depth.FULL)

    def saw(self, frames: int, metres: float, depth: Depth) -> None:
        """Book frames whose verdict is final, and the strip that they show."""
        self.inspected.inc(frames)
        self.strip_metres.inc(metres)
        of_depth, metres_of_depth = self._depths[depth]
        of_depth.inc(frames)
        metres_of_depth.inc(metres)

    def clock_within(self, seconds: float) -> None:
        """Show how well the camera's clock is known."""
        if self._clock is None:
            self._clock = self._clocks.labels(self._name)
        self._clock.set(seconds)

    def aged(self, seconds: float, deadline_s: float | None) -> None:
        """Book the age of one frame."""
        self.age.observe(seconds)
        if deadline_s is not None and seconds > deadline_s:
            self.deadline_missed.inc()

    def coverage(self) -> float:
        """Inspected of all settled frames, 0..1; NaN before the first."""
        inspected = _value(self.inspected)
        settled = inspected + sum(_value(series) for series in list(self._lost.values()))
        return inspected / settled if settled else nan

    def _lost_series(self, stage: str, reason: Reason) -> Counter:
        return self._frames_lost.labels(self._name, stage, reason)


class ViewMetrics:
    """The metrics of how well one camera sees. What was not measured yet has no series."""

    def __init__(self, metrics: Metrics, name: str, states: Iterable[str], made_ns: int | None) -> None:
        self._metrics, self._name = metrics, name
        self._states = {state: metrics.camera_view.labels(name, state) for state in states}
        self._flat_field = made_ns is not None
        if made_ns is not None:
            metrics.flat_field_age.labels(name).set_function(lambda: time.time() - made_ns * 1e-9)

    def strip(self, ratio: float) -> None:
        """Show how much of the frames is strip."""
        self._metrics.camera_strip.labels(self._name).set(ratio)

    def show(self, brightness: float, saturated: float, focus: float | None) -> None:
        """Show the figures of a window of frames."""
        self._metrics.camera_brightness.labels(self._name).set(brightness)
        self._metrics.camera_saturated.labels(self._name).set(saturated)
        self._metrics.camera_focus.labels(self._name).set(nan if focus is None else focus)

    def columns(self, dead: int, residual: float | None) -> None:
        """Show how many columns are dead, and how uneven the rest is."""
        self._metrics.camera_dead_columns.labels(self._name).set(dead)
        if self._flat_field:
            self._metrics.flat_field_residual.labels(self._name).set(nan if residual is None else residual)

    def holds(self, state: str, true: bool) -> None:
        """Show that a state of the view holds, or no longer does."""
        self._states[state].set(true)


class DriftMetrics:
    """The metrics of how far one camera's frames are from what they were. What is not known has no series."""

    def __init__(self, metrics: Metrics, name: str, measures: Iterable[str]) -> None:
        self._metrics, self._name = metrics, name
        self._states = {measure: metrics.drift_state.labels(name, measure) for measure in measures}
        self._warnings = {measure: metrics.drift_warnings.labels(name, measure) for measure in self._states}
        self._shown: set[tuple[Gauge, tuple[str, ...]]] = set()

    def distance(self, measure: str, against: str, psi: float) -> None:
        """Show how far a distribution is from that of a reference."""
        self._show(self._metrics.drift_psi, psi, measure, against)

    def share(self, measure: str, ratio: float) -> None:
        """Show which share of the frames it is."""
        self._show(self._metrics.drift_frames, ratio, measure)

    def times(self, measure: str, against: str, ratio: float) -> None:
        """Show that share over that of a reference."""
        self._show(self._metrics.drift_times, ratio, measure, against)

    def forget(self, measure: str | None = None) -> None:
        """What was shown of a measure, or of all, is no longer known."""
        gone = {shown for shown in self._shown if measure in (None, shown[1][1])}
        for gauge, labels in gone:
            gauge.remove(*labels)
        self._shown -= gone

    def learnt(self, ratio: float) -> None:
        """Show how much of what is usual is known."""
        self._metrics.drift_learnt.labels(self._name).set(ratio)

    def holds(self, measure: str, true: bool) -> None:
        """Show that a measure is off, or no longer is."""
        self._states[measure].set(true)
        if true:
            self._warnings[measure].inc()

    def _show(self, gauge: Gauge, value: float, *labels: str) -> None:
        gauge.labels(self._name, *labels).set(value)
        self._shown.add((gauge, (self._name, *labels)))


class StageMetrics:
    """One stage's metrics: `began` when it takes items, `ended` when a batch of them is handed on."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._name = name
        self._in = metrics.stage_in.labels(name)
        self._out = metrics.stage_out.labels(name)
        self._in_progress = metrics.stage_in_progress.labels(name)
        self._batches = metrics.stage_batches.labels(name)
        self._busy = metrics.stage_busy.labels(name)
        self._all_last_success = metrics.stage_last_success
        self._last_success: Gauge | None = None  # "never" is an absent series, not a 0 from 1970

    def began(self, items: int = 1) -> None:
        """The stage took `items`."""
        self._in.inc(items)
        self._in_progress.inc(items)

    def ended(self, items: int = 1, *, out: int | None = None, busy_s: float = 0.0) -> None:
        """A batch of `items` is done and `out` of them (all, when left out) went on; it took `busy_s` seconds."""
        self._in_progress.dec(items)
        self._out.inc(items if out is None else out)
        self._batches.inc()
        self._busy.inc(busy_s)
        if self._last_success is None:
            self._last_success = self._all_last_success.labels(self._name)
        self._last_success.set(time.time())


class SinkMetrics:
    """One sink's metrics."""

    def __init__(self, metrics: Metrics, label: str) -> None:
        self.published = metrics.events_published.labels(label)
        self._undelivered = {reason: metrics.events_undelivered.labels(label, reason) for reason in Undelivered}

    def undelivered(self, reason: Undelivered, count: int = 1) -> None:
        """Book `count` events that the sink did not take."""
        self._undelivered[reason].inc(count)


class DeskMetrics:
    """The metrics of one socket at which clients ask."""

    def __init__(self, metrics: Metrics, socket: str, asks: Iterable[str]) -> None:
        self._requests = {
            (ask, outcome): metrics.requests.labels(socket, ask, outcome)
            for ask in (*asks, "other")
            for outcome in Outcome
        }
        self._unsent = metrics.answers_unsent.labels(socket)
        self._waits = metrics.request_waits.labels(socket)
        self._turned_away = metrics.turned_away.labels(socket)

    def asked(self, ask: str, outcome: str) -> None:
        """Book a request that was answered; `outcome` is an Outcome."""
        self._requests[ask, Outcome(outcome)].inc()

    def unsent(self) -> None:
        """Book an answer that its client did not take."""
        self._unsent.inc()

    def waited(self) -> None:
        """Book that requests have to wait."""
        self._waits.inc()

    def turned_away(self, count: int) -> None:
        """Book connections that were not let in or were cut."""
        self._turned_away.inc(count)


def _value(series: Counter | Gauge | Histogram, ending: str = "_total") -> float:
    samples = next(iter(series.collect())).samples
    return next(sample.value for sample in samples if sample.name.endswith(ending))


def _or_nan(read: Callable[[], float]) -> float:
    """A file that cannot be looked at must not cost the whole scrape."""
    try:
        return read()
    except OSError:
        return nan
