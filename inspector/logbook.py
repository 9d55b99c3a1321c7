"""The log: every warning has a kind, which is counted, and says in fields what its words say of camera, stage and line.

    log.warning("camera %s is back", name, extra=as_kind(LogKind.CAMERA_BACK, camera=name))

Under systemd the log goes to its journal with these fields (`journalctl INSPECTOR_KIND=camera_down`), else the same
words go to standard error. What is said again and again is not: the count goes on, the log has how many there were.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from inspector.journald import Journald, listens

FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
BURST = 10
"""So many lines of one kind about one thing go to the log ..."""
WINDOW_S = 60.0
"""... in so many seconds; the next one after that says how many were left out."""
ABOUT = "CAMERA", "STAGE", "SINK", "PART", "MEASURE"
"""Fields that tell one thing from another."""
NAMESPACE = uuid.UUID("6f0dd8a4-2c36-4c64-9a29-4a3b5f9f7f0e")


class LogKind(StrEnum):
    """What a line of the log is about. Closed: it labels a metric."""

    # ---- the daemon
    CONFIGURATION = "configuration"
    """A setting or a file is wrong; the daemon ends with 78 and stays stopped. Mend what is named, then start it."""
    START_FAILED = "start_failed"
    """The line could not be started for another reason; systemd tries again. Mend what is named."""
    STAGE_FAILED = "stage_failed"
    """A stage failed and the daemon ends with 1; systemd starts it again. Repeated: send INSPECTOR_TRACE to us."""
    STAGE_HANGS = "stage_hangs"
    """A stage makes no progress; systemd kills and restarts the daemon. INSPECTOR_TRACE says where it hangs: in a
    driver, at a disk, at a network share."""
    STAGE_GOES_ON = "stage_goes_on"
    """It makes progress again. Repeated: look for a slow disk or a processor that others use."""
    DRAIN_FAILED = "drain_failed"
    """A stopping line did not finish what it held in its time; the frames are booked as lost. Look at what it names."""
    SERVER_FAILED = "server_failed"
    """Monitor, history, control or recording ended; the line goes on without it. Restart when the strip allows."""

    RELOAD_REFUSED = "reload_refused"
    """The YAML that was to be read again is wrong; the line runs on as it was. Mend what is named, reload again."""
    RELOAD_WAITS = "reload_waits"
    """What was changed in the YAML cannot change while the line runs. Restart when the strip allows."""
    PACK_CHANGE = "pack_change"
    """A change of the pack could not be begun or carried through; the old one stays on duty. docs/packs.md."""
    PACK_NOT_AS_BEFORE = "pack_not_as_before"
    """The pack that was on duty cannot be: the line started with the one of `pack:`. Stage it again."""
    PACK_NOT_KEPT = "pack_not_kept"
    """Which pack is on duty cannot be written down: a restart would not know of it. Look at the disk."""
    PACK_SAMPLES = "pack_samples"
    """What a new pack judged otherwise cannot be written down. Look at `packs.folder`."""
    PACK_REPLACED = "pack_replaced"
    """A staged pack was damaged on the disk and was replaced. Repeated: the disk."""

    # ---- cameras
    CAMERA_DOWN = "camera_down"
    """A camera is gone: its lane is not inspected. Look at power, cable and link; it comes back by itself."""
    CAMERA_STILL_DOWN = "camera_still_down"
    """It is down for another reason than before."""
    CAMERA_BACK = "camera_back"
    """It delivers again. Repeated: a cable, a connector or a power supply that is loose."""
    CAMERA_NOT_CLOSED = "camera_not_closed"
    """A driver refused to let a camera go. If the next start cannot open it: switch the camera off and on."""
    FRAMES_LOST = "frames_lost"
    """Frames did not arrive whole; each is a gap. docs/cameras.md names the causes of each reason."""
    LINE_BEHIND = "line_behind"
    """The line is slower than its cameras and frames were dropped; each is a gap. docs/sizing.md; another load here?"""
    OVERLOAD = "overload"
    """The line leaves out what it says, as it is behind, or does everything again. Repeated: docs/sizing.md."""
    ENGINES_WAIT = "engines_wait"
    """Another runtime serves, as the one that `runtime:` names cannot be opened yet. Do what it says. docs/gpu.md."""
    ENGINES_FAILED = "engines_failed"
    """A runtime cannot be opened, or failed when it took over; the one before it serves. docs/gpu.md."""
    NO_GRAPHS = "no_graphs"
    """A network runs on the GPU without CUDA graphs: right, but slower. docs/gpu.md."""
    FRAMES_NOT_LOCKED = "frames_not_locked"
    """A GPU cannot read frames where they lie: right, but slower. Lower `line.queue` or free memory. docs/gpu.md."""
    PACKETS_AT_RISK = "packets_at_risk"
    """GigE without raw sockets and with small buffers: `install.py upgrade --extras gige`, or the sysctl named."""
    ENCODER_MISSING = "encoder_missing"
    """Frames come without the encoder's value and lines are counted instead. Look at the encoder and its setting."""
    PRODUCER = "producer"
    """The devices of a GenTL producer cannot be listed. Look at its installation."""
    DRIVER_HELD = "driver_held"
    """The process of a GenTL camera does not end: its driver holds it. Reboot when the strip allows."""
    DRIFTS = "drifts"
    """What a camera shows, or how it is judged, is no longer as usual: light, lens, product or pack have changed."""
    AS_USUAL = "as_usual"
    """It is as usual again."""
    BASELINE = "baseline"
    """What is usual cannot be read or kept. Make room, mend the rights; it is learnt anew."""

    # ---- the journal, sinks, recording
    JOURNAL_DOWN = "journal_down"
    """The journal cannot be written; events wait in memory. Make room or mend the disk before anything restarts it."""
    JOURNAL_BACK = "journal_back"
    """The journal can be written again; what waited is in it."""
    JOURNAL_OVER = "journal_over"
    """It holds more than `keep_gb` and no closed coil is left to delete: raise it, or tell the line of its coils."""
    JOURNAL_RETENTION = "journal_retention"
    """Old coils cannot be deleted. Look at the disk."""
    JOURNAL_MIGRATED = "journal_migrated"
    """A journal of an older format became one of this; older releases can no longer read it."""
    EVENTS_UNWRITTEN = "events_unwritten"
    """Events of an earlier run were sent and never written; subscribers were told so. The disk was full at a kill."""
    MARKS = "marks"
    """The file beside the journal cannot be kept: a kill while the disk is full would hide events. Look at the disk."""
    HISTORY = "history"
    """Subscribers cannot be given what they missed, as the journal cannot be read. Look at the disk."""
    SINK_DOWN = "sink_down"
    """A sink cannot deliver; its events are in the journal. Look at what it names."""
    SINK_BACK = "sink_back"
    """It delivers again."""
    RECORDING_DOWN = "recording_down"
    """Frames cannot be recorded; they are inspected all the same. Make room, or put the disk back."""
    RECORDING_BACK = "recording_back"
    """Frames are recorded again."""
    RECORDING_SLOW = "recording_slow"
    """The disk was too slow for some frames; they are inspected, not recorded. Take a faster disk."""
    RECORDING_ROOM = "recording_room"
    """The recording may grow larger than its disk: lower `window_gb` or `keep_gb`, or make room."""
    RECORDING_DELETED = "recording_deleted"
    """A kept recording was deleted to make room for newer ones. Raise `recording.keep_gb`."""

    # ---- those who ask
    REQUEST_FAILED = "request_failed"
    """The daemon could not answer a request, through no fault of who asked. Repeated: send the line to the makers."""
    TURNED_AWAY = "turned_away"
    """Somebody was not let in, or cut for what they sent: a client without its key, or a stranger."""
    KEYS = "keys"
    """A file of keys cannot be read; the keys known before hold. Mend it with `inspector keys`."""

    # ---- subscribers and bridges: processes of their own, not counted by the daemon
    CLIENT_SILENT = "client_silent"
    """A subscriber hears no heartbeat, or gets no history. Is the daemon running, is the network up?"""
    CLIENT_BACK = "client_back"
    """It hears the daemon again."""
    CLIENT_UNKNOWN = "client_unknown"
    """What came is of a newer daemon, or no answer. Bring the client up to date."""
    BRIDGE_DOWN = "bridge_down"
    """A broker cannot be reached, or takes nothing; events wait."""
    BRIDGE_BACK = "bridge_back"
    """The broker takes events again."""
    BRIDGE_REFUSED = "bridge_refused"
    """The broker does not take a message as it is: raise its limits."""
    BRIDGE_PLACE = "bridge_place"
    """A bridge does not know what it has forwarded already, or leaves before all was acknowledged."""
    BRIDGE_TROUBLE = "bridge_trouble"
    """What the bridge reads from is silent, or events are lost for good: then the broker has been told."""


