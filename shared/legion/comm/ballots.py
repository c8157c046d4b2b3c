"""What the first member of a plan decides for all: who computes which micro-batch, and whether a step commits."""

import math
from collections.abc import Mapping

from legion.comm.api import Ballot, Purpose, Verdict
from legion.comm.waiting import Changes
from legion.errors import PartInvalid
from legion.ids import Step, WorkerId

KEPT_STEPS = 2  # verdicts a member may ask for again after a lost reply


class Claims:
    """Micro-batch indices of a step, each given out once. A claim does not expire inside a step."""

    def __init__(self) -> None:
        self._batch_count = 0
        self._step = Step(-1)
        self._next = 0
        self._answers: dict[WorkerId, tuple[int, int | None]] = {}
        self._resting: set[WorkerId] = set()

    def claim(self, worker: WorkerId, step: Step, serial: int, batch_count: int) -> int | None:
        """The worker's `serial`-th claim of the step, from 0; asked again after a lost reply: the same answer."""
        self._turn_to(worker, step, batch_count)
        last, answer = self._answers.get(worker, (-1, None))
        if serial == last:
            return answer
        if serial != last + 1:
            raise PartInvalid(f"{worker} makes claim {serial} after claim {last}")
        answer = self._next if self._next < self._batch_count else None
        self._next += answer is not None
        self._answers[worker] = (serial, answer)
        return answer

    def rest(self, worker: WorkerId, step: Step, batch_count: int) -> frozenset[WorkerId]:
        """The worker claims nothing more in this step. All who said so, if there is something left to claim."""
        self._turn_to(worker, step, batch_count)
        self._resting.add(worker)
        return frozenset(self._resting if self._next < self._batch_count else ())

    def _turn_to(self, worker: WorkerId, step: Step, batch_count: int) -> None:
        if step < self._step:
            raise PartInvalid(f"{worker} claims work of step {step} in step {self._step}")
        if step > self._step:
            self._step, self._next, self._answers, self._batch_count = step, 0, {}, batch_count
            self._resting = set()
        if batch_count != self._batch_count:
            found = self._batch_count
            raise PartInvalid(f"{worker} claims one of {batch_count} micro-batches, step {step} has {found}")


def decide(ballots: Mapping[WorkerId, Ballot]) -> Verdict:
    """The verdict of a full set of ballots."""
    for worker, ballot in sorted(ballots.items()):
        if not ballot.ok:
            return Verdict(commit=False, reason=ballot.reason or f"{worker} could not finish the step")
        if not (math.isfinite(ballot.norm_squared) and math.isfinite(ballot.loss_sum)):
            return Verdict(commit=False, reason=f"{worker} reports a loss or gradient norm that is NaN or infinite")
    counts = {ballot.batch_count for ballot in ballots.values()}
    indices = sorted(index for ballot in ballots.values() for index in ballot.batches.indices)
    if len(counts) != 1 or indices != list(range(counts.pop())):
        return Verdict(commit=False, reason=f"the micro-batches computed, {indices}, are not all of them once")
    # Sums in worker order, so that the verdict does not depend on who voted first.
    ordered = [ballots[worker] for worker in sorted(ballots)]
    return Verdict(
        commit=True,
        norm_squared=math.fsum(ballot.norm_squared for ballot in ordered),
        loss_sum=math.fsum(ballot.loss_sum for ballot in ordered),
        tokens=sum(ballot.batches.tokens for ballot in ordered),
        ready=min(ballot.ready for ballot in ordered),
        late=any(ballot.late for ballot in ordered),
        keep=all(ballot.keep for ballot in ordered),
    )


class BallotBox:
    """Collects ballots until a verdict is possible: all in, or one that is not ok."""

    def __init__(self, changes: Changes, voters: frozenset[WorkerId]) -> None:
        self._changes = changes
        self._voters = voters
        self._ballots: dict[tuple[Step, Purpose], dict[WorkerId, Ballot]] = {}
        self._verdicts: dict[tuple[Step, Purpose], Verdict] = {}

    async def vote(self, worker: WorkerId, step: Step, ballot: Ballot) -> Verdict:
        key = (step, ballot.purpose)
        if key not in self._verdicts:
            cast = self._ballots.setdefault(key, {})
            if cast.setdefault(worker, ballot) != ballot:
                raise PartInvalid(f"{worker} votes twice, differently, on {ballot.purpose} {step}")
            if len(cast) == len(self._voters) or not ballot.ok:
                self._verdicts[key] = decide(cast)
                self._forget(step)
                self._changes.happened()
        await self._changes.until(lambda: key in self._verdicts)
        return self._verdicts[key]

    def _forget(self, step: Step) -> None:
        for table in (self._ballots, self._verdicts):
            for key in [key for key in table if key[0] < step - KEPT_STEPS]:
                del table[key]
