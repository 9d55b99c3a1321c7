"""pipeline.py: the whole line in this process, from real cameras to the journal; and `check`, which opens nothing."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from inspector import journal, pack
from inspector.baselines import Baselines
from inspector.checking import check
from inspector.config import Config, convert
from inspector.engines import Engines
from inspector.errors import ConfigError, EngineError, PackError
from inspector.events import CoilEvent, Defect, Event, Gap, State, as_json
from inspector.packs.store import Memory, Store
from inspector.pipeline import Line, build
from inspector.records import Batch, Frame, Pixels
from inspector.rle import decode
from tests import networks
from tests.packs import BAND, TILE, make_pack, paint
from tests.workers import free_port

PATIENCE_S = 60.0
"""No line here runs for so long; one that does hangs."""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def replay(folder: Path, name: str = "a", **options: Any) -> dict[str, Any]:
    return {"name": name, "kind": "replay", "options": {"sources": [str(folder)], **options}}


def synthetic(name: str = "a", **options: Any) -> dict[str, Any]:
    chosen = {"width_px": 160, "height_px": 48, "frames": 40, "pace": "free", "seed": 3, **options}
    return {"name": name, "kind": "synthetic", "options": chosen}


def raw_line(folder: Path, engines: Path, *cameras: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """A lossless line as it would stand in the YAML; `sections` replace or add whole ones."""
    line = {"name": "line", "coil": "C1", "when_full": "wait", "queue": 8}
    return {
        "line": line,
        "pack": str(engines),
        "cameras": list(cameras),
        "grading": {"merge_px": 3},
        "journal": {"path": str(folder / "journal.db"), "synchronous": False},
        "monitor": None,
        **sections,
    }


def line_of(folder: Path, engines: Path, *cameras: dict[str, Any], **sections: Any) -> Config:
    return convert(raw_line(folder, engines, *cameras, **sections), Config)


def run_to_the_end(config: Config) -> Line:
    """Run a line until its strip ends. Its books must balance."""
    with build(config) as line:
        assert line.crew.join(PATIENCE_S) == []
    assert line.crew.failure is None
    assert journal.audit(config.journal.path).problems == []
    return line


def events(config: Config, *kinds: str) -> list[Event]:
    return list(journal.read_events(config.journal.path, kinds=kinds or None))


def defects(config: Config) -> list[Defect]:
    return [event.data for event in events(config, "defect") if isinstance(event.data, Defect)]


def by_topic(config: Config) -> dict[str, list[bytes]]:
    """The data of all events but those of the daemon's own state, as bytes."""
    found = defaultdict(list)
    for event in events(config, "defect", "gap", "coil"):
        found[event.subject].append(as_json(event.data))
    return dict(found)


# ---------------------------------------------------------------- painted pictures


@dataclass
class Gallery:
    """Pictures of a folder and the defects on them: (source, class) -> masks, each far from the others."""

    folder: Path
    pictures: dict[str, Pixels] = field(default_factory=dict)
    painted: dict[str, list[tuple[int, NDArray[np.bool_]]]] = field(default_factory=dict)

    def add(self, name: str, height: int, width: int, *boxes: tuple[int, int, int, int, int]) -> None:
        """A picture with boxes (class, y, x, height, width); every second column of a box stays clean."""
        pixels = np.full((height, width), 90, dtype=np.uint8)
        self.painted[name] = []
        for number, y, x, h, w in boxes:
            one = np.full((height, width), 90, dtype=np.uint8)
            paint(one, number, y, x, h, w)
            one[y + 1 : y + h - 1, x + 1 : x + w : 2] = 90
            pixels = np.maximum(pixels, one)
            self.painted[name].append((number, one > 190))
        self.pictures[name] = pixels
        self.folder.mkdir(exist_ok=True)
        assert cv2.imwrite(str(self.folder / name), pixels)

    def check(self, found: Sequence[Defect]) -> None:
        """What was found is what was painted: no more, no less, to the pixel."""
        wanted = sorted(
            (name, number, mask.tobytes(), *box_of(mask), int(mask.sum()))
            for name, masks in self.painted.items()
            for number, mask in masks
        )
        got = []
        for defect in found:
            assert defect.source is not None
            shape = self.pictures[defect.source].shape
            assert defect.mask.size == shape
            mask, box = decode(defect.mask.rle, *defect.mask.size), defect.bbox_px
            number = defect.defect_class.number
            got.append((defect.source, number, mask.tobytes(), box.x, box.y, box.width, box.height, defect.area_px))
        assert sorted(got) == wanted


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    return x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1


