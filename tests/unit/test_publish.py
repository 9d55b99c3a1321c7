"""publish.py: durable before anybody hears of it, a full disk that the line survives, sinks that fail in the open."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pytest

from inspector.channel import Channel
from inspector.errors import ChannelAbandoned, ChannelClosed, JournalError, SinkError
from inspector.events import (
    Along,
    Box,
    CoilEvent,
    Defect,
    DefectClass,
    Event,
    Gap,
    Heartbeat,
    Mask,
    Position,
    Reason,
    Size,
    State,
)
from inspector.journal import Journal, Telegram, audit, read_events, read_runs
from inspector.ledger import Ledger
from inspector.metrics import Metrics
from inspector.publish import (
    COMMIT_ITEMS,
    COMMIT_S,
    PIECE_S,
    RETRY_S,
    TEND_S,
    TOGETHER,
    Deliver,
    Publish,
    Retention,
    Serve,
)
from inspector.records import Draft, Graded, Loss, Settled, WhenFull
from inspector.worker import Worker
from tests.disks import room_for

logging.getLogger("inspector.publish").setLevel(logging.CRITICAL)

PATIENCE_S = 30.0
BEAT_S = 1.0
CAMERA = "top"


class Clock:
    """Seconds that pass when the test says so."""

    now = 5000.0

    def __call__(self) -> float:
        return self.now


def defect(number: int) -> Draft:
    data = Defect(
        camera=CAMERA,
        frame_sequence=number,
        frames=1,
        source=None,
        exposed_ns=0,
        exposed_time="1970-01-01T00:00:00.000000000Z",
        coil="c",
        position_mm=Position(along=0.0, across=0.0),
        size_mm=Size(along=1.0, across=1.0),
        bbox_px=Box(x=0, y=0, width=2, height=2),
        area_px=4,
        area_mm2=1.0,
        defect_class=DefectClass(number=3, name="scratch"),
        score=0.9,
        severity="major",
        mask=Mask(size=(4, 4), rle="1 2 5 2"),
        continues=False,
        pack_digest="sha256:0",
    )
    return Draft(f"defect/v1/hot/{CAMERA}/3/", 0, data, np.zeros((8, 8), dtype=np.uint8))


def gap(number: int, frames: int) -> Draft:
    data = Gap(
        camera=CAMERA,
        frame_sequence=number,
        frames=frames,
        reason=Reason.OVERLOAD,
        detail="",
        source=None,
        coil="c",
        along_mm=Along(start=0.0, end=1.0),
    )
    return Draft(f"gap/v1/hot/{CAMERA}/", 0, data)


class Rig:
    """A publishing stage on a real journal, with channels that the test reads."""

    def __init__(
        self,
        folder: Path,
        *,
        must_journal: bool = False,
        sinks: Sequence[str] = ("a",),
        slow: Channel[Event] | None = None,
        keep_bytes: int | None = None,
        **changed: Any,
    ) -> None:
        self.path = folder / "journal.db"
        self.clock = Clock()
        self.ledger = Ledger([CAMERA])
        self.metrics = Metrics(process=False)
        self.journal = Journal.open(
            self.path,
            line="hot",
            source="/inspector/hot",
            synchronous=False,
            capacity_frames=100,
            cameras=[CAMERA],
            digest="d",
            **changed,
        )
        self.outboxes: dict[str, Channel[Event]] = {name: Watched(self.path) for name in sinks}
        if slow is not None:
            self.outboxes["slow"] = slow
        self.waiting: Channel[Graded] = Channel(1000)
        self.publish = Publish(
            "hot",
            self.journal,
            self.ledger,
            self.outboxes,
            lambda: ("running", "c"),
            BEAT_S,
            self.metrics,
            must_journal,
            self.clock,
            Retention(keep_bytes, None),
            self.waiting.take,
        )
        self.frames = 0

    # ------------------------------------------------------------ what the line does

    def clean(self, frames: int = 1) -> Graded:
        """Frames without a defect, issued and inspected."""
        first, self.frames = self.frames, self.frames + frames
        self.ledger.issue(CAMERA, self.frames)
        self.ledger.inspect(CAMERA, frames)
        return Graded(settled=[Settled(CAMERA, first, self.frames - 1, None, 0, 128.0 * frames, 1600)])

    def defective(self) -> Graded:
        graded = self.clean()
        graded.drafts.append(defect(self.frames - 1))
        return graded

    def lost(self, frames: int = 2) -> Graded:
        first, self.frames = self.frames, self.frames + frames
        self.ledger.lose(Loss(CAMERA, first, frames, Reason.OVERLOAD))
        self.ledger.take_losses(CAMERA, first, self.frames)
        settled = Settled(CAMERA, first, self.frames - 1, Reason.OVERLOAD, 0)
        return Graded(settled=[settled], drafts=[gap(first, frames)])

    def work(self, item: Graded | None = None) -> None:
        assert list(self.publish.work(item)) == [], "the last stage gives nothing on"

    def finish(self) -> None:
        assert list(self.publish.finish()) == []

    # ------------------------------------------------------------ what came of it

    def sent(self, sink: str = "a") -> list[Event]:
        """What is in a sink's channel now, heartbeats left out; it is taken."""
        return [event for event in self.heard(sink) if not isinstance(event.data, Heartbeat)]

    def heard(self, sink: str = "a") -> list[Event]:
        return list(_items(self.outboxes[sink]))

    def journalled(self) -> list[Event]:
        """By a connection of its own."""
        return list(read_events(self.path))

    def settled_frames(self) -> int:
        with closing(sqlite3.connect(self.path)) as db:
            return int(db.execute("SELECT coalesce(sum(last - first + 1), 0) FROM fate").fetchone()[0])

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"inspector_{name}", labels)


