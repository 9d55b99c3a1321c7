"""What the journal forgets: its oldest closed coils, in pieces, never the one on the line; the books balance still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from inspector.errors import JournalError
from inspector.events import Event, as_json
from inspector.journal import Journal, Pages, Retired, audit, format_audit, read_bodies, read_thumbnails
from inspector.journal.retention import used_bytes
from inspector.journal.store import reading
from inspector.records import Draft, Graded
from tests.journals import NOW_NS, alter, coil, full_disk, gap, gaps, image, scratch, start

SECOND = 1_000_000_000


def coils(journal: Journal, *names: str, events: int = 10) -> None:
    """Whole coils, each of so many events between its start and its end, and ended a second after the one before."""
    for number, name in enumerate(names):
        time_ns = NOW_NS + number * SECOND
        journal.append([Graded(drafts=[coil(name, time_ns=time_ns)]), gaps(events)])
        journal.append([Graded(drafts=[coil(name, "end", time_ns + SECOND)])])
    journal.commit({"a": 0})


def begin(journal: Journal, name: str) -> None:
    journal.append([Graded(drafts=[coil(name)]), gaps(3)])
    journal.commit({"a": 0})


def by_size(journal: Journal, limit: int = 500) -> Retired | None:
    return journal.retire(NOW_NS, keep_bytes=0, keep_ns=None, limit=limit)


def cursors(path: Path) -> list[int]:
    return [cursor for cursor, _ in read_bodies(path)]


# ---------------------------------------------------------------- what goes, and when


def test_the_oldest_coils_go_when_the_journal_holds_too_much(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        journal.append([gaps(2)])
        coils(journal, "A", "B", "C", events=400)
        begin(journal, "D")
        full = used(journal)
        assert journal.retire(NOW_NS, keep_bytes=full, keep_ns=None) is None
        assert journal.retire(NOW_NS, keep_bytes=full - 1, keep_ns=None) == Retired(("A",), 404)
        assert journal.mark().retired == 404
        assert journal.retire(NOW_NS, keep_bytes=used(journal), keep_ns=None) is None
        assert used(journal) < 0.8 * full
        assert by_size(journal, limit=10_000) == Retired(("B", "C"), 804)
        assert journal.mark().retired == cursors(path)[0] - 1 == 1208
    found = audit(path)
    assert found.problems == []
    assert (found.events, found.retired) == (4, 1208)
    assert "4 events, 1,208 of retired coils deleted" in format_audit(found)


def used(journal: Journal) -> int:
    with reading(journal.path) as db:
        return used_bytes(db)


def test_coils_that_ended_too_long_ago_go(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        coils(journal, "A", "B", "C")
        begin(journal, "D")
        later = NOW_NS + 10 * SECOND  # A ended 9 s before, B 8 s, C 7 s
        assert journal.retire(later, None, 9 * SECOND) is None
        assert journal.retire(later, None, 9 * SECOND - 1) == Retired(("A",), 12)
        assert journal.retire(later, None, 0) == Retired(("B", "C"), 24)
        assert journal.retire(later + 10**18, None, 0) is None, "D is on the line"
    assert audit(path).problems == []


def test_a_large_coil_goes_in_pieces_and_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    picture = np.zeros((16, 16), np.uint8)
    with start(path) as journal:
        journal.append([Graded(drafts=[coil("A")]), Graded(drafts=[gap(thumbnail=picture)] * 25)])
        journal.append([Graded(drafts=[coil("A", "end"), coil("B")])])
        journal.commit({"a": 0})
        bound = used(journal) - 1
        assert journal.retire(NOW_NS, bound, None, limit=10) == Retired((), 3), "a picture costs as much as five events"
        assert (journal.mark().retired, len(cursors(path)), len(list(read_thumbnails(path)))) == (3, 25, 23)
        killed = image(path, tmp_path / "killed.db")
        with start(killed) as after:  # a coil that is half gone goes on going, though the size is no reason any more
            assert after.mark().retired == 3
            assert after.retire(NOW_NS, None, None, limit=1) == Retired((), 1)
            assert after.retire(NOW_NS, None, None, limit=100) == Retired((), 20)
            assert after.retire(NOW_NS, None, None, limit=100) == Retired(("A",), 3)
            assert after.retire(NOW_NS, None, None, limit=100) is None
        assert list(read_thumbnails(killed)) == []
    assert audit(killed).problems == []
    assert audit(path).problems == []


def test_what_lies_between_two_coils_goes_with_the_second(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        coils(journal, "A", events=1)
        journal.append([gaps(4)])
        coils(journal, "B", events=1)
        begin(journal, "C")
        assert by_size(journal, limit=4) == Retired(("A",), 4)
        assert by_size(journal) == Retired(("B",), 6)


def test_a_coil_that_goes_on_after_a_restart_stays_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        coils(journal, "A")
        coils(journal, "B")  # the daemon is stopped in the middle of B, which so far has ended for it
        assert by_size(journal, limit=1) == Retired((), 1)
    with start(path) as journal:
        assert by_size(journal) == Retired(("A",), 11)
        assert by_size(journal) == Retired(over=True), "nobody has said yet what lies on the line"
        begin(journal, "B")
        assert by_size(journal) is None
        killed = image(path, tmp_path / "killed.db")
    with start(killed) as journal:
        assert by_size(journal) == Retired(over=True)
        begin(journal, "B")
        assert by_size(journal) is None
        begin(journal, "C")
        assert by_size(journal) == Retired(("B", "B", "B"), 20)
    assert audit(killed).problems == []


def test_strip_of_no_coil_does_not_go_on(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        coils(journal, "unknown")
    with start(path) as journal:
        begin(journal, "unknown")
        assert by_size(journal) == Retired(("unknown",), 12)


def test_an_overfull_journal_with_nothing_to_delete_is_told_once(tmp_path: Path) -> None:
    with start(tmp_path / "j.db") as journal:
        begin(journal, "A")
        assert [by_size(journal) for _ in range(3)] == [Retired(over=True), None, None]
        assert journal.retire(NOW_NS, 10**12, None) is None
        assert by_size(journal) == Retired(over=True)
        begin(journal, "B")
        assert by_size(journal) == Retired(("A",), 4)
        assert by_size(journal) is None, "it was told, and was never over"


def test_freed_room_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        coils(journal, "A", events=3000)
        begin(journal, "B")
        full = used(journal)
        assert by_size(journal, limit=10_000) == Retired(("A",), 3002)
        coils(journal, "C", events=2900)
        assert used(journal) <= full
    assert path.stat().st_size <= full


def test_cursors_go_on_when_everything_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        coils(journal, "unknown")
        assert by_size(journal) == Retired(("unknown",), 12)
        assert (journal.mark().last, journal.mark().retired) == (12, 12)
    with start(path) as journal:
        assert (journal.mark().last, journal.mark().retired) == (12, 12)
        journal.append([gaps(1)])
    assert cursors(path) == [13]
    assert audit(path).problems == []


def test_a_coil_whose_end_is_not_durable_stays(tmp_path: Path) -> None:
    with start(tmp_path / "j.db") as journal:
        begin(journal, "A")
        journal.append([Graded(drafts=[coil("A", "end"), coil("B")])])
        assert by_size(journal) == Retired(over=True)
        journal.commit({"a": 0})
        assert by_size(journal) == Retired(("A",), 5)


def test_a_full_disk_deletes_nothing_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        coils(journal, "A", events=300)
        begin(journal, "B")
        with full_disk(path), pytest.raises(JournalError, match="the disk"):
            by_size(journal)
        assert (journal.mark().retired, len(cursors(path))) == (0, 306)
        assert by_size(journal) == Retired(("A",), 302)
        assert by_size(journal) == Retired(over=True)
    with pytest.raises(JournalError, match="closed"):
        by_size(journal)


# ---------------------------------------------------------------- the audit


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM event WHERE id = 14", "1 events are absent, 0 were given up"),
        ("UPDATE journal SET retired = 14", "2 events are left of those up to 14"),
        ("UPDATE journal SET retired = 0", "12 events were deleted, but the journal says that none were"),
        ("UPDATE topic SET retired = retired + 1", "events are absent"),
        ("UPDATE topic SET retired = 60 WHERE retired = 10", "60 events were deleted before event 11"),
        ("UPDATE coil SET last = NULL WHERE name = 'A'", "coil A has not ended, but events of it were deleted"),
    ],
)
def test_a_wrong_deletion_is_found(tmp_path: Path, statement: str, problem: str) -> None:
    path = tmp_path / "j.db"
    with start(path) as journal:
        coils(journal, "A", "B")
        begin(journal, "C")
        assert by_size(journal, limit=12) == Retired(("A",), 12)
    assert audit(path).problems == []
    alter(path, statement)
    assert any(problem in line for line in audit(path).problems), audit(path).problems


# ---------------------------------------------------------------- any history


class Keeping(RuleBasedStateMachine):
    """Coils come and go, the daemon is killed and started again, and the journal forgets meanwhile."""

    @initialize()
    def open(self) -> None:
        self.folder = scratch()
        self.files = 0
        self.path = Path(self.folder.name) / "0.db"
        self.now_ns = NOW_NS
        self.journal = start(self.path, clock=lambda: self.now_ns)
        self.durable: list[Event] = []
        self.waiting: list[Event] = []
        self.gone = 0
        self.line: str | None = None
        """The coil on the line, as far as the daemon knows."""

    def teardown(self) -> None:
        self.journal.close(clean=True)
        self.folder.cleanup()

    def take(self, *drafts: Draft) -> None:
        self.waiting += self.journal.append([Graded(drafts=list(drafts))])

    @rule(name=st.sampled_from(["A", "B", "unknown"]))
    def change_coil(self, name: str) -> None:
        self.now_ns += SECOND
        if self.line is not None:
            self.take(coil(self.line, "end", self.now_ns))
        self.take(coil(name, "start", self.now_ns))
        self.line = name

    @rule()
    def end_coil(self) -> None:
        if self.line is not None:
            self.take(coil(self.line, "end", self.now_ns))
        self.line = None

    @rule(count=st.integers(1, 8), camera=st.sampled_from("ab"))
    def find(self, count: int, camera: str) -> None:
        self.take(*[gap(camera) for _ in range(count)])

    @rule()
    def commit(self) -> None:
        self.journal.commit({"a": 0, "b": 0})
        self.durable += self.waiting
        self.waiting = []

    @rule()
    def kill(self) -> None:
        self.files += 1
        path = image(self.path, self.path.with_name(f"{self.files}.db"))
        self.journal.close(clean=False)
        self.path = path
        self.again()

    @rule()
    def stop(self) -> None:
        self.end_coil()
        self.commit()
        self.journal.close(clean=True)
        self.again()

    def again(self) -> None:
        self.journal = start(self.path, clock=lambda: self.now_ns)
        self.waiting, self.line = [], None

    @rule(limit=st.integers(1, 12), large=st.booleans(), age=st.sampled_from([None, 0, SECOND, 3 * SECOND]))
    def retire(self, limit: int, large: bool, age: int | None) -> None:
        before = self.journal.mark()
        told = self.journal.retire(self.now_ns, 0 if large else None, age, limit)
        events = told.events if told else 0
        assert events <= limit
        self.gone += events
        after = self.journal.mark()
        assert (after.id, after.last) == (before.id, before.last)
        assert after.retired >= before.retired
        assert (after.retired > before.retired) == (events > 0)

    @invariant()
    def only_the_oldest_are_gone_and_none_of_the_coil_on_the_line(self) -> None:
        kept = list(read_bodies(self.path))
        assert [body for _, body in kept] == [as_json(event) for event in self.durable[self.gone :]]
        assert self.gone <= on_the_line(self.durable)
        mark = self.journal.mark()
        assert all(mark.retired < cursor <= mark.last for cursor, _ in kept)

    @invariant()
    def the_books_balance(self) -> None:
        found = audit(self.path)
        assert found.problems == []
        assert (found.events, found.retired) == (len(self.durable) - self.gone, self.gone)

    @invariant()
    def pages_agree(self) -> None:
        with Pages(self.path) as pages:
            page, bodies = pages.page(0, [], 5, 10**9), list[bytes]()
            while not page.done:
                bodies += page.bodies
                page = pages.page(page.upto, [], 5, 10**9)
            assert bodies + page.bodies == [as_json(event) for event in self.durable[self.gone :]]
            assert (page.upto, page.mark) == (self.journal.mark().last, self.journal.mark())
            highest: dict[tuple[int, str], int] = {}
            for event in self.durable:
                highest[event.epoch, event.subject] = event.sequence
            assert {row[:2]: row[2] for row in pages.marks([])} == highest


def on_the_line(events: list[Event]) -> int:
    """Index of the first event of the coil that is on the line; how many there are if none is."""
    first, name, is_open = 0, "", False
    for index, event in enumerate(events):
        data: Any = event.data
        if event.type != "inspector.coil.v1":
            continue
        if data.phase == "start":
            if data.coil != name or name == "unknown":
                first, name = index, data.coil
            is_open = True
        elif data.coil == name:
            is_open = False
    return first if is_open else len(events)


Keeping.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestAnyHistory = Keeping.TestCase
