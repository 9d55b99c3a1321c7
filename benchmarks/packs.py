"""What a change of the pack costs the line: age of frames and lost frames before, during and after, in one run.

    python benchmarks/packs.py                   # about five minutes
    python benchmarks/packs.py --rounds 1 --quick

The line is fed by the clock at shares of what it was measured to do just before. The new pack is the old one under
another version, so that it does the same work. Each round has the stretches

    before    the old pack alone
    shadow    the new one is loaded and warmed beside it and judges a share of the frames
    watch     the new one is on duty, the old one judges a share of the frames
    after     the new pack alone

and is compared with its own `before`, because a machine drifts.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon import Spec, Tap, running
from machine import describe
from othered import othered
from steady import books, wait_for_frames

from inspector import pack as packs
from inspector.metrics import PackPhase
from inspector.packs.store import Store
from inspector.pipeline import Line
from inspector.service import stopped_by_signals
from inspector.tally import Ages

PACK = Path(__file__).parent.parent / "engines" / "severstal"
BAR = 2.0
LIMIT_S = 600.0
PATIENCE_S = 60.0
"""A line without an idle worker compares nothing: the change is refused after so long."""
STRETCHES = ("before", "shadow", "watch", "after")


def main() -> int:
    """Exit code 0: everything ran, whatever the figures are."""
    asked = _arguments()
    found: dict[str, Any] = {"machine": describe(), "loads": []}
    with stopped_by_signals(threading.Event()), tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        spec = _spec(asked)
        new = othered(asked.pack, Path(folder) / "new", lambda manifest: manifest.update(version="benchmark"))
        capacity = found["frames_per_s"] = _capacity(spec, Path(folder), asked.frames)
        print(f"capacity: {capacity:.1f} frames/s, as fast as the line takes them", flush=True)
        for load in asked.loads:
            rounds = []
            for number in range(asked.rounds):
                own = Path(folder) / f"{load}-{number}"
                own.mkdir()
                paced = replace(spec, line_rate_hz=capacity * load / 100 * spec.height)
                rounds.append(one_change(paced, own, new, asked.seconds))
                _print(load, rounds[-1])
            found["loads"].append({"percent": load, "rounds": rounds})
            _sum_up(load, rounds)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def one_change(spec: Spec, folder: Path, new: Path, seconds: float) -> dict[str, Any]:
    """One line, one change: for each stretch the ages and the books."""
    staged = Store(folder / "packs", "benchmark").stage(new)
    found: dict[str, Any] = {}
    with running(spec, folder) as (line, subscriber):
        wait_for_frames(line)
        time.sleep(min(2.0, seconds))  # caches and the first commits are warm
        found["before"] = _stretch(line, lambda: time.sleep(seconds))

        def until(*phases: PackPhase) -> Callable[[], None]:
            return lambda: _wait(lambda: line.changes.status().phase in phases)

        line.changes.stage(staged.name, "the benchmark")
        found["shadow"] = _stretch(line, until(PackPhase.WATCH, PackPhase.IDLE))  # idle: refused
        found["watch"] = _stretch(line, until(PackPhase.IDLE))
        found["last"] = line.changes.status().last
        found["after"] = _stretch(line, lambda: time.sleep(seconds))
        subscriber.ages_s()
    return found


def _stretch(line: Line, passes: Callable[[], None]) -> dict[str, Any]:
    ages = line.publish.tally.ages = Ages()
    before, start, cpu = books(line), time.monotonic(), time.process_time()
    passes()
    _wait(lambda: ages.percentile_ms(50) is not None)  # a machine that others use may have done no frame yet
    spent, now = time.process_time() - cpu, books(line)
    frames = now["inspected"] - before["inspected"]
    lost = sum(now["lost"].values()) - sum(before["lost"].values())
    took = time.monotonic() - start
    return {
        "seconds": took,
        "frames_per_s": frames / took,
        "cpu_ms_a_frame": spent / max(1, frames) * 1e3,
        "lost": lost,
        "age_ms": {f"p{p}": ages.percentile_ms(p) or math.nan for p in (50, 99)},
    }


def _wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the change did not come on in {LIMIT_S:.0f} s")
        time.sleep(0.02)


def _capacity(spec: Spec, folder: Path, frames: int) -> float:
    """Frames a second of the line without a clock, which then loses none."""
    tap = Tap()
    with tempfile.TemporaryDirectory(dir=folder) as own, running(spec, Path(own), tap.attach):
        tap.pass_frames(spec.prepared, LIMIT_S)
        return frames / tap.pass_frames(frames, LIMIT_S)


def _print(load: float, found: dict[str, Any]) -> None:
    base = found["before"]["age_ms"]["p99"]
    print(f"\nat {load:g} % of the capacity: {found['last'].partition(':')[0]}")
    for name in STRETCHES:
        row = found[name]
        ages = row["age_ms"]
        print(
            f"  {name:7s}{row['seconds']:7.1f} s {row['frames_per_s']:7.1f} frames/s, lost {row['lost']}, "
            f"p50 {ages['p50']:.0f} ms, p99 {ages['p99']:.0f} ms ({ages['p99'] / base:.2f}), "
            f"{row['cpu_ms_a_frame']:.1f} ms CPU a frame",
            flush=True,
        )


def _sum_up(load: float, rounds: list[dict[str, Any]]) -> None:
    print(f"\nat {load:g} %, p99 against `before` of the same round, median of {len(rounds)}:")
    for name in STRETCHES[1:]:
        ratios = [each[name]["age_ms"]["p99"] / each["before"]["age_ms"]["p99"] for each in rounds]
        verdict = "ok" if statistics.median(ratios) <= BAR else f"ABOVE {BAR}"
        span = f"{min(ratios):.2f}..{max(ratios):.2f}"
        lost = sum(each[name]["lost"] for each in rounds)
        print(f"  {name:7s}{statistics.median(ratios):6.2f} ({span}) {verdict}, lost {lost}", flush=True)


def _spec(asked: argparse.Namespace) -> Spec:
    tile = packs.load(asked.pack).manifest.tile
    return Spec(
        pack=str(asked.pack.resolve()),
        height=tile.height,
        width=tile.width,
        share=0.01,
        prepared=asked.prepared,
        cameras=1,
        workers=0,
        batch=asked.batch,
        packs={
            "shadow_frames": asked.compared,
            "watch_frames": asked.compared,
            "watch_s": asked.seconds,
            "shadow_s": asked.seconds,
            "shadow_share": asked.share,
            "time_factor": 1e6,
            "late_margin": 1.0,
            "patience_s": PATIENCE_S,
        },
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pack", type=Path, default=PACK, help="folder of the engines")
    add("--loads", type=float, nargs="+", default=[80, 95], help="per cent of the measured capacity")
    add("--rounds", type=int, default=3, help="changes at each load")
    add("--seconds", type=float, default=15.0, help="how long each stretch lasts at least")
    add("--compared", type=int, default=50, help="frames compared in shadow and in watch at least")
    add("--share", type=float, default=0.05, help="of the frames, that both packs judge")
    add("--frames", type=int, default=400, help="frames that the capacity is measured with")
    add("--batch", type=int, default=4, help="frames that go through the cascade together at most")
    add("--prepared", type=int, default=200, help="different frames of the camera, in 100s")
    add("--folder", type=Path, help="where journals and packs lie; default: the system's folder for temporary files")
    add("--json", type=Path, metavar="FILE", help="write all figures there too")
    add("--quick", action="store_true", help="does it run? a few seconds, figures mean nothing")
    asked = parser.parse_args()
    if asked.quick:
        asked.prepared, asked.frames, asked.rounds, asked.seconds, asked.compared = 100, 100, 1, 0.2, 3
        asked.loads = asked.loads[:1]
    return asked


if __name__ == "__main__":
    sys.exit(main())
