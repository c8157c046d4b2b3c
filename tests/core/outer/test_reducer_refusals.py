"""Whom a span's reducer refuses, and why."""

import hashlib
from typing import Any

import numpy as np
import pytest

from legion.codec.auto import for_flush
from legion.codec.registry import ALL, SPARSE, any_by_name
from legion.errors import PartInvalid, PartRefused
from legion.ids import ClusterId, RunId, WorkerId
from legion.layout import CHUNK
from legion.outer.log import values_of
from legion.outer.reducer import SpanReducer, codecs_of
from legion.outer.tally import Tally
from legion.rounds import Blocks, RootReport, RoundPlan
from tests.core.outer.offers import DEADLINE_S, INT8, NONE, A, B, C, Sent, offer_all, parts_of, reducer_of, span_values
from tests.core.outer.small_rounds import (
    SHARES,
    fragments_of,
    lease_of,
    part_key,
    participant_of,
    plan_of,
    worker_of,
)

EVERY = (*ALL, *SPARSE)
ROOT = RootReport(round=1, cluster=A, rank=0, root="0" * 64)


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
    plan, tally = plan_of(), Tally()
    reducer = reducer_of(plan, tally=tally)
    first, second = one_part(plan), parts_of(plan, 0, B, span_values(plan, 0, 2))[0]
    offer_all(reducer, [first])
    _, report, _ = reducer.reduce(None, NONE)
    for refuse in (reducer.admit, lambda *name: reducer.offer(*name, second[2])):
        with pytest.raises(PartRefused) as caught:
            refuse(*second[:2])
        assert caught.value.reason == "late"
    assert not +reducer.refused, "its report was made before"
    assert tally.told_with(ROOT).refused == {"late": 2}
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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**64, -3e38])  # large ones would overflow the sum
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    plan = plan_of()
    values = span_values(plan, 0, 1)
    values[-1] = bad
    reducer = reducer_of(plan)
    assert refusal(reducer, parts_of(plan, 0, A, values)[0]) == "not-finite"
    assert not reducer.should_close(DEADLINE_S, frozenset()), "a refused part is no contribution"


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("name", ["none", "int8", "int4", "int2", "onebit", "topk", "auto"])
def test_a_part_of_a_codec_that_the_run_does_not_use_is_refused(name: str, flush: bool) -> None:
    """What the run uses is what its members choose: see `Courier.codec` and `for_flush`."""
    plan = plan_of(flush=flush)
    chosen = EVERY if name == "auto" else [any_by_name("topk256" if name == "topk" else name)]
    used = {(for_flush(codec) if flush else codec).name for codec in chosen}
    taken = set()
    for codec in EVERY:
        reducer = reducer_of(plan, codecs=codecs_of(name, 256 / CHUNK, flush=flush))
        sent = parts_of(plan, 0, A, span_values(plan, 0, 1), codec)[0]
        if codec.name in used:
            reducer.offer(*sent)
            taken.add(codec.name)
        else:
            assert refusal(reducer, sent) == "codec"
    assert taken == used


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
