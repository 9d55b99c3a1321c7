"""One contract over every runtime in inspector/runtimes; the words are in the protocols there.

A new runtime needs an entry in CASES, or `test_every_kind_has_a_case` fails. A case that cannot run on this machine
(no GPU) says why and is skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from inspector import adapters, pack
from inspector.config import convert
from inspector.errors import ConfigError, EngineError, PackError
from inspector.pack import Pack
from inspector.records import Pixels
from inspector.runtimes import Patch, Runtime, Stream, tensorrt
from tests import host_gpu, networks
from tests.packs import TILE, make_pack, paint

CLASSES = [1, 2, 3, 4]
SIZE = list(TILE)
LEVEL = pack.pixel_level(0.5)
"""Every segmenter's threshold in these packs is 0.5."""


def _always() -> str | None:
    return None


@dataclass(frozen=True)
class Case:
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    missing: Callable[[], str | None] = _always
    """Why the case cannot run on this machine, or None."""

    def open(self, engines: Pack) -> Runtime:
        """The runtime as the daemon makes it: options as they stand in the YAML."""
        adapter = adapters.module("runtimes", self.kind, "runtime")
        made: Runtime = adapter.open(adapters.options(adapter, self.options, "runtime.options"), engines)
        return made


@dataclass(frozen=True)
class HostCase(Case):
    """The TensorRT runtime on a GPU in host memory (tests/host_gpu.py), with plans in the precision of the pack."""

    graphs: bool = False
    mixed: int | None = None

    def open(self, engines: Pack) -> Runtime:
        return _BuiltFirst(self, engines)


class _BuiltFirst(host_gpu.TensorRtRuntime):
    """Builds the plans when it is entered."""

    def __init__(self, case: HostCase, engines: Pack) -> None:
        options = convert({"precision": "fp32", **case.options}, tensorrt.Options)
        recorder = host_gpu.HostRecorder() if case.graphs else None
        self.rig = host_gpu.Rig(engines.folder.parent / "plans", engines, options, recorder, case.mixed)
        super().__init__(options, engines, self.rig.platform())

    def __enter__(self) -> Self:
        self.rig.build()
        return super().__enter__()


CASES = {
    "onnx": Case("onnx"),
    "onnx 3 workers": Case("onnx", {"workers": 3}),
    "tensorrt on a host, cut batches": HostCase("tensorrt", {"batch": [1, 2, 3], "slots": 1}),
    "tensorrt on two hosts, mixed": HostCase("tensorrt", {"devices": [0, 1], "batch": [1, 2, 4]}, mixed=3),
    "tensorrt on a host, graphs": HostCase("tensorrt", {"batch": [1, 4, 8], "slots": 1}, graphs=True),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    chosen = CASES[request.param]
    reason = chosen.missing()
    if reason is not None:
        pytest.skip(reason)
    return chosen


@pytest.fixture
def easy(tmp_path: Path) -> Path:
    """Networks whose answers can be told from the greys."""
    return make_pack(tmp_path / "easy")


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    """Networks of convolutions: another order of sums would show in the last bits."""
    folder = make_pack(tmp_path / "floats")
    networks.swap(folder, "gate", networks.conv_gate(TILE))
    networks.swap(folder, "types", networks.conv_types(TILE, len(CLASSES)))
    for number in CLASSES:
        networks.swap(folder, f"segment_{number}", networks.conv_segment(TILE, seed=10 + number))
    return folder


def tiles(count: int, seed: int = 0) -> list[Pixels]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, TILE, dtype=np.uint8) for _ in range(count)]


@dataclass
class Answers:
    gate: bytes
    types: bytes
    maps: dict[int, list[bytes]]


def ask(stream: Stream, pictures: list[Pixels]) -> Answers:
    """Everything that the networks say of a batch, as bits."""
    stream.load(pictures)
    indices = range(len(pictures))
    gate, types = stream.gate().tobytes(), stream.types(indices).tobytes()
    stream.expect(dict.fromkeys(CLASSES, indices))
    return Answers(gate, types, {n: [whole(p).tobytes() for p in stream.segment(n, indices)] for n in CLASSES})


