"""Who is let in: a folder of certificates, made by `inspector keys` and read by every server.

DIR/server.key, server.key_secret     the daemon's own pair; clients need server.key
DIR/clients/NAME.key                  a client's public key and what it may do; it is let in while this file exists
DIR/clients/NAME.key_secret           the client's pair, to be handed over; the daemon does not need it
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from inspector.durable import settle
from inspector.errors import ConfigError
from inspector.logbook import LogKind, as_kind
from inspector.wire import certificates
from inspector.wire.certificates import Certificate

ROLES = ("events", "control")
"""What a client may do: hear events and ask for past ones; name coils and ask for the line's state."""
DEFAULT_ROLES = ("events",)

LOOK_S = 1.0
"""A keyring looks at most this often whether its folder has changed."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Client:
    """One who is let in.

    Attributes:
        name: of the files, in logs and as ZAP's user id.
        public_key: 40 characters of Z85.
        may: of `ROLES`.
        secret_path: where the secret still lies; None: it was taken away, or never was here.
    """

    name: str
    public_key: str
    may: tuple[str, ...]
    secret_path: Path | None = None


def make(folder: Path, *, replace: bool = False) -> None:
    """Create the folder and the server's pair.

    Raises:
        ConfigError: there is one already, or it cannot be written.
    """
    try:
        for each in (folder, _clients(folder)):
            _make_folder(each)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be created: {error.strerror}") from None
    _write_pair(folder / "server", certificates.new({"name": "server"}), replace)


def _make_folder(folder: Path) -> None:
    """What root makes belongs to whoever owns the folder above, as the files in it do."""
    if folder.is_dir():
        return
    folder.mkdir(mode=0o755, parents=True)
    if os.geteuid() == 0:
        above = folder.parent.stat()
        os.chown(folder, above.st_uid, above.st_gid)


def add(
    folder: Path, name: str, may: Iterable[str] = DEFAULT_ROLES, public: str | None = None, *, replace: bool = False
) -> Client:
    """Let a client in, with a new pair or with a public key that it made itself.

    Raises:
        ConfigError: the name or key is malformed or taken, or the file cannot be written.
    """
    _require_name(name)
    roles = parse_roles(",".join(may), f"client {name}")
    known = {client.public_key: client.name for client in listing(folder)}
    known[certificates.read(folder / "server.key").public] = "the server itself"
    metadata = {"name": name, "may": ",".join(roles)}
    if public is None:
        _write_pair(_clients(folder) / name, certificates.new(metadata), replace)
        return _client(folder, name)
    if not certificates.is_key(public):
        raise ConfigError(
            f"client {name}: {public!r} is no public key; it has 40 characters of Z85, as in its .key file"
        )
    if known.get(public, name) != name:
        raise ConfigError(f"client {name}: {known[public]} has the same public key; each client needs its own")
    certificates.write(_pair(folder, name)[0], Certificate(public, metadata=metadata), secret=False, replace=replace)
    if replace:
        _pair(folder, name)[1].unlink(missing_ok=True)  # of the key before
    return _client(folder, name)


def remove(folder: Path, name: str) -> None:
    """Let a client in no more: both its files are deleted, and running daemons cut it off within seconds.

    Raises:
        ConfigError: there is none of that name, or it cannot be deleted.
    """
    _require_name(name)
    public, secret = _pair(folder, name)
    if not public.exists():
        raise ConfigError(f"{public}: there is no such client; `inspector keys list {folder}` shows them")
    try:
        public.unlink()
        secret.unlink(missing_ok=True)
        settle(public.parent)
    except OSError as error:
        raise ConfigError(f"{error.filename or public}: cannot be deleted: {error.strerror}") from None


def listing(folder: Path) -> list[Client]:
    """Every client, by name.

    Raises:
        ConfigError: this is no folder of keys, or a file in it is broken.
    """
    return [_client(folder, name) for name, _ in _entries(folder)]


def parse_roles(text: str, where: str) -> tuple[str, ...]:
    """`events,control` as roles.

    Raises:
        ConfigError: there is no such role, or none at all.
    """
    roles = {word.strip() for word in text.split(",")}
    if not roles <= set(ROLES):
        wrong = ", ".join(sorted(roles - set(ROLES))) or "nothing"
        raise ConfigError(f"{where}: may {wrong!r} is unknown; a client may {' and '.join(ROLES)}")
    return tuple(role for role in ROLES if role in roles)


class Keyring:
    """The folder as one server sees it, in that server's thread; it follows changes by itself.

    A file that is broken later leaves its client as it was, so that a slip while keys are edited shuts nobody out;
    a file that is gone shuts its client out whatever the others look like.

    Raises:
        ConfigError: a file is broken or missing, or the server's secret can be read by others.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._entries = _entries(folder)
        self._clients = {name: _client(folder, name) for name, _ in self._entries}
        self._by_key = _by_key(self._clients.values(), folder)
        self._look_at = clock() + LOOK_S
        self._told: set[str] = set()
        self.server = _server(folder)
        """The server's pair."""
        if self.server.public in self._by_key:
            raise ConfigError(f"{_pair(folder, self._by_key[self.server.public].name)[0]}: is the server's own key")

    def __len__(self) -> int:
        return len(self._clients)

    def holder(self, public_key: str) -> Client | None:
        """Whose key it is."""
        return self._by_key.get(public_key)

    def allows(self, name: str, role: str) -> bool:
        """May a client do this?"""
        client = self._clients.get(name)
        return client is not None and role in client.may

    def changed(self) -> set[str]:
        """Look at the folder, once a second at most; names of clients that have gone, or have another key or roles."""
        if self._clock() < self._look_at:
            return set()
        self._look_at = self._clock() + LOOK_S
        try:
            entries = _entries(self._folder)
        except ConfigError as error:
            self._tell(f"{error}; who is let in stays as it was")
            return set()
        return self._take(entries) if entries != self._entries else set()

    def _take(self, entries: list[Entry]) -> set[str]:
        before, as_before = self._clients, dict(self._entries)
        self._entries, self._told = entries, set()
        self._clients, self._by_key = {}, {}
        # Those whose files did not change come first: a newcomer with the same key has to give way.
        for name, state in sorted(entries, key=lambda entry: as_before.get(entry[0]) != entry[1]):
            kept = before.get(name)
            client = kept if kept and as_before[name] == state else self._read(name, kept)
            if client is not None and client.public_key in self._by_key | {self.server.public: None}:
                self._tell(f"{_pair(self._folder, name)[0]}: another has the same public key; it is not let in")
            elif client is not None:
                self._clients[name] = self._by_key[client.public_key] = client
        return {name for name, client in before.items() if not _same(client, self._clients.get(name))}

    def _read(self, name: str, before: Client | None) -> Client | None:
        try:
            return _client(self._folder, name)
        except ConfigError as error:
            self._tell(f"{error}; until then {'its key of before counts' if before else 'it is not let in'}")
            return before

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.error("keys: %s", text, extra=as_kind(LogKind.KEYS))


