"""The control socket: the plant names coils, says that the strip stands, and asks how the line is; packs are changed.

Requests are done one at a time, in the order in which they came. A telegram waits for the journal, 5 s at most (see
plant.py), and the others meanwhile; so with n clients that each have one telegram on the way, an answer may take n
times that while the disk hangs, and a few milliseconds otherwise. Every request is logged in one line: who, what, and
what was said to it.

Who may ask: with `keys`, clients that may `control`. Without, only over ipc, and there root, the daemon's own user and
the members of the socket file's group (see wire/local.py); never over TCP, where any user of this machine could come.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from inspector.config import ControlConfig
from inspector.errors import ConfigError, TelegramError
from inspector.events import CameraTotals, JournalMark
from inspector.logbook import LogKind, as_kind
from inspector.metrics import Metrics
from inspector.wire.asking import Answer, Ask, NotUnderstood, Request, error_answer, understood
from inspector.wire.bucket import Bucket
from inspector.wire.desk import Desk
from inspector.wire.desk import check as check_desk

REQUESTS_PER_S = 200.0
"""From all clients together: a client that asks in a loop must not take the line's processor, nor fill its log."""
LONGEST_COIL = 64
"""Characters."""

log = logging.getLogger(__name__)

Count = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Coil = Annotated[str, Meta(min_length=1, max_length=LONGEST_COIL)]


# ---------------------------------------------------------------- requests


class CoilStart(Ask, frozen=True, kw_only=True, tag="coil start"):
    """The head of `coil` lies at that count; None: at the newest one."""

    coil: Coil
    encoder_count: Count | None = None


class CoilEnd(Ask, frozen=True, kw_only=True, tag="coil end"):
    """The tail of `coil`, or of whichever lies there, is at that count; None: at the newest one."""

    coil: Coil | None = None
    encoder_count: Count | None = None


class CoilShow(Ask, frozen=True, kw_only=True, tag="coil show"):
    """The coils known."""


class LineStop(Ask, frozen=True, kw_only=True, tag="line stop"):
    """The strip stands."""


class StateAsk(Ask, frozen=True, kw_only=True, tag="state"):
    """How the daemon is."""


class PacksStage(Ask, frozen=True, kw_only=True, tag="packs stage"):
    """A pack that lies staged in the line's folder is wanted on duty."""

    pack: Annotated[str, Meta(min_length=1, max_length=255)]
    """Name of its folder."""


class PacksStatus(Ask, frozen=True, kw_only=True, tag="packs status"):
    """What pack is on duty, and what is going on."""


class PacksCancel(Ask, frozen=True, kw_only=True, tag="packs cancel"):
    """The change under way ends; the old pack stays or comes back."""


class PacksRollback(Ask, frozen=True, kw_only=True, tag="packs rollback"):
    """The pack that was on duty before comes back."""


AnyAsk = CoilStart | CoilEnd | CoilShow | LineStop | StateAsk | PacksStage | PacksStatus | PacksCancel | PacksRollback
ASKS = (
    *("coil start", "coil end", "coil show", "line stop", "state"),
    *("packs stage", "packs status", "packs cancel", "packs rollback"),
)


# ---------------------------------------------------------------- answers


class CoilAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a telegram did."""

    coil: str
    encoder_count: int
    previous: str
    """The coil that lay there before."""
    when: Literal["early", "late"]
    distance_mm: float
    """How far the count lies ahead of (early) or behind (late) the strip that was looked at last."""
    repeated: bool = False
    """This very telegram came before."""


class CoilSpan(msgspec.Struct, frozen=True, kw_only=True):
    """Where a coil lies, in encoder counts."""

    coil: str
    head_count: int | None
    end_count: int | None
    """None: its tail has not been told."""


class CoilsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The coils known, the oldest first."""

    coil: str
    """On the line now."""
    encoder_count: int | None
    """The last that was graded; None before the first frame."""
    coils: list[CoilSpan]


class StateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon is; the same as in a heartbeat, and why it is not ready."""

    state: str
    coil: str
    status: str
    """A sentence."""
    reasons: list[str]
    epoch: int
    source: str
    cameras: dict[str, CameraTotals]
    high_water: dict[str, int]
    undelivered: dict[str, int]
    journal: JournalMark | None


class PackShown(msgspec.Struct, frozen=True, kw_only=True):
    """A pack for people."""

    name: str
    version: str
    digest: str


class PacksAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What pack is on duty, and what a change is at."""

    phase: str
    """`idle`, `loading`, `shadow` or `watch`."""
    on_duty: PackShown
    folder: str
    """Where it lies."""
    previous: str | None
    """Folder of the pack that a rollback brings back; None: the line knows of none."""
    candidate: PackShown | None
    """The pack that is tried, once it is loaded; while it is watched it is on duty already."""
    compared: int
    """Frames compared in this phase."""
    wanted: int
    skipped: int
    """Frames that were left out, as the line was behind."""
    seen: str
    """What the comparison found so far, a sentence."""
    last: str
    """What became of the last change; empty: there was none since the start."""


class Packs(Protocol):
    """The line's packs. Called by the serving thread; each returns at once, or raises TelegramError as in `Plant`."""

    def stage(self, name: str, sender: str) -> PacksAnswer: ...

    def status(self) -> PacksAnswer: ...

    def cancel(self, sender: str) -> PacksAnswer: ...

    def rollback(self, sender: str) -> PacksAnswer: ...


