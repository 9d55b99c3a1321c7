"""The strip as one camera saw it: every inspected frame with its place, its time and its number, and what lies between.

Needs Aravis' simulator with frames of HEIGHT x WIDTH pixels, the pack `bands` with its first class only, and
`join_frames: 1`: the simulator's ramp crosses the class's band in every frame, so each frame tells of itself; and where
the ramp crosses it tells the number that the camera gave the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from inspector.events import Box, Defect, Gap
from tests.line.daemon import journalled
from tests.line.told import gaps_of
from tests.packs import BAND

HEIGHT, WIDTH = 32, 256
PITCH_MM = 0.5
FRAME_MM = HEIGHT * PITCH_MM
RAMP = 255
"""The simulator's ramp comes round after so many grey levels, and so do the numbers that it tells."""
BAND_LEVELS = 10


@dataclass(frozen=True)
class Sight:
    """An inspected frame: [start_mm, end_mm) of the strip.

    Attributes:
        number: the camera's own for this frame, modulo RAMP, read from its pixels.
        camera_ns: when, on the camera's own clock.
    """

    sequence: int
    number: int
    start_mm: float
    end_mm: float
    camera_ns: int


@dataclass(frozen=True)
class Stretch:
    """The strip between two inspected frames, which no frame shows: what was told of it."""

    before: Sight
    after: Sight
    gaps: tuple[Gap, ...]

    @property
    def length_mm(self) -> float:
        return self.after.start_mm - self.before.end_mm

    @property
    def elapsed_ns(self) -> int:
        return self.after.camera_ns - self.before.camera_ns

    @property
    def numbered(self) -> int:
        """Frames between by the camera's own numbers, if the camera did not restart; modulo RAMP."""
        return (self.after.number - self.before.number - 1) % RAMP


def sights(path: Path, camera: str) -> list[Sight]:
    """The inspected frames in order."""
    found: dict[int, Sight] = {}
    for event in journalled(path, "defect"):
        defect = event.data
        if isinstance(defect, Defect) and defect.camera == camera:
            assert defect.frames == 1
            assert defect.camera_ns is not None
            box, along_mm = defect.bbox_px, defect.position_mm.along
            start_mm = along_mm - (box.y + box.height / 2) * PITCH_MM
            sight = Sight(defect.frame_sequence, _number(box), start_mm, start_mm + FRAME_MM, defect.camera_ns)
            assert found.setdefault(sight.sequence, sight) == sight
    return [found[number] for number in sorted(found)]


def _number(box: Box) -> int:
    """From where the ramp crosses the band: its left end in the last row, or its right end in the first one."""
    if box.x > 0 and box.y + box.height == HEIGHT:
        return (BAND[1] - box.x - (HEIGHT - 1)) % RAMP
    assert box.y == 0
    assert box.x + box.width < WIDTH
    return (BAND[1] + BAND_LEVELS - box.x - box.width) % RAMP


def stretches(path: Path, camera: str) -> list[Stretch]:
    """Every stretch of strip that no frame shows. It is covered by gaps from end to end, and nothing else is."""
    gaps, found, covered = gaps_of(path, camera), [], 0
    seen = sights(path, camera)
    for before, after in pairwise(seen):
        assert after.start_mm >= before.end_mm
        if after.start_mm == before.end_mm:
            assert after.sequence == before.sequence + 1
            assert after.number == (before.number + 1) % RAMP
            continue
        inside = [gap for gap in gaps if before.end_mm <= gap.along_mm.start < after.start_mm]
        ends = [before.end_mm, *(gap.along_mm.end for gap in inside)]
        assert ends == [*(gap.along_mm.start for gap in inside), after.start_mm]
        assert sum(gap.frames for gap in inside) == after.sequence - before.sequence - 1
        covered += len(inside)
        found.append(Stretch(before, after, tuple(inside)))
    outside = [gap for gap in gaps if gap.along_mm.end <= seen[0].start_mm or gap.along_mm.start >= seen[-1].end_mm]
    assert covered + len(outside) == len(gaps)
    return found
