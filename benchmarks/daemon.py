"""The daemon under test: the real line, with a tap on its cameras and a subscriber in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from inspector.cameras import Camera, synthetic
from inspector.config import Config, convert
from inspector.pipeline import Line, build
from inspector.pool import Pool
from inspector.records import Frame, Loss


@dataclass(frozen=True)
class Spec:
    """What line to build; picklable, so that it can go to a process of its own."""

    pack: str
    height: int
    width: int
    share: float
    prepared: int
    cameras: int
    workers: int
    batch: int = 4
    flat_field: str | None = None
    line_rate_hz: float | None = None
    """None: as fast as the line takes frames; else by the clock."""
    runtime: dict[str, Any] | None = None
    """The YAML's `runtime:`; None: ONNX Runtime with so many workers."""
    overload: bool = False
    """Whether it may leave out work when it is behind; else every frame that is inspected costs all its networks."""
    packs: dict[str, Any] | None = None
    """The YAML's section of that name."""

    def strip(self, index: int) -> synthetic.Options:
        """Options of camera number `index`."""
        return convert(self._strip(index), synthetic.Options)

    def _strip(self, index: int) -> dict[str, Any]:
        options: dict[str, Any] = {
            "seed": 1 + index,
            "height_px": self.height,
            "width_px": self.width,
            "defective_share": self.share,
            "prepared_frames": self.prepared,
        }
        if self.line_rate_hz is None:
            return options | {"pace": "free"}
        return options | {"line_rate_hz": self.line_rate_hz}

    def config(self, folder: Path) -> Config:
        """The line's YAML: every part that a plant's line has, the journal forced to the disk."""
        names = [f"camera{index}" for index in range(self.cameras)]
        cameras: list[dict[str, Any]] = [
            {"name": name, "kind": "synthetic", "options": self._strip(index)} for index, name in enumerate(names)
        ]
        for camera in cameras if self.flat_field else []:
            camera["flat_field"] = self.flat_field
        raw = {
            "line": {
                "name": "benchmark",
                "coil": "benchmark",
                "when_full": "wait" if self.line_rate_hz is None else "drop_oldest",
            },
            "pack": self.pack,
            "cameras": cameras,
            "batch": {"size": self.batch},
            "runtime": self.runtime or {"options": {"workers": self.workers}},
            "journal": {"path": str(folder / "journal.db"), "synchronous": True},
            "sinks": [{"kind": "zeromq", "options": {"address": f"ipc://{folder}/events"}}],
            "monitor": {"port": 0},
            "overload": {} if self.overload else None,
            "packs": self.packs or {},
        }
        return convert(raw, Config)


class Tap:
    """Lets a counted number of frames through the cameras of a line, and says when the last one has been graded.

    Between two slices the daemon stands idle, all of it warm, while the bare loop has the machine.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left: dict[str, int] = {}
        self._unreleased = 0

    def attach(self, line: Line) -> None:
        """Before the line starts."""
        self._left = dict.fromkeys(line.cameras, 0)
        for name, camera in line.cameras.items():
            camera.read = self._gate(name, camera, camera.read)  # type: ignore[assignment, method-assign]

    def pass_frames(self, each: int, limit_s: float) -> float:
        """Wall seconds from opening the tap until all frames have been graded."""
        start = time.perf_counter()
        with self._changed:
            self._left = dict.fromkeys(self._left, each)
            self._unreleased = each * len(self._left)
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._unreleased == 0, limit_s):
                raise RuntimeError(f"the line did not grade its frames in {limit_s:.0f} s; see its log")
            return time.perf_counter() - start

    def _gate(self, name: str, camera: Camera, read: Callable[[Pool, float], Any]) -> Callable[[Pool, float], Any]:
        def gated(pool: Pool, timeout_s: float) -> Frame | Loss | None:
            if not self._left[name]:
                with self._changed:
                    self._changed.wait_for(lambda: self._left[name], timeout_s)
                return None
            got: Frame | Loss | None = read(pool, timeout_s)
            if isinstance(got, Frame):
                self._left[name] -= 1
                got.on_release = self._counted(got.on_release)
            return got

        return gated

    def _counted(self, release: Callable[[], None] | None) -> Callable[[], None]:
        def counted() -> None:
            if release is not None:
                release()
            self._unreleased -= 1  # by the grading thread alone
            if self._unreleased == 0:
                with self._changed:
                    self._changed.notify_all()

        return counted


class Running(NamedTuple):
    """A started line and its listener."""

    line: Line
    subscriber: Subscriber


@contextmanager
def running(spec: Spec, folder: Path, prepare: Callable[[Line], None] = lambda line: None) -> Iterator[Running]:
    """The started line, with somebody who listens to it and reads its metrics; `prepare` sees it before it starts."""
    built = build(spec.config(folder))
    prepare(built)
    with built as line:
        assert line.monitor is not None
        scrape = f"http://127.0.0.1:{line.monitor.port}/metrics"
        with Subscriber(f"ipc://{folder}/events", scrape) as subscriber:
            yield Running(line, subscriber)
            line.stop.set()
            line.crew.join(60.0)
            failure = line.crew.failure
            if failure is not None:
                raise RuntimeError(f"stage {failure[0]} failed") from failure[1]


class Subscriber:
    """benchmarks/subscriber.py as a process."""

    def __init__(self, address: str, scrape: str) -> None:
        self._command = [sys.executable, str(Path(__file__).with_name("subscriber.py")), address, scrape]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ages_s()  # it listens
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=30)

    def ages_s(self) -> list[float]:
        """From exposure to that process, of each defect that came since the last call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        ages: list[float] = json.loads(self._process.stdout.readline())
        return ages
