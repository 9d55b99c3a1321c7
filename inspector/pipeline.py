"""The whole line in one screen: build(config).

camera -> Capture -> frames -> Preprocess -> batches -> Cascade x N -> verdicts -> Grading -> graded -> Publish
                                                                                 journal, then sinks <-'
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import cv2

from inspector import adapters, overload
from inspector.awaiting import Awaiting
from inspector.awaiting import begin as begin_on
from inspector.baselines import Baselines, beside
from inspector.cameras import Camera
from inspector.capture import Capture
from inspector.channel import Channel
from inspector.checking import check, flat_fields
from inspector.coils import FORGET, CoilMap
from inspector.config import CameraConfig, Config, JournalConfig
from inspector.config import load as config_of
from inspector.control import Control, StateAnswer
from inspector.drift import Drift
from inspector.engines import Duty, Engines
from inspector.errors import ConfigError, JournalError
from inspector.events import NOT_TYPED_NAME, Event, Reason
from inspector.grading import Grading
from inspector.history import History
from inspector.journal import Journal, Telegram
from inspector.ledger import Ledger
from inspector.logbook import counted
from inspector.metrics import Metrics, StageMetrics
from inspector.monitor import Health, Monitor
from inspector.overlap import Overlap
from inspector.overload import Overload
from inspector.pack import Pack
from inspector.packs.begin import begin
from inspector.packs.changes import Changes
from inspector.packs.comparing import Difference, Lateness
from inspector.packs.store import Store
from inspector.plant import Plant, restore
from inspector.pool import Pool
from inspector.preprocess import Preprocess
from inspector.publish import COMMIT_ITEMS, Deliver, Publish, Retention, Serve
from inspector.recording import Recording
from inspector.records import Batch, Frame, Graded, Loss, Verdicts, WhenFull
from inspector.runtimes import Runtime
from inspector.stages import CascadeStage, GradingStage, PreprocessStage
from inspector.strip import Geometry
from inspector.view import views
from inspector.wire.flood import watch as watch_floods
from inspector.worker import Crew, Pulse, Worker

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
    with ExitStack() as held:
        metrics = Metrics(deadline_s=config.line.deadline_ms / 1000)
        held.enter_context(counted(metrics.warned))
        check(config)
        store = Store(config.packs_folder, config.line.name)
        begun = begin(config, store)
        engines = begun.pack
        first, awaited = begin_on(engines, config.runtime)
        duty = held.enter_context(Duty(first))
        workers = duty.current.runtime.workers
        cameras = {c.name: _open_camera(c, i) for i, c in enumerate(config.cameras)}
        sizes = _sizes(config, workers)
        journal = held.enter_context(_journal(config, engines, sizes.in_flight))

        # ---- what the stages share
        lossless = config.line.when_full is WhenFull.WAIT
        geometries = _geometries(config)
        stop = threading.Event()
        ledger = Ledger(list(cameras))
        pool = Pool(sizes.pool, (awaited or first).runtime.allocate)
        coils = CoilMap(config.line.coil, on_forget=lambda: line.forget_coils())
        restore(coils, journal.telegrams)
        line = Line(config, duty, metrics, ledger, journal, coils, stop, held)
        line.awaiting = Awaiting(duty, awaited, line.engaged) if awaited else None

        # ---- the channels between them
        dropped = line.drop_frame
        frames = Channel[Frame](
            config.line.queue, config.line.when_full, writers=len(cameras), on_drop=dropped, on_put=line.take_in
        )
        batches = Channel[Batch](workers)
        line.before_networks, line.workers = (frames, batches), workers
        verdicts = Channel[Verdicts](sizes.verdicts, writers=workers)
        graded = Channel[Graded](sizes.graded)
        outboxes = {
            s.label: Channel[Event](
                s.queue, WhenFull.WAIT if s.required else WhenFull.DROP_OLDEST, on_drop=line.undelivered(s.label)
            )
            for s in config.sinks
        }

        # ---- the stages
        corrections = flat_fields(config)
        watches = views(config, geometries, corrections, metrics)
        preprocess = Preprocess(engines.manifest.tile, config.edges, config.batch, corrections, watches)
        grading = line.grading = Grading(
            config.line.name,
            config.grading,
            engines,
            geometries,
            coils,
            ledger,
            journal.resumed,
            birth=line.birth,
            overlaps={c.name: c.overlap_lines for c in config.cameras},
        )
        publish = line.publish = Publish(
            config.line.name,
            journal,
            ledger,
            outboxes,
            line.state,
            config.line.heartbeat_s,
            metrics,
            lossless,
            retention=_retention(config.journal),
            waiting=_booked(graded.take, metrics.stage("publish")),
        )
        line.changes = Changes(config, duty, store, begun, line, metrics)
        recording = line.recording = _recording(line)
        line.drift = _drift(line)
        grading.down = lambda: dict(publish.down)
        line.overload = overload.of(config, metrics, publish.say, frames.statistics, preprocess.resize)
        publish.overload_step = line.overload_step
        publish.pack_digest = lambda: duty.current.digest
        captures = line.captures = [
            Capture(
                c.name,
                cameras[c.name],
                pool,
                ledger,
                stop,
                metrics.camera(c.name),
                publish.say,
                silent_s=c.silent_s,
                taps=recording.taps(c.name) if recording else (),
                overlap=Overlap(c.overlap_lines, geometries[c.name]) if c.overlap_lines else None,
            )
            for c in config.cameras
        ]

        grade = GradingStage(grading, line.failed, line.look, line.see)
        line.plant = Plant(
            coils, publish.tell, lambda: _newest(captures), grade.stand, line.answer_state, config.line.mm_per_count
        )

        # ---- one thread each, from the cameras to the sinks
        line.crew = Crew(
            [
                *(Worker(f"capture-{c.name}", c, None, frames, metrics.stage("capture")) for c in captures),
                Worker("preprocess", PreprocessStage(preprocess), frames, batches, metrics.stage("preprocess")),
                *(
                    Worker(f"cascade-{i}", _cascade(line), batches, verdicts, metrics.stage("cascade"))
                    for i in range(workers)
                ),
                Worker("grading", grade, verdicts, graded, metrics.stage("grading")),
                Worker("publish", publish, graded, None, metrics.stage("publish")),
                *(
                    Worker(f"sink-{s.label}", _deliver(line, s.label, i, outboxes[s.label].take), outboxes[s.label])
                    for i, s in enumerate(config.sinks)
                ),
            ],
            stop_sources=stop.set,
        )
        line.cameras = cameras
        _show(line, pool, {"frames": frames, "batches": batches, "verdicts": verdicts, "graded": graded, **outboxes})
        line.held = held.pop_all()
        return line


class Server(Protocol):
    """Something that answers on a socket."""

    def open(self) -> None: ...

    def serve(self, stop: threading.Event) -> None: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Line:
    """A built line: start it, watch it, stop it. Everything is released on exit."""

    config: Config
    duty: Duty
    metrics: Metrics
    ledger: Ledger
    journal: Journal
    coils: CoilMap
    stop: threading.Event
    held: ExitStack
    crew: Crew = field(init=False)
    publish: Publish = field(init=False)
    cameras: dict[str, Camera] = field(init=False)
    plant: Plant = field(init=False)
    changes: Changes = field(init=False)
    before_networks: Sequence[Channel[Any]] = ()
    """What waits between the cameras and the networks."""
    workers: int = 1
    """Cascade workers side by side."""
    grading: Grading = field(init=False)
    captures: Sequence[Capture] = ()
    looks: list[Callable[[Graded], None]] = field(default_factory=list)
    """Each sees what was graded before the journal does, and may change it."""
    sees: list[Callable[[Verdicts], None]] = field(default_factory=list)
    """Each sees verdicts before they are graded, in order."""
    recording: Recording | None = None
    overload: Overload | None = None
    drift: Drift | None = None
    awaiting: Awaiting | None = None
    """Engines that take over when they can be opened."""
    monitor: Monitor | None = None
    history: History | None = None
    control: Control | None = None
    _taken_ns: int = field(default=0, init=False)

    def __enter__(self) -> Self:
        """Start every thread.

        Raises:
            ConfigError: the address of a socket is taken.
        """
        cv2.setNumThreads(1)  # its own threads would fight the workers for the cores over 20 us of work
        with ExitStack() as undo:
            undo.push(self.held)
            self._open_servers()
            undo.pop_all()
        self.crew.start()
        return self

    def _open_servers(self) -> None:
        config = self.config
        self.serve("watchman", watch_floods)
        # Loading and warming engines may take longer than the watchdog waits, and nothing waits for them.
        self._open_server("packs", self.changes, watched=False)
        if self.awaiting is not None:
            self.serve("plans", self.awaiting.serve, watched=False)
        if self.recording is not None:
            self._open_server("recording", self.recording)
        if self.drift is not None:
            self._open_server("drift", self.drift.baselines)
        if config.monitor is not None:
            self.monitor = Monitor(config.monitor, self.metrics.registry, self.health)
            self._open_server("monitor", self.monitor)
        if config.history is not None:
            self.history = History(
                config.journal.path, source_of(config), self.journal.epoch, config.history, self.metrics
            )
            self._open_server("history", self.history)
            self.publish.history = self.history.endpoint
        if config.control is not None:
            self.control = Control(config.control, self.plant, self.changes, self.metrics)
            self._open_server("control", self.control)

    def _open_server(self, name: str, server: Server, watched: bool = True) -> None:
        """Bind it and let a thread of its own serve until the line is left."""
        server.open()
        self.held.callback(server.close)
        self.serve(name, server.serve, watched)

    def serve(self, name: str, serve: Callable[[threading.Event], None], watched: bool = True) -> None:
        """A thread of its own until the line is left, for a line that was entered; `watched`: the watchdog runs out if
        it does not look at its event."""
        done = Pulse()
        worker = Worker(name, Serve(name, serve, done))
        done.beat = worker.beat
        if watched:
            self.crew.servers.append(worker)
        worker.start()
        self.held.callback(worker.join, JOIN_S)
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
    def pack(self) -> Pack:
        """The pack on duty."""
        return self.duty.current.pack

    @property
    def runtime(self) -> Runtime:
        """What its networks run on."""
        return self.duty.current.runtime

    @property
    def running(self) -> bool:
        """False once every stage has ended, because the strip did, because of `stop`, or after a failure."""
        return self.crew.alive

    def failed(self) -> bool:
        return self.crew.failure is not None

    def overload_step(self) -> int:
        """What is left out now because the line is behind, 0: nothing; see overload.py."""
        return 0 if self.overload is None else self.overload.step

    def state(self) -> tuple[str, str]:
        """(state, coil) for the heartbeat."""
        health = self.health()
        word = "running" if health.ready else ("stopping" if self.stop.is_set() else "starting")
        return (word if health.live else "stalled"), self.coils.now().name

    def answer_state(self) -> StateAnswer:
        """What the plant is told when it asks."""
        health = self.health()
        state, coil = self.state()
        return StateAnswer(
            state=state,
            coil=coil,
            status=health.status,
            reasons=health.reasons,
            epoch=self.journal.epoch,
            source=source_of(self.config),
            cameras=self.ledger.totals(),
            high_water=self.journal.high_water(),
            undelivered=self.publish.undelivered,
            journal=self.journal.mark(),
        )

    def forget_coils(self) -> None:
        """The encoder counts anew: a later start must not take the old telegrams for true."""
        self.publish.tell(Telegram(time.time_ns(), "inspector", FORGET, "", 0))

    def see(self, verdicts: Verdicts) -> None:
        """See verdicts before they are graded, in order, in grading's thread."""
        for see in self.sees:
            see(verdicts)

    def look(self, graded: Graded) -> None:
        """See what was graded, in grading's thread."""
        for look in self.looks:
            look(graded)

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
        newest = {capture.name: capture.trouble for capture in self.captures}
        reasons += [f"camera {name} is down: {newest.get(name) or down[name]}" for name in down if name in issued]
        if not self.publish.healthy:
            reasons.append("the journal cannot be written")
        ready = not reasons and not self.stop.is_set()
        self.metrics.ready.set(ready)
        return Health(live, ready, reasons, self._status())

    def _status(self) -> str:
        totals = self.ledger.totals().values()
        inspected, lost = sum(t.inspected for t in totals), sum(sum(t.lost.values()) for t in totals)
        behind = f"; overload: {self.overload.step.words}" if self.overload is not None and self.overload.step else ""
        return f"{inspected:,} frames inspected, {lost:,} lost, coil {self.coils.now().name}{behind}"

    # ------------------------------------------------------------ what a change of the pack calls

    def busy(self) -> bool:
        """Frames wait for a network, or would if one came now: whatever can wait should. Where cameras wait too, no
        frame can be lost."""
        if self.config.line.when_full is WhenFull.WAIT:
            return False
        waiting = any(channel.statistics().queued for channel in self.before_networks)
        return waiting or self.metrics.in_progress("cascade") >= self.workers

    def lateness(self) -> Lateness:
        """Of all frames so far; those that were lost because the line was behind count as late, and so do those that
        were inspected less deeply, as leaving out networks is what keeps frames young."""
        frames, late = self.metrics.lateness()
        dropped = sum(totals.lost.get(Reason.OVERLOAD, 0) for totals in self.ledger.totals().values())
        return Lateness(frames + dropped, late + dropped + self.metrics.not_in_full())

    def engaged(self, engines: Engines) -> None:
        """These engines are on duty from now on."""
        found, runtime = engines.pack, engines.runtime
        digests = {name: digest for name, (_, digest) in found.networks().items()}
        self.metrics.engines(digests, runtime.name, runtime.precisions)
        self.metrics.on_duty(found.manifest.name, found.manifest.version, found.digest)
        if self.recording is not None:
            self.recording.judged_by(found)

    def tell(self, state: str, detail: str) -> None:
        """A state event about the pack."""
        self.publish.say("pack", state, detail)

    # ------------------------------------------------------------ what the stages call

    def birth(self, frame: Frame) -> int:
        """Since when a frame lives, Unix ns: its exposure, or for a recording the moment it was read."""
        if self.config.line.when_full is WhenFull.WAIT:
            return time.time_ns() - (time.monotonic_ns() - frame.monotonic_ns)
        return frame.exposed_ns

    def take_in(self, frame: Frame) -> None:
        """Its place among the frames of all cameras is settled; the channel is locked, so nobody has graded it yet."""
        self._taken_ns = frame.taken_ns = max(self._taken_ns + 1, time.monotonic_ns())
        if self.recording is not None:
            self.recording.taken(frame)

    def drop_frame(self, frame: Frame) -> None:
        """The line is behind and the oldest waiting frame goes."""
        frame.release()
        self.ledger.lose(Loss(frame.camera, frame.sequence, 1, Reason.OVERLOAD, "the line was behind"))
        if self.overload is not None:
            self.overload.dropped(frame.monotonic_ns)
        for capture in self.captures:
            if capture.name == frame.camera:
                capture.dropped()  # no log line here: the channel is locked

    def undelivered(self, sink: str) -> Callable[[Event], None]:
        """Counts events that a slow sink's queue dropped."""
        return lambda event: self.publish.sent(sink, 0, 1, "queue_full")


