"""recording/: what the daemon records gives the same events again; what it keeps and deletes, and a bad disk."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from inspector import journal, pack
from inspector.__main__ import main
from inspector.cameras import _recorded, replay
from inspector.coils import START, CoilMap
from inspector.config import Config, convert
from inspector.errors import ConfigError
from inspector.events import Event, Heartbeat, State, as_json
from inspector.flatfield import FlatField
from inspector.metrics import Metrics
from inspector.pipeline import Line, build
from inspector.pool import Pool
from inspector.recording import Recording
from inspector.recording.played import find
from inspector.records import Frame, Graded, Loss
from tests.disks import room_for
from tests.packs import TILE, make_pack, paint

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def filmed(name: str = "a", **options: Any) -> dict[str, Any]:
    """A camera over a strip whose frames nearly all have defects, some of them over the seams."""
    chosen = {
        "width_px": 3 * TILE[1],
        "height_px": 2 * TILE[0],
        "frames": 60,
        "pace": "free",
        "look": "ribbed",
        "seed": 5,
        "rates_per_m": {1: 60, 2: 20, 3: 60, 4: 30},
        **options,
    }
    return {"name": name, "kind": "synthetic", "options": chosen}


def line_of(folder: Path, engines: Path, *cameras: dict[str, Any], **sections: Any) -> Config:
    """A lossless line that records into FOLDER/rec."""
    recording = {"path": str(folder / "rec"), "segment_s": 0.05, "queue_frames": 2000, **sections.pop("recording", {})}
    raw = {
        "line": {"name": "hot", "coil": "C0", "when_full": "wait", "queue": 4, **sections.pop("line", {})},
        "pack": str(engines),
        "cameras": list(cameras),
        "edges": {"margin_px": 3},
        "grading": {"merge_px": 5, "default_severity": "slight"},
        "journal": {"path": str(folder / "journal.db"), "synchronous": False},
        "monitor": None,
        "recording": recording,
        **sections,
    }
    return convert(raw, Config)


def run(config: Config, before: Callable[[Line], None] = lambda line: None) -> Line:
    """Run a line until its strip ends; `before` it is started."""
    line = build(config)
    before(line)
    with line:
        assert line.crew.join(PATIENCE_S) == []
    assert line.crew.failure is None
    assert journal.audit(config.journal.path).problems == []
    return line


def told(events: list[Event]) -> dict[str, list[bytes]]:
    """Topic -> the data of its events, but for what a replay cannot tell: heartbeats, and what the recording did.

    States are sorted: cameras and grading tell theirs from threads of their own.
    """
    found: dict[str, list[bytes]] = {}
    for event in events:
        if isinstance(event.data, Heartbeat) or (isinstance(event.data, State) and event.data.part == "recording"):
            continue
        found.setdefault(event.subject, []).append(as_json(event.data))
    return {topic: sorted(data) if topic.startswith("state/") else data for topic, data in found.items()}


def live(config: Config) -> dict[str, list[bytes]]:
    return told(list(journal.read_events(config.journal.path)))


def replayed(tmp_path: Path, engines: Path, *sources: Path, **options: Any) -> dict[str, list[bytes]]:
    """`inspector replay` of recordings, from the command to the journal that it leaves."""
    path = tmp_path / f"replay-{time.monotonic_ns()}.db"
    extra = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    assert main(["replay", *map(str, sources), "--pack", str(engines), "--journal", str(path), *extra]) == 0
    assert journal.audit(path).problems == []
    return told(list(journal.read_events(path)))


def same(ours: dict[str, list[bytes]], theirs: dict[str, list[bytes]]) -> None:
    """Topic by topic, event by event."""
    assert ours.keys() == theirs.keys()
    for topic, events in ours.items():
        for number, (one, other) in enumerate(zip(events, theirs[topic], strict=False)):
            assert one == other, f"{topic} {number}"
        assert len(events) == len(theirs[topic]), topic


# ---------------------------------------------------------------- the same events


def test_a_replay_gives_the_events_of_the_line(tmp_path: Path, engines: Path) -> None:
    """A flat-field, frames that share lines, some that the camera lost, and a camera that died twice and came back."""
    FlatField(np.full(192, 3), np.linspace(0.9, 1.2, 192)).save(tmp_path / "flat.npz")
    camera = filmed(skip_frames=[7, 8, 30], die_at_frame=20, die_times=2, counts_per_line=3, first_encoder_count=900)
    camera |= {"flat_field": str(tmp_path / "flat.npz"), "offset_mm": 12.5, "pitch_mm": {"along": 0.75, "across": 0.3}}
    camera |= {"overlap_lines": 20}
    config = line_of(tmp_path, engines, camera, line={"mm_per_count": 0.25})
    run(config)
    ours = live(config)
    assert len(ours) == 7  # 4 classes, gaps, states, coils
    (tmp_path / "flat.npz").unlink()  # the recording has its own
    same(ours, replayed(tmp_path, engines, tmp_path / "rec" / "window"))


def at(line: Line, *steps: tuple[int, Callable[[], object]]) -> None:
    """Each step is taken, in grading's thread, when the strip has been graded up to its frame of 64 counts."""
    left = list(steps)

    def look(_: Graded) -> None:
        while left and (line.coils.graded or 0) >= 64 * left[0][0]:
            left.pop(0)[1]()

    line.looks.append(look)


