"""A kill -9 while the disk is full: that there were events is known all the same, from the file beside the journal."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.errors import JournalError
from inspector.journal import Journal, Pages, audit, format_audit, read_events
from inspector.journal.marks import SIZE, SLOT, Marked, Marks, marks_file
from inspector.records import Graded
from tests.journals import FORMAT_1, coil, format_1, full_disk, gap, gaps, image, scratch, start

GAP = "gap/v1/hot/a/"
OTHER = "gap/v1/hot/b/"


def say(journal: Journal, count: int, topic: str = GAP) -> None:
    journal.append([Graded(drafts=[gap(topic=topic) for _ in range(count)])])


def fail(journal: Journal) -> None:
    with pytest.raises(JournalError, match="the disk"):
        journal.commit({"a": 0})


def marks_of(path: Path, epoch: int) -> dict[str, int]:
    with Pages(path) as pages:
        return {topic: last for found, topic, last in pages.marks([]) if found == epoch}


# ---------------------------------------------------------------- a full disk and a kill


def test_the_next_run_knows_what_a_full_disk_and_a_kill_took(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        say(journal, 3)
        journal.commit({"a": 0})
        with full_disk(path):
            say(journal, 2)
            fail(journal)
            say(journal, 2)
            say(journal, 1, OTHER)  # of a topic of which the file knows nothing
            killed = image(path, tmp_path / "killed.db")
    assert audit(path).runs[0].unjournalled == 0  # there was room at the end
    with caplog.at_level(logging.WARNING), start(killed) as second:
        assert "5 events of run" in caplog.text
        assert marks_of(killed, journal.epoch) == {GAP: 7, OTHER: 1}
        say(second, 1)
    found = audit(killed)
    assert found.problems == []
    assert [run.unjournalled for run in found.runs] == [5, 0]
    assert "5 events given up while the disk was full" in format_audit(found)
    assert [event.sequence for event in read_events(killed)] == [1, 2, 3, 1]
    with start(killed):
        pass
    assert [run.unjournalled for run in audit(killed).runs] == [5, 0, 0]  # they are counted once


def test_an_end_with_a_full_disk_is_like_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = start(path)
    say(journal, 2)
    with full_disk(path), pytest.raises(JournalError, match="2 events are not written"):
        journal.close(clean=True)
    with start(path):
        assert marks_of(path, journal.epoch) == {GAP: 2}
    assert audit(path).balanced


def test_what_was_written_after_all_is_not_given_up(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        with full_disk(path):
            say(journal, 5)
            fail(journal)
        journal.commit({"a": 0})
        say(journal, 1)
        journal.commit({"a": 0})
        killed = image(path, tmp_path / "killed.db")
    with start(killed):
        assert marks_of(killed, journal.epoch) == {GAP: 6}
    assert audit(killed).problems == []
    assert audit(killed).runs[0].unjournalled == 0


def test_events_given_up_and_events_killed_are_counted_together(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path, max_pending=10) as journal:
        with full_disk(path):
            say(journal, 30)
            fail(journal)
        journal.commit({"a": 0})  # 20 were given up, 10 are written
        with full_disk(path):
            say(journal, 30)
            fail(journal)
            killed = image(path, tmp_path / "killed.db")
    with start(killed):
        pass
    found = audit(killed)
    assert found.problems == []
    assert (found.events, found.runs[0].unjournalled) == (10, 50)


def test_coils_with_such_events_can_be_retired(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        journal.append([Graded(drafts=[coil("A")]), gaps(3), Graded(drafts=[coil("A", "end")])])
        journal.commit({"a": 0})
        with full_disk(path):
            say(journal, 5)
            fail(journal)
            killed = image(path, tmp_path / "killed.db")
    with start(killed) as second:
        second.append([Graded(drafts=[coil("B")])])
        second.commit({"a": 0})
        gone = second.retire(time.time_ns(), 1, None)
        assert gone is not None
        assert gone.coils == ("A",)
    found = audit(killed)
    assert found.problems == []
    assert (found.retired, found.runs[0].unjournalled) == (5, 5)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(ballast: Path) -> None:
    """Take every byte that is left."""
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_disk_without_a_free_block(small_disk: Path, synchronous: bool) -> None:
    path, ballast = small_disk / "j.db", small_disk / "ballast"
    journal = start(path, synchronous=synchronous)
    fill(ballast)
    for _ in range(5):
        say(journal, 100)  # beyond what the write-ahead log still has room for
        fail(journal)
    journal._leave()  # killed
    ballast.unlink()
    with start(path):
        assert marks_of(path, journal.epoch) == {GAP: 500}
    assert audit(path).problems == []


def test_no_room_for_the_file_at_the_start(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, ballast = small_disk / "j.db", small_disk / "ballast"
    with start(path):
        pass
    marks_file(path).unlink()
    fill(ballast)
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size - 96 * 1024)
    with caplog.at_level(logging.WARNING), start(path) as journal:
        assert "No space left" in caplog.text
        assert marks_file(path).stat().st_size == 0  # it gives back what it got
        ballast.unlink()
        say(journal, 3)
    assert audit(path).balanced


# ---------------------------------------------------------------- the file


def test_a_journal_of_before(tmp_path: Path) -> None:
    path = format_1(tmp_path / "j.db")
    assert FORMAT_1.exists()
    with start(path):
        assert marks_file(path).stat().st_size == SIZE
    assert audit(path).balanced


def test_the_marks_of_another_journal_or_run_are_not_believed(tmp_path: Path) -> None:
    path, other = tmp_path / "j.db", tmp_path / "other.db"
    with start(path) as journal, full_disk(path):
        say(journal, 5)
        fail(journal)
        killed = image(path, tmp_path / "killed.db")
    second = start(other)
    say(second, 1)
    second.commit({"a": 0})
    second._leave()  # killed; the same epoch
    assert second.epoch == journal.epoch
    shutil.copy(marks_file(killed), marks_file(other))
    with start(other):
        assert marks_of(other, second.epoch) == {GAP: 1}
    assert audit(other).problems == []


def test_it_lies_beside_the_file_itself(tmp_path: Path) -> None:
    """As the write-ahead log does: whichever name the journal is opened by next."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "j.db"
    link.symlink_to(tmp_path / "disk" / "journal.db")
    with start(link):
        assert (tmp_path / "disk" / "journal.db.marks").stat().st_size == SIZE


