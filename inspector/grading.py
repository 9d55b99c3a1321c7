"""Verdicts -> events: place in millimetres, join across frames, severity by rule, gaps.

Verdicts come in the order of their batches, so in frame order for each camera. A region at a frame's rim stays open
until the next frame of its camera shows whether it goes on; a frame is settled as inspected only when every defect
in it has become an event, so that a kill can lose an event only together with the fate of its frames.
Nothing here depends on the clock: the same frames give the same events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from inspector.coils import Coil, CoilMap
from inspector.config import GradingConfig, SeverityRule
from inspector.events import Along, Box, CoilEvent, Defect, DefectClass, Gap, Mask, Position, Reason, Size, State
from inspector.joining import Joining, OpenDefect
from inspector.journal import Resumed, rfc3339
from inspector.ledger import Ledger
from inspector.pack import Pack
from inspector.records import Draft, Frame, Graded, Loss, Roi, Settled, Shown, Verdict, Verdicts
from inspector.strip import Geometry

REVERSED_MM = 50_000.0
"""A strip that was reversed farther than this is taken for one whose encoder counts anew."""


@dataclass(slots=True, eq=False)
class _Track:
    """One camera's way along the strip."""

    geometry: Geometry
    joining: Joining
    next_sequence: int = 0
    end_count: int | None = None
    height: int = 0
    width: int = 0
    piece: int = 0
    coil: str | None = None
    dark: int = 0
    """Frames in a row that showed no strip."""
    unsettled: list[tuple[int, int, int, float, int]] = field(default_factory=list)
    """(sequence, end count, birth, mm, width in px) of inspected frames that wait for an open defect."""
    untold: Draft | None = None
    """The gap that earlier runs left. It goes out with the first fate: a kill before that leaves it to the next run."""


