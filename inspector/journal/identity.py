"""The identity of events: `source` + epoch + topic + a sequence that is contiguous in each topic of an epoch."""

from __future__ import annotations

import calendar
import threading
import time
from functools import lru_cache
from typing import get_args

import msgspec

from inspector.events import Data, Event
from inspector.records import Draft

DATASCHEMA = "urn:inspector:schema:event:v1"

_STRUCTS: tuple[type[msgspec.Struct], ...] = get_args(Data)
KINDS: dict[type, str] = {struct: str(struct.__struct_config__.tag) for struct in _STRUCTS}
"""Type of an event's data -> its kind."""


class Identities:
    """Numbers events; safe to use from any thread."""

    def __init__(self, source: str, epoch: int) -> None:
        self._source = source
        self._epoch = epoch
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}

    def give(self, draft: Draft) -> Event:
        """The next event of the draft's topic."""
        with self._lock:
            sequence = self._numbers.get(draft.topic, 0) + 1
            self._numbers[draft.topic] = sequence
        return Event(
            id=f"{self._epoch}/{draft.topic}{sequence}",
            source=self._source,
            type=f"inspector.{KINDS[type(draft.data)]}.v1",
            time=rfc3339(draft.time_ns),
            subject=draft.topic,
            dataschema=DATASCHEMA,
            epoch=self._epoch,
            sequence=sequence,
            data=draft.data,
        )

    def high_water(self) -> dict[str, int]:
        """Topic -> the last sequence given."""
        with self._lock:
            return dict(self._numbers)


def rfc3339(time_ns: int) -> str:
    """Nanoseconds since the Unix epoch as RFC 3339 in UTC, e.g. 2026-01-31T23:59:59.000000001Z."""
    seconds = time_ns // 1_000_000_000
    return f"{_to_the_second(seconds)}.{time_ns - seconds * 1_000_000_000:09d}Z"


def nanoseconds(text: str) -> int:
    """The inverse of `rfc3339`. Raises ValueError for any other text."""
    if len(text) != 30 or text[19] != "." or text[29] != "Z":
        raise ValueError(f"{text!r} is no time such as 2026-01-31T23:59:59.000000001Z")
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) * 1_000_000_000 + int(text[20:29])


@lru_cache(maxsize=16)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
