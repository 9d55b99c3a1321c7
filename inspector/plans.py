"""The cache of GPU plans: which plan was built from what, for what, and what has changed since.

A plan (TensorRT calls it an engine) runs on the GPU, TensorRT and driver that it was built with, and nowhere else.
So its key names all of them; a plan with another key is never loaded, and nothing here builds one: that is
`python -m build_engines build`, which may take minutes. A folder of the cache:

    <network>/<first 16 digits of the key's digest>.plan     the plan
    <network>/<the same>.json                                its key, its SHA-256, when and how long it was built
    timing.<library>.<version>.<gpu>.cache                   what the builder measured, so that the next build is short
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from inspector.durable import write_whole
from inspector.errors import PackError

Precision = Literal["fp16", "fp32"]
ANY = "any"
"""The GPU and driver of a plan that was built ahead of time: TensorRT-RTX finishes it where it runs."""

SAID = {
    "onnx": "the network (its ONNX file)",
    "library": "the library",
    "version": "the version of TensorRT",
    "gpu": "the GPU",
    "driver": "the NVIDIA driver",
    "precision": "the precision",
    "profile": "the batch sizes",
    "outputs": "what the plan gives",
}


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a plan was built from and for; a plan serves only where all of it is the same."""

    network: str
    """`gate`, `types`, `segment_<class number>`."""
    onnx: str
    """SHA-256 of the file it is built from, as the pack's manifest names it, hexadecimal."""
    library: Literal["TensorRT", "TensorRT-RTX"]
    version: str
    gpu: str
    """Its model as the driver names it, such as NVIDIA H200, or `any`."""
    driver: str
    precision: Precision
    profile: tuple[int, int, int]
    """Tiles in a batch: the fewest, those that the plan is tuned for, the most."""
    outputs: str
    """The plan's outputs; where the network of the pack gives fewer, the rest was added as this version does it."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]


class Sidecar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands beside a plan."""

    key: Key
    sha256: str
    """Of the plan."""
    built_ns: int
    seconds: float
    derived: str
    """SHA-256 of the graph that the parser was given: in the plan's precision, with the outputs added."""


SERVICE = Path("/var/cache/inspector")
"""The CacheDirectory of deploy/inspector.service."""


def default_folder() -> Path:
    """Where plans lie when nobody says: in the service's cache where there is one that this user may read, so that all
    commands look where the service does; else in the user's."""
    if given := units_folder():
        return given
    if os.access(SERVICE, os.R_OK | os.X_OK):
        return SERVICE / "plans"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inspector" / "plans"


def units_folder() -> Path | None:
    """The folder in systemd's CacheDirectory, where this process is a unit's."""
    given = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    return Path(given) / "plans" if given else None


class Cache:
    """The plans in a folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: Key) -> bytes | None:
        """The plan of exactly this key; None if there is none.

        Raises:
            PackError: it is there and was altered, or cannot be read.
        """
        plan = self._plan(key)
        try:
            sidecar = _read(plan.with_suffix(".json"))
            content = plan.read_bytes() if sidecar is not None else b""
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise PackError(f"{plan}: cannot be read: {error.strerror}. Give this user the right to read it") from None
        if sidecar is None or sidecar.key != key:
            return None
        if hashlib.sha256(content).hexdigest() != sidecar.sha256:
            raise PackError(f"{plan}: the plan was altered or is torn. Delete it and build it again: {BUILD}")
        return content

    def prepare(self, networks: Iterable[str]) -> None:
        """Make sure that plans of these networks can be put. Raises OSError."""
        for network in networks:
            folder = self.folder / network
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass

    def put(self, key: Key, plan: bytes, *, built_ns: int, seconds: float, derived: str = "") -> Path:
        """Keep a plan: whole, or not at all. Raises OSError."""
        file = self._plan(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(plan).hexdigest()
        sidecar = Sidecar(key=key, sha256=digest, built_ns=built_ns, seconds=round(seconds, 3), derived=derived)
        file.with_suffix(".json").unlink(missing_ok=True)  # until the new plan is whole there is none
        _write(file, plan)
        _write(file.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(sidecar)) + b"\n")
        return file

    def why_not(self, key: Key) -> str:
        """In words, why there is no plan for `key`: what changed since the one that is most like it."""
        others = [sidecar.key for sidecar in self._of(key.network)]
        if not others:
            return f"{key.network}: no plan was built yet"
        nearest = min(others, key=lambda other: len(changes(other, key)))
        if nearest == key:
            return f"{key.network}: {self._plan(key)} is gone, though what stands beside it is there"
        return f"{key.network}: " + "; ".join(changes(nearest, key))

    def alike(self, key: Key) -> list[Key]:
        """The plans that would serve here too if the line asked for their precision and batch sizes."""
        free = {"precision", "profile"}
        fixed = [field for field in Key.__struct_fields__ if field not in free]
        found = [sidecar.key for sidecar in self._of(key.network)]
        return [other for other in found if all(getattr(other, field) == getattr(key, field) for field in fixed)]

    def timing(self, key: Key) -> Path:
        """The builder's own cache of measurements for the library and GPU of `key`."""
        parts = (key.library, key.version, key.gpu)
        return self.folder / f"timing.{'.'.join(re.sub(r'[^A-Za-z0-9.-]+', '_', part) for part in parts)}.cache"

    def _plan(self, key: Key) -> Path:
        return self.folder / key.network / f"{key.digest}.plan"

    def _of(self, network: str) -> Iterator[Sidecar]:
        """Every plan of a network, the newest first."""
        found = [_known(path) for path in (self.folder / network).glob("*.json")]
        yield from sorted((each for each in found if each is not None), key=lambda each: -each.built_ns)


BUILD = "python -m build_engines build --pack DIR"


def changes(built: Key, wanted: Key) -> list[str]:
    """In words, what differs between the plan that was built and the one that is wanted."""
    return [
        f"{words} changed: built for {_shown(getattr(built, field))}, here {_shown(getattr(wanted, field))}"
        for field, words in SAID.items()
        if getattr(built, field) != getattr(wanted, field)
    ]


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text


def _read(sidecar: Path) -> Sidecar | None:
    """None if it is torn, or of another version of this program. Raises OSError."""
    try:
        return msgspec.json.decode(sidecar.read_bytes(), type=Sidecar)
    except msgspec.DecodeError:
        return None


def _known(sidecar: Path) -> Sidecar | None:
    """As `_read`; None too where it cannot be read: a builder takes it away before it puts a new plan there."""
    try:
        return _read(sidecar)
    except OSError:
        return None


def _write(file: Path, content: bytes) -> None:
    write_whole(file, content, f"{os.getpid()}.part")  # two may build at once
