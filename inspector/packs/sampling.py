"""Frames for the shadow, taken without holding up the line; and those on which two packs differ, on disk.

A cascade worker copies a frame only if the shadow has room for it: what is left out is counted.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from inspector.channel import Channel
from inspector.events import Depth
from inspector.pack import TileSize
from inspector.packs.comparing import Difference
from inspector.preprocess import cut
from inspector.records import Batch, Frame, Roi, Verdict, Verdicts

ROOM = 8
"""Frames that wait for the shadow at most."""
KEPT = 10
"""Changes whose samples are kept; the oldest go."""

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Sample:
    """A frame with pixels of its own, as the cascade saw it, and what the line made of it."""

    frame: Frame
    roi: Roi
    verdict: Verdict

    def batch(self, tile: TileSize) -> Batch:
        """It alone, for another cascade."""
        return Batch(0, [self.frame], [self.roi], cut(self.frame.pixels, self.roi, tile, frame=0))


class Sampler:
    """Takes every so-manieth frame out of what the cascade workers have judged. `offer` is called by all of them.

    Args:
        share: of the frames, 0..1.
        on_skip: counts frames that were left out.
    """

    def __init__(self, share: float, on_skip: Callable[[int], None] = lambda frames: None) -> None:
        self._share = share
        self._on_skip = on_skip
        self._lock = threading.Lock()
        self._due = 0.0
        self.waiting = Channel[Sample](ROOM)
        self.passed = 0
        """Frames that the line judged while this looked on."""
        self.skipped = 0
        """Frames that should have been taken, while there was no room (the shadow waits for the line to be idle), or
        not the whole cascade had judged them."""

    def offer(self, batch: Batch, verdicts: Verdicts) -> None:
        """What a worker has judged; copies what is taken, so the batch may be released afterwards."""
        for index in self._choose(len(batch.frames)):
            waiting = self.waiting.statistics()
            if verdicts.verdicts[index].depth is not Depth.FULL:
                self._skip()  # the line is overloaded: the other pack would find what this one was not asked
            elif waiting.queued >= waiting.capacity or not self.waiting.put(self._copied(batch, verdicts, index), 0.0):
                self._skip()

    def _skip(self) -> None:
        with self._lock:
            self.skipped += 1
        self._on_skip(1)

    def _choose(self, frames: int) -> list[int]:
        with self._lock:
            self.passed += frames
            chosen = []
            for index in range(frames):
                self._due += self._share
                if self._due >= 1 - 1e-9:
                    self._due -= 1
                    chosen.append(index)
            return chosen

    @staticmethod
    def _copied(batch: Batch, verdicts: Verdicts, index: int) -> Sample:
        seen = batch.frames[index]
        own = Frame(
            seen.camera,
            seen.sequence,
            seen.exposed_ns,
            seen.monotonic_ns,
            seen.encoder_count,
            seen.pixels.copy(),
            seen.source,
        )
        return Sample(own, batch.rois[index], verdicts.verdicts[index])


class Album:
    """The frames of one change on which the packs differ: a PNG and a JSON file each, so many at most.

    Args:
        folder: `samples` of the packs' folder; older changes are deleted there.
        name: of this change.
        most: frames.
    """

    def __init__(self, folder: Path, name: str, most: int) -> None:
        self._above = folder
        self.folder = folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{name}"
        self._left = most
        self._broken = False

    def add(self, sample: Sample, kind: Difference, old: Verdict, new: Verdict) -> None:
        """Write a frame. A disk that refuses is said once, and costs nothing but the picture."""
        if self._left <= 0:
            return
        frame = sample.frame
        name = f"{kind}-{frame.camera}-{frame.sequence}"
        about = {
            "camera": frame.camera,
            "frame_sequence": frame.sequence,
            "exposed_ns": frame.exposed_ns,
            "encoder_count": frame.encoder_count,
            "difference": kind,
            "strip_px": [sample.roi.left, sample.roi.right],
            "old": _verdict(old),
            "new": _verdict(new),
        }
        good, png = cv2.imencode(".png", frame.pixels)
        self._left -= 1
        self._write({f"{name}.png": png.tobytes() if good else b"", f"{name}.json": _json(about)})

    def close(self, outcome: Mapping[str, Any]) -> None:
        """What became of the change, and the samples of older changes go."""
        self._write({"outcome.json": _json(outcome)})
        try:
            found = sorted(path for path in self._above.iterdir() if path.is_dir())
        except OSError:
            return
        for old in found[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def _write(self, files: Mapping[str, bytes]) -> None:
        if self._broken:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (self.folder / name).write_bytes(content)
        except OSError as error:
            self._broken = True
            log.warning("%s: no samples are written: %s; look at packs.folder", self.folder, error.strerror or error)


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "pack_digest": verdict.pack_digest,
        "gate_score": round(verdict.gate_score, 4),
        "regions": [
            {
                "class_number": region.class_number,
                "box_px": [region.x, region.y, region.width, region.height],
                "area_px": region.area_px,
                "needed_px": region.needed_px,
                "score": round(region.score, 4),
            }
            for region in verdict.regions
        ],
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"
