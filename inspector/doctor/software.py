"""What is installed: Python, the packages that the line needs, adapters, vendors' libraries, packs of engines."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from inspector import adapters
from inspector.config import RuntimeConfig
from inspector.doctor.findings import Finding, State
from inspector.errors import ConfigError, InspectorError
from inspector.events import short_digest
from inspector.pack import MANIFEST, Pack, load

IMPORT_TIMEOUT_S = 60.0

NEEDED = {
    "cv2": "opencv-python-headless",
    "jinja2": "jinja2",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "prometheus_client": "prometheus-client",
    "rich": "rich",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
"""Module -> distribution; the same as `dependencies` in pyproject.toml (a test compares them)."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor's Python package and the adapter (seam, kind) that uses it."""

    module: str
    install: str
    seam: str
    kind: str
    needs_gpu: bool = False


VENDORS = (
    Vendor("tensorrt", "pip install 'inspector[gpu]'", "runtimes", "tensorrt", needs_gpu=True),
    Vendor("tensorrt_rtx", "pip install tensorrt-rtx", "runtimes", "tensorrt", needs_gpu=True),
    Vendor("pycuda.driver", "pip install 'inspector[gpu]'", "runtimes", "tensorrt", needs_gpu=True),
    Vendor("cuda.bindings", "pip install 'inspector[gpu]'", "runtimes", "tensorrt", needs_gpu=True),
    Vendor("openvino", "pip install openvino", "runtimes", "openvino"),
    Vendor("pypylon", "pip install pypylon", "cameras", "basler"),
    Vendor("harvesters", "pip install harvesters", "cameras", "gentl"),
)


def examine(driver: str | None) -> Iterator[Finding]:
    """Every row about software but for packs; `driver` is the NVIDIA driver's version, None without one."""
    yield _python()
    yield from (_package(module, name) for module, name in NEEDED.items())
    yield from runtimes(driver)
    yield from cameras(driver)
    yield from (_adapter("sinks", kind) for kind in adapters.kinds("sinks"))


def _python() -> Finding:
    found = f"{platform.python_version()} in {sys.prefix}"
    return Finding(section="software", name="Python", state=State.OK, found=found, needed=True)


def _package(module: str, distribution: str) -> Finding:
    try:
        importlib.import_module(module)
        found, state, mend = metadata.version(distribution), State.OK, ""
    except (ImportError, metadata.PackageNotFoundError) as error:
        found, state, mend = str(error), State.MISSING, f"pip install --force-reinstall {distribution}"
    return Finding(section="software", name=distribution, state=state, found=found, mend=mend, needed=True)


# ---------------------------------------------------------------- adapters and what they need


def runtimes(driver: str | None) -> Iterator[Finding]:
    """Runtime adapters, ONNX Runtime's devices, and vendors' libraries."""
    yield from (_adapter("runtimes", kind) for kind in adapters.kinds("runtimes"))
    yield _providers()
    yield from (_vendor(vendor, driver) for vendor in VENDORS if vendor.seam == "runtimes")


def cameras(driver: str | None) -> Iterator[Finding]:
    """Camera adapters and vendors' libraries."""
    yield from (_adapter("cameras", kind) for kind in adapters.kinds("cameras"))
    yield _aravis()
    yield from (_vendor(vendor, driver) for vendor in VENDORS if vendor.seam == "cameras")


def _adapter(seam: str, kind: str) -> Finding:
    needed = (seam, kind) == ("runtimes", RuntimeConfig().kind)
    good, found, mend = _load_adapter(seam, kind)
    state = State.OK if good else State.MISSING
    return Finding(section=seam, name=kind, state=state, found=found, mend=mend, needed=needed)


def _load_adapter(seam: str, kind: str) -> tuple[bool, str, str]:
    """(it loads, what was found, what mends it); one that stands on a vendor's library in a process of its own."""
    try:
        if (seam, kind) in {(vendor.seam, vendor.kind) for vendor in VENDORS}:
            good, found = try_import(f"inspector.{seam}.{kind}")
            return (True, f"kind: {kind}", "") if good else (False, found, f"pip install 'inspector[{kind}]'")
        adapters.module(seam, kind, seam)
    except ConfigError as error:
        found, _, mend = str(error).partition(" Try: ")
        return False, found, mend
    except Exception as error:  # whatever is wrong with one adapter, the report goes on
        return False, f"cannot be loaded: {type(error).__name__}: {error}", "Install this release again"
    return True, f"kind: {kind}", ""


def _providers() -> Finding:
    name, wanted = "ONNX Runtime's devices", "CPUExecutionProvider"
    try:
        found = list(importlib.import_module("onnxruntime").get_available_providers())
    except (ImportError, AttributeError) as error:
        found = [str(error)]
    state = State.OK if wanted in found else State.MISSING
    mend = "" if state is State.OK else "pip install --force-reinstall onnxruntime"
    return Finding(section="runtimes", name=name, state=state, found=", ".join(found), mend=mend, needed=True)


