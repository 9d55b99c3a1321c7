"""The middle of the line in one thread, for tests of grading: strips are painted, cut into frames, and run through
preprocess, the real networks of tests/packs.py, cascade and grading."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspector.cascade import Cascade, regions
from inspector.coils import CoilMap
from inspector.config import BatchConfig, EdgeConfig, GradingConfig
from inspector.events import CoilEvent, Defect, Depth, Gap, State, as_json
from inspector.grading import Grading
from inspector.journal import Resumed
from inspector.ledger import Ledger
from inspector.pack import Pack, load
from inspector.preprocess import Preprocess
from inspector.records import Draft, Frame, Graded, Pixels, Roi
from inspector.rle import decode
from inspector.runtimes import onnx
from inspector.strip import Geometry
from tests.packs import BAND, make_pack, paint

TILE = (32, 64)
WIDTH = 64
GEOMETRY = Geometry(pitch_along_mm=0.5, pitch_across_mm=0.25, offset_mm=100.0, mm_per_count=0.5)
"""One count a line, so that places are easy to tell: row r of the strip lies at r / 2 mm."""
FIRST = 5000
"""The encoder count at row 0 of the strips."""
SECOND_NS = 1_000_000_000


# ---------------------------------------------------------------- the rig


@dataclass
class Rig:
    """The middle of the line, in one thread: preprocess, cascade and grading as the workers call them."""

    engines: Pack
    stream: onnx.OnnxStream
    released: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))

    def frames(
        self,
        strip: Pixels,
        heights: Iterable[int],
        camera: str = "a",
        *,
        geometry: Geometry = GEOMETRY,
        first: int = FIRST,
        source: str | None = None,
    ) -> list[Frame]:
        """The strip, cut into frames of these heights."""
        made = []
        ends = list(accumulate(heights))
        for sequence, (top, bottom) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            frame = Frame(
                camera=camera,
                sequence=sequence,
                exposed_ns=1_700_000_000 * SECOND_NS + top * 50_000,
                monotonic_ns=sequence,
                encoder_count=first + geometry.counts_of_lines(top),
                pixels=strip[top:bottom].copy(),
                source=f"{source}{sequence}" if source else None,
            )
            frame.on_release = self._counter(camera, sequence)
            made.append(frame)
        return made

    def _counter(self, camera: str, sequence: int) -> Callable[[], None]:
        def count() -> None:
            self.released[camera, sequence] += 1

        return count

    def run(
        self,
        frames: Sequence[Frame],
        *,
        sizes: Iterable[int] = repeat(3),
        config: GradingConfig | None = None,
        geometries: Mapping[str, Geometry] | None = None,
        ledger: Ledger | None = None,
        coils: CoilMap | None = None,
        resumed: Mapping[str, Resumed] | None = None,
        edges: EdgeConfig | None = None,
        after: Mapping[int, Callable[[Grading], Graded | None]] | None = None,
        overlap: int = 0,
        depths: Iterable[Depth] = repeat(Depth.FULL),
        digests: Iterable[str] | None = None,
    ) -> list[Graded]:
        """What grading gives for the frames in batches of `sizes`; the last one is `finish()`.

        `after`: what happens once so many batches were graded. `depths`: how deep each batch is inspected.
        `digests`: of the pack that is to have judged each batch; None: it is the rig's own."""
        config = config or GradingConfig(merge_px=3)
        geometries = geometries or dict.fromkeys(sorted({frame.camera for frame in frames}), GEOMETRY)
        ledger = ledger or Ledger(list(geometries))
        preprocess = Preprocess(
            self.engines.manifest.tile, edges or EdgeConfig(detect=False), BatchConfig(size=10_000), {}
        )
        cascade = Cascade(self.engines, self.stream, config.merge_px)
        coil_map = coils or CoilMap("C1")
        overlaps = dict.fromkeys(geometries, overlap)
        grading = Grading("line", config, self.engines, geometries, coil_map, ledger, resumed or {}, overlaps=overlaps)
        found, waiting, left, deep = [], iter(sizes), list(frames), iter(depths)
        packs = iter(digests or repeat(self.engines.digest))
        while left:
            size = next(waiting)
            for frame in left[:size]:
                ledger.issue(frame.camera, frame.sequence + 1)
                preprocess.add(frame)
            left = left[size:]
            batch = preprocess.flush()
            assert batch is not None
            verdicts, digest = cascade.judge(batch, next(deep)), next(packs)
            for verdict in verdicts.verdicts:
                verdict.pack_digest = digest
            found.append(grading.grade(verdicts))
            happens = (after or {}).get(len(found))
            found += [said] if happens and (said := happens(grading)) else []
        return [*found, grading.finish()]


@contextmanager
def running_in(folder: Path) -> Iterator[Rig]:
    """A rig with networks of its own in `folder`."""
    engines = load(make_pack(folder, tile=TILE))
    with onnx.open(onnx.Options(workers=1), engines) as runtime:
        yield Rig(engines, runtime.stream())


def clean(rows: int, width: int = WIDTH) -> Pixels:
    return np.full((rows, width), 90, dtype=np.uint8)


