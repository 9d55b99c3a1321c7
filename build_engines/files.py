"""Files and folders that are whole or not there, what the disk refuses, and a manifest's text."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import yaml

from inspector import durable
from inspector.pack import MANIFEST, Manifest

MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""What is wrong with the name of a file rather than with the disk."""

REMEDIES = {
    **dict.fromkeys(MISSING, "Name another file or folder"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Give this user the right to it, or name another"),
    errno.EROFS: "Name one on a disk that can be written",
}
FULL = "Make room there and run the same command again, or name another disk"


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that is whole or as it was before, whatever happens; its folder is made.

    Raises:
        OSError: the disk refuses; it names the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file):
        durable.write_whole(file, content)


def refuse_unwritable(*files: Path | None) -> None:
    """Before long work: can these be written when it is done? None are not asked for. Makes nothing.

    Raises:
        OSError: one cannot; it names the file.
    """
    for file in files:
        if file is None:
            continue
        with naming(file):
            if file.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            folder = next(above for above in file.absolute().parents if above.exists())
            if not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What the disk refuses within is told of `path`: by itself a full disk names no file.

    Raises:
        OSError: as raised within, and it names `path`.
    """
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def refusal(error: OSError) -> str:
    """What the disk refused and how to mend it, in one line."""
    reason = error.strerror or " ".join(map(str, error.args))
    return f"{error.filename or 'a file'}: {reason}. {REMEDIES.get(error.errno or 0, FULL)}"


def put_in_place(built: Path, folder: Path) -> None:
    """Move a finished folder to where it is used.

    Nobody ever sees half of one. What was there is set aside first, so for a moment there is none: who looks then (a
    daemon that starts) finds nothing. After a kill in that moment `recover` brings the old one back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = _aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(built, folder)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Bring back the folder that a killed `put_in_place` had set aside."""
    old = _aside(folder)
    if old.exists() and not folder.exists():
        os.replace(old, folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def digest(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_json(file: Path, content: Any) -> None:
    """Write figures for people and programs."""
    write_whole(file, (json.dumps(content, indent=2) + "\n").encode())


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `folder`/manifest.yaml."""
    content: Any = msgspec.to_builtins(manifest)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    write_whole(folder / MANIFEST, text.encode())
