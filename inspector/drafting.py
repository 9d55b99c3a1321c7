"""What an event says of a defect or a gap: place in millimetres on its coil, size, severity by rule, mask, picture."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from inspector.coils import Coil, CoilMap
from inspector.config import GradingConfig, SeverityRule
from inspector.events import NOT_TYPED, NOT_TYPED_NAME, Along, Box, Defect, DefectClass, Gap, Mask, Position, Size
from inspector.joining import OpenDefect
from inspector.journal import rfc3339
from inspector.pack import Pack
from inspector.records import Draft, Loss, Roi
from inspector.strip import Geometry, thousandths


class Drafting:
    """Makes the drafts of one line."""

    def __init__(self, line: str, config: GradingConfig, pack: Pack, coils: CoilMap) -> None:
        self._line = line
        self._config = config
        self._pack = pack
        self._coils = coils

    def gaps(self, loss: Loss, geometry: Geometry, start: int, end: int, time_ns: int) -> list[Draft]:
        """Strip between two encoder counts that was not inspected: one gap for each coil that lies there.

        The first one has the lost frames, so that no frame is counted twice.
        """
        heads = [coil.head_count for coil in self._coils.heads(start, end - 1)]
        rest = replace(loss, count=0, detail=f"{loss.detail}; it began on the coil before".removeprefix("; "))
        return [
            self._gap(loss if first == start else rest, geometry, first, last, time_ns)
            for first, last in pairwise([start, *heads, end])
        ]

    def _gap(self, loss: Loss, geometry: Geometry, start: int, end: int, time_ns: int) -> Draft:
        coil = self._coils.at(start)
        along = Along(
            start=geometry.along_mm(start, 0, coil.head_count), end=geometry.along_mm(end, 0, coil.head_count)
        )
        gap = Gap(
            camera=loss.camera,
            frame_sequence=loss.sequence,
            frames=loss.count,
            reason=loss.reason,
            detail=loss.detail,
            source=loss.source,
            coil=coil.name,
            along_mm=along,
        )
        return Draft(f"gap/v1/{self._line}/{loss.camera}/", time_ns, gap)

    def defect(self, defect: OpenDefect, geometry: Geometry) -> Draft:
        """A defect that is complete."""
        frame, box = defect.first, defect.box
        coil, along, length_mm = self._lie(defect, box, geometry)
        number = defect.class_number
        name = NOT_TYPED_NAME if number == NOT_TYPED else self._pack.class_names[number]
        size = Size(along=length_mm, across=geometry.width_mm(box.width))
        area_mm2 = geometry.area_mm2(defect.area_px)
        if defect.measured:
            area_mm2 = thousandths(defect.area_px / box.height * length_mm * geometry.pitch_across_mm)
        score = round(defect.score, 4)
        if defect.coarse:
            grade = self._config.unmeasured_severity
        else:
            beside_edge = _distance_to_edge_mm(box, defect.roi, frame.pixels.shape[1], geometry)
            grade = severity(self._config, number, area_mm2, size.along, score, beside_edge)
        data = Defect(
            camera=frame.camera,
            frame_sequence=frame.sequence,
            frames=len(defect.seen),
            source=frame.source,
            exposed_ns=frame.exposed_ns,
            exposed_time=rfc3339(frame.exposed_ns),
            coil=coil.name,
            position_mm=Position(
                along=along,
                across=geometry.across_mm(box.x + box.width / 2),
            ),
            size_mm=size,
            bbox_px=box,
            area_px=defect.area_px,
            area_mm2=area_mm2,
            defect_class=DefectClass(number=number, name=name),
            score=score,
            severity=grade,
            mask=Mask(size=defect.size, rle=defect.run_lengths()),
            continues=defect.continues,
            pack_digest=defect.pack_digest,
            exposed_within_ns=frame.uncertainty_ns,
            camera_ns=frame.camera_ns,
            segmented=not defect.coarse,
        )
        topic = f"defect/v1/{self._line}/{frame.camera}/{number}/"
        return Draft(topic, frame.exposed_ns, data, defect.thumbnail() if self._config.thumbnails else None)

    def _lie(self, defect: OpenDefect, box: Box, geometry: Geometry) -> tuple[Coil, float, float]:
        """(its coil, its middle on it, its length along the strip), mm. The coil is that at its middle, so that a
        defect belongs to one coil however the strip is cut into frames."""
        first = defect.first.encoder_count
        if not defect.measured:
            coil = self._coils.at(first + geometry.counts_of_lines(box.y + box.height // 2))
            along = geometry.along_mm(first, box.y + box.height / 2, coil.head_count)
            return coil, along, geometry.length_mm(box.height)
        top, bottom = defect.count_at(box.y, geometry), defect.count_at(box.y + box.height, geometry)
        coil = self._coils.at(round((top + bottom) / 2))
        along = geometry.mm_of_counts((top + bottom) / 2 - coil.head_count)
        return coil, along, geometry.mm_of_counts(abs(bottom - top))


def severity(
    config: GradingConfig, number: int, area_mm2: float, length_mm: float, score: float, edge_mm: float
) -> str:
    """The severity that the first rule which holds gives; a rule of the YAML, never of a model."""
    for rule in config.severity:
        if _holds(rule, number, area_mm2, length_mm, score, edge_mm):
            return rule.severity
    return config.default_severity


def _holds(rule: SeverityRule, number: int, area_mm2: float, length_mm: float, score: float, edge_mm: float) -> bool:
    return (
        (not rule.classes or number in rule.classes)
        and area_mm2 >= rule.min_area_mm2
        and length_mm >= rule.min_length_mm
        and score >= rule.min_score
        and (rule.within_mm_of_edge is None or edge_mm <= rule.within_mm_of_edge)
    )


def _distance_to_edge_mm(box: Box, roi: Roi, width: int, geometry: Geometry) -> float:
    """From the box to the nearest strip edge that this camera sees; infinite where it sees none."""
    distances = [float("inf")]
    if roi.left > 0:
        distances.append(max(0, box.x - roi.left) * geometry.pitch_across_mm)
    if roi.right < width:
        distances.append(max(0, roi.right - box.x - box.width) * geometry.pitch_across_mm)
    return min(distances)