class Watched(Channel[Event]):
    """A sink's channel that notes every event that was sent before the journal file held it."""

    def __init__(self, path: Path) -> None:
        super().__init__(1000)
        self.path = path
        self.early: list[str] = []

    def put_all(self, items: Sequence[Event], timeout_s: float) -> int:
        durable = {event.id for event in read_events(self.path)}
        self.early += [one.id for one in items if not isinstance(one.data, Heartbeat) and one.id not in durable]
        return super().put_all(items, timeout_s)


def _items(channel: Channel[Event]) -> Iterator[Event]:
    try:
        while (event := channel.get(0.0)) is not None:
            yield event
    except ChannelClosed:
        return


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.journal.close(clean=True)
    assert audit(made.path).problems == []


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """The kernel refuses every byte beyond the present end of the journal's write-ahead log."""
    with room_for(path.with_name(path.name + "-wal").stat().st_size):
        yield


def states(events: Sequence[Event]) -> list[tuple[str, str]]:
    return [(event.data.part, event.data.state) for event in events if isinstance(event.data, State)]


# ---------------------------------------------------------------- the journal first


def test_no_sink_hears_of_an_event_before_the_journals_file_holds_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, sinks=["a", "b"])
    for item in (rig.defective(), rig.clean(), rig.lost(), rig.defective()):
        rig.work(item)
    rig.publish.say(CAMERA, "down", "the cable is out")
    rig.work()
    rig.finish()
    for sink in ("a", "b"):
        assert rig.outboxes[sink].early == []  # type: ignore[attr-defined]
        assert [event.id for event in rig.sent(sink)] == [event.id for event in rig.journalled()]
    assert len(rig.journalled()) == 4
    rig.journal.close(clean=True)


def test_what_was_graded_is_shown_once_it_is_in_the_books_and_before_anybody_hears_of_it(rig: Rig) -> None:
    booked: list[Graded] = []

    def look(graded: Graded) -> None:
        assert rig.journal.pending >= len(graded.drafts)
        assert rig.sent() == []
        booked.append(graded)

    rig.publish.booked = look
    items = [rig.clean(), rig.lost(), rig.defective()]
    rig.waiting.put(items[1], 0.0)
    rig.work(items[0])  # and what waits
    assert len(rig.sent()) == 1
    rig.work(items[2])
    rig.publish.say(CAMERA, "down", "the cable is out")  # of no frame
    rig.finish()
    assert [id(item) for item in booked] == [id(item) for item in items]


