"""What the machine is and allows: processor, memory, GPU driver, limits. Reads /proc and /sys below `root`."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from inspector.doctor.findings import Finding, State

ROOT = Path("/")
GIB = 2**30

CORES_WANTED = 2
"""The aim of 156 frames a second on the first pack is stated for two cores."""
MEMORY_WANTED = 2 * GIB
DISK_WANTED = 1 * GIB
FILES_WANTED = 1024
SOCKET_BUFFER_WANTED = 4 * 2**20
"""A GigE camera's stream without raw sockets needs this ."""
CAP_NET_RAW = 13
CLOCK_UNSYNCHRONISED = 5
"""adjtimex(2): TIME_ERROR."""


def examine(root: Path = ROOT) -> Iterator[Finding]:
    """Every row about the machine itself."""
    yield _cores(root)
    yield _instructions(root)
    yield _memory(root)
    yield gpu(root)
    yield from _limits(root)


# ---------------------------------------------------------------- processor and memory


def _cores(root: Path) -> Finding:
    model = _first(r"^model name\s*:\s*(.*)$", root / "proc/cpuinfo") or os.uname().machine
    allowed, quota = len(os.sched_getaffinity(0)), cpu_quota(root)
    usable = min(allowed, quota) if quota else allowed
    found = f"{model}; {usable:g} of {os.cpu_count()} cores usable" + (f" (quota {quota:g})" if quota else "")
    if usable >= CORES_WANTED:
        return Finding(section="machine", name="processor", state=State.OK, found=found)
    mend = f"Give the line {CORES_WANTED} cores or more: widen AllowedCPUs= and CPUQuota= of the unit or the container"
    return Finding(section="machine", name="processor", state=State.WARNING, found=found, mend=mend)


def _instructions(root: Path) -> Finding:
    flags = set((_first(r"^(?:flags|Features)\s*:\s*(.*)$", root / "proc/cpuinfo") or "").split())
    names = {"AVX2": {"avx2"}, "AVX512": {"avx512f"}, "VNNI": {"avx512_vnni", "avx_vnni"}, "NEON": {"asimd"}}
    have = [name for name, wanted in names.items() if flags & wanted]
    if "AVX2" in have or "NEON" in have:
        return Finding(section="machine", name="instructions", state=State.OK, found=", ".join(have))
    return Finding(
        section="machine",
        name="instructions",
        state=State.WARNING,
        found="no AVX2: the networks run several times slower",
        mend="Use a processor with AVX2, or let the virtual machine see it (CPU type `host`)",
    )


