"""A unit's gradient on its way out: filled parameter by parameter during the backward, then sent to its owners.

`micro_batch`: sent at once after every micro-batch, little memory. `step`: summed over this member's micro-batches and
sent once, which takes the whole model's size in memory and divides the traffic.
"""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from legion.comm.api import Batches, Exchange, Work
from legion.errors import RunError
from legion.ids import Step, UnitId
from legion.zero.flat import FlatUnit, HostStage

IN_FLIGHT = 2  # gradient buffers on their way at a time; more would be memory for nothing


class GradientBuffer:
    """One unit's gradient (fp32, padded). `fill` per parameter; `full` once every parameter has come."""

    def __init__(self, unit: FlatUnit, *, keep: bool) -> None:
        self._unit = unit
        self._keep = keep  # across micro-batches
        self._missing = len(unit.parameters)
        self._flat: Tensor | None = None
        self._fresh = True  # nothing summed up yet

    @property
    def untouched(self) -> bool:
        return self._missing == len(self._unit.parameters)

    def fill(self, index: int) -> bool:
        """Take over the gradient of parameter `index`; whether it was the unit's last."""
        parameter, slot = self._unit.parameters[index], self._unit.unit.parameters[index]
        if parameter.grad is None:
            raise RunError(f"{slot.name} has no gradient after its backward")
        if self._flat is None:
            self._flat = torch.empty_like(self._unit.flat)
            self._flat[self._unit.numel :] = 0
        target = self._flat[slot.offset : slot.offset + slot.numel].view(slot.shape)
        if self._fresh:
            target.copy_(parameter.grad)
        else:
            target.add_(parameter.grad)
        parameter.grad = None
        self._missing -= 1
        return self._missing == 0

    def end_micro_batch(self) -> None:
        self._missing = len(self._unit.parameters)
        self._fresh = False

    def take(self) -> Tensor:
        """The gradient in host memory; the buffer starts anew."""
        assert self._flat is not None
        stage = HostStage(self._flat)
        if stage.host is not self._flat:
            stage.host.copy_(self._flat)
        self._flat = None
        self._fresh = True
        self._missing = len(self._unit.parameters)
        return stage.host


class GradientSender:
    """Sends full buffers; holds what is on its way until every owner has it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._sent: deque[tuple[Work[None], Tensor]] = deque()

    def send(self, step: Step, batches: Batches, unit: UnitId, take: Callable[[], Tensor]) -> None:
        while len(self._sent) >= IN_FLIGHT:
            self._wait_one()
        gradient = take()
        self._sent.append((self._exchange.send_gradient(step, batches, unit, gradient), gradient))

    def wait(self) -> None:
        """Until nothing is in flight."""
        while self._sent:
            self._wait_one()

    def _wait_one(self) -> None:
        work, _ = self._sent.popleft()
        work.wait()
