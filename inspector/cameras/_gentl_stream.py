"""The image stream of an open GenTL device, over buffers in the shared memory. Only the camera's process imports it."""

from __future__ import annotations

import ctypes
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from genicam import genapi, gentl

from inspector.cameras._gentl_devices import VENDORS, Opened, told, words
from inspector.cameras._gentl_features import Trouble, triggered, value
from inspector.cameras._gentl_ring import Writer
from inspector.cameras._gentl_words import UNKNOWN, Kind, Ready, Record, Request

MONO8 = 0x0108_0001
"""GenICam PFNC."""
SPARE = 4
"""Buffers that stay with the producer when the daemon holds all it may: the loss is here, where it is counted."""
MOST = (1 << 63) - 1
CHUNKS = {"GEV": genapi.ChunkAdapterGEV, "U3V": genapi.ChunkAdapterU3V}


def borrowed(address: int, size: int) -> Any:
    """A bytes object whose contents are the `size` bytes of memory at `address`.

    genicam takes nothing but bytes objects for buffers, and lets the driver write into them. One of our own making
    puts the driver's buffers into the shared memory, and saves a copy of each frame. Its head, which CPython keeps
    just before the contents, is copied from a real one of the same size; it is referred to once too often, so it is
    never freed.
    """
    head = bytes.__basicsize__ - 1  # the contents' last byte, the closing 0, is counted in
    like = bytes(size)
    ctypes.memmove(address - head, id(like), head)
    buffer = ctypes.cast(address - head, ctypes.py_object).value
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(buffer))
    return buffer


