"""Two daemons with one line name: which of them is followed, and that the other is not dropped without a word.

A daemon may be heard at several addresses; then its heartbeats name the same run and the same journal everywhere. Two
daemons that call themselves alike differ in that, and only one of them can be followed under that name.
"""

from __future__ import annotations

from collections.abc import Sequence

from inspector.client.asking import ALIVE_S
from inspector.client.reading import Item
from inspector.errors import StreamError
from inspector.events import Heartbeat

SURE = 3
"""Heartbeats of each daemon, in turn, that make two of them certain: one that starts again is heard at one address a
little earlier than at the other."""
AGAIN = 60
"""Heartbeats of the one that is not followed between one complaint and the next."""


class Home:
    """The address that one source is followed at: the first one that it is heard from, until it falls silent there."""

    def __init__(self, source: str, addresses: Sequence[str]) -> None:
        self._source = source
        self._addresses = addresses
        self._link: int | None = None
        self._daemon: tuple[int, str | None] = (0, None)
        """Its epoch and journal, as the last heartbeat at home named them."""
        self._since = ""
        """When the first of those heartbeats was sent."""
        self._heard_at = 0.0
        self._beats = 0
        self._same: set[int] = set()
        """Other links that the same daemon is heard from."""
        self._doubts: dict[int, tuple[int, int]] = {}
        """Link -> heartbeats of somebody else, and how many at home there had been at the last of them."""
        self._namesakes: set[int] = set()
        """Links of another daemon, for certain."""

    def admits(self, link: int, item: Item, now: float) -> bool:
        """Whether an item comes from the daemon that is followed.

        Raises:
            StreamError: it comes from another one of that name.
        """
        event = item.event
        if self._link is None:
            self._link = link
        if link == self._link:
            self._heard_at = now
        if event is None or not isinstance(event.data, Heartbeat):
            return link == self._link or link in self._same
        daemon = (event.epoch, event.data.journal.id if event.data.journal is not None else None)
        if link == self._link or self._moves(link, daemon, now):
            self._note(link, daemon, event.time, now)
        elif daemon == self._daemon:
            self._same.add(link)
            self._namesakes.discard(link)
        else:
            self._same.discard(link)
            self._doubt(link, event.time)
            return False
        return True

    def _moves(self, link: int, daemon: tuple[int, str | None], now: float) -> bool:
        """The daemon is no longer heard at home, or its next run is heard here first."""
        (epoch, journal), (known, ours) = daemon, self._daemon
        if journal is not None and journal == ours and epoch > known:
            return True
        return daemon != self._daemon and link not in self._namesakes and now - self._heard_at > ALIVE_S

    def _note(self, link: int, daemon: tuple[int, str | None], time: str, now: float) -> None:
        if daemon != self._daemon:
            self._since = time
            self._same.clear()
            self._doubts.clear()
        self._link, self._daemon, self._heard_at = link, daemon, now
        self._beats += 1

    def _doubt(self, link: int, time: str) -> None:
        """A heartbeat of another run than the one at home: one that has ended by now, or another daemon's."""
        count, beats = self._doubts.get(link, (0, -1))
        if time < self._since or (beats == self._beats and link not in self._namesakes):
            return
        self._doubts[link] = (count + 1, self._beats)
        if count + 1 < SURE:
            return
        self._doubts[link] = (SURE - AGAIN, self._beats)
        self._namesakes.add(link)
        assert self._link is not None
        both = f"{self._addresses[self._link]} and {self._addresses[link]}"
        raise StreamError(
            f"two daemons call themselves {self._source} ({both}): give each line its own line.name; only the first "
            "is followed"
        )
