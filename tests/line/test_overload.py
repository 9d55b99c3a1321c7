"""A daemon that is given more than it can do: what it leaves out, in which order, and what it tells of that."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from inspector.events import CoilEvent, Defect, Depth, Heartbeat, State
from inspector.overload import Step
from tests.conftest import Start
from tests.line.daemon import journalled, subscribed
from tests.line.lines import config, filmed, slow
from tests.line.told import books_of, said, steps_of
from tests.packs import BAND, make_pack

QUICK = {"too_old_ms": 100, "up_after_ms": 50, "down_after_s": 0.5}


def test_segmenters_go_first_frames_never_and_all_comes_back(start: Start, tmp_path: Path, ipc: str) -> None:
    """Segmenters that are much too slow for a strip on which each frame asks for them; then the strip stands."""
    path, pack = tmp_path / "j.db", make_pack(tmp_path / "pack")
    for number in BAND:
        slow(pack, products=60, network=f"segment_{number}")
    setup = config(
        pack,
        path,
        filmed(frames_hz=100, hang_at_frame=200),
        line={"name": "hot", "coil": "c1", "heartbeat_s": 0.1, "queue": 10_000},
        batch={"size": 2},
        runtime={"options": {"workers": 1}},
        overload=QUICK,
        sinks=[{"kind": "zeromq", "options": {"address": ipc}}],
    )
    with subscribed(ipc) as ears:
        daemon = start(setup).ready()
        ears.until(lambda event: said(event, "line", "not segmenting"), daemon, "a step")
        daemon.until(lambda: daemon.metric("gate_tiles_total") == 200, "the end of the strip")
        daemon.until(lambda: daemon.metric("overload_step") == 0, "nothing left out")
        metrics, status = daemon.metrics(), daemon.get("/readyz")[1]
        assert daemon.stop() == 0
        ears.rest()

    steps = steps_of(path)
    assert steps[:3] == [Step.NORMAL, Step.WIDE, Step.NO_SEGMENTERS]
    assert (steps[-1], metrics["overload_step"]) == (Step.NORMAL, 0)
    assert "overload" not in status
    ups = sum(metrics[f"overload_steps_total{{direction=up,reason={why}}}"] for why in ("age", "queue"))
    assert ups == sum(after > before for before, after in pairwise(steps))
    assert metrics["overload_steps_total{direction=up,reason=dropped}"] == 0

    books = books_of(path)["a"]
    assert books.issued == books.inspected  # nothing was dropped: the gate alone is fast enough
    depths = {depth: metrics[f"frames_depth_total{{camera=a,depth={depth}}}"] for depth in Depth}
    assert sum(depths.values()) == metrics["frames_inspected_total{camera=a}"]
    assert depths[Depth.FULL] > 0
    assert depths[Depth.TYPES] > 0
    defects = [event.data for event in journalled(path, "defect") if isinstance(event.data, Defect)]
    assert {True, False} == {defect.segmented for defect in defects}
    assert all(defect.severity == "unmeasured" and not defect.mask.rle for defect in defects if not defect.segmented)
    beats = {event.data.overload_step for event in ears.events if isinstance(event.data, Heartbeat)}
    assert beats & {Step.NO_SEGMENTERS, Step.NO_TYPES}

    (end,) = (e.data for e in journalled(path, "coil") if isinstance(e.data, CoilEvent) and e.data.phase == "end")
    assert end.inspected is not None
    assert sum(each.frames for each in end.inspected.values()) == books.inspected
    places = [e.data.state for e in journalled(path, "state") if isinstance(e.data, State) and e.data.about == "depth"]
    assert places[0] == "not segmented"
    assert "overload: not segmenting: step 2 of 4: " in daemon.stderr
