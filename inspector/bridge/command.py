"""`inspector bridge nats|mqtt ADDRESS...`: arguments, and the three tasks of a bridge around one window.

Exit codes: 0 stopped by SIGTERM or SIGINT, 78 something is set up wrongly, 1 it failed otherwise. A broker or a daemon
that is down is waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import hashlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from inspector import notify
from inspector.bridge import mqtt, naming, nats
from inspector.bridge.forward import Broker, DurablePlace, Forward, settled
from inspector.bridge.window import Window
from inspector.client import subscribe
from inspector.errors import ConfigError
from inspector.logbook import LogKind, as_kind

IN_FLIGHT = 1000
"""Events that were read and the broker has not acknowledged, at most."""
DRAIN_S = 5.0
"""How long the broker's acknowledgements are waited for at the end. What is not acknowledged is read again later."""

Make = Callable[[argparse.Namespace, Window, Callable[[str], bool]], Broker]
"""(arguments, window, whether the place covers a key) -> the broker."""

log = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    kinds = parser.add_subparsers(title="brokers", metavar="BROKER", required=True, dest="broker_kind")
    _nats(kinds.add_parser("nats", help="to a stream of NATS JetStream; each event is there exactly once"))
    _mqtt(kinds.add_parser("mqtt", help="to an MQTT 5 broker; each event is there at least once"))


