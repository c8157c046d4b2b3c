"""A unit's gradient on its way out: filled parameter by parameter during the backward, then sent to its owners.

`micro_batch`: sent at once after every micro-batch, little memory. `step`: summed over this member's micro-batches and
sent once, which takes the whole model's size in memory and divides the traffic.
"""

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from legion.comm.api import Batches, Exchange, Work
from legion.errors import RunError
from legion.ids import Step, UnitId
from legion.zero.flat import FlatUnit
from legion.zero.optimizers import PIECE

IN_FLIGHT = 1  # gradient buffers on their way at a time, beside the one that fills


def norm_squared(values: Tensor) -> float:
    """Of a 1-D tensor, added up in float64."""
    exact = (piece.double() for piece in values.split(PIECE))
    return math.fsum(float(torch.dot(piece, piece)) for piece in exact)


class GradientBuffer:
    """One unit's gradient (fp32): `fill` per parameter; what several micro-batches bring is added up.

    The tensors are those the backward made, so nothing is copied.
    """

    def __init__(self, unit: FlatUnit) -> None:
        self._unit = unit
        self._gradients: list[Tensor | None] = [None] * len(unit.parameters)
        self._filled = 0  # parameters, in this micro-batch

    def fill(self, index: int) -> bool:
        """Take over the gradient of parameter `index`; whether it was the unit's last of this micro-batch."""
        parameter, held = self._unit.parameters[index], self._gradients[index]
        assert parameter.grad is not None
        if held is None:
            self._gradients[index] = parameter.grad
        else:
            held.add_(parameter.grad)
        parameter.grad = None
        self._filled += 1
        return self._filled == len(self._unit.parameters)

    def end_micro_batch(self) -> None:
        """RunError if a parameter was left out: a gradient is never made up of zeros."""
        if self._filled != len(self._unit.parameters):
            missing = len(self._unit.parameters) - self._filled
            raise RunError(f"{self._unit.unit.name}: {missing} parameters got no gradient")
        self._filled = 0

    def take(self) -> list[Tensor]:
        """The gradient in host memory, 1-D tensors of padded size together; the buffer starts anew."""
        pieces = [gradient.reshape(-1).cpu() for gradient in self._gradients if gradient is not None]
        self._gradients = [None] * len(pieces)
        padding = self._unit.flat.numel() - self._unit.numel
        return [*pieces, torch.zeros(padding)] if padding else pieces


class GradientSender:
    """Sends full buffers; holds what is on its way until every owner has it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._sent: deque[tuple[Work[None], list[Tensor]]] = deque()

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        while self._sent and self._sent[0][0].done():
            self._wait_one()
        return not self._sent

    def send(
        self,
        step: Step,
        batches: Batches,
        unit: UnitId,
        take: Callable[[], list[Tensor]],
        codec: str | None = None,
    ) -> None:
        while len(self._sent) >= IN_FLIGHT:
            self._wait_one()
        gradient = take()
        self._sent.append((self._exchange.send_gradient(step, batches, unit, *gradient, codec=codec), gradient))

    def wait(self) -> None:
        """Until nothing is in flight."""
        while self._sent:
            self._wait_one()

    def _wait_one(self) -> None:
        work, _ = self._sent.popleft()
        work.wait()
