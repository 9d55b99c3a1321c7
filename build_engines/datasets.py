"""The one data format, the public Severstal competition's, read as a stream.

images/       pictures of 8 bits as the line's replay takes them, whatever their suffix says (or train_images/)
train.csv     ImageId, ClassId, EncodedPixels   (inspector.rle's run lengths), or ImageId_ClassId, EncodedPixels
images.csv    ImageId, Labelled, Group, ...     optional. Labelled 0: nobody knows what is on the picture. Group (may be
                                                left out): pictures that belong together in a split.
                                                Without the file a picture that train.csv does not name is clean.

Only names and run lengths stay in memory; pictures are decoded when they are asked for.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from build_engines.caching import Cached
from build_engines.progress import shown
from inspector import rle
from inspector.cameras._pictures import decode as decode_bytes
from inspector.cameras._pictures import inspect
from inspector.cameras._shots import MAX_PX, Unreadable
from inspector.errors import ConfigError

LOG = logging.getLogger(__name__)

CACHED_BYTES = 100_000_000
"""Of pictures, and as much again of masks, that a process keeps in memory, however large the set and its frames are."""

csv.field_size_limit(8 * MAX_PX)  # a ragged mask is one long cell: half as many runs as pixels, 12 characters each

BLACK = 12
"""Grey up to which a pixel counts as beyond the strip's edge."""

FOLDERS = ("images", "train_images")
"""Where the pictures lie; the second is the competition's own name."""

LISTED = "images.csv"

COLUMNS = "ImageId,ClassId,EncodedPixels"

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
    """The samples of a data folder, by name; with `names`, every class must be one of them, and should have a mask.

    Raises:
        ConfigError: the folder is not in the format, or a row names a picture or a class that there is not. The
            message begins with the file, and with the line where there is one.
    """
    samples = _told(folder, _pictures(folder), names, "is not in images/. Complete the folder, or remove the row")
    tell_unseen(names or {}, class_numbers(samples), folder)
    return samples


def with_labels(samples: Sequence[Sample], folder: Path, names: Mapping[int, str] | None = None) -> list[Sample]:
    """The samples, and the labels that `folder` (train.csv and images.csv, no pictures) has of some whose truth is
    unknown: what somebody saw on them, to learn from and never to measure by.

    Raises:
        ConfigError: the folder is not in the format, or labels what is no sample or is known already.
    """
    if not (folder / LISTED).is_file():
        raise ConfigError(
            f"{folder / LISTED}: not there. List in it, with Labelled 1, the pictures that were looked at"
        )
    unknown = {sample.name: sample.path for sample in samples if not sample.labelled}
    told = _told(folder, unknown, names, "is no unlabelled picture of the data. Remove the row")
    by_name = {sample.name: sample for sample in told if sample.labelled}
    return [replace(by_name.get(sample.name, sample), group=sample.group) for sample in samples]


def _told(folder: Path, pictures: Mapping[str, Path], names: Mapping[int, str] | None, strange: str) -> list[Sample]:
    """What the tables of a folder tell of the pictures; `strange`: what to say of a row of another one."""
    truth: dict[str, dict[int, str]] = {}
    places: dict[str, dict[int, str]] = {}
    for place, name, number, text in _rows(folder / "train.csv"):
        if name not in pictures:
            raise ConfigError(f"{place}: names {name}, which {strange}")
        if names and number not in names:
            known = ", ".join(map(str, sorted(names)))
            raise ConfigError(f"{place}: class {number} is unknown; the names give {known}. Name it, or mend the row")
        if number in places.setdefault(name, {}):
            raise ConfigError(f"{place}: {name} has class {number} twice, first at {places[name][number]}. Merge them")
        places[name][number] = place
        truth.setdefault(name, {})[number] = text
    labelled, group_of = _listed(folder / LISTED, pictures, truth, strange)
    return [
        Sample(name, path, truth.get(name, {}) if name in labelled else None, group_of.get(name), places.get(name, {}))
        for name, path in pictures.items()
    ]


def tell_unseen(names: Mapping[int, str], classes: Iterable[int], where: Path) -> None:
    """Warn of classes that are named and that there is no mask of, for a pack without them says nothing of them."""
    unseen = [f"{number} {name}" for number, name in sorted(names.items()) if number not in set(classes)]
    if unseen:
        LOG.warning("%s: no mask of the named %s: the pack will not know of it", where, ", ".join(unseen))


