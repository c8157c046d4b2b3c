"""What a span's reducer makes of the parts that it has."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from legion.codec.api import Floats
from legion.codec.registry import any_by_name, by_name
from legion.outer.log import update_of, values_of
from legion.outer.reducer import MeanOver
from tests.core.outer.offers import INT8, NONE, A, B, C, offer_all, parts_of, reducer_of, span_values
from tests.core.outer.small_rounds import (
    SHARES,
    participant_of,
    plan_of,
)


def plain_mean(
    contributions: Sequence[tuple[Floats, int]], over: MeanOver, residual: Floats | None = None
) -> NDArray[np.float64]:
    """In float64, of (values, tokens): clipped to the (upper) median norm, weighted."""
    norms = [float(np.linalg.norm(values.astype(np.float64))) for values, _ in contributions]
    median = sorted(norms)[len(norms) // 2]
    total, weights = np.zeros(contributions[0][0].size), np.zeros(contributions[0][0].size)
    for (values, tokens), norm in zip(contributions, norms, strict=True):
        total += values.astype(np.float64) * min(1.0, median / norm) * tokens
        weights += tokens * ((values != 0) | (over == "participants"))
    mean = np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
    return mean if residual is None else mean + residual


def sparse(values: Floats, seed: int) -> Floats:
    return np.where(np.random.default_rng(seed).random(values.size) < 0.3, values, np.float32(0)).astype(np.float32)


@pytest.mark.parametrize("over", ["participants", "senders"])
@pytest.mark.parametrize("span_count", [1, 2, 4, 6])  # four do not divide six chunks, nor follow the units
@pytest.mark.parametrize("with_residual", [False, True])
def test_the_update_is_the_mean_that_plain_arithmetic_gives(
    over: MeanOver, span_count: int, with_residual: bool
) -> None:
    plan = plan_of(span_count=span_count)
    for span in range(len(plan.spans)):
        reducer = reducer_of(plan, span, mean_over=over)
        contributions = []
        for number, cluster in enumerate(SHARES):
            values = sparse(span_values(plan, span, number, scale=1.0 + 3 * number), number)
            offer_all(reducer, parts_of(plan, span, cluster, values, tokens=1000 * (number + 1)))
            contributions.append((values, 1000 * (number + 1)))
        residual = span_values(plan, span, 9) if with_residual else None
        blob, report, dropped = reducer.reduce(residual, NONE)
        expected = plain_mean(contributions, over, residual)
        assert np.allclose(values_of(blob, expected.size), expected, rtol=1e-5, atol=1e-6)
        assert [inclusion.tokens for inclusion in report.included] == [1000, 2000, 3000]
        assert not dropped.any(), "codec none drops nothing"


def test_the_report_names_the_blob_and_every_part() -> None:
    plan = plan_of()
    reducer = reducer_of(plan, 1, term=2)
    sent = {cluster: parts_of(plan, 1, cluster, span_values(plan, 1, i)) for i, cluster in enumerate(SHARES)}
    for parts in sent.values():
        offer_all(reducer, reversed(parts))
    blob, report, _ = reducer.reduce(None, INT8)
    assert (report.round, report.span, report.term) == (0, 1, 2)
    assert (report.digest, report.size_bytes) == (hashlib.sha256(blob).hexdigest(), len(blob))
    assert [inclusion.cluster for inclusion in report.included] == [A, B, C]
    for inclusion in report.included:
        assert inclusion.parts == tuple(key.sha256 for _, key, _ in sent[inclusion.cluster])
        assert inclusion.blocks == sent[inclusion.cluster][0][1].blocks


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(6)), over=st.sampled_from(["participants", "senders"]))
def test_the_order_of_arrival_does_not_matter(order: list[int], over: MeanOver) -> None:
    plan = plan_of(span_count=1)
    sent = [
        part for i, cluster in enumerate(SHARES) for part in parts_of(plan, 0, cluster, span_values(plan, 0, i), INT8)
    ]
    straight, shuffled = reducer_of(plan, mean_over=over), reducer_of(plan, mean_over=over)
    offer_all(straight, sent)
    offer_all(shuffled, [sent[i] for i in order])
    assert straight.reduce(None, INT8)[:2] == shuffled.reduce(None, INT8)[:2]


def test_more_tokens_than_planned_do_not_count() -> None:
    plan = plan_of(participants=[participant_of(A, most_tokens=500), participant_of(B, most_tokens=10**6)])
    reducer = reducer_of(plan)
    values = [span_values(plan, 0, seed) for seed in range(2)]
    for cluster, mine in zip((A, B), values, strict=True):
        offer_all(reducer, parts_of(plan, 0, cluster, mine, tokens=10**9 if cluster == A else 500))
    blob, report, _ = reducer.reduce(None, NONE)
    assert [inclusion.tokens for inclusion in report.included] == [500, 500]
    assert np.allclose(
        values_of(blob, values[0].size), plain_mean([(v, 1) for v in values], "participants"), rtol=1e-5, atol=1e-6
    )


def test_work_that_does_not_count_is_not_included_and_so_waits_with_its_sender() -> None:
    plan = plan_of(participants=[participant_of(A), participant_of(B, most_tokens=0)])
    reducer = reducer_of(plan)
    values = span_values(plan, 0, 1)
    offer_all(reducer, parts_of(plan, 0, A, values) + parts_of(plan, 0, B, span_values(plan, 0, 2)))
    blob, report, _ = reducer.reduce(None, NONE)
    assert [inclusion.cluster for inclusion in report.included] == [A]
    assert np.array_equal(values_of(blob, values.size), values)


def test_with_nobody_to_include_the_update_is_what_waited() -> None:
    plan = plan_of(participants=[participant_of(A, most_tokens=0)])
    reducer = reducer_of(plan)
    offer_all(reducer, parts_of(plan, 0, A, span_values(plan, 0, 1)))
    residual = span_values(plan, 0, 3)
    blob, report, dropped = reducer.reduce(residual, INT8)
    assert report.included == ()
    assert np.array_equal(values_of(blob, residual.size) + dropped, residual)


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((1.0, 1.0, 100.0), (1.0, 1.0, 0.01)),
        ((1.0, 10.0, 100.0), (1.0, 1.0, 0.1)),
        ((1.0, 100.0), (1.0, 1.0)),  # of two, who is to say which is wrong
        ((0.0, 0.0, 5.0), (1.0, 1.0, 1.0)),  # two with nothing to say do not silence the third
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ((1e-30, 1e-30, 1e15), (1.0, 1.0, 2.0**-126)),
    ],
)
def test_norms_are_clipped_to_their_median(scales: tuple[float, ...], expected: tuple[float, ...]) -> None:
    clusters = list(SHARES)[: len(scales)]
    plan = plan_of(participants=[participant_of(cluster) for cluster in clusters])
    reducer = reducer_of(plan)
    direction = span_values(plan, 0, 1)
    for cluster, scale in zip(clusters, scales, strict=True):
        offer_all(reducer, parts_of(plan, 0, cluster, direction * np.float32(scale)))
    blob, report, _ = reducer.reduce(None, NONE)
    assert [inclusion.clip_scale for inclusion in report.included] == pytest.approx(expected, rel=1e-6)
    mean = sum(scale * clip for scale, clip in zip(scales, expected, strict=True)) / len(scales)
    assert np.allclose(values_of(blob, direction.size), direction * mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_what_encoding_drops_is_in_the_next_update(codec: str) -> None:
    """The sum of all updates and of what still waits is the sum of all means, to fp32 rounding."""
    residual, updates, means = None, 0.0, 0.0
    for number in range(8):
        plan = plan_of(number)
        reducer = reducer_of(plan)
        contributions = []
        for cluster in SHARES:
            values = span_values(plan, 0, 10 * number + len(SHARES[cluster]), scale=0.01)
            offer_all(reducer, parts_of(plan, 0, cluster, values))
            contributions.append((values, 1))
        blob, _, residual = reducer.reduce(residual, by_name(codec))
        updates = updates + values_of(blob, residual.size).astype(np.float64)
        means = means + plain_mean(contributions, "participants")
        assert np.abs(residual).max() > 0
        assert np.allclose(updates + residual, means, atol=1e-6)


@pytest.mark.parametrize(
    ("flush", "asked", "used"),
    [
        (False, "topk240x4", "topk240x4"),
        (True, "topk240x4", "int4"),
        (True, "int4", "int4"),
        (True, "int8", "int8"),
        (True, "none", "none"),
    ],
)
def test_the_update_of_a_flush_is_dense(flush: bool, asked: str, used: str) -> None:
    plan = plan_of(flush=flush)
    reducer = reducer_of(plan)
    offer_all(reducer, parts_of(plan, 0, A, span_values(plan, 0, 1)))
    blob, _, _ = reducer.reduce(None, any_by_name(asked))
    assert update_of(blob, len(plan.spans[0].bounds)).codec.name == used


def test_the_largest_values_and_weights_stay_finite() -> None:
    plan = plan_of(participants=[participant_of(cluster, most_tokens=2**44) for cluster in (A, B)])
    reducer = reducer_of(plan)
    values = np.full(len(plan.spans[0].bounds), 2.0**63, np.float32)
    for cluster in (A, B):
        offer_all(reducer, parts_of(plan, 0, cluster, values, tokens=2**44))
    blob, _, _ = reducer.reduce(values, by_name("int4"))
    assert np.allclose(values_of(blob, values.size), 2.0**64, rtol=0.01)
