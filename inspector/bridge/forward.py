"""From the daemons' streams into the window, and the place along with what the broker has taken.

The place is a snapshot from the reading side together with the number of the last message that it covers; it is stored
once the broker has every message up to that number. So a kill of the bridge at any moment repeats some events and skips
none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inspector.bridge import naming, notices
from inspector.bridge.window import Window
from inspector.client.place import Place, PlaceFile
from inspector.durable import settle
from inspector.errors import Lagging, Refused, Silent, StreamError
from inspector.events import CoilEvent, Event, Heartbeat
from inspector.logbook import LogKind, as_kind

SNAPSHOT_S = 0.1
"""The place is stored this often at most."""

log = logging.getLogger(__name__)


class DurablePlace(PlaceFile):
    """Forced to the disk: what the broker's mark says may be believed only if the place is not behind it."""

    def write(self, place: Place) -> None:
        """Raises ConfigError if the file cannot be written."""
        super().write(place)
        settle(self._path)
        settle(self._path.parent)


class Stream(Protocol):
    """What is used of the client library's Subscription."""

    @property
    def place(self) -> Place: ...

    def __aiter__(self) -> AsyncIterator[Event]: ...


class Broker(Protocol):
    """What takes the messages of a window."""

    async def run(self) -> None:
        """Send what the window gives and say what is done, until cancelled; waits out a broker that is down.

        Raises:
            ConfigError: the broker will never take anything as it is set up.
        """

    def mark(self) -> Any:
        """Where the broker stands: what is put into the window later comes after this there."""

    def settle(self, mark: Any) -> None:
        """Everything that was put before `mark` was asked for is done, and the place says so."""


@dataclass(slots=True, frozen=True)
class Snapshot:
    """A place, and the number of the last message that it may cover."""

    number: int
    place: Place
    mark: Any


class Forward:
    """Reads until cancelled."""

    def __init__(
        self,
        stream: Stream,
        window: Window,
        broker: Broker,
        places: PlaceFile | None,
    ) -> None:
        self._stream = stream
        self._window = window
        self._broker = broker
        self._places = places
        self._stored: Place | None = None
        self.lost = 0
        """Times that the stream told of a loss."""

    async def read(self) -> None:
        """Put every event into the window. Cancel it at any time: an event is never in between."""
        events = aiter(self._stream)
        while True:
            await self._window.room()
            try:
                event = await anext(events)
            except StopAsyncIteration:
                return
            except StreamError as error:
                self._tell(error)
            else:
                self._put(event)

    def _put(self, event: Event) -> None:
        if isinstance(event.data, Heartbeat):
            return
        self._window.put(
            event.subject,
            naming.key(event.source, event.id),
            event.body,  # with what a newer daemon has added
            keep=isinstance(event.data, CoilEvent),
        )

    def _tell(self, error: StreamError) -> None:
        """A loss is a message too: a consumer must not take silence for a clean strip."""
        if isinstance(error, Lagging | Silent | Refused):  # nothing is lost: the journal has it
            log.warning("%s", error, extra=as_kind(LogKind.BRIDGE_TROUBLE))
            return
        log.error("%s", error, extra=as_kind(LogKind.BRIDGE_TROUBLE))
        self.lost += 1
        self._window.put(notices.TOPIC, *notices.lost(error))

    # ------------------------------------------------------------ the place

    def _snapshot(self) -> Snapshot:
        """The place holds what the client has given, and all of that is in the window: `read` lets nothing between."""
        return Snapshot(self._window.last, self._stream.place, self._broker.mark())

    async def save(self) -> None:
        """Take a snapshot now and then, and store it when its time has come; until cancelled."""
        while True:
            snapshot = self._snapshot()
            await self._window.reached(snapshot.number)
            self._store(snapshot)
            await asyncio.sleep(max(SNAPSHOT_S, self._places.wait_s if self._places else 0.0))

    def _store(self, snapshot: Snapshot) -> None:
        if self._places is not None and snapshot.place != self._stored:
            self._places.write(snapshot.place)
        self._stored = snapshot.place
        self._broker.settle(snapshot.mark)

    async def drain(self, timeout_s: float) -> bool:
        """After the reading has ended: wait until the broker has everything, store the place; False: it has not."""
        last = self._snapshot()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._window.reached(last.number), timeout_s)
        if self._window.acked < last.number:
            return False
        self._store(last)
        return True


def settled(place: Place | None, topics: Sequence[str], key: str) -> bool:
    """Whether the stream will not give the event of a key again: the place has it, or nobody asks for its topic."""
    source, name = naming.event_of(key)
    parts = re.fullmatch(r"(\d+)/(.*/)(\d+)", name, re.DOTALL)
    if parts is None or not parts[2].startswith(tuple(topics) or ""):
        return True
    known = place.sources.get(source) if place is not None else None
    if known is None:
        return False
    epoch, sequence = int(parts[1]), int(parts[3])
    spans = known.seen.get(epoch, {}).get(parts[2], [])
    return epoch < known.epoch or any(first <= sequence <= last for first, last in spans)
