"""What the plant's telegrams do to the line: coils begin and end, the strip stands. The control socket's other side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from inspector.coils import END, FORGET, START, CoilMap, Told
from inspector.control import CoilAnswer, CoilsAnswer, CoilSpan, StateAnswer
from inspector.errors import TelegramError
from inspector.events import NO_COIL
from inspector.journal import Telegram

PATIENCE_S = 5.0
"""How long an answer waits for the journal."""


class Plant:
    """Called by the control socket's thread. A telegram is in force at once and answered when it is durable.

    Args:
        coils: the line's.
        tell: hands a telegram to the journal; what it returns is set when it is durable.
        newest: the newest encoder count that a camera has delivered; None before the first.
        stand: tells grading that the strip stands, delivered up to that count.
        state: how the line is.
        mm_per_count: strip travel in one count, mm.
    """

    def __init__(
        self,
        coils: CoilMap,
        tell: Callable[[Telegram], threading.Event],
        newest: Callable[[], int | None],
        stand: Callable[[int], None],
        state: Callable[[], StateAnswer],
        mm_per_count: float,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._coils = coils
        self._tell = tell
        self._newest = newest
        self._stand = stand
        self._state = state
        self._mm_per_count = mm_per_count
        self._patience_s = patience_s

    def coil_start(self, coil: str, encoder_count: int | None, sender: str) -> CoilAnswer:
        """A coil's head lies at a count; None: at the newest one.

        Raises:
            TelegramError: it cannot be true, comes too late, or is not durable yet.
        """
        count = self._count(encoder_count)
        if encoder_count is None and self._coils.at(count).name == coil:
            count = self._coils.at(count).head_count  # repeated: it has gone on since
        return self._keep(START, coil, count, self._coils.start(coil, count), sender)

    def coil_end(self, coil: str | None, encoder_count: int | None, sender: str) -> CoilAnswer:
        """A coil's tail lies at a count; None: at the newest one. Raises as `coil_start`."""
        count = self._count(encoder_count)
        if encoder_count is None and self._coils.at(count).name == NO_COIL:
            count = self._coils.at(count).head_count  # repeated: the strip has gone on since
        return self._keep(END, coil, count, self._coils.end(count, coil), sender)

    def coils(self) -> CoilsAnswer:
        """The coils known, the oldest first."""
        known = self._coils.known()
        tails = [following.head_count for following in known[1:]]
        spans = [
            CoilSpan(coil=coil.name, head_count=coil.head_count, end_count=tail)
            for coil, tail in zip(known, [*tails, None], strict=False)
        ]
        return CoilsAnswer(coil=self._coils.now().name, encoder_count=self._coils.graded, coils=spans)

    def line_stop(self, sender: str) -> None:
        """The strip stands: what waits for its continuation is told as soon as all that was delivered is graded.

        Raises:
            TelegramError: no camera has delivered a frame yet.
        """
        self._stand(self._count(None))

    def state(self) -> StateAnswer:
        """How the line is."""
        return self._state()

    def _count(self, encoder_count: int | None) -> int:
        count = self._newest() if encoder_count is None else encoder_count
        if count is None:
            raise TelegramError("no camera has delivered a frame yet: name the encoder_count")
        return count

    def _keep(self, ask: str, coil: str | None, count: int, told: Told, sender: str) -> CoilAnswer:
        """A repeated telegram is kept once more: whoever repeats it may do so as the first one was not durable."""
        durable = self._tell(Telegram(time.time_ns(), sender, ask, coil or "", count))
        if not durable.wait(self._patience_s):
            raise TelegramError("it is in force, but not yet in the journal, so a restart may lose it: repeat it")
        return CoilAnswer(
            coil=told.coil.name if ask == START else told.previous,
            encoder_count=count,
            previous=told.previous,
            when="late" if told.ahead < 0 else "early",
            distance_mm=round(abs(told.ahead) * self._mm_per_count, 3),
            repeated=told.repeated,
        )


def restore(coils: CoilMap, telegrams: Sequence[Telegram]) -> None:
    """Tell a new line what the plant told earlier runs, in the order in which it came.

    The end of a coil that is no longer known, as its start is too long ago, changes nothing: no coil lies there.
    """
    begun = max((i + 1 for i, telegram in enumerate(telegrams) if telegram.ask == FORGET), default=0)
    for telegram in telegrams[begun:]:
        if telegram.ask == START:
            coils.start(telegram.coil, telegram.encoder_count)
        elif telegram.ask == END:
            with suppress(TelegramError):
                coils.end(telegram.encoder_count)
