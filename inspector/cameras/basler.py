"""The `basler` camera: Basler's line and area cameras (GigE, USB 3, CoaXPress) through pylon, and its emulation.

- Frames come in the order of their ids, each copied once, out of the driver's buffer into a slot of the pool; the
  driver holds `buffers` of them for a late reader. pylon's own grab loop is not used: an exception there ends the
  grabbing without a word.
- A hole in the ids is a loss: UNDERRUN as far as the driver counted frames without a free buffer, OVERRUN as far as
  pylon skipped images, else MISSING. A bad buffer is PACKETS or TIMEOUT where its code says so, else FAILED.
- Time is the camera's own, mapped by its latch about once a second; the encoder is a chunk, or lines are counted.
- A camera that was pulled, or is silent for too long, is a CameraError; the next enter takes a fresh device.

To try it without a camera: `device_class: BaslerCamEmu`, `serial: 0815-0000`, and PYLON_CAMEMU=1 in the environment.
The emulation has neither time stamps nor chunks, and waits for a late reader instead of losing frames.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from inspector.cameras import Found, Link, _pylon
from inspector.cameras._genicam import MAY_BE_MISSING, Name, Settings, Value, check_pixels, features
from inspector.cameras._odometer import Odometer
from inspector.cameras._pylon import GIGE, translated
from inspector.cameras._pylon_grab import Grab, Pace
from inspector.errors import CameraError, ConfigError
from inspector.pool import Pool
from inspector.records import Frame, Loss

__all__ = ["BaslerCamera", "Options", "check", "discover", "open"]


class Options(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a Basler camera: which one it is, and the settings of every GenICam camera."""

    address: Name | None = None
    """IP address of a GigE camera; nothing is broadcast."""
    device_class: Name | None = None
    """Where a camera is looked for by `serial` or `user_defined_name`: BaslerUsb, BaslerGTC/Basler/CXP, BaslerCamEmu,
    or BaslerGigE, which broadcasts on every network card and takes 1.5 s. Not needed with `address`."""
    serial: Name | None = None
    """Serial number, as printed on the camera."""
    user_defined_name: Name | None = None
    """DeviceUserID, as somebody wrote it into the camera."""
    packet_size: Annotated[int, Meta(ge=220, le=65_535)] | None = None
    """GevSCPSPacketSize of a GigE camera, bytes: what the network takes, 9000 with jumbo frames."""
    stream: dict[Name, Value] = msgspec.field(default_factory=dict)
    """Settings of pylon's stream grabber by their names: ReceiveWindowSize, EnableResend, FrameRetention, ..."""


class BaslerCamera:
    """A camera that pylon drives; the protocol is in inspector/cameras/__init__.py.

    `clock` tells seconds for time-outs; a test gives its own.
    """

    def __init__(self, name: str, options: Options, clock: Callable[[], float] = time.monotonic) -> None:
        self.ended = False
        self.link = Link()
        self._name = name
        self._o = options
        self._clock = clock
        self._odometer: Odometer | None = None
        self._height = 0
        self._grab: Grab | None = None

    def __enter__(self) -> Self:
        o = self._o
        refused = f"camera {self._name}: cannot be opened"
        with _pylon.advised(o.device_class or GIGE), translated(refused):
            device = _pylon.create(o.device_class or GIGE, o.address, o.serial, o.user_defined_name)
        try:
            with _pylon.advised(o.device_class or GIGE), translated(refused):
                device.Open()
            self._grab = self._start(device)
        except BaseException:
            _pylon.shut(device)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        grab, self._grab = self._grab, None
        if grab is not None:
            grab.close()

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        """The next frame or loss; see inspector/cameras/__init__.py.

        Raises:
            CameraError: the camera is not open, was pulled, or is silent for too long.
        """
        if self._grab is None:
            raise CameraError(f"camera {self._name}: read before it was opened; enter it first")
        with translated(f"camera {self._name}"):
            return self._grab.read(pool, timeout_s)

    def _start(self, device: Any) -> Grab:
        try:
            with translated("its features cannot be set"):
                _set_up(device, self._o)
                pace = Pace.of(device.GetNodeMap())
        except CameraError as error:
            raise CameraError(f"camera {self._name}: {error}") from None
        if self._odometer is None:
            self._odometer, self._height = Odometer(self._o.encoder, pace.height, pace.frame_s), pace.height
        elif pace.height != self._height:
            raise CameraError(
                f"camera {self._name}: Height was {self._height} lines and is {pace.height} now; set height_px"
            )
        with translated(f"camera {self._name}: does not start to grab"):
            return Grab(self._name, self._o, device, pace, self._odometer, self.link, self._clock)


