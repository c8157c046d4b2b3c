"""AdamW over one member's slice, unit by unit.

Invariant: rank r alone updates `layout.bounds(unit, r)`, and only r holds the moments of those elements. The arithmetic
is torch.optim.AdamW's own, over views of the slice: Loshchilov & Hutter, "Decoupled Weight Decay Regularization".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from legion.config import OptimizerConfig
from legion.layout import Bounds
from legion.zero.flat import Slot

PIECE = 1 << 16  # elements worked on at a time where one operation follows another, so that a CPU's cache holds them


@dataclass(frozen=True, slots=True)
class Slice:
    """A member's part of a unit (or of all units): fp32, 1-D, host memory."""

    weights: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    def part(self, start: int, stop: int) -> "Slice":
        return Slice(
            self.weights[start:stop], self.gradient[start:stop], self.exp_avg[start:stop], self.exp_avg_sq[start:stop]
        )


class UnitOptimizer(Protocol):
    """Changes one member's part of a unit, and the moments that lie beside it in the slice."""

    def update(self, lr: float) -> None:
        """One step with the gradients that now lie in the slice."""


def owned_parts(slots: Sequence[Slot], bounds: Bounds, part: Slice) -> Iterator[tuple[Slot, Slice]]:
    """What lies in `part`, the range `bounds` of a unit, of each of its parameters; padding belongs to none."""
    for slot in slots:
        common = bounds.meet(Bounds(slot.offset, slot.offset + slot.numel))
        if len(common):
            yield slot, part.part(common.start - bounds.start, common.stop - bounds.start)


class UnitAdamW:
    """AdamW for the part `bounds` of a unit. Parameters of one dimension (norms, biases) are not decayed.

    Padding belongs to no parameter and never changes.
    """

    def __init__(
        self, config: OptimizerConfig, slots: Sequence[Slot], bounds: Bounds, part: Slice, steps_done: int
    ) -> None:
        decayed: list[Tensor] = []
        plain: list[Tensor] = []
        self._parameters: list[tuple[Tensor, Tensor]] = []
        state: dict[Tensor, dict[str, Tensor]] = {}
        for slot, mine in owned_parts(slots, bounds, part):
            parameter = mine.weights
            (decayed if len(slot.shape) > 1 else plain).append(parameter)
            self._parameters.append((parameter, mine.gradient))
            state[parameter] = {
                "step": torch.tensor(float(steps_done)),
                "exp_avg": mine.exp_avg,
                "exp_avg_sq": mine.exp_avg_sq,
            }
        groups = [
            {"params": parameters, "weight_decay": decay}
            for parameters, decay in ((decayed, config.weight_decay), (plain, 0.0))
            if parameters
        ]
        self._adamw = None
        if groups:
            self._adamw = torch.optim.AdamW(
                groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
            )
            self._adamw.state.update(state)

    def update(self, lr: float) -> None:
        """One step with the gradients that now lie in the slice."""
        if self._adamw is None:
            return
        for group in self._adamw.param_groups:
            group["lr"] = lr
        for parameter, gradient in self._parameters:
            parameter.grad = gradient
        self._adamw.step()
        for parameter, _ in self._parameters:
            parameter.grad = None
