"""Every error this project raises on purpose.

InspectorError
├── ConfigError          a file or setting is wrong; the daemon exits 78 and systemd leaves it stopped
│   └── PackError        a pack of engines is missing, altered or of another format
├── CameraError          a camera is gone or refuses; the capture worker reopens it
├── EngineError          a network failed while it ran; the stage fails and the daemon ends with 1
├── JournalError         the journal cannot be opened, read or written
├── SinkError            a sink cannot deliver; the event stays in the journal
└── ChannelError
    ├── ChannelClosed    every writer has closed and the queue is empty
    └── ChannelAbandoned the reader has gone; nothing put here would ever be read

A message names the file or the setting first and then says how to mend it. Errors of vendors' libraries are
translated where they are met, in the adapter.
"""

from __future__ import annotations


class InspectorError(Exception):
    """The root of all errors of this project."""


class ConfigError(InspectorError):
    """A setting or a file named by a setting is wrong: an engineer must mend it."""


class PackError(ConfigError):
    """A pack of engines is missing, altered, or of a format this version cannot read."""


class CameraError(InspectorError):
    """A camera is gone, refuses or answers nonsense. Recoverable: the capture worker reopens the camera."""


class EngineError(InspectorError):
    """A network failed while it ran."""


class JournalError(InspectorError):
    """The journal cannot be opened, read or written."""


class SinkError(InspectorError):
    """A sink cannot deliver. The event is safe in the journal."""


class ChannelError(InspectorError):
    """The other end of a channel has gone."""


class ChannelClosed(ChannelError):
    """Every writer has closed and the queue is empty: the reader has had everything."""


class ChannelAbandoned(ChannelError):
    """The reader has gone, so a writer must stop too."""
