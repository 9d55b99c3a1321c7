"""What travels through the line, in the order of the walk: Frame, Batch, Verdict, Graded.

Plain slotted dataclasses: they hold pixels and never leave the process. What does leave it is in events.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from inspector.events import Data, Depth, Reason

Pixels = NDArray[np.uint8]
"""Grey pixels, uint8, [height along the strip, width across the strip]."""


class WhenFull(StrEnum):
    """What a full channel does with one more item."""

    WAIT = "wait"
    DROP_OLDEST = "drop_oldest"


# ---------------------------------------------------------------- from the camera


@dataclass(slots=True)
class Frame:
    """A block of consecutive lines.

    Attributes:
        camera: name of the camera in the YAML.
        sequence: 0-based number of the frame, the camera's own count unwrapped; a hole is a lost frame.
        exposed_ns: exposure of row 0, nanoseconds since the Unix epoch.
        monotonic_ns: the host's monotonic clock when the frame arrived.
        encoder_count: strip travel at row 0, in counts.
        pixels: uint8 [H, W], C-contiguous; valid until `release()`.
        source: file name when replayed, else None.
        piece: number of the separate piece of strip; frames of different pieces are never joined.
        camera_ns: row 0 on the camera's own clock, ns since an epoch of its own; None where it has none.
        uncertainty_ns: `exposed_ns` is right within so much, nanoseconds either way; None: nobody knows.
        counts_per_line: encoder counts in one line of this frame as the camera's encoder measured them (0: the strip
            stood, negative: it ran back); None: each line is one pitch of strip.
        overlap_lines: so many rows at the top are the last rows of the frame before.
        after: why strip just before this frame may be missing although its number follows; None: no reason.
        taken_ns: the host's monotonic clock when the line took it in; frames of all cameras are graded in this order.
            None: no line has.
    """

    camera: str
    sequence: int
    exposed_ns: int
    monotonic_ns: int
    encoder_count: int
    pixels: Pixels
    source: str | None = None
    piece: int = 0
    camera_ns: int | None = None
    uncertainty_ns: int | None = None
    counts_per_line: float | None = None
    overlap_lines: int = 0
    after: Reason | None = None
    taken_ns: int | None = None
    on_release: Callable[[], None] | None = None

    def release(self) -> None:
        """Give the pool slot back. The pixels must not be touched afterwards. Safe to call twice."""
        give_back, self.on_release = self.on_release, None
        if give_back is not None:
            give_back()


@dataclass(slots=True, frozen=True)
class Loss:
    """Frames that a camera issued and could not deliver: `count` of them, from `sequence` on."""

    camera: str
    sequence: int
    count: int
    reason: Reason
    detail: str = ""
    source: str | None = None


# ---------------------------------------------------------------- through the cascade


@dataclass(slots=True, frozen=True)
class Roi:
    """The columns [left, right) of a frame that are strip; what is beyond them is never a defect."""

    left: int
    right: int

    @property
    def width(self) -> int:
        return max(0, self.right - self.left)


Sight = tuple[str, str]
"""(state, detail): how well a camera sees has changed."""


@dataclass(slots=True)
class Tile:
    """A piece of a frame in the size that the networks take.

    `pixels` is uint8 [tile_height, tile_width], C-contiguous; the frame's pixel (row, column) stands at
    (row - y, column - x). Where the frame is smaller than the tile the rest is black.
    """

    frame: int
    y: int
    x: int
    pixels: Pixels


@dataclass(slots=True)
class Batch:
    """Frames that go through the cascade together.

    `number` counts batches from 0 and puts verdicts back in order; `tiles[i].frame` indexes `frames`, and so do the
    keys of `sights`, which has the few frames at which the camera's view changed.
    """

    number: int
    frames: list[Frame]
    rois: list[Roi]
    tiles: list[Tile]
    sights: dict[int, list[Sight]] = field(default_factory=dict)


def sized(score: float, area_px: int, ample_px: int) -> float:
    """A region's score with its size, of which it takes the third part: small ones are more often false. At `ample_px`
    its size makes it half sure; 0: its size is nobody's business."""
    return score * (area_px / (area_px + ample_px)) ** (1 / 3) if ample_px else score


@dataclass(slots=True)
class Region:
    """One connected component of one class in one frame.

    `mask` is bool [height, width] of the box; box coordinates are frame pixels, `score` is 0..1. A region with less
    than `needed_px`, or whose surest pixel (`peak`, 0..255) is below `needed_peak`, is only kept while it may go on in
    a neighbouring frame. A `coarse` one was not segmented: the defect lies somewhere in it, and its mask is all of it.
    The score has the size in it only when the defect is whole (see `sized`).
    """

    class_number: int
    x: int
    y: int
    mask: NDArray[np.bool_]
    area_px: int
    score: float
    needed_px: int = 0
    coarse: bool = False
    peak: int = 255
    needed_peak: int = 0
    ample_px: int = 0

    @property
    def reported(self) -> bool:
        """Whether it is enough by itself, whatever the neighbouring frames show."""
        return self.area_px >= self.needed_px and self.peak >= self.needed_peak

    @property
    def width(self) -> int:
        return int(self.mask.shape[1])

    @property
    def height(self) -> int:
        return int(self.mask.shape[0])


@dataclass(slots=True)
class Verdict:
    """What the cascade says of one frame; clean frames have one too. `depth`: how much of the cascade was there for
    it, whether it came to that or not."""

    frame: Frame
    roi: Roi
    gate_score: float
    regions: list[Region] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    pack_digest: str = ""
    """Of the pack that judged it."""
    passed: bool | None = None
    """Whether the gate let it through; None: it was not asked, as nothing of the frame is strip."""
    depth: Depth = Depth.FULL
    drifts: list[Sight] = field(default_factory=list)
    """The same of how far its camera's frames are from what they were."""


@dataclass(slots=True)
class Verdicts:
    """The verdicts of one batch, in the order of its frames."""

    number: int
    verdicts: list[Verdict]


# ---------------------------------------------------------------- to the journal and the world


@dataclass(slots=True)
class Settled:
    """The fate of frames [first, last] of a camera: inspected (`reason` None) or lost."""

    camera: str
    first: int
    last: int
    reason: Reason | None
    end_count: int
    """Encoder count just behind the last of these frames, as far as known."""
    length_mm: float = 0.0
    """Strip that these frames show, for inspected ones."""
    width_px: int = 0
    """Width of the widest of them."""
    depth: Depth = Depth.FULL
    """How deep they were inspected, all alike."""
    source: str | None = None
    """Of lost ones: the file that they were in, when replayed."""


@dataclass(slots=True)
class Draft:
    """An event before it has an identity: what it says, its topic, and the picture that shows it."""

    topic: str
    time_ns: int
    data: Data
    thumbnail: Pixels | None = None


@dataclass(slots=True, frozen=True)
class Shown:
    """Where a named picture lies, millimetres from the coil's head end."""

    source: str
    start_mm: float
    end_mm: float


@dataclass(slots=True)
class Graded:
    """What grading hands to the journal in one piece: fates and events become durable together."""

    settled: list[Settled] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    """The replayed pictures among them."""
    born: list[tuple[str, int]] = field(default_factory=list)
    """(camera, when its life began, ns) of the frames settled here, for the age metric."""

    def __bool__(self) -> bool:
        return bool(self.settled or self.drafts or self.shown)
