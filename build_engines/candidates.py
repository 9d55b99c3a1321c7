"""What `compare` holds against ONNX Runtime: plans on a GPU, the graphs that plans are built from, or another pack."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from build_engines.build import batches, derived
from build_engines.files import digest
from inspector import pack as packs
from inspector.errors import ConfigError
from inspector.pack import Pack
from inspector.runtimes import Runtime, onnx, tensorrt

Opener = Callable[[Pack], Runtime]


@contextmanager
def candidate_of(arguments: argparse.Namespace, pack: Pack) -> Iterator[Opener]:
    """What the command line asks for."""
    if arguments.twins:
        with tempfile.TemporaryDirectory() as folder:
            yield on_cpu(twins(pack, arguments.precision, Path(folder)))
    elif arguments.candidate is not None:
        yield on_cpu(_alike(packs.load(arguments.candidate), pack))
    else:
        options = tensorrt.Options(
            library=arguments.library,
            cache=arguments.cache,
            precision=arguments.precision,
            batch=batches(arguments.batch),
            slots=1,
        )
        tensorrt.check(options)
        yield partial(tensorrt.open, options)


def on_cpu(other: Pack) -> Opener:
    """The networks of `other` with the manifest's thresholds of whatever pack it is opened for."""

    def opener(pack: Pack) -> Runtime:
        return onnx.open(onnx.Options(workers=1), with_networks(pack, other))

    return opener


def with_networks(pack: Pack, other: Pack) -> Pack:
    """`pack` with the files of `other`, and their precisions."""
    made = msgspec.structs.replace(pack, folder=other.folder)
    for network in pack.networks():
        theirs = other.entry(network)
        made = made.changed(network, file=theirs.file, precision=theirs.precision)
    return made


def twins(pack: Pack, precision: packs.GpuPrecision, folder: Path) -> Pack:
    """A pack in `folder` whose networks are the very graphs that plans are built from."""
    made = msgspec.structs.replace(pack, folder=folder)
    for network, (file, _) in pack.for_gpu(precision).items():
        with derived(network, file, pack, precision) as graph:
            own = Path(shutil.copyfile(graph, folder / f"{network}.onnx"))
        made = made.changed(network, file=own.name, sha256=digest(own), gpu=None, precision=packs.ON_GPU[precision])
    return made


def _alike(other: Pack, pack: Pack) -> Pack:
    if other.manifest.classes != pack.manifest.classes or other.manifest.tile != pack.manifest.tile:
        raise ConfigError(f"{other.folder}: has other classes or another tile than {pack.folder}: nothing to compare")
    return other
