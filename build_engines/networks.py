"""The networks of a pack: EfficientNet-Lite0 encoders (ReLU6, no squeeze-excite) with a map head or a light decoder.

All of them take `grey`, float32 [batch, 1, height / scale, width / scale] as `prepare` makes it; export puts `prepare`
into the graph, so the host hands over the camera's uint8 as it is.
Source of the encoder: EfficientNet-Lite0, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from build_engines.defaults import SCALE

MEAN, DEVIATION = 0.344, 0.196
"""Mean grey and standard deviation of the public Severstal training set, in units of full white."""

PIXEL_STRIDE, CELL_STRIDE = 2, 16
"""Pixels of the network's own input along a side of one of the segmenters' pixels, and of one of a map's cells. Sides
of a tile are multiples of CELL_STRIDE x scale, so that every halving inside the networks is exact."""

STEM_CHANNELS = 32
PRIOR = -3.5
"""Logit of a cell's chance to be defect before anything is learnt: about 3 %."""

BATCH_NORM_EPSILON = 1e-3

SHARPNESS = 3.0
"""How close a map's pooling is to its maximum. With 1, the sum of a whole frame's clean cells outweighs a small defect:
the AUROC of one and the same gate on small defects was 0.77, and 0.84 with 3."""


@dataclass(frozen=True)
class Stage:
    """A run of inverted-residual blocks; the first one has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
TYPES_STAGES = LITE0[:5]
SEGMENTER_STAGES = LITE0[:5]
DECODER_CHANNELS = (16, 32, 48)
"""Width of the decoder after each of the first three stages' resolutions, finest first."""


def prepare(frames: Tensor, scale: int = SCALE) -> Tensor:
    """Raw grey [batch, 1, H, W], 0..255 -> normalised float32 [batch, 1, H / scale, W / scale]."""
    grey = frames.float()
    if scale > 1:
        grey = functional.avg_pool2d(grey, scale)
    return (grey - 255.0 * MEAN) * (1.0 / (255.0 * DEVIATION))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm, no activation; export folds the pair into one convolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPSILON, momentum=0.05),
    )


class Block(nn.Module):
    """Inverted residual: widen, filter each channel alone, narrow; added to its input where the shapes agree."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        middle = inputs * stage.expansion
        self.expand = convolution(inputs, middle, 1) if stage.expansion > 1 else None
        self.filter = convolution(middle, middle, stage.kernel, stride, groups=middle)
        self.project = convolution(middle, stage.channels, 1)
        self.residual = stride == 1 and inputs == stage.channels

    def forward(self, inputs: Tensor) -> Tensor:
        wide = inputs if self.expand is None else functional.relu6(self.expand(inputs))
        outputs: Tensor = self.project(functional.relu6(self.filter(wide)))
        return outputs + inputs if self.residual else outputs


class Encoder(nn.Module):
    """Stem and stages on one grey channel; gives the output of every stage, finest first."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        super().__init__()
        self.stem = convolution(1, STEM_CHANNELS, 3, 2)
        self.stages = nn.ModuleList()
        inputs = STEM_CHANNELS
        for stage in stages:
            self.stages.append(_run_of_blocks(inputs, stage))
            inputs = stage.channels
        self.channels = [stage.channels for stage in stages]

    def forward(self, grey: Tensor) -> list[Tensor]:
        features = functional.relu6(self.stem(grey))
        outputs = []
        for stage in self.stages:
            features = stage(features)
            outputs.append(features)
        return outputs


def _run_of_blocks(inputs: int, stage: Stage) -> nn.Sequential:
    first = Block(inputs, stage, stage.stride)
    return nn.Sequential(first, *(Block(stage.channels, stage, 1) for _ in range(stage.repeats - 1)))


def _rare(last: nn.Conv2d) -> nn.Conv2d:
    """A last convolution that begins by believing that defects are rare, or the first steps go into unlearning it."""
    assert last.bias is not None
    nn.init.constant_(last.bias, PRIOR)
    return last


class MapHead(nn.Module):
    """A coarse map of defect logits and its pooling to one logit a class.

    The map learns from the masks cell by cell, which tells far more than one label a picture. Pooling is log-sum-exp
    (a smooth maximum), with a learned gain and offset a class.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.cells = _rare(nn.Conv2d(inputs, classes, 1))
        self.gain = nn.Parameter(torch.ones(classes))
        self.offset = nn.Parameter(torch.zeros(classes))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [batch, inputs, h, w] -> map logits [batch, classes, h, w], pooled [batch, classes]."""
        cells = self.cells(features)
        return cells, torch.logsumexp(SHARPNESS * cells, dim=(2, 3)) / SHARPNESS * self.gain + self.offset


