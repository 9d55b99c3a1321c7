"""reloading.py: what of a changed YAML a running line takes over, and what it names as waiting for a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inspector.config import Config, convert
from inspector.reloading import needing_restart


def config(**changed: Any) -> Config:
    raw: dict[str, Any] = {
        "line": {"name": "hot"},
        "pack": "engines/old",
        "cameras": [{"name": "a", "kind": "synthetic"}, {"name": "b", "kind": "synthetic"}],
        "journal": {"path": "/var/lib/j.db"},
        "history": {"address": "tcp://127.0.0.1:5571"},
    }
    return convert({**raw, **changed}, Config)


@pytest.mark.parametrize(
    ("changed", "waiting"),
    [
        ({}, []),
        ({"pack": "engines/new", "packs": {"shadow_frames": 7, "alarm_factor": 3}}, []),
        ({"packs": {"folder": "/elsewhere"}}, ["packs.folder"]),
        ({"packs": {"folder": "/var/lib/packs"}}, []),
        ({"line": {"name": "hot", "queue": 7, "deadline_ms": 5}}, ["line.queue", "line.deadline_ms"]),
        ({"batch": {"size": 2}}, ["batch.size"]),
        ({"history": None}, ["history"]),
        ({"cameras": [{"name": "a", "kind": "synthetic"}]}, ["cameras"]),
        (
            {"cameras": [{"name": "a", "kind": "synthetic"}, {"name": "b", "kind": "synthetic", "offset_mm": 3}]},
            ["cameras[1].offset_mm"],
        ),
        ({"journal": {"path": "/var/other/j.db"}}, ["journal.path", "packs.folder"]),
    ],
)
def test_what_differs_is_named(changed: dict[str, Any], waiting: list[str]) -> None:
    assert needing_restart(config(), config(**changed)) == waiting


def test_a_folder_of_packs_that_is_only_spelled_out_is_the_same() -> None:
    assert config().packs_folder == Path("/var/lib/packs")
