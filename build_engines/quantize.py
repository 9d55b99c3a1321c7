"""int8 for the CPU: static QDQ, kept for a network only where it is faster on this machine and loses next to nothing.

Calibrated on frames of the training part, judged on those of the validation part with the rest of the cascade as it is.
A network changes to int8 when it takes at most FASTER of the time of its float32 original on one thread, and none of
its own figures becomes worse by more than ALLOWED, false alarms among them; of these not by more than their standard
error, where there are too few clean frames to tell half a point. The gate's threshold follows its scores: it is
the nearest to the original's at which int8 keeps as many of the defective validation frames and lets no more of the
clean ones through than it must, and there int8 is judged. The manifest says,
for every network, which file and precision runs where, how long that takes, and under `figures.int8` why; what it says
of test frames remains that of the float32 originals. The pack's reference is made again on the frames that it was made
on, if those are at hand.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from build_engines import evaluate, reference
from build_engines.datasets import Sample
from build_engines.figures import Table, figures
from build_engines.files import digest, naming, write_manifest
from build_engines.judging import Record, batch_of
from build_engines.progress import shown
from inspector import pack as packs
from inspector.errors import ConfigError
from inspector.pack import Manifest, Pack, Twin

LOG = logging.getLogger(__name__)

ALLOWED = 0.005
"""Half a point."""

FALSE_ALARMS = ("false_alarm_rate", "frame_false_alarm_rate")
"""Figures that become worse by growing."""

FASTER = 0.9
INT8 = ".int8.onnx"
CALIBRATED_TILES = 48
FIRST = 3
"""Convolutions at the beginning that stay float32: few channels of many pixels, where int8 is slower and loses most.
Measured on a gate: 3.2 ms instead of 3.6 ms, mean difference of the scores 0.006 instead of 0.011."""

REPEATS = 25


@dataclass(frozen=True)
class Trial:
    """One network in int8 beside its original."""

    network: str
    file: Path
    milliseconds: tuple[float, float]
    """float32, int8; on one thread."""
    figures: dict[str, tuple[float, float]]
    threshold: float | None = None
    """Of a gate in int8: at which it does what the original did at its own."""
    clean: int = 0
    """Clean frames that it was judged on."""

    @property
    def faster(self) -> bool:
        return self.milliseconds[1] <= FASTER * self.milliseconds[0]

    @property
    def good(self) -> bool:
        known = {key: pair for key, pair in self.figures.items() if not math.isnan(pair[0])}
        return all(
            after - before <= max(ALLOWED, self._error(before)) if key in FALSE_ALARMS else before - after <= ALLOWED
            for key, (before, after) in known.items()
        )

    def _error(self, rate: float) -> float:
        """Standard error of a false alarm rate."""
        return math.sqrt(rate * (1 - rate) / self.clean) if self.clean else 0.0

    @property
    def judged(self) -> bool:
        """Whether the validation part has frames that the network's first figure needs."""
        return not math.isnan(next(iter(self.figures.values()))[0])

    @property
    def verdict(self) -> str:
        if not self.judged:
            return "float32: no validation frame to judge int8 on"
        if not self.faster:
            return "float32: int8 is not faster here"
        return "int8" if self.good else "float32: int8 loses more than half a point"


class _Tiles(CalibrationDataReader):  # type: ignore[misc]
    """Tiles of frames, one at a time."""

    def __init__(self, pack: Pack, samples: Sequence[Sample], doing: str) -> None:
        self._tiles = self._each(pack.manifest, samples, doing)

    @staticmethod
    def _each(manifest: Manifest, samples: Sequence[Sample], doing: str) -> Iterator[NDArray[np.uint8]]:
        for number, sample in enumerate(shown(samples, doing, len(samples))):
            for tile in batch_of(sample, number, manifest).tiles:
                yield tile.pixels[None, None]

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        tile = next(self._tiles, None)
        return None if tile is None else {"frames": tile}


def to_int8(file: Path, target: Path, reader: CalibrationDataReader) -> None:
    """Write the static QDQ version of a network; convolutions and additions only, but for the first and the last ones;
    the rest stays float32."""
    prepared = target.with_suffix(".prepared.onnx")
    with warnings.catch_warnings(), naming(target):
        warnings.simplefilter("ignore")
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        convolutions = [node.name for node in onnx.load(str(prepared)).graph.node if node.op_type == "Conv"]
        quantize_static(
            str(prepared),
            str(target),
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "Clip"],
            nodes_to_exclude=[*convolutions[:FIRST], *convolutions[-1:]],
            per_channel=True,
            reduce_range=True,  # 7 bits: with 8, sums of two overflow in silence on a CPU without VNNI
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    prepared.unlink()


