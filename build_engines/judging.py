"""The cascade on labelled pictures, as the daemon runs it: what it said of each, as numbers.

inspector's own preprocess, cascade and joining judge every picture as a piece of strip of its own. A memory between the
cascade and the networks lets the same answers be judged again without the minimum areas, and types be asked past the
gate, at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from build_engines.datasets import Sample, masks, picture
from build_engines.events import Blob, FoundEvent, TruthEvent, match, truth_blobs
from build_engines.files import write_whole
from inspector.cascade import Cascade
from inspector.config import EdgeConfig, GradingConfig
from inspector.joining import Joining
from inspector.pack import Manifest, Pack
from inspector.preprocess import cut, find_edges
from inspector.records import Batch, Frame, Pixels, Verdict
from inspector.runtimes import Patch, Stream
from inspector.runtimes import onnx as onnx_runtime


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept of one judged picture. Lists are in the order of the manifest's classes."""

    name: str
    group: int
    gate_score: float
    passed: bool
    """The gate let it through, at the threshold that its pack had."""
    type_scores: list[float]
    """Of every picture, past the gate too."""
    named: list[bool]
    """Whether the type score reaches its class's threshold."""
    truth_px: list[int]
    found_px: list[int]
    both_px: list[int]
    background: tuple[int, int]
    """Pixels that truth and cascade both call clean, and that one of them does."""
    truths: list[TruthEvent]
    found: list[FoundEvent]


class Memory:
    """A stream that asks the networks once for each answer."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._gate: NDArray[np.float32] | None = None
        self._types: dict[int, NDArray[np.float32]] = {}
        self._maps: dict[tuple[int, int], Patch] = {}

    def load(self, tiles: Sequence[Pixels]) -> None:
        self._gate, self._types, self._maps = None, {}, {}
        self._stream.load(tiles)

    def gate(self) -> NDArray[np.float32]:
        if self._gate is None:
            self._gate = self._stream.gate().copy()
        return self._gate

    def types(self, indices: Sequence[int]) -> NDArray[np.float32]:
        missing = [index for index in indices if index not in self._types]
        if missing:
            self._types |= dict(zip(missing, self._stream.types(missing).copy(), strict=True))
        return np.stack([self._types[index] for index in indices])

    def expect(self, wanted: Mapping[int, Sequence[int]]) -> None:
        missing = {n: [i for i in indices if (n, i) not in self._maps] for n, indices in wanted.items()}
        self._stream.expect({number: indices for number, indices in missing.items() if indices})

    def segment(self, class_number: int, indices: Sequence[int]) -> Sequence[Patch]:
        missing = [index for index in indices if (class_number, index) not in self._maps]
        if missing:
            for index, one in zip(missing, self._stream.segment(class_number, missing), strict=True):
                self._maps[class_number, index] = Patch(one.y, one.x, one.values.copy())
        return [self._maps[class_number, index] for index in indices]


class Loaded(Memory):
    """The same answers again, of a memory that has loaded the batch: loading forgets nothing."""

    def __init__(self, memory: Memory) -> None:
        self.__dict__ = memory.__dict__

    def load(self, tiles: Sequence[Pixels]) -> None:
        """They are loaded."""


def judge(pack: Pack, samples: Iterable[Sample], groups: Iterable[int]) -> Iterator[Record]:
    """Run the cascade on one labelled picture after another."""
    merge_px = GradingConfig().merge_px
    with onnx_runtime.open(onnx_runtime.Options(workers=1), pack) as runtime:
        memory = Memory(runtime.stream())
        cascade = Cascade(pack, memory, merge_px)
        free = Cascade(msgspec.structs.replace(pack, manifest=without_areas(pack.manifest)), Loaded(memory), merge_px)
        for number, (sample, group) in enumerate(zip(samples, groups, strict=True)):
            batch = batch_of(sample, number, pack.manifest)
            verdicts = [one.judge(batch).verdicts[0] for one in (cascade, free)]
            scores = type_scores(memory, batch, pack.manifest)
            yield _record(sample, group, pack.manifest, verdicts, scores)


def without_areas(manifest: Manifest) -> Manifest:
    """The manifest with no minimum area; seeds and all else stay, so that what differs is the area's doing alone."""
    parts = [msgspec.structs.replace(part, minimum_area_px=0) for part in manifest.segmenters]
    return msgspec.structs.replace(manifest, segmenters=parts)


