"""A span's reducer: whom it refuses and why, when it closes, and what it makes of the parts that it has."""

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from legion.codec.api import AnyCodec, Floats
from legion.codec.registry import by_name
from legion.errors import PartInvalid, PartRefused
from legion.ids import ClusterId, RunId, WorkerId
from legion.layout import CHUNK
from legion.outer.log import values_of
from legion.outer.reducer import Closing, MeanOver, SpanReducer
from legion.rounds import Blocks, PartKey, RoundPlan
from tests.core.outer.small_rounds import (
    SHARES,
    cut,
    fragments_of,
    lease_of,
    part_key,
    participant_of,
    plan_of,
    worker_of,
)

A, B, C = SHARES
NONE, INT8 = by_name("none"), by_name("int8")
GRACE_S, DEADLINE_S = 5.0, 100.0


def reducer_of(plan: RoundPlan, span: int = 0, *, mean_over: MeanOver = "participants", term: int = 0) -> SpanReducer:
    closing = Closing(quorum=0.6, grace_s=GRACE_S)
    return SpanReducer(plan, span, term, closing=closing, mean_over=mean_over, opened_s=0.0)


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


def refusal(reducer: SpanReducer, sent: Sent) -> str:
    """The reason, which must be counted and must have changed nothing."""
    sender, key, data = sent
    before = reducer.refused.copy()
    with pytest.raises(PartRefused) as caught:
        reducer.offer(sender, key, data)
    assert reducer.refused - before == {caught.value.reason: 1}
    return caught.value.reason


def one_part(plan: RoundPlan, **changes: Any) -> Sent:
    return parts_of(plan, 0, A, span_values(plan, 0, 1), **changes)[0]


# Refusals.


def test_a_part_of_another_round_or_run_is_refused() -> None:
    reducer = reducer_of(plan_of(3))
    assert refusal(reducer, one_part(plan_of(2))) == "round"
    assert refusal(reducer, one_part(plan_of(4))) == "round"
    assert refusal(reducer, one_part(plan_of(3), run_id=RunId("run-other"))) == "round"


def test_a_part_of_another_span_is_refused() -> None:
    plan = plan_of()
    assert refusal(reducer_of(plan, 1), one_part(plan)) == "span"


def test_a_member_that_holds_nothing_of_the_span_is_refused() -> None:
    plan = plan_of(span_count=6)
    reducer = reducer_of(plan)
    ranks = range(len(SHARES[C]))
    (outside, *_) = [rank for rank in ranks if not fragments_of(plan, 0, C, rank)]
    data = bytes(NONE.encode(np.zeros(CHUNK, np.float32)))
    assert refusal(reducer, (worker_of(C, outside), part_key(plan, 0, C, outside, NONE, data), data)) == "span"


@pytest.mark.parametrize(
    ("sender", "cluster", "rank"),
    [
        (WorkerId("nobody"), A, 0),
        (worker_of(B, 0), A, 0),  # another cluster's member
        (worker_of(B, 1), B, 0),  # another member of the same cluster
        (worker_of(A, 0), A, 1),  # a rank that the cluster does not have
        (worker_of(A, 0), ClusterId("x"), 0),
    ],
)
def test_strangers_are_refused(sender: WorkerId, cluster: ClusterId, rank: int) -> None:
    plan = plan_of()
    _, key, data = one_part(plan)
    key = key.model_copy(update={"cluster": cluster, "rank": rank})
    assert refusal(reducer_of(plan), (sender, key, data)) == "stranger"


def test_what_comes_after_the_close_is_late_but_what_is_known_is_no_news() -> None:
    plan = plan_of()
    reducer = reducer_of(plan)
    first, second = one_part(plan), parts_of(plan, 0, B, span_values(plan, 0, 2))[0]
    offer_all(reducer, [first])
    _, report, _ = reducer.reduce(None, NONE)
    assert refusal(reducer, second) == "late"
    offer_all(reducer, [first])
    assert reducer.reduce(None, NONE)[1].digest == report.digest


