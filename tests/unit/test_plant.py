"""plant.py: what telegrams do to the line, and that a start takes up what earlier runs were told."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from inspector.coils import CoilMap
from inspector.control import CoilSpan, StateAnswer
from inspector.errors import TelegramError
from inspector.events import NO_COIL, JournalMark
from inspector.journal import Telegram
from inspector.plant import END, FORGET, START, Plant, restore

STATE = StateAnswer(
    state="running",
    coil="C1",
    status="well",
    reasons=[],
    epoch=1,
    source="/inspector/hot",
    cameras={},
    high_water={},
    undelivered={},
    journal=JournalMark(id="j", last=0, retired=0),
)


class Rig:
    """A plant on a line that has come to count 1000."""

    def __init__(self, durable: bool = True, newest: int | None = 1200) -> None:
        self.told: list[Telegram] = []
        self.stood: list[int] = []
        self.coils = CoilMap("C1")
        self.coils.begin(0)
        self.coils.reach(1000)
        self._durable = durable
        self.newest = newest
        self.plant = Plant(self.coils, self._tell, lambda: self.newest, self._stand, lambda: STATE, 0.5, patience_s=0.0)

    def _tell(self, telegram: Telegram) -> threading.Event:
        self.told.append(telegram)
        durable = threading.Event()
        if self._durable:
            durable.set()
        return durable

    def _stand(self, upto: int) -> None:
        self.stood.append(upto)


def asked(rig: Rig) -> list[tuple[str, str, str, int]]:
    return [(t.sender, t.ask, t.coil, t.encoder_count) for t in rig.told]


def test_an_early_start_is_kept_and_says_how_far_the_head_is() -> None:
    rig = Rig()
    told = rig.plant.coil_start("C2", 1400, "level2")
    assert (told.coil, told.encoder_count, told.previous, told.when, told.distance_mm, told.repeated) == (
        "C2",
        1400,
        "C1",
        "early",
        200.0,
        False,
    )
    assert asked(rig) == [("level2", START, "C2", 1400)]


def test_a_late_start_says_how_much_was_reported_under_the_coil_before() -> None:
    told = Rig().plant.coil_start("C2", 700, "level2")
    assert (told.when, told.distance_mm) == ("late", 150.0)


def test_without_a_count_it_is_the_newest_frame() -> None:
    rig = Rig()
    assert rig.plant.coil_start("C2", None, "level2").encoder_count == 1200
    rig.newest = 1300
    again = rig.plant.coil_start("C2", None, "level2")
    assert (again.encoder_count, again.repeated) == (1200, True)
    assert rig.plant.coil_end(None, None, "level2").encoder_count == 1300
    rig.newest = 1400
    again = rig.plant.coil_end("C2", None, "level2")
    assert (again.coil, again.encoder_count, again.repeated) == ("C2", 1300, True)


def test_without_a_count_and_a_frame_it_is_refused() -> None:
    with pytest.raises(TelegramError, match="name the encoder_count"):
        Rig(newest=None).plant.coil_start("C2", None, "level2")


def test_a_telegram_that_is_not_durable_is_not_answered_with_ok() -> None:
    rig = Rig(durable=False)
    with pytest.raises(TelegramError, match="not yet in the journal"):
        rig.plant.coil_start("C2", 1400, "level2")
    assert rig.coils.at(1400).name == "C2"
    with pytest.raises(TelegramError):
        rig.plant.coil_start("C2", 1400, "level2")
    assert len(rig.told) == 2, "a repeated telegram is kept again, as the first may have been lost"


def test_what_is_refused_is_not_kept() -> None:
    rig = Rig()
    rig.plant.coil_start("C2", 900, "level2")
    with pytest.raises(TelegramError):
        rig.plant.coil_start("C3", 800, "level2")
    with pytest.raises(TelegramError):
        rig.plant.coil_end("C9", 1500, "level2")
    assert len(rig.told) == 1


def test_the_coils_that_are_known_are_shown_with_their_tails() -> None:
    rig = Rig()
    rig.plant.coil_end("C1", 1100, "level2")
    rig.plant.coil_start("C2", 1300, "level2")
    shown = rig.plant.coils()
    assert (shown.coil, shown.encoder_count) == ("C1", 1000)
    assert shown.coils == [
        CoilSpan(coil="C1", head_count=0, end_count=1100),
        CoilSpan(coil=NO_COIL, head_count=1100, end_count=1300),
        CoilSpan(coil="C2", head_count=1300, end_count=None),
    ]


def test_line_stop_and_state_reach_the_line() -> None:
    rig = Rig()
    rig.plant.line_stop("level2")
    assert rig.stood == [1200]
    assert rig.plant.state() is STATE


def telegrams(*told: tuple[str, str, int]) -> Sequence[Telegram]:
    return [Telegram(index, "level2", ask, coil, count) for index, (ask, coil, count) in enumerate(told)]


def test_a_start_takes_up_what_earlier_runs_were_told() -> None:
    coils = CoilMap()
    restore(coils, telegrams((START, "C1", 0), (START, "C3", 900), (END, "C1", 400), (START, "C2", 500)))
    assert [coils.at(count).name for count in (10, 450, 600, 1000)] == ["C1", NO_COIL, "C2", "C3"]


def test_what_was_told_before_the_encoder_counted_anew_is_forgotten() -> None:
    coils = CoilMap()
    restore(coils, telegrams((START, "C1", 0), (FORGET, "", 0), (START, "C2", 500)))
    assert [coils.at(count).name for count in (10, 600)] == [NO_COIL, "C2"]


def test_an_end_whose_start_is_too_long_ago_does_not_keep_the_daemon_from_starting() -> None:
    coils = CoilMap()
    restore(coils, telegrams((END, "C1", 400), (START, "C2", 500), (END, "C2", 700)))
    assert [coils.at(count).name for count in (399, 450, 600, 800)] == [NO_COIL, NO_COIL, "C2", NO_COIL]
