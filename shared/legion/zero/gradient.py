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

IN_FLIGHT = 1  # gradient buffers on their way at a time, beside the one that fills


class GradientBuffer:
    """One unit's gradient (fp32, padded): `fill` per parameter; what several micro-batches bring is added up."""

    def __init__(self, unit: FlatUnit) -> None:
        self._unit = unit
        self._flat: Tensor | None = None
        self._holds_sum = False  # of earlier micro-batches
        self._filled = 0  # parameters, in this micro-batch

    def fill(self, index: int) -> bool:
        """Take over the gradient of parameter `index`; whether it was the unit's last of this micro-batch."""
        parameter, slot = self._unit.parameters[index], self._unit.unit.parameters[index]
        assert parameter.grad is not None
        if self._flat is None:
            self._flat = torch.empty(self._unit.flat.shape, device=self._unit.flat.device)
            self._flat[self._unit.numel :] = 0
        target = self._flat[slot.offset : slot.offset + slot.numel].view(slot.shape)
        if self._holds_sum:
            target.add_(parameter.grad)
        else:
            target.copy_(parameter.grad)
        parameter.grad = None
        self._filled += 1
        return self._filled == len(self._unit.parameters)

    def end_micro_batch(self) -> None:
        """RunError if a parameter was left out: a gradient is never made up of zeros."""
        if self._filled != len(self._unit.parameters):
            missing = len(self._unit.parameters) - self._filled
            raise RunError(f"{self._unit.unit.name}: {missing} parameters got no gradient")
        self._filled = 0
        self._holds_sum = self._flat is not None

    def take(self) -> Tensor:
        """The gradient in host memory; the buffer starts anew."""
        assert self._flat is not None
        stage = HostStage(self._flat)
        if stage.host is not self._flat:
            stage.host.copy_(self._flat)
        self._flat = None
        self._holds_sum = False
        return stage.host


class GradientSender:
    """Sends full buffers; holds what is on its way until every owner has it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._sent: deque[tuple[Work[None], Tensor]] = deque()

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        while self._sent and self._sent[0][0].done():
            self._wait_one()
        return not self._sent

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
