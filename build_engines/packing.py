"""A run of trained networks to a finished pack: export, thresholds, figures, model card, and into place at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from build_engines import card, datasets, evaluate, export, folds, reference, splits, thresholds
from build_engines.datasets import Sample
from build_engines.export import Deployed, DeployedGate, DeployedSegmenter, DeployedTypes
from build_engines.files import put_in_place, recover, write_manifest
from build_engines.networks import Classifier, Segmenter
from build_engines.runs import Facts, facts_of, scale_of, trained
from inspector import pack as packs
from inspector.errors import ConfigError
from inspector.pack import FORMAT, ClassName, Gate, Manifest, Pack, TileSize, Types
from inspector.pack import Segmenter as SegmenterEntry

HELD_OUT = "held-out real frames"
STARTING_THRESHOLD, STARTING_FLOOR, STARTING_AREA_PX = 0.5, 0.1, 200


@dataclass(frozen=True)
class Order:
    """What pack to make, from what."""

    run: Path
    data: Path
    pack: Path
    name: str
    version: str
    names: dict[int, str]
    """Over those of the run."""
    validation: tuple[Path, ...] = ()
    """More data folders to choose thresholds on."""
    test: tuple[Path, ...] = ()
    """More data folders to measure on, each reported by its folder's name."""
    twins: bool = True
    """With float16 twins for GPUs; where they are left out, `build` makes them."""
    sibling: Path | None = None
    """A finished run of the same recipe that kept frames back, for a run that learnt from all of them: its networks are
    measured in place of the pack's own, and the thresholds are chosen by what they say of the frames it kept back."""
    folds: Path | None = None
    """A finished cross-validation of the same recipe, which is measured in the pack's place and chooses its thresholds:
    every labelled frame was kept back by one of its folds."""
    note: str = ""
    """Goes to the end of the model card, Markdown."""


def deployed(run: Path, facts: Facts) -> dict[str, Deployed]:
    """The trained networks of a run, as a pack ships them."""
    count = len(facts.classes)
    found: dict[str, Deployed] = {
        "gate": DeployedGate(cast(Classifier, trained("gate", count, run)), scale_of("gate", facts)),
        "types": DeployedTypes(cast(Classifier, trained("types", count, run)), facts.scale),
    }
    for number in facts.classes:
        name = f"segment_{number}"
        found[name] = DeployedSegmenter(cast(Segmenter, trained(name, count, run)), facts.scale)
    return found


def _export(order: Order, run: Path, folder: Path) -> None:
    """A run's networks as a pack with plain thresholds, before they are chosen."""
    facts = facts_of(run)
    tile = TileSize(height=facts.height, width=facts.width)
    files = export.export_all(deployed(run, facts), tile, folder, order.twins)
    write_manifest(first_manifest(order, facts, files), folder)


def first_manifest(order: Order, facts: Facts, files: dict[str, dict[str, Any]]) -> Manifest:
    """A manifest with the networks and plain thresholds, before they are chosen."""
    classes, names = facts.classes, facts.names | order.names
    return Manifest(
        format=FORMAT,
        name=order.name,
        version=order.version,
        description=f"Six-model cascade for {order.name}; see MODEL_CARD.md for what it was trained and measured on.",
        tile=TileSize(height=facts.height, width=facts.width),
        classes=[ClassName(number=number, name=names.get(number, f"class {number}")) for number in classes],
        gate=Gate(threshold=STARTING_THRESHOLD, **files["gate"]),
        types=Types(
            **files["types"],
            thresholds=dict.fromkeys(classes, STARTING_THRESHOLD),
            floors=dict.fromkeys(classes, STARTING_FLOOR),
        ),
        segmenters=[
            SegmenterEntry(
                class_number=number,
                threshold=STARTING_THRESHOLD,
                minimum_area_px=STARTING_AREA_PX,
                **files[f"segment_{number}"],
            )
            for number in classes
        ],
    )


def raw(order: Order) -> None:
    """The run's networks as a pack with plain thresholds and no figures."""
    with _made_in(order) as building:
        _export(order, order.run, building)


@contextmanager
def _made_in(order: Order) -> Iterator[Path]:
    """A folder beside the pack, that takes its place when all has gone well; nothing is left of it in any case."""
    recover(order.pack)
    with _beside(order, "building") as folder:
        yield folder
        put_in_place(folder, order.pack)


@contextmanager
def _beside(order: Order, what: str) -> Iterator[Path]:
    """A folder that is not there yet, and not there any more afterwards."""
    folder = order.pack.with_name(f".{order.pack.name}.{what}")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make(order: Order) -> dict[str, Any]:
    """Make the pack; returns its figures, by test set.

    Raises:
        ConfigError: the networks of the sibling or of the folds are others than the run's.
        ParityError: a graph answers otherwise than its network.
    """
    with _made_in(order) as building:
        return _make(order, building)


