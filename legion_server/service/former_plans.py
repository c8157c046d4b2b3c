"""Reports of a plan that is past: in rounds what they tell of is part of the run all the same.

A worker that was away, or whose agent was killed while the server was, brings them when it is back. Without rounds a
plan that is past was given up, and so is what its members did beyond the last checkpoint.
"""

from legion.ids import WorkerId
from legion.reports import MetricsReport
from legion_server.domain.rounds import Rounds
from legion_server.store.api import Store

BESIDE = 2  # rounds before a step's own: so far work runs ahead of the log
MOST_PLANS = 8  # that are looked at


async def was_member(store: Store, rounds: Rounds | None, steps: int, worker: WorkerId, report: MetricsReport) -> bool:
    """Whether a plan that is kept, of rounds of so many steps, has the worker in the report's cluster."""
    told = [record.step for record in report.steps] + [record.step for record in report.evaluations]
    if rounds is None or not told:
        return False
    newest = min(max(0, max(told) - 1) // steps + 1, rounds.committed)
    oldest = max(rounds.first_record, max(0, min(told) - 1) // steps - BESIDE)
    # One at a time, as that of a hundred workers is long, and the newest has most of them.
    for number in range(newest, max(oldest, newest - MOST_PLANS) - 1, -1):
        for plan in await store.plans(number, 1):
            for participant in plan.participants:
                if participant.epoch == report.epoch:
                    return any(member.worker_id == worker for member in participant.members)
    return False
