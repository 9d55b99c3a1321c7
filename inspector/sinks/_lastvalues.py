"""What a new subscriber would otherwise wait for: the last states of every part, and where the coil began and ended.

They are published again as they were, with their own identity, so that those who have them drop them as doubles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from inspector.events import CoilEvent, Event, State

AGAIN_S = 1.0
"""The values of a topic are sent again at most so often, however many subscribe to it."""
MOST_VALUES = 256
"""Of one topic; of more parts the one that was silent longest is left out."""
MOST_TOPICS = 64

Message = tuple[bytes, bytes]


@dataclass(slots=True)
class _Topic:
    values: dict[str, Message] = field(default_factory=dict)
    """The oldest first."""
    wanted: bool = False
    again_at: float = 0.0


class LastValues:
    """The last values of a publisher's `state` and `coil` topics."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._topics: dict[bytes, _Topic] = {}

    def keep(self, event: Event, message: Message) -> None:
        """Remember an event if it is of that kind; `message` is its form on the socket."""
        if isinstance(event.data, State):
            key = f"{event.data.part}\n{event.data.about or ''}"
        elif isinstance(event.data, CoilEvent):
            key = event.data.phase
        else:
            return
        topic = self._topics.setdefault(message[0], _Topic())
        if isinstance(event.data, CoilEvent) and event.data.phase == "start":
            topic.values.clear()  # the end that is kept was the coil's before
        topic.values.pop(key, None)
        topic.values[key] = message
        _shorten(topic.values, MOST_VALUES)
        _shorten(self._topics, MOST_TOPICS)

    def want(self, prefix: bytes) -> None:
        """Somebody has subscribed to the topics that begin so."""
        for name, topic in self._topics.items():
            topic.wanted |= name.startswith(prefix)

    def send(self, offer: Callable[[Message], bool]) -> None:
        """Give `offer` what is due; a topic of which it refuses a message is tried again at the next call."""
        now = self._clock()
        for topic in self._topics.values():
            if topic.wanted and now >= topic.again_at and all(offer(message) for message in topic.values.values()):
                topic.wanted, topic.again_at = False, now + AGAIN_S


def _shorten(entries: dict[str, Message] | dict[bytes, _Topic], most: int) -> None:
    while len(entries) > most:
        del entries[next(iter(entries))]  # type: ignore[arg-type]
