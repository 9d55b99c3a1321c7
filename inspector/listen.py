"""`inspector listen`: subscribe and print events as they come, one line each.

It is an eye on the stream, not a client to build on: holes in the sequences and missing heartbeats are told loudly on
stderr, but nothing is fetched again. The events themselves are in the daemon's journal.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO

import msgspec
import zmq
from rich.console import Console
from rich.text import Text

from inspector.client.address import Keys
from inspector.ending import end
from inspector.errors import ConfigError
from inspector.events import Event, Heartbeat
from inspector.events import as_json as json_of
from inspector.wording import describe, safe

TICK_MS = 100
"""How soon a request to stop is heard."""
QUEUE = 10_000
"""Events that wait for a slow terminal before the daemon's side fills up."""

LAST_VALUES = ("state/", "coil/")
"""Topics whose last values are sent again to those who join late."""


def listen(
    address: str,
    topics: Sequence[str],
    as_json: bool,
    out: TextIO,
    stop: threading.Event,
    *,
    keys: Keys | None = None,
    err: TextIO | None = None,
    silence_s: float = 5.0,
) -> int:
    """Print events from `address` to `out` until `stop` is set or nobody reads `out`; returns the exit code, 0.

    Args:
        address: where a daemon publishes, e.g. tcp://127.0.0.1:5570 or ipc:///PATH.
        topics: prefixes of topics; none: everything. Heartbeats are printed only as JSON or when a prefix names them.
        as_json: the events' JSON lines instead of lines for people.
        keys: ours and the daemon's, where it lets in only whom it knows.
        err: where holes and silence are told; None: stderr.
        silence_s: this long without a heartbeat is told, seconds.

    Raises:
        ConfigError: the address is none that can be connected to.
    """
    tell = _teller(err or sys.stderr)
    show = _shower(topics, as_json, out)
    continuity = Continuity(topics)
    silence = _Silence(address, silence_s)
    try:
        with _subscribed(address, topics, keys) as socket:
            poller = _poller(socket, out)
            while not stop.is_set():
                ready = dict(poller.poll(TICK_MS))
                for raw in _received(socket):
                    event = _decoded(raw, tell)
                    if event is not None and continuity.is_new(event):
                        tell([*silence.heard(event), *continuity.see(event)])
                        show(event, raw)
                out.flush()
                tell(silence.noticed())
                if set(ready) - {socket}:
                    break  # the reader of `out` has gone
    except BrokenPipeError:
        pass
    except KeyboardInterrupt:
        return 0
    _hush(out)
    return 0


# ---------------------------------------------------------------- receiving


@contextmanager
def _subscribed(address: str, topics: Sequence[str], keys: Keys | None) -> Iterator[zmq.Socket[bytes]]:
    if not re.match(r"(tcp|ipc)://.", address):
        hint = f"tcp://{address}" if re.fullmatch(r"[^/]+:\d+", address) else "tcp://127.0.0.1:5570"
        raise ConfigError(f"address {address!r} is neither tcp://HOST:PORT nor ipc:///PATH; did you mean {hint}?")
    with ExitStack() as held:
        context = zmq.Context()
        held.callback(end, context, "listen")
        socket = held.enter_context(context.socket(zmq.SUB))
        socket.linger = 0
        socket.rcvhwm = QUEUE
        socket.ipv6 = True
        # Notices a dead host and connects again. ZMTP's own heartbeats would do so sooner, but with them libzmq 4.3.5
        # aborts the process when the terminal is slower than the stream (https://github.com/zeromq/libzmq/issues/3937).
        for option, value in ((zmq.TCP_KEEPALIVE, 1), (zmq.TCP_KEEPALIVE_IDLE, 5), (zmq.TCP_KEEPALIVE_INTVL, 5)):
            socket.setsockopt(option, value)
        if keys is not None:
            keys.secure(socket, address)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise ConfigError(f"address {address!r}: {error.strerror}; it must be like tcp://127.0.0.1:5570") from None
        # Heartbeats last: when the first is here every other subscription is in force, and it tells where all stand.
        for topic in [*(topics or [""]), "heartbeat/"]:
            socket.subscribe(topic)
        yield socket


def _poller(socket: zmq.Socket[bytes], out: TextIO) -> zmq.Poller:
    """Wakes for messages, and when the reader of a pipe (`| head`) goes away, even if no event comes ever again."""
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    with suppress(OSError, ValueError):  # a buffer in memory is no file
        poller.register(out.fileno(), zmq.POLLERR)
    return poller


def _received(socket: zmq.Socket[bytes]) -> Iterator[bytes]:
    """The bodies that are there now, at most a queue full."""
    for _ in range(QUEUE):
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)[-1]
        except zmq.Again:
            return


