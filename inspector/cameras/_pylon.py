"""What the `basler` camera needs of pypylon: its import, a device by its name, features by theirs, and its clock.

Facts that shaped it, of pypylon 26.9 (https://github.com/basler/pypylon):

- Its import raises DeprecationWarnings in C code, which crash the process where warnings are errors.
- A GigE camera that is opened by its IP address costs one unicast request; by serial number or name each network card
  broadcasts, and takes 1.5 s.
- `GetNode` gives a placeholder for a name that the camera does not have.
- The default configuration of an InstantCamera switches every trigger off when it is opened; it is taken out.
"""

from __future__ import annotations

import math
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from inspector.cameras._genicam import Value, missing, refused
from inspector.errors import CameraError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pypylon import genicam, pylon

GIGE, EMULATION = "BaslerGigE", "BaslerCamEmu"
LOOKS = 3
"""Readings of the camera's clock of which the quickest is taken."""

Failed = genicam.GenericException
"""The root of everything that pylon raises."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """pylon's errors become a CameraError that begins with `what`."""
    try:
        yield
    except Failed as error:
        raise CameraError(f"{what}: {said(error)}") from None


def said(error: Exception) -> str:
    """pylon's own words, without the place in its source."""
    return re.split(r" : \w+ thrown ", str(error))[0].strip().rstrip(".") or type(error).__name__


# ---------------------------------------------------------------- devices


def create(device_class: str, address: str | None, serial: str | None, user_defined_name: str | None) -> Any:
    """A pylon.InstantCamera that is not open yet. No camera is asked but the one named, where it is by address."""
    info = pylon.DeviceInfo()
    info.SetDeviceClass(device_class)
    if address is not None:
        info.SetIpAddress(address)
    if serial is not None:
        info.SetSerialNumber(serial)
    if user_defined_name is not None:
        info.SetUserDefinedName(user_defined_name)
    device = pylon.InstantCamera(pylon.TlFactory.GetInstance().CreateDevice(info))
    device.RegisterConfiguration(None, pylon.RegistrationMode_ReplaceAll, pylon.Cleanup_None)
    return device


def start(device: Any) -> None:
    """Grab every frame in its order."""
    device.StartGrabbing(pylon.GrabStrategy_OneByOne)


def retrieve(device: Any, timeout_s: float) -> Any | None:
    """The next grab result, good or bad; None if none came. The GIL is free meanwhile."""
    result = device.RetrieveResult(math.ceil(timeout_s * 1000), pylon.TimeoutHandling_Return)
    return result if result.IsValid() else None


def shut(device: Any) -> None:
    """Let a camera go, in whatever state it is. The caller must forget it too: pylon keeps files open until then."""
    for step in (device.StopGrabbing, device.Close, device.DestroyDevice):
        with suppress(Failed):
            step()


def device_classes() -> list[str]:
    """The transport layers that work here."""
    return [layer.GetDeviceClass() for layer in pylon.TlFactory.GetInstance().EnumerateTls()]


def listed(device_class: str) -> list[tuple[Any, bool]]:
    """(DeviceInfo, nobody else uses it) of every camera of one transport layer. Over GigE this broadcasts."""
    factory = pylon.TlFactory.GetInstance()
    layer = factory.CreateTl(device_class)
    if layer is None:  # USB without a USB host
        return []
    try:
        return [(info, bool(layer.IsDeviceAccessible(info))) for info in layer.EnumerateDevices()]
    finally:
        factory.ReleaseTl(layer)


@contextmanager
def advised(device_class: str) -> Iterator[None]:
    """A CameraError says what a person can do when a camera cannot be opened."""
    try:
        yield
    except CameraError as error:
        raise CameraError(f"{error}. {_advice(device_class, str(error).lower())}") from None


def _advice(device_class: str, words: str) -> str:
    if "access" in words or "controlled" in words or "in use" in words:
        return "Another program has it: close it there (pylon Viewer, a second daemon)"
    if device_class == EMULATION:
        emulated = os.environ.get("PYLON_CAMEMU", "0")
        return f"There are 0815-0000 and so on, PYLON_CAMEMU of them in the environment (now {emulated})"
    look = "`inspector cameras` lists what is found"
    return f"Is it powered, and in the network of a card of this host? {look}" if device_class == GIGE else look


# ---------------------------------------------------------------- features


def first(nodes: Any, *names: str) -> Any | None:
    """The first of these features that the camera has."""
    for name in names:
        node = nodes.GetNode(name)
        if node.IsValid() and node.GetAccessMode() != genicam.NI:
            return node
    return None


def number(nodes: Any, *names: str) -> float | None:
    """The value of the first of these features that can be read now."""
    for name in names:
        node = nodes.GetNode(name)
        if node.IsValid() and node.IsReadable():
            return float(node.GetValue())
    return None


