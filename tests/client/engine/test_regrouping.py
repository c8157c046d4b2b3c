"""A member of a cluster is lost, and the others go on from a restore point, in the processes that they are."""

import signal
import time
from collections.abc import Callable, Sequence

import pytest

from legion.comm.liveness import FACTOR, SLOWEST_AT_FIRST_S
from legion.config import config_digest
from legion.ids import ClusterId, Epoch
from legion.messages import Endpoint, Member, Plan
from legion.rounds import RoundPlan
from legion_client.engine.protocol import Finished, Listening, PlanBroken, Regroup, RoundNews, StepDone, Train
from legion_server.domain.recovery import restore_of
from tests.client.engine.engine_processes import Dataset, EngineProcess, Engines, prepared, with_config
from tests.client.engine.round_table import Cluster, Table, seated


class Elastic(Table):
    """A coordinator that gives a broken cluster another plan."""

    def regroup(
        self, cluster: Cluster, plan: Plan, left: list[EngineProcess], joining: Sequence[EngineProcess] = ()
    ) -> Plan:
        """Once all who are left have said that the plan is broken."""
        offers = {e.identity.worker_id: e.wait_for(PlanBroken).broken for e in left}
        restore = restore_of(plan, offers)
        assert restore is not None, offers
        known = {member.worker_id: member for member in cluster.members}
        members = tuple(known[engine.identity.worker_id] for engine in left)
        members += tuple(member_of(engine) for engine in joining)
        with self.lock:
            cluster.epoch, cluster.engines, cluster.members = Epoch(plan.epoch + 100), [*left, *joining], members
            following = plan.model_copy(update={"epoch": cluster.epoch, "members": members, "restore": restore})
            revises = restore.contributed < self.plans[-1].round
            self.plans[-1] = self._revised(self.plans[-1], cluster, members=revises)
            gone = () if revises else (cluster.name,)
            for engine in joining:
                engine.on_report = self.hear
            for engine in cluster.engines:
                engine.send(Train(plan=following))
            for engine in joining:
                engine.send(RoundNews(plans=tuple(self.plans[restore.anchor :]), records=tuple(self.records)))
            self.tell(RoundNews(plans=(self.plans[-1],), gone=gone))
        return following

    def _revised(self, plan: RoundPlan, cluster: Cluster, *, members: bool) -> RoundPlan:
        """Spans of who is gone go to the next in their lists; `members`: the cluster takes part with those it has."""
        there = {worker.worker_id for c in self.clusters for worker in c.members}
        terms = tuple(
            next(term for term, worker in enumerate(span.reducers) if term >= plan.term(number) and worker in there)
            for number, span in enumerate(plan.spans)
        )
        new = {"members": cluster.members, "epoch": cluster.epoch}
        participants = tuple(
            p.model_copy(update=new) if members and p.cluster == cluster.name else p for p in plan.participants
        )
        revision = plan.revision + 1
        return plan.model_copy(update={"participants": participants, "terms": terms, "revision": revision})


def elastic(data: Dataset, rounds: int, size: int, **change: object) -> Dataset:
    return with_config(
        data,
        cluster={"policy": "fixed", "size": size, "restore_every": 2},
        steps=4 * rounds,
        rounds={"steps": 4, "codec": "int4"} | change,
    )


@pytest.mark.parametrize(("size", "lost", "optimizer"), [(2, 0, "adamw"), (3, 1, "adamw"), (3, 0, "onebit_adam")])
def test_who_is_left_goes_on_from_the_newest_point(
    engines: Engines, text_data: Dataset, size: int, lost: int, optimizer: str
) -> None:
    """1-bit Adam has begun to send signs by then: it goes on doing so, with the momentum that it had."""
    data = with_config(elastic(text_data, 6, size), optimizer={"name": optimizer})
    *cluster, single = engines.start(size + 1)
    other = [single]
    table = seated(data, [cluster, other], kind=Elastic)
    plan = plan_of_cluster(table, table.clusters[0])
    reached(cluster[lost], lambda step: step >= 7)
    cluster[lost].kill()
    left = [engine for engine in cluster if engine is not cluster[lost]]
    table.regroup(table.clusters[0], plan, left)
    everyone = [*left, *other]
    assert [engine.ended() for engine in everyone] == [0] * len(everyone), "".join(e.log for e in everyone)
    for engine in everyone:
        assert engine.reports[-1] == Finished(step=24)
        assert "Traceback" not in engine.log
    for number, roots in table.roots.items():
        for rank in {rank for name, rank, _ in roots if name == ClusterId("c1")}:
            assert len({root for name, r, root in roots if (name, r) == (ClusterId("c1"), rank)}) <= 2, number
    assert any(span.inclusion(ClusterId("c1")) for span in table.records[-1].spans)


