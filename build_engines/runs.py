"""A run folder: run.yaml (what is trained for what), split.json, <network>.pt (checkpoints), <network>.csv (losses)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
import yaml
from torch import Tensor, nn

from build_engines.files import write_whole
from build_engines.networks import Classifier, Segmenter, Teacher
from inspector.errors import ConfigError

FACTS = "run.yaml"


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run's networks are for."""

    classes: list[int]
    names: dict[int, str]
    scale: int
    """All but the gate look at 1 / scale of the camera's pixels."""
    gate_scale: int = 0
    """The gate's own; 0: the same."""
    height: int
    """Of the tile that the networks take, px."""
    width: int
    notes: dict[str, Any] = {}
    """How it was trained, for the model card."""


def scale_of(name: str, facts: Facts) -> int:
    """The scale of a network of a run."""
    return facts.gate_scale or facts.scale if name == "gate" else facts.scale


def facts_of(run: Path) -> Facts:
    """Read a run's facts.

    Raises:
        ConfigError: there is no run in the folder.
    """
    file = run / FACTS
    try:
        return msgspec.convert(yaml.safe_load(file.read_text(encoding="utf-8")), Facts, strict=False)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}. Run train first") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {error}. Train again, or mend it") from None


def difference(one: Facts, other: Facts) -> str | None:
    """The first fact by which the networks of two runs are of another kind; None: they are of one kind."""
    mine, theirs = (msgspec.structs.replace(own, gate_scale=scale_of("gate", own)) for own in (one, other))
    keys = ("classes", "scale", "gate_scale", "height", "width")
    return next((key for key in keys if getattr(mine, key) != getattr(theirs, key)), None)


def save_facts(facts: Facts, run: Path) -> None:
    """Write a run's facts.

    Raises:
        ConfigError: the folder holds a run for other classes, scale or tile.
    """
    if (run / FACTS).is_file():
        found = facts_of(run)
        if key := difference(found, facts):
            raise ConfigError(
                f"{run / FACTS}: {key} is {getattr(found, key)}, not {getattr(facts, key)}. Name another --out"
            )
    content = yaml.safe_dump(msgspec.to_builtins(facts), sort_keys=False, allow_unicode=True)
    write_whole(run / FACTS, content.encode())


def network_names(classes: Sequence[int]) -> list[str]:
    """The teacher and the networks of a pack, in the order in which they can be trained."""
    return ["teacher", "gate", "types", *(f"segment_{number}" for number in classes)]


def blank(name: str, classes: int) -> nn.Module:
    """An untrained network of the name's architecture."""
    if name == "teacher":
        return Teacher(classes)
    return Classifier(classes) if name in ("gate", "types") else Segmenter(1)


def weights(name: str, run: Path) -> Mapping[str, Tensor]:
    """The averaged weights of a checkpoint.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    file = run / f"{name}.pt"
    if not file.is_file():
        raise ConfigError(f"{file}: no such checkpoint. Run train --network {name} first")
    try:
        averaged: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)["average"]
    except Exception as error:  # torch's reader raises whatever its parts raise
        raise ConfigError(f"{file}: not a checkpoint: {error}. Remove it and train again") from error
    return averaged


def save_weights(name: str, state: Mapping[str, Tensor], run: Path) -> None:
    """A checkpoint that holds a network alone, to begin others from."""
    content = io.BytesIO()
    torch.save({"average": dict(state)}, content)
    write_whole(run / f"{name}.pt", content.getvalue())


def trained(name: str, classes: int, run: Path) -> nn.Module:
    """A run's network in evaluation mode. Raises as `weights` does."""
    network = blank(name, classes)
    network.load_state_dict(weights(name, run))
    return network.eval()