def gallery_of_all_sizes(folder: Path, seed: int = 0) -> Gallery:
    """Pictures of the tile's size, smaller, wider, higher, of odd sizes, clean ones too."""
    draw = np.random.default_rng(seed)
    sizes = [TILE, (10, 30), (32, 200), (45, 150), (100, 64), (7, 500), TILE, (33, 65), (1, 64), TILE]
    found = Gallery(folder)
    for number, (height, width) in enumerate(sizes):
        boxes = []
        for column in range(0, width - 25, 30):  # at most one defect in 30 columns, so none are near each other
            if draw.random() < 0.6 and height > 6:
                h, w = int(draw.integers(4, height)), int(draw.integers(5, 22))
                y = int(draw.integers(0, height - h + 1))
                boxes.append((int(draw.integers(1, 5)), y, column, h, w))
        found.add(f"{number}.png", height, width, *boxes)
    return found


# ---------------------------------------------------------------- what is painted is found


def test_every_defect_is_found_with_its_exact_mask(tmp_path: Path, engines: Path) -> None:
    gallery = gallery_of_all_sizes(tmp_path / "pictures")
    config = line_of(tmp_path, engines, replay(gallery.folder))
    line = run_to_the_end(config)
    found = defects(config)
    assert len(found) > 10
    gallery.check(found)
    totals = line.ledger.totals()["a"]
    assert (totals.issued, totals.inspected, totals.lost) == (10, 10, {})


def test_a_clean_strip_has_no_event_but_its_coil(tmp_path: Path, engines: Path) -> None:
    gallery = Gallery(tmp_path / "pictures")
    for number in range(5):
        gallery.add(f"{number}.png", *TILE)
    config = line_of(tmp_path, engines, replay(gallery.folder))
    run_to_the_end(config)
    found = [json.loads(as_json(e.data)) for e in events(config)]
    assert [(d["kind"], d["phase"], d["packs"]) for d in found if d["kind"] != "state"] == [
        ("coil", "start", None),
        ("coil", "end", [pack.load(engines).digest]),
    ]


VARIANTS = [(1, 1, 64), (2, 2, 64), (7, 3, 64), (7, 1, 1), (1, 3, 2), (3, 2, 5)]
"""Frames in a batch, workers, frames that may wait."""


def varied(folder: Path, engines: Path, variant: tuple[int, int, int], *cameras: dict[str, Any]) -> Config:
    size, workers, queue = variant
    return line_of(
        folder,
        engines,
        *cameras,
        line={"name": "line", "coil": "C1", "when_full": "wait", "queue": queue},
        batch={"size": size, "deadline_ms": 5.0},
        runtime={"options": {"workers": workers}},
        journal={"path": str(folder / f"{size}-{workers}-{queue}.db"), "synchronous": False},
    )


def test_batches_and_workers_do_not_change_a_byte(tmp_path: Path, engines: Path) -> None:
    """Two cameras whose frames come in any order; one folder is one strip, the other separate pieces."""
    one, two = gallery_of_all_sizes(tmp_path / "one", seed=1), Gallery(tmp_path / "two")
    for number in range(12):
        two.add(f"{number}.png", *TILE, (1 + number % 4, 20, 10, 12, 9), (3, 0, 40, 32, 5))
    results = []
    for variant in VARIANTS:
        cameras = replay(one.folder, "one"), replay(two.folder, "two", contiguous=True)
        config = varied(tmp_path, engines, variant, *cameras)
        run_to_the_end(config)
        results.append(by_topic(config))
    assert all(result == results[0] for result in results)
    scratch = [msgspec.json.decode(data) for data in results[0]["defect/v1/line/two/3/"]]
    assert [(d["frames"], d["area_px"]) for d in scratch if d["bbox_px"]["x"] == 40][:1] == [(12, 12 * 100)]


