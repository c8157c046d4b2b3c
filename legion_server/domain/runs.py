"""The life of a run. Pure: `tick` takes state and time and gives the next state with what is to be announced.

waiting -> training -> finishing -> complete
   ^          |            |
   +--paused--+-----+------+
   |                v
   +---resume--- failed

The operator may have a run pause while it waits or trains, and stop it at any time before it is over (`steering`).

A member that leaves because its volunteer pauses it fails no run: once all members have let go of the plan, the run
waits, and goes on from its newest complete checkpoint, which they make of the last step that all of them did.

A run whose last checkpoint has all its slices resumes to finishing: nothing is left but to assemble it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from legion.config import RunConfig, config_digest
from legion.errors import ConfigInvalid
from legion.ids import ClusterId, Epoch, Rank, RunId, WorkerId
from legion.messages import Member, Plan, RunPhase
from legion_server.domain import plan as plans
from legion_server.domain.departures import REPORTED_ONLY, Workers, departure, own_words
from legion_server.domain.happenings import Happening
from legion_server.domain.membership import NO_EPOCH, Worker

OVER: frozenset[RunPhase] = frozenset({"complete", "failed", "stopped"})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run ended: for admins and the orchestrator, and without names for everybody else."""

    message: str
    public: str
    blamed: WorkerId | None = None
    hearsay: bool = False  # others say so; the blamed worker's own words are better


@dataclass(frozen=True, slots=True)
class Run:
    """`step` counts committed steps; `epoch` is the newest plan's, as before the run until its first."""

    run_id: RunId
    config: RunConfig
    phase: RunPhase = "waiting"
    epoch: Epoch = NO_EPOCH
    plan: Plan | None = None
    first_step: int = 0  # of the next plan, or of this one
    step: int = 0
    ready_since: float | None = None  # when the first worker was ready
    failure: Failure | None = None
    evaluated: int = 0  # the newest evaluation's step
    before: Epoch = NO_EPOCH  # the newest plan's of the runs before this one
    begun_at: float | None = None  # s since 1970; the first plan's
    ended_at: float | None = None
    clusters: tuple[Plan, ...] = ()  # of a run in rounds: those that are there, each with its own plan; `plan` is None
    breaking: Mapping[ClusterId, float] = field(default_factory=dict)  # since when a member is missed; not stored
    regrouping: Mapping[Epoch, frozenset[WorkerId]] = field(
        default_factory=dict
    )  # by plan: its next members; not stored

    @property
    def started(self) -> bool:
        return self.epoch > self.before

    def plan_of(self, worker: WorkerId) -> Plan | None:
        """The newest plan that the worker is a member of: the run's, or its cluster's."""
        plans = self.clusters if self.plan is None else (self.plan,)
        return next((plan for plan in plans if any(m.worker_id == worker for m in plan.members)), None)

    def epoch_for(self, worker: Worker) -> Epoch:
        """Of the plan that it is to follow; 0: none, also while a plan that it no longer follows has a place for it."""
        plan = self.plan_of(worker.worker_id)
        return NO_EPOCH if plan is None or worker.dropped_epoch == plan.epoch else plan.epoch

    def rank_of(self, worker: WorkerId) -> Rank | None:
        """The worker's rank in its plan, or None when it is no member of any."""
        plan = self.plan_of(worker)
        members = [member.worker_id for member in plan.members] if plan else []
        return Rank(members.index(worker)) if worker in members else None


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of the last checkpoint, and what a resumed run would start from."""

    final_ranks: frozenset[int] = frozenset()
    final_ready: bool = False  # assembled, or complete where nobody assembles
    newest_complete: int = 0  # step; 0: none


Outcome = tuple[Run, list[Happening]]


def timed(run: Run, now: float) -> Run:
    """With the moments in which it began and ended."""
    if run.started and run.begun_at is None:
        run = replace(run, begun_at=now)
    if (run.phase in OVER) is (run.ended_at is None):
        run = replace(run, ended_at=now if run.phase in OVER else None)
    return run


def tick(run: Run, workers: Workers, now: float, stored: Stored) -> Outcome:
    """The run's next state. Calling it again at the same time with its own result changes nothing."""
    if run.phase == "waiting":
        return _start(run, workers, now)
    if run.phase in ("training", "finishing"):
        return _watch(run, workers, stored)
    if run.phase == "paused":
        return _while_paused(run, workers, stored)
    if run.phase == "failed":
        return _inown_words(run, workers, stored), []
    return run, []


