"""From own frames to a pack, and from a pack to GPU plans:

python -m build_engines train|crossvalidate|measure|evaluate|export|reference|quantize|synthesize|unfold|average
python -m build_engines build|compare
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from build_engines.arguments import parser
from build_engines.files import MISSING, naming, refusal, refuse_unwritable, write_json
from build_engines.progress import shown
from inspector.errors import ConfigError, InspectorError

EXIT_CONFIG = 78
"""As the daemon: a wrong setting or file."""

NEEDS = "build_engines needs packages that are not installed ({error}). Try: pip install 'inspector[train]'"


def _settings(arguments: argparse.Namespace, **more: Any) -> Any:
    from build_engines.augment import Recipe
    from build_engines.settings import Settings

    return Settings(
        data=arguments.data,
        out=arguments.out,
        extra=tuple(arguments.extra),
        shapes=arguments.shapes,
        parent=arguments.parent,
        labels=arguments.labels,
        distill=tuple(arguments.distill),
        names=arguments.names,
        shares=arguments.shares,
        scale=arguments.scale,
        gate_scale=arguments.gate_scale,
        tile=(arguments.height, arguments.width),
        crop=(arguments.crop_height, arguments.crop_width),
        whole=arguments.whole,
        plain=arguments.plain,
        kept_norms=arguments.keep_norms,
        pace=arguments.rate,
        seed=arguments.seed,
        threads=arguments.threads,
        workers=arguments.workers,
        device=_device(arguments.device),
        checkpoint_steps=arguments.checkpoint,
        recipe=Recipe(turned=0.5 if arguments.turned else 0.0),
        **more,
    )


def _device(name: str) -> str:
    import torch

    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: torch sees no GPU here. Leave it out, or install torch for CUDA")
    return name


def train(arguments: argparse.Namespace) -> None:
    from build_engines.crossvalidate import train_all
    from build_engines.datasets import class_numbers, read
    from build_engines.runs import network_names

    settings = _settings(arguments, folds=arguments.folds, fold=arguments.fold)
    known = network_names(class_numbers(read(arguments.data)))
    chosen = known if arguments.network == "all" else arguments.network.split(",")
    for name in chosen:
        if name not in known:
            raise ConfigError(f"--network {name}: unknown. Choose all, or some of {','.join(known)}")
    train_all(settings, arguments.steps, arguments.batch, chosen)


def crossvalidate(arguments: argparse.Namespace) -> None:
    from build_engines import evaluate as evaluation
    from build_engines.crossvalidate import crossvalidate as over_folds

    refuse_unwritable(arguments.json)
    settings = _settings(arguments, folds=arguments.folds)
    found = over_folds(settings, arguments.steps, arguments.batch, tuple(arguments.validation))
    if arguments.json is None:
        _show(evaluation.plain(found))
    else:
        write_json(arguments.json, evaluation.plain(found))


def measure(arguments: argparse.Namespace) -> None:
    from build_engines.measure import measure as measured

    _show(measured(_settings(arguments, folds=0), arguments.network, arguments.batch, arguments.steps))


def export(arguments: argparse.Namespace) -> None:
    from build_engines import datasets, packing

    order = packing.Order(
        run=arguments.run,
        data=arguments.data,
        pack=arguments.pack,
        name=arguments.pack.resolve().name,
        version=arguments.version,
        names=datasets.read_names(arguments.names),
        validation=tuple(arguments.validation),
        test=tuple(arguments.test),
        twins=not arguments.without_twins,
        sibling=arguments.sibling,
        folds=arguments.folds,
        note=arguments.note,
    )
    _show(packing.make(order))


def evaluate(arguments: argparse.Namespace) -> None:
    from build_engines import datasets, judging, page, splits
    from build_engines import evaluate as evaluation
    from inspector import pack as packs

    refuse_unwritable(arguments.json, arguments.report, arguments.records)
    pack, samples, group_of = packs.load(arguments.pack), datasets.read(arguments.data), None
    if arguments.split is not None:
        parts, group_of = splits.load(arguments.split), splits.group_of(samples)
        samples = [sample for sample in samples if parts.get(sample.name) == arguments.part]
    records = evaluation.judged(pack, samples, group_of)
    found = evaluation.report(pack.manifest, records, arguments.draws)
    if arguments.json is None:
        _show(evaluation.plain(found))
    else:
        evaluation.write(found, arguments.pack, arguments.json)
    if arguments.records is not None:
        judging.save(records, arguments.records)
    if arguments.report is not None:
        page.write(arguments.report, pack, found, records, samples)


def reference(arguments: argparse.Namespace) -> None:
    from build_engines import datasets, splits
    from build_engines import reference as references
    from inspector import pack as packs

    samples, made_on = datasets.read(arguments.data), f"{arguments.data.resolve().name}, all frames"
    if arguments.split is not None:
        parts = splits.load(arguments.split)
        samples = [sample for sample in samples if parts.get(sample.name) == arguments.part]
        made_on = references.part_of(arguments.data, arguments.part)
    _show(references.write(packs.load(arguments.pack), samples, made_on))


def quantize(arguments: argparse.Namespace) -> None:
    from build_engines import datasets, splits
    from build_engines import quantize as quantization
    from build_engines import reference as references

    samples = datasets.read(arguments.data)
    parts = splits.load(arguments.split) if arguments.split else splits.split(samples)
    samples = [sample for sample in samples if sample.labelled]
    calibration = [sample for sample in samples if parts.get(sample.name) == "train"]
    validation = [sample for sample in samples if parts.get(sample.name) == "validation"]
    more = [sample for folder in arguments.validation for sample in datasets.read(folder) if sample.labelled]
    usual = {references.part_of(arguments.data, "validation"): validation, references.MORE: more}
    networks = arguments.network.split(",") if arguments.network else ()
    trials = quantization.quantize(arguments.pack, calibration, [*validation, *more], networks, usual)
    _show({trial.network: {"verdict": trial.verdict, "milliseconds": trial.milliseconds} for trial in trials})


def synthesize(arguments: argparse.Namespace) -> None:
    from build_engines import synthesize as synthesis

    frames = synthesis.strip_frames(arguments.seed, arguments.count, arguments.width)
    with naming(arguments.out):
        count = synthesis.write(iter(shown(frames, "painting", arguments.count)), arguments.out)
    Console(stderr=True).print(f"{count} frames in {arguments.out}")


def build(arguments: argparse.Namespace) -> None:
    from build_engines import build as plans
    from inspector.pack import load
    from inspector.plans import Cache, default_folder
    from inspector.runtimes._tensorrt import Target

    pack, cache = load(arguments.pack), Cache(arguments.cache or default_folder())
    library, (gpu, driver) = plans.choose(arguments.library, arguments.ahead_of_time, arguments.device)
    target = Target(gpu, driver, arguments.precision, plans.batches(arguments.batch))
    out = Console(stderr=True)
    out.print(f"{library.flavour} {library.version} for {gpu}: {cache.folder}", markup=False, highlight=False)
    with out.status("") as status:
        for built in plans.build(pack, library, target, cache, lambda name: status.update(f"building {name}")):
            took = "was there" if built.seconds is None else f"{built.seconds:.1f} s"
            row = f"{built.network:<12} {built.file_bytes / 1e6:8.2f} MB  {took}"
            out.print(row, markup=False, highlight=False)


def unfold(arguments: argparse.Namespace) -> None:
    from build_engines import datasets, splits
    from build_engines import unfold as unfolding
    from inspector.pack import load

    parts = splits.load(arguments.split) if arguments.split else {}
    unfolding.unfold(load(arguments.pack), datasets.read(arguments.data), parts, arguments.out)


def average(arguments: argparse.Namespace) -> None:
    from build_engines.average import average as mean_of

    names = mean_of(arguments.run, arguments.out)
    Console(stderr=True).print(f"{', '.join(names)} of {len(arguments.run)} runs in {arguments.out}")


def compare(arguments: argparse.Namespace) -> int:
    from build_engines import compare as comparing
    from build_engines import datasets
    from build_engines.candidates import candidate_of
    from inspector.pack import load
    from inspector.runtimes import onnx

    refuse_unwritable(arguments.json)
    pack = load(arguments.pack)
    tolerance = comparing.Tolerance(arguments.score, arguments.mask, arguments.changed)
    samples = comparing.spread(datasets.read(arguments.data), arguments.frames)
    out = Console(stderr=True)
    with candidate_of(arguments, pack) as candidate:
        seen = shown(samples, "comparing", len(samples))
        found = comparing.compare(pack, seen, partial(onnx.open, onnx.Options(workers=1)), candidate, tolerance)
    sys.stdout.write("\n".join(comparing.rows(found)) + "\n")
    if arguments.json is not None:
        write_json(arguments.json, comparing.plain(found))
    for fault in found.faults:
        out.print(f"beyond the tolerance: {fault}", style="red", markup=False, highlight=False)
    return int(bool(found.faults))


def _show(figures: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "train": train,
    "crossvalidate": crossvalidate,
    "measure": measure,
    "evaluate": evaluate,
    "export": export,
    "reference": reference,
    "quantize": quantize,
    "synthesize": synthesize,
    "build": build,
    "unfold": unfold,
    "average": average,
    "compare": compare,
}
"""Each returns its exit code, or None for 0."""


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = parser(str(__doc__).partition("\n")[0]).parse_args(words)
    try:
        return COMMANDS[arguments.command](arguments) or 0
    except ImportError as error:
        return _fail(NEEDS.format(error=error), EXIT_CONFIG)
    except InspectorError as error:
        return _fail(str(error), EXIT_CONFIG if isinstance(error, ConfigError) else 1)
    except OSError as error:
        return _fail(refusal(error), EXIT_CONFIG if error.errno in MISSING else 1)


def _fail(message: str, code: int) -> int:
    Console(stderr=True).print(message, style="red", markup=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
