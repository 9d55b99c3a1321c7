"""The form of a raw recording: what a camera delivered, bit-exact, so that it can be replayed as if live.

A recording is a folder:

    frames.raw       the pixels of all frames, uint8, row by row, one frame behind the other, nothing between
    frames.jsonl     one JSON object a line, the first of them the header; fields at their default are left out
                     {"kind": "recording", "version": 2, "camera": ..., "run": ..., "part": ..., "setup": ..., ...}
                     {"kind": "frame", "sequence": ..., "exposed_ns": ..., "offset": ..., "crc32": ..., ...}
                     {"kind": "loss", "sequence": ..., "count": ..., "reason": ..., "detail": ..., ...}
                     {"kind": "unrecorded", ...}  frames that the camera gave and the disk was too slow or full for
                     {"kind": "state", ...}       the camera went up or down
                     {"kind": "telegram", ...}    the plant told of a coil
                     {"kind": "stand", ...}       the strip stood
    flat-field.npz   the camera's flat-field, where it has one

A frame is as the camera gave it: before its flat-field and before lines of the frame before are put above it.
`offset` is its first byte in frames.raw and `crc32` the sum over its pixels. The pixels are written before their line,
so a recording whose writer was killed holds every frame it names. Recordings of one `run` and camera, in the order of
`part`, are one strip. Version 1 had frames and losses only, and neither `setup` nor a camera's own clock.

`taken_ns` says in which order the line took in the frames of all its cameras; of `inspector record`, which has no line,
it is left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from inspector.coils import Coil
from inspector.events import Reason

RAW, INDEX, FLAT_FIELD = "frames.raw", "frames.jsonl", "flat-field.npz"
FILES = (RAW, INDEX)
VERSION = 2
AtLeast0 = Annotated[int, Meta(ge=0)]
AtLeast1 = Annotated[int, Meta(ge=1)]


class Setup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a replay needs to give the events that the line gave; sections as they stand in its YAML."""

    line: str
    mm_per_count: float
    coil: str
    """The coil on the line when the daemon was started."""
    camera: dict[str, Any]
    """Without the options of the adapter: they may hold passwords, and a replay has no use for them."""
    sections: dict[str, dict[str, Any] | None] = {}
    """Those that change what is found, such as `edges` and `grading`."""
    pack: str = ""
    """Name and version, for messages."""
    pack_digest: str | None = None


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="recording", omit_defaults=True):
    """The first line of the index."""

    version: int
    camera: str
    run: str = ""
    part: AtLeast0 = 0
    setup: Setup | None = None
    first_coil: Coil | None = None
    """The coil on the line at start and where its head was taken to lie, once a frame had come."""
    coils: list[Coil] = []
    """Those that the plant told of, as known when this recording began."""
    flat_field: str | None = None
    """SHA-256 of flat-field.npz beside it."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="frame", omit_defaults=True):
    """A frame; the fields are those of records.Frame, and where its pixels are."""

    sequence: AtLeast0
    exposed_ns: int
    monotonic_ns: int
    encoder_count: int
    height: AtLeast1
    width: AtLeast1
    offset: AtLeast0
    crc32: int
    source: str | None
    piece: int
    camera_ns: int | None = None
    uncertainty_ns: int | None = None
    counts_per_line: float | None = None
    overlap_lines: AtLeast0 = 0
    after: Reason | None = None
    taken_ns: int | None = None

    @property
    def came_ns(self) -> int:
        """Its place among the frames of all cameras: when the line took it in, else when it arrived."""
        return self.monotonic_ns if self.taken_ns is None else self.taken_ns


class Lost(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="loss", omit_defaults=True):
    """Frames that the camera lost; the fields are those of records.Loss, and the host's clock."""

    sequence: AtLeast0
    count: AtLeast1
    reason: Reason
    detail: str
    source: str | None
    monotonic_ns: int = 0


class Unrecorded(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="unrecorded"):
    """Frames that the camera gave and that are not in the recording. The live line inspected them."""

    sequence: AtLeast0
    count: AtLeast1
    reason: Literal["slow", "disk"]
    """`slow`: the disk did not keep up; `disk`: it refused, as when it is full."""
    monotonic_ns: int


class Said(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="state"):
    """The camera was opened or died."""

    state: Literal["up", "down"]
    detail: str
    monotonic_ns: int


class Told(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="telegram"):
    """A telegram of the plant, and how far the line had come when it was in force."""

    ask: str
    coil: str
    encoder_count: int
    after: tuple[str, int] | None
    """Camera and sequence of the frame that was graded last; None: no frame yet."""
    graded: int | None
    """The encoder count that the strip was graded up to."""
    received_ns: int


class Stood(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="stand"):
    """The strip stood: what was open was told then. The fields are those of a telegram."""

    after: tuple[str, int] | None
    graded: int | None
    received_ns: int


Line = Header | Entry | Lost | Unrecorded | Said | Told | Stood
