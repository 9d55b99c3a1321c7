"""Frames to a Batch: flat-field, strip edges, tiles of the pack's size, grouped over cameras by size and deadline.

Whatever is done to a frame depends on that frame alone, so batching cannot change a result.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.config import BatchConfig, EdgeConfig
from inspector.errors import ConfigError
from inspector.pack import TileSize
from inspector.records import Batch, Frame, Pixels, Roi, Tile

BLOCK_PX = 64 * 1600
"""Pixels corrected at a time: they and their gains stay in the processor's cache."""
SAMPLED_ROWS = 32
"""Rows of a frame that are looked at to find the strip's edges."""
SECTIONS = 4
"""A column is strip if it is lit in any of so many sections of the frame's height."""
LIT_RUN_PX = 8
"""So many lit columns side by side are strip; fewer are a hot pixel or a glint in the black."""
NEAR_PX = 256
"""So many columns beside each rim of a frame are searched before all of them are."""


class FlatField:
    """Per-column offset and gain that make an even surface look even: (pixel - offset) x gain, saturating.

    Attributes:
        offset: grey of the dark sensor, uint8 [width] (fractions are rounded: 70 us a frame less).
        gain: float32 [width].
        name: where it is from, for messages.
    """

    def __init__(self, offset: ArrayLike, gain: ArrayLike, name: str = "flat-field") -> None:
        """Raises ConfigError: the two are not one row each of the same width, or hold values without sense."""
        self.name = name
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
        """Read a .npz file with the one-row arrays `offset` and `gain`.

        Raises:
            ConfigError: the file cannot be read, or holds something else.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                offset, gain = arrays["offset"], arrays["gain"]
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}. {_MEND}") from None
        except KeyError as error:
            raise ConfigError(f"{path}: not a flat-field: {error.args[0]}. {_MEND}") from None
        except (ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
            raise ConfigError(f"{path}: not a .npz file. {_MEND}") from None
        return cls(offset, gain, name=str(path))

    def save(self, path: Path) -> None:
        """Write what `load` reads. Raises OSError."""
        with path.open("wb") as file:
            np.savez(file, offset=self.offset, gain=self.gain)

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


_MEND = "Name a .npz file with `offset` and `gain`, one value for each column, or leave `flat_field` out"


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


def find_edges(pixels: Pixels, edges: EdgeConfig) -> Roi:
    """The columns of a frame that are strip; Roi(0, 0) if it is dark all over.

    Only the outermost dark columns are cut, and only those that are dark in every section of the height: a dark
    defect at the edge, a dark band inside and a slanting edge keep their columns.
    """
    width = int(pixels.shape[1])
    if not edges.detect:
        return Roi(0, width)
    left, right = _lit_span(pixels[:: max(1, pixels.shape[0] // SAMPLED_ROWS)], edges.dark_level)
    left += edges.margin_px if left > 0 else 0
    right -= edges.margin_px if right < width else 0
    return Roi(left, right) if left < right else Roi(0, 0)


def _lit_span(rows: Pixels, level: int) -> tuple[int, int]:
    """From the first to behind the last run of at least LIT_RUN_PX lit columns; (0, 0) if there is none.

    The columns nearest each edge are looked at first: mostly there is nothing else to see, and it costs a tenth.
    """
    width = int(rows.shape[1])
    run = b"\1" * min(LIT_RUN_PX, width)
    for near in (NEAR_PX, width):
        left = _lit(rows[:, :near], level).find(run)
        if left >= 0:
            break
    else:
        return 0, 0
    for near in (NEAR_PX, width):
        first = max(0, width - near)
        right = _lit(rows[:, first:], level).rfind(run)
        if right >= 0:
            break
    return left, first + right + len(run)


def _lit(rows: Pixels, level: int) -> bytes:
    """For each column 1 if the mean grey of any section of it is at least `level`, else 0."""
    count = rows.shape[0]
    cuts = [count * i // SECTIONS for i in range(SECTIONS + 1)]
    parts = [rows[a:b] for a, b in pairwise(cuts) if b > a]
    sums = [cv2.reduce(part, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).reshape(-1) for part in parts]
    lit = sums[0] >= level * len(parts[0])
    for part, column_sums in zip(parts[1:], sums[1:], strict=True):
        lit |= column_sums >= level * len(part)
    return lit.tobytes()


def cut(pixels: Pixels, roi: Roi, size: TileSize, frame: int) -> list[Tile]:
    """The tiles that cover a frame; those wholly beyond the strip's edges are left out.

    A frame of the tile's size is its own tile. A larger one is cut into as few tiles as cover it, all inside the
    frame, the last of a row or column set back over its neighbour. A smaller one is filled up with black.
    """
    height, width = pixels.shape
    if (height, width) == (size.height, size.width):  # by far the most
        return [Tile(frame, 0, 0, pixels)] if roi.right > 0 and roi.left < width else []
    return [
        Tile(frame, y, x, _piece(pixels, y, x, size))
        for y in tile_starts(height, size.height)
        for x in tile_starts(width, size.width)
        if x < roi.right and x + size.width > roi.left
    ]


def tile_starts(extent: int, tile: int) -> list[int]:
    """Where the tiles along one axis begin: as few as cover `extent`, the last one ending with it."""
    count = max(1, -(-extent // tile))
    return [min(i * tile, max(0, extent - tile)) for i in range(count)]


def _piece(pixels: Pixels, y: int, x: int, size: TileSize) -> Pixels:
    piece = pixels[y : y + size.height, x : x + size.width]
    if piece.shape == (size.height, size.width):
        return np.ascontiguousarray(piece)
    tile = np.zeros((size.height, size.width), dtype=np.uint8)
    tile[: piece.shape[0], : piece.shape[1]] = piece
    return tile


class Preprocess:
    """Prepares frames as they come and groups them into batches, numbered from 0. For one thread.

    Its worker reads with `frame = frames.get(due_in_s(now) or idle)`, then `add(frame)`, or `flush()` on a time-out:
    so an overdue batch still takes the frames that wait already, and stays efficient when the line is behind.
    """

    def __init__(
        self,
        tile: TileSize,
        edges: EdgeConfig,
        batch: BatchConfig,
        flat_fields: Mapping[str, FlatField | None],
    ) -> None:
        self._tile = tile
        self._edges = edges
        self._size = batch.size
        self._deadline_ns = round(batch.deadline_ms * 1e6)
        self._flat_fields = flat_fields
        self._number = 0
        self._waiting = Batch(0, [], [], [])
        self._oldest_ns = 0

    def add(self, frame: Frame) -> Batch | None:
        """Prepare a frame: its pixels are corrected in place. Returns the batch if it is full now.

        Raises:
            ConfigError: the camera's flat-field is of another width. The frame was not taken; those before it wait on.
        """
        self._correct(frame)
        waiting = self._waiting
        roi = find_edges(frame.pixels, self._edges)
        waiting.tiles += cut(frame.pixels, roi, self._tile, frame=len(waiting.frames))
        waiting.rois.append(roi)
        self._oldest_ns = min(self._oldest_ns, frame.monotonic_ns) if waiting.frames else frame.monotonic_ns
        waiting.frames.append(frame)
        return self.flush() if len(waiting.frames) >= self._size else None

    def due_in_s(self, now_ns: int) -> float | None:
        """Seconds until the batch must leave, 0 if it is overdue, None if no frame waits.

        `now_ns` is the host's monotonic clock, as in `Frame.monotonic_ns`.
        """
        if not self._waiting.frames:
            return None
        return max(0, self._oldest_ns + self._deadline_ns - now_ns) / 1e9

    def flush(self) -> Batch | None:
        """The frames that wait, as a batch; None if none does."""
        if not self._waiting.frames:
            return None
        batch, self._number = self._waiting, self._number + 1
        self._waiting = Batch(self._number, [], [], [])
        return batch

    def _correct(self, frame: Frame) -> None:
        flat_field = self._flat_fields.get(frame.camera)
        if flat_field is None:
            return
        width = frame.pixels.shape[1]
        if width != flat_field.width:
            raise ConfigError(
                f"{flat_field.name}: a flat-field for {flat_field.width} columns, but camera {frame.camera} sends "
                f"{width}. Calibrate this camera again, or mend its `flat_field` or its width"
            )
        flat_field.correct(frame.pixels)