def _set_up(device: Any, o: Options) -> None:
    nodes, stream = device.GetNodeMap(), device.GetStreamGrabberNodeMap()
    if _pylon.first(nodes, "AcquisitionMode") is not None:  # a camera may have been left at SingleFrame
        _pylon.apply(nodes, "features.AcquisitionMode", ("AcquisitionMode",), "Continuous")
    for option, names, value in features(o):
        if names[0] not in MAY_BE_MISSING or _pylon.first(nodes, *names) is not None:
            _pylon.apply(nodes, option, _pylon.working(device, names), value)
    if o.packet_size is not None:
        _pylon.apply(nodes, "packet_size", ("GevSCPSPacketSize",), o.packet_size)
    for name, chosen in o.stream.items():
        _pylon.apply(stream, f"stream.{name}", (name,), chosen, "pylon's stream grabber")
    for queue in (device.MaxNumBuffer, device.MaxNumQueuedBuffer):
        queue.SetValue(o.buffers)
    pixels = nodes.GetNode("PixelFormat").GetValue()
    if pixels != "Mono8":
        raise CameraError(f"PixelFormat is {pixels}, but the line takes Mono8. Set `features: {{PixelFormat: Mono8}}`")


def check(options: Options) -> None:
    """Do the options name a camera? Nothing is opened.

    Raises:
        ConfigError: they do not, or they contradict each other.
    """
    check_pixels("basler", options)
    if options.address is not None:
        try:
            ipaddress.IPv4Address(options.address)
        except ValueError:
            raise ConfigError(f"basler: address: '{options.address}' is no IP address, such as 192.168.1.20") from None
        if options.device_class not in (None, GIGE):
            raise ConfigError(f"basler: a camera with an address is a {GIGE}; take out device_class")
        for name in ("serial", "user_defined_name"):
            if getattr(options, name) is not None:
                raise ConfigError(f"basler: a camera with an address is found by that alone; take out {name}")
    elif options.serial is None and options.user_defined_name is None:
        raise ConfigError("basler: which camera? Give its address, or device_class and serial or user_defined_name")
    elif options.device_class is None:
        raise ConfigError("basler: without an address say where to look: device_class: BaslerUsb or BaslerGigE")


def open(name: str, options: Options) -> BaslerCamera:
    """A Basler camera. It is not looked for before it is entered.

    Raises:
        ConfigError: as `check`.
    """
    check(options)
    return BaslerCamera(name, options)


def discover(timeout_s: float) -> list[Found]:
    """The cameras that pylon finds, transport layer by transport layer.

    For GigE this BROADCASTS on every network card, and asks each camera whether it is free. pylon takes its own time
    for it, about 1.5 s; no further layer is asked once `timeout_s` seconds are over.

    Raises:
        CameraError: a transport layer failed.
    """
    deadline = time.monotonic() + timeout_s
    found: list[Found] = []
    with translated("basler: cameras cannot be listed"):
        for device_class in _pylon.device_classes():
            if time.monotonic() < deadline:
                found += [_found(device_class, info, free) for info, free in _pylon.listed(device_class)]
    return found


def _found(device_class: str, info: Any, free: bool) -> Found:
    serial = info.GetSerialNumber()
    gige = device_class == GIGE
    named = info.GetUserDefinedName() if info.IsUserDefinedNameAvailable() else ""
    return Found(
        kind="basler",
        address=info.GetIpAddress() if gige else serial,
        vendor=info.GetVendorName(),
        model=info.GetModelName(),
        serial=serial,
        detail=", ".join(part for part in (named, "" if free else "in use by another program") if part),
        options={"address": info.GetIpAddress()} if gige else {"device_class": device_class, "serial": serial},
    )
