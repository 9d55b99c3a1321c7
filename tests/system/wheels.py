"""Wheels of what is installed here, so that a release can be installed where there is no network."""

from __future__ import annotations

import re
import zipfile
from importlib import metadata
from itertools import product
from pathlib import Path

from packaging.requirements import Requirement

LEFT_OUT = re.compile(
    r"^/\.\.|\.pyc$|/(INSTALLER|REQUESTED)$|/tests/|^/onnxruntime/(transformers|tools|quantization)/"
    r"|^/numpy/(distutils|f2py)/|^/pygments/lexers/[a-z]"
)
"""What pip makes itself, programs beside the packages, and thousands of files that the daemon never imports."""


def wheelhouse(folder: Path, *names: str) -> Path:
    """Wheels of these distributions and of all that they need, made of their installed files; returns `folder`."""
    folder.mkdir()
    wanted, seen = list(names), set[str]()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        needed = map(Requirement, found.requires or ())
        wanted += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
        if name != "inspector":
            _pack(found, folder)
    return folder


def _pack(found: metadata.Distribution, folder: Path) -> None:
    tags = [line.split(": ")[1].split("-") for line in (found.read_text("WHEEL") or "").splitlines() if "Tag: " in line]
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    assert len(tags) == len(list(product(*(part.split(".") for part in tag.split("-")))))
    name = re.sub(r"[-_.]+", "_", found.metadata["Name"])
    with zipfile.ZipFile(folder / f"{name}-{found.version}-{tag}.whl", "w", zipfile.ZIP_STORED) as wheel:
        for file in found.files or ():
            if not LEFT_OUT.search(f"/{file}"):
                wheel.write(str(found.locate_file(file)), str(file))
