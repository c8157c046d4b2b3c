"""What 1-bit Adam is compared with: one process in the place of all members, every gradient kept, in plain words."""

import math
from collections.abc import Callable, Sequence

import torch
from cluster_of_threads import VOCAB, batches_of, loss_sum, theta_of, tokens_of
from torch import Tensor, nn

from legion.config import RunConfig
from legion.layout import Layout
from legion.model.build import blueprint

Assignment = Callable[[int], Sequence[Sequence[int]]]  # step -> each member's micro-batches


def signs_and_means(values: Tensor) -> Tensor:
    """What the wire makes of it: every 256 elements have one magnitude, the mean, in bf16."""
    blocks = values.view(-1, 256)
    magnitude = blocks.abs().mean(dim=1, keepdim=True).bfloat16().float()
    return torch.where(blocks < 0, -magnitude, magnitude).view(-1)


class PlainOneBitAdam:
    """One process in the place of all members. Momentum is summed up anew from all gradients in every step."""

    def __init__(self, config: RunConfig, shares: Sequence[int], assignment: Assignment) -> None:
        self.config = config
        self._warmup_steps = config.optimizer.onebit_warmup_steps(config.steps)
        self._assignment = assignment
        plan = blueprint(config, VOCAB)
        self._model = plan.model
        self.layout = Layout(plan.shape.sizes, tuple(shares))
        units = [torch.from_numpy(values.copy()) for values in theta_of(config, plan)]
        self.weights = torch.cat(units)
        self._decay = torch.zeros_like(self.weights)
        self._parameters: list[tuple[nn.Parameter, slice]] = []
        for unit, offset in zip(plan.units, self.layout.offsets, strict=True):
            for slot in unit.parameters:
                place = slice(offset + slot.offset, offset + slot.offset + slot.numel)
                parameter = nn.Parameter(self.weights[place].view(slot.shape))
                for module, attribute in slot.owners:
                    module._parameters[attribute] = parameter
                self._parameters.append((parameter, place))
                self._decay[place] = config.optimizer.weight_decay if len(slot.shape) > 1 else 0.0
        self._own = torch.zeros(len(shares), self.weights.numel(), dtype=torch.bool)
        for rank in self.layout.ranks:
            for unit, offset in enumerate(self.layout.offsets):
                bounds = self.layout.bounds(unit, rank)
                self._own[rank, offset + bounds.start : offset + bounds.stop] = True
        self._gradients: list[list[Tensor]] = []  # clipped sums, by step and member
        self._tokens: list[int] = []
        self._residual = torch.zeros(len(shares), self.weights.numel())
        self._momentum = torch.zeros_like(self.weights)
        self._variance = torch.zeros_like(self.weights)

    def _gradient(self, step: int, indices: Sequence[int]) -> tuple[Tensor, float, int]:
        batches = batches_of(step, self.config.batch.micro_batches)
        total, tokens = 0.0, 0
        for index in indices:
            loss = loss_sum(self._model, batches[index])
            loss.backward()
            total += float(loss.detach())
            tokens += tokens_of(batches[index])
        flat = torch.zeros_like(self.weights)
        for parameter, place in self._parameters:
            if parameter.grad is not None:
                flat[place] = parameter.grad.flatten()
                parameter.grad = None
        return flat, total, tokens

    @torch.no_grad()
    def step(self, step: int) -> float:
        """The mean loss."""
        settings, t = self.config.optimizer, step + 1
        with torch.enable_grad():
            computed = [self._gradient(step, indices) for indices in self._assignment(step)]
        tokens = sum(count for _, _, count in computed)
        if step < self._warmup_steps:
            gradient = sum(flat for flat, _, _ in computed) / tokens
            self._warm_up(gradient * self._clip(gradient, 1.0))
        else:
            count = self.config.batch.micro_batches
            shares = [len(indices) / count for indices in self._assignment(step)]
            clipped = [
                flat * (self._clip(flat / own, math.sqrt(share)) if share else 1.0)
                for (flat, _, own), share in zip(computed, shares, strict=True)
            ]
            self._gradients.append(clipped)
            self._tokens.append(tokens)
            self._momentum = self._sent(t - self._warmup_steps)
        rate = settings.lr * self._decay
        deviation = (self._variance / (1 - settings.beta2 ** min(t, self._warmup_steps))).sqrt() + settings.eps
        change = self._momentum / (1 - settings.beta1**t) / deviation
        self.weights.mul_(1 - rate).sub_(settings.lr * (change if step < self._warmup_steps else change.clamp(-1, 1)))
        return sum(loss for _, loss, _ in computed) / tokens

    def _clip(self, gradient: Tensor, share: float) -> float:
        most = self.config.optimizer.clip_norm
        return 1.0 if most is None else min(1.0, most / share / (float(gradient.norm()) + 1e-6))

    def _warm_up(self, gradient: Tensor) -> None:
        settings = self.config.optimizer
        self._momentum = settings.beta1 * self._momentum + (1 - settings.beta1) * gradient
        self._variance = settings.beta2 * self._variance + (1 - settings.beta2) * gradient**2
        self._left = self._momentum.clone()

    def _sent(self, count: int) -> Tensor:
        """The mean momentum after `count` compressed steps, as it arrives."""
        beta = self.config.optimizer.beta1
        weights = [(1 - beta) * beta ** (count - 1 - s) for s in range(count)]
        tokens = beta**count * self._tokens[0] + sum(w * n for w, n in zip(weights, self._tokens, strict=True))
        arrived = torch.zeros_like(self.weights)
        for rank in range(len(self._own)):
            momentum = sum(w * step[rank] for w, step in zip(weights, self._gradients, strict=True))
            momentum = momentum + self._own[rank] * self._left * beta**count * self._tokens[0]
            message = momentum + self._residual[rank]
            received = torch.where(self._own[rank], message, signs_and_means(message))
            self._residual[rank] = message - received
            arrived += received
        return arrived / tokens * self._clip(arrived / tokens, 1.0)
