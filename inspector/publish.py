"""Graded -> journal -> sinks: an event is durable before anybody hears of it.

Everything that waits is committed in one transaction. Clean strip alone is not worth a transaction for each batch:
its fates are committed every COMMIT_S seconds, together with the next defect at the latest. When the journal cannot
be written (a full disk) the line goes on: events are sent marked by a state event, and kept to be journalled later.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from inspector.channel import Channel
from inspector.errors import JournalError, SinkError
from inspector.events import Defect, Event, Gap, Heartbeat, State
from inspector.journal import Journal, Telegram
from inspector.ledger import Ledger
from inspector.logbook import LogKind, as_kind
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
PIECE_S = 0.1
"""While the journal forgets a coil, a piece of it goes so often."""
TOGETHER = 100
"""Events that go to a sink in one call at most, where so many wait."""
TEND_S = 0.1
"""How often a sink looks after its receivers, events or not."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What the journal may hold; None: no bound."""

    keep_bytes: int | None
    keep_ns: int | None


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
        retention: Retention = Retention(None, None),
        waiting: Callable[[int], Sequence[Graded]] = lambda most: (),
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
        self._waiting = waiting
        self._states: deque[Draft] = deque(maxlen=1000)
        self._beat_at = self._clock()
        self._commit_at = self._clock()
        self._retire_at = math.inf
        self._dirty = 0
        self._uncounted: list[tuple[Graded, int]] = []
        self._healthy = True
        self._given_up = 0
        self._undelivered: dict[str, int] = dict.fromkeys(outboxes, 0)
        self._telegrams: deque[tuple[Telegram, threading.Event]] = deque(maxlen=1000)
        self._untold: list[threading.Event] = []
        self._retention = retention
        self.history: str | None = None
        """Address of the history socket, for the heartbeats."""
        self.overload_step: Callable[[], int] = lambda: 0
        """What is left out now, for the heartbeats."""
        self.pack_digest: Callable[[], str | None] = lambda: None
        """Of the pack on duty, for the heartbeats."""
        self.booked: Callable[[Graded], None] = lambda graded: None
        """Called with what was graded once it is in the books, before anybody hears of it."""
        self.tally = Tally()
        self.down: dict[str, str] = {}
        """Parts whose last state was `down`, and why."""

    @property
    def undelivered(self) -> dict[str, int]:
        """Sink -> events that it did not take."""
        return dict(self._undelivered)

    @property
    def healthy(self) -> bool:
        """The last commit succeeded."""
        return self._healthy

    def say(self, part: str, state: str, detail: str, about: str | None = None) -> None:
        """A part of the line changed its state; from any thread, published with the next batch. Never waits."""
        if about is None and state == "down":
            self.down[part] = detail
        elif about is None:
            self.down.pop(part, None)
        told = State(part=part, state=state, detail=detail, about=about)
        self._states.append(Draft(f"state/v1/{self._line}/", time.time_ns(), told))

    def tell(self, telegram: Telegram) -> threading.Event:
        """Keep a telegram; what is returned is set when it is durable. From any thread."""
        durable = threading.Event()
        self._telegrams.append((telegram, durable))
        return durable

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for outbox in self._outboxes.values():
            outbox.close()

    def wait_s(self) -> float:
        due = min(self._beat_at, self._retire_at, self._commit_at if self._dirty else math.inf)
        return max(0.0, due - self._clock())

    def work(self, item: Graded | None) -> Iterator[None]:
        """Journals and sends; gives nothing on."""
        states = [self._states.popleft() for _ in range(len(self._states))]
        items = [item, *self._waiting(max(0, COMMIT_ITEMS - self._dirty - 1))] if item is not None else []
        gathered = items + ([Graded(drafts=states)] if states else [])
        events = self._journal.append(gathered) if gathered else []
        for each in items:
            self.booked(each)
        self._count_given_up()
        self._dirty += len(gathered)
        told = self._take_telegrams()
        if events or told or self._dirty >= COMMIT_ITEMS or (self._dirty and self._clock() >= self._commit_at):
            self._commit()
        self._send(events)
        for each in items:
            self._count(each)
        if self._clock() >= self._beat_at:
            self._heartbeat()
        elif self._clock() >= self._retire_at:
            self._retire()
        yield from ()

    def finish(self) -> Iterator[None]:
        """The last fates and events."""
        self._commit_at = self._clock()
        yield from self.work(None)
        self._commit()
        if self._states:  # such as that the journal can be written again
            yield from self.work(None)
        self._heartbeat()

    def _take_telegrams(self) -> bool:
        for _ in range(len(self._telegrams)):
            telegram, durable = self._telegrams.popleft()
            self._journal.tell(telegram)
            self._untold.append(durable)
        return bool(self._untold)

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
        for durable in self._untold:
            durable.set()
        self._untold.clear()
        self._turn(True, "")

    def _turn(self, healthy: bool, detail: str) -> None:
        if healthy is self._healthy:
            return
        self._healthy = healthy
        if healthy:
            log.warning("the journal can be written again", extra=as_kind(LogKind.JOURNAL_BACK))
        else:
            log.error(
                "journal: %s; the line goes on, events wait in memory",
                detail,
                extra=as_kind(LogKind.JOURNAL_DOWN, reason=detail),
            )
        self.say("journal", "ok" if healthy else "degraded", detail)

    def _retire(self) -> None:
        """Make room, a piece at a time: what is no longer kept is told, and so is a journal that finds no more room."""
        self._retire_at = math.inf  # the next heartbeat asks again
        if not self._healthy:
            return
        try:
            gone = self._journal.retire(time.time_ns(), self._retention.keep_bytes, self._retention.keep_ns)
        except JournalError as error:
            log.error("journal: old coils cannot be deleted: %s", error, extra=as_kind(LogKind.JOURNAL_RETENTION))
            return
        if gone is None:
            return
        if gone.events:
            self._retire_at = self._clock() + PIECE_S
        self._metrics.journal_retired.inc(gone.events)
        if gone.coils:
            names = ", ".join(gone.coils)
            log.info("journal: no longer keeps coil %s", names)
            self.say("retention", "retired", f"coil {names} is no longer kept")
        if gone.over:
            log.error(
                "journal: it holds more than keep_gb, and no closed coil is left to delete",
                extra=as_kind(LogKind.JOURNAL_OVER),
            )
            self.say("retention", "over", "it holds more than keep_gb, and no closed coil is left to delete")

    def _send(self, events: Sequence[Event]) -> None:
        for outbox in self._outboxes.values():
            sent = 0
            while sent < len(events):
                sent += outbox.put_all(events[sent:], RETRY_S)

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
        found: dict[tuple[str, ...], int] = {}
        for draft in item.drafts:
            if isinstance(draft.data, Defect | Gap):
                labels = _labels(draft.data)
                found[labels] = found.get(labels, 0) + 1
        for labels, count in found.items():
            (self._metrics.gaps if len(labels) == 1 else self._metrics.defects).labels(*labels).inc(count)
        self._uncounted.append((replace(item, drafts=[]), time.time_ns()))
        if item.drafts or len(self._uncounted) >= COUNT_ITEMS:
            self._count_frames()

    def _count_frames(self) -> None:
        """The metrics of many batches at once: one by one, in caches that the networks left cold, they cost more."""
        for item, now in self._uncounted:
            for settled in item.settled:
                books, count = self._metrics.camera(settled.camera), settled.last - settled.first + 1
                if settled.reason is None:
                    books.saw(count, settled.length_mm / 1000, settled.depth)
                else:
                    books.lost(settled.reason, count)
            self._metrics.ages(item.born, now)
            self.tally.add(item, now)
        self._uncounted.clear()

    def _heartbeat(self) -> None:
        self._beat_at = self._clock() + self._heartbeat_s
        self._count_frames()
        state, coil = self._status()
        books = self._ledger.totals()
        self._commit()  # what a heartbeat says of the books, a kill -9 cannot unsay
        self._retire()
        data = Heartbeat(
            state=state,
            coil=coil,
            high_water={t: n for t, n in self._journal.high_water().items() if not t.startswith("heartbeat/")},
            cameras=books,
            undelivered=self.undelivered,
            journal=self._journal.mark(),
            history=self.history,
            overload_step=self.overload_step(),
            pack_digest=self.pack_digest(),
        )
        beat = self._journal.identify(Draft(f"heartbeat/v1/{self._line}/", time.time_ns(), data))
        self._send([beat])


