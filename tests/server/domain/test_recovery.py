"""A cluster that loses a member goes on with those who are left, from the newest point that all of them have."""

import itertools

from coordinated_rounds import HARDWARE, Table, a_worker, config_of
from hypothesis import given
from hypothesis import strategies as st

from legion.ids import Epoch, WorkerId
from legion.messages import Broken, KeptPoint, Plan
from legion_server.domain.joining import awaits_another
from legion_server.domain.recovery import WAIT_S, restore_of

A, B, C, D = (WorkerId(name * 32) for name in "abcd")


def offer(
    epoch: int, *points: tuple[int, int, tuple[int, ...]], contributed: int = -1, told_by: WorkerId | None = None
) -> Broken:
    kept = tuple(KeptPoint(epoch=Epoch(e), step=step, anchor=0, ranks=ranks) for e, step, ranks in points)
    return Broken(epoch=Epoch(epoch), points=kept, contributed=contributed, told_by=told_by)


def of_three() -> Table:
    """a, b, c are cluster c1; d, e, f are c2."""
    table = Table(config_of(6, size=3), "abcdef")
    table.follow()
    assert [plan.cluster for plan in table.run.clusters] == ["c1", "c2"]
    return table


def test_those_who_are_left_get_a_plan_of_their_own_under_the_same_name() -> None:
    table = of_three()
    table.set("a", lost_peer=C, broken=offer(1, (1, 8, (0, 2))))
    assert [len(plan.members) for plan in table.run.clusters] == [3, 3], "b has not said what it has"
    table.set("b", lost_peer=C, broken=offer(1, (1, 8, (0, 1)), (1, 16, (0, 1))))
    plan = table.run.clusters[0]
    assert (plan.cluster, plan.epoch, plan.round) == ("c1", 3, 0)
    assert [m.worker_id for m in plan.members] == [A, B]
    restore = plan.restore
    assert restore is not None
    assert (restore.epoch, restore.step, restore.contributed) == (1, 8, -1)
    assert restore.holders == ((A, B), (B,), (A,))
    assert [m.worker_id for m in restore.members] == [A, B, C]
    assert (table.rounds.counters.clusters_regrouped, table.rounds.counters.members_lost) == (1, 1)
    assert table.rounds.counters.clusters_lost == 0


def broken(contributed: int) -> Table:
    table = of_three()
    for name, ranks in (("a", (0, 2)), ("b", (0, 1))):
        table.set(name, lost_peer=C, broken=offer(1, (1, 8, ranks), contributed=contributed))
    return table


def test_a_round_that_the_cluster_has_contributed_nothing_to_goes_on_with_its_new_members() -> None:
    table = broken(contributed=-1)
    participant = table.plan.participants[0]
    assert (participant.epoch, [m.worker_id for m in participant.members]) == (3, [A, B])
    assert participant.blocks == of_three().plan.participants[0].blocks, "the lease is the cluster's"
    assert table.plan.revision > 0


def test_a_contribution_that_was_made_stays_that_of_the_members_before() -> None:
    table = broken(contributed=0)
    participant = table.plan.participants[0]
    assert (participant.epoch, len(participant.members)) == (1, 3)
    table.follow()
    table.whole_round()
    participant = table.plan.participants[0]
    assert (participant.cluster, participant.epoch, len(participant.members)) == ("c1", 3, 2)


def test_spans_of_who_is_gone_are_the_next_ones() -> None:
    table = broken(contributed=0)
    assert C not in {table.plan.reducer(span) for span in range(len(table.plan.spans))}


def test_nobody_waits_for_ever_for_a_member_that_says_nothing() -> None:
    table = of_three()
    table.set("a", lost_peer=C, broken=offer(1, (1, 8, (0, 2))))
    table.tick(WAIT_S + 1.0)
    assert [plan.cluster for plan in table.run.clusters] == ["c2"], "b's slice is nowhere"
    table = of_three()
    table.set("a", lost_peer=C, broken=offer(1, (1, 8, (0, 1, 2))))
    table.tick(WAIT_S + 1.0)
    assert [m.worker_id for m in table.run.clusters[0].members] == [A]


