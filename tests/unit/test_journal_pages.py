"""The journal page by page: every event once, in order, whatever the limits; also while it is written or replaced."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.errors import JournalError
from inspector.events import Event, as_json
from inspector.journal import Journal, Page, Pages
from inspector.journal.pages import FILTERS, SCAN
from inspector.records import Graded
from tests.journals import coil, format_1, gap, gaps, start

PLENTY = 10**9
TOPICS = ["gap/v1/hot/a/", "gap/v1/hot/ab/", "gap/v1/hötä/", "gap/v2/hot/", "coil/v1/hot/"]
PREFIXES = ["", "g", "gap/v1/", "gap/v1/hot/a", "gap/v1/hö", "coil/", "x"]


def walk(pages: Pages, topics: list[str], limit: int = 1000, max_bytes: int = PLENTY, after: int = 0) -> Iterator[Page]:
    while True:
        page = pages.page(after, topics, limit, max_bytes)
        yield page
        assert page.upto > after or page.done
        if page.done:
            return
        after = page.upto


def bodies(pages: Pages, *topics: str) -> list[bytes]:
    return [body for page in walk(pages, list(topics)) for body in page.bodies]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """A journal of two runs with many topics, all events in their order."""
    path = tmp_path_factory.mktemp("filled") / "j.db"
    events: list[Event] = []
    for _ in range(2):
        with start(path) as journal:
            for number in range(60):
                topic = TOPICS[(3 * number + number // 7) % 5]
                events += journal.append([Graded(drafts=[gap(topic=topic)] if "gap" in topic else [coil()])])
                journal.commit({"a": 0})
    return path, events


# ---------------------------------------------------------------- what a page holds


@settings(max_examples=200, deadline=None)
@given(
    topics=st.lists(
        st.sampled_from(["", "g", "gap/v1/", "gap/v1/hot/a", "gap/v1/hö", "coil/", "x", *TOPICS]), max_size=4
    ),
    limit=st.integers(1, 30),
    max_bytes=st.integers(0, 5000),
    after=st.integers(0, 130),
)
def test_pages_together_are_just_what_was_asked_for(
    filled: tuple[Path, list[Event]], topics: list[str], limit: int, max_bytes: int, after: int
) -> None:
    path, events = filled
    wanted = [as_json(event) for event in events[after:] if not topics or event.subject.startswith(tuple(topics))]
    got: list[bytes] = []
    with Pages(path) as pages:
        for page in walk(pages, topics, limit, max_bytes, after):
            assert len(page.bodies) <= limit
            assert len(page.bodies) <= 1 or sum(map(len, page.bodies)) <= max_bytes
            got += page.bodies
        assert page.upto == max(after, 120) == max(after, page.mark.last)
    assert got == wanted


def test_an_event_larger_than_a_page_comes_alone(filled: tuple[Path, list[Event]]) -> None:
    with Pages(filled[0]) as pages:
        page = pages.page(0, [], 100, 1)
        assert (len(page.bodies), page.upto, page.done) == (1, 1, False)


def test_a_page_is_bounded_work_however_little_is_asked_for(tmp_path: Path) -> None:
    """One event at the very end of a long journal."""
    path = tmp_path / "j.db"
    with start(path) as journal:
        (last,) = journal.append([gaps(2 * SCAN), Graded(drafts=[coil()])])[-1:]
        journal.commit({"a": 0})
    with Pages(path) as pages:
        first, second, third = walk(pages, ["coil/"])
        assert [(page.bodies, page.upto, page.done) for page in (first, second)] == [
            ([], SCAN, False),
            ([], 2 * SCAN, False),
        ]
        assert (third.bodies, third.upto, third.done) == ([as_json(last)], 2 * SCAN + 1, True)


def test_a_cursor_beyond_the_journal_gives_nothing(filled: tuple[Path, list[Event]]) -> None:
    with Pages(filled[0]) as pages:
        for after in (120, 121, 2**63 - 1, 2**64):
            page = pages.page(after, [], 10, PLENTY)
            assert (page.bodies, page.done, page.mark.last) == ([], True, 120)
            assert page.upto == min(after, 2**63 - 1)


def test_marks(filled: tuple[Path, list[Event]]) -> None:
    path, events = filled
    highest = {(event.epoch, event.subject): event.sequence for event in events}
    newest = max(event.epoch for event in events)
    with Pages(path) as pages:
        marks = pages.marks([])
        assert {row[:2]: row[2] for row in marks} == highest
        assert marks == sorted(marks)
        assert pages.marks(["gap/v1/hot/a", "gap/v1/hot/ab/"], newest) == [
            (newest, topic, highest[newest, topic]) for topic in TOPICS[:2]
        ]
        assert pages.marks([], 2**70) == []


def test_more_sets_of_prefixes_than_are_remembered(filled: tuple[Path, list[Event]]) -> None:
    path, events = filled
    coils = [as_json(event) for event in events if event.subject.startswith("coil/")]
    with Pages(path) as pages:
        for _ in range(2):
            for number in range(FILTERS + 5):
                assert bodies(pages, "coil/", f"x{number}/") == coils


# ---------------------------------------------------------------- while things happen


def test_pages_while_the_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    done = threading.Event()
    given_out: list[Event] = []

    def write(journal: Journal) -> None:
        for number in range(300):
            given_out.extend(journal.append([Graded(drafts=[gap("ab"[number % 2]), coil()])]))
            journal.commit({"a": 0})
        done.set()

    got: dict[str, list[bytes]] = {"": [], "gap/v1/hot/b/": []}
    with start(path) as journal, Pages(path) as pages, ExitStack() as closing_up:
        writer = threading.Thread(target=write, args=(journal,))
        writer.start()
        closing_up.callback(writer.join)
        places = dict.fromkeys(got, 0)
        finished = False
        while not finished:
            finished = done.is_set()
            for prefix in got:
                for page in walk(pages, [prefix], 7, after=places[prefix]):
                    got[prefix] += page.bodies
                    places[prefix] = page.upto
    for prefix, found in got.items():
        assert found == [as_json(event) for event in given_out if event.subject.startswith(prefix)]


def test_nothing_is_held_between_two_pages(tmp_path: Path) -> None:
    """A transaction that stayed open would keep the write-ahead log from being carried over whole."""
    path = tmp_path / "j.db"
    with start(path) as journal, Pages(path) as pages, closing(sqlite3.connect(path)) as other:
        for _ in range(3):
            journal.append([gaps(20)])
            journal.commit({"a": 0})
            pages.page(0, ["gap/"], 5, PLENTY)
            pages.marks([])
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


def test_a_snapshot_does_not_move(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal, Pages(path) as pages:
        journal.append([gaps(2)])
        journal.commit({"a": 0})
        with pages.snapshot():
            page = pages.page(0, [], 10, PLENTY)
            journal.append([gaps(2)])
            journal.commit({"a": 0})
            assert (page.done, page.upto) == (True, 2)
            assert [high for _, _, high in pages.marks([])] == [2]
            assert pages.mark() == page.mark
        assert [high for _, _, high in pages.marks([])] == [4]
        assert pages.mark() == journal.mark()


def test_a_restart_and_a_kill_of_the_writer_are_nothing_to_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with Pages(path) as pages:
        for number in range(1, 4):
            journal = start(path)
            (event,) = journal.append([gaps(1)])
            journal.commit({"a": 0})
            assert bodies(pages)[-1] == as_json(event)
            if number == 2:
                journal._leave()  # no books are closed
            else:
                journal.close(clean=True)
            assert len(bodies(pages)) == number


def test_another_file_in_its_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with Pages(path) as pages:
        with pytest.raises(JournalError, match=r"j\.db: there is no such journal"):
            pages.page(0, [], 10, PLENTY)
        with start(path) as journal:
            journal.append([gaps(3)])
            journal.commit({"a": 0})
            assert pages.mark() == journal.mark()
            first = journal.mark().id
        path.rename(tmp_path / "old.db")
        with pytest.raises(JournalError, match="there is no such journal"):
            pages.mark()
        with start(path) as journal:
            (event,) = journal.append([Graded(drafts=[coil()])])
            journal.commit({"a": 0})
            assert bodies(pages, "coil/") == [as_json(event)]
            assert bodies(pages, "gap/") == []
            assert (pages.mark(), pages.mark().id == first) == (journal.mark(), False)


def test_what_is_no_journal_is_an_error_each_time(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with Pages(path) as pages:
        path.write_bytes(b"no journal " * 500)
        for _ in range(2):
            with pytest.raises(JournalError, match="not a journal"):
                pages.mark()
        path.unlink()
        format_1(path)
        with pytest.raises(JournalError, match="format 1 has no cursors"):
            pages.mark()
        start(path).close(clean=True)
        assert len(bodies(pages)) == 15


def test_a_damaged_journal_is_an_error_each_time(tmp_path: Path) -> None:
    path, torn = tmp_path / "j.db", tmp_path / "torn.db"
    with start(path) as journal:
        journal.append([gaps(400)])
    content = path.read_bytes()
    torn.write_bytes(content[:20480] + b"\xff" * (len(content) - 20480))
    with Pages(path) as pages:
        assert len(bodies(pages)) == 400
        torn.rename(path)
        for _ in range(2):
            with pytest.raises(JournalError, match="damaged"):
                bodies(pages)
