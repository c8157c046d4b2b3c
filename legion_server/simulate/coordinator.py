"""The server of a simulation: the domain's own decisions on virtual time, without database, REST and sockets.

What `legion_server.service` does around the domain, saving and publishing, is left out; nothing is decided here.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from legion.comm.waiting import Changes
from legion.config import RunConfig
from legion.errors import RunError
from legion.ids import Epoch, Rank, RunId, WorkerId
from legion.layout import Layout
from legion.messages import HEARTBEAT_S, Hardware, Heartbeat, HeartbeatReply, Plan
from legion.reports import StepRecord
from legion.rounds import RootReport, RoundPlan, RoundRecord, SpanReport
from legion.sim.storage import Storage
from legion_server.domain import averaging, membership, roots, span_reports
from legion_server.domain import rounds as rd
from legion_server.domain.membership import Worker
from legion_server.domain.rounds import Rounds
from legion_server.domain.runs import Run, Stored

RUN: Final = RunId("run-simulated")
TICK_S: Final = 1.0
SHORT_ROUND_S: Final = 120.0  # as the service: below, heartbeats are as frequent as while waiting
WAITING_HEARTBEAT_S: Final = 5.0
MOST_RECORDS: Final = 64  # in one answer
STUCK_ROUNDS: Final = 20.0  # in deadlines: nothing was committed for so long
HARDWARE: Final = Hardware(os="simulated", cpu_count=1, memory_bytes=2**50, free_disk_bytes=0, legion_version="")

Committed = Callable[[RoundRecord], None]
Published = Callable[[RoundPlan], None]


class Coordinator:
    """See `sim.computer.Server`. `serve` before use."""

    def __init__(self, config: RunConfig, storage: Storage, committed: Committed, published: Published) -> None:
        self._clock = asyncio.get_running_loop().time
        self._storage = storage
        self._committed = committed
        self._published = published
        self._workers: dict[WorkerId, Worker] = {}
        self._records: list[RoundRecord] = []
        self._plans: dict[int, RoundPlan] = {}
        self._text_bytes: dict[int, int] = {}  # of plans and records, by identity of their round
        self._progress_at = 0.0
        self.run = Run(RUN, config)
        self.rounds: Rounds | None = None
        self.mismatches = 0
        self.events = 0
        self.changes = Changes()

    @property
    def over(self) -> bool:
        return self.run.phase in ("finishing", "complete", "failed")

    async def serve(self) -> None:
        """Until the run is over: notice what happens by time passing."""
        while not self.over:
            lost, _ = membership.expire(self._workers, self._clock())
            self._workers |= {worker.worker_id: worker for worker in lost}
            self._settle()
            patience_s = STUCK_ROUNDS * self.run.config.rounds.deadline_s
            if self._clock() - self._progress_at > patience_s:
                raise RunError(
                    f"no round was committed in {patience_s:,.0f} s; {self._terms_raised} terms were raised",
                    hint="The links are too slow for the deadline: try another codec, or a larger rounds.deadline_s.",
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self.changes.until(lambda: self.over)
        if self.run.failure is not None:
            raise RunError(self.run.failure.message)

    def enrol(self, worker: WorkerId) -> None:
        now = self._clock()
        self._workers[worker] = Worker(worker, f"simulated {worker[-4:]}", HARDWARE, "", now, now, float("inf"))

    @property
    def _terms_raised(self) -> int:
        return self.rounds.counters.terms_raised if self.rounds else 0

    # From workers.

    def heard(self, worker: WorkerId, beat: Heartbeat) -> HeartbeatReply:
        self._workers[worker], _ = membership.heard(self._workers[worker], beat, self._clock())
        self._settle()
        round_plan = self.rounds.plan if self.rounds else None
        return HeartbeatReply(
            phase=self.run.phase,
            epoch=self.run.epoch_for(self._workers[worker]),
            interval_s=self._interval_s,
            round=round_plan.round if round_plan else -1,
            revision=round_plan.revision if round_plan else 0,
            gone=rd.gone(round_plan, self.run.clusters),
        )

    @property
    def _interval_s(self) -> float:
        short = self.rounds is not None and (self.rounds.round_s or 0.0) < SHORT_ROUND_S
        return WAITING_HEARTBEAT_S if self.run.phase == "waiting" or short else HEARTBEAT_S

    def goodbye(self, worker: WorkerId) -> None:
        self._workers[worker], _ = membership.leave(self._workers[worker], self._clock())
        self._settle()

    def plan_of(self, worker: WorkerId) -> Plan | None:
        return self.run.plan_of(worker)

    def page(self, since: int) -> tuple[Sequence[RoundPlan], Sequence[RoundRecord], int]:
        records = self._records[since : since + MOST_RECORDS]
        last = records[-1].round + 1 if records else since
        plans = [self._plans[number] for number in range(since, last + 1) if number in self._plans]
        return plans, records, sum(map(self._size, plans)) + sum(map(self._size, records))

    def _size(self, one: RoundPlan | RoundRecord) -> int:
        """Of its text; made once, for a plan of 100 workers is long."""
        key = 2 * one.round + isinstance(one, RoundPlan)
        if key not in self._text_bytes:
            self._text_bytes[key] = len(one.model_dump_json())
        return self._text_bytes[key]

    def steps_done(self, worker: WorkerId, epoch: Epoch, steps: Sequence[StepRecord]) -> None:
        plan = self.run.plan_of(worker)
        if plan is None or plan.epoch != epoch or plan.members[0].worker_id != worker or self.rounds is None:
            return
        tokens, took_s = sum(r.step_tokens for r in steps), sum(r.step_s for r in steps)
        self.rounds = rd.measured(self.rounds, plan.cluster, tokens, took_s)

    def reduced(self, worker: WorkerId, report: SpanReport) -> None:
        rounds = self._begun
        if report.round < rounds.committed and self._is_committed(worker, report):
            return
        verdict = span_reports.accept(rounds, self.run.config, worker, report)
        self.rounds = verdict.rounds
        self._settle()
        if verdict.refusal is not None:
            raise verdict.refusal

    def _is_committed(self, worker: WorkerId, report: SpanReport) -> bool:
        span = self._records[report.round].spans[report.span]
        return (span.digest, span.term, span.reducer) == (report.digest, report.term, worker)

    def uploaded(self, sha256: str) -> None:
        self.rounds = rd.stored(self._begun, sha256)
        self._settle()

    def applied(self, worker: WorkerId, report: RootReport) -> None:
        plan = self.run.plan_of(worker)
        if plan is None or plan.cluster != report.cluster:
            return
        layout = Layout(plan.shape.sizes, tuple(member.share for member in plan.members))
        reference = self._storage.root_of(report.round, layout, Rank(report.rank))
        verdict = roots.compared(self._begun, worker, report, reference, self._clock())
        self.rounds = verdict.rounds
        self.mismatches += verdict.agrees is False
        self._settle()

    @property
    def _begun(self) -> Rounds:
        if self.rounds is None:
            raise RunError("the run has not begun")
        return self.rounds

    # Decisions.

    def _settle(self) -> None:
        """Let the run react to what changed."""
        before = (self.run.phase, self.rounds.plan if self.rounds else None)
        moment = averaging.tick(self.run, self.rounds, self._workers, self._clock(), self._stored)
        self.run, self.rounds = moment.run, moment.rounds
        self._workers |= {worker.worker_id: worker for worker in moment.heard_anew}
        if moment.record is not None:
            self._commit(moment.record)
        plan = self.rounds.plan if self.rounds else None
        if plan is not None and plan is not before[1]:
            self._plans[plan.round] = plan
            self._text_bytes.pop(2 * plan.round + 1, None)
            if plan.revision == 0:
                self._published(plan)
        if moment.happenings or self.run.phase != before[0]:
            self.events += 1
            self.changes.happened()

    def _commit(self, record: RoundRecord) -> None:
        self._records.append(record)
        self._progress_at = self._clock()
        self._storage.follow(record)
        self.rounds = roots.known(self._begun, self._storage.round, self._storage.root)
        self._committed(record)

    @property
    def _stored(self) -> Stored:
        """Checkpoints are there as soon as the updates up to them are."""
        if self.rounds is None:
            return Stored()
        complete = min((a.round for a in self.rounds.awaited.values()), default=self.rounds.committed)
        return Stored(newest_complete=rd.step_at(self.run.config, self._storage.checkpoint(complete)))
