"""A network as a plan on a GPU (`Engine`), and as one worker runs it (`Lane`): its context, memory and results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.errors import EngineError, PackError
from inspector.pack import Pack
from inspector.plans import BUILD
from inspector.runtimes._device import Bytes, Device, Locked, Memory, Queue
from inspector.runtimes._frames import pages
from inspector.runtimes._graphs import Call, Graphs, Recorder
from inspector.runtimes._tensorrt import Library

FRAMES = "frames"
ACTIVATIONS = "activations"
KINDS: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FLOAT": np.dtype(np.float32)}


@dataclass(frozen=True, slots=True)
class Output:
    """What a network gives for each tile."""

    name: str
    kind: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def bytes_a_tile(self) -> int:
        return self.kind.itemsize * int(np.prod(self.shape, dtype=np.int64))


def outputs_of(network: str, pack: Pack) -> list[Output]:
    """What the plan of a network must give."""
    tile, floats, greys = pack.manifest.tile, KINDS["FLOAT"], KINDS["UINT8"]
    if network == "gate":
        return [Output("score", floats, ())]
    if network == "types":
        return [Output("scores", floats, (len(pack.manifest.classes),))]
    shape = tile.height, tile.width
    return [Output("probability", greys, shape), Output("extent", greys, (sum(shape),))]


class Engine:
    """A plan, loaded; shared by all workers of its GPU."""

    def __init__(self, library: Library, loader: Any, plan: bytes, network: str, file: Path, pack: Pack) -> None:
        """`loader` is the library's `Runtime`, `file` the ONNX file that messages name.

        Raises:
            PackError: the plan cannot be loaded, or is of another contract than the pack's networks.
        """
        self.network = network
        self._library = library
        self.outputs = outputs_of(network, pack)
        tile = pack.manifest.tile
        self.frame = (1, tile.height, tile.width)
        self._loader = loader  # it must outlive the plan
        self._plan = loader.deserialize_cuda_engine(plan)
        if self._plan is None:
            raise PackError(
                f"{file}: {library.flavour} {library.version} cannot load the plan of network {network}: "
                f"{self.reason()}. "
                f"Build it again: {BUILD}. If that fails: Export the pack again"
            )
        wrong = self._wrong()
        if wrong:
            self.free()
            raise PackError(f"{file}: network {network} {wrong}. Export the pack again, then {BUILD}")
        self.fewest, _, self.most = (int(shape[0]) for shape in self._plan.get_tensor_profile_shape(FRAMES, 0))

    def reason(self) -> str:
        """What the library said last."""
        return "; ".join(self._library.logger().said[-3:]) or "it gives no reason"

    def free(self) -> None:
        """Give back what the plan holds on the device, which must be active; no context of it is left.

        By hand, as workers keep a slot and with it this object when other engines have long taken over.
        """
        self._plan = None  # before the loader
        self._loader = None

    def context(self) -> Any:
        """What one worker executes it with; takes the device memory of its activations."""
        return self._made(self._plan.create_execution_context())

    def lent_context(self, memory: Memory) -> Any:
        """A context whose activations lie in `memory`, of `memory_bytes`; one at a time may use that."""
        strategy = self._library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        made = self._made(self._plan.create_execution_context(strategy))
        made.set_device_memory(memory.address, memory.size)
        return made

    @property
    def memory_bytes(self) -> int:
        """What the activations of one context take."""
        return int(self._plan.device_memory_size_v2)

    @property
    def lends(self) -> bool:
        """Whether contexts can share memory, from TensorRT 10.1 on."""
        known = hasattr(self._library.trt, "ExecutionContextAllocationStrategy")
        return known and hasattr(self._plan, "device_memory_size_v2")

    def _made(self, context: Any) -> Any:
        if context is None:
            raise EngineError(f"there is no device memory for one more context: {self.reason()}")
        return context

    def _wrong(self) -> str:
        """What is not as the pack's contract says; empty if all is well."""
        found = {name: (mode, kind, shape) for name, mode, kind, shape in self._tensors()}
        inputs = [name for name, (mode, _, _) in found.items() if mode == "INPUT"]
        if inputs != [FRAMES] or found[FRAMES][1] != "UINT8":
            return f"must have one input, `{FRAMES}` of uint8; this has {', '.join(inputs) or 'none'}"
        if found[FRAMES][2][1:] != self.frame:
            return f"takes {list(found[FRAMES][2][1:])}, the manifest's tile is {list(self.frame)}"
        for output in self.outputs:
            if output.name not in found:
                given = ", ".join(name for name in found if name != FRAMES)
                return f"gives `{given}`, not `{output.name}`"
            _, kind, shape = found[output.name]
            if KINDS.get(kind) != output.kind or shape[1:] != output.shape:
                return f"gives `{output.name}` of {kind} {list(shape[1:])}, not {output.kind} {list(output.shape)}"
        return ""

    def _tensors(self) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
        plan = self._plan
        for index in range(plan.num_io_tensors):
            name = plan.get_tensor_name(index)
            shape = tuple(int(size) for size in plan.get_tensor_shape(name))
            yield name, plan.get_tensor_mode(name).name, plan.get_tensor_dtype(name).name, shape