class Grading:
    """The books' last stage before the journal; called by one thread."""

    def __init__(
        self,
        line: str,
        config: GradingConfig,
        pack: Pack,
        geometries: Mapping[str, Geometry],
        coils: CoilMap,
        ledger: Ledger,
        resumed: Mapping[str, Resumed],
        birth: Callable[[Frame], int] = lambda frame: frame.exposed_ns,
        blind_frames: int = 8,
    ) -> None:
        self._line = line
        self._config = config
        self._pack = pack
        self._coils = coils
        self._ledger = ledger
        self._resumed = dict(resumed)
        self._birth = birth
        self._blind_frames = blind_frames
        self._tracks = {name: _Track(geometry, Joining(config)) for name, geometry in geometries.items()}
        self._coil: Coil | None = None
        self._last_count = 0
        self._last_ns = 0
        self._standing = False

    @property
    def graded_count(self) -> int | None:
        """The encoder count that the strip was graded up to; None before the first frame."""
        return self._coils.graded

    # ------------------------------------------------------------ the walk

    def grade(self, verdicts: Verdicts) -> Graded:
        """The events and fates that this batch completes. Releases its frames."""
        graded = Graded()
        for verdict in verdicts.verdicts:
            self._take(verdict, graded)
            verdict.frame.release()
        for name in {verdict.frame.camera: None for verdict in verdicts.verdicts}:
            self._settle(name, self._tracks[name], graded)
        return graded

    def stand(self) -> Graded:
        """The strip stands: what waits for its continuation is told now, as nobody knows when that comes."""
        graded = Graded()
        if not self._standing:
            self._standing = True
            for name, track in self._tracks.items():
                self._emit(track.joining.interrupt(), track, graded)
                self._settle(name, track, graded)
            self._say("strip", "standing", "", graded)
        return graded

    def finish(self) -> Graded:
        """The strip has ended: close what is open, book what was lost at the end, end the coil."""
        graded = Graded()
        issued = self._ledger.issued()
        for name, track in self._tracks.items():
            self._emit(track.joining.close(), track, graded)
            self._settle(name, track, graded, everything=True)
            if issued[name] > track.next_sequence:
                self._book_hole(name, track, issued[name], None, graded)
        if self._coil is not None:
            self._coil_event(self._coil, "end", self._last_count, None, graded)
        return graded

    def _take(self, verdict: Verdict, graded: Graded) -> None:
        frame = verdict.frame
        track = self._tracks[frame.camera]
        self._last_ns = max(self._last_ns, frame.exposed_ns)
        if self._standing:
            self._standing = False
            self._say("strip", "running", "", graded)
        self._coils.reach(frame.encoder_count + track.geometry.counts_of_lines(frame.pixels.shape[0]))
        if track.end_count is None:
            self._begin(frame, track, graded)
        elsewhere = frame.piece != track.piece or frame.pixels.shape[1] != track.width
        if frame.sequence > track.next_sequence or elsewhere:
            self._emit(track.joining.close(), track, graded)
        if frame.sequence > track.next_sequence:
            self._book_hole(frame.camera, track, frame.sequence, frame, graded)
        elif track.end_count is not None:
            self._watch_encoder(frame, track, track.end_count, graded)
        self._watch_view(verdict, track, graded)
        self._meet_coil(frame, track, graded)
        if verdict.regions or track.joining.open:
            self._emit(track.joining.follow(verdict), track, graded)
        track.next_sequence = frame.sequence + 1
        track.piece = frame.piece
        track.height, track.width = frame.pixels.shape
        track.end_count = frame.encoder_count + track.geometry.counts_of_lines(frame.pixels.shape[0])
        self._last_count = max(self._last_count, track.end_count)
        length_mm = track.geometry.length_mm(track.height)
        if frame.source is not None:
            head = self._coils.at(frame.encoder_count).head_count
            start_mm = track.geometry.along_mm(frame.encoder_count, 0, head)
            graded.shown.append(Shown(frame.source, start_mm, start_mm + length_mm))
        track.unsettled.append((frame.sequence, track.end_count, self._birth(frame), length_mm, track.width))

    def _begin(self, frame: Frame, track: _Track, graded: Graded) -> None:
        """The camera's first frame of this run; the strip begins with the frames that were lost before it."""
        track.piece = frame.piece
        track.end_count = frame.encoder_count - track.geometry.counts_of_lines(frame.pixels.shape[0] * frame.sequence)
        resumed = self._resumed.pop(frame.camera, None)
        start = None if resumed is None else resumed.end_count
        if start is not None:
            self._resume_coils(track.end_count, start, track, graded)
        self._coils.begin(track.end_count)
        if resumed is None:
            return
        if start is None:  # nowhere is known: they lay somewhere before
            start = track.end_count - track.geometry.counts_of_lines(frame.pixels.shape[0] * resumed.frames)
        if resumed.frames or track.end_count > start:
            detail = "the daemon was killed or stopped; this strip passed before it was back"
            loss = Loss(frame.camera, 0, resumed.frames, Reason.CRASH, detail)
            track.untold = self._gap(loss, track.geometry, start, max(start, track.end_count), frame.exposed_ns)

    def _tell(self, track: _Track, graded: Graded) -> None:
        untold, track.untold = track.untold, None
        if untold is not None:
            graded.drafts.append(untold)

    # ------------------------------------------------------------ gaps and coils

    def _book_hole(self, camera: str, track: _Track, end: int, frame: Frame | None, graded: Graded) -> None:
        """Frames [next_sequence, end) never came: fates and gap events, the strip between shared out by frames."""
        losses = self._ledger.take_losses(camera, track.next_sequence, end)
        total = end - track.next_sequence
        start, stop = self._hole(track, total, frame)
        self._settle(camera, track, graded, everything=True)
        self._tell(track, graded)
        before = 0
        for loss in losses:
            a = start + (stop - start) * before // total
            before += loss.count
            b = start + (stop - start) * before // total
            graded.settled.append(Settled(camera, loss.sequence, loss.sequence + loss.count - 1, loss.reason, b))
            time_ns = frame.exposed_ns if frame else self._last_ns or time.time_ns()
            graded.drafts.append(self._gap(loss, track.geometry, a, b, time_ns))
        track.next_sequence, track.end_count = end, stop
        self._last_count = max(self._last_count, stop)

    def _hole(self, track: _Track, frames: int, frame: Frame | None) -> tuple[int, int]:
        """Encoder counts between which frames are missing; where the end is not known, from the frames' length."""
        start = track.end_count or 0
        end = start + track.geometry.counts_of_lines(track.height * frames) if frame is None else frame.encoder_count
        return start, max(start, end)

    def _watch_encoder(self, frame: Frame, track: _Track, expected: int, graded: Graded) -> None:
        """The encoder ran on without frames (or back): strip that no frame shows is a gap too."""
        if abs(frame.encoder_count - expected) <= track.geometry.counts_of_lines(2):
            return
        self._emit(track.joining.close(), track, graded)
        if frame.encoder_count > expected:
            reopened = frame.piece != track.piece
            reason = Reason.CAMERA_DOWN if reopened else Reason.MISSING
            detail = "the camera was down" if reopened else "the encoder count jumped between two frames"
            loss = Loss(frame.camera, frame.sequence, 0, reason, detail)
            graded.drafts.append(self._gap(loss, track.geometry, expected, frame.encoder_count, frame.exposed_ns))
        elif self._resume_coils(frame.encoder_count, expected, track, graded):
            self._coils.begin(frame.encoder_count)
            self._coils.reach(frame.encoder_count)

    def _resume_coils(self, count: int, before: int, track: _Track, graded: Graded) -> bool:
        """True when the encoder counts anew: the coils that were told of lie nowhere any more."""
        if not self._coils.resume(count, before, far=track.geometry.counts_of_mm(REVERSED_MM)):
            return False
        if self._coil is not None:
            self._coil_event(self._coil, "end", before, None, graded)
            self._coil, track.coil = None, None
        detail = f"the encoder stood at {before} and now at {count}: it counts anew, name the coil again"
        self._say("encoder", "reset", detail, graded)
        self._last_count = count
        return True

    def _watch_view(self, verdict: Verdict, track: _Track, graded: Graded) -> None:
        """A blind camera must not look like a perfect coil."""
        camera, limit = verdict.frame.camera, self._blind_frames
        if verdict.roi.width:
            if track.dark >= limit:
                self._say(camera, "sees strip", f"after {track.dark} frames without any", graded)
            track.dark = 0
            return
        track.dark += 1
        if track.dark == limit:
            detail = f"{limit} frames in a row show no strip: look at lamp, lens and edges.dark_level"
            self._say(camera, "blind", detail, graded)

    def _say(self, part: str, state: str, detail: str, graded: Graded) -> None:
        data = State(part=part, state=state, detail=detail)
        graded.drafts.append(Draft(f"state/v1/{self._line}/", self._last_ns, data))

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

    def _meet_coil(self, frame: Frame, track: _Track, graded: Graded) -> None:
        """A coil begins for a camera at its own count, and for the line when the first camera sees it."""
        coil = self._coils.at(frame.encoder_count)
        if coil.name != track.coil:
            self._emit(track.joining.close(), track, graded)
            track.coil = coil.name
        if self._coil is None:
            self._coil = coil
            self._coil_event(coil, "start", coil.head_count, coil.known_from, graded)
        self._correct(self._coil, graded)
        for following in self._coils.heads(self._coil.head_count, frame.encoder_count):
            self._change_coil(self._coil, following, following.head_count, graded)

    def _correct(self, told: Coil, graded: Graded) -> None:
        """The plant named the coil on the line after it was told of: late, or with another name than before."""
        lies = self._coils.at(told.head_count)
        if lies.name != told.name:
            self._change_coil(told, lies, max(told.head_count, lies.head_count), graded)

    def _change_coil(self, ends: Coil, starts: Coil, tail_count: int, graded: Graded) -> None:
        self._coil_event(ends, "end", tail_count, starts.known_from, graded)
        self._coil = starts
        self._coil_event(starts, "start", starts.head_count, starts.known_from, graded)

    def _coil_event(
        self, coil: Coil, phase: Literal["start", "end"], count: int, known_from: int | None, graded: Graded
    ) -> None:
        event = CoilEvent(coil=coil.name, phase=phase, encoder_count=count, known_from=known_from)
        graded.drafts.append(Draft(f"coil/v1/{self._line}/", self._last_ns, event))

    def _emit(self, done: list[OpenDefect], track: _Track, graded: Graded) -> None:
        graded.drafts += [self._draft(defect, track.geometry) for defect in done]

    def _draft(self, defect: OpenDefect, geometry: Geometry) -> Draft:
        frame, box = defect.first, defect.box
        # The coil at its middle, so that a defect belongs to one coil however the strip is cut into frames.
        coil = self._coils.at(frame.encoder_count + geometry.counts_of_lines(box.y + box.height // 2))
        name = self._pack.class_names[defect.class_number]
        size = Size(along=geometry.length_mm(box.height), across=geometry.width_mm(box.width))
        area_mm2 = geometry.area_mm2(defect.area_px)
        score = round(defect.score, 4)
        beside_edge = _distance_to_edge_mm(box, defect.roi, frame.pixels.shape[1], geometry)
        data = Defect(
            camera=frame.camera,
            frame_sequence=frame.sequence,
            frames=len(defect.seen),
            source=frame.source,
            exposed_ns=frame.exposed_ns,
            exposed_time=rfc3339(frame.exposed_ns),
            coil=coil.name,
            position_mm=Position(
                along=geometry.along_mm(frame.encoder_count, box.y + box.height / 2, coil.head_count),
                across=geometry.across_mm(box.x + box.width / 2),
            ),
            size_mm=size,
            bbox_px=box,
            area_px=defect.area_px,
            area_mm2=area_mm2,
            defect_class=DefectClass(number=defect.class_number, name=name),
            score=score,
            severity=severity(self._config, defect.class_number, area_mm2, size.along, score, beside_edge),
            mask=Mask(size=defect.size, rle=defect.run_lengths()),
            continues=defect.continues,
            pack_digest=self._pack.digest,
            exposed_within_ns=frame.uncertainty_ns,
            camera_ns=frame.camera_ns,
        )
        topic = f"defect/v1/{self._line}/{frame.camera}/{defect.class_number}/"
        return Draft(topic, frame.exposed_ns, data, defect.thumbnail() if self._config.thumbnails else None)

    # ------------------------------------------------------------ fates

    def _settle(self, camera: str, track: _Track, graded: Graded, everything: bool = False) -> None:
        """Frames before the first open defect are inspected for good."""
        limit = track.next_sequence
        first_open = track.joining.first_sequence
        if first_open is not None and not everything:
            limit = first_open
        ready = [entry for entry in track.unsettled if entry[0] < limit]
        if not ready:
            return
        self._tell(track, graded)
        track.unsettled = track.unsettled[len(ready) :]
        length_mm, width = sum(entry[3] for entry in ready), max(entry[4] for entry in ready)
        graded.settled.append(Settled(camera, ready[0][0], ready[-1][0], None, ready[-1][1], length_mm, width))
        graded.born += [(camera, entry[2]) for entry in ready]
        self._ledger.inspect(camera, len(ready))


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
