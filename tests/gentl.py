"""The GenTL producers that genicam brings, for tests: TLSimu.cti (1.5) and viky.cti (1.6), and faults to plant in them.

TLSimu shows a ramp that moves by one grey level a frame, so every pixel tells which frame it is of.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from inspector import adapters
from inspector.records import Frame

if TYPE_CHECKING:  # without its packages it cannot be imported
    from inspector.cameras.gentl import GentlCamera


def producer(name: str) -> Path | None:
    """A .cti in the genicam package, or in a folder that GENICAM_GENTL64_PATH names."""
    spec = importlib.util.find_spec("genicam")
    folders = [Path(spec.origin).parent] if spec is not None and spec.origin is not None else []
    folders += [Path(folder) for folder in os.environ.get("GENICAM_GENTL64_PATH", "").split(os.pathsep) if folder]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


TLSIMU = producer("TLSimu.cti")
VIKY = producer("viky.cti")
needs_tlsimu = pytest.mark.skipif(TLSIMU is None, reason="needs TLSimu.cti: pip install harvesters genicam==1.5.0")
needs_viky = pytest.mark.skipif(VIKY is None, reason="needs viky.cti of genicam 1.6 in GENICAM_GENTL64_PATH")


def simulated(**options: Any) -> dict[str, Any]:
    """Options as in the YAML. Small frames, about 180 a second."""
    plain: dict[str, Any] = {
        "producer": str(TLSIMU),
        "device": "SN_InterfaceA_0",
        "width_px": 320,
        "height_px": 64,
        "buffers": 256,
    }
    return plain | options


def made(plant: str | None = None, more: str = "", **options: Any) -> GentlCamera:
    """A camera of TLSimu, with a fault planted in its process (see PLANT)."""
    adapter = adapters.module("cameras", "gentl", "cameras[0]")
    camera: GentlCamera = adapter.open("cam-1", adapters.options(adapter, simulated(**options), "cameras[0].options"))
    if plant is not None:
        camera.command = [sys.executable, "-c", PLANT.format(plant=plant, more=more)]
    return camera


PLANT = """
import contextlib, ctypes, os, sys, time
from inspector.cameras import _gentl_child, _gentl_stream
from inspector.cameras._gentl_features import Trouble
from inspector.cameras._gentl_words import Kind

honest, turn = _gentl_stream.Stream.next, -1

def next(self, wait_ms):
    global turn
    record = honest(self, wait_ms)
    turn += record is not None
    {plant}
    return record

_gentl_stream.Stream.next = next
_gentl_stream.Stream.__exit__ = lambda *how: os._exit(0)  # TLSimu takes half a second to stop
{more}
_gentl_child.main()
"""
"""The camera's process with a line between the producer and the rest; `turn` counts buffers
from 0."""


def is_frame(frame: Frame, number: int) -> bool:
    """Does it show frame `number` of TLSimu, bit by bit?"""
    rows, columns = np.indices(frame.pixels.shape)
    return np.array_equal(frame.pixels, ((rows + columns + number) & 255).astype(np.uint8))
