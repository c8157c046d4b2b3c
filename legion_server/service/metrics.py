"""What a run has achieved so far, put together from the store: for /metrics and the status page."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from legion.counters import RoundsView
from legion.ids import RunId, WorkerId
from legion.reports import CreditView, EvaluationRecord, LossCurve, MetricsView, StepSummary, TextSample, WorkerTotals
from legion_server.domain.credit import Accounts
from legion_server.domain.rounds import Rounds, gone
from legion_server.domain.runs import Run
from legion_server.service.coordinator import Coordinator
from legion_server.store.api import Store

RECENT = 100  # steps in an answer that was not asked for more
MOST_STEPS = 10_000  # in one answer; who wants more asks again, from the last one
SPEED_STEPS = 20  # tokens_per_s is their mean


@dataclass(frozen=True, slots=True)
class _Sums:
    revision: int
    tokens: int
    evaluations: tuple[EvaluationRecord, ...]
    workers: tuple[WorkerTotals, ...]
    accounts: Accounts  # by the workers' own records
    sample: TextSample | None


class Metrics:
    """Reads only. Sums over the whole run are kept until something changes: a page may have many readers."""

    def __init__(self, coordinator: Coordinator, store: Store) -> None:
        self._coordinator = coordinator
        self._store = store
        self._sums: _Sums | None = None
        self._credited: tuple[tuple[RunId, int], Accounts] | None = None  # of a run after so many rounds
        self._curves: dict[int, LossCurve] = {}  # by width, of which there are few; without evaluations and sample

    async def view(self, since: int | None, *, private: bool) -> MetricsView:
        """`since`: the next MOST_STEPS after it instead of the tail. Workers and names only if `private`."""
        run, dataset = self._coordinator.run, self._coordinator.state.dataset
        tail = await self._store.summaries(None, RECENT)
        recent = tail if since is None else await self._store.summaries(since, MOST_STEPS)
        failure, sums = run.failure, await self._summed()
        rounds = self._coordinator.state.rounds
        return MetricsView(
            run_id=run.run_id,
            phase=run.phase,
            step=run.step,
            steps=run.config.steps,
            tokens=sums.tokens,
            tokens_per_s=speed(tail[-SPEED_STEPS:]),
            recent=tuple(recent),
            evaluations=sums.evaluations,
            workers=sums.workers if private else (),
            unigram_entropy=dataset.unigram_entropy if dataset else None,
            bigram_entropy=dataset.bigram_entropy if dataset else None,
            failure=(failure.message if private else failure.public) if failure else None,
            rounds=figures(rounds, run) if rounds else None,
        )

    async def credit(self, worker_id: WorkerId) -> CreditView:
        """Without rounds every committed step counts, with what its members say they did of it."""
        run, rounds = self._coordinator.run, self._coordinator.state.rounds
        if not run.config.in_rounds:
            accounts = (await self._summed()).accounts
        else:
            moment = (run.run_id, rounds.committed if rounds else 0)
            if self._credited is None or self._credited[0] != moment:
                self._credited = moment, Accounts(await self._store.credited(run.run_id))
            accounts = self._credited[1]
        found = accounts.of(worker_id)
        return CreditView(run_id=run.run_id, tokens=found.tokens, rank=found.rank, workers=found.accounts)

    async def utilisation(self) -> float | None:
        """The share of their time that workers computed and did not wait for others; None: nobody has done any step."""
        workers = (await self._summed()).workers
        computed_s, waited_s = sum(w.compute_s for w in workers), sum(w.waiting_s for w in workers)
        return computed_s / (computed_s + waited_s) if computed_s + waited_s > 0 else None

    async def _summed(self) -> "_Sums":
        revision = self._coordinator.revision
        if self._sums is None or self._sums.revision != revision:
            tokens, evaluations = await self._store.tokens(), await self._store.evaluations()
            workers, samples = await self._store.totals(), await self._store.samples()
            accounts = Accounts({totals.worker_id: totals.tokens for totals in workers})
            believed = (sample for worker, sample in samples if not self._is_revoked(worker))
            self._sums = _Sums(revision, tokens, tuple(evaluations), tuple(workers), accounts, next(believed, None))
        return self._sums

    def _is_revoked(self, worker_id: WorkerId) -> bool:
        worker = self._coordinator.state.workers.get(worker_id)
        return worker is None or worker.state == "revoked"

    async def curve(self, points: int) -> LossCurve:
        """The whole run in at most `points` buckets, read again when one more may have been filled."""
        run = self._coordinator.run
        width = bucket_width(run.step, points)
        known = self._curves.get(width)
        if known is None or known.run_id != run.run_id or not is_fresh(known, run.step):
            buckets = await self._store.loss_buckets(width)
            known = self._curves[width] = LossCurve(
                run_id=run.run_id, width=width, training=tuple(buckets), validation=()
            )
        sums = await self._summed()
        return known.model_copy(update={"validation": thinned(sums.evaluations, points), "sample": sums.sample})


def bucket_width(steps: int, points: int) -> int:
    """How many steps go together so that `steps` make at most `points` buckets: 1, 2 or 5 times a power of 10.

    Round numbers, so that buckets stay as they are while a run grows.
    """
    width, factors = 1, itertools.cycle((2, 2.5, 2))
    while -(-steps // width) > points:
        width = int(width * next(factors))
    return width


def is_fresh(curve: LossCurve, step: int) -> bool:
    """Whether a curve still tells of a run that is at `step`."""
    last = curve.training[-1].last if curve.training else 0
    return last <= step < last + curve.width


def thinned(records: Sequence[EvaluationRecord], most: int) -> tuple[EvaluationRecord, ...]:
    """Evenly chosen, the first and the newest among them."""
    if len(records) <= most:
        return tuple(records)
    return tuple(records[round(place * (len(records) - 1) / (most - 1))] for place in range(most))


def figures(rounds: Rounds, run: Run) -> RoundsView:
    """For /metrics; of the participants, those that are still there."""
    lost = gone(rounds.plan, run.clusters)
    return RoundsView(
        committed=rounds.committed,
        rounds=run.config.round_count,
        participants=len(rounds.plan.participants) - len(lost) if rounds.plan else 0,
        tokens=rounds.total_tokens,
        round_s=rounds.round_s,
        counters=rounds.counters.model_copy(update={"blobs_missing": len(rounds.awaited)}),
    )


def speed(steps: list[StepSummary]) -> float:
    """Tokens per second over these steps."""
    took_s = sum(step.tokens / step.tokens_per_s for step in steps if step.tokens_per_s > 0)
    return sum(step.tokens for step in steps) / took_s if took_s > 0 else 0.0
