"""The bare loop that the gige camera is measured against: pop a buffer, copy it once, push it back; nothing else."""

from __future__ import annotations

import ctypes
import time
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, NamedTuple

import numpy as np

_lib: Any = ctypes.CDLL("libaravis-0.8.so.0")
_gobject: Any = ctypes.CDLL("libgobject-2.0.so.0")


class _Error(ctypes.Structure):
    _fields_ = (("domain", ctypes.c_uint32), ("code", c_int), ("message", c_char_p))


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_lib, f"arv_{name}")
    function.restype, function.argtypes = result, arguments
    return function


_P, _ERR = c_void_p, POINTER(POINTER(_Error))
_camera_new = _declare("camera_new", _P, c_char_p, _ERR)
_set_region = _declare("camera_set_region", None, _P, c_int, c_int, c_int, c_int, _ERR)
_set_frame_rate = _declare("camera_set_frame_rate", None, _P, c_double, _ERR)
_set_packet_size = _declare("camera_gv_set_packet_size", None, _P, c_int, _ERR)
_get_payload = _declare("camera_get_payload", c_uint, _P, _ERR)
_create_stream = _declare("camera_create_stream", _P, _P, _P, _P, _ERR)
_start = _declare("camera_start_acquisition", None, _P, _ERR)
_stop = _declare("camera_stop_acquisition", None, _P, _ERR)
_buffer_new = _declare("buffer_new", _P, c_size_t, _P)
_status = _declare("buffer_get_status", c_int, _P)
_push = _declare("stream_push_buffer", None, _P, _P)
_pop = _declare("stream_timeout_pop_buffer", _P, _P, c_uint64)
_statistics = _declare("stream_get_statistics", None, _P, POINTER(c_uint64), POINTER(c_uint64), POINTER(c_uint64))
_gobject.g_object_unref.argtypes = (_P,)
_gobject.g_object_unref.restype = None


class Slice(NamedTuple):
    """What one turn of either side gave."""

    frames: int
    seconds: float
    cpu_s: float
    lost: int
    """Frames that came with holes, or found no buffer."""


def bare(address: str, height: int, width: int, rate_hz: float, packet: int, buffers: int, seconds: float) -> Slice:
    """Frames in so many seconds, counted from the first one on.

    Raises:
        OSError: the camera refused.
    """
    camera = _checked(_camera_new, address.encode())
    try:
        _checked(_set_region, camera, 0, 0, width, height)
        _checked(_set_frame_rate, camera, rate_hz)
        _checked(_set_packet_size, camera, packet)
        size = _checked(_get_payload, camera)
        memory = np.empty((buffers, size), dtype=np.uint8)  # the driver writes to it until the stream is gone
        stream = _checked(_create_stream, camera, None, None)
        try:
            return _stream(camera, stream, memory, seconds)
        finally:
            _gobject.g_object_unref(stream)
    finally:
        _gobject.g_object_unref(camera)


def _stream(camera: int, stream: int, memory: np.ndarray, seconds: float) -> Slice:
    pixels = {_buffer_new(row.size, row.ctypes.data): row for row in memory}
    for handle in pixels:
        _push(stream, handle)
    _checked(_start, camera)
    try:
        return _loop(stream, pixels, np.empty_like(memory[0]), seconds)
    finally:
        _checked(_stop, camera)


def _loop(stream: int, pixels: dict[int, np.ndarray], slot: np.ndarray, seconds: float) -> Slice:
    first = _pop(stream, 5_000_000)
    if first is None:
        raise OSError("no frame for 5 s")
    _push(stream, first)
    frames, before = 0, _lost(stream)
    cpu, start = time.process_time(), time.perf_counter()
    now, end = start, start + seconds
    while now < end:
        handle = _pop(stream, 1_000_000)
        if handle is None:
            raise OSError("no frame for a second")
        if _status(handle) == 0:
            np.copyto(slot, pixels[handle])
            frames += 1
        _push(stream, handle)
        now = time.perf_counter()
    return Slice(frames, now - start, time.process_time() - cpu, _lost(stream) - before)


def _lost(stream: int) -> int:
    completed, failures, underruns = c_uint64(), c_uint64(), c_uint64()
    _statistics(stream, byref(completed), byref(failures), byref(underruns))
    return failures.value + underruns.value


def _checked(function: Any, *arguments: Any) -> Any:
    error = POINTER(_Error)()
    result = function(*arguments, byref(error))
    if error:
        raise OSError(error.contents.message.decode(errors="replace"))
    return result
