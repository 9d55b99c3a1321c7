"""Everything that is to be measured on a GPU, in one command: the line on TensorRT against its bare engines.

    python benchmarks/gpu.py --data DIR                 # parity on real frames, rates, ages, branches, memory
    python benchmarks/gpu.py --library rtx --minutes 2  # with TensorRT-RTX, a short soak
    python benchmarks/gpu.py --quick                    # does it run? figures mean nothing

Plans that the cache lacks are built first. Every ratio is taken within a round of this one run, and its median and
range over the rounds are printed beside the bar. See docs/gpu.md for what each row means.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from bare_gpu import Bare, Work, painted, prepare
from daemon import Spec, Tap, running
from machine import describe
from steady import paced, soak

from build_engines import build as plans
from build_engines import compare, datasets, synthesize
from inspector import pack as packs
from inspector.config import EdgeConfig
from inspector.errors import InspectorError
from inspector.pack import Pack
from inspector.pipeline import Line
from inspector.plans import Cache, default_folder
from inspector.runtimes import onnx, tensorrt
from inspector.runtimes._tensorrt import Target
from inspector.runtimes.tensorrt import Options, TensorRtRuntime
from inspector.service import stopped_by_signals

PACK = Path(__file__).parent.parent / "engines" / "severstal"
BARS = {
    "whole line / bare engines": (0.90, 0.97),
    "frames/s at 15 % defective": (3125.0, 12500.0),
    "p99 age at 80 %, ms": (50.0, 20.0),
    "a conditional branch, ms": (1.0, 0.3),
    "frames with another decision, share": (0.001, 0.0),
}
"""Figure -> (bar, aim)."""
LOAD = 0.8
LIMIT_S = 600.0
SYNTHETIC = 200
"""Frames of the synthetic strip that are compared where no data is named."""


def main(words: list[str] | None = None) -> int:
    """Exit code 0: everything ran, whatever the figures are."""
    asked = _arguments(words)
    pack = packs.load(asked.pack)
    options = Options(
        library=asked.library, cache=asked.cache, batch=(1, asked.batch, 2 * asked.batch), devices=tuple(asked.devices)
    )
    found: dict[str, Any] = {
        "machine": describe(),
        "pack": {"name": pack.manifest.name, "digest": pack.digest},
        "options": msgspec.to_builtins(options, enc_hook=str),
    }
    with stopped_by_signals(threading.Event()), tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        found["plans"] = build_missing(pack, options)
        with tensorrt.open(options, pack) as runtime:
            found["runtime"] = runtime.name
            print(f"{runtime.name}, {pack.manifest.name} {pack.manifest.version}", flush=True)
        found["parity"] = parity(pack, options, asked, Path(folder))
        found["rows"] = [
            throughput(spec_of(asked, pack, options, share, cameras), pack, options, Path(folder), asked)
            for cameras in asked.cameras
            for share in asked.shares
        ]
        found["paced"] = ages(found["rows"], pack, options, Path(folder), asked)
        if asked.minutes:
            found["soak"] = memory(pack, options, Path(folder), asked, found["rows"])
    print(table(found))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def build_missing(pack: Pack, options: Options) -> list[dict[str, Any]]:
    """Build what the cache lacks, for the first GPU."""
    library, (gpu, driver) = plans.choose(options.library, False)
    target = Target(gpu, driver, options.precision, options.batch)
    cache = Cache(options.cache or default_folder())
    steps = plans.build(pack, library, target, cache, lambda name: print(f"building {name}", flush=True))
    return [{"network": each.network, "bytes": each.file_bytes, "seconds": each.seconds} for each in steps]


# ---------------------------------------------------------------- parity


def parity(pack: Pack, options: Options, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Plans against ONNX Runtime, on real frames where a folder is named."""
    data = asked.data
    if data is None:
        data = folder / "data"
        count = 8 if asked.quick else SYNTHETIC
        synthesize.write(synthesize.strip_frames(1, count, pack.manifest.tile.width), data)
    samples = compare.spread(datasets.read(data), asked.frames_compared)
    cpu, gpu = partial(onnx.open, onnx.Options(workers=1)), partial(tensorrt.open, options)
    found = compare.compare(pack, samples, cpu, gpu, compare.Tolerance())
    print("\n".join(["", *compare.rows(found), *(f"BEYOND: {fault}" for fault in found.faults)]), flush=True)
    return compare.plain(found)


