"""Frames that nobody had to label: the synthetic strip, and real steel with painted or transplanted defects.

Painted defects take size, place and class from real masks of frames that are not here (`mask_shapes.csv`) and their
looks from the painter of the synthetic strip; transplanted ones are real defects of other frames of the training part.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from build_engines.datasets import BLACK, Masks, Picture, Sample, masks, picture
from inspector import rle
from inspector.errors import ConfigError
from inspector.steel import Strip
from inspector.steel.marks import Patch, patch

HEIGHT, WIDTH = 256, 1600
KINDS = {1: ("pits",), 2: ("line",), 3: ("scratch", "abrasion", "scuff"), 4: ("torn",)}
"""Defect class -> the painters that show it."""

PSEUDO_KINDS = ("paint", "stamp", "stain", "flakes", "drip")
CERTAIN = 255
"""Truth of a pixel that is defect; frames that a teacher labelled have any value."""

SMALLEST_PX = 8
THINNEST_PX = 3
"""Of a donor; its longer side has SMALLEST_PX at least."""

RIM_PX = 8
"""Surroundings that a transplanted defect brings along."""

NEAR_EDGE_PX, NEAR_EDGE_SHARE = 160, 0.8
"""A class most of whose defects lie so near an edge of the strip belongs there."""

MOST_DONORS = 300
TRIES = 8
STRIP_RATES = {1: 0.5, 2: 0.4, 3: 0.6, 4: 0.35}
STRIP_PSEUDO_RATE = 0.9
"""Blemishes per 1,000 lines of a training strip: far denser than real, for frames are dear and lines are not."""

FRAMES_A_STRIP = 10

SLIVER_PX = 150
"""Frames that hold less than this of a defect are left out: on a line the neighbouring frame shows the rest of it."""


@dataclass(frozen=True)
class Shape:
    """Box of one real defect on a 256 x 1600 frame, px."""

    defect_class: int
    top: int
    left: int
    height: int
    width: int


def read_shapes(file: Path, classes: Sequence[int]) -> list[Shape]:
    """The components of the masks in a `mask_shapes.csv`, of the given classes only.

    Raises:
        ConfigError: it cannot be read, holds no such masks, or none of these classes.
    """
    shapes = []
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if int(row["ClassId"]) in classes and int(row["ClassId"]) in KINDS:
                    shapes += [Shape(int(row["ClassId"]), *box) for box in _boxes_of(row["EncodedPixels"])]
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}. Name a mask_shapes.csv, or leave --shapes out") from None
    except (csv.Error, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{file}: not masks of {HEIGHT} x {WIDTH} px in columns ImageId,ClassId,EncodedPixels: {error!r}. "
            "Mend it, or leave --shapes out"
        ) from None
    if not shapes:
        raise ConfigError(f"{file}: no mask of any of the classes {list(classes)}. Name another file, or none")
    return shapes


def _boxes_of(text: str) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of a mask of 256 x 1600 px; only the columns between its first and its last run are unrolled."""
    numbers = np.array(text.split(), dtype=np.int64)
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    first, last = int(starts.min()) // HEIGHT, int((starts + lengths).max() - 1) // HEIGHT
    flat = np.zeros((last - first + 1) * HEIGHT, dtype=np.uint8)
    for start, length in zip((starts - first * HEIGHT).tolist(), lengths.tolist(), strict=True):
        flat[start : start + length] = 1
    for left, top, width, height in _boxes(flat.reshape(-1, HEIGHT)):
        yield top, first + left, height, width


def _boxes(mask: Picture) -> Iterator[tuple[int, int, int, int]]:
    """Top, left, height, width of each component."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    for left, top, width, height, _ in stats[1:count].tolist():
        if max(width, height) >= SMALLEST_PX and min(width, height) >= THINNEST_PX:
            yield top, left, height, width


Place = tuple[int, int]
"""Top and left, px; it may lie beyond the frame."""


def paint(
    pixels: Picture,
    truth: Masks,
    position: int,
    shape: Shape,
    rng: np.random.Generator,
    place: Place | None = None,
    elsewhere: bool = True,
) -> bool:
    """Paint a defect of a shape's class and size into a frame, in place; False where there is no steel for it.

    Args:
        place: where it shall lie.
        elsewhere: where it cannot lie there, any other place will do.
    """
    kind = str(rng.choice(KINDS[shape.defect_class]))
    return _lay(pixels, truth, position, kind, (shape.height, shape.width), rng, place, elsewhere)


def paint_pseudo(pixels: Picture, truth: Masks, rng: np.random.Generator) -> bool:
    """Paint something that is no defect (paint, stamp, stain, scale, drip) into a frame, in place."""
    height, width = int(rng.integers(50, 240)), int(rng.integers(24, 110))
    return _lay(pixels, truth, None, str(rng.choice(PSEUDO_KINDS)), (height, width), rng)


def lattice(pixels: Picture, rng: np.random.Generator) -> None:
    """Emboss a chequer plate's pattern on all of a frame, in place: clean, for all its edges."""
    height, width = pixels.shape
    pitch = np.array([rng.uniform(50, 130), rng.uniform(40, 110)])
    relief = np.zeros((height, width), dtype=np.float32)
    thickness, length = int(rng.integers(5, 14)), float(rng.choice([0.35, 0.55, 1.0]))
    shift = rng.uniform(0, 1, 2)
    for row, column in np.ndindex(int(height / pitch[0]) + 3, int(width / pitch[1]) + 3):
        middle = (np.array([row, column]) + shift - 1) * pitch
        reach = pitch / 2 * length * (1, 1 if (row + column) % 2 else -1)
        ends = [tuple(int(v) for v in point[::-1]) for point in (middle - reach, middle + reach)]
        cv2.line(relief, ends[0], ends[1], 1.0, thickness, cv2.LINE_AA)
    relief = np.asarray(cv2.GaussianBlur(relief, (0, 0), thickness / 4), dtype=np.float32)
    slope = relief - np.roll(relief, int(rng.integers(2, 5)), axis=int(rng.integers(2)))
    gain = (
        1 + float(rng.uniform(0.4, 1.2)) * float(rng.choice([-1, 1])) * slope + float(rng.uniform(-0.2, 0.3)) * relief
    )
    pixels[:] = np.clip(pixels * gain, 0, 255).astype(np.uint8)


