"""Which sequences were handed over: ranges, by epoch and topic. A whole topic is one range, whatever its length."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

Span = tuple[int, int]
"""Sequences from the first to the last, both included."""


class Ranges:
    """A set of positive integers as spans that are sorted, apart, and never touch."""

    __slots__ = ("_spans",)

    def __init__(self, spans: list[Span] | None = None) -> None:
        self._spans: list[Span] = []
        for first, last in spans or []:
            self.add(first, last)

    @property
    def last(self) -> int:
        """The highest number; 0: there is none."""
        return self._spans[-1][1] if self._spans else 0

    @property
    def spans(self) -> list[Span]:
        return list(self._spans)

    def __contains__(self, number: int) -> bool:
        if number > self.last:  # almost always: the next one
            return False
        at = bisect_right(self._spans, number, key=_first) - 1
        return at >= 0 and number <= self._spans[at][1]

    def add(self, first: int, last: int) -> None:
        """Put `first` to `last` in."""
        if first > last:
            return
        spans = self._spans
        if spans and spans[-1][1] == first - 1:  # almost always: the next one
            spans[-1] = (spans[-1][0], last)
            return
        start = bisect_left(spans, first - 1, key=_last)
        end = bisect_right(spans, last + 1, key=_first)
        if start < end:
            first, last = min(first, spans[start][0]), max(last, spans[end - 1][1])
        spans[start:end] = [(first, last)]

    def remove(self, number: int) -> None:
        """Take one number out."""
        at = bisect_right(self._spans, number, key=_first) - 1
        if at >= 0 and number <= self._spans[at][1]:
            first, last = self._spans[at]
            parts = [(first, number - 1), (number + 1, last)]
            self._spans[at : at + 1] = [(a, b) for a, b in parts if a <= b]

    def missing(self, upto: int) -> list[Span]:
        """What of 1 to `upto` is not in it."""
        return list(self._holes(upto))

    def whole(self, upto: int) -> bool:
        """All of 1 to `upto` is in it."""
        return next(self._holes(upto), None) is None

    def _holes(self, upto: int) -> Iterator[Span]:
        at = 1
        for first, last in self._spans:
            if first > upto:
                break
            if at < first:
                yield at, first - 1
            at = last + 1
        if at <= upto:
            yield at, upto


def _first(span: Span) -> int:
    return span[0]


def _last(span: Span) -> int:
    return span[1]


@dataclass(slots=True)
class Topic:
    """What is known of one topic in one epoch."""

    seen: Ranges = field(default_factory=Ranges)
    wanted: int = 0
    """There are events up to this sequence: a heartbeat or a later event says so."""

    @property
    def known(self) -> int:
        """There are events up to this sequence."""
        return max(self.wanted, self.seen.last)

    @property
    def whole(self) -> bool:
        """Nothing is known to be missing."""
        return self.seen.whole(self.known)


class Seen:
    """Epoch -> topic -> what was handed over of it."""

    def __init__(self) -> None:
        self._epochs: dict[int, dict[str, Topic]] = {}

    def topic(self, epoch: int, name: str) -> Topic:
        """That topic's books, made when there are none."""
        topics = self._epochs.get(epoch)
        if topics is None:
            topics = self._epochs[epoch] = {}
        topic = topics.get(name)
        if topic is None:
            topic = topics[name] = Topic()
        return topic

    @property
    def newest(self) -> int:
        """The last epoch; 0: none yet."""
        return max(self._epochs, default=0)

    @property
    def whole(self) -> bool:
        """Nothing is known to be missing."""
        return all(topic.whole for _, _, topic in self)

    def __iter__(self) -> Iterator[tuple[int, str, Topic]]:
        for epoch, topics in self._epochs.items():
            for name, topic in topics.items():
                yield epoch, name, topic

    def forget(self, before: int) -> None:
        """Drop the epochs before this one."""
        for epoch in [epoch for epoch in self._epochs if epoch < before]:
            del self._epochs[epoch]
