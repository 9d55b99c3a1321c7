"""A pack with another manifest: the networks are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from inspector.pack import MANIFEST


def othered(pack: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the pack as `folder`, with its manifest as `change` leaves it."""
    shutil.copytree(pack, folder)
    file = folder / MANIFEST
    manifest = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(manifest)
    file.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return folder
