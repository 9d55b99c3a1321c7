"""The published schema and the golden files: what subscribers in other languages rely on must not move."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from inspector import events, schema
from inspector.events import (
    Along,
    Box,
    CameraTotals,
    CoilEvent,
    Data,
    Defect,
    DefectClass,
    Depth,
    Event,
    Gap,
    Heartbeat,
    Inspected,
    JournalMark,
    Mask,
    Position,
    Reason,
    Size,
    State,
    as_json,
)
from inspector.journal import identity

GOLDEN = Path(__file__).parents[1] / "golden"
DIGEST = "sha256:4b227777d4dd1fc61c6f884f48641d02b4d121d3fd328cb08b5531fcacdabf8a"
OTHER_DIGEST = "sha256:ef2d127de37b942baad06145e54b0c619a1f22327b2ebbcfbec78f5564afe39d"

DATA: dict[str, tuple[str, Data]] = {
    "defect": (
        "defect/v1/pickling-1/top-left/3/",
        Defect(
            camera="top-left",
            frame_sequence=81_204,
            frames=1,
            source=None,
            exposed_ns=1_785_542_399_123_456_789,
            exposed_time="2026-07-31T23:59:59.123456789Z",
            coil="4711-B",
            position_mm=Position(along=1_039_411.25, across=402.5),
            size_mm=Size(along=1.5, across=1.0),
            bbox_px=Box(x=801, y=100, width=2, height=3),
            area_px=5,
            area_mm2=1.25,
            defect_class=DefectClass(number=3, name="scratch"),
            score=0.9312,
            severity="minor",
            mask=Mask(size=(256, 1600), rle="205157 2 205413 3"),
            continues=False,
            pack_digest=DIGEST,
            exposed_within_ns=12_000,
            camera_ns=81_204_000_000_000,
            segmented=True,
        ),
    ),
    "gap": (
        "gap/v1/pickling-1/top-left/",
        Gap(
            camera="top-left",
            frame_sequence=81_210,
            frames=3,
            reason=Reason.OVERLOAD,
            detail="Überlast \u2192 3 frames",
            source="0002cc93b.jpg",
            coil="4711-B",
            along_mm=Along(start=1_040_128.0, end=1_040_512.0),
        ),
    ),
    "coil": (
        "coil/v1/pickling-1/",
        CoilEvent(
            coil="4712-A",
            phase="end",
            encoder_count=-12,
            known_from=40,
            inspected={Depth.FULL: Inspected(frames=9, mm=1152.0), Depth.GATE: Inspected(frames=1, mm=128.5)},
            packs=(DIGEST, OTHER_DIGEST),
        ),
    ),
    "state": (
        "state/v1/pickling-1/",
        State(part="top-left", state="off in brightness", detail='lamp "2"', about="drift", pack_digest=DIGEST),
    ),
    "heartbeat": (
        "heartbeat/v1/pickling-1/",
        Heartbeat(
            state="running",
            coil="4711-B",
            high_water={"defect/v1/pickling-1/top-left/3/": 17, "gap/v1/pickling-1/top-left/": 1},
            cameras={"top-left": CameraTotals(issued=81_213, inspected=81_210, lost={"overload": 3})},
            undelivered={"zeromq": 0},
            journal=JournalMark(id="0f3c6f0a4d5b4c0e9f0d1a2b3c4d5e6f", last=81_377, retired=12),
            history="tcp://127.0.0.1:5571",
            overload_step=3,
            pack_digest=OTHER_DIGEST,
        ),
    ),
}


def event(kind: str) -> Event:
    topic, data = DATA[kind]
    return Event(
        id=f"12/{topic}17",
        source="/inspector/pickling-1",
        type=f"inspector.{kind}.v1",
        time="2026-07-31T23:59:59.123456789Z",
        subject=topic,
        dataschema=schema.SCHEMA_ID,
        epoch=12,
        sequence=17,
        data=data,
    )


@pytest.fixture(scope="module")
def validator() -> jsonschema.protocols.Validator:
    published = json.loads(schema.PUBLISHED.read_text())
    jsonschema.Draft202012Validator.check_schema(published)
    return jsonschema.Draft202012Validator(published)


def test_the_published_schema_is_the_records() -> None:
    again = "python -m inspector.schema > inspector/schema/event.v1.json"
    assert schema.PUBLISHED.read_text() == schema.text(), f"the records changed; after thinking it over run: {again}"


def test_the_command_prints_it() -> None:
    run = subprocess.run([sys.executable, "-m", "inspector.schema"], capture_output=True, check=True, timeout=30)
    assert run.stdout.decode() == schema.text()


def test_every_daemon_event_names_it() -> None:
    assert identity.DATASCHEMA == schema.SCHEMA_ID


def test_limits_name_fields_that_exist() -> None:
    for struct, fields in schema.REFINED.items():
        assert set(fields) <= set(getattr(events, struct).__struct_fields__)


def test_there_is_an_example_of_every_kind() -> None:
    assert set(DATA) == set(identity.KINDS.values())
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(DATA)


LATER: dict[str, set[str]] = {
    "defect": {"exposed_within_ns", "camera_ns", "segmented"},
    "gap": set(),
    "coil": {"known_from", "inspected", "packs"},
    "state": {"about", "pack_digest"},
    "heartbeat": {"journal", "history", "overload_step", "pack_digest"},
}
"""Fields of the data that events of the first version lack."""


@pytest.mark.parametrize("path", sorted((GOLDEN / "older").glob("*.json")), ids=lambda path: path.stem)
def test_events_of_older_versions_stay_valid(path: Path, validator: jsonschema.protocols.Validator) -> None:
    validator.validate(json.loads(path.read_bytes()))
    older = msgspec.json.decode(path.read_bytes(), type=Event)
    unknown = {field for field in older.data.__struct_fields__ if getattr(older.data, field) is None}
    assert unknown <= {*LATER[path.stem], "source"}


@pytest.mark.parametrize("kind", DATA)
class TestGolden:
    def test_encodes_to_the_very_bytes(self, kind: str) -> None:
        assert as_json(event(kind)) == (GOLDEN / f"{kind}.json").read_bytes(), "v1 may only gain fields"

    def test_decodes_to_an_equal_event(self, kind: str) -> None:
        assert msgspec.json.decode((GOLDEN / f"{kind}.json").read_bytes(), type=Event) == event(kind)

    def test_is_valid(self, kind: str, validator: jsonschema.protocols.Validator) -> None:
        validator.validate(json.loads((GOLDEN / f"{kind}.json").read_bytes()))

    def test_allows_what_a_later_v1_adds(self, kind: str, validator: jsonschema.protocols.Validator) -> None:
        later = json.loads((GOLDEN / f"{kind}.json").read_bytes())
        later["traceparent"], later["data"]["added"] = "00-0af7-b7ad-01", {"x": 1}
        validator.validate(later)
        assert msgspec.convert(later, Event) == event(kind)

    def test_refuses_each_missing_field(self, kind: str, validator: jsonschema.protocols.Validator) -> None:
        golden = json.loads((GOLDEN / f"{kind}.json").read_bytes())
        for part in (golden, golden["data"]):
            for key in part.keys() - (LATER[kind] if part is golden["data"] else set()):
                value = part.pop(key)
                assert not validator.is_valid(golden), f"{key} was missing"
                part[key] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sequence",), 0),
        (("subject",), "defect/v1/pickling-1"),
        (("dataschema",), "urn:inspector:schema:event:v2"),
        (("data", "kind"), "gap"),
        (("data", "score"), 1.5),
        (("data", "mask", "rle"), "1 2 3"),
        (("data", "mask", "size"), [256]),
        (("data", "bbox_px", "x"), "801"),
    ],
)
def test_refuses_nonsense(path: tuple[str, ...], value: object, validator: jsonschema.protocols.Validator) -> None:
    wrong = copy.deepcopy(json.loads((GOLDEN / "defect.json").read_bytes()))
    part = wrong
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert not validator.is_valid(wrong)
