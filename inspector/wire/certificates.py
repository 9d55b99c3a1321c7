"""A ZeroMQ certificate: the text file that czmq and pyzmq (`zmq.auth.load_certificate`) read too.

    metadata
        name = "press"
        may = "events,control"
    curve
        public-key = "<40 characters of Z85>"
        secret-key = "<40 characters of Z85>"      only in NAME.key_secret

It is written at once or not at all, and a secret is readable by its owner alone from its first byte.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from inspector.durable import settle
from inspector.errors import ConfigError

LONGEST = 16_384
"""Bytes in a certificate file; a longer one is something else."""

KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
ENTRY = re.compile(r"\s*(?P<name>[A-Za-z0-9_-]+)\s*=\s*(?P<quote>[\"']?)(?P<value>.*?)(?P=quote)\s*")

SECRET = (
    "#   ZeroMQ CURVE secret certificate. Whoever has this file is let in: hand it over by a safe way, keep it 0600.\n"
)
PUBLIC = "#   ZeroMQ CURVE public certificate. It may be read by everybody.\n"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A key pair, or its public half.

    Attributes:
        public: 40 characters of Z85.
        secret: likewise; None in a public certificate.
        metadata: what else the file says.
    """

    public: str
    secret: str | None = field(default=None, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)


def new(metadata: Mapping[str, str]) -> Certificate:
    """A new key pair."""
    public, secret = zmq.curve_keypair()
    return Certificate(public.decode(), secret.decode(), metadata)


def is_key(text: str) -> bool:
    """Is it 32 bytes in Z85?"""
    if not KEY.fullmatch(text):
        return False
    with suppress(Exception):  # five characters may stand for more than four bytes hold
        return len(z85.decode(text)) == 32
    return False


def read(path: Path) -> Certificate:
    """The certificate in a file.

    Raises:
        ConfigError: it is missing, cannot be read, or is none; the text names the file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        mend = f". Give it to the user that the daemon runs as: chown USER {path}"
        hint = mend if isinstance(error, PermissionError) else ""
        raise ConfigError(f"{path}: cannot be read: {error.strerror}{hint}") from None
    certificate = _parsed(data) if len(data) <= LONGEST else None
    if certificate is None:
        raise ConfigError(
            f"{path}: is no ZeroMQ certificate, or torn: it must hold a public-key of 40 characters, and a secret-key "
            "only if it is the one that belongs to it. Make it again with `inspector keys`"
        )
    return certificate


def write(path: Path, certificate: Certificate, *, secret: bool, replace: bool = False) -> None:
    """Write the pair (`secret`) or its public half.

    Raises:
        ConfigError: the file exists and is not to be replaced, or cannot be written.
    """
    try:
        _write(path, _text(certificate, secret).encode(), 0o600 if secret else 0o644, replace)
    except FileExistsError:
        raise ConfigError(
            f"{path}: exists already; a key that is overwritten is lost. Add --replace to do so"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def _parsed(data: bytes) -> Certificate | None:
    values: dict[str, str] = {}
    for line in data.decode(errors="replace").splitlines():
        found = None if line.lstrip().startswith("#") else ENTRY.fullmatch(line)
        if found and values.setdefault(found["name"], found["value"]) != found["value"]:
            return None  # said twice, and not the same
    public, secret = values.pop("public-key", ""), values.pop("secret-key", None)
    if not is_key(public) or (secret is not None and not _belongs(secret, public)):
        return None
    return Certificate(public, secret, values)


def _belongs(secret: str, public: str) -> bool:
    return is_key(secret) and zmq.curve_public(secret.encode()) == public.encode()


def _text(certificate: Certificate, secret: bool) -> str:
    lines = [SECRET if secret else PUBLIC, "\nmetadata\n"]
    lines += [f'    {name} = "{value}"\n' for name, value in certificate.metadata.items()]
    lines += ["curve\n", f'    public-key = "{certificate.public}"\n']
    if secret:
        lines.append(f'    secret-key = "{certificate.secret}"\n')
    return "".join(lines)


def _write(path: Path, data: bytes, mode: int, replace: bool) -> None:
    """Atomic and durable. What root makes belongs to whoever owns the folder, so that the daemon can read it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600 from the start
    try:
        with open(handle, "wb") as file:
            file.write(data)
            if os.geteuid() == 0:
                owner = path.parent.stat()
                os.fchown(handle, owner.st_uid, owner.st_gid)
            os.fchmod(handle, mode)
            file.flush()
            os.fsync(handle)
        if replace:
            os.replace(name, path)
        else:
            os.link(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
    settle(path.parent)
