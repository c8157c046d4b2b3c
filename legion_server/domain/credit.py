"""What a committed round adds to whose account. Pure.

Tokens that were counted: bounded by leases and measured speed, not verified.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from legion.ids import RunId, WorkerId
from legion.rounds import Participant, RoundPlan, RoundRecord
from legion_server.domain.standing import mflop_of


@dataclass(frozen=True, slots=True)
class RoundCredit:
    """A round's lines of the ledger: tokens by worker, none without any. `at`: s since 1970."""

    run_id: RunId
    round: int
    tokens: Mapping[WorkerId, int]
    parameters: int  # of the model: what a token weighs
    at: float

    def mflop_of(self, tokens: int) -> int:
        return mflop_of(tokens, self.parameters)


@dataclass(frozen=True, slots=True)
class Account:
    """Of a worker in a run. `rank`: from 1, equal sums share one; None: nothing was credited yet."""

    tokens: int = 0
    rank: int | None = None
    accounts: int = 0  # with credit


class Accounts:
    """All of a run, for many who ask."""

    def __init__(self, tokens: Mapping[WorkerId, int]) -> None:
        self._tokens = {worker: amount for worker, amount in tokens.items() if amount > 0}
        self._ascending = sorted(self._tokens.values())

    def of(self, worker: WorkerId) -> Account:
        count, mine = len(self._ascending), self._tokens.get(worker, 0)
        return Account(mine, count - bisect_right(self._ascending, mine) + 1 if mine else None, count)


def of_round(plan: RoundPlan, record: RoundRecord, parameters: int, at: float) -> RoundCredit:
    """For the members of clusters whose work the round includes, by the plan it was made under.

    A span counts by its share of the model: a contribution whose spans are included in different rounds is credited
    once in all, less than a token a round being lost to rounding. Members of one cluster share alike.
    """
    tokens = dict[WorkerId, int]()
    for participant in plan.participants:
        tokens |= _shared(participant, _counted(participant, record))
    return RoundCredit(record.run_id, record.round, tokens, parameters, at)


def _counted(participant: Participant, record: RoundRecord) -> int:
    weighted = 0
    for (start, stop), span in zip(record.bounds, record.spans, strict=True):
        inclusion = span.inclusion(participant.cluster)
        weighted += inclusion.tokens * (stop - start) if inclusion else 0
    return weighted // (record.bounds[-1][1] - record.bounds[0][0])


def _shared(participant: Participant, tokens: int) -> dict[WorkerId, int]:
    each, rest = divmod(tokens, len(participant.members))
    shares = {member.worker_id: each + (rank < rest) for rank, member in enumerate(participant.members)}
    return {worker: share for worker, share in shares.items() if share}