class Lane:
    """One worker's way through one network: results stay in its device memory until it runs again.

    A recording holds only while its context sees no other shape, so each has a context of its own; they run one after
    the other and share the memory of their activations.
    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html (CUDA graphs)
    """

    def __init__(
        self, engine: Engine, device: Device, queue: Queue, recorder: Recorder | None, in_place: bool = True
    ) -> None:
        """`in_place`: tiles at the beginning of a batch are read there; else they are gathered as any others."""
        self.engine = engine
        self._in_place = in_place
        self.queue = queue
        self.most = engine.most
        self._device = device
        self._bytes_a_tile = int(np.prod(engine.frame))
        self._graphs = Graphs(engine.network, recorder if engine.lends else None)
        self._memory: dict[str, Memory] = {}
        self._host: dict[str, tuple[Bytes, Locked]] = {}
        self._contexts: dict[Call | None, Any] = {}
        try:
            for output in engine.outputs:
                self._memory[output.name] = device.allocate(max(256, self.most * output.bytes_a_tile))
            if self._graphs.recording:
                self._memory[ACTIVATIONS] = device.allocate(max(256, engine.memory_bytes))
        except EngineError:
            self.free()
            raise

    def run(self, base: int, indices: Sequence[int]) -> None:
        """Put the network into its queue, for the tiles at `indices` (at most `most`) of the batch at `base`.

        Tiles that cannot be read where they lie are gathered first, on the device.
        """
        count = len(indices)
        there = self._in_place and list(indices) == list(range(count))
        address = base if there else self._gathered(base, indices)
        call = count, address
        context = self._context(call)
        self._graphs.run(call, self.queue, partial(self._prepare, context, call), partial(self._execute, context))

    def address(self, name: str, index: int = 0) -> int:
        """Where the result of a tile lies on the device."""
        output = next(output for output in self.engine.outputs if output.name == name)
        return self._memory[name].address + index * output.bytes_a_tile

    def fetch(self, name: str, count: int) -> NDArray[Any]:
        """Put the copy of a result for `count` tiles into the queue; it is there when the queue has come past it,
        and until the next fetch."""
        output = next(output for output in self.engine.outputs if output.name == name)
        if name not in self._host:
            memory = pages(self.most * output.bytes_a_tile)
            self._host[name] = memory, self._device.lock(memory)
        part = self._host[name][0][: count * output.bytes_a_tile]
        self._device.download(part, self._memory[name].address, self.queue)
        found: NDArray[Any] = part.view(output.kind).reshape((count, *output.shape))
        return found

    def moved(self) -> None:
        """The batch lies elsewhere from now on. Nothing is in the queue."""
        self._graphs.clear()
        self._contexts.clear()

    def free(self) -> None:
        """Nothing of it is in a queue."""
        memories, hosts = self._memory, self._host
        self._memory, self._host = {}, {}
        with ExitStack() as undo:  # all of it, whatever fails
            for memory in memories.values():
                undo.callback(memory.free)
            for _, locked in hosts.values():
                undo.callback(locked.release)
            undo.callback(self.moved)

    def _gathered(self, base: int, indices: Sequence[int]) -> int:
        """The address of the tiles, side by side: neighbours are copied in one go."""
        size = self._bytes_a_tile
        if FRAMES not in self._memory:
            self._memory[FRAMES] = self._device.allocate(self.most * size)
        to = self._memory[FRAMES].address
        for _, run in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
            pairs = list(run)
            place, first = pairs[0]
            self._device.copy(to + place * size, base + first * size, len(pairs) * size, self.queue)
        return to

    def _context(self, call: Call) -> Any:
        """The context of this call, or that of all calls that are not recorded."""
        key = call if self._graphs.recording or call in self._contexts else None
        if key not in self._contexts:
            lent = ACTIVATIONS in self._memory
            made = self.engine.lent_context(self._memory[ACTIVATIONS]) if lent else self.engine.context()
            for output in self.engine.outputs:
                self._point(made, output.name, self._memory[output.name].address)
            self._contexts[key] = made
        return self._contexts[key]

    def _prepare(self, context: Any, call: Call) -> None:
        count, address = call
        if not context.set_input_shape(FRAMES, (count, *self.engine.frame)):
            raise EngineError(f"it takes no {count} tiles: {self.engine.reason()}")
        self._point(context, FRAMES, address)

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self.queue.handle):
            raise EngineError(self.engine.reason())

    def _point(self, context: Any, name: str, address: int) -> None:
        if not context.set_tensor_address(name, address):
            raise EngineError(f"it takes no memory for `{name}`: {self.engine.reason()}")
