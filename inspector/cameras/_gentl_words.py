"""What a camera's process and the daemon say to each other: records of fixed size, and texts in JSON."""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

import msgspec

MAGIC = 0x47_45_4E_54
UNKNOWN = -1


class Kind(IntEnum):
    """What a record is about."""

    READY = 1
    """The camera is open and streams; the notice is a `Ready`."""
    ERROR = 2
    """It is over; the notice says why."""
    FRAME = 3
    """`slot` holds a frame; it belongs to the reader until it gives it back."""
    BAD = 4
    """A buffer came that cannot be used; it holds no slot."""


class Record(NamedTuple):
    """One message of the camera's process. UNKNOWN stands for what the producer does not tell."""

    kind: int
    slot: int = 0
    settled: int = 0
    """1: nothing waited in the producer when `underruns` was read."""
    frame_id: int = UNKNOWN
    camera_ns: int = UNKNOWN
    arrived_ns: int = 0
    """Host's monotonic clock when the producer handed the buffer over."""
    arrived_unix_ns: int = 0
    has_chunk: int = 0
    chunk: int = 0
    height: int = 0
    width: int = 0
    pitch: int = 0
    """Bytes from one row to the next."""
    offset: int = 0
    """Of the first pixel in the slot."""
    dropped: int = 0
    """Frames so far that came while the reader held all it may hold."""
    underruns: int = 0
    """Frames so far that the producer says it had no buffer for."""


class Nonsense(Exception):
    """What came is no record."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon wants of the process."""

    producers: list[str]
    """Paths of .cti files."""
    discover_ms: int | None = None
    """List the devices and end, with this much time for each interface; None: open one and stream."""
    device: str | None = None
    buffers: int = 16
    grabber: dict[str, dict[str, bool | int | float | str]] = {}
    """Features of the modules on this side: interface, device, stream."""
    features: list[tuple[str, list[str], bool | int | float | str]] = []
    """Features of the camera, as `_genicam.features` gives them."""
    chunk: str | None = None


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What the process says of the camera it opened."""

    title: str
    link: str
    """GenTL's name of the technology: GEV, U3V, CXP, CL, CLHS, Custom, ..."""
    width: int
    height: int
    slots: int
    size: int
    """Bytes in a slot."""
    triggered: bool
    """A trigger of the camera is on, so it may be silent while the strip stands."""
    id_bits: int
    line_rate_hz: float | None = None
    frame_rate_hz: float | None = None


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A device that a producer shows."""

    id: str
    serial: str = ""
    user_name: str = ""
    vendor: str = ""
    model: str = ""
    interface: str = ""
    free: bool = True

    @property
    def names(self) -> list[str]:
        return [name for name in (self.serial, self.user_name, self.id) if name]


_BODY = struct.Struct("=IHHBxxxqqqqBxxxQIIIIQQ")
_SUM = struct.Struct("=I")
RECORD_BYTES = _BODY.size + _SUM.size


def packed(record: Record) -> bytes:
    """RECORD_BYTES of it, with a check sum."""
    kind, slot, settled, frame_id, camera_ns, arrived, unix, has_chunk, chunk, *rest = record
    body = _BODY.pack(
        MAGIC, kind, slot, settled, frame_id, camera_ns, arrived, unix, has_chunk, chunk % (1 << 64), *rest
    )
    return body + _SUM.pack(zlib.crc32(body))


def unpacked(data: bytes) -> Record:
    """What `packed` made.

    Raises:
        Nonsense: it is no record.
    """
    body = data[: _BODY.size]
    if len(data) != RECORD_BYTES or zlib.crc32(body) != _SUM.unpack_from(data, _BODY.size)[0]:
        raise Nonsense
    magic, *fields = _BODY.unpack(body)
    if magic != MAGIC:
        raise Nonsense
    return Record(*fields)
