"""The only writer: every change is loaded, decided by pure functions, saved, then seen and announced.

Invariant: what callers read was saved before. A change that cannot be saved did not happen.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from legion.config import RunConfig
from legion.errors import (
    ConfigLocked,
    LegionError,
    NotFound,
    ProtocolMismatch,
    Refused,
    RunError,
    Unusable,
    WorkerRevoked,
)
from legion.ids import Epoch, Rank, WorkerId, new_run_id
from legion.messages import (
    HEARTBEAT_S,
    PROTOCOL,
    EvaluationRecord,
    Hardware,
    Heartbeat,
    HeartbeatReply,
    MetricsReport,
    Plan,
    SliceRef,
    StepRecord,
    StepSummary,
)
from legion_server.domain import checkpoints as cp
from legion_server.domain import membership, runs
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.happenings import Happening
from legion_server.domain.membership import Worker
from legion_server.domain.runs import Failure, Run
from legion_server.service.events import Events
from legion_server.service.slices import SliceFiles
from legion_server.service.state import Draft, State
from legion_server.store.api import Change, Dataset, Store

logger = logging.getLogger(__name__)

Clock = Callable[[], float]  # s since 1970
TICK_S = 1.0
WAITING_HEARTBEAT_S = 5.0  # while a plan may appear at any moment; the event stream is faster, but may be broken


class Coordinator:
    """One run and its workers. `open` before use."""

    def __init__(self, store: Store, events: Events, files: SliceFiles, clock: Clock, *, assembling: bool) -> None:
        self._store = store
        self._events = events
        self._files = files
        self._clock = clock
        self._assembling = assembling
        self._state: State | None = None
        self._tokens: dict[str, WorkerId] = {}  # by hash; an entry counts only while the worker still has it
        self._lock = asyncio.Lock()
        self.revision = 0  # grows with every saved change: for caches
        self.checkpoint_done = asyncio.Event()  # a checkpoint became complete: the assembler's call
        self.given_up: set[str] = set()  # folder names that were not assembled; again after a restart or a resume

    @property
    def state(self) -> State:
        """As saved."""
        if self._state is None:
            raise RuntimeError("the coordinator is not open")
        return self._state

    @property
    def run(self) -> Run:
        return self.state.run

    async def open(self) -> None:
        """Load the run, or begin one. Everybody gets new patience: nobody could be heard while we were away."""
        loaded = await self._store.load()
        self._events.restore(loaded.events)
        now = self._clock()
        run = loaded.run or Run(new_run_id(), RunConfig())
        self._state = State(
            run,
            {worker.worker_id: replace(worker, last_seen=now) for worker in loaded.workers},
            {checkpoint.step: checkpoint for checkpoint in loaded.checkpoints},
            loaded.dataset,
        )
        if loaded.run is not None:  # a lost database must not take the files with it
            await asyncio.to_thread(self._files.sweep, loaded.checkpoints)
        self._tokens = {worker.token_sha256: worker.worker_id for worker in loaded.workers}
        if loaded.run is None:
            begun = self._events.number([Happening("phase", {"phase": run.phase, "step": 0, "failure": None})], now)
            await self._store.save(Change(run=run, events=begun))
            self._events.publish(begun)
        self.checkpoint_done.set()

    async def serve(self) -> None:
        """Until cancelled: notice what happens by time passing."""
        while True:
            try:
                await self.tick()
            except LegionError as error:
                logger.error("tick failed reason=%s", error)
            await asyncio.sleep(TICK_S)

    async def tick(self) -> None:
        async with self._deciding() as draft:
            lost, happenings = membership.expire(draft.workers, draft.now)
            for worker in lost:
                draft.put(worker)
            draft.say(happenings)
        for worker in lost:
            logger.warning("worker lost worker=%s name=%s", worker.worker_id, worker.name)

    # Workers.

    async def enrol(
        self,
        worker_id: WorkerId,
        name: str,
        hardware: Hardware,
        token_sha256: str,
        certificate_until: float,
        *,
        new_invite: bool = True,
    ) -> None:
        """A new worker, or an old one. WorkerRevoked when a revoked one brings an invite that it has used before."""
        async with self._deciding() as draft:
            known = draft.workers.get(worker_id)
            if known is not None and not new_invite:
                self.worker(worker_id)
            worker = Worker(
                worker_id,
                name,
                hardware,
                token_sha256,
                enrolled_at=known.enrolled_at if known else draft.now,
                last_seen=draft.now,
                certificate_until=certificate_until,
                dropped_epoch=known.epoch if known else membership.NO_EPOCH,
            )
            draft.put(worker)
            self._tokens[token_sha256] = worker_id
            draft.say([Happening("worker_joined", {}, {"worker_id": worker_id, "name": name})])
        logger.info("worker enrolled worker=%s name=%s", worker_id, name)

    def worker(self, worker_id: WorkerId) -> Worker:
        """NotFound, or WorkerRevoked."""
        worker = self.state.workers.get(worker_id)
        if worker is None:
            raise NotFound(f"no worker {worker_id} is enrolled here")
        if worker.state == "revoked":
            raise WorkerRevoked(f"worker {worker.label} was removed by the operator")
        return worker

    def worker_by_token(self, token_sha256: str) -> Worker | None:
        """WorkerRevoked when the token was taken back."""
        worker_id = self._tokens.get(token_sha256)
        worker = self.state.workers.get(worker_id) if worker_id else None
        return self.worker(worker.worker_id) if worker and worker.token_sha256 == token_sha256 else None

    async def heartbeat(self, worker_id: WorkerId, beat: Heartbeat) -> HeartbeatReply:
        check_protocol(beat.protocol)
        if beat.state in membership.AWAY:
            raise Unusable(f"a worker that is heard is not {beat.state}", hint="Say leaving, then leave.")
        async with self._deciding() as draft:
            worker, happenings = membership.heard(self.worker(worker_id), beat, draft.now)
            draft.put(worker)
            draft.say(happenings)
        run = self.run
        return HeartbeatReply(
            phase=run.phase,
            epoch=run.epoch if run.rank_of(worker_id) is not None else membership.NO_EPOCH,
            interval_s=WAITING_HEARTBEAT_S if run.phase == "waiting" else HEARTBEAT_S,
            certificate_renewal=membership.renewal_due(worker, self._clock()),
        )

    async def leave(self, worker_id: WorkerId) -> None:
        async with self._deciding() as draft:
            worker, happenings = membership.leave(self.worker(worker_id), draft.now)
            draft.put(worker)
            draft.say(happenings)
        logger.info("worker left worker=%s", worker_id)

    async def revoke(self, worker_id: WorkerId) -> None:
        async with self._deciding() as draft:
            worker, happenings = membership.revoke(self.worker(worker_id))
            draft.put(worker)
            draft.say(happenings)
        logger.warning("worker revoked worker=%s", worker_id)

    async def renewed(self, worker_id: WorkerId, certificate_until: float) -> None:
        async with self._deciding() as draft:
            draft.put(replace(self.worker(worker_id), certificate_until=certificate_until))

    # The run.

    async def configure(self, config: RunConfig, dataset: Dataset | None) -> None:
        """ConfigLocked once the run has started. A run that failed before it started gets another chance."""
        async with self._deciding() as draft:
            check_unlocked(draft.run)
            draft.run = replace(draft.run, config=config)
            draft.dataset = dataset
            if draft.run.phase == "failed":
                draft.run, happenings = runs.resume(draft.run, 0)
                draft.say(happenings)
            draft.say([Happening("config")])
        logger.info("configuration changed")

    def plan_for(self, worker_id: WorkerId | None) -> Plan:
        """The plan, for its members and (None) for admins. NotFound before there is one, Refused for others."""
        plan = self.run.plan
        if worker_id is not None and plan is not None and self.run.rank_of(worker_id) is None:
            raise Refused("this worker is not a member of the plan", hint="Wait: it may be a member of the next one.")
        if plan is None:
            raise NotFound(
                f"the run is {self.run.phase}, there is no plan yet", hint="Ask again when a heartbeat names its epoch."
            )
        return plan

    async def report(self, worker_id: WorkerId, report: MetricsReport) -> None:
        """Reports of an older plan are dropped: what they tell of was given up. All members tell of the same steps."""
        async with self._deciding() as draft:
            if self._rank(draft.run, worker_id, report.epoch) is None:
                logger.info("late metrics dropped worker=%s epoch=%d", worker_id, report.epoch)
                return
            first, last = draft.run.first_step, draft.run.config.steps
            steps = tuple(sorted((r for r in report.steps if first < r.step <= last), key=_step))
            evaluations = tuple(sorted((e for e in report.evaluations if first < e.step <= last), key=_step))
            draft.report = (worker_id, report.model_copy(update={"steps": steps, "evaluations": evaluations}))
            for record in steps:
                if record.step > draft.run.step:
                    draft.run = replace(draft.run, step=record.step)
                    draft.say([Happening("step", summary_of(record).model_dump())])
            for evaluation in evaluations:
                if evaluation.step > draft.run.evaluated:
                    draft.run = replace(draft.run, evaluated=evaluation.step)
                    draft.say([Happening("evaluation", evaluation.model_dump())])

    async def resume(self, workers: int | None = None) -> Run:
        """Back to waiting, from the newest complete checkpoint; who still follows the old plan is no member any more.

        From the last step's checkpoint the run needs no workers, only the assembler, which gets another try.
        `workers`: how many to wait for from now on. RunError when the run is complete.
        """
        async with self._deciding() as draft:
            if draft.run.phase == "complete":
                raise RunError("the run is complete; there is nothing to resume", hint="Start a new run.")
            if workers is not None:
                draft.run = runs.wanting(draft.run, workers)
            if draft.run.phase == "waiting":
                return draft.run
            newest = cp.newest_complete(draft.checkpoints)
            step = newest.step if newest else 0
            draft.run, happenings = runs.resume(draft.run, step)
            draft.superseded_after = step
            for unfinished in [later for later in draft.checkpoints if later > step]:
                del draft.checkpoints[unfinished]
            for worker in draft.workers.values():
                # Whoever still follows the old plan must say so anew; nobody is ready for the next one yet.
                if worker.state not in membership.AWAY:
                    draft.put(replace(worker, state="offline", endpoint=None, shape=None))
            draft.say(happenings)
        logger.info("run resumed from_step=%d", step)
        self.given_up.clear()
        self.checkpoint_done.set()
        return self.run

    # Checkpoints.

    def expect_slice(self, worker_id: WorkerId, step: int, rank: int, epoch: Epoch) -> Plan:
        """The plan in which this worker uploads this slice; Refused when it is not its to upload."""
        run = self.run
        if run.plan is None or self._rank(run, worker_id, epoch) != rank:
            raise Refused(
                f"this worker does not hold rank {rank} in the current plan",
                hint="The run went on without it; its slice is of no use any more.",
            )
        if not run.plan.first_step < step <= run.config.steps:
            raise NotFound(f"this plan has no checkpoint after step {step}")
        return run.plan

    async def add_slice(
        self, worker_id: WorkerId, step: int, rank: int, ref: SliceRef, tokens: int, epoch: Epoch
    ) -> None:
        """The slice lies in its place; CheckpointInvalid when it contradicts the others."""
        async with self._deciding() as draft:
            plan = self.expect_slice(worker_id, step, rank, epoch)  # it may have changed during the upload
            checkpoint = draft.checkpoints.get(step)
            if checkpoint is None or checkpoint.manifest.epoch != plan.epoch:
                checkpoint = cp.begin(draft.run.run_id, plan, step, tokens)
            was_complete = checkpoint.complete
            checkpoint = cp.with_slice(checkpoint, ref, tokens)
            draft.checkpoints[step] = checkpoint
            if checkpoint.complete and not was_complete:
                draft.say([_checkpoint(checkpoint)])
        if checkpoint.complete:
            self.checkpoint_done.set()

    def has_slice(self, checkpoint: Checkpoint, ref: SliceRef) -> bool:
        """Whether this very file is part of the stored checkpoint."""
        known = self.state.checkpoints.get(checkpoint.step)
        return known is not None and known.folder_name == checkpoint.folder_name and known.slice(ref.rank) == ref

    def checkpoint(self, step: int) -> Checkpoint:
        checkpoint = self.state.checkpoints.get(step)
        if checkpoint is None:
            raise NotFound(f"there is no checkpoint after step {step}", hint="GET /checkpoints lists them.")
        return checkpoint

    async def assembled(self, checkpoint: Checkpoint, weights_digest: str, files: tuple[str, ...]) -> None:
        async with self._deciding() as draft:
            known = draft.checkpoints.get(checkpoint.step)
            if known is None or known.folder_name != checkpoint.folder_name:
                return
            done = replace(known, assembled=True, weights_digest=weights_digest, files=files)
            draft.checkpoints[checkpoint.step] = done
            draft.say([_checkpoint(done)])
        logger.info("checkpoint assembled step=%d weights_digest=%s", checkpoint.step, weights_digest)

    async def assembly_failed(self, checkpoint: Checkpoint, error: LegionError) -> None:
        """Without its last checkpoint the run cannot be complete; of an earlier one the slices remain."""
        self.given_up.add(checkpoint.folder_name)
        if checkpoint.step != self.run.config.steps:
            return
        async with self._deciding() as draft:
            message = f"the last checkpoint could not be assembled: {error}. {error.hint}"
            draft.run, happenings = runs.fail(draft.run, Failure(message, "the last checkpoint could not be assembled"))
            draft.say(happenings)

    # How a change is made.

    @asynccontextmanager
    async def _deciding(self) -> AsyncIterator[Draft]:
        async with self._lock:
            draft = Draft(self.state, self._clock())
            yield draft
            phase = self.run.phase
            draft.settle(assembling=self._assembling)
            change = draft.change(self._events)
            if change is not None:
                await self._store.save(change)
            self._state = draft.after
            if change is not None:
                self.revision += 1
                self._events.publish(change.events)
            if self.run.phase != phase:
                why = f" reason={self.run.failure.message}" if self.run.failure else ""
                logger.info("run phase=%s step=%d epoch=%d%s", self.run.phase, self.run.step, self.run.epoch, why)
            for checkpoint in draft.dropped:
                await asyncio.to_thread(self._files.remove, checkpoint)

    @staticmethod
    def _rank(run: Run, worker_id: WorkerId, epoch: Epoch) -> Rank | None:
        return run.rank_of(worker_id) if epoch == run.epoch else None


def check_protocol(protocol: int) -> None:
    if protocol != PROTOCOL:
        raise ProtocolMismatch(f"the client speaks protocol {protocol}, this server {PROTOCOL}")


def check_unlocked(run: Run) -> None:
    if run.started:
        raise ConfigLocked(f"run {run.run_id} is {run.phase}: its configuration can no longer change")


def summary_of(record: StepRecord) -> StepSummary:
    return StepSummary(
        step=record.step,
        loss=record.loss,
        grad_norm=record.grad_norm,
        lr=record.lr,
        tokens=record.step_tokens,
        tokens_per_s=record.step_tokens / record.step_s if record.step_s > 0 else 0.0,
    )


def _step(record: StepRecord | EvaluationRecord) -> int:
    return record.step


def _checkpoint(checkpoint: Checkpoint) -> Happening:
    return Happening(
        "checkpoint",
        {
            "step": checkpoint.step,
            "complete": checkpoint.complete,
            "assembled": checkpoint.assembled,
            "weights_digest": checkpoint.weights_digest,
        },
    )
