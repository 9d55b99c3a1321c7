"""The daemon alone under a steady load: ages of frames and events, CPU by thread, memory."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from daemon import Spec, running
from machine import cpu_by_thread, memory_mb, spent_since

from inspector.pipeline import Line
from inspector.service import stopped_by_signals
from inspector.tally import Ages

START_S = 600.0
"""How long a camera may paint its strip."""


def paced(spec: Spec, folder: Path, rate: float, seconds: float) -> dict[str, Any]:
    """A line fed by the clock, `rate` frames a second over all cameras."""
    spec = replace(spec, line_rate_hz=rate / spec.cameras * spec.height)
    with (
        stopped_by_signals(threading.Event()),
        tempfile.TemporaryDirectory(dir=folder) as own,
        running(spec, Path(own)) as (line, subscriber),
    ):
        wait_for_frames(line)
        time.sleep(min(2.0, seconds))  # caches and the first commits are warm
        subscriber.ages_s()
        line.publish.tally.ages = Ages()
        before, first = cpu_by_thread(), books(line)
        time.sleep(seconds)
        spent, last = spent_since(before, cpu_by_thread()), books(line)
        frames = max(1, last["inspected"] - first["inspected"])
        ages, heard = line.publish.tally.ages, subscriber.ages_s()
        return {
            "frames_per_s": rate,
            "age_ms": {f"p{p}": ages.percentile_ms(p) or math.nan for p in (50, 99)},
            "event_age_ms": {f"p{p}": float(np.percentile(heard, p)) * 1e3 if heard else None for p in (50, 99)},
            "issued": last["issued"] - first["issued"],
            "inspected": last["inspected"] - first["inspected"],
            "lost": last["lost"],
            "memory_mb": memory_mb(),
            "strip_mb": spec.cameras * spec.prepared * spec.height * spec.width / 1e6,
            "cpu_ms_a_frame": {name: s / frames * 1e3 for name, s in Counter(spent).most_common()},
        }


def wait_for_frames(line: Line) -> None:
    """The camera paints its strip first."""
    deadline = time.monotonic() + START_S
    while not all(line.ledger.issued().values()):
        if time.monotonic() > deadline or line.crew.failure is not None:
            raise RuntimeError(f"no frame came: {line.crew.failure}")
        time.sleep(0.05)


def books(line: Line) -> dict[str, Any]:
    """The sums over all cameras."""
    totals = list(line.ledger.totals().values())
    lost: Counter[str] = Counter()
    for camera in totals:
        lost.update({str(reason): count for reason, count in camera.lost.items()})
    return {"issued": sum(b.issued for b in totals), "inspected": sum(b.inspected for b in totals), "lost": dict(lost)}


def soak(
    spec: Spec,
    folder: Path,
    seconds: float,
    rate: float,
    look: Callable[[Line], dict[str, float]] = lambda line: {},
) -> list[dict[str, float]]:
    """Resident memory each minute of a daemon that runs alone, and what `look` sees then."""
    spec = replace(spec, line_rate_hz=rate / spec.cameras * spec.height)
    rows = []
    with running(spec, folder) as (line, subscriber):
        wait_for_frames(line)
        start = time.monotonic()
        while (passed := time.monotonic() - start) < seconds:
            time.sleep(min(60.0, seconds - passed))
            subscriber.ages_s()
            minute = (time.monotonic() - start) / 60
            rows.append({"minute": minute, **memory_mb(), **look(line), "inspected": books(line)["inspected"]})
            now, peak, frames = (rows[-1][key] for key in ("now", "peak", "inspected"))
            print(f"minute {minute:5.1f}: {now:.1f} MB (peak {peak:.1f}), {frames:.0f} frames inspected", flush=True)
    return rows