def _make(order: Order, building: Path) -> dict[str, Any]:
    facts, samples = facts_of(order.run), datasets.read(order.data)
    datasets.tell_unseen(order.names, facts.classes, order.run)
    _export(order, order.run, building)
    parts, tests = splits.load(order.run / "split.json"), {folder.name: folder for folder in order.test}
    more, reports = [datasets.read(folder) for folder in order.validation], dict[str, Any]()
    kept = _part(samples, parts, "validation")
    pack = packs.load(building)
    if order.folds is not None:
        chosen, reports = _by_folds(order, order.folds, samples, more)
    elif order.sibling is not None:
        chosen, reports = _by_sibling(order, order.sibling, samples, more)
    else:
        chosen = thresholds.choose(pack, [kept, *more])
    write_manifest(thresholds.taken_over(pack.manifest, chosen), building)
    if order.folds is None and order.sibling is None:
        reports = _reports(packs.load(building), {HELD_OUT: _part(samples, parts, "test")}, samples)
    pack = packs.load(building)
    reports |= _reports(pack, {name: datasets.read(folder) for name, folder in tests.items()})
    costs = card.costs(pack)
    manifest = with_figures(pack.manifest, reports, costs)
    usual = kept or [sample for folder in more for sample in folder]
    if usual:
        made_on = reference.part_of(order.data, "validation") if kept else reference.MORE
        manifest = reference.added(manifest, reference.of(pack, usual, made_on))
    write_manifest(manifest, building)
    siblings = splits.load(order.sibling / "split.json") if order.sibling else None
    witness = card.Witness.FOLDS if order.folds else card.Witness.SIBLING if siblings else card.Witness.ITSELF
    scales = facts.scale, scale_of("gate", facts)
    told = card.Facts(manifest, samples, parts, reports, costs, *scales, order.note, witness, siblings)
    card.write(building / "MODEL_CARD.md", told)
    return reports


def _by_sibling(
    order: Order, run: Path, samples: Sequence[Sample], more: list[list[Sample]]
) -> tuple[Manifest, dict[str, Any]]:
    """Thresholds by all that the sibling kept back, and its own figures, whose thresholds never saw the test part."""
    _refuse_others(order.run, run)
    parts = splits.load(run / "split.json")
    validation, test = _part(samples, parts, "validation"), _part(samples, parts, "test")
    with _beside(order, "sibling") as folder:
        _export(order, run, folder)
        pack = packs.load(folder)
        write_manifest(thresholds.choose(pack, [validation, *more]), folder)
        reports = _reports(packs.load(folder), {f"{HELD_OUT}, by the sibling": test}, samples)
        return thresholds.choose(pack, [[*validation, *test], *more]), reports


def _by_folds(
    order: Order, run: Path, samples: Sequence[Sample], more: list[list[Sample]]
) -> tuple[Manifest, dict[str, Any]]:
    """Thresholds by all that the folds kept back, and the figures of the folds, each at thresholds of the others."""
    found = folds.load(run, samples, more)
    _refuse_others(order.run, run / "fold_1")
    chosen = thresholds.chosen(found.folds[0].pack.manifest, found.all_seen)
    return chosen, {f"real frames, {len(found.folds)} folds": evaluate.plain(found.report())}


def _refuse_others(run: Path, witness: Path) -> None:
    own, theirs = facts_of(run), facts_of(witness)
    if (own.classes, own.scale, own.gate_scale) != (theirs.classes, theirs.scale, theirs.gate_scale):
        raise ConfigError(f"{witness}: its classes or scales are others than those of {run}. Name another run")


def _reports(pack: Pack, tests: Mapping[str, list[Sample]], whole: Sequence[Sample] = ()) -> dict[str, Any]:
    """Figures of each set that is not empty; `whole`: what the sets are parts of, where they are not whole."""
    some = {name: chosen for name, chosen in tests.items() if chosen}
    group_of = splits.group_of(whole) if some and whole else None
    return {name: evaluate.plain(evaluate.evaluate(pack, chosen, group_of)) for name, chosen in some.items()}


def _part(samples: Sequence[Sample], parts: dict[str, str], name: str) -> list[Sample]:
    return [sample for sample in samples if sample.labelled and parts.get(sample.name) == name]


def with_figures(manifest: Manifest, reports: dict[str, Any], costs: dict[str, float]) -> Manifest:
    """The manifest with what each network was measured at."""

    def figures(network: str, key: str, number: int | None = None) -> dict[str, Any]:
        measured = {name: report[key] for name, report in reports.items()}
        if number is not None:
            measured = {name: value[str(number)] for name, value in measured.items()}
        return {"ms_on_one_cpu_thread": costs[network], **measured}

    return msgspec.structs.replace(
        manifest,
        gate=msgspec.structs.replace(manifest.gate, figures=figures("gate", "gate")),
        types=msgspec.structs.replace(manifest.types, figures=figures("types", "types")),
        segmenters=[
            msgspec.structs.replace(
                part, figures=figures(f"segment_{part.class_number}", "segmenters", part.class_number)
            )
            for part in manifest.segmenters
        ],
    )
