"""Parts on their way to a span's reducer, for tests of it."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from legion.codec.api import AnyCodec, Floats
from legion.codec.registry import by_name
from legion.ids import ClusterId, WorkerId
from legion.outer.reducer import Closing, MeanOver, SpanReducer
from legion.rounds import PartKey, RoundPlan
from tests.core.outer.small_rounds import (
    SHARES,
    cut,
    fragments_of,
    part_key,
    worker_of,
)

A, B, C = SHARES
NONE, INT8 = by_name("none"), by_name("int8")
GRACE_S, DEADLINE_S = 5.0, 100.0


def reducer_of(
    plan: RoundPlan, span: int = 0, *, mean_over: MeanOver = "participants", term: int = 0, **more: Any
) -> SpanReducer:
    closing = Closing(quorum=0.6, grace_s=GRACE_S)
    return SpanReducer(plan, span, term, closing=closing, mean_over=mean_over, opened_s=0.0, **more)


def span_values(plan: RoundPlan, span: int, seed: int, scale: float = 1.0) -> Floats:
    numel = len(plan.spans[span].bounds)
    return (np.random.default_rng(seed).standard_normal(numel) * scale).astype(np.float32)


Sent = tuple[WorkerId, PartKey, bytes]


def parts_of(
    plan: RoundPlan, span: int, cluster: ClusterId, values: Floats, codec: AnyCodec = NONE, **changes: Any
) -> list[Sent]:
    """The parts of all members of a cluster whose slices meet the span; together they are `values`."""
    found = []
    for rank in range(len(SHARES[cluster])):
        if fragments := fragments_of(plan, span, cluster, rank):
            data = bytes(codec.encode(cut(values, fragments)))
            key = part_key(plan, span, cluster, rank, codec, data, **changes)
            found.append((worker_of(cluster, rank), key, data))
    return found


def offer_all(reducer: SpanReducer, sent: Iterable[Sent]) -> None:
    for sender, key, data in sent:
        reducer.offer(sender, key, data)
