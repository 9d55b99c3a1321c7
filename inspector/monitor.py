"""/metrics, /healthz and /readyz over HTTP, for Prometheus, orchestrators and people.

One thread serves every client, so that a client that is slow, half-open or silent holds up no other and leaves no
thread behind: each has a few seconds in all, then its connection is cut. A connection carries one request.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, make_wsgi_app

from inspector.config import MonitorConfig
from inspector.errors import ConfigError, TakenError
from inspector.logbook import LogKind, as_kind

CLIENT_TIMEOUT_S = 5.0
"""What a client has in all, from connecting to having read the answer."""
CLIENTS = 64
"""Connections at a time; one more cuts off the oldest."""
HEAD_BYTES = 16_384
"""A request's head may be this long."""
TURN_S = 0.1
"""How long `work` serves before its caller looks round."""

TEXT = ("Content-Type", "text/plain; charset=utf-8")
INDEX = (
    "/metrics  what Prometheus scrapes\n/healthz  200 while every stage makes progress\n/readyz   200 when inspecting\n"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """How the line is, as its service sees it.

    Attributes:
        live: every stage makes progress.
        ready: models are warm and the first frame of every camera is in.
        reasons: why it is not live or not ready, a line each, with the camera or stage named.
        status: one line for people.
    """

    live: bool
    ready: bool
    reasons: list[str] = field(default_factory=list)
    status: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client: `status` such as `200 OK`."""

    status: str
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=lambda: [TEXT])

    def encode(self, with_body: bool) -> bytes:
        headers = [*self.headers, ("Content-Length", str(len(self.body))), ("Connection", "close")]
        lines = [f"HTTP/1.1 {self.status}", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1") + (self.body if with_body else b"")


class Monitor:
    """The HTTP server; `open` it, have one thread `serve`, `close` it.

    Args:
        config: where to listen.
        registry: what /metrics shows.
        health: asked by the serving thread at each /healthz and /readyz; must return at once.
    """

    def __init__(
        self,
        config: MonitorConfig,
        registry: CollectorRegistry,
        health: Callable[[], Health],
        *,
        client_timeout_s: float = CLIENT_TIMEOUT_S,
    ) -> None:
        self._config = config
        self._health = health
        self._metrics = make_wsgi_app(registry)
        self._client_timeout_s = client_timeout_s
        self._clients: dict[asyncio.StreamWriter, None] = {}
        self._socket: socket.socket | None = None
        self.port = config.port

    def open(self) -> None:
        """Bind; `port` is the real one from now on, and clients wait until `serve` runs.

        Raises:
            ConfigError: the address is taken, unknown or not allowed.
        """
        self._socket = bind(self._config)
        self.port = self._socket.getsockname()[1]

    def serve(self, stop: threading.Event) -> None:
        """Answer until `stop` is set, then cut off whoever is left. For one thread of its own, once after `open`."""
        with self:
            while not stop.is_set():
                self.work()

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._server = self._runner.run(self._listen())
        return self

    def work(self) -> tuple[()]:
        """Answer whoever asks for TURN_S seconds; in the thread that entered."""
        self._runner.run(asyncio.sleep(TURN_S))
        return ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._runner.close()  # cancels whoever is still being answered
        self.close()

    def close(self) -> None:
        """Give the port back, if `serve` never ran. Safe to call twice."""
        listening, self._socket = self._socket, None
        if listening is not None:
            listening.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._client, sock=self._socket, limit=HEAD_BYTES)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= CLIENTS:
            next(iter(self._clients)).transport.abort()
        self._clients[writer] = None
        try:
            async with asyncio.timeout(self._client_timeout_s):
                writer.write(await self._respond(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # gone, too slow (TimeoutError is an OSError), or the line is closing: nobody is left to tell
        finally:
            self._clients.pop(writer, None)
            writer.transport.abort()

    async def _respond(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return Answer("431 Request Header Fields Too Large", b"the request's head is too long\n").encode(True)
        environ = parse(head)
        if environ is None:
            return Answer("400 Bad Request", b"this is not HTTP\n").encode(True)
        return self._answer(environ).encode(environ["REQUEST_METHOD"] != "HEAD")

    def _answer(self, environ: Mapping[str, str]) -> Answer:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return Answer("405 Method Not Allowed", b"only GET and HEAD\n", [TEXT, ("Allow", "GET, HEAD")])
        routes: dict[str, Callable[[Mapping[str, str]], Answer]] = {
            "/": lambda _: Answer("200 OK", INDEX.encode()),
            "/metrics": self._scrape,
            "/healthz": lambda _: _verdict(health := self._health(), health.live),
            "/readyz": lambda _: _verdict(health := self._health(), health.live and health.ready),
        }
        route = routes.get(environ["PATH_INFO"])
        if route is None:
            return Answer("404 Not Found", INDEX.encode())
        try:
            return route(environ)
        except Exception as error:  # one request that fails must not end the monitor of a line that runs
            log.exception(
                "monitor: %s failed", environ["PATH_INFO"], extra=as_kind(LogKind.REQUEST_FAILED, part="monitor")
            )
            return Answer("500 Internal Server Error", f"{type(error).__name__}: {error}\n".encode())

    def _scrape(self, environ: Mapping[str, str]) -> Answer:
        """The registry in the format that the client asks for: text or OpenMetrics, gzip or plain."""
        started: list[Any] = []
        body = b"".join(self._metrics({**environ, "REQUEST_METHOD": "GET"}, lambda *args: started.extend(args)))
        return Answer(started[0], body, started[1])


def _verdict(health: Health, good: bool) -> Answer:
    lines = [health.status or "ok"] if good else health.reasons or [health.status or "no reason given"]
    return Answer("200 OK" if good else "503 Service Unavailable", ("\n".join(lines) + "\n").encode())


def parse(head: bytes) -> dict[str, str] | None:
    """A request's head as WSGI's names for what is used here; None if it is not HTTP/1."""
    first, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[1].startswith("/") or not words[2].startswith("HTTP/1."):
        return None
    path, _, query = words[1].partition("?")
    environ = {"REQUEST_METHOD": words[0], "PATH_INFO": path, "QUERY_STRING": query}
    for line in rest:
        name, _, value = line.partition(":")
        environ["HTTP_" + name.strip().upper().replace("-", "_")] = value.strip()
    return environ


def bind(config: MonitorConfig) -> socket.socket:
    """A listening socket. Raises ConfigError as `Monitor.open` does."""
    where = f"monitor: {config.host}:{config.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise ConfigError(f"{where}: unknown host ({error.strerror}). Set monitor.host to an address here") from None
    except OSError as error:
        kind = TakenError if error.errno == errno.EADDRINUSE else ConfigError
        raise kind(f"{where}: {_how_to_mend(error, config.port)}") from None


def check(config: MonitorConfig) -> None:
    """Bind and release. Raises ConfigError as `Monitor.open` does."""
    bind(config).close()


def _how_to_mend(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"the port is in use. `ss -ltnp 'sport = :{port}'` shows who holds it; "
            "stop that, or set monitor.port to another one (0: any free one)"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address. Set monitor.host to one that `ip address` shows, or 127.0.0.1"
    if error.errno == errno.EACCES:
        return "ports below 1024 need privileges. Set monitor.port to 1024 or higher"
    return f"cannot listen there: {error.strerror or error}. Set monitor.host and monitor.port to a free address"
