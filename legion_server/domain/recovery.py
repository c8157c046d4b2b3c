"""A cluster that has lost a member, and goes on from a restore point with those who are left. Pure.

Members that cannot go on say so, with what their disks have of restore points (`Broken`). Once all who are left have,
the cluster gets a plan of these, under the same name: what it had sent to a round stays its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from legion.config import RunConfig
from legion.errors import ConfigInvalid
from legion.ids import Epoch, RunId, WorkerId
from legion.messages import Broken, Member, Plan, Restore
from legion_server.domain import plan as plans
from legion_server.domain.clusters import Workers
from legion_server.domain.departures import departure
from legion_server.domain.joining import joining
from legion_server.domain.links import Link, Pair
from legion_server.domain.membership import Worker
from legion_server.domain.partitions import Word, may_live, together
from legion_server.domain.rounds import Outcome, Rounds, published

Offers = Mapping[WorkerId, Broken]
NO_LINKS: Mapping[Pair, Link] = {}

WAIT_S = 8.0  # for those who are left to notice; a peer that answers no more is noticed after 5 s


@dataclass(frozen=True, slots=True)
class Going:
    """What becomes of a cluster. `plan`: of those who are left; `waits`: for somebody to say what there is."""

    plan: Plan | None = None
    waits: bool = False


def going(
    plan: Plan,
    run_id: RunId,
    config: RunConfig,
    epoch: Epoch,
    workers: Workers,
    broken_s: float,
    free: Sequence[Worker] = (),
    known: Mapping[Pair, Link] = NO_LINKS,
    wanted: frozenset[WorkerId] | None = None,
) -> Going:
    """Of a cluster that lost a member `broken_s` ago. Neither a plan nor waiting: it is gone.

    `epoch`: for its next plan, in which workers that are `free` take part too; `known`: links among all these.
    `wanted`: who are to be its members, where that was decided before; what the others' disks have is gone with them.
    """
    if not config.cluster.restores(len(plan.members)):
        return Going()
    there = [workers[m.worker_id] for m in plan.members if departure(workers.get(m.worker_id), plan.epoch) is None]
    offers = {w.worker_id: w.broken for w in there if w.broken is not None and w.broken.epoch == plan.epoch}
    words = {w: Word(workers[w].lost_peer, offers[w].told_by) for w in offers}
    gone = {worker_id for offer in offers.values() for worker_id in offer.gone}
    awaited = {w.worker_id for w in there if w.worker_id not in gone and may_live(w.worker_id, words)}
    left = [w for w in there if w.worker_id in offers or (w.worker_id in awaited and _follows(w, plan))]
    if broken_s < WAIT_S and not all(w.worker_id in offers for w in left):
        return Going(waits=bool(left))
    agreeing = together(words, [member.worker_id for member in plan.members])
    survivors = [workers[w] for w in agreeing if wanted is None or w in wanted]
    restore = restore_of(plan, {w.worker_id: offers[w.worker_id] for w in survivors})
    if restore is None:
        return Going()
    try:
        members = [*survivors, *joining(survivors, free, config, known, wanted)]
        following = plans.make_plan(run_id, config, epoch, plan.first_step, members)
    except ConfigInvalid:  # those who are left cannot hold the model
        return Going()
    return Going(following.model_copy(update={"cluster": plan.cluster, "round": plan.round, "restore": restore}))


def _follows(worker: Worker, plan: Plan) -> bool:
    """It may have something to offer: it is in the plan, or in the one whose place this takes."""
    return worker.epoch == plan.epoch or (plan.restore is not None and worker.state == "training")


def is_breaking(plan: Plan, workers: Workers) -> bool:
    """Some member says that the plan cannot go on."""
    told = (workers[m.worker_id].broken for m in plan.members if m.worker_id in workers)
    return any(broken is not None and broken.epoch == plan.epoch for broken in told)


def revised(rounds: Rounds, plan: Plan) -> Outcome:
    """The round's plan, with the cluster's new members, unless they made a contribution before: then that is theirs."""
    current = rounds.plan
    participant = current.participant(plan.cluster) if current is not None else None
    assert plan.restore is not None
    if current is None or participant is None or plan.restore.contributed >= current.round:
        return Outcome(rounds, [])
    changed = participant.model_copy(update={"members": plan.members, "epoch": plan.epoch})
    found = tuple(changed if p is participant else p for p in current.participants)
    following = current.model_copy(update={"participants": found, "revision": current.revision + 1})
    return Outcome(replace(rounds, plan=following), [published(following)])


def restore_of(plan: Plan, offers: Offers) -> Restore | None:
    """The newest point all of whose slices lie with those who offer; None when there is none.

    A cluster that breaks before it has taken a point may still have the one that it went on from.
    """
    kept: dict[tuple[Epoch, int, int], dict[int, list[WorkerId]]] = {}
    for worker in sorted(offers):
        for point in offers[worker].points:
            for rank in point.ranks:
                kept.setdefault((point.epoch, point.step, point.anchor), {}).setdefault(rank, []).append(worker)
    members = _members(plan)
    for epoch, step, anchor in sorted(kept, reverse=True):
        holders = kept[epoch, step, anchor]
        if set(holders) == set(range(len(members.get(epoch, ())))):
            return Restore(
                epoch=epoch,
                step=step,
                anchor=anchor,
                members=tuple(members[epoch]),
                holders=tuple(tuple(holders[rank]) for rank in range(len(holders))),
                contributed=max(offer.contributed for offer in offers.values()),
            )
    return None


def _members(plan: Plan) -> dict[Epoch, Sequence[Member]]:
    """Of the plans whose points may still be there."""
    found: dict[Epoch, Sequence[Member]] = {plan.epoch: plan.members}
    if plan.restore is not None:
        found[plan.restore.epoch] = plan.restore.members
    return found
