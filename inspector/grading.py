"""Verdicts -> events: where the strip is, what goes on across frames, gaps, coils, and the fate of every frame.

Verdicts come in the order of their batches, so in frame order for each camera. A region at a frame's rim stays open
until the next frame of its camera shows whether it goes on; a frame is settled as inspected only when every defect
in it has become an event, so that a kill can lose an event only together with the fate of its frames.
Nothing here depends on the clock: the same frames give the same events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from inspector.coils import Coil, CoilMap
from inspector.config import GradingConfig
from inspector.drafting import Drafting
from inspector.events import CoilEvent, Depth, Reason, State
from inspector.joining import Joining, OpenDefect
from inspector.journal import Resumed
from inspector.judged import Judged
from inspector.ledger import Ledger
from inspector.pack import Pack
from inspector.records import Draft, Frame, Graded, Loss, Settled, Shown, Verdict, Verdicts
from inspector.strip import Geometry
from inspector.travel import Motion, Span, Step, Travel, remeasure

REVERSED_MM = 50_000.0
"""A strip that was reversed farther than this is taken for one whose encoder counts anew."""
DEPTH_WORDS = {Depth.FULL: "inspected in full", Depth.TYPES: "not segmented", Depth.GATE: "not typed"}
"""What the strip under a camera is, from a frame on."""


@dataclass(slots=True, eq=False)
class _Track:
    """One camera's way along the strip."""

    geometry: Geometry
    joining: Joining
    travel: Travel
    next_sequence: int = 0
    lines: int = 0
    """Of the newest frame, without those that the frame before shows."""
    width: int = 0
    piece: int = 0
    coil: str | None = None
    told: bool = False
    """All that the newest frame shows is in events, also what the next frame shows again."""
    depth: Depth = Depth.FULL
    """That the newest frame was inspected in."""
    unsettled: list[tuple[int, int, int, float, int, Depth]] = field(default_factory=list)
    """(sequence, end count, birth, mm, width in px, depth) of inspected frames that wait for an open defect."""
    waiting: Verdict | None = None
    """The newest frame, while only the next one can say how much strip it shows."""
    untold: list[Draft] = field(default_factory=list)
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
        overlaps: Mapping[str, int] | None = None,
    ) -> None:
        """`overlaps`: camera -> lines at most that its frames share with the one before."""
        self._line = line
        self._coils = coils
        self._drafting = Drafting(line, config, pack, coils)
        self._ledger = ledger
        self._resumed = dict(resumed)
        self._birth = birth
        shared = overlaps or {}
        self._tracks = {
            name: _Track(geometry, Joining(config, shared.get(name, 0)), Travel(geometry))
            for name, geometry in geometries.items()
        }
        self._coil: Coil | None = None
        self._judged = Judged()
        self._first_count: int | None = None
        self._last_count = 0
        self._last_ns = 0
        self._standing = False
        self.down: Callable[[], Container[str]] = tuple
        """The cameras that are down now."""
        self.after_frame: Callable[[Graded], None] = lambda graded: None
        """Called behind each frame; it may tell of coils, or that the strip stands."""

    @property
    def graded_count(self) -> int | None:
        """The encoder count that the strip was graded up to; None before the first frame."""
        return self._coils.graded

    # ------------------------------------------------------------ the walk

    def grade(self, verdicts: Verdicts) -> Graded:
        """The events and fates that this batch completes. Releases its frames."""
        graded = Graded()
        for verdict in verdicts.verdicts:
            self._meet(verdict, graded)
        for name in {verdict.frame.camera: None for verdict in verdicts.verdicts}:
            self._settle(name, self._tracks[name], graded)
        return graded

    def _meet(self, verdict: Verdict, graded: Graded) -> None:
        """A frame whose encoder measures its lines waits for the next one, which says where they ended."""
        track = self._tracks[verdict.frame.camera]
        self._pass_waiting(track, graded, verdict.frame)
        if verdict.frame.counts_per_line is None:
            self._pass(verdict, graded)
        else:
            track.waiting = verdict

    def _pass_waiting(self, track: _Track, graded: Graded, following: Frame | None = None) -> None:
        waiting, track.waiting = track.waiting, None
        if waiting is not None:
            if following is None or not remeasure(waiting.frame, following, track.geometry):
                track.travel.doubt(waiting.frame)
            self._pass(waiting, graded)

    def _pass(self, verdict: Verdict, graded: Graded) -> None:
        with self._coils.still():
            self._take(verdict, graded)
            self._coils.passed = verdict.frame.camera, verdict.frame.sequence
        verdict.frame.release()
        self.after_frame(graded)

    def stand(self, graded: Graded | None = None) -> Graded:
        """The strip stands: what waits for its continuation is told now, as nobody knows when that comes.

        It is told with `graded`, where that is given.
        """
        graded = Graded() if graded is None else graded
        if not self._standing:
            self._standing = True
            for name, track in self._tracks.items():
                self._emit(track.joining.interrupt(), track, graded)
                track.told = True
                self._settle(name, track, graded)
            self._say("strip", "standing", "", graded)
        return graded

    def finish(self) -> Graded:
        """The strip has ended: close what is open, book what was lost at the end, end the coil."""
        graded = Graded()
        issued = self._ledger.issued()
        for name, track in self._tracks.items():
            self._pass_waiting(track, graded)
            self._emit(track.joining.close(), track, graded)
            self._settle(name, track, graded, everything=True)
            if issued[name] > track.next_sequence:
                self._book_end(name, track, issued[name], graded)
        down = self.down()
        for name, track in self._tracks.items():
            if name in down:
                self._book_down(name, track, graded)
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
        span = Span.of(frame, self._shared(frame, track), track.geometry)
        self._coils.reach(max(span.begin, span.end))
        if track.travel.end is None:
            self._begin(frame, track, graded)
        lost = frame.sequence - track.next_sequence
        if lost or frame.piece != track.piece or frame.pixels.shape[1] != track.width:
            self._emit(track.joining.close(), track, graded)
            track.told = True
        if lost:
            self._book_before(frame, span, track, graded)
        length_mm = self._move(frame, span, lost, track, graded)
        if verdict.depth is not track.depth:
            track.depth = verdict.depth
            here = f"from {self._place(span.begin, track)}"
            self._say(frame.camera, DEPTH_WORDS[verdict.depth], here, graded, "depth")
        for state, detail in verdict.sights:
            self._say(frame.camera, state, detail, graded, "view")
        for state, detail in verdict.drifts:
            self._say(frame.camera, state, detail, graded, "drift", verdict.pack_digest)
        self._meet_coil(span, track, graded)
        if verdict.regions or track.joining.open:
            told = track.told and span.lines < frame.pixels.shape[0]
            self._emit(track.joining.follow(verdict, told), track, graded)
        track.told = False
        track.next_sequence, track.piece = frame.sequence + 1, frame.piece
        track.lines, track.width = span.lines, frame.pixels.shape[1]
        self._last_count = max(self._last_count, span.end)
        if frame.source is not None:
            graded.shown.append(self._show(frame.source, span, track.geometry))
        end = span.end if track.travel.motion is Motion.FORWARD else track.travel.furthest
        self._book(verdict, span, length_mm)
        track.unsettled.append((frame.sequence, end, self._birth(frame), length_mm, track.width, verdict.depth))

    def _book(self, verdict: Verdict, span: Span, length_mm: float) -> None:
        """What the ends of the coils that the frame shows will say of it."""
        coil = self._coils.at(span.begin)
        self._judged.count(coil, verdict.depth, length_mm)
        for shown in (coil, *self._coils.heads(span.begin, span.end - 1)):
            self._judged.judge(shown, verdict.pack_digest)

    @staticmethod
    def _shared(frame: Frame, track: _Track) -> int:
        """Lines at its top that were graded with the frame before: none, if that one was lost on the way."""
        follows = track.travel.end is not None and frame.sequence == track.next_sequence
        return frame.overlap_lines if follows else 0

    def _show(self, source: str, span: Span, geometry: Geometry) -> Shown:
        first = min(span.begin, span.end)
        start_mm = geometry.along_mm(first, 0, self._coils.at(first).head_count)
        return Shown(source, start_mm, start_mm + geometry.length_mm(span.lines))

    def _begin(self, frame: Frame, track: _Track, graded: Graded) -> None:
        """The camera's first frame of this run; the strip begins with the frames that were lost before it."""
        track.piece = frame.piece
        own = Span.of(frame, frame.overlap_lines, track.geometry)
        begins = own.begin - track.geometry.counts_of_lines(own.lines * frame.sequence)
        track.travel.start(begins, frame.piece)
        resumed = self._resumed.pop(frame.camera, None)
        start = None if resumed is None else resumed.end_count
        if start is not None:
            self._resume_coils(begins, start, track, graded)
        self._coils.begin(begins)
        self._first_count = begins if self._first_count is None else min(begins, self._first_count)
        if resumed is None:
            return
        if start is None:  # nowhere is known: they lay somewhere before
            start = begins - track.geometry.counts_of_lines(own.lines * resumed.frames)
        if resumed.frames or begins > start:
            detail = "the daemon was killed or stopped; this strip passed before it was back"
            loss = Loss(frame.camera, 0, resumed.frames, Reason.CRASH, detail)
            track.untold = self._gaps(loss, track, start, max(start, begins), frame.exposed_ns)

    def _tell(self, track: _Track, graded: Graded) -> None:
        graded.drafts += track.untold
        track.untold = []

    # ------------------------------------------------------------ gaps and coils

    def _book_before(self, frame: Frame, span: Span, track: _Track, graded: Graded) -> None:
        """Frames before this one were lost."""
        losses = self._ledger.take_losses(frame.camera, track.next_sequence, frame.sequence)
        stop = max(track.travel.end or 0, span.begin)
        if all(loss.reason is not Reason.UNREADABLE for loss in losses):  # of a picture not even the size is known
            lines = (track.lines or span.lines) * (frame.sequence - track.next_sequence)
            stop = track.travel.behind(lines, frame, span)
        self._book_hole(frame.camera, track, losses, frame.sequence, stop, frame.exposed_ns, graded)

    def _book_end(self, camera: str, track: _Track, end: int, graded: Graded) -> None:
        """No frame comes behind frames that were lost."""
        losses = self._ledger.take_losses(camera, track.next_sequence, end)
        stop = (track.travel.end or 0) + track.geometry.counts_of_lines(track.lines * (end - track.next_sequence))
        self._book_hole(camera, track, losses, end, stop, self._last_ns or time.time_ns(), graded)

    def _book_down(self, camera: str, track: _Track, graded: Graded) -> None:
        """The line ends while the camera is down: what the others saw meanwhile it did not see."""
        start = self._first_count if track.travel.end is None else track.travel.end
        if start is None or (track.travel.end is None and camera in self._resumed):
            return  # nobody saw any strip; or the next run tells of all since this camera's last frame
        end = max(start, self._last_count)
        known = "" if end > start else ", and how much strip passed meanwhile nobody saw"
        loss = Loss(
            camera, track.next_sequence, 0, Reason.CAMERA_DOWN, f"the camera was down when the line ended{known}"
        )
        graded.drafts += self._gaps(loss, track, start, end, self._last_ns or time.time_ns())

    def _book_hole(
        self, camera: str, track: _Track, losses: list[Loss], end: int, stop: int, time_ns: int, graded: Graded
    ) -> None:
        """Frames [next_sequence, end) never came: fates and gap events, the strip up to `stop` shared out by frames."""
        total = end - track.next_sequence
        start = track.travel.end or 0
        self._settle(camera, track, graded, everything=True)
        self._tell(track, graded)
        before = 0
        for loss in losses:
            a = start + (stop - start) * before // total
            before += loss.count
            b = start + (stop - start) * before // total
            last = loss.sequence + loss.count - 1
            graded.settled.append(Settled(camera, loss.sequence, last, loss.reason, b, source=loss.source))
            graded.drafts += self._gaps(loss, track, a, b, time_ns)
        track.next_sequence, track.travel.end = end, stop
        self._last_count = max(self._last_count, stop)

    def _move(self, frame: Frame, span: Span, lost: int, track: _Track, graded: Graded) -> float:
        """The strip has come to this frame, or run back to it. Returns the millimetres of strip that are new."""
        travel, was = track.travel, track.travel.motion
        if not lost and travel.goes_on(frame, span):
            return track.geometry.length_mm(span.lines)
        expected, step = travel.end or 0, travel.look(frame, span, lost)
        if step.parts:
            stands = step.motion is Motion.STANDING
            self._emit(track.joining.interrupt() if stands else track.joining.close(), track, graded)
            track.told = True
        if step.gap is not None and step.gap[0] < step.gap[1]:
            graded.drafts += self._gaps(self._unseen(frame, track), track, *step.gap, frame.exposed_ns)
        if step.anew and self._resume_coils(span.begin, expected, track, graded):
            self._coils.begin(span.begin)
            self._coils.reach(span.begin)
        elif step.jumped:
            ran = f"{self._place(expected, track)} to {self._place(span.begin, track)}"
            detail = f"from {ran}: no strip can have run so between two frames; look at the encoder and its cable"
            self._say(frame.camera, "encoder jumped", detail, graded, "encoder")
        nominal = frame.counts_per_line is None and span.begin >= travel.furthest - track.geometry.counts_of_lines(2)
        # A frame's own speed is an estimate; but strip between two frames in a row was seen by the first of them.
        new = span.end - (max(span.begin, travel.furthest) if lost or step.gap else travel.furthest)
        travel.take(frame, span, step)
        self._tell_motion(frame.camera, was, step, track, graded)
        if nominal or step.anew:
            return track.geometry.length_mm(span.lines)
        return track.geometry.mm_of_counts(max(0, new))

    @staticmethod
    def _unseen(frame: Frame, track: _Track) -> Loss:
        """Strip went by between this frame and the one before, though no frame is missing."""
        if frame.after is not None:
            return Loss(frame.camera, frame.sequence, 0, frame.after, "between two frames of the camera")
        if frame.piece != track.piece:
            return Loss(frame.camera, frame.sequence, 0, Reason.CAMERA_DOWN, "the camera was down")
        return Loss(frame.camera, frame.sequence, 0, Reason.MISSING, "the encoder count jumped between two frames")

    def _tell_motion(self, camera: str, was: Motion, step: Step, track: _Track, graded: Graded) -> None:
        """One state event a change."""
        travel = track.travel
        here = self._place(travel.begin, track)
        if step.turned:
            turned = self._place(travel.told_to, track)
            detail = f"from {turned}, now at {here}: what is seen again is not told again"
            self._say(camera, "reversed", detail, graded, "motion")
            was = Motion.REVERSED
        if was is travel.motion:
            return
        if was is Motion.REVERSED:
            back = self._place(travel.back_to, track)
            detail = f"now at {here}; the strip had run back to {back}"
            self._say(camera, "forward again", detail, graded, "motion")
        if travel.motion is Motion.STANDING:
            self._say(camera, "standing", f"at {here}", graded, "motion")
        elif was is Motion.STANDING:
            self._say(camera, "running", f"at {here}", graded, "motion")

    def _place(self, count: int, track: _Track) -> str:
        along = track.geometry.along_mm(count, 0, self._coils.at(count).head_count)
        return f"{along:.1f} mm (count {count})"

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

    def _say(
        self,
        part: str,
        state: str,
        detail: str,
        graded: Graded,
        about: str | None = None,
        pack_digest: str | None = None,
    ) -> None:
        data = State(part=part, state=state, detail=detail, about=about, pack_digest=pack_digest)
        graded.drafts.append(Draft(f"state/v1/{self._line}/", self._last_ns, data))

    def _gaps(self, loss: Loss, track: _Track, start: int, end: int, time_ns: int) -> list[Draft]:
        track.travel.miss(start, end)
        return self._drafting.gaps(loss, track.geometry, start, end, time_ns)

    def _meet_coil(self, span: Span, track: _Track, graded: Graded) -> None:
        """A coil begins for a camera at its own count, and for the line when the first camera sees it."""
        coil = self._coils.at(span.begin)
        if coil.name != track.coil:
            self._emit(track.joining.close(), track, graded)
            track.coil, track.told = coil.name, True
        if self._coil is None:
            self._coil = coil
            self._coil_event(coil, "start", coil.head_count, coil.known_from, graded)
        self._correct(self._coil, graded)
        for following in self._coils.heads(self._coil.head_count, span.begin):
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
        inspected, packs = self._judged.take(coil) if phase == "end" else (None, None)
        event = CoilEvent(
            coil=coil.name,
            phase=phase,
            encoder_count=count,
            known_from=known_from,
            inspected=inspected,
            packs=packs,
        )
        graded.drafts.append(Draft(f"coil/v1/{self._line}/", self._last_ns, event))

    def _emit(self, done: list[OpenDefect], track: _Track, graded: Graded) -> None:
        for defect in done:
            box, geometry = defect.box, track.geometry
            middle = defect.count_at(box.y + box.height / 2, geometry)
            if not track.travel.was_told(defect.first.sequence, middle):
                graded.drafts.append(self._drafting.defect(defect, geometry))

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
        for depth, group in groupby(ready, key=lambda entry: entry[5]):
            alike = list(group)
            length_mm, width = sum(entry[3] for entry in alike), max(entry[4] for entry in alike)
            last = alike[-1]
            graded.settled.append(Settled(camera, alike[0][0], last[0], None, last[1], length_mm, width, depth))
        graded.born += [(camera, entry[2]) for entry in ready]
        self._ledger.inspect(camera, len(ready))