def apply(nodes: Any, option: str, names: tuple[str, ...], value: Value, where: str = "the camera") -> None:
    """Set the feature of the first of these names that `where` has.

    Raises:
        CameraError: it has none of them, or does not take the value; `option` and what it takes are in the message.
    """
    node = first(nodes, *names)
    if node is None:
        raise CameraError(missing(option, names, where))
    name = node.GetNode().GetName()
    try:
        _make_room(nodes, name, value)
        _set(node, value)
    except (Failed, TypeError, ValueError) as error:
        raise CameraError(refused(option, name, value, _why(node, error), _choices(node), where)) from None


def working(device: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those names that do something: the emulation's ExposureTime does not, only its ExposureTimeAbs."""
    if device.GetDeviceInfo().GetDeviceClass() != EMULATION:
        return names
    return tuple(name for name in names if name != "ExposureTime") or names


def _make_room(nodes: Any, name: str, value: Value) -> None:
    """The emulation has a sensor as large as one asks for; a real camera's WidthMax is read-only."""
    limit = nodes.GetNode(f"{name}Max") if name in ("Width", "Height") else None
    if isinstance(value, int) and limit is not None and limit.IsValid() and limit.IsWritable():
        limit.SetValue(min(max(value, limit.GetValue()), limit.GetMax()))


def _set(node: Any, value: Value) -> None:
    if isinstance(node, pylon.CommandParameter):
        node.Execute()
    elif isinstance(node, pylon.BooleanParameter):
        if not isinstance(value, bool):
            raise TypeError("not a truth value")
        node.SetValue(value)
    elif isinstance(node, pylon.IntegerParameter):
        if isinstance(value, str) or int(value) != value:
            raise TypeError("not a whole number")
        node.SetValue(int(value))
    elif isinstance(node, pylon.FloatParameter):
        if isinstance(value, str):
            raise TypeError("not a number")
        node.SetValue(float(value))
    else:  # a choice or a text
        node.SetValue(value if isinstance(value, str) else str(value))


def _why(node: Any, error: Exception) -> str:
    """Why the feature was not set."""
    with suppress(Failed):
        if not node.IsWritable():
            return "it cannot be set now; another feature may forbid it"
    return said(error)


def _choices(node: Any) -> str:
    """What the feature takes now; empty if that cannot be told."""
    with suppress(Failed):
        if not node.IsWritable():
            return ""
        if isinstance(node, pylon.EnumParameter):
            return ", ".join(node.GetSettableValues())
        if isinstance(node, pylon.BooleanParameter):
            return "true or false"
        if isinstance(node, pylon.IntegerParameter):
            step = f" in steps of {node.GetInc()}" if node.GetInc() > 1 else ""
            return f"{node.GetMin()} to {node.GetMax()}{step}"
        if isinstance(node, pylon.FloatParameter):
            return f"{node.GetMin():g} to {node.GetMax():g} {node.GetUnit()}".rstrip()
    return ""


def ask(nodes: Any) -> None:
    """Read a register of the camera, past pylon's cache.

    Raises:
        Failed: the camera does not answer.
    """
    nodes.InvalidateNodes()
    nodes.GetNode("Height").GetValue()


def triggered(nodes: Any) -> bool:
    """Does the camera wait for any trigger?"""
    selector, mode = first(nodes, "TriggerSelector"), first(nodes, "TriggerMode")
    if mode is None or not mode.IsReadable():
        return False
    if selector is None or not selector.IsWritable():
        return bool(mode.GetValue() == "On")
    chosen = selector.GetValue()
    found = False
    for choice in selector.GetSettableValues():
        selector.SetValue(choice)
        found = found or (mode.IsReadable() and mode.GetValue() == "On")
    selector.SetValue(chosen)
    return found


# ---------------------------------------------------------------- time


@dataclass(slots=True, frozen=True)
class Latch:
    """The camera's clock, read from the host.

    `hz` are its ticks a second. GigE Vision 1.x has names and ticks of its own; the standard's are nanoseconds.
    """

    hz: int
    execute: Any | None
    value: Any | None

    @classmethod
    def of(cls, nodes: Any) -> Latch:
        """That of this camera; it can do without."""
        hz = int(number(nodes, "GevTimestampTickFrequency") or 1e9)
        for command, value in (
            ("TimestampLatch", "TimestampLatchValue"),
            ("GevTimestampControlLatch", "GevTimestampValue"),
        ):
            execute, latched = first(nodes, command), first(nodes, value)
            if execute is not None and latched is not None:
                return cls(hz, execute, latched)
        return cls(hz, None, None)

    def ns(self, ticks: int) -> int:
        """A time stamp in nanoseconds."""
        return ticks * 1_000_000_000 // self.hz

    def read(self) -> tuple[int, int, int] | None:
        """(the camera's time, host's Unix time before and after), ns; None where it has no latch.

        Raises:
            Failed: the camera does not answer.
        """
        if self.execute is None or self.value is None:
            return None
        return min((self._look() for _ in range(LOOKS)), key=lambda look: look[2] - look[1])

    def _look(self) -> tuple[int, int, int]:
        assert self.execute is not None
        assert self.value is not None
        before = time.time_ns()
        self.execute.Execute()
        after = time.time_ns()
        return self.ns(int(self.value.GetValue())), before, after
