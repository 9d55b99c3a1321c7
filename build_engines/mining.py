"""Hard negatives: training frames without a class that the present gate and types would send to its segmenter.

Gate and types judge every labelled training frame as the daemon would, tile by tile. A frame passes for a class when
gate and types score at least what KEPT of the frames that have the class score, or SUREST_FLOOR where that is less: the
daemon's own floors are chosen that way, on other frames. A segmenter that has seen what it will wrongly be asked learns
to answer with nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from build_engines.datasets import Sample, picture
from build_engines.files import write_whole
from build_engines.networks import Classifier, any_of, prepare
from build_engines.progress import shown
from build_engines.runs import Facts, scale_of, trained
from inspector.pack import TileSize
from inspector.preprocess import cut
from inspector.records import Roi

KEPT = 0.97
SUREST_FLOOR = 0.1
"""Networks are too sure of frames that they learnt from: of others they let this much through."""

FILE = "hard_negatives.json"
TILES = 16
"""Tiles judged at a time."""


@dataclass(frozen=True)
class Scores:
    """Of one frame: the best of its tiles."""

    gate: float
    types: NDArray[np.float32]


def hard_negatives(run: Path, samples: Sequence[Sample], facts: Facts, device: torch.device) -> dict[int, list[Sample]]:
    """Class -> frames without it that the run's gate and types let through; kept in the run folder."""
    file, known = run / FILE, {sample.name: sample for sample in samples}
    judges = [run / f"{name}.pt" for name in ("gate", "types")]
    if not file.is_file() or any(one.stat().st_mtime_ns > file.stat().st_mtime_ns for one in judges):
        scores = judge(run, samples, facts, device)
        found = {number: _passing(samples, scores, position, number) for position, number in enumerate(facts.classes)}
        names = {str(number): [sample.name for sample in own] for number, own in found.items()}
        write_whole(file, json.dumps(names, indent=0).encode())
    content = json.loads(file.read_text(encoding="utf-8"))
    return {int(number): [known[name] for name in own if name in known] for number, own in content.items()}


def _passing(samples: Sequence[Sample], scores: Sequence[Scores], position: int, number: int) -> list[Sample]:
    gate = np.array([own.gate for own in scores])
    types = np.array([own.types[position] for own in scores])
    has = np.array([number in sample.classes for sample in samples], dtype=bool)
    if not has.any():
        return []
    floors = [min(SUREST_FLOOR, float(np.quantile(own[has], 1 - KEPT))) for own in (gate, types)]
    passing = ~has & (gate >= floors[0]) & (types >= floors[1])
    return [sample for sample, own in zip(samples, passing, strict=True) if own]


@torch.inference_mode()
def judge(run: Path, samples: Sequence[Sample], facts: Facts, device: torch.device) -> list[Scores]:
    """What gate and types of a run say of each sample."""
    gate = cast(Classifier, trained("gate", len(facts.classes), run)).to(device)
    types = cast(Classifier, trained("types", len(facts.classes), run)).to(device)
    found = []
    for sample in shown(samples, "what gate and types let through"):
        frame = picture(sample)
        size = TileSize(height=facts.height, width=facts.width)
        tiles = [tile.pixels for tile in cut(frame, Roi(0, frame.shape[1]), size, frame=0)]
        rows = [_both(gate, types, tiles[at : at + TILES], facts, device) for at in range(0, len(tiles), TILES)]
        best = np.concatenate(rows).max(axis=0)
        found.append(Scores(float(best[0]), best[1:]))
    return found


def _both(
    gate: Classifier, types: Classifier, tiles: list[NDArray[np.uint8]], facts: Facts, device: torch.device
) -> NDArray[np.float32]:
    frames = torch.from_numpy(np.stack(tiles))[:, None].to(device)
    anything = any_of(gate(prepare(frames, scale_of("gate", facts)))[1])
    scores = torch.sigmoid(torch.cat([anything[:, None], types(prepare(frames, facts.scale))[1]], dim=1))
    return np.asarray(scores.float().cpu().numpy(), dtype=np.float32)
