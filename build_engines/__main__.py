"""`python -m build_engines train|evaluate|export|synthesize`: from a mill's own frames to a pack of engines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from inspector.errors import ConfigError, InspectorError

EXIT_CONFIG = 78
"""As the daemon: a wrong setting or file."""

NEEDS = "build_engines needs packages that are not installed ({error}). Try: pip install 'inspector[train]'"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m build_engines", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    _add_train(commands)
    _add_export(commands)
    _add_evaluate(commands)
    _add_synthesize(commands)
    return top


def _add_train(commands: Any) -> None:
    command = commands.add_parser("train", help="train one network or all; goes on where a killed training was")
    command.add_argument("--data", type=Path, required=True, help="folder with images/ and train.csv")
    command.add_argument("--out", type=Path, required=True, help="run folder: split, checkpoints, losses")
    command.add_argument("--parent", type=Path, help="a finished run to go on from, with its split")
    command.add_argument("--network", default="all", help="all, teacher, gate, types or segment_<class number>")
    command.add_argument("--extra", type=Path, action="append", default=[], help="one more folder, wholly for training")
    command.add_argument("--shapes", type=Path, help="mask_shapes.csv: real mask shapes to paint defects from")
    command.add_argument("--steps", type=int, default=2400, help="steps of the teacher; the others take their share")
    _add_tile(command)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--threads", type=int, default=2, help="CPU threads")
    command.add_argument("--device", default="cpu", help="cpu or cuda")


def _add_tile(command: argparse.ArgumentParser) -> None:
    command.add_argument("--height", type=_side, default=256, help="tile along the strip, px, a multiple of 32")
    command.add_argument("--width", type=_side, default=1600, help="tile across the strip, px, a multiple of 32")


def _side(text: str) -> int:
    if not text.isdigit() or int(text) < 32 or int(text) % 32:
        raise argparse.ArgumentTypeError(f"{text}: not a multiple of 32 px. Frames of other sizes are padded or cut")
    return int(text)


def _add_export(commands: Any) -> None:
    command = commands.add_parser("export", help="make a pack: ONNX, thresholds, figures, model card")
    command.add_argument("--run", type=Path, required=True, help="run folder of a finished training")
    command.add_argument("--data", type=Path, required=True, help="the data it was trained on; its split is in the run")
    command.add_argument("--pack", type=Path, required=True, help="folder to write, such as engines/severstal")
    command.add_argument("--version", default="1.0.0")
    command.add_argument("--names", type=Path, help="YAML with class number: name")
    command.add_argument("--note", default="", help="Markdown for the end of the model card")
    _add_tile(command)
    command.add_argument("--validation", type=Path, action="append", default=[], help="one more folder to choose on")
    command.add_argument("--test", type=Path, action="append", default=[], help="one more folder to measure on")


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser("evaluate", help="figures of a pack on labelled frames")
    command.add_argument("--pack", type=Path, required=True)
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--json", type=Path, help="file for the figures; else they are printed")
    command.add_argument("--split", type=Path, help="split.json of a run: measure on one part of the data only")
    command.add_argument("--part", default="test", help="which part of --split")


def _add_synthesize(commands: Any) -> None:
    command = commands.add_parser("synthesize", help="write frames of the synthetic strip as a data folder")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--count", type=int, default=500)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--width", type=int, default=1600, help="pixels across the strip")


def train(arguments: argparse.Namespace) -> None:
    from build_engines import feed as feeding
    from build_engines import train as training
    from build_engines.settings import Settings, stint

    settings = Settings(
        data=arguments.data,
        out=arguments.out,
        extra=tuple(arguments.extra),
        shapes=arguments.shapes,
        parent=arguments.parent,
        height=arguments.height,
        width=arguments.width,
        seed=arguments.seed,
        threads=arguments.threads,
        device=arguments.device,
    )
    feed = feeding.prepare_feed(settings)
    known = training.network_names(feed.classes)
    if arguments.network not in ("all", *known):
        raise ConfigError(f"--network {arguments.network}: unknown. Choose all, {', '.join(known)}")
    for name in known if arguments.network == "all" else [arguments.network]:
        training.train(name, replace(feed, settings=stint(name, settings, arguments.steps)))


def export(arguments: argparse.Namespace) -> None:
    from build_engines import packing
    from inspector.pack import TileSize

    order = packing.Order(
        run=arguments.run,
        data=arguments.data,
        pack=arguments.pack,
        name=arguments.pack.resolve().name,
        version=arguments.version,
        names=_names(arguments.names),
        tile=TileSize(height=arguments.height, width=arguments.width),
        validation=tuple(arguments.validation),
        test=tuple(arguments.test),
        note=arguments.note,
    )
    _show(packing.make(order))


def evaluate(arguments: argparse.Namespace) -> None:
    from build_engines import datasets, splits
    from build_engines import evaluate as evaluation
    from inspector import pack as packs

    samples = datasets.read(arguments.data)
    if arguments.split is not None:
        parts = splits.load(arguments.split)
        samples = [sample for sample in samples if parts.get(sample.name) == arguments.part]
    report = evaluation.evaluate(packs.load(arguments.pack), samples)
    if arguments.json is None:
        _show(evaluation.plain(report))
    else:
        evaluation.write(report, arguments.pack, arguments.json)


def synthesize(arguments: argparse.Namespace) -> None:
    from build_engines import synthesize as synthesis

    frames = synthesis.strip_frames(arguments.seed, arguments.count, arguments.width)
    Console(stderr=True).print(f"{synthesis.write(frames, arguments.out)} frames in {arguments.out}")


def _names(file: Path | None) -> dict[int, str]:
    if file is None:
        return {}
    try:
        return {int(number): str(name) for number, name in yaml.safe_load(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {error}. Write one line for each class, such as `1: pits`") from None


def _show(figures: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


COMMANDS = {"train": train, "export": export, "evaluate": evaluate, "synthesize": synthesize}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = parser().parse_args(words)
    errors = Console(stderr=True)
    try:
        COMMANDS[arguments.command](arguments)
    except ImportError as error:
        errors.print(NEEDS.format(error=error), style="red", markup=False)
        return EXIT_CONFIG
    except InspectorError as error:
        errors.print(str(error), style="red", markup=False)
        return EXIT_CONFIG if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
