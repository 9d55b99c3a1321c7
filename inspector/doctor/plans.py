"""GPU plans: is there one of each network for this GPU, TensorRT and driver, and if not, what changed?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from inspector.doctor.findings import Finding, State
from inspector.doctor.software import pack_folders, try_import
from inspector.errors import InspectorError, PackError
from inspector.pack import Pack, load
from inspector.plans import Cache, default_folder
from inspector.runtimes._tensorrt import AHEAD_OF_TIME, INSTALL, MODULES, Flavour, Gpu, Target, gpus, key_of
from inspector.runtimes.tensorrt import Options, build_command

SECTION = "plans"


def examine(folders: Sequence[Path], root: Path) -> Iterator[Finding]:
    """A row for each network; none at all without a GPU."""
    here = gpus(root / "proc/driver/nvidia")
    if here:
        yield from rows(folders, here, versions(), Cache(default_folder()))


def versions() -> dict[Flavour, str]:
    """NVIDIA's libraries that can be imported here; in a process of their own, as one may crash."""
    found: dict[Flavour, str] = {}
    for flavour, modules in MODULES.items():
        answers = (try_import(module) for module in modules)
        version = next((version for good, version in answers if good), None)
        if version is not None:
            found[flavour] = version
    return found


def rows(
    folders: Sequence[Path], here: Sequence[Gpu], versions: Mapping[Flavour, str], cache: Cache
) -> Iterator[Finding]:
    """The rows for these GPUs and libraries."""
    if not versions:
        found = "no library that could run any"
        mend = f"Only for kind: tensorrt: {INSTALL['TensorRT']}"
        yield Finding(section=SECTION, name="TensorRT", state=State.MISSING, found=found, mend=mend)
        return
    flavour, version = next(iter(versions.items()))  # TensorRT where it is installed, as the runtime's default
    models: dict[tuple[str, str], int] = {}
    for number, each in enumerate(here):
        models.setdefault((each.name, each.driver), number)
    for folder in pack_folders(folders):
        try:
            pack = load(folder)
        except InspectorError:
            continue  # its own row says what is wrong with it
        for (gpu, driver), number in models.items():
            target = Target(gpu, driver, "fp16", Options().batch)
            yield from _networks(pack, flavour, version, target, number, cache)


def _networks(
    pack: Pack, flavour: Flavour, version: str, target: Target, number: int, cache: Cache
) -> Iterator[Finding]:
    options = Options(library="tensorrt" if flavour == "TensorRT" else "rtx")
    for network, (_, digest) in pack.for_gpu("fp16").items():
        state, found = _plan(flavour, version, target, network, digest, cache)
        mend = "" if state is State.OK else build_command(options, pack, number)
        name = f"{pack.manifest.name} {network}"
        yield Finding(section=SECTION, name=name, state=state, found=found, mend=mend)


def _plan(flavour: Flavour, version: str, target: Target, network: str, digest: str, cache: Cache) -> tuple[State, str]:
    """(state, what was found)."""
    key = key_of(flavour, version, target, network, digest)
    keys = [key]
    if flavour == "TensorRT-RTX":
        keys.append(key_of(flavour, version, Target(*AHEAD_OF_TIME, target.precision, target.profile), network, digest))
    for each in keys:
        try:
            if cache.find(each) is not None:
                return State.OK, f"a plan for {each.gpu}, {each.library} {each.version}"
        except PackError as error:
            return State.MISSING, str(error)
        others = cache.alike(each)
        if others:
            sizes = "/".join(map(str, others[0].profile))
            return State.OK, f"a plan for {each.gpu}, in {others[0].precision} and for batches of {sizes} tiles"
    return State.MISSING, cache.why_not(key).removeprefix(f"{network}: ")
