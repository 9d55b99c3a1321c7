"""One worker's way through the networks on one GPU: the Stream of the TensorRT runtime.

A batch is copied to the device once and stays there for all stages. The gate runs on it where it lies; what passed is
gathered on the device for types, and for each segmenter on a queue of its own, side by side. What comes back are
scores, how far each map of probabilities reaches, and then of each map only the box that holds every pixel above the
threshold. While one slot waits for its answer the slot beside it copies its next batch: so copies and networks overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspector.errors import EngineError
from inspector.pack import Manifest, pixel_level
from inspector.records import Pixels
from inspector.runtimes import Patch
from inspector.runtimes._device import Bytes, Device, Locked, Memory, Queue
from inspector.runtimes._engine import Engine, Lane
from inspector.runtimes._frames import FrameMemory, address_of, pages
from inspector.runtimes._graphs import Recorder

Box = tuple[int, int, int, int]
"""Rows and columns of a tile: top, bottom, left, right."""


class Slot:
    """The memory and queues of one worker on one device; made and used with the device active in its thread."""

    def __init__(
        self,
        manifest: Manifest,
        engines: Mapping[str, Engine],
        device: Device,
        frames: FrameMemory,
        recorder: Recorder | None,
        title: str,
    ) -> None:
        self._device = device
        self._frames = frames
        self._title = title
        self._classes = len(manifest.classes)
        self._levels = {part.class_number: pixel_level(part.threshold) for part in manifest.segmenters}
        self._shape = manifest.tile.height, manifest.tile.width
        self._closed = False
        self._queues: list[Queue] = []
        self._lanes: dict[str, Lane] = {}
        self._batch, self._staging = _Buffer(device), _HostBuffer(device)
        self._boxes = {number: _HostBuffer(device) for number in self._levels}
        self._count = 0
        self._begun: dict[int, _Begun] = {}
        with device.active():
            self._uploaded = device.mark()
            try:
                self._acquire(engines, recorder)
            except EngineError:
                self.close()
                raise

    def _acquire(self, engines: Mapping[str, Engine], recorder: Recorder | None) -> None:
        self._upload, main = self._queue(), self._queue()
        for name, engine in engines.items():
            queue = main if name in ("gate", "types") else self._queue()
            # Recordings hold for one address: half as many are made where tiles always come to the same.
            in_place = name == "gate" or recorder is None
            self._lanes[name] = Lane(engine, self._device, queue, recorder, in_place)

    def _queue(self) -> Queue:
        self._queues.append(self._device.queue())
        return self._queues[-1]

    # ------------------------------------------------------------ the Stream

    def load(self, tiles: Sequence[Pixels]) -> None:
        with self._working("copying frames"):
            size = self._shape[0] * self._shape[1]
            # Networks that were begun and never asked for may still read the batch that is overwritten now: nobody
            # will see what they give.
            if self._batch.size < len(tiles) * size:
                self._settle()
                for lane in self._lanes.values():
                    lane.moved()
                self._batch.need(len(tiles) * size)
            for number, tile in enumerate(self._readable(tiles)):
                self._device.upload(self._batch.address + number * size, tile, self._upload)
            self._upload.set(self._uploaded)
            self._count, self._begun = len(tiles), {}

    def gate(self) -> NDArray[np.float32]:
        return self._scores("gate", "score", range(self._count))

    def types(self, indices: Sequence[int]) -> NDArray[np.float32]:
        return self._scores("types", "scores", indices).reshape(len(indices), self._classes)

    def expect(self, wanted: Mapping[int, Sequence[int]]) -> None:
        for number, indices in wanted.items():
            if not indices:
                continue
            with self._working(f"network segment_{number}"):
                self._begin(number, list(indices))

    def segment(self, class_number: int, indices: Sequence[int]) -> Sequence[Patch]:
        wanted = list(indices)
        with self._working(f"network segment_{class_number}"):
            most = self._lanes[f"segment_{class_number}"].most
            if len(wanted) <= most:
                return self._patches(class_number, wanted)
            found = []
            for start in range(0, len(wanted), most):  # each part's patches are overwritten by the next
                part = self._patches(class_number, wanted[start : start + most])
                found += [Patch(patch.y, patch.x, patch.values.copy()) for patch in part]
            return found

    def blind(self, tiles: Sequence[Pixels], wanted: Mapping[str, Sequence[int]]) -> None:
        """Put networks into their queues for the tiles at these places of a new batch, and look at nothing they say.

        That is what the bare engines cost, which a line is measured against; `settle` waits for them.
        """
        self.load(tiles)
        for network, indices in wanted.items():
            lane = self._lanes[network]
            with self._working(f"network {network}"):
                lane.queue.wait(self._uploaded)
                for start in range(0, len(indices), lane.most):
                    lane.run(self._batch.address, indices[start : start + lane.most])

    def settle(self) -> None:
        """Wait until no queue holds anything."""
        with self._working("a network"):
            self._settle()

    def close(self) -> None:
        """Give back everything; the networks may still be at work. Safe to call twice, from any thread.

        Raises:
            EngineError: the GPU failed; what it would not take back goes with its context.
        """
        if self._closed:
            return
        self._closed = True
        with self._device.active(), ExitStack() as undo:  # all of it, even where the GPU has failed
            for queue in self._queues:
                undo.callback(queue.free)
            undo.callback(self._uploaded.free)
            undo.callback(self._batch.free)
            for buffer in (self._staging, *self._boxes.values()):
                undo.callback(buffer.free)
            for lane in self._lanes.values():
                undo.callback(lane.free)
            undo.callback(self._settle)

    # ------------------------------------------------------------ copying in

    def _readable(self, tiles: Sequence[Pixels]) -> list[Bytes]:
        """The tiles where the device reads them by itself: frames of the pool as they are, others copied there."""
        holds = self._frames.holds
        direct = [tile.flags.c_contiguous and holds(address_of(tile), tile.nbytes) for tile in tiles]
        if all(direct):
            return list(tiles)
        size = self._shape[0] * self._shape[1]
        if self._staging.memory.nbytes < len(tiles) * size:
            self._upload.synchronize()
            self._staging.need(len(tiles) * size)
        places = self._staging.memory[: len(tiles) * size].reshape(len(tiles), *self._shape)
        for tile, place, known in zip(tiles, places, direct, strict=True):
            if not known:
                np.copyto(place, tile)
        return [tile if known else place for tile, place, known in zip(tiles, places, direct, strict=True)]

    def _settle(self) -> None:
        for queue in self._queues:
            queue.synchronize()

    # ------------------------------------------------------------ networks that give scores

    def _scores(self, network: str, output: str, indices: Sequence[int]) -> NDArray[np.float32]:
        with self._working(f"network {network}"):
            lane = self._lanes[network]
            lane.queue.wait(self._uploaded)
            parts = []
            for start in range(0, len(indices), lane.most):
                part = indices[start : start + lane.most]
                lane.run(self._batch.address, part)
                scores = lane.fetch(output, len(part))
                lane.queue.synchronize()
                parts.append(scores.copy())
            return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    # ------------------------------------------------------------ segmenters

    def _begin(self, number: int, indices: list[int]) -> _Begun:
        """Put a segmenter into its queue, for as many tiles as it takes at once."""
        lane = self._lanes[f"segment_{number}"]
        part = indices[: lane.most]
        lane.queue.wait(self._uploaded)
        lane.run(self._batch.address, part)
        self._begun[number] = _Begun(lane, part, lane.fetch("extent", len(part)))
        return self._begun[number]

    def _patches(self, number: int, indices: list[int]) -> list[Patch]:
        if not indices:
            return []
        begun = self._begun.get(number)
        if begun is None or begun.indices != indices:
            begun = self._begin(number, indices)
        lane, (height, width) = begun.lane, self._shape
        lane.queue.synchronize()
        boxes = boxes_of(begun.extents, height, self._levels[number])
        sizes = [(bottom - top) * (right - left) for top, bottom, left, right in boxes]
        into = self._boxes[number]
        into.need(sum(sizes))
        found, place = [], 0
        for index, ((top, bottom, left, right), size) in enumerate(zip(boxes, sizes, strict=True)):
            values = into.memory[place : place + size].reshape(bottom - top, right - left)
            if size:
                source = lane.address("probability", index) + top * width + left
                self._device.download_box(values, source, width, lane.queue)
            found.append(Patch(top, left, values))
            place += size
        lane.queue.synchronize()
        return found

    @contextmanager
    def _working(self, what: str) -> Iterator[None]:
        if self._closed:
            raise EngineError(f"{what}: {self._title} was closed")
        try:
            with self._device.active():
                yield
        except EngineError as error:
            self._begun = {}
            raise EngineError(f"{what} failed in {self._title}: {error}") from error


@dataclass(slots=True)
class _Begun:
    """A segmenter at work."""

    lane: Lane
    indices: list[int]
    extents: NDArray[np.uint8]


def boxes_of(extents: NDArray[np.uint8], height: int, level: int) -> list[Box]:
    """For each tile the box that holds every pixel of `level` and more; empty boxes are (0, 0, 0, 0).

    Args:
        extents: uint8 [tiles, height + width], the highest probability of each row, then of each column.
        height: of the tile.
        level: 1..255.
    """
    reached = extents >= level
    return [
        (*top, *left) if (top := _span(row[:height])) and (left := _span(row[height:])) else (0, 0, 0, 0)
        for row in reached
    ]


def _span(line: NDArray[np.bool_]) -> tuple[int, int] | None:
    """From the first True to behind the last."""
    first = int(line.argmax())
    return (first, len(line) - int(line[::-1].argmax())) if line[first] else None


class _Buffer:
    """Device memory that grows when it must. Nothing of the old content is in use then."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memory: Memory | None = None

    @property
    def address(self) -> int:
        return self._memory.address if self._memory is not None else 0

    @property
    def size(self) -> int:
        return self._memory.size if self._memory is not None else 0

    def need(self, size: int) -> None:
        if self.size < size:
            self.free()
            self._memory = self._device.allocate(_grown(size))

    def free(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.free()


class _HostBuffer:
    """Page-locked host memory that grows when it must."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._locked: Locked | None = None
        self.memory: Bytes = pages(0)[:0]

    def need(self, size: int) -> None:
        if size <= self.memory.nbytes and self._locked is not None:
            return
        self.free()
        self.memory = pages(_grown(size))
        self._locked = self._device.lock(self.memory)

    def free(self) -> None:
        locked, self._locked = self._locked, None
        if locked is not None:
            locked.release()


def _grown(size: int) -> int:
    """A power of two, so that growing is rare."""
    return 1 << (max(4096, size) - 1).bit_length()
