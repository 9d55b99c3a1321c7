"""The daemon around a line: signals, systemd, exit codes.

0   drained and stopped as asked, or the strip ended
1   a stage failed; systemd starts the daemon again
78  the configuration is wrong (EX_CONFIG); systemd leaves it stopped
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inspector import logbook, notify
from inspector.errors import ConfigError, InspectorError
from inspector.logbook import LogKind, as_kind
from inspector.monitor import Health
from inspector.pipeline import Line, build, load
from inspector.reloading import Reload

OK, FAILED, CONFIG = 0, 1, 78
TICK_S = 0.2
DRAIN_S = 30.0
"""How long a stopping line may drain before the daemon gives it up."""
STATUS_S = 5.0
FEED_S = 1.0
"""The watchdog is fed so often at most."""
START_S = 60.0
"""While a camera is still looked for, systemd is asked for this much more, again and again."""
SWITCH_S = 0.0005
"""How long a thread keeps the interpreter while another waits for it. Python's 5 ms is most of a network's time."""

log = logging.getLogger(__name__)


def run(path: Path) -> int:
    """Run the line of a YAML file until SIGTERM or SIGINT, or until its strip ends. SIGHUP reads the file again."""
    stop, hung_up = threading.Event(), threading.Event()
    with stopped_by_signals(stop, hung_up):
        try:
            config = load(path)
            logbook.about(config.line.name)
            with build(config) as line:
                _announce(line)
                speaker = _Speaker(line)
                line.serve("reload", Reload(path, line, hung_up, speaker.reloading).serve, watched=False)
                return watch(line, stop, speaker=speaker)
        except ConfigError as error:
            log.error("%s", error, extra=as_kind(LogKind.CONFIGURATION))
            notify.status(f"configuration error: {error}")
            return CONFIG
        except InspectorError as error:
            log.error("%s", error, extra=as_kind(LogKind.START_FAILED))
            return FAILED


def watch(
    line: Line, stop: threading.Event, tick: Callable[[], None] = lambda: None, speaker: _Speaker | None = None
) -> int:
    """Follow a started line to its end; `tick` is called a few times a second. Returns the exit code."""
    speaker = speaker or _Speaker(line)
    deadline = float("inf")
    while line.running and time.monotonic() < deadline:
        line.crew.join(TICK_S)
        tick()
        if stop.is_set() and not line.stop.is_set():
            log.info("stopping: no new frames, draining the rest")
            notify.stopping("draining")
            line.stop.set()
        if line.stop.is_set():
            deadline = min(deadline, time.monotonic() + DRAIN_S)
        speaker.speak(line.health())
    return _outcome(line)


class _Speaker:
    """Tells systemd how the line is: ready once, a status line now and then, the watchdog only on progress."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._ready = False
        self._status_at = 0.0
        self._watchdog_s = notify.watchdog_interval_s()
        self._watchdog_at = 0.0
        self._hanging: set[str] = set()

    def speak(self, health: Health) -> None:
        now = time.monotonic()
        if not self._ready and now >= self._status_at:
            notify.extend_timeout(START_S)
        if health.ready and not self._ready:
            self._ready = True
            log.info("ready: models are warm and every camera delivers")
            notify.ready(health.status)
        if now >= self._status_at:
            self._status_at = now + STATUS_S
            notify.status(_sentence(health))
        if self._watchdog_s is not None:
            self._watch(health, now, self._watchdog_s)

    def _watch(self, health: Health, now: float, half_s: float) -> None:
        """Feed the watchdog once every stage has made progress since the last time, so that it runs out in its time
        after the hang and not later; `half_s` is half of it."""
        crew = self._line.crew
        if now >= self._watchdog_at and crew.lively():
            self._watchdog_at = now + min(FEED_S, half_s)
            notify.progress(_sentence(health))
        hanging = set(crew.stalled(half_s))
        for name in sorted(hanging - self._hanging):
            log.error(
                "stage %s has made no progress for %.0f s",
                name,
                half_s,
                extra=as_kind(LogKind.STAGE_HANGS, stage=name, trace=crew.trace(name)),
            )
        for name in sorted(self._hanging - hanging):
            log.warning("stage %s goes on", name, extra=as_kind(LogKind.STAGE_GOES_ON, stage=name))
        self._hanging = hanging
        if not self._ready and crew.stalled(2 * half_s):
            notify.hangs(f"while starting, these hang: {', '.join(sorted(hanging))}")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Around a reading of the configuration, in any thread; systemd hears of it once it has heard that the line is
        ready, and not any more while it stops."""
        was_ready = self._ready
        if was_ready:
            notify.reloading()
        try:
            yield
        finally:
            if was_ready and not self._line.stop.is_set():
                notify.ready(self._line.health().status)


def _sentence(health: Health) -> str:
    """How the line is, and why it is not as it should be."""
    return "; ".join([health.status, *health.reasons])


def _outcome(line: Line) -> int:
    failure = line.crew.failure
    if failure is not None:
        name, error = failure
        log.error(
            "stage %s failed: %s",
            name,
            error,
            exc_info=_trace(error),
            extra=as_kind(LogKind.STAGE_FAILED, stage=name, reason=error),
        )
        return CONFIG if isinstance(error, ConfigError) else FAILED
    if line.running:
        log.error(
            "the line did not drain in %.0f s: %s",
            DRAIN_S,
            "; ".join(line.health().reasons),
            extra=as_kind(LogKind.DRAIN_FAILED),
        )
        return FAILED
    log.info("ended: %s", line.health().status)
    return OK


def _trace(error: BaseException) -> BaseException | None:
    """A trace helps where the error is not one that we word ourselves."""
    return None if isinstance(error, InspectorError) else error


def _announce(line: Line) -> None:
    """What an engineer looks for first in the log."""
    pack = line.pack.manifest
    log.info("line %s: pack %s %s on %s", line.config.line.name, pack.name, pack.version, line.runtime.name)
    if line.monitor is not None:
        log.info("monitor on http://%s:%d", line.config.monitor.host if line.config.monitor else "", line.monitor.port)
    for name, server in (("history", line.history), ("control", line.control)):
        if server is not None:
            log.info("%s on %s", name, server.endpoint)


@contextmanager
def stopped_by_signals(stop: threading.Event, hung_up: threading.Event | None = None) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`; a second one ends the process at once, as people expect.

    SIGHUP sets `hung_up`, as often as it comes; without one it is like SIGTERM: the terminal has gone.
    """

    def handle(number: int, _: object) -> None:
        if number == signal.SIGHUP and hung_up is not None:
            hung_up.set()
            return
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        for number, handler in before.items():
            signal.signal(number, handler)
