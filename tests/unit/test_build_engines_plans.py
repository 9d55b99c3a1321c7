"""`build_engines build`, for real, with TensorRT-RTX ahead of time: it builds without a GPU, and runs on one only."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from build_engines import build as plans
from build_engines.__main__ import main
from build_engines.build import build, plan_of
from inspector.errors import ConfigError, PackError
from inspector.pack import Pack, load
from inspector.plans import Cache
from inspector.runtimes import _tensorrt
from inspector.runtimes._tensorrt import AHEAD_OF_TIME, Library, Target, key_of
from tests.packs import make_pack

ENGINES = Path(__file__).parents[2] / "engines"
PACKS = sorted(path.parent for path in ENGINES.glob("*/manifest.yaml"))
TARGET = Target(*AHEAD_OF_TIME, "fp16", (1, 8, 16))


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
    return _tensorrt.load("TensorRT-RTX")


@pytest.fixture(scope="module", params=PACKS, ids=lambda folder: folder.name)
def pack(request: pytest.FixtureRequest) -> Pack:
    return load(request.param)


def test_every_network_of_every_pack_is_built_in_half_precision(rtx: Library, pack: Pack, tmp_path: Path) -> None:
    cache, steps = Cache(tmp_path / "plans"), list[str]()
    built = list(build(pack, rtx, TARGET, cache, steps.append))
    assert [each.network for each in built] == steps == list(pack.networks())
    whole = {each.network: each for each in build(pack, rtx, replace(TARGET, precision="fp32"), cache, lambda _: None)}
    for network, (_, digest) in pack.for_gpu("fp16").items():
        plan = cache.find(key_of(rtx.flavour, rtx.version, TARGET, network, digest))
        assert plan is not None
        assert 100_000 < len(plan) < 0.75 * whole[network].file_bytes  # half the weights, and some code
    again = list(build(pack, rtx, TARGET, cache, steps.append))
    assert [each.seconds for each in again] == [None] * len(built)
    assert len(steps) == len(built)


def graph(path: Path, operator: str, **attributes: object) -> Path:
    """A network of one operator."""
    frames = helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["batch", 1, 8, 16])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, None)
    domain = "a.strange.place" if operator == "Unheard" else ""
    node = helper.make_node(operator, ["frames"], ["score"], domain=domain, **attributes)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("a.strange.place", 1)]
    onnx.save(helper.make_model(helper.make_graph([node], "one", [frames], [score]), opset_imports=imports), path)
    return path


def test_an_unknown_operator_is_refused_in_the_parsers_words(rtx: Library, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"bad\.onnx: TensorRT-RTX .* refuses it: .*Unheard"):
        plan_of(rtx, graph(tmp_path / "bad.onnx", "Unheard"), TARGET)


@pytest.mark.parametrize("content", [b"", b"no network at all", b"\x08\x08\x12\x07pytorch"])
def test_what_is_no_network_is_refused(rtx: Library, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.onnx"
    file.write_bytes(content)
    with pytest.raises(PackError, match=r"bad\.onnx: TensorRT-RTX"):
        plan_of(rtx, file, TARGET)


def test_a_cache_that_cannot_be_written_is_named(rtx: Library, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    steps = list[str]()
    with pytest.raises(ConfigError, match="--cache"):
        list(build(load(PACKS[0]), rtx, TARGET, Cache(tmp_path / "file" / "plans"), steps.append))
    assert steps == []  # it is said before anything is built


def test_a_disk_that_fills_is_a_configuration_error(
    rtx: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/half.onnx")

    monkeypatch.setattr(plans.shutil, "copyfile", full)
    small = load(make_pack(tmp_path / "pack"))
    with pytest.raises(ConfigError, match=r"/tmp/half\.onnx: cannot be written: No space.*Make room"):
        list(build(small, rtx, TARGET, Cache(tmp_path / "plans"), lambda _: None))


def test_a_torn_plan_is_built_again(rtx: Library, tmp_path: Path) -> None:
    small, cache = load(make_pack(tmp_path / "pack")), Cache(tmp_path / "plans")
    list(build(small, rtx, TARGET, cache, lambda _: None))
    next((cache.folder / "gate").glob("*.plan")).write_bytes(b"torn")
    again = list(build(small, rtx, TARGET, cache, lambda _: None))
    assert [each.network for each in again if each.seconds is not None] == ["gate"]


def test_the_command_builds_and_then_finds(rtx: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["build", "--pack", str(PACKS[0]), "--cache", str(tmp_path), "--ahead-of-time"]
    assert main(words) == 0
    assert capsys.readouterr().err.count(" s\n") == len(load(PACKS[0]).networks())
    assert main(words) == 0
    assert capsys.readouterr().err.count("was there") == len(load(PACKS[0]).networks())


def test_without_a_gpu_there_is_nothing_to_build_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "gpus", list)
    with pytest.raises(ConfigError, match="--ahead-of-time"):
        plans.choose(None, ahead_of_time=False)


def test_another_gpu_than_the_first_is_the_only_one_seen(rtx: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    here = [_tensorrt.Gpu("NVIDIA H200", "550.54.15"), _tensorrt.Gpu("NVIDIA L4", "550.54.15")]
    monkeypatch.setattr(plans, "gpus", lambda: here)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    assert plans.choose("rtx", ahead_of_time=False)[1] == ("NVIDIA H200", "550.54.15")
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert plans.choose("rtx", ahead_of_time=False, device=1)[1] == ("NVIDIA L4", "550.54.15")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    with pytest.raises(ConfigError, match=r"--device 2: there are only 2 GPUs"):
        plans.choose("rtx", ahead_of_time=False, device=2)


def test_tensorrt_builds_nothing_ahead_of_time() -> None:
    with pytest.raises(ConfigError, match="--library rtx"):
        plans.choose("tensorrt", ahead_of_time=True)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (4, 2, 8), (1, 9, 8), (1, 8, 4096)])
def test_batches_must_grow(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="--batch"):
        plans.batches(sizes)


def test_an_altered_pack_is_not_built(rtx: Library, tmp_path: Path) -> None:
    copy = tmp_path / "pack"
    shutil.copytree(PACKS[0], copy)
    (copy / "gate.onnx").write_bytes(b"something else")
    assert main(["build", "--pack", str(copy), "--cache", str(tmp_path / "plans"), "--ahead-of-time"]) == 78
    assert not (tmp_path / "plans").exists()


def test_the_digest_of_what_was_parsed_is_kept_beside_the_plan(rtx: Library, tmp_path: Path) -> None:
    pack = load(make_pack(tmp_path / "pack"))
    cache = Cache(tmp_path / "plans")
    list(build(pack, rtx, TARGET, cache, lambda _: None))
    found = {
        network: json.loads(next((cache.folder / network).glob("*.json")).read_text()) for network in pack.networks()
    }
    for network, (_, sha256) in pack.networks().items():
        assert found[network]["key"]["onnx"] == sha256
        assert len(found[network]["derived"]) == 64
        assert found[network]["derived"] != sha256
    assert found["segment_1"]["key"]["outputs"] == "probability, extent"


CALLS = {
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "get_tensor_shape",
        "get_tensor_profile_shape",
        "create_execution_context",
        "device_memory_size_v2",
    ],
    "IExecutionContext": ["set_input_shape", "set_tensor_address", "execute_async_v3", "set_device_memory"],
    "ExecutionContextAllocationStrategy": ["USER_MANAGED"],
    "DataType": ["UINT8", "FLOAT"],
    "TensorIOMode": ["INPUT", "OUTPUT"],
}
"""What runtimes/_engine.py calls. TensorRT 10.16 and 11.4 were looked through for the same names by hand, and 8.6,
which has all but those that CUDA graphs need (device memory of one's own)."""


@pytest.mark.parametrize("kind", CALLS)
def test_the_library_has_every_call_that_the_runtime_makes(rtx: Library, kind: str) -> None:
    assert [name for name in CALLS[kind] if not hasattr(getattr(rtx.trt, kind), name)] == []
    if kind in ("DataType", "TensorIOMode"):
        assert [getattr(rtx.trt, kind).__members__[name].name for name in CALLS[kind]] == CALLS[kind]
