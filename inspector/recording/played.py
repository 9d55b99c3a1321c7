"""What recordings tell of the line they are from, so that a replay of them is that line again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from inspector.cameras import _recorded, _sources
from inspector.cameras._index import FILES, FLAT_FIELD, Setup, Stood, Told
from inspector.cameras._recorded import Survey
from inspector.cameras._shots import printable
from inspector.coils import END, FORGET, START, Coil, CoilMap
from inspector.config import Config
from inspector.errors import ConfigError, TelegramError
from inspector.events import Defect, Gap
from inspector.records import Graded

DEEP = 3
"""Folders below a source that are searched for recordings: of a line, its cameras and their pieces."""


@dataclass(slots=True)
class Lane:
    """One camera's recordings, in the order of the strip."""

    folders: list[Path]
    surveys: list[Survey]
    strips: int = 1
    """Runs of the camera that are in them; of more than one, numbers and coils cannot be carried over."""

    @property
    def setup(self) -> Setup:
        setup = self.surveys[0].header.setup
        assert setup is not None
        return setup


@dataclass(slots=True)
class Played:
    """The recordings of one line."""

    lanes: dict[str, Lane]
    first_coil: Coil | None = None
    coils: list[Coil] = field(default_factory=list)
    """Known when the recordings began."""
    script: list[Told | Stood] = field(default_factory=list)

    @property
    def setup(self) -> Setup:
        """What all lanes have in common, and the camera of one."""
        return next(iter(self.lanes.values())).setup

    @property
    def whole_runs(self) -> bool:
        """Each camera is one strip, so that numbers and coils are those of the line."""
        return all(lane.strips == 1 for lane in self.lanes.values())

    def cameras(self) -> list[dict[str, Any]]:
        """The cameras as they would stand in the YAML of the replay."""
        return [_camera(lane) for lane in self.lanes.values()]

    def sections(self) -> dict[str, Any]:
        """The sections of the YAML that change what is found."""
        return {name: section for name, section in self.setup.sections.items() if name in Config.__struct_fields__}

    def numbers(self) -> dict[str, int]:
        """Camera -> what the line called its first frame, which is 0 in the books."""
        return {name: lane.surveys[0].first_sequence or 0 for name, lane in self.lanes.items()}

    def renumber(self, graded: Graded) -> None:
        """A recording that begins in the middle counts from 0 in the books, and in events as the line did."""
        for draft in graded.drafts:
            if isinstance(draft.data, Defect | Gap):
                first = self.lanes[draft.data.camera].surveys[0].first_sequence or 0
                draft.data = msgspec.structs.replace(draft.data, frame_sequence=draft.data.frame_sequence + first)


class Script:
    """Tells a line what the plant told it when it was recorded, behind the same frames.

    Args:
        played: the recordings.
        coils: the line's.
        stand: tells grading that the strip stands.
    """

    def __init__(self, played: Played, coils: CoilMap, stand: Callable[[Graded], object]) -> None:
        self._left = list(played.script)
        self._first = played.numbers()
        self._passed: dict[str, int] = {}
        self._coils = coils
        self._stand = stand
        self.after_frame(Graded())

    def after_frame(self, graded: Graded) -> None:
        """A frame was graded; what comes of a strip that stands goes with it."""
        if self._coils.passed is not None:
            camera, sequence = self._coils.passed
            self._passed[camera] = sequence + self._first[camera]
        while self._left and self._due(self._left[0]):
            entry = self._left.pop(0)
            if isinstance(entry, Told):
                self._tell(entry)
            else:
                self._stand(graded)

    def _due(self, entry: Told | Stood) -> bool:
        if entry.after is None:
            return True
        camera, sequence = entry.after
        if camera in self._first:
            return self._passed.get(camera, -1) >= sequence
        # The camera is not among those that are played: the same place of the strip is as near as can be.
        return (self._coils.graded or 0) >= (entry.graded or 0)

    def _tell(self, entry: Told) -> None:
        with suppress(TelegramError):  # of a coil before this recording
            if entry.ask == START:
                self._coils.start(entry.coil, entry.encoder_count)
            elif entry.ask == END:
                self._coils.end(entry.encoder_count)
            elif entry.ask == FORGET:
                self._coils.forget()


