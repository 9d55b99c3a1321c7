"""The plant's side of the control socket: name coils, say that the strip stands, ask how the line is, change packs."""

from __future__ import annotations

import grp
import os
import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import msgspec
import zmq

from inspector.client.address import ServerKey, checked, load_keys
from inspector.client.handshake import COMMANDS, Handshake
from inspector.ending import end
from inspector.errors import ConfigError, Refused
from inspector.events import CameraTotals, JournalMark, as_json

LONGEST_ANSWER = 16 << 20
"""Bytes."""
QUESTIONS = ("coil show", "state", "packs status")
"""What changes nothing."""


class CoilTold(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a telegram of a coil's start or end. It is in the daemon's journal."""

    coil: str = ""
    encoder_count: int = 0
    """Where the head or tail lies."""
    previous: str = ""
    """The coil that it follows."""
    when: Literal["early", "late", ""] = ""
    """Whether the strip there was still to come or had been looked at already."""
    distance_mm: float = 0.0
    """How far the count lay ahead of or behind the strip that was looked at last."""
    repeated: bool = False
    """This very telegram had come before; nothing was done."""


class CoilSpan(msgspec.Struct, frozen=True, kw_only=True):
    """Where a coil lies."""

    coil: str
    head_count: int | None = None
    end_count: int | None = None
    """None: its tail is not known yet."""


class Coils(msgspec.Struct, frozen=True, kw_only=True):
    """The coils that the daemon knows."""

    coil: str = ""
    """On the line now."""
    encoder_count: int | None = None
    """The last one graded."""
    coils: list[CoilSpan] = []
    """The oldest first."""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """The line knows that the strip stands."""


class LineState(msgspec.Struct, frozen=True, kw_only=True):
    """How a daemon is."""

    state: str = ""
    """`starting`, `running`, `stalled` or `stopping`."""
    coil: str = ""
    status: str = ""
    """A sentence for people."""
    reasons: list[str] = []
    """Why it is not ready."""
    epoch: int = 0
    source: str = ""
    cameras: dict[str, CameraTotals] = {}
    high_water: dict[str, int] = {}
    undelivered: dict[str, int] = {}
    journal: JournalMark | None = None


class PackShown(msgspec.Struct, frozen=True, kw_only=True):
    """A pack of engines."""

    name: str = ""
    version: str = ""
    digest: str = ""


class PacksState(msgspec.Struct, frozen=True, kw_only=True):
    """What pack is on duty, and what a change is at."""

    phase: str = ""
    """`idle`, `loading`, `shadow` or `watch`."""
    on_duty: PackShown = PackShown()
    folder: str = ""
    """Where it lies on the daemon's machine."""
    previous: str | None = None
    """Folder of the pack that a rollback brings back; None: the daemon knows of none."""
    candidate: PackShown | None = None
    """The pack that is tried."""
    compared: int = 0
    """Frames compared in this phase."""
    wanted: int = 0
    skipped: int = 0
    """Frames that were left out, as the line was behind."""
    seen: str = ""
    """What the comparison found so far, a sentence for people."""
    last: str = ""
    """What became of the last change, a sentence for people."""


class _Answer(msgspec.Struct, frozen=True):
    id: int | str | None = None
    ok: bool = False
    error: str = ""


A = TypeVar("A")
_decode = msgspec.json.Decoder(_Answer).decode


class Control:
    """Talks to one daemon's control socket; a context manager.

    Every call waits for the daemon's answer, and raises

        Refused      the daemon says no, in its own words, does not let us in, or gives no answer within `timeout_s`

    Args:
        address: tcp://HOST:PORT or ipc:///PATH, `control.address` in the daemon's YAML.
        keys: our certificate file NAME.key_secret, which may `control`.
        server_key: the daemon's public key, its 40 characters or the file server.key.
        timeout_s: the longest wait for an answer, seconds.

    Raises:
        ConfigError: the address or a key file is not usable.
    """

    def __init__(
        self,
        address: str,
        keys: Path | str | None = None,
        server_key: ServerKey = None,
        timeout_s: float = 10,
    ) -> None:
        self._address = checked(address)
        self._curve = load_keys(keys, server_key, (address,))
        self._timeout_s = timeout_s
        self._name = secrets.token_hex(8)
        self._number = 0
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._handshake: Handshake | None = None

    def coil_start(self, coil: str, encoder_count: int | None = None) -> CoilTold:
        """The coil's head lies at that count of the encoder; None: at the newest that a camera has delivered."""
        return self._ask(CoilTold, "coil start", coil=coil, encoder_count=encoder_count)

    def coil_end(self, coil: str | None = None, encoder_count: int | None = None) -> CoilTold:
        """The coil's tail lies there; what follows belongs to no coil until the next start. None: the last coil."""
        return self._ask(CoilTold, "coil end", coil=coil, encoder_count=encoder_count)

    def coils(self) -> Coils:
        """The coils known."""
        return self._ask(Coils, "coil show")

    def line_stop(self) -> Stopped:
        """The strip stands: defects that wait for their continuation are reported now."""
        return self._ask(Stopped, "line stop")

    def state(self) -> LineState:
        """How the daemon is."""
        return self._ask(LineState, "state")

    def packs(self) -> PacksState:
        """What pack is on duty, and what a change is at."""
        return self._ask(PacksState, "packs status")

    def stage_pack(self, name: str) -> PacksState:
        """A pack that lies in the line's folder of packs, under that name, is wanted on duty; it is tried from now."""
        return self._ask(PacksState, "packs stage", pack=name)

    def cancel_pack(self) -> PacksState:
        """The change under way ends; the old pack stays or comes back."""
        return self._ask(PacksState, "packs cancel")

    def roll_back_pack(self) -> PacksState:
        """The pack that was on duty before comes back."""
        return self._ask(PacksState, "packs rollback")

    # ------------------------------------------------------------ asking

    def _ask(self, shape: type[A], ask: str, **said: Any) -> A:
        self._number += 1
        number = f"{self._name}-{self._number}"  # no other client's, or its request would look like one of ours again
        question = as_json(
            {"ask": ask, "id": number, **{key: value for key, value in said.items() if value is not None}}
        )
        body = self._answered(ask, number, question)
        try:
            answer = _decode(body)
            if answer.ok:
                return msgspec.json.decode(body, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Refused(f"{self._address}: the answer to {ask!r} cannot be read: {error}") from None
        raise Refused(f"{self._address}: {ask}: {answer.error or 'refused without a reason'}")

    def _answered(self, ask: str, number: str, question: bytes) -> bytes:
        """Asked once: of a telegram without a count that came twice, the second would name another place."""
        socket, handshake = self._connected()
        socket.send(question)
        try:
            body = self._received(socket, handshake, number)
        except Refused:
            self._disconnect()
            raise
        if body is not None:
            return body
        self._disconnect()  # what was not sent by now must not come later
        keys = ", is server_key its own, and may our key `control`" if self._curve is not None else ""
        show = "packs status" if ask.startswith("packs") else "coil show"
        done = "" if ask in QUESTIONS else f"; `inspector {show}` tells whether it was done all the same"
        raise Refused(
            f"{self._address}: no answer within {self._timeout_s:g} s: is the daemon running, is this its "
            f"control.address{keys}?{done}"
        )

    def _received(self, socket: zmq.Socket[bytes], handshake: Handshake, number: str) -> bytes | None:
        poller, until = zmq.Poller(), time.monotonic() + self._timeout_s
        for each in (socket, handshake.monitor):
            poller.register(each, zmq.POLLIN)
        while ready := dict(poller.poll(max(0, round(1000 * (until - time.monotonic()))))):
            if socket not in ready:
                if why := handshake.refused(time.monotonic()):
                    raise Refused(f"{self._address}: {why}")
                continue
            body = socket.recv_multipart()[0]
            try:
                if _decode(body).id in (number, None):
                    return body
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return body
        return None

    def _connected(self) -> tuple[zmq.Socket[bytes], Handshake]:
        if self._context.closed:
            raise Refused(f"{self._address}: this Control is closed; use it inside `with`")
        _look_at(self._address)
        if self._socket is None or self._handshake is None:
            self._socket = socket = self._context.socket(zmq.DEALER)
            socket.linger = 0
            socket.ipv6 = True
            socket.maxmsgsize = LONGEST_ANSWER
            if self._curve is not None:
                self._curve.secure(socket, self._address)
            self._handshake = Handshake(socket, COMMANDS)
            try:
                socket.connect(self._address)
            except zmq.ZMQError as error:
                self._disconnect()
                raise ConfigError(f"address {self._address!r} cannot be connected to: {error.strerror}") from None
        return self._socket, self._handshake

    def _disconnect(self) -> None:
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.close()
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def close(self) -> None:
        """Disconnect; safe to call twice."""
        self._disconnect()
        end(self._context, self._address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _look_at(address: str) -> None:
    """A socket file shows at once what is wrong; ZeroMQ would wait for that to change.

    Raises:
        Refused: it is not there, or not for us.
    """
    if not address.startswith("ipc://"):
        return
    path = Path(address.removeprefix("ipc://"))
    try:
        group = path.stat().st_gid
    except PermissionError:
        raise Refused(f"{address}: we may not enter its folder: run this as a user who may") from None
    except OSError:
        raise Refused(
            f"{address}: there is no such socket: is the daemon running, and is this its control.address?"
        ) from None
    if not os.access(path, os.W_OK, effective_ids=True):
        raise Refused(
            f"{address}: only members of its group may talk to it: run this as a user in the group {_named(group)}, "
            "or as root"
        )


def _named(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)
