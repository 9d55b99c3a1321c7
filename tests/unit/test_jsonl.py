"""The jsonl sink: whole lines or none, whatever the disk does."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from inspector.errors import ConfigError, SinkError
from inspector.events import Event, Heartbeat, State, as_json
from inspector.sinks import jsonl
from tests.disks import room_for

HEARTBEAT = Heartbeat(state="running", coil="c", high_water={}, cameras={}, undelivered={})


def event(number: int, data: State | Heartbeat | None = None) -> Event:
    return Event(
        id=str(number),
        source="/test",
        type="inspector.state.v1",
        time="2026-01-01T00:00:00Z",
        subject="state/v1/test/",
        dataschema="",
        epoch=1,
        sequence=number,
        data=data or State(part="part", state="up", detail="ü" * 20),
    )


def events(first: int, count: int) -> list[Event]:
    return [event(number) for number in range(first, first + count)]


def sink(path: Path, **options: object) -> jsonl.Jsonl:
    return jsonl.open(jsonl.Options(path=path, **options))  # type: ignore[arg-type]


def numbers(path: Path) -> list[int]:
    assert path.read_bytes().endswith(b"\n")
    return [msgspec.json.decode(line, type=Event).sequence for line in path.read_bytes().splitlines()]


def test_a_line_is_the_whole_envelope_in_its_one_form(tmp_path: Path) -> None:
    with sink(tmp_path / "e.jsonl") as out:
        assert out.send(events(1, 2)) == 0
        assert (tmp_path / "e.jsonl").read_bytes() == as_json(event(1)) + b"\n" + as_json(event(2)) + b"\n"


def test_appends_or_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    for first in (1, 2):
        with sink(path) as out:
            out.send([event(first)])
    assert numbers(path) == [1, 2]
    with sink(path, append=False) as out:
        out.send([event(3)])
    assert numbers(path) == [3]


def test_starting_anew_is_done_once_not_at_every_recovery(tmp_path: Path) -> None:
    out = sink(tmp_path / "e.jsonl", append=False)
    for number in (1, 2):
        with out:
            out.send([event(number)])
    assert numbers(tmp_path / "e.jsonl") == [1, 2]


def test_heartbeats_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    with sink(tmp_path / "e.jsonl") as out, sink(tmp_path / "all.jsonl", kinds=("heartbeat",)) as beats:
        for each in (out, beats):
            assert each.send([event(1), event(2, HEARTBEAT), event(3)]) == 0
    assert numbers(tmp_path / "e.jsonl") == [1, 3]
    assert numbers(tmp_path / "all.jsonl") == [2]


@pytest.mark.parametrize("torn", [b"{", b'{"a":1}\n{"specversion":"1.0","id":"7'])
def test_a_torn_last_line_costs_that_line_alone(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(torn)
    with sink(path) as out:
        out.send(events(1, 2))
    assert path.read_bytes() == torn + b"\n" + as_json(event(1)) + b"\n" + as_json(event(2)) + b"\n"


@pytest.mark.parametrize("missing_bytes", [1, 2, 100])
def test_a_full_disk_takes_whole_lines_counts_the_rest_and_recovers(tmp_path: Path, missing_bytes: int) -> None:
    path = tmp_path / "e.jsonl"
    with sink(path) as out:
        out.send([event(1)])
        size = path.stat().st_size
        with room_for(size * 3 - missing_bytes):
            assert out.send(events(2, 4)) == 3
            assert numbers(path) == [1, 2]
            assert out.send(events(3, 1)) == 1
        assert out.send(events(6, 2)) == 0
    assert numbers(path) == [1, 2, 6, 7]


def test_a_torn_line_is_still_closed_when_the_disk_was_full_in_between(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b"{torn")
    with sink(path) as out:
        for room in (5, 6, 50):
            with room_for(room):
                assert out.send([event(1)]) == 1
        out.send([event(2)])
    assert path.read_bytes() == b"{torn\n" + as_json(event(2)) + b"\n"


def test_the_full_device(tmp_path: Path) -> None:
    with sink(Path("/dev/full")) as out:
        assert out.send(events(1, 3)) == 3
        assert out.send(events(4, 1)) == 1


def test_a_pipe_whose_reader_is_behind_refuses_and_never_glues_two_events(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with sink(path) as out:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        big = [event(n, State(part="p", state="s", detail="x" * 3000)) for n in range(1, 5)]
        refused = out.send(big)
        assert refused > 0
        got = os.read(reader, 1 << 20)
        assert out.send([event(9)]) == 0
        got += os.read(reader, 1 << 20)
    os.close(reader)
    whole = [line for line in got.splitlines() if line.endswith(b"}}")]
    assert [msgspec.json.decode(line, type=Event).sequence for line in whole] == [*range(1, 5 - refused), 9]


def test_a_pipe_without_a_reader_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SinkError, match=r"pipe: .*start the reader"), sink(tmp_path / "pipe"):
        pass


def test_a_pipe_whose_reader_has_gone_breaks_the_sink(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with sink(tmp_path / "pipe") as out:
        os.close(reader)
        with pytest.raises(SinkError, match=r"pipe: .*has gone"):
            out.send([event(1)])


def test_two_daemons_do_not_write_one_file(tmp_path: Path) -> None:
    with sink(tmp_path / "e.jsonl") as first:
        with pytest.raises(SinkError, match=r"e\.jsonl: .*another process"), sink(tmp_path / "e.jsonl", append=False):
            pass
        first.send([event(1)])
    assert numbers(tmp_path / "e.jsonl") == [1]


def read_only(path: Path) -> Path:
    path.mkdir()
    path.chmod(0o500)
    return path / "e.jsonl"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda tmp: tmp / "none" / "e.jsonl", "mkdir -p"),
        (lambda tmp: tmp, "is a folder"),
        pytest.param(
            lambda tmp: read_only(tmp / "locked"),
            "cannot be written",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere"),
        ),
    ],
)
def test_check_names_the_file_and_how_to_mend_it(tmp_path: Path, place: Callable[[Path], Path], message: str) -> None:
    path = place(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        jsonl.check(jsonl.Options(path=path))
    assert str(path) in str(caught.value)


def test_check_creates_nothing(tmp_path: Path) -> None:
    jsonl.check(jsonl.Options(path=tmp_path / "e.jsonl"))
    assert list(tmp_path.iterdir()) == []
