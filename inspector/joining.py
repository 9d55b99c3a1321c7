"""Regions of single frames -> whole defects: what lies on a seam is joined with what goes on behind it.

The same distance holds over a seam as within a frame, so a defect does not depend on where the strip was cut. Lines
that a frame shares with the one before it are the same strip: what both show there is one defect, with all pixels
that either saw (see seams.py where they disagree). A defect that spans more frames than one event may is cut, and
what goes on behind the cut knows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from inspector.config import GradingConfig
from inspector.events import Box
from inspector.records import Frame, Pixels, Region, Roi, Verdict, sized
from inspector.rle import encode_box
from inspector.seams import above, agree, below, near, union
from inspector.strip import Geometry
from inspector.thumbnails import crop_window, shrink


@dataclass(slots=True, eq=False)
class Seen:
    """What is kept of a frame while a defect in it is open."""

    sequence: int
    offset: int
    """Where its row 0 lies in the stack of the defect's frames, which shows shared rows once."""
    height: int
    shared: int
    """So many of its rows are rows of the frame before."""
    encoder_count: int
    counts_per_line: float | None
    pixels: Pixels | None = None

    @classmethod
    def of(cls, frame: Frame, offset: int) -> Seen:
        height = int(frame.pixels.shape[0])
        return cls(frame.sequence, offset, height, frame.overlap_lines, frame.encoder_count, frame.counts_per_line)


