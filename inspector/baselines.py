"""What the cameras of a line showed first, window by window, in a file beside the journal.

It is only statistics: a file that cannot be read or written is told, and the line goes on without it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from inspector.census import Census
from inspector.logbook import LogKind, as_kind

log = logging.getLogger(__name__)

VERSION = 1
PACKS = 4
"""Packs whose baselines are kept, so that one that comes back finds its own."""
TICK_S = 1.0


class _Kept(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    version: int = VERSION
    window_frames: int
    packs: dict[str, dict[str, list[Census]]] = {}
    """Digest of the pack -> camera -> its first windows."""


def beside(journal: Path) -> Path:
    """Where the baselines of a line lie."""
    return journal.with_name(f"{journal.stem}.drift.json")


class Baselines:
    """Learns and remembers; thread-safe. `serve` writes what is new, in a thread of its own: no stage waits for a disk.

    Args:
        file: where they are kept.
        window_frames: frames of a window; what was learnt in windows of another size is not comparable and goes.
        on_failure: called when they cannot be written.
    """

    def __init__(self, file: Path, window_frames: int, on_failure: Callable[[], None] = lambda: None) -> None:
        self._file = file
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._dirty = False
        self._failing = False
        self._kept = self._load(window_frames)

    def of(self, digest: str, camera: str) -> Sequence[Census]:
        """The windows of a camera with a pack that were learnt."""
        with self._lock:
            return tuple(self._kept.packs.get(digest, {}).get(camera, ()))

    def learn(self, digest: str, camera: str, window: Census) -> Sequence[Census]:
        """Keep one more window of a camera; all of them."""
        with self._lock:
            packs = self._kept.packs
            cameras = packs[digest] = packs.pop(digest, {})  # the newest last
            cameras.setdefault(camera, []).append(window)
            while len(packs) > PACKS:
                del packs[next(iter(packs))]
            self._dirty = True
        return self.of(digest, camera)

    # ------------------------------------------------------------ the file

    def open(self) -> None:
        """There is nothing to bind."""

    def serve(self, stop: threading.Event) -> None:
        """Write what is new, until `stop`."""
        while not stop.wait(TICK_S):
            self.save()

    def close(self) -> None:
        """Write what is new."""
        self.save()

    def save(self) -> None:
        """Write the file, if there is anything new: it is whole or as it was."""
        with self._lock:
            if not self._dirty:
                return
            content = msgspec.json.encode(self._kept)
            self._dirty = False
        half = self._file.with_name(f".{self._file.name}.part")
        try:
            half.write_bytes(content)
            os.replace(half, self._file)
        except OSError as error:
            with self._lock:
                self._dirty = True
            self._on_failure()
            if not self._failing:
                log.warning(
                    "%s: cannot be written: %s. Make room, or give this user the right",
                    self._file,
                    error,
                    extra=as_kind(LogKind.BASELINE),
                )
            self._failing = True
            return
        self._failing = False

    def _load(self, window_frames: int) -> _Kept:
        empty = _Kept(window_frames=window_frames)
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return empty
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            log.warning(
                "%s: cannot be read: %s. What is usual is learnt anew",
                self._file,
                error,
                extra=as_kind(LogKind.BASELINE),
            )
            return empty
        if (kept.version, kept.window_frames) != (VERSION, window_frames):
            log.warning(
                "%s: learnt in windows of %d frames (version %d), not %d (version %d). What is usual is learnt anew",
                *(self._file, kept.window_frames, kept.version, window_frames, VERSION),
                extra=as_kind(LogKind.BASELINE),
            )
            return empty
        return kept
