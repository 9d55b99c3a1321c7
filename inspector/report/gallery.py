"""The defect cards: which defects get one, which get their picture, and the outline that is drawn on it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspector.events import Defect
from inspector.report.coil import CoilReport, Finding
from inspector.thumbnails import crop_window, mask_in_window, outline, thumbnail_scale, thumbnail_size

MOST_CARDS = 5000
"""Defects with a card and a mark on the map; beyond it the most severe are shown and the rest only counted."""
MOST_PICTURE_BYTES = 8 * 1024 * 1024
"""All thumbnails together, as text in the file: it must stay small enough to mail."""
_KINDS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png"}


@dataclass(slots=True, frozen=True)
class Card:
    """One defect as the page shows it. `width` and `height` are the thumbnail's, px; `path` is the mask's outline.

    `plane` turns thumbnail pixels into strip mm: (across at u = 0, mm per u, along at v = 0, mm per v).
    """

    index: int
    defect: Defect
    real: bool | None
    class_index: int
    severity_index: int
    width: int
    height: int
    picture: str | None
    path: str
    plane: tuple[float, float, float, float]


@dataclass(slots=True, frozen=True)
class Gallery:
    cards: list[Card]
    without_card: int
    pictures_left_out: int
    """Pictures that were there and did not fit."""


def rank(coil: CoilReport) -> list[Finding]:
    """All defects, most severe first, then by area."""
    order = {name: index for index, name in enumerate(coil.severity_order())}
    return sorted(
        coil.defects, key=lambda f: (order[f.defect.severity], -f.defect.area_mm2, f.defect.position_mm.along)
    )


def gallery(coil: CoilReport, ranked: Sequence[Finding], budget: int = MOST_PICTURE_BYTES) -> Gallery:
    """The cards of the first MOST_CARDS defects; pictures in the same order until `budget` bytes are full."""
    classes = {entry.number: index for index, entry in enumerate(coil.class_order())}
    severities = {name: index for index, name in enumerate(coil.severity_order())}
    cards: list[Card] = []
    left_out = 0
    for index, finding in enumerate(ranked[:MOST_CARDS]):
        defect, picture = finding.defect, data_uri(finding.thumbnail)
        if picture is not None and len(picture) > budget:
            picture, left_out, budget = None, left_out + 1, 0
        budget -= len(picture or "")
        places = (classes[defect.defect_class.number], severities[defect.severity])
        cards.append(_card(index, finding, places, picture))
    return Gallery(cards, len(ranked) - len(cards), left_out)


def _card(index: int, finding: Finding, places: tuple[int, int], picture: str | None) -> Card:
    defect = finding.defect
    width, height, path, plane = draw_mask(defect)
    return Card(index, defect, finding.real, *places, width, height, picture, path, plane)


def data_uri(picture: bytes | None) -> str | None:
    """A JPEG or PNG as a data: URI; None for anything else, so that no foreign format gets into the page."""
    kind = next((kind for magic, kind in _KINDS.items() if picture and picture.startswith(magic)), None)
    if picture is None or kind is None:
        return None
    return f"data:{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def draw_mask(defect: Defect) -> tuple[int, int, str, tuple[float, float, float, float]]:
    """(thumbnail width, height, outline as an SVG path, plane) of a defect; a torn mask gives an empty path."""
    try:
        window = crop_window(defect.bbox_px, defect.mask.size)
    except ValueError:
        return 1, 1, "", (0.0, 0.0, 0.0, 0.0)
    scale = thumbnail_scale(window[2], window[3])
    try:
        path = svg_path(outline(mask_in_window(defect.mask, window), scale))
    except ValueError:
        path = ""
    return *thumbnail_size(window[2], window[3]), path, _plane(defect, window, scale)


def _plane(defect: Defect, window: tuple[int, int, int, int], scale: float) -> tuple[float, float, float, float]:
    """The box's middle is the defect's position, and its size in px and mm gives the pitch."""
    box = defect.bbox_px
    across = defect.size_mm.across / max(box.width, 1)
    along = defect.size_mm.along / max(box.height, 1)
    return (
        defect.position_mm.across + (window[0] - box.x - box.width / 2) * across,
        across / scale,
        defect.position_mm.along + (window[1] - box.y - box.height / 2) * along,
        along / scale,
    )


def svg_path(contours: Sequence[NDArray[np.int32]]) -> str:
    """Closed contours as a path: absolute start, relative steps, whole thumbnail pixels."""
    parts = []
    for points in contours:
        steps = np.diff(points, axis=0).tolist()
        x, y = points[0].tolist()
        lines = " ".join(f"{dx} {dy}" for dx, dy in steps)
        parts.append(f"M{x} {y}" + (f"l{lines}" if lines else "l0 0") + "z")
    return "".join(parts)