def test_an_event_and_the_fate_of_its_frame_are_one_transaction(rig: Rig) -> None:
    rig.work(rig.clean(3))
    rig.clock.now += 0.01
    rig.work(rig.defective())
    assert (len(rig.journalled()), rig.settled_frames()) == (1, 4)


def test_clean_strip_alone_is_committed_ten_times_a_second(rig: Rig) -> None:
    rig.work(rig.clean())
    assert rig.settled_frames() == 1, "the first ones at once"
    rig.clock.now += COMMIT_S / 2
    rig.work(rig.clean())
    assert rig.settled_frames() == 1
    assert rig.publish.wait_s() == pytest.approx(COMMIT_S / 2), (
        "it will not wait longer than until the next commit is due"
    )
    rig.clock.now += COMMIT_S
    assert rig.publish.wait_s() == 0.0
    rig.work()
    assert rig.settled_frames() == 2
    rig.work()
    assert rig.publish.wait_s() > 2 * COMMIT_S, "nothing waits now but the next heartbeat"


def test_what_waits_is_committed_and_sent_in_one_go(rig: Rig) -> None:
    rig.work(rig.clean())
    rig.work(rig.clean())  # waits for a commit
    commits = rig.metric("journal_commit_seconds_count")
    assert commits is not None
    for _ in range(COMMIT_ITEMS + 5):
        rig.waiting.put(rig.defective(), 0)
    rig.work(rig.waiting.get(0))
    together = COMMIT_ITEMS - 1
    assert rig.waiting.statistics().queued == COMMIT_ITEMS + 5 - together
    assert rig.metric("journal_commit_seconds_count") == commits + 1
    assert rig.settled_frames() == 2 + together
    told = [event.sequence for event in rig.sent() if not isinstance(event.data, Heartbeat)]
    assert told == list(range(1, together + 1))
    assert rig.metric("frames_inspected_total", camera=CAMERA) == 2 + together


def test_what_a_kill_can_leave_in_flight_is_bounded(rig: Rig) -> None:
    rig.work(rig.clean())
    for _ in range(COMMIT_ITEMS):
        rig.work(rig.clean())
    assert rig.settled_frames() == 1 + COMMIT_ITEMS


def test_the_end_writes_what_waits_and_sends_what_was_said_last(rig: Rig) -> None:
    rig.work(rig.clean())
    rig.work(rig.clean())
    rig.publish.say(CAMERA, "down", "gone")
    rig.finish()
    assert rig.settled_frames() == 2
    assert states(rig.sent()) == [(CAMERA, "down")]
    assert states(rig.journalled()) == [(CAMERA, "down")]


def test_leaving_closes_every_outbox(tmp_path: Path) -> None:
    rig = Rig(tmp_path, sinks=["a", "b"])
    with rig.publish:
        rig.work(rig.defective())
    for outbox in rig.outboxes.values():
        assert isinstance(outbox.get(0.0), Event)
        list(_items(outbox))
        with pytest.raises(ChannelClosed):
            outbox.get(0.0)
    rig.journal.close(clean=True)


def test_the_journal_is_told_what_was_issued_and_lost_up_to_the_commit(rig: Rig) -> None:
    rig.work(rig.clean(4))
    rig.ledger.issue(CAMERA, 9)  # in flight
    rig.ledger.lose(Loss(CAMERA, 7, 2, Reason.OVERRUN))  # and of these two are known to be lost
    rig.clock.now += COMMIT_S
    rig.work(rig.defective())
    books = audit(rig.path).books[0]
    assert (books.issued, books.inspected, books.in_flight) == (9, 5, 4)
    rig.journal.close(clean=False)
    assert audit(rig.path).books[0].lost == {Reason.ABORTED: 4}


# ---------------------------------------------------------------- a journal that cannot be written


