"""Twice what this machine can do: how old do frames get, how deep are they inspected, do the books balance?

    python benchmarks/overload.py --minutes 10

The machine's rate is measured first: the same strip through the same line, without losing a frame, as fast as it goes.
Then a camera gives so many times that by the clock. A line a minute; at the end the books, as `inspector audit` proves
them from the journal. See docs/overload.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon import Spec, running
from machine import describe, memory_mb
from steady import books, wait_for_frames

from inspector import journal
from inspector import pack as packs
from inspector.events import Defect, Depth, State
from inspector.metrics import STEP_REASONS
from inspector.pipeline import Line
from inspector.service import stopped_by_signals
from inspector.tally import Ages

PACK = Path(__file__).parent.parent / "engines" / "severstal"
PREPARED = 200
"""Different frames of each camera."""
DRAIN_S = 60.0
SHOWN = 12
"""Steps that are printed."""


def main() -> int:
    """Exit code 0: the books balance, the gate saw every frame that was not dropped, and no minute's ages were above
    what the frames that the line can hold take."""
    asked = _arguments()
    tile = packs.load(asked.pack).manifest.tile
    share, pack = asked.share / 100, str(asked.pack.resolve())
    spec = Spec(pack, tile.height, tile.width, share, PREPARED, asked.cameras, asked.workers, batch=asked.batch)
    with stopped_by_signals(threading.Event()), tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rate = asked.rate or capacity(spec, Path(folder), asked.probe)
        offered = rate * asked.times
        print(f"{describe()}\nthis machine inspects {rate:.1f} frames/s of this strip; offered: {offered:.1f}")
        found = overloaded(spec, Path(folder), offered, asked.minutes * 60)
    found |= {"machine": describe(), "rate": rate, "times": asked.times, "defective_percent": asked.share}
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    wrong = found["problems"]
    print("\n".join(wrong) or "the books balance, the gate saw every frame that was not dropped")
    return int(bool(wrong))


def capacity(spec: Spec, folder: Path, seconds: float) -> float:
    """Frames a second of the whole line, nothing left out and nothing lost."""
    with tempfile.TemporaryDirectory(dir=folder) as own, running(spec, Path(own)) as (line, _):
        wait_for_frames(line)
        time.sleep(1.0)
        before, start = books(line)["inspected"], time.perf_counter()
        time.sleep(seconds)
        return (books(line)["inspected"] - before) / (time.perf_counter() - start)


def overloaded(spec: Spec, folder: Path, offered: float, seconds: float) -> dict[str, Any]:
    """A line under a load of `offered` frames a second."""
    spec = replace(spec, line_rate_hz=offered / spec.cameras * spec.height, overload=True)
    path = folder / "journal.db"
    with running(spec, folder) as (line, subscriber):
        wait_for_frames(line)
        minutes, start, last = [], time.monotonic(), _figures(line)
        while (passed := time.monotonic() - start) < seconds:
            line.publish.tally.ages = Ages()
            time.sleep(min(60.0, seconds - passed))
            subscriber.ages_s()
            now = _figures(line)
            minutes.append(_minute(line, (time.monotonic() - start) / 60, last, now))
            last = now
        bound_s = _value(line, "pool_slots") / min(minute["frames_per_s"] for minute in minutes)
        line.stop.set()
        line.crew.join(DRAIN_S)
        gated, totals = _value(line, "gate_tiles_total"), books(line)
    audit = journal.audit(path)
    events = list(journal.read_events(path, kinds=["state", "defect"]))
    steps = [e.data for e in events if isinstance(e.data, State) and e.data.about == "overload"]
    for state in steps[:SHOWN]:
        print(f"  {state.state}: {state.detail}")
    print(f"  {len(steps)} steps in all; {totals['issued']:,} frames issued, {totals['inspected']:,} inspected")
    problems = [str(problem) for problem in audit.problems]
    if gated != totals["inspected"]:
        problems.append(f"{totals['inspected']} frames were inspected, but the gate saw {gated:.0f}")
    if (worst := max(minute["p99_ms"] for minute in minutes)) > bound_s * 1e3:
        problems.append(f"an age of {worst:.0f} ms: the line holds frames of {bound_s * 1e3:.0f} ms at most")
    return {
        "minutes": minutes,
        "bound_ms": bound_s * 1e3,
        "steps": Counter(state.state for state in steps),
        "defects": Counter(e.data.severity for e in events if isinstance(e.data, Defect)),
        "problems": problems,
        **totals,
    }


def _value(line: Line, name: str, **labels: str) -> float:
    return line.metrics.registry.get_sample_value(f"inspector_{name}", labels) or 0.0


def _figures(line: Line) -> dict[str, float]:
    """What a minute is the difference of."""
    depths = {
        depth: sum(_value(line, "frames_depth_total", camera=name, depth=depth) for name in line.cameras)
        for depth in Depth
    }
    steps = {why: _value(line, "overload_steps_total", direction=d, reason=why) for why, d in STEP_REASONS.items()}
    sums = books(line)
    lost = float(sum(sums["lost"].values()))
    return {**depths, **steps, "lost": lost, "inspected": sums["inspected"], "at": time.monotonic()}


def _minute(line: Line, minute: float, last: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    new = {key: now[key] - last[key] for key in now}
    ages = line.publish.tally.ages
    p50, p99 = (ages.percentile_ms(percent) or math.nan for percent in (50, 99))
    seen = max(1.0, sum(new[depth] for depth in Depth))
    depths = ", ".join(f"{new[depth] / seen:4.0%} {depth}" for depth in Depth)
    ups, downs = sum(new[why] for why in ("age", "queue", "dropped")), new["calm"]
    rate = new["inspected"] / new["at"]
    print(
        f"minute {minute:4.1f}: age p50 {p50:5.0f} ms, p99 {p99:5.0f} ms; {rate:6.1f} frames/s: {depths}; "
        f"{new['lost']:.0f} lost; steps {ups:.0f} up, {downs:.0f} down; {memory_mb()['now']:.0f} MB",
        flush=True,
    )
    return {"minute": minute, "p50_ms": p50, "p99_ms": p99, "frames_per_s": rate, "up": ups, "down": downs, **new}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pack", type=Path, default=PACK, help="folder of the engines")
    add("--minutes", type=float, default=10.0)
    add("--times", type=float, default=2.0, help="so many times what the machine can do")
    add("--rate", type=float, help="what it can do, frames/s; left out: it is measured")
    add("--probe", type=float, default=20.0, help="seconds that it is measured for")
    add("--share", type=float, default=15.0, help="per cent of frames that hold a defect")
    add("--cameras", type=int, default=1, help="cameras of the line; the frames are shared out over them")
    add("--workers", type=int, default=0, help="cascade workers; 0: one for each core")
    add("--batch", type=int, default=8, help="frames that go through the cascade together at most, at step 0")
    add("--folder", type=Path, help="where the journal lies; default: the system's folder for temporary files")
    add("--json", type=Path, metavar="FILE", help="write all figures there too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
