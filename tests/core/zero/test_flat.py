"""Parameters as views of one buffer whose memory comes and goes."""

from collections.abc import Callable

import pytest
import torch
from plain_units import unit_of
from torch import nn

from legion.comm.arrays import array_of
from legion.layout import CHUNK
from legion.zero.flat import FlatUnit, HostStage

CPU = torch.device("cpu")


@pytest.mark.parametrize("sizes", [(1, 1), (3, 5), (64, 63), (64, 64), (1, CHUNK + 1)])
def test_parameters_are_views_in_their_order(sizes: tuple[int, int]) -> None:
    layer = nn.Linear(*sizes)
    flat = FlatUnit(unit_of(layer), CPU)
    assert flat.flat.numel() % CHUNK == 0
    assert flat.flat.numel() - flat.numel < CHUNK
    flat.allocate()
    flat.flat.copy_(torch.arange(flat.flat.numel(), dtype=torch.float32))
    weights = sizes[0] * sizes[1]
    assert torch.equal(layer.weight.detach().flatten(), torch.arange(weights, dtype=torch.float32))
    assert torch.equal(layer.bias.detach(), torch.arange(weights, weights + sizes[1], dtype=torch.float32))
    assert layer.weight is flat.parameters[0]


def test_without_memory_at_first_and_after_it_is_freed() -> None:
    layer = nn.Linear(7, 9)
    flat = FlatUnit(unit_of(layer), CPU)
    assert not flat.allocated
    assert layer.weight.untyped_storage().nbytes() == 0
    assert layer.weight.shape == (9, 7)
    for _ in range(3):
        flat.allocate()
        flat.allocate()
        assert layer.weight.untyped_storage().nbytes() == 4 * CHUNK
        flat.free()
        flat.free()
        assert layer.weight.untyped_storage().nbytes() == 0


def test_a_shared_parameter_stays_shared() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    flat = FlatUnit(unit_of(first, second), CPU)
    assert first.weight is second.weight is flat.parameters[0]
    assert flat.numel == 16


class StageElsewhere(HostStage):
    """As for a device with memory of its own."""

    def __init__(self, flat: torch.Tensor) -> None:
        super().__init__(flat)
        self._on_host = False
        self.host = torch.empty_like(flat)


def through_numpy(flat: torch.Tensor, values: torch.Tensor) -> None:
    """As the network writes into a CPU's unit."""
    array_of(flat)[:] = values.numpy()


def through_a_stage(flat: torch.Tensor, values: torch.Tensor) -> None:
    stage = StageElsewhere(flat)
    array_of(stage.host)[:] = values.numpy()
    stage.to_device()


@pytest.mark.parametrize("write", [through_numpy, through_a_stage])
def test_memory_may_go_between_forward_and_backward(write: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
    """The invariant that the hooks live on: autograd reads the same storage, filled again."""
    layer, values = nn.Linear(6, 5), torch.randn(CHUNK)
    flat = FlatUnit(unit_of(layer), CPU)
    flat.allocate()
    write(flat.flat, values)
    x = torch.randn(3, 6, requires_grad=True)
    loss = layer(x).square().sum()
    flat.free()
    flat.allocate()
    write(flat.flat, values)
    loss.backward()
    plain = nn.Linear(6, 5)
    with torch.no_grad():
        plain.weight.copy_(values[:30].view(5, 6))
        plain.bias.copy_(values[30:35])
    y = x.detach().clone().requires_grad_()
    plain(y).square().sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert torch.equal(x.grad, y.grad)
    assert layer.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_the_stage_of_a_cpu_unit_is_the_unit() -> None:
    flat = torch.zeros(CHUNK)
    stage = HostStage(flat)
    assert stage.host is flat
    stage.host.fill_(3.0)
    stage.to_device()
    assert (flat == 3.0).all()