@pytest.mark.parametrize("outside", [(-1, 1), (0, 2001), (1999, 2001), (5000, 5001)])
def test_blocks_without_a_lease_are_refused(outside: tuple[int, int]) -> None:
    """The lease of this round and of the next count; one block beyond is one too many."""
    plan = plan_of(1, participants=[participant_of(A, 1)])
    lease, after = lease_of(A, 1), lease_of(A, 2)
    assert (len(lease), len(after)) == (1000, 1000)
    named = Blocks(start=max(0, lease.start + outside[0]), stop=lease.start + outside[1])
    reducer = reducer_of(plan)
    assert refusal(reducer, one_part(plan, blocks=(lease, named))) == "lease"
    offer_all(reducer, [one_part(plan, blocks=(lease, after, Blocks(start=7, stop=7)))])


def test_a_second_part_of_the_same_member_is_refused_and_the_first_stays() -> None:
    plan = plan_of()
    reducer = reducer_of(plan)
    values = span_values(plan, 0, 1)
    offer_all(reducer, parts_of(plan, 0, A, values))
    assert refusal(reducer, parts_of(plan, 0, A, values * 2)[0]) == "repeated"
    blob, _, _ = reducer.reduce(None, NONE)
    assert np.array_equal(values_of(blob, values.size), values)


@pytest.mark.parametrize("change", [{"steps": 5}, {"tokens": 999}, {"blocks": ()}])
def test_members_that_tell_of_different_work_are_refused(change: dict[str, Any]) -> None:
    plan = plan_of()
    reducer = reducer_of(plan)
    values = span_values(plan, 0, 1)
    first, second = parts_of(plan, 0, C, values)[:2]
    offer_all(reducer, [first])
    assert refusal(reducer, parts_of(plan, 0, C, values, **change)[1]) == "disagreement"
    offer_all(reducer, [second])


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size_bytes": 17}])
def test_a_part_that_is_not_what_its_name_says_is_refused(change: dict[str, Any]) -> None:
    plan = plan_of()
    sender, key, data = one_part(plan)
    assert refusal(reducer_of(plan), (sender, key.model_copy(update=change), data)) == "digest"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    plan = plan_of()
    values = span_values(plan, 0, 1)
    values[-1] = bad
    reducer = reducer_of(plan)
    assert refusal(reducer, parts_of(plan, 0, A, values)[0]) == "not-finite"
    assert not reducer.should_close(DEADLINE_S, frozenset()), "a refused part is no contribution"


@pytest.mark.parametrize("wire_id", [INT8.wire_id, 200])
def test_bytes_that_do_not_decode_are_invalid(wire_id: int) -> None:
    plan = plan_of()
    sender, key, data = one_part(plan)
    for rest in (data, data[:-1], b""):
        changed = {"codec": wire_id, "size_bytes": len(rest), "sha256": hashlib.sha256(rest).hexdigest()}
        reducer = reducer_of(plan)
        with pytest.raises(PartInvalid):
            reducer.offer(sender, key.model_copy(update=changed), rest)
        assert reducer.refused == {"invalid": 1}


def test_a_part_longer_than_its_codec_writes_is_refused_before_it_is_read() -> None:
    plan = plan_of()
    sender, key, data = one_part(plan)
    reducer = reducer_of(plan)
    reducer.admit(sender, key)
    with pytest.raises(PartInvalid, match="longer than its codec"):
        reducer.admit(sender, key.model_copy(update={"size_bytes": len(data) + 1}))


def test_an_incomplete_contribution_is_left_out_and_counted() -> None:
    plan = plan_of()
    reducer = reducer_of(plan)
    whole = span_values(plan, 0, 1)
    offer_all(reducer, parts_of(plan, 0, A, whole))
    offer_all(reducer, parts_of(plan, 0, C, span_values(plan, 0, 2))[:-1])
    blob, report, _ = reducer.reduce(None, NONE)
    assert [inclusion.cluster for inclusion in report.included] == [A]
    assert report.refused == {"incomplete": 1}
    assert np.array_equal(values_of(blob, whole.size), whole)


def test_reasons_are_counted_in_the_report() -> None:
    plan = plan_of()
    reducer = reducer_of(plan)
    for _ in range(2):
        refusal(reducer, one_part(plan_of(9)))
    offer_all(reducer, [one_part(plan)])
    _, report, _ = reducer.reduce(None, NONE)
    assert report.refused == {"round": 2}


# Combining.


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
    offer_all(reducer, [one_part(plan)])
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
        ((1e-30, 1e-30, 1e30), (1.0, 1.0, 2.0**-126)),
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


