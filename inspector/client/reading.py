"""Bytes from a daemon -> events, with the versions checked: what this program cannot read it says, loudly."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import get_args

import msgspec

from inspector.errors import StreamError
from inspector.events import CoilEvent, Data, Defect, Event, Gap, Heartbeat, State
from inspector.logbook import LogKind, as_kind

log = logging.getLogger(__name__)

SCHEMA = "urn:inspector:schema:event:v1"
_KINDS = {str(struct.__struct_config__.tag) for struct in get_args(Data)}
_EXCERPT = 120
"""Bytes of a message that are quoted."""
_told: set[str] = set()

_decode = msgspec.json.Decoder(Event).decode


class _LaterGap(Gap, frozen=True, kw_only=True, tag_field="kind", tag="gap"):
    reason: str  # type: ignore[assignment]


class _LaterEvent(Event, frozen=True, kw_only=True):
    """An event with a reason that a later version 1 has added."""

    data: Defect | _LaterGap | CoilEvent | State | Heartbeat


_decode_later = msgspec.json.Decoder(_LaterEvent).decode


class _Data(msgspec.Struct, frozen=True):
    kind: str = ""


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The least that is needed to know which event it is."""

    source: str
    subject: str
    epoch: int
    sequence: int
    type: str = ""
    dataschema: str = ""
    data: _Data = _Data()


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


@dataclass(slots=True, frozen=True)
class Item:
    """One message of the stream: an event, or why there is none to hand over."""

    source: str
    topic: str
    epoch: int
    sequence: int
    event: Event | None
    """None: of a kind that a later version 1 added; or `error` says why."""
    error: StreamError | None = None


def read(body: bytes) -> Item:
    """What a message says. Keys that are not known are ignored; a kind of event that is not known is skipped.

    Raises:
        StreamError: it is no event at all: not even whose it is can be told.
    """
    try:
        event = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        try:
            event = _decode_later(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _unknown(body, error)
    event.__dict__["body"] = body  # as it was published: with what a later version 1 adds
    wrong = _wrong_version(event.dataschema, event.type)
    return Item(
        event.source,
        event.subject,
        event.epoch,
        event.sequence,
        None if wrong else event,
        StreamError(f"{event.source}: event {event.id}: {wrong}") if wrong else None,
    )


def _unknown(body: bytes, why: Exception) -> Item:
    try:
        envelope = _decode_envelope(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        quoted = ascii(body[:_EXCERPT].decode(errors="replace"))
        raise StreamError(f"a message that is no event of this stream ({why}): {quoted}") from None
    name = f"{envelope.source}: event {envelope.epoch}/{envelope.subject}{envelope.sequence}"
    error: StreamError | None = None
    if wrong := _wrong_version(envelope.dataschema, envelope.type):
        error = StreamError(f"{name}: {wrong}")
    elif envelope.data.kind in _KINDS or not envelope.data.kind:
        error = StreamError(f"{name} does not have the form of {SCHEMA}: {why}")
    else:
        _tell_once(envelope)
    return Item(envelope.source, envelope.subject, envelope.epoch, envelope.sequence, None, error)


def _wrong_version(dataschema: str, kind: str) -> str:
    if dataschema == SCHEMA and kind.endswith(".v1"):
        return ""
    return (
        f"its schema is {dataschema!r} and its type {kind!r}; this program reads {SCHEMA}: "
        "use the `inspector` package of the daemon's version"
    )


def _tell_once(envelope: _Envelope) -> None:
    if envelope.data.kind not in _told and len(_told) < 100:
        _told.add(envelope.data.kind)
        log.warning(
            "%s sends events of kind %r, which this version does not know: they are skipped",
            envelope.source,
            envelope.data.kind,
            extra=as_kind(LogKind.CLIENT_UNKNOWN),
        )