# ---------------------------------------------------------------- parts of build


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
    size = overload.widest(config)
    pool = config.line.queue + batches_in_flight * size + 2 * len(config.cameras)
    waiting = (GRADED + COMMIT_ITEMS + 2) * size + (config.grading.join_frames + 1) * len(config.cameras)
    return _Sizes(verdicts, GRADED, pool, in_flight=pool + waiting)


def _open(seam: str, section: Any, where: str, *extra: Any) -> Any:
    adapter = adapters.module(seam, section.kind, where)
    return adapter.open(adapters.options(adapter, section.options, f"{where}.options"), *extra)


def _open_camera(camera: CameraConfig, index: int) -> Camera:
    where = f"cameras[{index}]"
    adapter = adapters.module("cameras", camera.kind, where)
    opened: Camera = adapter.open(camera.name, adapters.options(adapter, camera.options, f"{where}.options"))
    return opened


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
            source=source_of(config),
            synchronous=config.journal.synchronous,
            capacity_frames=capacity,
            cameras=[c.name for c in config.cameras],
            digest=engines.digest,
        )
    except JournalError as error:
        raise ConfigError(str(error)) from error


def source_of(config: Config) -> str:
    """`source` of the line's events."""
    return f"/inspector/{config.line.name}"


def _recording(line: Line) -> Recording | None:
    """What `recording:` asks for, looking on."""
    section = line.config.recording
    if section is None:
        return None
    made = Recording(line.config, section, line.pack, line.coils, line.metrics, line.publish.say)
    line.looks.append(made.look)
    line.coils.on_told = made.told
    return made


