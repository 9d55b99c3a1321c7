"""cameras/_genicam.py: every feature says which option it comes from, and what is refused names it."""

from __future__ import annotations

import pytest

from inspector.cameras._genicam import Settings, Trigger, check_pixels, features, missing, refused
from inspector.cameras._odometer import Encoder
from inspector.errors import ConfigError

ALL = Settings(
    width_px=1,
    height_px=2,
    offset_x_px=3,
    exposure_time_us=4.0,
    gain=5.0,
    acquisition_line_rate_hz=6.0,
    acquisition_frame_rate_hz=7.0,
    trigger=[Trigger(source="Line1"), Trigger(selector="FrameStart", source="Line2", activation="RisingEdge")],
    encoder_divider=8,
    features={"GevSCPD": 9},
    encoder=Encoder(source="chunk", chunk="ChunkEncoderValue"),
)


def test_every_feature_names_its_option_in_the_order_of_setting() -> None:
    assert [(option, names[0], value) for option, names, value in features(ALL)] == [
        ("offset_x_px", "OffsetX", 0),
        ("width_px", "Width", 1),
        ("height_px", "Height", 2),
        ("offset_x_px", "OffsetX", 3),
        ("exposure_time_us", "ExposureTime", 4.0),
        ("gain", "Gain", 5.0),
        ("acquisition_line_rate_hz", "AcquisitionLineRate", 6.0),
        ("acquisition_frame_rate_hz", "AcquisitionFrameRateEnable", True),
        ("acquisition_frame_rate_hz", "AcquisitionFrameRate", 7.0),
        ("encoder_divider", "EncoderDivider", 8),
        ("trigger[0].selector", "TriggerSelector", "LineStart"),
        ("trigger[0].source", "TriggerSource", "Line1"),
        ("trigger[0]", "TriggerMode", "On"),
        ("trigger[1].selector", "TriggerSelector", "FrameStart"),
        ("trigger[1].source", "TriggerSource", "Line2"),
        ("trigger[1].activation", "TriggerActivation", "RisingEdge"),
        ("trigger[1]", "TriggerMode", "On"),
        ("encoder.source", "ChunkModeActive", True),
        ("encoder.chunk", "ChunkSelector", "EncoderValue"),
        ("encoder.chunk", "ChunkEnable", True),
        ("features.GevSCPD", "GevSCPD", 9),
    ]


def test_what_is_left_out_is_not_set() -> None:
    assert list(features(Settings())) == []


def test_what_is_not_there_is_said_with_the_option_and_what_to_do() -> None:
    assert missing("gain", ("Gain", "GainRaw")) == (
        "gain: the camera has no feature Gain or GainRaw. Take gain out, or name the feature of this camera under "
        "features"
    )
    assert missing("grabber.stream.Hight", ["Hight"], "the producer's stream", " (did you mean Height?)") == (
        "grabber.stream.Hight: the producer's stream has no feature Hight (did you mean Height?). "
        "Take grabber.stream.Hight out, or write its name as it is there"
    )


@pytest.mark.parametrize(
    ("option", "out"),
    [("trigger[1].selector", "trigger[1]"), ("trigger[0]", "trigger[0]"), ("encoder.chunk", "encoder.source")],
)
def test_to_take_a_part_out_that_has_a_default_would_mend_nothing(option: str, out: str) -> None:
    assert missing(option, ("Absent",)).startswith(f"{option}: the camera has no feature Absent. Take {out} out, or ")


@pytest.mark.parametrize(("takes", "end"), [("1 to 9", ": too long; it takes 1 to 9"), ("", ": too long")])
def test_what_is_refused_is_said_with_what_it_takes(takes: str, end: str) -> None:
    assert refused("width_px", "Width", 10, "too long", takes) == f"width_px: the camera refuses Width = 10{end}"


def test_only_mono8_can_be_asked_for() -> None:
    check_pixels("gige", Settings())
    check_pixels("gige", Settings(features={"PixelFormat": "Mono8"}))
    with pytest.raises(ConfigError, match=r"^gentl: features\.PixelFormat: Mono12 cannot be used; only Mono8 can$"):
        check_pixels("gentl", Settings(features={"PixelFormat": "Mono12"}))
