"""What the kernel knows of this process: CPU time by thread, and memory."""

from __future__ import annotations

import os
import platform
import threading
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, object]:
    """What the figures were measured on."""
    models = [x.split(":", 1)[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def cpu_by_thread() -> dict[str, float]:
    """CPU seconds so far: each Python thread by its name, all others (libraries' own) as `native`."""
    names = {t.native_id: t.name for t in threading.enumerate()}
    spent: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            seconds = _cpu_s(task)
        except OSError:  # it ended a moment ago
            continue
        name = names.get(int(task.name), "native")
        spent[name] = spent.get(name, 0.0) + seconds
    return spent


def _cpu_s(task: Path) -> float:
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb() -> dict[str, float]:
    """`now` and `peak` resident memory, MB of 1,000,000 bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[name].split()[0]) * 1024 / 1e6 for key, name in (("now", "VmRSS"), ("peak", "VmHWM"))}


def spent_since(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """CPU seconds by thread between two looks; threads that did nothing are left out."""
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    return {name: seconds for name, seconds in spent.items() if seconds > 0}
