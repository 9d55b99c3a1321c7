"""A GPU in host memory: the device seam and TensorRT's calls, with ONNX Runtime for the arithmetic.

It is as late as a GPU may be: what is put into a queue happens when somebody waits for it, and then only as much as
must; or in `mixed` order, where other queues run ahead as far as their marks let them. So a wait or a synchronisation
that is missing gives wrong answers. Every address is checked against what is allocated, freed memory is gone, memory
that is copied from and to must be page-locked, and every call needs the device to be active in its thread.
"""

from __future__ import annotations

import ctypes
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from build_engines.build import derived
from inspector.errors import EngineError, PackError
from inspector.pack import Pack
from inspector.plans import Cache
from inspector.runtimes._frames import PAGE, FrameMemory, address_of
from inspector.runtimes._graphs import Recorder, RecordingError
from inspector.runtimes._tensorrt import Library, has_driver
from inspector.runtimes.tensorrt import Options, Platform, TensorRtRuntime, keys_of

Work = Callable[[], None]
POISON = 0xA5
HAS_DRIVER = has_driver()


class HostMark:
    def __init__(self, device: HostDevice) -> None:
        self.place: tuple[HostQueue, int] | None = None
        self.device = device
        device.marks += 1

    def free(self) -> None:
        self.device.must_be_active()
        self.device.marks -= 1


class HostQueue:
    """Work that is not done yet."""

    def __init__(self, device: HostDevice, handle: int) -> None:
        self.device = device
        self.handle = handle
        self.done = 0
        self.captured: list[Work] | None = None
        self._waiting: list[Work | tuple[HostQueue, int]] = []

    def put(self, work: Work) -> None:
        self.device.must_be_active()
        if self.captured is not None:
            self.captured.append(work)
        else:
            self._waiting.append(work)

    def set(self, mark: HostMark) -> None:
        self.device.must_be_active()
        mark.place = self, self.done + len(self._waiting)

    def wait(self, mark: HostMark) -> None:
        self.device.must_be_active()
        if mark.place is not None:
            self._waiting.append(mark.place)

    def synchronize(self) -> None:
        self.device.must_be_active()
        with self.device.guard:
            self.device.run_ahead(self)
            self.run_to(self.done + len(self._waiting))

    def free(self) -> None:
        self.device.must_be_active()
        assert not self._waiting
        del self.device.queues[self.handle]

    def run_to(self, place: int) -> None:
        while self.done < place:
            self.step()

    def ready(self) -> bool:
        """Whether the next thing can be done without making another queue go on."""
        if not self._waiting:
            return False
        first = self._waiting[0]
        return not isinstance(first, tuple) or first[0].done >= first[1]

    def step(self) -> None:
        first = self._waiting.pop(0)
        self.done += 1
        if isinstance(first, tuple):
            first[0].run_to(first[1])
        else:
            try:
                first()
            except BaseException:
                self.done += len(self._waiting)
                self._waiting = []
                raise


@dataclass(eq=False)
class HostMemory:
    device: HostDevice
    size: int

    def __post_init__(self) -> None:
        raw = np.full(self.size + 512, POISON, dtype=np.uint8)
        shift = -address_of(raw) % 256
        self._raw: NDArray[np.uint8] | None = raw
        self.address = address_of(raw) + shift

    def free(self) -> None:
        self.device.must_be_active()
        if self._raw is not None:
            with self.device.guard:
                del self.device.allocated[self.address]
            self.device.graveyard.append(self._raw)  # never used again, so that nothing else is found there
            self._raw = None


@dataclass(eq=False)
class HostLocked:
    device: HostDevice
    address: int

    def release(self) -> None:
        self.device.must_be_active()
        with self.device.guard:
            self.device.machine.locked.pop(self.address, None)


