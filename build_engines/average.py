"""The mean of several runs' networks as a run to go on from.

Networks that began as one and learnt from other frames, such as the folds of a cross-validation, lie in one valley: the
mean of their weights is near to what all of them together would say, at the cost of one.
Source: Wortsman et al., Model soups: averaging weights of multiple fine-tuned models, ICML 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from build_engines import splits
from build_engines.defaults import PARTS
from build_engines.runs import difference, facts_of, network_names, save_facts, save_weights, weights
from inspector.errors import ConfigError


def average(runs: Sequence[Path], out: Path) -> list[str]:
    """Write a run with the mean of every network that all the runs have; returns their names.

    A frame is in the training part if any of the runs learnt from it, so nothing that is trained from here can keep it
    back.

    Raises:
        ConfigError: the runs' networks are not of one kind, or they have none in common.
    """
    facts = facts_of(runs[0])
    for other in runs[1:]:
        theirs = facts_of(other)
        if key := difference(facts, theirs):
            raise ConfigError(
                f"{other}: its {key} is {getattr(theirs, key)}, that of {runs[0]} {getattr(facts, key)}. "
                "Name runs of one recipe"
            )
    names = [name for name in network_names(facts.classes) if all((run / f"{name}.pt").is_file() for run in runs)]
    if not names:
        raise ConfigError(f"{', '.join(map(str, runs))}: no network that all of them have. Train them to their end")
    parts = _together([splits.load(run / "split.json") for run in runs])
    save_facts(facts, out)
    splits.save(parts, out / "split.json")
    for name in names:
        save_weights(name, _mean([weights(name, run) for run in runs]), out)
    return names


def _mean(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of every float; whole numbers, which only count steps, are the first one's."""
    return {
        key: torch.stack([own[key] for own in states]).mean(dim=0) if value.is_floating_point() else value
        for key, value in states[0].items()
    }


def _together(known: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The first of PARTS that any split has a frame in."""
    found: dict[str, str] = {}
    for part in reversed(PARTS):
        found |= {name: part for own in known for name, theirs in own.items() if theirs == part}
    return found