def _drift(line: Line) -> Drift | None:
    """The watch over how the cameras' frames change, where it is wanted."""
    section = line.config.drift
    if not section.watch:
        return None
    file = beside(line.config.journal.path)
    known = Baselines(file, section.window_frames, line.metrics.drift_unsaved.inc)
    names = [camera.name for camera in line.config.cameras]
    made = Drift(section, lambda: line.pack, names, known, line.metrics)
    line.sees.append(made.see)
    return made


def _retention(config: JournalConfig) -> Retention:
    day_ns = 86_400_000_000_000
    return Retention(
        None if config.keep_gb is None else int(config.keep_gb * 1e9),
        None if config.keep_days is None else int(config.keep_days * day_ns),
    )


def _newest(captures: Sequence[Capture]) -> int | None:
    return max((c.encoder_count for c in captures if c.encoder_count is not None), default=None)


def _cascade(line: Line) -> CascadeStage:
    config = line.config
    return CascadeStage(line.duty, config.grading.merge_px, line.metrics, line.changes.tap, overload=line.overload)


def _deliver(line: Line, label: str, index: int, waiting: Callable[[int], Sequence[Event]]) -> Deliver:
    section = line.config.sinks[index]
    sink = _open("sinks", section, f"sinks[{index}]")
    return Deliver(
        label,
        sink,
        section.required,
        lambda sent, refused, why: line.publish.sent(label, sent, refused, why),
        on_state=line.publish.say,
        waiting=waiting,
    )