def test_a_synthetic_strip_gives_the_same_events_however_it_is_batched(tmp_path: Path, engines: Path) -> None:
    def told(variant: tuple[int, int, int]) -> list[dict[str, Any]]:
        cameras = synthetic("a", seed=3), synthetic("b", seed=4, height_px=33, width_px=100)
        config = varied(tmp_path, engines, variant, *cameras)
        run_to_the_end(config)
        found = [msgspec.json.decode(data) for topic in sorted(by_topic(config).items()) for data in topic[1]]
        for data in found:
            data.pop("exposed_ns", None)  # the strip starts now
            data.pop("exposed_time", None)
        return found

    first = told(VARIANTS[0])
    assert [data["kind"] for data in first].count("defect") > 0
    assert told(VARIANTS[2]) == first
    assert told(VARIANTS[5]) == first


def test_a_strip_gives_the_same_defects_however_it_is_cut(tmp_path: Path, engines: Path) -> None:
    draw = np.random.default_rng(8)
    strip = np.full((320, 90), 90, dtype=np.uint8)
    for row in range(5, 290, 40):
        paint(strip, int(draw.integers(1, 5)), row, int(draw.integers(0, 60)), int(draw.integers(10, 35)), 20)
    results = []
    for heights in ([320], [32] * 10, [100, 7, 33, 90, 90], [64] * 5):
        folder = tmp_path / "-".join(map(str, heights))
        folder.mkdir()
        ends = np.cumsum(heights)
        for number, (top, bottom) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            assert cv2.imwrite(str(folder / f"{number}.png"), strip[top:bottom])
        config = line_of(folder, engines, replay(folder, contiguous=True))
        run_to_the_end(config)
        results.append(
            sorted(
                (d.defect_class.number, d.position_mm.along, d.position_mm.across, d.area_px, d.size_mm.along)
                for d in defects(config)
            )
        )
    assert len(results[0]) == 8
    assert all(result == results[0] for result in results)


def test_beyond_the_edge_nothing_is_a_defect(tmp_path: Path, engines: Path) -> None:
    """Glints in the black beside the strip, and a defect that ends at the edge."""
    pixels = np.zeros((32, 200), dtype=np.uint8)
    pixels[:, 70:150] = 90
    paint(pixels, 2, 3, 180, 20, 5)
    paint(pixels, 3, 10, 140, 8, 30)
    pixels[:, 150:176] = np.where(pixels[:, 150:176] > 190, 0, pixels[:, 150:176])
    (tmp_path / "pictures").mkdir()
    assert cv2.imwrite(str(tmp_path / "pictures" / "0.png"), pixels)
    config = line_of(tmp_path, engines, replay(tmp_path / "pictures"))
    run_to_the_end(config)
    (found,) = defects(config)
    assert (found.bbox_px.x, found.bbox_px.width, found.defect_class.number) == (140, 6, 3)


def test_the_flat_field_is_applied(tmp_path: Path, engines: Path) -> None:
    gallery = Gallery(tmp_path / "pictures")
    gallery.add("0.png", *TILE)
    np.savez(tmp_path / "flat.npz", offset=np.zeros(64), gain=np.where(np.arange(64) == 20, 205 / 90, 1.0))
    camera = {**replay(gallery.folder), "flat_field": str(tmp_path / "flat.npz")}
    config = line_of(tmp_path, engines, camera)
    run_to_the_end(config)
    (found,) = defects(config)
    assert (found.defect_class.number, found.bbox_px.x, found.area_px) == (1, 20, 32)


# ---------------------------------------------------------------- the books of a whole line


