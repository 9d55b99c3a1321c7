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

from inspector.errors import ConfigError, TakenError

LONGEST_IPC = 107
"""Bytes in the path of a unix socket (sun_path without its end)."""


def bindable(address: str, secured: bool, where: str = "address") -> str:
    """The address as libzmq wants it (it knows no host names when it binds).

    Args:
        address: tcp://HOST:PORT or ipc:///PATH; `*` as the port is any free one, as the host every interface.
        secured: only clients with a key are let in (CURVE), so that it may be open to the network.
        where: the setting, which begins every message, such as `history.address`.

    Raises:
        ConfigError: it is malformed, or open to the network although everybody could come in.
    """
    if re.fullmatch(r"ipc://.+", address):
        return _ipc(address, where)
    found = re.fullmatch(r"tcp://(?P<host>\[[^\]]+\]|[^:\]]+):(?P<port>[0-9]{1,5}|\*)", address)
    if not found:
        raise ConfigError(f"{where} {address!r} is neither tcp://HOST:PORT nor ipc:///PATH")
    host, port = found["host"], found["port"]
    if port != "*" and not 0 < int(port) < 65536:
        raise ConfigError(f"{where} {address!r}: the port must be 1..65535, or * for any free one")
    host = "127.0.0.1" if host == "localhost" else host
    number = _number(host)
    if number is None:
        raise ConfigError(
            f"{where} {address!r}: {host} is a name, and where it leads may change. Write an IP address of this "
            "machine, such as 127.0.0.1, or * for all of them"
        )
    if not (secured or number.is_loopback):
        raise ConfigError(
            f"{where} {address!r} is open to the network, where anybody could connect, so it needs CURVE: make keys "
            f"with `inspector keys make DIR`, set `keys: DIR` beside the address, and let each client in with "
            f"`inspector keys add DIR NAME`. Or bind to this machine only: tcp://127.0.0.1:{port}"
        )
    return f"tcp://{host}:{port}"


def require_free(address: str, where: str = "address") -> None:
    """Take a `bindable` address and let it go again.

    Raises:
        ConfigError: another process holds it, or it cannot be had here.
    """
    if address.startswith("ipc://"):
        require_unowned(address, where)
    elif not address.endswith(":*"):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        with closing(socket.socket(family, socket.SOCK_STREAM)) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("" if host == "*" else host.strip("[]"), int(port)))
            except OSError as error:
                raise refused(address, error.errno, where) from None


def require_unowned(address: str, where: str = "address") -> None:
    """libzmq deletes whatever lies at an ipc path before it binds, also the socket of a running daemon: look first.

    A socket of another kind is knocked with: where a process holds the path the kernel says that the kinds differ
    (EPROTOTYPE, unix_find_bsd in net/unix/af_unix.c), and that process, which may be this very line, hears nothing.

    Raises:
        ConfigError: a process answers there, or what lies there is no socket.
    """
    name = address.removeprefix("ipc://")
    path = Path(name)
    if not address.startswith("ipc://"):
        return
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError(f"{where} {address!r}: {path} exists and is no socket; name another path")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as trial:
        try:
            trial.connect(name)
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                return  # nobody there; a file that a killed daemon left behind may be replaced
    raise refused(address, errno.EADDRINUSE, where)


def refused(address: str, code: int | None, where: str = "address") -> ConfigError:
    """`refusal` as the error to raise: a TakenError where another process has the address."""
    return (TakenError if code == errno.EADDRINUSE else ConfigError)(refusal(address, code, where))


def refusal(address: str, code: int | None, where: str = "address") -> str:
    """Why the address could not be had, and what to do."""
    if code != errno.EADDRINUSE:
        reason = zmq.strerror(code or 0)
        return f"{where} {address!r} cannot be bound: {reason}. Name an address of this machine that you may use"
    if address.startswith("ipc://"):
        who = f"ss -lxp | grep {address.removeprefix('ipc://')}"
    else:
        who = f"ss -ltnp 'sport = :{address.rpartition(':')[2]}'"
    return f"{where} {address!r} is in use. See who holds it: {who}; stop that, or name another address"


def _ipc(address: str, where: str) -> str:
    name = address.removeprefix("ipc://")
    if not name.startswith("/"):
        raise ConfigError(f"{where} {address!r}: name a whole path, such as ipc:///run/inspector/events")
    if len(name.encode()) > LONGEST_IPC:
        raise ConfigError(f"{where} {address!r}: the path is longer than {LONGEST_IPC} bytes; shorten it")
    folder = Path(name).parent
    if not folder.is_dir():
        raise ConfigError(f"{where} {address!r}: there is no folder {folder}. Create it: mkdir -p {folder}")
    return address


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for a name or an interface: where those lead may change."""
    try:
        if host.startswith("["):
            return ipaddress.IPv6Address(host.strip("[]"))
        return ipaddress.ip_address("0.0.0.0" if host == "*" else host)
    except ValueError:
        return None
