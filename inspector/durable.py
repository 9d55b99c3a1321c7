"""What is on the disk stays there over a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(file: Path, content: bytes, part: str = "part") -> None:
    """Write a file that is whole or as it was before, whatever happens.

    Args:
        part: what the name of its half ends in; another for each process where several may write it at once.

    Raises:
        OSError: its folder is not there, or the disk refuses; nothing is left behind, as a full disk needs the room.
    """
    half = file.with_name(f".{file.name}.{part}")
    try:
        with half.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(half, file)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def settle(path: Path) -> None:
    """Force a file, or what was created, renamed and removed in a folder, to the disk.

    Raises:
        OSError: it is not there, or the disk refuses.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
