"""What a training shows an engineer: its losses as a curve, and the frames that it is fed. PNG, drawn by OpenCV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.files import write_whole

if TYPE_CHECKING:  # evaluate draws with this too, and needs no torch
    from build_engines.losses import Raw

Colour = tuple[int, int, int]
Canvas = NDArray[np.uint8]

SIZE = (480, 900)
MARGIN = 60
INK, GRID, LOSS, CHECK = (40, 40, 40), (220, 220, 220), (200, 120, 30), (30, 60, 210)
"""Blue, green, red."""

CLASS_COLOURS: tuple[Colour, ...] = ((60, 220, 60), (60, 140, 255), (255, 160, 60), (220, 80, 220), (60, 220, 220))
SHOWN = 8
"""Examples on a sheet."""

SHEET_WIDTH = 800


class Log:
    """The losses of one network's training, in <network>.csv: step, loss, and the validation loss where it was taken.

    What a killed training logged behind its checkpoint is dropped, for it comes again.
    """

    def __init__(self, file: Path, step: int) -> None:
        self.file = file
        self.first = step
        rows = _read(file)[:step]
        self._rows = rows + [(number + 1, math.nan, math.nan) for number in range(len(rows), step)]
        self._checks: dict[int, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()

    @property
    def taken(self) -> int:
        """Steps in the log."""
        return len(self._rows)

    def check(self, step: int, loss: float) -> None:
        self._checks[step] = loss

    def add(self, values: Sequence[float]) -> None:
        """The losses of the steps that follow those in the log."""
        for value in values:
            step = len(self._rows) + 1
            self._rows.append((step, value, self._checks.get(step, math.nan)))
        self._write()

    def last(self, count: int) -> list[float]:
        return [loss for _, loss, _ in self._rows[-count:]] or [math.nan]

    def _write(self) -> None:
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(["step", "loss", "validation_loss"])
        table.writerows(
            (step, f"{loss:.5f}", "" if math.isnan(own) else f"{own:.5f}") for step, loss, own in self._rows
        )
        write_whole(self.file, text.getvalue().encode())

    def draw(self, file: Path, title: str) -> None:
        """Both losses over the steps."""
        known = [(step, loss) for step, loss, _ in self._rows if not math.isnan(loss)]
        losses = np.array([loss for _, loss in known])
        width = max(1, len(losses) // 60)
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid") if len(losses) else losses
        steps = [step for step, _ in known[width - 1 :]]
        checks = [(step, own) for step, _, own in self._rows if not math.isnan(own)]
        lines = [
            ("training loss (smoothed)", LOSS, list(zip(steps, smooth.tolist(), strict=True))),
            ("validation loss", CHECK, checks),
        ]
        write_png(file, curve(title, lines))


def _read(file: Path) -> list[tuple[int, float, float]]:
    """The rows up to the first that is torn: a curve is worth no training that does not go on."""
    rows: list[tuple[int, float, float]] = []
    if file.is_file():
        with (
            file.open(newline="", encoding="utf-8", errors="replace") as stream,
            suppress(KeyError, TypeError, ValueError, AttributeError, csv.Error),  # of a cell that is cut off, or gone
        ):
            for row in csv.DictReader(stream):
                own = row["validation_loss"].strip() or "nan"
                rows.append((int(row["step"]), float(row["loss"]), float(own)))
    return rows


def curve(title: str, lines: Sequence[tuple[str, Colour, Sequence[tuple[float, float]]]]) -> Canvas:
    """A chart of named lines of (x, y), uint8 [H, W, 3]."""
    canvas = np.full((*SIZE, 3), 255, np.uint8)
    points = [point for _, _, own in lines for point in own]
    right = max((x for x, _ in points), default=1.0)
    top = max((y for _, y in points), default=1.0) * 1.05 or 1.0
    for part in range(6):
        y = _place(0, top * part / 5, right, top)[1]
        cv2.line(canvas, (MARGIN, y), (SIZE[1] - 20, y), GRID, 1)
        _text(canvas, f"{top * part / 5:.3g}", (6, y + 4), INK)
        _text(canvas, f"{right * part / 5:.0f}", (_place(right * part / 5, 0, right, top)[0] - 12, SIZE[0] - 36), INK)
    for number, (name, colour, own) in enumerate(lines):
        path = np.array([_place(x, y, right, top) for x, y in own], np.int32).reshape(-1, 1, 2)
        cv2.polylines(canvas, [path], False, colour, 2, cv2.LINE_AA)
        _text(canvas, name, (MARGIN + 220 * number, SIZE[0] - 12), colour)
    _text(canvas, title, (MARGIN, 24), INK, 0.6)
    return canvas


def _place(x: float, y: float, right: float, top: float) -> tuple[int, int]:
    width, height = SIZE[1] - MARGIN - 20, SIZE[0] - 2 * MARGIN + 16
    return MARGIN + round(width * x / max(right, 1e-9)), 40 + round(height * (1 - y / max(top, 1e-9)))


def _text(canvas: Canvas, text: str, at: tuple[int, int], colour: Colour, size: float = 0.42) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def examples(raw: Raw, file: Path) -> None:
    """A sheet of the first frames of a batch, each class's truth outlined in its colour."""
    rows = []
    for frame, pixels in list(zip(raw.frames[:, 0].numpy(), raw.pixels.numpy(), strict=True))[:SHOWN]:
        canvas = np.repeat(frame[:, :, None], 3, axis=2)
        for position, share in enumerate(pixels):
            mask = cv2.resize(share, frame.shape[::-1], interpolation=cv2.INTER_NEAREST) > 127
            outline(canvas, mask, CLASS_COLOURS[position % len(CLASS_COLOURS)])
        rows.append(_fitted(canvas))
    write_png(file, np.concatenate(rows))


def outline(canvas: Canvas, mask: NDArray[np.bool_], colour: Colour, thickness: int = 1) -> None:
    """Draw a mask's outline, in place."""
    found = cv2.findContours(np.ascontiguousarray(mask, np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    cv2.drawContours(canvas, found, -1, colour, thickness)


def _fitted(canvas: Canvas) -> Canvas:
    """At most SHEET_WIDTH wide, with a line below."""
    shrink = min(1.0, SHEET_WIDTH / canvas.shape[1])
    size = (max(1, round(canvas.shape[1] * shrink)), max(1, round(canvas.shape[0] * shrink)))
    small: Any = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    return np.pad(small, ((0, 4), (0, 0), (0, 0)), constant_values=255)


def png(canvas: Canvas) -> bytes:
    """A picture as PNG."""
    return cv2.imencode(".png", canvas)[1].tobytes()


def write_png(file: Path, canvas: Canvas) -> None:
    """Write a picture as PNG, whole."""
    write_whole(file, png(canvas))
