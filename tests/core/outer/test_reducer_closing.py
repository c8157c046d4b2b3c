"""When a span closes."""

import itertools
import math

import pytest

from legion.ids import ClusterId
from legion.outer.reducer import SpanReducer
from tests.core.outer.offers import DEADLINE_S, GRACE_S, NONE, A, B, C, offer_all, parts_of, reducer_of, span_values
from tests.core.outer.small_rounds import (
    SHARES,
    participant_of,
    plan_of,
)


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
