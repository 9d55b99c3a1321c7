"""Every error this project raises on purpose.

InspectorError
├── ConfigError          a file or setting is wrong; the daemon exits 78 and systemd leaves it stopped
│   ├── PackError        a pack of engines is missing, altered or of another format
│   └── TakenError       another process has the address or the file, such as the daemon itself
├── CameraError          a camera is gone or refuses; the capture worker reopens it
├── CalibrationError     what a camera shows cannot be the reference of its flat-field
├── EngineError          a network failed while it ran; the stage fails and the daemon ends with 1
├── JournalError         the journal cannot be opened, read or written
├── SinkError            a sink cannot deliver; the event stays in the journal
├── TelegramError        a telegram of the plant cannot be true, or comes too late to change anything
├── StreamError          a subscriber cannot go on as if nothing had happened
│   ├── Lost             events are lost for good: they are no longer in the journal, or it was replaced
│   ├── Lagging          the subscriber is too far behind the line
│   ├── Silent           no heartbeat for too long
│   └── Refused          a socket of the daemon gives no answer, or says no
└── ChannelError
    ├── ChannelClosed    every writer has closed and the queue is empty
    └── ChannelAbandoned the reader has gone; nothing put here would ever be read

A message names the file or the setting first and then says how to mend it. Errors of vendors' libraries are
translated where they are met, in the adapter.
"""

from __future__ import annotations

from collections.abc import Sequence


class InspectorError(Exception):
    """The root of all errors of this project."""


class ConfigError(InspectorError):
    """A setting or a file named by a setting is wrong: an engineer must mend it."""


class PackError(ConfigError):
    """A pack of engines is missing, altered, or of a format this version cannot read."""


class TakenError(ConfigError):
    """Another process has the address or the file. Where the daemon runs already, that is as it should be."""


class CameraError(InspectorError):
    """A camera is gone, refuses or answers nonsense. Recoverable: the capture worker reopens the camera."""

    at_once = False
    """It may be opened again without the usual pause."""


class CalibrationError(InspectorError):
    """What a camera shows cannot be the reference of its flat-field."""


class EngineError(InspectorError):
    """A network failed while it ran."""


class JournalError(InspectorError):
    """The journal cannot be opened, read or written."""


class SinkError(InspectorError):
    """A sink cannot deliver. The event is safe in the journal."""


class TelegramError(InspectorError):
    """A telegram of the plant cannot be true, or comes too late to change anything."""


class StreamError(InspectorError):
    """A subscriber cannot go on as if nothing had happened."""


class Lost(StreamError):
    """Events are lost for good: they are no longer in the journal, or it was replaced.

    Attributes:
        source: the daemon whose events they were.
        missing: (epoch, topic, first sequence, last sequence) of what is known to be missing.
        unknown: more may be missing than that, and nothing is left that could tell what.
    """

    def __init__(
        self,
        message: str,
        source: str = "",
        missing: Sequence[tuple[int, str, int, int]] = (),
        unknown: bool = False,
    ) -> None:
        super().__init__(message)
        self.source = source
        self.missing = list(missing)
        self.unknown = unknown


class Lagging(StreamError):
    """The subscriber is too far behind the line."""


class Silent(StreamError):
    """No heartbeat for too long."""


class Refused(StreamError):
    """A socket of the daemon gives no answer, or says no."""


class ChannelError(InspectorError):
    """The other end of a channel has gone."""


class ChannelClosed(ChannelError):
    """Every writer has closed and the queue is empty: the reader has had everything."""


class ChannelAbandoned(ChannelError):
    """The reader has gone, so a writer must stop too."""