def _labels(data: Defect | Gap) -> tuple[str, ...]:
    """Of the counter of defects or of gaps."""
    return (data.reason,) if isinstance(data, Gap) else (data.defect_class.name, data.severity)


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
        waiting: Callable[[int], Sequence[Event]] = lambda most: (),
    ) -> None:
        self._name = name
        self._sink = sink
        self._must_deliver = must_deliver
        self._on_sent = on_sent
        self._clock = clock
        self._on_state = on_state
        self._waiting = waiting
        self._up = True
        self._entered = False
        self._enter_at = 0.0
        self._tend_at = 0.0

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit()

    def wait_s(self) -> float:
        return max(0.0, self._tend_at - self._clock())

    def work(self, item: Event | None) -> Iterator[None]:
        if item is not None:
            self._deliver([item, *self._waiting(TOGETHER - 1)])
        if self._clock() >= self._tend_at:
            self._tend()
        yield from ()

    def finish(self) -> Iterator[None]:
        yield from ()

    def _deliver(self, events: Sequence[Event]) -> None:
        """(sent, refused, reason) go to `on_sent`; of events that broke a sink together, all count as not sent."""
        if not self._entered and self._clock() >= self._enter_at:
            self._enter()
        if not self._entered:
            self._on_sent(0, len(events), "down")
            return
        try:
            refused = self._sink.send(events)
        except SinkError as error:
            self._fail(error)
            self._on_sent(0, len(events), "down")
            return
        if refused and self._must_deliver:
            raise SinkError(f"sink {self._name} refused an event")
        self._say(True, "")
        self._on_sent(len(events) - refused, refused, "refused")

    def _tend(self) -> None:
        self._tend_at = self._clock() + TEND_S
        if not self._entered:
            return
        try:
            self._sink.tend()
        except SinkError as error:
            self._fail(error)

    def _fail(self, error: SinkError) -> None:
        if self._must_deliver:
            raise error
        self._say(False, str(error))
        self._exit()

    def _say(self, up: bool, detail: str) -> None:
        """One line and one event a change; up only when it takes events, or their own events would keep it going."""
        if up is self._up:
            return
        self._up = up
        if up:
            log.warning("sink %s is back", self._name, extra=as_kind(LogKind.SINK_BACK, sink=self._name))
        else:
            log.error(
                "sink %s is down: %s; its events are in the journal",
                self._name,
                detail,
                extra=as_kind(LogKind.SINK_DOWN, sink=self._name, reason=detail),
            )
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

    def __init__(self, name: str, serve: Callable[[threading.Event], None], stop: threading.Event) -> None:
        self._name = name
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
            log.exception(
                "the %s failed; the line goes on without it",
                self._name,
                extra=as_kind(LogKind.SERVER_FAILED, stage=self._name),
            )
            raise
        yield from ()
