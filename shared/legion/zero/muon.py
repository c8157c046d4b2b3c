"""Muon for the hidden matrices of a model whose member holds them whole; AdamW for everything else.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): Nesterov momentum, replaced by the
(semi-)orthogonal matrix near it. Momentum lies in the slice's `exp_avg`. `exp_avg_sq` is not used for these matrices,
and kept, so that slices and checkpoints have one format for every optimizer. Nothing here enters a digest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from legion.config import OptimizerConfig
from legion.layout import Bounds
from legion.zero.flat import Slot
from legion.zero.optimizers import Slice, UnitAdamW

NEWTON_SCHULZ_STEPS = 5
# Of the quintic a x + b x^3 + c x^5: steepest at 0, so that five steps bring every singular value near 1, none to 1.
QUINTIC = (3.4445, -4.7750, 2.0315)
_SMALLEST_NORM = 1e-7  # a zero gradient gives a zero update


def orthogonalised(matrix: Tensor) -> Tensor:
    """U S' V^T of a matrix U S V^T with S' roughly within 0.7 and 1.2: the Newton-Schulz iteration, in its dtype."""
    a, b, c = QUINTIC
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.mT if tall else matrix
    x = x / x.norm().clamp_min(_SMALLEST_NORM)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


@dataclass(frozen=True, slots=True)
class _Matrix:
    weights: Tensor
    gradient: Tensor
    momentum: Tensor
    scale: float  # of the update: sqrt(outputs / inputs), at least 1


class UnitMuon:
    """Muon for the 2-D parameters of a unit, AdamW for its others. `bounds` must be the whole unit.

    `lr` of `update` is AdamW's; Muon's is `muon_lr`, on the same schedule. The iteration runs on `device`.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        slots: Sequence[Slot],
        bounds: Bounds,
        part: Slice,
        steps_done: int,
        device: torch.device,
    ) -> None:
        self._config = config
        self._device = device
        self._matrices: list[_Matrix] = []
        others: list[Slot] = []
        for slot in slots:
            if len(slot.shape) != 2:
                others.append(slot)
                continue
            mine = part.part(slot.offset, slot.offset + slot.numel)
            weights, gradient, momentum = (t.view(slot.shape) for t in (mine.weights, mine.gradient, mine.exp_avg))
            self._matrices.append(_Matrix(weights, gradient, momentum, _scale(slot)))
        self._adamw = UnitAdamW(config, others, bounds, part, steps_done)

    def update(self, lr: float) -> None:
        """One step with the gradients that now lie in the slice."""
        self._adamw.update(lr)
        config = self._config
        muon_lr = config.muon_lr * lr / config.lr
        for matrix in self._matrices:
            matrix.momentum.lerp_(matrix.gradient, 1 - config.muon_momentum)
            direction = matrix.gradient.lerp(matrix.momentum, config.muon_momentum)
            change = orthogonalised(direction.to(self._device)).to(matrix.weights.device)
            matrix.weights.mul_(1 - muon_lr * config.weight_decay).add_(change, alpha=-muon_lr * matrix.scale)


def _scale(slot: Slot) -> float:
    """nn.Linear keeps (outputs, inputs), GPT-2's Conv1D (inputs, outputs)."""
    outputs, inputs = slot.shape
    if slot.owners and not isinstance(slot.owners[0][0], nn.Linear):
        outputs, inputs = inputs, outputs
    return math.sqrt(max(1.0, outputs / inputs))
