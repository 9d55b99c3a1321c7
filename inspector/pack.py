"""A pack of engines: `manifest.yaml`, the ONNX files it names, and proof that they are the ones it means.

The contract of the networks (all: input `frames`, uint8 [batch, 1, tile height, tile width], raw grey):

    gate        -> `score`        float32 [batch]         probability that the tile shows any defect
    types       -> `scores`       float32 [batch, C]      probability of each class, in the manifest's order
    segmenters  -> `probability`  uint8 [batch, tile height, tile width], 255 = certain
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec
import yaml

from inspector.census import Census
from inspector.config import Fraction
from inspector.errors import PackError
from inspector.events import NOT_TYPED

FORMAT = 1
REFERENCE = 1
"""The version of a `reference`; its bins are those of inspector/census.py."""
MANIFEST = "manifest.yaml"
Precision = Literal["float32", "float16", "int8"]
GpuPrecision = Literal["fp16", "fp32"]
ON_GPU: Mapping[GpuPrecision, Precision] = {"fp16": "float16", "fp32": "float32"}
"""What a network computes in on a GPU, by what the option is called."""
"""What plans are built in."""


class TileSize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every network of the pack takes, px: `height` along the strip, `width` across it."""

    height: int
    width: int


class ClassName(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: int
    name: str


class Twin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same network for a GPU, where a network has the precision of its graph. One in float32 stands beside a `file`
    in int8, which no GPU plan can be built from; its float16 twin is made then."""

    file: str
    sha256: str
    precision: Precision = "float16"


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Model 1: defective or not."""

    file: str
    sha256: str
    threshold: Fraction
    """A tile goes on when its score is at least this, 0..1."""
    precision: Precision = "float32"
    """Of `file`, which the CPU runs."""
    gpu: Twin | None = None
    """What a GPU plan is built from; None: a float16 twin of `file` is made then."""
    gpu_threshold: Fraction | None = None
    """`threshold` of the original, for a GPU, where `file` in int8 has one of its own; None: there is one alone."""
    figures: dict[str, Any] = {}
    """What the network was measured at, and on what."""


class Types(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Model 2: which of the defect classes."""

    file: str
    sha256: str
    thresholds: dict[int, Fraction]
    """Class number -> score from which the class is believed without more."""
    floors: dict[int, Fraction]
    """Class number -> score below which its segmenter is not asked."""
    precision: Precision = "float32"
    """Of `file`, which the CPU runs."""
    gpu: Twin | None = None
    """What a GPU plan is built from; None: a float16 twin of `file` is made then."""
    figures: dict[str, Any] = {}


class Segmenter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models 3 to 6: where, one for each class."""

    class_number: int
    file: str
    sha256: str
    threshold: Fraction
    """A pixel is defect when its probability is at least this, 0..1."""
    minimum_area_px: Annotated[int, msgspec.Meta(ge=0)]
    """Smaller components are not reported."""
    seed: Fraction = 0.0
    """Nor are those with no pixel of at least this probability: hysteresis, as a low `threshold` shows the whole
    defect, and what is nowhere sure is none."""
    precision: Precision = "float32"
    """Of `file`, which the CPU runs."""
    gpu: Twin | None = None
    """What a GPU plan is built from; None: a float16 twin of `file` is made then."""
    figures: dict[str, Any] = {}


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the cascade says of frames as they should be, so that a line can tell when its own become others."""

    version: int = REFERENCE
    made_on: str
    """Which frames these were, in words."""
    census: Census
    """How they score, how bright they are, how many pass the gate and how many show a defect."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`manifest.yaml`, closed."""

    format: int
    name: str
    version: str
    description: str = ""
    tile: TileSize
    classes: list[ClassName]
    gate: Gate
    types: Types
    segmenters: list[Segmenter]
    veto_area_factor: Annotated[float, msgspec.Meta(ge=1, le=1e6)] = 3.0
    """Soft veto: how many times the minimum area a class needs whose type score is only at its floor."""
    reference: Reference | None = None
    """Left out: nothing is known of the frames that it was made for (`python -m build_engines reference` adds it)."""


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """A verified pack."""

    folder: Path
    manifest: Manifest
    digest: str
    """SHA-256 of the manifest, which names the SHA-256 of every network: it identifies all six."""

    @property
    def class_names(self) -> dict[int, str]:
        return {entry.number: entry.name for entry in self.manifest.classes}

    def networks(self) -> dict[str, tuple[Path, str]]:
        """Network name -> (file, SHA-256) for the CPU: `gate`, `types`, `segment_<class number>`."""
        return {name: (self.folder / entry.file, entry.sha256) for name, entry in self._entries()}

    def twins(self, precision: Precision | None = None) -> dict[str, tuple[Path, str]]:
        """Network name -> (file, SHA-256) for a GPU, of those that have one (of that precision, where one is named)."""
        entries = ((name, entry.gpu) for name, entry in self._entries())
        return {
            name: (self.folder / twin.file, twin.sha256)
            for name, twin in entries
            if twin is not None and precision in (None, twin.precision)
        }

    def for_gpu(self, precision: GpuPrecision) -> dict[str, tuple[Path, str]]:
        """Network name -> (file, SHA-256) that a GPU plan is built from: a twin as precise as that, or `file`."""
        twins = self.twins(None if precision == "fp16" else "float32")
        return self.networks() | twins

    def computed_in(self, precisions: Mapping[str, str]) -> Pack:
        """The same pack, with the thresholds that hold where its networks compute in these precisions: the scores of a
        gate in int8 are not those of its original."""
        gate = self.manifest.gate
        if gate.gpu_threshold is None or precisions["gate"] == gate.precision:
            return self
        return self.changed("gate", threshold=gate.gpu_threshold)

    def precisions(self) -> dict[str, Precision]:
        """Network name -> the precision of its file for the CPU."""
        return {name: entry.precision for name, entry in self._entries()}

    def entry(self, network: str) -> Gate | Types | Segmenter:
        """The manifest's entry of a network."""
        return dict(self._entries())[network]

    def changed(self, network: str, **fields: Any) -> Pack:
        """The pack with other fields in the manifest's entry of a network; its digest stays that of what was read."""
        entry, manifest = msgspec.structs.replace(self.entry(network), **fields), self.manifest
        if isinstance(entry, Segmenter):
            number = entry.class_number
            parts = [entry if part.class_number == number else part for part in manifest.segmenters]
            manifest = msgspec.structs.replace(manifest, segmenters=parts)
        else:
            manifest = msgspec.structs.replace(manifest, **{network: entry})
        return msgspec.structs.replace(self, manifest=manifest)

    def _entries(self) -> Iterator[tuple[str, Gate | Types | Segmenter]]:
        yield "gate", self.manifest.gate
        yield "types", self.manifest.types
        for part in self.manifest.segmenters:
            yield f"segment_{part.class_number}", part


def pixel_level(threshold: float) -> int:
    """The least grey, 1..255, of a probability map uint8 whose pixels are defect from `threshold` (0..1) on."""
    return max(1, math.ceil(threshold * 255))


def load(folder: Path) -> Pack:
    """Read and verify a pack.

    Raises:
        PackError: the folder, the manifest or a network is missing, altered or contradicts itself.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise PackError(f"{path}: no such file. Name a folder that holds a {MANIFEST}, such as engines/severstal")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PackError(f"{path}: cannot be read: {error.strerror}. Give this user the right to read it") from None
    try:
        manifest = msgspec.convert(yaml.safe_load(raw), Manifest, strict=False)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # msgspec's error is a ValueError
        raise PackError(f"{path}: {' '.join(str(error).split())}. Export the pack again, or mend this key") from None
    _check_sense(path, manifest)
    pack = Pack(folder=folder, manifest=manifest, digest="sha256:" + hashlib.sha256(raw).hexdigest())
    for name, (file, digest) in (*pack.networks().items(), *pack.twins().items()):
        _verify(name, file, digest)
    return pack


def check_fit(new: Pack, running: Pack) -> None:
    """Whether a running line can change from one pack to another: tiles are cut and defects counted as at its start.

    Raises:
        PackError: it needs a restart.
    """
    tile, before = new.manifest.tile, running.manifest.tile
    if tile != before:
        _need_restart(new, f"tiles of {tile.height} x {tile.width} px", f"{before.height} x {before.width}")
    if new.class_names != running.class_names:
        _need_restart(new, f"the classes {_classes(new)}", _classes(running))


def _need_restart(new: Pack, what: str, running: str) -> NoReturn:
    raise PackError(
        f"{new.folder / MANIFEST}: {what}, but the line runs with {running}: this needs a restart with `pack:` changed"
    )


def _classes(pack: Pack) -> str:
    return ", ".join(f"{number} {name}" for number, name in sorted(pack.class_names.items()))


def _check_sense(path: Path, manifest: Manifest) -> None:
    if manifest.format != FORMAT:
        raise PackError(f"{path}: format {manifest.format}, this version reads {FORMAT}. Export the pack again")
    reference = manifest.reference
    if reference is not None and (reference.version != REFERENCE or not reference.census.frames):
        raise PackError(
            f"{path}: reference: version {reference.version} of {reference.census.frames} frames, this version reads "
            f"{REFERENCE} of one frame at least. Make it again with `python -m build_engines reference`, or take it out"
        )
    numbers = {entry.number for entry in manifest.classes}
    if len(numbers) != len(manifest.classes) or not numbers:
        raise PackError(f"{path}: classes must be named once each, and there must be one at least")
    if min(numbers) <= NOT_TYPED:
        raise PackError(f"{path}: classes: number classes from {NOT_TYPED + 1}; events say {NOT_TYPED} for no class")
    if len({entry.name for entry in manifest.classes}) != len(numbers):
        raise PackError(f"{path}: classes: two classes have one name; give each its own, it tells them apart in events")
    for key, named in (
        ("types.thresholds", sorted(manifest.types.thresholds)),
        ("types.floors", sorted(manifest.types.floors)),
        ("segmenters", sorted(part.class_number for part in manifest.segmenters)),
    ):
        if named != sorted(numbers):
            raise PackError(f"{path}: {key} names classes {named}, classes names {sorted(numbers)}")
    for number in sorted(numbers):
        floor, threshold = manifest.types.floors[number], manifest.types.thresholds[number]
        if floor > threshold:
            raise PackError(f"{path}: types.floors: class {number} has {floor}, above its threshold of {threshold}")
    if manifest.gate.gpu_threshold is not None and manifest.gate.precision != "int8":
        raise PackError(
            f"{path}: gate.gpu_threshold is for a gate in int8, this one is in {manifest.gate.precision}; take it out"
        )
    if manifest.tile.height < 1 or manifest.tile.width < 1:
        raise PackError(f"{path}: tile must be at least 1 x 1 px")


def _verify(name: str, file: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise PackError(f"{file}: cannot read network {name}: {error.strerror}. Restore the pack's files") from None
    if found != expected.removeprefix("sha256:"):
        raise PackError(
            f"{file}: network {name} was altered: its SHA-256 is {found[:12]}..., the manifest names "
            f"{expected.removeprefix('sha256:')[:12]}.... Restore the file, or export the pack again"
        )
