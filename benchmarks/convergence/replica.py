"""One worker's replica: a model whose parameters are views of flat slices, under the engine's own optimizers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from legion.codec.api import Floats
from legion.config import RunConfig
from legion.data.stream import Block
from legion.ids import Rank, UnitId
from legion.layout import Layout
from legion.messages import ModelShape
from legion.model.build import blueprint
from legion.outer.member import EASE_STEPS
from legion.train.loop import loss_sum_of
from legion.zero.muon import UnitMuon
from legion.zero.optimizers import Slice, UnitAdamW, UnitOptimizer

CPU = torch.device("cpu")


class Replica:
    """The whole model on one worker; `weights` is its flat space, padding included, shared with the model."""

    def __init__(self, config: RunConfig, vocab_size: int) -> None:
        self._config = config.optimizer
        plan = blueprint(config, vocab_size)
        self.shape: ModelShape = plan.shape
        self._model = plan.model
        self._units = plan.units
        self._layout = Layout(plan.shape.sizes, (1,))
        self._slice = Slice(*(torch.zeros(self._layout.total) for _ in range(4)))
        self.weights: Floats = self._slice.weights.numpy()
        for number, unit in enumerate(plan.units):
            part = self._part(number)
            for slot in unit.parameters:
                weights, gradient = (
                    t[slot.offset : slot.offset + slot.numel].view(slot.shape) for t in (part.weights, part.gradient)
                )
                parameter = nn.Parameter(weights)
                parameter.grad = gradient
                for module, attribute in slot.owners:
                    module._parameters[attribute] = parameter
        self._joined = False
        self._start_afresh()

    def _part(self, unit: int) -> Slice:
        start = self._layout.offsets[unit]
        return self._slice.part(start, start + self._layout.padded_unit(UnitId(unit)))

    def join(self, anchor: Floats) -> None:
        """As a newcomer to a run under way: the anchor, no moments, and a warm-up of its own."""
        self.weights[:] = anchor
        self._joined = True
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._steps_done = 0
        for moments in (self._slice.exp_avg, self._slice.exp_avg_sq):
            moments.zero_()
        self._optimizers = [self._optimizer_of(number) for number in range(len(self._units))]

    def _optimizer_of(self, unit: int) -> UnitOptimizer:
        slots, part = self._units[unit].parameters, self._part(unit)
        bounds = self._layout.bounds(UnitId(unit), Rank(0))
        if self._config.name == "muon" and 0 < unit < len(self._units) - 1:
            return UnitMuon(self._config, slots, bounds, part, 0, CPU)
        return UnitAdamW(self._config, slots, bounds, part, 0)

    def step(self, blocks: Sequence[Block], lr: float) -> float:
        """One optimizer step over the blocks as one batch; its loss in nats per token."""
        self._slice.gradient.zero_()
        loss = self._loss_sum(blocks) / _tokens(blocks)
        loss.backward()
        norm = float(self._slice.gradient.norm())
        if self._config.clip_norm is not None:
            self._slice.gradient.mul_(min(1.0, self._config.clip_norm / (norm + 1e-6)))
        if self._joined:
            lr *= min(1.0, (self._steps_done + 1) / EASE_STEPS)
        for optimizer in self._optimizers:
            optimizer.update(lr)
        self._steps_done += 1
        return float(loss.detach())

    def loss(self, blocks: Sequence[Block], at_once: int = 16) -> float:
        """Nats per token."""
        with torch.no_grad():
            total = sum(float(self._loss_sum(blocks[i : i + at_once])) for i in range(0, len(blocks), at_once))
        return total / _tokens(blocks)

    def _loss_sum(self, blocks: Sequence[Block]) -> Tensor:
        inputs, labels = (
            torch.stack([torch.from_numpy(values) for values in column])
            for column in ([b.inputs for b in blocks], [b.labels for b in blocks])
        )
        return loss_sum_of(self._model(input_ids=inputs, use_cache=False).logits, labels)


def _tokens(blocks: Sequence[Block]) -> int:
    return sum(block.tokens for block in blocks)
