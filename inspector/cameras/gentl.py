"""The `gentl` camera: anything that comes with a GenTL producer (.cti): CoaXPress, Camera Link, USB 3, GigE.

- The producer runs in a process of its own (_gentl_child.py), through genicam and harvesters; its driver writes into
  memory that both share, and each frame is copied once, into a slot of the pool.
- Hole in the frame ids: UNDERRUN as far as the process had to let frames go because `buffers` of them waited here, or
  the producer says it had no buffer, else MISSING. An incomplete buffer is PACKETS (GigE) or FAILED.
- Exposure is the time stamp that the producer gives, mapped by when frames arrive: GenTL does not say whose clock it
  is, so it is not read. Stamps that run backwards are none. The encoder is a chunk, or lines are counted.
- A process that dies, hangs or talks nonsense, and a camera that is silent for too long, is a CameraError; the next
  enter starts a fresh one. It never outlives the daemon.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from inspector.cameras import Found, Link
from inspector.cameras._genicam import Name, Settings, Value, check_pixels, features
from inspector.cameras._gentl_feed import Feed, frame_s
from inspector.cameras._gentl_process import Process
from inspector.cameras._gentl_words import Listed, Nonsense, Ready, Request
from inspector.cameras._odometer import Odometer
from inspector.errors import CameraError, ConfigError
from inspector.logbook import LogKind, as_kind
from inspector.pool import Pool
from inspector.records import Frame, Loss

__all__ = ["GentlCamera", "Options", "check", "discover", "open"]

log = logging.getLogger(__name__)

for package in ("genicam", "harvesters"):  # the process needs them; here they are only looked for
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"No module named '{package}'")

Module = Literal["interface", "device", "stream"]

PRODUCERS = "GENICAM_GENTL64_PATH"
"""Environment variable of the GenTL standard: folders of producers, set by their installers."""
NONE_INSTALLED = f"the environment variable {PRODUCERS} names no folder with a .cti file"


class Options(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a GenTL camera: which one it is, and the settings of every GenICam camera."""

    producer: Path | None = None
    """The maker's .cti file. Left out: all in the folders that the environment variable GENICAM_GENTL64_PATH names."""
    device: Name | int | None = None
    """Serial number, own name, id, or place in the list that `inspector cameras` shows. Left out: the only one."""
    grabber: dict[Module, dict[Name, Value]] = msgspec.field(default_factory=dict)
    """Features of the producer's own modules by name, set before those of the camera: where grabbers keep the frame's
    height, the line trigger or the link."""
    frame_id_bits: Literal[16, 32, 64] | None = None
    """Width of the frame ids. Left out: 16 for GigE cameras without extended ids, else 64."""
    open_timeout_s: Annotated[float, Meta(gt=0, le=15)] = 10.0
    """How long the process may take to load the producer, find the camera and set it up, seconds."""


