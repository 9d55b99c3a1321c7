"""Trained networks to a pack: ONNX opset 17, uint8 in, nothing left to the host, parity with torch checked."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
import yaml
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from build_engines.networks import Classifier, Segmenter, prepare
from inspector.pack import MANIFEST, Manifest, TileSize

OPSET = 17
QUARTER = 4.0
"""Segmenters answer at a quarter of the camera's resolution; the graph scales that up."""


class ParityError(Exception):
    """The exported graph answers otherwise than the network it was made from."""


class DeployedGate(nn.Module):
    """uint8 [batch, 1, H, W] -> probability of any defect, float32 [batch]."""

    output = "score"

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        scores: Tensor = torch.sigmoid(self.network(prepare(frames))[1])
        return scores[:, 0]


class DeployedTypes(DeployedGate):
    """uint8 [batch, 1, H, W] -> probability of each class, float32 [batch, classes]."""

    output = "scores"

    def forward(self, frames: Tensor) -> Tensor:
        return torch.sigmoid(self.network(prepare(frames))[1])


class DeployedSegmenter(nn.Module):
    """uint8 [batch, 1, H, W] -> probability of the class, uint8 [batch, H, W], 255 = certain."""

    output = "probability"

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        coarse = torch.sigmoid(self.network(prepare(frames))) * 255.0
        full = nn.functional.interpolate(coarse, scale_factor=QUARTER, mode="bilinear", align_corners=False)
        return (full + 0.5).to(torch.uint8)[:, 0]


Deployed = DeployedGate | DeployedTypes | DeployedSegmenter


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy, in evaluation mode, whose every convolution has swallowed the batch norm that follows it."""
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for name, follower in list(module._modules.items()):
            before = module._modules.get(str(int(name) - 1)) if name.isdigit() else None
            if isinstance(before, nn.Conv2d) and isinstance(follower, nn.BatchNorm2d):
                module._modules[str(int(name) - 1)] = fuse_conv_bn_eval(before, follower)
                module._modules[name] = nn.Identity()
    return folded


def export_network(deployed: Deployed, tile: TileSize, file: Path) -> None:
    """Write one network as ONNX and check it against torch.

    Raises:
        ParityError: ONNX Runtime and torch differ by more than rounding.
    """
    folded = fold_batch_norms(deployed)
    example = torch.zeros(1, 1, tile.height, tile.width, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter is called old; its graph is the cleaner one
        torch.onnx.export(
            folded,
            (example,),
            str(file),
            opset_version=OPSET,
            dynamo=False,
            input_names=["frames"],
            output_names=[deployed.output],
            dynamic_axes={"frames": {0: "batch"}, deployed.output: {0: "batch"}},
        )
    onnx.checker.check_model(onnx.load(str(file)), full_check=True)
    check_parity(deployed, tile, file)


def check_parity(deployed: Deployed, tile: TileSize, file: Path, batch: int = 3) -> None:
    """Raise ParityError unless torch (before folding) and ONNX Runtime agree on noise of `batch` tiles."""
    noise = np.random.default_rng(0).integers(0, 256, (batch, 1, tile.height, tile.width), dtype=np.uint8)
    with torch.inference_mode():
        wanted = deployed.eval()(torch.from_numpy(noise)).numpy()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(None, {"frames": noise})[0]
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise ParityError(f"{file}: {found.dtype}{found.shape} instead of {wanted.dtype}{wanted.shape}")
    allowed = 1.0 if wanted.dtype == np.uint8 else 1e-3
    worst = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    if worst > allowed:
        raise ParityError(f"{file}: differs from torch by {worst:.4g}, allowed {allowed}")


def digest(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def export_all(networks: Mapping[str, Deployed], tile: TileSize, folder: Path) -> dict[str, str]:
    """Export every network to `folder`/<name>.onnx; name -> SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for name, deployed in networks.items():
        file = folder / f"{name}.onnx"
        export_network(deployed, tile, file)
        digests[name] = digest(file)
    return digests


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `folder`/manifest.yaml."""
    content: Any = msgspec.to_builtins(manifest)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def put_in_place(built: Path, folder: Path) -> None:
    """Move a finished pack to where it is used; no reader ever sees half of one, only the old or the new."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(built, folder)
    shutil.rmtree(old, ignore_errors=True)
