"""The books of one source: what was handed over, what is known to exist, and so what is missing.

It is the place, and the rules of docs/protocol.md about it.
"""

from __future__ import annotations

from collections.abc import Sequence

from inspector.client.place import SourcePlace
from inspector.client.reading import Item
from inspector.client.seen import Seen, Topic
from inspector.events import Event, Heartbeat, JournalMark

Gap = tuple[int, str, int, int]
"""Epoch, topic, first and last sequence."""
NAMED = 5
"""Ranges that a message names; `Lost.missing` has all."""


class Books:
    """What is known of one source.

    Attributes:
        journal: the journal that `cursor` is a place in; None: there was none to ask.
        cursor: all that matches up to here was handed over, or is known to be lost.
        newest: the last run come to.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = tuple(topics) or ("",)
        self.journal: str | None = None
        self.cursor = 0
        self.newest = 0
        self.floor = 0
        """Runs before this one are done with."""
        self._seen = Seen()
        self._since: list[str] | None = None
        self._retired: int | None = None

    def matches(self, topic: str) -> bool:
        """It is subscribed to, and in the journal."""
        return topic.startswith(self._topics) and not topic.startswith("heartbeat/")

    # ------------------------------------------------------------ where it begins

    def begin_now(self, first: Event, beat: Heartbeat) -> None:
        """All that was published before this heartbeat counts as handed over."""
        self.floor = self.newest = first.epoch
        if beat.journal is not None:
            self.journal, self.cursor = beat.journal.id, beat.journal.last
        for topic, last in beat.high_water.items():
            if self.matches(topic):
                self._seen.topic(first.epoch, topic).seen.add(1, last)

    def begin_at_beginning(self, journal: str, epoch: int) -> None:
        """All that the journal has is wanted; what it no longer has is no loss."""
        self.journal, self.newest, self._since = journal, epoch, []

    def restore(self, place: SourcePlace) -> None:
        """Go on where an earlier subscription ended."""
        self.journal, self.cursor, self.floor = place.journal, place.cursor, place.epoch
        self._seen, self._since, self._retired = place.restored(self.matches), place.since, place.retired
        self.newest = max(self.floor, self._seen.newest)

    def turn_to(self, journal: str | None, epoch: int, everything: bool) -> None:
        """Another journal is to be read from its beginning; `everything`: what is known means nothing in it."""
        self.journal, self.cursor, self._since = journal, 0, None
        if everything:
            self.floor, self._seen = 0, Seen()
        self.newest = epoch

    def turn_to_run(self, epoch: int, everything: bool) -> None:
        """Nothing can be known of the runs before this one."""
        self.journal, self._since = None, None
        if everything:
            self._seen = Seen()
        self.floor = self.newest = epoch
        self._seen.forget(epoch)

    # ------------------------------------------------------------ what comes

    def topic(self, item: Item) -> Topic:
        """The books of the item's topic."""
        return self._seen.topic(item.epoch, item.topic)

    def want(self, epoch: int, name: str, last: int) -> Topic:
        """There are events up to `last`."""
        topic = self._seen.topic(epoch, name)
        topic.wanted = max(topic.wanted, last)
        return topic

    def witness(self, item: Item) -> None:
        """The item says which events there are."""
        if item.epoch < self.floor:
            return
        if self.matches(item.topic):
            self.want(item.epoch, item.topic, item.sequence)
        if item.event is not None and isinstance(item.event.data, Heartbeat):
            for topic, last in item.event.data.high_water.items():
                if self.matches(topic):
                    self.want(item.epoch, topic, last)

    def hand(self, item: Item) -> None:
        """It is handed over."""
        self.topic(item).seen.add(item.sequence, item.sequence)

    def confirm(self, epoch: int, mark: JournalMark | None) -> None:
        """Everything up to a heartbeat of this run has been handed over."""
        if mark is not None and mark.id == self.journal:
            self.cursor = max(self.cursor, mark.last)
        self.floor = epoch
        self._seen.forget(epoch)

    # ------------------------------------------------------------ what is missing

    @property
    def whole(self) -> bool:
        """Nothing is known to be missing."""
        return self._seen.whole

    def holes(self) -> list[Gap]:
        """Of the runs come to by now; live events that were dropped may have told of a later one."""
        return [
            (epoch, name, *span)
            for epoch, name, topic in self._seen
            if epoch <= self.newest
            for span in topic.seen.missing(topic.known)
        ]

    def accept(self, gaps: Sequence[Gap]) -> None:
        """What is lost was told, and counts as handed over."""
        for epoch, name, first, last in gaps:
            self._seen.topic(epoch, name).seen.add(first, last)

    # ------------------------------------------------------------ what the journal says

    def note_retired(self, retired: int, after: int) -> None:
        """What was deleted before the journal was first asked is no loss to a topic that may begin anywhere.

        What is deleted later and was not read by then is one.
        """
        if self._since is None:
            return
        if self._retired is None:
            self._retired = retired
        elif retired > max(self._retired, after):
            self._since = self._retired = None

    def find(self, item: Item) -> bool:
        """The journal has this event; True: it is new."""
        self.newest = max(self.newest, item.epoch)
        seen = self.topic(item).seen
        if item.sequence in seen:
            return False
        if not seen.last and self._may_begin_anywhere(item.topic):
            seen.add(1, item.sequence - 1)
        return True

    def judge(self, marks: Sequence[tuple[int, str, int]]) -> list[Gap]:
        """The journal has been read to its end: what is missing below its marks will never come; returns that.

        Nor will what is missing of an earlier run: a run writes what waits before it ends.
        """
        marked: dict[tuple[int, str], int] = {}
        for epoch, name, last in marks:
            if epoch >= self.floor and self.matches(name):
                marked[epoch, name] = last
                topic = self.want(epoch, name, last)
                if not topic.seen.last and self._may_begin_anywhere(name):
                    topic.seen.add(1, last)
        self._since = self._retired = None
        running = max([self.newest, *(epoch for epoch, _ in marked)])
        return [
            (epoch, name, *span)
            for epoch, name, topic in self._seen
            for span in topic.seen.missing(topic.known if epoch < running else marked.get((epoch, name), 0))
        ]

    def _may_begin_anywhere(self, topic: str) -> bool:
        return self._since is not None and not topic.startswith(tuple(self._since))

    # ------------------------------------------------------------ the place

    def place(self, without: Event | None) -> SourcePlace:
        """How far it has come; `without` an event that was handed over but is still being handled."""
        if without is None or without.epoch < self.floor or not self.matches(without.subject):
            return self._place()
        seen = self._seen.topic(without.epoch, without.subject).seen
        seen.remove(without.sequence)
        place = self._place()
        seen.add(without.sequence, without.sequence)
        return place

    def _place(self) -> SourcePlace:
        seen: dict[int, dict[str, list[tuple[int, int]]]] = {}
        wanted: dict[int, dict[str, int]] = {}
        for epoch, name, topic in self._seen:
            if topic.seen.last:
                seen.setdefault(epoch, {})[name] = topic.seen.spans
            if topic.wanted > topic.seen.last:
                wanted.setdefault(epoch, {})[name] = topic.wanted
        return SourcePlace(
            journal=self.journal,
            cursor=self.cursor,
            epoch=self.floor,
            seen=seen,
            wanted=wanted,
            since=self._since,
            retired=self._retired,
        )


def named(gaps: Sequence[Gap]) -> str:
    """`: epoch/topic first to last, ...`, or nothing."""
    if not gaps:
        return ""
    texts = [f"{epoch}/{name} {a}" + (f" to {b}" if b > a else "") for epoch, name, a, b in gaps[:NAMED]]
    more = f" and {len(gaps) - NAMED} more ranges" if len(gaps) > NAMED else ""
    return f": {', '.join(texts)}{more}"
