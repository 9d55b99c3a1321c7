"""The model card of a pack, written from what was measured."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from build_engines import thresholds
from build_engines.datasets import Sample
from build_engines.defaults import SCALE
from build_engines.figures import FALSE_EVENT_RATES
from build_engines.files import write_whole
from build_engines.networks import PIXEL_STRIDE
from inspector.pack import Manifest, Pack

REPEATS = 25


ABOUT = """\
EfficientNet-Lite0 encoders (ReLU6, batch norms folded, ImageNet weights to start from, Apache-2.0), grey, at 1/{scale}
of the camera's resolution (the gate at 1/{gate_scale}). Gate and types pool a coarse map of defect scores class by
class, and the gate says the sum of their odds; each segmenter has a light feature-pyramid decoder at 1/{pixel} of the
camera's resolution, scaled up inside the graph."""

TWINS = """\
Each network has a twin in float16 (`<network>.fp16.onnx`) for GPUs that take their precision from the graph."""

DATA = """\
Labelled real frames, divided by look-alike group (frames that resemble each other stay in one part). The training
part is enriched by defects transplanted between its frames and by other lamps, lenses and rolls; where the commands
below say so, by defects painted at the places and in the sizes of real masks of other frames (`--shapes`), by frames
of the synthetic strip (`--extra`), by unlabelled frames that somebody else labelled (`--labels`) or an ensemble of
teachers (`--distill`), on which nothing is measured. What
networks are measured on they have seen neither in training nor in the choice of a threshold. No picture is part of
this repository."""

SIBLING = """\
The networks of this pack learnt from all labelled real frames, so nothing can be measured on those. A sibling, trained
by the same recipe with the parts below, was measured in their place: its test part was seen neither in its training nor
in the choice of the thresholds that its figures are at. The pack's own thresholds are chosen by what the sibling says
of all frames that it kept back, validation and test."""

FOLDS = """\
The networks of this pack learnt from all labelled real frames, so nothing can be measured on those. Folds of a
cross-validation, trained by the same recipe, were measured in their place: each labelled frame is judged by networks
that never saw its look-alike group, at thresholds that were chosen on the frames of the other folds. The pack's own
thresholds are chosen by what the folds say of all frames."""

FEW = 100
TINY = """\
- The real set is tiny: a held-out class with three frames says little; one frame more or less moves its figures
  by a third. Read them as a direction, and those on synthetic strip as a check that the networks learned their task."""

LIMITS = """\
- A mill's own steel looks different. Before use on a line, train on its own frames with the same tool.
- A score is no severity: that is a rule of the line's configuration."""


REPRODUCE = """\
## Make it again

    python -m build_engines synthesize --out strip_train --count 1500 --seed 1
    python -m build_engines synthesize --out strip_validation --count 120 --seed 2
    python -m build_engines synthesize --out strip_test --count 240 --seed 3
    python -m build_engines train --data DATA --names NAMES.yaml --shapes DATA/mask_shapes.csv --extra strip_train \\
        --scale {scale} --gate-scale {gate_scale} --height {height} --width {width} --out run
    python -m build_engines export --run run --data DATA --validation strip_validation --test strip_test --pack PACK

The synthetic strip is of the four classes of the reference task; leave those words out for another set."""


class Witness(StrEnum):
    """Whose networks the figures on real frames are of, in the words of the section on thresholds."""

    ITSELF = "the validation part"
    SIBLING = "what the sibling kept back"
    FOLDS = "what the folds kept back"


@dataclass(frozen=True)
class Facts:
    """All that a card is made of."""

    manifest: Manifest
    samples: Sequence[Sample]
    parts: dict[str, str]
    reports: dict[str, Any]
    costs: dict[str, float]
    scale: int = SCALE
    gate_scale: int = SCALE
    note: str = ""
    """Anything more about this pack, Markdown."""
    witness: Witness = Witness.ITSELF
    sibling: dict[str, str] | None = None
    """Parts of the sibling, where the pack's networks learnt from all frames."""


def costs(pack: Pack) -> dict[str, float]:
    """Least milliseconds of each network on one CPU thread of this machine, one tile of noise at a time."""
    tile = pack.manifest.tile
    noise = np.random.default_rng(0).integers(0, 200, (1, 1, tile.height, tile.width), dtype=np.uint8)
    return {name: _milliseconds(file, noise) for name, (file, _) in pack.networks().items()}


