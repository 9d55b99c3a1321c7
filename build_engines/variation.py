"""Another lamp, another focus, another roll, another sensor: variation of whole batches where the network is.

A batch is varied as a function of its seed alone, so a training that was killed and goes on sees the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from build_engines.augment import Recipe

BAND_PX = 24
"""Shortest half wave of the bands that another roll leaves."""

SIGMAS = (0.6, 0.9, 1.3)
"""Blurs of a lens out of focus, camera px."""

REACH = 4


class Dice:
    """Random numbers for a batch: drawn on the CPU, so that every device sees the same, but for the noise."""

    def __init__(self, seed: int, count: int, device: torch.device) -> None:
        self.count = count
        self.device = device
        self._own = torch.Generator().manual_seed(seed)
        self._noise = torch.Generator(device).manual_seed(seed)

    def chosen(self, share: float) -> Tensor:
        """bool [count, 1, 1, 1], true for about this share."""
        return (torch.rand(self.count, generator=self._own) < share).to(self.device).view(-1, 1, 1, 1)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, [count, *shape]."""
        return torch.randn(self.count, *shape, generator=self._own).to(self.device)

    def uniform(self, low: float, high: float) -> Tensor:
        """[count, 1, 1, 1]."""
        drawn = torch.rand(self.count, generator=self._own).to(self.device)
        return (low + (high - low) * drawn).view(-1, 1, 1, 1)

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._noise, device=self.device)


def vary(frames: Tensor, recipe: Recipe, seed: int) -> Tensor:
    """uint8 [batch, 1, H, W] -> float32 of the same shape, 0..255; what is black stays black but for noise."""
    dice = Dice(seed, frames.shape[0], frames.device)
    values = frames.float()
    values = torch.where(dice.chosen(recipe.toned), _toned(values, dice), values)
    values = torch.where(dice.chosen(recipe.banded), values * _bands(values, dice), values)
    values = torch.where(dice.chosen(recipe.blurred), _blurred(values, dice), values)
    values = torch.where(dice.chosen(recipe.noisy), values + dice.noise(values) * dice.uniform(1, 6), values)
    return values.clamp(0, 255)


def _toned(values: Tensor, dice: Dice) -> Tensor:
    """Lamp: brightness, its fall along the strip's width, and the curve of the sensor."""
    ends = 0.15 * dice.normal(1, 1, 2)
    fall = functional.interpolate(ends.flatten(1, 2), size=values.shape[-1], mode="linear", align_corners=True)
    lit = values * torch.exp(0.25 * dice.normal(1, 1, 1) + fall.unsqueeze(1))
    return 255.0 * (lit / 255.0).clamp(0, 1).pow(torch.exp(0.12 * dice.normal(1, 1, 1)))


def _bands(values: Tensor, dice: Dice) -> Tensor:
    """A gain that changes smoothly along one axis: [batch, 1, 1, W] or [batch, 1, H, 1], as float32 of the batch."""
    height, width = values.shape[-2:]
    across = dice.normal(1, max(2, width // BAND_PX))
    along = dice.normal(1, max(2, height // BAND_PX))
    strength = dice.uniform(0.01, 0.06).view(-1, 1, 1)
    wide = functional.interpolate(strength * across, size=width, mode="linear", align_corners=True)
    tall = functional.interpolate(strength * along, size=height, mode="linear", align_corners=True)
    upright = dice.chosen(0.5).float()
    return 1.0 + upright * wide.unsqueeze(2) + (1.0 - upright) * tall.unsqueeze(3)


def _blurred(values: Tensor, dice: Dice) -> Tensor:
    """Each frame through one of the blurs."""
    steps = torch.arange(-REACH, REACH + 1, device=values.device, dtype=torch.float32)
    kernels = torch.stack([torch.exp(-0.5 * (steps / sigma) ** 2) for sigma in SIGMAS])
    kernels = kernels / kernels.sum(dim=1, keepdim=True)
    index = dice.uniform(0, len(SIGMAS)).flatten().long().clamp(max=len(SIGMAS) - 1)
    own = kernels[index].view(-1, 1, 1, 2 * REACH + 1)
    count = values.shape[0]
    padded = functional.pad(values.transpose(0, 1), (REACH, REACH, REACH, REACH), mode="replicate")
    wide = functional.conv2d(padded, own, groups=count)
    return functional.conv2d(wide, own.transpose(2, 3), groups=count).transpose(0, 1)
