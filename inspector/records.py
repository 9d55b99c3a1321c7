"""What travels through the line, in the order of the walk: Frame, Batch, Verdict, Event.

Records of pixels are plain slotted dataclasses; what leaves the process (events and their parts) is a closed
msgspec struct, and `inspector/schema/` holds the JSON Schema made from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Grey pixels, uint8, [height along the strip, width across the strip]."""


class WhenFull(StrEnum):
    """What a full channel does with one more item."""

    WAIT = "wait"
    DROP_OLDEST = "drop_oldest"


# ---------------------------------------------------------------- from the camera


class Reason(StrEnum):
    """Why a frame was lost. The list is closed: it labels metrics, ledger rows and gap events."""

    UNREADABLE = "unreadable"
    """A picture or record could not be decoded, or has a shape the line cannot use."""
    MISSING = "missing"
    """The camera's own count has a hole and the camera gave no better reason."""
    OVERRUN = "overrun"
    """The camera's own buffers ran over before the daemon read them."""
    OVERLOAD = "overload"
    """The line was behind and the oldest waiting frame was dropped."""
    CAMERA_DOWN = "camera_down"
    """The camera was dead while the strip ran on."""
    CRASH = "crash"
    """The daemon was killed with the frame in flight; booked by the next start."""
    ABORTED = "aborted"
    """A stage failed and the line came down with the frame in flight."""


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
    """

    camera: str
    sequence: int
    exposed_ns: int
    monotonic_ns: int
    encoder_count: int
    pixels: Pixels
    source: str | None = None
    piece: int = 0
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

    `number` counts batches from 0 and puts verdicts back in order; `tiles[i].frame` indexes `frames`.
    """

    number: int
    frames: list[Frame]
    rois: list[Roi]
    tiles: list[Tile]


@dataclass(slots=True)
class Region:
    """One connected component of one class in one frame.

    `mask` is bool [height, width] of the box; box coordinates are frame pixels, `score` is 0..1. A region with less
    than `needed_px` is only kept while it may go on in a neighbouring frame.
    """

    class_number: int
    x: int
    y: int
    mask: NDArray[np.bool_]
    area_px: int
    score: float
    needed_px: int = 0

    @property
    def width(self) -> int:
        return int(self.mask.shape[1])

    @property
    def height(self) -> int:
        return int(self.mask.shape[0])


@dataclass(slots=True)
class Verdict:
    """What the cascade says of one frame; clean frames have one too."""

    frame: Frame
    roi: Roi
    gate_score: float
    regions: list[Region] = field(default_factory=list)


@dataclass(slots=True)
class Verdicts:
    """The verdicts of one batch, in the order of its frames."""

    number: int
    verdicts: list[Verdict]


# ---------------------------------------------------------------- to the journal and the world


class Along(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of strip, millimetres from the coil's head end."""

    start: float
    end: float


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """The middle of a defect's box: `along` from the coil's head end, `across` from the line's reference edge."""

    along: float
    across: float


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """Extent of a defect's box in millimetres."""

    along: float
    across: float


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """A box in frame pixels; `y` may run past the frame's height when a defect goes on into following frames."""

    x: int
    y: int
    width: int
    height: int


class DefectClass(msgspec.Struct, frozen=True, kw_only=True):
    """A defect class of the pack."""

    number: int
    name: str


class Mask(msgspec.Struct, frozen=True, kw_only=True):
    """Run lengths over `size` = [height, width] px: column-major, 1-based, "start length ..." (see rle.py).

    A defect that crosses frames has a mask of all its frames, stacked along the strip under the first one.
    """

    size: tuple[int, int]
    rle: str


class Defect(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="defect"):
    """One defect on one coil."""

    camera: str
    frame_sequence: int
    frames: int
    """How many frames the defect spans, from `frame_sequence` on."""
    source: str | None
    exposed_ns: int
    exposed_time: str
    """RFC 3339 of `exposed_ns`, UTC."""
    coil: str
    position_mm: Position
    size_mm: Size
    bbox_px: Box
    area_px: int
    area_mm2: float
    defect_class: DefectClass
    score: float
    severity: str
    mask: Mask
    continues: bool
    """The defect was cut because it spans more frames than `grading.join_frames`; the next event goes on."""
    pack_digest: str


class Gap(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="gap"):
    """Strip that was not inspected."""

    camera: str
    frame_sequence: int
    frames: int
    reason: Reason
    detail: str
    source: str | None
    coil: str
    along_mm: Along


class CoilEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="coil"):
    """A coil's head or tail end passed the cameras."""

    coil: str
    phase: Literal["start", "end"]
    encoder_count: int


class State(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="state"):
    """A part of the line changed its state."""

    part: str
    state: str
    detail: str


class CameraTotals(msgspec.Struct, frozen=True, kw_only=True):
    """The books of one camera in this run."""

    issued: int
    inspected: int
    lost: dict[str, int]


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="heartbeat"):
    """Every second: the highest sequence of every topic, so that a subscriber can tell a hole from silence."""

    state: str
    coil: str
    high_water: dict[str, int]
    """Topic -> the last sequence given to it in this epoch."""
    cameras: dict[str, CameraTotals]
    undelivered: dict[str, int]
    """Sink -> events it did not take; they are in the journal."""


Data = Defect | Gap | CoilEvent | State | Heartbeat


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The CloudEvents 1.0 envelope; `source` + `id` is the key for removing duplicates."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    time: str
    subject: str
    """The topic: prefix-matchable, ends in '/'."""
    dataschema: str
    datacontenttype: Literal["application/json"] = "application/json"
    epoch: int
    """Boot number of the daemon: never used again."""
    sequence: int
    """Contiguous from 1 in each topic of an epoch."""
    data: Data


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


def as_json(value: Any) -> bytes:
    """The one JSON form of a record: msgspec's, field order as declared."""
    return msgspec.json.encode(value)
