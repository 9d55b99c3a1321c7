"""TensorRT (8.6, 10, 11) or TensorRT-RTX on NVIDIA GPUs, from plans that `python -m build_engines build` made.

A plan that is missing or was built for something else is never built here: it takes minutes, and a line must start.
See docs/gpu.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from inspector import pack as packs
from inspector.errors import ConfigError, EngineError, PackError
from inspector.logbook import LogKind, as_kind
from inspector.pack import Pack
from inspector.plans import BUILD, Cache, Key, default_folder, units_folder
from inspector.runtimes import Runtime, _cuda, _graphs, _tensorrt, onnx
from inspector.runtimes._device import Device
from inspector.runtimes._engine import Engine
from inspector.runtimes._frames import FRAMES, FrameMemory
from inspector.runtimes._graphs import Recorder
from inspector.runtimes._slot import Slot
from inspector.runtimes._tensorrt import AHEAD_OF_TIME, Flavour, Library, Target, key_of

log = logging.getLogger(__name__)

Place = tuple[Library, str, str, int]
"""Library, GPU, driver, and the GPU's number."""
Count = Annotated[int, msgspec.Meta(ge=1, le=1024)]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the runtime."""

    library: Literal["tensorrt", "rtx"] = "tensorrt"
    """TensorRT, or TensorRT-RTX."""
    devices: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=63)], ...], msgspec.Meta(min_length=1)] = (0,)
    """GPUs by number, as nvidia-smi counts them. Batches go to whichever is free, and order is restored behind them."""
    slots: Annotated[int, msgspec.Meta(ge=1, le=8)] = 2
    """Cascade workers on each GPU, each with memory of its own: with two, one copies its frames while the networks of
    the other run."""
    cache: Path | None = None
    """Folder of the plans; null: the unit's cache, or the user's."""
    precision: Literal["fp16", "fp32"] = "fp16"
    """That the plans were built in."""
    batch: tuple[Count, Count, Count] = (1, 8, 16)
    """Tiles in a batch that the plans were built for: 1, typical, most. Larger batches are cut."""
    cuda_graphs: bool = True
    """Begin a network with one call instead of one for each layer; needs cuda-bindings, and does without where it is
    missing."""
    cpu_until_built: bool = False
    """Where plans are missing: begin on the CPU and change over, without losing a frame, when the cache has them all.
    Else that is a configuration error."""

    @property
    def flavour(self) -> Flavour:
        return "TensorRT" if self.library == "tensorrt" else "TensorRT-RTX"


def check(options: Options) -> None:
    """Whether these options could work here.

    Raises:
        ConfigError: the batches do not grow from 1, a package or the driver is missing.
    """
    fewest, typical, most = options.batch
    if not 1 == fewest <= typical <= most:
        raise ConfigError(
            f"batch: {list(options.batch)} must grow and begin with 1, as any number of tiles may pass the gate"
        )
    if len(set(options.devices)) != len(options.devices):
        raise ConfigError(f"devices: {options.devices} names a GPU twice; for more workers on it raise `slots`")
    _cuda.require()
    _tensorrt.load(options.flavour)


def open(options: Options, pack: Pack) -> TensorRtRuntime:
    """The networks of `pack` on these GPUs; loaded and warm on enter."""
    return TensorRtRuntime(options, pack, cuda_platform(options))


def stand_in(options: Options, pack: Pack) -> Runtime | None:
    """What serves until the plans of `pack` are built, if these options allow it and one is missing; else None.

    Raises:
        ConfigError: no library, no driver or no such GPU.
    """
    if not options.cpu_until_built:
        return None
    runtime = open(options, pack)
    return onnx.open(onnx.Options(workers=runtime.workers), pack) if runtime.missing() else None


@dataclass(frozen=True)
class Platform:
    """What the runtime stands on: a library, GPUs, and how to record what they do."""

    library: Callable[[], Library]
    devices: Callable[[list[int]], Sequence[Device]]
    recorder: Callable[[], Recorder | None]
    frames: FrameMemory
    cache: Cache


def cuda_platform(options: Options) -> Platform:
    """This machine's; nothing is imported or opened before it is asked for."""
    return Platform(
        library=lambda: _tensorrt.load(options.flavour),
        devices=_cuda.devices,
        recorder=_graphs.recorder,
        frames=FRAMES,
        cache=Cache(options.cache or default_folder()),
    )