COUNTED = tuple(kind for kind in LogKind if not kind.startswith(("client_", "bridge_")))
"""Those that the daemon's metrics count."""


def as_kind(kind: LogKind, **fields: object) -> dict[str, object]:
    """For `extra=` of a line of the log: its kind, and in fields what it is about: `camera`, `stage`, `reason`."""
    own = {f"INSPECTOR_{name.upper()}": str(value) for name, value in fields.items()}
    message_id = uuid.uuid5(NAMESPACE, kind).hex
    return {"kind": kind, "journal": {"MESSAGE_ID": message_id, "INSPECTOR_KIND": str(kind), **own}}


class Count(logging.Handler):
    """Calls `count` with the kind of each warning and error."""

    def __init__(self, count: Callable[[LogKind], None]) -> None:
        super().__init__(logging.WARNING)
        self._count = count

    def emit(self, record: logging.LogRecord) -> None:
        kind = getattr(record, "kind", None)
        if kind is not None:
            self._count(kind)


@contextmanager
def counted(count: Callable[[LogKind], None]) -> Iterator[None]:
    """Within, `count` is called with the kind of each warning and error, whether or not the log has it."""
    handler, log = Count(count), logging.getLogger("inspector")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class Calm(logging.Filter):
    """Lets BURST lines of one kind about one thing through in WINDOW_S; lines without a kind always."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[object, tuple[float, int]] = {}
        """What -> (since when, how often)."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = getattr(record, "kind", None)
        if kind is None:
            return True
        own: dict[str, str] = getattr(record, "journal", {})
        names = (*ABOUT, *(["REASON"] if kind is LogKind.FRAMES_LOST else []))  # other reasons have figures in them
        about = (kind, *(own.get(f"INSPECTOR_{name}") for name in names))
        since, said = self._said.get(about, (self._clock(), 0))
        if self._clock() - since >= WINDOW_S:
            if said > BURST:
                record.msg, record.args = f"{record.getMessage()} (and {said - BURST} such lines before)", None
            since, said = self._clock(), 0
        self._said[about] = (since, said + 1)
        return said < BURST


class Plain(logging.Formatter):
    """A line, and beneath it where a stage hangs."""

    def format(self, record: logging.LogRecord) -> str:
        trace = getattr(record, "journal", {}).get("INSPECTOR_TRACE", "")
        return "\n".join(filter(None, [super().format(record), trace]))


def setup(verbose: bool = False) -> None:
    """To the journal of systemd, if standard error goes there, else to standard error."""
    handler: logging.Handler = Journald("inspector") if listens() else logging.StreamHandler(sys.stderr)
    handler.setFormatter(Plain(FORMAT))
    handler.addFilter(Calm())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])


def about(line: str) -> None:
    """From now on every line of the log belongs to this line of the plant."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Journald):
            handler.common["INSPECTOR_LINE"] = line
