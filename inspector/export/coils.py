"""Which coils a journal holds, whether one of them is whole, and its events one after the other.

A coil's events are the defects, gaps and coil events that name it, and the changes of state that happened while it was
on the line. All of it is read from the events themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from inspector.errors import InspectorError
from inspector.journal import Run, RunState, read_bodies, read_runs
from inspector.journal.store import damaged

KINDS = ("defect", "gap", "coil", "state")


class _Data(msgspec.Struct):
    """Of an event's data only what tells whose it is."""

    kind: str
    coil: str = ""
    phase: str = ""


class _Glance(msgspec.Struct):
    """Of an envelope only what tells whose it is: a third of the time of all of it."""

    epoch: int
    subject: str
    sequence: int
    time: str
    data: _Data


@dataclass(slots=True)
class Coil:
    """What the journal says of one coil. Its name may have been used more than once; then this is all of them."""

    name: str
    first: str
    """Time of its first event, RFC 3339."""
    last: str
    events: int = 0
    missing: int = 0
    """Events between its own that the journal does not hold."""
    heads: int = 0
    tails: int = 0
    epochs: dict[int, None] = field(default_factory=dict)
    ended: bool = False
    """The last that is known of it is its tail."""
    state: str = "ended"
    """For people: ended, on the line, or never ended."""

    def faults(self, runs: list[Run]) -> list[str]:
        """Why an export of it would not be the whole of it; none: it is whole as far as the journal can know."""
        found = []
        if not self.heads:
            found.append("its beginning is not in the journal any more, or never was")
        if self.missing:
            found.append(f"{self.missing} events are missing between those that the journal holds")
        given_up = sum(run.unjournalled for run in runs if run.epoch in self.epochs)
        if given_up:
            found.append(f"its runs gave up {given_up} events while the disk was full; some may have been of this coil")
        return found


class Walk:
    """Goes through a journal's events in their order and tells whose each is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decode = msgspec.json.Decoder(_Glance).decode
        self._on_line: dict[int, str] = {}
        """Epoch -> the coil on the line."""

    def __iter__(self) -> Iterator[tuple[str | None, _Glance, bytes]]:
        """(coil, what was looked at, the envelope as published); coil None: an event of no coil."""
        for _, body in read_bodies(self._path):
            try:
                glance = self._decode(body)
            except msgspec.MsgspecError as error:
                raise damaged(self._path, error) from None
            yield self._owner(glance), glance, body

    def _owner(self, glance: _Glance) -> str | None:
        data = glance.data
        if data.kind == "coil" and data.phase == "start":
            self._on_line[glance.epoch] = data.coil
        elif data.kind == "coil":
            self._on_line.pop(glance.epoch, None)
        return self._on_line.get(glance.epoch) if data.kind == "state" else data.coil


def survey(path: Path) -> dict[str, Coil]:
    """Every coil in the journal, in the order of their first events.

    Raises:
        JournalError: the file is missing, torn or no journal.
    """
    coils: dict[str, Coil] = {}
    before: dict[tuple[int, str], tuple[int, str | None]] = {}
    for name, glance, _ in Walk(path):
        topic = (glance.epoch, glance.subject)
        last, neighbour = before.get(topic, (glance.sequence - 1, None))
        before[topic] = (glance.sequence, name)
        if name is not None:
            _count(coils.setdefault(name, Coil(name, glance.time, glance.time)), glance)
        for owner in {name, neighbour} if glance.sequence > last + 1 else ():
            if owner is not None:
                coils[owner].missing += glance.sequence - last - 1
    _judge(coils, read_runs(path))
    return coils


def _count(coil: Coil, glance: _Glance) -> None:
    coil.events += 1
    coil.last = glance.time
    coil.epochs[glance.epoch] = None
    coil.ended = glance.data.phase == "end" or (coil.ended and glance.data.phase != "start")
    coil.heads += glance.data.phase == "start"
    coil.tails += glance.data.phase == "end"


def _judge(coils: dict[str, Coil], runs: list[Run]) -> None:
    alive = {run.epoch for run in runs if run.state is RunState.RUNNING}
    for coil in coils.values():
        if not coil.ended:
            coil.state = "on the line" if alive & coil.epochs.keys() else "never ended"


def named(coils: dict[str, Coil], name: str, path: Path) -> Coil:
    """The coil of that name.

    Raises:
        InspectorError: there is none; the message names those there are.
    """
    if name in coils:
        return coils[name]
    known = ", ".join(list(coils)[-20:]) or "none at all"
    more = f" and {len(coils) - 20} before them" if len(coils) > 20 else ""
    raise InspectorError(f"{path}: holds no coil {name!r}; there are {known}{more}")


def bodies(path: Path, coil: str, kinds: Collection[str]) -> Iterator[bytes]:
    """The envelopes of one coil as they were published, in the order in which they happened."""
    for owner, glance, body in Walk(path):
        if owner == coil and glance.data.kind in kinds:
            yield body
