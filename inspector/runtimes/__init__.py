"""The runtime seam. A runtime is one module here, named by `kind:`, with closed `Options` and one `open()`.

The seam is as wide as the cascade, not one network: a runtime holds a batch where its networks are (on a GPU the
frames travel once), and compaction between the stages is an index list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from inspector.records import Pixels


class Stream(Protocol):
    """One worker's way through the networks; not shared between threads."""

    def load(self, tiles: Sequence[Pixels]) -> None:
        """Make these tiles, uint8 [tile height, tile width] each, the current batch. They must stay unchanged."""

    def gate(self) -> NDArray[np.float32]:
        """Scores [tiles], 0..1, of the whole batch."""

    def types(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Scores [len(indices), classes], 0..1, of the tiles at `indices`."""

    def segment(self, class_number: int, indices: Sequence[int]) -> Sequence[NDArray[np.uint8]]:
        """Probabilities uint8 [tile height, tile width], one for each index. Valid until the next call."""


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

    def stream(self) -> Stream: ...
