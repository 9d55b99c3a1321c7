"""Frames a second of the whole daemon against a bare ONNX Runtime loop, and the age of a frame under load.

    python benchmarks/line.py                          # about five minutes; the bar is a ratio of 0.90
    python benchmarks/line.py --shares 1 --flat-field  # one share of defective frames, with flat-field correction
    python benchmarks/line.py --soak 10                # does memory stay?

Slices of both sides alternate, because a machine drifts: a ratio is taken within a round, and its median and range
over the rounds are printed. See docs/performance.md for what the columns mean.
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
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from bare import Bare, Work, calls, cores, prepare, variants
from daemon import Spec, Tap, running
from machine import cpu_by_thread, describe, spent_since
from othered import othered
from steady import paced, soak

from inspector import pack as packs
from inspector.flatfield import FlatField
from inspector.pack import Pack
from inspector.pipeline import Line
from inspector.service import stopped_by_signals

PACK = Path(__file__).parent.parent / "engines" / "severstal"
BAR = 0.90
LOAD = 0.8
"""Share of the measured throughput at which ages are taken."""
LIMIT_S = 600.0
REST_S = 0.1
"""Between slices: threads inside a network spin for a moment after the last call."""
ROUND = 100
"""Shares are exact in every so many frames."""


def main() -> int:
    """Exit code 0: everything ran, whatever the figures are."""
    asked = _arguments()
    with stopped_by_signals(threading.Event()), tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        if asked.gate is not None:
            other = Path(folder) / "pack"
            asked.pack = othered(asked.pack, other, lambda manifest: manifest["gate"].update(threshold=asked.gate))
        engines = packs.load(asked.pack)
        found: dict[str, Any] = {
            "machine": describe(),
            "pack": {"name": engines.manifest.name, "digest": engines.digest},
            "gate_threshold": engines.manifest.gate.threshold,
        }
        base = _spec(asked, Path(folder))
        if asked.soak:
            found["soak"] = soak(base, Path(folder), asked.soak * 60, asked.rate or 50.0)
        else:
            found["rows"] = [
                throughput(replace(base, share=share / 100), engines, Path(folder), asked.frames, asked.rounds)
                for share in asked.shares
            ]
            found["paced"] = in_own_process(base, found["rows"], Path(folder), asked)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


# ---------------------------------------------------------------- throughput


def throughput(spec: Spec, pack: Pack, folder: Path, frames: int, rounds: int) -> dict[str, Any]:
    """One share: slices of `frames` frames, daemon and bare loops in turn, `rounds` times."""
    flat_field = FlatField.load(Path(spec.flat_field)) if spec.flat_field else None
    each = math.ceil(frames / spec.cameras / spec.prepared) * spec.prepared
    loops = [Bare(pack, variant) for variant in variants(cores())]
    seconds: dict[str, list[float]] = {name: [] for name in ["daemon", *(loop.variant.name for loop in loops)]}
    cpu: dict[str, list[float]] = {name: [] for name in seconds}
    threads: Counter[str] = Counter()
    tap = Tap()
    with tempfile.TemporaryDirectory(dir=folder) as own, running(spec, Path(own), tap.attach) as (line, _):
        lanes = [prepare(spec.strip(i), pack, line.config.edges, flat_field) for i in range(spec.cameras)]
        work = [steps for frame in zip(*lanes, strict=True) for steps in frame]
        tap.pass_frames(spec.prepared, LIMIT_S)

        def daemon() -> None:
            before, start = cpu_by_thread(), time.process_time()
            seconds["daemon"].append(tap.pass_frames(each, LIMIT_S))
            cpu["daemon"].append(time.process_time() - start)
            threads.update(spent_since(before, cpu_by_thread()))

        def bare(loop: Bare) -> None:
            wall, spent = loop.run(work, each * spec.cameras)
            seconds[loop.variant.name].append(wall)
            cpu[loop.variant.name].append(spent)

        for loop in loops:
            loop.run(work, min(len(work), 20))
        for number in range(rounds):
            # The alternatives are slower by far: two looks at them are enough to know.
            chosen = loops if number < 2 else loops[:1]
            turns: list[Callable[[], None]] = [daemon, *(partial(bare, loop) for loop in chosen)]
            for turn in turns if number % 2 == 0 else reversed(turns):
                time.sleep(REST_S)
                turn()
        _compare_calls(line, pack, work, rounds * each // spec.prepared + 1)
    row = _row(spec, work, each * spec.cameras, seconds, cpu, threads)
    _print_row(row)
    return row


def _compare_calls(line: Line, pack: Pack, work: Work, turns: int) -> None:
    """The daemon must have made the very calls that the bare loop made; else the ratio is of nothing."""
    value = line.metrics.registry.get_sample_value
    made = {"gate": value("inspector_gate_tiles_total"), "types": value("inspector_gate_passed_total")}
    for entry in pack.manifest.classes:
        labels = {"defect_class": entry.name}
        made[f"segment_{entry.number}"] = value("inspector_segmenter_tiles_total", labels)
    wanted = {name: float(calls(work)[name] * turns) for name in made}
    if made != wanted:
        raise RuntimeError(f"the daemon made other network calls than the bare loop: {made}, not {wanted}")


def _row(
    spec: Spec,
    work: Work,
    frames: int,
    seconds: dict[str, list[float]],
    cpu: dict[str, list[float]],
    threads: Counter[str],
) -> dict[str, Any]:
    rates = {name: [frames / s for s in walls] for name, walls in seconds.items()}
    best = max((name for name in rates if name != "daemon"), key=lambda name: statistics.median(rates[name]))
    made = calls(work)
    return {
        "defective_percent": spec.share * 100,
        "flat_field": spec.flat_field is not None,
        "cameras": spec.cameras,
        "frames_a_slice": frames,
        "calls_a_frame": {name: made[name] / len(work) for name in sorted(made)},
        "frames_per_s": {name: _spread(values) for name, values in rates.items()},
        "best_bare": best,
        "ratio": _spread([d / b for d, b in zip(rates["daemon"], rates[best], strict=False)]),
        "cpu_ms_a_frame": {name: _spread([s / frames * 1e3 for s in spent]) for name, spent in cpu.items()},
        "cpu_ratio": _spread([b / d for d, b in zip(cpu["daemon"], cpu[best], strict=False)]),
        "daemon_cpu_ms_a_frame": {
            name: spent / len(cpu["daemon"]) / frames * 1e3 for name, spent in threads.most_common() if spent > 0
        },
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _print_row(row: dict[str, Any]) -> None:
    rates, ratio = row["frames_per_s"], row["ratio"]
    extra = {name: count for name, count in row["calls_a_frame"].items() if name != "gate"}
    flat = ", flat-field" if row["flat_field"] else ""
    print(f"\n{row['defective_percent']:g} % defective{flat}, {row['cameras']} camera(s)", flush=True)
    print(f"  network calls a frame: gate {row['calls_a_frame'].get('gate', 0):.2f}", end="")
    print("".join(f", {name} {count:.3f}" for name, count in extra.items()))
    for name, rate in rates.items():
        cpu = row["cpu_ms_a_frame"][name]["median"]
        title = name if name == "daemon" else f"bare {name}"
        span = f"{rate['min']:.1f}..{rate['max']:.1f}"
        print(f"  {title:12s}{rate['median']:8.1f} frames/s  ({span}), {cpu:.2f} ms CPU a frame")
    verdict = "ok" if ratio["median"] >= BAR else f"BELOW {BAR}"
    span = f"{ratio['min']:.3f}..{ratio['max']:.3f}"
    print(f"  daemon / bare {row['best_bare']}: {ratio['median']:.3f} ({span}) {verdict}")
    print(f"  the same by CPU time: {row['cpu_ratio']['median']:.3f}")
    print(f"  daemon's CPU ms a frame: {_shares(row['daemon_cpu_ms_a_frame'])}", flush=True)


def _shares(ms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in ms.items() if value >= 0.0005)


# ---------------------------------------------------------------- under a steady load


def in_own_process(base: Spec, rows: list[dict[str, Any]], folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Ages and memory at 80 % of the throughput at 1 % defective frames (or the share next to it), daemon alone."""
    row = min(rows, key=lambda row: abs(row["defective_percent"] - 1))
    rate = asked.rate or row["frames_per_s"]["daemon"]["median"] * LOAD
    spec = replace(base, share=row["defective_percent"] / 100)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        found = processes.submit(paced, spec, folder, rate, asked.seconds).result()
    print(f"\nat {rate:.0f} frames/s, {row['defective_percent']:g} % defective, {asked.seconds:g} s")
    ages, heard = found["age_ms"], found["event_age_ms"]
    print(f"  age of a frame, exposure to journal and sinks: p50 {ages['p50']:.1f} ms, p99 {ages['p99']:.1f} ms")
    if heard["p50"] is not None:
        print(f"  age of a defect at a subscriber: p50 {heard['p50']:.1f} ms, p99 {heard['p99']:.1f} ms")
    print(f"  frames: {found['issued']} issued, {found['inspected']} inspected, lost: {found['lost'] or 'none'}")
    print(f"  peak memory {found['memory_mb']['peak']:.0f} MB, of these the camera's strip {found['strip_mb']:.0f} MB")
    print(f"  CPU ms a frame: {_shares(found['cpu_ms_a_frame'])}", flush=True)
    return found


