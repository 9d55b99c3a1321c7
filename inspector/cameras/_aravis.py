"""The C library Aravis 0.8 by ctypes: a device and its features, and discovery. Streams are in _aravis_stream.py.

Only what `gige` uses; names and meanings are the library's (https://aravisproject.github.io/aravis/). Every call
frees the GIL. A GError becomes a `Refused`, which the adapter turns into a CameraError. A handle owns its object
until `close`.
"""

from __future__ import annotations

import ctypes
import ipaddress
import threading
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

from inspector.errors import ConfigError

MONO8 = 0x01080001
"""PixelFormat Mono8 (GenICam PFNC)."""


class Refused(Exception):
    """The library or the camera said no."""


class _GError(ctypes.Structure):
    _fields_ = (("domain", c_uint32), ("code", c_int), ("message", c_char_p))


_Error = POINTER(_GError)
_Out = c_void_p
"""An address that the library writes to; may be None."""

_ARAVIS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "arv_buffer_get_data": (c_void_p, (c_void_p, _Out)),
    "arv_buffer_get_frame_id": (c_uint64, (c_void_p,)),
    "arv_buffer_get_image_data": (c_void_p, (c_void_p, _Out)),
    "arv_buffer_get_status": (c_int, (c_void_p,)),
    "arv_buffer_get_system_timestamp": (c_uint64, (c_void_p,)),
    "arv_buffer_get_timestamp": (c_uint64, (c_void_p,)),
    "arv_buffer_new": (c_void_p, (c_size_t, c_void_p)),
    "arv_buffer_set_frame_id": (None, (c_void_p, c_uint64)),
    "arv_chunk_parser_get_integer_value": (c_int64, (c_void_p, c_void_p, c_char_p, _Out)),
    "arv_debug_enable": (c_int, (c_char_p,)),
    "arv_device_create_chunk_parser": (c_void_p, (c_void_p,)),
    "arv_device_create_stream": (c_void_p, (c_void_p, c_void_p, c_void_p, _Out)),
    "arv_device_dup_available_enumeration_feature_values_as_strings": (c_void_p, (c_void_p, c_char_p, _Out, _Out)),
    "arv_device_execute_command": (None, (c_void_p, c_char_p, _Out)),
    "arv_device_get_feature": (c_void_p, (c_void_p, c_char_p)),
    "arv_device_get_float_feature_bounds": (None, (c_void_p, c_char_p, _Out, _Out, _Out)),
    "arv_device_get_float_feature_value": (c_double, (c_void_p, c_char_p, _Out)),
    "arv_device_get_integer_feature_bounds": (None, (c_void_p, c_char_p, _Out, _Out, _Out)),
    "arv_device_get_integer_feature_increment": (c_int64, (c_void_p, c_char_p, _Out)),
    "arv_device_get_integer_feature_value": (c_int64, (c_void_p, c_char_p, _Out)),
    "arv_device_get_string_feature_value": (c_char_p, (c_void_p, c_char_p, _Out)),
    "arv_device_is_feature_available": (c_int, (c_void_p, c_char_p, _Out)),
    "arv_device_read_memory": (c_int, (c_void_p, c_uint64, c_uint32, c_void_p, _Out)),
    "arv_device_set_boolean_feature_value": (None, (c_void_p, c_char_p, c_int, _Out)),
    "arv_device_set_float_feature_value": (None, (c_void_p, c_char_p, c_double, _Out)),
    "arv_device_set_integer_feature_value": (None, (c_void_p, c_char_p, c_int64, _Out)),
    "arv_device_set_string_feature_value": (None, (c_void_p, c_char_p, c_char_p, _Out)),
    "arv_device_write_register": (c_int, (c_void_p, c_uint64, c_uint32, _Out)),
    "arv_fake_device_new": (c_void_p, (c_char_p, _Out)),
    "arv_gv_device_auto_packet_size": (c_uint, (c_void_p, _Out)),
    "arv_gv_device_is_controller": (c_int, (c_void_p,)),
    "arv_gv_device_new": (c_void_p, (c_void_p, c_void_p, _Out)),
    "arv_gv_device_set_stream_options": (None, (c_void_p, c_int)),
    "arv_gv_interface_get_instance": (c_void_p, ()),
    "arv_interface_get_device_address": (c_char_p, (c_void_p, c_uint)),
    "arv_interface_get_device_id": (c_char_p, (c_void_p, c_uint)),
    "arv_interface_get_device_model": (c_char_p, (c_void_p, c_uint)),
    "arv_interface_get_device_physical_id": (c_char_p, (c_void_p, c_uint)),
    "arv_interface_get_device_serial_nbr": (c_char_p, (c_void_p, c_uint)),
    "arv_interface_get_device_vendor": (c_char_p, (c_void_p, c_uint)),
    "arv_interface_get_n_devices": (c_uint, (c_void_p,)),
    "arv_interface_update_device_list": (None, (c_void_p,)),
    "arv_stream_get_info_name": (c_char_p, (c_void_p, c_uint)),
    "arv_stream_get_info_uint64": (c_uint64, (c_void_p, c_uint)),
    "arv_stream_get_n_infos": (c_uint, (c_void_p,)),
    "arv_stream_push_buffer": (None, (c_void_p, c_void_p)),
    "arv_stream_start_thread": (None, (c_void_p,)),
    "arv_stream_stop_thread": (None, (c_void_p, c_int)),
    "arv_stream_timeout_pop_buffer": (c_void_p, (c_void_p, c_uint64)),
    **{
        f"arv_gc_{kind}_get_type": (c_size_t, ())
        for kind in ("command", "enumeration", "boolean", "float", "integer", "string")
    },
}
_GLIB: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "g_error_free": ("libglib-2.0.so.0", None, (c_void_p,)),
    "g_free": ("libglib-2.0.so.0", None, (c_void_p,)),
    "g_inet_address_new_from_string": ("libgio-2.0.so.0", c_void_p, (c_char_p,)),
    "g_object_set": ("libgobject-2.0.so.0", None, (c_void_p, c_char_p, c_uint, c_void_p)),
    "g_object_unref": ("libgobject-2.0.so.0", None, (c_void_p,)),
    "g_thread_new": ("libglib-2.0.so.0", c_void_p, (c_char_p, c_void_p, c_void_p)),
    "g_thread_unref": ("libglib-2.0.so.0", None, (c_void_p,)),
    "g_type_check_instance_is_a": ("libgobject-2.0.so.0", c_int, (c_void_p, c_size_t)),
}


