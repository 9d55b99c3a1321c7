"""A camera's stream through Aravis: buffers of our own memory, handed round between the driver and us.

A stream must be closed before the memory of its buffers goes, and before its device.
"""

from __future__ import annotations

import time
from ctypes import byref, c_size_t
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from inspector.cameras._aravis import Device, Refused, call, lib, text, unref_later

NO_ID = 2**64 - 1
"""The frame id of a buffer into which the driver wrote none: the packet that says it (the leader) was lost."""
_LATEST_NS = 60_000_000_000
"""No frame waits longer than this for its reader; if it seems so, the host's clock was set meanwhile."""


_SETTLE_US = 30_000


class Status(IntEnum):
    """ArvBufferStatus."""

    SUCCESS = 0
    CLEARED = 1
    TIMEOUT = 2
    MISSING_PACKETS = 3
    WRONG_PACKET_ID = 4
    SIZE_MISMATCH = 5
    FILLING = 6
    ABORTED = 7
    PAYLOAD_NOT_SUPPORTED = 8


@dataclass(slots=True)
class Popped:
    """A buffer that came from the driver, with what the driver says of it. Times are nanoseconds."""

    handle: int
    status: int
    frame_id: int
    """NO_ID: not known."""
    size: int
    """Bytes that came; only true of a success."""
    timestamp_ns: int
    """On the camera's clock."""
    system_ns: int
    """On the host's, Unix time, to the microsecond: when the first packet (leader) came; 0: not known."""
    monotonic_ns: int
    unix_ns: int
    """The host's two clocks when it was popped."""

    @property
    def has_camera_time(self) -> bool:
        """Where the camera sends no time the driver gives the host's."""
        return self.timestamp_ns not in (0, self.system_ns)

    def time_ns(self) -> int:
        """On the camera's clock; else on the host's monotonic one: when its first packet came, or else when popped."""
        if self.has_camera_time:
            return self.timestamp_ns
        late = self.unix_ns - self.system_ns
        return self.monotonic_ns - (late if 0 < late < _LATEST_NS else 0)


class Stream:
    """A camera's images in `count` buffers of `size` bytes, which are the rows of `memory`.

    Args:
        device: it must outlive the stream.
        memory: uint8 [buffers, bytes], C-contiguous; the driver writes to it until `close`.
        settings: properties of the stream, e.g. "packet-timeout": 20000.
    """

    def __init__(self, device: Device, memory: NDArray[np.uint8], settings: dict[str, int]) -> None:
        self.handle: int | None = call("arv_device_create_stream", device.handle, None, None)
        if not self.handle:
            raise Refused("the stream could not be made")
        for name, value in settings.items():
            lib.g_object_set(self.handle, name.encode(), value, None)
        self._memory = memory
        self._size = c_size_t()
        self._infos = {
            text(lib.arv_stream_get_info_name(self.handle, n)): n
            for n in range(lib.arv_stream_get_n_infos(self.handle))
        }
        self._from: dict[str, int] = {}
        self.rows: dict[int, int] = {}
        """Buffer -> its row in the memory."""

    def pop(self, timeout_s: float) -> Popped | None:
        """The next buffer, good or bad; None when none came in time. It must be pushed back."""
        buffer = lib.arv_stream_timeout_pop_buffer(self.handle, max(0, int(timeout_s * 1e6)))
        if not buffer:
            return None
        lib.arv_buffer_get_data(buffer, byref(self._size))
        return Popped(
            buffer,
            lib.arv_buffer_get_status(buffer),
            lib.arv_buffer_get_frame_id(buffer),
            self._size.value,
            lib.arv_buffer_get_timestamp(buffer),
            lib.arv_buffer_get_system_timestamp(buffer),
            time.monotonic_ns(),
            time.time_ns(),
        )

    def push(self, buffer: int) -> None:
        """Give a buffer (back) to the driver. It writes the id with a frame's first packet only: unset it before."""
        lib.arv_buffer_set_frame_id(buffer, NO_ID)
        lib.arv_stream_push_buffer(self.handle, buffer)

    def image_at(self, buffer: int) -> int:
        """Where in the buffer the image begins, bytes."""
        first = lib.arv_buffer_get_image_data(buffer, byref(self._size))
        return int(first) - int(self._memory[self.rows[buffer]].ctypes.data) if first else 0

    def count(self, name: str) -> int:
        """One of the driver's counters, such as n_underruns, since `begin`; 0 where this kind of stream has it not."""
        number = self._infos.get(name)
        if number is None:
            return 0
        return int(lib.arv_stream_get_info_uint64(self.handle, number)) - self._from.get(name, 0)

    def strangers(self) -> int:
        """How many packets of others came in before the camera was started.

        A packet socket sees the whole network card until its filter is set. What it saw is in a block of the ring that
        the kernel hands over 5 ms later; if there were buffers by then it would be taken for frames of this camera.
        """
        lib.arv_stream_timeout_pop_buffer(self.handle, _SETTLE_US)
        return self.count("n_received_packets")

    def begin(self) -> None:
        """The camera starts now: the driver gets the buffers, and counts from here."""
        for row in range(len(self._memory)):
            buffer = lib.arv_buffer_new(self._memory.shape[1], self._memory[row].ctypes.data)
            self.rows[buffer] = row
            self.push(buffer)
        self._from = {name: self.count(name) for name in self._infos}

    def close(self) -> None:
        """Stop the driver's thread and let the buffers go. No buffer may be outside."""
        handle, self.handle = self.handle, None
        if handle is not None:
            lib.g_object_unref(handle)

    def abandon(self) -> None:
        """As `close`, for the stream of a dead camera: only the thread that writes to the buffers is waited for."""
        handle, self.handle = self.handle, None
        if handle is not None:
            lib.arv_stream_stop_thread(handle, True)  # and lets go of the buffers
            lib.arv_stream_start_thread(handle)  # the library complains if it cannot stop it itself
            unref_later(handle)


class ChunkParser:
    """Reads the values that a camera sends behind the pixels."""

    def __init__(self, device: Device) -> None:
        self.handle: int | None = lib.arv_device_create_chunk_parser(device.handle)

    def integer(self, buffer: int, chunk: str) -> int:
        """The value of a chunk, by its feature name.

        Raises:
            Refused: the buffer has no such chunk.
        """
        return int(call("arv_chunk_parser_get_integer_value", self.handle, buffer, chunk.encode()))

    def close(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            lib.g_object_unref(handle)