# ---------------------------------------------------------------- the command line


def _spec(asked: argparse.Namespace, folder: Path) -> Spec:
    tile = packs.load(asked.pack).manifest.tile
    flat_field = None
    if asked.flat_field:
        flat_field = str(folder / "flat_field.npz")
        FlatField(np.full(tile.width, 4), np.linspace(0.9, 1.1, tile.width)).save(Path(flat_field))
    return Spec(
        pack=str(asked.pack.resolve()),
        height=tile.height,
        width=tile.width,
        share=asked.shares[0] / 100,
        prepared=asked.prepared,
        cameras=asked.cameras,
        workers=asked.workers,
        batch=asked.batch,
        flat_field=flat_field,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pack", type=Path, default=PACK, help="folder of the engines")
    add("--gate", type=float, help="another threshold for the gate, 0..1: what a gate that passes fewer would give")
    add("--shares", type=float, nargs="+", default=[0, 1, 15, 53], help="per cent of frames that hold a defect")
    add("--frames", type=int, default=800, help="frames in a slice")
    add("--rounds", type=int, default=5, help="slices of each side")
    add("--cameras", type=int, default=1, help="cameras of the line; the frames are shared out over them")
    add("--workers", type=int, default=0, help="cascade workers; 0: one for each core")
    add("--flat-field", action="store_true", help="the daemon corrects every frame; the bare loop gets them corrected")
    add("--batch", type=int, default=4, help="frames that go through the cascade together at most")
    add("--prepared", type=int, default=200, help=f"different frames of each camera, in {ROUND}s")
    add(
        "--rate", type=float, help="frames a second of the paced part (default: 80 %% of the measured) or the soak (50)"
    )
    add("--seconds", type=float, default=30.0, help="how long the paced part runs")
    add("--soak", type=float, default=0.0, metavar="MINUTES", help="instead of all that: memory each minute")
    add("--folder", type=Path, help="where the journal lies; default: the system's folder for temporary files")
    add("--json", type=Path, metavar="FILE", help="write all figures there too")
    add("--quick", action="store_true", help="does it run? a second or two, figures mean nothing")
    asked = parser.parse_args()
    if asked.quick:
        asked.prepared, asked.frames, asked.rounds, asked.seconds = ROUND, ROUND, 2, 0.2
    if asked.prepared % ROUND:
        parser.error(f"--prepared must be a multiple of {ROUND}: the shares are exact in so many frames")
    return asked


if __name__ == "__main__":
    sys.exit(main())
