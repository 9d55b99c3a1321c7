"""Frames to a Batch: flat-field, strip edges, tiles of the pack's size, grouped over cameras by size and deadline.

Whatever is done to a frame depends on that frame alone, and how well its camera sees on the frames before it, so
batching cannot change a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

import cv2
import numpy as np

from inspector.config import BatchConfig, EdgeConfig
from inspector.errors import ConfigError
from inspector.flatfield import FlatField
from inspector.pack import TileSize
from inspector.records import Batch, Frame, Pixels, Roi, Sight, Tile

SAMPLED_ROWS = 32
"""Rows of a frame that are looked at to find the strip's edges."""
SECTIONS = 4
"""A column is strip if it is lit in any of so many sections of the frame's height."""
LIT_RUN_PX = 8
"""So many lit columns side by side are strip; fewer are a hot pixel or a glint in the black."""
NEAR_PX = 256
"""So many columns beside each rim of a frame are searched before all of them are."""


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


class Watcher(Protocol):
    """Watches how well one camera sees; `view.View` is one."""

    def see(self, frame: Frame, roi: Roi) -> list[Sight]: ...


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
        views: Mapping[str, Watcher] | None = None,
    ) -> None:
        self._tile = tile
        self._edges = edges
        self._size = batch.size
        self._deadline_ns = round(batch.deadline_ms * 1e6)
        self._flat_fields = flat_fields
        self._views = views or {}
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
        self._look(frame, roi, waiting)
        waiting.tiles += cut(frame.pixels, roi, self._tile, frame=len(waiting.frames))
        waiting.rois.append(roi)
        self._oldest_ns = min(self._oldest_ns, frame.monotonic_ns) if waiting.frames else frame.monotonic_ns
        waiting.frames.append(frame)
        return self.flush() if len(waiting.frames) >= self._size else None

    def resize(self, size: int) -> None:
        """From now on a batch is full with so many frames. From any thread."""
        self._size = size

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

    def _look(self, frame: Frame, roi: Roi, waiting: Batch) -> None:
        """How well the camera sees; what changed goes with the frame that showed it."""
        view = self._views.get(frame.camera)
        sights = view.see(frame, roi) if view is not None else None
        if sights:
            waiting.sights[len(waiting.frames)] = sights

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
