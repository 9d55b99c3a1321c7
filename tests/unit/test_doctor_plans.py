"""The doctor's rows about GPU plans: which there are, and in words what changed since those that do not serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inspector.doctor import plans
from inspector.doctor.findings import Finding, State
from inspector.pack import Pack, load
from inspector.plans import Cache
from inspector.runtimes._tensorrt import Flavour, Gpu, Target, key_of
from tests.packs import make_pack

H200 = Gpu("NVIDIA H200", "550.54.15")
TENSORRT: dict[Flavour, str] = {"TensorRT": "10.3.0"}


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    return load(make_pack(tmp_path / "pack"))


def built(pack: Pack, folder: Path, flavour: Flavour = "TensorRT", version: str = "10.3.0", **other: Any) -> Cache:
    """A cache with the plans of all networks."""
    cache = Cache(folder / "plans")
    about = {"gpu": H200.name, "driver": H200.driver, "precision": "fp16", "profile": (1, 8, 16), **other}
    for network, (_, digest) in pack.for_gpu("fp16").items():
        key = key_of(flavour, version, Target(**about), network, digest)
        cache.put(key, network.encode(), built_ns=1, seconds=1.0)
    return cache


def examined(pack: Pack, cache: Cache, versions: dict[Flavour, str] = TENSORRT) -> list[Finding]:
    return list(plans.rows([pack.folder], [H200, H200], versions, cache))


def test_every_network_has_a_row(pack: Pack, tmp_path: Path) -> None:
    found = examined(pack, built(pack, tmp_path))
    assert [row.name for row in found] == [f"bands {network}" for network in pack.networks()]
    assert {row.state for row in found} == {State.OK}
    assert found[0].found == "a plan for NVIDIA H200, TensorRT 10.3.0"
    assert not any(row.needed for row in found)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"driver": "535.1"}, "the NVIDIA driver changed: built for 535.1, here 550.54.15"),
        ({"gpu": "NVIDIA L4"}, "the GPU changed: built for NVIDIA L4, here NVIDIA H200"),
        ({"version": "8.6.1"}, "the version of TensorRT changed: built for 8.6.1, here 10.3.0"),
    ],
)
def test_what_changed_is_said_with_the_command(pack: Pack, tmp_path: Path, other: dict[str, Any], words: str) -> None:
    row = examined(pack, built(pack, tmp_path, **other))[0]
    assert (row.state, row.found) == (State.MISSING, words)
    assert row.mend == f"Build it: python -m build_engines build --pack {pack.folder} --library tensorrt"


def test_a_second_model_of_gpu_has_rows_and_a_command_of_its_own(pack: Pack, tmp_path: Path) -> None:
    here = [Gpu("NVIDIA L4", H200.driver), H200, H200]
    found = list(plans.rows([pack.folder], here, TENSORRT, built(pack, tmp_path, gpu="NVIDIA L4")))
    half = len(found) // 2
    assert [row.state for row in found] == [State.OK] * half + [State.MISSING] * half
    assert found[-1].mend.endswith("--library tensorrt --device 1")


def test_without_plans_it_says_so(pack: Pack, tmp_path: Path) -> None:
    assert {row.found for row in examined(pack, Cache(tmp_path))} == {"no plan was built yet"}


def test_plans_for_other_batches_may_be_what_the_line_asks_for(pack: Pack, tmp_path: Path) -> None:
    row = examined(pack, built(pack, tmp_path, profile=(1, 4, 32), precision="fp32"))[0]
    assert (row.state, row.found) == (State.OK, "a plan for NVIDIA H200, in fp32 and for batches of 1/4/32 tiles")


def test_rtx_takes_what_was_built_ahead_of_time(pack: Pack, tmp_path: Path) -> None:
    cache = built(pack, tmp_path, "TensorRT-RTX", "1.6", gpu="any", driver="any")
    row = examined(pack, cache, {"TensorRT-RTX": "1.6"})[0]
    assert (row.state, row.found) == (State.OK, "a plan for any, TensorRT-RTX 1.6")


def test_an_altered_plan_is_a_row_and_not_the_end(pack: Pack, tmp_path: Path) -> None:
    cache = built(pack, tmp_path)
    next((cache.folder / "gate").glob("*.plan")).write_bytes(b"torn")
    found = examined(pack, cache)
    assert [row.state for row in found] == [State.MISSING, *[State.OK] * (len(found) - 1)]
    assert "altered" in found[0].found


def test_a_library_that_is_missing_is_named(pack: Pack, tmp_path: Path) -> None:
    (row,) = examined(pack, Cache(tmp_path), {})
    assert (row.state, row.mend) == (State.MISSING, "Only for kind: tensorrt: pip install 'inspector[gpu]'")


def test_without_a_gpu_there_is_no_row(pack: Pack, tmp_path: Path) -> None:
    assert list(plans.examine([pack.folder], tmp_path)) == []


def test_the_drivers_own_files_tell_of_the_gpu(pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia = tmp_path / "root" / "proc/driver/nvidia"
    (nvidia / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (nvidia / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15\n")
    (nvidia / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t NVIDIA H200\n")
    monkeypatch.setattr(plans, "versions", lambda: TENSORRT)
    monkeypatch.setattr(plans, "default_folder", lambda: built(pack, tmp_path).folder)
    found = list(plans.examine([pack.folder], tmp_path / "root"))
    assert {row.state for row in found} == {State.OK}
    assert len(found) == len(pack.networks())
