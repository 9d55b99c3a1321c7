"""The plant's telegrams and a whole daemon: coils named early and late, over a kill -9, and a strip that stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspector.client import Control
from inspector.errors import Refused
from inspector.events import CoilEvent, Defect, Event, State
from inspector.journal import read_events
from tests.conftest import Start
from tests.line.daemon import command, proven, subscribed
from tests.line.lines import config, filmed
from tests.packs import TILE


def coil_events(path: Path) -> list[tuple[str, str, int]]:
    found = [event.data for event in read_events(path, kinds=["coil"])]
    return [(data.coil, data.phase, data.encoder_count) for data in found if isinstance(data, CoilEvent)]


@pytest.fixture
def setup(pack: Path, tmp_path: Path, ipc: str) -> dict[str, object]:
    return config(
        pack,
        tmp_path / "j.db",
        filmed(),
        sinks=[{"kind": "zeromq", "options": {"address": ipc}}],
        control={"address": f"{ipc}-control"},
    )


def test_coils_are_named_early_and_late_and_outlive_a_kill(
    start: Start, setup: dict[str, object], tmp_path: Path, ipc: str
) -> None:
    path, address = tmp_path / "j.db", f"{ipc}-control"
    daemon = start(setup).ready()
    with subscribed(ipc) as ears, Control(address) as plant:
        ahead = (plant.coils().encoder_count or 0) + 100 * TILE[0]  # two seconds, for a busy machine
        early = plant.coil_start("4711", ahead)
        assert (early.when, early.previous) == ("early", "c1")
        first = ears.until(
            lambda event: isinstance(event.data, Defect) and event.data.coil == "4711",
            daemon,
            "a defect on the new coil",
        ).data
        assert isinstance(first, Defect)
        assert first.position_mm.along >= 0
        ears.until(
            lambda event: isinstance(event.data, Defect) and event.data.position_mm.along > 5 * TILE[0] * 0.5,
            daemon,
            "the head of the coil to be well past",
        )

        late_at = (plant.coils().encoder_count or 0) - 2 * TILE[0]
        late = plant.coil_start("4712", late_at)
        assert late.when == "late"
        assert late.distance_mm >= TILE[0] * 0.5
        told = ears.until(lambda event: coil_start("4712", event) is not None, daemon, "the late coil's start")
        assert isinstance(told.data, CoilEvent)
        assert told.data.encoder_count == late_at
        assert told.data.known_from is not None
        with pytest.raises(Refused, match="lies before the head of coil 4712"):
            plant.coil_start("4713", ahead)
        plant.coil_start("5000", 10**9)
    daemon.kill()

    daemon = start(setup).ready()
    daemon.until(lambda: daemon.metric("frames_inspected_total{camera=a}") > 0, "a frame to be graded")
    with Control(address) as plant:
        known = [span.coil for span in plant.coils().coils]
        state = plant.state()
    assert daemon.stop() == 0
    proven(path)
    encoder_resets = [
        e for e in read_events(path, kinds=["state"]) if isinstance(e.data, State) and e.data.part == "encoder"
    ]
    # The synthetic strip begins at count 0 again: the daemon says so, and forgets coils of the old counts.
    assert [event.data.state for event in encoder_resets] == ["reset"]
    assert known == ["c1"]
    assert state.coil == "c1"
    assert ("4711", "start", ahead) in coil_events(path)


def coil_start(name: str, event: Event) -> CoilEvent | None:
    """The event's own data, if it is the start of that coil."""
    data = event.data
    return data if isinstance(data, CoilEvent) and (data.coil, data.phase) == (name, "start") else None


def test_a_standing_strip_is_told_though_frames_go_on(start: Start, setup: dict[str, object], ipc: str) -> None:
    daemon = start(setup).ready()
    with subscribed(ipc, "state/") as ears, Control(f"{ipc}-control") as plant:
        plant.line_stop()
        seen: dict[str, str] = {}  # an event may come again, as its topic's last value

        def both(event: Event) -> bool:
            if isinstance(event.data, State) and event.data.part == "strip":
                seen[event.id] = event.data.state
            return len(seen) == 2

        ears.until(both, daemon, "the strip's two states")
    assert list(seen.values()) == ["standing", "running"]
    assert daemon.stop() == 0


def test_the_command_line_names_coils_and_words_refusals(start: Start, setup: dict[str, object], ipc: str) -> None:
    daemon = start(setup).ready()
    address = ["--address", f"{ipc}-control"]
    assert "4711 starts at count 999999" in command("coil", "start", "4711", "--count", "999999", *address).stdout
    refused = command("coil", "end", "9", "--count", "1000000", *address)
    assert refused.returncode == 1
    assert "coil 9 cannot end at count 1000000: coil 4711 lies there" in refused.stderr
    shown = command("coil", "show", *address).stdout
    assert "4711" in shown
    assert "<- on the line" in shown
    assert daemon.stop() == 0