def test_nobody_waits_for_members_that_are_said_to_be_gone() -> None:
    """Two neighbours of four: who owned a slice, and who had its copy."""
    table = Table(config_of(8, size=4), "abcdefgh")
    table.follow()
    of_a = offer(1, (1, 8, (0, 3))).model_copy(update={"gone": (B, C)})
    table.set("a", lost_peer=C, broken=of_a)
    assert [plan.cluster for plan in table.run.clusters] == ["c1", "c2"], "d has not said what it has"
    table.set("d", lost_peer=C, broken=offer(1, (1, 8, (2, 3))))
    assert [plan.cluster for plan in table.run.clusters] == ["c2"], "the slice of b is nowhere"


def test_those_who_are_left_and_cannot_hold_the_model_are_no_cluster() -> None:
    table = of_three()
    small = HARDWARE.model_copy(update={"memory_bytes": 100})
    table.set("a", lost_peer=C, broken=offer(1, (1, 8, (0, 2))), hardware=small)
    table.set("b", lost_peer=C, broken=offer(1, (1, 8, (0, 1))), hardware=small)
    assert [plan.cluster for plan in table.run.clusters] == ["c2"]
    assert table.rounds.counters.clusters_lost == 1


def test_a_member_that_is_there_after_all_goes_on_with_the_others() -> None:
    table = of_three()
    for name, ranks in (("a", (0, 2)), ("b", (0, 1)), ("c", (1, 2))):
        table.set(name, broken=offer(1, (1, 8, ranks)))
    assert [m.worker_id for m in table.run.clusters[0].members] == [A, B, C]


def test_one_that_is_cut_off_does_not_throw_out_whom_it_names() -> None:
    """All packets of b are dropped: it misses c first, and its client still speaks to the server, before the others."""
    table = of_three()
    table.set("b", lost_peer=C, broken=offer(1, (1, 8, (0, 1))))
    assert len(table.run.clusters[0].members) == 3, "nobody goes on by itself while others may"
    table.set("a", lost_peer=B, broken=offer(1, (1, 8, (0, 2))))
    assert len(table.run.clusters[0].members) == 3, "who accuses c is accused itself"
    table.set("c", lost_peer=B, broken=offer(1, (1, 8, (1, 2))))
    assert [m.worker_id for m in table.run.clusters[0].members] == [A, C]


def test_one_that_was_named_and_told_another_of_it_is_waited_for() -> None:
    table = of_three()
    table.set("b", lost_peer=C, broken=offer(1, (1, 8, (0, 1))))
    table.set("a", broken=offer(1, (1, 8, (0, 2)), told_by=C))
    assert len(table.run.clusters[0].members) == 3
    table.set("c", lost_peer=B, broken=offer(1, (1, 8, (1, 2))))
    assert [m.worker_id for m in table.run.clusters[0].members] == [A, C]


def test_two_that_do_not_reach_each_other_do_not_go_on_together() -> None:
    table = Table(config_of(4, size=2), "abcd")
    table.follow()
    table.set("a", lost_peer=B, broken=offer(1, (1, 8, (0, 1))))
    table.set("b", lost_peer=A, broken=offer(1, (1, 8, (0, 1))))
    assert [m.worker_id for m in table.run.clusters[0].members] == [A]


