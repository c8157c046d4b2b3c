"""Which workers of a run in rounds form a cluster, and whether a cluster is still there. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from legion.config import RunConfig
from legion.ids import ClusterId, Epoch, RunId, WorkerId
from legion.messages import ModelShape, Plan
from legion_server.domain import clustering
from legion_server.domain import plan as plans
from legion_server.domain.cost import Candidate, Job, nominal_speed
from legion_server.domain.departures import departure, own_words
from legion_server.domain.links import Link, Pair
from legion_server.domain.membership import Worker

Workers = Mapping[WorkerId, Worker]
MEASURING_S = 60.0  # that workers wait for the links among them to be measured, before some may have to stay without


def found(
    config: RunConfig, ready: Sequence[Worker], known: Mapping[Pair, Link], now: float, standing: Sequence[Plan] = ()
) -> list[list[Worker]]:
    """The clusters that these free workers form now, each of one model, by worker id."""
    if config.cluster.policy == "auto":
        return measured_groups(config, ready, known, now)
    return groups(ready, config.cluster.size or 1)


def measured_groups(
    config: RunConfig, ready: Sequence[Worker], known: Mapping[Pair, Link], now: float
) -> list[list[Worker]]:
    """By `clustering.decide`. Workers that have to share wait for links to be measured, though not for long."""
    agreeing = plans.agreeing(ready)
    if not agreeing:
        return []
    job, by_id = job_of(config, agreeing[0]), {worker.worker_id: worker for worker in agreeing}
    candidates = [candidate(job, worker) for worker in agreeing]
    groups = clustering.groups_of(job, candidates, known)
    unknown = clustering.hardly_measured(job, candidates, known)
    since = [at for worker in unknown if (at := by_id[worker].ready_at) is not None]
    longest_s = now - min(since, default=now) if unknown else MEASURING_S
    chosen = [group for group in groups if len(group) == 1 or longest_s >= MEASURING_S]
    return [[by_id[worker] for worker in group] for group in chosen]


def job_of(config: RunConfig, worker: Worker) -> Job:
    assert worker.shape is not None  # of candidates
    return Job(config, worker.shape.sizes)


def candidate(job: Job, worker: Worker, tokens_per_s: float | None = None) -> Candidate:
    """`tokens_per_s`: as measured, if it was."""
    place = worker.endpoint
    return Candidate(
        worker.worker_id,
        worker.label,
        worker.hardware.memory_bytes,
        worker.share,
        tokens_per_s or nominal_speed(worker.hardware, job.total),
        is_measured=bool(tokens_per_s),
        relay=f"{place.host}:{place.port}" if place is not None and place.relayed else None,
    )


def cluster_id(epoch: Epoch) -> ClusterId:
    """A cluster lives as long as its plan: its name follows from the plan's epoch."""
    return ClusterId(f"c{epoch}")


def groups(ready: Sequence[Worker], size: int) -> list[list[Worker]]:
    """Whole clusters of workers that built the same model, by worker id; a rest smaller than the size waits."""
    agreeing = plans.agreeing(ready)
    return [agreeing[start : start + size] for start in range(0, len(agreeing) - size + 1, size)]


def free(workers: Iterable[Worker], clusters: Sequence[Plan], digest: str, shape: ModelShape | None) -> list[Worker]:
    """Workers that are ready and in no cluster, ordered by id. `shape`: of the run's model, once it is known."""
    taken = {member.worker_id for plan in clusters for member in plan.members}
    ready = plans.candidates(workers, digest)
    return [w for w in ready if w.worker_id not in taken and shape in (None, w.shape)]


def form(
    run_id: RunId, config: RunConfig, epoch: Epoch, round_number: int, first_step: int, members: Sequence[Worker]
) -> Plan:
    """A cluster's plan, from `round_number` on. ConfigInvalid when these members cannot share the model."""
    plan = plans.make_plan(run_id, config, epoch, first_step, members)
    return plan.model_copy(update={"cluster": cluster_id(epoch), "round": round_number})


def loss(plan: Plan, workers: Workers) -> str | None:
    """Why the cluster is gone, the cause rather than its consequences; None while it is there."""
    for member in plan.members:
        worker = workers.get(member.worker_id)
        reason = departure(worker, plan.epoch)
        if reason is None and worker is not None and worker.state == "ready" and worker.endpoint != member.endpoint:
            reason = "was started anew"  # before it had heard of the plan
        if reason is None and worker is not None and _left_behind(plan, worker):
            reason = "ended before it had heard of the plan that takes another's place"
        if reason is not None:
            return f"{_label(member.worker_id, workers)} {reason}"
    for member in plan.members:
        worker = workers[member.worker_id]
        if worker.epoch != plan.epoch:
            continue
        if any(other.worker_id == worker.lost_peer for other in plan.members):
            return f"{_label(worker.lost_peer, workers)} does not answer, as {worker.label} reports"
        if worker.failure is not None:
            return f"{worker.label} {own_words(worker)}"
    return None


def _left_behind(plan: Plan, worker: Worker) -> bool:
    if plan.restore is None or worker.epoch == plan.epoch:
        return False
    had = {member.worker_id for member in plan.restore.members}
    return worker.worker_id in had and worker.state in ("joining", "preparing", "ready")


def resting(clusters: Sequence[Plan], workers: Workers) -> tuple[ClusterId, ...]:
    """Clusters that somebody's volunteer has paused: they stay, but a round need not wait for them.

    None where all rest: rounds without anybody's work would follow one another.
    """
    paused = [
        plan.cluster
        for plan in clusters
        if any(workers[m.worker_id].state == "paused" for m in plan.members if m.worker_id in workers)
    ]
    return tuple(paused) if len(paused) < len(clusters) else ()


def _label(worker_id: WorkerId | None, workers: Workers) -> str:
    worker = workers.get(worker_id) if worker_id else None
    return worker.label if worker else str(worker_id)
