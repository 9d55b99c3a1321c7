"""The daemon's recording: every raw frame into a rolling window, and what lies around trouble kept for longer.

    PATH/window/CAMERA/PIECE/       a few seconds of one camera, a recording (see cameras/_index.py)
    PATH/kept/TIME-CAMERA-WHY/PIECE the pieces around a severe defect or a loss: `inspector replay` plays the folder

It is no stage of the line: nothing waits for it, and the line goes on when it fails. One thread writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from inspector.cameras._index import Stood, Told
from inspector.coils import FORGET, CoilMap
from inspector.config import Config, RecordingConfig
from inspector.errors import ConfigError
from inspector.events import Defect, Gap, State
from inspector.metrics import Metrics
from inspector.pack import Pack
from inspector.recording.heading import Heading
from inspector.recording.intake import CameraTap, Intake, Known
from inspector.recording.kept import Mark
from inspector.recording.writing import Writer
from inspector.records import Frame, Graded

__all__ = ["Recording", "check"]

TICK_S = 0.2


def check(config: Config) -> str:
    """A word on the section for `inspector check`. Nothing is made.

    Raises:
        ConfigError: a severity that no rule gives, or a path that is no folder.
    """
    section = config.recording
    if section is None:
        return "none"
    grading = config.grading
    known = {rule.severity for rule in grading.severity} | {grading.default_severity, grading.unmeasured_severity}
    unknown = sorted(set(section.severities) - known)
    if unknown:
        raise ConfigError(
            f"recording.severities: no rule of grading gives {unknown[0]!r}, only {', '.join(sorted(known))}"
        )
    if section.path.exists() and not section.path.is_dir():
        raise ConfigError(f"recording.path: {section.path} is a file. Name a folder")
    kept = [*section.severities, *(["losses"] if section.losses else [])]
    return f"{section.window_gb:g} GB of all, {section.keep_gb:g} GB around {', '.join(kept) or 'nothing'}"


class Recording:
    """Records a line: `taps` see its frames, `look` what was graded, `told` the telegrams, `serve` writes.

    Args:
        config: of the line, with a section `recording`.
        section: that section.
        engines: the pack, named in the recordings.
        coils: the line's.
        metrics: the line's.
        say: (part, state, detail) becomes a state event.
        clock: monotonic seconds.

    Raises:
        ConfigError: a flat-field cannot be read.
    """

    def __init__(
        self,
        config: Config,
        section: RecordingConfig,
        engines: Pack,
        coils: CoilMap,
        metrics: Metrics,
        say: Callable[[str, str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._section = section
        self._coils = coils
        self._metrics = metrics
        heading = self._heading = Heading(config, config.cameras, _named(engines), engines.digest)
        heading.first, heading.coils = coils.snapshot()
        self._headed = heading.first is not None
        names = [camera.name for camera in config.cameras]
        # Each camera may have one in hand that waits for room in the line, and needs room for another.
        self._intake = Intake(max(section.queue_frames, 2 * len(names)), self._skipped)
        self._writer = Writer(section, names, heading, metrics, say, clock)

    # ------------------------------------------------------------ what the line tells

    def taps(self, camera: str) -> list[CameraTap]:
        """For the Capture of a camera."""
        return [self._intake.tap(camera)]

    def taken(self, frame: Frame) -> None:
        """The line has taken a frame in: before it is graded, so that what is known of its coil comes behind it."""
        self._intake.taken(frame)

    def look(self, graded: Graded) -> None:
        """See what was graded, in grading's thread: severe defects and gaps are marked."""
        if not self._headed:
            self._headed = self._know(None).first is not None
        for draft in graded.drafts:
            data = draft.data
            if isinstance(data, Defect) and data.severity in self._section.severities:
                self._writer.marks.append(Mark(data.camera, data.exposed_ns, data.severity))
            elif isinstance(data, Gap) and self._section.losses:
                self._writer.marks.append(Mark(data.camera, draft.time_ns, data.reason))
            elif isinstance(data, State) and (data.part, data.state) == ("strip", "standing"):
                coils = self._coils
                self._know(Stood(after=coils.passed, graded=coils.graded, received_ns=time.time_ns()))

    def told(self, ask: str, coil: str, encoder_count: int) -> None:
        """The plant told of a coil, and the line's coils know it, while no frame is graded; from any thread."""
        entry = Told(
            ask=ask,
            coil=coil,
            encoder_count=encoder_count,
            after=self._coils.passed,
            graded=self._coils.graded,
            received_ns=time.time_ns(),
        )
        # A replay finds out by itself that the encoder counts anew, unless it had done so since the run before.
        self._know(None if ask == FORGET and entry.after is not None else entry)

    def judged_by(self, engines: Pack) -> None:
        """Another pack is on duty; from any thread."""
        self._heading.judged_by(_named(engines), engines.digest)

    def _know(self, entry: Told | Stood | None) -> Known:
        known = Known(*self._coils.snapshot(), entry)
        self._intake.know(known)
        return known

    def _skipped(self, camera: str, frames: int) -> None:
        self._metrics.unrecorded_frames.labels(camera, "slow").inc(frames)

    # ------------------------------------------------------------ as a server of the line

    def open(self) -> None:
        """Take over what earlier runs left.

        Raises:
            ConfigError: the folder cannot be made or written.
        """
        self._writer.open()

    def serve(self, stop: threading.Event) -> None:
        """Write until `stop` is set and nothing waits any more."""
        try:
            while not stop.is_set():
                self._writer.step(self._intake.get(TICK_S))
            while (item := self._intake.get(0.0)) is not None:
                self._writer.step(item)
            for item in self._intake.rest():
                self._writer.step(item)
            self._writer.finish()
        except BaseException as error:
            self._writer.fail(error)
            raise

    def close(self) -> None:
        """Everything was closed by `serve`."""


def _named(engines: Pack) -> str:
    return f"{engines.manifest.name} {engines.manifest.version}"