@dataclass(slots=True, eq=False)
class OpenDefect:
    """A defect that may go on in the next frame. Rows count from the top of its first frame."""

    class_number: int
    first: Frame
    roi: Roi
    pack_digest: str
    """Of the pack that judged its first frame; others may have judged the rest."""
    parts: list[Region] = field(default_factory=list)
    fresh: list[Region] = field(default_factory=list)
    """Its parts in the present frame, while that is looked at."""
    seen: list[Seen] = field(default_factory=list)
    rows: int = 0
    """Where row 0 of the present frame lies."""
    before: list[Region] = field(default_factory=list)
    """What was cut off above its first frame, in negative rows: whatever is near goes on with it."""
    goes_on: bool = False
    """It is the rest of a defect that was cut, so it counts however small it is."""
    continues: bool = False
    """It was cut here."""
    coarse: bool = False
    """It was not segmented. One that was and one that was not are never joined, though they may be one defect."""
    doubled: bool = False
    """Two of its parts may have the same pixels, in lines that two frames share."""

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
        if self.doubled:
            return int(np.count_nonzero(self._mask))
        return sum(part.area_px for part in self.parts)

    @property
    def large_enough(self) -> bool:
        if self.goes_on:
            return True
        sure = any(part.peak >= part.needed_peak for part in self.parts)
        return sure and self.area_px >= max(part.needed_px for part in self.parts)

    @property
    def score(self) -> float:
        areas = [part.area_px for part in self.parts]
        mean = sum(part.score * area for part, area in zip(self.parts, areas, strict=True)) / max(1, sum(areas))
        return sized(mean, self.area_px, max(part.ample_px for part in self.parts))

    @property
    def size(self) -> tuple[int, int]:
        """[height, width] of its frames, stacked along the strip, px."""
        return self.seen[-1].offset + self.seen[-1].height, int(self.first.pixels.shape[1])

    @property
    def measured(self) -> bool:
        """Whether an encoder measured the strip in the lines of its frames."""
        return any(seen.counts_per_line is not None for seen in self.seen)

    def count_at(self, row: float, geometry: Geometry) -> float:
        """The encoder count at one of its rows."""
        seen = [one for one in self.seen if one.offset + one.shared <= row][-1:] or self.seen[:1]
        rate = seen[0].counts_per_line
        if rate is None:
            rate = geometry.pitch_along_mm / geometry.mm_per_count
        return seen[0].encoder_count + (row - seen[0].offset) * rate

    def run_lengths(self) -> str:
        """Its mask over `size`; empty when nobody knows it."""
        if self.coarse:
            return ""
        return encode_box(self._mask, self.box.x, self.box.y, self.size[0])

    @property
    def _mask(self) -> NDArray[np.bool_]:
        box = self.box
        return union(self.parts, box.y, box.x, box.height, box.width)

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
    """The open defects of one camera.

    Args:
        config: how far, how long, with pictures or without.
        overlap: lines at most that a frame shares with the one before it.
    """

    def __init__(self, config: GradingConfig, overlap: int = 0) -> None:
        self._merge_px = config.merge_px
        self._join_frames = config.join_frames
        self._pictures = config.thumbnails
        self._overlap = overlap
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

    def follow(self, verdict: Verdict, told: bool = False) -> list[OpenDefect]:
        """Regions of the next frame join the open defects they touch; returns what no longer reaches the seam.

        `told`: what lies in the lines shared with the frame before is complete already.
        """
        regions = verdict.regions
        if verdict.frame.overlap_lines:
            regions = self._share(verdict.frame.overlap_lines, regions, told)
        heirs = self._heirs(verdict)
        going = [defect for defect in self.open if id(defect) not in heirs] + list(heirs.values())
        for region in regions:
            touched = [defect for defect in going if self._touch(defect, region)]
            rest = _behind_cut(region, touched, verdict.frame)
            if rest is not None:
                going = [defect for defect in going if defect not in touched] + [self._join(touched, rest, verdict)]
        for defect in going:
            defect.doubled |= bool(verdict.frame.overlap_lines and defect.parts and defect.fresh)
            defect.parts += defect.fresh
            defect.fresh = []
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

    def _share(self, shared: int, regions: list[Region], told: bool) -> list[Region]:
        """The frame begins `shared` rows before the end of the last one; what is left of its regions."""
        if told:
            return [rest for region in regions if (rest := below(region, shared)) is not None]
        before = []
        for defect in self.open:
            defect.rows -= shared
            if not defect.coarse:  # a mask that nobody knows disagrees with none
                before += [(defect, part) for part in defect.parts if part.y + part.height > defect.rows]
        after = [region for region in regions if region.y < shared and not region.coarse]
        laid = [replace(part, y=part.y - defect.rows) for defect, part in before]
        old, new = agree(laid, after, shared)
        for index in old:
            defect, part = before[index]
            rest = above(part, defect.rows)
            defect.parts = [one for one in defect.parts if one is not part] + ([] if rest is None else [rest])
        self.open = [defect for defect in self.open if defect.parts]
        loses = [after[index] for index in new]
        kept = [below(region, shared) if any(region is one for one in loses) else region for region in regions]
        return [region for region in kept if region is not None]

    def _heirs(self, verdict: Verdict) -> dict[int, OpenDefect]:
        """Defects that span as many frames as one event may, by id: each with what goes on behind its cut."""
        frame, heirs = verdict.frame, {}
        reach = self._merge_px + 1 + self._overlap
        for defect in self.open:
            if len(defect.seen) >= self._join_frames and defect.large_enough:
                heir = OpenDefect(
                    defect.class_number,
                    frame,
                    verdict.roi,
                    verdict.pack_digest,
                    goes_on=True,
                    coarse=defect.coarse,
                )
                heir.seen.append(Seen.of(frame, 0))
                # Only what the next regions may touch: a scratch can be as long as the coil.
                past = (replace(part, y=part.y - defect.rows) for part in chain(defect.parts, defect.before))
                heir.before = [part for part in past if part.y + part.height >= -reach]
                heirs[id(defect)] = heir
        return heirs

    def _touch(self, defect: OpenDefect, region: Region) -> bool:
        """Whether a region of the present frame is as close to an open defect as pieces of one defect are."""
        if (defect.class_number, defect.coarse) != (region.class_number, region.coarse):
            return False
        reach = self._merge_px + 1  # blank rows or columns between them, and one
        laid = replace(region, y=region.y + defect.rows)
        return any(near(part, laid, reach) for part in chain(defect.parts, defect.before))

    def _join(self, touched: list[OpenDefect], region: Region, verdict: Verdict) -> OpenDefect:
        frame = verdict.frame
        if not touched:
            touched = [OpenDefect(region.class_number, frame, verdict.roi, verdict.pack_digest, coarse=region.coarse)]
        oldest = min(touched, key=lambda o: o.first.sequence)
        for other in touched:
            if other is not oldest:
                shift = oldest.rows - other.rows
                oldest.parts += [replace(part, y=part.y + shift) for part in other.parts]
                oldest.fresh += [replace(part, y=part.y + shift) for part in other.fresh]
                oldest.before += [replace(part, y=part.y + shift) for part in other.before]
                oldest.goes_on |= other.goes_on
                oldest.doubled |= other.doubled
        if not oldest.seen or oldest.seen[-1].sequence != frame.sequence:
            oldest.seen.append(Seen.of(frame, oldest.rows))
        oldest.fresh.append(replace(region, y=region.y + oldest.rows))
        return oldest

    def _reaches_end(self, defect: OpenDefect, frame: Frame) -> bool:
        """Whether the next frame may show it again, or something near."""
        return defect.bottom >= defect.rows + int(frame.pixels.shape[0]) - self._merge_px - self._overlap

    def _show(self, frame: Frame, still_open: list[OpenDefect], done: list[OpenDefect]) -> None:
        """Pixels for the thumbnails: a copy for the defects that outlive the frame, the frame itself for the rest."""
        picture = frame.pixels.copy() if still_open and self._pictures else frame.pixels
        for defect in still_open:
            if defect.seen[-1].sequence != frame.sequence:  # a frame with nothing of it, lower than `merge_px`
                defect.seen.append(Seen.of(frame, defect.rows))
            defect.rows += frame.pixels.shape[0]
        for defect in still_open + done:
            if defect.seen[-1].sequence == frame.sequence:
                defect.seen[-1].pixels = picture if self._pictures else None


def _behind_cut(region: Region, touched: list[OpenDefect], frame: Frame) -> Region | None:
    """What of a region is not in the event before it already, where it goes on behind a cut."""
    if frame.overlap_lines and any(defect.before for defect in touched):
        return below(region, frame.overlap_lines)
    return region


def _complete(done: list[OpenDefect]) -> list[OpenDefect]:
    """Those large enough to be defects, in the order of the strip, each with the frames that show it."""
    done = [defect for defect in done if defect.large_enough]
    for defect in done:
        bottom = defect.bottom
        first, *others = defect.seen
        defect.seen = [first, *(seen for seen in others if seen.offset + seen.shared < bottom)]
    return sorted(done, key=lambda o: (o.first.sequence, o.box.y, o.box.x, o.class_number))
