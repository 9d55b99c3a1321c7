"""rle: run lengths by picture and class, in the file format of the public Severstal competition.

A row is a picture and a class; all defects of that class in the picture are one mask. A picture is called as it was
when it was replayed; a frame of a live camera, or one whose name no event tells, CAMERA_SEQUENCE (CAMERA_EPOCH_SEQUENCE
when several runs saw the coil, as each counts from 0). https://www.kaggle.com/c/severstal-steel-defect-detection

Names are written as they are, so that they find their pictures again: this file is for programs, not for spreadsheets.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import BinaryIO

import numpy as np

from inspector import rle
from inspector.errors import InspectorError, JournalError
from inspector.events import Defect, Event, Gap
from inspector.export import cutting
from inspector.export.spool import Spool

HEADER = ("ImageId", "ClassId", "EncodedPixels")

Camera = tuple[int, str]
"""(epoch, camera): frames are counted in each run of each camera."""


@dataclass(slots=True)
class Remarks:
    """What a user must know of the file that was written."""

    uncut: int = 0
    """Defects left out, as the heights of their frames are not known."""
    unsegmented: int = 0
    """Defects left out, as they were not segmented."""
    unnamed: int = 0
    """Replayed frames that no event names."""


@dataclass(slots=True)
class _Known:
    """What the events of a coil tell of its frames."""

    epochs: set[int] = field(default_factory=set)
    heights: dict[Camera, set[int]] = field(default_factory=dict)
    names: dict[tuple[Camera, int], str | None] = field(default_factory=dict)
    """Frames behind the first of a replayed defect; None: no event names them."""


def write(read: Callable[[], Iterable[Event]], out: BinaryIO) -> Remarks:
    """`read` gives the coil's defects and gaps from the start each time it is called.

    Raises:
        InspectorError: two pictures of different sizes have one name.
        JournalError: a mask is no mask.
    """
    known, remarks = _learn(read), Remarks()
    remarks.unnamed = sum(name is None for name in known.names.values())
    pictures: dict[str, tuple[int, tuple[int, int]]] = {}
    with Spool() as spool:
        for event in read():
            if isinstance(event.data, Defect):
                for name, size, runs in _pieces(event, event.data, known, remarks):
                    number = _numbered(pictures, name, size)
                    spool.add(number, event.data.defect_class.number, runs.tobytes())
        _rows(spool, list(pictures), out)
    return remarks


def _rows(spool: Spool, names: list[str], out: BinaryIO) -> None:
    stream = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)
        for (number, class_number), group in groupby(spool.ordered(), key=lambda entry: entry[:2]):
            pieces = [np.frombuffer(raw, dtype=np.int64).reshape(-1, 2) for _, _, raw in group]
            writer.writerow((names[number], int(class_number), cutting.text(cutting.united(pieces))))
    finally:
        stream.detach()


def _numbered(pictures: dict[str, tuple[int, tuple[int, int]]], name: str, size: tuple[int, int]) -> int:
    number, known = pictures.setdefault(name, (len(pictures), size))
    if known != size:
        raise InspectorError(
            f"two pictures are called {name!r}, of {known[0]} x {known[1]} and {size[0]} x {size[1]} px: their masks "
            "cannot be told apart. Give the pictures names of their own and replay them again, or export jsonl"
        )
    return number


# ---------------------------------------------------------------- frames


def _learn(read: Callable[[], Iterable[Event]]) -> _Known:
    known = _Known()
    for event in read():
        known.epochs.add(event.epoch)
        match event.data:
            case Defect(frames=1) as data:
                known.heights.setdefault((event.epoch, data.camera), set()).add(data.mask.size[0])
            case Defect(source=str()) as data:
                for step in range(1, data.frames):
                    known.names[(event.epoch, data.camera), data.frame_sequence + step] = None
    if known.names:
        for event in read():
            if isinstance(event.data, Defect | Gap) and event.data.source is not None:
                frame = ((event.epoch, event.data.camera), event.data.frame_sequence)
                if frame in known.names:
                    known.names[frame] = event.data.source
    return known


def _pieces(
    event: Event, defect: Defect, known: _Known, remarks: Remarks
) -> Iterator[tuple[str, tuple[int, int], cutting.Runs]]:
    """(picture, its size, runs in it) for each frame that shows the defect."""
    if not defect.segmented:
        remarks.unsegmented += 1
        return
    height, width = defect.mask.size
    try:
        whole = rle.runs(defect.mask.rle, height, width)
    except ValueError as error:
        raise JournalError(f"event {event.id} has a mask that is none ({error}): the journal is damaged") from None
    heights: list[int] | None = [height]
    if defect.frames > 1:
        heights = cutting.heights(height, defect.frames, known.heights.get((event.epoch, defect.camera), set()))
    if heights is None:
        remarks.uncut += 1
        return
    for step, runs in enumerate(cutting.cut(whole, heights) if len(heights) > 1 else [whole]):
        if len(runs):
            yield _name(event, defect, step, known), (heights[step], width), runs


def _name(event: Event, defect: Defect, step: int, known: _Known) -> str:
    sequence = defect.frame_sequence + step
    name = defect.source if step == 0 else known.names.get(((event.epoch, defect.camera), sequence))
    run = f"_{event.epoch}" if len(known.epochs) > 1 else ""
    return name or f"{defect.camera}{run}_{sequence}"
