"""Workers that should have been heard by now: nobody waits for them, though they may be back in a moment. Pure.

Offline, and their cluster with them, they are after 90 s. A round that takes seconds cannot wait for that.
"""

from collections.abc import Collection
from typing import Final

from legion.ids import ClusterId, WorkerId
from legion.messages import HEARTBEAT_S, Plan
from legion_server.domain.clusters import Workers
from legion_server.domain.membership import AWAY
from legion_server.domain.rounds import Rounds
from legion_server.domain.runs import Run

SHORT_ROUND_S: Final = 120.0  # below, heartbeats are as frequent as while waiting
WAITING_HEARTBEAT_S: Final = 5.0  # while a plan may appear at any moment; the event stream is faster, but may be broken
MISSED: Final = 4  # heartbeats: three may be a network that is lost for a moment


def heartbeat_s(run: Run, rounds: Rounds | None) -> float:
    """Between two of a worker: the news that may come with one must not cost a round."""
    if run.phase == "waiting" or (rounds is not None and (rounds.round_s or 0.0) < SHORT_ROUND_S):
        return WAITING_HEARTBEAT_S
    return HEARTBEAT_S


def quiet(run: Run, rounds: Rounds | None, workers: Workers, now: float) -> frozenset[WorkerId]:
    """Members of clusters that have missed their heartbeats."""
    most_s = MISSED * heartbeat_s(run, rounds)
    members = (workers.get(member.worker_id) for plan in run.clusters for member in plan.members)
    return frozenset(w.worker_id for w in members if w and w.state not in AWAY and now - w.last_seen > most_s)


def quiet_clusters(clusters: Collection[Plan], quiet: Collection[WorkerId]) -> tuple[ClusterId, ...]:
    """That have such a member; none where all have."""
    found = tuple(plan.cluster for plan in clusters if any(member.worker_id in quiet for member in plan.members))
    return found if len(found) < len(clusters) else ()
