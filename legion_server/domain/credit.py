"""What a committed round adds to whose account. Pure.

Tokens that were counted: bounded by leases and measured speed, not verified.
"""

from dataclasses import dataclass

from legion.ids import RunId, WorkerId
from legion.rounds import Participant, RoundPlan, RoundRecord


@dataclass(frozen=True, slots=True)
class Credit:
    """One line of the ledger; there is one for a worker and round at most."""

    run_id: RunId
    round: int
    worker_id: WorkerId
    tokens: int


@dataclass(frozen=True, slots=True)
class Account:
    """Of a worker in a run. `rank`: from 1, equal sums share one; None: nothing was credited yet."""

    tokens: int = 0
    rank: int | None = None
    accounts: int = 0  # with credit


def of_round(plan: RoundPlan, record: RoundRecord) -> tuple[Credit, ...]:
    """For the members of clusters whose work the round includes, by the plan it was made under.

    A span counts by its share of the model: a contribution whose spans are included in different rounds is credited
    once in all, less than a token a round being lost to rounding. Members of one cluster share alike.
    """
    found = []
    for participant in plan.participants:
        for worker, tokens in _shared(participant, _counted(participant, record)):
            found.append(Credit(record.run_id, record.round, worker, tokens))
    return tuple(found)


def account(tokens: dict[WorkerId, int], worker: WorkerId) -> Account:
    """Of one among all who have any."""
    mine = tokens.get(worker, 0)
    better = sum(others > mine for others in tokens.values())
    return Account(mine, better + 1 if mine else None, sum(one > 0 for one in tokens.values()))


def _counted(participant: Participant, record: RoundRecord) -> int:
    weighted = 0
    for (start, stop), span in zip(record.bounds, record.spans, strict=True):
        inclusion = span.inclusion(participant.cluster)
        weighted += inclusion.tokens * (stop - start) if inclusion else 0
    return weighted // (record.bounds[-1][1] - record.bounds[0][0])


def _shared(participant: Participant, tokens: int) -> list[tuple[WorkerId, int]]:
    each, rest = divmod(tokens, len(participant.members))
    shares = [each + (rank < rest) for rank in range(len(participant.members))]
    return [(m.worker_id, share) for m, share in zip(participant.members, shares, strict=True) if share]
