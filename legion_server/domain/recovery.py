"""A cluster that has lost a member, and goes on from a restore point with those who are left. Pure."""

from collections.abc import Mapping, Sequence

from legion.ids import Epoch, WorkerId
from legion.messages import Broken, Member, Plan, Restore

Offers = Mapping[WorkerId, Broken]


def restore_of(plan: Plan, offers: Offers) -> Restore | None:
    """The newest point all of whose slices lie with those who offer; None when there is none.

    A cluster that breaks before it has taken a point may still have the one that it went on from.
    """
    kept: dict[tuple[Epoch, int], dict[int, list[WorkerId]]] = {}
    for worker in sorted(offers):
        for point in offers[worker].points:
            for rank in point.ranks:
                kept.setdefault((point.epoch, point.step), {}).setdefault(rank, []).append(worker)
    members = _members(plan)
    for epoch, step in sorted(kept, reverse=True):
        holders = kept[epoch, step]
        if set(holders) == set(range(len(members.get(epoch, ())))):
            return Restore(
                epoch=epoch,
                step=step,
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