def _memory(root: Path) -> Finding:
    kib = _first(r"^MemTotal:\s*(\d+) kB", root / "proc/meminfo")
    limit = memory_limit(root)
    sizes = [size for size in (int(kib) * 1024 if kib else None, limit) if size]
    if not sizes:
        return Finding(section="machine", name="memory", state=State.WARNING, found="cannot be read")
    found = f"{min(sizes) / GIB:.1f} GiB" + (" (limited by the control group)" if limit == min(sizes) else "")
    if min(sizes) >= MEMORY_WANTED:
        return Finding(section="machine", name="memory", state=State.OK, found=found)
    mend = f"Give the line {MEMORY_WANTED // GIB} GiB: raise MemoryMax= of the unit or the container's limit"
    return Finding(section="machine", name="memory", state=State.WARNING, found=found, mend=mend)


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores that the control groups of this process allow; None: no limit."""
    found = []
    for folder in _groups(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit():
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the control groups of this process allow; None: no limit."""
    texts = [_read(f / name) for f in _groups(root, "memory") for name in ("memory.max", "memory.limit_in_bytes")]
    return min((int(text) for text in texts if text.strip().isdigit()), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those above it, in version 2 and in version 1."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        own = mount / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


# ---------------------------------------------------------------- GPU


def driver_version(root: Path = ROOT) -> str | None:
    """Version of the loaded NVIDIA kernel driver. TensorRT must not even be imported without one: it crashes."""
    return _first(r"Kernel Module.*?(\d+\.\d+[\d.]*)", root / "proc/driver/nvidia/version")


def gpu(root: Path = ROOT) -> Finding:
    """The NVIDIA GPU, by its driver alone."""
    driver = driver_version(root)
    if driver is None:
        found, mend = (
            "no NVIDIA driver is loaded",
            "Only for the GPU runtime: apt-get install nvidia-driver, then reboot",
        )
        return Finding(section="machine", name="GPU", state=State.MISSING, found=found, mend=mend)
    names, problem = _ask_driver()
    if problem:
        mend = "In a container: give it the GPU. Else reinstall the driver: apt-get install --reinstall nvidia-driver"
        found = f"driver {driver} is loaded, but {problem}"
        return Finding(section="machine", name="GPU", state=State.WARNING, found=found, mend=mend)
    return Finding(section="machine", name="GPU", state=State.OK, found=f"{names}; driver {driver}")


def _ask_driver() -> tuple[str, str]:
    """(GPUs, "") or ("", what went wrong)."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"nvidia-smi does not answer ({type(error).__name__})"
    if done.returncode or not done.stdout.strip():
        return "", f"nvidia-smi says: {(done.stdout + done.stderr).strip() or 'nothing'}"
    return "; ".join(done.stdout.strip().splitlines()), ""


# ---------------------------------------------------------------- limits


def _limits(root: Path) -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = soft if soft != resource.RLIM_INFINITY else 2**31
    yield _at_least("open files", files, FILES_WANTED, str, f"ulimit -n {FILES_WANTED}, or LimitNOFILE= in the unit")
    free = shutil.disk_usage(Path.cwd()).free
    yield _at_least("free disk here", free, DISK_WANTED, _gib, "Free some space, or put the journal on another disk")
    buffer = int(_read(root / "proc/sys/net/core/rmem_max").strip() or 0)
    mend = f"Only for GigE cameras: sysctl -w net.core.rmem_max={2 * SOCKET_BUFFER_WANTED}"
    yield _at_least("socket buffer", buffer, SOCKET_BUFFER_WANTED, _mib, mend)
    yield _raw_sockets(root)
    yield from _clock()


def _at_least(name: str, value: int, wanted: int, show: Callable[[int], str], mend: str) -> Finding:
    if value >= wanted:
        return Finding(section="limits", name=name, state=State.OK, found=show(value))
    found = f"{show(value)}; {show(wanted)} or more is better"
    return Finding(section="limits", name=name, state=State.WARNING, found=found, mend=mend)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _raw_sockets(root: Path) -> Finding:
    mask = int(_first(r"^CapEff:\s*([0-9a-f]+)$", root / "proc/self/status") or "0", 16)
    if mask >> CAP_NET_RAW & 1:
        return Finding(section="limits", name="raw sockets", state=State.OK, found="CAP_NET_RAW is held")
    mend = "Only for GigE cameras: deploy/install.py upgrade --extras gige (AmbientCapabilities=CAP_NET_RAW)"
    return Finding(section="limits", name="raw sockets", state=State.MISSING, found="no CAP_NET_RAW", mend=mend)


def _clock() -> Iterator[Finding]:
    """Whether the kernel believes that its clock is synchronised; no row where a sandbox forbids the question."""
    timex = ctypes.create_string_buffer(1024)  # struct timex; all zero asks and changes nothing
    answer = ctypes.CDLL(None).adjtimex(timex)
    if answer == CLOCK_UNSYNCHRONISED:
        found, mend = "not synchronised: times of events may be off", "apt-get install chrony"
        yield Finding(section="limits", name="clock", state=State.WARNING, found=found, mend=mend)
    elif answer >= 0:
        yield Finding(section="limits", name="clock", state=State.OK, found="synchronised")


# ---------------------------------------------------------------- reading


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _first(pattern: str, path: Path) -> str | None:
    found = re.search(pattern, _read(path), re.MULTILINE)
    return found.group(1).strip() if found else None
