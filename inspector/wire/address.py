"""Where a ZeroMQ socket of ours may be bound, and whether that place is free."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import stat
from contextlib import closing
from pathlib import Path

import zmq

from inspector.errors import ConfigError

LONGEST_IPC = 107
"""Bytes in the path of a unix socket (sun_path without its end)."""


def bindable(address: str) -> str:
    """The address as libzmq wants it (it knows no host names when it binds).

    Raises:
        ConfigError: it is malformed, or open to the network: everybody could listen, as there is no CURVE yet.
    """
    if re.fullmatch(r"ipc://.+", address):
        return _ipc(address)
    found = re.fullmatch(r"tcp://(?P<host>\[[^\]]+\]|[^:\]]+):(?P<port>\d{1,5}|\*)", address)
    if not found:
        raise ConfigError(f"zeromq: address {address!r} is neither tcp://HOST:PORT nor ipc:///PATH")
    host, port = found["host"], found["port"]
    if port != "*" and not 0 < int(port) < 65536:
        raise ConfigError(f"zeromq: address {address!r}: the port must be 1..65535, or * for any free one")
    host = "127.0.0.1" if host == "localhost" else host
    if not _is_loopback(host.strip("[]")):
        raise ConfigError(
            f"zeromq: address {address!r} is open to the network, where anybody could read along. Bind to "
            f"tcp://127.0.0.1:{port} or ipc:///run/inspector/events; for other hosts use a tunnel, e.g. ssh -L"
        )
    return f"tcp://{host}:{port}"


def require_free(address: str) -> None:
    """Take a `bindable` address and let it go again.

    Raises:
        ConfigError: another process holds it, or it cannot be had here.
    """
    if address.startswith("ipc://"):
        require_unowned(address)
    elif not address.endswith(":*"):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        with closing(socket.socket(family, socket.SOCK_STREAM)) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host.strip("[]"), int(port)))
            except OSError as error:
                raise ConfigError(refusal(address, error.errno)) from None


def require_unowned(address: str) -> None:
    """libzmq deletes whatever lies at an ipc path before it binds, also the socket of a running daemon: look first.

    Raises:
        ConfigError: a process answers there, or what lies there is no socket.
    """
    name = address.removeprefix("ipc://")
    path = Path(name)
    if not address.startswith("ipc://") or name == "*":
        return
    if not name.startswith("@") and path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError(f"zeromq: address {address!r}: {path} exists and is no socket; name another path")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as trial:
        try:
            trial.connect("\0" + name[1:] if name.startswith("@") else name)
        except OSError:
            return  # nobody there; a file that a killed daemon left behind may be replaced
    raise ConfigError(refusal(address, errno.EADDRINUSE))


def refusal(address: str, code: int | None) -> str:
    """Why the address could not be had, and what to do."""
    if code != errno.EADDRINUSE:
        reason = zmq.strerror(code or 0)
        return (
            f"zeromq: address {address!r} cannot be bound: {reason}. Name an address of this machine that you may use"
        )
    if address.startswith("ipc://"):
        who = f"ss -lxp | grep {address.removeprefix('ipc://')}"
    else:
        who = f"ss -ltnp 'sport = :{address.rpartition(':')[2]}'"
    return f"zeromq: address {address!r} is in use. See who holds it: {who}; stop that, or name another address"


def _ipc(address: str) -> str:
    name = address.removeprefix("ipc://")
    if len(name.encode()) > LONGEST_IPC:
        raise ConfigError(f"zeromq: address {address!r}: the path is longer than {LONGEST_IPC} bytes; shorten it")
    folder = Path(name).parent
    if name[0] not in "@*" and not folder.is_dir():
        raise ConfigError(f"zeromq: address {address!r}: there is no folder {folder}. Create it: mkdir -p {folder}")
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, an interface or *: where it leads may change
