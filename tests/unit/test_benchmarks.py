"""The benchmark runs and writes what docs/performance.md names; what it measures is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from tests.packs import TILE, make_pack

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "line.py"


def test_a_quick_run_writes_every_figure(tmp_path: Path) -> None:
    pack, figures = make_pack(tmp_path / "pack"), tmp_path / "figures.json"
    command = [sys.executable, SCRIPT, "--quick", "--pack", pack, "--shares", "15", "--cameras", "2"]
    done = subprocess.run(
        [*command, "--flat-field", "--folder", tmp_path, "--json", figures], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "daemon / bare" in done.stdout
    found = json.loads(figures.read_text())
    assert found["pack"]["name"] == "bands"
    assert [row["defective_percent"] for row in found["rows"]] == [15]
    for row in found["rows"]:
        assert row["cameras"] == 2
        assert row["flat_field"] is True
        assert row["calls_a_frame"]["gate"] == 1
        assert row["best_bare"] in row["frames_per_s"]
        for spread in (row["ratio"], row["cpu_ratio"], *row["frames_per_s"].values(), *row["cpu_ms_a_frame"].values()):
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        assert {"cascade-0", "grading", "publish"} <= set(row["daemon_cpu_ms_a_frame"])
    paced = found["paced"]
    assert paced["age_ms"]["p50"] <= paced["age_ms"]["p99"]
    assert paced["inspected"] > 0
    assert paced["memory_mb"]["peak"] >= paced["memory_mb"]["now"] > 0


def test_a_short_overload_is_proven(tmp_path: Path) -> None:
    pack, figures = make_pack(tmp_path / "pack"), tmp_path / "figures.json"
    command = [sys.executable, SCRIPT.with_name("overload.py"), "--pack", pack, "--rate", "40", "--minutes", "0.03"]
    done = subprocess.run([*command, "--folder", tmp_path, "--json", figures], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the books balance" in done.stdout
    found = json.loads(figures.read_text())
    assert found["problems"] == []
    assert found["issued"] >= found["inspected"] > 0
    assert [set(minute) >= {"p50_ms", "p99_ms", "full", "types", "gate", "lost"} for minute in found["minutes"]] == [
        True
    ]


def test_lines_that_are_drawn_drift_only_when_they_should(tmp_path: Path) -> None:
    """Of a few rolls that differ little nothing is told, and of strip that is half as bright each window."""
    folder, rng = tmp_path / "rolls", np.random.default_rng(1)
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), (rng.random(TILE) * 60 + 100 + number).astype(np.uint8))
    figures = tmp_path / "figures.json"
    command = [sys.executable, SCRIPT.with_name("drift.py"), "--pack", make_pack(tmp_path / "pack"), "--data", folder]
    small = ["--views", "1", "--lines", "1", "--windows", "8", "--window-frames", "50000", "--json", figures]
    done = subprocess.run([*command, *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for row in json.loads(figures.read_text())["lines"]:
        assert set(row["told"]["as it is"].values()) == {0}
        assert row["told"]["grey x 0.5"] == {"gate_score": 0, "brightness": 2, "passed": 0, "alarmed": 0}


def test_a_quick_change_of_the_pack_writes_every_figure(tmp_path: Path) -> None:
    pack, figures = make_pack(tmp_path / "pack"), tmp_path / "figures.json"
    command = [sys.executable, SCRIPT.with_name("packs.py"), "--quick", "--pack", pack, "--loads", "20", "--share", "1"]
    done = subprocess.run([*command, "--folder", tmp_path, "--json", figures], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "p99 against `before`" in done.stdout
    found = json.loads(figures.read_text())
    assert found["frames_per_s"] > 0
    (load,) = found["loads"]
    (change,) = load["rounds"]
    assert change["last"].startswith("kept: bands benchmark")
    for stretch in ("before", "shadow", "watch", "after"):
        assert change[stretch]["age_ms"]["p50"] <= change[stretch]["age_ms"]["p99"]
        assert change[stretch]["cpu_ms_a_frame"] > 0