class Plant(Protocol):
    """The line as the plant's telegrams see it. Called by the serving thread; no call takes more than 5 s.

    Each may raise TelegramError, whose text is sent back. `sender` is the client's name or `uid N`.
    """

    def coil_start(self, coil: str, encoder_count: int | None, sender: str) -> CoilAnswer:
        """Durable when it returns."""

    def coil_end(self, coil: str | None, encoder_count: int | None, sender: str) -> CoilAnswer:
        """Durable when it returns."""

    def coils(self) -> CoilsAnswer: ...

    def line_stop(self, sender: str) -> None: ...

    def state(self) -> StateAnswer: ...


# ---------------------------------------------------------------- the socket


class Control:
    """The control socket; `open` it, have one thread `serve`, `close` it.

    Args:
        config: where to listen, and whom to let in.
        plant: what the telegrams are told to.
        packs: what changes of the pack are told to.
        metrics: where requests are counted.
        clock: seconds; sets the rate of requests.
    """

    def __init__(
        self,
        config: ControlConfig,
        plant: Plant,
        packs: Packs,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._plant, self._packs = config, plant, packs
        self._books = metrics.desk("control", ASKS)
        self._decoder = msgspec.json.Decoder(AnyAsk)
        bucket = Bucket(REQUESTS_PER_S, REQUESTS_PER_S, clock)
        self.desk = Desk("control", config.address, config.keys, "control", self._answer, bucket, self._books)

    @property
    def endpoint(self) -> str:
        """Where clients ask; the port is the real one once it is open."""
        return self.desk.endpoint

    def open(self) -> None:
        """Bind; clients wait until `serve` runs.

        Raises:
            ConfigError: the address is malformed, taken or reached by TCP without keys, or the keys cannot be read.
        """
        _require_door(self._config)
        self.desk.open()

    def serve(self, stop: threading.Event) -> None:
        """Answer until `stop` is set, then let go of the address. For one thread of its own, once after `open`."""
        self.desk.serve(stop)

    def close(self) -> None:
        """Give the address back, if `serve` never ran. Safe to call twice."""
        self.desk.close()

    def _answer(self, request: Request) -> Answer:
        try:
            ask = _printable(understood(request.body, self._decoder))
        except NotUnderstood as error:
            log.info("control: %s: not understood -> %r", request.sender, str(error))
            raise
        name = str(ask.__struct_config__.tag)
        try:
            said = msgspec.to_builtins(self._do(ask, request.sender))
        except TelegramError as error:
            self._books.asked(name, "refused")
            log.info("control: %s: %s -> refused: %r", request.sender, _words(ask), str(error))
            return Answer(error_answer(str(error), ask.id, name))
        except Exception:
            log.error(
                "control: %s: %s -> failed",
                request.sender,
                _words(ask),
                extra=as_kind(LogKind.REQUEST_FAILED, part="control"),
            )
            raise
        self._books.asked(name, "ok")
        log.info("control: %s: %s -> ok%s", request.sender, _words(ask), _outcome(said))
        return Answer(msgspec.json.encode({"answer": name, "id": ask.id, "ok": True, **said}))

    def _do(self, ask: AnyAsk, sender: str) -> Any:
        match ask:
            case CoilStart():
                return self._plant.coil_start(ask.coil, ask.encoder_count, sender)
            case CoilEnd():
                return self._plant.coil_end(ask.coil, ask.encoder_count, sender)
            case CoilShow():
                return self._plant.coils()
            case StateAsk():
                return self._plant.state()
            case PacksStage():
                return self._packs.stage(ask.pack, sender)
            case PacksStatus():
                return self._packs.status()
            case PacksCancel():
                return self._packs.cancel(sender)
            case PacksRollback():
                return self._packs.rollback(sender)
            case LineStop():
                self._plant.line_stop(sender)
                return {}


def check(config: ControlConfig) -> None:
    """Bind and release. Raises ConfigError as `Control.open` does."""
    _require_door(config)
    check_desk("control", config.address, config.keys, "control")


def _require_door(config: ControlConfig) -> None:
    """Raises ConfigError when anybody could come in who reaches the address."""
    if config.keys is not None:
        return
    if config.address.startswith("tcp://"):
        raise ConfigError(
            f"control.address {config.address!r}: over TCP any user of this machine could name coils, so it needs "
            "keys: make them with `inspector keys make DIR` and set control.keys: DIR. Or use "
            "ipc:///run/inspector/control"
        )


def _printable(ask: AnyAsk) -> AnyAsk:
    for key in ("coil", "pack"):
        if not (getattr(ask, key, None) or "").isprintable():
            raise NotUnderstood(f"not a request here: `{key}` has a character that cannot be printed", ask.id)
    return ask


def _words(ask: AnyAsk) -> str:
    """A request for the log."""
    words = [str(ask.__struct_config__.tag)]
    if isinstance(ask, CoilStart | CoilEnd):
        words += [] if ask.coil is None else [repr(ask.coil)]
        words.append("at the newest count" if ask.encoder_count is None else f"at {ask.encoder_count}")
    if isinstance(ask, PacksStage):
        words.append(repr(ask.pack))
    return " ".join(words)


def _outcome(said: dict[str, Any]) -> str:
    """What a telegram did, for the log."""
    if "when" not in said:
        return ""
    repeated = ", repeated" if said.get("repeated") else ""
    return (
        f", {said['distance_mm']} mm {said['when']}, at {said['encoder_count']}, after {said['previous']!r}{repeated}"
    )
