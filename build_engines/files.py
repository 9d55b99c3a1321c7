"""Files that are whole or not there, what identifies them, and a manifest's text."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import yaml

from inspector.pack import Manifest


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that is whole or as it was before, whatever happens."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.part")
    with half.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(half, file)


def digest(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def manifest_text(manifest: Manifest) -> str:
    """A manifest as YAML."""
    content: Any = msgspec.to_builtins(manifest)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
