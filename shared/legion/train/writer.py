"""A few lines that the model writes by now: what a falling loss means, for people."""

import re
import time
from collections.abc import Callable
from typing import Any

import torch

from legion.data.tokenizer import Tokenizer
from legion.model.continuation import continuation
from legion.reports import MOST_TEXT, TextSample

TEMPERATURE = 0.8
MOST_S = 5.0  # the other members of the cluster wait meanwhile
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Writer:
    """On the compute thread of one member, while the others serve their weights or wait to vote."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tokens: int,
        report: Callable[[TextSample], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tokens`: at most so many, or as many as come in MOST_S."""
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._report = report
        self._clock = clock

    def write(self, model: Any, step: int, between: Callable[[], None]) -> None:
        """What `model` writes as a new document after `step` steps; the same each time. `between`: before each token.

        The caller has switched gradients off. Nothing is reported if the document ends at once.
        """
        tokenizer, until, ids = self._tokenizer, self._clock() + MOST_S, []
        generator = torch.Generator().manual_seed(step)
        between()
        for token in continuation(model, [tokenizer.end_of_text], TEMPERATURE, generator):
            if token == tokenizer.end_of_text:
                break
            ids.append(token)
            if len(ids) == self._tokens or self._clock() >= until:
                break
            between()
        text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", tokenizer.decode(ids))[:MOST_TEXT]
        if text:
            self._report(TextSample(step=step, text=text))
