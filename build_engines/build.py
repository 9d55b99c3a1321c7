"""`build`: the networks of a pack as GPU plans in the cache.

FP16 lies in the graph, because TensorRT 11 and TensorRT-RTX know strongly typed networks only: each network is built
from its float16 twin, the pack's own where it has one, else one that is made here. On TensorRT 8, which has no
strongly typed networks, the builder is told that it may use FP16. Segmenters get an output more: see extents.py.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engines.files import digest, write_whole
from inspector.errors import ConfigError, PackError
from inspector.pack import Pack
from inspector.plans import Cache, Key, Precision
from inspector.runtimes._tensorrt import (
    AHEAD_OF_TIME,
    OUTPUTS,
    Library,
    Target,
    count_as_nvidia_smi,
    gpus,
    key_of,
    load,
)

WORKSPACE_BYTES = 1 << 30
Step = Callable[[str], None]
"""Told which network is built now."""


def choose(wanted: str | None, ahead_of_time: bool, device: int = 0) -> tuple[Library, tuple[str, str]]:
    """The library that builds, and (GPU, driver) that it builds for: the GPU of this number, as nvidia-smi counts.

    Another than the first becomes the only one that this process sees.

    Raises:
        ConfigError: there is no such GPU to build for, or no library to build with.
    """
    if ahead_of_time:
        if wanted == "tensorrt":
            raise ConfigError("--ahead-of-time: TensorRT builds on the GPU that runs the plan; take --library rtx")
        return load("TensorRT-RTX"), AHEAD_OF_TIME
    here = gpus()
    if not here:
        raise ConfigError(
            "there is no NVIDIA driver and GPU here to build for: build on the machine of the line, or, for "
            "TensorRT-RTX, with --ahead-of-time"
        )
    if not 0 <= device < len(here):
        raise ConfigError(f"--device {device}: there are only {len(here)} GPUs here; name 0 and up, as nvidia-smi does")
    count_as_nvidia_smi()
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    place = here[device].name, here[device].driver
    if wanted is not None:
        return load("TensorRT" if wanted == "tensorrt" else "TensorRT-RTX"), place
    try:
        return load("TensorRT"), place
    except ConfigError:
        return load("TensorRT-RTX"), place


def batches(sizes: Sequence[int]) -> tuple[int, int, int]:
    """(fewest, typical, most) tiles in a batch. Raises ConfigError: they do not grow."""
    fewest, typical, most = sizes
    if not 1 <= fewest <= typical <= most <= 1024:
        raise ConfigError(f"--batch {fewest} {typical} {most}: must grow, from 1 to 1024 at most")
    return fewest, typical, most


@dataclass(frozen=True, slots=True)
class Built:
    """A plan of the cache; `seconds` is None when it was there already."""

    network: str
    file_bytes: int
    seconds: float | None


def build(pack: Pack, library: Library, target: Target, cache: Cache, step: Step) -> Iterator[Built]:
    """Build what the cache lacks, network by network.

    Raises:
        PackError: a network is refused, with the parser's own words.
        ConfigError: the cache cannot be written.
    """
    networks = pack.for_gpu(target.precision)
    try:
        cache.prepare(networks)  # before minutes go by
    except OSError as error:
        raise _unwritable(cache, error) from None
    for network, (file, onnx) in networks.items():
        key = key_of(library.flavour, library.version, target, network, onnx)
        known = _known(cache, key)
        if known is not None:
            yield Built(network, len(known), None)
            continue
        step(network)
        started = time.monotonic()
        try:
            with derived(network, file, pack, target.precision) as graph:
                plan, digested = plan_of(library, graph, target, cache.timing(key)), digest(graph)
            seconds = time.monotonic() - started
            cache.put(key, plan, built_ns=time.time_ns(), seconds=seconds, derived=digested)
        except OSError as error:
            raise _unwritable(cache, error) from None
        yield Built(network, len(plan), seconds)


def _known(cache: Cache, key: Key) -> bytes | None:
    """The plan, if it is there whole: one that is torn is built again."""
    try:
        return cache.find(key)
    except PackError:
        return None


def _unwritable(cache: Cache, error: OSError) -> ConfigError:
    where = error.filename or cache.folder
    return ConfigError(
        f"{where}: cannot be written: {error.strerror}. Make room, or build as the user to whom {cache.folder} "
        "belongs, or name another --cache"
    )


@contextmanager
def derived(network: str, file: Path, pack: Pack, precision: Precision) -> Iterator[Path]:
    """The graph that a network's plan is built from: `file`, in this precision, with the outputs of a plan."""
    with tempfile.TemporaryDirectory() as folder:
        graph = _in_precision(file, pack, precision, Path(folder))
        if network not in OUTPUTS:
            from build_engines.extents import with_extent

            graph = with_extent(graph, Path(folder) / f"extent.{file.name}")
        yield graph


def _in_precision(file: Path, pack: Pack, precision: Precision, folder: Path) -> Path:
    """The file itself, or the twin that it lacks, made in `folder`."""
    if precision == "fp32" or file in {twin for twin, _ in pack.twins("float16").values()}:
        return file
    from build_engines.export import half_twin

    copy = folder / file.name
    shutil.copyfile(file, copy)
    return half_twin(copy, pack.manifest.tile)


def plan_of(library: Library, file: Path, target: Target, timing: Path | None = None) -> bytes:
    """Parse an ONNX file and build its plan.

    Raises:
        PackError: the parser or the builder refuses it.
    """
    trt = library.trt
    builder = trt.Builder(library.logger())
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(strongly) if strongly is not None else _explicit_batch(trt))
    parser = trt.OnnxParser(network, library.logger())
    if not parser.parse(file.read_bytes()):
        raise PackError(f"{file.name}: {library.flavour} {library.version} refuses it: {_errors(parser)}. {_MEND}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    if strongly is None and target.precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    shared = getattr(trt.PreviewFeature, "PROFILE_SHARING_0806", None)
    if strongly is None and shared is not None:  # or only one context at a time could run it; later ones always can
        config.set_preview_feature(shared, True)
    config.add_optimization_profile(_profile(builder, network, target.profile))
    cached = _use_timing(library, config, timing)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        said = "; ".join(library.logger().said[-3:]) or "it gives no reason"
        raise PackError(f"{file.name}: {library.flavour} {library.version} cannot build it: {said}. {_MEND}")
    if cached is not None and timing is not None:
        write_whole(timing, bytes(cached.serialize()))
    return bytes(plan)


_MEND = "Export the network again: python -m build_engines export"


def _explicit_batch(trt: Any) -> int:
    return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)


def _errors(parser: Any) -> str:
    found = [str(parser.get_error(i)) for i in range(parser.num_errors)]
    return " | ".join(" ".join(text.split()) for text in found[:3]) or "without a reason"


def _profile(builder: Any, network: Any, batches: tuple[int, int, int]) -> Any:
    """One profile over every input, whose first axis is the batch."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        profile.set_shape(tensor.name, *[(size, *tuple(tensor.shape)[1:]) for size in batches])
    return profile


def _use_timing(library: Library, config: Any, file: Path | None) -> Any:
    """The builder's cache of measurements, from `file` where it is there; TensorRT-RTX measures nothing."""
    if file is None or library.flavour != "TensorRT":
        return None
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    return cache if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False) else None