Entry = tuple[str, tuple[int, ...]]
"""A client's name, and what changes with its public file."""


def _entries(folder: Path) -> list[Entry]:
    """The clients' public files as they are now."""
    try:
        with os.scandir(_clients(folder)) as files:
            found = [(file.name.removesuffix(".key"), file.stat()) for file in files if file.name.endswith(".key")]
    except FileNotFoundError:
        raise ConfigError(f"{folder}: is no folder of keys. Make it: inspector keys make {folder}") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}. The daemon's user must own it") from None
    return sorted(
        (name, (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino))
        for name, status in found
        if not name.startswith(".")
    )


def _client(folder: Path, name: str) -> Client:
    _require_name(name)
    public, secret = _pair(folder, name)
    certificate = certificates.read(public)
    may = certificate.metadata.get("may", ",".join(DEFAULT_ROLES))
    return Client(name, certificate.public, parse_roles(may, str(public)), secret if secret.exists() else None)


def _by_key(clients: Iterable[Client], folder: Path) -> dict[str, Client]:
    found: dict[str, Client] = {}
    for client in clients:
        other = found.setdefault(client.public_key, client)
        if other is not client:
            raise ConfigError(
                f"{_pair(folder, client.name)[0]}: {other.name} has the same public key; each client needs its own. "
                f"Remove one: inspector keys remove {folder} {client.name}"
            )
    return found


def _server(folder: Path) -> Certificate:
    path = folder / "server.key_secret"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}. Make it: inspector keys make {folder}") from None
    if mode & 0o027:
        raise ConfigError(f"{path}: others can read or change this secret. Take that away: chmod 600 {path}")
    certificate = certificates.read(path)
    if certificate.secret is None:
        raise ConfigError(f"{path}: holds no secret-key. Make it again: inspector keys make {folder} --replace")
    return certificate


def _write_pair(base: Path, certificate: Certificate, replace: bool) -> None:
    """The secret first: the public file is what counts, and it must never be there alone."""
    public, secret = base.with_name(base.name + ".key"), base.with_name(base.name + ".key_secret")
    if public.exists() and not replace:
        raise ConfigError(f"{public}: exists already; a key that is overwritten is lost. Add --replace to do so")
    certificates.write(secret, certificate, secret=True, replace=replace)
    certificates.write(public, certificate, secret=False, replace=replace)


def _same(one: Client, other: Client | None) -> bool:
    return other is not None and (one.public_key, one.may) == (other.public_key, other.may)


def _require_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"client {name!r}: a name has 1 to 64 letters, digits, - _ or ., and begins with none of - _ ."
        )


def _pair(folder: Path, name: str) -> tuple[Path, Path]:
    return _clients(folder) / f"{name}.key", _clients(folder) / f"{name}.key_secret"


def _clients(folder: Path) -> Path:
    return folder / "clients"
