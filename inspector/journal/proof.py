"""The proof, from the journal alone, that every frame issued was inspected, or lost for a reason, or is in flight.

Four records made independently are compared: what the line counted as issued and lost (`book`), the ranges of frames
with their fate (`fate`), the running totals of the fates with a checksum of their sequence numbers (`tally`), and the
capacity of the line, which bounds what can be in flight.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from inspector.events import Reason
from inspector.journal import ranges
from inspector.journal.reader import Run, runs_in
from inspector.journal.spans import read_spans
from inspector.journal.store import RunState, damaged, format_of, read_mark, reading, rows

LISTED = 5
"""Ranges named in one problem; the others are counted."""


@dataclass(slots=True, frozen=True)
class Books:
    """The books of one camera in one run, in frames."""

    epoch: int
    state: RunState
    camera: str
    issued: int
    inspected: int
    lost: dict[Reason, int]
    in_flight: int
    """Issued, but of no fate known to the journal."""


@dataclass(slots=True)
class Audit:
    """What the journal proves."""

    path: Path
    runs: list[Run]
    books: list[Books]
    """By run and camera."""
    events: int
    """Those that the journal holds."""
    retired: int = 0
    """Those that it held and that retention has deleted."""
    problems: list[str] = field(default_factory=list)
    """Each a difference between two records; empty: the books balance."""

    @property
    def balanced(self) -> bool:
        return not self.problems


@dataclass(slots=True)
class _Account:
    """All that the journal says of one camera in one run."""

    issued: int = 0
    lost: int | None = None
    rest: int = 0
    fates: list[tuple[int, int, str]] = field(default_factory=list)
    """(first, last, reason or ''), sorted."""
    tallies: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Reason or '' -> (frames, checksum)."""

    @property
    def covered(self) -> list[ranges.Range]:
        return [(first, last) for first, last, _ in self.fates]

    def lost_frames(self) -> int:
        return sum(frames for reason, (frames, _) in self.tallies.items() if reason)


_Accounts = dict[tuple[int, str], _Account]


def audit(path: Path | str) -> Audit:
    """Check the books of every run, live ones too. See `Audit.problems`.

    Raises:
        JournalError: the file is missing, torn or no journal.
    """
    path = Path(path)
    with reading(path) as db:
        db.execute("BEGIN")  # one snapshot, whatever the daemon writes meanwhile
        _check_pages(db, path)
        runs = runs_in(db, path)
        accounts = _accounts(db, path)
        found = Audit(path, runs, [], 0)
        _check_runs(runs, accounts, found)
        for run in runs:
            own = {camera: account for (epoch, camera), account in accounts.items() if epoch == run.epoch}
            _check_run(run, own, found)
        _check_events(db, path, runs, found)
        if format_of(db) > 1:
            _check_retired(db, path, found)
    return found


def _check_pages(db: sqlite3.Connection, path: Path) -> None:
    answer = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
    if answer != ["ok"]:
        raise damaged(path, "; ".join(" ".join(str(line).split()) for line in answer))


def _accounts(db: sqlite3.Connection, path: Path) -> _Accounts:
    accounts: _Accounts = defaultdict(_Account)
    book = rows(db, tuple[int, str, int, int | None, int], path, "SELECT epoch, camera, issued, lost, rest FROM book")
    for epoch, camera, issued, lost, rest in book:
        account = accounts[epoch, camera]
        account.issued, account.lost, account.rest = issued, lost, rest
    query = "SELECT epoch, camera, first, last, coalesce(reason, '') FROM fate ORDER BY epoch, camera, first, last"
    for epoch, camera, first, last, fate in rows(db, tuple[int, str, int, int, str], path, query):
        accounts[epoch, camera].fates.append((first, last, fate))
    tally = rows(db, tuple[int, str, str, int, int], path, "SELECT * FROM tally")
    for epoch, camera, fate, frames, checksum in tally:
        accounts[epoch, camera].tallies[fate] = frames, checksum
    return dict(sorted(accounts.items()))


def _check_runs(runs: list[Run], accounts: _Accounts, found: Audit) -> None:
    epochs = {run.epoch for run in runs}
    for epoch, camera in accounts:
        if epoch not in epochs:
            found.problems.append(f"run {epoch}, camera {camera}: there are books, but no such run")
    for run in runs[:-1]:
        if run.state is RunState.RUNNING:
            found.problems.append(f"run {run.epoch}: a later run has started and did not settle it")


