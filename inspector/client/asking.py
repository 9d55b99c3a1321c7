"""Requests to one daemon's history socket: one at a time, asked again when no answer comes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from inspector.errors import Refused
from inspector.events import JournalMark, as_json
from inspector.logbook import LogKind, as_kind

log = logging.getLogger(__name__)

PAGE = 1000
"""Events asked for at once."""
PATIENCE_S = 10.0
"""So long an answer is waited for at first, then twice as long each time ..."""
LONGEST_S = 60.0
"""... up to this."""
REFUSED_AFTER = 3
"""Requests without an answer, though the daemon lives, after which the caller hears of it."""
ALIVE_S = 5.0
"""A daemon whose heartbeat is older is dead or out of reach: that its history does not answer is no news."""
WORDS = 500
"""Characters of a refusal that are handed on."""

_numbers = itertools.count(1)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The first part of what the history socket says."""

    answer: str
    id: int | str | None = None
    source: str = ""
    journal: JournalMark | None = None
    upto: int = 0
    done: bool = False
    marks: list[tuple[int, str, int]] = []
    error: str = ""


_decode = msgspec.json.Decoder(Answer).decode


@dataclass(slots=True, frozen=True)
class Request:
    """To be sent to a history socket, on a connection of its own if `fresh`."""

    source: str
    endpoint: str
    link: int
    """Which of our addresses the daemon is heard from."""
    body: bytes
    fresh: bool


class Asking:
    """What was asked of one source, and what is to be asked when.

    Attributes:
        endpoint: the history socket as the daemon bound it; None: there is none.
        after: the cursor behind which was asked last.
    """

    def __init__(self, source: str, topics: Sequence[str]) -> None:
        self._source = source
        self._topics = list(topics)
        self._link = 0
        self._heard_at = float("-inf")
        self._number: int | None = None
        self._due_at = 0.0
        self._unanswered = 0
        self._fresh = True
        self.endpoint: str | None = None
        self.after = 0

    def heard(self, now: float) -> None:
        """The daemon lives."""
        self._heard_at = now

    def move(self, endpoint: str | None, link: int) -> None:
        """The daemon has started again, or its history is elsewhere: what was asked before is not answered."""
        self.endpoint, self._link = endpoint, link
        self._fresh, self._unanswered = True, 0
        self.again(0.0)

    def again(self, at: float) -> None:
        """Ask at that time; what was asked before is of no interest."""
        self._number, self._due_at = None, at

    def wait_s(self, now: float) -> float:
        """So long until there is something to be asked."""
        return max(0.0, self._due_at - now)

    def request(self, after: int, epoch: int, now: float) -> tuple[Request | None, Refused | None]:
        """What is to be sent now, and what the caller should hear."""
        if now < self._due_at or self.endpoint is None:
            return None, None
        refused = self._miss(now) if self._number is not None else None
        self._number, self.after = next(_numbers), after
        self._due_at = now + min(LONGEST_S, PATIENCE_S * 2**self._unanswered)
        question = {"ask": "events", "id": self._number, "after": after, "topics": self._topics}
        body = as_json({**question, "limit": PAGE, "epoch": epoch})
        fresh, self._fresh = self._fresh, False
        return Request(self._source, self.endpoint, self._link, body, fresh), refused

    def _miss(self, now: float) -> Refused | None:
        """An answer did not come."""
        self._fresh = True
        if now - self._heard_at > ALIVE_S:
            self._unanswered = 0
            return None
        self._unanswered += 1
        log.warning(
            "%s: its history at %s does not answer; asking again",
            self._source,
            self.endpoint,
            extra=as_kind(LogKind.CLIENT_SILENT),
        )
        if self._unanswered < REFUSED_AFTER:
            return None
        self._unanswered = 0
        return Refused(
            f"{self._source}: its heartbeats come but its history at {self.endpoint} does not answer: can this machine "
            "reach that address, is server_key that of this daemon, and may our key read `events` (`inspector keys` "
            "on its machine lists them)?"
        )

    def answer(self, head: bytes, now: float) -> Answer | None:
        """What was said to our last request; None: nothing.

        Raises:
            Refused: no.
        """
        try:
            answer = _decode(head)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning(
                "%s: its history says something that is no answer: %s",
                self._source,
                error,
                extra=as_kind(LogKind.CLIENT_UNKNOWN),
            )
            return None
        if self._number is None or answer.id not in (self._number, None):
            return None
        if answer.answer == "events" and answer.source == self._source:
            self._unanswered = 0
            self.again(now)
            return answer
        self._fresh = True
        self.again(now + PATIENCE_S)
        if answer.answer == "error":
            why = f"says: {answer.error[:WORDS]}"
        else:
            why = f"answers for {answer.source[:WORDS]!r}: two daemons' addresses are mixed up"
        raise Refused(f"{self._source}: its history at {self.endpoint} {why}")
