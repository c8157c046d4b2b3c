"""How predictable a token stream is from counts alone: the figures a validation loss is read beside."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from legion.data.packing import Tokens

# Below this many tokens for each thing counted, the counts know the stream by heart and the entropy says nothing.
ENOUGH = 10


@dataclass(frozen=True, slots=True)
class Entropies:
    """Nats per token of a stream under its own statistics; None where it is too short for them.

    unigram: H(X), from how often each id occurs. bigram: H(X_t | X_{t-1}), from how often each pair occurs.
    Both are fitted to the very stream they measure, so no model that sees one token back can do better on it.
    """

    unigram: float | None
    bigram: float | None


def entropies(stream: Tokens) -> Entropies:
    """The empirical entropies of one stream of ids, end-of-text included."""
    if stream.size < 2:
        return Entropies(None, None)
    ids = stream.astype(np.int64)
    singles = _counts(ids)
    firsts = _counts(ids[:-1])
    pairs = _counts(ids[:-1] << 32 | ids[1:])
    return Entropies(
        unigram=_entropy(singles) if ids.size >= ENOUGH * singles.size else None,
        bigram=_entropy(pairs) - _entropy(firsts) if ids.size >= ENOUGH * pairs.size else None,
    )


def _counts(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(values, return_counts=True)[1]


def _entropy(counts: NDArray[np.int64]) -> float:
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())
