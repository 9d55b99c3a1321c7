"""A pack's reference: how the daemon's own cascade scores a set of frames, how bright they are, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from build_engines.datasets import Sample
from build_engines.files import write_manifest
from build_engines.judging import batch_of
from build_engines.progress import shown
from inspector.cascade import Cascade
from inspector.census import Census
from inspector.config import GradingConfig
from inspector.drift import count
from inspector.errors import ConfigError
from inspector.pack import Manifest, Pack, Reference
from inspector.runtimes import onnx as onnx_runtime

MORE = "more validation folders"
"""`made_on`, where no frame of the pack's own data was kept back."""


def part_of(data: Path, part: str) -> str:
    """`made_on`, where it is one part of a data folder."""
    return f"{data.resolve().name}, {part} part"


def of(pack: Pack, samples: Sequence[Sample], made_on: str) -> Reference:
    """The reference of a pack on these frames, labelled or not, each a piece of strip of its own.

    Raises:
        ConfigError: none of them shows strip.
    """
    census = Census()
    with onnx_runtime.open(onnx_runtime.Options(workers=1), pack) as runtime:
        cascade = Cascade(pack, runtime.stream(), GradingConfig().merge_px)
        for number, sample in enumerate(shown(samples, "reference", len(samples))):
            verdict = cascade.judge(batch_of(sample, number, pack.manifest)).verdicts[0]
            if verdict.roi.width:
                count(census, verdict)
    if not census.frames:
        raise ConfigError(
            f"{made_on}: no frame shows strip, so nothing can be a reference. Name another folder or part"
        )
    return Reference(made_on=made_on, census=census)


def added(manifest: Manifest, reference: Reference) -> Manifest:
    """The manifest with this reference."""
    return msgspec.structs.replace(manifest, reference=reference)


def write(pack: Pack, samples: Sequence[Sample], made_on: str) -> dict[str, Any]:
    """Make the reference and put it into the pack's manifest, at once. The digest of the pack is another then.

    Returns what was written.

    Raises:
        ConfigError: none of the frames shows strip.
    """
    made = of(pack, samples, made_on)
    write_manifest(added(pack.manifest, made), pack.folder)
    shown: dict[str, Any] = msgspec.to_builtins(made)
    return shown
