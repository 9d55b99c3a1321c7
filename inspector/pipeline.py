"""The whole line in one screen: build(config).

camera -> Capture -> frames -> Preprocess -> batches -> Cascade x N -> verdicts -> Grading -> graded -> Publish
                                                                                 journal, then sinks <-'
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2

from inspector import adapters, pack
from inspector.cameras import Camera
from inspector.capture import Capture
from inspector.channel import Channel
from inspector.config import DEFAULT_RULES, CameraConfig, Config, MonitorConfig
from inspector.config import load as config_of
from inspector.errors import ConfigError, JournalError
from inspector.events import Event, Reason
from inspector.grading import Grading
from inspector.journal import Journal
from inspector.journal import check as check_journal
from inspector.ledger import Ledger
from inspector.metrics import Metrics
from inspector.monitor import Health, Monitor
from inspector.monitor import check as check_monitor
from inspector.pack import Pack
from inspector.pool import Pool
from inspector.preprocess import FlatField, Preprocess
from inspector.publish import COMMIT_ITEMS, Deliver, Publish, Serve
from inspector.records import Batch, Frame, Graded, Loss, Verdicts, WhenFull
from inspector.runtimes import Runtime
from inspector.stages import CascadeStage, GradingStage, PreprocessStage
from inspector.strip import CoilMap, Geometry
from inspector.worker import Crew, Worker

JOIN_S = 5.0
"""How long the exit of a line waits for threads that should have ended already."""
GRADED = 64
"""Graded batches that wait for the journal at most."""
STALL_S = 10.0
"""A stage without progress for so long makes the line unhealthy."""


def load(path: Path) -> Config:
    """The configuration of a YAML file; relative paths in it, options included, are taken from its folder.

    Raises:
        ConfigError: see `inspector.config.load`.
    """
    try:
        return adapters.anchored(config_of(path), path.parent)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def build(config: Config) -> Line:
    """The line of a configuration: everything acquired and warm, nothing running yet.

    Raises:
        ConfigError: a setting, a file or a port is wrong.
    """
    check(config)
    with ExitStack() as held:
        engines = pack.load(config.pack)
        metrics = Metrics(deadline_s=config.line.deadline_ms / 1000)
        runtime: Runtime = held.enter_context(_open("runtimes", config.runtime, "runtime", engines))
        cameras = {c.name: _open_camera(c, i) for i, c in enumerate(config.cameras)}
        sizes = _sizes(config, runtime.workers)
        journal = held.enter_context(_journal(config, engines, sizes.in_flight))

        # ---- what the stages share
        lossless = config.line.when_full is WhenFull.WAIT
        stop = threading.Event()
        ledger = Ledger(list(cameras))
        pool = Pool(sizes.pool)
        coils = CoilMap(config.line.coil)
        line = Line(config, engines, runtime, metrics, ledger, journal, coils, stop, held)

        # ---- the channels between them
        dropped = line.drop_frame
        frames = Channel[Frame](config.line.queue, config.line.when_full, writers=len(cameras), on_drop=dropped)
        batches = Channel[Batch](runtime.workers)
        verdicts = Channel[Verdicts](sizes.verdicts, writers=runtime.workers)
        graded = Channel[Graded](sizes.graded)
        outboxes = {
            s.label: Channel[Event](
                s.queue, WhenFull.WAIT if s.required else WhenFull.DROP_OLDEST, on_drop=line.undelivered(s.label)
            )
            for s in config.sinks
        }

        # ---- the stages
        preprocess = Preprocess(engines.manifest.tile, config.edges, config.batch, _flat_fields(config))
        grading = Grading(
            config.line.name,
            config.grading,
            engines,
            _geometries(config),
            coils,
            ledger,
            journal.resumed,
            birth=line.birth,
            blind_frames=config.edges.blind_frames,
        )
        publish = line.publish = Publish(
            config.line.name, journal, ledger, outboxes, line.state, config.line.heartbeat_s, metrics, lossless
        )
        captures = [
            Capture(
                c.name, cameras[c.name], pool, ledger, stop, metrics.camera(c.name), publish.say, silent_s=c.silent_s
            )
            for c in config.cameras
        ]

        # ---- one thread each, from the cameras to the sinks
        line.crew = Crew(
            [
                *(Worker(f"capture-{c.name}", c, None, frames, metrics.stage("capture")) for c in captures),
                Worker("preprocess", PreprocessStage(preprocess), frames, batches, metrics.stage("preprocess")),
                *(
                    Worker(f"cascade-{i}", _cascade(line), batches, verdicts, metrics.stage("cascade"))
                    for i in range(runtime.workers)
                ),
                Worker("grading", GradingStage(grading, line.failed), verdicts, graded, metrics.stage("grading")),
                Worker("publish", publish, graded, None, metrics.stage("publish")),
                *(
                    Worker(f"sink-{s.label}", _deliver(line, s.label, i), outboxes[s.label])
                    for i, s in enumerate(config.sinks)
                ),
            ],
            stop_sources=stop.set,
        )
        line.cameras = cameras
        _show(line, pool, {"frames": frames, "batches": batches, "verdicts": verdicts, "graded": graded, **outboxes})
        line.held = held.pop_all()
        return line


def check(config: Config) -> list[tuple[str, str, str]]:
    """Validate everything that can be without opening it; the line as rows (part, kind or value, detail).

    Raises:
        ConfigError: the first thing that is wrong, with the setting or file named.
    """
    engines = pack.load(config.pack)
    classes = ", ".join(f"{c.number} {c.name}" for c in engines.manifest.classes)
    rows = [
        ("line", config.line.name, f"coil {config.line.coil}, {config.line.mm_per_count} mm per encoder count"),
        ("pack", engines.manifest.name, f"{engines.digest[:19]} classes {classes}"),
        ("runtime", config.runtime.kind, _check_adapter("runtimes", config.runtime, "runtime")),
    ]
    _check_rules(config, set(engines.class_names))
    flat_fields = _flat_fields(config)
    for index, camera in enumerate(config.cameras):
        detail = _check_adapter("cameras", camera, f"cameras[{index}]")
        flat = "flat-field" if flat_fields[camera.name] else "no flat-field"
        rows.append((f"camera {camera.name}", camera.kind, f"{detail}; {flat}"))
    try:
        check_journal(config.journal.path)
    except JournalError as error:
        raise ConfigError(str(error)) from None
    rows.append(("journal", str(config.journal.path), "synchronous" if config.journal.synchronous else "normal"))
    for index, sink in enumerate(config.sinks):
        rows.append((f"sink {sink.label}", sink.kind, _check_adapter("sinks", sink, f"sinks[{index}]")))
    if config.monitor is not None:
        check_monitor(config.monitor)
        rows.append(("monitor", f"http://{config.monitor.host}:{config.monitor.port}", "/metrics /healthz /readyz"))
    return rows


@dataclass(eq=False)
class Line:
    """A built line: start it, watch it, stop it. Everything is released on exit."""

    config: Config
    pack: Pack
    runtime: Runtime
    metrics: Metrics
    ledger: Ledger
    journal: Journal
    coils: CoilMap
    stop: threading.Event
    held: ExitStack
    crew: Crew = field(init=False)
    publish: Publish = field(init=False)
    cameras: dict[str, Camera] = field(init=False)
    monitor: Monitor | None = None

    def __enter__(self) -> Self:
        """Start every thread.

        Raises:
            ConfigError: the monitor's port is taken.
        """
        cv2.setNumThreads(1)  # its own threads would fight the workers for the cores over 20 us of work
        if self.config.monitor is not None:
            with ExitStack() as undo:
                undo.push(self.held)
                self._open_monitor(self.config.monitor)
                undo.pop_all()
        self.crew.start()
        return self

    def _open_monitor(self, config: MonitorConfig) -> None:
        self.monitor = Monitor(config, self.metrics.registry, self.health)
        self.monitor.open()
        self.held.callback(self.monitor.close)
        done = threading.Event()
        server = Worker("monitor", Serve(self.monitor.serve, done))
        server.start()
        self.held.callback(server.join, JOIN_S)
        self.held.callback(done.set)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        hanging = self.crew.join(JOIN_S)
        with self.held:
            if not hanging:
                self.journal.close(clean=self.crew.failure is None)

    @property
    def running(self) -> bool:
        """False once every stage has ended, because the strip did, because of `stop`, or after a failure."""
        return self.crew.alive

    def failed(self) -> bool:
        return self.crew.failure is not None

    def state(self) -> tuple[str, str]:
        """(state, coil) for the heartbeat."""
        health = self.health()
        word = "running" if health.ready else ("stopping" if self.stop.is_set() else "starting")
        return (word if health.live else "stalled"), self.config.line.coil

    def health(self) -> Health:
        """How the line is; cheap, from any thread."""
        stalled = self.crew.stalled(STALL_S)
        reasons = [f"stage {name} has made no progress for {STALL_S:.0f} s" for name in stalled]
        failure = self.crew.failure
        if failure is not None:
            reasons.append(f"stage {failure[0]} failed: {failure[1]}")
        live = not reasons
        issued = self.ledger.issued()
        reasons += [f"camera {name}: no frame yet" for name, count in issued.items() if count == 0]
        down = dict(self.publish.down)  # other threads change it
        reasons += [f"camera {name} is down: {down[name]}" for name in down if name in issued]
        if not self.publish.healthy:
            reasons.append("the journal cannot be written")
        ready = not reasons and not self.stop.is_set()
        self.metrics.ready.set(ready)
        return Health(live, ready, reasons, self._status())

    def _status(self) -> str:
        totals = self.ledger.totals().values()
        inspected, lost = sum(t.inspected for t in totals), sum(sum(t.lost.values()) for t in totals)
        return f"{inspected:,} frames inspected, {lost:,} lost, coil {self.config.line.coil}"

    # ------------------------------------------------------------ what the stages call

    def birth(self, frame: Frame) -> int:
        """Since when a frame lives, Unix ns: its exposure, or for a recording the moment it was read."""
        if self.config.line.when_full is WhenFull.WAIT:
            return time.time_ns() - (time.monotonic_ns() - frame.monotonic_ns)
        return frame.exposed_ns

    def drop_frame(self, frame: Frame) -> None:
        """The line is behind and the oldest waiting frame goes."""
        frame.release()
        self.ledger.lose(Loss(frame.camera, frame.sequence, 1, Reason.OVERLOAD, "the line was behind"))

    def undelivered(self, sink: str) -> Callable[[Event], None]:
        """Counts events that a slow sink's queue dropped."""
        return lambda event: self.publish.sent(sink, 0, 1, "queue_full")