def any_of(pooled: Tensor) -> Tensor:
    """Logits [batch, classes] -> logit of any class, [batch]: the odds of all together, which is what the gate says.

    A gate that learns what each class is and sums what it says of them knows more than one that only learns whether
    there is something (docs/training.md).
    """
    return torch.logsumexp(pooled, dim=1)


class Classifier(nn.Module):
    """Types, and the gate, which sums what it says of the types (see `any_of`): encoder and map head."""

    def __init__(self, classes: int, stages: tuple[Stage, ...] = TYPES_STAGES) -> None:
        super().__init__()
        self.encoder = Encoder(stages)
        self.head = MapHead(stages[-1].channels, classes)

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Grey -> map logits and pooled logits, as MapHead gives them."""
        cells, pooled = self.head(self.encoder(grey)[-1])
        return cells, pooled


def _smooth(inputs: int, outputs: int) -> nn.Sequential:
    filtered = convolution(inputs, inputs, 3, groups=inputs)
    return nn.Sequential(filtered, nn.ReLU6(), convolution(inputs, outputs, 1), nn.ReLU6())


class Decoder(nn.Module):
    """Feature pyramid on the outputs of the stages, up to that of the first (1 / PIXEL_STRIDE of its input)."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        fine, middle, coarse = DECODER_CHANNELS
        self.top = convolution(channels[-1], coarse, 1)
        self.side2, self.smooth2 = convolution(channels[2], coarse, 1), _smooth(coarse, middle)
        self.side1, self.smooth1 = convolution(channels[1], middle, 1), _smooth(middle, fine)
        self.side0, self.smooth0 = convolution(channels[0], fine, 1), _smooth(fine, fine)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Outputs of five stages -> [batch, DECODER_CHANNELS[0], h / PIXEL_STRIDE, w / PIXEL_STRIDE]."""
        deep = functional.relu6(self.top(features[-1]))
        deep = self.smooth2(_twice(deep) + self.side2(features[2]))
        deep = self.smooth1(_twice(deep) + self.side1(features[1]))
        finest: Tensor = self.smooth0(_twice(deep) + self.side0(features[0]))
        return finest


def _twice(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2.0, mode="nearest")


class Segmenter(nn.Module):
    """Where: logits of each class at 1 / PIXEL_STRIDE of its input. The shipped ones have one class each."""

    def __init__(self, classes: int, stages: tuple[Stage, ...] = SEGMENTER_STAGES) -> None:
        super().__init__()
        self.encoder = Encoder(stages)
        self.decoder = Decoder(self.encoder.channels)
        self.pixels = nn.Conv2d(DECODER_CHANNELS[0], classes, 1)

    def forward(self, grey: Tensor) -> Tensor:
        """Grey [batch, 1, h, w] -> logits [batch, classes, h / PIXEL_STRIDE, w / PIXEL_STRIDE]."""
        logits: Tensor = self.pixels(self.decoder(self.encoder(grey)))
        return logits


class Teacher(nn.Module):
    """All tasks on one encoder: what the six networks start from."""

    def __init__(self, classes: int, stages: tuple[Stage, ...] = SEGMENTER_STAGES) -> None:
        super().__init__()
        self.encoder = Encoder(stages)
        self.decoder = Decoder(self.encoder.channels)
        self.pixels = nn.Conv2d(DECODER_CHANNELS[0], classes, 1)
        self.head = MapHead(stages[-1].channels, classes)

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Grey -> pixel logits, map logits, pooled logits (see Segmenter and MapHead)."""
        features = self.encoder(grey)
        cells, pooled = self.head(features[-1])
        return self.pixels(self.decoder(features)), cells, pooled

    def segmenter(self, position: int) -> Segmenter:
        """A segmenter for the class at `position`, with this teacher's weights."""
        network = Segmenter(1)
        network.encoder.load_state_dict(self.encoder.state_dict())
        network.decoder.load_state_dict(self.decoder.state_dict())
        with torch.no_grad():
            network.pixels.weight.copy_(self.pixels.weight[position : position + 1])
            network.pixels.bias.copy_(self.pixels.bias[position : position + 1])  # type: ignore[union-attr,index]
        return network

    def classifier(self) -> Classifier:
        """Types or a gate with this teacher's weights."""
        network = Classifier(self.pixels.out_channels)
        network.encoder.load_state_dict(self.encoder.state_dict())
        network.head.load_state_dict(self.head.state_dict())
        return network