def batch_of(sample: Sample, number: int, manifest: Manifest) -> Batch:
    """A picture as the daemon's preprocess hands it to the cascade."""
    frame = Frame("evaluate", number, 0, 0, 0, np.ascontiguousarray(picture(sample)), source=sample.name)
    roi = find_edges(frame.pixels, EdgeConfig())
    return Batch(number, [frame], [roi], cut(frame.pixels, roi, manifest.tile, frame=0))


def type_scores(stream: Stream, batch: Batch, manifest: Manifest) -> NDArray[np.float32]:
    """Score of each class: the best of the picture's tiles. `batch` is the stream's current one."""
    if not batch.tiles:
        return np.zeros(len(manifest.classes), dtype=np.float32)
    return np.asarray(stream.types(range(len(batch.tiles))).max(axis=0), dtype=np.float32)


def events_of(verdict: Verdict) -> list[Blob]:
    """The defects of a picture that stands alone, as the daemon's joining completes them."""
    joining = Joining(GradingConfig(thumbnails=False))
    found = []
    for defect in [*joining.follow(verdict), *joining.close()]:
        box = defect.box
        mask = np.zeros((box.height, box.width), dtype=np.bool_)
        for part in defect.parts:
            y, x = part.y - box.y, part.x - box.x
            mask[y : y + part.height, x : x + part.width] |= part.mask
        found.append(Blob(defect.class_number, box.x, box.y, mask, round(defect.score, 4)))
    return found


def _record(
    sample: Sample, group: int, manifest: Manifest, verdicts: list[Verdict], scores: NDArray[np.float32]
) -> Record:
    numbers = [entry.number for entry in manifest.classes]
    truth = masks(sample, numbers).astype(bool)
    found, unfiltered = (events_of(verdict) for verdict in verdicts)
    canvas = _drawn(found, numbers, truth.shape)
    truths = truth_blobs(truth, numbers, GradingConfig().merge_px)
    told, reported = match(truths, found, unfiltered, truth.shape[1])
    clean_truth, clean_found = ~truth.any(axis=0), ~canvas.any(axis=0)
    return Record(
        name=sample.name,
        group=group,
        gate_score=float(verdicts[0].gate_score),
        passed=bool(verdicts[0].passed),
        type_scores=[float(score) for score in scores],
        named=[bool(score >= manifest.types.thresholds[number]) for number, score in zip(numbers, scores, strict=True)],
        truth_px=truth.sum(axis=(1, 2)).tolist(),
        found_px=canvas.sum(axis=(1, 2)).tolist(),
        both_px=np.logical_and(truth, canvas).sum(axis=(1, 2)).tolist(),
        background=(int((clean_truth & clean_found).sum()), int((clean_truth | clean_found).sum())),
        truths=told,
        found=reported,
    )


def _drawn(found: Sequence[Blob], numbers: Sequence[int], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    canvas = np.zeros(shape, dtype=np.bool_)
    for one in found:
        own = canvas[numbers.index(one.class_number)]
        own[one.y : one.y + one.mask.shape[0], one.x : one.x + one.mask.shape[1]] |= one.mask
    return canvas


def save(records: Sequence[Record], file: Path) -> None:
    """Write records, one a line."""
    encoder: Any = msgspec.json.Encoder()
    write_whole(file, encoder.encode_lines(records))


def load(file: Path) -> list[Record]:
    """Read what `save` wrote."""
    return msgspec.json.Decoder(Record).decode_lines(file.read_bytes())
