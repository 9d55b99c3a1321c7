"""Addresses and keys as a client uses them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth

from inspector.errors import ConfigError

_TCP = re.compile(r"tcp://(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
_ANYWHERE = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")

ServerKey = str | Path | Mapping[str, str | Path] | None


def checked(address: str) -> str:
    """The address, if it can be connected to.

    Raises:
        ConfigError: it cannot.
    """
    tcp = _TCP.fullmatch(address)
    if tcp and tcp["host"] not in _ANYWHERE and 0 < int(tcp["port"]) < 65536:
        return address
    if address.startswith("ipc:///") and len(address) > len("ipc:///"):
        return address
    raise ConfigError(
        f"address {address!r} is neither tcp://HOST:PORT nor ipc:///PATH, e.g. tcp://127.0.0.1:5570: "
        "take it from the daemon's YAML, with the name of its machine for HOST"
    )


def reachable(bound: str, events: str) -> str:
    """Where to ask for history that a daemon has bound at `bound`, when its events are heard from `events`."""
    tcp, ours = _TCP.fullmatch(bound), _TCP.fullmatch(events)
    if tcp is None:
        return bound
    host = ours["host"] if ours else _ANYWHERE.get(tcp["host"], tcp["host"])
    return f"tcp://{host}:{tcp['port']}"


@dataclass(slots=True, frozen=True)
class Keys:
    """CURVE: our pair and the daemons' public keys."""

    public: bytes
    secret: bytes
    servers: Mapping[str, bytes]
    """Address -> public key of the daemon there; "": of all others."""

    def secure(self, socket: zmq.Socket[bytes], address: str) -> None:
        """Before it connects. `address` is where the daemon's events are."""
        socket.curve_serverkey = self.servers.get(address, self.servers.get("", b""))
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret


def load_keys(keys: Path | str | None, server_key: ServerKey, addresses: tuple[str, ...]) -> Keys | None:
    """None: without CURVE.

    Raises:
        ConfigError: only one of the two is given, or a file is none of a key.
    """
    if keys is None and server_key is None:
        return None
    if keys is None or server_key is None:
        raise ConfigError(
            "keys and server_key belong together: the client's own file NAME.key_secret and the daemon's server.key"
        )
    if not zmq.has("curve"):
        raise ConfigError("keys: this libzmq was built without CURVE: install pyzmq from its wheel")
    public, secret = _pair(Path(keys))
    servers = server_key if isinstance(server_key, Mapping) else {"": server_key}
    if missing := [address for address in addresses if address not in servers and "" not in servers]:
        raise ConfigError(f"server_key names no key for {', '.join(missing)}")
    return Keys(public, secret, {address: _public(key) for address, key in servers.items()})


def _pair(path: Path) -> tuple[bytes, bytes]:
    public, secret = _certificate(path, "keys")
    if secret is None:
        raise ConfigError(f"keys {path}: it has no secret half: name the file NAME.key_secret")
    return public, secret


def _public(key: str | Path) -> bytes:
    if isinstance(key, str) and _KEY.fullmatch(key):
        return key.encode()
    return _certificate(Path(key), "server_key")[0]


def _certificate(path: Path, setting: str) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{setting} {path}: {error}: name a key file that `inspector keys` made") from None
    for key in (public, secret):
        if key is not None and not _KEY.fullmatch(key.decode(errors="replace")):
            raise ConfigError(f"{setting} {path}: the key in it is not 40 characters of Z85: make it anew")
    return public, secret
