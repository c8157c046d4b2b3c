"""Workers whose volunteers have paused them: what a run plans, and whom a round need not wait for."""

from coordinated_rounds import Table, config_of

from legion.ids import Epoch
from legion_server.domain.clusters import resting


def test_a_paused_worker_is_not_planned_in() -> None:
    table = Table(config_of(3), "ab")
    table.set("a", state="paused")
    table.tick(1000.0)
    assert members(table) == {"b" * 32}
    table.set("a", state="ready")
    assert members(table) == {"a" * 32, "b" * 32}


def members(table: Table) -> set[str]:
    return {member.worker_id for plan in table.run.clusters for member in plan.members}


def test_a_member_that_is_paused_before_it_hears_of_its_plan_is_gone() -> None:
    table = Table(config_of(3), "abc")
    table.set("a", state="paused", epoch=Epoch(0))
    assert len(table.run.clusters) == 2
    assert "cluster_lost" in table.events
    table.set("a", state="ready")
    assert len(table.run.clusters) == 3, "planned in again, when it is ready"


def test_a_member_that_rests_stays_and_is_not_waited_for() -> None:
    table = Table(config_of(3), "abc")
    table.follow()
    assert resting(table.run.clusters, table.workers) == ()
    table.set("b", state="paused")
    assert len(table.run.clusters) == 3
    (cluster,) = resting(table.run.clusters, table.workers)
    assert table.run.plan_of(table.run.clusters[1].members[0].worker_id) is not None
    assert cluster in {plan.cluster for plan in table.run.clusters}


def test_where_all_rest_there_is_nobody_to_go_on_without_them() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    table.set("a", state="paused")
    table.set("b", state="paused")
    assert resting(table.run.clusters, table.workers) == ()
