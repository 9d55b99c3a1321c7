"""The device seam on pycuda: device memory, page-locked memory, streams and events of one NVIDIA GPU.

The primary context is retained and pushed and popped by each thread for each piece of work; pycuda.autoinit, which
would make a context of its own, is never used. pycuda frees what belongs to a context only in a thread where the
context is current, so everything is freed by hand. Page-locking goes to the driver itself: pycuda 2026.1's
register_host_memory crashes the process.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from inspector.errors import ConfigError, EngineError
from inspector.runtimes._device import Bytes, Queue
from inspector.runtimes._frames import address_of
from inspector.runtimes._tensorrt import count_as_nvidia_smi, gpus, has_driver

PORTABLE = 1
"""CU_MEMHOSTREGISTER_PORTABLE: page-locked for every GPU."""
NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: never waits for CUDA's default stream."""
INSTALL = "pip install 'inspector[gpu]'"


def devices(indices: list[int]) -> list[CudaDevice]:
    """These GPUs, opened.

    Raises:
        ConfigError: no driver, no pycuda, or no such GPU.
    """
    driver = _pycuda()
    count = driver.Device.count()
    missing = [index for index in indices if index >= count]
    if missing:
        raise ConfigError(f"runtime.options.devices: there is no GPU {missing[0]} here, only {count}: name 0 and up")
    with ExitStack() as undo:
        opened = []
        for index in indices:
            opened.append(CudaDevice(driver, index))
            undo.callback(opened[-1].close)
        undo.pop_all()
    return opened


def require() -> None:
    """Whether a GPU could be used at all, without opening one.

    Raises:
        ConfigError: no driver, or no pycuda; it says what to install.
    """
    _pycuda()


def _pycuda() -> Any:
    if not has_driver():
        raise ConfigError(
            "this machine has no NVIDIA driver, which the runtime `tensorrt` needs: `inspector doctor` says more; "
            "`onnx` runs on the CPU"
        )
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError as error:  # also where libcuda.so.1 is missing
        raise ConfigError(f"pycuda cannot be imported ({error}). Try: {INSTALL}") from None
    count_as_nvidia_smi()
    try:
        driver.init()
    except driver.Error as error:
        raise ConfigError(f"the NVIDIA driver does not answer ({error}): `inspector doctor` says more") from None
    return driver


class CudaMemory:
    """Device memory of one context."""

    def __init__(self, allocation: Any, size: int) -> None:
        self._allocation = allocation
        self.address = int(allocation)
        self.size = size

    def free(self) -> None:
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            allocation.free()


class CudaLocked:
    """Host memory registered with the driver; the memory itself stays numpy's."""

    def __init__(self, library: ctypes.CDLL, memory: Bytes) -> None:
        self._library = library
        self._memory = memory
        self._held = True
        self._ask("cuMemHostRegister_v2", ctypes.c_size_t(memory.nbytes), ctypes.c_uint(PORTABLE))

    def release(self) -> None:
        held, self._held = self._held, False
        if held:
            self._ask("cuMemHostUnregister")

    def _ask(self, call: str, *words: Any) -> None:
        error = self._library[call](ctypes.c_void_p(address_of(self._memory)), *words)
        if error:
            raise EngineError(f"the driver refuses {call} with error {error} (CUresult)")


class CudaQueue:
    """A CUDA stream."""

    def __init__(self, driver: Any) -> None:
        self._error = driver.Error
        self.stream = driver.Stream(NON_BLOCKING)
        self.handle = int(self.stream.handle)

    def set(self, mark: Any) -> None:
        mark.event.record(self.stream)

    def wait(self, mark: Any) -> None:
        self.stream.wait_for_event(mark.event)

    def synchronize(self) -> None:
        try:
            self.stream.synchronize()
        except self._error as error:
            raise EngineError(f"the GPU failed: {error}") from error

    def free(self) -> None:
        self.stream = None  # pycuda destroys it with its last reference


class CudaMark:
    """A CUDA event."""

    def __init__(self, driver: Any) -> None:
        self.event = driver.Event(driver.event_flags.DISABLE_TIMING)

    def free(self) -> None:
        self.event = None


class CudaDevice:
    """One GPU through its primary context."""

    def __init__(self, driver: Any, index: int) -> None:
        self._driver = driver
        self.index = index
        device = driver.Device(index)
        known = {gpu.bus: gpu for gpu in gpus()}.get(device.pci_bus_id().lower())
        # The plan tool asks the driver's files, so that is what a plan's key has.
        self.name = known.name if known else str(device.name())
        self.driver = known.driver if known else "unknown"
        self._context = device.retain_primary_context()
        self._library = ctypes.CDLL("libcuda.so.1")

    @contextmanager
    def active(self) -> Iterator[None]:
        try:
            self._context.push()  # after a failure the driver may refuse even that
            try:
                yield
            finally:
                self._driver.Context.pop()
        except self._driver.Error as error:
            raise EngineError(f"the GPU failed: {error}") from error

    def allocate(self, size: int) -> CudaMemory:
        try:
            return CudaMemory(self._driver.mem_alloc(size), size)
        except self._driver.MemoryError as error:
            raise EngineError(
                f"GPU {self.index} has no room for {size / 1e6:.0f} MB more ({error}): take fewer "
                "runtime.options.slots or a smaller batch, or end what else uses it (nvidia-smi)"
            ) from error

    def lock(self, memory: Bytes) -> CudaLocked:
        return CudaLocked(self._library, memory)

    def queue(self) -> CudaQueue:
        return CudaQueue(self._driver)

    def mark(self) -> CudaMark:
        return CudaMark(self._driver)

    def upload(self, to: int, source: Bytes, queue: Queue) -> None:
        self._driver.memcpy_htod_async(to, source, _stream(queue))

    def download(self, into: Bytes, source: int, queue: Queue) -> None:
        self._driver.memcpy_dtoh_async(into, source, _stream(queue))

    def download_box(self, into: Bytes, source: int, pitch: int, queue: Queue) -> None:
        copy = self._driver.Memcpy2D()
        copy.set_src_device(source)
        copy.src_pitch = pitch
        copy.set_dst_host(into)
        copy.dst_pitch = copy.width_in_bytes = into.shape[1]
        copy.height = into.shape[0]
        copy(_stream(queue))

    def copy(self, to: int, source: int, size: int, queue: Queue) -> None:
        self._driver.memcpy_dtod_async(to, source, size, _stream(queue))

    def used_bytes(self) -> int:
        free, total = self._driver.mem_get_info()
        return int(total) - int(free)

    def close(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            context.detach()


def _stream(queue: Any) -> Any:
    return queue.stream