@dataclass
class Machine:
    """What all devices share."""

    locked: dict[int, int] = field(default_factory=dict)
    """Address -> bytes of page-locked memory."""
    queues: dict[int, HostQueue] = field(default_factory=dict)
    devices: list[HostDevice] = field(default_factory=list)
    guard: Any = field(default_factory=threading.RLock)
    plans: weakref.WeakSet[HostEngine] = field(default_factory=weakref.WeakSet)
    """Those that TensorRT still holds on the GPUs."""
    allowed: int | None = None
    """So many more allocations and page locks succeed; None: all."""
    dead: bool = False
    """Every call fails from now on, as after an illegal access: the context is lost."""

    def ask(self) -> None:
        """Something is to be allocated or page-locked."""
        with self.guard:
            if self.allowed is not None:
                self.allowed -= 1
                if self.allowed < 0:
                    raise EngineError("out of memory")


class HostDevice:
    def __init__(self, machine: Machine, index: int, mixed: int | None) -> None:
        self.machine = machine
        self.index = index
        self.name = "Host GPU"
        self.driver = "1.0"
        self.guard = machine.guard
        self.allocated: dict[int, HostMemory] = {}
        self.graveyard: list[NDArray[np.uint8]] = []
        self.queues: dict[int, HostQueue] = {}
        self.marks = 0
        self.closed = False
        self.uploads: list[int] = []
        """Where in host memory they came from."""
        self.downloaded_bytes = 0
        self.copies = 0
        self._chance = None if mixed is None else random.Random(mixed)
        self._active = threading.local()

    @contextmanager
    def active(self) -> Iterator[None]:
        assert not self.closed, "the device was closed"
        if self.machine.dead:
            raise EngineError("the GPU failed: it has fallen off the bus")
        self._active.depth = getattr(self._active, "depth", 0) + 1
        try:
            yield
        finally:
            self._active.depth -= 1

    def must_be_active(self) -> None:
        assert getattr(self._active, "depth", 0) > 0, "the device is not active in this thread"

    def run_ahead(self, but: HostQueue) -> None:
        """In mixed order: let other queues go as far as they like."""
        if self._chance is None:
            return
        for queue in self._chance.sample(list(self.queues.values()), len(self.queues)):
            while queue is not but and queue.ready() and self._chance.random() < 0.7:
                queue.step()

    def allocate(self, size: int) -> HostMemory:
        self.must_be_active()
        self.machine.ask()
        memory = HostMemory(self, size)
        with self.guard:
            self.allocated[memory.address] = memory
        return memory

    def lock(self, memory: NDArray[np.uint8]) -> HostLocked:
        self.must_be_active()
        self.machine.ask()
        address = address_of(memory)
        assert address % PAGE == 0
        assert memory.nbytes % PAGE == 0
        assert memory.nbytes > 0
        with self.guard:
            spans = [(start, start + size) for start, size in self.machine.locked.items()]
            assert all(end <= address or address + memory.nbytes <= start for start, end in spans), "locked twice"
            self.machine.locked[address] = memory.nbytes
        return HostLocked(self, address)

    def queue(self) -> HostQueue:
        self.must_be_active()
        with self.guard:
            made = HostQueue(self, 1000 + len(self.machine.queues))
            self.queues[made.handle] = self.machine.queues[made.handle] = made
        return made

    def mark(self) -> HostMark:
        self.must_be_active()
        return HostMark(self)

    def upload(self, to: int, source: NDArray[np.uint8], queue: HostQueue) -> None:
        assert source.flags.c_contiguous
        self.must_be_locked(source)
        address = address_of(source)
        self.uploads.append(address)
        queue.put(lambda: self.move(to, address, source.nbytes, device=[to]))

    def download(self, into: NDArray[np.uint8], source: int, queue: HostQueue) -> None:
        assert into.flags.c_contiguous
        self.must_be_locked(into)
        self.downloaded_bytes += into.nbytes
        queue.put(lambda: self.move(address_of(into), source, into.nbytes, device=[source]))

    def download_box(self, into: NDArray[np.uint8], source: int, pitch: int, queue: HostQueue) -> None:
        assert into.flags.c_contiguous
        self.must_be_locked(into)
        self.downloaded_bytes += into.nbytes
        rows, columns = into.shape

        def work() -> None:
            for row in range(rows):
                place = source + row * pitch
                self.move(address_of(into) + row * columns, place, columns, device=[place])

        queue.put(work)

    def copy(self, to: int, source: int, size: int, queue: HostQueue) -> None:
        self.copies += 1
        queue.put(lambda: self.move(to, source, size, device=[to, source]))

    def used_bytes(self) -> int:
        return sum(memory.size for memory in self.allocated.values())

    def close(self) -> None:
        if not self.machine.dead:
            assert not self.allocated, "device memory is left"
            assert not self.queues
            assert not self.marks
        self.closed = True

    def move(self, to: int, source: int, size: int, device: list[int]) -> None:
        for address in device:
            self.must_be_allocated(address, size)
        ctypes.memmove(to, source, size)

    def must_be_allocated(self, address: int, size: int) -> None:
        spans = [(memory.address, memory.address + memory.size) for memory in self.allocated.values()]
        if not any(start <= address and address + size <= end for start, end in spans):
            raise EngineError(f"an illegal memory access of {size} bytes")

    def must_be_locked(self, memory: NDArray[np.uint8]) -> None:
        start = address_of(memory)
        with self.guard:
            locked = list(self.machine.locked.items())
        assert any(a <= start and start + memory.nbytes <= a + size for a, size in locked), "not page-locked"