def _nats(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument(
        "--server", action="append", metavar="URL", help="may be repeated for a cluster; default: nats://127.0.0.1:4222"
    )
    parser.add_argument(
        "--stream", default="inspector", metavar="NAME", help="made if not there (default: %(default)s)"
    )
    parser.add_argument("--subject-prefix", default="inspector", metavar="PREFIX", help="default: %(default)s")
    parser.add_argument("--creds", type=Path, metavar="FILE", help="credentials file of the bridge's user")


def _mqtt(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument(
        "--broker", default="mqtt://127.0.0.1:1883", metavar="URL", help="mqtt:// or mqtts:// (default: %(default)s)"
    )
    parser.add_argument("--prefix", default="inspector", metavar="PREFIX", help="of the topics (default: %(default)s)")
    parser.add_argument("--client-id", metavar="ID", help="default: made from this machine and the addresses")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS", help="events of a daemon, e.g. tcp://127.0.0.1:5570")
    parser.add_argument("--place", type=Path, metavar="FILE", help="keeps how far it came, to go on after a restart")
    parser.add_argument("--topic", action="append", default=[], metavar="PREFIX", help="may be repeated; default: all")
    parser.add_argument(
        "--since", choices=("now", "beginning"), help="where to begin without a place; default: beginning, with --place"
    )
    parser.add_argument("--keys", type=Path, metavar="FILE", help="our NAME.key_secret, for daemons that ask for a key")
    parser.add_argument("--server-key", metavar="KEY", help="the daemons' server.key, or what is in it")
    parser.add_argument("--user", metavar="NAME", help="our name at the broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="our password there")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE.pem", help="the authority behind the broker's key")


def run(options: argparse.Namespace) -> int:
    """Forward until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigError: an address, a key, the place or the broker is not set up as it must be.
    """
    make = _make_nats if options.broker_kind == "nats" else _make_mqtt
    with _alone(options.place):
        return asyncio.run(_run(options, make))


@contextmanager
def _alone(place: Path | None) -> Iterator[None]:
    """Two bridges with one place would each forget what the other has done."""
    if place is None:
        yield
        return
    with _lock_file(place) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"--place {place}: another bridge keeps its place there: name another file") from None
        yield


def _lock_file(place: Path) -> BinaryIO:
    try:
        return place.with_name(f"{place.name}.lock").open("ab")
    except OSError as error:
        raise ConfigError(f"--place {place}: {error.strerror}: name a file in a folder that we may write") from None


async def _run(options: argparse.Namespace, make: Make) -> int:
    window = Window(IN_FLIGHT)
    places = DurablePlace(options.place) if options.place else None
    place = places.read() if places else None
    broker = make(options, window, partial(settled, place, options.topic))
    if places is None:
        log.warning(
            "no --place: after a restart the bridge does not know what it has forwarded already",
            extra=as_kind(LogKind.BRIDGE_PLACE),
        )
    stream = subscribe(
        *options.addresses,
        topics=options.topic,
        place=place,
        since=options.since or ("beginning" if places else "now"),
        keys=options.keys,
        server_key=options.server_key,
        max_lag_s=None,
    )
    async with stream:
        log.info("forwarding the events of %s", ", ".join(options.addresses))
        notify.ready("forwarding")
        return await _until_stopped(Forward(stream, window, broker, places), broker)


async def _until_stopped(forward: Forward, broker: Broker) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_left_behind)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _signalled, number, stop)
    reading, saving, sending, stopping = tasks = [
        asyncio.ensure_future(work) for work in (forward.read(), forward.save(), broker.run(), stop.wait())
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await _cancelled(reading, saving, stopping)
        if not sending.done():
            await _drained(forward, sending)
    finally:
        await _cancelled(*tasks)
    for task in (reading, saving, sending):
        if not task.cancelled():
            task.result()
    return 0


def _signalled(number: signal.Signals, stop: asyncio.Event) -> None:
    """A second signal ends the process at once, as people expect."""
    if stop.is_set():
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    stop.set()


def _left_behind(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a broker's library leaves in tasks of its own when a connection breaks; we have heard of that already."""
    log.debug("%s: %s", context.get("message"), context.get("exception"))


async def _drained(forward: Forward, sending: asyncio.Future[Any]) -> None:
    notify.stopping("waiting for the broker")
    draining = asyncio.ensure_future(forward.drain(DRAIN_S))
    await asyncio.wait((draining, sending), return_when=asyncio.FIRST_COMPLETED)
    if not draining.done() or not draining.result():
        log.warning(
            "the broker has not acknowledged the last events; they are read again at the next start",
            extra=as_kind(LogKind.BRIDGE_PLACE),
        )
    await _cancelled(draining)


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ---------------------------------------------------------------- the brokers


def _make_nats(options: argparse.Namespace, window: Window, placed: Callable[[str], bool]) -> Broker:
    settings = nats.Options(
        servers=options.server or ["nats://127.0.0.1:4222"],
        stream=_stream_name(options.stream),
        prefix=naming.checked_subject(options.subject_prefix),
        credentials=options.creds,
        user=options.user,
        password=_password(options.password_file),
        tls_ca=options.tls_ca,
        mark=options.place.with_name(f"{options.place.name}.nats") if options.place else None,
    )
    nats.check(settings)
    return nats.JetStream(settings, window, placed)


def _stream_name(name: str) -> str:
    if name and not set(name) & set(" .*>/\\\t\r\n") and name.isprintable():
        return name
    raise ConfigError(f"--stream {name!r}: give a name without dots, spaces, slashes, * and >")


def _make_mqtt(options: argparse.Namespace, window: Window, _: Callable[[str], bool]) -> Broker:
    mqtt.check()
    host, port, tls = _broker(options.broker)
    settings = mqtt.Options(
        host=host,
        port=port,
        tls=tls,
        prefix=naming.checked_topic(options.prefix),
        client_id=_client_id(options),
        user=options.user,
        password=_password(options.password_file),
        tls_ca=options.tls_ca,
    )
    return mqtt.Mqtt(settings, window)


def _broker(url: str) -> tuple[str, int, bool]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"--broker {url!r}: {error}") from None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path.strip("/") or parts.username:
        raise ConfigError(f"--broker {url!r}: give mqtt://HOST:PORT or mqtts://HOST:PORT; the user by --user")
    tls = parts.scheme == "mqtts"
    return parts.hostname, port or (8883 if tls else 1883), tls


def _client_id(options: argparse.Namespace) -> str:
    """The same after a restart, another for other daemons: a broker lets one client of a name in at a time."""
    if options.client_id:
        if naming.mqtt_topic("", options.client_id) != f"/{options.client_id}" or "/" in options.client_id:
            raise ConfigError(f"--client-id {options.client_id!r}: give letters, digits, - and _")
        return str(options.client_id)
    what = " ".join([socket.gethostname(), *sorted(options.addresses), *sorted(options.topic)])
    return f"inspector-bridge-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def _password(path: Path | None) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip("\r\n") if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--password-file {path}: cannot be read: {error}") from None
