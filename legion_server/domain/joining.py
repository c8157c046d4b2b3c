"""Workers that wait, and clusters that go on: who takes part with the next plan of a cluster. Pure."""

from collections.abc import Collection, Mapping, Sequence

from legion.config import RunConfig, config_digest
from legion.errors import ConfigInvalid
from legion.ids import WorkerId
from legion.messages import Plan
from legion_server.domain import clustering, clusters
from legion_server.domain import links as lk
from legion_server.domain import plan as plans
from legion_server.domain.clusters import Workers, candidate, job_of
from legion_server.domain.links import Link, Links, Pair
from legion_server.domain.membership import Worker
from legion_server.domain.rounds import Rounds
from legion_server.domain.runs import Run

JOIN_EVERY = 2  # rounds between two plans of a cluster that takes in somebody


def joining(
    members: Sequence[Worker],
    free: Sequence[Worker],
    config: RunConfig,
    known: Mapping[Pair, Link],
    wanted: Collection[WorkerId] | None = None,
) -> Sequence[Worker]:
    """Of those that are free; nobody if they could not share the model then.

    With policy `fixed` they take the places that are missing, with `auto` those join that are near and of use. With
    `wanted` that was decided before.
    """
    if not config.cluster.restore_every or not members:
        return ()
    if wanted is None and config.cluster.policy == "auto":
        return _useful(members, free, config, known)
    missing = max(0, (config.cluster.size or 1) - len(members))
    found = free[:missing] if wanted is None else [worker for worker in free if worker.worker_id in wanted]
    return found if _shared_by([*members, *found], config) else ()


def _useful(
    members: Sequence[Worker], free: Sequence[Worker], config: RunConfig, known: Mapping[Pair, Link]
) -> Sequence[Worker]:
    job, waiting = job_of(config, members[0]), {worker.worker_id: worker for worker in free}
    group, found = [candidate(job, worker) for worker in members], list[Worker]()
    while one := clustering.newcomer(job, group, [candidate(job, w) for w in waiting.values()], known):
        group.append(one)
        found.append(waiting.pop(one.worker_id))
    return found if _shared_by([*members, *found], config) else ()


def _shared_by(members: Sequence[Worker], config: RunConfig) -> bool:
    try:
        plans.check_split(config, members)
    except ConfigInvalid:
        return False
    return True


def awaits_another(
    plan: Plan, run: Run, workers: Workers, rounds: Rounds | None = None, links: Links | None = None, now: float = 0.0
) -> bool:
    """Whether the cluster is to break off, once it has contributed: for a worker that waits, or to be another."""
    members = [workers[member.worker_id] for member in plan.members if member.worker_id in workers]
    if run.phase != "training" or plan.cluster in run.breaking or len(members) < len(plan.members):
        return False
    if plan.epoch in run.regrouping:
        return True
    free = clusters.free(workers.values(), run.clusters, config_digest(run.config), plan.shape)
    if not free:
        return False
    if run.config.cluster.policy != "auto":
        return bool(joining(members, free, run.config, {}))
    if len(members) < 2 or rounds is None or rounds.committed < _steady_from(plan):
        return False  # who holds the model alone stays alone
    known = lk.known(links or {}, [worker.worker_id for worker in (*members, *free)], now)
    return bool(joining(members, free, run.config, known))


def _steady_from(plan: Plan) -> int:
    """The round after which the cluster may take in somebody again: nobody computes while a plan is changed."""
    return JOIN_EVERY + (plan.round if plan.restore is None else max(plan.round, plan.restore.contributed + 1))