def tell_coils(line: Line) -> None:
    """Early, late, a strip that stands, an end, and in time."""
    coils = line.coils
    at(
        line,
        (1, lambda: coils.start("EARLY", 64 * 60)),
        (40, lambda: coils.start("LATE", 64 * 20)),
        (80, lambda: line.plant.line_stop("test")),
        (110, lambda: coils.end(64 * 100)),
        (110, lambda: coils.start("LAST", 64 * 130 + 7)),
    )


def test_coils_that_are_told_of_early_late_and_a_strip_that_stands(tmp_path: Path, engines: Path) -> None:
    config = line_of(tmp_path, engines, filmed(frames=160))
    run(config, tell_coils)
    ours = live(config)
    coils = [json.loads(data) for data in ours["coil/v1/hot/"]]
    assert [(coil["coil"], coil["phase"]) for coil in coils][:4] == [
        ("C0", "start"), ("C0", "end"), ("LATE", "start"), ("LATE", "end"),
    ]  # fmt: skip
    assert coils[2]["known_from"] is not None
    assert {json.loads(data)["state"] for data in ours["state/v1/hot/"]} >= {"standing", "running"}
    same(ours, replayed(tmp_path, engines, tmp_path / "rec"))


def test_coils_of_an_earlier_run_are_forgotten_in_the_replay_too(tmp_path: Path, engines: Path) -> None:
    """The encoder counts anew since then: the line forgets them at its first frame, when the recording has begun."""

    def tell(line: Line) -> None:
        line.coils.start("OLD", 64 * 30)
        line.publish.tell(journal.Telegram(time.time_ns(), "test", START, "OLD", 64 * 30))

    run(line_of(tmp_path, engines, filmed(frames=60)), tell)
    before = {event.id for event in journal.read_events(tmp_path / "journal.db")}
    config = line_of(tmp_path, engines, filmed(frames=80), recording={"path": str(tmp_path / "again")})
    run(config, lambda line: at(line, (10, lambda: line.coils.start("NEW", 64 * 20))))
    ours = told([event for event in journal.read_events(config.journal.path) if event.id not in before])
    assert [json.loads(data)["coil"] for data in ours["coil/v1/hot/"]] == ["C0", "C0", "NEW", "NEW"]
    theirs = replayed(tmp_path, engines, tmp_path / "again")
    for topic in ours.keys() - {"state/v1/hot/", "gap/v1/hot/a/"}:  # a restart, which is not replayed, says more there
        assert theirs[topic] == ours[topic], topic


def test_cameras_of_one_line_are_played_together(tmp_path: Path, engines: Path) -> None:
    """In the order of the line: else a coil that was named late would begin elsewhere for one."""
    other = filmed("b", seed=6, first_encoder_count=40, frames=150) | {"offset_mm": 96.0}
    config = line_of(tmp_path, engines, filmed(frames=150), other)
    run(config, tell_coils)
    for sources in ([tmp_path / "rec"], [tmp_path / "rec/window/b", tmp_path / "rec/window/a"]):
        same(live(config), replayed(tmp_path, engines, *sources))


