"""Which coil lies at an encoder count, as the plant tells it: early, late, in any order, over restarts.

A count is a place on the strip, not a moment, so a telegram is true whenever it comes: strip before the head belongs to
the coil before, however late its frames are graded. Only what was reported already stays as it was reported.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from inspector.errors import TelegramError
from inspector.events import NO_COIL

START, END, FORGET = "coil start", "coil end", "encoder reset"
"""What a telegram asks for."""
COILS_KEPT = 1000
"""How many coils back a frame's count can be looked up: a bound on memory, far more than can be in flight."""


@dataclass(slots=True, frozen=True)
class Coil:
    """A coil and the encoder count at its head end."""

    name: str
    head_count: int
    known_from: int | None = None
    """Strip up to this count was graded before the coil was told of; None: it was told in time."""


@dataclass(slots=True, frozen=True)
class Told:
    """What became of a telegram."""

    coil: Coil
    previous: str
    """The coil that ends there."""
    repeated: bool
    """This very telegram came before."""
    ahead: int
    """Counts from the strip that was graded last to the place told of; negative: it was late."""


class CoilMap:
    """Safe to use from any thread. The coil on the line at start has its head where the counts begin."""

    def __init__(self, coil: str = NO_COIL, on_forget: Callable[[], None] = lambda: None) -> None:
        self._lock = threading.RLock()
        self._at_start = coil
        self._on_forget = on_forget
        self._first: Coil | None = None
        self._later: list[Coil] = []
        self._graded: int | None = None
        self.passed: tuple[str, int] | None = None
        """(camera, sequence) of the frame that was graded last."""
        self.on_told: Callable[[str, str, int], None] = lambda ask, coil, encoder_count: None
        """Called with each telegram that is in force now, before any other frame is graded."""

    def still(self) -> AbstractContextManager[object]:
        """While a frame is graded nobody can tell of a coil: a telegram comes before a frame or behind it."""
        return self._lock

    # ------------------------------------------------------------ what a recording keeps of it

    def snapshot(self) -> tuple[Coil | None, list[Coil]]:
        """The coil on the line at start, once its head is known, and those that the plant told of."""
        with self._lock:
            return self._first, list(self._later)

    def recall(self, first: Coil | None, told: Sequence[Coil]) -> None:
        """What `snapshot` gave; before the first frame."""
        with self._lock:
            self._first, self._later = first, list(told)

    # ------------------------------------------------------------ what the strip says

    def begin(self, encoder_count: int) -> None:
        """The first count seen: the head of the coil that is on the line at start. Later calls change nothing."""
        with self._lock:
            if self._first is None:
                self._first = Coil(self._at_start, encoder_count)

    def resume(self, encoder_count: int, before: int, far: int) -> bool:
        """The strip goes on at a count, and had come to `before`, in an earlier run or before a jump.

        True when the encoder counts anew, so that what was told is forgotten: the strip lies before the head of the
        coil that was on the line, or more than `far` counts back, farther than a strip is ever reversed.
        """
        with self._lock:
            index = self._index(before)
            behind_head = bool(index) and encoder_count < self._later[index - 1].head_count
            if not behind_head and before - encoder_count <= far:
                return False
            told = bool(self._later)
            self.forget()
            self.on_told(FORGET, "", 0)
        if told:
            self._on_forget()
        return True

    def forget(self) -> None:
        """The encoder counts anew: the coils that were told of lie nowhere any more."""
        with self._lock:
            self._later.clear()
            self._first = self._graded = None

    def reach(self, encoder_count: int) -> None:
        """Strip up to this count is being graded: a telegram that comes from now on does not change its coil."""
        with self._lock:
            self._graded = encoder_count if self._graded is None else max(self._graded, encoder_count)

    @property
    def graded(self) -> int | None:
        """The count that grading has come to; None before the first frame."""
        return self._graded

    # ------------------------------------------------------------ what the plant says

    def start(self, coil: str, head_count: int) -> Told:
        """A coil's head lies at `head_count`; another name for the same count corrects the first.

        Raises:
            TelegramError: strip of a coil that begins behind this head was graded already.
        """
        with self._lock:
            told = self._tell(coil, head_count)
            self.on_told(START, coil, head_count)
            return told

    def end(self, tail_count: int, coil: str | None = None) -> Told:
        """The coil's tail lies at `tail_count`: what follows belongs to no coil, unless one starts right there.

        Raises:
            TelegramError: see `start`; or another coil than the one named lies there, or none.
        """
        with self._lock:
            lies = self._look_up(tail_count - 1)
            if lies.name == NO_COIL:
                raise TelegramError(f"no coil can end at count {tail_count}: none lies there")
            if coil is not None and lies.name != coil:
                raise TelegramError(f"coil {coil} cannot end at count {tail_count}: coil {lies.name} lies there")
            at_tail = self._look_up(tail_count)
            if at_tail.head_count == tail_count and at_tail in self._later:
                return Told(at_tail, lies.name, at_tail.name == NO_COIL, self._ahead(tail_count))
            told = self._tell(NO_COIL, tail_count)
            self.on_told(END, lies.name, tail_count)
            return told

    def _tell(self, name: str, head_count: int) -> Told:
        ahead, previous = self._ahead(head_count), self._look_up(head_count - 1).name
        same = next((known for known in self._later if known.head_count == head_count), None)
        if same is not None and same.name == name:
            return Told(same, previous, True, ahead)
        if self._graded is not None:
            lies = self._look_up(self._graded)
            if lies in self._later and head_count < lies.head_count:
                raise TelegramError(
                    f"count {head_count} lies before the head of coil {lies.name} at {lies.head_count}, which is being "
                    "inspected: too late to change what was reported"
                )
        new = Coil(name, head_count, self._graded if ahead < 0 else None)
        self._later = [
            known for known in self._later if known.head_count != head_count and not self._moved(known, name)
        ]
        bisect.insort(self._later, new, key=_head)
        if len(self._later) > COILS_KEPT:
            self._first = self._later.pop(0)
        return Told(new, previous, False, ahead)

    def _moved(self, known: Coil, name: str) -> bool:
        """A coil that is named again before its head has come: the first count was wrong."""
        ahead = self._graded is None or known.head_count > self._graded
        return ahead and known.name == name != NO_COIL

    def _ahead(self, count: int) -> int:
        return count - (count if self._graded is None else self._graded)

    # ------------------------------------------------------------ what is asked

    def at(self, encoder_count: int) -> Coil:
        """The coil that lies at a count. Before `begin`, the count asked for stands for the first coil's head."""
        with self._lock:
            return self._look_up(encoder_count)

    def now(self) -> Coil:
        """The coil that is on the line."""
        with self._lock:
            return self._look_up(self._graded if self._graded is not None else 0)

    def heads(self, after: int, upto: int) -> list[Coil]:
        """The coils whose heads lie in (after, upto], in the order of the strip; not the one on the line at start."""
        with self._lock:
            return self._later[self._index(after) : self._index(upto)]

    def known(self) -> list[Coil]:
        """Every coil that is known, in the order of the strip."""
        with self._lock:
            first = self._first
            hidden = first is None or (self._later and self._later[0].head_count <= first.head_count)
            return [*([] if hidden or first is None else [first]), *self._later]

    def _look_up(self, encoder_count: int) -> Coil:
        index = self._index(encoder_count)
        if index:
            return self._later[index - 1]
        return self._first or Coil(self._at_start, encoder_count)

    def _index(self, encoder_count: int) -> int:
        return bisect.bisect_right(self._later, encoder_count, key=_head)


def _head(coil: Coil) -> int:
    return coil.head_count