def test_who_is_left_goes_on_without_one_that_is_stopped(engines: Engines, text_data: Dataset) -> None:
    """Its connections stay open, and nobody is told: only its silence says so."""
    data = elastic(text_data, 40, 3)
    *cluster, single = engines.start(4)
    table = seated(data, [cluster, [single]], kind=Elastic)
    plan = plan_of_cluster(table, table.clusters[0])
    reached(cluster[1], lambda step: step >= 7)
    cluster[1].signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    left = [cluster[0], cluster[2]]
    table.regroup(table.clusters[0], plan, left)
    assert time.monotonic() - stopped_at < 2 * FACTOR * SLOWEST_AT_FIRST_S, "a busy machine may take some of it"
    for engine in left:
        said = engine.all(PlanBroken)[0]
        others = {other.identity.worker_id for other in left if other is not engine}
        assert said.lost_peer == cluster[1].identity.worker_id or said.broken.told_by in others
        reached(engine, lambda step: step >= 12)
    cluster[1].signal(signal.SIGCONT)
    assert cluster[1].wait_for(PlanBroken).broken.epoch == plan.epoch, "it learns that the others left its plan"
    cluster[1].kill()
    everyone = [*left, single]
    assert [engine.ended() for engine in everyone] == [0] * 3, "".join(e.log for e in everyone)
    for engine in everyone:
        assert engine.reports[-1] == Finished(step=160)
        assert "Traceback" not in engine.log


def test_another_member_takes_part_once_the_cluster_has_contributed(engines: Engines, text_data: Dataset) -> None:
    data = elastic(text_data, 30, 2)
    *cluster, single, spare = engines.start(4)
    table = seated(data, [cluster, [single]], kind=Elastic)
    prepared([spare], data)
    plan = plan_of_cluster(table, table.clusters[0])
    reached(cluster[0], lambda step: step >= 5)
    for engine in cluster:
        engine.send(Regroup())
    table.regroup(table.clusters[0], plan, cluster, [spare])
    everyone = [*cluster, single, spare]
    assert [engine.ended() for engine in everyone] == [0] * 4, "".join(e.log for e in everyone)
    for engine in everyone:
        assert engine.reports[-1] == Finished(step=120)
        assert "Traceback" not in engine.log
    assert spare.all(StepDone), "it computes with the others"
    last = {rank for name, rank, _ in table.roots[30] if name == ClusterId("c1")}
    assert last == {0, 1, 2}


def test_the_only_one_left_goes_on_with_another(engines: Engines, text_data: Dataset) -> None:
    data = elastic(text_data, 30, 2)
    first, second, single, spare = engines.start(4)
    table = seated(data, [[first, second], [single]], kind=Elastic)
    prepared([spare], data)
    reached(first, lambda step: step >= 5)
    second.kill()
    alone = table.regroup(table.clusters[0], plan_of_cluster(table, table.clusters[0]), [first])
    reached(first, lambda step: step >= 5)
    first.send(Regroup())
    table.regroup(table.clusters[0], alone, [first], [spare])
    everyone = [first, single, spare]
    assert [engine.ended() for engine in everyone] == [0] * 3, "".join(e.log for e in everyone)
    for engine in everyone:
        assert engine.reports[-1] == Finished(step=120)
        assert "Traceback" not in engine.log
    assert spare.all(StepDone), "it computes with the other"


class NotOpened(Table):
    """A coordinator whose first round is yet to begin."""

    def open_round(self) -> None:
        pass


def test_a_cluster_that_breaks_before_its_first_round_says_so(engines: Engines, text_data: Dataset) -> None:
    left, lost = engines.start(2)
    seated(elastic(text_data, 6, 2), [[left, lost]], kind=NotOpened)
    left.until_logged(f"peer met peer={lost.identity.worker_id}")
    lost.kill()
    said = left.wait_for(PlanBroken)
    assert said.lost_peer == lost.identity.worker_id
    assert said.broken.points == ()
    assert "Traceback" not in left.log


def member_of(engine: EngineProcess) -> Member:
    [heard] = engine.all(Listening)
    endpoint = Endpoint(host="127.0.0.1", port=heard.port)
    return Member(worker_id=engine.identity.worker_id, endpoint=endpoint, share=2)


def plan_of_cluster(table: Table, cluster: Cluster) -> Plan:
    return Plan(
        run_id=table.plans[0].run_id,
        epoch=cluster.epoch,
        members=tuple(cluster.members),
        shape=table.shape,
        first_step=0,
        config_digest=config_digest(table.data.config),
        cluster=cluster.name,
    )


def reached(engine: EngineProcess, enough: Callable[[int], bool]) -> None:
    while not enough(engine.wait_for(StepDone).record.step):
        pass
