"""pylon's own camera emulation for tests: cameras 0815-0000 to 0815-0003 that need no network and no USB."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import pytest
from numpy.typing import NDArray

CAMERAS = 4
needs_pylon = pytest.mark.skipif(
    importlib.util.find_spec("pypylon") is None, reason="needs pypylon: pip install 'inspector[basler]'"
)


@contextmanager
def emulation() -> Iterator[None]:
    """pylon asks for the number of emulated cameras whenever it begins to use its emulation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYLON_CAMEMU", str(CAMERAS))
        yield


def emulated(number: int = 0, **options: Any) -> dict[str, Any]:
    """Options as in the YAML. Small frames, as fast as 500 a second."""
    plain: dict[str, Any] = {
        "device_class": "BaslerCamEmu",
        "serial": f"0815-{number:04}",
        "width_px": 320,
        "height_px": 64,
        "exposure_time_us": 100,
        "acquisition_frame_rate_hz": 500,
        "buffers": 8,
    }
    return plain | options


def showing(folder: Path, pictures: list[NDArray[Any]]) -> dict[str, Any]:
    """`features` with which the emulation shows these pictures in turn, from the first at every opening."""
    folder.mkdir(exist_ok=True)
    for number, pixels in enumerate(pictures):
        assert cv2.imwrite(str(folder / f"{number:04}.bmp"), pixels)
    return {"TestImageSelector": "Off", "ImageFilename": str(folder), "ImageFileMode": "On"}


def device(camera: Any) -> Any:
    """The pylon.InstantCamera of an open camera, for faults that only pylon can make."""
    return camera._grab._device
