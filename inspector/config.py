"""The YAML of a line as closed types. `load()` names the wrong key and how to mend it.

Every field is documented beneath itself, with its unit; so this file is the reference of every setting.
Options of cameras, runtimes and sinks are closed too, but belong to their adapters (see adapters.py).
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import yaml
from msgspec import Meta

from inspector.errors import ConfigError
from inspector.records import WhenFull

T = TypeVar("T")

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
AtLeast0 = Annotated[float, Meta(ge=0, le=1e12)]
Finite = Annotated[float, Meta(ge=-1e9, le=1e9)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
AtLeast1 = Annotated[int, Meta(ge=1)]
FewFrames = Annotated[int, Meta(ge=1, le=10_000)]
Frames = Annotated[int, Meta(ge=0, le=100_000_000)]
Queue = Annotated[int, Meta(ge=1, le=1_000_000)]
Index = Annotated[float, Meta(gt=0, le=20)]
Times = Annotated[float, Meta(gt=1, le=1e6)]


class Closed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every section: an unknown key is an error."""


class Pitch(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    along: Positive = 0.5
    """Millimetres of strip in one line of the frame."""
    across: Positive = 0.5
    """Millimetres of strip in one pixel of a line."""


class CameraConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    """Name in events, metrics and the ledger."""
    kind: str
    """The camera adapter: a module of inspector/cameras."""
    pitch_mm: Pitch = Pitch()
    """Size of a pixel on the strip."""
    offset_mm: Finite = 0.0
    """Where the frame's column 0 lies across the strip, from the line's reference edge."""
    flat_field: Path | None = None
    """A .npz file with per-column `offset` and `gain`, which `inspector calibrate` makes; without it pixels are taken
    as they are."""
    overlap_lines: Annotated[int, Meta(ge=0, le=16_384)] = 0
    """So many of its last lines a frame shares with the next one, which shows them again at its top, so that a defect
    on the seam of two frames is seen whole. Best so many that they and the camera's own lines make the height of the
    pack's tiles: 32 with frames of 224 lines for tiles of 256."""
    silent_s: Positive | None = None
    """A camera that gives no frame for this long, seconds, is taken for dead and opened again. Left out: never, as a
    camera that an encoder triggers is silent while the strip stands."""
    options: dict[str, Any] = {}
    """Settings of the adapter."""


class EdgeConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    detect: bool = True
    """Look for the strip's edges in every frame; what is beyond them is never a defect."""
    dark_level: Annotated[int, Meta(ge=0, le=255)] = 14
    """A column whose mean grey is below this is not strip, if it lies outermost."""
    margin_px: Annotated[int, Meta(ge=0)] = 4
    """This much of the strip beside a found edge is left out too."""
    blind_frames: AtLeast1 = 8
    """After so many frames in a row that show no strip at all (lamp out, lens covered, strip out of view) the camera is
    told to be blind by a state event: its frames count as inspected, but there was nothing to see."""


class ViewConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well each camera sees is watched; what is wrong for two windows on end is told by a state event."""

    watch: bool = True
    """Watch all that follows. That a camera sees strip at all is watched anyway: see `edges.blind_frames`."""
    window_frames: Annotated[int, Meta(ge=8, le=1000)] = 32
    """Frames that are put together for one look."""
    dark_below: Fraction | None = 0.21
    """`dark`: even the brightest 0.1 % of the strip stays below this share of full scale; null: not watched. Dark steel
    is far above, as it has bright spots too; with the lamp at a fifth nothing can be above."""
    glare_above: Fraction | None = 0.5
    """`glare`: more than this share of the strip is saturated; null: not watched."""
    focus_below: Fraction | None = 0.1
    """`out of focus`: the finest detail is weaker than this against the coarser (metric `camera_focus_ratio`); null:
    not watched. Sharp steel has 0.12 to 0.6, an image blurred by 2 px (standard deviation) 0.07 to 0.1."""
    column_off: Fraction | None = 0.15
    """`dead columns`: the level of columns is off that of their neighbours by more than this share, or they do not
    vary along the strip; null: not watched."""
    column_frames: Annotated[int, Meta(ge=8, le=1_000_000)] = 1024
    """Columns are told only after so many frames: a scratch along the strip looks the same, but ends."""
    strip_below: Fraction | None = None
    """`little strip`: less than this share of the frame's width is strip on average; null: not watched."""


class DriftConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the frames of each camera slowly become others than they were: told by a state event, `about: drift`.

    They are compared with what the camera showed first, which is learnt and kept beside the journal; metrics show how
    far they are from the pack's reference as well. docs/drift.md says how the bounds were chosen.
    """

    watch: bool = True
    """Watch all that follows."""
    window_frames: Annotated[int, Meta(ge=80, le=10_000_000)] = 200_000
    """The newest frames, of each camera, that are compared: enough for many coils, or each steel looks like drift.
    200,000 of the reference format are 26 km of strip, 43 minutes at 10 m/s."""
    learn_windows: Annotated[int, Meta(ge=2, le=200)] | None = 20
    """So many windows are learnt first (20: 14 hours at 10 m/s), over restarts, with each pack anew; nothing is told
    meanwhile. null: nothing is learnt, and drift from the pack's reference is told: for a pack that has one made on
    frames of this line."""
    gate_score: Index | None = 0.25
    """`off in gate scores`: the distribution of gate scores is farther than this from what it was (population stability
    index, see inspector/census.py); null: not watched."""
    brightness: Index | None = 0.25
    """`off in brightness`: the same of the mean grey of each frame's strip; null: not watched."""
    passed: Times | None = 3.0
    """`off in pass rate`: more than so many times as many frames pass the gate as did, or as few; null: not watched."""
    alarmed: Times | None = 3.0
    """`off in alarm rate`: the same of frames that show a defect; null: not watched."""


class BatchConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    size: FewFrames = 8
    """Frames that go through the cascade together at most."""
    deadline_ms: Positive = 20.0
    """A batch leaves at the latest when its oldest frame has waited this long."""


class RuntimeConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: str = "onnx"
    """The runtime adapter: a module of inspector/runtimes."""
    options: dict[str, Any] = {}
    """Settings of the adapter."""


class SeverityRule(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    severity: Name
    """The severity that the rule gives."""
    classes: list[int] = []
    """Class numbers it holds for; empty: all."""
    min_area_mm2: AtLeast0 = 0.0
    """Least area, square millimetres."""
    min_length_mm: AtLeast0 = 0.0
    """Least extent along the strip, millimetres."""
    min_score: Fraction = 0.0
    """Least score."""
    within_mm_of_edge: AtLeast0 | None = None
    """Only defects whose box comes this close to a found strip edge, millimetres."""


DEFAULT_RULES = (
    SeverityRule(severity="critical", classes=[4], min_area_mm2=2000.0),
    SeverityRule(severity="critical", min_length_mm=400.0),
    SeverityRule(severity="major", min_area_mm2=500.0),
)


class GradingConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    severity: list[SeverityRule] = msgspec.field(default_factory=lambda: list(DEFAULT_RULES))
    """Rules, tried from the top; the first that holds gives the severity."""
    default_severity: Name = "minor"
    """The severity when no rule holds."""
    merge_px: Annotated[int, Meta(ge=0, le=64)] = 12
    """Pieces of one class with at most so many blank pixels between them, along rows, columns or diagonally, are one
    defect, within a frame and over the seam of two frames."""
    join_frames: FewFrames = 16
    """A defect that spans more frames is cut into several events, each but the last with `continues: true`."""
    unmeasured_severity: Name = "unmeasured"
    """The severity of a defect that was not segmented (see `overload`): no rule can judge a size that nobody knows. A
    word of its own unless it is set to one of the rules'."""
    thumbnails: bool = True
    """Keep a small picture of each defect in the journal."""


class JournalConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Path
    """The SQLite file; its folder must be writable."""
    synchronous: bool = True
    """Force every commit to the disk: safe against a power cut, not only against a crash of the daemon."""
    keep_gb: Positive | None = 20.0
    """When the journal holds more, gigabytes (10^9 bytes), its oldest closed coils are deleted; null: never."""
    keep_days: Positive | None = None
    """Coils that ended longer ago are deleted, days; null: never. The coil on the line is never deleted."""


class HistoryConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The history (replay) socket: a subscriber that missed events gets them from the journal here."""

    address: str = "tcp://127.0.0.1:5571"
    """Where clients ask: tcp://HOST:PORT (`*`: any free port) or ipc:///PATH."""
    keys: Path | None = None
    """Folder that `inspector keys` made: only clients with a key in it are let in. Needed on a public address."""
    events_per_s: Annotated[int, Meta(ge=100, le=1_000_000)] = 10_000
    """Events read from the journal a second at most, for all clients together, so that the line is never slowed."""


class ControlConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control socket: the plant names coils here."""

    address: str = "ipc:///run/inspector/control"
    """Where clients ask: ipc:///PATH, open to the daemon's user and group, or tcp://HOST:PORT, which needs `keys`."""
    keys: Path | None = None
    """Folder that `inspector keys` made: only clients that may `control` are let in."""


class SinkConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name | None = None
    """Name in metrics; the kind when left out."""
    kind: str
    """The sink adapter: a module of inspector/sinks."""
    queue: Queue = 10_000
    """Events that wait for a slow sink; when more come the oldest are counted undelivered (they are journalled)."""
    required: bool = False
    """The line waits for this sink and ends when it fails, as for the events file of a replay."""
    options: dict[str, Any] = {}
    """Settings of the adapter."""

    @property
    def label(self) -> str:
        return self.name or self.kind


class MonitorConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    """Address that /metrics, /healthz and /readyz are served on."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 9464
    """Its port; 0: any free one (printed at start)."""


class RecordingConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raw frames on disk: a rolling window of all, and what lies around each severe defect and each loss for longer."""

    path: Path
    """A folder of its own; it is made when it is missing."""
    window_gb: Positive = 20.0
    """What the window holds at most, gigabytes (10^9 bytes), all cameras together; its oldest is deleted first."""
    before_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    """So much before a severe defect or a loss is kept, seconds, as far as the window reaches back."""
    after_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    """So much behind it is kept, seconds. Both are rounded up to whole pieces of the window (`segment_s`)."""
    severities: list[Name] = msgspec.field(default_factory=lambda: ["critical"])
    """Defects of these severities are kept; empty: none."""
    losses: bool = True
    """Whatever becomes a gap is kept too, and the death of a camera."""
    keep_gb: Positive = 20.0
    """What is kept is at most so much, gigabytes; the oldest is deleted first."""
    queue_frames: FewFrames = 128
    """Frames of all cameras that wait for the disk at most, in memory (not less than two for each camera); more are not
    recorded, and counted."""
    segment_s: Annotated[float, Meta(gt=0, le=600)] = 4.0
    """The window consists of pieces of so many seconds."""


class OverloadConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out, in order, while the line is behind; never with `line.when_full: wait`. See docs/overload.md."""

    too_old_ms: Positive | None = None
    """The line is behind when frames have waited longer than this since they arrived, milliseconds, before the networks
    take them, or when half of `line.queue` is full. Left out: three times `line.deadline_ms`."""
    young_ms: Positive | None = None
    """It has caught up when they have waited for less than this, milliseconds. Left out: half of `too_old_ms`."""
    up_after_ms: Positive = 250.0
    """It goes a step up when it was behind for so long, milliseconds, and did not catch up; in a fifth of that while
    three quarters of `line.queue` are full."""
    down_after_s: Positive = 5.0
    """It goes a step down when it had caught up for so long, seconds. If that proves too early, it stays twice as long
    on that step before it leaves it again, and so on."""
    down_after_most_s: Positive = 120.0
    """But never longer than this, seconds."""
    wide_batch: FewFrames | None = None
    """Step 1: frames that go through the networks together at most. Left out: twice `batch.size`. A GPU gains much by
    wide batches, a CPU next to nothing."""


class PacksConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another pack on a running line: how long it is tried, on what, and what sends it back."""

    folder: Path | None = None
    """Where staged packs lie, what the daemon remembers of them, and samples of differences. The daemon writes here.
    Left out: the folder `packs` beside the journal."""
    shadow_frames: Frames = 500
    """Before a new pack takes over it is compared with the one on duty on so many of the line's frames; 0: on none."""
    shadow_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """The comparison lasts so long at least, seconds."""
    shadow_share: Annotated[float, Meta(gt=0, le=1)] = 0.05
    """Share of the frames that both packs judge, in shadow and while a new pack is watched. On a CPU a tenth costs
    about a tenth of what the line can do; while no worker is idle, none."""
    watch_frames: Frames = 500
    """After it took over it is watched on so many frames, with the old pack ready to come back; 0: on none."""
    watch_s: Annotated[float, Meta(ge=0, le=1e6)] = 60.0
    """It is watched so long at least, seconds."""
    alarm_factor: Annotated[float, Meta(ge=1, le=1e6)] = 2.0
    """The share of frames on which the new pack finds a defect may be so many times that of the old pack on the same
    frames at most, and one part in so many at least,"""
    alarm_margin: Fraction = 0.02
    """give or take this share of all frames."""
    time_factor: Annotated[float, Meta(ge=1, le=1e6)] = 1.5
    """Its networks may take so many times the old pack's time at most, on the same frames."""
    late_margin: Fraction = 0.05
    """After the swap the share of frames that are later than `line.deadline_ms`, or that are lost or inspected less
    deeply as the line is behind (see `overload`), may rise by so much at most."""
    patience_s: Annotated[float, Meta(gt=0, le=1e6)] = 3600.0
    """A comparison that has not seen its frames after so long, as the line is too busy, sends the new pack back,
    seconds. Time in which no frames come does not count."""
    sample_frames: Annotated[int, Meta(ge=0, le=100_000)] = 100
    """Frames on which the packs differ that are written to disk, for each change."""


class LineConfig(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    """Name of the line in topics and in the events' source."""
    coil: str = "unknown"
    """Number of the coil on the line at start."""
    mm_per_count: Positive = 0.5
    """Strip travel in one encoder count, millimetres."""
    queue: Queue = 64
    """Frames that wait for the line at most."""
    when_full: WhenFull = WhenFull.DROP_OLDEST
    """`drop_oldest` for cameras, which cannot wait; `wait` for recordings, so that no frame is lost."""
    deadline_ms: Positive = 100.0
    """Frames whose events went out later than this after the exposure are counted as late."""
    heartbeat_s: Annotated[float, Meta(gt=0, le=3)] = 1.0
    """Seconds between heartbeats; clients take 5 s without one for silence."""


class Config(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    line: LineConfig
    """The line as a whole: its name, its encoder, what may wait."""
    pack: Path
    """Folder of the engines, e.g. engines/severstal. A pack that took over later (see `packs`) is remembered over a
    restart until this key is changed."""
    cameras: Annotated[list[CameraConfig], Meta(min_length=1)]
    """The cameras, one for each lane of the strip."""
    runtime: RuntimeConfig = RuntimeConfig()
    """What the networks run on."""
    edges: EdgeConfig = EdgeConfig()
    """Where the strip ends in a frame."""
    view: ViewConfig = ViewConfig()
    drift: DriftConfig = DriftConfig()
    batch: BatchConfig = BatchConfig()
    """How many frames go through the networks together."""
    grading: GradingConfig = GradingConfig()
    """From what the networks found to defects with a severity."""
    journal: JournalConfig
    """Where every event is durable before anybody hears of it, and how long it is kept."""
    sinks: list[SinkConfig] = []
    """Where events go as they come; the journal has them in any case."""
    history: HistoryConfig | None = None
    """Left out or null: no history socket, so subscribers cannot repair holes."""
    control: ControlConfig | None = None
    """Left out or null: no control socket."""
    monitor: MonitorConfig | None = MonitorConfig()
    """Left out: the default address; null: no monitor at all."""
    recording: RecordingConfig | None = None
    """Left out or null: raw frames are not recorded."""
    overload: OverloadConfig | None = OverloadConfig()
    """Null: nothing is left out but whole frames."""
    packs: PacksConfig = PacksConfig()

    @property
    def packs_folder(self) -> Path:
        """Where staged packs lie."""
        return self.packs.folder or self.journal.path.parent / "packs"


def load(path: Path) -> Config:
    """Read and validate a YAML file; relative paths in it are taken from its folder.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or a key in it is unknown or wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}. Name a readable YAML file") from None
    try:
        raw = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the 13th month of a date
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        found = "is empty" if raw is None else f"holds a {type(raw).__name__}"
        raise ConfigError(f"{path}: the file {found}; it must hold keys such as `line:`, `pack:` and `cameras:`")
    try:
        config = convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Config)}") from None
    return _anchored(_unique(config, path), path.parent)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would keep the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    text = f"the key `{key.value}` stands twice"
                    raise yaml.composer.ComposerError(None, None, text, key.start_mark)
                seen.add(key.value)
        return node


def convert(raw: Any, model: type[T]) -> T:
    """Plain YAML values as the typed `model`; paths are allowed in it. Raises msgspec.ValidationError."""
    return msgspec.convert(raw, model, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    # msgspec adds the key's path to a TypeError, not to an error of its own.
    raise TypeError(f"Expected `{'path' if kind is Path else kind.__name__}`, got `{value!r}`")


def _unique(config: Config, path: Path) -> Config:
    for where, names in (
        ("cameras", [camera.name for camera in config.cameras]),
        ("sinks", [sink.label for sink in config.sinks]),
    ):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ConfigError(f"{path}: {where}: the name {sorted(twice)[0]!r} is used twice; give each its own `name`")
    return config


def _anchored(config: Config, folder: Path) -> Config:
    """Paths relative to the file's folder, so that the daemon may be started from anywhere."""
    cameras = [
        msgspec.structs.replace(c, flat_field=folder / c.flat_field) if c.flat_field else c for c in config.cameras
    ]
    journal = msgspec.structs.replace(config.journal, path=folder / config.journal.path)
    recording = config.recording
    if recording is not None:
        recording = msgspec.structs.replace(recording, path=folder / recording.path)
    packs = config.packs
    if packs.folder is not None:
        packs = msgspec.structs.replace(packs, folder=folder / packs.folder)
    return msgspec.structs.replace(
        config,
        pack=folder / config.pack,
        cameras=cameras,
        journal=journal,
        history=_with_keys(config.history, folder),
        control=_with_keys(config.control, folder),
        recording=recording,
        packs=packs,
    )


Keyed = TypeVar("Keyed", HistoryConfig | None, ControlConfig | None)


def _with_keys(section: Keyed, folder: Path) -> Keyed:
    if section is None or section.keys is None:
        return section
    return msgspec.structs.replace(section, keys=folder / section.keys)


def explain(error: msgspec.ValidationError, model: Any, within: str = "") -> str:
    """A validation error as `path.of.key: what is wrong; known keys`, with the likely key for a typing slip.

    `within` is the path of the section that was converted to `model`.
    """
    text = str(error)
    found = re.match(r"(?s)(.*?)(?: - at (`key` in )?`\$(.*?)`)?\Z", text)
    message, key, where = found.groups(default="") if found else (text, "", "")
    where = where.lstrip(".")
    unknown = re.match(r"Object contains unknown field `(.*)`", message)
    if unknown:
        known = sorted(_keys_at(model, where))
        close = difflib.get_close_matches(unknown.group(1), known, n=1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        message = f"unknown key `{unknown.group(1)}`.{hint} Known keys here: {', '.join(known)}"
    elif key:
        message = f"a key here is wrong: {message}"
    elif re.match(r"Expected `str`, got `(int|float|bool|date|datetime)`", message):
        message += ". Put it in quotes"
    return f"{'.'.join(part for part in (within, where) if part) or 'top level'}: {message}"


def _keys_at(model: Any, where: str) -> list[str]:
    """The keys of the struct that a msgspec path such as `cameras[...].pitch_mm` leads to."""
    info: Any = msgspec.inspect.type_info(model)
    for part in re.findall(r"[A-Za-z_]\w*|\[[^\]]*\]", where):
        info = _step(info, part)
    info = _plain(info)
    return [field.encode_name for field in getattr(info, "fields", [])]


def _step(info: Any, part: str) -> Any:
    info = _plain(info)
    if part.startswith("["):
        return getattr(info, "item_type", None) or getattr(info, "value_type", info)
    return next((f.type for f in getattr(info, "fields", []) if f.encode_name == part), info)


def _plain(info: Any) -> Any:
    """Looks through `X | None` to X."""
    types = getattr(info, "types", None)
    if types:
        return next((t for t in types if hasattr(t, "fields") or hasattr(t, "item_type")), types[0])
    return info
