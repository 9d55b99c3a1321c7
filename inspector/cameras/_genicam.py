"""The settings that GenICam cameras share, under the standard's own names (SFNC 2.7), and the order to set them in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from inspector.cameras._odometer import Encoder

Positive = Annotated[float, Meta(gt=0, le=1e9)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Value = bool | int | float | str


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


def features(settings: Settings) -> Iterator[tuple[tuple[str, ...], Value]]:
    """What is to be set, in order: (names of the feature, the standard's first and older ones behind it), value."""
    if settings.offset_x_px is not None:  # an offset in the way of a larger width
        yield ("OffsetX",), 0
    plain: tuple[tuple[tuple[str, ...], Value | None], ...] = (
        (("Width",), settings.width_px),
        (("Height",), settings.height_px),
        (("OffsetX",), settings.offset_x_px),
        (("ExposureTime", "ExposureTimeAbs"), settings.exposure_time_us),
        (("Gain", "GainRaw"), settings.gain),
        (("AcquisitionLineRate", "AcquisitionLineRateAbs"), settings.acquisition_line_rate_hz),
    )
    for names, value in plain:
        if value is not None:
            yield names, value
    if settings.acquisition_frame_rate_hz is not None:
        yield ("AcquisitionFrameRateEnable",), True
        yield ("AcquisitionFrameRate", "AcquisitionFrameRateAbs"), settings.acquisition_frame_rate_hz
    if settings.encoder_divider is not None:
        yield ("EncoderDivider",), settings.encoder_divider
    for trigger in settings.trigger:
        yield ("TriggerSelector",), trigger.selector
        yield ("TriggerSource",), trigger.source
        if trigger.activation is not None:
            yield ("TriggerActivation",), trigger.activation
        yield ("TriggerMode",), "On"
    if settings.encoder.source == "chunk":
        yield ("ChunkModeActive",), True
        yield ("ChunkSelector",), settings.encoder.chunk.removeprefix("Chunk")
        yield ("ChunkEnable",), True
    for name, chosen in settings.features.items():
        yield (name,), chosen
