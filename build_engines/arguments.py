"""The words of `python -m build_engines`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from build_engines.defaults import CROP_WIDTH, PARTS, SCALE


def parser(about: str) -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m build_engines", description=about)
    commands = top.add_subparsers(dest="command", required=True)
    _add_train(commands)
    _add_crossvalidate(commands)
    _add_measure(commands)
    _add_evaluate(commands)
    _add_export(commands)
    _add_reference(commands)
    _add_quantize(commands)
    _add_synthesize(commands)
    _add_build(commands)
    _add_unfold(commands)
    _add_average(commands)
    _add_compare(commands)
    return top


def _add_train(commands: Any) -> None:
    command = commands.add_parser("train", help="train one network or all; goes on where a killed training was")
    _add_training(command)
    command.add_argument("--network", default="all", help="all, or some of teacher,gate,types,segment_<class number>")
    command.add_argument("--folds", type=int, default=0, help="cross-validation: so many folds by look-alike group")
    command.add_argument("--fold", type=int, default=1, help="the fold that is kept for the test, 1..folds")


def _add_crossvalidate(commands: Any) -> None:
    command = commands.add_parser(
        "crossvalidate", help="train, export and evaluate every fold; figures over all frames"
    )
    _add_training(command)
    command.add_argument("--folds", type=int, default=5)
    command.add_argument("--validation", type=Path, action="append", default=[], help="one more folder to choose on")
    command.add_argument("--json", type=Path, help="file for the figures; else they are printed")


def _add_measure(commands: Any) -> None:
    command = commands.add_parser(
        "measure", help="frames a second of the feed and of the network, before a long training"
    )
    _add_training(command)
    command.add_argument("--network", default="teacher", choices=("teacher", "gate"))
    command.set_defaults(steps=60)


def _add_training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, required=True, help="folder with images/ and train.csv")
    command.add_argument("--out", type=Path, required=True, help="run folder: split, checkpoints, losses, curves")
    command.add_argument("--names", type=Path, help="YAML with class number: name; other classes are refused")
    command.add_argument(
        "--parent",
        type=Path,
        help="a finished run to go on from, with its split or --shares; of other classes: its encoder and decoder",
    )
    command.add_argument("--extra", type=Path, action="append", default=[], help="one more folder, wholly for training")
    command.add_argument("--shapes", type=Path, help="mask_shapes.csv: real mask shapes to paint defects from")
    command.add_argument(
        "--labels",
        type=Path,
        help="folder with train.csv and images.csv of frames that --data leaves unlabelled: learnt, never measured",
    )
    command.add_argument(
        "--distill",
        type=Path,
        action="append",
        default=[],
        help="a finished run whose teacher labels the unlabelled frames and softens the other truth; give several",
    )
    command.add_argument(
        "--shares",
        type=_shares,
        help="train,validation,test shares of the labelled frames, such as 0.8,0.2,0; else those of --parent, or "
        + ",".join(map(str, PARTS.values())),
    )
    command.add_argument("--steps", type=int, default=2400, help="steps of the teacher; the others take their share")
    command.add_argument("--batch", type=int, default=0, help="of the teacher; the others take their share")
    command.add_argument(
        "--scale", type=int, default=SCALE, choices=(1, 2), help="networks look at 1/scale of the pixels"
    )
    command.add_argument("--gate-scale", type=int, default=0, choices=(0, 1, 2), help="the gate's own; 0: the same")
    command.add_argument("--height", type=_side, default=256, help="tile along the strip, px, a multiple of 16 x scale")
    command.add_argument(
        "--width", type=_side, default=1600, help="tile across the strip, px, a multiple of 16 x scale"
    )
    command.add_argument(
        "--crop-height", type=_side, default=0, help="of what teacher and segmenters learn from, px; else the tile's"
    )
    command.add_argument("--crop-width", type=_side, default=0, help=f"likewise; else {CROP_WIDTH} px")
    command.add_argument(
        "--whole", type=_share, default=0.0, help="last share of the steps that sees whole tiles; not always better"
    )
    command.add_argument(
        "--plain",
        type=_share,
        default=0.0,
        help="share of the examples that are real frames as they are, mirrored and turned alone; for large sets",
    )
    command.add_argument(
        "--keep-norms",
        type=_share,
        default=0.0,
        help="last share of the steps in which batch norms keep their statistics (1: --parent's); for large sets",
    )
    command.add_argument("--turned", action="store_true", help="square pictures have no direction: turn them too")
    command.add_argument(
        "--rate", type=float, default=1.0, help="times the usual learning rates; less to go on from a good --parent"
    )
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--threads", type=int, default=2, help="CPU threads")
    command.add_argument("--workers", type=int, default=0, help="processes that prepare batches; 0: a thread")
    command.add_argument("--device", default="cpu", help="cpu or cuda")
    command.add_argument("--checkpoint", type=int, default=100, help="steps between checkpoints")


def _side(text: str) -> int:
    if not text.isdigit() or int(text) < 32 or int(text) % 16:
        raise argparse.ArgumentTypeError(f"{text}: not a multiple of 16 px from 32 on. Other frames are padded or cut")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: no share. Give a number from 0 to 1")
    return value


def _shares(text: str) -> tuple[tuple[str, float], ...]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(PARTS) or min(values) < 0 or values[0] <= 0 or abs(sum(values) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text}: give the shares of {', '.join(PARTS)}, that add up to 1")
    return tuple(zip(PARTS, values, strict=True))


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser("evaluate", help="figures of a pack on labelled frames, with intervals")
    command.add_argument("--pack", type=Path, required=True)
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--json", type=Path, help="file for the figures; else they are printed")
    command.add_argument("--report", type=Path, help="HTML file: figures, worst escapes and false alarms as pictures")
    command.add_argument("--records", type=Path, help="file for what was found on every frame, one a line")
    command.add_argument("--split", type=Path, help="split.json of a run: measure on one part of the data only")
    command.add_argument("--part", default="test", help="which part of --split")
    command.add_argument("--draws", type=int, default=1000, help="of the bootstrap")


def _add_export(commands: Any) -> None:
    command = commands.add_parser("export", help="make a pack: ONNX, thresholds, figures, model card")
    command.add_argument("--run", type=Path, required=True, help="run folder of a finished training")
    command.add_argument("--data", type=Path, required=True, help="the data it was trained on; its split is in the run")
    command.add_argument("--pack", type=Path, required=True, help="folder to write, such as engines/severstal")
    command.add_argument("--version", default="1.0.0")
    command.add_argument("--names", type=Path, help="YAML with class number: name, over those of the training")
    command.add_argument(
        "--without-twins", action="store_true", help="no float16 files for GPUs: half the size; `build` makes its own"
    )
    command.add_argument("--note", default="", help="Markdown for the end of the model card")
    witness = command.add_mutually_exclusive_group()
    witness.add_argument(
        "--sibling",
        type=Path,
        help="a finished run of the same recipe that kept frames back, where --run learnt from all: thresholds are "
        "chosen and figures measured by its networks",
    )
    witness.add_argument(
        "--folds",
        type=Path,
        help="likewise, but a finished crossvalidate --out: every labelled frame counts, by the fold that kept it back",
    )
    command.add_argument("--validation", type=Path, action="append", default=[], help="one more folder to choose on")
    command.add_argument("--test", type=Path, action="append", default=[], help="one more folder to measure on")


def _add_reference(commands: Any) -> None:
    command = commands.add_parser(
        "reference", help="what the cascade says of frames as they should be, into the pack: drift is measured from it"
    )
    command.add_argument("--pack", type=Path, required=True, help="its manifest is written anew, so its digest changes")
    command.add_argument("--data", type=Path, required=True, help="frames; what is on them need not be known")
    command.add_argument("--split", type=Path, help="split.json of a run: only one part of the data")
    command.add_argument("--part", default="validation", help="which part of --split")


def _add_quantize(commands: Any) -> None:
    command = commands.add_parser(
        "quantize", help="int8 for the CPU, where it is faster here and loses next to nothing"
    )
    command.add_argument("--pack", type=Path, required=True, help="changed in place")
    command.add_argument("--data", type=Path, required=True)
    command.add_argument(
        "--split", type=Path, help="split.json of the pack's run: calibrate on train, judge on validation"
    )
    command.add_argument("--validation", type=Path, action="append", default=[], help="one more folder to judge on")
    command.add_argument("--network", default="", help="only some of gate,types,segment_<class number>")


def _add_unfold(commands: Any) -> None:
    command = commands.add_parser("unfold", help="make a run out of a pack, to go on from: `train --parent`")
    command.add_argument("--pack", type=Path, required=True)
    command.add_argument("--data", type=Path, required=True, help="frames for the statistics of the batch norms")
    command.add_argument("--split", type=Path, help="split.json of the pack's run, if it learnt from --data")
    command.add_argument("--out", type=Path, required=True, help="run folder to write")


def _add_average(commands: Any) -> None:
    command = commands.add_parser(
        "average", help="make a run out of the mean of others that began as one, such as folds: `train --parent`"
    )
    command.add_argument("--run", type=Path, action="append", required=True, help="a finished run; give several")
    command.add_argument("--out", type=Path, required=True, help="run folder to write")


def _add_synthesize(commands: Any) -> None:
    command = commands.add_parser("synthesize", help="write frames of the synthetic strip as a data folder")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--count", type=int, default=500)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--width", type=int, default=1600, help="pixels across the strip")


def _add_build(commands: Any) -> None:
    command = commands.add_parser("build", help="GPU plans of a pack's networks, into the cache that the daemon reads")
    command.add_argument("--pack", type=Path, required=True)
    command.add_argument("--cache", type=Path, help="folder of the plans (default: the user's, or the unit's, cache)")
    command.add_argument("--library", choices=("tensorrt", "rtx"), help="default: TensorRT, else TensorRT-RTX")
    command.add_argument("--device", type=int, default=0, help="GPU to build for, as nvidia-smi counts (default: 0)")
    command.add_argument("--ahead-of-time", action="store_true", help="without a GPU, for any: TensorRT-RTX only")
    _add_plan(command)


def _add_plan(command: Any) -> None:
    command.add_argument("--precision", choices=("fp16", "fp32"), default="fp16")
    command.add_argument(
        "--batch",
        type=int,
        nargs=3,
        default=(1, 8, 16),
        metavar=("FEWEST", "TYPICAL", "MOST"),
        help="tiles in a batch; plans are tuned for the typical one (default: 1 8 16)",
    )


def _add_compare(commands: Any) -> None:
    command = commands.add_parser(
        "compare", help="plans against ONNX Runtime on the same frames; exits with 1 beyond the tolerance"
    )
    command.add_argument("--pack", type=Path, required=True)
    command.add_argument("--data", type=Path, required=True, help="folder with images/; truth is not needed")
    command.add_argument("--frames", type=int, help="so many of them, spread over the folder; default: all")
    against = command.add_mutually_exclusive_group()
    against.add_argument(
        "--twins", action="store_true", help="not plans, but the graphs they are built from, on the CPU: no GPU needed"
    )
    against.add_argument("--candidate", type=Path, help="not plans, but another pack on the CPU, as of quantize")
    command.add_argument("--cache", type=Path, help="folder of the plans (default: the user's, or the unit's, cache)")
    command.add_argument("--library", choices=("tensorrt", "rtx"), default="tensorrt")
    _add_plan(command)
    command.add_argument("--score", type=float, default=0.02, help="largest difference allowed of a score, 0..1")
    command.add_argument(
        "--mask", type=float, default=1.0, help="mean difference allowed of a segmenter, in 255ths, where it says any"
    )
    command.add_argument(
        "--changed", type=float, default=0.001, help="share of the frames allowed with another decision or event"
    )
    command.add_argument("--json", type=Path, help="write the figures there too")