def whole(patch: Patch) -> NDArray[np.uint8]:
    """A patch on its tile. What lies beyond it or below the threshold says nothing."""
    canvas = patch.on(TILE).copy()
    canvas[canvas < LEVEL] = 0
    return canvas


# ---------------------------------------------------------------- the contract


def test_every_kind_has_a_case() -> None:
    assert {case.kind for case in CASES.values()} == set(adapters.kinds("runtimes"))


@pytest.mark.parametrize("kind", adapters.kinds("runtimes"))
def test_options_are_closed(kind: str) -> None:
    adapter = adapters.module("runtimes", kind, "runtime")
    with pytest.raises(ConfigError, match=r"runtime\.options.*unknown key `wrokers`.*Known keys here: "):
        adapters.options(adapter, {"wrokers": 1}, "runtime.options")


def test_it_says_what_it_is(case: Case, easy: Path) -> None:
    with case.open(pack.load(easy)) as runtime:
        assert runtime.name
        assert set(runtime.precisions) == set(pack.load(easy).networks())
        assert runtime.workers >= 1


def test_shapes_types_and_ranges(case: Case, floats: Path) -> None:
    with case.open(pack.load(floats)) as runtime:
        stream = runtime.stream()
        stream.load(tiles(5))
        gate = stream.gate()
        assert gate.shape == (5,)
        assert gate.dtype == np.float32
        assert 0 <= gate.min() < gate.max() <= 1
        types = stream.types([0, 3, 4])
        assert types.shape == (3, len(CLASSES))
        assert types.dtype == np.float32
        assert 0 <= types.min() < types.max() <= 1
        patches = stream.segment(2, [1, 2])
        assert len(patches) == 2
        assert all(p.values.ndim == 2 and p.values.dtype == np.uint8 for p in patches)
        assert all(p.y + p.values.shape[0] <= TILE[0] and p.x + p.values.shape[1] <= TILE[1] for p in patches)
        assert len({int(v) for p in patches for v in np.unique(whole(p))}) > 10


def test_answers_are_those_of_the_networks(case: Case, easy: Path) -> None:
    """Classes stand in the manifest's order, and a mask has its pixels where the tile has them."""
    pictures = [np.full(TILE, 90, dtype=np.uint8) for _ in range(5)]
    for row, number in enumerate(CLASSES):
        paint(pictures[row], number, y=row, x=7 * row, height=3 + row, width=11)
    with case.open(pack.load(easy)) as runtime:
        stream = runtime.stream()
        stream.load(pictures)
        assert stream.gate().tolist() == [1, 1, 1, 1, 0]
        np.testing.assert_array_equal(stream.types(range(5)), np.eye(5, 4, dtype=np.float32))
        for row, number in enumerate(CLASSES):
            found = whole(stream.segment(number, [row])[0])
            np.testing.assert_array_equal(found >= 128, pictures[row] > 190)


def test_indices_choose_and_order(case: Case, floats: Path) -> None:
    pictures = tiles(6)
    chosen = [4, 0, 3]
    with case.open(pack.load(floats)) as runtime:
        stream = runtime.stream()
        everything = ask(stream, pictures)
        row = len(everything.types) // len(pictures)
        wanted = b"".join(everything.types[i * row : (i + 1) * row] for i in chosen)
        assert stream.types(chosen).tobytes() == wanted
        for number in CLASSES:
            found = [whole(patch).tobytes() for patch in stream.segment(number, chosen)]
            assert found == [everything.maps[number][i] for i in chosen]


