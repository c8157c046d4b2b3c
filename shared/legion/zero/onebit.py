"""1-bit Adam: after a warm-up, members send the signs of their momentum instead of gradients.

Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed" (arXiv
2102.02888): AdamW for the first steps; then the variance is frozen, so that the update is linear in the momentum and
what compression drops can be fed back.

[Note: where this differs from the paper]
- One compression, not two. The paper's averaged momentum goes back to all workers and is compressed again for that. In
  ZeRO-3 the owner of an element alone updates it, and weights are gathered in every step anyway: no momentum goes back.
- So members do not know the averaged momentum, and each keeps that of its own gradients. Momentum is linear: the sum of
  theirs is the momentum of the sum. What the warm-up left lies with the owners, each of which takes it for its own
  momentum of its own range; that range never travels, is exact, and has no residual.
- Sums, not means: a member cannot know the tokens of a step before its end. Momentum is of gradients summed over
  tokens, and owners divide by the average of the tokens in the same window: every token counts alike.
- Everybody sends in every step, also a member that computed nothing: its share of the momentum is still due. For this
  the momentum of rank r is micro-batch `batch_count + r` of the step.
- Clipping. Nobody holds the gradient before it is sent. A member with the share s of the micro-batches clips its own
  mean gradient to clip_norm / sqrt(s): if members' gradients differ by noise only, that bounds their mean by clip_norm.
  The mean momentum, whose norm the vote finds, is clipped to clip_norm too, which AdamW's never exceeds.
- Bias corrections: the momentum's goes on with the steps, the variance's stays that of the step it was frozen at.
- Adam's steps are bounded by the learning rate (Kingma & Ba, section 2.1), but not with a frozen variance: elements
  whose gradients were near zero in the warm-up would jump, by the sign alone. The bound is kept explicitly.

Aborted steps: momentum and residuals move when the step is committed, not before. Resumed runs, and clusters that go on
from a restore point with other members: momentum and variance come with the slice, residuals are lost, which loses what
a few steps had not sent yet, and start at zero. There is no second warm-up. A member that comes back to a run by itself
has the phase of the cluster that it enters, and moments as a newcomer's.

Memory: momentum and residual of the whole model (`OptimizerConfig.state_bytes`), and in the compressed phase the sum of
the step's gradients, as with `reduce_every: step`.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from legion.codec.api import Codec
from legion.codec.registry import by_name
from legion.comm.api import Batches
from legion.comm.arrays import array_of
from legion.config import OptimizerConfig
from legion.ids import Rank, UnitId
from legion.layout import Bounds, Layout
from legion.zero.flat import Slot
from legion.zero.gradient import norm_squared
from legion.zero.optimizers import PIECE, Slice, UnitAdamW, owned_parts

CODEC = "onebit"


class LocalMomentum:
    """This member's momentum of its own gradients, and what of it was not sent: P x 4 bytes each, in host memory.

    In a step of the compressed phase: `follow`, then `message` for every unit, then, on commit, `divisor` and `settle`.
    """

    def __init__(self, config: OptimizerConfig, layout: Layout, rank: Rank) -> None:
        self._config = config
        self._own = [layout.bounds(UnitId(unit), rank) for unit in range(len(layout.units))]
        sizes = [layout.padded_unit(UnitId(unit)) for unit in range(len(layout.units))]
        self.momentum = [torch.zeros(size) for size in sizes]
        self.residual = [torch.zeros(size) for size in sizes]
        self._next: list[Tensor] = []  # the momentum after the step under way
        self._tokens = 0.0  # of a step, averaged as the momentum is; 0 before the first
        self._codec = by_name(CODEC)

    def follow(self, gradients: Sequence[Tensor], batches: Batches, batch_count: int) -> None:
        """The momentum after this step, from this member's gradient sums; none if it computed no micro-batch.

        The tensors are kept and changed.
        """
        beta = self._config.beta1
        if not gradients:
            self._next = [momentum * beta for momentum in self.momentum]
            return
        factor = (1 - beta) * self._clip(gradients, batches, batch_count)
        self._next = [
            gradient.mul_(factor).add_(momentum, alpha=beta)
            for gradient, momentum in zip(gradients, self.momentum, strict=True)
        ]

    def _clip(self, gradients: Sequence[Tensor], batches: Batches, batch_count: int) -> float:
        most = self._config.clip_norm
        if most is None:
            return 1.0
        norm = math.sqrt(math.fsum(norm_squared(gradient) for gradient in gradients)) / batches.tokens
        return min(1.0, most * math.sqrt(batch_count / len(batches.indices)) / (norm + 1e-6))

    def message(self, unit: UnitId) -> list[Tensor]:
        """What is to be sent, by CODEC: a tensor of padded size."""
        return [self._next[unit] + self.residual[unit]]

    def divisor(self, tokens: int, parts: Sequence[Slice]) -> float:
        """What the sums in `parts` are to be divided by, for the mean momentum after a step of `tokens` tokens.

        In the first step of this object the momentum so far, in `exp_avg`, is added to the sums and to mine: before,
        the tokens it stands for were not known. The norm that the vote found has nothing of it.
        """
        beta = self._config.beta1
        if not self._tokens:
            self._tokens = float(tokens)
            for part, own, following in zip(parts, self._own, self._next, strict=True):
                part.gradient.add_(part.exp_avg, alpha=beta * tokens)
                following[own.start : own.stop].add_(part.exp_avg, alpha=beta * tokens)
            return self._tokens
        self._tokens = beta * self._tokens + (1 - beta) * tokens
        return self._tokens

    def settle(self) -> None:
        """The step is committed: its momentum is mine, and what compression dropped of its messages is the residual."""
        for unit, own in enumerate(self._own):
            (sent,) = self.message(UnitId(unit))
            for others in (slice(0, own.start), slice(own.stop, None)):
                self.residual[unit][others] = sent[others] - _decoded(self._codec, sent[others])
            self.momentum[unit] = self._next[unit]
        self._next = []


def _decoded(codec: Codec, values: Tensor) -> Tensor:
    """What arrives of `values`, whole chunks."""
    arrived = torch.empty_like(values)
    codec.decode(memoryview(codec.encode(array_of(values))), array_of(arrived))
    return arrived


class UnitOneBitAdam:
    """AdamW for `warmup_steps`, then Adam with the variance of that moment; decay as AdamW's.

    In the compressed phase the slice's gradient is the mean momentum, as `LocalMomentum` makes it.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        slots: Sequence[Slot],
        bounds: Bounds,
        part: Slice,
        steps_done: int,
        warmup_steps: int,
    ) -> None:
        self._config = config
        self._steps_done = steps_done
        self._warmup_steps = warmup_steps
        self._warm = UnitAdamW(config, slots, bounds, part, steps_done)
        self._parts = list(owned_parts(slots, bounds, part))

    def update(self, lr: float) -> None:
        self._steps_done += 1
        if self._steps_done <= self._warmup_steps:
            self._warm.update(lr)
            return
        config = self._config
        momentum_bias = 1 - config.beta1**self._steps_done
        variance_bias = 1 - config.beta2**self._warmup_steps
        for slot, part in self._parts:
            part.exp_avg.copy_(part.gradient)
            decay = config.weight_decay if len(slot.shape) > 1 else 0.0
            for weights, momentum, variance in _pieces(part.weights, part.exp_avg, part.exp_avg_sq):
                deviation = variance.div(variance_bias).sqrt_().add_(config.eps)
                change = momentum.div(momentum_bias).div_(deviation).clamp_(-1.0, 1.0)
                weights.mul_(1 - lr * decay).sub_(change, alpha=lr)


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(PIECE) for tensor in tensors), strict=True)
