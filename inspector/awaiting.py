"""Engines that are not there yet: others serve until they can be opened, then they take over at a batch.

A runtime that may begin on another one has `stand_in(options, pack)` in its module: what serves meanwhile, or None.
`missing()` of the runtime that is waited for says, in words, why it cannot be opened yet.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from inspector import adapters
from inspector.config import RuntimeConfig
from inspector.engines import Duty, Engines
from inspector.errors import InspectorError
from inspector.logbook import LogKind, as_kind
from inspector.pack import Pack

LOOK_S = 1.0
"""Between two looks whether the engines can be opened."""
TRIAL_S = 10.0
"""So long those that stood in come back by themselves when a network of the new ones fails."""

log = logging.getLogger(__name__)


def begin(pack: Pack, section: RuntimeConfig) -> tuple[Engines, Engines | None]:
    """(the engines that a line begins with, those that take over when they can be opened or None); none is entered.

    Raises:
        ConfigError: there is no such runtime, or an option of it is wrong.
    """
    wanted = Engines.of(pack, section)
    adapter = adapters.module("runtimes", section.kind, "runtime")
    stand_in = vars(adapter).get("stand_in")
    first = stand_in(adapters.options(adapter, section.options, "runtime.options"), pack) if stand_in else None
    return (wanted, None) if first is None else (Engines(pack, first), wanted)


class Awaiting:
    """Brings the wanted engines on duty; `serve` is for a thread of its own, and ends when that is done.

    Args:
        duty: what the cascade workers use: the engines that stand in, for now.
        wanted: not entered yet.
        engaged: told of the engines that have come on duty.
    """

    def __init__(self, duty: Duty, wanted: Engines, engaged: Callable[[Engines], None]) -> None:
        self._duty = duty
        self._first = duty.current
        self._wanted = wanted
        self._engaged = engaged
        self._said = ""

    def serve(self, stop: threading.Event) -> None:
        """Until the wanted engines are on duty, another pack has taken over for good, or `stop` is set. While a change
        of the pack is under way they wait: it may come to nothing."""
        while not stop.wait(LOOK_S):
            if not self._duty.changing.acquire(blocking=False):
                continue
            try:
                if self._duty.current is not self._first:
                    return
                if self._openable() and self._opened():
                    self._take_over(stop)
                    return
            finally:
                self._duty.changing.release()

    def _openable(self) -> bool:
        try:
            missing: str = self._wanted.runtime.missing()  # type: ignore[attr-defined]
        except Exception as error:  # the driver went away, say
            self._excuse(error)
            return False
        if missing:
            self._say(missing)
        return not missing

    def _opened(self) -> bool:
        """Loaded and warm, which may take a GPU half a minute. Whatever goes wrong, the line goes on as it is."""
        try:
            self._wanted.__enter__()
        except Exception as error:
            self._excuse(error)
            return False
        return True

    def _excuse(self, error: Exception) -> None:
        """A bug, ours or a runtime's, must not take along those that serve."""
        if isinstance(error, InspectorError):
            self._say(str(error))
            return
        log.exception("the engines cannot be opened", extra=as_kind(LogKind.ENGINES_FAILED, reason=error))
        self._say(f"{type(error).__name__}: {error}")

    def _take_over(self, stop: threading.Event) -> None:
        first, wanted = self._first, self._wanted
        since = self._duty.replace(first, wanted)
        if since is None:  # another pack has taken over meanwhile
            wanted.__exit__(None, None, None)
            return
        self._engaged(wanted)
        log.info("%s took over from %s at batch %d", wanted.runtime.name, first.runtime.name, since)
        for _ in range(round(TRIAL_S / LOOK_S)):
            if stop.wait(LOOK_S) or self._duty.current is not wanted:
                break
        if self._duty.current is wanted and self._duty.passed(wanted):
            if self._duty.retire(first, stop):
                first.__exit__(None, None, None)
        elif self._duty.current is first:
            self._engaged(first)
            failure = self._duty.failure and self._duty.failure[1]
            log.error(
                "%s is on duty again: %s",
                first.runtime.name,
                failure,
                extra=as_kind(LogKind.ENGINES_FAILED, reason=failure),
            )
            if self._duty.retire(wanted, stop):
                wanted.__exit__(None, None, None)

    def _say(self, why: str) -> None:
        """Once for each reason."""
        if why != self._said:
            self._said = why
            name = self._first.runtime.name
            log.warning("%s serves meanwhile: %s", name, why, extra=as_kind(LogKind.ENGINES_WAIT, reason=why))
