"""A run whose clusters follow from measured links: how it starts, grows, waits, and breaks clusters up."""

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from coordinated_rounds import HARDWARE, Table, config_of
from hypothesis import given
from hypothesis import strategies as st

from legion.config import RunConfig, config_digest, merge
from legion.ids import WorkerId
from legion.messages import Broken, KeptPoint
from legion_server.domain import clusters, explain
from legion_server.domain.breaking_up import staying
from legion_server.domain.clustering import MOVE_EVERY
from legion_server.domain.joining import JOIN_EVERY, awaits_another
from legion_server.domain.links import Links, Sample
from legion_server.domain.places import Places, places
from legion_server.domain.round_plan import reducers_of
from legion_server.domain.rounds import Rounds
from tests.server.domain.test_recovery import offer

SMALL = HARDWARE.model_copy(update={"memory_bytes": 600_000})  # the model takes 829,824 bytes alone, 534,912 for two
LARGE = HARDWARE


def config(workers: int) -> RunConfig:
    """Enough tokens a step that computing them takes seconds."""
    change = {"cluster": {"policy": "auto", "size": None}, "batch": {"micro_batch_blocks": 30_000}}
    return merge(config_of(workers), change)


def measured(names: str, ms: float = 1.0, mbit: float = 1000.0) -> Links:
    """All pairs of these, by both."""
    sample = Sample(0.0, "measured", ms / 1000, mbit * 125_000, mbit * 125_000)
    pairs = combinations([WorkerId(name * 32) for name in names], 2)
    return {pair: (sample,) * 3 for a, b in pairs for pair in ((a, b), (b, a))}


def table(names: str, small: str = "", workers: int | None = None) -> Table:
    """Everybody has just become ready. `small`: who cannot hold the model alone."""
    found = Table(config(workers or len(names)), "")
    late = Table(config(100), names)
    for worker_id, worker in late.workers.items():
        hardware = SMALL if worker.name in small else LARGE
        found.workers[worker_id] = worker
        found.set(worker.name, hardware=hardware, ready_at=0.0)
    return found


def groups(table: Table) -> list[str]:
    return ["".join(member.worker_id[0] for member in plan.members) for plan in table.run.clusters]


def sentence(table: Table, name: str) -> str:
    scene = explain.Scene(table.run, table.rounds_or_none, table.workers, table.links, table.now)
    return next(one.sentence for one in explain.explain(scene) if one.name == name)


def test_who_can_hold_the_model_trains_by_itself_at_once() -> None:
    both = table("ab")
    assert (groups(both), both.run.phase) == (["a", "b"], "training")
    assert "holds the model alone" in sentence(both, "a")


def test_who_cannot_waits_for_its_links_and_shares_the_model() -> None:
    pair = table("ab", small="ab")
    assert (pair.run.phase, groups(pair)) == ("waiting", [])
    assert "its links to others are not measured yet" in sentence(pair, "a")
    pair.links = measured("ab")
    pair.tick(1.0)
    assert (pair.run.phase, groups(pair)) == ("training", ["ab"])
    assert "shares the model with b" in sentence(pair, "a")


@pytest.mark.parametrize(("ms", "mbit"), [(50, 20), (1, 0.02), (6, 1000)])
def test_two_that_are_far_apart_never_share(ms: float, mbit: float) -> None:
    pair = table("ab", small="ab")
    pair.links = measured("ab", ms, mbit)
    for _ in range(3):
        pair.tick(clusters.MEASURING_S)
    assert (pair.run.phase, groups(pair)) == ("waiting", [])


def test_large_ones_do_not_wait_for_small_ones_that_join_later() -> None:
    three = table("abc", small="bc")
    assert groups(three) == ["a"]
    three.follow()
    three.links = measured("bc")
    three.tick(1.0)
    assert groups(three) == ["a", "bc"]
    assert [plan.round for plan in three.run.clusters] == [0, 1]


def test_measuring_is_waited_for_but_not_for_ever() -> None:
    three = table("abc", small="abc")
    three.links = measured("ab")
    three.tick(1.0)
    assert groups(three) == [], "the third may still turn out to be near"
    three.tick(clusters.MEASURING_S)
    assert groups(three) == ["ab"]
    assert "nobody that is free is near it" in sentence(three, "c") or "nobody else" in sentence(three, "c")


def at_the_end_of_a_round(table: Table, committed: int) -> None:
    """As if so many rounds had been committed: the next report ends another."""
    table.follow()
    while table.rounds.committed < committed:
        table.whole_round()
        table.follow()


