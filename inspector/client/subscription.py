"""`subscribe(...)`: the events of any number of daemons as one iterator that loses nothing without saying so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from inspector.client.address import ServerKey, checked, load_keys
from inspector.client.machine import Machine
from inspector.client.place import Place, PlaceFile
from inspector.client.sockets import Sockets
from inspector.errors import ConfigError
from inspector.events import Event

MOST_TOPICS = 999
"""A daemon cuts a connection with more than 1000 subscriptions, and one is for heartbeats."""
LONGEST_TOPIC = 256
"""Bytes; a daemon cuts a connection that subscribes to a longer one."""
ALL_TOPICS = 60_000
"""Bytes; a daemon cuts at 64 KiB, and they must fit into one request of that size to the history."""


def subscribe(
    *addresses: str,
    topics: Sequence[str] = (),
    history: str | Sequence[str] | None = None,
    place: Path | str | Place | None = None,
    since: Literal["now", "beginning"] = "now",
    keys: Path | str | None = None,
    server_key: ServerKey = None,
    max_lag_s: float | None = 60.0,
    silence_s: float | None = None,
    heartbeats: bool = False,
) -> Subscription:
    """Follow the events of one or more daemons: `for event in subscribe("tcp://127.0.0.1:5570"): ...`.

    Args:
        addresses: where daemons publish: tcp://HOST:PORT or ipc:///PATH.
        topics: prefixes such as "defect/v1/line1/"; none: everything.
        history: where to ask for the past, for all addresses or for each; None: where the heartbeats say.
        place: a file that remembers how far you have come, made if it is not there; or a `Place` that you keep.
        since: where to begin without a place: with what happens from now on, or with all that the journal has.
        keys: your certificate file NAME.key_secret, for daemons that others than their own machine can reach.
        server_key: the daemon's public key, its 40 characters or the file server.key; or address -> key.
        max_lag_s: being further behind than this raises Lagging, seconds; None: never.
        silence_s: no heartbeat for so long raises Silent, seconds; None: it is only logged, after 5 s.
        heartbeats: hand over heartbeats too.

    Raises:
        ConfigError: an address, a topic, a key file or the place is not usable.
    """
    return Subscription(
        addresses,
        topics,
        history=history,
        place=place,
        since=since,
        keys=keys,
        server_key=server_key,
        max_lag_s=max_lag_s,
        silence_s=silence_s,
        heartbeats=heartbeats,
    )


class Subscription:
    """An iterator of events, made by `subscribe`; also an async one. A context manager that closes it. For one thread.

    It connects again by itself, for ever. Each event comes once, in the order of its topic (but while a daemon cannot
    write its journal: then what is missing comes later than what is new). Asking for the next event raises

        Lost         events are lost for good; it says which
        Lagging      you are too far behind the line
        Silent       no heartbeat for `silence_s`
        Refused      the history gives no answer, or says no
        StreamError  an event of a version that this program does not know; two daemons with one line name

    and asking again goes on, with what was told taken as known.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        topics: Sequence[str],
        *,
        history: str | Sequence[str] | None,
        place: Path | str | Place | None,
        since: Literal["now", "beginning"],
        keys: Path | str | None,
        server_key: ServerKey,
        max_lag_s: float | None,
        silence_s: float | None,
        heartbeats: bool,
    ) -> None:
        self._addresses = _addresses(addresses)
        topics = _topics(topics)
        if since not in ("now", "beginning"):
            raise ConfigError(f"since is {since!r}: it must be 'now' or 'beginning'")
        curve = load_keys(keys, server_key, self._addresses)
        histories = _histories(history, len(self._addresses))
        self._file = PlaceFile(Path(place)) if isinstance(place, str | Path) else None
        known = self._file.read() if self._file is not None else place
        self._machine = Machine(
            self._addresses,
            topics,
            since=since,
            place=known if isinstance(known, Place) else None,
            max_lag_s=max_lag_s,
            silence_s=silence_s,
            heartbeats=heartbeats or any(topic.startswith("heartbeat/") for topic in topics),
            now=time.monotonic(),
        )
        self._current: Event | None = None
        self._written = self._machine.place()
        self._unwritten = True
        self._sockets = Sockets(self._addresses, topics, histories, curve)

    # ------------------------------------------------------------ where it stands

    @property
    def place(self) -> Place:
        """How far you have come, the event that was handed over last included: keep it together with that event."""
        return self._machine.place()

    @property
    def lag_s(self) -> float:
        """Seconds behind the line, of the source that is furthest behind."""
        return max((follower.lag.seconds for follower in self._machine.followers.values()), default=0.0)

    @property
    def repaired(self) -> int:
        """Events that were missed on the way, or before, and came from a history."""
        return sum(follower.repaired for follower in self._machine.followers.values())

    @property
    def sources(self) -> list[str]:
        """The daemons heard so far, by the `source` of their events."""
        return list(self._machine.followers)

    # ------------------------------------------------------------ the next event

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        self._handled()
        while not self._sockets.closed:
            if (event := self._pull()) is not None:
                return event
            if not self._read():
                self._sockets.wait(self._wait_s())
        raise StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        self._handled()
        while not self._sockets.closed:
            if (event := self._pull()) is not None:
                return event
            if self._read():
                await asyncio.sleep(0)  # a stream that is never empty must not hold up the loop
            else:
                await self._sockets.wait_async(self._wait_s())
        raise StopAsyncIteration

    def _pull(self) -> Event | None:
        self._current = self._machine.pull(time.monotonic())
        return self._current

    def _read(self) -> bool:
        """Send what is to be asked, then take what is there; False: nothing is."""
        now = time.monotonic()
        self._sockets.send(self._machine.requests(now))
        if self._sockets.read(self._machine):
            return True
        self._save(at_once=False)
        return False

    def _wait_s(self) -> float:
        wait_s = self._machine.wait_s(time.monotonic())
        return min(wait_s, self._file.wait_s) if self._file is not None and self._unwritten else wait_s

    # ------------------------------------------------------------ the place file

    def _handled(self) -> None:
        """The caller asks for the next event: he has done with the one before."""
        self._current = None
        self._unwritten = True
        self._save(at_once=False)

    def _save(self, at_once: bool) -> None:
        if self._file is None or not self._unwritten or (self._file.wait_s and not at_once):
            return
        self._unwritten = False
        place = self._machine.place(without=self._current)
        if place != self._written:
            self._file.write(place)
            self._written = place

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """Write the place and disconnect; safe to call twice. An event that is still being handled will come again."""
        if self._sockets.closed:
            return
        self._sockets.close()
        self._unwritten = True
        self._save(at_once=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# ---------------------------------------------------------------- arguments


def _addresses(addresses: Sequence[str]) -> tuple[str, ...]:
    if not addresses:
        raise ConfigError("subscribe() needs the address of a daemon's events, e.g. tcp://127.0.0.1:5570")
    return tuple(dict.fromkeys(checked(address) for address in addresses))


def _topics(topics: Sequence[str]) -> list[str]:
    if isinstance(topics, str):
        raise ConfigError(f"topics must be a list, e.g. [{topics!r}]")
    sizes = [len(topic.encode()) for topic in topics]
    if max(sizes, default=0) > LONGEST_TOPIC:
        longest = topics[sizes.index(max(sizes))]
        raise ConfigError(f"topics: {longest[:40]!r}... has {max(sizes)} bytes: {LONGEST_TOPIC} at most")
    if len(sizes) > MOST_TOPICS or sum(sizes) > ALL_TOPICS:
        raise ConfigError(
            f"topics: {len(sizes)} of {sum(sizes)} bytes together: {MOST_TOPICS} and {ALL_TOPICS} at most; a prefix "
            "covers many topics"
        )
    return list(topics)


def _histories(history: str | Sequence[str] | None, count: int) -> dict[int, str]:
    """Number of the address -> where its history is, if that was given."""
    if history is None:
        return {}
    given = [history] * count if isinstance(history, str) else list(history)
    if len(given) != count:
        raise ConfigError(f"history names {len(given)} addresses for {count} daemons: give one for each, in order")
    return dict(enumerate(map(checked, given)))
