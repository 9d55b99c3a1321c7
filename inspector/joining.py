"""Regions of single frames -> whole defects: what lies on a seam is joined with what goes on behind it.

The same distance holds over a seam as within a frame, so a defect does not depend on where the strip was cut. A
defect that spans more frames than one event may is cut, and what goes on behind the cut knows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from inspector.config import GradingConfig
from inspector.events import Box
from inspector.records import Frame, Pixels, Region, Roi, Verdict
from inspector.rle import encode_box
from inspector.thumbnails import crop_window, shrink


@dataclass(slots=True, eq=False)
class Seen:
    """What is kept of a frame while a defect in it is open."""

    sequence: int
    offset: int
    """Rows of the frames before it, back to the defect's first one."""
    height: int
    pixels: Pixels | None = None


@dataclass(slots=True, eq=False)
class OpenDefect:
    """A defect that may go on in the next frame. Rows count from the top of its first frame."""

    class_number: int
    first: Frame
    roi: Roi
    parts: list[Region] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    rows: int = 0
    """Rows of its frames before the present one."""
    before: list[Region] = field(default_factory=list)
    """What was cut off above its first frame, in negative rows: whatever is near goes on with it."""
    goes_on: bool = False
    """It is the rest of a defect that was cut, so it counts however small it is."""
    continues: bool = False
    """It was cut here."""

    @property
    def box(self) -> Box:
        x = min(part.x for part in self.parts)
        y = min(part.y for part in self.parts)
        right = max(part.x + part.width for part in self.parts)
        bottom = max(part.y + part.height for part in self.parts)
        return Box(x=x, y=y, width=right - x, height=bottom - y)

    @property
    def bottom(self) -> int:
        return max(part.y + part.height for part in self.parts)

    @property
    def area_px(self) -> int:
        return sum(part.area_px for part in self.parts)

    @property
    def large_enough(self) -> bool:
        return self.goes_on or self.area_px >= max(part.needed_px for part in self.parts)

    @property
    def score(self) -> float:
        return sum(part.score * part.area_px for part in self.parts) / max(1, self.area_px)

    @property
    def size(self) -> tuple[int, int]:
        """[height, width] of its frames, stacked along the strip, px."""
        return self.seen[-1].offset + self.seen[-1].height, int(self.first.pixels.shape[1])

    def run_lengths(self) -> str:
        """Its mask over `size`."""
        box = self.box
        mask = np.zeros((box.height, box.width), dtype=np.bool_)
        for part in self.parts:
            y, x = part.y - box.y, part.x - box.x
            mask[y : y + part.height, x : x + part.width] |= part.mask
        return encode_box(mask, box.x, box.y, self.size[0])

    def thumbnail(self) -> Pixels | None:
        """Its picture as thumbnails.py says; None where pixels were not kept."""
        x, y, w, h = crop_window(self.box, self.size)
        canvas = np.zeros((h, w), dtype=np.uint8)
        shown = False
        for seen in self.seen:
            top, bottom = max(y, seen.offset), min(y + h, seen.offset + seen.height)
            if seen.pixels is not None and bottom > top:
                shown = True
                canvas[top - y : bottom - y] = seen.pixels[top - seen.offset : bottom - seen.offset, x : x + w]
        return shrink(canvas) if shown else None


