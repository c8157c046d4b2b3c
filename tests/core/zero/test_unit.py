"""SHARDED -> GATHERING -> UNSHARDED -> SHARDED: when weights set out, and when their memory goes."""

import pytest
import torch
from plain_units import ToldExchange, unit_of
from torch import nn

from legion.ids import Step, UnitId
from legion.zero.unit import GatheredUnit, State


@pytest.fixture
def exchange() -> ToldExchange:
    return ToldExchange(fill=2.5)


@pytest.fixture
def unit(exchange: ToldExchange) -> GatheredUnit:
    return GatheredUnit(UnitId(4), unit_of(nn.Linear(3, 3)), exchange, torch.device("cpu"))  # type: ignore[arg-type]


def states(unit: GatheredUnit) -> tuple[State, bool]:
    return unit.state, unit.flat.allocated


def test_one_life(unit: GatheredUnit, exchange: ToldExchange) -> None:
    assert states(unit) == (State.SHARDED, False)
    unit.hold(UnitId(4), Step(7))
    assert states(unit) == (State.GATHERING, True)
    unit.wait()
    assert states(unit) == (State.UNSHARDED, True)
    assert (unit.flat.parameters[0] == 2.5).all()
    unit.drop(UnitId(4))
    assert states(unit) == (State.SHARDED, False)
    assert exchange.fetched == [(7, 4)]


def test_holding_again_fetches_nothing_again(unit: GatheredUnit, exchange: ToldExchange) -> None:
    for _ in range(3):
        unit.hold(UnitId(4), Step(7))
        unit.wait()
    assert len(exchange.fetched) == 1
    unit.drop(UnitId(4))
    unit.hold(UnitId(4), Step(8))
    assert exchange.fetched == [(7, 4), (8, 4)]


def test_the_last_holder_frees(unit: GatheredUnit) -> None:
    """A tied head holds the embedding while the embedding's own site has dropped it."""
    unit.hold(UnitId(0), Step(0))
    unit.hold(UnitId(9), Step(0))
    unit.wait()
    unit.drop(UnitId(0))
    assert states(unit) == (State.UNSHARDED, True)
    unit.drop(UnitId(0))
    unit.drop(UnitId(9))
    assert states(unit) == (State.SHARDED, False)


def test_weights_on_their_way_are_waited_for_before_their_memory_goes(
    unit: GatheredUnit, exchange: ToldExchange
) -> None:
    """The network writes into that memory."""
    unit.hold(UnitId(4), Step(0))
    assert unit.state is State.GATHERING
    unit.release()
    assert states(unit) == (State.SHARDED, False)
    unit.release()
    assert len(exchange.fetched) == 1


def test_waiting_for_what_nobody_holds_is_nothing(unit: GatheredUnit) -> None:
    unit.wait()
    assert states(unit) == (State.SHARDED, False)
