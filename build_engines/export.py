"""Trained networks to a pack: ONNX opset 17, uint8 in, nothing left to the host, parity with torch checked."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from build_engines.defaults import SCALE
from build_engines.files import digest, naming
from build_engines.networks import PIXEL_STRIDE, Classifier, Segmenter, any_of, prepare
from inspector.errors import InspectorError
from inspector.pack import TileSize, Twin

OPSET = 17
HALF_TOLERANCE = {"uint8": 12.0, "float32": 2e-2}
"""What an FP16 twin may differ from its original on noise, by the type of the answer (255 is certainty)."""

KEPT_WHOLE = ["ReduceLogSumExp", "Exp", "Log", "ReduceSum"]
"""Operators that stay in float32 in an FP16 twin: e to the 12 is beyond what 16 bits can tell."""


class ParityError(InspectorError):
    """The exported graph answers otherwise than the network it was made from."""


class DeployedGate(nn.Module):
    """uint8 [batch, 1, H, W] -> probability of any defect, float32 [batch]."""

    output = "score"

    def __init__(self, network: Classifier, scale: int = SCALE) -> None:
        super().__init__()
        self.network = network
        self.scale = scale

    def forward(self, frames: Tensor) -> Tensor:
        return torch.sigmoid(any_of(self.network(prepare(frames, self.scale))[1]))


class DeployedTypes(DeployedGate):
    """uint8 [batch, 1, H, W] -> probability of each class, float32 [batch, classes]."""

    output = "scores"

    def forward(self, frames: Tensor) -> Tensor:
        return torch.sigmoid(self.network(prepare(frames, self.scale))[1])


class DeployedSegmenter(nn.Module):
    """uint8 [batch, 1, H, W] -> probability of the class, uint8 [batch, H, W], 255 = certain."""

    output = "probability"

    def __init__(self, network: Segmenter, scale: int = SCALE) -> None:
        super().__init__()
        self.network = network
        self.scale = scale

    def forward(self, frames: Tensor) -> Tensor:
        """The network answers at 1 / (PIXEL_STRIDE x scale) of the camera's resolution; the graph scales that up."""
        coarse = torch.sigmoid(self.network(prepare(frames, self.scale))) * 255.0
        factor = float(PIXEL_STRIDE * self.scale)
        full = nn.functional.interpolate(coarse, scale_factor=factor, mode="bilinear", align_corners=False)
        return (full[:, 0] + 0.5).to(torch.uint8)  # the cast is last: TensorRT knows uint8 at the ends of a graph only


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
    with warnings.catch_warnings(), naming(file):
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
    noise = _noise(tile, batch)
    with torch.inference_mode():
        wanted = deployed.eval()(torch.from_numpy(noise)).numpy()
    remedy = "Remove its checkpoint from the run and train it again"
    _compare(file, _answer(file, noise), wanted, 1.0 if wanted.dtype == np.uint8 else 1e-3, remedy)


def _noise(tile: TileSize, batch: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, 1, tile.height, tile.width), dtype=np.uint8)


def _answer(file: Path, frames: NDArray[np.uint8]) -> NDArray[Any]:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"frames": frames})[0])


def _compare(file: Path, found: NDArray[Any], wanted: NDArray[Any], allowed: float, remedy: str) -> None:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise ParityError(f"{file}: {found.dtype}{found.shape} instead of {wanted.dtype}{wanted.shape}. {remedy}")
    worst = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    if not worst <= allowed:  # a network that answers nan is no better
        raise ParityError(f"{file}: differs from its original by {worst:.4g}, allowed {allowed}. {remedy}")


def twin_of(folder: Path, network: str) -> Path:
    """Where the float16 twin of a network lies."""
    return folder / f"{network}.fp16.onnx"


def half_twin(file: Path, tile: TileSize) -> Path:
    """Write <network>.fp16.onnx beside an exported network: float16 inside, the same input and output.

    A strongly typed TensorRT network takes its precision from the graph, so a GPU needs this file for FP16. The
    conversion and the sort are those that its parser accepts (RUNTIMES: onnxconverter_common's output is rejected).

    Raises:
        ParityError: it answers otherwise than its original by more than 16 bits explain.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    twin = twin_of(file.parent, file.stem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constants that 16 bits flush to zero, which the parity check judges
        blocked = [*DEFAULT_OP_BLOCK_LIST, *KEPT_WHOLE]
        blocked = [operator for operator in blocked if operator not in ("Resize", "Upsample")]
        converted = convert_float_to_float16(onnx.load(str(file)), keep_io_types=True, op_block_list=blocked)
    model = OnnxModel(converted)
    model.topological_sort()
    with naming(twin):
        onnx.save(model.model, str(twin))
    noise = _noise(tile, 2)
    wanted = _answer(file, noise)
    remedy = "Leave the twins out: --without-twins"
    _compare(twin, _answer(twin, noise), wanted, HALF_TOLERANCE[str(wanted.dtype)], remedy)
    return twin


def export_all(
    networks: Mapping[str, Deployed], tile: TileSize, folder: Path, twins: bool = True
) -> dict[str, dict[str, Any]]:
    """Export every network to `folder`/<name>.onnx, with its twin; name -> what the manifest says of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Any]] = {}
    for name, deployed in networks.items():
        file = folder / f"{name}.onnx"
        export_network(deployed, tile, file)
        files[name] = {"file": file.name, "sha256": digest(file)}
        if twins:
            twin = half_twin(file, tile)
            files[name]["gpu"] = Twin(file=twin.name, sha256=digest(twin))
    return files
