"""The raw format: all that a frame knows comes back; version 1; a camera that dies; several parts of one strip."""

from __future__ import annotations

import json
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspector.cameras import _recorded, replay
from inspector.cameras._index import VERSION, Header, Said, Told, Unrecorded
from inspector.cameras.replay import InStep, Recorder
from inspector.capture import Capture
from inspector.errors import CameraError, ConfigError
from inspector.events import Reason
from inspector.ledger import Ledger
from inspector.metrics import Metrics
from inspector.pool import Pool
from inspector.records import Frame, Loss, Pixels


def noise(seed: int, height: int = 4, width: int = 6) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def play(*sources: Path) -> list[Frame | Loss]:
    """All that a replay gives in one opening; frames keep a copy of their pixels."""
    found, pool = list[Frame | Loss](), Pool(1)
    with replay.open("cam", replay.Options(sources=list(sources))) as camera:
        while not camera.ended:
            item = camera.read(pool, 0.0)
            if isinstance(item, Frame):
                item.pixels = item.pixels.copy()
                item.release()
            if item is not None:
                found.append(item)
    return found


COUNTS = st.integers(-(2**62), 2**62)
FIELDS = st.fixed_dictionaries(
    {
        "exposed_ns": COUNTS,
        "encoder_count": COUNTS,
        "source": st.none() | st.text(st.characters(codec="utf-8"), max_size=20),
        "camera_ns": st.none() | COUNTS,
        "uncertainty_ns": st.none() | st.integers(0, 2**62),
        "counts_per_line": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "overlap_lines": st.integers(0, 3),
        "after": st.none() | st.sampled_from(Reason),
    }
)
LOST = st.fixed_dictionaries(
    {
        "count": st.integers(1, 2**40),
        "reason": st.sampled_from(Reason),
        "detail": st.text(st.characters(codec="utf-8"), max_size=20),
        "source": st.none() | st.just("x"),
    }
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(what=st.lists(FIELDS | LOST, min_size=1, max_size=8))
def test_every_field_of_frames_and_losses_comes_back(
    tmp_path_factory: pytest.TempPathFactory, what: list[dict[str, Any]]
) -> None:
    given_items, sequence = list[Frame | Loss](), 0
    folder = tmp_path_factory.mktemp("law")
    with Recorder(folder / "r", "cam") as recorder:
        for number, fields in enumerate(what):
            if "count" in fields:
                given_items.append(Loss("cam", sequence, **fields))
                recorder.loss(given_items[-1])  # type: ignore[arg-type]
                sequence += fields["count"]
            else:
                given_items.append(Frame("cam", sequence, monotonic_ns=0, pixels=noise(number), **fields))
                recorder.frame(given_items[-1])  # type: ignore[arg-type]
                sequence += 1
    found = play(folder / "r")
    assert len(found) == len(given_items)
    for ours, theirs in zip(given_items, found, strict=True):
        if isinstance(ours, Frame) and isinstance(theirs, Frame):
            assert np.array_equal(ours.pixels, theirs.pixels)
            ours.pixels = theirs.pixels
            ours.monotonic_ns, ours.on_release = theirs.monotonic_ns, theirs.on_release
        assert str(ours) == str(theirs)


def test_version_1_is_still_played(tmp_path: Path) -> None:
    """As the first release wrote it."""
    pixels = noise(1)
    lines: list[dict[str, Any]] = [
        {"kind": "recording", "version": 1, "camera": "old"},
        {"kind": "frame", "sequence": 3, "exposed_ns": 5, "monotonic_ns": 6, "encoder_count": 7, "height": 4,
         "width": 6, "offset": 0, "crc32": zlib.crc32(pixels.tobytes()), "source": None, "piece": 0},
        {"kind": "loss", "sequence": 4, "count": 2, "reason": "overrun", "detail": "late", "source": None},
    ]  # fmt: skip
    (tmp_path / "frames.raw").write_bytes(pixels.tobytes())
    (tmp_path / "frames.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    frame, loss = play(tmp_path)
    assert isinstance(frame, Frame)
    assert np.array_equal(frame.pixels, pixels)
    assert (frame.sequence, frame.exposed_ns, frame.encoder_count, frame.after) == (0, 5, 7, None)
    assert loss == Loss("cam", 1, 2, Reason.OVERRUN, "late")
    assert _recorded.survey(tmp_path).issued == 3


def frame(sequence: int, **others: Any) -> Frame:
    return Frame("cam", sequence, sequence, sequence, sequence * 4, noise(sequence), **others)


def header(part: int, run: str = "r1", camera: str = "cam") -> Header:
    return Header(version=VERSION, camera=camera, run=run, part=part)


def written(folder: Path, part: int, *sequences: int, run: str = "r1", camera: str = "cam") -> Path:
    with Recorder(folder, camera, header(part, run, camera)) as recorder:
        for sequence in sequences:
            recorder.frame(frame(sequence))
    return folder


def test_parts_of_a_run_are_one_strip(tmp_path: Path) -> None:
    """Even with a part in between that is not there; another run is another piece of strip, counted on."""
    written(tmp_path / "1", 4, 50, 51)
    written(tmp_path / "2", 5, 52)
    written(tmp_path / "3", 8, 60)
    written(tmp_path / "4", 0, 0, 1, run="r2")
    found = play(tmp_path)
    assert [(item.sequence, getattr(item, "piece", None)) for item in found] == [
        (0, 0), (1, 0), (2, 0), (3, None), (10, 0), (11, 1), (12, 1),
    ]  # fmt: skip
    loss = found[3]
    assert isinstance(loss, Loss)
    assert (loss.count, loss.reason, loss.detail) == (7, Reason.MISSING, "the recording has a hole here")
    assert [item.encoder_count for item in found if isinstance(item, Frame)] == [200, 204, 208, 240, 244, 248]


def test_a_part_whose_last_line_is_torn_loses_that_frame(tmp_path: Path) -> None:
    """As a kill leaves it, when the next run's part follows."""
    index = written(tmp_path / "1", 4, 0, 1) / "frames.jsonl"
    index.write_bytes(index.read_bytes()[:-20])
    written(tmp_path / "2", 5, 2)
    found = play(tmp_path)
    assert [item.sequence for item in found] == [0, 1, 2]
    assert isinstance(found[1], Loss)
    assert found[1].reason is Reason.UNREADABLE


def died(folder: Path, *entries: Any) -> Path:
    """A recording of frames (numbers) and states (text: why it was down; empty: up)."""
    with Recorder(folder, "cam", header(0)) as recorder:
        for entry in entries:
            if isinstance(entry, int):
                recorder.frame(frame(entry))
            else:
                recorder.write(Said(state="down" if entry else "up", detail=entry, monotonic_ns=1))
    return folder


@pytest.mark.parametrize(
    ("entries", "states"),
    [
        (["", 0, 1], ["up"]),
        (["", 0, "pulled", "", 1, 2], ["up", "down: pulled", "up"]),
        (["not there", "", 0, "pulled", ""], ["down: not there", "up", "down: pulled", "up"]),
        (["", 0, "pulled"], ["up", "down: pulled"]),
        (["not there"], ["down: not there"]),
        ([0, 1], ["up"]),
    ],
)
def test_a_camera_dies_where_it_died(tmp_path: Path, entries: list[Any], states: list[str]) -> None:
    """Behind a Capture, as in the line: at once, whatever the time between was, and with the same numbers."""
    camera = replay.open("cam", replay.Options(sources=[died(tmp_path / "r", *entries)]))
    said, ledger, stop = list[str](), Ledger(["cam"]), threading.Event()

    def state(_: str, state: str, detail: str) -> None:
        said.append(f"{state}: {detail}" if detail else state)

    found, pool = list[Frame](), Pool(1)
    with Capture(
        "cam", camera, pool, ledger, stop, Metrics(process=False).camera("cam"), state, lambda: 0.0
    ) as capture:
        while not capture.ended:
            for item in capture.work():
                found.append(item)
                item.release()
    assert [item.sequence for item in found] == [entry for entry in entries if isinstance(entry, int)]
    assert said == states
    assert pool.in_use == 0


def test_a_dead_camera_must_be_opened_again(tmp_path: Path) -> None:
    with replay.open("cam", replay.Options(sources=[died(tmp_path / "r", "", "pulled", "", 0)])) as camera:
        with pytest.raises(CameraError, match="pulled"):
            camera.read(Pool(1), 0.0)
        with pytest.raises(CameraError, match="enter it first"):
            camera.read(Pool(1), 0.0)


def test_what_was_not_recorded_is_a_loss_with_its_reason(tmp_path: Path) -> None:
    with Recorder(tmp_path / "r", "cam", header(0)) as recorder:
        recorder.frame(frame(0))
        recorder.write(Unrecorded(sequence=1, count=4, reason="slow", monotonic_ns=1))
        recorder.frame(frame(5))
    _, loss, last = play(tmp_path / "r")
    assert isinstance(loss, Loss)
    assert (loss.sequence, loss.count, loss.reason) == (1, 4, Reason.MISSING)
    assert "too slow" in loss.detail
    assert last.sequence == 5


def test_the_index_tells_what_the_plant_told(tmp_path: Path) -> None:
    told = Told(ask="coil start", coil="C1", encoder_count=9, after=("cam", 3), graded=7, received_ns=1)
    with Recorder(tmp_path / "r", "cam", header(3)) as recorder:
        recorder.frame(frame(40))
        recorder.write(told)
        recorder.loss(Loss("cam", 41, 5, Reason.PACKETS))
    found = _recorded.survey(tmp_path / "r")
    assert (found.issued, found.first_sequence, found.lines, found.script) == (6, 40, 4, [told])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "no header"),
        (lambda data: b"{" + data, "no header"),
        (lambda data: data.split(b"\n", 1)[1], "no header"),
        (lambda data: data.replace(b'"version":2', b'"version":3'), "of version 3, and this program reads up to 2"),
        (lambda data: b'{"kind":"recording","version":9,"camera":{"name":1}}', "of version 9"),
    ],
)
def test_an_index_that_is_none_is_told(tmp_path: Path, change: Any, words: str) -> None:
    index = written(tmp_path / "r", 0, 1) / "frames.jsonl"
    index.write_bytes(change(index.read_bytes()))
    with pytest.raises(ConfigError, match=words):
        replay.check(replay.Options(sources=[tmp_path / "r"]))


