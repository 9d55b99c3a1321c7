"""The one data format, the public Severstal competition's, read as a stream.

images/       pictures of any kind and size that OpenCV opens, whatever their suffix says (or train_images/)
train.csv     ImageId, ClassId, EncodedPixels   (inspector.rle's run lengths), or ImageId_ClassId, EncodedPixels
images.csv    ImageId, Labelled, Group, ...     optional. Labelled 0: nobody knows what is on the picture. Group (may be
                                                left out): pictures that belong together in a split.
                                                Without the file a picture that train.csv does not name is clean.

Only names and run lengths stay in memory; pictures are decoded when they are asked for.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from inspector import rle
from inspector.errors import ConfigError

CACHED_PICTURES = 256
"""Pictures (and masks) kept in memory by a process: about 100 MiB of the reference format, however large the set."""

BLACK = 12
"""Grey up to which a pixel counts as beyond the strip's edge."""

FOLDERS = ("images", "train_images")
"""Where the pictures lie; the second is the competition's own name."""

COLUMNS = "ImageId,ClassId,EncodedPixels"
TAIL_BYTES = 4096
"""A whole JPEG or PNG has its end mark within this of the end of the file."""

Picture = NDArray[np.uint8]
Masks = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """A picture and what is known of it."""

    name: str
    path: Path
    truth: dict[int, str] | None = field(hash=False)
    """Class number -> run lengths; empty: clean; None: unknown."""
    group: str | None = None
    """What images.csv says it belongs to."""
    places: dict[int, str] = field(default_factory=dict, hash=False, compare=False)
    """Class number -> `file:line` of its mask, for messages."""

    @property
    def labelled(self) -> bool:
        return self.truth is not None

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(sorted(self.truth or ()))

    def area_px(self, number: int) -> int:
        """Pixels of a class, from its run lengths alone."""
        return sum(map(int, (self.truth or {}).get(number, "").split()[1::2]))


def read(folder: Path, names: Mapping[int, str] | None = None) -> list[Sample]:
    """The samples of a data folder, by name; with `names`, every class must be one of them.

    Raises:
        ConfigError: the folder is not in the format, or a row names a picture or a class that there is not. The
            message begins with the file, and with the line where there is one.
    """
    pictures = _pictures(folder)
    truth: dict[str, dict[int, str]] = {}
    places: dict[str, dict[int, str]] = {}
    for place, name, number, text in _rows(folder / "train.csv"):
        if name not in pictures:
            raise ConfigError(f"{place}: names {name}, which is not in images/. Complete the folder, or remove the row")
        if names and number not in names:
            known = ", ".join(map(str, sorted(names)))
            raise ConfigError(f"{place}: class {number} is unknown; the names give {known}. Name it, or mend the row")
        if number in places.setdefault(name, {}):
            raise ConfigError(f"{place}: {name} has class {number} twice, first at {places[name][number]}. Merge them")
        places[name][number] = place
        truth.setdefault(name, {})[number] = text
    labelled, group_of = _listed(folder / "images.csv", pictures, truth)
    return [
        Sample(name, path, truth.get(name, {}) if name in labelled else None, group_of.get(name), places.get(name, {}))
        for name, path in pictures.items()
    ]


def _pictures(folder: Path) -> dict[str, Path]:
    for own in FOLDERS:
        found = {path.name: path for path in sorted((folder / own).glob("*")) if path.is_file()}
        if found:
            return found
    raise ConfigError(f"{folder / FOLDERS[0]}: no pictures. Name a folder with images/ and train.csv")