def _vendor(vendor: Vendor, driver: str | None) -> Finding:
    state, found, mend = _judge(vendor, driver)
    return Finding(section=vendor.seam, name=vendor.module, state=state, found=found, mend=mend)


def _judge(vendor: Vendor, driver: str | None) -> tuple[State, str, str]:
    """(state, what was found, what mends it)."""
    if not _is_installed(vendor.module):
        return _absent(vendor.seam, vendor.kind, vendor.install)
    if vendor.needs_gpu and driver is None:
        return State.WARNING, "installed; not loaded, as it may crash without an NVIDIA driver", "See the row GPU"
    good, found = try_import(vendor.module)
    if not good:
        return State.WARNING, f"installed, but {found}", f"{vendor.install} --force-reinstall"
    if vendor.kind not in adapters.kinds(vendor.seam):
        return State.WARNING, f"{found}, but this release has no adapter `{vendor.kind}` that uses it", ""
    return State.OK, found, ""


def _absent(seam: str, kind: str, install: str) -> tuple[State, str, str]:
    if kind in adapters.kinds(seam):
        return State.MISSING, "not installed", f"Only for kind: {kind}: {install}"
    return State.MISSING, f"not installed, and this release has no adapter `{kind}` that would use it", ""


def _aravis() -> Finding:
    library = ctypes.util.find_library("aravis-0.8")
    if library is None:
        state, found, mend = _absent("cameras", "gige", "apt-get install libaravis-0.8-0")
    elif "gige" not in adapters.kinds("cameras"):
        state, found, mend = State.WARNING, f"{library}, but this release has no adapter `gige` that uses it", ""
    else:
        state, found, mend = State.OK, library, ""
    return Finding(section="cameras", name="Aravis", state=state, found=found, mend=mend)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def try_import(module: str) -> tuple[bool, str]:
    """Import in a process of its own, as a vendor's library may crash or hang: (True, version) or (False, why)."""
    code = "import importlib, sys; m = importlib.import_module(sys.argv[1]); print(getattr(m, '__version__', 'loads'))"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, module],
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"its import did not end in {IMPORT_TIMEOUT_S:.0f} s"
    if done.returncode < 0:
        return False, f"its import crashed with signal {-done.returncode}"
    if done.returncode:
        return False, f"it cannot be imported: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    return True, (done.stdout.strip().splitlines() or ["loads"])[-1]


# ---------------------------------------------------------------- packs


def packs(folders: Sequence[Path]) -> Iterator[Finding]:
    """Every pack in or below `folders`, verified, and run once on the default runtime.

    A folder that was named must hold good packs only; of the usual places it is enough that one pack is good.
    """
    found = [_pack(folder) for folder in pack_folders(folders)]
    if not found:
        yield _no_pack(folders)
    spare = not folders and any(finding.state is State.OK for finding in found)
    for finding in found:
        yield Finding(
            section="packs",
            name=finding.name,
            state=State.WARNING if spare and finding.state is State.MISSING else finding.state,
            found=finding.found,
            mend=finding.mend,
            needed=True,
        )


def usual_folders() -> list[Path]:
    """`engines` here, and beside the package in a checkout."""
    beside = Path(__file__).resolve().parents[2] / "engines"
    here = Path("engines")
    return [here] if here.resolve() == beside else [here, beside]


def pack_folders(folders: Sequence[Path]) -> Iterator[Path]:
    """The packs in or below these folders, or where packs usually lie if none is named."""
    for folder in folders or usual_folders():
        inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
        yield from [folder] if (folder / MANIFEST).exists() else inside


def _no_pack(folders: Sequence[Path]) -> Finding:
    looked = ", ".join(str(folder) for folder in folders or usual_folders())
    mend = "Name the folder of a pack: inspector doctor engines/severstal; or train one: python -m build_engines --help"
    found = f"none in {looked}"
    return Finding(section="packs", name="pack", state=State.MISSING, found=found, mend=mend, needed=True)


def _pack(folder: Path) -> Finding:
    try:
        pack = load(folder)
        found = f"{_describe(pack)}; {_try_out(pack)}"
    except InspectorError as error:
        what, _, mend = str(error).partition(". ")
        return Finding(section="packs", name=str(folder), state=State.MISSING, found=what, mend=mend)
    return Finding(section="packs", name=str(folder), state=State.OK, found=found)


def _describe(pack: Pack) -> str:
    classes = ", ".join(f"{number} {name}" for number, name in pack.class_names.items())
    tile, digest = pack.manifest.tile, short_digest(pack.digest)
    return f"{pack.manifest.name} {pack.manifest.version}, {digest}, tile {tile.height}x{tile.width} px, {classes}"


def _try_out(pack: Pack) -> str:
    """Load and warm all networks on the default runtime: that they are unaltered does not say that they run here."""
    adapter = adapters.module("runtimes", RuntimeConfig().kind, "runtime")
    began = time.perf_counter()
    with adapter.open(adapter.Options(), pack) as runtime:
        return f"runs on {runtime.name}, warm in {time.perf_counter() - began:.1f} s"
