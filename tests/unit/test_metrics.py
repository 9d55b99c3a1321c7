from __future__ import annotations

import re
from math import isnan

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from inspector.channel import Channel
from inspector.events import Depth, Reason
from inspector.metrics import AGE_EDGES_S, LOST_AT, Metrics, PackPhase, Undelivered


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(process=False)
    made.for_cameras(["top1", "top2"])
    made.for_sinks(["zeromq"])
    made.for_defects(["pits", "scratch"], ["minor", "critical"])
    return made


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"inspector_{name}", labels)


def test_every_name_keeps_the_rules(metrics: Metrics) -> None:
    for row in metrics.table:
        assert row.name.startswith("inspector_")
        assert row.name.endswith("_total") == (row.kind == "counter"), row
        assert not re.search(r"_(ms|us|ns|millis\w*|percent|avg|average|mean|kib|mib|kilobytes)(_|$)", row.name), row
        assert row.meaning.endswith("."), row
    assert len({row.name for row in metrics.table}) == len(metrics.table)


def test_what_is_scraped_is_what_the_table_says(metrics: Metrics) -> None:
    scraped = list(text_string_to_metric_families(generate_latest(metrics.registry).decode()))
    rows = {row.name.removesuffix("_total"): row for row in metrics.table}
    assert {family.name for family in scraped} == set(rows)
    for family in scraped:
        row = rows[family.name]
        assert family.type == ("gauge" if row.kind == "info" else row.kind)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(row.labels)
            assert not sample.name.endswith("_created")


def test_known_label_sets_begin_at_zero(metrics: Metrics) -> None:
    for camera in ("top1", "top2"):
        assert value(metrics, "frames_captured_total", camera=camera) == 0
        assert value(metrics, "camera_up", camera=camera) == 0
        for reason in Reason:
            assert value(metrics, "frames_lost_total", camera=camera, stage=LOST_AT[reason], reason=reason) == 0
    for why in Undelivered:
        assert value(metrics, "events_undelivered_total", sink="zeromq", reason=why) == 0
    assert value(metrics, "defects_total", defect_class="pits", severity="critical") == 0


def test_unknown_values_are_nan_or_absent(metrics: Metrics) -> None:
    def gone() -> int:
        raise FileNotFoundError("journal")

    metrics.watch_journal(gone, lambda: 3)
    metrics.stage("cascade")
    coverage, size = value(metrics, "coverage_ratio", camera="top1"), value(metrics, "journal_bytes")
    assert coverage is not None
    assert isnan(coverage)
    assert size is not None
    assert isnan(size)
    assert value(metrics, "journal_pending_events") == 3
    assert value(metrics, "stage_last_success_timestamp_seconds", stage="cascade") is None


def test_a_camera_is_one_handle_and_its_coverage_follows(metrics: Metrics) -> None:
    camera = metrics.camera("top1")
    assert metrics.camera("top1") is camera
    camera.inspected.inc(6)
    camera.lost(Reason.OVERLOAD)
    camera.lost(Reason.OVERLOAD, 1, stage="cascade")
    assert value(metrics, "frames_lost_total", camera="top1", stage="capture", reason="overload") == 1
    assert value(metrics, "frames_lost_total", camera="top1", stage="cascade", reason="overload") == 1
    assert value(metrics, "coverage_ratio", camera="top1") == 6 / 8


def test_depths_add_up_to_what_was_inspected(metrics: Metrics) -> None:
    camera = metrics.camera("top1")
    for frames, metres, depth in ((6, 3.0, Depth.FULL), (2, 1.0, Depth.GATE), (1, 0.5, Depth.TYPES)):
        camera.saw(frames, metres, depth)
    frames = [value(metrics, "frames_depth_total", camera="top1", depth=depth) for depth in Depth]
    strip = [value(metrics, "strip_depth_metres_total", camera="top1", depth=depth) for depth in Depth]
    assert (frames, strip) == ([6, 1, 2], [3.0, 0.5, 1.0])
    assert value(metrics, "frames_inspected_total", camera="top1") == 9
    assert value(metrics, "strip_inspected_metres_total", camera="top1") == 4.5


def test_a_line_that_leaves_out_nothing_has_no_step(metrics: Metrics) -> None:
    step = value(metrics, "overload_step")
    assert step is not None
    assert isnan(step)
    metrics.overload_stepped(2, up=True, why="queue")
    assert value(metrics, "overload_step") == 2
    assert value(metrics, "overload_steps_total", direction="up", reason="queue") == 1
    assert value(metrics, "overload_steps_total", direction="down", reason="calm") == 0


def test_ages_fall_into_edges_that_lie_on_the_objectives() -> None:
    metrics = Metrics(deadline_s=0.1, process=False)
    now_ns = 10**12
    metrics.ages(
        [("top1", now_ns - 50_000_000), ("top1", now_ns - 100_000_000), ("top1", now_ns - 150_000_000)], now_ns
    )
    assert value(metrics, "frame_age_seconds_bucket", camera="top1", le="0.05") == 1
    assert value(metrics, "frame_age_seconds_bucket", camera="top1", le="0.1") == 2
    assert value(metrics, "frame_age_seconds_count", camera="top1") == 3
    assert value(metrics, "deadline_missed_total", camera="top1") == 1
    assert len(AGE_EDGES_S) == 18


def test_a_clock_that_was_set_back_makes_no_negative_age(metrics: Metrics) -> None:
    metrics.ages([("top1", 2_000)], 1_000)
    assert value(metrics, "frame_age_seconds_sum", camera="top1") == 0