class Joining:
    """The open defects of one camera."""

    def __init__(self, config: GradingConfig) -> None:
        self._merge_px = config.merge_px
        self._join_frames = config.join_frames
        self._pictures = config.thumbnails
        self.open: list[OpenDefect] = []

    @property
    def first_sequence(self) -> int | None:
        """The first frame that an open defect lies in; None when nothing is open."""
        return min((defect.first.sequence for defect in self.open), default=None)

    def close(self) -> list[OpenDefect]:
        """The strip does not go on here: whatever is open is complete."""
        done, self.open = self.open, []
        return _complete(done)

    def interrupt(self) -> list[OpenDefect]:
        """The strip stands: what is open is told now, and may go on in another event when the strip moves again."""
        for defect in self.open:
            defect.continues = True
        return self.close()

    def follow(self, verdict: Verdict) -> list[OpenDefect]:
        """Regions of the next frame join the open defects they touch; returns what no longer reaches the seam."""
        heirs = self._heirs(verdict)
        going = [defect for defect in self.open if id(defect) not in heirs] + list(heirs.values())
        for region in verdict.regions:
            touched = [defect for defect in going if self._touch(defect, region)]
            going = [defect for defect in going if defect not in touched] + [self._join(touched, region, verdict)]
        done = []
        for defect in self.open:
            heir = heirs.get(id(defect))
            if heir is not None:
                defect.continues = heir not in going or bool(heir.parts)
                done.append(defect)
        going = [defect for defect in going if defect.parts]
        self.open = [defect for defect in going if self._reaches_end(defect, verdict.frame)]
        done += [defect for defect in going if defect not in self.open]
        self._show(verdict.frame, self.open, done)
        return _complete(done)

    def _heirs(self, verdict: Verdict) -> dict[int, OpenDefect]:
        """Defects that span as many frames as one event may, by id: each with what goes on behind its cut."""
        frame, heirs = verdict.frame, {}
        for defect in self.open:
            if len(defect.seen) >= self._join_frames and defect.large_enough:
                heir = OpenDefect(defect.class_number, frame, verdict.roi, goes_on=True)
                heir.seen.append(Seen(frame.sequence, 0, frame.pixels.shape[0]))
                heir.before = [replace(part, y=part.y - defect.rows) for part in defect.parts + defect.before]
                heirs[id(defect)] = heir
        return heirs

    def _touch(self, defect: OpenDefect, region: Region) -> bool:
        """Whether a region of the present frame is as close to an open defect as pieces of one defect are."""
        if defect.class_number != region.class_number:
            return False
        reach = self._merge_px + 1  # blank rows or columns between them, and one
        above = [part for part in defect.parts + defect.before if part.y < defect.rows]
        return any(_near(part, region, defect.rows, reach) for part in above)

    def _join(self, touched: list[OpenDefect], region: Region, verdict: Verdict) -> OpenDefect:
        frame = verdict.frame
        if not touched:
            touched = [OpenDefect(region.class_number, frame, verdict.roi)]
        oldest = min(touched, key=lambda o: o.first.sequence)
        for other in touched:
            if other is not oldest:
                shift = oldest.rows - other.rows
                oldest.parts += [replace(part, y=part.y + shift) for part in other.parts]
                oldest.before += [replace(part, y=part.y + shift) for part in other.before]
                oldest.goes_on = oldest.goes_on or other.goes_on
        if not oldest.seen or oldest.seen[-1].sequence != frame.sequence:
            oldest.seen.append(Seen(frame.sequence, oldest.rows, frame.pixels.shape[0]))
        oldest.parts.append(replace(region, y=region.y + oldest.rows))
        return oldest

    def _reaches_end(self, defect: OpenDefect, frame: Frame) -> bool:
        """Whether a region of the next frame may be near."""
        return defect.bottom >= defect.rows + int(frame.pixels.shape[0]) - self._merge_px

    def _show(self, frame: Frame, still_open: list[OpenDefect], done: list[OpenDefect]) -> None:
        """Pixels for the thumbnails: a copy for the defects that outlive the frame, the frame itself for the rest."""
        picture = frame.pixels.copy() if still_open and self._pictures else frame.pixels
        for defect in still_open:
            if defect.seen[-1].sequence != frame.sequence:  # a frame with nothing of it, lower than `merge_px`
                defect.seen.append(Seen(frame.sequence, defect.rows, frame.pixels.shape[0]))
            defect.rows += frame.pixels.shape[0]
        for defect in still_open + done:
            if defect.seen[-1].sequence == frame.sequence:
                defect.seen[-1].pixels = picture if self._pictures else None


def _complete(done: list[OpenDefect]) -> list[OpenDefect]:
    """Those large enough to be defects, in the order of the strip, each with the frames that show it."""
    done = [defect for defect in done if defect.large_enough]
    for defect in done:
        defect.seen = [seen for seen in defect.seen if seen.offset < defect.bottom]
    return sorted(done, key=lambda o: (o.first.sequence, o.box.y, o.box.x, o.class_number))


def _near(part: Region, region: Region, seam: int, reach: int) -> bool:
    """Whether pixels of two masks lie at most `reach` rows and columns apart; `region.y` counts from the seam."""
    if region.y + seam - (part.y + part.height - 1) > reach:
        return False
    if region.x - (part.x + part.width - 1) > reach or part.x - (region.x + region.width - 1) > reach:
        return False
    left, right = min(part.x, region.x) - reach, max(part.x + part.width, region.x + region.width) + reach
    window = np.zeros((2, 2 * reach + 2, right - left), dtype=np.uint8)
    middle = reach + 1
    for row in range(max(part.y, seam - middle), part.y + part.height):
        window[0, middle + row - seam, part.x - left : part.x + part.width - left] = part.mask[row - part.y]
    for row in range(region.y, min(region.y + region.height, middle)):
        window[1, middle + row, region.x - left : region.x + region.width - left] = region.mask[row - region.y]
    grown = cv2.dilate(window[0], np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    return bool(np.logical_and(grown, window[1]).any())