def fail(run: Run, failure: Failure) -> Outcome:
    """The run ends here; the first reason stays."""
    if run.phase in OVER:
        return run, []
    after = replace(run, phase="failed", failure=failure)
    return after, [phase_of(after)]


def wanting(run: Run, workers: int) -> Run:
    """The run, to start with this many workers. How many share a model does not change what is trained.

    Clusters become smaller if that many workers cannot form them as they were.
    """
    config = run.config
    if workers == config.start.workers:
        return run
    start = config.start.model_copy(update={"workers": workers})
    cluster = config.cluster
    if cluster.size is not None:
        size = max(size for size in range(1, cluster.size + 1) if workers % size == 0)
        cluster = cluster.model_copy(update={"size": size})
    return replace(run, config=config.model_copy(update={"start": start, "cluster": cluster}))


def resume(run: Run, checkpoint_step: int) -> Outcome:
    """Back to waiting; the next plan starts from the checkpoint (0: from the beginning).

    After the last step there is nothing to plan: the run is finishing, without members.
    """
    after = replace(
        run,
        phase="finishing" if checkpoint_step == run.config.steps else "waiting",
        plan=None,
        clusters=(),
        first_step=checkpoint_step,
        step=checkpoint_step,
        evaluated=min(run.evaluated, checkpoint_step),
        ready_since=None,
        failure=None,
    )
    return after, [phase_of(after)]


def _start(run: Run, workers: Workers, now: float) -> Outcome:
    ready = plans.candidates(workers.values(), config_digest(run.config))
    if not ready:
        return replace(run, ready_since=None), []
    since = now if run.ready_since is None else run.ready_since
    run = replace(run, ready_since=since)
    wanted, waited = run.config.start.workers, now - since >= run.config.start.wait_s
    members = plans.agreeing(ready)
    if len(members) < wanted and not waited:
        # Enough workers that will never agree: waiting on would hide it.
        return fail(run, disagreement(ready)) if len(ready) >= wanted else (run, [])
    epoch = Epoch(run.epoch + 1)
    try:
        plan = plans.make_plan(run.run_id, run.config, epoch, run.first_step, members)
    except ConfigInvalid as error:
        return fail(run, Failure(f"{error}. {error.hint}", f"{error}. {error.hint}"))
    run = replace(run, phase="training", epoch=epoch, plan=plan, step=run.first_step, ready_since=None)
    started = Happening(
        "plan",
        {"epoch": epoch, "members": len(members), "first_step": run.first_step},
        {"worker_ids": [member.worker_id for member in members]},
    )
    return run, [started, phase_of(run)]


def _watch(run: Run, workers: Workers, stored: Stored) -> Outcome:
    if stored.final_ready:
        after = replace(run, phase="complete", step=run.config.steps)
        return after, [phase_of(after)]
    plan = run.plan
    if plan is None:  # resumed after its last step: no worker is needed any more
        return run, []
    failure = loss(run, plan, workers, stored)
    if failure is not None:
        return _paused(run, plan, workers, stored) or fail(run, failure)
    if run.phase == "training" and _all_at_end(run, plan, workers, stored):
        after = replace(run, phase="finishing", step=run.config.steps)
        return after, [phase_of(after)]
    return run, []


def _while_paused(run: Run, workers: Workers, stored: Stored) -> Outcome:
    """Nobody is planned in, and nobody who leaves is missed; what the members had done before they heard of it counts.

    Once all have let go of the plan, the run goes on from its newest complete checkpoint, whenever it does.
    """
    plan = run.plan
    if plan is None:
        return run, []
    if stored.final_ready or _all_at_end(run, plan, workers, stored):
        return _watch(replace(run, phase="training"), workers, stored)
    if any(_follows(workers.get(member.worker_id), plan) for member in plan.members):
        return run, []
    return replace(resume(run, stored.newest_complete)[0], phase="paused"), []