# Closing.


def arrive(reducer: SpanReducer, *clusters: ClusterId) -> None:
    for cluster in clusters:
        offer_all(reducer, parts_of(reducer.plan, 0, cluster, span_values(reducer.plan, 0, 1)))


def test_it_closes_at_once_when_all_have_come_and_then_no_more() -> None:
    reducer = reducer_of(plan_of())
    arrive(reducer, A, B)
    assert not reducer.should_close(0.0, frozenset())
    arrive(reducer, C)
    assert reducer.should_close(0.0, frozenset())
    reducer.reduce(None, NONE)
    assert not reducer.should_close(DEADLINE_S, frozenset())


def test_nobody_waits_for_those_that_are_gone() -> None:
    reducer = reducer_of(plan_of())
    arrive(reducer, A)
    assert not reducer.should_close(0.0, frozenset({B}))
    assert reducer.should_close(0.0, frozenset({B, C}))


def test_a_quorum_waits_for_its_grace_from_when_it_was_there() -> None:
    reducer = reducer_of(plan_of())
    arrive(reducer, A)
    assert not reducer.should_close(50.0, frozenset()), "one of three is no quorum, however long"
    arrive(reducer, B)
    assert not reducer.should_close(60.0, frozenset())
    assert reducer.next_look_s(60.0) == pytest.approx(GRACE_S)
    assert not reducer.should_close(60.0 + GRACE_S - 0.01, frozenset())
    assert reducer.should_close(60.0 + GRACE_S, frozenset())


def test_the_quorum_is_of_tokens_not_of_heads() -> None:
    plan = plan_of(
        participants=[participant_of(A, most_tokens=700), *(participant_of(c, most_tokens=150) for c in (B, C))]
    )
    heavy, light = reducer_of(plan), reducer_of(plan)
    arrive(heavy, A)
    arrive(light, B, C)
    for reducer in (heavy, light):
        assert not reducer.should_close(0.0, frozenset())
    assert heavy.should_close(GRACE_S, frozenset())
    assert not light.should_close(GRACE_S, frozenset())


def test_the_quorum_is_of_those_that_are_alive() -> None:
    weights = {A: 60, B: 40, C: 1000}
    plan = plan_of(participants=[participant_of(cluster, most_tokens=most) for cluster, most in weights.items()])
    reducer = reducer_of(plan)
    arrive(reducer, A)
    assert not reducer.should_close(0.0, frozenset())
    assert not reducer.should_close(50.0, frozenset())
    assert not reducer.should_close(50.0, frozenset({C})), "the quorum is there now; the grace begins"
    assert reducer.should_close(50.0 + GRACE_S, frozenset({C}))


def test_at_the_deadline_one_is_enough_and_none_is_not() -> None:
    reducer = reducer_of(plan_of())
    assert not reducer.should_close(10 * DEADLINE_S, frozenset(SHARES))
    assert reducer.next_look_s(10 * DEADLINE_S) == math.inf, "time alone closes nothing: no busy wait"
    arrive(reducer, A)
    assert reducer.next_look_s(DEADLINE_S - 7) == pytest.approx(7)
    assert not reducer.should_close(DEADLINE_S - 0.01, frozenset())
    assert reducer.should_close(DEADLINE_S, frozenset())
    assert reducer.next_look_s(DEADLINE_S + 1) == 0


def test_an_incomplete_contribution_is_no_arrival() -> None:
    reducer = reducer_of(plan_of())
    offer_all(reducer, parts_of(reducer.plan, 0, C, span_values(reducer.plan, 0, 1))[:-1])
    assert not reducer.should_close(DEADLINE_S, frozenset({A, B}))


def test_looking_when_told_is_enough_to_close_in_time() -> None:
    """For every subset that arrives: following `next_look_s` closes it no later than the deadline."""
    for count in (1, 2, 3):
        for clusters in itertools.combinations(SHARES, count):
            reducer, now = reducer_of(plan_of()), 1.0
            arrive(reducer, *clusters)
            while not reducer.should_close(now, frozenset()):
                wait = reducer.next_look_s(now)
                assert 0 < wait <= DEADLINE_S
                now += wait
            assert now <= DEADLINE_S + 1e-9
