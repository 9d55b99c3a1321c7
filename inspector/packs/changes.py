"""The thread that brings another pack on duty, and takes it off again.

    loading   verified, loaded and warmed beside the old one
    shadow    judges frames that the line has judged; nothing of it is reported
    watch     on duty; the old pack judges some of the same frames and can come back at once
    idle      nothing is going on

A change ends as `kept`, `refused` (it never was on duty), `rolled_back` or `cancelled`. Whatever goes wrong with a new
pack, the line runs on with the old one: an error here is told, and never ends the daemon.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from inspector import pack
from inspector.config import Config, PacksConfig
from inspector.control import PacksAnswer, PackShown
from inspector.engines import Duty, Engines
from inspector.errors import InspectorError, PackError, TelegramError
from inspector.events import short_digest
from inspector.logbook import LogKind, as_kind
from inspector.metrics import Metrics, PackOutcome, PackPhase
from inspector.pack import Pack
from inspector.packs.begin import MISSING, Begun
from inspector.packs.comparing import Comparison
from inspector.packs.sampling import Album, Sampler
from inspector.packs.store import Store
from inspector.packs.trial import TICK_S, Back, Cancelled, Change, Line, Stopping, Trial, Wish
from inspector.records import Batch, Verdicts

NICE = 10
"""The thread gives way to those of the line, so that loading a pack takes only the time that they leave."""

log = logging.getLogger(__name__)


class Changes:
    """The packs of a line; `serve` is for one thread, `tap` for the cascade workers, the rest for any.

    Args:
        config: the line's.
        duty: what its cascade workers use.
        store: packs on disk.
        begun: what the line was started with.
        line: the line.
        metrics: the line's.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: Config,
        duty: Duty,
        store: Store,
        begun: Begun,
        line: Line,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._bounds = config.packs
        self._duty = duty
        self._store = store
        self._said = begun.said
        self._memory = memory = begun.memory
        self._line = line
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._wish: Wish | None = None
        self._cancelled = ""
        self._phase = PackPhase.IDLE
        self._now: Change | None = None
        self._last = ""
        self._trial: Trial | None = None
        self._folder = Path(memory.on_duty or memory.base)
        """Of the pack on duty."""

    # ------------------------------------------------------------ what others ask

    def tap(self, batch: Batch, verdicts: Verdicts) -> None:
        """See what a cascade worker has judged."""
        sampler = self._sampler
        if sampler is not None:
            sampler.offer(batch, verdicts)

    @property
    def _sampler(self) -> Sampler | None:
        trial = self._trial
        return None if trial is None else trial.sampler

    def stage(self, name: str, sender: str) -> PacksAnswer:
        """A staged pack is wanted on duty; it is tried from now on.

        Raises:
            TelegramError: there is no such pack, or another change is under way.
        """
        try:
            folder = self._store.named(name)
        except PackError as error:
            raise TelegramError(str(error)) from None
        self._want(Wish(folder, sender))
        return self.status()

    def cancel(self, sender: str) -> PacksAnswer:
        """The change under way ends, and the old pack stays or comes back.

        Raises:
            TelegramError: nothing is under way.
        """
        with self._lock:
            if self._phase is PackPhase.IDLE:
                raise TelegramError("no change of the pack is under way: `inspector packs status` says what is on duty")
            self._cancelled = sender
            self._wake.set()
        return self.status()

    def rollback(self, sender: str) -> PacksAnswer:
        """The pack that was on duty before comes back, without shadow and watch.

        Raises:
            TelegramError: there is none, or a change is under way that has not taken over yet.
        """
        if self._phase is PackPhase.WATCH:
            return self.cancel(sender)
        previous = self._memory.previous
        if previous is None:
            raise TelegramError("no pack was on duty before this one that the line knows of: stage the one you want")
        self._want(Wish(Path(previous), sender, at_once=True, digest=self._memory.previous_digest))
        return self.status()

    def reload(self, packs: PacksConfig, base: Path) -> str | None:
        """The YAML was read again. What was staged, or another pack at `pack:`, is tried from now on; returns what.

        Raises:
            PackError: the pack is not whole.
            TelegramError: another change is under way.
        """
        self._bounds = packs
        try:
            staged = self._store.marked()
        except PackError:
            self._store.unmark()  # or no reload would ever come to anything else
            raise
        if staged is not None:
            self._want(Wish(staged, "SIGHUP"))
            return f"the staged pack {staged.name}"
        path = os.path.abspath(base)
        digest = pack.load(base).digest
        if (path, digest) == (self._memory.base, self._memory.base_digest):
            return None
        self._want(Wish(Path(path), "SIGHUP", base=True))
        return f"the pack in {path}"

    def status(self) -> PacksAnswer:
        """What is on duty and what is going on."""
        change, duty = self._now, self._duty.current
        compared = change.compared[-1][1] if change is not None and change.compared else Comparison()
        sampler = self._sampler
        return PacksAnswer(
            phase=PackPhase.LOADING if self._wish is not None else self._phase,
            on_duty=_shown(duty.pack),
            folder=str(self._folder),
            previous=self._memory.previous,
            candidate=None if change is None or change.new is None else _shown(change.new.pack),
            compared=compared.frames,
            wanted=0 if change is None else change.wanted,
            skipped=0 if change is None else change.skipped + (0 if sampler is None else sampler.skipped),
            seen=compared.words() if compared.frames else "",
            last=self._last,
        )

    def _want(self, wish: Wish) -> None:
        with self._lock:
            if self._wish is not None or self._phase is not PackPhase.IDLE:
                named = self._wish.folder.name if self._wish else self._now.named if self._now else "another pack"
                raise TelegramError(
                    f"the change to {named} is under way ({self._phase}): wait for its end, or `inspector packs cancel`"
                )
            self._wish = wish
            self._wake.set()

    # ------------------------------------------------------------ the thread

    def open(self) -> None:
        """What there is to say of the start is said; what was staged before it is taken up."""
        for state, detail in self._said:
            if state == MISSING:
                log.error("pack: %s", detail, extra=as_kind(LogKind.PACK_NOT_AS_BEFORE, state=state, reason=detail))
                self._line.tell(state, detail)
            else:
                self._say(state, detail, warn=True)
        if self._said:
            self._remember(None)
        try:
            staged = self._store.marked()
        except PackError as error:
            log.error(
                "packs: what was staged cannot be taken up: %s", error, extra=as_kind(LogKind.PACK_CHANGE, reason=error)
            )
            self._store.unmark()
            return
        if staged is not None:
            self._wish = Wish(staged, "staged before the start")

    def serve(self, stop: threading.Event) -> None:
        """Make the changes that are asked for until `stop` is set."""
        with contextlib.suppress(OSError, AttributeError):  # where it may not, or threads have no priority of their own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while not stop.is_set():
            self._wake.wait(TICK_S)
            wish = self._begin()
            if wish is not None and self._alone(stop):
                try:
                    self._change(wish, stop)
                finally:
                    self._duty.changing.release()

    def _alone(self, stop: threading.Event) -> bool:
        """Nobody else changes what is on duty from now on: engines that waited for a GPU may be coming just now. False
        if `stop` was set first."""
        while not self._duty.changing.acquire(timeout=TICK_S):
            if stop.is_set():
                return False
        return True

    def close(self) -> None:
        """Nothing is held here: what is on duty, and what may come back, is the duty's."""

    def _begin(self) -> Wish | None:
        with self._lock:
            self._wake.clear()
            wish, self._wish = self._wish, None
            if wish is not None:
                self._cancelled = ""
                self._turn(PackPhase.LOADING)
            return wish

    def _change(self, wish: Wish, stop: threading.Event) -> None:
        change = self._now = Change(wish, self._duty.current, self._line.lateness())
        trial = self._trial = Trial(
            change,
            self._bounds,
            self._config.grading.merge_px,
            self._duty,
            self._line,
            self._metrics,
            lambda: self._cancelled,
            stop,
            self._clock,
        )
        outcome, reason = PackOutcome.KEPT, ""
        try:
            self._take_up(change)
            self._try(change, trial)
        except Stopping:
            return  # the next start says that it was cut short
        except Exception as error:
            if not isinstance(error, InspectorError):  # a bug, ours or a runtime's, must not take the old pack along
                log.exception(
                    "the change of the pack to %s failed",
                    change.named,
                    extra=as_kind(LogKind.PACK_CHANGE, pack=change.named),
                )
            reason = str(error) or type(error).__name__
            outcome = PackOutcome.CANCELLED if isinstance(error, Cancelled) else PackOutcome.REFUSED
            if change.swapped is not None:
                outcome = PackOutcome.ROLLED_BACK
        self._end(change, outcome, reason, stop)

    def _take_up(self, change: Change) -> None:
        wish = change.wish
        log.info("the pack in %s is tried, as %s wants", wish.folder, wish.sender)
        with contextlib.suppress(PackError):
            if self._store.marked() == wish.folder:
                self._store.unmark()
        self._remember(f"{wish.folder.name} was being loaded")

    def _try(self, change: Change, trial: Trial) -> None:
        """To the end of the watch; an error sends the new pack back."""
        wish, old, bounds = change.wish, change.old, trial.bounds
        found = pack.load(wish.folder)
        if wish.digest is not None and found.digest != wish.digest:
            raise Back(f"{wish.folder} is another pack now than the one that was on duty before: stage it to try it")
        if found.digest == old.digest:
            if wish.base:
                return  # staged and on duty before, and now in the YAML too
            raise Back("it is on duty already")
        pack.check_fit(found, old.pack)
        with contextlib.ExitStack() as held:
            new = change.new = held.enter_context(Engines.of(found, self._config.runtime))
            samples = self._store.folder / "samples"
            change.album = Album(samples, short_digest(found.digest), bounds.sample_frames)
            if not wish.at_once and (bounds.shadow_frames or bounds.shadow_s):
                self._remember(f"{new.named} was in its shadow")
                self._say("shadow", f"{new.named} is compared with {old.named} on {bounds.shadow_frames} frames")
                self._turn(PackPhase.SHADOW)
                trial.shadow(new)
            self._remember(f"{new.named} was watched")
            held.pop_all()  # from the swap on it is the duty's
        since = self._duty.put(new, trial=True)
        change.swapped = self._line.lateness()
        self._line.engaged(new)
        seen = f"; {change.words()}" if change.compared else ""
        self._say("swapped", f"{new.named} took over from {old.named} at batch {since}" + seen)
        if not wish.at_once and (bounds.watch_frames or bounds.watch_s):
            self._turn(PackPhase.WATCH)
            trial.watch(new)
        if not self._duty.passed(new):
            raise Back(f"a network failed on duty: {self._duty.failure and self._duty.failure[1]}")

    def _end(self, change: Change, outcome: PackOutcome, reason: str, stop: threading.Event) -> None:
        """Say and remember what became of it, and close what left."""
        kept, old = outcome is PackOutcome.KEPT, change.old
        if kept:
            self._keep(change)
        elif change.swapped is not None:
            if self._duty.current is not old:
                self._duty.put(old, trial=False)
            self._line.engaged(old)
        self._remember(None)
        stays = "" if kept else f"{old.named} is on duty"
        again = "a restart would start with it all the same: mend `pack:`" if change.wish.base and not kept else ""
        told = "; ".join(word for word in (change.named, reason, stays, again, change.words()) if word)
        self._last = f"{outcome}: {told}"
        self._metrics.pack_changes.labels(outcome).inc()
        if change.album is not None:
            compared = {str(phase): found.figures() for phase, found in change.compared}
            change.album.close({"outcome": outcome, "detail": told, "compared": compared})
        with self._lock:
            self._now = self._trial = None
            self._turn(PackPhase.IDLE)
        self._say(outcome.replace("_", " "), told, warn=not kept)  # who hears it may ask for the next change
        leaving = old if kept else change.new
        if change.swapped is not None and leaving is not None and self._duty.retire(leaving, stop):
            leaving.__exit__(None, None, None)

    def _keep(self, change: Change) -> None:
        before, self._folder = self._folder, change.wish.folder
        memory, folder = self._memory, str(self._folder)
        if change.wish.base:
            memory = msgspec.structs.replace(memory, base=folder, base_digest=self._duty.current.digest)
        if change.swapped is not None:
            memory = msgspec.structs.replace(memory, previous=str(before), previous_digest=change.old.digest)
        self._memory = msgspec.structs.replace(memory, on_duty=None if folder == memory.base else folder)

    def _remember(self, changing: str | None) -> None:
        self._memory = msgspec.structs.replace(self._memory, changing=changing)
        try:
            self._store.remember(self._memory)
        except PackError as error:
            log.error(
                "packs: a restart will not know of this change: %s",
                error,
                extra=as_kind(LogKind.PACK_NOT_KEPT, reason=error),
            )

    # ------------------------------------------------------------ small

    def _turn(self, phase: PackPhase) -> None:
        self._phase = phase
        self._metrics.pack_turns(phase)

    def _say(self, state: str, detail: str, warn: bool = False) -> None:
        level = logging.WARNING if warn else logging.INFO
        log.log(level, "pack: %s: %s", state, detail, extra=as_kind(LogKind.PACK_CHANGE, state=state, reason=detail))
        self._line.tell(state, detail)


def _shown(found: Pack) -> PackShown:
    return PackShown(name=found.manifest.name, version=found.manifest.version, digest=found.digest)
