"""The engines on duty: a pack's networks, loaded and warm, and the one place where every cascade worker finds them.

Other engines are put on duty while the line runs. From which batch on they judge is settled in one place, so that in
the order of the strip every frame before that batch was judged by the old ones and every frame from it on by the new,
however many workers there are. What was on duty before stays open and can come back at once, until it is `retired`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from inspector import adapters
from inspector.config import RuntimeConfig
from inspector.errors import EngineError
from inspector.events import short_digest
from inspector.pack import Pack
from inspector.runtimes import Runtime, Stream

LOOK_S = 0.1
"""Between two looks whether a worker still uses engines that are to be closed."""


class Engines:
    """A verified pack and the runtime that holds its networks; loaded and warm on enter, closed on exit.

    It may be entered and left by different threads, one after the other, and left twice. Whoever leaves it has made
    sure that no worker uses it: see `Duty.retire`.
    """

    def __init__(self, pack: Pack, runtime: Runtime) -> None:
        self.pack = pack.computed_in(runtime.precisions)
        self.runtime = runtime
        self._open = False
        self._spare: Stream | None = None

    @classmethod
    def of(cls, pack: Pack, section: RuntimeConfig) -> Self:
        """The engines of a pack on the runtime that the YAML's `runtime:` names; not entered yet.

        Raises:
            ConfigError: there is no such runtime, or an option of it is wrong.
        """
        adapter = adapters.module("runtimes", section.kind, "runtime")
        return cls(pack, adapter.open(adapters.options(adapter, section.options, "runtime.options"), pack))

    @property
    def digest(self) -> str:
        return self.pack.digest

    @property
    def named(self) -> str:
        """For people: name, version and the beginning of the digest."""
        manifest = self.pack.manifest
        return f"{manifest.name} {manifest.version} ({short_digest(self.digest)})"

    def stream(self) -> Stream:
        """One worker's way through the networks."""
        return self.runtime.stream()

    @property
    def spare(self) -> Stream:
        """A way of their own for whoever compares them with others: the same one every time, for one thread."""
        if self._spare is None:
            self._spare = self.runtime.stream()
        return self._spare

    def __enter__(self) -> Self:
        self.runtime.__enter__()
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._open, self._spare = False, None
            self.runtime.__exit__(kind, error, trace)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """Engines on duty from a batch on, until the next turn begins."""

    since: int
    """The number of the first batch that they judge."""
    engines: Engines


class Duty:
    """Which engines judge which batch. `current`, `take`, `fall_back` and `give_back` may be called from any thread.

    A context manager: the engines given at first are loaded on enter, and on exit all that were put and not retired
    are closed. Those that are retired are closed by whoever does that.
    """

    def __init__(self, engines: Engines) -> None:
        self._lock = threading.Lock()
        self._turns = [Turn(0, engines)]
        self._users: list[Turn] = []
        """One entry for each worker: what it uses now."""
        self._asked = -1
        """The highest number of a batch that a worker has asked for."""
        self._trial: Engines | None = None
        """Where these fail, those before them come back."""
        self.failure: tuple[Engines, EngineError] | None = None
        """Engines that failed on duty, so that those before them came back."""
        self.changing = threading.Lock()
        """Held by whoever brings others on duty, from its look at what is until what left is closed: two at a time
        would bring back what the other has closed."""

    def __enter__(self) -> Self:
        self.current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for turn in self._turns:
            turn.engines.__exit__(kind, error, trace)

    @property
    def current(self) -> Engines:
        """What judges the batches that nobody has asked for yet."""
        return self._turns[-1].engines

    # ------------------------------------------------------------ the workers' side

    def take(self, using: Turn | None, batch: int | None = None) -> Turn:
        """The turn that a batch of this number belongs to; it takes the place of what this worker used till now.

        Without a number: what a worker that holds no batch should have ready. Its next batch will be newer than any
        that was asked for. A worker must ask at least twice a second, or what it uses is never closed.
        """
        with self._lock:
            if batch is None:
                found = self._turns[-1]
            else:
                self._asked = max(self._asked, batch)
                found = next(turn for turn in reversed(self._turns) if batch >= turn.since)
            self._change(using, found)
            return found

    def give_back(self, using: Turn) -> None:
        """A worker ends."""
        with self._lock:
            self._change(using, None)

    def fall_back(self, using: Turn, error: EngineError) -> Turn | None:
        """Its engines failed in a worker: those that were on duty before take over; None if there are none to trust.

        The worker judges with them the very batch that failed.
        """
        with self._lock:
            if using.engines is not self._trial:
                return None
            before = self._turns[self._turns.index(using) - 1]
            if self._turns[-1] is using:
                self._turns.append(Turn(self._asked + 1, before.engines))
                self.failure = using.engines, error
            self._change(using, before)
            return before

    def _change(self, using: Turn | None, found: Turn | None) -> None:
        if using is not None:
            self._users.remove(using)
        if found is not None:
            self._users.append(found)

    # ------------------------------------------------------------ the side of whoever changes them

    def put(self, engines: Engines, *, trial: bool) -> int:
        """Put these (entered, or on duty before) on duty; returns the number of the first batch that they judge.

        On trial those before them come back by themselves when a network fails, until the trial is `passed`.
        """
        with self._lock:
            return self._put(engines, trial)

    def replace(self, old: Engines, new: Engines) -> int | None:
        """Put `new` on duty, on trial, if `old` are; None if others have taken over from them."""
        with self._lock:
            return self._put(new, trial=True) if self._turns[-1].engines is old else None

    def _put(self, engines: Engines, trial: bool) -> int:
        self._turns.append(Turn(self._asked + 1, engines))
        self._trial = engines if trial else None
        self.failure = None
        return self._asked + 1

    def passed(self, engines: Engines) -> bool:
        """Their trial is over, and those before them may be retired. False if they failed just before."""
        with self._lock:
            if self._turns[-1].engines is not engines:
                return False
            self._trial = None
            return True

    def retire(self, engines: Engines, stop: threading.Event) -> bool:
        """Wait until no worker can come back to these, which are not on duty: they may be closed then.

        False if `stop` was set first.
        """
        while not self._past(engines):
            if stop.wait(LOOK_S):
                return False
        return True

    def _past(self, engines: Engines) -> bool:
        """Every worker is in a later turn than the last one of these, and what came before that is forgotten."""
        with self._lock:
            turns = [i for i, turn in enumerate(self._turns) if turn.engines is engines]
            if not turns:
                return True
            later = self._turns[turns[-1] + 1 :]
            if not later or any(used not in later for used in self._users):
                return False
            self._turns = later
            return True
