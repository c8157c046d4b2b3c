"""The held-out loss of weights, measured beside the run: it takes no virtual time and changes nothing."""

import torch
from torch import nn

from legion.codec.api import Floats
from legion.data.loader import Loader, MicroBatch
from legion.layout import Layout
from legion.sim.engine import World
from legion.train.loop import loss_sum_of


class Judge:
    """A model of its own."""

    def __init__(self, world: World, max_blocks: int) -> None:
        plan = world.model()
        self._model = plan.model
        self._loader = Loader(world.blocks, world.config.batch)
        self._max_blocks = max_blocks
        layout = Layout(plan.shape.sizes, (1,))
        self._flat = torch.zeros(layout.total)
        for unit, offset in zip(plan.units, layout.offsets, strict=True):
            for slot in unit.parameters:
                start = offset + slot.offset
                weights = nn.Parameter(self._flat[start : start + slot.numel].view(slot.shape), requires_grad=False)
                for module, attribute in slot.owners:
                    module._parameters[attribute] = weights

    def loss(self, weights: Floats) -> float:
        """Nats per token."""
        self._flat.copy_(torch.from_numpy(weights))
        total, tokens = 0.0, 0
        with torch.no_grad():
            for batch in self._loader.validation_batches(self._max_blocks):
                total += self._loss_sum(batch)
                tokens += batch.tokens
        return total / tokens

    def _loss_sum(self, batch: MicroBatch) -> float:
        inputs, labels = torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)
        return float(loss_sum_of(self._model(input_ids=inputs, use_cache=False).logits, labels))
