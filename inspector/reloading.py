"""SIGHUP: the YAML is read again, and what of it a running line can take over is taken over.

That is another pack (see packs/), and the bounds under which packs are tried. Whatever else was changed is named and
waits for a restart. A file that is broken changes nothing. All that is read may lie on a disk that is slow or hangs,
so it has a thread of its own that no watchdog waits for.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from inspector.checking import check
from inspector.config import Config
from inspector.errors import ConfigError, TelegramError
from inspector.logbook import LogKind, as_kind
from inspector.metrics import Outcome
from inspector.pipeline import Line, load

TAKEN_OVER = ("pack", "packs")
TICK_S = 0.2
"""How often the thread looks whether the line ends."""

log = logging.getLogger(__name__)


class Reload:
    """What SIGHUP asks for.

    Args:
        path: the YAML that the line was made of.
        line: the running line.
        wanted: set when somebody asks.
        around: entered around each reading.
    """

    def __init__(
        self,
        path: Path,
        line: Line,
        wanted: threading.Event,
        around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._path = path
        self._line = line
        self._wanted = wanted
        self._around = around

    def serve(self, stop: threading.Event) -> None:
        """Read it again whenever somebody asks, until `stop` is set; a line that drains takes over nothing any more."""
        while not stop.is_set():
            if not self._wanted.wait(TICK_S):
                continue
            self._wanted.clear()
            if not self._line.stop.is_set():
                with self._around():
                    self.now()

    def now(self) -> None:
        """Read it again. Whatever is wrong is logged, told and counted, and the line runs on as it was."""
        try:
            config = load(self._path)
            check(config, running=True)
            waiting = needing_restart(self._line.config, config)
            change = self._line.changes.reload(config.packs, config.pack)
        except (ConfigError, TelegramError) as error:
            log.error(
                "reload: %s; the line runs on as it was", error, extra=as_kind(LogKind.RELOAD_REFUSED, reason=error)
            )
            self._tell(Outcome.REFUSED, str(error))
            return
        if waiting:
            log.warning(
                "reload: changed, and in force only after a restart: %s",
                ", ".join(waiting),
                extra=as_kind(LogKind.RELOAD_WAITS),
            )
        log.info("reload: %s", f"{change} is tried" if change else "the pack is the same")
        parts = [f"{change} is tried" if change else "", f"needs a restart: {', '.join(waiting)}" if waiting else ""]
        self._tell(Outcome.OK, "; ".join(part for part in parts if part) or "nothing has changed")

    def _tell(self, outcome: Outcome, detail: str) -> None:
        self._line.metrics.reloads.labels(outcome).inc()
        state = "reloaded" if outcome is Outcome.OK else "refused"
        self._line.publish.say("configuration", state, detail)


def needing_restart(running: Config, wanted: Config) -> list[str]:
    """The keys that differ and that a running line cannot take over, as `section.key`."""
    found = [key for key in _differing(running, wanted, "") if key.partition(".")[0] not in TAKEN_OVER]
    if running.packs_folder != wanted.packs_folder:
        found.append("packs.folder")
    return found


def _differing(one: Any, other: Any, where: str) -> Iterator[str]:
    if one == other:
        return
    if isinstance(one, msgspec.Struct) and type(one) is type(other):
        for name in one.__struct_fields__:
            yield from _differing(getattr(one, name), getattr(other, name), f"{where}.{name}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (each, its) in enumerate(zip(one, other, strict=True)):
            yield from _differing(each, its, f"{where}[{index}]")
    else:
        yield where
