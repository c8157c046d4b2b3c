"""Spans at work on the event loop: when they close, what their parts are told, and what becomes of dropped values."""

import asyncio

import numpy as np
import pytest

from legion.codec.api import Floats
from legion.codec.registry import by_name
from legion.errors import PartInvalid, PartRefused, StorageFailed, Unavailable
from legion.outer.log import blob_of, values_of
from legion.outer.reducer import Closing, SpanReducer
from legion.outer.reducing import EARLY_S
from legion.rounds import RoundPlan
from tests.core.outer.post_office import raised
from tests.core.outer.reducing_desk import GRACE_S, ME, A, B, C, Desk, at_a_desk, mine, parts_of
from tests.core.outer.small_rounds import SHARES, participant_of, plan_of, record_of
from tests.core.outer.virtual_time import later, settled

# When a span closes.


def test_it_closes_at_once_when_everybody_has_contributed() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        await desk.contribute(plan, A, B)
        assert desk.finished == []
        await desk.contribute(plan, C)
        [(at, report, blob)] = desk.finished
        assert (at, report.round, report.span, report.term) == (0.0, 0, 0, 0)
        assert desk.included == [[A, B, C]]
        update = values_of(blob, len(plan.spans[0].bounds))
        assert np.isclose(update.max(), 1.0)
        assert report.size_bytes == len(blob)

    at_a_desk(test, quorum=1.0)


def test_a_quorum_waits_for_the_others_for_its_grace() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        await desk.contribute(plan, A)
        await later(3)
        await desk.contribute(plan, B)  # two of three
        await later(GRACE_S - 0.01)
        assert desk.finished == []
        await later(0.02)
        await settled()
        assert [at for at, *_ in desk.finished] == [pytest.approx(3 + GRACE_S)]
        assert desk.included == [[A, B]]

    at_a_desk(test)


def test_below_the_quorum_it_waits_for_the_deadline() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        await desk.contribute(plan, A)
        await later(plan.deadline_s + 1)
        assert [at for at, *_ in desk.finished] == [pytest.approx(plan.deadline_s)]
        assert desk.included == [[A]]

    at_a_desk(test)


def test_with_nothing_it_waits_longer_than_that() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        await later(2 * plan.deadline_s)
        assert desk.finished == []
        await desk.contribute(plan, B)
        assert desk.included == [[B]]

    at_a_desk(test)


def test_an_incomplete_contribution_is_none() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        first, *_ = parts_of(plan, C)
        await desk.reducing.take_part(*first)
        await desk.contribute(plan, A, B)
        await later(GRACE_S + 1)
        assert desk.included == [[A, B]]
        assert desk.reports[0].refused == {"incomplete": 1}

    at_a_desk(test)


def test_nobody_waits_for_those_that_are_gone() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        await desk.contribute(plan, A)
        desk.reducing.gone = frozenset({B, C})
        desk.changes.happened()
        await settled()
        assert [at for at, *_ in desk.finished] == [0.0]
        assert desk.included == [[A]]

    at_a_desk(test)


def test_both_spans_of_a_round_are_apart() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0, 1))
        await asyncio.gather(*(desk.contribute(plan, A, B, C, span=span) for span in (1, 0)))
        assert sorted(report.span for report in desk.reports) == [0, 1]

    at_a_desk(test)


# What parts are told.


def test_refusals_reach_the_sender_and_are_counted() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        (sender, key, data), *_ = parts_of(plan, A)
        for refused, with_data, kind in (
            (key.model_copy(update={"cluster": B}), data, PartRefused),
            (key.model_copy(update={"sha256": "0" * 64}), data, PartRefused),
            (key.model_copy(update={"size_bytes": key.size_bytes - 1}), data[:-1], PartRefused),
            (key.model_copy(update={"size_bytes": 10**9}), data, PartInvalid),
            (key.model_copy(update={"codec": by_name("int8").wire_id}), data, PartRefused),
        ):
            with pytest.raises(kind):
                await desk.reducing.take_part(sender, refused, with_data)
        with pytest.raises(PartRefused) as caught:
            await desk.reducing.admit(sender, key.model_copy(update={"rank": 7}))
        assert caught.value.reason == "stranger"
        await desk.reducing.admit(sender, key)
        await desk.contribute(plan, A, B, C)
        assert desk.included == [[A, B, C]]
        assert desk.reports[0].refused == {"codec": 1, "digest": 2, "invalid": 1, "stranger": 2}
        assert desk.told == {}

    at_a_desk(test)


def test_blocks_of_a_round_before_are_taken_where_the_plan_says_they_are_owed() -> None:
    async def test(desk: Desk) -> None:
        late = participant_of(A, 1).model_copy(update={"earlier": (participant_of(A, 0).blocks,)})
        plan = mine(plan_of(1, participants=[late, participant_of(B, 1), participant_of(C, 1)]), 0)
        desk.reducing.plan_arrived(plan)
        for cluster, refused in ((A, False), (B, True)):
            [(sender, key, data), *_] = parts_of(plan, cluster)
            owed = (participant_of(cluster, 0).blocks, participant_of(cluster, 1).blocks)
            named = key.model_copy(update={"blocks": owed})
            if refused:
                with pytest.raises(PartRefused, match="no lease") as caught:
                    await desk.reducing.take_part(sender, named, data)
                assert caught.value.reason == "lease"
            else:
                await desk.reducing.take_part(sender, named, data)

    at_a_desk(test)


def test_the_same_part_twice_counts_once_and_a_late_one_not() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        await desk.contribute(plan, A, B, C, A, B)
        assert desk.included == [[A, B, C]]
        await desk.contribute(plan, A)  # an acknowledgement was lost: it is received
        with pytest.raises(PartRefused) as caught:
            await desk.contribute(plan, A, value=2.0)
        assert caught.value.reason == "late"
        assert desk.told == {"late": 1}
        await later(1000)
        assert len(desk.finished) == 1

    at_a_desk(test)


