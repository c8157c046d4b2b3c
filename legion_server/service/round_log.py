"""Rounds as workers see them: plans out, reports in, records and updates for whoever follows the log."""

import asyncio
import logging

from legion.errors import LegionError, NotFound, Refused
from legion.ids import ClusterId, Rank, RunId, WorkerId
from legion.layout import Layout
from legion.messages import Plan
from legion.rounds import (
    GlobalVersion,
    Handover,
    RootReport,
    RoundPlan,
    RoundRecord,
    RoundsPage,
    SpanReport,
    Standing,
)
from legion_server.domain import checkpoints as cp
from legion_server.domain import handovers, membership, roots, runs, span_reports
from legion_server.domain import rounds as rd
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.rounds import Rounds
from legion_server.domain.runs import Failure
from legion_server.service.coordinator import Coordinator
from legion_server.service.references import References
from legion_server.service.state import Draft
from legion_server.service.update_index import AT_ONCE, UpdateIndex
from legion_server.store.api import Store

logger = logging.getLogger(__name__)

MOST_RECORDS = 64  # in one answer ...
ENOUGH = 10_000  # ... or inclusions, some 2 MB: heartbeats wait while an answer is made


class RoundLog:
    """Changes go through the coordinator."""

    def __init__(self, coordinator: Coordinator, store: Store, references: References) -> None:
        self._coordinator = coordinator
        self._store = store
        self._references = references
        self._indexes: dict[RunId, UpdateIndex] = {}  # of the run under way

    @property
    def rounds(self) -> Rounds:
        """NotFound in a run without rounds, or before the first."""
        rounds = self._coordinator.state.rounds
        if rounds is None:
            run = self._coordinator.run
            what = f"is {run.phase}, no round has begun" if run.config.in_rounds else "has one cluster and no rounds"
            raise NotFound(f"the run {what}", hint="Ask again when a heartbeat names a round.")
        return rounds

    def plan_for(self, worker_id: WorkerId | None) -> RoundPlan:
        """For members of the run's clusters and (None) admins."""
        plan = self.rounds.plan
        if worker_id is not None and self._coordinator.run.plan_of(worker_id) is None:
            raise Refused("this worker is in no cluster of the run", hint="Get ready, and wait for a plan.")
        if plan is None:
            hint = "All rounds may be committed, or nobody may be there: GET /training/global_version."
            raise NotFound("no round is being trained", hint=hint)
        return plan

    async def report(self, worker_id: WorkerId, report: SpanReport) -> None:
        """From a reducer. RoundConflict, ReportInvalid; what was accepted may come again, also after the commit."""
        known = await self._committed(worker_id, report) if report.round < self.rounds.committed else None
        if known == report.digest:
            return
        async with self._coordinator.deciding() as draft:
            rounds = _rounds(draft)
            if known is None:
                verdict = span_reports.accept(rounds, draft.run.config, worker_id, report)
            else:
                verdict = span_reports.contradiction(rounds, report, known)
            draft.rounds = verdict.rounds
        if verdict.refusal is not None:
            logger.warning(
                "span report refused worker=%s round=%d span=%d reason=%s",
                worker_id,
                report.round,
                report.span,
                verdict.refusal,
            )
            raise verdict.refusal

    async def handover(self, worker_id: WorkerId, handover: Handover) -> None:
        """From a reducer that leaves. RoundConflict, ReportInvalid; it may come again."""
        async with self._coordinator.deciding() as draft:
            verdict = handovers.accept(_rounds(draft), worker_id, handover)
            draft.rounds = verdict.rounds
        if verdict.refusal is not None:
            logger.warning("handover refused worker=%s reason=%s", worker_id, verdict.refusal)
            raise verdict.refusal

    async def _committed(self, worker_id: WorkerId, report: SpanReport) -> str | None:
        """The digest that the log has from this worker for the report's span and term."""
        record = await self.record(report.round)
        if record is None or report.span >= len(record.spans):
            return None
        span = record.spans[report.span]
        return span.digest if (span.term, span.reducer) == (report.term, worker_id) else None

    async def record(self, number: int) -> RoundRecord | None:
        """None when it is not committed, or not kept any more."""
        found = await self._store.records(number, 1) if number < self.rounds.committed else []
        return found[0] if found and found[0].round == number else None

    async def page(self, since: int, limit: int) -> RoundsPage:
        """At most `limit` records, oldest first, and the plans of `since` and of the rounds after each record.

        Fewer of large ones: whoever asks goes on after the last.
        """
        rounds = self._coordinator.state.rounds
        if rounds is None:
            return RoundsPage(first=0, records=())
        records = await self._records(since, min(limit, MOST_RECORDS), rounds.committed)
        last = records[-1].round + 1 if records else since
        plans = await self._store.plans(since, last - since + 1)
        return RoundsPage(
            first=rounds.first_record, records=tuple(records), plans=tuple(plan for plan in plans if plan.round <= last)
        )

    async def _records(self, since: int, limit: int, committed: int) -> list[RoundRecord]:
        found: list[RoundRecord] = []
        inclusions = 0
        while len(found) < limit and inclusions < ENOUGH:
            more = await self._store.records(since, min(AT_ONCE, limit - len(found)))
            more = [record for record in more if record.round < committed]
            if not more:
                break
            found += more
            inclusions += sum(len(span.included) for record in more for span in record.spans)
            since = more[-1].round + 1
        return found

    def version(self, *, private: bool) -> GlobalVersion:
        """Where everybody is; workers' ids only if `private`."""
        state, rounds = self._coordinator.state, self.rounds
        newest = cp.newest_complete(state.checkpoints)
        return GlobalVersion(
            run_id=state.run.run_id,
            round=min(rounds.committed, state.run.config.round_count),
            anchor=rounds.committed,
            root=rounds.root,
            root_round=rounds.anchored if rounds.anchored >= 0 else None,
            checkpoint_round=-(-newest.step // state.run.config.rounds.steps) if newest else None,
            standings=tuple(self._standing(plan, private=private) for plan in state.run.clusters),
        )

    def _standing(self, plan: Plan, *, private: bool) -> Standing:
        """A cluster is where the last of its members is."""
        workers = [self._coordinator.state.workers[member.worker_id] for member in plan.members]
        here = [worker for worker in workers if worker.epoch == plan.epoch]
        return Standing(
            cluster=ClusterId(plan.cluster),
            members=len(plan.members),
            anchor=min((w.anchor for w in here), default=-1) if len(here) == len(workers) else -1,
            steps_ahead=max((w.steps_ahead for w in here), default=0),
            worker_ids=tuple(w.worker_id for w in workers) if private else (),
        )

    # Roots.

    async def root(self, worker_id: WorkerId, report: RootReport) -> bool | None:
        """Whether it is the reference's; None while that is not known. A worker that strays twice is excluded."""
        plan = self._coordinator.run.plan_of(worker_id)
        if plan is None or not _is_of(report, plan) or self._coordinator.run.rank_of(worker_id) != report.rank:
            raise Refused(
                f"this worker does not hold rank {report.rank} of {report.cluster}",
                hint="The run went on without it; its anchor is of no use any more.",
            )
        reference = await self._reference(plan, report)
        async with self._coordinator.deciding() as draft:
            draft.rounds = roots.noticed(_rounds(draft), worker_id, report)
            agrees = _compare(draft, worker_id, report, reference)
        if agrees is False:
            logger.warning("root differs worker=%s round=%d", worker_id, report.round)
        return agrees

    async def _reference(self, plan: Plan, report: RootReport) -> str | None:
        if report.round > self.rounds.anchored:
            return None
        layout = Layout(plan.shape.sizes, tuple(member.share for member in plan.members))
        return await asyncio.to_thread(self._references.root, report.round, layout, Rank(report.rank))

    async def reference_root(self, anchor: int) -> str | None:
        """Of theta_anchor, if it was computed before and is still known."""
        rounds = self.rounds
        if rounds.anchored == anchor:
            return rounds.root
        record = await self.record(anchor - 1) if anchor > 0 else None
        return record.root if record else None

    async def anchored(self, anchor: int, root: str) -> None:
        """The assembler has theta_anchor; its root is the reference, and what workers said of it is compared now."""
        record = await self.record(anchor - 1) if anchor > 0 else None
        async with self._coordinator.deciding() as draft:
            draft.rounds = roots.known(_rounds(draft), anchor, root)
            if record is not None:
                draft.records.append(record.model_copy(update={"root": root}))
        for worker_id, report in roots.due(self.rounds):
            plan = self._coordinator.run.plan_of(worker_id)
            reference = await self._reference(plan, report) if plan and _is_of(report, plan) else None
            async with self._coordinator.deciding() as draft:
                _compare(draft, worker_id, report, reference)

    # Updates in storage.

    def expected(self, worker_id: WorkerId, digest: str) -> int:
        """The size in bytes of the blob that this worker may upload now. Refused.

        Until its round is committed that is for the reducer whose report named it; later, should the storage have lost
        it, for any worker of the run: what arrives is checked against its name.
        """
        rounds = self.rounds
        for turn in rounds.turns:
            report = turn.report
            if report is not None and report.digest == digest and rounds.reducer(report.span) == worker_id:
                return report.size_bytes
        awaited = rounds.awaited.get(digest)
        if awaited is not None and worker_id in (awaited.reducer, *_workers(self._coordinator)):
            return awaited.size_bytes
        raise Refused(
            f"blob {digest[:12]} is not this worker's to upload",
            hint="Only the reducer whose accepted report names a blob uploads it, and only while it is needed.",
        )

    async def arrived(self, digest: str) -> None:
        """It is in storage."""
        async with self._coordinator.deciding() as draft:
            if draft.rounds is not None:
                draft.rounds = rd.stored(draft.rounds, digest)
        self._coordinator.round_done.set()

    async def count(self, **more: int) -> None:
        """Raise these counters."""
        async with self._coordinator.deciding() as draft:
            draft.rounds = _rounds(draft).counted(**more)

    async def missing(self, record: RoundRecord, digests: set[str]) -> None:
        """These updates of a committed round are not in storage, whatever was noted before."""
        async with self._coordinator.deciding() as draft:
            draft.rounds = rd.missing(_rounds(draft), record, digests, draft.now)

    async def lost(self, digest: str, **counted: int) -> bool:
        """Somebody wanted this blob, and storage does not have it. If the log names it, workers are asked for it.

        Whether they were not asked before. It may have come since somebody looked: the caller looks again then.
        """
        if counted:
            await self.count(**counted)
        if digest in self.rounds.awaited or (record := await self._naming(digest)) is None:
            return False
        logger.warning("update lost round=%d sha256=%s", record.round, digest[:12])
        await self.missing(record, {digest})
        return True

    def _named_updates(self) -> UpdateIndex:
        run_id = self._coordinator.run.run_id
        if run_id not in self._indexes:
            self._indexes = {run_id: UpdateIndex(self._store)}
        return self._indexes[run_id]

    async def _naming(self, digest: str) -> RoundRecord | None:
        """The newest record that names this blob."""
        number = (await self._named_updates().rounds_by_digest(self.rounds)).get(digest)
        return None if number is None else await self.record(number)

    # Checkpoints and pruning, for the follower.

    async def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """A complete one, made of an anchor."""
        async with self._coordinator.deciding() as draft:
            draft.checkpoints[checkpoint.step] = checkpoint
            draft.say([cp.announced(checkpoint)])
        self._coordinator.checkpoint_done.set()

    async def named(self) -> set[str]:
        """The digests of all updates that kept records and reports name; of the moment in which it is called."""
        rounds = self.rounds
        reported = {turn.report.digest for turn in rounds.turns if turn.report is not None}
        return reported.union(await self._named_updates().rounds_by_digest(rounds))

    async def broken(self, record: RoundRecord, error: LegionError) -> None:
        """A committed update that nobody can apply ends the run: there is no theta after it."""
        async with self._coordinator.deciding() as draft:
            public = f"round {record.round} cannot be applied: {error}"
            reducers = ", ".join(sorted({span.reducer for span in record.spans}))
            draft.run, happenings = runs.fail(draft.run, Failure(f"{public}; its reducers: {reducers}", public))
            draft.say(happenings)

    async def forget(self, before: int) -> None:
        """Records of earlier rounds go."""
        async with self._coordinator.deciding() as draft:
            rounds = _rounds(draft)
            if before > rounds.first_record:
                draft.rounds = rd.forgotten(rounds, before)
                draft.forget_rounds_before = before


def _compare(draft: Draft, worker_id: WorkerId, report: RootReport, reference: str | None) -> bool | None:
    verdict = roots.compared(_rounds(draft), worker_id, report, reference, draft.now)
    draft.rounds = verdict.rounds
    draft.say(verdict.happenings)
    worker = draft.workers.get(worker_id)
    if verdict.excluded and worker is not None and worker.state != "revoked":
        reason = (
            f"worker {worker.label} was excluded: twice in a day its weights were not what the run's log gives; "
            "its memory, processor or Legion version is suspect"
        )
        worker, happenings = membership.exclude(worker, reason)
        draft.put(worker)
        draft.say(happenings)
    return verdict.agrees


def _is_of(report: RootReport, plan: Plan) -> bool:
    """A cluster that goes on with other members has other ranks."""
    return report.cluster == plan.cluster and report.epoch in (membership.NO_EPOCH, plan.epoch)


def _rounds(draft: Draft) -> Rounds:
    if draft.rounds is None:
        raise NotFound("the run has no rounds yet")
    return draft.rounds


def _workers(coordinator: Coordinator) -> set[WorkerId]:
    return {member.worker_id for plan in coordinator.run.clusters for member in plan.members}
