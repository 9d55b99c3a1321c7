"""Threads: the only file that starts any, but for `ending`, whose thread is one that nobody waits for.

A worker moves items from an inbox through a stage to an outbox until its writers have closed, then lets the stage
finish and closes its own outbox: shutdown is the same walk as work. A stage that fails abandons its inbox, so no
writer hangs, and closes its outbox, so what it gave is still graded and journalled; the crew keeps the failure.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

from inspector.channel import Channel
from inspector.errors import ChannelAbandoned, ChannelClosed

log = logging.getLogger(__name__)

WAIT_S = 0.5
"""Longest wait of any worker before it shows that it is alive."""
BOOK_S = 0.1
"""A source's items go to its books so often: for each one that would cost a sixth of what taking a frame does."""


class Stage(Protocol):
    """Work of one thread. Acquires what it needs on enter, in that thread, and releases it on exit."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def wait_s(self) -> float:
        """How long the stage may wait for its next item before it has something to do by itself, seconds."""

    def work(self, item: Any) -> Iterable[Any]:
        """What comes of one item; `None` when none came in time."""

    def finish(self) -> Iterable[Any]:
        """What is left when the inbox is closed and empty."""


class Source(Protocol):
    """A stage without an inbox: it is asked until it has ended."""

    @property
    def ended(self) -> bool: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def work(self) -> Iterable[Any]:
        """The next items; returns within half a second."""


class Books(Protocol):
    """Where a worker notes what goes through it; the metrics of a stage are one."""

    def began(self, items: int = 1) -> None: ...

    def ended(self, items: int = 1, *, out: int | None = None, busy_s: float = 0.0) -> None: ...


class Pulse(threading.Event):
    """Tells a server to stop. Whenever its thread looks, that is a sign of life: `beat` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.beat: Callable[[], None] = lambda: None

    def is_set(self) -> bool:
        self.beat()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        self.beat()
        return super().wait(timeout)


class Worker:
    """One thread that moves items through a stage."""

    def __init__(
        self,
        name: str,
        stage: Stage | Source,
        inbox: Channel[Any] | None = None,
        outbox: Channel[Any] | None = None,
        books: Books | None = None,
    ) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self.beat_ns = time.monotonic_ns()
        """When the worker last showed that it is alive, monotonic."""
        self._stage = stage
        self._inbox = inbox
        self._outbox = outbox
        self._books = books
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """True once the thread has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def beat(self) -> None:
        """Show that it is alive; in its own thread."""
        self.beat_ns = time.monotonic_ns()

    def trace(self) -> str:
        """Where its thread is now, the innermost call last; empty once it has ended."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "" if frame is None else "".join(traceback.format_stack(frame))

    def _run(self) -> None:
        done = False
        try:
            with self._stage:
                if self._inbox is None:
                    self._draw(self._stage)
                else:
                    self._pump(self._stage, self._inbox)
            done = True
        except ChannelAbandoned:
            pass  # the stage that went has the failure
        except BaseException as error:
            self.failure = error
            log.debug("stage %s failed", self.name, exc_info=True)
        finally:
            if self._inbox is not None and not done:
                self._inbox.abandon()
            if self._outbox is not None:
                self._outbox.close()

    def _draw(self, source: Any) -> None:
        given, booked_ns = 0, self.beat_ns
        try:
            while not source.ended:
                self.beat()
                given += self._give(source.work())
                if given and self.beat_ns - booked_ns >= BOOK_S * 1e9:
                    self._book_drawn(given)
                    given, booked_ns = 0, self.beat_ns
        finally:
            self._book_drawn(given)

    def _book_drawn(self, given: int) -> None:
        if given and self._books is not None:
            self._books.began(given)
            self._books.ended(given)

    def _pump(self, stage: Any, inbox: Channel[Any]) -> None:
        while True:
            self.beat()
            try:
                item = inbox.get(min(WAIT_S, stage.wait_s()))
            except ChannelClosed:
                break
            if item is None or self._books is None:
                self._give(stage.work(item))
            else:
                self._book(stage, item, self._books)
        self._give(stage.finish())

    def _book(self, stage: Any, item: Any, books: Books) -> None:
        books.began()
        start = time.perf_counter()
        given = self._give(stage.work(item))
        books.ended(out=given, busy_s=time.perf_counter() - start)

    def _give(self, items: Iterable[Any]) -> int:
        given = 0
        for item in items:
            given += 1
            while self._outbox is not None and not self._outbox.put(item, WAIT_S):
                self.beat()
        return given


class Crew:
    """All workers of a line. `stop_sources` is what a failure does first: no new frames, drain the rest."""

    def __init__(self, workers: list[Worker], stop_sources: Callable[[], None]) -> None:
        self.workers = workers
        self.servers: list[Worker] = []
        """Watched like the others, but the line does not wait for them, nor end with them."""
        self._stop_sources = stop_sources
        self._lively_ns = 0

    def start(self) -> None:
        """From the sinks up to the cameras, so that nothing is produced before it can be taken."""
        for worker in reversed(self.workers):
            worker.start()

    @property
    def failure(self) -> tuple[str, BaseException] | None:
        """The first stage down the line that failed, and why."""
        return next(((w.name, w.failure) for w in self.workers if w.failure is not None), None)

    @property
    def alive(self) -> bool:
        """True while any worker runs. A failure stops the sources, so this becomes False by itself."""
        if self.failure is not None:
            self._stop_sources()
        return any(worker.alive for worker in self.workers)

    def stalled(self, limit_s: float) -> list[str]:
        """Names of running workers that made no progress for `limit_s` seconds."""
        now = time.monotonic_ns()
        return [w.name for w in self._all if w.alive and now - w.beat_ns > limit_s * 1e9]

    def lively(self) -> bool:
        """Every running worker has made progress since this was last true: then one that hangs was found in time."""
        if any(w.alive and w.beat_ns <= self._lively_ns for w in self._all):
            return False
        self._lively_ns = time.monotonic_ns()
        return True

    def trace(self, name: str) -> str:
        """Where the worker of that name is now."""
        return next((w.trace() for w in self._all if w.name == name), "")

    @property
    def _all(self) -> list[Worker]:
        return [*self.workers, *self.servers]

    def join(self, timeout_s: float) -> list[str]:
        """Waits for all; returns the names of those that still hang after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        return [w.name for w in self.workers if not w.join(max(0.0, deadline - time.monotonic()))]
