"""What leaves the process: events and their parts, closed msgspec structs in the one JSON form of the stream.

`inspector/schema/` holds the JSON Schema made from this file. It needs msgspec only, so that a subscriber
(`inspector.client`) needs neither numpy nor the daemon.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

import msgspec

NO_COIL = "unknown"
"""The name of strip that belongs to no coil, or to one that nobody has named."""
NOT_TYPED = 0
"""The class number of a defect that the gate alone has seen: no class of a pack has it."""
NOT_TYPED_NAME = "unknown"


class Depth(StrEnum):
    """How deep frames were inspected. Closed: it labels metrics, and is a key in coil events."""

    FULL = "full"
    """By the whole cascade."""
    TYPES = "types"
    """By the gate and the types: the segmenters were left out."""
    GATE = "gate"
    """By the gate alone."""


class Reason(StrEnum):
    """Why a frame was lost. The list is closed: it labels metrics, ledger rows and gap events."""

    UNREADABLE = "unreadable"
    """A picture or record could not be decoded, or has a shape the line cannot use."""
    MISSING = "missing"
    """The camera's own count has a hole and the camera gave no better reason."""
    OVERRUN = "overrun"
    """The camera's own buffers ran over before the daemon read them."""
    PACKETS = "packets"
    """The frame came with holes: network packets were missing and were not sent again."""
    UNDERRUN = "underrun"
    """The driver had no free buffer when the frame came."""
    FAILED = "failed"
    """The driver or the camera called the frame's buffer bad."""
    TIMEOUT = "timeout"
    """The rest of a begun frame did not come in time."""
    RESET = "reset"
    """The camera began to count anew while it was open: it restarted, or its stream did."""
    OVERLOAD = "overload"
    """The line was behind and the oldest waiting frame was dropped."""
    CAMERA_DOWN = "camera_down"
    """The camera was dead while the strip ran on."""
    CRASH = "crash"
    """The daemon was killed with the frame in flight; booked by the next start."""
    ABORTED = "aborted"
    """A stage failed and the line came down with the frame in flight."""


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
    """A defect class of the pack; number 0, `unknown`: the gate fired, and the types were not asked."""

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
    """How sure the networks are, 0..1, and how large it is: the geometric mean of what types, segmenter and size say;
    of what was not segmented, of types and gate."""
    severity: str
    mask: Mask
    continues: bool
    """The defect was cut because it spans more frames than `grading.join_frames`; the next event goes on."""
    pack_digest: str
    exposed_within_ns: int | None = None
    """`exposed_ns` is right within so much either way: how well the camera's clock is known; None: nobody knows."""
    camera_ns: int | None = None
    """The exposure on the camera's own clock, ns since an epoch of its own; None: it has no clock."""
    segmented: bool = True
    """False: under overload the segmenters were left out. The defect lies somewhere in its box, its areas are those of
    the box, the most they can be, and its mask is empty."""


class Gap(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="gap"):
    """Strip that was not inspected. It names no pack, as none saw it."""

    camera: str
    frame_sequence: int
    frames: int
    reason: Reason
    detail: str
    source: str | None
    coil: str
    along_mm: Along


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """What was inspected, of all cameras together."""

    frames: int
    mm: float
    """Length of strip, the cameras' added up."""


class CoilEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="coil"):
    """A coil's head or tail end passed the cameras."""

    coil: str
    phase: Literal["start", "end"]
    encoder_count: int
    known_from: int | None = None
    """The plant told of this place late: what was seen before this encoder count was reported under the coil before.
    None: it was told in time."""
    inspected: dict[Depth, Inspected] | None = None
    """Of an end whose coil was not inspected in full depth everywhere: what was inspected how deep, as far as it was
    graded when this was told; None: all in full, but for gaps."""
    packs: tuple[str, ...] | None = None
    """Of an end: the digests of the packs that judged frames of the coil, in the order in which they first did, as far
    as it was graded in this run when this was told; None: nothing of it was inspected, or this is a start."""


class State(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="state"):
    """A part of the line changed its state."""

    part: str
    state: str
    detail: str
    about: str | None = None
    """What the state is about, where a part has several at once: of a camera its `view`, the `drift` of its frames, the
    `motion` of the strip under it, its `encoder`, or the `depth` that it is inspected in; of the line the `overload`;
    None: whether it is up."""
    pack_digest: str | None = None
    """Of the pack that judged the frames whose `drift` this is; None: of no pack."""


class CameraTotals(msgspec.Struct, frozen=True, kw_only=True):
    """The books of one camera in this run."""

    issued: int
    inspected: int
    lost: dict[str, int]


class JournalMark(msgspec.Struct, frozen=True, kw_only=True):
    """Where the journal stands. A cursor is the place of an event in it, growing over all topics and restarts."""

    id: str
    """Names the journal file; cursors of another mean nothing in it."""
    last: int
    """Cursor of the last event that is in the journal; 0: none yet."""
    retired: int
    """Events up to this cursor are no longer kept."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="heartbeat"):
    """Every second: the highest sequence of every topic, so that a subscriber can tell a hole from silence."""

    state: str
    coil: str
    high_water: dict[str, int]
    """Topic -> the last sequence given to it in this epoch."""
    cameras: dict[str, CameraTotals]
    undelivered: dict[str, int]
    """Sink -> events it did not take; they are in the journal."""
    journal: JournalMark | None = None
    """Events published before this heartbeat have cursors up to `last`, but while the journal cannot be written."""
    history: str | None = None
    """Address of the history socket as it is bound; None: there is none."""
    overload_step: int = 0
    """What is left out because the line is behind: 0 nothing, 1 nothing, but batches are wide, 2 the segmenters, 3 the
    types too, 4 whole frames too."""
    pack_digest: str | None = None
    """Of the pack on duty: it judges every batch that no worker has begun yet. None: from a version that does not say
    it."""


Data = Defect | Gap | CoilEvent | State | Heartbeat


class Event(msgspec.Struct, frozen=True, kw_only=True, dict=True):
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

    @cached_property
    def body(self) -> bytes:
        """The event as it is published: made once, for the journal and every sink. It is no field of the event."""
        return as_json(self)


def short_digest(digest: str) -> str:
    """A pack's digest as people see it everywhere."""
    return digest.removeprefix("sha256:")[:12]


_ENCODER = msgspec.json.Encoder()


def as_json(value: Any) -> bytes:
    """The one JSON form of a record: msgspec's, field order as declared."""
    return _ENCODER.encode(value)
