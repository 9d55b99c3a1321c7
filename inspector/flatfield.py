"""The flat-field: per-column offset and gain that make an even surface look even, as a file and at work."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.errors import ConfigError
from inspector.records import Pixels

BLOCK_PX = 64 * 1600
"""Pixels corrected at a time: they and their gains stay in the processor's cache."""
BLOCK_COLUMNS = 16
"""Columns whose median stands for them where only what is broad matters."""
SURROUNDINGS = 9
"""Blocks whose median is the level around a column: dirt of up to four blocks does not move it."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a flat-field was made. What a file does not tell is None or 0."""

    made_ns: int | None = None
    """When, Unix ns."""
    camera: str = ""
    frames: int = 0
    """Frames of the lit reference; 0: gains were never measured."""
    target: float = 0.0
    """Grey that the corrected reference has."""
    reference: NDArray[np.float32] | None = None
    """Mean grey of each column of the reference as the camera gave it, [width]."""
    dark_ns: int | None = None
    """When the offset was measured, Unix ns; None: it was not."""
    dark_frames: int = 0


class FlatField:
    """Per-column offset and gain that make an even surface look even: (pixel - offset) x gain, saturating.

    Attributes:
        offset: grey of the dark sensor, uint8 [width] (fractions are rounded: 70 us a frame less).
        gain: float32 [width].
        name: where it is from, for messages.
        origin: how it was made.
    """

    def __init__(
        self, offset: ArrayLike, gain: ArrayLike, name: str = "flat-field", origin: Origin | None = None
    ) -> None:
        """Raises ConfigError: the two are not one row each of the same width, or hold values without sense."""
        self.name = name
        self.origin = origin or Origin()
        self.offset, self.gain = _checked(offset, gain, name)
        self._rows = max(1, BLOCK_PX // self.width)
        shape = (self._rows, self.width)
        self._offsets = np.ascontiguousarray(np.broadcast_to(self.offset, shape))
        self._gains = np.ascontiguousarray(np.broadcast_to(self.gain, shape))

    @classmethod
    def identity(cls, width: int) -> Self:
        """The one that changes nothing."""
        return cls(np.zeros(width), np.ones(width), name="identity")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a .npz file with the one-row arrays `offset` and `gain`; a file without more is as old as it looks.

        Raises:
            ConfigError: the file cannot be read, or holds something else.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                offset, gain = arrays["offset"], arrays["gain"]
                origin = _origin(arrays, os.fstat(file.fileno()).st_mtime_ns)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}. {_MEND}") from None
        except KeyError as error:
            raise ConfigError(f"{path}: not a flat-field: {error.args[0]}. {_MEND}") from None
        except (ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
            raise ConfigError(f"{path}: not a .npz file. {_MEND}") from None
        return cls(offset, gain, name=str(path), origin=origin)

    def save(self, path: Path) -> None:
        """Write what `load` reads: whole or not at all, and a file that was there becomes PATH.bak. Raises OSError."""
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            with new.open("wb") as file:
                np.savez(file, **self._arrays())
                file.flush()
                os.fsync(file.fileno())
            _keep(path)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    def _arrays(self) -> dict[str, Any]:
        told = {name: value for name, value in vars(self.origin).items() if value is not None}
        return {"offset": self.offset, "gain": self.gain, **told}

    @property
    def width(self) -> int:
        """Columns of the frames that it fits."""
        return int(self.gain.shape[0])

    def correct(self, pixels: Pixels) -> None:
        """Correct a frame in place; `pixels` is uint8 [H, width], C-contiguous."""
        for top in range(0, pixels.shape[0], self._rows):
            block = pixels[top : top + self._rows]
            rows = block.shape[0]
            cv2.subtract(block, self._offsets[:rows], dst=block)
            cv2.multiply(block, self._gains[:rows], dst=block, dtype=cv2.CV_8U)


_MEND = "Name a .npz file with `offset` and `gain`, as `inspector calibrate` makes it, or leave `flat_field` out"


def _keep(path: Path) -> None:
    """The file that is replaced, under the name PATH.bak; at no moment is there none under its own."""
    if path.exists():
        backup = path.with_name(path.name + ".bak")
        backup.unlink(missing_ok=True)
        try:
            backup.hardlink_to(path)
        except OSError:  # a file system without links
            shutil.copy2(path, backup)


def _origin(arrays: Mapping[str, NDArray[Any]], changed_ns: int) -> Origin:
    """What a file tells of itself; one of two rows alone was made when it was last changed."""

    def told(name: str, default: Any) -> Any:
        return arrays[name].item() if name in arrays else default

    return Origin(
        made_ns=told("made_ns", changed_ns),
        camera=str(told("camera", "")),
        frames=told("frames", 0),
        target=told("target", 0.0),
        reference=arrays.get("reference"),
        dark_ns=told("dark_ns", None),
        dark_frames=told("dark_frames", 0),
    )


def _checked(offset: ArrayLike, gain: ArrayLike, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    try:
        offsets, gains = np.asarray(offset, dtype=np.float64), np.asarray(gain, dtype=np.float32)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: `offset` and `gain` must be numbers. {_MEND}") from None
    if offsets.ndim != 1 or offsets.shape != gains.shape or offsets.size == 0:
        shapes = f"{list(offsets.shape)} and {list(gains.shape)}"
        raise ConfigError(
            f"{name}: `offset` and `gain` have the shapes {shapes}, not one and the same [width]. {_MEND}"
        )
    if not (np.all(offsets >= 0) and np.all(offsets <= 255)):
        raise ConfigError(f"{name}: `offset` must lie in 0..255. Calibrate again with the lamp off")
    if not (np.all(gains > 0) and np.all(np.isfinite(gains))):
        raise ConfigError(f"{name}: `gain` must be above 0 and finite. Calibrate again on an even, lit surface")
    return np.rint(offsets).astype(np.uint8), gains


# ---------------------------------------------------------------- profiles: one value a column


def local_level(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the surroundings of each column have: the median of some 144 columns, which narrow dirt does not move.

    `profile` is [width] without NaN; one narrower than a block is its own median everywhere.
    """
    blocks = _blocks(profile)
    wide = min(SURROUNDINGS, blocks.size)
    around = np.median(np.lib.stride_tricks.sliding_window_view(blocks, wide), axis=1)
    lever = min(12, around.size - 1)  # towards the rims the slope goes on; a long lever, as dirt tilts a short one
    slopes = (around[lever] - around[0], around[-1] - around[-1 - lever]) if lever else (0.0, 0.0)
    before, behind = np.arange(-(wide // 2), 0), np.arange(1, (wide + 1) // 2)
    reach = max(1, lever)
    around = np.concatenate([around[0] + slopes[0] / reach * before, around, around[-1] + slopes[1] / reach * behind])
    centres = (np.arange(blocks.size) + 0.5) * (profile.size / blocks.size) - 0.5
    return np.interp(np.arange(profile.size), centres, around)


def unevenness(profile: NDArray[np.float64]) -> float | None:
    """How uneven columns are, as a share of their level: a robust deviation (1.4826 x the median distance from the
    median) over medians of 16 columns, so that noise, single columns and the worn rims of a strip do not count.

    NaN where a column shows nothing; None if fewer than four blocks are left.
    """
    seen = profile[np.isfinite(profile)]
    if seen.size < 4 * BLOCK_COLUMNS:
        return None
    blocks = _blocks(seen)
    middle = float(np.median(blocks))
    return float(1.4826 * np.median(np.abs(blocks - middle)) / middle) if middle > 0 else None


def _blocks(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """The medians of some 16 columns each, the last few left out."""
    count = max(1, profile.size // BLOCK_COLUMNS)
    each = profile.size // count
    return np.median(profile[: count * each].reshape(count, each), axis=1)
