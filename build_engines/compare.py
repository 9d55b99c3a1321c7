"""`compare`: two runtimes on the same frames, network by network and end to end; is what the plans say what ONNX says?

Every network sees every tile, whether or not the one before it would have let the tile through. Then each side's
answers go through the daemon's own cascade and joining, and what it would have reported is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from build_engines.datasets import Sample
from build_engines.events import Blob
from build_engines.judging import Loaded, Memory, batch_of, events_of
from inspector.cascade import Cascade
from inspector.config import GradingConfig
from inspector.pack import Manifest, Pack, Segmenter, pixel_level
from inspector.records import Batch
from inspector.runtimes import Runtime, Stream

SAME_EVENT = 0.5
"""Two events of one class are the same when so much of their union is common."""


@dataclass(frozen=True)
class Tolerance:
    """What two runtimes may differ by."""

    score: float = 0.02
    """Largest difference of a score of the gate or of types, 0..1."""
    mask: float = 1.0
    """Mean difference of a segmenter's probabilities, in 255ths, over the pixels where either side has any."""
    changed: float = 0.001
    """Share of the frames with another decision, or with another event."""


@dataclass
class Difference:
    """One network on both sides."""

    network: str
    answers: int = 0
    """Tiles."""
    largest: float = 0.0
    total: float = 0.0
    values: int = 0
    changed: int = 0
    """Tiles with another decision."""
    allowed: float = 0.0
    by_mean: bool = False
    """The tolerance is for the mean, not for the largest."""

    @property
    def mean(self) -> float:
        return self.total / self.values if self.values else 0.0

    @property
    def good(self) -> bool:
        return (self.mean if self.by_mean else self.largest) <= self.allowed

    def add(self, ours: Any, theirs: Any, changed: bool) -> bool:
        """One tile's answers, and whether they lead to another decision, which is returned."""
        apart = np.abs(np.subtract(ours, theirs, dtype=np.float64))
        self.answers += 1
        self.largest = max(self.largest, float(apart.max()))
        self.total += float(apart.sum())
        self.values += int(np.count_nonzero(np.logical_or(ours, theirs))) if self.by_mean else apart.size
        self.changed += changed
        return changed


@dataclass
class Comparison:
    """All of it."""

    reference: str
    candidate: str
    tolerance: Tolerance
    networks: dict[str, Difference] = field(default_factory=dict)
    frames: int = 0
    decisions_changed: int = 0
    """Frames for which any network decided otherwise."""
    events: int = 0
    """That the reference reports."""
    events_changed: int = 0
    """Events that only one side reports."""
    frames_changed: int = 0
    """Frames with such an event."""

    @property
    def faults(self) -> list[str]:
        """What is beyond the tolerance, in words."""
        found = [
            f"{each.network}: {'mean' if each.by_mean else 'largest'} difference "
            f"{each.mean if each.by_mean else each.largest:.4g}, allowed {each.allowed:g}"
            for each in self.networks.values()
            if not each.good
        ]
        for words, count in (("decision", self.decisions_changed), ("event", self.frames_changed)):
            if count > self.tolerance.changed * self.frames:
                share = f"{100 * count / self.frames:.2f} % of the frames"
                found.append(f"another {words} on {share}, allowed {100 * self.tolerance.changed:g} %")
        return found


def compare(
    pack: Pack,
    samples: Iterable[Sample],
    reference: Callable[[Pack], Runtime],
    candidate: Callable[[Pack], Runtime],
    tolerance: Tolerance,
) -> Comparison:
    """Run both on the same frames. Each callable opens its runtime for the pack that it is given."""
    # A runtime may hold back what is below a segmenter's threshold, so it is asked for everything.
    whole = msgspec.structs.replace(pack, manifest=without_thresholds(pack.manifest))
    with ExitStack() as held:
        sides = [held.enter_context(opener(whole)) for opener in (reference, candidate)]
        memories = [Memory(side.stream()) for side in sides]
        merge_px = GradingConfig().merge_px
        packs = [pack.computed_in(side.precisions) for side in sides]
        cascades = [Cascade(own, Loaded(memory), merge_px) for own, memory in zip(packs, memories, strict=True)]
        found = Comparison(sides[0].name, sides[1].name, tolerance)
        for number, sample in enumerate(samples):
            batch = batch_of(sample, number, pack.manifest)
            for memory in memories:
                memory.load([tile.pixels for tile in batch.tiles])
            found.frames += 1
            if batch.tiles:
                found.decisions_changed += _networks(found, packs, batch, memories[0], memories[1])
            ours, theirs = (events_of(cascade.judge(batch).verdicts[0]) for cascade in cascades)
            apart = _apart(ours, theirs)
            found.events += len(ours)
            found.events_changed += apart
            found.frames_changed += apart > 0
    return found