def test_no_indices_give_no_answers(case: Case, easy: Path) -> None:
    with case.open(pack.load(easy)) as runtime:
        stream = runtime.stream()
        stream.load(tiles(2))
        assert stream.types([]).shape == (0, len(CLASSES))
        stream.expect({1: [], 2: []})
        assert list(stream.segment(1, [])) == []
        stream.load([])
        assert stream.gate().shape == (0,)


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_a_tile_gives_the_same_bits_whatever_batch_it_came_in(case: Case, floats: Path, size: int) -> None:
    pictures = tiles(7)
    with case.open(pack.load(floats)) as runtime:
        stream = runtime.stream()
        whole = ask(stream, pictures)
        parts = [ask(stream, pictures[start : start + size]) for start in range(0, len(pictures), size)]
    assert b"".join(part.gate for part in parts) == whole.gate
    assert b"".join(part.types for part in parts) == whole.types
    for number in CLASSES:
        assert [bits for part in parts for bits in part.maps[number]] == whole.maps[number]


def test_streams_side_by_side_agree(case: Case, floats: Path) -> None:
    """Each thread with a stream of its own, all at once, some with other batches in between."""
    pictures, others = tiles(4), tiles(3, seed=9)
    found: dict[int, list[Answers]] = {}
    start = threading.Barrier(4)

    def work(worker: int, runtime: Runtime) -> None:
        stream = runtime.stream()
        start.wait(30)
        found[worker] = []
        for _ in range(3):
            ask(stream, others[: worker % 3])
            found[worker].append(ask(stream, pictures))

    with case.open(pack.load(floats)) as runtime:
        alone = ask(runtime.stream(), pictures)
        threads = [threading.Thread(target=work, args=(worker, runtime)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(found) == [0, 1, 2, 3]
    assert all(answers == alone for results in found.values() for answers in results)
    assert all(len(results) == 3 for results in found.values())


def test_tiles_are_not_written_to(case: Case, floats: Path) -> None:
    pictures = tiles(3)
    for picture in pictures:
        picture.setflags(write=False)
    before = [picture.copy() for picture in pictures]
    with case.open(pack.load(floats)) as runtime:
        ask(runtime.stream(), pictures)
    for picture, was in zip(pictures, before, strict=True):
        np.testing.assert_array_equal(picture, was)


# ---------------------------------------------------------------- acquired on enter, released on exit


def test_nothing_is_loaded_before_enter(case: Case, easy: Path) -> None:
    engines = pack.load(easy)
    (easy / "gate.onnx").unlink()
    runtime = case.open(engines)
    with pytest.raises(PackError, match=r"gate\.onnx"), runtime:
        pass


def test_it_is_warm_on_enter(case: Case, easy: Path) -> None:
    """A network that cannot run is found before the first frame, not by it."""
    networks.swap(easy, "gate", networks.failing_gate(TILE, 1, below=True))
    with pytest.raises(EngineError, match="gate"), case.open(pack.load(easy)):
        pass


def test_a_stream_ends_with_its_runtime(case: Case, easy: Path) -> None:
    with case.open(pack.load(easy)) as runtime:
        stream = runtime.stream()
        stream.load(tiles(1))
    with pytest.raises(EngineError):
        stream.gate()


def test_it_can_be_entered_again(case: Case, floats: Path) -> None:
    pictures = tiles(2)
    runtime = case.open(pack.load(floats))
    with runtime:
        first = ask(runtime.stream(), pictures)
    with runtime:
        assert ask(runtime.stream(), pictures) == first


# ---------------------------------------------------------------- what can be wrong with a pack


@pytest.mark.parametrize("name", ["gate", "types", "segment_3"])
@pytest.mark.parametrize("damage", ["no network", "cut", "empty"])
def test_a_broken_network_is_named(case: Case, easy: Path, name: str, damage: str) -> None:
    whole = (easy / f"{name}.onnx").read_bytes()
    raw = {"no network": b"no network at all", "cut": whole[: len(whole) // 2], "empty": b""}[damage]
    file = networks.swap(easy, name, raw)
    with pytest.raises(PackError) as error, case.open(pack.load(easy)):
        pass
    assert str(file) in str(error.value)
    assert "Export the pack again" in str(error.value)


def test_an_altered_network_is_refused(easy: Path) -> None:
    file = easy / "segment_2.onnx"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(PackError, match=r"segment_2\.onnx: network segment_2 was altered"):
        pack.load(easy)


def _passed_on(kind: int, to: int, shape: list[int | str], *, frames: str, tile: tuple[int, int]) -> onnx.ModelProto:
    """A network that only casts its input: as much as it takes to have a wrong signature."""
    nodes = [helper.make_node("Cast", [frames], ["out"], to=to)]
    return networks.graph(nodes, tile, ("out", to, shape), frames=frames, kind=kind)


def _flat(output: str, kind: int, *, axes: list[int], shape: list[int | str]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["frames"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["grey"], ["most"], axes=axes, keepdims=0),
        helper.make_node("Cast", ["most"], [output], to=kind),
    ]
    return networks.graph(nodes, TILE, (output, kind, shape))


def _doubled(types: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, but its scores are doubles."""
    types.graph.node[-1].output[0] = "single"
    types.graph.node.append(helper.make_node("Cast", ["single"], ["scores"], to=TensorProto.DOUBLE))
    types.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return types


WRONG = {
    "input name": ("gate", _passed_on(TensorProto.UINT8, TensorProto.FLOAT, [1, *SIZE], frames="images", tile=TILE)),
    "input type": ("gate", _passed_on(TensorProto.FLOAT, TensorProto.FLOAT, [1, *SIZE], frames="frames", tile=TILE)),
    "input size": ("gate", _passed_on(TensorProto.UINT8, TensorProto.FLOAT, [1, 8, 8], frames="frames", tile=(8, 8))),
    "gate shape": ("gate", _passed_on(TensorProto.UINT8, TensorProto.FLOAT, [1, *SIZE], frames="frames", tile=TILE)),
    "gate type": ("gate", _flat("score", TensorProto.DOUBLE, axes=[1, 2, 3], shape=[])),
    "gate output": ("gate", _flat("logit", TensorProto.FLOAT, axes=[1, 2, 3], shape=[])),
    "types shape": ("types", _flat("scores", TensorProto.FLOAT, axes=[2, 3], shape=[1])),
    "types type": ("types", _doubled(networks.conv_types(TILE, len(CLASSES)))),
    "segmenter shape": ("segment_4", _flat("probability", TensorProto.UINT8, axes=[1, 2], shape=[SIZE[1]])),
    "segmenter type": ("segment_4", _flat("probability", TensorProto.FLOAT, axes=[1], shape=list(SIZE))),
    "segmenter output": ("segment_4", _flat("mask", TensorProto.UINT8, axes=[1], shape=list(SIZE))),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_network_of_another_contract_is_refused(case: Case, easy: Path, wrong: str) -> None:
    name, model = WRONG[wrong]
    file = networks.swap(easy, name, model)
    with pytest.raises(PackError) as error, case.open(pack.load(easy)):
        pass
    assert str(error.value).startswith(f"{file}: network {name} ")


def test_a_second_input_is_refused(case: Case, easy: Path) -> None:
    model = networks.conv_gate(TILE)
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, ["batch"]))
    file = networks.swap(easy, "gate", model)
    with pytest.raises(PackError) as error, case.open(pack.load(easy)):
        pass
    assert str(file) in str(error.value)


# ---------------------------------------------------------------- what can go wrong while it runs


def test_a_network_that_fails_is_an_engine_error_and_the_next_batch_is_not_hurt(case: Case, easy: Path) -> None:
    networks.swap(easy, "gate", networks.failing_gate(TILE, 250))
    good: list[NDArray[np.uint8]] = [np.full(TILE, 200, dtype=np.uint8)] * 2
    bad: list[NDArray[np.uint8]] = [np.full(TILE, 251, dtype=np.uint8)]
    with case.open(pack.load(easy)) as runtime:
        stream = runtime.stream()
        stream.load(good + bad)
        with pytest.raises(EngineError, match="network gate failed"):
            stream.gate()
        stream.load(good)
        assert stream.gate().tolist() == [0.25, 0.25]