def test_a_full_disk_degrades_the_line_and_room_mends_it(rig: Rig) -> None:
    rig.work(rig.defective())
    rig.heard()
    with full_disk(rig.path):
        rig.work(rig.defective())
        assert not rig.publish.healthy
        assert len(rig.sent()) == 1, "the line goes on: what was found is still told"
        rig.clock.now += RETRY_S / 2
        rig.work(rig.defective())
        assert rig.metric("journal_commit_failures_total") == 1, "a full disk is not hammered"
        assert states(rig.sent()) == [("journal", "degraded")]
        rig.clock.now += RETRY_S
        rig.work(rig.lost())
        assert rig.metric("journal_commit_failures_total") == 2
        assert states(rig.sent()) == [], "said once"
        assert len(rig.journalled()) == 1
    rig.clock.now += RETRY_S
    rig.work()
    assert rig.publish.healthy
    rig.work()
    assert states(rig.sent()) == [("journal", "ok")]
    kinds = [type(event.data).__name__ for event in rig.journalled()]
    assert kinds == ["Defect", "Defect", "Defect", "State", "Gap", "State"], "nothing is missing, in order"
    assert rig.settled_frames() == rig.frames


def test_the_degraded_state_names_the_file_and_how_to_mend_it(rig: Rig) -> None:
    with full_disk(rig.path):
        rig.work(rig.defective())
        rig.work()
    said = [event.data for event in rig.sent() if isinstance(event.data, State)]
    assert len(said) == 1
    assert str(rig.path) in said[0].detail
    rig.clock.now += RETRY_S
    rig.work()


def test_a_disk_that_is_mended_at_the_very_end_is_still_told(rig: Rig) -> None:
    with full_disk(rig.path):
        rig.work(rig.defective())
        rig.work()
    rig.heard()
    rig.finish()  # sooner than the next try was due
    assert states(rig.sent()) == [("journal", "ok")]
    assert states(rig.journalled()) == [("journal", "degraded"), ("journal", "ok")]


def test_a_disk_that_stays_full_to_the_end_is_told_too(rig: Rig) -> None:
    with full_disk(rig.path):
        rig.work(rig.defective())
        rig.finish()
        assert states(rig.sent()) == [("journal", "degraded")]


def test_a_replay_must_journal_and_sends_nothing_that_it_could_not_write(tmp_path: Path) -> None:
    rig = Rig(tmp_path, must_journal=True)
    rig.work(rig.defective())
    assert len(rig.sent()) == 1
    with full_disk(rig.path), pytest.raises(JournalError, match="disk"):
        rig.work(rig.defective())
    assert rig.sent() == []
    rig.journal.close(clean=False)


def test_events_given_up_for_want_of_room_are_counted(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_pending=3)
    with full_disk(rig.path):
        for _ in range(6):
            rig.work(rig.defective())
    given_up = rig.journal.unjournalled
    assert given_up > 0
    assert rig.metric("journal_unjournalled_total") == given_up
    rig.finish()
    rig.journal.close(clean=True)
    assert read_runs(rig.path)[0].unjournalled == rig.journal.unjournalled == rig.metric("journal_unjournalled_total")
    assert rig.settled_frames() == rig.frames, "the fates of frames are never given up"


# ---------------------------------------------------------------- what is said and counted


def test_a_telegram_is_durable_when_its_sender_is_told_so(rig: Rig, tmp_path: Path) -> None:
    durable = rig.publish.tell(Telegram(1, "level2", "coil start", "C2", 500))
    assert not durable.is_set()
    rig.work()
    assert durable.is_set()
    assert rig.journal.mark().last == 0, "a telegram is no event"


def coil(name: str, phase: Literal["start", "end"]) -> Draft:
    return Draft("coil/v1/hot/", 1, CoilEvent(coil=name, phase=phase, encoder_count=0))


def test_a_coil_that_is_no_longer_kept_is_told_and_so_is_a_journal_that_finds_no_room(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keep_bytes=1)
    for draft in (coil("C1", "start"), coil("C1", "end"), coil("C2", "start")):
        rig.work(Graded(drafts=[draft]))
    for _ in range(4):
        rig.clock.now += BEAT_S
        rig.work()
    told = [event.data.state for event in rig.heard() if isinstance(event.data, State)]
    assert told == ["over", "retired"], "over at the first beat, before there was a coil, and once only"
    assert [event.data.coil for event in read_events(rig.path, kinds=["coil"])] == ["C2"]
    assert rig.journal.mark().retired == 2
    assert rig.metrics.registry.get_sample_value("inspector_journal_retired_total") == 2


