"""NATS JetStream: every event is in the stream exactly once.

A message carries the event's key as `Nats-Msg-Id`, so JetStream drops what comes twice within its duplicate window.
That alone is not enough: the window is short, and a server or a bridge may be away for longer. So whenever a connection
is made, the ids of what the stream took since the last place that was stored are read back, and what is there is not
sent again. The window covers what is left: a connection that broke, whose messages the server may still be working on.
Where to begin to read back is the mark, a file beside the place, which is never ahead of it.

Each connection is a new one, without the library's own buffers and retries: nothing is sent behind our back.
https://docs.nats.io/using-nats/developer/develop_jetstream/model_deep_dive#message-deduplication
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import re
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from inspector.bridge import naming
from inspector.bridge.link import ACK_S, RETRY_S, Unwell
from inspector.bridge.notices import too_large
from inspector.bridge.window import Window
from inspector.errors import ConfigError
from inspector.logbook import LogKind, as_kind

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.api import StreamInfo

WINDOW_S = 120.0
"""Duplicate window of a stream that we make."""
LEAST_WINDOW_S = 30.0
"""A shorter one might not cover a connection that broke: ACK_S, and then a new connection."""
BRIDGE = "Inspector-Bridge"
"""Header that says which bridge sent a message."""
CONNECT_S = 5.0
OVERHEAD = 400
"""Bytes of headers besides the key, at most: the limits are for headers and body together."""
LEAST_LARGEST = 4096
"""A stream must take messages of this size: else it might not even take what says that an event was too large."""

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Options:
    """Where to, and as whom. Times are in seconds."""

    servers: Sequence[str]
    stream: str = "inspector"
    prefix: str = "inspector"
    credentials: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls_ca: Path | None = None
    mark: Path | None = None
    """Where the stream stood at the last place is kept here."""


class Mark(msgspec.Struct, frozen=True):
    """A place in a stream: what we sent and our stored place does not cover lies behind it."""

    bridge: str
    """Who we are: made once, the same for ever, and in a header of each of our messages."""
    stream: str
    created: str
    sequence: int


def check(options: Options) -> None:
    """Raises ConfigError unless nats-py is there, and what the options name can be used."""
    for module in ("nats", *(["nkeys"] if options.credentials else [])):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"the bridge needs the module {module}. Install it: pip install 'inspector[nats]'")
    for server in options.servers:
        if not re.fullmatch(r"(nats|tls|wss?)://[^\s/@]+", server):
            raise ConfigError(f"--server {server!r}: give nats://HOST:PORT or tls://HOST:PORT; the user by --user")
    if options.credentials and not os.access(options.credentials, os.R_OK):
        raise ConfigError(f"--creds {options.credentials}: cannot be read: name the credentials file of our user")
    _tls(options)


class JetStream:
    """A `Broker`: one stream that takes everything."""

    def __init__(self, options: Options, window: Window, placed: Callable[[str], bool] = lambda key: False) -> None:
        """`placed`: whether the place that we begin with covers the event of a key."""
        self._options = options
        self._window = window
        self._placed = placed
        self._settled = _read_mark(options.mark)
        self._bridge = self._settled.bridge if self._settled else uuid.uuid4().hex
        self._created = ""
        self._high = 0
        """Sequence in the stream of the last message that is known to be in it."""
        self._largest = 0
        """Bytes of a message, at most, as far as we have been told."""
        self._there: set[str] = set()
        """Keys of messages of ours that are in the stream, though the window still has them, or will have them."""
        self._looked = False
        """What an earlier life of this bridge has left in the stream is known."""
        self._sent: dict[int, float] = {}
        """Number -> when it was sent on this connection, in that order."""
        self._broken: asyncio.Future[None] | None = None
        self._why = ""
        self._down = ""
        self.sent = 0

    # ------------------------------------------------------------ Broker

    def mark(self) -> Mark:
        if self._there and self._settled is not None:
            return self._settled  # of what lies behind it, some has yet to be read again
        return Mark(self._bridge, self._options.stream, self._created, self._high)

    def settle(self, mark: Mark) -> None:
        if mark.created and mark != self._settled:
            self._settled = mark
            if self._options.mark is not None:
                _write_mark(self._options.mark, mark)

    async def run(self) -> None:
        from nats import errors

        while True:
            try:
                async with self._connected() as client:
                    await self._serve(client)
            except errors.NoServersError:
                self._say(Unwell(f"cannot be reached: {self._why}"))
            except (TimeoutError, errors.Error, OSError, Unwell) as error:
                self._refuse(error)
                self._say(error)
            await asyncio.sleep(RETRY_S)

    def _refuse(self, error: Exception) -> None:
        """A server that never let us in will not do so later; one that did may be mended while we wait."""
        if "authorization" in str(error).lower() and not self._created:
            servers = ", ".join(self._options.servers)
            raise ConfigError(f"{servers}: {error}: give --creds, or --user and --password-file") from None

    def _say(self, error: Exception) -> None:
        """One line a kind of trouble, not one a second."""
        text = str(error) or type(error).__name__
        if text != self._down:
            log.warning(
                "%s: %s; %d events wait",
                ", ".join(self._options.servers),
                text,
                len(self._window),
                extra=as_kind(LogKind.BRIDGE_DOWN, reason=text),
            )
        self._down = text

    # ------------------------------------------------------------ a connection

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        import nats

        self._broken = asyncio.get_running_loop().create_future()
        self._broken.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting yet
        client = await nats.connect(
            list(self._options.servers),
            name="inspector bridge",
            allow_reconnect=False,
            max_reconnect_attempts=1,  # it tries twice; then it is our turn to say so
            reconnect_time_wait=1,
            connect_timeout=int(CONNECT_S),
            ping_interval=10,
            closed_cb=self._closed,
            error_cb=self._failed,
            user=self._options.user,
            password=self._options.password,
            user_credentials=str(self._options.credentials) if self._options.credentials else None,
            tls=_tls(self._options),
        )
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):  # whatever is wrong with it, it is being left
                await client.close()

    async def _closed(self) -> None:
        self._break("the connection is gone")

    async def _failed(self, error: Exception) -> None:
        self._why = str(error) or type(error).__name__
        self._break(self._why)

    def _break(self, why: str) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(Unwell(why))

    async def _serve(self, client: Client) -> None:
        """Send until something is wrong."""
        assert self._broken is not None
        info = await self._stream(client)
        self._largest = _largest(client, info)
        await self._reconcile(client, info)
        inbox = client.new_inbox()
        await client.subscribe(f"{inbox}.*", cb=self._answered)
        self._sent.clear()
        self._window.again()
        if self._down:
            log.warning("%s: connected again", ", ".join(self._options.servers), extra=as_kind(LogKind.BRIDGE_BACK))
        self._down = ""
        tasks = [asyncio.ensure_future(work) for work in (self._send(client, inbox), self._watch(), self._broken)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, client: Client, inbox: str) -> None:
        while True:
            message = await self._window.take()
            if message.key in self._there:
                self._there.discard(message.key)
                self._window.done(message.number)
                continue
            if len(message.body) + len(message.key) + OVERHEAD > self._largest:
                log.error(
                    "%s: %d bytes are too many: server and stream take messages of %d with headers",
                    message.key,
                    len(message.body),
                    self._largest,
                    extra=as_kind(LogKind.BRIDGE_REFUSED),
                )
                message = too_large(message)
            self._sent[message.number] = time.monotonic()
            headers = {
                "Nats-Msg-Id": message.key,
                "Nats-Expected-Stream": self._options.stream,
                BRIDGE: self._bridge,
                "Content-Type": "application/cloudevents+json",
            }
            subject = naming.subject(self._options.prefix, message.topic)
            await client.publish(subject, message.body, reply=f"{inbox}.{message.number}", headers=headers)
            self.sent += 1

    async def _watch(self) -> None:
        """An acknowledgement that does not come is a failure too."""
        while True:
            await asyncio.sleep(ACK_S / 10)
            oldest = next(iter(self._sent.values()), None)
            if oldest is not None and time.monotonic() - oldest > ACK_S:
                raise Unwell(f"no acknowledgement for {ACK_S:.0f} s")

    async def _answered(self, message: Msg) -> None:
        """An acknowledgement, or why there is none."""
        number = int(message.subject.rpartition(".")[2])
        if not message.data:  # only the server's "no responders" has none
            self._break(f"nothing takes {self._options.prefix}.>: is JetStream on, and the stream there?")
            return
        answer = json.loads(message.data)
        if "error" in answer:
            self._break(f"stream {self._options.stream}: {answer['error'].get('description', answer['error'])}")
            return
        self._high = max(self._high, int(answer["seq"]))
        self._sent.pop(number, None)
        self._window.done(number)

    # ------------------------------------------------------------ the stream

    async def _stream(self, client: Client) -> StreamInfo:
        """The stream, made if there is none."""
        from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

        manager = client.jetstream(timeout=CONNECT_S)
        try:
            try:
                info = await manager.stream_info(self._options.stream)
            except NotFoundError:
                info = await self._make(client)
        except ServiceUnavailableError:
            raise Unwell(
                "the server has no JetStream (yet): start it with -js, or `jetstream {}` in its file"
            ) from None
        except APIError as error:
            raise Unwell(f"stream {self._options.stream}: {error.description}") from None
        _check_stream(info, self._options)
        return info

    async def _make(self, client: Client) -> StreamInfo:
        from nats.js.api import StorageType, StreamConfig

        config = StreamConfig(
            name=self._options.stream,
            description="Events of inspection lines, by `inspector bridge`",
            subjects=[f"{self._options.prefix}.>"],
            storage=StorageType.FILE,
            duplicate_window=WINDOW_S,
        )
        log.info("stream %s is new", self._options.stream)
        return await client.jetstream(timeout=CONNECT_S).add_stream(config)

    async def _reconcile(self, client: Client, info: StreamInfo) -> None:
        """Find out what the stream has taken since the last place that was stored."""
        created, first, last = str(info.created), info.state.first_seq, info.state.last_seq
        if self._settled is None:
            self.settle(Mark(self._bridge, self._options.stream, created, last))  # nothing in it is ours yet
        assert self._settled is not None
        same = (self._settled.stream, self._settled.created) == (self._options.stream, created)
        after = max(self._settled.sequence if same else 0, first - 1)
        waiting = self._window.keys()
        ours = self._ours(client, after, last)
        there = {key async for key in ours if key in waiting or not (self._looked or self._placed(key))}
        self._there = (self._there if same else set()) | there
        self._high = max(self._high, last) if created == self._created else last
        self._created, self._looked = created, True
        if there:
            log.info("%d events that wait here are in stream %s already", len(there), self._options.stream)

    async def _ours(self, client: Client, after: int, last: int) -> AsyncIterator[str]:
        """Keys of the messages behind `after` up to `last` that this bridge has sent."""
        async for headers in _headers(client, self._options.stream, after, last):
            if headers.get(BRIDGE) == self._bridge:
                yield headers["Nats-Msg-Id"]


async def _headers(client: Client, stream: str, after: int, last: int) -> AsyncIterator[dict[str, str]]:
    """The headers of the messages behind `after` up to `last`."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    if last <= after:
        return
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=after + 1,
        ack_policy=AckPolicy.NONE,
        headers_only=True,
    )
    subscription = await client.jetstream(timeout=CONNECT_S).subscribe(
        ">", stream=stream, config=config, pending_msgs_limit=0, pending_bytes_limit=0
    )
    try:
        while True:
            try:
                message = await subscription.next_msg(timeout=CONNECT_S)
            except TimeoutError:  # nats-py's own is one of these
                if (await subscription.consumer_info()).num_pending:
                    raise
                return  # what lay there has been deleted
            yield message.headers or {}
            if message.metadata.num_pending == 0 or message.metadata.sequence.stream >= last:
                return
    finally:
        with contextlib.suppress(Exception):  # it ends with the connection, too
            await subscription.unsubscribe()


