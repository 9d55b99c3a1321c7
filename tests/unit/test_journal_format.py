"""The journal's file over versions and runs: format 1, the migration, the journal's name and cursors, telegrams."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from inspector.errors import JournalError
from inspector.journal import (
    FORMAT,
    Pages,
    RunState,
    Telegram,
    audit,
    check,
    read_bodies,
    read_events,
    read_runs,
    read_thumbnails,
    rfc3339,
)
from inspector.journal.migrate import migrate
from inspector.journal.spans import Span, read_spans
from inspector.journal.store import connect_writer, format_of, reading
from inspector.journal.writer import UNDONE
from inspector.records import Graded
from tests.journals import alter, coil, format_1, full_disk, gaps, image, start


def spans(path: Path) -> list[Span]:
    with reading(path) as db:
        return read_spans(db, path)


def format_in(path: Path) -> int:
    with reading(path) as db:
        return format_of(db)


# ---------------------------------------------------------------- format 1


def test_a_journal_of_format_1_is_read_as_it_is(tmp_path: Path) -> None:
    path = format_1(tmp_path / "j.db")
    before = path.read_bytes()
    check(path)
    found = audit(path)
    assert found.problems == []
    assert (found.events, found.retired) == (15, 0)
    assert [run.state for run in read_runs(path)] == [RunState.CLOSED, RunState.KILLED, RunState.KILLED]
    assert len(list(read_bodies(path, kinds=["coil"]))) == 6
    assert len(list(read_thumbnails(path))) == 3
    assert path.read_bytes() == before


def test_the_writer_migrates_it_and_nothing_is_lost(tmp_path: Path) -> None:
    path = format_1(tmp_path / "j.db")
    bodies, pictures = list(read_bodies(path)), list(read_thumbnails(path))
    with start(path) as journal:
        assert (journal.mark().last, journal.mark().retired, journal.telegrams) == (14 + UNDONE, 0, [])
        journal.append([gaps(2)])
        journal.commit({"a": 0})
    assert format_in(path) == FORMAT
    assert list(read_bodies(path))[:15] == bodies
    assert list(read_thumbnails(path)) == pictures
    found = audit(path)
    assert found.problems == []
    assert [run.state for run in found.runs] == [RunState.CLOSED, RunState.KILLED, RunState.KILLED, RunState.CLOSED]


def test_the_migration_finds_the_coils(tmp_path: Path) -> None:
    """A killed run leaves its coil open until a later one says what lies on the line."""
    path = format_1(tmp_path / "j.db")
    placed = list(read_bodies(path, kinds=["coil"]))
    place = {(number, b'"start"' in body): cursor for number, (cursor, body) in enumerate(placed)}
    start(path).close(clean=True)
    a, b, c, d = spans(path)
    assert [(a.name, a.first, a.last), (b.name, b.first, b.last)] == [
        ("A", place[0, True], place[1, False]),
        ("B", place[2, True], place[3, True] - 1),
    ]
    assert [(c.name, c.first, c.last), (d.name, d.first, d.last)] == [
        ("C", place[3, True], place[4, False]),
        ("D", place[5, True], None),
    ]
    assert b.ended_ns == c.started_ns
    assert rfc3339(a.started_ns) == next(read_events(path, kinds=["coil"])).time
    epochs = [run.epoch for run in read_runs(path)]
    assert [span.epoch for span in (a, b, c, d)] == [epochs[0], epochs[1], epochs[2], epochs[2]]


def test_a_kill_in_the_middle_of_the_migration_leaves_format_1_whole(tmp_path: Path) -> None:
    path = format_1(tmp_path / "j.db")
    bodies, images = list(read_bodies(path)), list[Path]()
    with closing(connect_writer(path, synchronous=False)) as db:
        db.execute("PRAGMA cache_size = 1")  # so that pages go out before the commit
        db.set_progress_handler(lambda: images.append(image(path, tmp_path / f"{len(images)}.db")), 100)
        migrate(db, path)
        db.set_progress_handler(None, 0)
        migrate(db, path)
    assert format_in(path) == FORMAT
    assert any((one.with_name(one.name + "-wal")).stat().st_size for one in images)
    for one in images:
        assert format_in(one) == 1
        assert list(read_bodies(one)) == bodies
    start(images[-1]).close(clean=True)
    assert (format_in(images[-1]), audit(images[-1]).problems) == (FORMAT, [])


@pytest.mark.parametrize("spare", [0, 10_000])
def test_a_full_disk_during_the_migration_is_told_and_leaves_the_file_as_it_was(tmp_path: Path, spare: int) -> None:
    path = format_1(tmp_path / "j.db")
    before = path.read_bytes()
    with reading(path), full_disk(path, spare), pytest.raises(JournalError, match=r"j\.db: the disk .* is as it was"):
        start(path)
    assert path.read_bytes() == before
    assert (format_in(path), audit(path).problems) == (1, [])
    start(path).close(clean=True)
    assert format_in(path) == FORMAT


def test_a_damaged_coil_event_stops_the_migration(tmp_path: Path) -> None:
    path = format_1(tmp_path / "j.db")
    alter(path, "UPDATE event SET body = replace(body, 'Z', '') WHERE kind = 'coil'")
    with pytest.raises(JournalError, match="damaged"):
        start(path)
    assert format_in(path) == 1


# ---------------------------------------------------------------- the name and the cursors


def test_a_journal_has_a_name_of_its_own_for_ever(tmp_path: Path) -> None:
    with start(tmp_path / "a.db") as one, start(tmp_path / "b.db") as other:
        names = {one.mark().id, other.mark().id}
    with start(tmp_path / "a.db") as again:
        assert again.mark().id == one.mark().id
    assert len(names) == 2
    assert all(len(name) == 32 for name in names)
    alter(tmp_path / "a.db", "DELETE FROM journal")
    with pytest.raises(JournalError, match="damaged"):
        start(tmp_path / "a.db")


def test_the_mark_tells_of_durable_events_only(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        assert journal.mark().last == 0
        journal.append([gaps(3)])
        assert journal.mark().last == 0
        with full_disk(path), pytest.raises(JournalError):
            journal.commit({"a": 0})
        assert journal.mark().last == 0
        journal.commit({"a": 0})
        assert journal.mark().last == 3
        journal.append([gaps(2)])
    assert journal.mark().last == 5
    assert [cursor for cursor, _ in read_bodies(path)] == [1, 2, 3, 4, 5]


def test_a_cursor_that_a_power_cut_undid_is_not_given_again(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        journal.append([gaps(3)])
        journal.commit({"a": 0})
        killed = image(path, tmp_path / "killed.db")
        journal.append([gaps(40)])
        journal.commit({"a": 0})  # the disk lost this
    with start(killed) as journal:
        assert journal.mark().last == 2 + UNDONE, "at least what the last run told"
        with Pages(killed) as pages:
            assert pages.mark() == journal.mark()
        journal.append([gaps(1)])
    assert [cursor for cursor, _ in read_bodies(killed)] == [1, 2, 3, 3 + UNDONE]
    with start(killed) as journal:
        journal.append([gaps(1)])
    assert journal.mark().last == 4 + UNDONE


# ---------------------------------------------------------------- coils as they come


def test_coils_become_spans(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        journal.append([gaps(1), Graded(drafts=[coil("A", time_ns=5)]), gaps(2)])
        journal.append(
            [Graded(drafts=[coil("nobody", "end"), coil("A", "end", 6), coil("A", "end", 7), coil("B", "start", 8)])]
        )
        journal.commit({"a": 0})
        assert spans(path) == [Span(2, "A", journal.epoch, 5, 6, 6), Span(8, "B", journal.epoch, 8)]
    with start(path) as journal:
        journal.append([gaps(1), Graded(drafts=[coil("B", "end", 9)])])
    assert replace(spans(path)[1], epoch=0) == Span(8, "B", 0, 8, 10, 9)


def test_spans_survive_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        with full_disk(path):
            for phase in ("start", "end"):
                journal.append([Graded(drafts=[coil("A", phase, 5)])])
                with pytest.raises(JournalError):
                    journal.commit({"a": 0})
        journal.commit({"a": 0})
        assert spans(path) == [Span(1, "A", journal.epoch, 5, 2, 5)]


# ---------------------------------------------------------------- telegrams


def told(number: int) -> Telegram:
    return Telegram(received_ns=number, sender="mes", ask="coil start", coil=f"c{number}", encoder_count=-number)


def test_the_next_run_knows_what_the_plant_told(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        journal.tell(told(1))
        journal.commit({"a": 0})
        journal.tell(told(2))
        killed = image(path, tmp_path / "killed.db")
        with full_disk(path), pytest.raises(JournalError):
            journal.commit({"a": 0})
        assert journal.telegrams == []
    with start(path) as journal:
        assert journal.telegrams == [told(1), told(2)]
        for number in range(3, 1103):
            journal.tell(told(number))
    with start(path) as journal:
        assert journal.telegrams == [told(number) for number in range(103, 1103)]
    with start(killed) as journal:
        assert journal.telegrams == [told(1)]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*), count(DISTINCT epoch) FROM telegram").fetchone() == (1102, 2)