# ---------------------------------------------------------------- TensorRT's calls


class HostLogger:
    Severity: ClassVar[Any] = SimpleNamespace(ERROR=1, WARNING=2)

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class HostTrt:
    """What stands for the module: plans are ONNX files."""

    ILogger = HostLogger
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="lent")

    def __init__(self, machine: Machine, profile: tuple[int, int, int]) -> None:
        self.machine = machine
        self.profile = profile

    def Runtime(self, logger: HostLogger) -> HostLoader:  # noqa: N802 (theirs)
        return HostLoader(self, logger)


@dataclass
class HostLoader:
    trt: HostTrt
    logger: HostLogger

    def deserialize_cuda_engine(self, plan: bytes) -> HostEngine | None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(plan, settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            self.logger.log(HostLogger.Severity.ERROR, str(error))
            return None
        return HostEngine(self.trt, self.logger, session)


TYPES = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT", "tensor(double)": "DOUBLE"}
NUMPY = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(double)": np.float64}


class HostEngine:
    def __init__(self, trt: HostTrt, logger: HostLogger, session: onnxruntime.InferenceSession) -> None:
        self.trt = trt
        self.logger = logger
        self.session = session
        self.inputs = {entry.name: entry for entry in session.get_inputs()}
        self.tensors = self.inputs | {entry.name: entry for entry in session.get_outputs()}
        self.num_io_tensors = len(self.tensors)
        trt.machine.plans.add(self)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name in self.inputs else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=TYPES[self.tensors[name].type])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return [(size, *self.get_tensor_shape(name)[1:]) for size in self.trt.profile]

    device_memory_size_v2 = 1000

    def create_execution_context(self, strategy: str = "own") -> HostContext:
        return HostContext(self, lent=strategy == "lent")