def test_metrics_and_books_say_the_same(tmp_path: Path, engines: Path) -> None:
    gallery = gallery_of_all_sizes(tmp_path / "pictures")
    (gallery.folder / "3b.png").write_bytes(b"")
    kinds = ["defect", "gap", "coil", "state", "heartbeat"]
    jsonl = {"kind": "jsonl", "options": {"path": str(tmp_path / "events.jsonl"), "kinds": kinds}}
    config = line_of(tmp_path, engines, replay(gallery.folder), synthetic("b"), sinks=[jsonl])
    line = run_to_the_end(config)

    def value(name: str, **labels: str) -> float | None:
        return line.metrics.registry.get_sample_value(f"inspector_{name}", labels)

    for name, inspected, lost in (("a", 10, 1), ("b", 40, 0)):
        assert value("frames_inspected_total", camera=name) == inspected
        assert value("frames_captured_total", camera=name) == inspected
        assert value("frames_lost_total", camera=name, stage="camera", reason="unreadable") == lost
        assert value("frame_age_seconds_count", camera=name) == inspected
    written = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert value("events_published_total", sink="jsonl") == len(written)
    assert [text for text in written if b"heartbeat/v1" not in text] == [as_json(event) for event in events(config)]
    assert b"heartbeat/v1" in written[-1]
    assert value("pool_slots_in_use") == 0
    assert value("journal_pending_events") == 0
    (gap,) = [event.data for event in events(config, "gap")]
    assert isinstance(gap, Gap)
    assert gap.source == "3b.png"


def test_every_frame_goes_back_to_the_pool(tmp_path: Path, engines: Path) -> None:
    """Far more frames than slots; a slot that is not given back would stop the line."""
    config = varied(tmp_path, engines, (3, 2, 1), synthetic(frames=300, height_px=16, width_px=32, prepared_frames=8))
    line = run_to_the_end(config)
    assert line.ledger.totals()["a"].inspected == 300


def test_a_line_that_is_stopped_drains(tmp_path: Path, engines: Path) -> None:
    """Frames stop at once; those that are in the line are inspected."""
    gallery = gallery_of_all_sizes(tmp_path / "pictures")
    config = line_of(tmp_path, engines, replay(gallery.folder, repeat=0))
    with build(config) as line:
        for _ in range(3000):
            if line.ledger.totals()["a"].inspected > 50:
                break
            line.crew.join(0.02)
        line.stop.set()
        assert line.crew.join(PATIENCE_S) == []
    totals = line.ledger.totals()["a"]
    assert totals.issued == totals.inspected > 50
    found = journal.audit(config.journal.path)
    assert (found.problems, found.books[0].in_flight) == ([], 0)
    assert found.runs[0].state == journal.RunState.CLOSED


def test_a_network_that_fails_brings_the_line_down_and_the_books_hold(tmp_path: Path) -> None:
    folder = make_pack(tmp_path / "pack")
    networks.swap(folder, "gate", networks.failing_gate(TILE, 250))
    gallery = Gallery(tmp_path / "pictures")
    for number in range(20):
        gallery.add(f"{number:02}.png", *TILE)
    bad = np.full(TILE, 255, dtype=np.uint8)
    assert cv2.imwrite(str(gallery.folder / "11.png"), bad)
    config = varied(tmp_path, folder, (2, 1, 2), replay(gallery.folder))
    with build(config) as line:
        for _ in range(3000):
            if not line.running:
                break
            line.crew.join(0.02)
    failure = line.crew.failure
    assert failure is not None
    assert failure[0] == "cascade-0"
    assert isinstance(failure[1], EngineError)
    found = journal.audit(config.journal.path)
    assert found.problems == []
    (books,) = found.books
    assert books.inspected in (10, 11)  # a batch that was due may have left with one frame
    assert books.in_flight == 0
    assert set(books.lost) == {"aborted"}


def test_a_run_is_counted_on_from_the_one_before(tmp_path: Path, engines: Path) -> None:
    gallery = Gallery(tmp_path / "pictures")
    gallery.add("0.png", *TILE, (2, 10, 10, 8, 8))
    config = line_of(tmp_path, engines, replay(gallery.folder))
    run_to_the_end(config)
    run_to_the_end(config)
    found = events(config, "defect")
    assert len({event.epoch for event in found}) == 2
    assert [event.sequence for event in found] == [1, 1]
    assert len({(event.source, event.id) for event in events(config)}) == len(events(config))


def test_the_log_says_whose_frames_the_line_dropped(
    tmp_path: Path, engines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = build(line_of(tmp_path, engines, synthetic(), synthetic("b")))  # and never started
    with line.held, caplog.at_level(logging.WARNING, logger="inspector.capture"):
        for sequence in range(3):
            line.drop_frame(Frame("b", sequence, 0, 0, 0, np.zeros((1, 1), np.uint8)))
        assert not caplog.records, "not in the channel's lock"
        for capture in line.captures:
            capture.__exit__(None, None, None)
    assert [record.getMessage() for record in caplog.records] == [
        "camera b: the line is behind; frames dropped since the last such line: 3"
    ]
    assert line.ledger.totals()["b"].lost == {"overload": 3}


def test_health_tells_ready_from_live(tmp_path: Path, engines: Path) -> None:
    config = line_of(tmp_path, engines, synthetic(frames=2), synthetic("b", hang_at_frame=0, frames=2))
    with build(config) as line:
        for _ in range(3000):
            if line.ledger.issued()["a"] == 2:
                break
            line.crew.join(0.02)
        health = line.health()
        assert (health.live, health.ready) == (True, False)
        assert health.reasons == ["camera b: no frame yet"]
        line.stop.set()
        assert line.crew.join(PATIENCE_S) == []


def test_build_releases_all_it_took_when_a_later_part_is_wrong(tmp_path: Path, engines: Path) -> None:
    """The journal of a failed start can be opened at once by the next one."""
    gallery = Gallery(tmp_path / "pictures")
    gallery.add("0.png", *TILE)
    broken = make_pack(tmp_path / "broken")
    networks.swap(broken, "types", b"no network")
    with pytest.raises(PackError, match=r"types\.onnx"):
        build(line_of(tmp_path, broken, replay(gallery.folder)))
    run_to_the_end(line_of(tmp_path, engines, replay(gallery.folder)))


# ---------------------------------------------------------------- check


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    """A whole line as in the YAML, with every part, in a folder that holds nothing else."""
    gallery = Gallery(tmp_path / "pictures")
    gallery.add("0.png", *TILE)
    engines = make_pack(tmp_path / "pack")
    np.savez(tmp_path / "flat.npz", offset=np.zeros(160), gain=np.ones(160))
    return raw_line(
        tmp_path,
        engines,
        replay(gallery.folder),
        {**synthetic("b"), "flat_field": str(tmp_path / "flat.npz")},
        sinks=[
            {"kind": "jsonl", "options": {"path": str(tmp_path / "events.jsonl")}},
            {"kind": "zeromq", "options": {"address": f"tcp://127.0.0.1:{free_port()}"}},
        ],
        monitor={"port": free_port()},
    )


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


def test_check_shows_the_line_and_opens_nothing(tmp_path: Path, good: dict[str, Any]) -> None:
    before = tree(tmp_path)
    config = convert(good, Config)
    for _ in range(2):  # ports are free again
        rows = check(config)
    assert tree(tmp_path) == before
    parts = [row[0] for row in rows]
    assert parts == [
        *("line", "pack", "runtime", "camera a", "camera b", "journal", "sink jsonl", "sink zeromq"),
        *("overload", "drift", "monitor"),
    ]
    text = "\n".join("|".join(row) for row in rows)
    for word in ("bands", "1 class1", "flat-field", "synthetic", "C1", "journal.db", "/metrics"):
        assert word in text


def wrong_pack(raw: dict[str, Any], folder: Path) -> str:
    raw["pack"] = str(folder / "nowhere")
    return "nowhere"


def altered_network(raw: dict[str, Any], folder: Path) -> str:
    file = folder / "pack" / "segment_3.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    return r"segment_3\.onnx: network segment_3 was altered"


def missing_network(raw: dict[str, Any], folder: Path) -> str:
    (folder / "pack" / "types.onnx").unlink()
    return r"types\.onnx"


def manifest_of_another_format(raw: dict[str, Any], folder: Path) -> str:
    path = folder / "pack" / "manifest.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "format": 99}))
    return r"manifest\.yaml: format 99"


def unknown_camera(raw: dict[str, Any], folder: Path) -> str:
    raw["cameras"][1]["kind"] = "gigevision"
    return r"cameras\[1\]\.kind: there is no 'gigevision'; known: .*replay.*synthetic"


def unknown_runtime(raw: dict[str, Any], folder: Path) -> str:
    raw["runtime"] = {"kind": "abacus"}
    return r"runtime\.kind: there is no 'abacus'; known: .*onnx"


def unknown_sink(raw: dict[str, Any], folder: Path) -> str:
    raw["sinks"][0]["kind"] = "kafka"
    return r"sinks\[0\]\.kind: there is no 'kafka'; known: jsonl"


def unknown_camera_option(raw: dict[str, Any], folder: Path) -> str:
    raw["cameras"][1]["options"]["hight_px"] = 3
    return r"cameras\[1\]\.options.*unknown key `hight_px`.*Did you mean `height_px`"


def contradicting_camera_options(raw: dict[str, Any], folder: Path) -> str:
    raw["cameras"][0] = {"name": "a", "kind": "synthetic", "options": {"rates_per_m": {9: 1.0}}}
    return "class 9: the synthetic strip has classes 1 to 4"


def wrong_runtime_option(raw: dict[str, Any], folder: Path) -> str:
    raw["runtime"] = {"options": {"workers": -1}}
    return r"runtime\.options\.workers"


def wrong_sink_option(raw: dict[str, Any], folder: Path) -> str:
    raw["sinks"][1]["options"]["address"] = 5570
    return r"sinks\[1\]\.options\.address"


def missing_source(raw: dict[str, Any], folder: Path) -> str:
    raw["cameras"][0]["options"]["sources"] = [str(folder / "no-pictures")]
    return "no-pictures"


def missing_flat_field(raw: dict[str, Any], folder: Path) -> str:
    raw["cameras"][0]["flat_field"] = str(folder / "no.npz")
    return r"no\.npz"


def torn_flat_field(raw: dict[str, Any], folder: Path) -> str:
    (folder / "flat.npz").write_bytes((folder / "flat.npz").read_bytes()[:50])
    return r"flat\.npz: not a \.npz file"


def journal_without_folder(raw: dict[str, Any], folder: Path) -> str:
    raw["journal"]["path"] = str(folder / "missing" / "journal.db")
    return r"missing/journal\.db"


def journal_that_is_none(raw: dict[str, Any], folder: Path) -> str:
    raw["journal"]["path"] = str(folder / "pictures" / "0.png")
    return r"0\.png"


def events_without_folder(raw: dict[str, Any], folder: Path) -> str:
    raw["sinks"][0]["options"]["path"] = str(folder / "missing" / "events.jsonl")
    return r"missing/events\.jsonl"


def public_address(raw: dict[str, Any], folder: Path) -> str:
    raw["sinks"][1]["options"]["address"] = "tcp://0.0.0.0:5570"
    return r"0\.0\.0\.0"


WRONG = [
    wrong_pack,
    altered_network,
    missing_network,
    manifest_of_another_format,
    unknown_camera,
    unknown_runtime,
    unknown_sink,
    unknown_camera_option,
    contradicting_camera_options,
    wrong_runtime_option,
    wrong_sink_option,
    missing_source,
    missing_flat_field,
    torn_flat_field,
    journal_without_folder,
    journal_that_is_none,
    events_without_folder,
    public_address,
]


@pytest.mark.parametrize("spoil", WRONG)
def test_check_finds_what_is_wrong_and_names_it(tmp_path: Path, good: dict[str, Any], spoil: Any) -> None:
    words = spoil(good, tmp_path)
    before = tree(tmp_path)
    config = convert(good, Config)
    with pytest.raises(ConfigError, match=words):
        check(config)
    with pytest.raises(ConfigError, match=words):
        build(config)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("part", ["monitor", "zeromq"])
def test_check_finds_a_port_in_use(good: dict[str, Any], part: str) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        if part == "monitor":
            good["monitor"]["port"] = port
        else:
            good["sinks"][1]["options"]["address"] = f"tcp://127.0.0.1:{port}"
        with pytest.raises(ConfigError, match=str(port)):
            check(convert(good, Config))
    check(convert(good, Config))


def test_check_finds_a_journal_that_another_daemon_holds(tmp_path: Path, good: dict[str, Any]) -> None:
    config = convert({**good, "monitor": None, "sinks": []}, Config)
    with build(config) as line:
        with pytest.raises(ConfigError, match=r"journal\.db: another daemon"):
            check(config)
        assert line.crew.join(PATIENCE_S) == []


def test_numbers_of_all_classes_have_a_band() -> None:
    """The pictures here paint classes 1 to 4."""
    assert sorted(BAND) == [1, 2, 3, 4]


# ---------------------------------------------------------------- a camera that sees nothing


def test_a_blind_camera_is_no_perfect_coil(tmp_path: Path, engines: Path) -> None:
    """Dark pictures in the middle of a coil: told once when they begin to matter, and once when the strip is back."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(10):
        dark = 3 <= number < 7
        cv2.imwrite(str(pictures / f"{number}.png"), np.full(TILE, 0 if dark else 100, dtype=np.uint8))
    config = line_of(tmp_path, engines, replay(pictures), edges={"blind_frames": 3})
    run_to_the_end(config)
    told = [event.data for event in events(config, "state")]
    assert [(said.part, said.state) for said in told if isinstance(said, State) and said.state != "up"] == [
        ("a", "blind"),
        ("a", "sees strip"),
    ]


def test_a_camera_out_of_focus_is_no_perfect_coil(tmp_path: Path, engines: Path) -> None:
    """It is told with the frame that shows it, whatever the batches; and the figures are metrics."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(1)
    for number in range(72):
        grain = cv2.GaussianBlur(rng.normal(0, 60, TILE), (0, 0), 2.5 if 24 <= number < 48 else 0.7)
        cv2.imwrite(str(pictures / f"{number:02}.png"), np.clip(100 + grain, 30, 190).astype(np.uint8))
    told = []
    for size in (1, 3, 8):
        folder = tmp_path / str(size)
        folder.mkdir()
        sections = {"batch": {"size": size, "deadline_ms": 1e6}, "view": {"window_frames": 8}}
        config = line_of(folder, engines, replay(pictures, start_ns=0), **sections)
        line = run_to_the_end(config)
        said = [event for event in events(config, "state") if isinstance(event.data, State)]
        told.append([(event.time, event.data) for event in said if event.data.part == "a" and event.data.state != "up"])
        value = line.metrics.registry.get_sample_value
        assert 0.12 < (value("inspector_camera_focus_ratio", {"camera": "a"}) or 0) < 1
        assert value("inspector_camera_view_state", {"camera": "a", "state": "out of focus"}) == 0
        assert value("inspector_flat_field_age_seconds", {"camera": "a"}) is None
    assert [data.state for _, data in told[0] if isinstance(data, State)] == ["out of focus", "sees well"]
    assert told[0] == told[1] == told[2]


def test_a_lamp_that_ages_is_told_whatever_the_batches(tmp_path: Path, engines: Path) -> None:
    """The frames become darker by a sixth: far from `dark`, but not what they were."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(400):
        grey = (120 if number < 240 else 100) + number % 9
        cv2.imwrite(str(pictures / f"{number:03}.png"), np.full(TILE, grey, dtype=np.uint8))
    told = []
    for size in (1, 7):
        folder = tmp_path / str(size)
        folder.mkdir()
        sections = {"batch": {"size": size, "deadline_ms": 1e6}, "drift": {"window_frames": 80, "learn_windows": 2}}
        config = line_of(folder, engines, replay(pictures, start_ns=0), **sections)
        run_to_the_end(config)
        said = [event for event in events(config, "state") if isinstance(event.data, State)]
        told.append([(event.time, event.data) for event in said if event.data.about == "drift"])
        assert list(Baselines(folder / "journal.drift.json", 80).of(pack.load(engines).digest, "a"))
    digest = pack.load(engines).digest
    assert [(data.part, data.state, data.pack_digest) for _, data in told[0]] == [("a", "off in brightness", digest)]
    assert told[0] == told[1]


def test_a_rule_for_a_class_that_the_pack_lacks_is_refused(tmp_path: Path, engines: Path) -> None:
    rules = [{"severity": "major", "classes": [2, 9]}]
    config = line_of(tmp_path, engines, synthetic(), grading={"severity": rules})
    with pytest.raises(ConfigError, match=r"grading\.severity\[0\]\.classes: the pack has no class 9, only 1, 2, 3, 4"):
        check(config)


# ---------------------------------------------------------------- another pack


def test_another_pack_on_duty_is_in_the_events_from_one_frame_on(tmp_path: Path, engines: Path) -> None:
    new = make_pack(tmp_path / "new", version="2")
    config = line_of(tmp_path, engines, synthetic(frames=0, defective_share=1.0))
    with build(config) as line:
        old = line.pack.digest
        _wait(lambda: line.ledger.totals()["a"].inspected > 20)
        with Engines.of(pack.load(new), config.runtime) as other:
            line.duty.put(other, trial=False)
            line.engaged(other)
            inspected = line.ledger.totals()["a"].inspected
            _wait(lambda: line.ledger.totals()["a"].inspected > inspected + 40)
            line.stop.set()
            assert line.crew.join(PATIENCE_S) == []
    assert line.pack.manifest.version == "2"
    digests = [d.pack_digest for d in sorted(defects(config), key=lambda defect: defect.frame_sequence)]
    assert list(dict.fromkeys(digests)) == [old, other.digest]
    assert digests == sorted(digests, key=[old, other.digest].index), "one stretch each"
    coils = [event.data for event in events(config, "coil") if isinstance(event.data, CoilEvent)]
    assert [(coil.phase, coil.packs) for coil in coils] == [("start", None), ("end", (old, other.digest))]


def _wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_line_is_busy_while_frames_wait_or_every_worker_works(tmp_path: Path, engines: Path) -> None:
    dropping = {"name": "line", "when_full": "drop_oldest"}
    with build(line_of(tmp_path, engines, synthetic(frames=1), line=dropping)) as line:
        assert line.crew.join(PATIENCE_S) == []
        assert not line.busy()
        books = line.metrics.stage("cascade")
        for number in range(line.workers):
            assert not line.busy(), number
            books.began()
        assert line.busy()
        books.ended()
        assert not line.busy()
        line.before_networks[1].put(Batch(0, [], [], []), 0.0)
        assert line.busy()


def test_check_shows_the_pack_that_took_over(tmp_path: Path, engines: Path) -> None:
    config = line_of(tmp_path, engines, synthetic())
    assert [row[0] for row in check(config)][:3] == ["line", "pack", "runtime"]
    store = Store(config.packs_folder, "line")
    staged = store.stage(make_pack(tmp_path / "new", version="2"))
    store.remember(Memory(base=str(engines), base_digest=pack.load(engines).digest, on_duty=str(staged)))
    assert ("pack on duty", "bands", f"{pack.load(staged).digest[:19]} {staged}") in check(config)
    with build(config) as line:
        assert line.pack.folder == staged
        assert line.crew.join(PATIENCE_S) == []