def _link(path: Path) -> None:
    precious = path.with_name("precious")
    precious.write_bytes(bytes(100))
    path.symlink_to(precious)


def _foreign(path: Path) -> None:
    path.write_bytes(b"dear diary")


def _large(path: Path) -> None:
    path.write_bytes(b"dear diary" * 10_000)


@pytest.mark.parametrize("make", [_link, Path.mkdir, os.mkfifo, _foreign, _large])
def test_what_is_not_its_own_is_left_alone(
    tmp_path: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "j.db"
    make(marks_file(path))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    with caplog.at_level(logging.WARNING), start(path) as journal:
        assert "j.db.marks: it is" in caplog.text or "Is a directory" in caplog.text
        with full_disk(path):
            say(journal, 5)
            fail(journal)
    assert audit(path).balanced
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_readers_need_no_such_file_and_make_none(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path):
        pass
    marks_file(path).unlink()
    assert audit(path).balanced
    assert not marks_file(path).exists()


def test_too_many_topics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    marks = Marks(tmp_path / "j.db", synchronous=False)
    assert marks.open() == []
    marks.reserve()
    many = {f"defect/v1/{'x' * 200}/{number}/": number for number in range(1, 1001)}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            marks.put(Marked("id", 1, many))
    assert caplog.text.count("too many topics") == 1
    marks.close()
    (_, found) = Marks(tmp_path / "j.db", synchronous=False).open()
    kept = sorted(found.last.values())
    assert 100 < len(kept) < 1000
    assert kept == list(range(1001 - len(kept), 1001))  # the highest


# ---------------------------------------------------------------- torn and spoilt


def put(path: Path, first: int, last: int) -> list[Marked]:
    marks = Marks(path, synchronous=False)
    marks.open()
    marks.reserve()
    said = [Marked("id", 7, {GAP: turn, OTHER: turn + 1000}) for turn in range(first, last + 1)]
    for marked in said:
        marks.put(marked)
    marks.close()
    return said


def left(path: Path) -> list[Marked]:
    marks = Marks(path, synchronous=False)
    try:
        return marks.open()
    finally:
        marks.close()


@given(turns=st.integers(1, 5), upto=st.integers(0, 200))
def test_a_kill_in_the_middle_of_writing_loses_only_what_was_being_written(turns: int, upto: int) -> None:
    """What was being written was sent to nobody yet."""
    with scratch() as folder:
        path = Path(folder) / "j.db"
        file = marks_file(path)
        said = put(path, 1, turns)
        before = file.read_bytes()
        said += put(path, turns + 1, turns + 1)
        after = file.read_bytes()
        begin = (turns + 1) % 2 * SLOT
        file.write_bytes(before[:begin] + after[begin : begin + upto] + before[begin + upto :])
        found = left(path)
        assert all(one in said for one in found)
        assert said[turns - 1] in found
        assert (said[turns] in found) is (upto == 200 or file.read_bytes() == after)


@given(
    turns=st.integers(0, 4),
    flips=st.lists(st.tuples(st.one_of(st.integers(0, 200), st.integers(SLOT, SLOT + 200)), st.integers(1, 255))),
    length=st.one_of(st.none(), st.integers(0, SIZE)),
)
def test_a_spoilt_file_is_never_worse_than_none(turns: int, flips: list[tuple[int, int]], length: int | None) -> None:
    with scratch() as folder:
        path = Path(folder) / "j.db"
        said = put(path, 1, turns)
        file = marks_file(path)
        spoilt = bytearray(file.read_bytes())
        for place, change in flips:
            spoilt[place] ^= change
        file.write_bytes(spoilt[:length])
        assert all(one in said for one in left(path))


@given(content=st.binary(max_size=300))
def test_a_journal_opens_whatever_lies_beside_it(content: bytes) -> None:
    with scratch() as folder:
        path = Path(folder) / "j.db"
        marks_file(path).write_bytes(content)
        with start(path) as journal:
            say(journal, 1)
        assert audit(path).balanced