def _check_stream(info: StreamInfo, options: Options) -> None:
    config = info.config
    name, wanted = options.stream, f"{options.prefix}.>"
    if not any(naming.covers(pattern, wanted) for pattern in config.subjects or []):
        raise ConfigError(
            f"stream {name}: takes {', '.join(config.subjects or []) or 'no subjects'}, not {wanted}: "
            f"`nats stream edit {name} --subjects {wanted}`, or name another with --stream"
        )
    if (config.duplicate_window or 0) < LEAST_WINDOW_S:
        raise ConfigError(
            f"stream {name}: its duplicate window of {config.duplicate_window or 0:g} s is too short to drop what is "
            f"sent twice when a connection breaks: `nats stream edit {name} --dupe-window {WINDOW_S:.0f}s`"
        )
    if 0 < (config.max_msg_size or 0) < LEAST_LARGEST:
        raise ConfigError(
            f"stream {name}: takes messages of {config.max_msg_size} bytes at most, so nearly none of ours: "
            f"`nats stream edit {name} --max-msg-size=-1`, or {LEAST_LARGEST} and more"
        )
    if config.no_ack or config.sealed:
        raise ConfigError(
            f"stream {name}: it {'gives no acknowledgements' if config.no_ack else 'is sealed'}: take another"
        )


def _largest(client: Client, info: StreamInfo) -> int:
    """Bytes of a message with its headers that both the server and the stream take."""
    limit = info.config.max_msg_size or 0
    return min(client.max_payload, limit) if limit > 0 else client.max_payload


def _tls(options: Options) -> ssl.SSLContext | None:
    if options.tls_ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(options.tls_ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--tls-ca {options.tls_ca}: {error}: name the PEM file of the broker's authority") from None


def _read_mark(path: Path | None) -> Mark | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mark) if path else None
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path}: {error}: delete it; events of the last seconds may then come twice") from None


def _write_mark(path: Path, mark: Mark) -> None:
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_bytes(msgspec.json.encode(mark))
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}: name another place") from None