def _booked(take: Callable[[int], list[Graded]], books: StageMetrics) -> Callable[[int], list[Graded]]:
    """What a stage takes out of its inbox by itself goes through the books of its worker too."""

    def taken(most: int) -> list[Graded]:
        items = take(most)
        if items:
            books.began(len(items))
            books.ended(len(items), out=0)
        return items

    return taken


def _show(line: Line, pool: Pool, channels: dict[str, Channel[Any]]) -> None:
    """Everything that a scrape reads."""
    metrics = line.metrics
    metrics.for_cameras(line.cameras)
    metrics.for_sinks(s.label for s in line.config.sinks)
    rules = [rule.severity for rule in line.config.grading.severity]
    severities = list(dict.fromkeys([*rules, line.config.grading.default_severity]))
    metrics.for_defects(line.pack.class_names.values(), severities)
    if line.overload is not None:
        names = [*line.pack.class_names.values(), NOT_TYPED_NAME]
        metrics.for_unmeasured(names, line.config.grading.unmeasured_severity)
    metrics.for_packs(Difference)
    line.engaged(line.duty.current)
    for name, channel in channels.items():
        metrics.watch_queue(name, channel.statistics)
    metrics.watch_pool(pool.slots, lambda: pool.in_use)
    metrics.watch_journal(line.journal.size_bytes, lambda: line.journal.pending)