def _check_run(run: Run, accounts: dict[str, _Account], found: Audit) -> None:
    flying = 0
    if (issued := sum(account.issued for account in accounts.values())) != run.issued:
        found.problems.append(
            f"run {run.epoch}: its cameras issued {issued} frames together, the run says {run.issued}"
        )
    for camera, account in accounts.items():
        where = f"run {run.epoch}, camera {camera}"
        open_frames = ranges.length(ranges.holes(account.covered, account.issued))
        found.books.append(_books(run, camera, account, open_frames))
        for problem in (*_wrong_fates(run, account), *_wrong_totals(run, account)):
            found.problems.append(f"{where}: {problem}")
        inspected, lost = account.tallies.get("", (0, 0))[0], account.lost_frames()
        if inspected + lost + open_frames != account.issued:
            found.problems.append(
                f"{where}: {account.issued} issued is not {inspected} inspected + {lost} lost + {open_frames} in flight"
            )
        flying += _unaccounted(account, open_frames)
    if flying > run.capacity_frames:
        found.problems.append(
            f"run {run.epoch}: {flying} frames were in flight, but its line holds {run.capacity_frames} at most"
        )


def _books(run: Run, camera: str, account: _Account, open_frames: int) -> Books:
    known = {reason.value: reason for reason in Reason}
    return Books(
        epoch=run.epoch,
        state=run.state,
        camera=camera,
        issued=account.issued,
        inspected=account.tallies.get("", (0, 0))[0],
        lost={known[name]: frames for name, (frames, _) in account.tallies.items() if name in known},
        in_flight=open_frames,
    )


def _wrong_fates(run: Run, account: _Account) -> Iterator[str]:
    """Every frame below `issued` has one fate, at most one while the run is not settled; no other frame has any."""
    covered = account.covered
    if backwards := [(first, last) for first, last in covered if not 0 <= first <= last]:
        yield f"{_named(backwards)}: no range of frames"
    if twice := list(ranges.doubles(covered)):
        yield f"{_named(twice)}: more than one fate"
    if beyond := [(max(first, account.issued), last) for first, last in covered if last >= account.issued]:
        yield f"{_named(beyond)}: a fate, but only {account.issued} frames were issued"
    if strange := {fate for _, _, fate in account.fates} - {"", *Reason}:
        yield f"unknown reason {sorted(strange)[0]!r}"
    missing = list(ranges.holes(covered, account.issued))
    if missing and run.ended_ns is not None:
        yield f"{_named(missing)}: no fate, though the run has ended ({run.state})"


def _wrong_totals(run: Run, account: _Account) -> Iterator[str]:
    """The running totals agree with the ranges, and with the losses that the line counted as they happened."""
    sums: dict[str, tuple[int, int]] = {}
    for first, last, fate in account.fates:
        frames, checksum = sums.get(fate, (0, 0))
        sums[fate] = frames + last - first + 1, (checksum + ranges.checksum(first, last)) % ranges.MODULUS
    for fate in sorted(sums.keys() | account.tallies.keys()):
        (frames, checksum), (total, expected) = sums.get(fate, (0, 0)), account.tallies.get(fate, (0, 0))
        name = f"lost/{fate}" if fate else "inspected"
        if frames != total:
            yield f"{name}: the ranges hold {frames} frames, the running total is {total}"
        elif checksum != expected:
            yield f"{name}: the ranges hold other frames than the running total was made of"
    if account.lost is not None:
        told = account.lost_frames() - account.rest
        if told > account.lost or (run.state is RunState.CLOSED and told != account.lost):
            yield f"{told} frames have a fate of lost, the line counted {account.lost}"


def _unaccounted(account: _Account, open_frames: int) -> int:
    """Frames that were somewhere in the line at the last commit: those already known to be lost take no room in it."""
    flying = open_frames + account.rest
    if account.lost is None:
        return flying
    return max(0, flying - max(0, account.lost - (account.lost_frames() - account.rest)))


