"""The figures of `line.py --json FILE` as Markdown, for docs/performance.md.

python benchmarks/table.py FILE...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = (
    "| defective | passed the gate | segmenter calls a frame | daemon, frames/s | bare loop | daemon / bare (range) "
    "| by CPU time |\n|---|---|---|---|---|---|---|"
)


def markdown(found: dict[str, Any]) -> str:
    """Everything of one run."""
    machine, pack = found["machine"], found["pack"]
    software = f"Python {machine['python']}, onnxruntime {machine['onnxruntime']}"
    named = f"pack `{pack['name']}` {pack['digest'][7:19]}, gate threshold {found['gate_threshold']:g}"
    parts = [f"{machine['cores']} cores of {machine['cpu']}, {software}; {named}."]
    if "rows" in found:
        parts.append("\n".join([HEAD, *(_row(row) for row in found["rows"])]))
        parts.append(_steady(found["paced"]))
    if "soak" in found:
        minutes = [f"| {row['minute']:.0f} | {row['now']:.0f} | {row['inspected']:,.0f} |" for row in found["soak"]]
        parts.append("\n".join(["| minute | resident memory, MB | frames |", "|---|---|---|", *minutes]))
    return "\n\n".join(parts) + "\n"


def _row(row: dict[str, Any]) -> str:
    calls, rates, ratio = row["calls_a_frame"], row["frames_per_s"], row["ratio"]
    segmented = sum(count for name, count in calls.items() if name.startswith("segment_"))
    best = row["best_bare"]
    title = f"{row['defective_percent']:g} %" + (", flat-field" if row["flat_field"] else "")
    title += f", {row['cameras']} cameras" if row["cameras"] > 1 else ""
    return (
        f"| {title} | {calls.get('types', 0):.1%} | {segmented:.2f} | {rates['daemon']['median']:.1f} "
        f"| {rates[best]['median']:.1f} ({best}) | **{ratio['median']:.3f}** "
        f"({ratio['min']:.3f} to {ratio['max']:.3f}) | {row['cpu_ratio']['median']:.3f} |"
    )


def _steady(paced: dict[str, Any]) -> str:
    ages, heard, memory = paced["age_ms"], paced["event_age_ms"], paced["memory_mb"]
    lost = ", ".join(f"{count} {reason}" for reason, count in paced["lost"].items()) or "none"
    event = f"; a defect at a subscriber {heard['p50']:.0f} and {heard['p99']:.0f} ms" if heard["p50"] else ""
    return (
        f"At {paced['frames_per_s']:.0f} frames/s: age of a frame p50 {ages['p50']:.0f} ms, p99 {ages['p99']:.0f} ms"
        f"{event}. Frames lost: {lost}. Peak memory {memory['peak']:.0f} MB, {paced['strip_mb']:.0f} MB of it the "
        "camera's painted frames."
    )


if __name__ == "__main__":
    for file in sys.argv[1:]:
        print(markdown(json.loads(Path(file).read_text(encoding="utf-8"))))
