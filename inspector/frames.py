"""What is known of each frame that the books count, as lines of a file: `inspector replay --frames`.

    {"camera": "replay", "frame_sequence": 7, "source": "07.png", "outcome": "inspected", "gate_score": 0.0312, ...}

A frame is told once its fate is in the books, so each has one line, in the order of `frame_sequence` for each camera,
and the file holds no other number of frames than `inspector audit` counts. Events tell what was found; this tells that
a frame without any was looked at, and how near it came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from inspector.errors import SinkError
from inspector.events import Defect, Reason, as_json
from inspector.records import Graded, Settled, Verdict, Verdicts
from inspector.sinks import jsonl

INSPECTED = "inspected"
"""The outcome of a frame that was not lost."""
PLACES = 6
"""Of a score: clean frames lie close to 0, and those that look alike must not become equal."""
TOGETHER = 1000
"""Lines that are written in one go at most: one loss may be of any number of frames."""


class FrameLine(msgspec.Struct, frozen=True, kw_only=True):
    """One frame, as a JSON line."""

    camera: str
    frame_sequence: int
    """As in events."""
    source: str | None
    """The name of its file, as in events; None: nobody knows it."""
    outcome: str
    """`inspected`, or the reason for which it was lost, as in gap events and books."""
    gate_score: float | None
    """The highest of its tiles, 0..1; None: it was lost, or the gate was not asked, as nothing of it is strip."""
    passed: bool | None
    """The gate's score, before it was rounded, reached the pack's threshold; None: there is none."""
    events: int
    """How many defect events lie in it; one that spans several frames lies in each of them."""
    pack_digest: str | None
    """Of the pack that judged it, as in events; None: it was lost."""


class Frames:
    """Writes the lines. `see` and `book` are called by one thread each, `see` first for every frame.

    The file is opened, and what it held is gone, when the first line is written or with `finish`.

    Args:
        path: the file.
        first: camera -> what events call its first frame; 0 where it is not named.
    """

    def __init__(self, path: Path, first: Mapping[str, int]) -> None:
        self._path = path
        self._first = first
        self._file = jsonl.open(jsonl.Options(path=path, append=False))
        self._opened = False
        self._failed = False
        self._judged: dict[tuple[str, int], FrameLine] = {}
        """By camera and number in the books: frames that were judged and are not in the books yet."""
        self._events: Counter[tuple[str, int]] = Counter()
        """By camera and number in events: defects in frames that are not in the books yet."""
        self._next: dict[str, int] = {}
        """Camera -> number in the books of the frame that comes next."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def see(self, verdicts: Verdicts) -> None:
        """Take down what the cascade says, before the frames are released."""
        for verdict in verdicts.verdicts:
            frame = verdict.frame
            self._judged[frame.camera, frame.sequence] = self._line(verdict)

    def book(self, graded: Graded) -> None:
        """Write the frames whose fate is in the books now: every defect in them has become an event.

        Raises:
            SinkError: the file cannot be written.
        """
        for draft in graded.drafts:
            data = draft.data
            if isinstance(data, Defect):
                span = range(data.frame_sequence, data.frame_sequence + data.frames)
                self._events.update((data.camera, number) for number in span)
        for settled in graded.settled:
            self._settle(settled)

    def finish(self, issued: Mapping[str, int]) -> None:
        """The line has ended: what it left in flight of the frames issued is lost, as the journal books it.

        Raises:
            SinkError: the file cannot be written, which nobody has been told yet.
        """
        if self._failed:
            return
        for camera, end in issued.items():
            first = self._next.get(camera, 0)
            if first < end:
                self._settle(Settled(camera, first, end - 1, Reason.ABORTED, 0))
        self._write([])

    def _settle(self, settled: Settled) -> None:
        numbers = range(settled.first, settled.last + 1)
        for start in range(0, len(numbers), TOGETHER):
            self._write(self._fate(settled, number) for number in numbers[start : start + TOGETHER])
        self._next[settled.camera] = settled.last + 1

    def _fate(self, settled: Settled, number: int) -> FrameLine:
        judged = self._judged.pop((settled.camera, number), None)
        shown = self._first.get(settled.camera, 0) + number
        events = self._events.pop((settled.camera, shown), 0)
        if judged is not None and settled.reason is None:
            return msgspec.structs.replace(judged, events=events)
        return FrameLine(
            camera=settled.camera,
            frame_sequence=shown,
            source=judged.source if judged is not None else settled.source,
            outcome=settled.reason or INSPECTED,
            gate_score=None,
            passed=None,
            events=events,
            pack_digest=None,
        )

    def _line(self, verdict: Verdict) -> FrameLine:
        frame = verdict.frame
        return FrameLine(
            camera=frame.camera,
            frame_sequence=self._first.get(frame.camera, 0) + frame.sequence,
            source=frame.source,
            outcome=INSPECTED,
            gate_score=None if verdict.passed is None else round(verdict.gate_score, PLACES),
            passed=verdict.passed,
            events=0,
            pack_digest=verdict.pack_digest,
        )

    def _write(self, lines: Iterable[FrameLine]) -> None:
        try:
            if not self._opened:
                self._file.__enter__()
                self._opened = True
            refused = self._file.append([as_json(line) for line in lines])
        except SinkError as error:
            self._failed = True
            raise SinkError(f"--frames {error}") from None
        if refused:
            self._failed = True
            raise SinkError(
                f"--frames {self._path}: takes no more lines: the disk is full, or the reader of a pipe is behind. "
                "Make room, or name another file"
            )