class HostContext:
    """Tile by tile, so that answers are those of the ONNX runtime to the bit."""

    def __init__(self, engine: HostEngine, lent: bool) -> None:
        self._engine = engine
        self._needs_memory = lent
        self._memory = 0
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fewest, _, most = self._engine.trt.profile
        if not fewest <= shape[0] <= most:
            self._engine.logger.log(HostLogger.Severity.ERROR, f"{shape[0]} tiles are beyond the profile")
            return False
        self._shape = shape  # what was recorded with another one is void from now on
        return name in self._engine.inputs

    def set_device_memory(self, address: int, size: int) -> None:
        assert self._needs_memory
        assert size >= self._engine.device_memory_size_v2
        self._memory = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in self._engine.tensors and address % 256 == 0

    def execute_async_v3(self, handle: int) -> bool:
        queue = self._engine.trt.machine.queues[handle]
        shape, addresses = self._shape, dict(self._addresses)
        if set(addresses) != set(self._engine.tensors) or not shape or (self._needs_memory and not self._memory):
            return False
        recorded = queue.captured is not None
        queue.put(lambda: self._run(queue.device, shape, addresses, recorded))
        return True

    def _run(self, device: HostDevice, shape: tuple[int, ...], addresses: dict[str, int], recorded: bool) -> None:
        if recorded and shape != self._shape:
            raise EngineError("the GPU failed: the context has seen another shape since this was recorded")
        if self._needs_memory:
            device.must_be_allocated(self._memory, self._engine.device_memory_size_v2)
        frames = _view(device, addresses["frames"], shape, np.uint8)
        names = [name for name in self._engine.tensors if name != "frames"]
        rows = []
        for tile in frames:
            try:
                rows.append(self._engine.session.run(names, {"frames": tile[None]}))
            except Exception as error:
                raise EngineError(f"the GPU failed: {error}") from error
        for column, name in enumerate(names):
            result = np.concatenate([row[column] for row in rows])
            kind = NUMPY[self._engine.tensors[name].type]
            _view(device, addresses[name], result.shape, kind)[...] = result


def _view(device: HostDevice, address: int, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    device.must_be_allocated(address, size)
    raw = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(raw, dtype=kind).reshape(shape)


@dataclass
class HostRecorder:
    """Records as CUDA graphs are recorded: shapes and addresses are those of the recording."""

    fails: bool = False
    recorded: int = 0
    launched: int = 0
    freed: int = 0

    def record(self, queue: Any, work: Work) -> HostRecording:
        if self.fails:
            raise RecordingError("operation not permitted when stream is capturing")
        queue.captured = []
        try:
            work()
        finally:
            captured, queue.captured = queue.captured, None
        self.recorded += 1
        return HostRecording(self, captured)


@dataclass
class HostRecording:
    recorder: HostRecorder
    works: list[Work]

    def launch(self, queue: Any) -> None:
        self.recorder.launched += 1
        for work in self.works:
            queue.put(work)

    def free(self) -> None:
        self.recorder.freed += 1


# ---------------------------------------------------------------- the runtime on it


@dataclass
class Rig:
    """The TensorRT runtime of a pack on such GPUs."""

    folder: Path
    pack: Pack
    options: Options
    recorder: HostRecorder | None = None
    mixed: int | None = None
    machine: Machine = field(default_factory=Machine)
    frames: FrameMemory = field(default_factory=FrameMemory)

    @property
    def cache(self) -> Cache:
        return Cache(self.folder)

    def library(self) -> Library:
        return Library("TensorRT", "0.host", HostTrt(self.machine, self.options.batch))

    def build(self) -> None:
        """The plans of all networks."""
        keys = keys_of(self.options, self.pack, self.library(), "Host GPU", "1.0")
        for network, (file, _) in self.pack.for_gpu(self.options.precision).items():
            try:
                with derived(network, file, self.pack, self.options.precision) as graph:
                    self.cache.put(keys[network][0], graph.read_bytes(), built_ns=1, seconds=0.0)
            except OSError as error:
                raise PackError(f"{file}: {error}") from None

    def platform(self) -> Platform:
        def recorder() -> Recorder | None:
            return self.recorder

        def devices(indices: list[int]) -> list[HostDevice]:
            made = [HostDevice(self.machine, index, self.mixed) for index in indices]
            self.machine.devices += made
            return made

        return Platform(self.library, devices, recorder, self.frames, self.cache)

    def runtime(self) -> TensorRtRuntime:
        return TensorRtRuntime(self.options, self.pack, self.platform())
