"""Graded -> journal -> sinks: an event is durable before anybody hears of it.

Everything that waits is committed in one transaction. Clean strip alone is not worth a transaction for each batch:
its fates are committed every COMMIT_S seconds, together with the next defect at the latest. When the journal cannot
be written (a full disk) the line goes on: events are sent marked by a state event, and kept to be journalled later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from inspector.channel import Channel
from inspector.errors import JournalError, SinkError
from inspector.events import Defect, Event, Gap, Heartbeat, State
from inspector.journal import Journal
from inspector.ledger import Ledger
from inspector.metrics import Metrics, Undelivered
from inspector.records import Draft, Graded
from inspector.sinks import Sink
from inspector.tally import Tally

log = logging.getLogger(__name__)

COMMIT_S = 0.1
COMMIT_ITEMS = 64
"""So many graded batches are committed at once at the latest: what a kill can leave in flight is bounded."""
COUNT_ITEMS = 32
"""The metrics of clean frames are booked every so many graded batches, with each event and each heartbeat."""
RETRY_S = 1.0


class Publish:
    """The journal's one writer."""

    def __init__(
        self,
        line: str,
        journal: Journal,
        ledger: Ledger,
        outboxes: Mapping[str, Channel[Event]],
        status: Callable[[], tuple[str, str]],
        heartbeat_s: float,
        metrics: Metrics,
        must_journal: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._line = line
        self._journal = journal
        self._ledger = ledger
        self._outboxes = outboxes
        self._status = status
        self._heartbeat_s = heartbeat_s
        self._metrics = metrics
        self._must_journal = must_journal
        self._clock = clock
        self._states: deque[Draft] = deque(maxlen=1000)
        self._beat_at = self._clock()
        self._commit_at = self._clock()
        self._dirty = 0
        self._uncounted: list[tuple[Graded, int]] = []
        self._healthy = True
        self._given_up = 0
        self._undelivered: dict[str, int] = dict.fromkeys(outboxes, 0)
        self.tally = Tally()
        self.down: dict[str, str] = {}
        """Parts whose last state was `down`, and why."""

    @property
    def healthy(self) -> bool:
        """The last commit succeeded."""
        return self._healthy

    def say(self, part: str, state: str, detail: str) -> None:
        """A part of the line changed its state; from any thread, published with the next batch."""
        if state == "down":
            self.down[part] = detail
        else:
            self.down.pop(part, None)
        self._states.append(
            Draft(f"state/v1/{self._line}/", time.time_ns(), State(part=part, state=state, detail=detail))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for outbox in self._outboxes.values():
            outbox.close()

    def wait_s(self) -> float:
        due = min(self._beat_at, self._commit_at) if self._dirty else self._beat_at
        return max(0.0, due - self._clock())

    def work(self, item: Graded | None) -> Iterator[None]:
        """Journals and sends; gives nothing on."""
        states = [self._states.popleft() for _ in range(len(self._states))]
        gathered = ([item] if item is not None else []) + ([Graded(drafts=states)] if states else [])
        events = self._journal.append(gathered) if gathered else []
        self._count_given_up()
        self._dirty += len(gathered)
        if events or self._dirty >= COMMIT_ITEMS or (self._dirty and self._clock() >= self._commit_at):
            self._commit()
        self._send(events)
        if item is not None:
            self._count(item)
        if self._clock() >= self._beat_at:
            self._heartbeat()
        yield from ()

    def finish(self) -> Iterator[None]:
        """The last fates and events."""
        self._commit_at = self._clock()
        yield from self.work(None)
        self._commit()
        if self._states:  # such as that the journal can be written again
            yield from self.work(None)
        self._heartbeat()

    def _commit(self) -> None:
        if not self._healthy and self._clock() < self._commit_at:
            return
        start = time.perf_counter()
        try:
            books = self._ledger.totals()
            issued = {name: entry.issued for name, entry in books.items()}
            self._journal.commit(issued, {name: sum(entry.lost.values()) for name, entry in books.items()})
        except JournalError as error:
            if self._must_journal:
                raise
            self._commit_at = self._clock() + RETRY_S
            self._metrics.journal_failures.inc()
            self._turn(False, str(error))
            return
        self._metrics.journal_commit.observe(time.perf_counter() - start)
        self._dirty = 0
        self._commit_at = self._clock() + COMMIT_S
        self._turn(True, "")

    def _turn(self, healthy: bool, detail: str) -> None:
        if healthy is self._healthy:
            return
        self._healthy = healthy
        if healthy:
            log.warning("the journal can be written again")
        else:
            log.error("journal: %s; the line goes on, events wait in memory", detail)
        self.say("journal", "ok" if healthy else "degraded", detail)

    def _send(self, events: Sequence[Event]) -> None:
        for event in events:
            for outbox in self._outboxes.values():
                while not outbox.put(event, RETRY_S):
                    pass

    def sent(self, sink: str, sent: int, refused: int, reason: str) -> None:
        """What a sink made of events; from the sinks' threads."""
        books = self._metrics.sink(sink)
        if sent:
            books.published.inc(sent)
        if refused:
            self._undelivered[sink] += refused
            books.undelivered(Undelivered(reason), refused)

    def _count_given_up(self) -> None:
        given_up, self._given_up = self._journal.unjournalled - self._given_up, self._journal.unjournalled
        if given_up:
            self._metrics.journal_unjournalled.inc(given_up)

    def _count(self, item: Graded) -> None:
        for draft in item.drafts:
            if isinstance(draft.data, Defect):
                self._metrics.defects.labels(draft.data.defect_class.name, draft.data.severity).inc()
            elif isinstance(draft.data, Gap):
                self._metrics.gaps.labels(draft.data.reason).inc()
        self._uncounted.append((replace(item, drafts=[]), time.time_ns()))
        if item.drafts or len(self._uncounted) >= COUNT_ITEMS:
            self._count_frames()

    def _count_frames(self) -> None:
        """The metrics of many batches at once: one by one, in caches that the networks left cold, they cost more."""
        for item, now in self._uncounted:
            for settled in item.settled:
                books, count = self._metrics.camera(settled.camera), settled.last - settled.first + 1
                if settled.reason is None:
                    books.inspected.inc(count)
                    books.strip_metres.inc(settled.length_mm / 1000)
                else:
                    books.lost(settled.reason, count)
            self._metrics.ages(item.born, now)
            self.tally.add(item, now)
        self._uncounted.clear()

    def _heartbeat(self) -> None:
        self._beat_at = self._clock() + self._heartbeat_s
        self._count_frames()
        state, coil = self._status()
        data = Heartbeat(
            state=state,
            coil=coil,
            high_water=self._journal.high_water(),
            cameras=self._ledger.totals(),
            undelivered=dict(self._undelivered),
        )
        self._commit()  # what a heartbeat says of the books, a kill -9 cannot unsay
        beat = self._journal.identify(Draft(f"heartbeat/v1/{self._line}/", time.time_ns(), data))
        self._send([beat])


class Deliver:
    """One sink and its thread. A broken sink is entered again; what it missed is counted, and is in the journal."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        must_deliver: bool,
        on_sent: Callable[[int, int, str], None],
        clock: Callable[[], float] = time.monotonic,
        on_state: Callable[[str, str, str], None] = lambda part, state, detail: None,
    ) -> None:
        self._name = name
        self._sink = sink
        self._must_deliver = must_deliver
        self._on_sent = on_sent
        self._clock = clock
        self._on_state = on_state
        self._up = True
        self._entered = False
        self._enter_at = 0.0

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit()

    def wait_s(self) -> float:
        return RETRY_S

    def work(self, item: Event | None) -> Iterator[None]:
        if item is not None:
            self._deliver(item)
        yield from ()

    def finish(self) -> Iterator[None]:
        yield from ()

    def _deliver(self, event: Event) -> None:
        """(sent, refused, reason) go to `on_sent`."""
        if not self._entered and self._clock() >= self._enter_at:
            self._enter()
        if not self._entered:
            self._on_sent(0, 1, "down")
            return
        try:
            refused = self._sink.send([event])
        except SinkError as error:
            if self._must_deliver:
                raise
            self._say(False, str(error))
            self._exit()
            self._on_sent(0, 1, "down")
            return
        if refused and self._must_deliver:
            raise SinkError(f"sink {self._name} refused an event")
        self._say(True, "")
        self._on_sent(1 - refused, refused, "refused")

    def _say(self, up: bool, detail: str) -> None:
        """One line and one event a change; up only when it takes events, or their own events would keep it going."""
        if up is self._up:
            return
        self._up = up
        if up:
            log.warning("sink %s is back", self._name)
        else:
            log.error("sink %s is down: %s; its events are in the journal", self._name, detail)
        self._on_state(f"sink {self._name}", "up" if up else "down", detail)

    def _enter(self) -> None:
        self._enter_at = self._clock() + RETRY_S
        try:
            self._sink.__enter__()
        except SinkError as error:
            if self._must_deliver:
                raise
            self._say(False, str(error))
            return
        self._entered = True

    def _exit(self) -> None:
        if self._entered:
            self._entered = False
            self._sink.__exit__(None, None, None)


class Serve:
    """A server as a source: the monitor runs in a worker like everything else."""

    def __init__(self, serve: Callable[[threading.Event], None], stop: threading.Event) -> None:
        self._serve = serve
        self._stop = stop

    @property
    def ended(self) -> bool:
        return self._stop.is_set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def work(self) -> Iterator[None]:
        try:
            self._serve(self._stop)
        except Exception:
            log.exception("the monitor failed; the line goes on without it")
            raise
        yield from ()