# ---------------------------------------------------------------- rates


def spec_of(asked: argparse.Namespace, pack: Pack, options: Options, share: float, cameras: int) -> Spec:
    """The line that is measured."""
    tile = pack.manifest.tile
    chosen = {"library": options.library, "batch": list(options.batch), "devices": list(options.devices)}
    if options.cache is not None:
        chosen["cache"] = str(options.cache.resolve())
    return Spec(
        pack=str(asked.pack.resolve()),
        height=tile.height,
        width=tile.width,
        share=share / 100,
        prepared=asked.prepared,
        cameras=cameras,
        workers=0,
        batch=asked.batch,
        runtime={"kind": "tensorrt", "options": chosen},
    )


def throughput(spec: Spec, pack: Pack, options: Options, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """One share: slices of the line and of the bare engines in turn, on the same frames."""
    each = math.ceil(asked.frames / spec.cameras / spec.prepared) * spec.prepared
    rates: dict[str, list[float]] = {"line": [], "bare": []}
    tap = Tap()
    with (
        tempfile.TemporaryDirectory(dir=folder) as own,
        bare_engines(spec, pack, options) as (bare, works),
        running(spec, Path(own), tap.attach) as (line, _),
    ):
        tap.pass_frames(spec.prepared, LIMIT_S)
        bare.run(works, spec.prepared)
        for number in range(asked.rounds):
            for side in ("line", "bare") if number % 2 == 0 else ("bare", "line"):
                frames = each * spec.cameras
                seconds = tap.pass_frames(each, LIMIT_S) if side == "line" else bare.run(works, frames)
                rates[side].append(frames / seconds)
        passing = next((work for work in works if work.wanted.get("types")), None)
        branch = bare.branch_ms(passing, asked.repeats) if passing is not None else {}
        used = _used(line)
    ratios = [a / b for a, b in zip(rates["line"], rates["bare"], strict=True)]
    row = {
        "defective_percent": spec.share * 100,
        "cameras": spec.cameras,
        "frames_a_slice": each * spec.cameras,
        "frames_per_s": {side: _spread(values) for side, values in rates.items()},
        "ratio": _spread(ratios),
        "branch_ms": branch,
        **used,
    }
    print(_said(row), flush=True)
    return row


@contextmanager
def bare_engines(spec: Spec, pack: Pack, options: Options) -> Iterator[tuple[Bare, list[Work]]]:
    """The bare loop on the frames of the line's cameras, once round, in turn as batches mix them."""
    with tensorrt.open(options, pack) as runtime:
        lanes = [painted(spec.strip(index), runtime, spec.prepared) for index in range(spec.cameras)]
        frames = [frame for together in zip(*lanes, strict=True) for frame in together]
        bare = Bare(runtime)
        yield bare, prepare(frames, pack.computed_in(runtime.precisions), EdgeConfig(), spec.batch, bare.slots[0])


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# ---------------------------------------------------------------- ages and memory


def ages(
    rows: list[dict[str, Any]], pack: Pack, options: Options, folder: Path, asked: argparse.Namespace
) -> list[dict[str, Any]]:
    """p50 and p99 of the age of a frame at 80 % of the rate that was measured, for each number of cameras."""
    found = []
    for cameras in asked.cameras:
        row = min((r for r in rows if r["cameras"] == cameras), key=lambda r: abs(r["defective_percent"] - 15))
        spec = spec_of(asked, pack, options, row["defective_percent"], cameras)
        rate = row["frames_per_s"]["line"]["median"] * LOAD
        one = {"cameras": cameras, **paced(spec, folder, rate, asked.seconds)}
        print(
            f"{cameras} camera(s) at {rate:.0f} frames/s: age p50 {one['age_ms']['p50']:.1f} ms, p99 "
            f"{one['age_ms']['p99']:.1f} ms, lost {one['lost'] or 'none'}",
            flush=True,
        )
        found.append(one)
    return found


def memory(
    pack: Pack, options: Options, folder: Path, asked: argparse.Namespace, rows: list[dict[str, Any]]
) -> list[dict[str, float]]:
    """Memory of the process and of the device each minute, under half the load that was measured."""
    row = min(rows, key=lambda r: (r["cameras"], abs(r["defective_percent"] - 15)))
    rate = row["frames_per_s"]["line"]["median"] / 2
    spec = spec_of(asked, pack, options, row["defective_percent"], row["cameras"])
    with tempfile.TemporaryDirectory(dir=folder) as own:
        return soak(spec, Path(own), asked.minutes * 60, rate, _used)


def _used(line: Line) -> dict[str, float]:
    assert isinstance(line.runtime, TensorRtRuntime)
    return {"device_mb": line.runtime.used_bytes() / 1e6}


# ---------------------------------------------------------------- for people


def table(found: dict[str, Any]) -> str:
    """The figures beside their bars and aims."""
    rows = found["rows"]
    typical = min(rows, key=lambda r: (r["cameras"], abs(r["defective_percent"] - 15)))
    branches = [value for row in rows for value in row["branch_ms"].values()]
    figures = {
        "whole line / bare engines": min(row["ratio"]["median"] for row in rows),
        "frames/s at 15 % defective": typical["frames_per_s"]["line"]["median"],
        "p99 age at 80 %, ms": max(one["age_ms"]["p99"] for one in found["paced"]),
        "a conditional branch, ms": max(branches, default=math.nan),
        "frames with another decision, share": found["parity"]["decisions_changed"] / found["parity"]["frames"],
    }
    lines = ["", f"{found['runtime']}", "| figure (the worst row) | found | bar | aim |", "|---|---|---|---|"]
    lines += [f"| {name} | {figures[name]:.4g} | {bar:g} | {aim:g} |" for name, (bar, aim) in BARS.items()]
    lines += [_said(row) for row in rows]
    lines += [
        f"minute {minute['minute']:.0f}: device {minute['device_mb']:.1f} MB, host {minute['now']:.0f} MB"
        for minute in found.get("soak", [])
    ]
    return "\n".join(lines)


def _said(row: dict[str, Any]) -> str:
    rates, ratio = row["frames_per_s"], row["ratio"]
    return (
        f"{row['defective_percent']:g} %, {row['cameras']} camera(s): line {rates['line']['median']:.0f}, bare "
        f"{rates['bare']['median']:.0f} frames/s, ratio {ratio['median']:.3f} ({ratio['min']:.3f} to "
        f"{ratio['max']:.3f}), device {row['device_mb']:.0f} MB"
    )


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pack", type=Path, default=PACK, help="folder of the engines")
    add("--data", type=Path, help="folder with images/ for the parity; default: frames of the synthetic strip")
    add("--frames-compared", type=int, help="so many of them; default: all")
    add("--library", choices=("tensorrt", "rtx"), default="tensorrt")
    add("--cache", type=Path, help="folder of the plans")
    add("--devices", type=int, nargs="+", default=[0], help="GPUs by number")
    add("--batch", type=int, default=8, help="frames in a batch at most; plans are tuned for it")
    add("--shares", type=float, nargs="+", default=[0, 1, 15, 53], help="per cent of frames that hold a defect")
    add("--cameras", type=int, nargs="+", default=[1, 4, 16])
    add("--frames", type=int, default=4000, help="frames in a slice")
    add("--rounds", type=int, default=3, help="slices of each side")
    add("--repeats", type=int, default=200, help="of a conditional branch")
    add("--prepared", type=int, default=100, help="different frames of each camera, in 100s")
    add("--seconds", type=float, default=20.0, help="how long ages are taken")
    add("--minutes", type=float, default=10.0, help="of the soak; 0: none")
    add("--folder", type=Path, help="where the journal lies; default: the system's folder for temporary files")
    add("--json", type=Path, metavar="FILE", help="write all figures there too")
    add("--quick", action="store_true", help="does it run? figures mean nothing")
    asked = parser.parse_args(words)
    if asked.quick:
        asked.shares, asked.cameras, asked.frames, asked.rounds = [15], [2], 100, 1
        asked.repeats, asked.seconds, asked.minutes = 3, 0.3, 0.01
    return asked


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InspectorError as problem:
        sys.exit(f"benchmarks/gpu.py: {problem}")
