"""TensorRT 8.6, 10, 11 and TensorRT-RTX through one door: what they have in common, and nothing else.

The set of calls that all of them have: create_network, OnnxParser.parse, add_optimization_profile,
set_memory_pool_limit, build_serialized_network, deserialize_cuda_engine, num_io_tensors and get_tensor_*,
set_input_shape, set_tensor_address, execute_async_v3. CUDA graphs need two calls more, which 8.6 has not: device memory
that contexts share. There networks are called as usual.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from inspector.errors import ConfigError
from inspector.plans import ANY, Key, Precision

Flavour = Literal["TensorRT", "TensorRT-RTX"]
MODULES: dict[Flavour, Sequence[str]] = {
    "TensorRT": ("tensorrt", "tensorrt_bindings"),
    "TensorRT-RTX": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
INSTALL: dict[Flavour, str] = {"TensorRT": "pip install 'inspector[gpu]'", "TensorRT-RTX": "pip install tensorrt-rtx"}
NVIDIA = Path("/proc/driver/nvidia")


@dataclass(frozen=True, slots=True)
class Library:
    """One of NVIDIA's libraries, imported."""

    flavour: Flavour
    version: str
    trt: Any
    """The module."""

    def logger(self) -> Any:
        """The library's one logger: it keeps the first that it is given, so there is one for the process."""
        return _logger(self)


_loggers: dict[str, Any] = {}


def load(flavour: Flavour) -> Library:
    """Import the library.

    Raises:
        ConfigError: it is not installed, or it cannot run on this machine.
    """
    if flavour == "TensorRT" and not has_driver():  # TensorRT 8.6 crashes the process without one
        raise ConfigError("TensorRT needs an NVIDIA driver, and this machine has none: `inspector doctor` says more")
    troubles = []
    for name in MODULES[flavour]:
        try:
            module = importlib.import_module(name)
            return Library(flavour, str(module.__version__), module)
        except (ImportError, OSError) as error:
            troubles.append(str(error))
    raise ConfigError(f"{flavour} cannot be imported ({troubles[0]}). Try: {INSTALL[flavour]}")


def has_driver() -> bool:
    """Whether an NVIDIA driver is loaded."""
    return (NVIDIA / "version").is_file()


def count_as_nvidia_smi() -> None:
    """CUDA counts GPUs by their PCI addresses, as nvidia-smi and `gpus` do, and not the fastest first. Before CUDA is
    begun; whoever has said otherwise by the environment keeps that."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as plans know it."""

    name: str
    driver: str
    bus: str = ""
    """Its PCI address, such as 0000:01:00.0."""


def gpus(root: Path = NVIDIA) -> list[Gpu]:
    """The GPUs of this machine in the order of their PCI addresses, as the driver tells without being started."""
    try:
        told = re.search(r"\d+\.\d+(\.\d+)?", (root / "version").read_text())
        about = {path.parent.name: path.read_text() for path in sorted((root / "gpus").glob("*/information"))}
    except OSError:
        return []
    driver = told.group() if told else "unknown"
    models = {bus: re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE) for bus, text in about.items()}
    return [Gpu(model.group(1), driver, bus.lower()) for bus, model in models.items() if model]


@dataclass(frozen=True, slots=True)
class Target:
    """What plans are built for."""

    gpu: str
    driver: str
    precision: Precision
    profile: tuple[int, int, int]


AHEAD_OF_TIME = (ANY, ANY)
"""GPU and driver of plans that TensorRT-RTX builds without a GPU."""
OUTPUTS = {"gate": "score", "types": "scores"}
"""Network -> what its plan gives; the others are segmenters."""
SEGMENTER_OUTPUTS = "probability, extent"


def key_of(flavour: Flavour, version: str, target: Target, network: str, onnx: str) -> Key:
    """The key of a network's plan; `onnx` is the SHA-256 that the manifest names."""
    return Key(
        network=network,
        onnx=onnx.removeprefix("sha256:"),
        library=flavour,
        version=version,
        gpu=target.gpu,
        driver=target.driver,
        precision=target.precision,
        profile=target.profile,
        outputs=OUTPUTS.get(network, SEGMENTER_OUTPUTS),
    )


def _logger(library: Library) -> Any:
    named = f"{library.flavour} {library.version}"
    if named not in _loggers:
        base: Any = library.trt.ILogger

        class Kept(base):  # type: ignore[misc]
            """Keeps what the library says, for messages of ours, and prints nothing."""

            def __init__(self) -> None:
                super().__init__()
                self.said: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity <= base.Severity.WARNING:
                    self.said = [*self.said[-99:], message.strip()]

        _loggers[named] = Kept()
    return _loggers[named]
