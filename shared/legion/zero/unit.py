"""One unit's weights on this member: SHARDED -> GATHERING -> UNSHARDED -> SHARDED.

A unit is held by *sites*: a site is the place in the model where a unit's modules run, and a tied head's site holds
two units. Weights go when nobody holds them any more.
"""

import enum

import torch

from legion.comm.api import Exchange, Work
from legion.ids import Step, UnitId
from legion.zero.flat import FlatUnit, HostStage, ModelUnit


class State(enum.Enum):
    SHARDED = "sharded"  # no memory
    GATHERING = "gathering"  # memory, weights on their way
    UNSHARDED = "unsharded"  # usable


class GatheredUnit:
    """The weights of one unit while they are here."""

    def __init__(self, number: UnitId, unit: ModelUnit, exchange: Exchange, device: torch.device) -> None:
        self.number = number
        self.flat = FlatUnit(unit, device)
        self.state = State.SHARDED
        self._exchange = exchange
        self._holders: set[UnitId] = set()
        self._work: Work[None] | None = None
        self._stage: HostStage | None = None

    def hold(self, site: UnitId, step: Step) -> None:
        """`site` will need the weights: they set out now, if they are not here."""
        self._holders.add(site)
        if self.state is State.SHARDED:
            self.flat.allocate()
            self._stage = HostStage(self.flat.flat)
            self._work = self._exchange.fetch(step, self.number, self._stage.host)
            self.state = State.GATHERING

    def wait(self) -> None:
        """Until the weights are here; a site that holds them may compute afterwards."""
        if self.state is State.GATHERING:
            assert self._work is not None
            assert self._stage is not None
            self._work.wait()
            self._stage.to_device()
            self._work = self._stage = None
            self.state = State.UNSHARDED

    def drop(self, site: UnitId) -> None:
        """`site` is done with the weights. The last one frees them."""
        self._holders.discard(site)
        if not self._holders:
            self.release()

    def release(self) -> None:
        """Free the weights, whoever holds them: the step is over."""
        self._holders.clear()
        self.wait()  # what the network still writes to must not be freed
        if self.state is State.UNSHARDED:
            self.flat.free()
            self.state = State.SHARDED