class TensorRtRuntime:
    """Plans of all networks on each GPU, and slots for the workers."""

    name = "TensorRT"

    def __init__(self, options: Options, pack: Pack, platform: Platform) -> None:
        self.workers = options.slots * len(options.devices)
        precision = packs.ON_GPU[options.precision]
        self.precisions: Mapping[str, str] = dict.fromkeys(pack.networks(), precision)
        self._options = options
        self._pack = pack
        self._platform = platform
        self._lock = threading.Lock()
        self._held = ExitStack()
        self._places: list[Place] | None = None
        """Of each device that is not like one before, once they were asked."""
        self._whole: set[tuple[Place, str]] = set()
        """Whose plan `missing` has read."""
        self._engines: list[tuple[Device, dict[str, Engine]]] = []
        self._free: list[Slot] = []
        self._slots: list[Slot] = []

    def __enter__(self) -> Self:
        with ExitStack() as held:
            library = self._platform.library()
            devices = self._platform.devices(list(self._options.devices))
            held.callback(self._close_devices, devices)
            names = ", ".join(dict.fromkeys(device.name for device in devices))
            self.name = f"{library.flavour} {library.version} on {names}"
            plans = [(device, self._plans((library, device.name, device.driver, device.index))) for device in devices]
            self._platform.frames.hold(lambda: self._platform.devices([self._options.devices[0]])[0])
            held.callback(self._quietly, self._platform.frames.leave)
            held.callback(self._close_slots)
            self._recorder = self._platform.recorder() if self._options.cuda_graphs else None
            for device, found in plans:
                self._load(library, device, found)
            self._free = [self._made(index) for index in range(self.workers)]
            for slot in self._free:
                self._warm(slot)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def allocate(self, size: int) -> NDArray[np.uint8]:
        return self._platform.frames.allocate(size)

    def stream(self) -> Slot:
        """A slot that nobody has; the first `workers` of them are warm."""
        with self._lock:
            if not self._engines:
                raise EngineError(f"{self.name} is not open")
            return self._free.pop(0) if self._free else self._made(len(self._slots))

    def used_bytes(self) -> int:
        """Device memory in use on its GPUs, by whomever."""
        total = 0
        for device, _ in self._engines:
            with device.active():
                total += device.used_bytes()
        return total

    # ------------------------------------------------------------ plans

    def missing(self) -> str:
        """Which plan is not in the cache, why, and what builds it; empty if all are there. No GPU is kept open.

        Raises:
            ConfigError: no library, no driver or no such GPU.
        """
        if self._places is None:
            library, devices = self._platform.library(), self._platform.devices(list(self._options.devices))
            models: dict[tuple[str, str], int] = {}
            for device in devices:
                models.setdefault((device.name, device.driver), device.index)
            self._places = [(library, *model, index) for model, index in models.items()]
            self._close_devices(devices)
        try:
            for place in self._places:
                for network in self._pack.networks():
                    if (place, network) not in self._whole:  # a line that serves is not to read all of them each second
                        self._plan(place, network)
                        self._whole.add((place, network))
        except PackError as error:
            return str(error)
        return ""

    def _plans(self, place: Place) -> dict[str, bytes]:
        """The plan of every network for this GPU. Raises PackError where one is missing."""
        return {network: self._plan(place, network) for network in self._pack.networks()}

    def _plan(self, place: Place, network: str) -> bytes:
        library, gpu, driver, index = place
        cache, keys = self._platform.cache, keys_of(self._options, self._pack, library, gpu, driver)[network]
        plan = next((plan for plan in map(cache.find, keys) if plan is not None), None)
        if plan is None:
            file, _ = self._pack.for_gpu(self._options.precision)[network]
            raise PackError(
                f"{file}: {cache.folder} has no plan for it here: {cache.why_not(keys[0])}. "
                f"{build_command(self._options, self._pack, index)}"
            )
        return plan

    def _load(self, library: Library, device: Device, plans: dict[str, bytes]) -> None:
        files, engines = self._pack.for_gpu(self._options.precision), dict[str, Engine]()
        self._engines.append((device, engines))  # first, so that those loaded before one that fails are given back
        with device.active():
            loader = library.trt.Runtime(library.logger())
            for network, plan in plans.items():
                engines[network] = Engine(library, loader, plan, network, files[network][0], self._pack)

    # ------------------------------------------------------------ slots

    def _made(self, index: int) -> Slot:
        device, engines = self._engines[index % len(self._engines)]
        with device.active():
            slot = Slot(self._pack.manifest, engines, device, self._platform.frames, self._recorder, self.name)
        self._slots.append(slot)
        return slot

    def _warm(self, slot: Slot) -> None:
        """Every network, with as many tiles as it is tuned for and with one; where calls are recorded with any number,
        as the first frames would have to wait for that."""
        _, typical, most = self._options.batch
        tile = self._pack.manifest.tile
        black = np.zeros((tile.height, tile.width), dtype=np.uint8)
        for count in range(most, 0, -1) if self._recorder else (typical, 1):
            slot.load([black] * count)
            slot.gate()
            slot.types(range(count))
            for entry in self._pack.manifest.classes:
                slot.segment(entry.number, range(count))

    def _close_slots(self) -> None:
        slots, self._slots, self._free = self._slots, [], []
        for slot in slots:
            self._quietly(slot.close)
        engines, self._engines = self._engines, []
        for device, networks in engines:
            self._quietly(partial(_give_back, device, networks))

    def _close_devices(self, devices: Sequence[Device]) -> None:
        for device in devices:
            self._quietly(device.close)

    def _quietly(self, step: Callable[[], None]) -> None:
        """One step of closing: a GPU that has failed must not keep the rest from it, nor those who take over."""
        try:
            step()
        except EngineError as error:
            log.warning(
                "%s does not take everything back: %s. If `nvidia-smi` goes on to show its memory as used, restart",
                self.name,
                error,
                extra=as_kind(LogKind.ENGINES_FAILED, reason=error),
            )