class _Library:
    """The functions of the library as attributes, with their C types."""

    def __init__(self) -> None:
        try:
            aravis = ctypes.CDLL("libaravis-0.8.so.0")
            for name, (result, arguments) in _ARAVIS.items():
                self._add(aravis, name, result, arguments)
            for name, (library, result, arguments) in _GLIB.items():
                self._add(ctypes.CDLL(library), name, result, arguments)
        except (OSError, AttributeError) as error:
            raise ConfigError(
                f"kind 'gige' needs the C library Aravis 0.8.23 or newer ({error}); apt-get install libaravis-0.8-0"
            ) from None

    def _add(self, library: ctypes.CDLL, name: str, result: Any, arguments: Sequence[Any]) -> None:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
        setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:  # for the type checker: what is not there was never declared
        raise AttributeError(name)


lib = _Library()
lib.arv_debug_enable(b"all:0")  # it would write of every lost packet to stderr


def call(name: str, *arguments: Any) -> Any:
    """Call a function whose last argument is a GError.

    Raises:
        Refused: it set the error.
    """
    error = _Error()
    result = getattr(lib, name)(*arguments, byref(error))
    if error:
        message = (error.contents.message or b"").decode(errors="replace")
        lib.g_error_free(error)
        raise Refused(message or f"{name} failed")
    return result


def text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace")


def unref_later(handle: int) -> None:
    """Let go of an object of a dead camera in a thread of GLib's: for up to 9 s the library tries to tell it."""
    lib.g_thread_unref(lib.g_thread_new(b"abandoned", ctypes.cast(lib.g_object_unref, c_void_p), handle))


_one_by_one = threading.Lock()
"""Cameras are opened and looked for one at a time: the library reads their descriptions with tables that it makes when
it reads the first one, and two threads at once corrupt its memory. It is held for some milliseconds; for 3 s if a
camera dies in that moment."""