def quantize(
    folder: Path,
    calibration: Sequence[Sample],
    validation: Sequence[Sample],
    networks: Sequence[str] = (),
    usual: Mapping[str, Sequence[Sample]] = MappingProxyType({}),
) -> list[Trial]:
    """Try int8 for the named networks of a pack, or for every one, in place; returns what was tried.

    Args:
        usual: by what a pack's reference calls them (`made_on`), the frames to make it again on.

    Raises:
        ConfigError: a name is not of a network of the pack, the float32 original of one is not in its folder, or there
            is nothing to calibrate on.
    """
    found = packs.load(folder)
    for name in networks:
        if name not in found.networks():
            raise ConfigError(f"--network {name}: unknown. Choose some of {','.join(found.networks())}")
    networks = networks or list(found.networks())
    pack = _originals(found, networks)
    chosen = _spread(calibration, CALIBRATED_TILES)
    if not chosen:
        raise ConfigError("no labelled frame of the training part to calibrate on. Name another --data or --split")
    originals = _judged(pack, validation, "judging the originals")
    before = _own_figures(pack, originals)
    trials = []
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=folder) as aside:
        for network in networks:
            file, _ = pack.networks()[network]
            target = folder / Path(aside).name / f"{network}{INT8}"
            to_int8(file, target, _Tiles(pack, chosen, f"calibrating {network}"))
            tried = with_file(pack, network, target)
            records = _judged(tried, validation, f"judging {network} in int8")
            threshold = _following(originals, records, pack.manifest.gate.threshold) if network == "gate" else None
            if threshold is not None:
                records = [msgspec.structs.replace(record, passed=record.gate_score >= threshold) for record in records]
            after = _own_figures(tried, records)
            pairs = {key: (before[network][key], after[network][key]) for key in before[network]}
            clean = sum(not any(record.truth_px) for record in records)
            trials.append(Trial(network, target, timed(pack, file, target), pairs, threshold, clean))
        _adopt(found, pack, trials, usual)
    return trials


def _following(originals: Sequence[Record], tried: Sequence[Record], threshold: float) -> float | None:
    """Where the tried gate does what the original did at `threshold`; None without a defective frame.

    No higher than it must be: frames that the original was sure of leave it room above, which is a margin for frames
    that nobody has seen yet (and those of a pack that learnt all frames are surer than these will be).
    """
    pairs = list(zip(originals, tried, strict=True))

    def those(defective: bool) -> tuple[int, list[float]]:
        """How many of such frames the original let through, and what the tried gate says of them, the surest first."""
        such = [(old.gate_score, new.gate_score) for old, new in pairs if any(old.truth_px) is defective]
        return sum(old >= threshold for old, _ in such), sorted((new for _, new in such), reverse=True)

    (kept, found), (false, clean) = those(True), those(False)
    if not found:
        return None
    highest = _down(found[max(kept, 1) - 1])
    false = max(false, sum(score >= highest for score in clean))  # more would cost recall
    least = _down(clean[false]) + 0.001 if false < len(clean) else 0.0
    return round(min(highest, max(threshold, least)), 3)


def _down(score: float) -> float:
    return math.floor(score * 1000) / 1000


def _judged(pack: Pack, samples: Sequence[Sample], doing: str) -> list[Record]:
    """Records whose groups mean nothing: no interval is asked for."""
    return evaluate.judged(pack, samples, {sample.name: 0 for sample in samples}, doing)


def _originals(pack: Pack, networks: Sequence[str]) -> Pack:
    """The pack with the float32 file of these networks, and the gate's threshold for that, so that a second trial
    compares with the same."""
    gate = pack.manifest.gate
    if "gate" in networks:
        if gate.precision == "int8" and gate.gpu_threshold is None:
            LOG.warning(
                "%s: gate.threshold is of int8, and the original's is not told: %s is taken for it. If that was "
                "another, write it there and quantize again",
                pack.folder / packs.MANIFEST,
                gate.threshold,
            )
        pack = pack.computed_in({"gate": "float32"}).changed("gate", gpu_threshold=None)
    for network in networks:
        pack = with_file(pack, network, _original(pack, network))
    return pack


