"""The four middle stages as a worker drives them: each a few lines around the class that does the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from inspector.cascade import Cascade
from inspector.engines import Duty, Engines, Turn
from inspector.errors import EngineError
from inspector.events import Depth
from inspector.grading import Grading
from inspector.metrics import Metrics
from inspector.overload import Overload
from inspector.preprocess import Preprocess
from inspector.records import Batch, Frame, Graded, Verdicts

IDLE_S = 1.0
LOOK_S = 0.25
"""A cascade worker without a batch looks so often whether other engines are on duty, or nobody could close the old."""


class Idle:
    """A stage that acquires nothing and has nothing to do between items."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def wait_s(self) -> float:
        return IDLE_S


class PreprocessStage(Idle):
    """Frames -> batches, full or due."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    def wait_s(self) -> float:
        due_s = self._preprocess.due_in_s(time.monotonic_ns())
        return IDLE_S if due_s is None else due_s

    def work(self, frame: Frame | None) -> Iterator[Batch]:
        if frame is not None:
            batch = self._preprocess.add(frame)
        else:
            batch = self._preprocess.flush() if self.wait_s() <= 0 else None
        if batch is not None:
            yield batch

    def finish(self) -> Iterator[Batch]:
        batch = self._preprocess.flush()
        if batch is not None:
            yield batch


class CascadeStage(Idle):
    """Batches -> verdicts; several workers run side by side, each with a stream of its own through the same engines."""

    def __init__(
        self,
        duty: Duty,
        merge_px: int,
        metrics: Metrics,
        tap: Callable[[Batch, Verdicts], None] = lambda batch, verdicts: None,
        overload: Overload | None = None,
    ) -> None:
        """`tap` sees each batch and its verdicts before they are handed on; it must neither wait nor fail."""
        self._duty = duty
        self._overload = overload
        self._metrics = metrics
        self._merge_px = merge_px
        self._tap = tap
        self._turn: Turn | None = None
        self._known: list[tuple[Engines, Cascade]] = []
        """What is used and what was before it: if that comes back, its stream is warm."""

    def __enter__(self) -> Self:
        self._use(self._duty.take(None))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            self._duty.give_back(turn)

    def wait_s(self) -> float:
        return LOOK_S

    def work(self, batch: Batch | None) -> Iterator[Verdicts]:
        if batch is None:
            self._ready(None)
            if self._overload is not None:
                self._overload.idle()
            return
        depth = Depth.FULL if self._overload is None else self._overload.take(batch)
        verdicts = self._judge(batch, depth)
        passed, segmented = self._cascade.passed, self._cascade.segmented
        self._metrics.cascaded(len(batch.frames), len(batch.tiles), passed, segmented)
        self._tap(batch, verdicts)
        yield verdicts

    def _judge(self, batch: Batch, depth: Depth) -> Verdicts:
        """By the engines whose turn it is, or where they fail on trial by those before them: no frame is lost."""
        self._ready(batch.number)
        try:
            return self._cascade.judge(batch, depth)
        except EngineError as error:
            self._fall_back(error)
            return self._cascade.judge(batch, depth)

    def _ready(self, number: int | None) -> None:
        try:
            self._use(self._duty.take(self._turn, number))
        except EngineError as error:
            self._fall_back(error)

    def _fall_back(self, error: EngineError) -> None:
        before = None if self._turn is None else self._duty.fall_back(self._turn, error)
        if before is None:
            raise error
        self._use(before)

    def _use(self, turn: Turn) -> None:
        self._turn = turn
        cascade = next((known for engines, known in self._known if engines is turn.engines), None)
        if cascade is None:
            cascade = Cascade(turn.engines.pack, turn.engines.stream(), self._merge_px)
            self._known = [*self._known[-1:], (turn.engines, cascade)]
        self._cascade = cascade

    def finish(self) -> Iterator[Verdicts]:
        yield from ()


class GradingStage(Idle):
    """Verdicts, put back in order -> what the journal takes. What waits here is bounded by the frame pool."""

    def __init__(
        self,
        grading: Grading,
        failed: Callable[[], bool],
        look: Callable[[Graded], None] = lambda graded: None,
        see: Callable[[Verdicts], None] = lambda verdicts: None,
    ) -> None:
        """`see` sees verdicts in order before they are graded, `look` what was graded before it is handed on."""
        self._grading = grading
        self._failed = failed
        self._look = look
        self._see = see
        self._stand_at: int | None = None
        self._next = 0
        self._early: dict[int, Verdicts] = {}

    def stand(self, encoder_count: int) -> None:
        """The strip stands, and cameras have delivered it up to this count. From any thread; it counts when that has
        been graded, or nothing more comes."""
        self._stand_at = encoder_count

    def work(self, verdicts: Verdicts | None) -> Iterator[Graded]:
        if verdicts is not None:
            self._early[verdicts.number] = verdicts
        while self._next in self._early:
            following = self._early.pop(self._next)
            self._see(following)
            graded = self._grading.grade(following)
            self._next += 1
            if graded:
                yield self._seen(graded)
        if self._stand_at is not None and self._has_come(self._stand_at, idle=verdicts is None):
            self._stand_at = None
            yield self._seen(self._grading.stand())

    def _has_come(self, encoder_count: int, idle: bool) -> bool:
        graded = self._grading.graded_count
        return (idle and not self._early) or (graded is not None and graded >= encoder_count)

    def finish(self) -> Iterator[Graded]:
        """The end of the strip. After a failure the rest stays in flight: the journal books it as aborted."""
        if not self._failed():
            yield self._seen(self._grading.finish())

    def _seen(self, graded: Graded) -> Graded:
        self._look(graded)
        return graded
