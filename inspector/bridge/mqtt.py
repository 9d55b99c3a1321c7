"""MQTT 5, QoS 1: every event is with the broker at least once.

MQTT drops no doubles. Each message carries the event's key as the user property `id`, so that a consumer can; doubles
come only after a connection broke or the bridge was killed. The last coil event is retained, so that who comes later
knows the coil on the line. PREFIX/bridge/CLIENT-ID/status is `online`, or `offline` (the will) when the bridge is gone.

Each connection is a new client with nothing of its own in memory: what is not acknowledged is in the window.
https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspector.bridge import naming
from inspector.bridge.link import ACK_S, RETRY_S, Unwell
from inspector.bridge.notices import too_large
from inspector.bridge.window import Message, Window
from inspector.errors import ConfigError
from inspector.logbook import LogKind, as_kind

KEEPALIVE_S = 10
OVERHEAD = 1024
"""Bytes of a packet besides topic, key and body, at most."""

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Options:
    """Where to, and as whom."""

    host: str
    port: int
    tls: bool
    prefix: str
    client_id: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls_ca: Path | None = None


def check() -> None:
    """Raises ConfigError unless paho-mqtt is there."""
    if importlib.util.find_spec("paho") is None:
        raise ConfigError("the bridge needs the module paho-mqtt. Install it: pip install 'inspector[mqtt]'")


class Mqtt:
    """A `Broker`: one client of an MQTT broker."""

    def __init__(self, options: Options, window: Window) -> None:
        self._options = options
        self._window = window
        self._status = f"{options.prefix}/bridge/{options.client_id}/status"
        self._down = ""
        self.sent = 0

    # ------------------------------------------------------------ Broker

    def mark(self) -> None:
        """MQTT has no places."""

    def settle(self, mark: None) -> None:
        """MQTT has no places."""

    async def run(self) -> None:
        while True:
            try:
                async with self._connected() as session:
                    await self._serve(session)
            except (TimeoutError, OSError, Unwell) as error:
                self._say(error)
            await asyncio.sleep(RETRY_S)

    def _say(self, error: Exception) -> None:
        """One line a kind of trouble, not one a second."""
        text = str(error) or type(error).__name__
        if text != self._down:
            log.warning(
                "%s:%d: %s; %d events wait",
                self._options.host,
                self._options.port,
                text,
                len(self._window),
                extra=as_kind(LogKind.BRIDGE_DOWN, reason=text),
            )
        self._down = text

    # ------------------------------------------------------------ a connection

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Session]:
        session = _Session(self._options, self._status, asyncio.get_running_loop())
        client = session.client
        try:
            await asyncio.to_thread(client.connect, self._options.host, self._options.port, KEEPALIVE_S)
            client.loop_start()
            await asyncio.wait_for(asyncio.shield(session.ready), ACK_S)
            yield session
        finally:
            session.leave(self._status)
            await asyncio.to_thread(session.close)

    async def _serve(self, session: _Session) -> None:
        """Send until something is wrong."""
        self._window.again()
        if self._down:
            log.warning(
                "%s:%d: connected again", self._options.host, self._options.port, extra=as_kind(LogKind.BRIDGE_BACK)
            )
        self._down = ""
        session.publish(self._status, b"online", retain=True)
        tasks = [asyncio.ensure_future(work) for work in (self._send(session), session.watch(), session.broken)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, session: _Session) -> None:
        while True:
            await session.room.acquire()
            message = await self._window.take()
            if len(message.body) + len(message.key) + OVERHEAD > session.largest:
                log.error(
                    "%s: %d bytes are more than the broker takes",
                    message.key,
                    len(message.body),
                    extra=as_kind(LogKind.BRIDGE_REFUSED),
                )
                message = too_large(message)
            session.publish(
                naming.mqtt_topic(self._options.prefix, message.topic),
                message.body,
                retain=message.keep and session.retains,
                key=message.key,
                done=self._done(message),
            )
            self.sent += 1

    def _done(self, message: Message) -> Callable[[], None]:
        return lambda: self._window.done(message.number)


class _Session:
    """One connection. The library's thread only hands over what comes in; all else happens in the event loop."""

    def __init__(self, options: Options, status: str, loop: asyncio.AbstractEventLoop) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self.ready: asyncio.Future[None] = loop.create_future()
        self.broken: asyncio.Future[None] = loop.create_future()
        for future in (self.ready, self.broken):
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting for it
        self.room = asyncio.Semaphore(0)
        self.largest = 2**28
        self.retains = True
        self._loop = loop
        self._waiting: dict[int, tuple[float, Callable[[], None]]] = {}
        self.client = client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = ACK_S
        client.max_inflight_messages_set(65535)
        client.will_set(status, b"offline", qos=1, retain=True)
        if options.user is not None:
            client.username_pw_set(options.user, options.password)
        if options.tls:
            _secure(client, options)
        client.on_connect = lambda _c, _u, _f, code, properties: self._later(self._opened, code, properties)
        client.on_publish = lambda _c, _u, mid, code, _p: self._later(self._acked, mid, code)
        client.on_disconnect = lambda _c, _u, _f, code, _p: self._later(self._lost, code)

    def leave(self, status: str) -> None:
        """Say so ourselves: the broker tells of those only who do not take their leave."""
        if self.client.is_connected():
            with contextlib.suppress(Unwell):
                self.publish(status, b"offline", retain=True)

    def close(self) -> None:
        """Blocks for a moment: the last packets go out."""
        self.client.disconnect()
        self.client.loop_stop()

    def publish(
        self, topic: str, body: bytes, *, retain: bool, key: str = "", done: Callable[[], None] = lambda: None
    ) -> None:
        """Raises Unwell when the connection has gone."""
        info = self.client.publish(topic, body, qos=1, retain=retain, properties=_properties(key))
        if info.rc != 0:
            raise Unwell("the connection is gone")
        self._waiting[info.mid] = (time.monotonic(), done)

    async def watch(self) -> None:
        """An acknowledgement that does not come is a failure too."""
        while True:
            await asyncio.sleep(ACK_S / 10)
            oldest = next(iter(self._waiting.values()), None)
            if oldest is not None and time.monotonic() - oldest[0] > ACK_S:
                raise Unwell(f"no acknowledgement for {ACK_S:.0f} s")

    # ------------------------------------------------------------ from the library's thread

    def _later(self, call: Callable[..., None], *values: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *values)

    def _opened(self, code: Any, properties: Any) -> None:
        if code.is_failure:
            self._break(Unwell(f"the broker refuses the connection: {code}"))
            return
        for _ in range(min(getattr(properties, "ReceiveMaximum", 65535), 65535)):
            self.room.release()
        self.largest = getattr(properties, "MaximumPacketSize", self.largest)
        self.retains = bool(getattr(properties, "RetainAvailable", 1))
        if not self.ready.done():
            self.ready.set_result(None)

    def _acked(self, mid: int, code: Any) -> None:
        _, done = self._waiting.pop(mid, (0.0, None))
        if done is None:
            return
        if code.is_failure:
            self._break(Unwell(f"the broker refuses a message: {code}"))
            return
        self.room.release()
        done()

    def _lost(self, code: Any) -> None:
        self._break(Unwell(f"the connection is gone: {code}"))

    def _break(self, error: Unwell) -> None:
        for future in (self.ready, self.broken):
            if not future.done():
                future.set_exception(error)


def _properties(key: str) -> Any:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if key:
        properties.PayloadFormatIndicator = 1
        properties.ContentType = "application/cloudevents+json"
        properties.UserProperty = ("id", key)
    return properties


def _secure(client: Any, options: Options) -> None:
    try:
        client.tls_set(ca_certs=str(options.tls_ca) if options.tls_ca else None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--tls-ca {options.tls_ca}: {error}: name the PEM file of the broker's authority") from None
