"""int8 for the CPU: static QDQ, kept for a network only where it is faster on this machine and loses next to nothing.

Calibrated on frames of the training part, judged on those of the validation part with the rest of the cascade as it is.
A network changes to int8 when it takes at most FASTER of the time of its float32 original on one thread, and none of
its own figures falls by more than ALLOWED. The pack's manifest says, for every network, which file and precision runs
where, and under `figures.int8` why.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from build_engines import evaluate
from build_engines.datasets import Sample
from build_engines.figures import Table, figures
from build_engines.files import digest, manifest_text, write_whole
from build_engines.judging import Record, batch_of
from inspector import pack as packs
from inspector.errors import ConfigError
from inspector.pack import Manifest, Pack, Twin

ALLOWED = 0.005
"""Half a point."""

FASTER = 0.9
CALIBRATED_TILES = 48
REPEATS = 25


@dataclass(frozen=True)
class Trial:
    """One network in int8 beside its original."""

    network: str
    file: Path
    milliseconds: tuple[float, float]
    """float32, int8; on one thread."""
    figures: dict[str, tuple[float, float]]

    @property
    def faster(self) -> bool:
        return self.milliseconds[1] <= FASTER * self.milliseconds[0]

    @property
    def good(self) -> bool:
        return all(after >= before - ALLOWED for before, after in self.figures.values() if not math.isnan(before))

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

    def __init__(self, pack: Pack, samples: Sequence[Sample]) -> None:
        self._tiles = self._each(pack.manifest, samples)

    @staticmethod
    def _each(manifest: Manifest, samples: Sequence[Sample]) -> Iterator[NDArray[np.uint8]]:
        for number, sample in enumerate(samples):
            for tile in batch_of(sample, number, manifest).tiles:
                yield tile.pixels[None, None]

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        tile = next(self._tiles, None)
        return None if tile is None else {"frames": tile}


def to_int8(file: Path, target: Path, reader: CalibrationDataReader) -> None:
    """Write the static QDQ version of a network; convolutions and additions only, the rest stays float32."""
    prepared = target.with_suffix(".prepared.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        last = [node.name for node in onnx.load(str(prepared)).graph.node if node.op_type == "Conv"][-1:]
        quantize_static(
            str(prepared),
            str(target),
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "Clip"],
            nodes_to_exclude=last,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    prepared.unlink()


def quantize(
    folder: Path, calibration: Sequence[Sample], validation: Sequence[Sample], networks: Sequence[str] = ()
) -> list[Trial]:
    """Try int8 for the named networks of a pack, or for every one, in place; returns what was tried.

    Raises:
        ConfigError: a name is not of a network of the pack.
    """
    pack = _originals(packs.load(folder))
    for name in networks:
        if name not in pack.networks():
            raise ConfigError(f"--network {name}: unknown. Choose some of {','.join(pack.networks())}")
    chosen = _spread(calibration, CALIBRATED_TILES)
    before = _own_figures(pack, evaluate.judged(pack, validation))
    trials = []
    for network in networks or list(pack.networks()):
        file, _ = pack.networks()[network]
        target = folder / f"{network}.int8.onnx"
        to_int8(file, target, _Tiles(pack, chosen))
        tried = with_file(pack, network, target)
        after = _own_figures(tried, evaluate.judged(tried, validation))
        pairs = {key: (before[network][key], after[network][key]) for key in before[network]}
        trials.append(Trial(network, target, timed(pack, file, target), pairs))
    _adopt(pack, trials)
    return trials


def _originals(pack: Pack) -> Pack:
    """The pack with the float32 file of every network, so that a second trial compares with the same."""
    for network in pack.networks():
        pack = with_file(pack, network, pack.folder / f"{network}.onnx")
    return pack


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` of them, evenly."""
    step = max(1, len(samples) // count)
    return list(samples[::step])[:count]


def _own_figures(pack: Pack, records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Network -> the figures that are its own."""
    found = figures(Table.of(pack.manifest, records))
    own = {
        "gate": {key: found["gate"][key] for key in ("auroc", "recall")},
        "types": {"macro_f1": found["types"]["macro_f1"]},
    }
    for number, figure in found["segmenters"].items():
        own[f"segment_{number}"] = {key: figure[key] for key in ("dice_positive", "kaggle")}
    return own


def with_file(pack: Pack, network: str, file: Path) -> Pack:
    """The pack with another file for a network."""
    precision = "int8" if file.name.endswith(".int8.onnx") else "float32"
    return _changed(pack, network, lambda _: {"file": file.name, "sha256": digest(file), "precision": precision})


def _changed(pack: Pack, network: str, fields: Callable[[Any], dict[str, Any]]) -> Pack:
    """The pack with other fields in the manifest's entry of a network."""

    def changed(entry: Any) -> Any:
        return msgspec.structs.replace(entry, **fields(entry))

    manifest = pack.manifest
    if network in ("gate", "types"):
        manifest = msgspec.structs.replace(manifest, **{network: changed(getattr(manifest, network))})
    else:
        parts = [changed(part) if network == f"segment_{part.class_number}" else part for part in manifest.segmenters]
        manifest = msgspec.structs.replace(manifest, segmenters=parts)
    return msgspec.structs.replace(pack, manifest=manifest)


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


def _adopt(pack: Pack, trials: Sequence[Trial]) -> None:
    """Keep what passed: first the files, then the manifest that names them."""
    for trial in trials:
        if trial.verdict == "int8":
            pack = _with_twin(with_file(pack, trial.network, trial.file), trial.network)
        else:
            trial.file.unlink()
        pack = _changed(pack, trial.network, partial(_with_trial, trial))
    write_whole(pack.folder / packs.MANIFEST, manifest_text(pack.manifest).encode())


def _with_twin(pack: Pack, network: str) -> Pack:
    """int8 is for the CPU alone: where a network has no twin, its float32 original is what GPU plans are built from."""
    if network in pack.twins():
        return pack
    file = pack.folder / f"{network}.onnx"
    return _changed(pack, network, lambda _: {"gpu": Twin(file=file.name, sha256=digest(file), precision="float32")})


def _with_trial(trial: Trial, entry: Any) -> dict[str, Any]:
    return {"figures": entry.figures | {"int8": _told(trial)}}


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
