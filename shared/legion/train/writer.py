"""A few lines that the model writes by now: what a falling loss means, for people."""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from legion.data.tokenizer import Tokenizer
from legion.model.continuation import continuation
from legion.reports import MOST_TEXT, TextSample

TEMPERATURE = 0.8
MOST_S = 5.0  # of computing: the other members of the cluster wait meanwhile
logger = logging.getLogger(__name__)


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
        """What `model` writes as a new document after `step` steps, as far as it gets. `between`: before each token.

        The caller has switched gradients off. Nothing is reported if the document ends at once, or torch fails: no
        training is to end for this.
        """
        try:
            ids = self._ids(model, step, between)
        except RuntimeError as error:  # torch's: weights that are no numbers, a card without room
            logger.warning("no sample was written step=%d reason=%s", step, str(error).partition("\n")[0])
            return
        text = self._tokenizer.decode(ids)[:MOST_TEXT]
        if text:
            self._report(TextSample(step=step, text=text))

    def _ids(self, model: Any, step: int, between: Callable[[], None]) -> list[int]:
        end, ids, took_s = self._tokenizer.end_of_text, list[int](), 0.0
        tokens = continuation(model, [end], TEMPERATURE, torch.Generator().manual_seed(step))
        while len(ids) < self._tokens and took_s < MOST_S:
            between()  # which may rest for long
            since = self._clock()
            token = next(tokens)
            if token == end:
                break
            ids.append(token)
            took_s += self._clock() - since
        return ids