def _original(pack: Pack, network: str) -> Path:
    file = pack.folder / f"{network}.onnx"
    if not file.is_file():
        raise ConfigError(f"{file}: no such file: int8 is made of it, and judged beside it. Export the pack again")
    return file


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` of them, evenly."""
    step = max(1, len(samples) // count)
    return list(samples[::step])[:count]


def _own_figures(pack: Pack, records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Network -> the figures that are its own."""
    found = figures(Table.of(pack.manifest, records))
    alarms = {"frame_false_alarm_rate": found["system"]["frame_false_alarm_rate"]}
    own = {
        "gate": {key: found["gate"][key] for key in ("auroc", "recall", "false_alarm_rate")},
        "types": {"macro_f1": found["types"]["macro_f1"]} | alarms,
    }
    for number, figure in found["segmenters"].items():
        own[f"segment_{number}"] = {key: figure[key] for key in ("dice_positive", "kaggle")} | alarms
    return own


def with_file(pack: Pack, network: str, file: Path) -> Pack:
    """The pack with another file for a network."""
    name, precision = str(file.relative_to(pack.folder)), "int8" if file.name.endswith(INT8) else "float32"
    return pack.changed(network, file=name, sha256=digest(file), precision=precision)


def timed(pack: Pack, *files: Path) -> tuple[float, float]:
    """Least milliseconds of two networks on one thread, taken in turns so that a busy machine is unfair to neither."""
    tile = pack.manifest.tile
    noise = np.random.default_rng(0).integers(0, 200, (1, 1, tile.height, tile.width), dtype=np.uint8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    sessions = [onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"]) for file in files]
    best = [float("inf")] * len(files)
    for _ in range(REPEATS):
        for index, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(None, {"frames": noise})
            best[index] = min(best[index], (time.perf_counter() - start) * 1e3)
    return round(best[0], 2), round(best[1], 2)


def _adopt(found: Pack, pack: Pack, trials: Sequence[Trial], usual: Mapping[str, Sequence[Sample]]) -> None:
    """Keep what passed: first the files, then the manifest that names them, and then nothing that it does not name."""
    passed = [trial for trial in trials if trial.verdict == "int8"]
    for trial in passed:
        pack = with_file(pack, trial.network, trial.file)
        if trial.threshold is not None:
            pack = _with_threshold(pack, trial.threshold)
    for trial in trials:
        pack = pack.changed(trial.network, figures=_with_trial(trial, pack.entry(trial.network).figures))
    pack = _with_reference(pack, found, usual)
    for trial in passed:
        kept = pack.folder / trial.file.name
        os.replace(trial.file, kept)
        pack = _with_twin(with_file(pack, trial.network, kept), trial.network)
    write_manifest(pack.manifest, pack.folder)
    for trial in trials:
        if trial not in passed:
            (pack.folder / trial.file.name).unlink(missing_ok=True)


def _with_reference(pack: Pack, found: Pack, usual: Mapping[str, Sequence[Sample]]) -> Pack:
    """The pack with its reference made again, if it judges otherwise now and the frames are at hand."""
    old = pack.manifest.reference
    if old is None or _judges(pack) == _judges(found):
        return pack
    if frames := usual.get(old.made_on):
        made = reference.of(pack, frames, old.made_on)
        return msgspec.structs.replace(pack, manifest=reference.added(pack.manifest, made))
    LOG.warning(
        "%s: its reference (%s) is of the pack before: make it again with `reference`", pack.folder, old.made_on
    )
    return pack


def _with_threshold(pack: Pack, threshold: float) -> Pack:
    """The pack with a threshold for a gate in int8; that of the original remains a GPU's."""
    return pack.changed("gate", threshold=threshold, gpu_threshold=pack.manifest.gate.threshold)


def _judges(pack: Pack) -> tuple[dict[str, str], float]:
    """What of a pack changes here: its networks and the gate's threshold."""
    return {network: digest for network, (_, digest) in pack.networks().items()}, pack.manifest.gate.threshold


def _with_twin(pack: Pack, network: str) -> Pack:
    """int8 is for the CPU alone: where a network has no twin, its float32 original is what GPU plans are built from."""
    if network in pack.twins():
        return pack
    file = _original(pack, network)
    return pack.changed(network, gpu=Twin(file=file.name, sha256=digest(file), precision="float32"))


def _with_trial(trial: Trial, figures: Mapping[str, Any]) -> dict[str, Any]:
    runs = trial.milliseconds[trial.verdict == "int8"]
    return {**figures, "ms_on_one_cpu_thread": runs, "int8": _told(trial)}


def _told(trial: Trial) -> dict[str, Any]:
    return {
        "verdict": trial.verdict,
        "milliseconds": {"float32": trial.milliseconds[0], "int8": trial.milliseconds[1]},
        "figures": {
            key: {"float32": round(before, 4), "int8": round(after, 4)}
            for key, (before, after) in trial.figures.items()
            if not math.isnan(before)
        },
    }
