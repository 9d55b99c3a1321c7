"""What the bridge itself has to say, in the same envelope as events: what could not be forwarded."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from inspector.bridge import naming
from inspector.bridge.window import Message
from inspector.errors import Lost, StreamError
from inspector.events import as_json

TOPIC = "bridge/lost/"


def lost(error: StreamError) -> tuple[str, bytes]:
    """(key, body) for events that the stream will never give; the same words have the same key."""
    source = error.source if isinstance(error, Lost) and error.source else "/inspector/bridge"
    name = f"bridge/{hashlib.sha256(f'{source} {error}'.encode()).hexdigest()[:32]}"
    missing = [list(gap) for gap in error.missing] if isinstance(error, Lost) else []
    body = _envelope(source, name, error=type(error).__name__, detail=str(error), missing=missing)
    return naming.key(source, name), body


def too_large(message: Message) -> Message:
    """What is sent instead of an event that the broker would never take, under the event's own key."""
    source, name = naming.event_of(message.key)
    detail = f"event {name} has {len(message.body)} bytes, more than the broker takes: its daemon's journal has it"
    body = _envelope(source, name, error="TooLarge", detail=detail, missing=[])
    return Message(message.number, TOPIC, message.key, body)


def _envelope(source: str, name: str, **data: Any) -> bytes:
    return as_json(
        {
            "specversion": "1.0",
            "id": name,
            "source": source,
            "type": "inspector.bridge.lost.v1",
            "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "subject": TOPIC,
            "datacontenttype": "application/json",
            "data": {"kind": "lost", **data},
        }
    )
