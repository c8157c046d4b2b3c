"""Clusters that are broken up for better ones, at the border of two rounds, rarely and for much. Pure.

Those of whom enough stay together are not: they break off once they have contributed, and go on from a restore point
with their moments, without who leaves and with who is free and joins them (see `recovery`).
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from legion.config import RunConfig
from legion.ids import ClusterId, WorkerId
from legion.messages import Plan
from legion_server.domain import clustering
from legion_server.domain.clusters import Workers, candidate, job_of
from legion_server.domain.cost import Candidate, Job
from legion_server.domain.links import Link, Pair
from legion_server.domain.membership import Worker
from legion_server.domain.rounds import Rounds


@dataclass(frozen=True, slots=True)
class Grouping:
    """Clusters and free workers of a run, as `clustering` sees them."""

    job: Job
    standing: tuple[tuple[ClusterId, tuple[Candidate, ...]], ...]
    free: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """`ended`: clusters whose members form others; `regrouped`: those that go on, with these members."""

    ended: frozenset[ClusterId] = frozenset()
    regrouped: Mapping[ClusterId, frozenset[WorkerId]] = field(default_factory=dict)


def broken_up(
    config: RunConfig,
    rounds: Rounds,
    run_clusters: Sequence[Plan],
    free: Sequence[Worker],
    workers: Workers,
    known: Mapping[Pair, Link],
) -> Changes:
    """What changes now; nothing where little would be won, or it was done lately."""
    if config.cluster.policy != "auto" or rounds.committed - rounds.broken_up_at < clustering.MOVE_EVERY:
        return Changes()
    grouping = seen(config, rounds, run_clusters, free, workers)
    if grouping is None:
        return Changes()
    standing = [(members, rounds.speeds.get(name)) for name, members in grouping.standing]
    ideal = clustering.moves(grouping.job, standing, grouping.free, known)
    if ideal is None:
        return Changes()
    changed = {name: frozenset(_ids(members)) for name, members in grouping.standing if _ids(members) not in ideal}
    regrouped: dict[ClusterId, frozenset[WorkerId]] = {}
    if config.cluster.restore_every:
        groups, joining = [frozenset(group) for group in ideal], frozenset(worker.worker_id for worker in free)
        kept = {name: staying(members, groups, joining) for name, members in changed.items() if len(members) > 1}
        regrouped = {name: group for name, group in kept.items() if group}
    return Changes(frozenset(changed.keys() - regrouped.keys()), regrouped)


def staying(
    members: frozenset[WorkerId], groups: Sequence[frozenset[WorkerId]], free: frozenset[WorkerId]
) -> frozenset[WorkerId]:
    """The group in which most of a cluster's members go on together, with nobody from other clusters; empty: none.

    One member goes on as it is only by itself: to join others it may as well come anew.
    """
    found = [
        (len(group & members), sorted(group))
        for group in groups
        if group <= members | free and len(group & members) > (0 if group <= members else 1)
    ]
    return frozenset(max(found)[1]) if found else frozenset()


def seen(
    config: RunConfig, rounds: Rounds | None, run_clusters: Sequence[Plan], free: Sequence[Worker], workers: Workers
) -> Grouping | None:
    """None where nobody has built the model. A worker by itself is as fast as its steps say.

    Of who has made none, or shares its steps with others, the hardware tells; by as much more or less as it does of
    those that were measured, so that a guess is not held against a measurement.
    """
    there = [workers[m.worker_id] for plan in run_clusters for m in plan.members if m.worker_id in workers]
    built = [worker for worker in (*there, *free) if worker.shape is not None]
    if not built:
        return None
    job, speeds = job_of(config, built[0]), rounds.speeds if rounds else {}
    alone = {plan.members[0].worker_id: speeds.get(plan.cluster) for plan in run_clusters if len(plan.members) == 1}
    measured = {worker: speed for worker, speed in alone.items() if speed}
    ratios = [measured[w.worker_id] / candidate(job, w).tokens_per_s for w in there if w.worker_id in measured]
    ratio = statistics.median(ratios) if ratios else 1.0

    def one(worker: Worker) -> Candidate:
        found = candidate(job, worker, measured.get(worker.worker_id))
        return found if found.is_measured else replace(found, tokens_per_s=found.tokens_per_s * ratio)

    standing = tuple(
        (plan.cluster, tuple(one(workers[m.worker_id]) for m in plan.members if m.worker_id in workers))
        for plan in run_clusters
    )
    return Grouping(job, tuple(s for s in standing if s[1]), tuple(one(worker) for worker in free))


def _ids(members: Sequence[Candidate]) -> tuple[WorkerId, ...]:
    return tuple(sorted(member.worker_id for member in members))