def drafts(found: Iterable[Graded]) -> list[Draft]:
    return [draft for graded in found for draft in graded.drafts]


def defects(found: Iterable[Graded]) -> list[Defect]:
    return [draft.data for draft in drafts(found) if isinstance(draft.data, Defect)]


def gaps(found: Iterable[Graded]) -> list[Gap]:
    return [draft.data for draft in drafts(found) if isinstance(draft.data, Gap)]


def states(found: Iterable[Graded]) -> list[State]:
    return [draft.data for draft in drafts(found) if isinstance(draft.data, State)]


def coil_events(found: Iterable[Graded]) -> list[tuple[str, str, int]]:
    events = [draft.data for draft in drafts(found) if isinstance(draft.data, CoilEvent)]
    return [(event.coil, event.phase, event.encoder_count) for event in events]


def packs_told(found: Iterable[Graded]) -> list[tuple[str, str, tuple[str, ...] | None]]:
    """(coil, phase, packs) of each coil event."""
    events = [draft.data for draft in drafts(found) if isinstance(draft.data, CoilEvent)]
    return [(event.coil, event.phase, event.packs) for event in events]


def on_strip(defect: Defect, tops: Sequence[int], rows: int) -> NDArray[np.bool_]:
    """A defect's mask on the whole strip, bool [rows, WIDTH]."""
    height, width = defect.mask.size
    canvas = np.zeros((rows, width), dtype=np.bool_)
    top = tops[defect.frame_sequence]
    canvas[top : top + height] = decode(defect.mask.rle, height, width)
    return canvas


def tops_of(heights: Sequence[int]) -> list[int]:
    return [0, *accumulate(heights)][:-1]


# ---------------------------------------------------------------- strips

ROWS = st.integers(20, 150)


@st.composite
def strips(draw: st.DrawFn) -> Pixels:
    """Blobs of the four classes, and specks that only count together with what is near."""
    rows = draw(ROWS)
    strip = clean(rows)
    place = st.tuples(st.sampled_from(list(BAND)), st.integers(0, rows - 1), st.integers(0, WIDTH - 1))
    for number, y, x in draw(st.lists(place, max_size=4)):
        paint(strip, number, y, x, draw(st.integers(1, 60)), draw(st.integers(1, 20)))
    for number, y, x in draw(st.lists(place, max_size=8)):
        paint(strip, number, y, x, 1, draw(st.integers(1, 3)))
    return strip


def cuts(rows: int, low: int = 1, high: int = 60) -> st.SearchStrategy[list[int]]:
    """Heights of frames, `rows` together."""

    def fit(heights: list[int]) -> list[int]:
        kept: list[int] = []
        for height in heights:
            kept.append(min(height, rows - sum(kept)))
            if sum(kept) == rows:
                return kept
        return [*kept, rows - sum(kept)]

    return st.lists(st.integers(low, high), min_size=1, max_size=40).map(fit)


def truth(strip: Pixels, merge_px: int, minimum: int) -> set[tuple[int, bytes]]:
    """(class, mask on the strip) of every defect that was painted, as if the strip were one frame."""
    found = set()
    for number in BAND:
        sure = np.where(strip == BAND[number] + 5, 255, 0).astype(np.uint8)
        for region in regions(sure, Roi(0, strip.shape[1]), number, 0.5, merge_px):
            if region.area_px >= minimum:
                canvas = np.zeros(strip.shape, dtype=np.bool_)
                canvas[region.y : region.y + region.height, region.x : region.x + region.width] = region.mask
                found.add((number, canvas.tobytes()))
    return found


def placed(found: Iterable[Defect], heights: Sequence[int], rows: int) -> list[tuple[object, ...]]:
    """Everything of the events that the cut into frames must not change."""
    tops = tops_of(heights)
    return sorted(
        (
            d.camera,
            d.coil,
            as_json(d.position_mm),
            as_json(d.size_mm),
            (d.bbox_px.x, d.bbox_px.width, d.bbox_px.height, d.bbox_px.y + tops[d.frame_sequence]),
            (d.area_px, d.area_mm2),
            as_json(d.defect_class),
            d.score,
            d.severity,
            on_strip(d, tops, rows).tobytes(),
        )
        for d in found
    )


# ---------------------------------------------------------------- the books


def assert_books(found: Sequence[Graded], issued: Mapping[str, int]) -> None:
    """Every frame has one fate, and none is inspected before its defects are events.

    What stands in one `Graded` becomes durable together, so a kill between two loses whole ones only.
    """
    fates: dict[str, list[int]] = {camera: [] for camera in issued}
    inspected: dict[str, set[int]] = {camera: set() for camera in issued}
    for graded in found:
        for defect in defects([graded]):
            frames = range(defect.frame_sequence, defect.frame_sequence + defect.frames)
            assert inspected[defect.camera].isdisjoint(frames), "an event came after its frame's fate"
        for settled in graded.settled:
            numbers = range(settled.first, settled.last + 1)
            fates[settled.camera] += numbers
            if settled.reason is None:
                inspected[settled.camera].update(numbers)
    for camera, count in issued.items():
        assert sorted(fates[camera]) == list(range(count))
