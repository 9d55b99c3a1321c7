"""The settings that GenICam cameras share, under the standard's own names (SFNC 2.7), the order to set them in, and
what is said when a camera does not take one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from inspector.cameras._odometer import Encoder
from inspector.errors import ConfigError

Positive = Annotated[float, Meta(gt=0, le=1e9)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Value = bool | int | float | str

MAY_BE_MISSING = {"AcquisitionFrameRateEnable"}
"""Cameras without it obey the rate anyway."""

SILENT_S, SILENT_FRAMES = 1.0, 8
"""A camera that runs by its own clock is dead after so long without a frame, whichever is longer."""


class Trigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trigger of the camera; TriggerMode becomes On."""

    selector: Name = "LineStart"
    """TriggerSelector: LineStart for a line-scan camera, FrameStart for a frame."""
    source: Name
    """TriggerSource: Line1, Encoder0, Software, ..."""
    activation: Name | None = None
    """TriggerActivation: RisingEdge, FallingEdge, ..."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as the camera has it."""

    width_px: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    """Width: pixels across the lane."""
    height_px: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    """Height: lines in one frame."""
    offset_x_px: Annotated[int, Meta(ge=0, le=65_535)] | None = None
    """OffsetX: first pixel of the sensor that is used."""
    exposure_time_us: Positive | None = None
    """ExposureTime of a line, microseconds."""
    gain: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    """Gain, in the camera's unit."""
    acquisition_line_rate_hz: Positive | None = None
    """AcquisitionLineRate: lines a second, where no encoder triggers them."""
    acquisition_frame_rate_hz: Positive | None = None
    """AcquisitionFrameRate: frames a second, for area cameras and simulators."""
    trigger: list[Trigger] = []
    """Triggers that are switched on, in this order."""
    encoder_divider: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """EncoderDivider: encoder counts for one line trigger. State it as `encoder.counts_per_line` too."""
    features: dict[Name, Value] = {}
    """Any other feature of the camera by its name, set last and in this order."""
    encoder: Encoder = Encoder()
    """The way along the strip."""
    buffers: Annotated[int, Meta(ge=2, le=4096)] = 16
    """Frames that the driver can hold for a late reader; when all are full the next is lost as `underrun`."""
    frame_timeout_s: Annotated[float, Meta(gt=0, le=3600)] | None = None
    """A camera that runs by its own clock and gives no frame for this long, seconds, is taken for dead and opened
    again. Left out: 1 s or eight frame periods, whichever is longer. A triggered camera may be silent while the strip
    stands: there the camera is asked once a second whether it still answers."""


def silent_after_s(settings: Settings, frame_s: float | None) -> float:
    """How long a camera that runs by its own clock may be silent, seconds; `frame_s`: what a frame takes, if known."""
    return settings.frame_timeout_s or max(SILENT_S, SILENT_FRAMES * (frame_s or 0.0))


def features(settings: Settings) -> Iterator[tuple[str, tuple[str, ...], Value]]:
    """What is to be set, in order: (option it comes from, names of the feature, value).

    The standard's name is the first, older ones are behind it.
    """
    if settings.offset_x_px is not None:  # an offset in the way of a larger width
        yield "offset_x_px", ("OffsetX",), 0
    plain: tuple[tuple[str, tuple[str, ...], Value | None], ...] = (
        ("width_px", ("Width",), settings.width_px),
        ("height_px", ("Height",), settings.height_px),
        ("offset_x_px", ("OffsetX",), settings.offset_x_px),
        ("exposure_time_us", ("ExposureTime", "ExposureTimeAbs"), settings.exposure_time_us),
        ("gain", ("Gain", "GainRaw"), settings.gain),
        (
            "acquisition_line_rate_hz",
            ("AcquisitionLineRate", "AcquisitionLineRateAbs"),
            settings.acquisition_line_rate_hz,
        ),
    )
    for option, names, value in plain:
        if value is not None:
            yield option, names, value
    if settings.acquisition_frame_rate_hz is not None:
        option = "acquisition_frame_rate_hz"
        yield option, ("AcquisitionFrameRateEnable",), True
        yield option, ("AcquisitionFrameRate", "AcquisitionFrameRateAbs"), settings.acquisition_frame_rate_hz
    if settings.encoder_divider is not None:
        yield "encoder_divider", ("EncoderDivider",), settings.encoder_divider
    for place, trigger in enumerate(settings.trigger):
        yield from _trigger(f"trigger[{place}]", trigger)
    if settings.encoder.source == "chunk":
        yield "encoder.source", ("ChunkModeActive",), True
        yield "encoder.chunk", ("ChunkSelector",), settings.encoder.chunk.removeprefix("Chunk")
        yield "encoder.chunk", ("ChunkEnable",), True
    for name, chosen in settings.features.items():
        yield f"features.{name}", (name,), chosen


def _trigger(option: str, trigger: Trigger) -> Iterator[tuple[str, tuple[str, ...], Value]]:
    yield f"{option}.selector", ("TriggerSelector",), trigger.selector
    yield f"{option}.source", ("TriggerSource",), trigger.source
    if trigger.activation is not None:
        yield f"{option}.activation", ("TriggerActivation",), trigger.activation
    yield option, ("TriggerMode",), "On"


def check_pixels(kind: str, settings: Settings) -> None:
    """Do the settings ask for pixels that can be inspected?

    Raises:
        ConfigError: they do not.
    """
    asked = settings.features.get("PixelFormat", "Mono8")
    if asked != "Mono8":
        raise ConfigError(f"{kind}: features.PixelFormat: {asked} cannot be used; only Mono8 can")


def missing(option: str, names: Sequence[str], where: str = "the camera", hint: str = "") -> str:
    """What is said when none of these features is there; `hint` follows their names."""
    plainly = option.endswith(names[0])  # the option is the feature's own name
    else_do = "write its name as it is there" if plainly else "name the feature of this camera under features"
    return f"{option}: {where} has no feature {' or '.join(names)}{hint}. Take {_whole(option)} out, or {else_do}"


def _whole(option: str) -> str:
    """What can be left out: a part of a trigger, and the chunk's name, would have its default then, or is needed."""
    if option.startswith("encoder."):
        return "encoder.source"
    return option.split(".")[0] if option.startswith("trigger[") else option


def refused(option: str, name: str, value: Value, why: str, takes: str, where: str = "the camera") -> str:
    """What is said when a feature does not take its value; `takes` is what it does take, if that is known."""
    return f"{option}: {where} refuses {name} = {value}: {why}{f'; it takes {takes}' if takes else ''}"