def test_a_large_coil_is_forgotten_in_pieces_between_the_heartbeats(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keep_bytes=1, sinks=())
    for drafts in ([coil("C1", "start")], [gap(0, 1)] * 1100, [coil("C1", "end"), coil("C2", "start")]):
        rig.work(Graded(drafts=drafts))
    rig.clock.now += BEAT_S
    rig.work()
    gone = [rig.journal.mark().retired]
    while rig.publish.wait_s() < BEAT_S / 2:
        assert rig.publish.wait_s() == pytest.approx(PIECE_S)
        rig.clock.now += PIECE_S
        rig.work()
        gone.append(rig.journal.mark().retired)
    assert gone == [500, 1000, 1103, 1103], "with the state event that the journal is over its bound"
    rig.journal.close(clean=True)


def test_a_heartbeat_says_where_the_journal_stands(rig: Rig) -> None:
    rig.publish.history = "tcp://127.0.0.1:5571"
    rig.work(rig.defective())
    rig.clock.now += BEAT_S
    rig.work()
    beat = rig.heard()[-1].data
    assert isinstance(beat, Heartbeat)
    assert beat.journal == rig.journal.mark()
    assert beat.journal is not None
    assert beat.journal.last >= 1
    assert beat.history == "tcp://127.0.0.1:5571"


def test_a_heartbeat_carries_the_high_water_marks_of_what_was_sent_before_it(rig: Rig) -> None:
    for item in (rig.defective(), rig.defective(), rig.lost()):
        rig.work(item)
    rig.publish.say(CAMERA, "up", "")
    rig.clock.now += BEAT_S
    rig.work()
    heard = rig.heard()
    last = heard[-1].data
    assert isinstance(last, Heartbeat)
    marks: dict[str, int] = {}
    for event in heard[:-1]:
        assert event.sequence == marks.get(event.subject, 0) + 1, "contiguous in its topic"
        marks[event.subject] = event.sequence
    assert last.high_water == {topic: mark for topic, mark in marks.items() if not topic.startswith("heartbeat/")}
    assert set(marks) >= {"defect/v1/hot/top/3/", "gap/v1/hot/top/", "state/v1/hot/", "heartbeat/v1/hot/"}
    assert last.cameras == rig.ledger.totals()
    assert (last.state, last.coil) == ("running", "c")


def test_a_heartbeat_says_what_is_left_out(rig: Rig) -> None:
    rig.publish.overload_step = lambda: 2
    rig.clock.now += 10
    rig.work()
    assert [event.data.overload_step for event in rig.heard() if isinstance(event.data, Heartbeat)] == [2]


def test_a_heartbeat_names_the_pack_on_duty_at_that_moment(rig: Rig) -> None:
    for digest in ("sha256:1", "sha256:2"):
        rig.publish.pack_digest = partial(str, digest)
        rig.clock.now += 10
        rig.work()
    beats = [event.data.pack_digest for event in rig.heard() if isinstance(event.data, Heartbeat)]
    assert beats == ["sha256:1", "sha256:2"]


def test_what_a_state_is_about_goes_with_it_and_only_a_part_itself_is_down(rig: Rig) -> None:
    rig.publish.say(CAMERA, "down", "gone")
    rig.publish.say(CAMERA, "down", "the second floor", "place")
    rig.publish.say(CAMERA, "up", "the third floor", "place")
    assert rig.publish.down == {CAMERA: "gone"}
    rig.work()
    assert [event.data.about for event in rig.sent() if isinstance(event.data, State)] == [None, "place", "place"]


def test_heartbeats_come_by_the_clock_whether_there_is_work_or_not(rig: Rig) -> None:
    beats = []
    for _ in range(10):
        rig.clock.now += rig.publish.wait_s()
        rig.work()
        beats += [event for event in rig.heard() if isinstance(event.data, Heartbeat)]
    assert [beat.sequence for beat in beats] == list(range(1, len(beats) + 1))
    assert len(beats) == 10
    rig.clock.now += BEAT_S / 2
    rig.work(rig.clean())
    assert rig.heard() == []
    assert rig.journalled() == [], "a heartbeat is no news to keep"


def test_the_last_word_is_a_heartbeat_with_the_final_books(rig: Rig) -> None:
    rig.work(rig.defective())
    rig.heard()
    rig.work(rig.clean(3))
    rig.publish.say(CAMERA, "down", "gone")
    rig.finish()
    *news, last = rig.heard()
    assert states(news) == [(CAMERA, "down")]
    assert isinstance(last.data, Heartbeat)
    assert last.data.high_water["state/v1/hot/"] == 1
    assert last.data.cameras[CAMERA].inspected == 4


def test_a_heartbeat_tells_what_the_sinks_did_not_take(tmp_path: Path) -> None:
    rig = Rig(tmp_path, sinks=["a", "b"])
    rig.publish.sent("a", 5, 0, "refused")
    rig.publish.sent("a", 0, 2, "down")
    rig.publish.sent("a", 0, 1, "queue_full")
    rig.clock.now += BEAT_S
    rig.work()
    beat = rig.heard("b")[-1].data
    assert isinstance(beat, Heartbeat)
    assert beat.undelivered == {"a": 3, "b": 0}
    assert rig.metric("events_published_total", sink="a") == 5
    assert rig.metric("events_undelivered_total", sink="a", reason="down") == 2
    assert rig.metric("events_undelivered_total", sink="a", reason="queue_full") == 1
    assert rig.metric("events_undelivered_total", sink="a", reason="refused") == 0
    rig.journal.close(clean=True)


def test_the_metrics_agree_with_the_books(rig: Rig) -> None:
    for item in (rig.clean(5), rig.defective(), rig.lost(3)):
        rig.work(item)
    assert rig.metric("frames_inspected_total", camera=CAMERA) == 6
    assert rig.metric("frames_lost_total", camera=CAMERA, stage="capture", reason="overload") == 3
    assert rig.metric("strip_inspected_metres_total", camera=CAMERA) == pytest.approx(6 * 0.128)
    assert rig.metric("defects_total", defect_class="scratch", severity="major") == 1
    assert rig.metric("gaps_total", reason="overload") == 1
    assert rig.publish.tally.inspected_mm == {CAMERA: 6 * 128.0}


def test_who_is_down_is_known_until_it_is_up(rig: Rig) -> None:
    rig.publish.say(CAMERA, "down", "the cable is out")
    rig.publish.say("other", "down", "no power")
    assert rig.publish.down == {CAMERA: "the cable is out", "other": "no power"}
    rig.publish.say(CAMERA, "up", "")
    assert rig.publish.down == {"other": "no power"}


def test_states_may_be_said_by_any_thread_and_none_is_lost(rig: Rig) -> None:
    def talk(number: int) -> None:
        for i in range(25):
            rig.publish.say(f"part{number}", "up", str(i))

    threads = [threading.Thread(target=talk, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        rig.work()
        threads[0].join(0.001)
    for thread in threads:
        thread.join(PATIENCE_S)
    rig.work()
    said = [(event.data.part, event.data.detail) for event in rig.sent() if isinstance(event.data, State)]
    assert sorted(said) == sorted((f"part{n}", str(i)) for n in range(4) for i in range(25))
    for n in range(4):
        assert [detail for part, detail in said if part == f"part{n}"] == [str(i) for i in range(25)]


def test_a_sink_that_has_gone_ends_the_stage_quietly(rig: Rig) -> None:
    rig.outboxes["a"].abandon()
    with pytest.raises(ChannelAbandoned):
        rig.work(rig.defective())
    assert len(rig.journalled()) == 1


# ---------------------------------------------------------------- one sink's thread


class Scripted:
    """A sink that answers what it is told: a number it refuses, or an error; opens that fail likewise."""

    def __init__(self, answers: Sequence[int | SinkError] = (), opens: Sequence[SinkError | None] = ()) -> None:
        self.answers, self.opens = deque(answers), deque(opens)
        self.got: list[Event] = []
        self.entered = self.exited = self.tended = 0
        self.is_open = False
        self.trouble: SinkError | None = None

    def __enter__(self) -> Self:
        assert not self.is_open
        self.entered += 1
        error = self.opens.popleft() if self.opens else None
        if error is not None:
            raise error
        self.is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.is_open
        self.is_open = False
        self.exited += 1

    def send(self, events: Sequence[Event]) -> int:
        assert self.is_open
        answer = self.answers.popleft() if self.answers else 0
        if isinstance(answer, SinkError):
            raise answer
        self.got += events
        return answer

    def tend(self) -> None:
        assert self.is_open
        self.tended += 1
        if self.trouble is not None:
            raise self.trouble


class Sinking:
    """Deliver around a scripted sink."""

    def __init__(self, sink: Scripted, must_deliver: bool = False) -> None:
        self.clock, self.sink = Clock(), sink
        self.waiting: Channel[Event] = Channel(1000)
        self.notes: list[tuple[int, int, str]] = []
        self.states: list[tuple[str, str, str]] = []
        self.deliver = Deliver(
            "s",
            sink,
            must_deliver,
            lambda *note: self.notes.append(note),
            self.clock,
            lambda *state: self.states.append(state),
            self.waiting.take,
        )

    def work(self, *numbers: int) -> None:
        for number in numbers:
            assert list(self.deliver.work(event(number))) == []


def event(number: int) -> Event:
    return Event(
        id=str(number),
        source="/test",
        type="inspector.state.v1",
        time="2026-01-01T00:00:00Z",
        subject="state/v1/test/",
        dataschema="",
        epoch=1,
        sequence=number,
        data=State(part="part", state="up", detail=""),
    )


SENT, DOWN, REFUSED = (1, 0, "refused"), (0, 1, "down"), (0, 1, "refused")


def test_a_good_sink_gets_every_event_in_order() -> None:
    rig = Sinking(Scripted())
    with rig.deliver:
        rig.work(1, 2, 3)
        list(rig.deliver.work(None))
    assert [one.sequence for one in rig.sink.got] == [1, 2, 3]
    assert rig.notes == [SENT] * 3
    assert (rig.sink.entered, rig.sink.exited) == (1, 1)


def test_events_that_wait_go_to_a_sink_together() -> None:
    rig = Sinking(Scripted([2, SinkError("the pipe broke")]))
    with rig.deliver:
        rig.waiting.put_all([event(number) for number in range(2, TOGETHER + 3)], 0)
        rig.work(1)
        rig.work(TOGETHER + 3)
    assert [one.sequence for one in rig.sink.got] == list(range(1, TOGETHER + 1))
    assert rig.notes == [(TOGETHER - 2, 2, "refused"), (0, 3, "down")]


def test_a_refused_event_is_counted_as_such() -> None:
    rig = Sinking(Scripted([0, 1, 0]))
    with rig.deliver:
        rig.work(1, 2, 3)
    assert rig.notes == [SENT, REFUSED, SENT]


def test_a_broken_sink_is_entered_again_after_a_while_and_what_it_missed_is_counted() -> None:
    rig = Sinking(Scripted([0, SinkError("the pipe broke")]))
    with rig.deliver:
        rig.work(1)
        rig.clock.now += RETRY_S / 2
        rig.work(2, 3)
        assert not rig.sink.is_open, "it was let go"
        rig.clock.now += RETRY_S
        rig.work(4)
    assert rig.notes == [SENT, DOWN, DOWN, SENT]
    assert [one.sequence for one in rig.sink.got] == [1, 4]
    assert (rig.sink.entered, rig.sink.exited) == (2, 2)
    assert rig.states == [("sink s", "down", "the pipe broke"), ("sink s", "up", "")]


def test_a_sink_that_cannot_be_opened_is_tried_once_a_second() -> None:
    rig = Sinking(Scripted(opens=[SinkError("no such folder")] * 3))
    with rig.deliver:
        for number in range(40):
            rig.work(number)
            rig.clock.now += RETRY_S / 10
    assert rig.sink.entered == 4
    assert rig.notes == [DOWN] * 30 + [SENT] * 10
    assert rig.sink.exited == 1


def test_a_sink_that_breaks_at_every_event_is_not_entered_more_than_once_a_second() -> None:
    rig = Sinking(Scripted([SinkError("broken")] * 100))
    with rig.deliver:
        for number in range(40):
            rig.work(number)
            rig.clock.now += RETRY_S / 10
    assert rig.sink.entered <= 5
    assert rig.notes == [DOWN] * 40
    assert rig.states == [("sink s", "down", "broken")], "one event a change, or each would break it again"


@pytest.mark.parametrize(
    "sink",
    [
        lambda: Scripted(opens=[SinkError("cannot be opened")]),
        lambda: Scripted([SinkError("the pipe broke")]),
        lambda: Scripted([1]),
    ],
    ids=["open", "send", "refuse"],
)
def test_where_nothing_may_be_missed_any_trouble_climbs(sink: Callable[[], Scripted]) -> None:
    rig = Sinking(sink(), must_deliver=True)
    with pytest.raises(SinkError), rig.deliver:
        rig.work(1)
    assert not rig.sink.is_open
    assert [note for note in rig.notes if note[0]] == []


def test_a_sink_is_tended_whether_events_come_or_not() -> None:
    rig = Sinking(Scripted())
    with rig.deliver:
        for number in range(1, 11):
            assert list(rig.deliver.work(None)) == []
            assert rig.sink.tended == number
            assert rig.deliver.wait_s() == pytest.approx(TEND_S)
            rig.work(number)
            assert rig.sink.tended == number, "an event does not make it due"
            rig.clock.now += TEND_S
            assert rig.deliver.wait_s() == 0
        for number in range(11, 21):
            rig.work(number)
            assert rig.sink.tended == number
            rig.clock.now += TEND_S


def test_a_sink_that_breaks_while_it_is_tended_is_entered_again_with_the_next_event() -> None:
    rig = Sinking(Scripted())
    with rig.deliver:
        rig.sink.trouble = SinkError("torn")
        assert list(rig.deliver.work(None)) == []
        assert (rig.sink.is_open, rig.states) == (False, [("sink s", "down", "torn")])
        rig.sink.trouble = None
        rig.clock.now += RETRY_S
        assert list(rig.deliver.work(None)) == []
        assert rig.sink.tended == 1, "what is not open needs no care"
        rig.work(1)
        assert rig.notes == [(1, 0, "refused")]
        assert rig.states[-1] == ("sink s", "up", "")
    required = Sinking(Scripted(), must_deliver=True)
    required.sink.trouble = SinkError("torn")
    with required.deliver, pytest.raises(SinkError, match="torn"):
        list(required.deliver.work(None))


def test_a_slow_sink_loses_the_oldest_events_and_every_one_is_counted_with_its_reason(tmp_path: Path) -> None:
    """The queue in front of a sink that hangs: the line goes on, and the heartbeat tells the loss."""
    let_go = threading.Event()
    outbox = Channel[Event](3, WhenFull.DROP_OLDEST, on_drop=lambda _: passed_over())
    rig = Rig(tmp_path, slow=outbox)

    def passed_over() -> None:
        rig.publish.sent("slow", 0, 1, "queue_full")

    class Hanging(Scripted):
        def send(self, events: Sequence[Event]) -> int:
            let_go.wait(PATIENCE_S)
            return super().send(events)

    sink = Hanging()
    deliver = Deliver("slow", sink, False, lambda sent, refused, why: rig.publish.sent("slow", sent, refused, why))
    worker = Worker("sink-slow", deliver, outbox)
    worker.start()
    try:
        with rig.publish:
            for _ in range(20):
                rig.work(rig.defective())
    finally:
        let_go.set()
        assert worker.join(PATIENCE_S)
    told = len(rig.journalled())
    beats = len(rig.heard("a")) - told
    assert told == 20
    published = rig.metric("events_published_total", sink="slow")
    dropped = rig.metric("events_undelivered_total", sink="slow", reason="queue_full")
    assert published == len(sink.got)
    assert dropped is not None
    assert published + dropped == told + beats
    assert dropped >= 20 - 5
    assert [one.sequence for one in sink.got] == sorted(one.sequence for one in sink.got)
    rig.journal.close(clean=True)


def test_a_server_serves_until_it_is_stopped() -> None:
    stop = threading.Event()
    served: list[bool] = []

    def serve(until: threading.Event) -> None:
        served.append(until.is_set())
        until.set()

    worker = Worker("monitor", Serve("monitor", serve, stop))
    worker.start()
    assert worker.join(PATIENCE_S)
    assert served == [False]
    assert worker.failure is None