def overtaken(line: Line, late: int, early: int) -> list[tuple[str, int]]:
    """Camera `a` has its frame `late` in hand until `b`, which waits for that, has put frames in from `early` on.

    So those come behind it by the clock and before it in the line. Returns the frames as they will be graded.
    """
    held, passed = threading.Event(), threading.Event()
    a, b = line.cameras["a"].read, line.cameras["b"].read

    def read_a(pool: Pool, timeout_s: float) -> Frame | Loss | None:
        got = a(pool, timeout_s)
        if isinstance(got, Frame) and got.sequence == late:
            held.set()
            assert passed.wait(PATIENCE_S)
        return got

    def read_b(pool: Pool, timeout_s: float) -> Frame | Loss | None:
        if reads["b"] == early:
            assert held.wait(PATIENCE_S)
        if reads["b"] == early + 5:
            passed.set()
        got = b(pool, timeout_s)
        reads["b"] += isinstance(got, Frame)
        return got

    reads = Counter[str]()
    line.cameras["a"].read, line.cameras["b"].read = read_a, read_b  # type: ignore[method-assign]
    graded: list[tuple[str, int]] = []
    line.sees.append(lambda verdicts: graded.extend((v.frame.camera, v.frame.sequence) for v in verdicts.verdicts))
    return graded


def test_a_camera_whose_frames_overtook_the_others_does_so_again(tmp_path: Path, engines: Path) -> None:
    """A coil that is named behind a frame was named behind all that went before it in the line, not by the clock."""
    other = filmed("b", seed=6, first_encoder_count=40, frames=150) | {"offset_mm": 96.0}
    config = line_of(tmp_path, engines, filmed(frames=150), other, batch={"size": 1})
    graded: list[tuple[str, int]] = []

    def before(line: Line) -> None:
        nonlocal graded
        graded = overtaken(line, late=60, early=70)
        line.looks.append(lambda _: graded[-1] == ("a", 60) and line.coils.start("LATE", 64 * 30))

    run(config, before)
    came: list[tuple[int, str, int]] = []
    for name in "ab":
        for piece in sorted((tmp_path / "rec/window" / name).iterdir()):
            entries = map(json.loads, (piece / "frames.jsonl").read_text().splitlines())
            came += [(entry["taken_ns"], name, entry["sequence"]) for entry in entries if entry["kind"] == "frame"]
    assert [(name, sequence) for _, name, sequence in sorted(came)] == graded
    assert graded.index(("a", 60)) > graded.index(("b", 74))
    known_from = {json.loads(data)["known_from"] for data in live(config)["coil/v1/hot/"]}
    assert max(known or 0 for known in known_from) >= 40 + 64 * 75
    same(live(config), replayed(tmp_path, engines, tmp_path / "rec"))


def test_one_camera_of_a_line_can_be_played_alone(tmp_path: Path, engines: Path) -> None:
    config = line_of(tmp_path, engines, filmed(), filmed("b", seed=6))
    run(config)
    ours = {topic: events for topic, events in live(config).items() if "/b/" in topic}
    theirs = replayed(tmp_path, engines, tmp_path / "rec/window/b")
    same(ours, {topic: events for topic, events in theirs.items() if "/b/" in topic})


