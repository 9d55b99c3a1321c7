"""All daemons of one subscription: bytes and time go in, events and requests come out. No socket is touched here."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import msgspec

from inspector.client.asking import Request
from inspector.client.follower import Follower
from inspector.client.home import Home
from inspector.client.place import Place, SourcePlace
from inspector.client.reading import Item, read
from inspector.client.watch import Silence
from inspector.errors import Refused, Silent, StreamError
from inspector.events import Event
from inspector.logbook import LogKind, as_kind

log = logging.getLogger(__name__)

TOLD_AFTER_S = 5.0
"""Five heartbeats: so long a silence is logged, if the caller does not want to hear of it himself."""


class Machine:
    """Follows every source that is heard at some addresses, each for itself.

    Args:
        addresses: for messages; `link` is the number of one of them.
        topics: prefixes; none: everything.
        place: where an earlier subscription ended.
        now: seconds, by the clock that all later times are told by.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        topics: Sequence[str],
        *,
        since: str,
        place: Place | None,
        max_lag_s: float | None,
        silence_s: float | None,
        heartbeats: bool,
        now: float,
    ) -> None:
        self._addresses = list(addresses)
        self._topics = list(topics)
        self._since = since
        self._heartbeats = heartbeats
        self._max_lag_s = max_lag_s
        self._loud = silence_s is not None
        self._places = _for_topics(place or Place(), self._topics)
        self._silences = [Silence(silence_s or TOLD_AFTER_S, now) for _ in addresses]
        self._trouble: deque[StreamError] = deque()
        self._turn = 0
        self._list: list[Follower] = []
        self._homes: dict[str, Home] = {}
        self.followers: dict[str, Follower] = {}
        """By source."""

    def hear(self, link: int, parts: Sequence[bytes], now: float) -> None:
        """A message of the events socket."""
        try:
            topic, body = parts
            item = read(body)
            if item.topic.encode() != topic:
                raise StreamError(f"a message under the topic {topic[:100]!r} holds an event of {item.topic[:100]!r}")
        except ValueError:
            self._trouble.append(StreamError(f"{self._addresses[link]}: a message of {len(parts)} parts is no event"))
        except StreamError as error:
            self._trouble.append(StreamError(f"{self._addresses[link]}: {error}"))
        else:
            if item.topic.startswith("heartbeat/") and (gone_s := self._silences[link].heard(now)):
                log.warning(
                    "%s: the heartbeat is back after %.0f s",
                    self._addresses[link],
                    gone_s,
                    extra=as_kind(LogKind.CLIENT_BACK),
                )
            self._pass_on(link, item, now)

    def _pass_on(self, link: int, item: Item, now: float) -> None:
        follower = self._follower(item.source)
        try:
            if self._homes[item.source].admits(link, item, now):
                follower.hear(link, item, now)
        except StreamError as error:
            self._trouble.append(error)

    def answer(self, source: str, parts: list[bytes], now: float) -> None:
        """A message of that source's history socket."""
        self.followers[source].answer(parts, now)

    def _follower(self, source: str) -> Follower:
        follower = self.followers.get(source)
        if follower is None:
            follower = self.followers[source] = Follower(
                source,
                self._topics,
                since=self._since,
                place=self._places.get(source),
                heartbeats=self._heartbeats,
                max_lag_s=self._max_lag_s,
            )
            self._list.append(follower)
            self._homes[source] = Home(source, self._addresses)
        return follower

    def pull(self, now: float) -> Event | None:
        """The next event to hand over; None: there is none for now.

        Raises:
            StreamError: see `Subscription`. The next call goes on with what it told taken as known.
        """
        if self._trouble:
            raise self._trouble.popleft()
        for _ in range(len(self._list)):
            self._turn = (self._turn + 1) % len(self._list)
            event = self._list[self._turn].pull(now)
            if event is not None:
                return event
        return None

    def requests(self, now: float) -> list[Request]:
        """What is to be sent to history sockets now."""
        return [request for follower in self._list if (request := follower.request(now)) is not None]

    def wait_s(self, now: float) -> float:
        """So long the sockets may be waited for before `requests` is to be called again."""
        waits = [follower.wait_s(now) for follower in self._list]
        if self._loud:
            waits += [silence.wait_s(now) for silence in self._silences]
        return min(waits, default=float("inf"))

    def quiet(self, link: int, now: float) -> None:
        """All that had come from that address was read: if it has not been heard by now, it is silent."""
        gone_s = self._silences[link].noticed(now, again=self._loud)
        if not gone_s:
            return
        text = (
            f"{self._addresses[link]}: no heartbeat for {gone_s:.0f} s: the daemon there is not running or hangs, the "
            "address is not its own, or it does not know our key"
        )
        if self._loud:
            self._trouble.append(Silent(text))
        else:
            log.warning("%s; waiting for it", text, extra=as_kind(LogKind.CLIENT_SILENT))

    def refused(self, link: int, why: str) -> None:
        """That address does not let us in."""
        self._trouble.append(Refused(f"{self._addresses[link]}: {why}"))

    def place(self, without: Event | None = None) -> Place:
        """How far all have come; `without` an event that is still being handled."""
        sources = dict(self._places)
        for source, follower in self.followers.items():
            place = follower.place(without if without is not None and without.source == source else None)
            if place is not None:
                sources[source] = place
        return Place(topics=self._topics, sources=sources)


def _for_topics(place: Place, topics: list[str]) -> dict[str, SourcePlace]:
    """The places for a subscription to other topics: what it had not subscribed to may begin anywhere."""
    if sorted(set(place.topics)) == sorted(set(topics)):
        return dict(place.sources)
    return {source: _known_for(old, place.topics) for source, old in place.sources.items()}


def _known_for(old: SourcePlace, topics: list[str]) -> SourcePlace:
    return msgspec.structs.replace(old, since=(topics or [""]) if old.since is None else old.since)
