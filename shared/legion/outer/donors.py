"""Who near us may have an update of a round that is past: a newcomer asks its own region before it asks far away. Pure.

Workers keep updates for some rounds after they have applied them. While a round is new all of them fetch it at once,
and nobody but its reducers has it.
"""

import hashlib

from legion.ids import WorkerId
from legion.messages import Member
from legion.rounds import RoundPlan


def donor(me: WorkerId, newest: RoundPlan | None, number: int, reducer: WorkerId, digest: str) -> Member | None:
    """One of our region, drawn by digest; None where there is none, or the reducer is of our region too."""
    if newest is None or number >= newest.round - 1:
        return None
    regions = dict(newest.regions)
    mine = regions.get(me)
    if mine is None or regions.get(reducer) == mine:
        return None
    near = [one for worker, one in newest.workers.items() if worker != me and regions.get(worker) == mine]
    return min(near, key=lambda one: hashlib.sha256(f"{me}{one.worker_id}{digest}".encode()).digest(), default=None)