# ---------------------------------------------------------------- parts of build and check


@dataclass(frozen=True)
class _Sizes:
    verdicts: int
    graded: int
    pool: int
    in_flight: int
    """Frames that can lie between the cameras and a commit: graded ones have left the pool already."""


def _sizes(config: Config, workers: int) -> _Sizes:
    """A pool that is never short before the channels are full: what waits, what is in work, one for each camera."""
    verdicts = 2 * workers
    batches_in_flight = 1 + workers + workers + 2 * verdicts + 1
    pool = config.line.queue + batches_in_flight * config.batch.size + 2 * len(config.cameras)
    waiting = (GRADED + COMMIT_ITEMS + 2) * config.batch.size + (config.grading.join_frames + 1) * len(config.cameras)
    return _Sizes(verdicts, GRADED, pool, in_flight=pool + waiting)


def _open(seam: str, section: Any, where: str, *extra: Any) -> Any:
    adapter = adapters.module(seam, section.kind, where)
    return adapter.open(adapters.options(adapter, section.options, f"{where}.options"), *extra)


def _open_camera(camera: CameraConfig, index: int) -> Camera:
    where = f"cameras[{index}]"
    adapter = adapters.module("cameras", camera.kind, where)
    opened: Camera = adapter.open(camera.name, adapters.options(adapter, camera.options, f"{where}.options"))
    return opened