def _lay(
    pixels: Picture,
    truth: Masks,
    position: int | None,
    kind: str,
    size: tuple[int, int],
    rng: np.random.Generator,
    place: Place | None = None,
    elsewhere: bool = True,
) -> bool:
    height, width = min(size[0], pixels.shape[0]), min(size[1], pixels.shape[1])
    found = _find_steel(pixels, truth, (height, width), rng, place, elsewhere)
    if found is None:
        return False
    blemish = patch(kind, int(rng.integers(2**31)), height, width, float(rng.uniform(0.35, 1.0)))
    _blend(pixels, blemish, found)
    if position is not None:
        top, left = found
        truth[position, top : top + height, left : left + width] |= blemish.mask.astype(np.uint8) * np.uint8(CERTAIN)
    return True


def _find_steel(
    pixels: Picture,
    truth: Masks,
    size: tuple[int, int],
    rng: np.random.Generator,
    wish: Place | None = None,
    elsewhere: bool = True,
) -> Place | None:
    """A box on the strip that touches no defect: at the wished place, else anywhere alike."""
    room = pixels.shape[0] - size[0] + 1, pixels.shape[1] - size[1] + 1
    tries = [wish] if wish is not None and 0 <= wish[0] < room[0] and 0 <= wish[1] < room[1] else []
    if elsewhere:
        tries += [(int(rng.integers(0, room[0])), int(rng.integers(0, room[1]))) for _ in range(TRIES)]
    for top, left in tries:
        box = np.s_[top : top + size[0], left : left + size[1]]
        if np.mean(pixels[box] > BLACK) > 0.97 and not truth[(slice(None), *box)].any():
            return top, left
    return None


def edges(pixels: Picture) -> tuple[int | None, int | None]:
    """Columns of the strip's first and last pixel, each None where it lies at the picture's rim or beyond."""
    strip = np.flatnonzero(np.mean(pixels > BLACK, axis=0) > 0.5)
    if not strip.size:
        return None, None
    first, last = int(strip[0]), int(strip[-1])
    return first if first >= RIM_PX else None, last if last < pixels.shape[1] - RIM_PX else None


def beside_edge(pixels: Picture, size: tuple[int, int], distance: int, rng: np.random.Generator) -> Place | None:
    """A place for a box whose middle is `distance` px from an edge of the strip; None where no edge shows."""
    columns = [
        edge + inwards * distance for edge, inwards in zip(edges(pixels), (1, -1), strict=True) if edge is not None
    ]
    if not columns:
        return None
    column = columns[int(rng.integers(len(columns)))]
    return int(rng.integers(0, max(1, pixels.shape[0] - size[0] + 1))), column - size[1] // 2


