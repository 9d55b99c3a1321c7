"""What a pack says of itself: int8 and its figures, the reference, look-alike groups, the card; and bars on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch", reason="build_engines needs torch: pip install 'inspector[train]'")
pytest.importorskip("onnx", reason="build_engines needs onnx: pip install 'inspector[train]'")

from build_engines import card, datasets, evaluate, judging, packing, quantize, splits
from build_engines.__main__ import main
from inspector import pack as packs
from inspector.pack import Twin
from tests.build_engines_toys import write_toys
from tests.packs import make_pack

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toys(tmp_path_factory.mktemp("toys"), 16)


# ---------------------------------------------------------------- figures


def test_false_alarms_are_a_reason_against_int8() -> None:
    def trial(**figures: tuple[float, float]) -> quantize.Trial:
        return quantize.Trial("gate", Path("x"), (2.0, 1.0), {"auroc": (0.9, 0.9)} | figures)

    assert "loses" in trial(false_alarm_rate=(0.1, 0.106)).verdict
    assert "loses" in trial(frame_false_alarm_rate=(0.1, 0.106)).verdict
    assert trial(false_alarm_rate=(0.1, 0.02), recall=(0.9, 0.95)).verdict == "int8"
    one_of_fifty = trial(false_alarm_rate=(0.1, 0.12))
    assert dataclasses.replace(one_of_fifty, clean=50).verdict == "int8", "half a point cannot be told on 50 frames"
    assert "loses" in dataclasses.replace(one_of_fifty, clean=5000).verdict


def test_the_gates_threshold_follows_its_scores() -> None:
    def record(score: float, defective: bool) -> judging.Record:
        return judging.Record(
            name="x",
            group=0,
            gate_score=score,
            passed=False,
            type_scores=[],
            named=[],
            truth_px=[int(defective)],
            found_px=[0],
            both_px=[0],
            background=(0, 0),
            truths=[],
            found=[],
        )

    def following(before: Sequence[float], after: Sequence[float], clean: Sequence[tuple[float, float]] = ()) -> Any:
        """At 0.4; `clean`: scores of clean frames before and after."""
        originals = [*(record(score, True) for score in before), *(record(score, False) for score, _ in clean)]
        tried = [*(record(score, True) for score in after), *(record(score, False) for _, score in clean)]
        return quantize._following(originals, tried, 0.4)

    sure = (0.9, 0.7, 0.6)
    assert following(sure, (0.91, 0.72, 0.58)) == 0.4, "what the original was sure of is no reason to be stricter"
    assert following(sure, (0.9, 0.7, 0.37126)) == 0.371, "all that it kept"
    assert following((0.9, 0.7, 0.3), (0.9, 0.41, 0.38)) == 0.4
    assert following(sure, (0.9, 0.7, 0.6), [(0.5, 0.5), (0.39, 0.4234)]) == 0.424, "no more false alarms than before"
    assert following(sure, (0.9, 0.7, 0.6), [(0.39, 0.65)]) == 0.4, "which no threshold avoids that recall allows"
    assert following(sure, (0.9, 0.7, 0.6), [(0.39, 0.65), (0.38, 0.5)]) == 0.501
    assert following((), (), [(0.6, 0.6)]) is None


def test_false_alarms_are_figures_of_every_network(toys: Path, tmp_path: Path) -> None:
    pack = packs.load(make_pack(tmp_path / "pack"))
    own = quantize._own_figures(pack, evaluate.judged(pack, datasets.read(toys)))
    assert set(own) == set(pack.networks())
    assert all(set(figures) & set(quantize.FALSE_ALARMS) for figures in own.values())


def copied(file: Path, target: Path, reader: quantize._Tiles) -> None:
    """As to_int8, but for the int8."""
    while reader.get_next() is not None:
        pass
    target.write_bytes(file.read_bytes())


def test_a_trial_that_fails_leaves_the_pack_as_it_was(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_pack(tmp_path / "pack")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*arguments: object) -> tuple[float, float]:
        raise ZeroDivisionError

    monkeypatch.setattr(quantize, "to_int8", copied)
    monkeypatch.setattr(quantize, "timed", fail)
    samples = datasets.read(toys)
    with pytest.raises(ZeroDivisionError):
        quantize.quantize(folder, samples, samples)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_part_has_the_look_alike_groups_of_the_whole(toys: Path, tmp_path: Path) -> None:
    pack, split = make_pack(tmp_path / "pack"), tmp_path / "split.json"
    samples = datasets.read(toys)
    part = [sample.name for sample in samples[6:]]  # two of a roll, and the rolls behind it
    splits.save(dict.fromkeys(part, "test"), split)
    words = ["evaluate", "--pack", str(pack), "--data", str(toys), "--split", str(split), "--draws", "2"]
    assert main([*words, "--records", str(tmp_path / "records"), "--json", str(tmp_path / "f.json")]) == 0
    wanted = splits.group_of(samples)
    assert {own.name: own.group for own in judging.load(tmp_path / "records")} == {name: wanted[name] for name in part}


def test_an_exported_part_has_them_too(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(evaluate, "evaluate", lambda pack, chosen, group_of: seen.append(group_of) or {})
    pack, samples = packs.load(make_pack(tmp_path / "pack")), datasets.read(toys)
    packing._reports(pack, {"part": samples[:5], "nothing": []}, samples)
    packing._reports(pack, {"whole": samples})
    assert seen == [splits.group_of(samples), None]


# ---------------------------------------------------------------- cards and bars


def test_a_card_speaks_of_twins_only_where_they_are_twins(toys: Path, tmp_path: Path) -> None:
    manifest = packs.load(make_pack(tmp_path / "pack", classes=1)).manifest

    def with_twin(twin: Twin | None) -> packs.Manifest:
        replace = msgspec.structs.replace
        parts = [replace(part, gpu=twin) for part in manifest.segmenters]
        return replace(
            manifest, gate=replace(manifest.gate, gpu=twin), types=replace(manifest.types, gpu=twin), segmenters=parts
        )

    half, whole = (Twin(file="x.onnx", sha256="0", precision=precision) for precision in ("float16", "float32"))
    for twin, wanted in ((None, False), (half, True), (whole, False)):
        facts = card.Facts(with_twin(twin), datasets.read(toys), {}, {}, {})
        card.write(tmp_path / "MODEL_CARD.md", facts)
        assert ("twin in float16" in (tmp_path / "MODEL_CARD.md").read_text()) == wanted


@pytest.mark.parametrize("folder", sorted((ROOT / "engines").iterdir()), ids=lambda folder: folder.name)
def test_a_shipped_card_speaks_of_twins_only_where_they_are_shipped(folder: Path) -> None:
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert ("Each network has a twin in float16" in text) == bool(list(folder.glob("*.fp16.onnx")))


def test_what_takes_minutes_shows_how_far_it_is(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[tuple[str, int | None]] = []

    def shown(items: Any, doing: str, total: int | None = None) -> Any:
        bars.append((doing, total))
        return items

    for module in (datasets, splits, quantize, evaluate):
        monkeypatch.setattr(module, "shown", shown)
    samples = datasets.read(toys)
    datasets.check(samples)
    splits.groups([dataclasses.replace(sample, group=None) for sample in samples])
    assert bars == [("looking at the pictures", 16), ("looking for look-alikes", 16)]
    bars.clear()
    monkeypatch.setattr(quantize, "to_int8", copied)
    monkeypatch.setattr(quantize, "timed", lambda pack, *files: (1.0, 1.0))
    quantize.quantize(make_pack(tmp_path / "pack"), samples[:4], samples, ["gate"])
    assert bars == [("judging the originals", 16), ("calibrating gate", 4), ("judging gate in int8", 16)]
