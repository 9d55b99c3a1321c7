"""One training on several CPU threads: each takes its part of every batch through a replica of the network.

torch alone divides every single operation among the threads, which then wait for each other hundreds of times a step;
where other work holds a core for a moment, all of them stand. Replicas meet once a step. They share their parameters,
and differ in the running statistics of their batch norms, which are averaged after each step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

LEAST_EXAMPLES = 2
"""Of a part of a batch: batch norms and the Dice loss look at more than one."""


def threads_of(threads: int, batch: int) -> tuple[int, int]:
    """How many replicas share a batch, and with how many of the `threads` torch divides the operations of each."""
    count = max(1, min(threads, batch // LEAST_EXAMPLES))
    return count, max(1, threads // count)


class Replicas:
    """A network and its replicas; use it as a context, for it holds threads."""

    def __init__(self, network: nn.Module, count: int) -> None:
        self.networks = [network, *(_replica(network) for _ in range(count - 1))]
        self._parameters = [own for own in network.parameters() if own.requires_grad]
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="replica")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def parts_of(self, batch: int) -> int:
        """In how many parts a batch is learnt from: one for each replica, but none of next to nothing."""
        return threads_of(len(self.networks), batch)[0]

    def backward(self, parts: Sequence[Any], loss: Callable[[nn.Module, Any], Tensor], sizes: Sequence[int]) -> Tensor:
        """Set the network's gradients to the mean over the parts of a batch, weighted by their `sizes`.

        `loss` gives a part's loss by a replica, in a thread of its own; returns the mean of the losses.
        """
        if len(parts) == 1:
            whole = loss(self.networks[0], parts[0])
            for own in self._parameters:
                own.grad = None
            whole.backward()  # type: ignore[no-untyped-call]
            self._agree(1)
            return whole.detach()

        def run(network: nn.Module, part: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
            value = loss(network, part)
            return value.detach(), torch.autograd.grad(value, self._parameters)

        found = list(self._pool.map(run, self.networks, parts))
        shares = [size / sum(sizes) for size in sizes]
        for index, own in enumerate(self._parameters):
            own.grad = sum((share * grads[index] for share, (_, grads) in zip(shares, found, strict=True)), start=0.0)  # type: ignore[assignment]
        self._agree(len(parts))
        return torch.stack([share * value for share, (value, _) in zip(shares, found, strict=True)]).sum()

    def keep_norms(self) -> None:
        """From now on, batch norms use the running statistics that they have, and no longer those of a batch."""
        for network in self.networks:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    @torch.no_grad()
    def _agree(self, used: int) -> None:
        """Every batch norm takes the mean of the running statistics of the replicas that have learnt."""
        if len(self.networks) == 1:  # a GPU would copy every statistic onto itself, step by step
            return
        for same in zip(*(network.buffers() for network in self.networks), strict=True):
            if same[0].is_floating_point():
                mean = torch.stack(same[:used]).mean(dim=0)
                for own in same:
                    own.copy_(mean)


def _replica(network: nn.Module) -> nn.Module:
    """A copy with buffers of its own and the same parameters."""
    known = {id(own): own for own in network.parameters()}
    return copy.deepcopy(network, known)
