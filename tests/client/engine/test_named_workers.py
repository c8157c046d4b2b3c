"""Whom an engine may still call: who the plans of the last rounds name."""

from hypothesis import given
from hypothesis import strategies as st

from legion.rounds import RoundPlan
from legion_client.engine.rounds import NAMED_ROUNDS, recent
from tests.core.outer.small_rounds import plan_of

PLAN = plan_of()
heard = st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1), min_size=1, max_size=6)


@given(news=heard)
def test_the_newest_revision_of_the_last_rounds_counts_in_whatever_order_they_come(
    news: list[list[tuple[int, int]]],
) -> None:
    known: dict[int, RoundPlan] = {}
    for plans in news:
        known = recent(known, [PLAN.model_copy(update={"round": r, "revision": v}) for r, v in plans])
    said = [one for plans in news for one in plans]
    newest = max(number for number, _ in said)
    assert newest in known
    assert all(newest - NAMED_ROUNDS < number <= newest for number in known)
    for number, plan in known.items():
        assert plan.round == number
        assert (number, plan.revision) in said
    assert known[newest].revision == max(revision for number, revision in said if number == newest)
