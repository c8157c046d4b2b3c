"""Members that move to another address in the middle of a run, and who reduces where some are behind relays."""

from dataclasses import replace
from typing import Any

import pytest
from coordinated_rounds import Table, a_worker, config_of

from legion.ids import Epoch, WorkerId
from legion.messages import PROTOCOL, Broken, Endpoint, Heartbeat, Whereabouts
from legion_server.domain.addresses import found, told
from legion_server.domain.round_plan import reducers_of

RELAY = Endpoint(host="relay", port=8443, relayed=True)


def endpoints(table: Table) -> dict[str, Endpoint]:
    return {m.worker_id[0]: m.endpoint for p in table.plan.participants for m in p.members}


def test_a_member_that_moves_is_told_to_the_others_of_its_round() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    clusters, revision = [plan.cluster for plan in table.run.clusters], table.plan.revision
    table.set("b", endpoint=RELAY)
    assert endpoints(table) == {"a": Endpoint(host="h", port=1), "b": RELAY}
    assert [plan.cluster for plan in table.run.clusters] == clusters
    assert table.plan.revision == revision + 1
    assert table.events[-1] == "round_plan"
    plan = table.run.plan_of(WorkerId("b" * 32))
    assert plan is not None
    assert [member.endpoint for member in plan.members] == [RELAY]


def test_who_says_nothing_of_its_address_stays_where_it_was() -> None:
    table = Table(config_of(2), "ab")
    table.follow()
    before = table.plan
    table.set("b", endpoint=None)
    assert table.plan == before


def test_one_that_was_started_anew_is_no_member_that_moved() -> None:
    table = Table(config_of(2), "ab")
    table.set("b", endpoint=RELAY)  # before it had heard of its plan
    assert [p.members[0].worker_id[0] for p in table.plan.participants if p.cluster in _clusters(table)] == ["a"]
    assert "cluster_lost" in table.events


def _clusters(table: Table) -> list[str]:
    return [plan.cluster for plan in table.run.clusters]


def reducers(table: Table) -> set[str]:
    return {worker[0] for listed in reducers_of(table.rounds, table.run.clusters) for worker in listed[:1]}


def with_relayed(names: str, relayed: str) -> Table:
    table = Table(config_of(len(names) + 1), names)  # one short of its start
    for name in relayed:
        table.set(name, endpoint=RELAY)
    table.workers[WorkerId("z" * 32)] = a_worker("z", endpoint=RELAY)
    table.tick()
    return table


def test_reducers_are_direct_workers() -> None:
    assert reducers(with_relayed("abcd", "ac")) == {"b", "d"}


def test_where_all_are_behind_relays_they_reduce_all_the_same() -> None:
    assert reducers(with_relayed("ab", "ab")) == {"a", "b", "z"}


def test_a_cluster_that_goes_on_without_a_member_keeps_its_place_in_the_round() -> None:
    """It may have contributed with the one who is gone."""
    table = Table(config_of(4, size=2), "abcd")
    table.follow()
    first, second = table.run.clusters
    (kept, gone) = first.members
    moved = kept.model_copy(update={"endpoint": RELAY})
    after = told(table.rounds, (first.model_copy(update={"members": (moved,)}), second)).rounds.plan
    assert after is not None
    assert after.participants[0].members == (moved, gone)
    assert after.participants[1] == table.plan.participants[1]


def asked(table: Table, asker: str, *away: str, epoch: int | None = None) -> dict[str, Endpoint | None]:
    plan = table.run.plan_of(WorkerId(asker * 32))
    assert plan is not None
    beat = Heartbeat(
        protocol=PROTOCOL,
        state="training",
        epoch=plan.epoch if epoch is None else Epoch(epoch),
        away=tuple(WorkerId(name * 32) for name in away),
    )
    return {w.worker_id[0]: w.endpoint for w in found(plan, beat, table.workers)}


def test_a_member_is_told_where_another_is_by_now() -> None:
    table = Table(config_of(4, size=2), "abcd")
    table.follow()
    assert asked(table, "a", "b") == {"b": Endpoint(host="h", port=1)}
    table.set("b", endpoint=RELAY)
    assert asked(table, "a", "b") == {"b": RELAY}
    assert asked(table, "a") == {}


def test_nobody_is_told_of_other_clusters_or_of_another_plan() -> None:
    table = Table(config_of(4, size=2), "abcd")
    table.follow()
    assert asked(table, "a", "c", "z") == {}
    assert asked(table, "a", "b", epoch=0) == {}
    beat = Heartbeat(protocol=PROTOCOL, state="training", away=(WorkerId("b" * 32),))
    assert found(None, beat, table.workers) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"state": "offline", "endpoint": None},
        {"state": "revoked", "endpoint": None},
        {"failure": "out-of-memory"},
        {"said_goodbye": True},
        {"broken": Broken(epoch=Epoch(1))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_who_is_gone_or_waits_for_another_plan_is_not_to_be_waited_for(change: dict[str, Any]) -> None:
    table = Table(config_of(4, size=2), "abcd")
    table.follow()
    plan = table.run.clusters[0]
    member = WorkerId("b" * 32)
    workers = table.workers | {member: replace(table.workers[member], **change)}
    beat = Heartbeat(protocol=PROTOCOL, state="training", epoch=plan.epoch, away=(member,))
    assert found(plan, beat, workers) == (Whereabouts(worker_id=member, endpoint=None),)
