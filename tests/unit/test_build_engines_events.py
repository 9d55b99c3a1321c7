"""Which found event belongs to which real defect, and that evaluate sees what the daemon would report."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from build_engines import judging
from build_engines.events import COVERED, Blob, detects, match, truth_blobs
from inspector import pack as packs
from inspector import rle
from inspector.runtimes import Patch

SIDE = 24


@st.composite
def blobs(draw: st.DrawFn) -> Blob:
    x, y = draw(st.integers(0, SIDE - 2)), draw(st.integers(0, SIDE - 2))
    width, height = draw(st.integers(1, SIDE - x)), draw(st.integers(1, SIDE - y))
    bits = draw(st.lists(st.booleans(), min_size=width * height, max_size=width * height))
    mask = np.array(bits, dtype=np.bool_).reshape(height, width)
    mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    return Blob(draw(st.sampled_from([1, 2])), x, y, mask, draw(st.sampled_from([0.2, 0.5, 0.9])))


def drawn(blob: Blob) -> NDArray[np.bool_]:
    canvas = np.zeros((SIDE, SIDE), np.bool_)
    canvas[blob.y : blob.y + blob.mask.shape[0], blob.x : blob.x + blob.mask.shape[1]] = blob.mask
    return canvas


@given(blobs(), blobs())
def test_a_quarter_covered_or_a_centre_hit_detects(found: Blob, truth: Blob) -> None:
    covered = np.logical_and(drawn(found), drawn(truth)).sum() >= COVERED * drawn(truth).sum()
    x, y, width, height = truth.box
    centre = found.x + found.mask.shape[1] / 2, found.y + found.mask.shape[0] / 2
    assert detects(found, truth) == (covered or (x <= centre[0] < x + width and y <= centre[1] < y + height))


@given(st.lists(blobs(), max_size=4), st.lists(blobs(), max_size=4), st.lists(blobs(), max_size=2))
def test_matching_is_pair_by_pair(truths: list[Blob], found: list[Blob], deleted: list[Blob]) -> None:
    told, reported = match(truths, found, [*found, *deleted], SIDE)
    for truth, event in zip(truths, told, strict=True):
        hits = [one for one in found if detects(one, truth)]
        assert event.detected == bool(hits)
        assert event.best_score == max((one.score for one in hits), default=-1.0)
        assert event.lost_to_area == (not hits and any(detects(one, truth) for one in deleted))
        assert not event.right_class or any(one.class_number == truth.class_number for one in hits)
        assert event.area_px == truth.mask.sum()
    for one, report in zip(found, reported, strict=True):
        assert report.true == any(detects(one, truth) for truth in truths)
        np.testing.assert_array_equal(rle.decode(report.mask, SIDE, SIDE), drawn(one))


def test_pieces_of_one_class_closer_than_12_px_are_one_truth() -> None:
    truth = np.zeros((2, 40, 80), np.bool_)
    truth[0, 10:20, 10:20] = truth[0, 10:20, 31:40] = True
    truth[0, 10:20, 60:70] = truth[1, 10:20, 22:28] = True
    found = truth_blobs(truth, [4, 7], 12)
    assert [(blob.class_number, blob.box) for blob in found] == [
        (4, (10, 10, 30, 10)),
        (4, (60, 10, 10, 10)),
        (7, (22, 10, 6, 10)),
    ]


def test_records_come_back_from_a_file(tmp_path: Path) -> None:
    record = judging.Record(
        name="a.png",
        group=3,
        gate_score=0.25,
        passed=True,
        type_scores=[0.5],
        named=[True],
        truth_px=[4],
        found_px=[3],
        both_px=[2],
        background=(7, 9),
        truths=[],
        found=[],
    )
    judging.save([record, msgspec.structs.replace(record, name="b.png")], tmp_path / "records.jsonl")
    assert [one.name for one in judging.load(tmp_path / "records.jsonl")] == ["a.png", "b.png"]
    assert judging.load(tmp_path / "records.jsonl")[0] == record


def test_a_memory_asks_once_and_gives_the_same_again() -> None:
    class Counting:
        def __init__(self) -> None:
            self.asked = 0
            self.expected: list[dict[int, list[int]]] = []

        def load(self, tiles: object) -> None:
            self.asked = 0

        def gate(self) -> NDArray[np.float32]:
            self.asked += 1
            return np.array([0.5, 0.7], np.float32)

        def types(self, indices: list[int]) -> NDArray[np.float32]:
            self.asked += len(indices)
            return np.array([[index, 1.0] for index in indices], np.float32)

        def expect(self, wanted: dict[int, list[int]]) -> None:
            self.expected.append(wanted)

        def segment(self, class_number: int, indices: list[int]) -> list[Patch]:
            self.asked += len(indices)
            return [Patch(0, 0, np.full((2, 2), 10 * class_number + index, np.uint8)) for index in indices]

    stream = Counting()
    memory = judging.Memory(stream)  # type: ignore[arg-type]
    memory.load([])
    for _ in range(2):
        assert memory.gate().tolist() == pytest.approx([0.5, 0.7])
        assert memory.types([1]).tolist() == [[1.0, 1.0]]
        assert memory.types([0, 1]).tolist() == [[0.0, 1.0], [1.0, 1.0]]
        memory.expect({4: [1, 0]})
        assert [int(one.values[0, 0]) for one in memory.segment(4, [1, 0])] == [41, 40]
    assert stream.asked == 1 + 2 + 2
    assert stream.expected == [{4: [1, 0]}, {}]


def test_the_area_filter_answers_for_the_area_alone() -> None:
    manifest = packs.load(Path(__file__).parents[2] / "engines" / "severstal").manifest
    free = judging.without_areas(manifest)
    assert [part.minimum_area_px for part in free.segmenters] == [0] * len(manifest.segmenters)
    assert any(part.seed > 0 for part in manifest.segmenters)
    same = [msgspec.structs.replace(part, minimum_area_px=0) for part in manifest.segmenters]
    assert free == msgspec.structs.replace(manifest, segmenters=same)