def _give_back(device: Device, networks: Mapping[str, Engine]) -> None:
    with device.active():
        for engine in networks.values():
            engine.free()


def keys_of(options: Options, pack: Pack, library: Library, gpu: str, driver: str) -> dict[str, list[Key]]:
    """Network -> the keys of plans that serve on this GPU, the best first."""
    places = [(gpu, driver), *([AHEAD_OF_TIME] if library.flavour == "TensorRT-RTX" else [])]
    targets = [Target(*place, options.precision, options.batch) for place in places]
    return {
        network: [key_of(library.flavour, library.version, target, network, digest) for target in targets]
        for network, (_, digest) in pack.for_gpu(options.precision).items()
    }


def build_command(options: Options, pack: Pack, device: int = 0) -> str:
    """The command that builds what these options want on the GPU of this number."""
    defaults = Options()
    words = [BUILD.replace("DIR", str(pack.folder)), f"--library {options.library}"]
    cache = options.cache or units_folder()  # whoever types it has a cache of their own
    if cache is not None:
        words.append(f"--cache {cache}")
    if device:
        words.append(f"--device {device}")
    if options.precision != defaults.precision:
        words.append(f"--precision {options.precision}")
    if options.batch != defaults.batch:
        words.append(f"--batch {' '.join(map(str, options.batch))}")
    return f"Build it: {' '.join(words)}"
