"""The only writer: every change is loaded, decided by pure functions, saved, then seen and announced.

Invariant: what callers read was saved before. A change that cannot be saved did not happen.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace

from legion.config import RunConfig
from legion.errors import (
    ConfigLocked,
    LegionError,
    NotFound,
    ProtocolMismatch,
    Refused,
    Unusable,
    WorkerRevoked,
)
from legion.ids import Epoch, Rank, RunId, WorkerId, new_run_id
from legion.messages import PROTOCOL, Hardware, Heartbeat, HeartbeatReply, Plan
from legion.reports import MOST_TEXT, EvaluationRecord, MetricsReport, StepRecord, TextSample
from legion_server.domain import addresses, membership, runs
from legion_server.domain.archive import RunArchive
from legion_server.domain.clock_jumps import Clocks, patient
from legion_server.domain.clusters import resting
from legion_server.domain.happenings import Happening, of_step
from legion_server.domain.joining import awaits_another
from legion_server.domain.links import moved
from legion_server.domain.lost_updates import asked_of
from legion_server.domain.membership import Worker
from legion_server.domain.rounds import gone, measured
from legion_server.domain.runs import Run
from legion_server.domain.silence import heartbeat_s, quiet, quiet_clusters
from legion_server.service.events import Events
from legion_server.service.former_plans import was_member
from legion_server.service.slices import SliceFiles
from legion_server.service.state import Draft, State, begun, following, state_of
from legion_server.store.api import Change, Dataset, Loaded, Store

logger = logging.getLogger(__name__)

Clock = Callable[[], float]  # s since 1970
TICK_S = 1.0


class Coordinator:
    """One run and its workers. `open` before use."""

    def __init__(
        self, store: Store, events: Events, files: SliceFiles, clock: Clock, steady: Clock | None, *, assembling: bool
    ) -> None:
        """`steady`: a clock that only goes forward, to notice jumps of the other; None: it makes none."""
        self._steady = steady or clock
        self._looked: Clocks | None = None
        self._store = store
        self._events = events
        self._files = files
        self._clock = clock
        self._assembling = assembling
        self._state: State | None = None
        self._tokens: dict[str, WorkerId] = {}  # by hash; an entry counts only while the worker still has it
        self._lock = asyncio.Lock()
        self._is_stored = True  # whether the store has the state for sure; if not, the next decision writes all of it
        self._is_doubtful = False  # whether it is not known which of two runs the store has
        self.is_new = False  # whether the store was empty when it was opened
        self.settled = asyncio.Event()  # the run is over, and something of it was saved since: the succession's call
        self.revision = 0  # grows with every saved change: for caches
        self.checkpoint_done = asyncio.Event()  # a checkpoint became complete: the assembler's call
        self.round_done = asyncio.Event()  # a round was committed, or the run resumed: the follower's call
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

    @property
    def now(self) -> float:
        """s since 1970."""
        return self._clock()

    async def open(self) -> None:
        """Load the run, or begin one."""
        loaded, now = await self._store.load(), self._clock()
        run, self.is_new = loaded.run or Run(new_run_id(), RunConfig()), loaded.run is None
        self.see(loaded, run)
        if loaded.run is not None:  # a lost database must not take the files with it
            await asyncio.to_thread(self._files.sweep, loaded.checkpoints)
        else:
            begun = self._events.number([Happening("phase", {"phase": run.phase, "step": 0, "failure": None})], now)
            await self._store.save(Change(run=run, events=begun))
            self._events.publish(begun)
        self.checkpoint_done.set()

    def see(self, loaded: Loaded, run: Run) -> None:
        """What was loaded, for now: also for a server that does not decide, and looks at what the leader saved."""
        self._events.catch_up(loaded.events)
        self._state = state_of(loaded, run, self._clock())
        self._tokens = {worker.token_sha256: worker.worker_id for worker in loaded.workers}
        self.revision += 1

    async def serve(self) -> None:
        """Until cancelled: notice what happens by time passing."""
        while True:
            try:
                await self.tick()
            except LegionError as error:
                logger.error("tick failed reason=%s", error)
            await asyncio.sleep(TICK_S)

    async def tick(self) -> None:
        async with self.deciding() as draft:
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
        async with self.deciding() as draft:
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
            raise WorkerRevoked(worker.excluded or f"worker {worker.label} was removed by the operator")
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
        async with self.deciding() as draft:
            before = self.worker(worker_id)
            worker, happenings = membership.heard(before, membership.of_run(beat, draft.run.run_id), draft.now)
            draft.put(worker)
            draft.links = moved(draft.links, before, worker)
            draft.say(happenings)
        run, rounds = self.run, self.state.rounds
        plan, round_plan = run.plan_of(worker_id), rounds.plan if rounds else None
        unheard = quiet_clusters(run.clusters, quiet(run, rounds, self.state.workers, draft.now))
        passed_over = {*resting(run.clusters, self.state.workers), *unheard} if run.phase != "paused" else set()
        return HeartbeatReply(
            phase=run.phase,
            run_id=run.run_id,
            epoch=run.epoch_for(worker),
            interval_s=heartbeat_s(run, rounds),
            certificate_renewal=membership.renewal_due(worker, self._clock()),
            round=round_plan.round if round_plan else -1,
            revision=round_plan.revision if round_plan else 0,
            gone=(*gone(round_plan, run.clusters), *sorted(passed_over)),
            regroup=plan is not None
            and awaits_another(plan, run, self.state.workers, rounds, self.state.links, self._clock()),
            found=addresses.found(plan, beat, self.state.workers),
            wanted=asked_of(rounds, run, worker_id, self._clock()) if rounds else (),
        )

    async def leave(self, worker_id: WorkerId) -> None:
        async with self.deciding() as draft:
            worker, happenings = membership.leave(self.worker(worker_id), draft.now)
            draft.put(worker)
            draft.say(happenings)
        logger.info("worker left worker=%s", worker_id)

    async def revoke(self, worker_id: WorkerId) -> None:
        async with self.deciding() as draft:
            worker, happenings = membership.revoke(self.worker(worker_id))
            draft.put(worker)
            draft.say(happenings)
        logger.warning("worker revoked worker=%s", worker_id)

    async def erase(self, workers: Collection[WorkerId]) -> None:
        """Revoke them, and forget what they said of themselves."""
        async with self.deciding() as draft:
            for worker_id in workers:
                known = draft.workers.get(worker_id)
                if known is not None:
                    worker, happenings = membership.erase(known)
                    draft.put(worker)
                    draft.say(happenings)
        logger.info("workers erased workers=%d", len(workers))

    async def renewed(self, worker_id: WorkerId, certificate_until: float) -> None:
        async with self.deciding() as draft:
            draft.put(replace(self.worker(worker_id), certificate_until=certificate_until))

    # The run.

    async def configure(self, config: RunConfig, dataset: Dataset | None) -> None:
        """ConfigLocked once the run has started. A run that failed before it started gets another chance."""
        async with self.deciding() as draft:
            check_unlocked(draft.run)
            draft.run = replace(draft.run, config=config)
            draft.dataset = dataset
            if draft.run.phase == "failed":
                draft.run, happenings = runs.resume(draft.run, 0)
                draft.say(happenings)
            draft.say([Happening("config")])
        logger.info("configuration changed")

    def plan_for(self, worker_id: WorkerId | None) -> Plan:
        """The plan, for its members and (None) for admins. NotFound before there is one, Refused for others.

        In a run with rounds every worker has its own cluster's, and there is none for admins.
        """
        run = self.run
        if run.plan is None and (worker_id is None or not run.clusters):
            hint = "Ask again when a heartbeat names its epoch."
            if run.clusters:
                hint = "The run has clusters with a plan each: GET /training/rounds/plan."
            raise NotFound(f"the run is {run.phase}, there is no plan", hint=hint)
        plan = run.plan if worker_id is None else run.plan_of(worker_id)
        if plan is None:
            raise Refused("this worker is not a member of the plan", hint="Wait: it may be a member of the next one.")
        return plan

    async def report(self, worker_id: WorkerId, report: MetricsReport) -> None:
        """Reports of a plan that was given up are dropped. All members tell of the same steps."""
        if rank_in(self.run, worker_id, report.epoch) is None:
            await self._report_late(worker_id, report)
            return
        async with self.deciding() as draft:
            plan = draft.run.plan_of(worker_id)
            if plan is None or plan.epoch != report.epoch:
                return  # since a moment ago: what is lost tells of that moment
            first, last = plan.first_step, draft.run.config.steps
            steps = tuple(sorted((r for r in report.steps if first < r.step <= last), key=_step))
            evaluations = tuple(sorted((e for e in report.evaluations if first < e.step <= last), key=_step))
            speaks = plan.members[0].worker_id == worker_id  # for the cluster
            reached = max((draft.run.step, *(r.step for r in steps)))
            samples = tuple(_shown(s) for s in report.samples if speaks and first < s.step <= reached)
            counted = {"steps": steps, "evaluations": evaluations, "samples": samples}
            draft.report = (worker_id, report.model_copy(update=counted))
            if draft.rounds is not None and speaks:
                tokens, took_s = sum(r.step_tokens for r in steps), sum(r.step_s for r in steps)
                draft.rounds = measured(draft.rounds, plan.cluster, tokens, took_s)
            for record in steps:
                if record.step > draft.run.step:
                    draft.run = replace(draft.run, step=record.step)
                    draft.say([of_step(record)])
            for evaluation in evaluations:
                if evaluation.step > draft.run.evaluated:
                    draft.run = replace(draft.run, evaluated=evaluation.step)
                    draft.say([Happening("evaluation", evaluation.model_dump())])

    async def _report_late(self, worker_id: WorkerId, report: MetricsReport) -> None:
        """Of a plan that is past: for the curves; nobody's speed, and no news."""
        async with self.deciding() as draft:
            config, last = draft.run.config, draft.run.config.steps
            if not await was_member(self._store, draft.rounds, config.rounds.steps, worker_id, report):
                logger.info("late metrics dropped worker=%s epoch=%d", worker_id, report.epoch)
                return
            steps = tuple(record for record in report.steps if 0 < record.step <= last)
            evaluations = tuple(record for record in report.evaluations if 0 < record.step <= last)
            kept = {"steps": steps, "evaluations": evaluations, "samples": ()}
            draft.report = (worker_id, report.model_copy(update=kept))

    # How a change is made.

    @asynccontextmanager
    async def deciding(self) -> AsyncIterator[Draft]:
        """One decision: what the block changes of the draft is saved, and announced, when it ends without an error."""
        async with self._lock:
            await self._clear_doubt()
            draft = Draft(*self._at_this_moment())
            yield draft
            phase = self.run.phase
            draft.settle(assembling=self._assembling)
            change = draft.change(self._events, whole=not self._is_stored)
            if change is not None:
                await self._save(change)
            self._state = draft.after
            if change is not None:
                self.revision += 1
                self._events.publish(change.events)
                if change.records:
                    self.round_done.set()
            if self.run.phase != phase:
                why = f" reason={self.run.failure.message}" if self.run.failure else ""
                logger.info("run phase=%s step=%d epoch=%d%s", self.run.phase, self.run.step, self.run.epoch, why)
            if self.run.phase in runs.OVER:
                self.settled.set()
            for checkpoint in draft.dropped:
                await asyncio.to_thread(self._files.remove, checkpoint)

    async def succeed(self, archive: RunArchive, run_id: RunId, config: RunConfig, dataset: Dataset) -> None:
        """The run that `archive` tells of is over, and another takes its place: as a whole, or not at all.

        Who is enrolled stays so, and says anew what it is.
        """
        async with self._lock:
            await self._clear_doubt()
            before = self.state
            if before.run.run_id != archive.run_id:
                return  # by what seemed to have failed
            after = following(before, run_id, config, dataset)
            change = begun(after, archive, self._events, self._clock())
            self._is_doubtful = True
            await self._store.save(change)
            self._is_doubtful, self._is_stored = False, True
            self._state = after
            self.given_up.clear()
            self.revision += 1
            self._events.publish(change.events)

    async def _clear_doubt(self) -> None:
        """Which run the store has, if that of another could not be saved for sure."""
        if self._is_doubtful:
            loaded = await self._store.load()
            assert loaded.run is not None
            if loaded.run.run_id != self.run.run_id:
                self.see(loaded, loaded.run)
                self._is_stored = True
            self._is_doubtful = False

    def _at_this_moment(self) -> tuple[State, float]:
        """The state, with new patience for everybody if the clock has jumped; and the time, in s since 1970."""
        state, now = self.state, Clocks(self._clock(), self._steady())
        before, self._looked = self._looked, now
        if before is not None and (by_s := now.jump_s(before)):
            logger.warning("clock jumped, everybody gets new patience by_s=%.0f", by_s)
            run, workers, rounds = patient(state.run, state.workers, state.rounds, now.wall_s)
            state = self._state = replace(state, run=run, workers=workers, rounds=rounds)
        return state, now.wall_s

    async def _save(self, change: Change) -> None:
        self._is_stored = False  # an error, or being cut off, says nothing of what the store has
        await self._store.save(change)
        self._is_stored = True


def rank_in(run: Run, worker_id: WorkerId, epoch: Epoch) -> Rank | None:
    """The worker's rank in the plan of this epoch; None when it is no member of it, or the plan is past."""
    plan = run.plan_of(worker_id)
    return run.rank_of(worker_id) if plan is not None and plan.epoch == epoch else None


def check_protocol(protocol: int) -> None:
    if protocol != PROTOCOL:
        raise ProtocolMismatch(f"the client speaks protocol {protocol}, this server {PROTOCOL}")


def check_unlocked(run: Run) -> None:
    if run.started:
        raise ConfigLocked(f"run {run.run_id} is {run.phase}: its configuration can no longer change")


def _shown(sample: TextSample) -> TextSample:
    return sample.model_copy(update={"text": membership.printable(sample.text, MOST_TEXT, but="\n\t")})


def _step(record: StepRecord | EvaluationRecord) -> int:
    return record.step
