"""The settings of the `video` camera."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from inspector.cameras import _stream
from inspector.cameras._odometer import Encoder
from inspector.cameras._shots import printable
from inspector.config import Positive
from inspector.errors import ConfigError
from inspector.records import Pixels


class Crop(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The part of the picture that is taken."""

    left: Annotated[int, Meta(ge=0)] = 0
    """First column."""
    top: Annotated[int, Meta(ge=0)] = 0
    """First row."""
    width_px: Annotated[int, Meta(ge=1)] | None = None
    """Columns; left out: to the right edge."""
    height_px: Annotated[int, Meta(ge=1)] | None = None
    """Rows; left out: to the lower edge. The strip should move on by so many rows between two frames."""

    def of(self, picture: Pixels) -> Pixels:
        """The part, a view; it is smaller than asked for, or empty, where the picture is."""
        below = None if self.height_px is None else self.top + self.height_px
        right = None if self.width_px is None else self.left + self.width_px
        return picture[self.top : below, self.left : right]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a video camera: one of `url` and `path`."""

    url: str | None = None
    """A stream: rtsp://USER:PASSWORD@HOST:PORT/PATH, or rtsps, http, https. Give the IP address: a name server that
    is down would hold up the camera. User and password are never shown."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How RTSP sends the pictures. `udp` only for a camera that cannot do TCP: where packets are lost a picture shows
    the strip of the one before, and nothing tells."""
    path: Path | None = None
    """A video file. In a YAML relative to its folder."""
    pace: Literal["live", "free"] = "live"
    """`live`: a file's frames come at the times of its stamps; `free`: as fast as they are taken."""
    frame_rate_hz: Positive | None = None
    """Frames a second that the stream must have: fewer are counted as missing. Left out: what it has."""
    crop: Crop = Crop()
    """The part of the picture that is taken."""
    encoder: Encoder = Encoder()
    """The way along the strip; a row is a line."""
    open_timeout_s: Annotated[float, Meta(gt=0, le=4)] = 3.0
    """Longest that opening the stream may take, until its first frames, seconds. A slow stream takes all of it."""
    read_timeout_s: Annotated[float, Meta(gt=0, le=5)] = 2.0
    """A stream that gives no frame for this long, seconds, is taken for dead and opened again; so long may one read
    take at most."""
    decoder_threads: Annotated[int, Meta(ge=1, le=16)] = 1
    """Threads that decode; each but the first delays most streams by a frame."""


def check(options: Options) -> None:
    """Do the options agree with each other, is the file there? No stream is opened.

    Raises:
        ConfigError: not.
    """
    if (options.url is None) == (options.path is None):
        raise ConfigError("video: give one of url (a stream) and path (a file)")
    if options.encoder.source == "chunk":
        raise ConfigError("encoder.source: a video has no chunks; leave it at frame_id")
    if options.url is not None:
        _stream.check(options.url)
        if options.pace == "free":
            raise ConfigError("pace: a stream has its own; `free` is for files")
    elif options.path is not None and not options.path.is_file():
        raise ConfigError(f"path: {printable(str(options.path))} is no file; name a video")