_decoder = msgspec.json.Decoder(Event)


def _decoded(raw: bytes, tell: Callable[[Sequence[str]], None]) -> Event | None:
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        tell([f"not an event that this version knows ({error}): {safe(raw[:80].decode(errors='replace'))}"])
        return None


def _matches(topic: str, topics: Sequence[str]) -> bool:
    return not topics or topic.startswith(tuple(topics))


def _hush(out: TextIO) -> None:
    """Let Python's last flush of a stdout that nobody reads go nowhere instead of printing an error."""
    try:
        out.flush()
    except BrokenPipeError:
        if out is sys.stdout:
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


# ---------------------------------------------------------------- what is missing


@dataclass(slots=True)
class _Epoch:
    number: int
    whole: bool
    """Topics that were not seen yet are known to start at 1: we were there, or a heartbeat told where all stand."""
    last: dict[str, int] = field(default_factory=dict)


class Continuity:
    """Finds what was published and never came, from the sequences and from the heartbeats' high-water marks."""

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics
        self._epochs: dict[str, _Epoch] = {}

    def is_new(self, event: Event) -> bool:
        """False for an event that came before: the last states are sent again when somebody subscribes."""
        epoch = self._epochs.get(event.source)
        return epoch is None or event.epoch != epoch.number or event.sequence > epoch.last.get(event.subject, 0)

    def see(self, event: Event) -> list[str]:
        """Book an event; returns what there is to tell."""
        notes: list[str] = []
        epoch = self._epochs.get(event.source)
        if epoch is None or event.epoch > epoch.number:
            if epoch is not None:
                notes.append(f"{event.source} has started again (epoch {epoch.number} -> {event.epoch})")
            epoch = self._epochs[event.source] = _Epoch(event.epoch, whole=epoch is not None)
        elif event.epoch < epoch.number:
            return []
        notes += _reach(epoch, event.subject, event.sequence - 1)
        epoch.last[event.subject] = max(event.sequence, epoch.last.get(event.subject, 0))
        if isinstance(event.data, Heartbeat):
            for topic, sequence in event.data.high_water.items():
                if _matches(topic, self._topics):
                    notes += _reach(epoch, topic, sequence)
            epoch.whole = True
        return notes


def _reach(epoch: _Epoch, topic: str, sequence: int) -> list[str]:
    """All of a topic up to `sequence` should have come by now.

    Not so the last values that a sink keeps for those who join: until the first heartbeat holes lie between them.
    """
    last = epoch.last.get(topic, 0 if epoch.whole else sequence)
    epoch.last[topic] = max(last, sequence)
    if sequence <= last or (not epoch.whole and topic.startswith(LAST_VALUES)):
        return []
    return [f"LOST {sequence - last} event(s) of {topic}, sequence {last + 1} to {sequence}; the journal has them"]


class _Silence:
    """Tells once when heartbeats stay away, and once when they are back."""

    def __init__(self, address: str, limit_s: float) -> None:
        self._address = address
        self._limit_s = limit_s
        self._heard_at = time.monotonic()
        self._silent = False

    def heard(self, event: Event) -> list[str]:
        if not isinstance(event.data, Heartbeat):
            return []
        gone_s, self._heard_at = time.monotonic() - self._heard_at, time.monotonic()
        was_silent, self._silent = self._silent, False
        return [f"the heartbeat is back after {gone_s:.1f} s"] if was_silent else []

    def noticed(self) -> list[str]:
        if self._silent or time.monotonic() - self._heard_at < self._limit_s:
            return []
        self._silent = True
        return [f"NO HEARTBEAT for {self._limit_s:g} s from {self._address}: nobody publishes there, or it hangs"]


# ---------------------------------------------------------------- showing


def _shower(topics: Sequence[str], as_lines: bool, out: TextIO) -> Callable[[Event, bytes], None]:
    """Prints an event that was asked for; heartbeats come unasked too."""
    console = Console(file=out, highlight=False) if out.isatty() else None

    def show(event: Event, raw: bytes) -> None:
        if not _matches(event.subject, topics):
            return
        if as_lines:
            out.write((json_of(event) if b"\n" in raw else raw).decode() + "\n")
        elif topics or not isinstance(event.data, Heartbeat):
            text, style = describe(event)
            if console is None:
                out.write(text + "\n")
            else:
                console.print(Text(text, style), soft_wrap=True)

    return show


def _teller(err: TextIO) -> Callable[[Sequence[str]], None]:
    console = Console(file=err, highlight=False)

    def tell(notes: Sequence[str]) -> None:
        for note in notes:
            console.print(Text(f"inspector listen: {safe(note)}", "bold red"), soft_wrap=True)

    return tell
