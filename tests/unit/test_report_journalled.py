"""report/journalled.py: a run that saw several coils is one strip; each event lies where it was on it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from inspector import journal
from inspector.config import Config, convert
from inspector.events import Along, CoilEvent, Defect, Event, Gap, Position
from inspector.pack import Pack, load
from inspector.records import Draft, Graded
from inspector.report import CoilReport, Throughput
from inspector.report.journalled import RunFacts, gather
from tests.journals import NOW_NS, gap, settled, start
from tests.packs import make_pack

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return load(make_pack(tmp_path_factory.mktemp("pack") / "bands"))


def coil(name: str, phase: str, count: int) -> Draft:
    return Draft("coil/v1/hot/", NOW_NS, CoilEvent(coil=name, phase=phase, encoder_count=count))  # type: ignore[arg-type]


def defect(name: str, along_mm: float) -> Draft:
    found = msgspec.json.decode((GOLDEN / "defect.json").read_bytes(), type=Event).data
    assert isinstance(found, Defect)
    data = msgspec.structs.replace(found, coil=name, position_mm=Position(along=along_mm, across=5.0))
    return Draft("defect/v1/hot/a/3/", NOW_NS, data)


def hole(name: str, start_mm: float, end_mm: float) -> Draft:
    draft = gap()
    assert isinstance(draft.data, Gap)
    draft.data = msgspec.structs.replace(draft.data, coil=name, along_mm=Along(start=start_mm, end=end_mm))
    return draft


def reported(path: Path, pack: Pack, *drafts: Draft) -> CoilReport:
    with start(path) as kept:
        kept.append([settled("a", 0, 9), Graded(drafts=list(drafts))])
        kept.commit({"a": 10, "b": 0})
        epoch = kept.epoch
    raw = {
        "line": {"name": "hot", "coil": "c1", "mm_per_count": 0.5},
        "pack": "p",
        "cameras": [{"name": "a", "kind": "synthetic"}],
        "journal": {"path": str(path)},
    }
    facts = RunFacts(epoch, {}, 100.0, Throughput(1.0, 1.0, None, None, 1.0), "none", NOW_NS, NOW_NS)
    return gather(path, convert(raw, Config), pack, facts, journal.audit(path))


def places(report: CoilReport) -> list[float]:
    return [finding.defect.position_mm.along for finding in report.defects]


def test_events_of_one_coil_lie_where_they_say(tmp_path: Path, pack: Pack) -> None:
    told = coil("4711", "start", 800), defect("4711", 12.5), hole("4711", 20.0, 30.0), coil("4711", "end", 1000)
    report = reported(tmp_path / "j.db", pack, *told)
    assert report.coil == "4711"
    assert places(report) == [12.5]
    assert [(each.start_mm, each.end_mm) for each in report.gaps] == [(20.0, 30.0)]


def test_several_coils_are_one_strip_from_the_head_of_the_first(tmp_path: Path, pack: Pack) -> None:
    report = reported(
        tmp_path / "j.db",
        pack,
        coil("unknown", "start", 100),
        defect("unknown", 1.0),
        defect("4711", 2.0),  # told just before the start of its coil
        coil("unknown", "end", 200),
        coil("4711", "start", 200),
        hole("4711", 10.0, 20.0),
        coil("4711", "end", 300),
        coil("unknown", "start", 300),
        defect("unknown", 3.0),
        coil("unknown", "end", 400),
    )
    assert report.coil == "unknown, 4711"
    assert places(report) == [1.0, 52.0, 103.0]
    assert [(each.start_mm, each.end_mm) for each in report.gaps] == [(60.0, 70.0)]
    assert {finding.defect.position_mm.across for finding in report.defects} == {5.0}


def test_a_run_that_was_told_of_no_coil_has_the_name_in_the_yaml(tmp_path: Path, pack: Pack) -> None:
    report = reported(tmp_path / "j.db", pack, defect("c1", 7.0))
    assert (report.coil, places(report)) == ("c1", [7.0])