def test_clusters_are_broken_up_at_the_end_of_a_round_rarely_and_for_much() -> None:
    three = table("abc", small="abc", workers=2)
    three.links = measured("abc") | measured("ac", 1, 1) | measured("bc", 1, 1)
    three.tick(clusters.MEASURING_S)
    assert groups(three) == ["ab"]
    at_the_end_of_a_round(three, MOVE_EVERY - 1)
    three.links = measured("abc") | measured("ab", 30, 0.1) | measured("bc", 30, 0.1)  # b went to another place
    three.tick(1.0)
    assert groups(three) == ["ab"], "not within a round"
    three.whole_round()
    assert three.rounds.committed == MOVE_EVERY
    assert (groups(three), three.rounds.broken_up_at) == ([], MOVE_EVERY)
    assert three.events[-3:].count("cluster_lost") == 1
    for name in "ab":  # they hear that their plan is no more, and get ready again
        three.set(name, state="ready", epoch=0, ready_at=three.now)
    three.tick(1.0)
    assert groups(three) == ["ac"]
    three.links = measured("ab")
    at_the_end_of_a_round(three, MOVE_EVERY + 3)
    assert groups(three) == ["ac"], "never two in a row"


def changed_pair(restore_every: int = 8) -> Table:
    """a and b share the model; then a gets more memory, and b goes to another place: a round ends."""
    pair = table("ab", small="ab")
    keeps = merge(pair.run.config, {"cluster": {"restore_every": restore_every}})
    pair.run = replace(pair.run, config=keeps)
    for worker in pair.workers:
        pair.workers[worker] = replace(pair.workers[worker], config_digest=config_digest(keeps))
    pair.links = measured("ab")
    pair.tick(clusters.MEASURING_S)
    assert groups(pair) == ["ab"]
    at_the_end_of_a_round(pair, MOVE_EVERY - 1)
    pair.set("a", hardware=LARGE)
    pair.links = measured("ab", 30, 0.1)
    pair.whole_round()
    assert pair.rounds.broken_up_at == MOVE_EVERY
    return pair


def test_a_cluster_of_which_enough_stay_together_goes_on_from_its_restore_point() -> None:
    pair = changed_pair()
    assert groups(pair) == ["ab"], "it breaks off by itself, once it has contributed"
    plan = pair.run.clusters[0]
    assert awaits_another(plan, pair.run, pair.workers)
    lost_before = pair.events.count("cluster_lost")
    for name, ranks in (("a", (0, 1)), ("b", (1,))):
        kept = (KeptPoint(epoch=plan.epoch, step=8, anchor=0, ranks=ranks),)
        pair.set(name, broken=Broken(epoch=plan.epoch, points=kept, contributed=MOVE_EVERY))
    assert groups(pair) == ["a"]
    after = pair.run.clusters[0]
    assert (after.cluster, after.restore is not None) == (plan.cluster, True)
    assert not awaits_another(after, pair.run, pair.workers)
    assert pair.events.count("cluster_lost") == lost_before
    assert pair.run.plan_of(WorkerId("b" * 32)) is None


def test_a_cluster_whose_point_leaves_with_a_member_ends() -> None:
    pair = changed_pair()
    plan = pair.run.clusters[0]
    for name, ranks in (("a", (0,)), ("b", (0, 1))):
        kept = (KeptPoint(epoch=plan.epoch, step=8, anchor=0, ranks=ranks),)
        pair.set(name, broken=Broken(epoch=plan.epoch, points=kept, contributed=MOVE_EVERY))
    assert groups(pair) == []
    assert pair.events.count("cluster_lost") == 1


def test_a_cluster_without_restore_points_is_broken_up() -> None:
    assert groups(changed_pair(restore_every=0)) == []


ids = st.frozensets(st.sampled_from([WorkerId(name) for name in "abcdefgh"]))


@given(members=ids, order=st.permutations("abcdefgh"), cuts=st.lists(st.integers(0, 8), max_size=4), free=ids)
def test_who_stays_is_a_group_of_the_clusters_own_and_of_free_ones(
    members: frozenset[WorkerId], order: list[str], cuts: list[int], free: frozenset[WorkerId]
) -> None:
    ends = [0, *sorted(cuts), 8]
    groups = [frozenset(WorkerId(name) for name in order[a:b]) for a, b in pairwise(ends)]
    found = staying(members, groups, free - members)
    if found:
        assert found in groups
        assert found <= members | free
        assert len(found & members) == len(found) or len(found & members) > 1
    fit = [g & members for g in groups if g <= members | (free - members) and len(g & members) > 1]
    assert len(found & members) >= max(map(len, fit), default=0), "most of them"


