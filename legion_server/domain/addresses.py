"""Where members are by now: a relay that dies moves a worker, and ends neither its cluster nor the round. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from legion.messages import Plan
from legion_server.domain.clusters import Workers
from legion_server.domain.rounds import Outcome, Rounds, published


def followed(clusters: Sequence[Plan], workers: Workers) -> tuple[Plan, ...]:
    """The clusters with the addresses that their members announce while they follow the plan."""
    return tuple(_followed(plan, workers) for plan in clusters)


def _followed(plan: Plan, workers: Workers) -> Plan:
    members = []
    for member in plan.members:
        worker = workers.get(member.worker_id)
        follows = worker is not None and worker.epoch == plan.epoch and worker.endpoint is not None
        members.append(member.model_copy(update={"endpoint": worker.endpoint}) if worker and follows else member)
    return plan if tuple(members) == plan.members else plan.model_copy(update={"members": tuple(members)})


def told(rounds: Rounds, clusters: Sequence[Plan]) -> Outcome:
    """The round's plan with these addresses, as a new revision if there is anything new in it."""
    plan = rounds.plan
    if plan is None:
        return Outcome(rounds, [])
    members = {cluster.cluster: cluster.members for cluster in clusters}
    participants = tuple(
        participant
        if members.get(participant.cluster, participant.members) == participant.members
        else participant.model_copy(update={"members": members[participant.cluster]})
        for participant in plan.participants
    )
    if participants == plan.participants:
        return Outcome(rounds, [])
    changed = plan.model_copy(update={"participants": participants, "revision": plan.revision + 1})
    return Outcome(replace(rounds, plan=changed), [published(changed)])
