"""What a pack is worth on labelled frames: figures with intervals, as JSON, and a report for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from build_engines import bootstrap, judging, splits
from build_engines.datasets import Sample, strange
from build_engines.figures import Table, figures, size_limits
from build_engines.files import write_json
from build_engines.judging import Record
from build_engines.progress import shown
from inspector import pack as packs
from inspector.errors import ConfigError
from inspector.pack import Manifest, Pack

NOTE = (
    "Frames are judged one by one by inspector's own preprocess, cascade and joining. Events: pieces of one class "
    "with at most 12 blank px between them, along rows, columns or diagonally, are one; a truth is detected by a found "
    "event that covers 25 % of it or has the centre of its box in that of the truth, of whatever class. Intervals: "
    "95 %, bootstrap over look-alike groups."
)


def judged(
    pack: Pack, samples: Sequence[Sample], group_of: Mapping[str, int] | None = None, doing: str = "judging"
) -> list[Record]:
    """Records of the labelled ones of the samples.

    Args:
        group_of: where the samples are a part of a set, the group of each in the whole set (see splits.group_of).
        doing: what the bar says.

    Raises:
        ConfigError: none is labelled, or one has a class that the pack does not know.
    """
    known = [sample for sample in samples if sample.labelled]
    if not known:
        raise ConfigError("no labelled frame to measure on. Name another folder or part")
    if found := strange(known, pack.class_names):
        place, number = found
        raise ConfigError(f"{place}: class {number} is unknown to the pack, which has {sorted(pack.class_names)}")
    group_of = splits.group_of(samples) if group_of is None else group_of
    records = judging.judge(pack, known, [group_of[sample.name] for sample in known])
    return list(shown(records, doing, len(known)))


def report(manifest: Manifest, records: Sequence[Record], draws: int = bootstrap.DRAWS) -> dict[str, Any]:
    """The figures of records, as `evaluate --json` writes them; nan where there is nothing to measure on."""
    table = Table.of(manifest, records)
    found = figures(table)
    found["gate"]["threshold"] = manifest.gate.threshold
    for position, entry in enumerate(manifest.classes):
        frames = int((table.truth_px[:, position] > 0).sum())
        found["types"][entry.number]["frames"] = frames
        found["segmenters"][entry.number]["frames"] = frames
    low, high = size_limits(table)
    return {
        "note": NOTE,
        "frames": len(records),
        "defective": int(table.defective.sum()),
        "groups": len({record.group for record in records}),
        "truth_events": len(table.truth_at),
        "found_events": len(table.found_at),
        "size_limits_px": [low, high],
        **found,
        "intervals": bootstrap.intervals(table, [record.group for record in records], draws),
    }


def evaluate(pack: Pack, samples: Sequence[Sample], group_of: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Figures of a pack on the labelled ones of the samples; `group_of` as in `judged`."""
    return report(pack.manifest, judged(pack, samples, group_of))


def plain(value: Any) -> Any:
    """For JSON and YAML: nan becomes null, numbers are rounded to four places, keys become text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


def write(found: dict[str, Any], pack: Path, file: Path) -> None:
    """Write a report as JSON, with the digest of the pack it is of."""
    content = {"pack": packs.load(pack).digest, **plain(found)}
    write_json(file, content)
