"""capture.py: numbers that never repeat, losses booked once, and a camera that comes back without being hammered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.cameras import Link
from inspector.capture import BACK_OFF_S, READ_S, Capture
from inspector.channel import Channel
from inspector.errors import CameraError
from inspector.events import CameraTotals, Reason
from inspector.ledger import Ledger
from inspector.metrics import Metrics
from inspector.pool import Pool
from inspector.records import Frame, Loss
from inspector.worker import Worker

logging.getLogger("inspector.capture").setLevel(logging.CRITICAL)


class Clock:
    """Seconds that pass only when somebody waits."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stop(threading.Event):
    """Waiting for it moves the clock instead of sleeping."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "nobody waits without an end"
        if not self.is_set():
            self._clock.now += timeout
        return self.is_set()


def frame(sequence: int, piece: int = 0) -> Frame:
    return Frame("whatever", sequence, 0, 0, 0, np.zeros((1, 1), dtype=np.uint8), piece=piece)


def loss(sequence: int, count: int) -> Loss:
    return Loss("whatever", sequence, count, Reason.OVERRUN, "the reader was late")


REFUSED = "refused"
Step = Frame | Loss | CameraError | None
Life = list[Step] | str
"""What `read` answers from one opening on; or REFUSED, when the camera cannot be opened."""


@dataclass
class Script:
    """A camera that lives as it is told; when its last life is over the strip has ended."""

    lives: list[Life]
    clock: Clock
    ended: bool = False
    link: Link = field(default_factory=Link)
    steps: list[Step] = field(default_factory=list)
    is_open: bool = False
    tried: list[float] = field(default_factory=list)
    exits: int = 0
    exit_fails: bool = False

    def __enter__(self) -> Self:
        assert not self.is_open, "entered twice"
        self.tried.append(self.clock.now)
        life = self.lives.pop(0) if self.lives else []
        if isinstance(life, str):
            raise CameraError("the camera refuses")
        self.is_open, self.steps = True, list(life)
        self._look_whether_it_is_over()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.is_open, "exited without being open"
        self.is_open = False
        self.exits += 1
        if self.exit_fails:
            raise CameraError("the camera does not answer")

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        assert self.is_open, "read while closed"
        assert timeout_s <= READ_S, "a read must not outlast the watchdog"
        if self.ended:
            return None
        step = self.steps.pop(0)
        if step is None:
            self.clock.now += timeout_s
        if isinstance(step, CameraError):
            raise step
        self._look_whether_it_is_over()
        return step

    def _look_whether_it_is_over(self) -> None:
        self.ended = not self.steps and not self.lives


class Rig:
    """A capture stage around a scripted camera, driven to the end of the strip."""

    def __init__(self, *lives: Life, silent_s: float | None = None) -> None:
        self.clock = Clock()
        self.stop = Stop(self.clock)
        self.camera = Script(list(lives), self.clock)
        self.ledger = Ledger(["top"])
        self.metrics = Metrics(process=False)
        self.states: list[tuple[str, str, str]] = []
        self.frames: list[Frame] = []
        self.capture = Capture(
            "top",
            self.camera,
            Pool(1),
            self.ledger,
            self.stop,
            self.metrics.camera("top"),
            lambda *state: self.states.append(state),
            self.clock,
            silent_s,
        )

    def run(self, steps: int = 10_000) -> Self:
        with self.capture:
            for _ in range(steps):
                if self.capture.ended:
                    break
                self.frames += self.capture.work()
        assert not self.camera.is_open, "the camera is given back"
        return self

    @property
    def numbers(self) -> list[int]:
        return [one.sequence for one in self.frames]

    @property
    def books(self) -> CameraTotals:
        return self.ledger.totals()["top"]

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"inspector_{name}", {"camera": "top"})


# ---------------------------------------------------------------- laws


@dataclass
class Told:
    """A life, with what should be booked of it."""

    life: Life
    frames: int = 0
    overrun: int = 0
    missing: int = 0
    issued: int = 0
    dies: bool = False


@st.composite
def tales(draw: st.DrawFn) -> Told:
    """A life of frames, losses, skipped numbers and time-outs, that may end in a death."""
    if draw(st.integers(0, 4)) == 0:
        return Told(REFUSED)
    told, steps = Told([]), list[Step]()
    for kind in draw(st.lists(st.sampled_from(["frame", "frame", "frame", "loss", "skip", "none"]), max_size=8)):
        count = draw(st.integers(1, 5))
        if kind == "frame":
            steps.append(frame(told.issued))
            told.frames += 1
            told.issued += 1
        elif kind == "loss":
            steps.append(loss(told.issued, count))
            told.overrun += count
            told.issued += count
        elif kind == "skip":  # numbers vanish, and the next frame shows it
            told.missing += count
            told.issued += count
            steps.append(frame(told.issued))
            told.frames += 1
            told.issued += 1
        else:
            steps.append(None)
    told.dies = draw(st.booleans())
    told.life = [*steps, CameraError("the cable is out")] if told.dies else [*steps, None]
    return told


@settings(deadline=None, max_examples=120)
@given(st.lists(tales(), min_size=1, max_size=6))
def test_whatever_a_camera_goes_through_the_books_are_right(told: list[Told]) -> None:
    # A life ends in a death, but for the last one: the strip ends there.
    for one in told[:-1]:
        if isinstance(one.life, list) and not one.dies:
            one.life.append(CameraError("the cable is out"))
    rig = Rig(*(one.life for one in told)).run()
    assert rig.camera.ended
    # Numbers name one frame of the run each, in order, and every hole is a frame that was issued and lost.
    assert rig.numbers == sorted(set(rig.numbers))
    assert all(one.camera == "top" for one in rig.frames)
    lost = {"overrun": sum(one.overrun for one in told), "missing": sum(one.missing for one in told)}
    frames, issued = sum(one.frames for one in told), sum(one.issued for one in told)
    assert rig.books == CameraTotals(issued=issued, inspected=0, lost={k: v for k, v in lost.items() if v})
    assert len(rig.frames) == frames == rig.metric("frames_captured_total")
    holes = sorted(set(range(issued)) - set(rig.numbers))
    told_of = [entry for first, last in _ranges(holes) for entry in rig.ledger.take_losses("top", first, last + 1)]
    assert [n for entry in told_of for n in range(entry.sequence, entry.sequence + entry.count)] == holes
    assert rig.books.lost == {k: v for k, v in lost.items() if v}, "every hole had been booked before it was met"
    # A state is told when it changes, and only then.
    words = [state for _, state, _ in rig.states]
    assert all(a != b for a, b in pairwise(words))
    # The camera is left alone for a second between two attempts, and given back as often as it was had.
    waits = [b - a for a, b in pairwise(rig.camera.tried)]
    assert all(wait >= BACK_OFF_S for wait in waits)
    opened = len(rig.camera.tried) - sum(one.life == REFUSED for one in told)
    assert rig.camera.exits == opened


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_pieces_of_strip_never_run_on_over_a_reopened_camera(lives: list[int]) -> None:
    scripts: list[Life] = [[*(frame(n, piece=n // 2) for n in range(count)), CameraError("dead")] for count in lives]
    rig = Rig(*scripts).run(500)
    pieces = [one.piece for one in rig.frames]
    expected = [(life, n // 2) for life, count in enumerate(lives) for n in range(count)]
    assert len(set(pieces)) == len(set(expected))
    assert [pieces.index(piece) for piece in pieces] == [expected.index(piece) for piece in expected]


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """(first, last) of each run of whole numbers."""
    starts = [n for n in numbers if n - 1 not in numbers]
    return list(zip(starts, [n for n in numbers if n + 1 not in numbers], strict=True))


# ---------------------------------------------------------------- one by one


def test_the_count_is_carried_on_when_the_camera_begins_again() -> None:
    rig = Rig([frame(0), frame(1), CameraError("dead")], [frame(0), loss(1, 3), frame(4)]).run()
    assert rig.numbers == [0, 1, 2, 6]
    assert rig.books == CameraTotals(issued=7, inspected=0, lost={"overrun": 3})
    assert [(one.sequence, one.count) for one in rig.ledger.take_losses("top", 3, 6)] == [(3, 3)]


def test_a_loss_is_booked_under_its_number_in_the_run_and_the_cameras_name() -> None:
    rig = Rig([frame(0), loss(1, 2), CameraError("dead")], [loss(0, 4), frame(4)]).run()
    found = rig.ledger.take_losses("top", 1, 7)
    assert found == [Loss("top", 1, 6, Reason.OVERRUN, "the reader was late")]
    assert rig.numbers == [0, 7]
    assert rig.books.lost == {"overrun": 6}


def test_numbers_that_the_camera_skips_are_booked_at_once() -> None:
    rig = Rig([frame(0), frame(4), frame(5)]).run()
    assert rig.numbers == [0, 4, 5]
    assert rig.books == CameraTotals(issued=6, inspected=0, lost={"missing": 3})


def test_a_state_is_said_once_a_change_with_the_first_reason() -> None:
    dead = CameraError("the cable is out")
    rig = Rig(REFUSED, REFUSED, [frame(0), dead], REFUSED, [frame(0)]).run()
    assert rig.states == [
        ("top", "down", "the camera refuses"),
        ("top", "up", ""),
        ("top", "down", "the cable is out"),
        ("top", "up", ""),
    ]
    assert rig.metric("camera_up") == 1
    assert rig.metric("camera_reopens_total") == 2


def test_a_camera_that_stays_down_for_another_reason_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig([frame(0), CameraError("the cable is out")], *[REFUSED] * 50)
    with caplog.at_level(logging.WARNING, logger="inspector.capture"):
        for _ in range(40):
            list(rig.capture.work())
    assert rig.capture.trouble == "the camera refuses"
    assert [record.getMessage() for record in caplog.records] == [
        "camera top is down: the cable is out; trying again every 1 s",
        "camera top is still down: the camera refuses",
    ]
    assert [state for _, state, _ in rig.states] == ["up", "down"]


def test_why_a_camera_is_down_does_not_say_its_name_twice(caplog: pytest.LogCaptureFixture) -> None:
    other = CameraError("camera top2: is in the way")
    rig = Rig([CameraError("camera top: the cable is out")], [other], [frame(0)])
    with caplog.at_level(logging.WARNING, logger="inspector.capture"):
        rig.run()
    assert [detail for _, state, detail in rig.states if state == "down"] == [
        "the cable is out",
        "camera top2: is in the way",
    ]
    assert caplog.records[0].getMessage() == "camera top is down: the cable is out; trying again every 1 s"


def test_the_log_has_one_line_a_second_of_what_the_line_dropped(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig([None] * 7)  # 7 x READ_S
    with caplog.at_level(logging.WARNING, logger="inspector.capture"):
        for _ in range(6):
            rig.capture.dropped()
            list(rig.capture.work())
        rig.capture.dropped()
        rig.run()
    assert [record.getMessage() for record in caplog.records] == [
        f"camera top: the line is behind; frames dropped since the last such line: {count}" for count in (1, 4, 2)
    ]


def test_the_log_has_one_line_a_second_of_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    many: list[Step] = [step for n in range(0, 12, 2) for step in (frame(n), loss(n + 1, 1))]
    quiet: list[Step] = [None] * 5  # 5 x READ_S
    rig = Rig([*many, *quiet, frame(12), loss(13, 4)])
    with caplog.at_level(logging.WARNING, logger="inspector.capture"):
        rig.run()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "camera top lost frames: 1 overrun; the reader was late",
        "camera top lost frames: 5 overrun; since the last such line",
        "camera top lost frames: 4 overrun; since the last such line",
    ]


def test_the_first_opening_is_no_reopening() -> None:
    rig = Rig([frame(0)]).run()
    assert rig.states == [("top", "up", "")]
    assert rig.metric("camera_reopens_total") == 0


def test_a_camera_that_dies_at_once_is_tried_once_a_second() -> None:
    dies: Life = [CameraError("dead")]
    rig = Rig(dies, dies, dies, *[REFUSED] * 3, [frame(0)]).run()
    gaps = [round(b - a, 6) for a, b in pairwise(rig.camera.tried)]
    assert gaps == [BACK_OFF_S] * 6


def test_a_camera_that_cannot_even_be_let_go_is_opened_again() -> None:
    rig = Rig([frame(0), CameraError("dead")], [frame(0)])
    rig.camera.exit_fails = True
    frames: list[Frame] = []
    for _ in range(50):
        if rig.capture.ended:
            break
        frames += rig.capture.work()
    assert [one.sequence for one in frames] == [0, 1]
    assert [state for _, state, _ in rig.states] == ["up", "down", "up"]


@pytest.mark.parametrize("ahead", ["frame", "refusal"])
def test_a_stop_ends_it_at_the_next_look(ahead: str) -> None:
    rig = Rig([frame(0), frame(1)] if ahead == "frame" else REFUSED, [frame(0)])
    with rig.capture:
        assert not rig.capture.ended
        list(rig.capture.work())
        rig.stop.set()
        before = rig.clock.now
        assert rig.capture.ended
        list(rig.capture.work())  # even if it were asked once more
        assert rig.clock.now == before
    assert not rig.camera.is_open


def test_no_call_outlasts_the_look_round() -> None:
    """What a worker is promised of a source: half a second at most, to try a dead camera again and to read it."""
    rig = Rig([None, None, CameraError("dead")], REFUSED, [None, frame(0)])
    with rig.capture:
        for _ in range(100):
            if rig.capture.ended:
                break
            before = rig.clock.now
            list(rig.capture.work())
            assert rig.clock.now - before <= 2 * READ_S <= 0.5
    assert rig.books.issued == 1


def test_an_ended_strip_is_the_end_even_if_it_held_nothing() -> None:
    rig = Rig([]).run()
    assert rig.frames == []
    assert rig.books == CameraTotals(issued=0, inspected=0, lost={})


def test_another_error_is_not_the_cameras_and_climbs() -> None:
    class Broken(Script):
        def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
            raise ZeroDivisionError("a fault in the adapter")

    rig = Rig()
    rig.capture._camera = Broken([[frame(0)]], rig.clock)
    with pytest.raises(ZeroDivisionError), rig.capture:
        list(rig.capture.work())


def test_a_worker_drives_it_and_every_frame_is_in_the_channel_or_in_the_books() -> None:
    script: list[Life] = [[frame(0), loss(1, 2), frame(3), CameraError("dead")], REFUSED, [frame(0), frame(2)]]
    rig = Rig(*script)
    outbox: Channel[Frame] = Channel(100)
    worker = Worker("capture-top", rig.capture, None, outbox, rig.metrics.stage("capture"))
    worker.start()
    assert worker.join(30.0)
    assert worker.failure is None
    numbers = [one.sequence for one in _all(outbox.get)]
    assert numbers == [0, 3, 4, 6]
    assert rig.books.issued == 7 == len(numbers) + sum(rig.books.lost.values())
    assert rig.metrics.registry.get_sample_value("inspector_stage_out_total", {"stage": "capture"}) == 4


def _all(get: Callable[[float], Frame | None]) -> list[Frame]:
    found = []
    for _ in range(4):
        one = get(0.0)
        assert one is not None
        found.append(one)
    return found


def test_a_camera_that_cannot_be_closed_does_not_spoil_the_end() -> None:
    rig = Rig([frame(0), frame(1)])
    rig.camera.exit_fails = True
    assert rig.run().numbers == [0, 1]
    assert rig.camera.exits == 1


@pytest.mark.parametrize(("silent_s", "opened"), [(None, 1), (100.0, 1), (1.0, 2)])
def test_a_silent_camera_is_opened_again_only_where_that_is_asked_for(silent_s: float | None, opened: int) -> None:
    silence: list[Step] = [None] * 8  # 8 x READ_S
    lives: list[Life] = [[frame(0), *silence, frame(1)], [frame(0)]]
    rig = Rig(*lives[:opened], silent_s=silent_s).run()
    assert len(rig.camera.tried) == opened
    assert rig.numbers == [0, 1]
    downs = [state for state in rig.states if state[1] == "down"]
    assert len(downs) == opened - 1
    assert all("silent_s" in state[2] for state in downs)
