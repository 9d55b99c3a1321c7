"""A daemon whose gate says other things than its pack's reference: the metrics, the log and the journal say so."""

from __future__ import annotations

from pathlib import Path

from inspector.census import Census
from inspector.drift import OFF
from inspector.events import State
from inspector.pack import load
from tests.conftest import Start
from tests.line.daemon import journalled
from tests.line.lines import GREY, config, lossless, pictures, played
from tests.packs import add_reference, make_pack


def test_a_gate_that_is_not_what_the_pack_says_is_told(start: Start, tmp_path: Path) -> None:
    """The reference has no frame that passes; here every second one does, as bright as it was."""
    clean = Census()
    for number in range(2000):
        clean.add(0.0, (GREY + 2 * (number % 2)) / 255, False, False)
    pack = add_reference(make_pack(tmp_path / "pack"), clean)
    path = tmp_path / "j.db"
    drift = {"window_frames": 80, "learn_windows": None, "brightness": None}
    daemon = start(config(pack, path, played(pictures(tmp_path / "pictures")), line=lossless(), drift=drift)).ready()
    off = "drift_state{{camera=a,measure={}}}".format
    daemon.until(lambda: daemon.metric(off("alarmed")) == 1, "the drift of the alarm rate")
    assert [daemon.metric(off(measure)) for measure in OFF] == [1, 0, 1, 1]
    assert daemon.metric("drift_frames_ratio{camera=a,measure=passed}") == 0.5
    assert daemon.stop() == 0
    told = [event.data for event in journalled(path, "state") if isinstance(event.data, State)]
    told = [data for data in told if data.about == "drift"]
    assert {data.pack_digest for data in told} == {load(pack).digest}
    assert [(data.part, data.state) for data in told] == [
        ("a", OFF["gate_score"]),
        ("a", OFF["passed"]),
        ("a", OFF["alarmed"]),
    ]
    assert "50.00% of 80 frames pass the gate, of the pack's reference 0.00% did" in told[1].detail
    assert "camera a is off in pass rate: 50.00%" in daemon.stderr
