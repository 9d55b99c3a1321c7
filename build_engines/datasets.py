"""The one data format, the public Severstal competition's, read as a stream; and splits by look-alike group.

images/       pictures of any kind that OpenCV opens, whatever their suffix says
train.csv     ImageId, ClassId, EncodedPixels   (inspector.rle's run lengths)
images.csv    ImageId, Labelled, ...            optional. Labelled 0: nobody knows what is on the picture.
                                                Without the file a picture that train.csv does not name is clean.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector import rle
from inspector.errors import ConfigError

CACHED_PICTURES = 256
"""Pictures (and masks) kept in memory: about 100 MiB of the reference format, however large the set."""

BLACK = 12
"""Grey up to which a pixel counts as beyond the strip's edge."""

Picture = NDArray[np.uint8]
Masks = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """A picture and what is known of it."""

    name: str
    path: Path
    truth: dict[int, str] | None = field(hash=False)
    """Class number -> run lengths; empty: clean; None: unknown."""

    @property
    def labelled(self) -> bool:
        return self.truth is not None

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(sorted(self.truth or ()))


def read(folder: Path) -> list[Sample]:
    """The samples of a data folder, by name.

    Raises:
        ConfigError: the folder is not in the format, or a row names a picture that is not there.
    """
    pictures = {path.name: path for path in sorted((folder / "images").glob("*")) if path.is_file()}
    if not pictures:
        raise ConfigError(f"{folder / 'images'}: no pictures. Name a folder with images/ and train.csv")
    truth = _truth(folder / "train.csv")
    strangers = sorted(set(truth) - set(pictures))
    if strangers:
        raise ConfigError(f"{folder / 'train.csv'}: names {strangers[0]}, which is not in images/. Complete the folder")
    known = _labelled(folder / "images.csv", set(pictures))
    return [Sample(name, path, truth.get(name, {}) if name in known else None) for name, path in pictures.items()]


def _truth(file: Path) -> dict[str, dict[int, str]]:
    truth: dict[str, dict[int, str]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if row["EncodedPixels"].strip():
                    truth.setdefault(row["ImageId"], {})[int(row["ClassId"])] = row["EncodedPixels"]
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}. The folder needs it, if only with its heading") from None
    except (KeyError, ValueError, AttributeError):
        raise ConfigError(f"{file}: not in columns ImageId,ClassId,EncodedPixels. Mend its heading and rows") from None
    return truth


def _labelled(file: Path, names: set[str]) -> set[str]:
    if not file.is_file():
        return names
    with file.open(newline="", encoding="utf-8") as stream:
        return {row["ImageId"] for row in csv.DictReader(stream) if row["Labelled"].strip() == "1"}


def class_numbers(samples: Iterable[Sample]) -> list[int]:
    """Every class number that any sample has, in order."""
    return sorted({number for sample in samples for number in sample.classes})


@functools.lru_cache(maxsize=CACHED_PICTURES)
def picture(sample: Sample) -> Picture:
    """The grey picture, uint8 [height, width]. Treat it as read-only: it is cached.

    Raises:
        ConfigError: the file is no picture.
    """
    raw = np.fromfile(sample.path, dtype=np.uint8)
    decoded = cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE) if raw.size else None
    if decoded is None:
        raise ConfigError(f"{sample.path}: not a picture. Remove it or replace it")
    return np.asarray(decoded, dtype=np.uint8)


@functools.lru_cache(maxsize=CACHED_PICTURES)
def _masks_present(sample: Sample) -> dict[int, NDArray[np.bool_]]:
    height, width = picture(sample).shape
    try:
        return {number: rle.decode(text, height, width) for number, text in (sample.truth or {}).items()}
    except ValueError as error:
        raise ConfigError(f"train.csv: mask of {sample.name}: {error}. Mend the row") from None


def masks(sample: Sample, classes: Sequence[int]) -> Masks:
    """Truth, uint8 0 or 1, [classes, height, width] in the order of `classes`; the caller owns it."""
    found = np.zeros((len(classes), *picture(sample).shape), dtype=np.uint8)
    for number, mask in _masks_present(sample).items():
        if number in classes:
            found[list(classes).index(number)] = mask
    return found


def fit(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut and zero-pad the last two axes to height x width, from the top left corner."""
    cut = pixels[..., :height, :width]
    missing = [(0, 0)] * (cut.ndim - 2) + [(0, height - cut.shape[-2]), (0, width - cut.shape[-1])]
    return np.ascontiguousarray(np.pad(cut, missing))