def test_a_part_of_a_round_that_is_over_is_refused_at_once() -> None:
    async def test(desk: Desk) -> None:
        old = mine(plan_of(0), 0)
        desk.reducing.plan_arrived(mine(plan_of(1), 0))
        for call in (desk.reducing.take_part(*parts_of(old, A)[0]), desk.reducing.admit(*parts_of(old, A)[0][:2])):
            with pytest.raises(PartRefused, match="round 0 is over, this is round 1") as caught:
                await call
            assert caught.value.reason == "round"
        assert asyncio.get_running_loop().time() == 0
        assert desk.told == {"round": 2}

    at_a_desk(test)


def test_a_part_that_waits_for_its_plan_learns_that_its_round_is_over() -> None:
    async def test(desk: Desk) -> None:
        early = asyncio.create_task(desk.reducing.take_part(*parts_of(plan_of(1), A)[0]))
        await later(EARLY_S - 1)
        desk.reducing.plan_arrived(plan_of(2))
        with pytest.raises(PartRefused, match="round 1 is over"):
            await early

    at_a_desk(test)


@pytest.mark.parametrize("span", [1, 2, 10**6])
def test_a_span_that_is_not_ours_is_not_taken(span: int) -> None:
    async def test(desk: Desk) -> None:
        plan = mine(plan_of(0), 0)
        desk.reducing.plan_arrived(plan)
        sender, key, data = parts_of(plan, A)[0]
        with pytest.raises(Unavailable, match=f"span {span} of round 0 is not reduced here"):
            await desk.reducing.take_part(sender, key.model_copy(update={"span": span}), data)
        assert desk.told == {"early": 1}

    at_a_desk(test)


# Terms and rounds.


def test_a_new_term_begins_anew() -> None:
    async def test(desk: Desk) -> None:
        plan = plan_of(0, terms=(0, 1))
        desk.reducing.plan_arrived(plan)
        await desk.contribute(plan, A, B)
        again = raised(plan, 3, 1)
        again = again.model_copy(
            update={"spans": tuple(s.model_copy(update={"reducers": (*s.reducers, ME)}) for s in again.spans)}
        )
        desk.reducing.plan_arrived(again)
        await later(GRACE_S + 1)
        assert desk.finished == []  # what came in the term before does not count
        await desk.contribute(again, A, B, C)
        assert [(report.term, len(report.included)) for report in desk.reports] == [(3, 3)]

    at_a_desk(test)


def test_a_revision_for_other_spans_leaves_ours_alone() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        await desk.contribute(plan, A, B)
        desk.reducing.plan_arrived(raised(plan, 0, 2))
        await desk.contribute(plan, C)
        assert desk.included == [[A, B, C]]

    at_a_desk(test)


def test_a_span_that_passes_to_another_is_ours_no_more() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        await desk.contribute(plan, A, B)
        desk.reducing.plan_arrived(raised(plan, 1, 1))
        await later(1000)
        assert desk.finished == []
        with pytest.raises(Unavailable):
            await desk.contribute(plan, C)

    at_a_desk(test)


def test_the_next_round_ends_what_is_left_of_the_one_before() -> None:
    async def test(desk: Desk) -> None:
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        await desk.contribute(plan, A, B)
        desk.reducing.plan_arrived(following := mine(plan_of(1), 0))
        await later(1000)
        assert desk.finished == []
        await desk.contribute(following, A, B, C)
        assert [report.round for report in desk.reports] == [1]

    at_a_desk(test)


# What encoding dropped.


@pytest.mark.parametrize("committed", [True, False])
def test_dropped_values_go_with_the_next_update_if_theirs_was_committed(committed: bool) -> None:
    async def test(desk: Desk) -> None:
        plan = mine(plan_of(0), 0)
        desk.reducing.plan_arrived(plan)
        await desk.contribute(plan, A, B, C)
        [(_, report, blob)] = desk.finished
        size = len(plan.spans[0].bounds)
        first = values_of(blob, size)
        other = report.model_copy(update={"digest": "1" * 64, "span": 1})
        ours = report if committed else report.model_copy(update={"digest": "2" * 64})
        desk.reducing.record_arrived(record_of(plan, [ours, other]))
        desk.reducing.plan_arrived(following := mine(plan_of(1), 0))
        await desk.contribute(following, A, B, C)
        second = values_of(desk.finished[1][2], size)
        mean = mean_of(plan)
        dropped = mean - first
        assert np.abs(dropped).max() > 1e-3
        wanted = mean + dropped if committed else mean
        assert np.array_equal(second, values_of(blob_of(by_name("int4"), wanted), size))

    at_a_desk(test, update_codec="int4")


def mean_of(plan: RoundPlan, span: int = 0) -> Floats:
    """The update, if nothing were dropped."""
    closing = Closing(1.0, GRACE_S)
    reducer = SpanReducer(plan, span, 0, closing=closing, mean_over="participants", opened_s=0.0)
    for cluster in SHARES:
        for part in parts_of(plan, cluster, span):
            reducer.offer(*part)
    blob, *_ = reducer.reduce(None, by_name("none"))
    return values_of(blob, len(plan.spans[span].bounds))


def test_an_update_that_cannot_be_kept_comes_out() -> None:
    async def test(desk: Desk) -> None:
        desk.failure = StorageFailed("the disk is full")
        desk.reducing.plan_arrived(plan := mine(plan_of(0), 0))
        await desk.contribute(plan, A, B, C)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ExceptionGroup) as caught:
        at_a_desk(test)
    [error] = caught.value.exceptions
    assert isinstance(error, StorageFailed)
