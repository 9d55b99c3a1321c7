"""The examples of the documentation, run as they are."""

from __future__ import annotations

import csv
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import zmq

import inspector
from inspector.cameras._index import Header
from inspector.cameras.replay import Recorder
from inspector.events import Defect, Event
from inspector.flatfield import FlatField
from inspector.records import Frame
from tests.streaming import Line, Served

ROOT = Path(inspector.__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
TOPIC = "defect/v1/a/c/1/"
PATIENCE_S = 60.0


def defect(severity: str) -> Defect:
    golden = msgspec.json.decode((ROOT / "tests" / "golden" / "defect.json").read_bytes(), type=Event)
    assert isinstance(golden.data, Defect)
    return msgspec.structs.replace(golden.data, severity=severity)


@contextmanager
def example(name: str, *arguments: str | int | Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def served() -> Iterator[Served]:
    with Served(Line(), "tcp://127.0.0.1:*", "tcp://127.0.0.1:*") as served:
        yield served


def until(condition: Callable[[], bool]) -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as quiet:
        assert any(condition() or quiet.poll(10) for _ in range(int(PATIENCE_S * 100)))


def rows(file: Path) -> list[list[str]]:
    return list(csv.reader(file.read_text().splitlines())) if file.exists() else []


def test_defects_into_a_csv_file_over_kills(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "defects.csv"
    for count in (3, 6):
        with served.lock:
            for _ in range(3):
                served.line.publish(TOPIC, defect("minor"))
        with example("events_to_csv.py", served.events, file):
            until(lambda count=count: len({row[0] for row in rows(file)}) == count)  # type: ignore[misc]
    assert {row[0] for row in rows(file)} == {f"10/{TOPIC}{number}" for number in range(1, 7)}
    assert rows(file)[0][1:5] == ["2026-07-31T23:59:59.123456789Z", "4711-B", "scratch", "minor"]


def test_an_alarm_for_severe_defects(served: Served) -> None:
    def report() -> None:
        for severity in ("minor", "critical"):
            with served.lock:
                message = served.line.publish(TOPIC, defect(severity))
            served.send(message)

    def told() -> bool:
        report()  # what is said before its first heartbeat is not new to it
        return bool(select.select([process.stdout], [], [], 0)[0])

    with example("alarm.py", served.events, "critical") as process:
        until(told)
        assert process.stdout is not None
        line = process.stdout.readline()
    assert line == "\a2026-07-31T23:59:59.123456789Z critical scratch: coil 4711-B, 1039.4 m\n"


def test_frames_of_a_recording_as_pictures_with_what_was_said_of_them(tmp_path: Path) -> None:
    correction = FlatField(np.full(40, 10.0), np.full(40, 2.0))
    correction.save(tmp_path / "flat.npz")
    pixels = np.arange(8 * 40, dtype=np.uint8).reshape(8, 40) % 100

    def record(folder: str, run: str) -> Path:
        flat_field = (tmp_path / "flat.npz").read_bytes()
        with Recorder(tmp_path / folder, "top1", Header(version=2, camera="top1", run=run), flat_field) as recorder:
            for number in range(5, 9):
                recorder.frame(Frame("top1", number, 10**18, 5, 0, pixels + np.uint8(number)))
        return tmp_path / folder

    first, second = record("r", "550df0224640"), record("s", "12a4")
    export, out = tmp_path / "export.csv", tmp_path / "own" / "images"
    export.write_text("ImageId,ClassId,EncodedPixels\ntop1_7,3,1 2\ntop1_8,1,9 4\ntop2_7,1,3 3\n")
    words = "--out", out, "--every", 2, "--labels", export
    with example("frames_to_pictures.py", first, second, *words) as process:
        assert process.wait(PATIENCE_S) == 1  # of which of them is top1_7?
    assert not list(out.iterdir())
    for recordings in ([first], [first, second], [second]):  # what is there already stays as it is
        with example("frames_to_pictures.py", *recordings, *words) as process:
            assert process.wait(PATIENCE_S) == 0

    names = [f"top1_{run}_{number}.png" for run in ("12a4", "550df0224640") for number in (5, 7)]
    assert sorted(path.name for path in out.iterdir()) == names
    wanted = pixels + np.uint8(7)
    correction.correct(wanted)
    assert np.array_equal(cv2.imread(str(out / names[1]), cv2.IMREAD_UNCHANGED), wanted)
    table = f"ImageId,ClassId,EncodedPixels\n{names[3]},3,1 2\n{names[1]},3,1 2\n"
    assert (tmp_path / "own" / "train.csv").read_text() == table