def without_thresholds(manifest: Manifest) -> Manifest:
    """The manifest with every pixel of a segmenter above its threshold."""
    parts = [msgspec.structs.replace(part, threshold=0.0) for part in manifest.segmenters]
    return msgspec.structs.replace(manifest, segmenters=parts)


def _networks(found: Comparison, packs: Sequence[Pack], batch: Batch, ours: Stream, theirs: Stream) -> bool:
    """Compare all networks on a frame; whether any decided otherwise on any of its tiles. The packs of both sides
    differ in the threshold of their gates at most."""
    manifest = packs[0].manifest
    indices = range(len(batch.tiles))
    order = [entry.number for entry in manifest.classes]
    levels = np.array([[limits[n] for n in order] for limits in (manifest.types.floors, manifest.types.thresholds)])
    gate, types = (_difference(found, network) for network in ("gate", "types"))
    limits = [own.manifest.gate.threshold for own in packs]
    changed = [
        gate.add(ours_, theirs_, bool((ours_ >= limits[0]) != (theirs_ >= limits[1])))
        for ours_, theirs_ in zip(ours.gate(), theirs.gate(), strict=True)
    ]
    changed += [
        types.add(ours_, theirs_, bool(np.any((ours_ >= levels) != (theirs_ >= levels))))
        for ours_, theirs_ in zip(ours.types(indices), theirs.types(indices), strict=True)
    ]
    for part in manifest.segmenters:
        own = _difference(found, f"segment_{part.class_number}")
        shape = batch.tiles[0].pixels.shape
        maps = ([patch.on(shape) for patch in side.segment(part.class_number, indices)] for side in (ours, theirs))
        changed += [
            own.add(ours_, theirs_, _large(part, ours_) != _large(part, theirs_))
            for ours_, theirs_ in zip(*maps, strict=True)
        ]
    return any(changed)


def _large(part: Segmenter, probability: NDArray[np.uint8]) -> bool:
    """Whether there is enough of the class on a tile."""
    return int(np.count_nonzero(probability >= pixel_level(part.threshold))) >= max(1, part.minimum_area_px)


def _difference(found: Comparison, network: str) -> Difference:
    if network not in found.networks:
        masks = network not in ("gate", "types")
        allowed = found.tolerance.mask if masks else found.tolerance.score
        found.networks[network] = Difference(network, allowed=allowed, by_mean=masks)
    return found.networks[network]


def _apart(ours: Sequence[Blob], theirs: Sequence[Blob]) -> int:
    """How many events only one side has."""
    left = list(theirs)
    lonely = 0
    for one in ours:
        twin = max(left, key=lambda other: _common(one, other), default=None)
        if twin is not None and _common(one, twin) >= SAME_EVENT:
            left.remove(twin)
        else:
            lonely += 1
    return lonely + len(left)


def _common(one: Blob, other: Blob) -> float:
    """Share of the union of two events that both have; 0 for other classes."""
    if one.class_number != other.class_number:
        return 0.0
    shared = one.overlap_px(other)
    return shared / (one.area_px + other.area_px - shared)


# ---------------------------------------------------------------- for people


def rows(found: Comparison) -> list[str]:
    """The comparison as lines of text."""
    head = f"{'network':<12} {'tiles':>7} {'largest':>9} {'mean':>9} {'allowed':>14} {'decisions changed':>18}"
    lines = [f"{found.candidate} against {found.reference}, {found.frames} frames", head]
    for each in found.networks.values():
        allowed = f"{'mean' if each.by_mean else 'largest'} {each.allowed:g}"
        mark = "" if each.good else "  BEYOND"
        lines.append(
            f"{each.network:<12} {each.answers:>7} {each.largest:>9.4g} {each.mean:>9.4g} {allowed:>14} "
            f"{each.changed:>18}{mark}"
        )
    lines.append(f"frames with another decision: {found.decisions_changed}")
    lines.append(
        f"events: {found.events}; that one side alone reports: {found.events_changed}, on {found.frames_changed} frames"
    )
    return lines


def plain(found: Comparison) -> dict[str, Any]:
    """The comparison for JSON."""
    whole: dict[str, Any] = msgspec.to_builtins(found)
    for name, each in found.networks.items():
        whole["networks"][name] |= {"mean": each.mean, "good": each.good}
    return whole | {"faults": found.faults}


def spread(samples: Sequence[Sample], count: int | None) -> list[Sample]:
    """So many of the samples, from all over."""
    if count is None or count >= len(samples):
        return list(samples)
    return [samples[i * len(samples) // count] for i in range(count)]