def cut_margin(pixels: Picture, truth: Masks, rng: np.random.Generator) -> None:
    """End the strip somewhere inside a frame, in place: what lies beyond is black, but for the sensor's noise."""
    width = pixels.shape[1]
    margin = int(rng.integers(width // 16, width // 2))
    beyond = slice(0, margin) if rng.random() < 0.5 else slice(width - margin, width)
    noise = rng.normal(0, 1.5, pixels[:, beyond].shape)
    pixels[:, beyond] = np.clip(noise, 0, BLACK // 2).astype(np.uint8)
    truth[..., beyond] = 0


def _blend(pixels: Picture, blemish: Patch, place: tuple[int, int]) -> None:
    top, left = place
    height, width = blemish.gain.shape
    part = pixels[top : top + height, left : left + width]
    light = min(1.0, float(part.mean()) / 90.0)
    part[:] = np.clip(part * blemish.gain + blemish.add * light, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Donor:
    """A real defect with a rim of its surroundings."""

    position: int
    pixels: Picture
    mask: Picture
    from_edge: int | None = None
    """From its middle to the nearest edge of the strip, px; None: no edge was in its picture."""


def donors(samples: Sequence[Sample], classes: Sequence[int], seed: int = 1) -> list[Donor]:
    """Components of the samples' defects, at most MOST_DONORS of each class, so that a large set stays on the disk."""
    found: dict[int, list[Donor]] = {position: [] for position in range(len(classes))}
    order = np.random.default_rng(seed).permutation(len(samples))
    for sample in (samples[index] for index in order):
        wanted = [
            position
            for position, own in found.items()
            if len(own) < MOST_DONORS and classes[position] in sample.classes
        ]
        if wanted:
            grey, truth = picture(sample), masks(sample, classes)
            for position in wanted:
                found[position] += _donors_of(grey, truth[position], position)
    return [donor for own in found.values() for donor in own]


def _donors_of(grey: Picture, mask: Picture, position: int) -> Iterator[Donor]:
    for top, left, height, width in _boxes(mask):
        box = np.s_[max(0, top - RIM_PX) : top + height + RIM_PX, max(0, left - RIM_PX) : left + width + RIM_PX]
        middle = left + width // 2
        away = [abs(middle - column) for column in edges(grey) if column is not None]
        yield Donor(position, grey[box].copy(), mask[box].copy(), min(away, default=None))


def edge_bound(found: Sequence[Donor]) -> list[int]:
    """Distances from the strip's edge, px, of the defects of one class, if most of them lie near it; else none."""
    near = [donor.from_edge for donor in found if donor.from_edge is not None and donor.from_edge <= NEAR_EDGE_PX]
    return near if found and len(near) >= NEAR_EDGE_SHARE * len(found) else []


def transplant(
    pixels: Picture, truth: Masks, donor: Donor, rng: np.random.Generator, from_edge: int | None = None
) -> bool:
    """Put a real defect onto another frame, mirrored and resized at random and at the tone of its new place.

    `from_edge`: only so far from an edge of the strip, px.
    """
    grey, mask = _varied(donor, pixels.shape, rng)
    height, width = mask.shape
    wish = None if from_edge is None else beside_edge(pixels, mask.shape, from_edge, rng)
    place = _find_steel(pixels, truth, (height, width), rng, wish, from_edge is None)
    outside = mask == 0
    if place is None or not outside.any():
        return False
    top, left = place
    box = np.s_[top : top + height, left : left + width]
    host = pixels[box].astype(np.float32)
    level = (float(host.mean()) + 4.0) / (float(grey[outside].mean()) + 4.0)
    share = cv2.GaussianBlur(cv2.dilate(mask, np.ones((5, 5), np.uint8)).astype(np.float32), (0, 0), 2.5)
    moved = grey.astype(np.float32) * min(max(level, 0.4), 2.5)
    pixels[box] = np.clip(host * (1 - share) + moved * share, 0, 255).astype(np.uint8)
    truth[donor.position][box] |= mask * np.uint8(CERTAIN)
    return True


def _varied(donor: Donor, room: tuple[int, ...], rng: np.random.Generator) -> tuple[Picture, Picture]:
    height, width = donor.mask.shape
    tall, wide = np.exp(rng.normal(0, 0.2, 2))
    size = (min(max(12, int(width * wide)), room[1]), min(max(12, int(height * tall)), room[0]))
    grey = cv2.resize(donor.pixels, size, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(donor.mask, size, interpolation=cv2.INTER_NEAREST)
    axes = tuple(axis for axis in (0, 1) if rng.random() < 0.5)
    return np.flip(grey, axes).astype(np.uint8), np.flip(mask, axes).astype(np.uint8)


def strip_frames(seed: int, count: int, width: int = WIDTH) -> Iterator[tuple[str, Picture, dict[int, Picture]]]:
    """Name, pixels and masks by class of `count` synthetic frames, off as many strips as they need."""
    every = (frame for number in itertools.count() for frame in _frames_of(seed * 100_003 + number, width))
    return itertools.islice(every, count)


def _frames_of(own: int, width: int) -> Iterator[tuple[str, Picture, dict[int, Picture]]]:
    """The frames of the strip whose seed is `own`."""
    strip = Strip(own, width, FRAMES_A_STRIP * HEIGHT, STRIP_RATES, pseudo_rate=STRIP_PSEUDO_RATE)
    for index in range(FRAMES_A_STRIP):
        rendering = strip.render(index * HEIGHT, HEIGHT)
        if any(t.mask.sum() < SLIVER_PX for t in rendering.truths):
            continue
        present = {t.defect_class for t in rendering.truths}
        found = {number: rendering.mask(number).astype(np.uint8) for number in sorted(present)}
        yield f"strip_{own}_{index:02d}.png", rendering.pixels, found


def write(frames: Iterator[tuple[str, Picture, dict[int, Picture]]], folder: Path) -> int:
    """Write frames as a data folder; returns how many."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    count = 0
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["ImageId", "ClassId", "EncodedPixels"])
        for name, pixels, found in frames:
            count += 1
            cv2.imencode(".png", pixels)[1].tofile(folder / "images" / name)
            table.writerows([name, number, rle.encode(mask)] for number, mask in found.items())
    return count
