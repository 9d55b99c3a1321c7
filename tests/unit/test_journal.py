"""The journal: identity, durability, a full disk, a kill, and an audit that finds a difference of one frame."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.errors import JournalError
from inspector.events import Heartbeat, Reason, as_json
from inspector.journal import (
    FORMAT,
    Audit,
    Pages,
    Resumed,
    RunState,
    audit,
    format_audit,
    read_bodies,
    read_events,
    read_runs,
    read_thumbnail,
    read_thumbnails,
    rfc3339,
)
from inspector.journal.identity import nanoseconds
from inspector.journal.ranges import checksum, doubles, holes
from inspector.records import Draft, Graded
from tests.journals import NOW_NS, alter, coil, full_disk, gap, gaps, image, scratch, settled, start

DOUBLE = "INSERT INTO fate SELECT NULL, epoch, camera, first, last, reason, end_count FROM fate"


def only(found: Audit) -> dict[str, tuple[int, int, int, int]]:
    """Camera -> (issued, inspected, lost, in flight) of the newest run."""
    newest = found.runs[-1].epoch
    return {
        b.camera: (b.issued, b.inspected, sum(b.lost.values()), b.in_flight) for b in found.books if b.epoch == newest
    }


# ---------------------------------------------------------------- identity


def test_identity(tmp_path: Path) -> None:
    with start(tmp_path / "j.db") as journal:
        epoch = NOW_NS // 1_000_000
        first, second, other = journal.append([Graded(drafts=[gap(), gap()]), Graded(drafts=[coil()])])
        assert (first.id, first.epoch, first.sequence) == (f"{epoch}/gap/v1/hot/a/1", epoch, 1)
        assert (second.sequence, other.sequence) == (2, 1)
        assert (first.source, first.subject, first.type) == ("urn:test", "gap/v1/hot/a/", "inspector.gap.v1")
        assert first.time == "2023-11-14T22:13:20.123456789Z"
        assert first.dataschema == "urn:inspector:schema:event:v1"
        assert journal.high_water() == {"gap/v1/hot/a/": 2, "coil/v1/hot/": 1}


@given(st.integers(0, 2**62))
def test_times_come_back_to_the_nanosecond(time_ns: int) -> None:
    assert nanoseconds(rfc3339(time_ns)) == time_ns


@pytest.mark.parametrize(
    "text", ["", "2023-11-14T22:13:20Z", "2023-11-14T22:13:20.12345678xZ", "2023-13-14T22:13:20.123456789Z"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|literal"):
        nanoseconds(text)


def test_the_sinks_send_the_very_bytes_that_the_journal_holds(tmp_path: Path) -> None:
    with start(tmp_path / "j.db") as journal:
        events = journal.append([gaps(2)])
        assert [event.body for event in events] == [as_json(event) for event in events]
    assert [body for _, body in read_bodies(tmp_path / "j.db")] == [event.body for event in events]


def test_heartbeats_are_numbered_and_not_kept(tmp_path: Path) -> None:
    beat = Heartbeat(state="running", coil="c", high_water={}, cameras={}, undelivered={})
    with start(tmp_path / "j.db") as journal:
        events = [journal.identify(Draft("heartbeat/v1/hot/", NOW_NS, beat)) for _ in range(3)]
        assert [event.sequence for event in events] == [1, 2, 3]
        assert journal.high_water() == {"heartbeat/v1/hot/": 3}
        journal.commit({"a": 0, "b": 0})
    assert not list(read_events(tmp_path / "j.db"))
    assert audit(tmp_path / "j.db").balanced


def test_nothing_is_taken_of_a_piece_that_is_wrong(tmp_path: Path) -> None:
    with start(tmp_path / "j.db") as journal:
        with pytest.raises(ValueError, match="does not end in '/'"):
            journal.append([gaps(2), Graded(drafts=[gap(topic="gap/v1/hot/a")])])
        with pytest.raises(ValueError, match="no range"):
            journal.append([gaps(2), settled("a", 5, 4)])
        assert journal.pending == 0
        assert journal.high_water() == {}


def test_an_epoch_is_never_used_again(tmp_path: Path) -> None:
    epochs = []
    for now_ns in (NOW_NS, NOW_NS, 0, NOW_NS + 10_000_000):
        with start(tmp_path / "j.db", clock=lambda now_ns=now_ns: now_ns) as journal:
            epochs.append(journal.epoch - NOW_NS // 1_000_000)
    assert epochs == [0, 1, 2, 10]


# ---------------------------------------------------------------- events and pictures come back


def test_events_come_back_in_order_and_filtered(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    given_out = []
    for _ in range(2):
        with start(path) as journal:
            for _ in range(3):
                given_out += journal.append([gaps(211), Graded(drafts=[coil()])])
                journal.commit({"a": 0})
    assert [as_json(event) for event in read_events(path)] == [as_json(event) for event in given_out]
    newest = read_runs(path)[-1].epoch
    kept = [event.id for event in given_out if event.epoch == newest and event.type == "inspector.coil.v1"]
    assert [event.id for event in read_events(path, kinds=["coil"], epochs=[newest])] == kept
    assert len(kept) == 3
    assert not list(read_events(path, kinds=[]))


def test_thumbnails(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    picture = np.tile(np.arange(200, dtype=np.uint8), (120, 1))
    drafts = [gap(), gap(thumbnail=picture[10:90, 20:140]), gap(thumbnail=picture[:0])]
    with start(path) as journal:
        events = journal.append([Graded(drafts=drafts)])
        journal.commit({})
    jpeg = read_thumbnail(path, events[1].id)
    assert jpeg is not None
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    assert np.abs(decoded.astype(int) - picture[10:90, 20:140]).max() <= 4
    assert list(read_thumbnails(path)) == [(events[1].id, jpeg)]
    for missing in (events[0].id, events[2].id, "1/gap/v1/hot/a/1", "nonsense"):
        assert read_thumbnail(path, missing) is None


def test_a_slow_reader_sees_whole_commits_and_blocks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        journal.append([gaps(800)])
        journal.commit({})
        reader = read_events(path)
        seen = [next(reader)]
        journal.append([gaps(700)])
        journal.commit({})
        assert audit(path).events == 1500
        seen += reader
    assert [event.sequence for event in seen] == list(range(1, 1501))


# ---------------------------------------------------------------- the ledger of frames


def test_a_clean_coil_is_a_handful_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        for first in range(0, 4000, 8):
            reason = Reason.OVERLOAD if first == 2000 else None
            journal.append([settled("a", first, first + 3, reason), settled("a", first + 4, first + 7, reason)])
            journal.commit({"a": first + 8})
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT first, last, reason, end_count FROM fate").fetchall()
    assert rows == [
        (0, 1999, None, 2000 * 256),
        (2000, 2007, "overload", 2008 * 256),
        (2008, 3999, None, 4000 * 256),
    ]
    assert only(audit(path))["a"] == (4000, 3992, 8, 0)


def test_states_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        journal.append([settled("a", 0, 9)])
        journal.commit({"a": 30, "b": 5}, {"a": 0, "b": 0})
        found = audit(path)
        assert found.balanced
        assert found.runs[-1].state is RunState.RUNNING
        assert only(found) == {"a": (30, 10, 0, 20), "b": (5, 0, 0, 5)}
        dead = image(path, tmp_path / "dead.db")
        assert (audit(dead).runs[-1].state, audit(dead).balanced) == (RunState.KILLED, True)
    aborted = audit(path)
    assert (aborted.runs[-1].state, aborted.balanced) == (RunState.ABORTED, True)
    assert only(aborted) == {"a": (30, 10, 20, 0), "b": (5, 0, 5, 0)}
    with start(dead) as journal:
        pass
    after = audit(dead)
    assert [run.state for run in after.runs] == [RunState.KILLED, RunState.CLOSED]
    assert after.balanced
    assert after.books[0].lost == {Reason.CRASH: 20}


def test_a_failure_closes_the_run_as_aborted(tmp_path: Path) -> None:
    path = tmp_path / "j.db"

    def fail() -> None:
        with start(path) as journal:
            journal.append([settled("a", 0, 1), gaps(1)])
            journal.commit({"a": 2})
            raise RuntimeError("a stage failed")

    with pytest.raises(RuntimeError, match="a stage failed"):
        fail()
    assert read_runs(path)[0].state is RunState.ABORTED
    assert len(list(read_events(path))) == 1


def test_a_closed_journal_takes_nothing_more(tmp_path: Path) -> None:
    journal = start(tmp_path / "j.db")
    journal.close(clean=True)
    journal.close(clean=True)
    with pytest.raises(JournalError, match="closed"):
        journal.commit({"a": 1})


def test_resumed_tells_what_no_gap_event_told(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    first = start(path)
    assert first.resumed == {}
    first.append([settled("a", 0, 9)])
    first.commit({"a": 12, "b": 0})
    killed = image(path, tmp_path / "killed.db")
    first.close(clean=False)

    second = start(killed)
    assert second.resumed == {"a": Resumed(epoch=first.epoch, frames=2, end_count=2560)}
    second.commit({"a": 3})
    again = image(killed, tmp_path / "again.db")
    second.close(clean=False)

    third = start(again)  # the second run was killed before it could tell of the gap
    assert third.resumed == {"a": Resumed(epoch=first.epoch, frames=5, end_count=2560)}
    third.append([settled("a", 0, 0)])
    third.commit({"a": 1})
    third.close(clean=True)
    with start(again) as fourth:
        assert fourth.resumed == {"a": Resumed(epoch=third.epoch, frames=0, end_count=256)}


# ---------------------------------------------------------------- a full disk


@pytest.mark.parametrize("spare", [0, 6000])
def test_a_full_disk_loses_nothing(tmp_path: Path, spare: int) -> None:
    path = tmp_path / "j.db"
    with start(path, max_pending=500) as journal:
        journal.append([gaps(3), settled("a", 0, 0)])
        journal.commit({"a": 1})
        with full_disk(path, spare):
            for frame in (1, 2, 3):
                picture = np.full((40, 40), frame, np.uint8)
                journal.append([gaps(100), Graded(drafts=[gap(thumbnail=picture)]), settled("a", frame, frame)])
                with pytest.raises(JournalError, match=r"j\.db: the disk"):
                    journal.commit({"a": frame + 1})
            assert journal.pending == 303
            assert audit(path).events == 3  # readers go on, and see the last whole commit
        journal.commit({"a": 4})
        assert (journal.pending, journal.unjournalled) == (0, 0)
    assert [event.sequence for event in read_events(path)] == list(range(1, 307))
    assert len(list(read_thumbnails(path))) == 3
    assert only(audit(path))["a"] == (4, 4, 0, 0)
    assert audit(path).balanced


def test_when_the_disk_stays_full_the_oldest_events_go_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path, max_pending=50) as journal:
        with full_disk(path):
            for frame in range(80):
                picture = np.zeros((8, 8), np.uint8)
                journal.append([Graded(drafts=[gap(thumbnail=picture)]), settled("a", frame, frame)])
        assert (journal.pending, journal.unjournalled, journal.pictures_given_up) == (50, 30, 30)
        journal.commit({"a": 80})
    assert [event.sequence for event in read_events(path)] == list(range(31, 81))
    found = audit(path)
    assert found.balanced, found.problems
    assert only(found)["a"] == (80, 80, 0, 0)
    assert found.runs[0].unjournalled == 30
    assert "30 events given up" in format_audit(found)


def test_a_disk_that_is_full_at_the_end_leaves_a_run_to_settle(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = start(path)
    journal.commit({"a": 4})
    journal.append([gaps(2), settled("a", 0, 3)])
    with full_disk(path), pytest.raises(JournalError, match="not closed and 2 events are not written"):
        journal.close(clean=True)
    assert audit(path).runs[0].state is RunState.KILLED
    with start(path) as journal:
        pass
    assert audit(path).balanced
    assert audit(path).books[0].lost == {Reason.CRASH: 4}


# ---------------------------------------------------------------- what cannot be opened


def test_one_daemon_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path), pytest.raises(JournalError, match=rf"j\.db: another daemon \(process {os.getpid()}\)"):
        start(path)
    start(path).close(clean=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "missing" / "j.db", "folder does not exist: make it"),
        (lambda p: _file(p / "file", b"") / "j.db", "is not a folder"),
        (lambda p: _folder(p / "j.db"), "is a folder"),
        (lambda p: _file(p / "j.db", b"no journal " * 500), "not a journal"),
        (lambda p: _file(p / "j.db", b"short"), "not a journal"),
        (lambda p: _foreign(p / "j.db"), "another program"),
        (lambda p: _newer(p / "j.db"), f"format {FORMAT + 1}; this one knows up to {FORMAT}"),
        (lambda p: _torn(p / "j.db"), "damaged"),
    ],
)
def test_what_cannot_be_opened_says_how_to_mend_it(tmp_path: Path, make: Any, message: str) -> None:
    path = make(tmp_path)
    with pytest.raises(JournalError, match=message) as caught:
        start(path)
    assert str(path) in str(caught.value)
    with pytest.raises(JournalError) as caught:
        audit(path)
    assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(JournalError, match="give the daemon's user write permission"):
        start(tmp_path / "j.db")


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _foreign(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE other (a)")
    return path


def _newer(path: Path) -> Path:
    start(path).close(clean=True)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    return path


def _torn(path: Path) -> Path:
    with start(path) as journal:
        journal.append([gaps(200)])
    path.write_bytes(path.read_bytes()[:-20_000])
    return path


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    path = _file(tmp_path / "j.db", b"")
    with pytest.raises(JournalError, match="not a journal"):
        audit(path)
    start(path).close(clean=True)
    assert audit(path).balanced


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_a_spoilt_file_is_never_anything_but_a_journal_error(seed: int, count: int) -> None:
    """Whatever bytes change, the journal either works or says JournalError."""
    generator = np.random.default_rng(seed)
    with scratch() as folder:
        path = _file(Path(folder) / "j.db", _whole_journal())
        content = np.frombuffer(path.read_bytes(), np.uint8).copy()
        content[generator.integers(100, content.size, count)] = generator.integers(0, 256, count)
        path.write_bytes(content.tobytes())
        for read in (
            audit,
            read_runs,
            lambda p: list(read_events(p)),
            lambda p: list(read_thumbnails(p)),
            read_pages,
            open_and_close,
        ):
            with suppress(JournalError):
                read(path)


def read_pages(path: Path) -> None:
    with Pages(path) as pages:
        for topics in ([], ["gap/"]):
            page = pages.page(0, topics, 10, 10_000)
            pages.page(page.upto, topics, 100, 100_000)
        pages.marks([])
        pages.mark()


def open_and_close(path: Path) -> None:
    start(path).close(clean=True)


_WHOLE: list[bytes] = []


def _whole_journal() -> bytes:
    if not _WHOLE:
        with scratch() as folder:
            path = Path(folder) / "j.db"
            with start(path) as journal:
                journal.append([gaps(20), settled("a", 0, 4), settled("a", 5, 5, Reason.OVERRUN)])
                journal.append([Graded(drafts=[gap(thumbnail=np.zeros((20, 20), np.uint8))])])
                journal.commit({"a": 6})
            _WHOLE.append(path.read_bytes())
    return _WHOLE[0]


# ---------------------------------------------------------------- the audit


def test_ranges() -> None:
    assert list(holes([(2, 3), (3, 3), (6, 9)], 12)) == [(0, 1), (4, 5), (10, 11)]
    assert list(holes([(0, 9)], 5)) == []
    assert list(holes([(8, 9)], 5)) == [(0, 4)]
    assert list(holes([], 0)) == []
    assert list(doubles([(0, 5), (2, 3), (5, 7), (9, 9)])) == [(2, 3), (5, 5)]
    assert checksum(3, 7) == 25


def test_in_flight_is_bounded_by_the_line(tmp_path: Path) -> None:
    """A camera may lose any number of frames at once; what is neither lost nor settled must fit into the line."""
    path = tmp_path / "j.db"
    with start(path, capacity_frames=10) as journal:
        journal.commit({"a": 5_006, "b": 4}, {"a": 5_000, "b": 0})
        assert audit(path).problems == []
        image(path, tmp_path / "dead.db")
        start(tmp_path / "dead.db").close(clean=True)
        assert audit(tmp_path / "dead.db").problems == []
        journal.commit({"a": 5_007, "b": 4}, {"a": 5_000, "b": 0})
        assert "11 frames were in flight, but its line holds 10" in audit(path).problems[0]
        image(path, tmp_path / "dead.db")
    start(tmp_path / "dead.db").close(clean=True)
    assert "11 frames were in flight" in audit(tmp_path / "dead.db").problems[0]


def test_losses_are_compared_with_what_the_line_counted(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        journal.append([settled("a", 0, 2), settled("a", 3, 4, Reason.OVERLOAD)])
        journal.commit({"a": 5}, {"a": 3})
    assert audit(path).problems == [f"run {journal.epoch}, camera a: 2 frames have a fate of lost, the line counted 3"]


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM fate WHERE reason IS NULL AND first = 0", "frames 0-9: no fate, though the run has ended"),
        (
            f"{DOUBLE} WHERE first = 10",
            "more than one fate",
        ),
        ("UPDATE fate SET last = last + 1 WHERE first = 0", "frame 10: more than one fate"),
        ("UPDATE fate SET last = last - 1 WHERE first = 0", "frame 9: no fate"),
        ("UPDATE fate SET last = 40 WHERE last = 29", "frames 30-40: a fate, but only 30 frames were issued"),
        ("UPDATE fate SET first = 10, last = 9 WHERE first = 10", "no range of frames"),
        ("UPDATE fate SET reason = 'overrun' WHERE first = 10", "lost/overload: the ranges hold 0 frames"),
        ("UPDATE fate SET reason = 'bored' WHERE first = 10", "unknown reason 'bored'"),
        ("UPDATE tally SET frames = frames + 1 WHERE reason = ''", "30 issued is not 26 inspected + 5 lost"),
        ("UPDATE book SET issued = 31 WHERE camera = 'a'", "frame 30: no fate"),
        ("DELETE FROM book WHERE camera = 'a'", "a fate, but only 0 frames were issued"),
        ("DELETE FROM run", "there are books, but no such run"),
        ("DELETE FROM event WHERE sequence = 2", "1 events are absent, 0 were given up"),
        ("UPDATE event SET sequence = 9 WHERE sequence = 3", "events 1-9, but the last one given is 3"),
        ("DELETE FROM topic", "events belong to no topic"),
        ("UPDATE run SET state = 'running', epoch = epoch - 1, ended_ns = NULL", "did not settle it"),
    ],
)
def test_a_wrong_ledger_is_found(tmp_path: Path, statement: str, problem: str) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        journal.append([settled("a", 0, 9), settled("a", 10, 14, Reason.OVERLOAD), settled("a", 15, 29), gaps(3)])
        journal.commit({"a": 30}, {"a": 5})
    start(path).close(clean=True)
    assert audit(path).balanced
    alter(path, statement)
    found = audit(path)
    assert not found.balanced
    assert any(problem in line for line in found.problems), found.problems
    assert "THE BOOKS DO NOT BALANCE" in format_audit(found)


def test_the_table_for_people(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        journal.append([settled("a", 0, 1199), settled("a", 1200, 1201, Reason.OVERLOAD), gaps(1)])
        journal.commit({"a": 1202})
    assert format_audit(audit(path)).splitlines() == [
        f"{path}: 1 run, 1 event",
        "",
        "run            state   camera  issued  inspected  lost  in flight  lost by reason",
        "1700000000123  closed  a        1,202      1,200     2          0  overload 2",
        "1700000000123  closed  b            0          0     0          0",
        "",
        "The books balance: issued = inspected + lost + in flight, for every camera and run.",
    ]


# ---------------------------------------------------------------- any history


@dataclass
class Line:
    """A model of the running line: what its books must say after the last commit that succeeded."""

    cameras: tuple[str, ...] = ("a", "b")
    issued: dict[str, int] = field(default_factory=dict)
    flying: dict[str, list[int]] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    durable: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for camera in self.cameras:
            self.issued[camera], self.flying[camera], self.lost[camera] = 0, [], 0
        self.remember()

    def issue(self, camera: str, count: int) -> None:
        first = self.issued[camera]
        self.flying[camera] += range(first, first + count)
        self.issued[camera] += count

    def settle(self, camera: str, place: int, count: int, reason: Reason | None) -> list[Graded]:
        flying = self.flying[camera]
        place = place % len(flying) if flying else 0
        taken = flying[place : place + count]
        del flying[place : place + count]
        self.lost[camera] += len(taken) if reason else 0
        return [settled(camera, frame, frame, reason) for frame in taken]

    def remember(self) -> None:
        for camera in self.cameras:
            issued, lost, flying = self.issued[camera], self.lost[camera], len(self.flying[camera])
            self.durable[camera] = (issued, issued - lost - flying, lost, flying)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("issue"), st.sampled_from("ab"), st.integers(1, 9)),
        st.tuples(
            st.just("settle"),
            st.sampled_from("ab"),
            st.sampled_from([0, 0, 0, 3]),
            st.integers(1, 9),
            st.sampled_from([None, None, Reason.OVERLOAD, Reason.MISSING]),
        ),
        st.sampled_from([("commit",), ("commit",), ("kill",), ("full",), ("restart",)]),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_books_balance_whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    with scratch() as folder:
        path, line = Path(folder) / "0.db", Line()
        journal = start(path)
        for number, step in enumerate(steps):
            match step:
                case ("issue", camera, count):
                    line.issue(camera, count)
                case ("settle", camera, place, count, reason):
                    journal.append([*line.settle(camera, place, count, reason), gaps(1)])
                case ("commit",):
                    journal.commit(line.issued, line.lost)
                    line.remember()
                case ("full",):
                    with full_disk(path):
                        if journal.pending:
                            with pytest.raises(JournalError):
                                journal.commit(line.issued, line.lost)
                case ("kill",):
                    path = image(path, Path(folder) / f"{number + 1}.db")
                    check(path, line.durable)
                    journal.close(clean=False)
                    journal, line = start(path), Line()
                case ("restart",):
                    journal.commit(line.issued, line.lost)
                    journal.close(clean=True)
                    check(path, {c: (i, n, m + f, 0) for c, (i, n, m, f) in _now(line).items()})
                    journal, line = start(path), Line()
            check(path, line.durable)
        journal.close(clean=True)
        assert audit(path).balanced


def _now(line: Line) -> dict[str, tuple[int, int, int, int]]:
    line.remember()
    return line.durable


def check(path: Path, expected: dict[str, tuple[int, int, int, int]]) -> None:
    found = audit(path)
    assert found.problems == []
    assert only(found) == expected


@settings(max_examples=60, deadline=None)
@given(
    fates=st.lists(st.tuples(st.integers(1, 5), st.sampled_from([None, *Reason])), min_size=1, max_size=12),
    in_flight=st.integers(0, 5),
    victim=st.integers(0, 11),
    crime=st.sampled_from(["remove", "double", "shift up", "shift down", "longer", "shorter", "issued", "reason"]),
)
def test_a_difference_of_one_frame_is_found(
    fates: list[tuple[int, Reason | None]], in_flight: int, victim: int, crime: str
) -> None:
    """In a run that is closed, and in one that was killed with frames in flight."""
    with scratch() as folder:
        path = Path(folder) / "j.db"
        with start(path) as journal:
            position = 0
            for count, reason in fates:
                journal.append([settled("a", position, position + count - 1, reason)])
                position += count
            lost = sum(count for count, reason in fates if reason)
            journal.commit({"a": position + in_flight}, {"a": lost})
            if in_flight:
                path = image(path, Path(folder) / "dead.db")
        assert audit(path).problems == []
        commit_crime(path, victim, crime)
        assert not audit(path).balanced


def commit_crime(path: Path, victim: int, crime: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        rows = [row for (row,) in db.execute("SELECT id FROM fate ORDER BY id")]
    row = rows[victim % len(rows)]
    changes = {
        "shift up": "first = first + 1, last = last + 1",
        "shift down": "first = first - 1, last = last - 1",
        "longer": "last = last + 1",
        "shorter": "last = last - 1",
        "reason": "reason = CASE WHEN reason IS NULL THEN 'overload' ELSE NULL END",
    }
    if crime == "remove":
        alter(path, "DELETE FROM fate WHERE id = ?", row)
    elif crime == "double":
        alter(
            path,
            f"{DOUBLE} WHERE id = ?",
            row,
        )
    elif crime == "issued":
        alter(path, "UPDATE book SET issued = issued - 1 WHERE camera = 'a'")
    else:
        alter(path, f"UPDATE fate SET {changes[crime]} WHERE id = ?", row)