def _all_at_end(run: Run, plan: Plan, workers: Workers, stored: Stored) -> bool:
    return all(_at_end(run, plan, rank, workers, stored) for rank in range(len(plan.members)))


def _paused(run: Run, plan: Plan, workers: Workers, stored: Stored) -> Outcome | None:
    """Where a member has left to rest: waits for the others to leave too, then resumes. None where nobody has."""
    members = [workers.get(member.worker_id) for member in plan.members]
    resting = [w for w in members if w is not None and (w.state == "paused" or w.rested_epoch == plan.epoch)]
    if not resting:
        return None
    never_began = any(plan.epoch not in (worker.epoch, worker.dropped_epoch) for worker in resting)
    if not never_began and any(_follows(worker, plan) for worker in members):
        return run, []
    return resume(run, stored.newest_complete)


def _follows(worker: Worker | None, plan: Plan) -> bool:
    """It still trains by the plan, or brings what it has done of it to us."""
    return worker is not None and worker.failure is None and departure(worker, plan.epoch) is None


def _at_end(run: Run, plan: Plan, rank: int, workers: Workers, stored: Stored) -> bool:
    if rank in stored.final_ranks:
        return True
    worker = workers.get(plan.members[rank].worker_id)
    return worker is not None and worker.epoch == plan.epoch and worker.step >= run.config.steps


def loss(run: Run, plan: Plan, workers: Workers, stored: Stored) -> Failure | None:
    """Why the plan's members can no longer finish, the cause rather than its consequences."""
    needed = [member for rank, member in enumerate(plan.members) if rank not in stored.final_ranks]
    for member in needed:
        reason = departure(workers.get(member.worker_id), plan.epoch)
        if reason is not None:
            return _failure(run, member, workers, reason, stored)
    for member in needed:
        worker = workers[member.worker_id]
        peer = next((m for m in plan.members if m.worker_id == worker.lost_peer), None)
        if worker.epoch == plan.epoch and peer is not None:
            return _failure(run, peer, workers, f"does not answer, as {worker.label} reports", stored, hearsay=True)
        if worker.epoch == plan.epoch and worker.failure is not None:
            return _failure(run, member, workers, own_words(worker), stored)
    return None


def _failure(
    run: Run, member: Member, workers: Workers, reason: str, stored: Stored, *, hearsay: bool = False
) -> Failure:
    worker = workers.get(member.worker_id)
    label = worker.label if worker else member.worker_id
    start = f"step {stored.newest_complete}" if stored.newest_complete else "the beginning"
    what_next = f"at step {run.step}; resume the run from {start} with 'legion-server up --resume'"
    return Failure(
        f"worker {label} {reason}, {what_next}",
        f"a member of the cluster was lost {what_next}",
        member.worker_id,
        hearsay,
    )


def _inown_words(run: Run, workers: Workers, stored: Stored) -> Run:
    """A run failed by hearsay, once the blamed worker has said itself what happened to it."""
    if run.failure is None or not run.failure.hearsay or run.failure.blamed is None or run.plan is None:
        return run
    worker = workers.get(run.failure.blamed)
    rank = run.rank_of(run.failure.blamed)
    if worker is None or rank is None or worker.failure is None or worker.failure.startswith(REPORTED_ONLY):
        return run
    return replace(run, failure=_failure(run, run.plan.members[rank], workers, own_words(worker), stored))


def disagreement(ready: list[Worker]) -> Failure:
    names = ", ".join(worker.label for worker in ready)
    message = "built different models from the same configuration; install the same Legion and transformers on all"
    return Failure(f"workers {names} {message}", f"{len(ready)} workers {message}")


def phase_of(run: Run) -> Happening:
    public = {"phase": run.phase, "step": run.step, "failure": run.failure.public if run.failure else None}
    return Happening("phase", public, {"failure": run.failure.message} if run.failure else {})