def test_clusters_stay_where_little_would_be_won() -> None:
    four = table("abc", small="abc", workers=2)
    four.links = measured("abc")
    four.tick(1.0)
    assert groups(four) == ["ab"]
    four.links = measured("abc", 2.0)
    at_the_end_of_a_round(four, MOVE_EVERY + 2)
    assert (groups(four), four.rounds.broken_up_at) == (["ab"], 0)


def test_who_waits_joins_a_cluster_near_it_once_that_has_contributed() -> None:
    three = table("abc", small="abc", workers=2)
    three.links = measured("ab")
    three.tick(1.0)
    three.tick(clusters.MEASURING_S)
    assert groups(three) == ["ab"]
    three.follow()
    (plan,) = three.run.clusters
    assert not awaits(three), "c is near to nobody, as far as is known"
    three.links = measured("abc")
    assert not awaits(three), "the cluster has just begun"
    at_the_end_of_a_round(three, JOIN_EVERY)
    assert awaits(three)
    assert sentence(three, "c") == (
        f"waits for cluster {plan.cluster} to take it in once its round's work is done: then it is faster"
    )
    three.tick(1.0)
    assert groups(three) == ["ab"], "not within a round"
    for name, rank in (("a", 0), ("b", 1)):
        three.set(name, broken=offer(plan.epoch, (plan.epoch, 4, (rank,)), contributed=JOIN_EVERY))
    (larger,) = three.run.clusters
    assert (groups(three), larger.cluster, larger.round) == (["abc"], plan.cluster, plan.round)
    assert larger.restore is not None
    assert not awaits(three)
    three.follow()
    assert "shares the model with a (aaaaaaaa) and b (bbbbbbbb)" in sentence(three, "c")


def test_who_waits_takes_the_place_of_a_lost_member_without_whom_the_model_does_not_fit() -> None:
    three = table("abc", small="abc", workers=2)
    three.links = measured("ab")
    three.tick(1.0)
    three.tick(clusters.MEASURING_S)
    three.follow()
    (plan,) = three.run.clusters
    three.links = measured("abc") | measured("bc", 30.0)
    both = offer(plan.epoch, (plan.epoch, 8, (0, 1)))
    three.set("a", lost_peer=WorkerId("b" * 32), broken=both)
    assert groups(three) == ["ac"], "c is near to a, who is left"
    three.links = measured("abc", 30.0)
    three.follow()
    (plan,) = three.run.clusters
    three.set("a", lost_peer=WorkerId("c" * 32), broken=offer(plan.epoch, (plan.epoch, 8, (0, 1))))
    assert "b" not in "".join(groups(three)), "nobody joins who is far away"


def awaits(table: Table) -> bool:
    (plan,) = table.run.clusters
    return awaits_another(plan, table.run, table.workers, table.rounds, table.links, table.now)


# Reducers.


def firsts(table: Table, known: Places) -> str:
    return "".join(reducers[0][0] for reducers in reducers_of(table.rounds, table.run.clusters, known))


def test_reducers_have_a_good_uplink_and_are_spread_over_regions() -> None:
    four = Table(config_of(4), "abcd")
    a, b, c, d = (WorkerId(name * 32) for name in "abcd")
    four.rounds_or_none = with_spans(four, 4)
    assert firsts(four, Places()) == "abcd"
    poor = Places(uplinks={a: 1e6, b: 1e3, c: 1e6})
    assert firsts(four, poor) == "acda", "d may be as good as anyone, b is not"
    two_regions = Places(regions={a: 0, b: 0, c: 0, d: 1})
    assert firsts(four, two_regions) == "adbc"
    backups = [reducers[1] for reducers in reducers_of(four.rounds, four.run.clusters, two_regions)]
    assert backups[0] == d, "another region's"


def test_what_is_not_measured_changes_no_reducer() -> None:
    four = Table(config_of(4), "abcd")
    nothing = places(four.links, four.workers, four.now)
    assert nothing == Places()
    assert reducers_of(four.rounds, four.run.clusters, nothing) == reducers_of(four.rounds, four.run.clusters)


def with_spans(table: Table, count: int) -> Rounds:
    """Before anybody has reduced one of so many."""
    bounds = tuple((4096 * n, 4096 * (n + 1)) for n in range(count))
    return replace(table.rounds, bounds=bounds, reducers=(None,) * count)