def _pictures(folder: Path) -> dict[str, Path]:
    """By name; hidden files, which other systems leave behind, are none."""
    for own in FOLDERS:
        found = {path.name: path for path in sorted((folder / own).glob("[!.]*")) if path.is_file()}
        if found:
            return found
    raise ConfigError(f"{folder / FOLDERS[0]}: no pictures. Name a folder with images/ and train.csv")


def _rows(file: Path) -> Iterator[tuple[str, str, int, str]]:
    """`file:line`, picture, class and run lengths of each mask; rows without run lengths say nothing."""
    with _table(file) as table:
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


@contextmanager
def _table(file: Path) -> Iterator[csv.DictReader[str]]:
    """A CSV file.

    Raises:
        ConfigError: it cannot be read, or is none in UTF-8.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            yield csv.DictReader(stream)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}. The folder needs it, if only with its heading") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: not a CSV table in UTF-8: {error}. Save it as one") from None


def _listed(
    file: Path, pictures: Mapping[str, Path], truth: Mapping[str, Mapping[int, str]], strange: str
) -> tuple[set[str], dict[str, str]]:
    """Who is labelled, and the groups, as images.csv says; without the file everyone is.

    Where it lists the classes, they are held against train.csv: a table that lost rows would make defects clean.
    """
    if not file.is_file():
        return set(pictures), {}
    labelled, groups = set[str](), dict[str, str]()
    with _table(file) as table:
        if not {"ImageId", "Labelled"} <= set(table.fieldnames or ()):
            raise ConfigError(f"{file}:1: needs the columns ImageId,Labelled. Mend its heading, or remove the file")
        for row in table:
            name, said = row["ImageId"], (row["Labelled"] or "").strip()
            if said not in ("0", "1"):
                raise ConfigError(f"{file}:{table.line_num}: Labelled is {said!r}, not 0 or 1. Mend the row")
            if name not in pictures:
                raise ConfigError(f"{file}:{table.line_num}: {name} {strange}")
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
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: {reason}. Write one line for each class, such as `1: pits`") from None


def class_numbers(samples: Iterable[Sample]) -> list[int]:
    """Every class number that any sample has, in order."""
    return sorted({number for sample in samples for number in sample.classes})


def strange(samples: Iterable[Sample], known: Container[int]) -> tuple[str, int] | None:
    """Where the samples first have a class that is not known, and which; of several the lowest. None: all are known."""
    found = [(number, sample) for sample in samples for number in sample.classes if number not in known]
    if not found:
        return None
    number, sample = min(found, key=lambda one: one[0])
    return sample.places.get(number, sample.name), number


def check(samples: Sequence[Sample]) -> None:
    """Decode every picture and mask once, so that a bad one is told now and not in the middle of a training."""
    with ThreadPoolExecutor() as pool:
        for _ in shown(pool.map(_check, samples), "looking at the pictures", len(samples)):
            pass


def _check(sample: Sample) -> None:
    _decoded_masks(sample, *decode(sample.path).shape)


def picture(sample: Sample) -> Picture:
    """The grey picture, uint8 [height, width]. Treat it as read-only: it is cached. Raises as `decode` does."""
    return _pictures_kept(sample.path)


def decode(path: Path) -> Picture:
    """A grey picture from a file, as the daemon's replay reads it.

    Raises:
        ConfigError: the file is missing, torn, no picture, not of 8 bits, or of several pages.
    """
    try:
        raw = path.read_bytes()
        header = inspect(raw)
        if len(header.pages) > 1:
            raise Unreadable(f"has {len(header.pages)} pages; write each into a file of its own")
        return decode_bytes(raw, header, header.pages[0])
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Restore the picture") from None
    except Unreadable as error:
        raise ConfigError(f"{path}: {error}, or remove it") from None


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
    for number, mask in _masks_kept(sample).items():
        if number in classes:
            found[list(classes).index(number)] = mask
    return found


_pictures_kept = Cached(decode, lambda pixels: pixels.nbytes, CACHED_BYTES)
_masks_kept = Cached(_masks_present, lambda found: sum(mask.nbytes for mask in found.values()), CACHED_BYTES)


def fit(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut and zero-pad the last two axes to height x width, from the top left corner."""
    cut = pixels[..., :height, :width]
    missing = [(0, 0)] * (cut.ndim - 2) + [(0, height - cut.shape[-2]), (0, width - cut.shape[-1])]
    return np.ascontiguousarray(np.pad(cut, missing))
