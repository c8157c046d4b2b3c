"""Where members are by now: a relay that dies moves a worker, and ends neither its cluster nor the round. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from legion.ids import WorkerId
from legion.messages import Endpoint, Heartbeat, Member, Plan, Whereabouts
from legion_server.domain.clusters import Workers
from legion_server.domain.departures import departure
from legion_server.domain.membership import Worker
from legion_server.domain.rounds import Outcome, Rounds, published


def followed(clusters: Sequence[Plan], workers: Workers) -> tuple[Plan, ...]:
    """The clusters with the addresses that their members announce while they follow the plan."""
    return tuple(_followed(plan, workers) for plan in clusters)


def _followed(plan: Plan, workers: Workers) -> Plan:
    there = {
        member.worker_id: worker.endpoint
        for member in plan.members
        if (worker := workers.get(member.worker_id)) is not None
        and worker.epoch == plan.epoch
        and worker.endpoint is not None
    }
    members = _moved(plan.members, there)
    return plan if members == plan.members else plan.model_copy(update={"members": members})


def _moved(members: Sequence[Member], there: Mapping[WorkerId, Endpoint]) -> tuple[Member, ...]:
    return tuple(
        member.model_copy(update={"endpoint": there.get(member.worker_id, member.endpoint)}) for member in members
    )


def found(plan: Plan | None, beat: Heartbeat, workers: Workers) -> tuple[Whereabouts, ...]:
    """What a member of the plan is told of others that it cannot reach: where they are by now, or that they left."""
    if plan is None or plan.epoch != beat.epoch:
        return ()
    asked = (member for member in plan.members if member.worker_id in beat.away)
    return tuple(_whereabouts(member, plan, workers.get(member.worker_id)) for member in asked)


def _whereabouts(member: Member, plan: Plan, worker: Worker | None) -> Whereabouts:
    if worker is None or departure(worker, plan.epoch) is not None or _is_broken(worker, plan):
        return Whereabouts(worker_id=member.worker_id, endpoint=None)
    return Whereabouts(worker_id=member.worker_id, endpoint=worker.endpoint or member.endpoint)


def _is_broken(worker: Worker, plan: Plan) -> bool:
    return worker.broken is not None and worker.broken.epoch == plan.epoch


def told(rounds: Rounds, clusters: Sequence[Plan]) -> Outcome:
    """The round's plan with these addresses, as a new revision if there is anything new in it.

    Who its participants are stays: a cluster that goes on without a member may have contributed with it.
    """
    plan = rounds.plan
    if plan is None:
        return Outcome(rounds, [])
    there = {member.worker_id: member.endpoint for cluster in clusters for member in cluster.members}
    participants = tuple(
        participant.model_copy(update={"members": _moved(participant.members, there)})
        for participant in plan.participants
    )
    if participants == plan.participants:
        return Outcome(rounds, [])
    changed = plan.model_copy(update={"participants": participants, "revision": plan.revision + 1})
    return Outcome(replace(rounds, plan=changed), [published(changed)])
