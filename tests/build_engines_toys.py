"""Frames that a network learns in a minute, as a data folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from build_engines import datasets, synthesize

HEIGHT, WIDTH = 64, 256

ToyFrame = tuple[str, datasets.Picture, dict[int, datasets.Picture]]


def toy_frame(number: int) -> ToyFrame:
    """A grey frame; of four in a row two are clean, one has a bright spot (class 1), one a dark bar (class 2)."""
    rng = np.random.default_rng(number)
    frame = np.clip(rng.normal(90 + 5 * (number % 7), 6, (HEIGHT, WIDTH)), 30, 255).astype(np.uint8)
    mask = np.zeros_like(frame)
    kind = {1: 1, 3: 2}.get(number % 4)
    x, y = int(rng.integers(24, WIDTH - 24)), int(rng.integers(18, HEIGHT - 18))
    if kind == 1:
        cv2.circle(mask, (x, y), 12, 1, -1)
        frame[mask > 0] = 230
    if kind == 2:
        cv2.rectangle(mask, (x - 5, 4), (x + 5, HEIGHT - 5), 1, -1)
        frame[mask > 0] = 22
    return f"toy_{number:03d}.png", frame, {kind: mask} if kind else {}


def toy_frames(count: int) -> Iterator[ToyFrame]:
    return (toy_frame(number) for number in range(count))


def write_toys(folder: Path, count: int = 64) -> Path:
    """A data folder of so many toys; every four of them are one group."""
    synthesize.write(toy_frames(count), folder)
    rows = [f"toy_{number:03d}.png,1,roll {number // 4}" for number in range(count)]
    (folder / "images.csv").write_text("\n".join(["ImageId,Labelled,Group", *rows]) + "\n")
    return folder
