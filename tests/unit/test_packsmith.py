"""`inspector packs` without a daemon: what there is, whether it is good, and staging for the next start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from inspector import pack as packs
from inspector.__main__ import main
from inspector.packs.store import Store
from tests import networks
from tests.packs import TILE, make_pack


def line(folder: Path, pack: Path, **sections: Any) -> Path:
    raw = {
        "line": {"name": "hot"},
        "pack": str(pack),
        "cameras": [{"name": "a", "kind": "synthetic"}],
        "journal": {"path": str(folder / "j.db")},
        **sections,
    }
    path = folder / "line.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return make_pack(tmp_path / "other", version="2")


def test_a_good_pack_is_verified_alone_and_against_the_line(
    tmp_path: Path, pack: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["packs", "verify", str(other), str(line(tmp_path, pack))]) == 0
    said = capsys.readouterr().out
    assert "bands 2, sha256:" in said
    assert "the networks run on onnxruntime" in said
    assert "it fits line hot, which has bands 1" in said


def nan_gate() -> onnx.ModelProto:
    """A gate that answers what is no number."""
    nodes = [
        helper.make_node("Cast", ["frames"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["grey"], ["most"], axes=[1, 2, 3], keepdims=0),
        networks.constant("none", np.float32(0)),
        helper.make_node("Mul", ["most", "none"], ["zero"]),
        helper.make_node("Div", ["zero", "none"], ["score"]),
    ]
    return networks.graph(nodes, TILE, ("score", TensorProto.FLOAT, []))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "types.onnx").write_bytes(b"torn"), "network types was altered"),
        (lambda folder: networks.swap(folder, "types", b"no network"), "cannot load network types"),
        (lambda folder: networks.swap(folder, "gate", networks.failing_gate(TILE, 0)), "network gate failed"),
        (lambda folder: networks.swap(folder, "gate", nan_gate()), "gate gives [nan] for a black tile, not 0 to 1"),
        (lambda folder: make_pack(folder, tile=(32, 32)), "tiles of 32 x 32 px, but the line runs with 32 x 64"),
        (lambda folder: make_pack(folder, classes=2), "the classes 1 class1, 2 class2, but the line runs with"),
    ],
    ids=["altered", "no network", "fails", "nan", "tile", "classes"],
)
def test_a_bad_one_is_named_and_never_staged(
    tmp_path: Path, pack: Path, other: Path, spoil: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(other)
    path = line(tmp_path, pack)
    for action in ("verify", "stage"):
        assert main(["packs", action, str(other), str(path)]) == 78
        assert words in capsys.readouterr().err
    assert not (tmp_path / "packs").exists()


def test_staged_without_a_control_socket_it_waits_and_the_list_says_so(
    tmp_path: Path, pack: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = line(tmp_path, pack)
    assert main(["packs", "stage", str(other), str(path)]) == 0
    assert "SIGHUP" in capsys.readouterr().out
    (staged,) = Store(tmp_path / "packs", "hot").packs()
    assert Store(tmp_path / "packs", "hot").marked() == staged
    broken = tmp_path / "packs" / "broken"
    make_pack(broken)
    (broken / "gate.onnx").write_bytes(b"torn")
    assert main(["packs", "list", str(path), "--json"]) == 0
    rows = {row["folder"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[str(pack)]["state"] == "at the next start, named by pack:"
    assert rows[str(staged)]["state"] == "waits"
    assert rows[str(staged)]["digest"] == packs.load(other).digest
    assert rows[str(broken)]["state"] == "broken"
    assert "network gate was altered" in rows[str(broken)]["figures"]
    assert main(["packs", "list", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "gate threshold 0.5" in shown


def test_a_gate_in_int8_shows_both_thresholds(tmp_path: Path, pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = pack / "manifest.yaml"
    own = yaml.safe_load(manifest.read_text())
    own["gate"] |= {"precision": "int8", "threshold": 0.6, "gpu_threshold": 0.55}
    manifest.write_text(yaml.safe_dump(own))
    assert main(["packs", "list", str(line(tmp_path, pack))]) == 0
    assert "gate threshold 0.6 (0.55 on a GPU)" in capsys.readouterr().out


def test_staged_while_the_daemon_does_not_run_it_waits_and_that_is_said(
    tmp_path: Path, pack: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = line(tmp_path, pack, control={"address": f"ipc://{tmp_path}/control"})
    assert main(["packs", "stage", str(other), str(path)]) == 1
    said = capsys.readouterr()
    assert "staged: " in said.out
    assert "is the daemon running" in said.err
    assert "the next start, takes it up" in said.err
    assert Store(tmp_path / "packs", "hot").marked() is not None


@pytest.mark.parametrize("action", ["status", "cancel", "rollback"])
def test_what_asks_the_daemon_needs_a_control_socket(
    tmp_path: Path, pack: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["packs", action, str(line(tmp_path, pack))]) == 78
    assert "control: the line has no control socket" in capsys.readouterr().err
