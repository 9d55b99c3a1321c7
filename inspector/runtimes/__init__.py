"""The runtime seam. A runtime is one module here, named by `kind:`, with closed `Options` and one `open()`.

The seam is as wide as the cascade, not one network: a runtime holds a batch where its networks are (on a GPU the
frames travel once), and compaction between the stages is an index list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from inspector.records import Pixels


@dataclass(frozen=True, slots=True)
class Patch:
    """What a segmenter says of a tile, at least where its probability reaches the manifest's threshold.

    Attributes:
        y, x: the tile's pixel at which `values` begin.
        values: probabilities uint8 [h, w], 255 = certain; h or w is 0 where no pixel of the tile reaches the threshold.
            Whatever lies beyond them is below it.
    """

    y: int
    x: int
    values: NDArray[np.uint8]

    def on(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The map of a whole tile [height, width]; 0 where nothing was said."""
        if self.values.shape == shape:
            return self.values
        canvas = np.zeros(shape, dtype=np.uint8)
        canvas[self.y : self.y + self.values.shape[0], self.x : self.x + self.values.shape[1]] = self.values
        return canvas


class Stream(Protocol):
    """One worker's way through the networks; not shared between threads."""

    def load(self, tiles: Sequence[Pixels]) -> None:
        """Make these tiles, uint8 [tile height, tile width] each, the current batch. They must stay unchanged."""

    def gate(self) -> NDArray[np.float32]:
        """Scores [tiles], 0..1, of the whole batch."""

    def types(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Scores [len(indices), classes], 0..1, of the tiles at `indices`."""

    def expect(self, wanted: Mapping[int, Sequence[int]]) -> None:
        """These tiles will be asked of the segmenters of these classes: a device begins with all of them at once."""

    def segment(self, class_number: int, indices: Sequence[int]) -> Sequence[Patch]:
        """What the segmenter of a class says of the tiles at `indices`. Valid until the next call."""


class Runtime(Protocol):
    """The networks of one pack on one device. Loaded and warm on enter.

    All calls raise EngineError when a network fails.
    """

    name: str
    """What runs the networks, for people: `onnxruntime 1.32 CPU`."""
    precisions: Mapping[str, str]
    """Network -> what it computes in: float32, float16 or int8."""
    workers: int
    """How many streams pay off side by side."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def allocate(self, size: int) -> NDArray[np.uint8]:
        """Memory for frames, uint8 [at least `size`], from which they reach the networks without another copy.

        It outlives the runtime. May be called before enter and from any thread.
        """

    def stream(self) -> Stream: ...