def find(sources: Sequence[Path]) -> Played | None:
    """The line that the sources were recorded from; None if they are, or hold, something else than recordings.

    Raises:
        ConfigError: a recording is damaged at its head, or they are of different lines.
    """
    found = [list(_recordings(source, DEEP)) for source in sources]
    if not all(found):
        return None
    folders = list(dict.fromkeys(folder for some in found for folder in some))
    surveys = [_recorded.survey(folder) for folder in folders]
    if any(survey.header.setup is None for survey in surveys):
        return None  # of version 1, or written by somebody else
    played = Played(_lanes(folders, surveys))
    _check_alike(played)
    _recall(played)
    return played


def _recordings(path: Path, deep: int) -> Iterator[Path]:
    if path.name in FILES and _recorded.is_recording(path.parent):
        path = path.parent
    if _recorded.is_recording(path):
        yield path
    elif deep and path.is_dir():
        try:
            inside = sorted(path.iterdir(), key=lambda entry: _sources.natural(entry.name))
        except OSError:  # such as lost+found; a source that cannot be read is told by the camera
            return
        if not any(_sources.kind_of(entry) for entry in inside):
            for entry in inside:
                yield from _recordings(entry, deep - 1)


def _lanes(folders: Sequence[Path], surveys: Sequence[Survey]) -> dict[str, Lane]:
    """By camera; a piece that two kept recordings share counts once."""
    lanes: dict[str, Lane] = {}
    seen: set[tuple[str, str, int]] = set()
    for folder, survey in zip(folders, surveys, strict=True):
        header = survey.header
        key = header.camera, header.run, header.part
        if header.run and key in seen:
            continue
        seen.add(key)
        lane = lanes.setdefault(header.camera, Lane([], []))
        lane.folders.append(folder)
        lane.surveys.append(survey)
    for lane in lanes.values():
        lane.strips = len(_recorded.strips(lane.folders))
    return lanes


def _check_alike(played: Played) -> None:
    """One line has one set of settings; recordings of two need two replays."""
    first = played.lanes[next(iter(played.lanes))]
    for name, lane in played.lanes.items():
        for folder, survey in zip(lane.folders, lane.surveys, strict=True):
            setup = survey.header.setup
            assert setup is not None
            alike = (
                (setup.line, setup.mm_per_count, setup.sections)
                == (first.setup.line, first.setup.mm_per_count, first.setup.sections)
                and setup.camera == lane.setup.camera
                and survey.header.flat_field == lane.surveys[0].header.flat_field
            )
            if not alike:
                shown, other = printable(str(folder)), printable(str(first.folders[0]))
                raise ConfigError(
                    f"{shown}: was recorded with other settings of camera {name} or of its line than {other}. "
                    "Replay them one after the other"
                )


def _recall(played: Played) -> None:
    """What was known of the coils when the first camera's recording began, and what was told afterwards."""
    if not played.whole_runs:
        return
    oldest = min((lane.surveys[0] for lane in played.lanes.values()), key=lambda survey: survey.came_ns)
    played.first_coil, played.coils = oldest.header.first_coil, oldest.header.coils
    if played.first_coil is None and (oldest.header.part or len(played.lanes) > 1):
        # It was written before the first frame had been graded, and of which camera that was is not sure.
        surveys = sorted((s for lane in played.lanes.values() for s in lane.surveys), key=lambda s: s.came_ns)
        played.first_coil = next((s.header.first_coil for s in surveys if s.header.first_coil is not None), None)
    script = {entry: None for lane in played.lanes.values() for survey in lane.surveys for entry in survey.script}
    played.script = sorted(script, key=lambda entry: entry.received_ns)


def _camera(lane: Lane) -> dict[str, Any]:
    raw = {key: value for key, value in lane.setup.camera.items() if key != "silent_s"}
    raw |= {"kind": "replay", "options": {"sources": [str(folder) for folder in lane.folders]}}
    if lane.surveys[0].header.flat_field is not None:
        raw["flat_field"] = str(lane.folders[0] / FLAT_FIELD)
    return raw
