"""`inspector export`: each format says what the journal holds, whole or with a word on what is missing."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from contextlib import closing
from operator import attrgetter
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import inspector
from build_engines import datasets
from inspector import export, rle
from inspector.__main__ import main
from inspector.errors import ConfigError, InspectorError, JournalError, SinkError
from inspector.events import (
    Along,
    Box,
    CoilEvent,
    Data,
    Defect,
    DefectClass,
    Gap,
    Mask,
    Position,
    Reason,
    Size,
    State,
    as_json,
)
from inspector.export import cutting, sheet
from inspector.export.columns import COLUMNS, MASK, nanoseconds
from inspector.journal import Journal, read_events, rfc3339
from inspector.records import Draft, Graded
from tests.disks import room_for
from tests.line import lines
from tests.line.daemon import write

NOW_NS = 1_700_000_000_123_456_789
Pixels = NDArray[np.bool_]


# ---------------------------------------------------------------- coils to export


NOBODY_KNOWS = DefectClass(number=0, name="unknown")


def defect(at_mm: float = 100.0, mask: Pixels | None = None, number: int = 3, **changed: Any) -> Defect:
    mask = np.ones((4, 6), dtype=np.bool_) if mask is None else mask
    values: dict[str, Any] = {
        "camera": "a",
        "frame_sequence": 7,
        "frames": 1,
        "source": None,
        "exposed_ns": NOW_NS,
        "exposed_time": rfc3339(NOW_NS),
        "coil": "c1",
        "position_mm": Position(along=at_mm, across=40.25),
        "size_mm": Size(along=3.0, across=2.0),
        "bbox_px": Box(x=0, y=0, width=6, height=4),
        "area_px": 24,
        "area_mm2": 6.0,
        "defect_class": DefectClass(number=number, name="scratch"),
        "score": 0.93,
        "severity": "major",
        "mask": Mask(size=mask.shape, rle=rle.encode(mask)),
        "continues": False,
        "pack_digest": "sha256:d1",
    }
    return Defect(**(values | changed))


def gap(start: float = 10.0, end: float = 30.5, **changed: Any) -> Gap:
    values: dict[str, Any] = {
        "camera": "a",
        "frame_sequence": 3,
        "frames": 2,
        "reason": Reason.OVERLOAD,
        "detail": "the line was behind",
        "source": None,
        "coil": "c1",
        "along_mm": Along(start=start, end=end),
    }
    return Gap(**(values | changed))


def coil(phase: str, name: str = "c1", count: int = 0) -> CoilEvent:
    return CoilEvent(coil=name, phase=phase, encoder_count=count)  # type: ignore[arg-type]


def state(detail: str = "") -> State:
    return State(part="a", state="blind", detail=detail)


def draft(data: Data) -> Draft:
    topics = {Defect: "defect/v1/hot/a/3/", Gap: "gap/v1/hot/a/", CoilEvent: "coil/v1/hot/", State: "state/v1/hot/"}
    return Draft(topics[type(data)], NOW_NS, data)  # type: ignore[index]


def begin(path: Path, **changed: Any) -> Journal:
    options: dict[str, Any] = {"line": "hot", "source": "/inspector/hot", "synchronous": False, "capacity_frames": 9}
    return Journal.open(path, **(options | {"cameras": ["a"], "digest": "sha256:d1"} | changed))


def journalled(path: Path, *data: Data) -> list[bytes]:
    """A run that saw all of this; returns the envelopes as they were published."""
    with begin(path) as journal:
        events = journal.append([Graded(drafts=[draft(each) for each in data])])
    return [as_json(event) for event in events]


def one_coil(*data: Data) -> tuple[Data, ...]:
    return (coil("start"), *data, coil("end", count=9000))


def alter(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute(statement, values).rowcount > 0


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    export.arguments(parser)
    return export.run(parser.parse_args([str(argument) for argument in arguments]))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "j.db"


# ---------------------------------------------------------------- jsonl


def test_jsonl_is_what_was_published(path: Path, tmp_path: Path) -> None:
    bodies = journalled(path, coil("start", "c0"), defect(coil="c0"), coil("end", "c0"), *one_coil(defect(), gap()))
    assert run(path, "--coil", "c1", "-o", tmp_path / "c.jsonl") == 0
    assert lines_of(tmp_path / "c.jsonl") == bodies[3:]


def test_an_envelope_of_another_version_is_not_touched(path: Path, tmp_path: Path) -> None:
    journalled(path, *one_coil(defect()))
    alter(path, """UPDATE event SET body = replace(body, '"score":', '"later":  [1],"score":') WHERE kind = 'defect'""")
    assert run(path, "--coil", "c1", "-o", tmp_path / "c.jsonl", "--kinds", "defect") == 0
    assert b'"later":  [1],' in (tmp_path / "c.jsonl").read_bytes()


def test_a_change_of_state_belongs_to_the_coil_on_the_line(path: Path, tmp_path: Path) -> None:
    journalled(path, state("before"), coil("start"), state("in"), coil("end"), state("after"), coil("start", "c2"))
    run(path, "--coil", "c1", "-o", tmp_path / "c.jsonl", "--kinds", "state")
    assert [json.loads(line)["data"]["detail"] for line in lines_of(tmp_path / "c.jsonl")] == ["in"]


def test_standard_output(path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    bodies = journalled(path, *one_coil())
    for target in ([], ["-o", "-"]):
        assert run(path, "--coil", "c1", "--format", "jsonl", *target) == 0
        assert capfdbinary.readouterr().out.splitlines() == bodies


def test_a_configuration_names_its_journal(pack: Path, path: Path, tmp_path: Path) -> None:
    bodies = journalled(path, *one_coil())
    config = write(tmp_path, lines.config(pack, path, lines.filmed()))
    assert run(config, "--coil", "c1", "-o", tmp_path / "c.jsonl") == 0
    assert lines_of(tmp_path / "c.jsonl") == bodies


# ---------------------------------------------------------------- which coils, and are they whole


def test_the_coils_are_listed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journalled(path, *one_coil(gap()), coil("start", "c\x1b2"))
    assert run(path) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["coil", "first", "event", "last", "event", "events", "state"]
    assert first.split() == ["c1", "2023-11-14", "22:13:20Z", "2023-11-14", "22:13:20Z", "3", "ended"]
    assert second.startswith("c\N{REPLACEMENT CHARACTER}2")
    assert second.endswith("  1  never ended")


def test_an_unknown_coil(path: Path) -> None:
    journalled(path, *one_coil(), coil("start", "c2"))
    with pytest.raises(InspectorError, match=r"no coil 'c3'; there are c1, c2$"):
        run(path, "--coil", "c3", "--format", "jsonl")


def test_a_coil_on_the_line_is_told(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with begin(path) as journal:
        journal.append([Graded(drafts=[draft(coil("start"))])])
        journal.commit({})
        assert run(path, "--coil", "c1", "-o", tmp_path / "c.jsonl") == 0
    assert capsys.readouterr().err == "inspector export: coil c1 is on the line\n"
    assert run(path, "--coil", "c1", "-o", tmp_path / "c.jsonl") == 0
    assert capsys.readouterr().err == "inspector export: coil c1 never ended\n"


@pytest.mark.parametrize(
    ("deleted", "word"),
    [
        ("kind = 'coil' AND sequence = 1", "its beginning is not in the journal"),
        ("kind = 'gap' AND sequence = 2", "1 "),
    ],
)
def test_what_is_missing_is_told(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], deleted: str, word: str
) -> None:
    journalled(path, *one_coil(gap(), gap(), gap()), *(coil("start", "c2"), gap(coil="c2"), coil("end", "c2")))
    alter(path, f"DELETE FROM event WHERE {deleted}")
    assert run(path, "--coil", "c1", "-o", tmp_path / "c.csv") == 1
    assert f"coil c1 is not complete: {word}" in capsys.readouterr().err
    assert rows(tmp_path / "c.csv")
    assert run(path, "--coil", "c2", "-o", tmp_path / "c.csv") == 0
    assert capsys.readouterr().err == ""


def test_events_given_up_are_told(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journalled(path, *one_coil())
    alter(path, "UPDATE run SET unjournalled = 5")
    assert run(path, "--coil", "c1", "-o", tmp_path / "c.csv") == 1
    assert "gave up 5 events" in capsys.readouterr().err


def test_a_damaged_journal_leaves_no_file(path: Path, tmp_path: Path) -> None:
    journalled(path, *one_coil(defect()))
    alter(path, """UPDATE event SET body = replace(body, '"score":0.93', '"score":"x"') WHERE kind = 'defect'""")
    with pytest.raises(JournalError, match="damaged"):
        run(path, "--coil", "c1", "-o", tmp_path / "c.csv")
    assert not list(tmp_path.glob("*c.csv*"))


# ---------------------------------------------------------------- csv


def test_csv(path: Path, tmp_path: Path) -> None:
    late = defect(20.0, source="p 1.png", frame_sequence=2)
    journalled(path, *one_coil(defect(100.0), gap(10.0, 30.5), state(), late))
    assert run(path, "--coil", "c1", "-o", tmp_path / "c.csv") == 0
    raw = (tmp_path / "c.csv").read_bytes()
    assert raw.count(b"\r\n") == raw.count(b"\n") == 4
    first, second, third = rows(tmp_path / "c.csv")
    assert list(first) == [column.name for column in COLUMNS]
    assert (first["kind"], first["start_mm"], first["end_mm"], first["length_mm"]) == ("gap", "10.0", "30.5", "20.5")
    assert (first["reason"], first["detail"], first["severity"]) == ("overload", "the line was behind", "")
    assert (second["kind"], second["start_mm"], second["end_mm"], second["picture"]) == (
        *("defect", "18.5", "21.5", "p 1.png"),
    )
    assert (third["start_mm"], third["across_mm"], third["width_mm"]) == ("98.5", "40.25", "2.0")
    assert (third["class"], third["class_name"], third["continues"]) == ("3", "scratch", "false")
    assert third["exposed_time"] == "2023-11-14T22:13:20.123456789Z"
    assert "mask_rle" not in third


def test_what_was_not_measured_has_no_area(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = defect(20.0, segmented=False, mask=np.zeros((4, 6), np.bool_), defect_class=NOBODY_KNOWS)
    journalled(path, *one_coil(coarse, defect(100.0)))
    run(path, "--coil", "c1", "-o", tmp_path / "c.csv")
    unmeasured, measured = rows(tmp_path / "c.csv")
    columns = ("class", "class_name", "segmented", "area_mm2", "area_px", "width_px")
    assert [unmeasured[name] for name in columns] == ["0", "unknown", "false", "", "", "6"]
    assert [measured[name] for name in columns] == ["3", "scratch", "true", "6.0", "24", "6"]
    assert run(path, "--coil", "c1", "--format", "rle", "-o", tmp_path / "rle.csv") == 1
    assert len(rows(tmp_path / "rle.csv")) == 1
    assert "1 defects that were not segmented, under overload, are left out" in capsys.readouterr().err


def test_csv_of_all_kinds_is_in_order_along_the_coil(path: Path, tmp_path: Path) -> None:
    journalled(path, *one_coil(defect(100.0), state(), gap(200.0, 300.0), defect(50.0)))
    run(path, "--coil", "c1", "-o", tmp_path / "c.csv", "--kinds", "defect,gap,coil,state")
    found = rows(tmp_path / "c.csv")
    assert [row["start_mm"] or row["state"] for row in found] == ["start", "48.5", "98.5", "blind", "200.0", "end"]
    assert (found[0]["encoder_count"], found[-1]["encoder_count"]) == ("0", "9000")


def test_csv_says_of_each_row_which_pack_it_is_of(path: Path, tmp_path: Path) -> None:
    """A coil on which nothing was found has it in the row of its end."""
    drifts = State(part="a", state="off in gate scores", detail="", about="drift", pack_digest="sha256:d2")
    ended = msgspec.structs.replace(coil("end", count=9000), packs=("sha256:d1", "sha256:d2"))
    journalled(path, coil("start"), defect(), gap(), state(), drifts, ended)
    run(path, "--coil", "c1", "-o", tmp_path / "c.csv", "--kinds", "defect,gap,coil,state")
    found = {(row["kind"], row["state"]): row["pack_digest"] for row in rows(tmp_path / "c.csv")}
    assert found == {
        ("coil", "start"): "",
        ("defect", ""): "sha256:d1",
        ("gap", ""): "",
        ("state", "blind"): "",
        ("state", "off in gate scores"): "sha256:d2",
        ("coil", "end"): "sha256:d1 sha256:d2",
    }


@settings(deadline=None)
@given(st.text())
def test_no_text_is_a_formula(name: str) -> None:
    cell = sheet.text(name)
    assert not cell.startswith(tuple("=+-@\t\r\n＝＋－＠"))
    back = cell.removeprefix("'") if cell.startswith("'") else cell
    assert back == "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    assert next(csv.reader(io.StringIO(sheet._Line().made([cell, "x"]).decode(), newline=""))) == [cell, "x"]


def test_names_that_are_formulas_come_out_as_text(path: Path, tmp_path: Path) -> None:
    journalled(path, *one_coil(defect(source='=HYPERLINK("http://x","y")'), defect(-5.0)))
    run(path, "--coil", "c1", "-o", tmp_path / "c.csv")
    before, named = rows(tmp_path / "c.csv")
    assert named["picture"] == '\'=HYPERLINK("http://x","y")'
    assert before["start_mm"] == "-6.5"  # a number is no formula


# ---------------------------------------------------------------- parquet


def test_parquet(path: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'inspector[parquet]'")
    bodies = journalled(path, *one_coil(defect(), gap(), state("dark")))
    assert run(path, "--coil", "c1", "-o", tmp_path / "c.parquet") == 0
    table = pq.read_table(tmp_path / "c.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types["time"] == types["exposed_time"] == "timestamp[ns, tz=UTC]"
    assert types["start_mm"] == "double"
    assert types["kind"] == "dictionary<values=string, indices=int32, ordered=0>"
    assert table.schema.metadata[b"inspector.pack_digest"] == b"sha256:d1"
    assert table.schema.metadata[b"inspector.line"] == b"hot"
    found = [{column: table[column][row] for column in table.column_names} for row in range(table.num_rows)]
    assert [row["id"].as_py() for row in found] == [json.loads(body)["id"] for body in bodies]
    assert [row["kind"].as_py() for row in found] == ["coil", "defect", "gap", "state", "coil"]
    assert found[1]["exposed_time"].value == found[1]["time"].value == NOW_NS
    assert found[1]["mask_rle"].as_py() == "1 24"
    assert found[2]["score"].as_py() is None


def test_parquet_is_written_in_row_groups(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'inspector[parquet]'")
    monkeypatch.setattr("inspector.export.parquet.ROWS", 4)
    journalled(path, *one_coil(*(defect(severity=f"s{number}") for number in range(8))))
    run(path, "--coil", "c1", "-o", tmp_path / "c.parquet")
    assert pq.ParquetFile(tmp_path / "c.parquet").num_row_groups == 3
    severities = pq.read_table(tmp_path / "c.parquet")["severity"].to_pylist()
    assert severities == [None, *(f"s{number}" for number in range(8)), None]


def test_parquet_without_pyarrow(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journalled(path, *one_coil())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'inspector\[parquet\]'"):
        run(path, "--coil", "c1", "-o", tmp_path / "c.parquet")


@given(st.integers(0, 2**62))
def test_times_come_back(time_ns: int) -> None:
    assert nanoseconds(rfc3339(time_ns)) == time_ns


# ---------------------------------------------------------------- rle


@st.composite
def stacks(draw: st.DrawFn) -> list[Pixels]:
    """Frames of one width and of any heights."""
    width = draw(st.integers(1, 6))
    heights = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    return [draw(arrays(np.bool_, (height, width))) for height in heights]


@settings(deadline=None)
@given(stacks())
def test_a_mask_is_cut_into_its_frames(frames: list[Pixels]) -> None:
    whole = np.concatenate(frames)
    cut = cutting.cut(rle.runs(rle.encode(whole), *whole.shape), [len(frame) for frame in frames])
    assert [cutting.text(runs) for runs in cut] == [rle.encode(frame) for frame in frames]


@settings(deadline=None)
@given(st.lists(arrays(np.bool_, (4, 5)), min_size=1, max_size=4))
def test_masks_of_one_picture_become_one(masks: list[Pixels]) -> None:
    union = cutting.united([rle.runs(rle.encode(mask), 4, 5) for mask in masks])
    assert cutting.text(union) == rle.encode(np.any(masks, axis=0))


@pytest.mark.parametrize("text", ["1", "0 4", "1 0", "23 3", "x 1", "1 99999999999999999999"])
def test_a_mask_that_is_none(path: Path, tmp_path: Path, text: str) -> None:
    journalled(path, *one_coil(defect(mask=np.ones((4, 6), np.bool_))))
    alter(path, "UPDATE event SET body = replace(body, '\"1 24\"', ?) WHERE kind = 'defect'", f'"{text}"')
    with pytest.raises(JournalError, match="a mask that is none"):
        run(path, "--coil", "c1", "--format", "rle", "-o", tmp_path / "train.csv")


def test_rle_is_read_by_the_trainer(path: Path, tmp_path: Path) -> None:
    dice = np.random.default_rng(4)
    truth = {name: {number: dice.random((16, 20)) < 0.3 for number in (1, 4)} for name in ("a.png", "b,2.png")}
    halves = np.zeros((16, 20), np.bool_)
    halves[:, :9] = True
    data = [
        defect(mask=mask & half, number=number, source=name, frame_sequence=frame)
        for half in (halves, ~halves)
        for frame, (name, masks) in enumerate(truth.items())
        for number, mask in masks.items()
    ]
    journalled(path, *one_coil(*data))
    (tmp_path / "set" / "images").mkdir(parents=True)
    for name in (*truth, "clean.png"):
        cv2.imwrite(str(tmp_path / "set" / "images" / name), np.zeros((16, 20), np.uint8))
    assert run(path, "--coil", "c1", "--format", "rle", "-o", tmp_path / "set" / "train.csv") == 0
    samples = {sample.name: sample for sample in datasets.read(tmp_path / "set")}
    assert samples["clean.png"].truth == {}
    for name, masks in truth.items():
        assert np.array_equal(datasets.masks(samples[name], (1, 4)), np.stack([masks[1], masks[4]]).astype(np.uint8))


def test_a_replayed_folder_becomes_a_data_set(pack: Path, path: Path, tmp_path: Path) -> None:
    """From pictures through the line, the journal and the export to what the trainer reads."""
    images = lines.pictures(tmp_path / "images", 8)
    arguments = ["replay", str(images), "--pack", str(pack), "--journal", str(path), "--coil", "c1"]
    assert main(arguments) == 0
    assert main(["export", str(path), "--coil", "c1", "--format", "rle", "-o", str(tmp_path / "train.csv")]) == 0
    samples = datasets.read(tmp_path)
    assert [(sample.name, sample.classes) for sample in samples] == [
        *(("0.png", ()), ("1.png", (1,)), ("2.png", ()), ("3.png", (2,))),
        *(("4.png", ()), ("5.png", (3,)), ("6.png", ()), ("7.png", (4,))),
    ]
    defects = {data.source: data for data in map(attrgetter("data"), read_events(path, kinds=["defect"]))}
    for sample in samples:
        found = datasets.masks(sample, (1, 2, 3, 4)).sum()
        assert found == (defects[sample.name].area_px if sample.classes else 0)


def test_rle_of_a_live_camera_is_cut_into_frames(path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    stack = np.zeros((12, 3), np.bool_)
    stack[3:9, 1] = True
    journalled(path, *one_coil(defect(mask=stack, frames=3, frame_sequence=8), defect(mask=stack[3:7], number=1)))
    assert run(path, "--coil", "c1", "--format", "rle") == 0
    out = capfdbinary.readouterr().out.decode()
    assert out == "ImageId,ClassId,EncodedPixels\na_8,3,8 1\na_9,3,5 4\na_10,3,5 1\na_7,1,5 4\n"


def test_rle_of_two_runs_does_not_mix_their_frames(path: Path, tmp_path: Path) -> None:
    for column in (0, 1):
        mask = np.zeros((4, 2), np.bool_)
        mask[:, column] = True
        journalled(path, *one_coil(defect(mask=mask)))
    run(path, "--coil", "c1", "--format", "rle", "-o", tmp_path / "train.csv")
    first, second = rows(tmp_path / "train.csv")
    assert first["ImageId"] != second["ImageId"]
    assert (first["EncodedPixels"], second["EncodedPixels"]) == ("1 4", "5 4")


def test_rle_names_replayed_frames_as_other_events_do(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack, single = np.ones((12, 3), np.bool_), np.ones((4, 3), np.bool_)
    data = [
        defect(mask=stack, frames=3, frame_sequence=8, source="p8.png"),
        defect(mask=single, number=1, frame_sequence=9, source="p9.png"),
    ]
    journalled(path, *one_coil(*data))
    assert run(path, "--coil", "c1", "--format", "rle", "-o", tmp_path / "train.csv") == 0
    assert [(row["ImageId"], row["ClassId"]) for row in rows(tmp_path / "train.csv")] == [
        ("p8.png", "3"),
        ("p9.png", "1"),
        ("p9.png", "3"),
        ("a_10", "3"),
    ]
    assert "1 replayed frames are called CAMERA_SEQUENCE" in capsys.readouterr().err


def test_rle_leaves_out_what_it_cannot_cut(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd, other = np.ones((11, 3), np.bool_), np.ones((10, 3), np.bool_)
    single = defect(mask=np.ones((6, 3), np.bool_), frame_sequence=20)
    journalled(path, *one_coil(defect(mask=odd, frames=2), defect(mask=other, frames=2), single))
    assert run(path, "--coil", "c1", "--format", "rle", "-o", tmp_path / "train.csv") == 1
    assert [row["ImageId"] for row in rows(tmp_path / "train.csv")] == ["a_20"]
    assert "2 defects over several frames are left out" in capsys.readouterr().err


def test_rle_of_two_pictures_of_one_name(path: Path, tmp_path: Path) -> None:
    data = [defect(mask=np.ones((size, 3), np.bool_), source="p.png", frame_sequence=size) for size in (4, 5)]
    journalled(path, *one_coil(*data))
    with pytest.raises(InspectorError, match=r"two pictures are called 'p.png'"):
        run(path, "--coil", "c1", "--format", "rle", "-o", tmp_path / "train.csv")
    assert not (tmp_path / "train.csv").exists()


# ---------------------------------------------------------------- arguments and files


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-o", "c.txt"], "does not say the format"),
        ([], "--format jsonl"),
        (["--format", "parquet"], "-o FILE.parquet"),
        (["--format", "rle", "--kinds", "gap"], "of defects only"),
        (["-o", "nowhere/c.csv"], "mkdir -p"),
        (["-o", ".", "--format", "csv"], "is a folder"),
    ],
)
def test_arguments_that_do_not_go_together(path: Path, arguments: Sequence[str], word: str) -> None:
    journalled(path, *one_coil())
    with pytest.raises(ConfigError, match=word):
        run(path, "--coil", "c1", *arguments)


def test_kinds_that_there_are_not(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(path, "--coil", "c1", "--kinds", "defect,heartbeat")
    assert "heartbeat" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "rle"])
def test_a_full_disk_leaves_the_old_file(path: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'inspector[parquet]'")
    mask = np.indices((64, 64)).sum(axis=0) % 2 == 1
    journalled(path, *one_coil(*(defect(mask=mask, frame_sequence=number) for number in range(8))))
    file = tmp_path / f"c.{suffix}"
    file.write_text("old")
    with room_for(1000), pytest.raises(SinkError, match="cannot be written"):
        run(path, "--coil", "c1", "-o", file)
    assert file.read_text() == "old"
    assert list(tmp_path.glob("*.part")) == list(tmp_path.glob(".*.part")) == []
    assert run(path, "--coil", "c1", "-o", file) == 0
    assert file.stat().st_size > 1000


def test_a_file_is_made_as_others_are_and_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    journalled(path, *one_coil())
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "real.csv")
    run(path, "--coil", "c1", "-o", link)
    assert link.is_symlink()
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "real.csv").stat().st_mode & 0o777 == 0o666 & ~mask


def test_nobody_reads_the_output(path: Path) -> None:
    journalled(path, *one_coil(*(gap() for _ in range(2000))))
    with subprocess.Popen(
        [sys.executable, "-m", "inspector", "export", str(path), "--coil", "c1", "--format", "csv"],
        env=os.environ | {"PYTHONPATH": str(Path(inspector.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize("chosen", ["jsonl", "csv", "rle"])
def test_a_long_coil_is_never_in_memory(path: Path, tmp_path: Path, chosen: str) -> None:
    mask = np.indices((16, 16)).sum(axis=0) % 2 == 1
    journalled(path, *one_coil(*(defect(mask=mask, frame_sequence=number % 900) for number in range(5000))))
    size = path.stat().st_size
    tracemalloc.start()
    try:
        assert run(path, "--coil", "c1", "--format", chosen, "-o", tmp_path / "file") == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 5e6
    assert peak < size / 3


def test_every_column_has_its_own_name() -> None:
    names = [column.name for column in COLUMNS + MASK]
    assert len(names) == len(set(names))
