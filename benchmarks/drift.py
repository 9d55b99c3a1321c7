"""What the watch over drift tells on lines whose coils differ as much as the rolls of a folder of pictures do.

    python benchmarks/drift.py --pack engines/severstal --data FOLDER    # a folder of frames, each of a roll of its own

The pack judges some views of each picture, as it is and with a fault on it. Lines are drawn from what it said: coil by
coil from a few rolls, window by window, first learnt and then watched. Their frames go through no camera: only the
counts are drawn, so days of strip take seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector import pack as packs
from inspector.cascade import Cascade
from inspector.census import Census, psi, total
from inspector.config import DriftConfig, EdgeConfig, GradingConfig
from inspector.drift import OFF, PIECES, Yardstick, compare, count
from inspector.pack import Pack
from inspector.preprocess import cut, find_edges
from inspector.records import Batch, Frame, Pixels
from inspector.runtimes import onnx

Fault = Callable[[Pixels], Pixels]


def darker(share: float) -> Fault:
    return lambda pixels: np.rint(pixels * share).astype(np.uint8)


def blurred(deviation_px: float) -> Fault:
    return lambda pixels: np.asarray(cv2.GaussianBlur(pixels, (0, 0), deviation_px), dtype=np.uint8)


FAULTS: dict[str, Fault] = {
    "as it is": lambda pixels: pixels,
    **{f"grey x {share}": darker(share) for share in (0.95, 0.9, 0.8, 0.7, 0.5)},
    **{f"blur {deviation} px": blurred(deviation) for deviation in (1, 2, 3)},
}
USUAL = "as it is"
COIL_FRAMES = (7_200, 16_800)

Shares = list[NDArray[np.float64]]
"""Gate scores, brightness, and what passes and alarms: shares of the frames."""


def judged(pack: Pack, pictures: Sequence[Pixels], views: int) -> Iterator[tuple[str, list[Census]]]:
    """Fault -> a census of each picture's views, which begin at other rows."""
    with onnx.open(onnx.Options(workers=1), pack) as runtime:
        cascade = Cascade(pack, runtime.stream(), GradingConfig().merge_px)
        for name, fault in FAULTS.items():
            found = [Census() for _ in pictures]
            for picture, census in zip(pictures, found, strict=True):
                for view in range(views):
                    pixels = np.ascontiguousarray(fault(np.roll(picture, 37 * view, axis=0)))
                    frame, roi = Frame("a", 0, 0, 0, 0, pixels), find_edges(pixels, EdgeConfig())
                    tiles = cut(pixels, roi, pack.manifest.tile, frame=0)
                    verdict = cascade.judge(Batch(0, [frame], [roi], tiles)).verdicts[0]
                    if roi.width:
                        count(census, verdict)
            yield name, found


def shares(census: Census) -> Shares:
    counts = (census.gate_scores, census.brightness, [census.passed, census.alarmed])
    return [np.asarray(each, np.float64) / census.frames for each in counts]


def windows(rolls: Sequence[Shares], together: int, frames: int, rng: np.random.Generator) -> Iterator[list[Census]]:
    """A line for ever, in pieces of a window: each coil is of `together` rolls."""
    pieces: list[Census] = []
    left, coil = 0, rolls[0]
    while True:
        parts, missing = [], frames // PIECES
        while missing:
            if not left:
                left = int(rng.integers(*COIL_FRAMES))
                chosen = [rolls[index] for index in rng.integers(0, len(rolls), together)]
                coil = [np.mean([roll[part] for roll in chosen], axis=0) for part in range(3)]
            drawn = min(left, missing)
            passed, alarmed = rng.binomial(drawn, coil[2]).tolist()
            scores, bright = (rng.multinomial(drawn, each).tolist() for each in coil[:2])
            parts.append(
                Census(frames=drawn, full=drawn, gate_scores=scores, brightness=bright, passed=passed, alarmed=alarmed)
            )
            left, missing = left - drawn, missing - drawn
        pieces = [*pieces[-PIECES + 1 :], total(parts)]
        yield pieces


def next_window(strip: Iterator[list[Census]]) -> Census:
    """The next one that has no frame of the last."""
    return total([next(strip) for _ in range(PIECES)][-1])


def line(
    rolls: Mapping[str, Sequence[Shares]], together: int, section: DriftConfig, watched: int, seed: int
) -> dict[str, Counter[str]]:
    """USUAL -> warnings by measure in so many windows of usual strip; fault -> how many windows of such strip, of a
    quarter as many, are beyond the limit."""
    rng = np.random.default_rng(seed)
    strip = windows(rolls[USUAL], together, section.window_frames, rng)
    yardstick = Yardstick.learnt([next_window(strip) for _ in range(section.learn_windows or 0)])
    told: dict[str, Counter[str]] = {name: Counter() for name in rolls}
    off: set[str] = set()
    for pieces in itertools.islice(strip, watched * PIECES):
        for measure in OFF:
            beyond, back, _ = compare(measure, total(pieces), yardstick, section) or (False, True, "")
            told[USUAL][measure] += beyond and measure not in off
            off = off | {measure} if beyond else off - {measure} if back else off
    for name in FAULTS.keys() - {USUAL}:
        strip = windows(rolls[name], together, section.window_frames, rng)
        for _ in range(watched // 4):
            window = next_window(strip)
            for measure in OFF:
                told[name][measure] += (compare(measure, window, yardstick, section) or (False,))[0]
    return told


def measured(options: argparse.Namespace) -> dict[str, Any]:
    pack = packs.load(options.pack)
    pictures = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(options.data.iterdir())]
    found = dict(judged(pack, [np.asarray(each, np.uint8) for each in pictures if each is not None], options.views))
    seen = [k for k in range(len(found[USUAL])) if all(own[k].frames for own in found.values())]
    usual = total(found[USUAL][k] for k in seen)
    figures: dict[str, Any] = {"pack": pack.digest, "rolls": len(seen), "views": options.views, "distances": {}}
    for name, own in found.items():
        whole = total(own[k] for k in seen)
        apart = psi(whole.gate_scores, usual.gate_scores), psi(whole.brightness, usual.brightness)
        figures["distances"][name] = dict(zip(("gate_score", "brightness"), apart, strict=True))
        print(f"{name:<12} gate scores {apart[0]:.2f}, brightness {apart[1]:.2f} from as it is", flush=True)
    rolls = {name: [shares(own[k]) for k in seen] for name, own in found.items()}
    figures["lines"] = []
    for frames, together in itertools.product(options.window_frames, (4, 1)):
        section = DriftConfig(window_frames=frames)
        runs = [line(rolls, together, section, options.windows, seed) for seed in range(options.lines)]
        told = {name: {measure: sum(run[name][measure] for run in runs) for measure in OFF} for name in FAULTS}
        figures["lines"].append({"window_frames": frames, "rolls_in_a_coil": together, "told": told})
        print(f"windows of {frames:,} frames, {together} rolls in a coil; {options.lines * options.windows} windows")
        for name, each in told.items():
            of = f"of {options.lines * (options.windows // 4)} windows" if name != USUAL else "warnings"
            print(f"    {name:<12} {', '.join(f'{m} {count}' for m, count in each.items())} {of}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--pack", type=Path, default=Path("engines/severstal"))
    parser.add_argument("--data", type=Path, required=True, help="folder of pictures, each of another roll")
    parser.add_argument("--views", type=int, default=8, help="of each picture")
    parser.add_argument("--lines", type=int, default=6, help="lines that are drawn")
    parser.add_argument("--windows", type=int, default=200, help="windows that each is watched")
    parser.add_argument("--window-frames", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    found = measured(options)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