def _named(found: list[ranges.Range]) -> str:
    """`frames 3-5, 9 and 2 more ranges`."""
    names = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found[:LISTED])
    more = f" and {len(found) - LISTED} more ranges" if len(found) > LISTED else ""
    return f"frame{'' if len(found) == 1 and found[0][0] == found[0][1] else 's'} {names}{more}"


def _check_events(db: sqlite3.Connection, path: Path, runs: list[Run], found: Audit) -> None:
    """Events are numbered without holes in each topic, but for those that were given up and counted, and the first ones
    where they were deleted, and counted."""
    retired = "topic.retired" if format_of(db) > 1 else "0"
    query = (
        f"SELECT topic.epoch, topic.topic, topic.high_water, {retired}, count(event.id), "
        "coalesce(min(event.sequence), topic.high_water + 1), coalesce(max(event.sequence), 0) "
        "FROM topic LEFT JOIN event ON event.topic = topic.id GROUP BY topic.id"
    )
    absent: dict[int, int] = defaultdict(int)
    for epoch, topic, high, gone, count, lowest, highest in rows(
        db, tuple[int, str, int, int, int, int, int], path, query
    ):
        found.events += count
        found.retired += gone
        absent[epoch] += high - count - gone
        if highest > high or lowest < 1:
            found.problems.append(f"run {epoch}: {topic}: events {lowest}-{highest}, but the last one given is {high}")
        if not 0 <= gone < lowest:
            found.problems.append(f"run {epoch}: {topic}: {gone} events were deleted before event {lowest}")
    for run in runs:
        if absent[run.epoch] != run.unjournalled:
            found.problems.append(
                f"run {run.epoch}: {absent[run.epoch]} events are absent, {run.unjournalled} were given up"
            )
    strays = rows(db, tuple[int], path, "SELECT count(*) FROM event WHERE topic NOT IN (SELECT id FROM topic)")[0][0]
    if strays:
        found.problems.append(f"{strays} events belong to no topic")


def _check_retired(db: sqlite3.Connection, path: Path, found: Audit) -> None:
    """Exactly what the journal says is gone is gone, and none of it belonged to a coil that is on the line."""
    retired = read_mark(db, path).retired
    if left := rows(db, tuple[int], path, "SELECT count(*) FROM event WHERE id <= ?", (retired,))[0][0]:
        found.problems.append(f"{left} events are left of those up to {retired}, which were deleted")
    if retired == 0 and found.retired:
        found.problems.append(f"{found.retired} events were deleted, but the journal says that none were")
    for span in read_spans(db, path):
        if span.last is None and span.first <= retired:
            found.problems.append(f"coil {span.name} has not ended, but events of it were deleted")


# ---------------------------------------------------------------- for people


def format_audit(found: Audit) -> str:
    """A table of plain text for the command line, ended by the verdict."""
    head = ("run", "state", "camera", "issued", "inspected", "lost", "in flight", "lost by reason")
    table = [head, *(_row(books) for books in found.books)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = ["  ".join(_cell(row, column, widths) for column in range(len(head))).rstrip() for row in table]
    lost = sum(run.unjournalled for run in found.runs)
    given_up = f", {lost:,} events given up while the disk was full" if lost else ""
    retired = f", {found.retired:,} of retired coils deleted" if found.retired else ""
    counts = f"{found.path}: {_count(len(found.runs), 'run')}, {_count(found.events, 'event')}{retired}{given_up}"
    return "\n".join([counts, "", *lines, "", *_verdict(found)])


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _row(books: Books) -> tuple[str, ...]:
    reasons = ", ".join(f"{reason} {frames:,}" for reason, frames in sorted(books.lost.items()))
    figures = (books.issued, books.inspected, sum(books.lost.values()), books.in_flight)
    return (str(books.epoch), books.state, books.camera, *(f"{figure:,}" for figure in figures), reasons)


def _cell(row: tuple[str, ...], column: int, widths: list[int]) -> str:
    """Figures stand right, words left."""
    return row[column].rjust(widths[column]) if 3 <= column <= 6 else row[column].ljust(widths[column])


def _verdict(found: Audit) -> list[str]:
    if not found.problems:
        return ["The books balance: issued = inspected + lost + in flight, for every camera and run."]
    return ["THE BOOKS DO NOT BALANCE:", *(f"  - {problem}" for problem in found.problems)]
