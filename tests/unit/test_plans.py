"""The cache of GPU plans: a plan serves for exactly what it was built for; what changed is said in words."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector import plans
from inspector.errors import ConfigError, PackError
from inspector.plans import SAID, Cache, Key, changes, default_folder
from inspector.runtimes import _tensorrt

KEY = Key(
    network="gate",
    onnx="ab" * 32,
    library="TensorRT",
    version="10.3.0",
    gpu="NVIDIA H200",
    driver="550.54.15",
    precision="fp16",
    profile=(1, 8, 16),
    outputs="probability, extent",
)
OTHER: dict[str, Any] = {
    "onnx": "cd" * 32,
    "library": "TensorRT-RTX",
    "version": "11.0.1",
    "gpu": "NVIDIA L4",
    "driver": "560.35.03",
    "precision": "fp32",
    "profile": (1, 4, 32),
    "outputs": "probability",
}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "plans")


def test_a_plan_is_found_again(cache: Cache) -> None:
    assert cache.find(KEY) is None
    cache.put(KEY, b"a plan", built_ns=1, seconds=2.0)
    assert Cache(cache.folder).find(KEY) == b"a plan"


@pytest.mark.parametrize("field", OTHER)
def test_one_change_is_enough_to_refuse_it_and_is_named(cache: Cache, field: str) -> None:
    cache.put(KEY, b"a plan", built_ns=1, seconds=2.0)
    wanted = msgspec.structs.replace(KEY, **{field: OTHER[field]})
    assert cache.find(wanted) is None
    words = cache.why_not(wanted)
    assert words.startswith(f"gate: {SAID[field]} changed: built for ")
    assert ";" not in words


def test_every_field_of_a_key_has_words() -> None:
    assert {*SAID, "network"} == set(Key.__struct_fields__)
    assert set(OTHER) == set(SAID)


@given(st.sets(st.sampled_from(sorted(OTHER))))
def test_all_changes_are_told_and_no_other(fields: set[str]) -> None:
    wanted = msgspec.structs.replace(KEY, **{field: OTHER[field] for field in fields})
    assert len(changes(KEY, wanted)) == len(fields)
    assert (wanted.digest == KEY.digest) == (not fields)


def test_the_nearest_plan_tells_what_changed(cache: Cache) -> None:
    cache.put(msgspec.structs.replace(KEY, driver="1.0", gpu="NVIDIA L4"), b"far", built_ns=2, seconds=1.0)
    cache.put(msgspec.structs.replace(KEY, driver="535.1"), b"near", built_ns=1, seconds=1.0)
    assert cache.why_not(KEY) == "gate: the NVIDIA driver changed: built for 535.1, here 550.54.15"


def test_without_any_plan_it_says_so(cache: Cache) -> None:
    assert cache.why_not(KEY) == "gate: no plan was built yet"


def test_an_altered_plan_is_refused(cache: Cache) -> None:
    file = cache.put(KEY, b"a plan", built_ns=1, seconds=2.0)
    file.write_bytes(b"b plan")
    with pytest.raises(PackError, match=r"altered or is torn.*build"):
        cache.find(KEY)


@pytest.mark.parametrize("torn", ["", "{", '{"key": 1}'])
def test_a_torn_sidecar_is_no_plan(cache: Cache, torn: str) -> None:
    file = cache.put(KEY, b"a plan", built_ns=1, seconds=2.0)
    file.with_suffix(".json").write_text(torn)
    assert cache.find(KEY) is None
    assert cache.why_not(KEY) == "gate: no plan was built yet"


def test_a_plan_whose_writing_was_killed_is_none(cache: Cache) -> None:
    file = cache.put(KEY, b"a plan", built_ns=1, seconds=2.0)
    file.unlink()
    assert cache.find(KEY) is None
    assert cache.why_not(KEY) == f"gate: {file} is gone, though what stands beside it is there"


def test_a_sidecar_that_a_builder_takes_away_just_now_is_no_plan(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache.put(KEY, b"a plan", built_ns=1, seconds=2.0).with_suffix(".json")
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [file, file.with_name("gone.json")])
    wanted = msgspec.structs.replace(KEY, gpu="NVIDIA L4")
    assert cache.why_not(wanted) == "gate: the GPU changed: built for NVIDIA H200, here NVIDIA L4"


def test_a_disk_that_fills_leaves_the_plan_that_was_there_gone_and_nothing_half(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(KEY, b"a plan", built_ns=1, seconds=2.0)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        cache.put(KEY, b"another", built_ns=2, seconds=2.0)
    assert cache.find(KEY) is None
    assert [path.suffix for path in (cache.folder / "gate").iterdir()] == [".plan"]


def test_timing_lies_apart_by_library_and_gpu(cache: Cache) -> None:
    files = {cache.timing(msgspec.structs.replace(KEY, **{field: OTHER[field]})) for field in OTHER}
    assert len(files) == 4  # KEY's own, and one each for library, version and GPU


def test_the_unit_says_where_plans_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/inspector")
    assert default_folder() == Path("/var/cache/inspector/plans")
    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr(plans, "SERVICE", tmp_path / "none")
    assert default_folder() == Path("/somewhere/inspector/plans")


def test_other_commands_look_where_the_service_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unit = (Path(__file__).parents[2] / "deploy/inspector.service").read_text()
    assert f"CacheDirectory={plans.SERVICE.relative_to('/var/cache')}\n" in unit
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setattr(plans, "SERVICE", tmp_path)
    assert default_folder() == tmp_path / "plans"


# ---------------------------------------------------------------- the machine, as its driver tells


def test_the_driver_tells_of_its_gpus(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n")
    for bus, model in (("0000:81:00.0", "NVIDIA L4"), ("0000:01:00.0", "NVIDIA H200")):
        folder = tmp_path / "gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 44\n")
    assert [(gpu.name, gpu.driver, gpu.bus) for gpu in _tensorrt.gpus(tmp_path)] == [
        ("NVIDIA H200", "550.54.15", "0000:01:00.0"),
        ("NVIDIA L4", "550.54.15", "0000:81:00.0"),
    ]


def test_without_a_driver_there_is_no_gpu(tmp_path: Path) -> None:
    assert _tensorrt.gpus(tmp_path / "nothing") == []


@pytest.mark.skipif(_tensorrt.has_driver(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_tensorrt_is_not_even_imported() -> None:
    with pytest.raises(ConfigError, match="needs an NVIDIA driver"):
        _tensorrt.load("TensorRT")


def test_plans_for_other_batches_are_told_apart_from_plans_for_another_gpu(cache: Cache) -> None:
    other_batch = msgspec.structs.replace(KEY, profile=(1, 4, 32))
    cache.put(other_batch, b"a plan", built_ns=1, seconds=1.0)
    cache.put(msgspec.structs.replace(KEY, gpu="NVIDIA L4"), b"far", built_ns=2, seconds=1.0)
    assert cache.alike(KEY) == [other_batch]