def test_a_recording_of_the_middle_gives_the_events_of_its_part(tmp_path: Path, engines: Path) -> None:
    """With the line's frame numbers, places and coils, though what goes before is not there."""
    config = line_of(tmp_path, engines, filmed(frames=150, skip_frames=[120]))
    run(config, lambda line: at(line, (10, lambda: line.coils.start("C1", 64 * 30))))
    pieces = sorted((tmp_path / "rec/window/a").iterdir())
    middle = pieces[len(pieces) // 2 :]
    first = _recorded.survey(middle[0]).first_sequence
    assert first is not None
    assert first > 40
    ours, theirs = live(config), replayed(tmp_path, engines, *middle)
    for topic in ours.keys() - {"state/v1/hot/", "coil/v1/hot/"}:
        # A defect that goes on from the frame before is another one when that frame is not there.
        inside = [data for data in ours[topic] if json.loads(data)["frame_sequence"] > first]
        assert inside
        assert [data for data in theirs[topic] if json.loads(data)["frame_sequence"] > first] == inside
    (start, end) = [json.loads(data) for data in theirs["coil/v1/hot/"]]
    assert (start["coil"], start["encoder_count"]) == ("C1", 64 * 30)
    assert end["coil"] == "C1"


def test_lines_of_frames_have_the_numbers_of_the_recorded_line(tmp_path: Path, engines: Path) -> None:
    run(line_of(tmp_path, engines, filmed(frames=150, skip_frames=[120]), filmed("b", seed=6, frames=150)))
    pieces = [piece for name in "ab" for piece in sorted((tmp_path / "rec/window" / name).iterdir())[2:]]
    surveys = [_recorded.survey(piece) for piece in pieces]
    starts = {name: next(s.first_sequence for s in surveys if s.header.camera == name) for name in "ab"}
    theirs = replayed(tmp_path, engines, *pieces, frames=tmp_path / "frames.jsonl")
    found = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    spans = Counter[tuple[str, int]]()
    for topic in theirs:
        for defect in map(json.loads, theirs[topic] if topic.startswith("defect/") else []):
            first = defect["frame_sequence"]
            spans.update((defect["camera"], number) for number in range(first, first + defect["frames"]))
    assert len(spans) > 100
    for name in "ab":
        lines = [line for line in found if line["camera"] == name]
        first = starts[name]
        assert first
        assert [line["frame_sequence"] for line in lines] == list(range(first, 150))
        assert [line["frame_sequence"] for line in lines if line["outcome"] == "missing"] == [120] * (name == "a")
        assert [line["events"] for line in lines] == [spans[name, line["frame_sequence"]] for line in lines]


def test_pictures_without_a_suffix_beside_a_recording_are_no_recording_alone(tmp_path: Path, engines: Path) -> None:
    run(line_of(tmp_path, engines, filmed(frames=4)))
    window = tmp_path / "rec/window/a"
    (window / "notes.txt").write_text("roll 4711")
    assert find([window]) is not None
    (window / "7").write_bytes(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    assert find([window]) is None


def test_the_command_line_wins_and_another_pack_is_told(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = line_of(tmp_path, engines, filmed(frames=8))
    run(config)
    other = make_pack(tmp_path / "other", minimum_area_px=5)
    theirs = replayed(tmp_path, other, tmp_path / "rec", coil="MINE")
    assert "inspected with another" in capsys.readouterr().out
    assert {json.loads(data)["coil"] for data in theirs["coil/v1/hot/"]} == {"MINE"}


# ---------------------------------------------------------------- the window and what is kept


START_NS = 1_700_000_000_000_000_000
MS = 1_000_000


def painted(folder: Path, count: int, severe: Sequence[int] = (), torn: Sequence[int] = ()) -> dict[str, Any]:
    """A camera over frames of 10 ms; those in `severe` have a defect of class 4, all others one of class 1."""
    folder.mkdir()
    for number in range(count):
        pixels = np.full(TILE, 90, dtype=np.uint8)
        paint(pixels, 4 if number in severe else 1, 8, 8, 6, 9)
        assert cv2.imwrite(str(folder / f"{number}.png"), pixels)
        if number in torn:
            (folder / f"{number}.png").write_bytes(b"torn")
    options = {"sources": [str(folder)], "contiguous": True, "start_ns": START_NS, "line_rate_hz": TILE[0] * 100}
    return {"name": "a", "kind": "replay", "options": options}


def keeping(**options: Any) -> dict[str, Any]:
    """The rules and the recording of a line on which class 4 is critical; every frame is a piece of its own."""
    rules = [{"severity": "critical", "classes": [4]}]
    recording = {"before_s": 0.05, "after_s": 0.03, "segment_s": 1e-9, **options}
    return {"grading": {"merge_px": 5, "severity": rules}, "recording": recording}


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "rec" / "kept").iterdir())


def sequences(*folders: Path) -> list[int]:
    """Of the frames in recordings, in order."""
    found = []
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
        found += [line["sequence"] for line in lines if line["kind"] == "frame"]
    return sorted(found)


def test_what_lies_around_a_severe_defect_is_kept_and_can_be_played(
    tmp_path: Path, engines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    camera = painted(tmp_path / "strip", 100, severe=[40, 45, 70])
    config = line_of(tmp_path, engines, camera, **keeping(losses=False))
    line = run(config)
    first, second = kept(tmp_path)
    assert first.name == "20231114T221320400Z-a-critical"
    assert sequences(*first.iterdir()) == list(range(35, 45 + 3 + 1))  # near ones share
    assert sequences(*second.iterdir()) == list(range(65, 70 + 3 + 1))
    value = line.metrics.registry.get_sample_value
    assert value("inspector_recorded_frames_total", {"camera": "a"}) == 100
    assert value("inspector_recordings_kept_total") == 2
    assert all(str(folder) in caplog.text for folder in (first, second))
    ours, theirs = live(config), replayed(tmp_path, engines, first)
    assert theirs["defect/v1/hot/a/4/"] == ours["defect/v1/hot/a/4/"][:2]
    everything = replayed(tmp_path, engines, tmp_path / "rec" / "kept")  # with a hole between them
    assert everything["defect/v1/hot/a/4/"] == ours["defect/v1/hot/a/4/"]
    assert [json.loads(gap)["frames"] for gap in everything["gap/v1/hot/a/"]] == [65 - 49]


def test_what_lies_around_a_loss_is_kept(tmp_path: Path, engines: Path) -> None:
    config = line_of(tmp_path, engines, painted(tmp_path / "strip", 60, torn=[30]), **keeping(severities=[]))
    run(config)
    (folder,) = kept(tmp_path)
    assert folder.name.endswith("Z-a-unreadable")
    assert sequences(*folder.iterdir()) == [26, 27, 28, 29, 31, 32, 33, 34]  # the frame behind the loss is the mark
    ours = [data for data in live(config)["gap/v1/hot/a/"] if b"unreadable" in data]
    assert replayed(tmp_path, engines, folder)["gap/v1/hot/a/"] == ours


def test_a_kept_piece_outlives_the_window(tmp_path: Path, engines: Path) -> None:
    most = 150 * 2 * 2048  # more than can be under way before it is known how severe they are
    camera = painted(tmp_path / "strip", 300, severe=[60])
    sections = {"batch": {"size": 1}, "runtime": {"options": {"workers": 2}}}
    config = line_of(tmp_path, engines, camera, **sections, **keeping(window_gb=most / 1e9, segment_s=0.001))
    run(config)
    left = list((tmp_path / "rec/window/a").iterdir())
    assert sum(file.stat().st_size for piece in left for file in piece.iterdir()) <= most
    assert 299 in sequences(*left)
    assert 60 not in sequences(*left)
    (folder,) = kept(tmp_path)
    assert 60 in sequences(*folder.iterdir())
    assert replayed(tmp_path, engines, folder)["defect/v1/hot/a/4/"] == live(config)["defect/v1/hot/a/4/"]


def test_an_earlier_runs_window_is_taken_over(tmp_path: Path, engines: Path) -> None:
    most = 40 * 2 * 2048
    config = line_of(tmp_path, engines, painted(tmp_path / "strip", 30), **keeping(window_gb=most / 1e9))
    for _ in range(3):
        before = set((tmp_path / "rec/window").glob("*/*"))
        run(config)
    now = set((tmp_path / "rec/window").glob("*/*"))
    assert sum(file.stat().st_size for piece in now for file in piece.iterdir()) <= most
    assert now & before
    assert before - now


def test_kept_recordings_are_bounded_and_the_oldest_goes(tmp_path: Path, engines: Path, caplog: Any) -> None:
    marks = [10, 30, 50, 70, 90]
    most = 120_000  # three of them
    options = keeping(keep_gb=most / 1e9, losses=False)
    line = run(line_of(tmp_path, engines, painted(tmp_path / "strip", 100, severe=marks), **options))
    value = line.metrics.registry.get_sample_value
    assert value("inspector_recordings_kept_total") == 5
    deleted = value("inspector_recordings_deleted_total")
    assert deleted
    assert len(kept(tmp_path)) == 5 - deleted
    assert "keep_gb" in caplog.text
    frames = sequences(*(piece for folder in kept(tmp_path) for piece in folder.iterdir()))
    assert 90 in frames
    assert 10 not in frames
    size = sum(file.stat().st_size for file in (tmp_path / "rec/kept").rglob("*") if file.is_file())
    assert size <= most
    assert value("inspector_recording_bytes", {"part": "kept"}) == size


# ---------------------------------------------------------------- a slow disk, a full one, one that has gone


class Bench:
    """A recording of camera `a` without a line: the test is its capture thread, its writer and its clock."""

    def __init__(self, folder: Path, engines: Path, **options: Any) -> None:
        recording = {"segment_s": 1e-9, **options}
        config = line_of(folder, engines, filmed(), recording=recording)
        assert config.recording is not None
        self.states: list[tuple[str, str, str]] = []
        self.now = 100.0
        self.metrics = Metrics(process=False)
        self.coils = CoilMap("C0")
        self.recording = Recording(
            config,
            config.recording,
            pack.load(engines),
            self.coils,
            self.metrics,
            lambda *said: self.states.append(said),
            clock=lambda: self.now,
        )
        self.recording.open()
        self.folder = config.recording.path
        self.next = 0

    def give(self, count: int = 1, size: int = 64) -> None:
        """Frames of the camera, 10 ms each."""
        (tap,) = self.recording.taps("a")
        for number in range(self.next, self.next + count):
            pixels = np.full((size, size), number % 256, dtype=np.uint8)
            frame = Frame("a", number, START_NS + number * 10 * MS, number, number * size, pixels)
            tap.frame(frame)
            tap.taken(frame)
        self.next += count

    def write(self) -> None:
        """What waits goes to the disk; every piece is closed behind it."""
        stop = threading.Event()
        stop.set()
        self.recording.serve(stop)
        self.now += 1.5

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"inspector_{name}", labels)

    def pieces(self) -> list[Path]:
        return sorted((self.folder / "window" / "a").iterdir())

    def played(self) -> list[tuple[int, int | str]]:
        """(sequence, grey) of the frames and (sequence, detail) of the losses that a replay gives."""
        found: list[tuple[int, int | str]] = []
        pool = Pool(1)
        with replay.open("a", replay.Options(sources=[self.folder / "window" / "a"])) as camera:
            while not camera.ended:
                item = camera.read(pool, 0.0)
                if isinstance(item, Frame):
                    found.append((item.sequence, int(item.pixels[0, 0])))
                    item.release()
                elif item is not None:
                    found.append((item.sequence, f"{item.count} {item.detail}"))
        return found


def test_a_frame_that_no_line_took_is_recorded_all_the_same(tmp_path: Path, engines: Path) -> None:
    bench = Bench(tmp_path, engines)
    bench.give(2)
    (tap,) = bench.recording.taps("a")
    tap.frame(Frame("a", 2, START_NS, 2, 128, np.full((64, 64), 2, dtype=np.uint8)))  # and its thread dies
    bench.write()
    assert bench.played() == [(0, 0), (1, 1), (2, 2)]


def test_what_is_known_of_a_coil_comes_behind_the_frames_that_it_was_told_behind(tmp_path: Path, engines: Path) -> None:
    """Else the header of a piece that begins with such a frame would give it a coil that it had not."""
    bench = Bench(tmp_path, engines)
    (tap,) = bench.recording.taps("a")
    for number in range(2):
        frame = Frame("a", number, START_NS + number * MS, number, 64 * number, np.zeros((64, 64), dtype=np.uint8))
        tap.frame(frame)
        bench.recording.taken(frame)  # the line has it, and may grade it before its camera's thread goes on
        if number:
            bench.coils.begin(0)
            bench.coils.start("LATE", 64)
            bench.recording.told(START, "LATE", 64)
        tap.taken(frame)
    bench.write()
    headers = [_recorded.survey(piece).header for piece in bench.pieces()]
    assert [[coil.name for coil in header.coils] for header in headers] == [[], []]


def test_a_slow_disk_makes_a_hole_and_no_wait(tmp_path: Path, engines: Path) -> None:
    bench = Bench(tmp_path, engines, queue_frames=2)
    bench.give(5)
    bench.write()
    bench.give(1)
    bench.write()
    bench.give(3)
    bench.write()
    slow = "not in the recording: the disk was too slow for these frames"
    assert bench.played() == [(0, 0), (1, 1), (2, f"3 {slow}"), (5, 5), (6, 6), (7, 7), (8, f"1 {slow}")]
    assert bench.value("recorded_frames_total", camera="a") == 5
    assert bench.value("unrecorded_frames_total", camera="a", reason="slow") == 4
    assert bench.states == []


def test_a_full_disk_is_told_once_and_the_rest_is_whole(tmp_path: Path, engines: Path) -> None:
    bench = Bench(tmp_path, engines)
    bench.give(2)
    bench.write()
    with room_for(3000):
        for _ in range(3):
            bench.give(2)
            bench.write()
        assert bench.value("recording_up") == 0
        pieces = len(bench.pieces())
    assert [(part, state) for part, state, _ in bench.states] == [("recording", "down")]
    assert "frames.raw" in bench.states[0][2]
    bench.give(2)
    bench.write()
    assert [(part, state) for part, state, _ in bench.states][1:] == [("recording", "up")]
    assert pieces == 2  # what has no frame does not stay
    assert bench.played() == [(0, 0), (1, 1), (2, "6 not in the recording: the disk was full or gone"), (8, 8), (9, 9)]
    assert bench.value("unrecorded_frames_total", camera="a", reason="disk") == 6
    assert bench.value("recording_up") == 1


def test_a_folder_that_has_gone_is_never_made_again_by_itself(tmp_path: Path, engines: Path) -> None:
    """It may be a disk that was pulled: its place must not fill another one."""
    bench = Bench(tmp_path, engines)
    bench.give(2)
    bench.write()
    away = bench.folder.rename(tmp_path / "away")
    for _ in range(2):
        bench.give(1)
        bench.write()
    assert not bench.folder.exists()
    assert [(state, "has gone" in detail) for _, state, detail in bench.states] == [("down", True)]
    away.rename(bench.folder)
    bench.give(1)
    bench.write()
    assert [state for _, state, _ in bench.states] == ["down", "up"]
    assert [sequence for sequence, _ in bench.played()] == [0, 1, 2, 4]
    assert bench.value("recording_bytes", part="window") == sum(
        file.stat().st_size for piece in bench.pieces() for file in piece.iterdir()
    )


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, engines: Path) -> None:
    (tmp_path / "rec").write_text("a file")
    config = line_of(tmp_path, engines, filmed())
    with pytest.raises(ConfigError, match=r"recording\.path.*rec is a file"), build(config):
        pass
    (tmp_path / "rec").unlink()
    wrong = line_of(tmp_path, engines, filmed(), recording={"severities": ["criticle"]})
    with pytest.raises(ConfigError, match=r"recording\.severities.*'criticle'"):
        build(wrong)


