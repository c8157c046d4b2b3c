"""Gradients on their way out: filled completely, summed, sent, and few of them at a time."""

import pytest
import torch
from plain_units import ToldExchange, unit_of
from torch import Tensor, nn

from legion.comm.api import Batches
from legion.errors import RunError
from legion.ids import Step, UnitId
from legion.layout import CHUNK
from legion.zero.flat import FlatUnit
from legion.zero.gradient import IN_FLIGHT, GradientBuffer, GradientSender

CPU = torch.device("cpu")
BATCHES = Batches((0,), 5)


@pytest.fixture
def unit() -> FlatUnit:
    """Seven parameters' elements in a buffer of one chunk: 6 weights and a bias."""
    return FlatUnit(unit_of(nn.Linear(6, 1)), CPU)


def give(unit: FlatUnit, value: float) -> None:
    for parameter in unit.parameters:
        parameter.grad = torch.full(parameter.shape, value)


def micro_batch(unit: FlatUnit, buffer: GradientBuffer, value: float) -> list[bool]:
    give(unit, value)
    last = [buffer.fill(index) for index in (1, 0)]
    buffer.end_micro_batch()
    return last


def test_filled_parameter_by_parameter_in_any_order(unit: FlatUnit) -> None:
    buffer = GradientBuffer(unit)
    assert micro_batch(unit, buffer, 3.0) == [False, True]
    assert all(parameter.grad is None for parameter in unit.parameters)
    gradient = torch.cat(buffer.take())
    assert gradient.shape == (CHUNK,)
    assert (gradient[:7] == 3.0).all()
    assert (gradient[7:] == 0.0).all()  # the padding travels too


def test_several_micro_batches_add_up_and_a_taken_buffer_starts_anew(unit: FlatUnit) -> None:
    buffer = GradientBuffer(unit)
    for value in (1.0, 2.0, 4.0):
        micro_batch(unit, buffer, value)
    assert (torch.cat(buffer.take())[:7] == 7.0).all()
    micro_batch(unit, buffer, 0.5)
    assert (torch.cat(buffer.take())[:7] == 0.5).all()


def test_the_tensors_of_the_backward_are_sent_not_copies(unit: FlatUnit) -> None:
    buffer = GradientBuffer(unit)
    give(unit, 1.0)
    made = [parameter.grad.data_ptr() for parameter in unit.parameters if parameter.grad is not None]
    assert [buffer.fill(index) for index in (1, 0)] == [False, True]
    weight, bias, padding = buffer.take()
    assert [weight.data_ptr(), bias.data_ptr()] == made
    assert padding.numel() == CHUNK - 7


def test_a_unit_without_padding_and_gradients_that_lie_in_another_order() -> None:
    unit = FlatUnit(unit_of(nn.Linear(64, 64, bias=False)), CPU)
    gradient = torch.arange(CHUNK, dtype=torch.float32).view(64, 64)
    unit.parameters[0].grad = gradient.t()
    buffer = GradientBuffer(unit)
    assert buffer.fill(0)
    (piece,) = buffer.take()
    assert torch.equal(piece, gradient.t().flatten())


def test_a_parameter_without_gradient_is_an_error_not_zeros(unit: FlatUnit) -> None:
    buffer = GradientBuffer(unit)
    give(unit, 1.0)
    buffer.fill(0)
    with pytest.raises(RunError, match="unit: 1 parameters got no gradient"):
        buffer.end_micro_batch()
    with pytest.raises(RunError, match="unit: 2 parameters got no gradient"):
        GradientBuffer(unit).end_micro_batch()


def test_few_gradients_are_in_flight_at_a_time_and_the_oldest_is_waited_for() -> None:
    exchange, taken = ToldExchange(), list[int]()
    sender = GradientSender(exchange)  # type: ignore[arg-type]

    def take(number: int) -> list[Tensor]:
        # The next gradient's memory is only asked for when there is room.
        assert sum(not work.finished for *_, work in exchange.sent) < IN_FLIGHT
        taken.append(number)
        return [torch.full((4,), float(number))]

    for number in range(7):
        sender.send(Step(3), BATCHES, UnitId(number), lambda number=number: take(number))  # type: ignore[misc]
        flying = [unit for _, _, unit, _, work in exchange.sent if not work.finished]
        assert flying == list(range(max(0, number + 1 - IN_FLIGHT), number + 1))
    assert taken == list(range(7))
    sender.wait()
    assert [work.waits for *_, work in exchange.sent] == [1] * 7
    assert [(step, batches, unit) for step, batches, unit, *_ in exchange.sent] == [(3, BATCHES, n) for n in range(7)]
    sender.wait()
    assert len(exchange.sent) == 7


def test_what_is_in_flight_keeps_its_memory() -> None:
    exchange = ToldExchange()
    sender = GradientSender(exchange)  # type: ignore[arg-type]
    sender.send(Step(0), BATCHES, UnitId(0), lambda: [torch.full((4,), 9.0)])
    assert (exchange.sent[0][3][0] == 9.0).all()
    assert len(sender._sent) == 1