class Stream:
    """Buffers go to the producer with `queue` and come back, filled, with `next`; on exit it has none any more.

    Raises:
        Trouble: the camera's format is not ours, or it does not start.
    """

    def __init__(self, opened: Opened, request: Request, writer: Writer) -> None:
        self._opened = opened
        self._nodes = opened.node_map
        self._source = opened.stream
        self._chunk = request.chunk
        self._chunks: Any = None
        self._checked = False
        self._width, self._height = _size(self._nodes)
        size = int(self._source.payload_size if self._source.defines_payload_size() else self._nodes.PayloadSize.value)
        slots = request.buffers + max(SPARE, told(self._source, "buffer_announce_min") or 0)
        writer.grow(slots, size, request.buffers)
        self._events = gentl.EventManagerNewBuffer(self._source.register_event(gentl.EVENT_TYPE_LIST.EVENT_NEW_BUFFER))
        self._buffers = [self._announced(writer, slot, size) for slot in range(slots)]
        for slot in range(slots):
            self.queue(slot)
        self.ready = self._ready(slots, size)
        self._start()

    def _announced(self, writer: Writer, slot: int, size: int) -> Any:
        return self._source.announce_buffer(gentl.BufferToken(borrowed(writer.address(slot), size), slot))

    def _ready(self, slots: int, size: int) -> Ready:
        nodes, link = self._nodes, self._opened.link
        short = link == "GEV" and value(nodes, "GevGVSPExtendedIDMode") != "On"
        return Ready(
            title=self._opened.title,
            link=link,
            width=self._width,
            height=self._height,
            slots=slots,
            size=size,
            triggered=triggered(nodes),
            id_bits=16 if short else 64,
            line_rate_hz=value(nodes, "AcquisitionLineRate", "AcquisitionLineRateAbs"),
            frame_rate_hz=value(nodes, "ResultingFrameRate", "AcquisitionResultingFrameRate", "AcquisitionFrameRate"),
        )

    def _start(self) -> None:
        if self._chunk is not None:
            adapter = CHUNKS.get(self._opened.link, genapi.ChunkAdapterGeneric)
            self._chunks = adapter(self._nodes)
        self._lock(1)
        self._source.start_acquisition(gentl.ACQ_START_FLAGS_LIST.ACQ_START_FLAGS_DEFAULT, -1)
        self._nodes.AcquisitionStart.execute()

    def _lock(self, locked: int) -> None:
        with suppress(genapi.GenericException, AttributeError):  # older than SFNC 2.0
            self._nodes.TLParamsLocked.value = locked

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(*VENDORS):  # a camera that is gone cannot be told to stop, but the producer can
            self._nodes.AcquisitionStop.execute()
            self._lock(0)
        with suppress(*VENDORS):
            self._source.stop_acquisition(gentl.ACQ_STOP_FLAGS_LIST.ACQ_STOP_FLAGS_KILL)
            self._source.flush_buffer_queue(gentl.ACQ_QUEUE_TYPE_LIST.ACQ_QUEUE_ALL_DISCARD)
            for buffer in self._buffers:
                self._source.revoke_buffer(buffer)

    def queue(self, slot: int) -> None:
        """The producer may fill it again."""
        self._source.queue_buffer(self._buffers[slot])

    def next(self, wait_ms: int) -> Record | None:
        """What the producer filled next, or None if it filled nothing for so long."""
        try:
            self._events.update_event_data(wait_ms)
        except gentl.TimeoutException:
            return None
        now_ns, unix_ns = time.monotonic_ns(), time.time_ns()
        buffer = self._events.buffer
        underruns = told(self._source, "num_underrun") or 0
        settled = told(self._source, "num_awaiting_delivery") == 0  # after the underruns, or it would prove nothing
        frame_id = told(buffer, "frame_id")
        bad = Record(
            Kind.BAD,
            slot=buffer.context,
            settled=settled,
            frame_id=UNKNOWN if frame_id is None else frame_id & MOST,
            arrived_ns=now_ns,
            arrived_unix_ns=unix_ns,
            underruns=underruns,
        )
        return self._described(buffer, bad) if _whole(buffer) else bad

    def _described(self, buffer: Any, bad: Record) -> Record:
        width, height, padding, offset = self._place(buffer)
        if width <= 0 or height <= 0:
            return bad
        self._check(buffer)
        chunk = self._chunk_value(buffer)
        return bad._replace(
            kind=Kind.FRAME,
            camera_ns=self._camera_ns(buffer),
            has_chunk=chunk is not None,
            chunk=chunk or 0,
            height=height,
            width=width,
            pitch=width + padding,
            offset=offset,
        )

    def _place(self, buffer: Any) -> tuple[int, int, int, int]:
        """Width, height, bytes behind each row, and where the first pixel is."""
        if told(buffer, "payload_type") == gentl.PAYLOADTYPE_INFO_IDS.PAYLOAD_TYPE_MULTI_PART:
            for part in buffer.parts:
                if told(part, "data_type") == gentl.PART_DATATYPE_IDS.PART_DATATYPE_2D_IMAGE:
                    return part.width, part.height, told(part, "padding_x") or 0, told(part, "data_offset") or 0
            return 0, 0, 0, 0
        width = told(buffer, "width") or self._width
        # A frame that a trigger ended early is lower than its buffer.
        height = told(buffer, "delivered_image_height") or told(buffer, "height") or self._height
        return width, height, told(buffer, "padding_x") or 0, told(buffer, "image_offset") or 0

    def _check(self, buffer: Any) -> None:
        if not self._checked:
            self._checked = True
            pixel_format = told(buffer, "pixel_format")
            if value(self._nodes, "PixelFormat") is None and pixel_format not in (None, 0, MONO8):
                raise Trouble(f"the camera's pixel format is {pixel_format:#010x}, and only Mono8 can be inspected")

    def _camera_ns(self, buffer: Any) -> int:
        stamp = told(buffer, "timestamp_ns")
        if stamp is None:
            ticks, rate_hz = told(buffer, "timestamp"), told(self._opened.device, "timestamp_frequency")
            stamp = ticks * 1_000_000_000 // rate_hz if ticks and rate_hz else None
        return UNKNOWN if not stamp else stamp & MOST

    def _chunk_value(self, buffer: Any) -> int | None:
        if self._chunks is None:
            return None
        try:
            if self._opened.link in CHUNKS:
                self._chunks.attach_buffer(buffer.raw_buffer, told(buffer, "size_filled") or buffer.size)
            else:
                self._chunks.attach_buffer(buffer.raw_buffer, buffer.chunk_data_info_list)
            found = value(self._nodes, self._chunk or "")
            return None if found is None else int(found)
        except VENDORS:
            return None

    def answers(self) -> None:
        """Ask the camera something that no cache knows.

        Raises:
            Trouble: no answer.
        """
        try:
            self._nodes.Width.get_value(False, True)
        except VENDORS as error:
            raise Trouble(f"the camera does not answer: {words(error)}. Look at power and cable") from None


def _size(nodes: Any) -> tuple[int, int]:
    """Width and height of a frame of 8-bit grey pixels.

    Raises:
        Trouble: the camera gives other pixels.
    """
    pixel_format = value(nodes, "PixelFormat")
    if pixel_format not in (None, "Mono8"):
        raise Trouble(
            f"the camera's PixelFormat is {pixel_format}, and only Mono8 can be inspected; "
            f"set `features: {{PixelFormat: Mono8}}`, it knows {', '.join(nodes.PixelFormat.symbolics)}"
        )
    width, height = value(nodes, "Width"), value(nodes, "Height")
    if not width or not height:
        raise Trouble("the camera does not tell its Width and Height")
    return int(width), int(height)


def _whole(buffer: Any) -> bool:
    try:
        return bool(buffer.is_complete())
    except (gentl.GenericException, RuntimeError):
        return False
