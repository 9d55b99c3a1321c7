"""From the options of a `gige` camera to a camera that is set up; every refusal names the option and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass

from inspector.cameras import _genicam
from inspector.cameras._aravis import MONO8, Device, Refused
from inspector.cameras._genicam import Settings, Value
from inspector.errors import CameraError


@dataclass(slots=True, frozen=True)
class Format:
    """What the camera gives, as it says itself after it was set up."""

    width: int
    height: int
    payload: int
    """Bytes of a frame with its chunks."""
    triggered: bool
    frame_s: float | None
    """How long a frame takes by its own clock; None: not known, or it is triggered."""


def apply(device: Device, settings: Settings) -> Format:
    """Set what the settings say, and read back what the camera made of it.

    Raises:
        CameraError: the camera has not a feature, refuses a value, or gives another format than asked for.
        Refused: it does not answer.
    """
    _first(device, settings)
    for option, names, value in _genicam.features(settings):
        name = next((name for name in names if device.has(name)), None)
        if name is not None:
            set_feature(device, option, name, value)
        elif names[0] not in _genicam.MAY_BE_MISSING:
            raise CameraError(
                f"{_genicam.missing(option, names)}; if it only lacks it in this state, set what it depends on first "
                "(`features` are set in their order)"
            )
    return _read_back(device, settings)


def _first(device: Device, settings: Settings) -> None:
    """What every line needs, unless the settings say otherwise."""
    for name, value in (("AcquisitionMode", "Continuous"), ("PixelFormat", "Mono8")):
        if name not in settings.features and device.has(name) and device.string(name) != value:
            set_feature(device, f"features.{name}", name, value)


def set_feature(device: Device, option: str, feature: str, value: Value) -> None:
    """Set a feature, by what it is.

    Raises:
        CameraError: the camera refuses; it names `option`, and what the feature takes.
    """
    kind = device.kind(feature)
    try:
        if kind == "command":
            device.execute(feature)
            return
        fit = _fit(device, feature, kind, value)
        device.set(feature, "integer" if isinstance(fit, int) and kind == "enumeration" else kind, fit)
    except Refused as error:
        raise CameraError(_genicam.refused(option, feature, value, str(error), _allowed(device, feature))) from None


def _fit(device: Device, feature: str, kind: str, value: Value) -> Value:
    """The value in the feature's own type; refused here if the camera's own limits say that it would be refused."""
    if kind == "enumeration":
        value = ("Off", "On")[value] if isinstance(value, bool) else value
        if isinstance(value, str) and value not in device.choices(feature):
            raise Refused("it is none of its choices")
        return value if isinstance(value, int) else str(value)
    if kind == "string":
        return str(value)
    if kind == "boolean" and value in (0, 1):
        return bool(value)
    if kind not in ("integer", "float") or isinstance(value, str | bool):
        raise Refused(f"that is no {kind or 'value that can be set'}")
    if kind == "integer" and value != int(value):
        raise Refused("it takes whole numbers")
    least, greatest = device.bounds(feature, kind)
    if not least <= value <= greatest:
        raise Refused("that is out of its range")
    return int(value) if kind == "integer" else float(value)


def _allowed(device: Device, feature: str) -> str:
    """What the feature takes, in words, as far as the camera tells."""
    kind = device.kind(feature)
    try:
        if kind == "enumeration":
            return ", ".join(device.choices(feature))
        if kind in ("integer", "float"):
            least, greatest = device.bounds(feature, kind)
            step = device.increment(feature) if kind == "integer" else 1
            return f"{least:g} to {greatest:g}{f' in steps of {step}' if step > 1 else ''}"
    except Refused:
        return ""
    return "true or false" if kind == "boolean" else ""


def _read_back(device: Device, settings: Settings) -> Format:
    width, height = device.integer("Width"), device.integer("Height")
    for option, asked, got in (("width_px", settings.width_px, width), ("height_px", settings.height_px, height)):
        if asked is not None and asked != got:
            raise CameraError(f"{option}: the camera made {got} of {asked}; state a value that it takes")
    if device.integer("PixelFormat") != MONO8:
        raise CameraError(f"features.PixelFormat: {device.string('PixelFormat')} cannot be used; only Mono8 can")
    payload = device.integer("PayloadSize")
    if payload < width * height:
        raise CameraError(f"the camera says that {width} x {height} pixels are {payload} bytes; look at `features`")
    triggered = bool(settings.trigger) or (device.has("TriggerMode") and device.string("TriggerMode") == "On")
    return Format(width, height, payload, triggered, None if triggered else _frame_s(device, height))


def _frame_s(device: Device, height: int) -> float | None:
    for names, lines in (
        (("AcquisitionLineRate", "AcquisitionLineRateAbs"), height),
        (("ResultingFrameRate", "ResultingFrameRateAbs", "AcquisitionFrameRate", "AcquisitionFrameRateAbs"), 1),
    ):
        for name in names:
            if device.has(name) and device.kind(name) == "float" and (rate := device.number(name)) > 0:
                return lines / rate
    return None
