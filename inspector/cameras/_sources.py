"""What a path holds for the replay camera: pictures, videos and recordings, in the order they are played.

A folder is not searched below itself. Its entries are played in natural order of their names (2 before 10).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from inspector.cameras import _index, _pictures, _recorded
from inspector.cameras._shots import printable
from inspector.errors import ConfigError

PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".pgm", ".ppm", ".pnm"),
    *(".webp", ".jp2", ".gif", ".avif", ".heic"),
)
"""Suffixes that say a file is a picture. Whether it can be decoded is seen when it is played."""
VIDEOS = (".avi", ".mkv", ".mp4", ".m4v", ".mov", ".mpg", ".mpeg", ".webm", ".wmv")


class Kind(StrEnum):
    PICTURE = "picture"
    VIDEO = "video"
    RECORDING = "recording"


@dataclass(slots=True, frozen=True)
class Reel:
    """One file, or one strip of recordings, to be played; `name` is what its frames give as their source."""

    kind: Kind
    path: Path
    name: str
    parts: tuple[Path, ...] = ()
    """The folders of the recordings, where there are several."""


def reels(path: Path) -> tuple[list[Reel], list[str]]:
    """What `path` holds, in order, and the names of a folder's entries that are passed over, folders with a `/` behind
    them; hidden ones are not told.

    A picture or video is known by its name, since a damaged one must not be passed over; without a suffix, and of any
    name if it was given itself, a picture is known by its first bytes.

    Raises:
        ConfigError: there is no such path, it may not be read, or nothing in it can be played.
    """
    path = Path(os.path.abspath(path))
    try:
        if path.name in _index.FILES and _recorded.is_recording(path.parent):
            path = path.parent
        if _recorded.is_recording(path):
            return [Reel(Kind.RECORDING, path, printable(path.name))], []
        if path.is_dir():
            return _folder(path)
        return [_file(path)], []
    except OSError as error:
        raise ConfigError(f"{_said(path)}: cannot be read: {error.strerror}. Name a folder or a file") from None


def _folder(folder: Path) -> tuple[list[Reel], list[str]]:
    found: list[Reel] = []
    passed_over: list[str] = []
    for name in sorted(os.listdir(folder), key=natural):
        path = folder / name
        kind = kind_of(path)
        if kind is None and _recorded.is_recording(path):
            kind = Kind.RECORDING
        if kind is not None:
            found.append(Reel(kind, path, printable(name)))
        elif not name.startswith("."):
            passed_over.append(printable(name) + "/" * path.is_dir())
    if not found:
        raise ConfigError(
            f"{_said(folder)}: holds no picture, video or recording. Name a folder that holds them itself "
            f"(folders in it are not searched), ending in {' '.join(PICTURES + VIDEOS)}"
        )
    return found, passed_over


def _file(path: Path) -> Reel:
    path.stat()  # raises when it is not there
    kind = _named(path.name) or _looked_at(path)
    if kind is None:
        raise ConfigError(
            f"{_said(path)}: is neither a picture nor a video nor a recording. "
            f"Name a folder, or a file that ends in one of {' '.join(PICTURES + VIDEOS)}"
        )
    return Reel(kind, path, printable(path.name))


def kind_of(path: Path) -> Kind | None:
    """Whether an entry of a folder is a picture or a video. Only a file without any suffix is opened, so that a backup
    (`07.png.orig`) is no second piece of strip; one that cannot be opened may be a picture, and is lost as one. Hidden
    ones (and macOS's `._x.jpg`) are nothing."""
    name = path.name
    if "." in name:
        return _named(name)
    try:
        return _looked_at(path)
    except OSError:
        return Kind.PICTURE


def _named(name: str) -> Kind | None:
    """What the name says; hidden files are nothing."""
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith("."):
        return None
    if suffix in PICTURES:
        return Kind.PICTURE
    return Kind.VIDEO if suffix in VIDEOS else None


def _looked_at(path: Path) -> Kind | None:
    """What the first bytes say; a pipe is not opened, as it would wait for its writer."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return Kind.PICTURE if _pictures.is_picture(file.read(16)) else None


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts numbers in names by value; equal names but for zeros stay in a fixed order."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def _said(path: Path) -> str:
    return printable(str(path))
