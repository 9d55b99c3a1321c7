"""CUDA graphs: what a network puts into its queue, recorded once for each batch size and then begun with one call.

pycuda has none, so they come from NVIDIA's cuda-bindings where that is installed; without it, or where a network
refuses to be recorded, the network is called as usual.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from inspector.errors import EngineError
from inspector.logbook import LogKind, as_kind
from inspector.runtimes._device import Queue

log = logging.getLogger(__name__)

Call = tuple[int, int]
"""(tiles, address of the first): a recording holds for exactly these."""
MOST = 64
"""Recordings of one network in one slot; more are not made."""


class Recording(Protocol):
    """What was recorded."""

    def launch(self, queue: Queue) -> None: ...

    def free(self) -> None: ...


class Recorder(Protocol):
    """Records what a function puts into a queue, without doing it. Raises RecordingError."""

    def record(self, queue: Queue, work: Callable[[], None]) -> Recording: ...


class RecordingError(Exception):
    """This cannot be recorded."""


class Graphs:
    """The recordings of one network in one slot."""

    def __init__(self, network: str, recorder: Recorder | None) -> None:
        self._network = network
        self._recorder = recorder
        self._known: dict[Call, Recording] = {}

    @property
    def recording(self) -> bool:
        """Whether the next call that is not known will be recorded."""
        return self._recorder is not None and len(self._known) < MOST

    def run(self, call: Call, queue: Queue, prepare: Callable[[], None], work: Callable[[], None]) -> None:
        """Do the work: from its recording if there is one, else by preparing and calling it."""
        recording = self._known.get(call)
        if recording is not None:
            recording.launch(queue)
            return
        prepare()
        work()
        if self._recorder is not None and self.recording:
            # Only now: after a change of shape the first call does what cannot be recorded.
            self._record(self._recorder, call, queue, work)

    def _record(self, recorder: Recorder, call: Call, queue: Queue, work: Callable[[], None]) -> None:
        try:
            self._known[call] = recorder.record(queue, work)
        except RecordingError as error:
            log.warning(
                "network %s runs without CUDA graphs: %s",
                self._network,
                error,
                extra=as_kind(LogKind.NO_GRAPHS, network=self._network),
            )
            self._recorder = None

    def clear(self) -> None:
        """Forget all recordings: what they point at has moved, or ends. Nothing of them is in a queue."""
        known, self._known = self._known, {}
        for recording in known.values():
            recording.free()


# ---------------------------------------------------------------- cuda-bindings


def recorder() -> Recorder | None:
    """A recorder on cuda-bindings; None where it is not installed."""
    try:
        return CudaRecorder(importlib.import_module("cuda.bindings.driver"))
    except Exception as error:  # its loader has errors of its own where the driver is missing
        log.info("no CUDA graphs: cuda-bindings cannot be imported (%s)", error)
        return None


class CudaRecorder:
    """Stream capture through the driver's own calls, in whatever context is current."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def record(self, queue: Queue, work: Callable[[], None]) -> CudaRecording:
        driver = self._driver
        stream = driver.CUstream(queue.handle)
        # Other threads go on allocating and copying meanwhile, so the rules of capture are for this thread alone.
        self._ask(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        try:
            work()
        except Exception as error:
            driver.cuStreamEndCapture(stream)
            raise RecordingError(str(error)) from error
        graph = self._ask(driver.cuStreamEndCapture(stream))
        try:
            return CudaRecording(self, self._ask(driver.cuGraphInstantiate(graph, 0)))
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self, graph: Any, queue: Queue) -> None:
        try:
            self._ask(self._driver.cuGraphLaunch(graph, self._driver.CUstream(queue.handle)))
        except RecordingError as error:
            raise EngineError(f"its CUDA graph cannot be launched: {error}") from error

    def free(self, graph: Any) -> None:
        self._driver.cuGraphExecDestroy(graph)

    def _ask(self, answer: Any) -> Any:
        error, *values = answer
        if int(error):
            raise RecordingError(f"the driver says {getattr(error, 'name', error)}")
        return values[0] if values else None


class CudaRecording:
    """An executable CUDA graph."""

    def __init__(self, recorder: CudaRecorder, graph: Any) -> None:
        self._recorder = recorder
        self._graph = graph

    def launch(self, queue: Queue) -> None:
        self._recorder.launch(self._graph, queue)

    def free(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self._recorder.free(graph)
