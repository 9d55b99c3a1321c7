"""Packs on disk: staged whole or not at all, and what a line remembers of its pack over restarts.

A folder (`packs.folder`) has

    NAME-VERSION-DIGEST/    a staged pack, never changed once it is there
    LINE.json               what the daemon of that line remembers; written by it alone
    LINE.staged             the pack that it is to take up next; written by `inspector packs stage`
    samples/                frames on which two packs differed

Whatever is written is forced to the disk under another name first and then renamed, so a kill or a power cut leaves
the old or the new and never a part.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from inspector import pack
from inspector.durable import settle
from inspector.errors import PackError
from inspector.events import as_json, short_digest
from inspector.logbook import LogKind, as_kind
from inspector.pack import Pack

STAGING = ".staging-"
"""Begins the name of a copy that is not whole yet."""
LOCK = ".lock"

log = logging.getLogger(__name__)


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What a line remembers of its pack."""

    base: str
    """`pack:` of the YAML when this was written; another path there forgets the rest, as the newest wish counts."""
    base_digest: str
    """Of the pack there. An upgrade of the program may bring another one under the same path: what is on duty stays."""
    on_duty: str | None = None
    """Folder of the pack that took over for good; None: that of `pack:`."""
    previous: str | None = None
    """Folder of the pack that was on duty before it."""
    previous_digest: str | None = None
    """Of that pack: an upgrade of the program may have put another one there, which never was on duty."""
    changing: str | None = None
    """What was going on, for people; None: nothing."""


class Store:
    """The folder, as one line sees it."""

    def __init__(self, folder: Path, line: str) -> None:
        self.folder = folder
        self._memory = folder / f"{line}.json"
        self._mark = folder / f"{line}.staged"

    # ------------------------------------------------------------ packs

    def packs(self) -> list[Path]:
        """The folders of staged packs, by name. What is not whole is not among them."""
        try:
            found = sorted(self.folder.iterdir())
        except OSError:
            return []
        return [path for path in found if not path.name.startswith(".") and (path / pack.MANIFEST).is_file()]

    def stage(self, source: Path) -> Path:
        """Copy a verified pack into the folder, which is made when it is missing; returns where it lies.

        The same pack is not copied twice; a copy that has been damaged is replaced.

        Raises:
            PackError: the pack is not whole, or cannot be copied.
        """
        found = pack.load(source)
        files = _files(found)
        try:
            _make(self.folder)
            with _locked(self.folder):
                return self._copy(found, files)
        except OSError as error:
            raise PackError(
                f"{self.folder}: {source} cannot be copied there: {error.strerror or error}. Make room, or give this "
                "user the right to write there (packs.folder)"
            ) from None

    def _copy(self, found: Pack, files: list[Path]) -> Path:
        for rest in self.folder.glob(f"{STAGING}*"):  # of a copy that was killed: we hold the lock
            shutil.rmtree(rest, ignore_errors=True)
        target = self.folder / folder_name(found)
        if target.exists():
            try:
                pack.load(target)
                return target
            except PackError as error:
                log.warning("%s: replaced, as it was damaged: %s", target, error, extra=as_kind(LogKind.PACK_REPLACED))
                target.rename(self.folder / f"{STAGING}{secrets.token_hex(4)}")
        copy = self.folder / f"{STAGING}{secrets.token_hex(4)}"
        copy.mkdir()
        try:
            for file in files:
                _copy_file(found.folder / file, copy / file)
            pack.load(copy)
            for inner in [*copy.rglob("*"), copy]:
                _give(inner, self.folder)
                if inner.is_dir():
                    settle(inner)
            copy.rename(target)
            settle(self.folder)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        return target

    # ------------------------------------------------------------ what waits to be taken up

    def mark(self, staged: Path) -> None:
        """The line is to take up this pack: at once when it is told, at SIGHUP, or at its next start.

        Raises:
            PackError: it cannot be written.
        """
        self._write(self._mark, f"{staged.name}\n".encode())

    def marked(self) -> Path | None:
        """The folder of the pack that waits; None: none does."""
        try:
            name = self._mark.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return self.named(name) if name else None

    def unmark(self) -> None:
        """It was taken up."""
        with contextlib.suppress(OSError):
            self._mark.unlink()

    def named(self, name: str) -> Path:
        """The folder of a staged pack. Raises PackError if the name is not one of a folder here."""
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise PackError(f"{name!r} is not the name of a staged pack: `inspector packs list` shows them")
        if not (self.folder / name / pack.MANIFEST).is_file():
            raise PackError(
                f"{self.folder / name}: no such pack was staged: `inspector packs list` shows those that were"
            )
        return self.folder / name

    # ------------------------------------------------------------ what the line remembers

    def recall(self) -> Memory | None:
        """What the line remembers; None: nothing. Raises PackError if it cannot be read."""
        try:
            return msgspec.json.decode(self._memory.read_bytes(), type=Memory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise PackError(f"{self._memory}: what was on duty cannot be read ({error}). Stage it again") from None

    def remember(self, memory: Memory) -> None:
        """Raises PackError if it cannot be written."""
        self._write(self._memory, as_json(memory) + b"\n")

    def _write(self, path: Path, content: bytes) -> None:
        made = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            _make(self.folder)
            try:
                with made.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                _give(made, self.folder)
                made.rename(path)
                settle(self.folder)
            finally:
                made.unlink(missing_ok=True)
        except OSError as error:
            raise PackError(
                f"{path}: cannot be written: {error.strerror or error}. Make room, or give this user the right to "
                "write there (packs.folder)"
            ) from None


def folder_name(found: Pack) -> str:
    """Name, version and digest: nothing else can have it."""
    words = (found.manifest.name, found.manifest.version, short_digest(found.digest))
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", word).lstrip(".") or "_" for word in words)


def _files(found: Pack) -> list[Path]:
    """What belongs to a pack, relative to its folder: what the manifest names, and what lies beside it."""
    named = [file for file, _ in (*found.networks().values(), *found.twins().values())]
    relative = {file.relative_to(found.folder) for file in named}
    for file in relative:
        if file.is_absolute() or ".." in file.parts:
            raise PackError(f"{found.folder / pack.MANIFEST}: names {file}, outside the pack. Export the pack again")
    beside = {path.relative_to(found.folder) for path in found.folder.iterdir() if path.is_file()}
    return sorted(relative | beside)


def _make(folder: Path) -> None:
    """A folder that is new belongs to whoever its parent belongs to."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _give(folder, folder.parent)


def _give(path: Path, folder: Path) -> None:
    """What root writes belongs to the owner of the folder: root may stage, and the daemon reads and writes here."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as read, target.open("xb") as write:
        shutil.copyfileobj(read, write)
        write.flush()
        os.fsync(write.fileno())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One copy at a time; the lock of a process that was killed is free."""
    with (folder / LOCK).open("ab") as file:
        _give(folder / LOCK, folder)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