def _rows(file: Path) -> Iterator[tuple[str, str, int, str]]:
    """`file:line`, picture, class and run lengths of each mask; rows without run lengths say nothing."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream)
            joined = "ImageId_ClassId" in (table.fieldnames or ())
            for row in table:
                place = f"{file}:{table.line_num}"
                try:
                    name, _, number = row["ImageId_ClassId"].rpartition("_") if joined else (row["ImageId"], "", "")
                    text = row["EncodedPixels"].strip()
                    if text:
                        yield place, name, int(number if joined else row["ClassId"]), text
                except (KeyError, ValueError, AttributeError):
                    raise ConfigError(f"{place}: not in columns {COLUMNS}. Mend its heading and rows") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}. The folder needs it, if only with its heading") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: not a CSV table in UTF-8: {error}. Save it as one") from None


def _listed(
    file: Path, pictures: Mapping[str, Path], truth: Mapping[str, Mapping[int, str]]
) -> tuple[set[str], dict[str, str]]:
    """Who is labelled, and the groups, as images.csv says; without the file everyone is.

    Where it lists the classes, they are held against train.csv: a table that lost rows would make defects clean.
    """
    if not file.is_file():
        return set(pictures), {}
    labelled, groups = set[str](), dict[str, str]()
    with file.open(newline="", encoding="utf-8-sig") as stream:
        table = csv.DictReader(stream)
        if not {"ImageId", "Labelled"} <= set(table.fieldnames or ()):
            raise ConfigError(f"{file}:1: needs the columns ImageId,Labelled. Mend its heading, or remove the file")
        for row in table:
            name, said = row["ImageId"], (row["Labelled"] or "").strip()
            if said not in ("0", "1"):
                raise ConfigError(f"{file}:{table.line_num}: Labelled is {said!r}, not 0 or 1. Mend the row")
            if name not in pictures:
                raise ConfigError(f"{file}:{table.line_num}: {name} is not in images/. Complete the folder")
            if said == "1":
                labelled.add(name)
                listed = (row.get("Classes") or "").split()
                if "Classes" in row and sorted(listed) != sorted(map(str, truth.get(name, {}))):
                    have = " ".join(map(str, sorted(truth.get(name, {})))) or "none"
                    place = f"{file}:{table.line_num}"
                    raise ConfigError(
                        f"{place}: Classes of {name} are {row['Classes']!r}; train.csv has {have}. Mend one"
                    )
            if (row.get("Group") or "").strip():
                groups[name] = row["Group"].strip()
    return labelled, groups


def read_names(file: Path | None) -> dict[int, str]:
    """Class number -> name of a YAML file; nothing where there is none."""
    if file is None:
        return {}
    try:
        return {int(number): str(name) for number, name in yaml.safe_load(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {error}. Write one line for each class, such as `1: pits`") from None


def class_numbers(samples: Iterable[Sample]) -> list[int]:
    """Every class number that any sample has, in order."""
    return sorted({number for sample in samples for number in sample.classes})


def check(samples: Sequence[Sample]) -> None:
    """Decode every picture and mask once, so that a bad one is told now and not in the middle of a training."""
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(_check, samples, chunksize=16):
            pass


def _check(sample: Sample) -> None:
    _decoded_masks(sample, *decode(sample.path).shape)


@functools.lru_cache(maxsize=CACHED_PICTURES)
def picture(sample: Sample) -> Picture:
    """The grey picture, uint8 [height, width]. Treat it as read-only: it is cached. Raises as `decode` does."""
    return decode(sample.path)


def decode(path: Path) -> Picture:
    """A grey picture from a file.

    Raises:
        ConfigError: the file is missing, no picture, or ends too early.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Restore the picture") from None
    whole = _whole(raw)
    decoded = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_GRAYSCALE) if raw and whole else None
    if decoded is None:
        what = "not a picture" if whole else "the picture is torn: it ends too early"
        raise ConfigError(f"{path}: {what}. Remove it or replace it")
    return np.asarray(decoded, dtype=np.uint8)


def _whole(raw: bytes) -> bool:
    """OpenCV fills a torn JPEG up with grey and says nothing, so its end mark is looked for."""
    if raw.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in raw[-TAIL_BYTES:]
    return b"IEND" in raw[-TAIL_BYTES:] if raw.startswith(b"\x89PNG") else True


@functools.lru_cache(maxsize=CACHED_PICTURES)
def _masks_present(sample: Sample) -> dict[int, NDArray[np.bool_]]:
    return _decoded_masks(sample, *picture(sample).shape)


def _decoded_masks(sample: Sample, height: int, width: int) -> dict[int, NDArray[np.bool_]]:
    found = {}
    for number, text in (sample.truth or {}).items():
        try:
            found[number] = rle.decode(text, height, width)
        except ValueError as error:
            place = sample.places.get(number, "train.csv")
            raise ConfigError(f"{place}: mask of {sample.name}: {error}. Mend the row") from None
    return found


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