def test_a_stage_shared_by_workers(metrics: Metrics) -> None:
    one, other = metrics.stage("cascade"), metrics.stage("cascade")
    one.began(4)
    other.began(2)
    assert value(metrics, "stage_in_progress", stage="cascade") == 6
    one.ended(4, busy_s=0.25)
    other.ended(2, out=1)
    assert value(metrics, "stage_in_progress", stage="cascade") == 0
    assert value(metrics, "stage_in_total", stage="cascade") == 6
    assert value(metrics, "stage_out_total", stage="cascade") == 5
    assert value(metrics, "stage_batches_total", stage="cascade") == 2
    assert value(metrics, "stage_busy_seconds_total", stage="cascade") == 0.25
    assert (value(metrics, "stage_last_success_timestamp_seconds", stage="cascade") or 0) > 1.7e9


def test_queues_and_the_pool_are_read_when_scraped(metrics: Metrics) -> None:
    channel: Channel[int] = Channel(3)
    in_use = [0]
    metrics.watch_queue("frames", channel.statistics)
    metrics.watch_pool(8, lambda: in_use[0])
    channel.put(1, 0)
    channel.put(2, 0)
    in_use[0] = 5
    assert value(metrics, "queue_items", queue="frames") == 2
    assert value(metrics, "queue_capacity_items", queue="frames") == 3
    assert value(metrics, "pool_slots_in_use") == 5
    assert value(metrics, "pool_slots") == 8


PRECISIONS = {"gate": "float32", "types": "int8"}


def test_a_new_pack_replaces_the_old_ones_engines(metrics: Metrics) -> None:
    metrics.engines({"gate": "sha256:aa", "types": "sha256:bb"}, "onnxruntime 1.32 CPU", PRECISIONS)
    told = [
        s.labels["precision"] for f in metrics.registry.collect() if f.name == "inspector_engine" for s in f.samples
    ]
    assert told == ["float32", "int8"]
    metrics.engines({"gate": "sha256:cc"}, "onnxruntime 1.32 CPU", PRECISIONS)
    told = [s.labels["digest"] for f in metrics.registry.collect() if f.name == "inspector_engine" for s in f.samples]
    assert told == ["sha256:cc"]


def test_the_pack_on_duty_and_a_change_of_it(metrics: Metrics) -> None:
    metrics.for_packs(["only_old", "only_new"])
    assert value(metrics, "pack_changes_total", outcome="rolled_back") == 0
    assert value(metrics, "pack_differences_total", difference="only_new") == 0
    assert value(metrics, "reloads_total", outcome="refused") == 0
    for version in ("1", "2", "2"):
        metrics.on_duty("bands", version, f"sha256:{version}")
    told = [s.labels["version"] for f in metrics.registry.collect() if f.name == "inspector_pack" for s in f.samples]
    assert told == ["2"]
    metrics.pack_turns(PackPhase.SHADOW)
    assert isnan(value(metrics, "pack_time_ratio") or 0)
    metrics.compared("only_new", 0.0, 0.5, None)
    metrics.compared(None, 0.0, 0.25, 1.5)
    assert value(metrics, "pack_compared_frames_total") == 2
    assert value(metrics, "pack_differences_total", difference="only_new") == 1
    assert value(metrics, "pack_alarm_ratio", pack="new") == 0.25
    assert value(metrics, "pack_time_ratio") == 1.5
    shown = {phase: value(metrics, "pack_change_phase", phase=phase) for phase in PackPhase}
    assert [phase for phase, held in shown.items() if held] == [PackPhase.SHADOW]


def test_how_late_frames_were() -> None:
    metrics = Metrics(process=False, deadline_s=0.1)
    metrics.ages([("a", 0), ("b", 0)], 10_000_000)
    metrics.ages([("a", 0)], 900_000_000)
    assert metrics.lateness() == (3, 1)
    for camera, depth in (("a", Depth.FULL), ("a", Depth.TYPES), ("b", Depth.GATE)):
        metrics.camera(camera).saw(2, 1.0, depth)
    assert metrics.not_in_full() == 4


def test_a_batch_through_the_networks(metrics: Metrics) -> None:
    metrics.cascaded(frames=4, tiles=8, passed=3, segmented={"pits": 2})
    assert value(metrics, "batch_size_frames_bucket", le="4.0") == 1
    assert value(metrics, "gate_tiles_total") == 8
    assert value(metrics, "gate_passed_total") == 3
    assert value(metrics, "segmenter_tiles_total", defect_class="pits") == 2
    assert value(metrics, "segmenter_tiles_total", defect_class="scratch") == 0


def test_a_sink(metrics: Metrics) -> None:
    sink = metrics.sink("zeromq")
    assert metrics.sink("zeromq") is sink
    sink.published.inc(7)
    sink.undelivered(Undelivered.REFUSED, 2)
    assert value(metrics, "events_published_total", sink="zeromq") == 7
    assert value(metrics, "events_undelivered_total", sink="zeromq", reason="refused") == 2


def test_two_lines_in_one_process_do_not_meet() -> None:
    one, other = Metrics(process=False), Metrics(process=False)
    one.camera("top1").captured.inc()
    other.for_cameras(["top1"])
    assert value(other, "frames_captured_total", camera="top1") == 0


def test_the_process_itself_is_shown_under_its_usual_names() -> None:
    assert (Metrics().registry.get_sample_value("process_resident_memory_bytes") or 0) > 1e6