class Device:
    """A camera's control channel, and its features by name. `handle` is an ArvDevice of our own."""

    def __init__(self, handle: int) -> None:
        self.handle: int | None = handle

    @classmethod
    def at(cls, host: str, camera: str) -> Device:
        """The GigE Vision camera at an IP address, reached from this address of the host. Sends no broadcast.

        Raises:
            Refused: there is no such camera, or it does not answer.
        """
        ends = [lib.g_inet_address_new_from_string(end.encode()) for end in (host, camera)]
        try:
            with _one_by_one:
                return cls(call("arv_gv_device_new", *ends))
        finally:
            for end in ends:
                lib.g_object_unref(end)

    @classmethod
    def fake(cls, serial: str) -> Device:
        """The library's own simulator, in this process."""
        with _one_by_one:
            return cls(call("arv_fake_device_new", serial.encode()))

    def close(self) -> None:
        """Give the camera back."""
        handle, self.handle = self.handle, None
        if handle is not None:
            lib.g_object_unref(handle)

    def abandon(self) -> None:
        """Let go of a dead camera."""
        handle, self.handle = self.handle, None
        if handle is not None:
            unref_later(handle)

    # ------------------------------------------------------------ features

    def has(self, feature: str) -> bool:
        """Has the camera this feature, and can it be used now?"""
        if not lib.arv_device_get_feature(self.handle, feature.encode()):
            return False
        return bool(call("arv_device_is_feature_available", self.handle, feature.encode()))

    def kind(self, feature: str) -> str:
        """command, enumeration, boolean, float, integer, string; or "" for another or none."""
        node = lib.arv_device_get_feature(self.handle, feature.encode())
        # An enumeration is an integer and a string too: the order matters.
        for kind in ("command", "enumeration", "boolean", "float", "integer", "string"):
            if node and lib.g_type_check_instance_is_a(node, getattr(lib, f"arv_gc_{kind}_get_type")()):
                return kind
        return ""

    def integer(self, feature: str) -> int:
        return int(call("arv_device_get_integer_feature_value", self.handle, feature.encode()))

    def number(self, feature: str) -> float:
        return float(call("arv_device_get_float_feature_value", self.handle, feature.encode()))

    def string(self, feature: str) -> str:
        return text(call("arv_device_get_string_feature_value", self.handle, feature.encode()))

    def execute(self, feature: str) -> None:
        call("arv_device_execute_command", self.handle, feature.encode())

    def set(self, feature: str, kind: str, value: bool | int | float | str) -> None:
        """Set a feature of this kind; `value` must have the type that fits it."""
        own = {"enumeration": "string"}.get(kind, kind)
        raw = value.encode() if isinstance(value, str) else value
        call(f"arv_device_set_{own}_feature_value", self.handle, feature.encode(), raw)

    def bounds(self, feature: str, kind: str) -> tuple[float, float]:
        """(least, greatest) of an integer or a float."""
        least, greatest = (c_int64(), c_int64()) if kind == "integer" else (c_double(), c_double())
        call(f"arv_device_get_{kind}_feature_bounds", self.handle, feature.encode(), byref(least), byref(greatest))
        return least.value, greatest.value

    def increment(self, feature: str) -> int:
        return int(call("arv_device_get_integer_feature_increment", self.handle, feature.encode()))

    def choices(self, feature: str) -> list[str]:
        """What an enumeration can be now."""
        count = c_uint()
        name = "arv_device_dup_available_enumeration_feature_values_as_strings"
        found = call(name, self.handle, feature.encode(), byref(count))
        try:
            return [text(raw) for raw in (c_char_p * count.value).from_address(found)] if found else []
        finally:
            lib.g_free(found)

    # ------------------------------------------------------------ registers

    def write_register(self, address: int, value: int) -> None:
        call("arv_device_write_register", self.handle, address, value)

    def read_memory(self, address: int, size: int) -> bytes:
        raw = ctypes.create_string_buffer(size)
        call("arv_device_read_memory", self.handle, address, size, raw)
        return raw.raw


def is_ip(address: str) -> bool:
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return True


@dataclass(slots=True, frozen=True)
class Entry:
    """A camera that answered a discovery."""

    device_id: str
    address: str
    vendor: str
    model: str
    serial: str
    physical_id: str


def discover() -> list[Entry]:
    """Every GigE Vision camera that answers a broadcast on any network card; takes about a second."""
    asked = ("id", "address", "vendor", "model", "serial_nbr", "physical_id")
    with _one_by_one:
        interface = lib.arv_gv_interface_get_instance()
        lib.arv_interface_update_device_list(interface)
        return [
            Entry(*(text(getattr(lib, f"arv_interface_get_device_{what}")(interface, number)) for what in asked))
            for number in range(lib.arv_interface_get_n_devices(interface))
        ]
