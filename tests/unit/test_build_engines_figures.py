"""Figures against their definitions, written out plainly, on random judged pictures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from build_engines import bootstrap, evaluate
from build_engines.events import FoundEvent, TruthEvent
from build_engines.figures import FALSE_EVENT_RATES, Table, auroc, figures, recall_at
from build_engines.judging import Record
from inspector.pack import FORMAT, ClassName, Gate, Manifest, Segmenter, TileSize, Types

CLASSES = (3, 5)
BOX = (0, 0, 4, 4)

MANIFEST = Manifest(
    format=FORMAT,
    name="made up",
    version="1",
    tile=TileSize(height=32, width=32),
    classes=[ClassName(number=number, name=f"class {number}") for number in CLASSES],
    gate=Gate(file="gate.onnx", sha256="", threshold=0.5),
    types=Types(
        file="types.onnx", sha256="", thresholds=dict.fromkeys(CLASSES, 0.5), floors=dict.fromkeys(CLASSES, 0.1)
    ),
    segmenters=[
        Segmenter(class_number=number, file="s.onnx", sha256="", threshold=0.5, minimum_area_px=4) for number in CLASSES
    ],
)

SCORES = st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.9, 1.0])
PIXELS = st.integers(0, 30)


@st.composite
def truth_events(draw: st.DrawFn) -> TruthEvent:
    detected = draw(st.booleans())
    return TruthEvent(
        class_number=draw(st.sampled_from(CLASSES)),
        box=BOX,
        area_px=draw(st.integers(1, 40)),
        detected=detected,
        best_score=draw(SCORES) if detected else -1.0,
        right_class=detected and draw(st.booleans()),
        lost_to_area=not detected and draw(st.booleans()),
    )


@st.composite
def found_events(draw: st.DrawFn) -> FoundEvent:
    number = draw(st.sampled_from(CLASSES))
    return FoundEvent(class_number=number, box=BOX, area_px=4, score=draw(SCORES), true=draw(st.booleans()))


@st.composite
def records(draw: st.DrawFn) -> Record:
    both = [draw(PIXELS) for _ in CLASSES]
    truth = [own + draw(PIXELS) if draw(st.booleans()) else own for own in both]
    found = [own + draw(PIXELS) for own in both]
    clean = draw(PIXELS)
    return Record(
        name="x",
        group=draw(st.integers(0, 3)),
        gate_score=draw(SCORES),
        passed=draw(st.booleans()),
        type_scores=[draw(SCORES) for _ in CLASSES],
        named=[draw(st.booleans()) for _ in CLASSES],
        truth_px=truth,
        found_px=found,
        both_px=both,
        background=(clean, clean + draw(PIXELS)),
        truths=draw(st.lists(truth_events(), max_size=3)),
        found=draw(st.lists(found_events(), max_size=3)),
    )


SETS = st.lists(records(), min_size=1, max_size=8)


def same(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or one == pytest.approx(other)


def share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers) if answers else math.nan


@given(SETS)
def test_gate_figures_are_what_they_are_defined_as(judged: list[Record]) -> None:
    gate = figures(Table.of(MANIFEST, judged))["gate"]
    high = [one.gate_score for one in judged if sum(one.truth_px)]
    low = [one.gate_score for one in judged if not sum(one.truth_px)]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in high for b in low]
    assert same(gate["auroc"], sum(pairs) / len(pairs) if pairs else math.nan)
    assert same(gate["recall"], share([one.passed for one in judged if sum(one.truth_px)]))
    assert same(gate["false_alarm_rate"], share([one.passed for one in judged if not sum(one.truth_px)]))
    for rate in (0.01, 0.02, 0.05):
        allowed = [t for t in [*high, *low] if share([score >= t for score in low] or [False]) <= rate]
        best = max((share([score >= t for score in high]) for t in allowed), default=0.0)
        expected = best if high and low else math.nan
        assert same(gate[f"recall_at_{rate:.0%}_false_alarms"], expected)


@given(SETS)
def test_types_figures_are_what_they_are_defined_as(judged: list[Record]) -> None:
    found = figures(Table.of(MANIFEST, judged))["types"]
    f1s = []
    for position, number in enumerate(CLASSES):
        said = [one.named[position] for one in judged]
        true = [one.truth_px[position] > 0 for one in judged]
        hits = sum(a and b for a, b in zip(said, true, strict=True))
        precision = hits / sum(said) if any(said) else math.nan
        recall = hits / sum(true) if any(true) else math.nan
        f1 = math.nan if not any(true) else 2 * hits / (sum(said) + sum(true))
        f1s.append(f1)
        for key, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
            assert same(found[number][key], expected)
    real = [f1 for f1 in f1s if not math.isnan(f1)]
    assert same(found["macro_f1"], sum(real) / len(real) if real else math.nan)


@given(SETS)
def test_pixel_figures_are_what_they_are_defined_as(judged: list[Record]) -> None:
    found = figures(Table.of(MANIFEST, judged))
    ious = []
    for position, number in enumerate(CLASSES):
        rows = [(one.truth_px[position], one.found_px[position], one.both_px[position]) for one in judged]
        dice = [2 * both / (truth + own) if truth + own else 1.0 for truth, own, both in rows]
        positive = [value for value, (truth, _, _) in zip(dice, rows, strict=True) if truth]
        detected = [value for value, (truth, own, _) in zip(dice, rows, strict=True) if truth and own]
        union = sum(truth + own - both for truth, own, both in rows)
        iou = sum(both for _, _, both in rows) / union if positive and union else math.nan
        ious.append(iou)
        expected = {
            "dice_positive": np.mean(positive) if positive else math.nan,
            "dice_detected": np.mean(detected) if detected else math.nan,
            "kaggle": np.mean(dice),
            "iou": iou,
        }
        for key, value in expected.items():
            assert same(found["segmenters"][number][key], float(value))
    every = sum(one.background[1] for one in judged)
    clean = sum(one.background[0] for one in judged) / every if every else math.nan
    for key, parts in (("miou", ious), ("miou_with_background", [*ious, clean])):
        real = [value for value in parts if not math.isnan(value)]
        assert same(found[key], sum(real) / len(real) if real else math.nan)


@given(SETS)
def test_event_figures_are_what_they_are_defined_as(judged: list[Record]) -> None:
    events = figures(Table.of(MANIFEST, judged))["events"]
    truths = [event for one in judged for event in one.truths]
    false = [event.score for one in judged for event in one.found if not event.true]
    assert same(events["recall"], share([event.detected for event in truths]))
    assert same(events["false_events_a_frame"], len(false) / len(judged))
    detected = [event for event in truths if event.detected]
    assert same(events["class_correct"], share([event.right_class for event in detected]))
    for rate in FALSE_EVENT_RATES:
        levels = [event.score for one in judged for event in one.found] + [event.best_score for event in detected]
        fitting = [t for t in levels if sum(score >= t for score in false) <= rate * len(judged)]
        best = max((share([event.best_score >= t for event in truths]) for t in fitting), default=0.0)
        assert same(events[f"recall_at_{rate}_false_events_a_frame"], best if truths else math.nan)
    lost = sum(event.lost_to_area for event in truths)
    area = figures(Table.of(MANIFEST, judged))["area_filter"]
    assert same(area["escapes"], lost)
    assert same(area["share_of_truth"], lost / len(truths) if truths else math.nan)


@given(SETS, st.data())
@settings(max_examples=60)
def test_a_whole_weight_is_as_many_pictures(judged: list[Record], data: st.DataObject) -> None:
    times = [data.draw(st.integers(0, 3)) for _ in judged]
    repeated = list(itertools.chain.from_iterable([one] * n for one, n in zip(judged, times, strict=True)))
    if not repeated:
        return
    weighted = bootstrap.flat(figures(Table.of(MANIFEST, judged), np.array(times, dtype=np.float64)))
    plain = bootstrap.flat(figures(Table.of(MANIFEST, repeated)))
    for path, value in plain.items():
        if path[:2] != ("events", "recall_by_size"):  # its limits are those of the whole set, in every draw
            assert same(weighted[path], value), path


@given(SETS)
@settings(max_examples=20)
def test_intervals_hold_figures_that_every_draw_agrees_on(judged: list[Record]) -> None:
    alike = [judged[0]] * 6
    made = evaluate.report(
        MANIFEST, [type(one)(**{**_fields(one), "group": n}) for n, one in enumerate(alike)], draws=20
    )
    for path, limits in bootstrap.flat(made["intervals"]).items():
        value: Any = made
        for key in path:
            value = value[key]
        assert limits is None or (limits[0] == pytest.approx(value) and limits[1] == pytest.approx(value))


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_one_group_alone_has_no_interval() -> None:
    made = bootstrap.intervals(Table.of(MANIFEST, []), [])
    assert set(bootstrap.flat(made).values()) == {None}


def test_intervals_are_drawn_over_groups_not_pictures() -> None:
    def record(group: int, found: bool) -> Record:
        event = TruthEvent(class_number=3, box=BOX, area_px=9, detected=found, best_score=0.9 if found else -1.0)
        return Record(
            name="x",
            group=group,
            gate_score=0.9,
            passed=True,
            type_scores=[0.9, 0.1],
            named=[True, False],
            truth_px=[9, 0],
            found_px=[9 * found, 0],
            both_px=[9 * found, 0],
            background=(5, 5),
            truths=[event],
            found=[],
        )

    two_rolls = [record(0, True)] * 50 + [record(1, False)] * 50
    low, high = bootstrap.intervals(Table.of(MANIFEST, two_rolls), [one.group for one in two_rolls])["events"]["recall"]
    assert (low, high) == (0.0, 1.0)


@given(st.lists(st.tuples(SCORES, st.booleans()), max_size=12))
def test_auroc_of_one_kind_alone_is_unknown(rows: list[tuple[float, bool]]) -> None:
    scores, truth = [score for score, _ in rows], [true for _, true in rows]
    assert math.isnan(auroc(scores, truth)) == (len(set(truth)) < 2)


def test_what_was_never_found_is_no_recall_at_any_rate() -> None:
    scores = np.array([-1.0, -1.0, 0.7])
    assert recall_at(scores, np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]), 99) == 0