def _check_adapter(seam: str, section: Any, where: str) -> str:
    adapter = adapters.module(seam, section.kind, where)
    options = adapters.options(adapter, section.options, f"{where}.options")
    check_options = vars(adapter).get("check")
    if check_options is not None:
        check_options(options)
    shown = ", ".join(f"{key}={value}" for key, value in section.options.items())
    return shown or "defaults"


def _check_rules(config: Config, classes: set[int]) -> None:
    for index, rule in enumerate(config.grading.severity):
        unknown = set(rule.classes) - classes
        # The rules that are there by default name classes of the shipped pack; another pack may have fewer.
        if unknown and rule not in DEFAULT_RULES:
            known = ", ".join(map(str, sorted(classes)))
            raise ConfigError(f"grading.severity[{index}].classes: the pack has no class {min(unknown)}, only {known}")


def _flat_fields(config: Config) -> dict[str, FlatField | None]:
    return {c.name: FlatField.load(c.flat_field) if c.flat_field else None for c in config.cameras}


def _geometries(config: Config) -> dict[str, Geometry]:
    return {
        c.name: Geometry(c.pitch_mm.along, c.pitch_mm.across, c.offset_mm, config.line.mm_per_count)
        for c in config.cameras
    }


def _journal(config: Config, engines: Pack, capacity: int) -> Journal:
    try:
        return Journal.open(
            config.journal.path,
            line=config.line.name,
            source=f"/inspector/{config.line.name}",
            synchronous=config.journal.synchronous,
            capacity_frames=capacity,
            cameras=[c.name for c in config.cameras],
            digest=engines.digest,
        )
    except JournalError as error:
        raise ConfigError(str(error)) from error


def _cascade(line: Line) -> CascadeStage:
    return CascadeStage(line.pack, line.runtime, line.config.grading.merge_px, line.metrics)


def _deliver(line: Line, label: str, index: int) -> Deliver:
    section = line.config.sinks[index]
    sink = _open("sinks", section, f"sinks[{index}]")
    return Deliver(
        label,
        sink,
        section.required,
        lambda sent, refused, why: line.publish.sent(label, sent, refused, why),
        on_state=line.publish.say,
    )


def _show(line: Line, pool: Pool, channels: dict[str, Channel[Any]]) -> None:
    """Everything that a scrape reads."""
    metrics = line.metrics
    metrics.for_cameras(line.cameras)
    metrics.for_sinks(s.label for s in line.config.sinks)
    rules = [rule.severity for rule in line.config.grading.severity]
    severities = list(dict.fromkeys([*rules, line.config.grading.default_severity]))
    metrics.for_defects(line.pack.class_names.values(), severities)
    digests = {name: digest for name, (_, digest) in line.pack.networks().items()}
    metrics.engines(digests, line.runtime.name, line.runtime.precision)
    for name, channel in channels.items():
        metrics.watch_queue(name, channel.statistics)
    metrics.watch_pool(pool.slots, lambda: pool.in_use)
    metrics.watch_journal(line.journal.size_bytes, lambda: line.journal.pending)
