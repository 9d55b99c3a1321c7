"""A batch shared among replicas teaches what its parts teach one after another."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="build_engines needs torch: pip install 'inspector[train]'")
pytest.importorskip("onnx", reason="build_engines needs onnx: pip install 'inspector[train]'")

from build_engines.losses import Raw  # noqa: E402
from build_engines.networks import Classifier  # noqa: E402
from build_engines.replicas import Replicas, threads_of  # noqa: E402

torch.set_num_threads(1)


def loss(network: torch.nn.Module, grey: torch.Tensor) -> torch.Tensor:
    cells, pooled = network(grey)
    return cells.square().mean() + pooled.square().mean()  # type: ignore[no-any-return]


def test_gradients_are_the_weighted_mean_of_the_parts() -> None:
    torch.manual_seed(3)
    network = Classifier(1).train()
    plain = copy.deepcopy(network)
    parts = list(torch.randn(5, 1, 32, 64).split([3, 2]))
    with Replicas(network, 2) as replicas:
        told = replicas.backward(parts, loss, [3, 2])
    wanted = 0.6 * loss(plain, parts[0]) + 0.4 * loss(plain, parts[1])
    wanted.backward()
    assert float(told) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for own, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_replicas_share_parameters_and_agree_on_the_statistics() -> None:
    torch.manual_seed(4)
    network = Classifier(1).train()
    replicas = Replicas(network, 2)
    parts = [torch.randn(2, 1, 32, 32), 3 + torch.randn(2, 1, 32, 32)]
    alone = []
    for part in parts:
        one = copy.deepcopy(network)
        one(part)
        alone.append(one.encoder.stem[1].running_mean)
    with replicas:
        replicas.backward(parts, loss, [2, 2])
    for own, other in zip(network.parameters(), replicas.networks[1].parameters(), strict=True):
        assert own is other
    for own, other in zip(network.buffers(), replicas.networks[1].buffers(), strict=True):
        assert own is not other
        assert torch.equal(own, other)
    torch.testing.assert_close(network.encoder.stem[1].running_mean, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("count", [1, 2])
def test_replicas_without_a_part_have_no_say_in_the_statistics(count: int) -> None:
    torch.manual_seed(5)
    network = Classifier(1).train()
    parts = [torch.randn(2, 1, 32, 32), 3 + torch.randn(2, 1, 32, 32)][:count]
    few, many = Replicas(copy.deepcopy(network), count), Replicas(copy.deepcopy(network), 3)
    for replicas in (few, many):
        with replicas:
            replicas.backward(parts, loss, [2] * count)
    for same in zip(*(own.buffers() for own in (*few.networks, *many.networks)), strict=True):
        assert all(torch.equal(same[0], other) for other in same if other.is_floating_point())


@pytest.mark.parametrize("count", [1, 2])
def test_norms_that_are_kept_learn_their_gains_alone(count: int) -> None:
    torch.manual_seed(6)
    network = Classifier(1).train()
    parts = [torch.randn(2, 1, 32, 32), 3 + torch.randn(2, 1, 32, 32)][:count]
    with Replicas(network, count) as replicas:
        replicas.backward(parts, loss, [2] * count)
        replicas.keep_norms()
        before = copy.deepcopy(network)
        told = replicas.backward(parts, loss, [2] * count)
    for own, other in zip(before.buffers(), network.buffers(), strict=True):
        assert torch.equal(own, other)
    assert network.encoder.stem[1].weight.grad.abs().sum() > 0
    with torch.no_grad():
        used = sum(float(loss(before.eval(), part)) for part in parts) / count
    assert float(told) == pytest.approx(used, rel=1e-4)  # what is learnt from is what will be used


def test_a_small_batch_is_learnt_from_in_fewer_parts() -> None:
    with Replicas(Classifier(1), 4) as replicas:
        found = [replicas.parts_of(batch) for batch in (1, 3, 4, 6, 8, 32)]
    assert found == [1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("threads", "batch", "expected"),
    [(1, 8, (1, 1)), (2, 8, (2, 1)), (2, 3, (1, 2)), (16, 8, (4, 4)), (3, 8, (3, 1)), (2, 1, (1, 2))],
)
def test_parts_of_a_batch_hold_two_examples_at_least(threads: int, batch: int, expected: tuple[int, int]) -> None:
    assert threads_of(threads, batch) == expected


def test_a_batch_is_cut_in_order() -> None:
    flags = torch.ones(5, dtype=torch.bool)
    raw = Raw(torch.arange(5).view(5, 1, 1, 1), torch.arange(5).view(5, 1, 1, 1), flags, ~flags)
    assert [part.frames.flatten().tolist() for part in raw.parts(2)] == [[0, 1, 2], [3, 4]]
