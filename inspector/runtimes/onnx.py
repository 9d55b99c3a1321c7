"""ONNX Runtime on the CPU: the default.

Every network runs one tile at a time on one thread, and several workers run side by side. On a CPU that is faster
than batches or than one network on several threads (measured on two cores: 6 to 20 %), it keeps the working set in
the cache, and a tile gives the same bits whatever batch it came in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from inspector.errors import EngineError, PackError
from inspector.pack import Pack
from inspector.records import Pixels
from inspector.runtimes import Patch


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the runtime."""

    workers: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Cascade workers side by side, one thread each; 0: one for each CPU core this process may use."""


def open(options: Options, pack: Pack) -> OnnxRuntime:
    """The networks of `pack` on this machine's CPU; loaded on enter."""
    return OnnxRuntime(options, pack)


class OnnxRuntime:
    """Sessions of all networks of a pack, shared by the workers (a session may be called from many threads)."""

    name = f"onnxruntime {onnxruntime.__version__} CPU"

    def __init__(self, options: Options, pack: Pack) -> None:
        self.workers = options.workers or len(os.sched_getaffinity(0))
        self.precisions: Mapping[str, str] = pack.precisions()
        self._pack = pack
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def __enter__(self) -> Self:
        for name, (file, _) in self._pack.networks().items():
            self._sessions[name] = _load(name, file)
            _check_shape(self._sessions[name], name, file, self._pack)
        self._warm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sessions.clear()

    def allocate(self, size: int) -> NDArray[np.uint8]:
        return np.empty(size, dtype=np.uint8)

    def stream(self) -> OnnxStream:
        return OnnxStream(self._sessions, len(self._pack.manifest.classes))

    def _warm(self) -> None:
        tile = self._pack.manifest.tile
        stream = self.stream()
        stream.load([np.zeros((tile.height, tile.width), dtype=np.uint8)])
        stream.gate()
        stream.types([0])
        for entry in self._pack.manifest.classes:
            stream.segment(entry.number, [0])


class OnnxStream:
    """One worker's way through the sessions."""

    def __init__(self, sessions: dict[str, onnxruntime.InferenceSession], classes: int) -> None:
        self._sessions = sessions
        self._classes = classes
        self._tiles: Sequence[Pixels] = ()

    def load(self, tiles: Sequence[Pixels]) -> None:
        self._tiles = tiles

    def gate(self) -> NDArray[np.float32]:
        scores = [self._run("gate", index)[0] for index in range(len(self._tiles))]
        return np.array(scores, dtype=np.float32)

    def types(self, indices: Sequence[int]) -> NDArray[np.float32]:
        rows = [self._run("types", index)[0] for index in indices]
        return np.array(rows, dtype=np.float32).reshape(len(indices), self._classes)

    def expect(self, wanted: Mapping[int, Sequence[int]]) -> None:
        """Nothing is gained by beginning early on the thread that will ask."""

    def segment(self, class_number: int, indices: Sequence[int]) -> Sequence[Patch]:
        return [Patch(0, 0, self._run(f"segment_{class_number}", index)[0]) for index in indices]

    def _run(self, network: str, index: int) -> Any:
        try:
            return self._sessions[network].run(None, {"frames": self._tiles[index][None, None]})[0]
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise EngineError(f"network {network} failed in {OnnxRuntime.name}: {error}") from error


def _load(name: str, file: Path) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    # A daemon has idle gaps; a spinning pool would burn them (measured: 58 % -> 14 % CPU at 10 Hz).
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise PackError(f"{file}: onnxruntime cannot load network {name}: {error}. Export the pack again") from error


def _check_shape(session: onnxruntime.InferenceSession, name: str, file: Path, pack: Pack) -> None:
    tile = pack.manifest.tile
    inputs, outputs = session.get_inputs(), session.get_outputs()
    size = [1, tile.height, tile.width]
    if len(inputs) != 1 or inputs[0].name != "frames" or inputs[0].type != "tensor(uint8)":
        raise PackError(f"{file}: network {name} must have one input, `frames` of uint8. Export the pack again")
    if list(inputs[0].shape[1:]) != size:
        raise PackError(f"{file}: network {name} takes {inputs[0].shape[1:]}, the manifest's tile is {size}")
    output, element, shape = {
        "gate": ("score", "float", []),
        "types": ("scores", "float", [len(pack.manifest.classes)]),
    }.get(name, ("probability", "uint8", size[1:]))
    if outputs[0].name != output or outputs[0].type != f"tensor({element})":
        found = f"`{outputs[0].name}` of {outputs[0].type}"
        raise PackError(f"{file}: network {name} gives {found}, not `{output}` of {element}. Export the pack again")
    if list(outputs[0].shape[1:]) != shape:
        raise PackError(f"{file}: network {name} gives {outputs[0].shape[1:]} for each tile, expected {shape}")
