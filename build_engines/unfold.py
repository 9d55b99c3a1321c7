"""A pack's networks as a run to go on from, so that a mill's own frames can teach the shipped networks more.

Export folded every batch norm into the convolution before it. Unfolding gives each convolution a batch norm back whose
statistics are what frames show there and whose gain and offset undo it: the network answers as before and can learn.
The gate of an older pack, which learnt one score for all classes, is left for a copy of types, which knows more
(docs/training.md). A pack ships no teacher. Types and segmenters all began as one, so the mean of their weights is
close to it; its pixel heads are those of the segmenters, its map head is that of types.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from build_engines import splits
from build_engines.datasets import Sample, fit, picture
from build_engines.networks import prepare
from build_engines.runs import Facts, blank, save_facts, save_weights
from inspector.errors import ConfigError
from inspector.pack import Pack

FRAMES = 24
"""Frames whose statistics the batch norms take."""

LOG = logging.getLogger(__name__)

HELD = "network."
"""What the names of a deployed network's weights begin with."""

Weights = dict[str, Tensor]


def unfold(pack: Pack, samples: Sequence[Sample], parts: dict[str, str], out: Path) -> None:
    """Write a run with the pack's teacher and gate; `parts` is the split that the pack was trained with.

    Raises:
        ConfigError: a network of the pack was not exported by this tool's `export`.
    """
    graphs = {name: _read(file) for name, (file, _) in pack.for_gpu("fp32").items()}  # int8 ones keep their original
    numbers = [entry.number for entry in pack.manifest.classes]
    if not _fits(graphs["gate"].weights, blank("gate", len(numbers))):
        LOG.warning("the pack's gate is of another architecture: it begins with what types knows")
        graphs["gate"] = graphs["types"]
    scales = {name: graph.scale for name, graph in graphs.items()}
    tile = pack.manifest.tile
    facts = Facts(
        classes=numbers,
        names=pack.class_names,
        scale=scales["types"],
        gate_scale=scales["gate"],
        height=tile.height,
        width=tile.width,
    )
    chosen = list(samples)[:: max(1, len(samples) // FRAMES)][:FRAMES]
    frames = [torch.from_numpy(fit(picture(sample), tile.height, tile.width))[None, None] for sample in chosen]
    segmenters = [graphs[f"segment_{number}"].weights for number in numbers]
    wanted = {"gate": graphs["gate"].weights, "teacher": _teacher(graphs["types"].weights, segmenters)}
    save_facts(facts, out)
    splits.save(parts, out / "split.json")
    for name, weights in wanted.items():
        network = blank(name, len(numbers)).eval()
        if not _fits(weights, network):
            raise ConfigError(f"{pack.folder}: its networks are of another architecture. Train from the beginning")
        give_back_norms(network, weights, [prepare(frame, scales.get(name, facts.scale)) for frame in frames])
        save_weights(name, network.state_dict(), out)


@dataclass(frozen=True)
class _Graph:
    weights: Weights
    scale: int


def _read(file: Path) -> _Graph:
    model = onnx.load(str(file))
    held = [own for own in model.graph.initializer if own.name.startswith(HELD)]
    weights = {
        own.name.removeprefix(HELD): torch.from_numpy(np.array(numpy_helper.to_array(own), dtype=np.float32))
        for own in held
    }
    if "encoder.stem.0.weight" not in weights:
        raise ConfigError(f"{file}: holds no weights under their names. Name a pack as `export` wrote it")
    pools = [node for node in model.graph.node if node.op_type == "AveragePool"]
    kernel = [value for node in pools[:1] for own in node.attribute if own.name == "kernel_shape" for value in own.ints]
    return _Graph(weights, kernel[0] if kernel else 1)


def _teacher(types: Weights, segmenters: Sequence[Weights]) -> Weights:
    def mean(key: str) -> Tensor:
        return torch.stack([own[key] for own in (types, *segmenters) if key in own]).mean(dim=0)

    found = {key: mean(key) for key in segmenters[0] if not key.startswith("pixels.")}
    for key in ("pixels.weight", "pixels.bias"):
        found[key] = torch.cat([own[key] for own in segmenters])
    return found | {key: value for key, value in types.items() if key.startswith("head.")}


def _fits(weights: Weights, network: nn.Module) -> bool:
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    same = all(shapes.get(key, value.shape) == value.shape for key, value in weights.items())
    return same and set(weights) == _folded(network)


def _folded(network: nn.Module) -> set[str]:
    """Names of a network's weights once its batch norms are folded."""
    owners = {name: own for name, own in network.named_modules() if isinstance(own, nn.Conv2d)}
    own = {f"{name}.{kind}" for name in owners for kind in ("weight", "bias")}
    return own | {key for key, _ in network.named_parameters() if key.endswith(("gain", "offset"))}


@torch.no_grad()
def give_back_norms(network: nn.Module, folded: Weights, frames: Iterable[Tensor]) -> None:
    """Fill a network, which is in evaluation mode, with folded weights; see the head of this file."""
    state = network.state_dict()
    state |= {key: value for key, value in folded.items() if key in state}
    network.load_state_dict(state)
    norms = {name: own for name, own in network.named_modules() if isinstance(own, nn.BatchNorm2d)}
    seen: dict[str, list[Tensor]] = {name: [] for name in norms}
    for name, norm in norms.items():
        before, _, number = name.rpartition(".")
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)
        norm.weight.fill_(1.0)
        norm.bias.copy_(folded[f"{before}.{int(number) - 1}.bias"])

    def watch(name: str) -> None:
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name].append(torch.stack([inputs[0].mean(dim=(0, 2, 3)), inputs[0].square().mean(dim=(0, 2, 3))]))

        norms[name].register_forward_pre_hook(look)

    for name in norms:
        watch(name)
    for grey in frames:
        network(grey)
    for name, norm in norms.items():
        mean, square = torch.stack(seen[name]).mean(dim=0)
        spread = (square - mean.square()).clamp(min=0)
        norm.running_mean = mean.clone()
        norm.running_var = spread
        norm.weight.copy_((spread + norm.eps).sqrt())
        norm.bias.add_(mean)
