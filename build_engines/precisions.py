"""precisions.yaml of a pack: which file of each network runs where, in which precision, with its SHA-256.

The manifest names the file for the CPU alone. A builder of GPU plans takes the `gpu` file of a network from here, and
checks its digest, for a strongly typed TensorRT network has the precision of its graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from build_engines.files import digest, write_whole
from inspector.pack import Pack

FILE = "precisions.yaml"


def twin_of(folder: Path, network: str) -> Path:
    """Where the float16 twin of a network lies."""
    return folder / f"{network}.fp16.onnx"


def write(pack: Pack, found: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the file of a pack; `found` has more to tell of some networks, such as what int8 was measured at."""
    more = found or {}
    rows = {name: _row(pack, name, file) | dict(more.get(name, {})) for name, (file, _) in pack.networks().items()}
    write_whole(pack.folder / FILE, yaml.safe_dump(rows, sort_keys=False).encode())


def _row(pack: Pack, network: str, file: Path) -> dict[str, Any]:
    precision = "int8" if file.name.endswith(".int8.onnx") else "float32"
    places = {"cpu": {"file": file.name, "precision": precision, "sha256": digest(file)}}
    twin = twin_of(pack.folder, network)
    if twin.is_file():
        places["gpu"] = {"file": twin.name, "precision": "float16", "sha256": digest(twin)}
    return dict(places)
