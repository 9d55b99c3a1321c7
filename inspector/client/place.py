"""How far a subscriber has come, to go on from there after a restart of its own."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from inspector.client.seen import Ranges, Seen, Span
from inspector.errors import ConfigError

WRITE_S = 0.1
"""The place is written this often at most ..."""
SHARE = 10
"""... and never so often that writing it takes more than one part in so many of the time."""


class SourcePlace(msgspec.Struct, frozen=True, kw_only=True):
    """How far one daemon has been followed."""

    journal: str | None
    """The journal that `cursor` is a place in; None: the daemon had none to ask."""
    cursor: int
    """All that matches up to here has been handed over."""
    epoch: int
    """Epochs before this one are done with."""
    seen: dict[int, dict[str, list[Span]]]
    """Epoch -> topic -> the sequences handed over, from 1 on."""
    wanted: dict[int, dict[str, int]] = {}
    """Epoch -> topic -> events up to here are known of, where more than was handed over."""
    since: list[str] | None = None
    """None: nothing may be missing from sequence 1 on. Else that holds for topics with these prefixes only; of any
    other the first event that the journal still had is where it begins."""
    retired: int | None = None
    """Where `since` is given: what the journal had deleted when it was first asked; None: it was not yet asked."""

    def restored(self, matches: Callable[[str], bool]) -> Seen:
        """What was handed over of the topics that are still subscribed to."""
        seen = Seen()
        for epoch, topics in self.seen.items():
            for name in filter(matches, topics):
                seen.topic(epoch, name).seen = Ranges(topics[name])
        for epoch, marks in self.wanted.items():
            for name in filter(matches, marks):
                seen.topic(epoch, name).wanted = marks[name]
        return seen


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """How far a subscription has come: small, and JSON by `bytes(place)` and `Place.of(data)`.

    Stored in one transaction with what was made of the events it makes each of them count exactly once.
    """

    version: int = 1
    topics: list[str] = []
    """The prefixes that were subscribed to."""
    sources: dict[str, SourcePlace] = {}
    """By the events' `source`."""

    def __bytes__(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def of(cls, data: bytes | str) -> Self:
        """The place that was stored.

        Raises:
            ConfigError: this is no place, or one of a later version.
        """
        try:
            place = msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"not a subscriber's place ({error})") from None
        if place.version != 1:
            raise ConfigError(f"a subscriber's place of version {place.version}; this program knows version 1")
        return place


class PlaceFile:
    """A place in a file, replaced in one step: a kill leaves the old one or the new one."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._due = 0.0

    def read(self) -> Place | None:
        """None: there is no such file yet.

        Raises:
            ConfigError: it cannot be read or is no place.
        """
        try:
            return Place.of(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror}: name another file for the place") from None
        except ConfigError as error:
            raise ConfigError(
                f"{self._path}: {error}: move it away to begin anew; what was missed since will not be told"
            ) from None

    @property
    def wait_s(self) -> float:
        """So long until it may be written again."""
        return max(0.0, self._due - self._clock())

    def write(self, place: Place) -> None:
        """Raises ConfigError if the file cannot be written: going on would hand events over twice after a restart."""
        start = self._clock()
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            draft.write_bytes(bytes(place))
            draft.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise ConfigError(f"{self._path}: the place cannot be written: {error.strerror}") from None
        now = self._clock()
        self._due = now + max(WRITE_S, SHARE * (now - start))
