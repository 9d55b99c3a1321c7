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

import msgspec
import pytest
import zmq

import inspector
from inspector.events import Defect, Event
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
def example(name: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
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