def test_cameras_in_step_keep_the_order_in_which_frames_came(tmp_path: Path) -> None:
    """Whatever their threads do: each waits for the other's older frame. A loss, whose line is written late, waits for
    nobody, and where the line says when it took a frame in, that counts."""
    came = {"a": [0, 2, 3, 9], "b": [1, 4, 5, 6], "c": [7, 8]}
    for name, times in came.items():
        with Recorder(tmp_path / name, name) as recorder:
            for sequence, at in enumerate(times):
                taken = {"monotonic_ns": 9 - at, "taken_ns": at} if name == "b" else {"monotonic_ns": at}
                recorder.frame(Frame(name, 2 * sequence, at, encoder_count=0, pixels=noise(0), **taken))
                recorder.loss(Loss(name, 2 * sequence + 1, 1, Reason.MISSING, "lost"))
    in_step, order, pool = InStep(came), list[int](), Pool(3)

    def run(name: str) -> None:
        camera = replay.open(name, replay.Options(sources=[tmp_path / name]))
        camera.in_step = in_step
        with camera:
            while not camera.ended:
                item = camera.read(pool, 10.0)
                if isinstance(item, Frame):
                    order.append(item.exposed_ns)
                    item.release()

    threads = [threading.Thread(target=run, args=[name]) for name in ("c", "b", "a")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert order == list(range(10))