class GentlCamera:
    """A camera behind a GenTL producer; the protocol is in inspector/cameras/__init__.py."""

    def __init__(self, name: str, options: Options) -> None:
        self.ended = False
        self.link = Link()
        self.command: list[str] | None = None
        """Another program than _gentl_child.py, for drills."""
        self._name = name
        self._o = options
        self._feed: Feed | None = None
        self._odometer: Odometer | None = None
        self._height = 0

    @property
    def pid(self) -> int | None:
        """Of the camera's process; None while it is closed."""
        return None if self._feed is None else self._feed.process.pid

    def __enter__(self) -> Self:
        try:
            process = Process(_request(self._o), self.command)
            try:
                self._feed = self._opened(process)
            except BaseException:
                process.stop()
                raise
        except CameraError as error:
            raise CameraError(f"camera {self._name}: {error}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        """The next frame or loss; see inspector/cameras/__init__.py.

        Raises:
            CameraError: the camera is not open, its process is dead, or it is silent for too long.
        """
        if self._feed is None:
            raise CameraError(f"camera {self._name}: read before it was opened; enter it first")
        try:
            return self._feed.read(pool, timeout_s)
        except CameraError as error:
            raise CameraError(f"camera {self._name}: {error}") from None

    def _opened(self, process: Process) -> Feed:
        try:
            ready = msgspec.json.decode(process.ready(self._o.open_timeout_s), type=Ready)
            process.ring.map(ready)
        except (msgspec.MsgspecError, Nonsense):
            raise CameraError("its process talks nonsense") from None
        if self._odometer is None:
            self._odometer, self._height = Odometer(self._o.encoder, ready.height, frame_s(ready)), ready.height
        elif ready.height != self._height:
            raise CameraError(f"Height was {self._height} lines and is {ready.height} now; set height_px")
        return Feed(self._name, self._o, self._o.frame_id_bits, process, ready, self._odometer)


def _request(options: Options) -> Request:
    return Request(
        producers=_producers(options),
        device=None if options.device is None else str(options.device),
        buffers=options.buffers,
        grabber={module: dict(chosen) for module, chosen in options.grabber.items()},
        features=[(option, list(names), value) for option, names, value in features(options)],
        chunk=options.encoder.chunk if options.encoder.source == "chunk" else None,
    )


def _installed() -> list[str]:
    """The producers in the folders of the environment variable."""
    folders = [Path(folder) for folder in os.environ.get(PRODUCERS, "").split(os.pathsep) if folder]
    return [str(path.resolve()) for folder in folders for path in sorted(folder.glob("*.cti"))]


def _producers(options: Options) -> list[str]:
    return [str(options.producer.resolve())] if options.producer is not None else _installed()


def check(options: Options) -> None:
    """Is the producer there, and do the options ask for what can be inspected? Nothing is loaded.

    Raises:
        ConfigError: it is not, or they do not.
    """
    check_pixels("gentl", options)
    if options.producer is not None and not options.producer.is_file():
        raise ConfigError(f"gentl: producer: there is no file {options.producer}. Install the camera's GenTL package")
    if not _producers(options):
        raise ConfigError(f"gentl: no producer: {NONE_INSTALLED}. Set `producer` to the path of the maker's .cti")


def open(name: str, options: Options) -> GentlCamera:
    """A GenTL camera. Nothing is loaded or looked for before it is entered.

    Raises:
        ConfigError: as `check`.
    """
    check(options)
    return GentlCamera(name, options)


def discover(timeout_s: float) -> list[Found]:
    """The devices of all producers in GENICAM_GENTL64_PATH, each producer asked in a process of its own, all at once.

    Producers for GigE cameras BROADCAST on every network card. One that fails or takes longer than `timeout_s` seconds
    is logged, and hides none of the others.

    Raises:
        ConfigError: there is no producer to ask.
    """
    if not _installed():
        raise ConfigError(f"{NONE_INSTALLED}; set it, as the maker's installer does (sudo takes it away: sudo -E)")
    deadline = time.monotonic() + timeout_s
    look_ms = max(100, round(timeout_s * 500))
    asked: list[tuple[str, Process]] = []
    found: list[Found] = []
    try:
        for path in _installed():  # not in one expression: those that run must be known when one fails
            process = Process(Request(producers=[path], discover_ms=look_ms))
            asked.append((path, process))
        for path, process in asked:
            try:
                listed = msgspec.json.decode(process.ready(max(0.1, deadline - time.monotonic())), type=list[Listed])
                found += [_found(path, device) for device in listed]
            except (CameraError, msgspec.MsgspecError) as error:
                log.warning(
                    "gentl: the devices of %s cannot be listed: %s", path, error, extra=as_kind(LogKind.PRODUCER)
                )
    finally:
        for _, process in asked:
            process.stop()
    return found


def _found(producer: str, device: Listed) -> Found:
    name = device.names[0] if device.names else ""
    notes = [device.user_name, f"on {device.interface}", "" if device.free else "in use by another program"]
    return Found(
        kind="gentl",
        address=name,
        vendor=device.vendor,
        model=device.model,
        serial=device.serial,
        detail=", ".join(note for note in notes if note),
        options={"producer": producer, "device": name},
    )