def _milliseconds(file: Path, tile: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        session.run(None, {"frames": tile})
        taken.append(time.perf_counter() - start)
    return round(min(taken) * 1e3, 2)


def write(file: Path, facts: Facts) -> None:
    """Write the card as Markdown."""
    tile = facts.manifest.tile
    again = REPRODUCE.format(scale=facts.scale, gate_scale=facts.gate_scale, height=tile.height, width=tile.width)
    sections = [_head(facts), _data(facts), _figures(facts), _rules(facts), _limits(facts), again, facts.note]
    write_whole(file, ("\n\n".join(filter(None, sections)) + "\n").encode())


def _limits(facts: Facts) -> str:
    few = min((report["frames"] for report in facts.reports.values()), default=0) < FEW
    return "\n".join(["## Limits", "", *([TINY] if few else []), LIMITS])


def _head(facts: Facts) -> str:
    rows = [f"| {name} | {value:.1f} |" for name, value in facts.costs.items()]
    return "\n".join(
        [
            f"# Pack `{facts.manifest.name}` {facts.manifest.version}",
            "",
            ABOUT.format(scale=facts.scale, gate_scale=facts.gate_scale, pixel=PIXEL_STRIDE * facts.scale),
            *([TWINS] if _has_twins(facts.manifest) else []),
            f"Input: raw grey uint8 [batch, 1, {facts.manifest.tile.height}, {facts.manifest.tile.width}].",
            "",
            "Classes: " + ", ".join(f"{entry.number} {entry.name}" for entry in facts.manifest.classes) + ".",
            "",
            "| network | ms on one CPU thread of the machine that made the pack, best of 25 |",
            "|---|---|",
            *rows,
        ]
    )


def _has_twins(manifest: Manifest) -> bool:
    """The original beside an int8 network is in float32, and no twin in this sense."""
    twins = [manifest.gate.gpu, manifest.types.gpu, *(part.gpu for part in manifest.segmenters)]
    return all(twin is not None and twin.precision == "float16" for twin in twins)


def _data(facts: Facts) -> str:
    lines = ["## Trained and measured on", "", *_parts(facts, facts.parts), "", DATA]
    if facts.witness is Witness.FOLDS:
        lines += ["", FOLDS]
    if facts.sibling is not None:
        lines += ["", SIBLING, "", *_parts(facts, facts.sibling)]
    return "\n".join(lines)


def _parts(facts: Facts, parts: dict[str, str]) -> list[str]:
    lines = [
        "| part | frames | clean | " + " | ".join(f"class {entry.number}" for entry in facts.manifest.classes) + " |",
        "|---|" + "---|" * (2 + len(facts.manifest.classes)),
    ]
    for part in ("train", "validation", "test"):
        chosen = [sample for sample in facts.samples if sample.labelled and parts.get(sample.name) == part]
        counts = Counter(number for sample in chosen for number in sample.classes)
        cells = [len(chosen), sum(not sample.classes for sample in chosen)]
        cells += [counts[entry.number] for entry in facts.manifest.classes]
        lines.append(f"| {part} | " + " | ".join(map(str, cells)) + " |")
    return lines


def _figures(facts: Facts) -> str:
    lines = ["## Figures", ""]
    for name, report in facts.reports.items():
        lines += [*_set_figures(name, report, facts.manifest), ""]
    return "\n".join(lines).rstrip()


def _set_figures(name: str, report: dict[str, Any], manifest: Manifest) -> list[str]:
    gate, system = report["gate"], report["system"]
    rows = []
    for entry in manifest.classes:
        types, segmenter = report["types"][str(entry.number)], report["segmenters"][str(entry.number)]
        cells = [segmenter["frames"], types["precision"], types["recall"], types["f1"]]
        cells += [segmenter["dice_positive"], segmenter["dice_detected"], segmenter["kaggle"]]
        rows.append(f"| {entry.number} {entry.name} | " + " | ".join(_cell(cell) for cell in cells) + " |")
    limits = report["intervals"]
    headline = (
        f"Gate: AUROC {_with_limits(gate, limits.get('gate', {}), 'auroc')}; at the pack's threshold recall "
        f"{_cell(gate['recall'])}, false alarms "
        f"{_cell(gate['false_alarm_rate'])} of clean frames. Whole cascade, frame by frame: recall "
        f"{_cell(system['frame_recall'])}, false alarms {_cell(system['frame_false_alarm_rate'])}. "
        f"Types macro-F1 {_cell(report['types']['macro_f1'])}. Mean Dice of frames with the class "
        f"{_with_limits(report, limits, 'mean_dice_positive')}; the competition's mean Dice {_cell(report['kaggle'])}; "
        f"mean IoU with background {_with_limits(report, limits, 'miou_with_background')}."
    )
    return [
        f"### {name}: {report['frames']} frames, {report['defective']} defective",
        "",
        headline,
        "",
        _events(report["events"], report["intervals"].get("events", {}), report["area_filter"]),
        "",
        "| class | frames with it | precision | recall | F1 | Dice, misses 0 | Dice where found | competition's Dice |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def _events(events: dict[str, Any], intervals: dict[str, Any], area: dict[str, Any]) -> str:
    def told(key: str) -> str:
        return _with_limits(events, intervals, key)

    at = [told(f"recall_at_{rate}_false_events_a_frame") for rate in FALSE_EVENT_RATES]
    return (
        f"Events: recall {told('recall')} at {told('false_events_a_frame')} false events a frame; {', '.join(at)} at "
        f"{', '.join(map(str, FALSE_EVENT_RATES))}; of the right class {told('class_correct')}. Escapes that only the "
        f"minimum area caused: {area['escapes']:.0f}. In brackets: 95 % intervals over look-alike groups."
    )


def _with_limits(figures: dict[str, Any], intervals: dict[str, Any], key: str) -> str:
    limits = intervals.get(key)
    return _cell(figures[key]) + (f" ({_cell(limits[0])} to {_cell(limits[1])})" if limits else "")


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _rules(facts: Facts) -> str:
    types = facts.manifest.types
    rows = [
        f"| {part.class_number} | {types.thresholds[part.class_number]} | {types.floors[part.class_number]} | "
        f"{part.threshold} | {part.seed} | {part.minimum_area_px} |"
        for part in facts.manifest.segmenters
    ]
    rule = (thresholds.__doc__ or "").split("\n\n", 1)[1].strip()
    return "\n".join(
        [
            "## Thresholds",
            "",
            f"Chosen on {facts.witness}, and on synthetic strip of other seeds where the commands below name it:",
            "",
            rule,
            "",
            f"Gate: {facts.manifest.gate.threshold}.",
            "",
            "| class | types threshold | types floor | pixel threshold | seed | minimum area, px |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )
