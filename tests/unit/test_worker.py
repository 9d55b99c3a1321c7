"""worker.py: items pass in order, a failure climbs and leaves nobody waiting, and a stage that hangs is named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import pytest

from inspector import worker as module
from inspector.channel import Channel
from inspector.errors import ChannelAbandoned, ChannelClosed, EngineError
from inspector.records import WhenFull
from inspector.worker import Crew, Worker

LONG_S = 60.0
PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in left)


class Plain:
    """A stage that hands on what `does` makes of an item, and `rest` at the end; notes what it meets and where."""

    def __init__(self, does: Callable[[Any], Iterable[Any]] = lambda item: [item], rest: Iterable[Any] = ()) -> None:
        self.does, self.rest = does, rest
        self.met: list[Any] = []
        self.threads: list[str] = []
        self.fails_at = ""
        self.wait = LONG_S

    def _pass(self, place: str) -> None:
        self.threads.append(threading.current_thread().name)
        self.met.append(place)
        if place == self.fails_at:
            raise EngineError(f"failed at {place}")

    def __enter__(self) -> Self:
        self._pass("enter")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pass("exit")

    def wait_s(self) -> float:
        return self.wait

    def work(self, item: Any) -> Iterator[Any]:
        self._pass("idle" if item is None else str(item))
        yield from self.does(item)
        if self.fails_at == f"behind {item}":
            raise EngineError(f"failed behind {item}")

    def finish(self) -> Iterator[Any]:
        self._pass("finish")
        yield from self.rest


class Numbers(Plain):
    """A source of 0, 1, 2, ... (endless without `count`), until `stop` is set."""

    def __init__(self, count: int | None = None, stop: threading.Event | None = None) -> None:
        super().__init__()
        self.next, self.count, self.stop = 0, count, stop or threading.Event()

    @property
    def ended(self) -> bool:
        return self.stop.is_set() or self.next == self.count

    def work(self) -> Iterator[Any]:  # type: ignore[override]
        self._pass(str(self.next))
        self.next += 1
        yield self.next - 1


class Books:
    """What a worker notes of a stage."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.busy_s: list[float] = []

    def began(self, items: int = 1) -> None:
        self.calls.append(("began", items))

    def ended(self, items: int = 1, *, out: int | None = None, busy_s: float = 0.0) -> None:
        self.calls.append(("ended", items, out))
        self.busy_s.append(busy_s)


def filled(*items: Any, capacity: int = 100) -> Channel[Any]:
    """A channel that holds these items and whose writers have all closed."""
    channel: Channel[Any] = Channel(max(capacity, len(items)))
    for item in items:
        channel.put(item, 0)
    channel.close()
    return channel


def drained(channel: Channel[Any]) -> list[Any]:
    """Everything until the channel is closed."""
    items = []
    try:
        while (item := channel.get(PATIENCE_S)) is not None:
            items.append(item)
    except ChannelClosed:
        return items
    raise AssertionError(f"not closed behind {items}")


def run(*workers: Worker) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        assert worker.join(PATIENCE_S), f"{worker.name} did not end"


# ---------------------------------------------------------------- one worker


def test_items_pass_in_order_and_the_rest_comes_last() -> None:
    stage = Plain(lambda item: [item, item * 10] if item % 2 else [], rest=["rest"])
    outbox: Channel[Any] = Channel(100)
    worker = Worker("odd", stage, filled(1, 2, 3), outbox)
    run(worker)
    assert drained(outbox) == [1, 10, 3, 30, "rest"]
    assert stage.met == ["enter", "1", "2", "3", "finish", "exit"]
    assert set(stage.threads) == {"odd"}, "a stage lives in its own thread alone"
    assert worker.failure is None
    assert not worker.alive


def test_a_source_is_asked_until_it_has_ended() -> None:
    source, outbox = Numbers(3), Channel[Any](100)
    run(Worker("source", source, None, outbox))
    assert drained(outbox) == [0, 1, 2]
    assert source.met == ["enter", "0", "1", "2", "exit"]


def test_a_stage_without_an_outbox_swallows_what_it_gives() -> None:
    stage = Plain()
    worker = Worker("last", stage, filled(1, 2))
    run(worker)
    assert stage.met == ["enter", "1", "2", "finish", "exit"]
    assert worker.failure is None


def test_a_stage_is_asked_when_it_has_waited_as_long_as_it_wished() -> None:
    inbox: Channel[Any] = Channel(1)
    due = threading.Event()

    def work(item: Any) -> list[Any]:
        if item is None:
            inbox.close()
            due.set()
        return []

    stage = Plain(work)
    stage.wait = 0.0
    run(Worker("due", stage, inbox))
    assert due.is_set()
    assert stage.met[:2] == ["enter", "idle"]
    assert stage.met[-2:] == ["finish", "exit"]


def test_it_never_waits_long_without_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a stage wishes, the inbox is asked for WAIT_S at most."""
    asked: list[float] = []

    class Asked(Channel[Any]):
        def get(self, timeout_s: float) -> Any:
            asked.append(timeout_s)
            return super().get(0.0)

    monkeypatch.setattr(module, "WAIT_S", 0.125)
    inbox = Asked(1)
    inbox.close()
    run(Worker("patient", Plain(), inbox))
    assert asked == [0.125]


def test_the_books_hold_what_went_through() -> None:
    books, stage = Books(), Plain(lambda item: range(item), rest=["not", "booked"])
    run(Worker("booked", stage, filled(0, 3, 1), Channel(100), books))
    assert books.calls == [("began", 1), ("ended", 1, 0), ("began", 1), ("ended", 1, 3), ("began", 1), ("ended", 1, 1)]
    assert all(0 <= seconds < PATIENCE_S for seconds in books.busy_s)


def test_waiting_is_not_booked_and_a_source_books_what_it_gives() -> None:
    idle, inbox = Books(), Channel[Any](1)
    stage = Plain(lambda item: inbox.close() or [])  # type: ignore[func-returns-value]
    stage.wait = 0.0
    run(Worker("idle", stage, inbox, None, idle))
    assert idle.calls == []
    source = Books()
    run(Worker("source", Numbers(2), None, Channel(9), source))
    assert source.calls == [("began", 2), ("ended", 2, None)]


PLACES = ["enter", "2", "behind 2", "finish", "exit"]
GIVEN = {"enter": [], "2": [1], "behind 2": [1, 2], "finish": [1, 2, 3], "exit": [1, 2, 3, "rest"]}


@pytest.mark.parametrize("place", PLACES)
def test_a_stage_that_fails_lets_everybody_go(place: str) -> None:
    """The failure is kept, what was given is still to be had, the reader is told the end and writers are let go."""
    stage = Plain(rest=["rest"])
    stage.fails_at = place
    inbox, outbox = Channel[Any](9), Channel[Any](9)
    for item in (1, 2, 3):
        inbox.put(item, 0)
    if place in ("finish", "exit"):
        inbox.close()
    worker = Worker("broken", stage, inbox, outbox)
    run(worker)
    assert isinstance(worker.failure, EngineError)
    assert str(worker.failure) == (f"failed {place}" if place.startswith("behind") else f"failed at {place}")
    assert drained(outbox) == GIVEN[place]
    with pytest.raises(ChannelAbandoned):
        inbox.put(4, LONG_S)
    assert stage.met.count("exit") == (place != "enter")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, RuntimeError])
def test_no_error_dies_in_a_thread(error: type[BaseException]) -> None:
    def fail(_: Any) -> Iterable[Any]:
        raise error("of any kind")

    worker = Worker("broken", Plain(fail), filled(1), Channel(1))
    run(worker)
    assert type(worker.failure) is error


def test_a_source_that_fails_closes_its_outbox() -> None:
    source, outbox = Numbers(9), Channel[Any](9)
    source.fails_at = "2"
    worker = Worker("camera", source, None, outbox)
    run(worker)
    assert drained(outbox) == [0, 1]
    assert isinstance(worker.failure, EngineError)


def test_a_writer_whose_reader_has_gone_ends_quietly_and_lets_its_own_writers_go() -> None:
    inbox, outbox = Channel[Any](9), Channel[Any](9)
    inbox.put(1, 0)
    outbox.abandon()
    stage = Plain()
    worker = Worker("middle", stage, inbox, outbox)
    run(worker)
    assert worker.failure is None
    assert stage.met == ["enter", "1", "exit"]
    with pytest.raises(ChannelAbandoned):
        inbox.put(2, LONG_S)


def test_waiting_for_a_slow_reader_is_a_sign_of_life() -> None:
    refused = threading.Semaphore(0)

    class Full(Channel[Any]):
        """Takes nothing before `room` is set."""

        room = False

        def put(self, item: Any, timeout_s: float) -> bool:
            refused.release()
            return self.room and super().put(item, timeout_s)

    outbox = Full(1)
    worker = Worker("writer", Plain(), filled(1), outbox)
    born = worker.beat_ns
    worker.start()
    try:
        for _ in range(50):
            assert refused.acquire(timeout=PATIENCE_S)
        assert worker.beat_ns > born
        assert worker.failure is None
    finally:
        outbox.room = True
    assert worker.join(PATIENCE_S)
    assert drained(outbox) == [1]


@pytest.mark.parametrize("kind", ["source", "stage"])
def test_having_nothing_to_do_is_no_standstill(kind: str) -> None:
    """Each time that a stage is asked its worker has just shown that it is alive."""
    beats: list[int] = []
    stop, inbox = threading.Event(), Channel[Any](1)

    def note() -> None:
        beats.append(worker.beat_ns)
        worker.beat_ns = 0
        if len(beats) == 3:
            stop.set()
            inbox.close()

    class Quiet(Numbers):
        def work(self) -> Iterator[Any]:
            note()
            yield from ()

    stage = Plain(lambda _: note() or [])  # type: ignore[func-returns-value]
    stage.wait = 0.0
    worker = Worker("quiet", Quiet(None, stop)) if kind == "source" else Worker("quiet", stage, inbox)
    run(worker)
    assert len(beats) >= 3
    assert all(beats)


# ---------------------------------------------------------------- a crew


class Noted(Worker):
    """Notes when it was started."""

    order: list[str]

    def start(self) -> None:
        self.order.append(self.name)
        super().start()


def test_a_crew_starts_at_the_sinks_so_that_nothing_comes_before_it_can_be_taken() -> None:
    order: list[str] = []
    channels: list[Channel[Any]] = [Channel(1) for _ in range(3)]
    crew = Crew(
        [
            Noted("camera", Numbers(5), None, channels[0]),
            Noted("cascade", Plain(), channels[0], channels[1]),
            Noted("sink", Plain(), channels[1]),
        ],
        stop_sources=lambda: None,
    )
    for worker in crew.workers:
        assert isinstance(worker, Noted)
        worker.order = order
    crew.start()
    assert crew.join(PATIENCE_S) == []
    assert order == ["sink", "cascade", "camera"]


def line(
    *middle: Plain, count: int | None = None, when_full: WhenFull = WhenFull.WAIT
) -> tuple[Crew, Numbers, Plain, threading.Event]:
    """A source, these stages one behind the other, and a last one; small channels, so that writers block."""
    stop = threading.Event()
    source, last = Numbers(count, stop), Plain()
    stages: list[Any] = [source, *middle, last]
    channels: list[Channel[Any]] = [Channel(2, when_full) for _ in stages[1:]]
    workers = [
        Worker(f"stage-{index}", stage, inbox, outbox)
        for index, (stage, inbox, outbox) in enumerate(zip(stages, [None, *channels], [*channels, None], strict=True))
    ]
    return Crew(workers, stop.set), source, last, stop


def until_over(crew: Crew) -> None:
    """What the service does: look at `alive` until it is False; bounded."""
    for _ in range(300):
        if not crew.alive:
            return
        crew.join(0.1)
    raise AssertionError(f"still alive: {crew.join(0)}")


def test_the_end_of_the_strip_walks_down_the_line_and_loses_nothing() -> None:
    crew, _, last, stop = line(Plain(rest=["a"]), Plain(rest=["b"]), count=50)
    crew.start()
    until_over(crew)
    assert last.met == ["enter", *map(str, range(50)), "a", "b", "finish", "exit"]
    assert crew.failure is None
    assert not stop.is_set()


def test_a_stop_in_the_middle_drains_what_the_source_gave() -> None:
    crew, source, last, stop = line(middle := Plain())

    def stop_at_20(item: int) -> list[int]:
        if item == 20:
            stop.set()
        return [item]

    middle.does = stop_at_20
    crew.start()
    until_over(crew)
    assert last.met == ["enter", *map(str, range(source.next)), "finish", "exit"]
    assert source.next > 20
    assert crew.failure is None


@pytest.mark.parametrize("broken", [0, 1, 2])
@pytest.mark.parametrize("place", ["enter", "7", "behind 7"])
def test_a_failure_anywhere_ends_the_whole_line(broken: int, place: str) -> None:
    """An endless source, blocked writers on every channel: the failure climbs, and nobody is left."""
    middle = [Plain(), Plain(), Plain()]
    middle[broken].fails_at = place
    crew, _, last, stop = line(*middle)
    crew.start()
    until_over(crew)
    assert crew.failure is not None
    name, error = crew.failure
    assert name == f"stage-{broken + 1}"
    assert isinstance(error, EngineError)
    assert stop.is_set(), "the cameras were told to stop"
    passed = {"enter": 0, "7": 7, "behind 7": 8}[place]
    assert last.met == ["enter", *map(str, range(passed)), "finish", "exit"], "what passed before is not lost"
    assert [worker.failure for worker in crew.workers if worker.failure is not None] == [error]


def test_side_by_side_workers_share_the_items_and_close_the_outbox_together() -> None:
    items = list(range(200))
    inbox, outbox = filled(*items), Channel[Any](2, writers=3)
    sides = [Plain(rest=["rest"]) for _ in range(3)]
    last = Plain()
    crew = Crew(
        [*(Worker(f"s{n}", s, inbox, outbox) for n, s in enumerate(sides)), Worker("last", last, outbox)], lambda: None
    )
    crew.start()
    until_over(crew)
    got = last.met[1:-2]
    assert sorted(got) == sorted([*map(str, items), "rest", "rest", "rest"])


def test_one_of_several_side_by_side_that_fails_ends_the_others_too() -> None:
    stop = threading.Event()
    source, inbox, outbox = Numbers(None, stop), Channel[Any](2), Channel[Any](2, writers=3)
    sides, last = [Plain() for _ in range(3)], Plain()

    def fail(item: Any) -> list[Any]:
        if item >= 30:
            raise EngineError("a network failed")
        return [item]

    for side in sides:
        side.does = fail
    workers = [Worker("source", source, None, inbox), *(Worker(f"s{n}", s, inbox, outbox) for n, s in enumerate(sides))]
    crew = Crew([*workers, Worker("last", last, outbox)], stop.set)
    crew.start()
    until_over(crew)
    assert crew.failure is not None
    assert sorted(map(int, last.met[1:-2])) == list(range(30))


def test_the_failure_named_is_the_first_one_down_the_line() -> None:
    stages = [Plain(), Plain()]
    for stage in stages:
        stage.fails_at = "enter"
    crew, *_ = line(*stages)
    crew.start()
    until_over(crew)
    assert crew.failure is not None
    assert crew.failure[0] == "stage-1"


def test_a_stage_that_hangs_is_named_and_the_others_are_not() -> None:
    inside, let_go = threading.Event(), threading.Event()

    def hang(item: Any) -> list[Any]:
        inside.set()
        let_go.wait(PATIENCE_S)
        return [item]

    stuck, last = Plain(hang), Plain()
    inbox, outbox = Channel[Any](1), Channel[Any](1)
    crew = Crew([Worker("stuck", stuck, inbox, outbox), Worker("last", last, outbox)], lambda: None)
    crew.start()
    try:
        inbox.put(1, PATIENCE_S)
        inbox.close()
        assert inside.wait(PATIENCE_S)
        stuck_worker = crew.workers[0]
        stuck_worker.beat_ns -= 3600 * 10**9  # an hour ago; it cannot beat again before it is let go
        assert crew.stalled(1800.0) == ["stuck"]
        assert crew.stalled(7200.0) == []
        assert crew.join(0.0) == ["stuck", "last"]
        assert crew.alive
    finally:
        let_go.set()
        inbox.close()
    until_over(crew)
    assert crew.stalled(0.0) == [], "who has ended is not stalled"
    assert last.met == ["enter", "1", "finish", "exit"]