def test_check_shows_what_will_be_recorded(tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "line.yaml"
    path.write_bytes(msgspec.yaml.encode(line_of(tmp_path, engines, filmed()), enc_hook=str))
    assert main(["check", str(path)]) == 0
    assert "20 GB of all, 20 GB around critical, losses" in capsys.readouterr().out
    assert not (tmp_path / "rec").exists()


# ---------------------------------------------------------------- recordings that cannot be played together


def test_recordings_with_other_settings_need_two_replays(tmp_path: Path, engines: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    run(line_of(tmp_path / "one", engines, filmed(frames=4)))
    run(line_of(tmp_path / "two", engines, filmed(frames=4), line={"mm_per_count": 0.7}))
    with pytest.raises(ConfigError, match="Replay them one after the other"):
        find([tmp_path / "one/rec", tmp_path / "two/rec"])


def test_two_runs_are_played_one_behind_the_other(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = line_of(tmp_path, engines, filmed(frames=6))
    run(config)
    run(config)
    theirs = replayed(tmp_path, engines, tmp_path / "rec/window")
    assert "12 issued = 12 inspected" in capsys.readouterr().out
    ours = live(config)
    for topic in theirs.keys() - {"state/v1/hot/", "coil/v1/hot/"}:
        assert len(theirs[topic]) == len([data for data in ours[topic] if b'"crash"' not in data])


def test_a_flat_field_that_is_missing_or_another_is_told(tmp_path: Path, engines: Path) -> None:
    FlatField.identity(192).save(tmp_path / "flat.npz")
    camera = filmed(frames=4) | {"flat_field": str(tmp_path / "flat.npz")}
    run(line_of(tmp_path, engines, camera, recording={"segment_s": 60}))
    (piece,) = (tmp_path / "rec/window/a").iterdir()
    (piece / "flat-field.npz").write_bytes(b"another")
    with pytest.raises(ConfigError, match="not the flat-field that it was recorded with"):
        find([piece])
    (piece / "flat-field.npz").unlink()
    with pytest.raises(ConfigError, match=r"flat-field\.npz: cannot be read.*Copy the whole recording"):
        find([piece])


def test_the_settings_of_another_version_are_told(tmp_path: Path, engines: Path) -> None:
    run(line_of(tmp_path, engines, filmed(frames=4), recording={"segment_s": 60}))
    (piece,) = (tmp_path / "rec/window/a").iterdir()
    index = piece / "frames.jsonl"
    index.write_bytes(index.read_bytes().replace(b'"merge_px"', b'"merge_xx"', 1))
    assert main(["replay", str(piece), "--pack", str(engines)]) == 78
