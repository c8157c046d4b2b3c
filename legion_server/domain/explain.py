"""Why each worker is where it is, in words, from the functions that decide it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from legion.config import config_digest
from legion.ids import WorkerId
from legion.links import ClusterReason
from legion.messages import Plan
from legion_server.domain import breaking_up, clustering, clusters
from legion_server.domain import links as lk
from legion_server.domain.clustering import Reason
from legion_server.domain.clusters import Workers
from legion_server.domain.joining import awaits_another
from legion_server.domain.links import Link, Links, Pair
from legion_server.domain.membership import AWAY, Worker
from legion_server.domain.rounds import Rounds
from legion_server.domain.runs import Run

BY_POLICY = {
    "one": "cluster.policy is 'one': all that were ready when the run began share the model, whatever their links",
    "solo": "cluster.policy is 'solo': every worker trains by itself",
    "fixed": "cluster.policy is 'fixed': clusters of cluster.size workers in the order of their ids, however far apart",
}


@dataclass(frozen=True, slots=True)
class Scene:
    """What decisions are made from."""

    run: Run
    rounds: Rounds | None
    workers: Workers
    links: Links
    now: float  # s since 1970


def explain(scene: Scene) -> list[ClusterReason]:
    """Of every worker that was not revoked, by cluster and id."""
    plans = scene.run.clusters if scene.run.plan is None else (scene.run.plan,)
    of_worker = {member.worker_id: plan for plan in plans for member in plan.members}
    measured = _measured(scene) if scene.run.config.cluster.policy == "auto" else {}
    found = [
        _told(scene, worker, of_worker.get(worker.worker_id), measured.get(worker.worker_id))
        for worker in scene.workers.values()
        if worker.state != "revoked"
    ]
    return sorted(found, key=lambda one: (one.cluster is None, one.cluster or "", one.worker_id))


def _measured(scene: Scene) -> dict[WorkerId, Reason]:
    """Reasons of the members of clusters, as their links are now, and of those that are free."""
    run, rounds = scene.run, scene.rounds
    shape = rounds.shape if rounds else None
    free = clusters.free(scene.workers.values(), run.clusters, config_digest(run.config), shape)
    grouping = breaking_up.seen(run.config, rounds, run.clusters, free, scene.workers)
    if grouping is None:
        return {}
    known = lk.known(scene.links, _ids(run.clusters, free), scene.now)
    reasons: dict[WorkerId, Reason] = {}
    for _, members in grouping.standing:
        reasons |= {one.worker_id: clustering.why_together(grouping.job, one, members, known) for one in members}
    reasons |= clustering.decide(grouping.job, grouping.free, known).reasons
    return reasons | _joining(scene, grouping, known)


def _joining(scene: Scene, grouping: breaking_up.Grouping, known: Mapping[Pair, Link]) -> dict[WorkerId, Reason]:
    """Those that wait for a cluster to take them in."""
    found: dict[WorkerId, Reason] = {}
    for name, members in grouping.standing:
        plan = next(plan for plan in scene.run.clusters if plan.cluster == name)
        if not awaits_another(plan, scene.run, scene.workers, scene.rounds, scene.links, scene.now):
            continue
        one = clustering.newcomer(grouping.job, members, grouping.free, known)
        if one is not None:
            sentence = f"waits for cluster {name} to take it in once its round's work is done: then it is faster"
            found[one.worker_id] = Reason("waiting", sentence)
    return found


def _told(scene: Scene, worker: Worker, plan: Plan | None, reason: Reason | None) -> ClusterReason:
    others = [m.worker_id for m in plan.members if m.worker_id != worker.worker_id] if plan is not None else []
    policy = scene.run.config.cluster.policy
    kind, sentence, not_with = "policy", BY_POLICY.get(policy, ""), tuple[str, ...]()
    if plan is None and (worker.state in AWAY or worker.state != "ready"):
        kind, sentence = "away", f"is {worker.state}: only who is ready enters a cluster"
    elif reason is not None:
        kind, sentence, not_with = reason.kind, reason.sentence, reason.not_with
        if plan is None and kind != "waiting":
            begun = scene.run.phase == "training"
            sentence += "; it enters with the next round" if begun else "; the run has not begun"
    elif plan is None:
        kind, sentence = "waiting", "waits: not enough workers are ready, or it built another model than they did"
    return ClusterReason.model_validate(
        {
            "worker_id": worker.worker_id,
            "name": worker.name,
            "state": worker.state,
            "cluster": (plan.cluster or f"c{plan.epoch}") if plan is not None else None,
            "kind": kind,
            "with_workers": others,
            "sentence": sentence,
            "not_with": not_with,
        }
    )


def _ids(plans: Iterable[Plan], free: Iterable[Worker]) -> list[WorkerId]:
    return [*(m.worker_id for plan in plans for m in plan.members), *(worker.worker_id for worker in free)]
