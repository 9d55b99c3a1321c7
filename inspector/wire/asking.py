"""What is asked and answered at a desk: one JSON object each, read without trust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

LONGEST_TEXT = 300
"""Characters of an error that are sent back: it may quote the request."""

Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | str | None
T = TypeVar("T")


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask"):
    """The base of every request. `id` is the client's own and comes back in the answer."""

    id: Id = None


class NotUnderstood(ValueError):
    """A request that is no request here; the text is for whoever wrote the client.

    Attributes:
        id: of the request, if it could be read.
    """

    def __init__(self, text: str, id_: int | str | None = None) -> None:
        super().__init__(text)
        self.id = id_


def understood(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The request in a message.

    Raises:
        NotUnderstood: it is none.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise NotUnderstood(f"not a request here: {str(error)[:LONGEST_TEXT]}", id_of(body)) from None
    except (ValueError, RecursionError) as error:  # ValueError: malformed JSON, or no UTF-8
        raise NotUnderstood(f"not JSON in UTF-8: {str(error)[:LONGEST_TEXT]}", id_of(body)) from None


def error_answer(text: str, id_: int | str | None, ask: str = "error") -> bytes:
    """The answer that says no."""
    return msgspec.json.encode({"answer": ask, "id": id_, "ok": False, "error": text})


class _Named(msgspec.Struct):
    id: Id = None


def id_of(body: bytes) -> int | str | None:
    """The id of what may be no request at all."""
    try:
        return msgspec.json.decode(body, type=_Named).id
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came.

    Attributes:
        body: what should be a JSON object.
        sender: the client's name by its key, else `uid N` of a process on this machine, else its address.
        parts: how many parts it had; more than one is an error.
    """

    body: bytes
    sender: str
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back.

    Attributes:
        head: the JSON object.
        parts: what follows in the same message.
        cost: tokens that the work took.
    """

    head: bytes
    parts: Sequence[bytes] = ()
    cost: float = 1.0
