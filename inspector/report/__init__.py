"""The coil report: one self-contained HTML file that an engineer can mail, print and keep.

    render(CoilReport(...), Path("coil.html"))

It asks nothing of any network: styles, drawings, script and pictures are inside, and its own content security
policy forbids the rest.
"""

from __future__ import annotations

from inspector.report.coil import (
    CameraBooks,
    ClassTruth,
    CoilReport,
    Finding,
    GapStretch,
    LaneInfo,
    Missed,
    Piece,
    Throughput,
    Truth,
)
from inspector.report.page import check, page, render

__all__ = [
    "CameraBooks",
    "ClassTruth",
    "CoilReport",
    "Finding",
    "GapStretch",
    "LaneInfo",
    "Missed",
    "Piece",
    "Throughput",
    "Truth",
    "check",
    "page",
    "render",
]
