"""How a model goes on, one token after the other."""

from collections.abc import Iterator
from typing import Any

import torch


def continuation(model: Any, ids: list[int], temperature: float, generator: torch.Generator) -> Iterator[int]:
    """Tokens without end after `ids`, of which there must be one; those of a full context go by halves, oldest first.

    Temperature 0 takes the likeliest each time; otherwise they are drawn with `generator`, of the CPU. `model` is one
    of Hugging Face for causal language modelling. Whoever iterates decides about gradients.
    """
    context = int(model.config.max_position_embeddings)
    recent = ids[-context:]
    feed, cache = recent, None
    while True:
        output = model(input_ids=torch.tensor([feed], device=model.device), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        token = _pick(output.logits[0, -1].float().cpu(), temperature, generator)
        yield token
        recent = [*recent, token]
        feed = [token]
        if len(recent) > context:
            feed = recent = recent[-max(1, context // 2) :]
            cache = None


def _pick(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