def test_who_waits_takes_the_place_of_who_was_lost() -> None:
    table = broken(contributed=0)
    table.follow()
    assert not awaits_another(table.run.clusters[0], table.run, table.workers), "nobody waits"
    table.workers[WorkerId("g" * 32)] = a_worker("g")
    table.tick()
    assert [len(plan.members) for plan in table.run.clusters] == [2, 3]
    assert awaits_another(table.run.clusters[0], table.run, table.workers)
    assert not awaits_another(table.run.clusters[1], table.run, table.workers), "which has all its members"
    for name, rank in (("a", 0), ("b", 1)):
        table.set(name, broken=offer(3, (3, 4, (rank,)), contributed=1))
    plan = table.run.clusters[0]
    assert [m.worker_id for m in plan.members] == [A, B, WorkerId("g" * 32)]
    assert plan.restore is not None
    assert plan.restore.holders == ((A,), (B,))
    assert not awaits_another(plan, table.run, table.workers)
    assert table.rounds.counters.members_lost == 1


def test_the_only_one_left_goes_on_with_who_comes() -> None:
    table = of_three()
    table.set("a", lost_peer=C, broken=offer(1, (1, 8, (0, 1, 2))).model_copy(update={"gone": (B, C)}))
    [alone] = (plan for plan in table.run.clusters if plan.cluster == "c1")
    assert [m.worker_id for m in alone.members] == [A]
    table.follow()
    table.set("b", state="offline", endpoint=None)
    table.workers[WorkerId("g" * 32)] = a_worker("g")
    table.tick()
    assert awaits_another(alone, table.run, table.workers)
    table.set("a", lost_peer=None, broken=offer(3, (3, 4, (0,))))
    [grown] = (plan for plan in table.run.clusters if plan.cluster == "c1")
    assert [m.worker_id for m in grown.members] == [A, WorkerId("g" * 32)]
    assert table.rounds.counters.clusters_lost == 0


def test_who_cannot_share_the_model_ends_no_cluster() -> None:
    table = broken(contributed=0)
    table.follow()
    small = HARDWARE.model_copy(update={"memory_bytes": 100})
    table.workers[WorkerId("g" * 32)] = a_worker("g", hardware=small)
    table.tick()
    assert not awaits_another(table.run.clusters[0], table.run, table.workers)
    for name, rank in (("a", 0), ("b", 1)):
        table.set(name, broken=offer(3, (3, 4, (rank,)), contributed=1))
    assert [m.worker_id for m in table.run.clusters[0].members] == [A, B]


def test_a_second_loss_before_the_first_point_of_the_new_plan() -> None:
    table = broken(contributed=0)
    table.follow()
    table.set("a", lost_peer=B, broken=offer(3, (1, 8, (0, 1, 2))))
    plan = table.run.clusters[0]
    assert [m.worker_id for m in plan.members] == [A]
    assert plan.restore is not None
    assert (plan.restore.epoch, len(plan.restore.members)) == (1, 3)


def test_a_member_whose_engine_ended_before_it_heard_of_the_new_plan() -> None:
    table = broken(contributed=0)
    table.set("a", state="joining", epoch=0, dropped_epoch=1, broken=None)
    table.tick(WAIT_S + 1.0)
    assert [plan.cluster for plan in table.run.clusters] == ["c2"]


@given(
    st.dictionaries(
        st.sampled_from([A, B, C]),
        st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), st.sets(st.integers(0, 3))), max_size=4),
        min_size=1,
    )
)
def test_a_point_is_whole_or_it_is_none(told: dict[WorkerId, list[tuple[int, int, set[int]]]]) -> None:
    plan: Plan = of_three().run.clusters[0]
    offers = {w: offer(1, *((e, step, tuple(sorted(ranks))) for e, step, ranks in kept)) for w, kept in told.items()}
    found = restore_of(plan, offers)
    whole = {
        (e, step)
        for (e, step), _ in itertools.groupby(sorted((e, s) for kept in told.values() for e, s, _ in kept))
        if e == plan.epoch
        and set().union(*(r for kept in told.values() for x, s, r in kept if (x, s) == (e, step))) == {0, 1, 2}
    }
    assert (found is not None) == bool(whole)
    if found is not None:
        assert (found.epoch, found.step) == max(whole)
        for rank, holders in enumerate(found.holders):
            assert holders
            for holder in holders:
                assert any((e, s) == max(whole) and rank in r for e, s, r in told[holder])
