"""The history (replay) socket: what the journal holds, page by page, for subscribers that missed something.

Reading costs the line something, so events are read at `history.events_per_s` at most, for all clients together. Each
answer is a page of at most PAGE_S of that rate: clients are served in turn, page by page, so one that wants a few
events does not wait behind one that wants a whole coil. With n clients asking, an answer takes n times PAGE_S.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from inspector.config import HistoryConfig
from inspector.errors import JournalError
from inspector.events import JournalMark
from inspector.journal.pages import Page, Pages
from inspector.logbook import LogKind, as_kind
from inspector.metrics import Metrics
from inspector.wire.asking import Answer, Ask, Request, error_answer, understood
from inspector.wire.bucket import Bucket, Seldom
from inspector.wire.desk import Desk
from inspector.wire.desk import check as check_desk

PAGE_S = 0.05
"""The longest that one answer keeps the others waiting, at the rate that is set."""
FEWEST, MOST = 10, 1000
"""Events in an answer at most: at the lowest rates, and at any."""
ANSWER_BYTES = 1_000_000
"""Bytes of events in one answer at most, unless one alone is longer."""
ASKED = 25
"""What any request costs, in events: to read it and to look into the journal."""
MARKS_PER_EVENT = 10
"""So many marks cost as much as an event."""
TOPICS = 1000
"""Prefixes in a request at most."""
LONGEST_TOPIC = 4096
"""Characters."""
TROUBLE_S = 60.0
"""A journal that cannot be read is logged so often at most."""

log = logging.getLogger(__name__)

Cursor = Annotated[int, Meta(ge=0, le=2**63 - 1)]


# ---------------------------------------------------------------- requests and answers


class EventsAsk(Ask, frozen=True, kw_only=True, tag="events"):
    """Events whose cursor is above `after`."""

    after: Cursor
    topics: Annotated[Sequence[Annotated[str, Meta(max_length=LONGEST_TOPIC)]], Meta(max_length=TOPICS)] = ()
    """Prefixes; empty: all."""
    limit: Annotated[int, Meta(ge=1, le=MOST)] = 500
    """The most events to send."""
    epoch: Cursor = 0
    """Marks are wanted from this epoch on."""


class JournalAsk(Ask, frozen=True, kw_only=True, tag="journal"):
    """Where the journal stands."""


class EventsAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="answer", tag="events"):
    """Before the events."""

    id: int | str | None
    source: str
    journal: JournalMark
    upto: int
    """Every matching event with a cursor above `after` and up to this is in the message."""
    done: bool
    """There was no later one in the journal."""
    marks: list[tuple[int, str, int]] | UnsetType = UNSET
    """(epoch, topic, last sequence), when done."""


class JournalAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="answer", tag="journal"):
    """Where the journal stands."""

    id: int | str | None
    source: str
    epoch: int
    """Of the daemon that answers."""
    journal: JournalMark


ASKS = ("events", "journal")


# ---------------------------------------------------------------- the socket


class History:
    """The history socket; `open` it, have one thread `serve`, `close` it.

    Args:
        journal: the file.
        source: of the daemon's events.
        epoch: of its run.
        config: where to listen, whom to let in, how fast to read.
        metrics: where requests are counted.
        clock: seconds; sets the rate.
    """

    def __init__(
        self,
        journal: Path,
        source: str,
        epoch: int,
        config: HistoryConfig,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._epoch = source, epoch
        self._books, self._sent_again = metrics.desk("history", ASKS), metrics.history_events
        self._decoder = msgspec.json.Decoder(EventsAsk | JournalAsk)
        self._pages = Pages(journal)
        self._trouble = Seldom(TROUBLE_S, clock)
        self._most = max(FEWEST, min(MOST, int(config.events_per_s * PAGE_S)))
        bucket = Bucket(config.events_per_s, self._most, clock)
        self.desk = Desk("history", config.address, config.keys, "events", self._answer, bucket, self._books, ASKED)

    @property
    def endpoint(self) -> str:
        """Where clients ask; the port is the real one once it is open."""
        return self.desk.endpoint

    def open(self) -> None:
        """Bind; clients wait until `serve` runs.

        Raises:
            ConfigError: the address is malformed, taken or open to the network without keys, or a key cannot be read.
        """
        self.desk.open()

    def serve(self, stop: threading.Event) -> None:
        """Answer until `stop` is set, then let go of the address. For one thread of its own, once after `open`."""
        with self._pages:
            self.desk.serve(stop)

    def close(self) -> None:
        """Give the address back, if `serve` never ran. Safe to call twice."""
        self.desk.close()

    def _answer(self, request: Request) -> Answer:
        ask = understood(request.body, self._decoder)
        name = str(ask.__struct_config__.tag)
        try:
            answer = self._events(ask) if isinstance(ask, EventsAsk) else self._stand(ask)
        except JournalError as error:
            self._books.asked(name, "failed")
            if self._trouble.now():
                log.error("history: %s", error, extra=as_kind(LogKind.HISTORY, reason=error))
            return Answer(error_answer(str(error), ask.id), cost=ASKED)
        self._books.asked(name, "ok")
        return answer

    def _events(self, ask: EventsAsk) -> Answer:
        with self._pages.snapshot():
            page = self._pages.page(ask.after, ask.topics, min(ask.limit, self._most), ANSWER_BYTES)
            marks = self._pages.marks(ask.topics, ask.epoch) if page.done else UNSET
        self._sent_again.inc(len(page.bodies))
        head = EventsAnswer(
            id=ask.id, source=self._source, journal=page.mark, upto=page.upto, done=page.done, marks=marks
        )
        return Answer(msgspec.json.encode(head), page.bodies, _cost(page, marks))

    def _stand(self, ask: JournalAsk) -> Answer:
        head = JournalAnswer(id=ask.id, source=self._source, epoch=self._epoch, journal=self._pages.mark())
        return Answer(msgspec.json.encode(head), cost=ASKED)


def check(config: HistoryConfig) -> None:
    """Bind and release. Raises ConfigError as `History.open` does."""
    check_desk("history", config.address, config.keys, "events")


def _cost(page: Page, marks: list[tuple[int, str, int]] | UnsetType) -> float:
    """Events' worth of work."""
    return ASKED + len(page.bodies) + (0 if marks is UNSET else len(marks) / MARKS_PER_EVENT)
