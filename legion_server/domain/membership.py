"""Who is enrolled and who is here. Pure: state and time in, state and happenings out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from legion.ids import Epoch, RunId, WorkerId, short
from legion.messages import (
    OFFLINE_AFTER_S,
    Broken,
    Endpoint,
    Hardware,
    Heartbeat,
    ModelShape,
    WorkersSummary,
    WorkerState,
    WorkerView,
)
from legion_server.domain.happenings import Happening

LONGEST_SENTENCE = 500  # characters that a worker may say about its failure
RENEW_BEFORE_S = 10 * 86_400  # of a certificate's 30 days
NO_EPOCH = Epoch(0)
AWAY: frozenset[WorkerState] = frozenset({"offline", "revoked"})


@dataclass(frozen=True, slots=True)
class Worker:
    """One enrolled computer, as it last described itself."""

    worker_id: WorkerId
    name: str
    hardware: Hardware
    token_sha256: str
    enrolled_at: float  # s since 1970
    last_seen: float
    certificate_until: float
    state: WorkerState = "joining"
    endpoint: Endpoint | None = None
    shape: ModelShape | None = None
    config_digest: str | None = None
    share: int = 1
    epoch: Epoch = NO_EPOCH
    step: int = 0
    # The newest plan it once followed and no longer does: its process was started anew.
    dropped_epoch: Epoch = NO_EPOCH
    rested_epoch: Epoch = NO_EPOCH  # the newest plan that it left because its volunteer had it rest
    said_goodbye: bool = False
    lost_peer: WorkerId | None = None
    failure: str | None = None
    failure_message: str | None = None
    anchor: int = -1  # newest one it has, in a run with rounds; -1: none
    steps_ahead: int = 0  # since that anchor
    broken: Broken | None = None  # it waits for another plan of its cluster
    excluded: str | None = None  # why it was, if not by the operator
    ready_at: float | None = None  # s since 1970; since when it is ready

    @property
    def label(self) -> str:
        """For people: name and the start of the id."""
        return f"{self.name} ({short(self.worker_id)})"


def heard(worker: Worker, beat: Heartbeat, now: float) -> tuple[Worker, list[Happening]]:
    """The worker after its heartbeat."""
    drops = worker.epoch > beat.epoch
    rested = drops and "paused" in (worker.state, beat.state)
    after = replace(
        worker,
        last_seen=now,
        state=beat.state,
        endpoint=beat.endpoint,
        shape=beat.shape,
        config_digest=beat.config_digest,
        share=beat.share,
        epoch=beat.epoch,
        step=beat.step,
        dropped_epoch=max(worker.epoch if drops else worker.dropped_epoch, beat.left),
        rested_epoch=worker.epoch if rested else worker.rested_epoch,
        said_goodbye=False,
        lost_peer=beat.lost_peer,
        failure=beat.failure,
        anchor=beat.anchor,
        steps_ahead=beat.steps_ahead,
        broken=beat.broken,
        failure_message=printable(beat.failure_message, LONGEST_SENTENCE) if beat.failure_message else None,
        ready_at=None if beat.state != "ready" else worker.ready_at if worker.state == "ready" else now,
    )
    return after, _state_change(worker, after)


def of_run(beat: Heartbeat, run_id: RunId) -> Heartbeat:
    """What it says to this run: of one that tells of another run, only that it is here."""
    if beat.run_id in (None, run_id) or beat.state == "leaving":
        return beat
    return Heartbeat(protocol=beat.protocol, state="joining", run_id=beat.run_id, instance=beat.instance)


def expire(workers: Mapping[WorkerId, Worker], now: float) -> tuple[list[Worker], list[Happening]]:
    """The workers that just went silent for too long, marked offline, and their announcements."""
    silent = [w for w in workers.values() if w.state not in AWAY and now - w.last_seen > OFFLINE_AFTER_S]
    lost = [replace(worker, state="offline", endpoint=None) for worker in silent]
    return lost, [
        Happening("worker_lost", {"silent_s": round(now - w.last_seen)}, {"worker_id": w.worker_id, "name": w.name})
        for w in lost
    ]


def leave(worker: Worker, now: float) -> tuple[Worker, list[Happening]]:
    """The worker said goodbye; its enrolment stays valid."""
    after = replace(worker, state="offline", endpoint=None, last_seen=now, said_goodbye=True)
    return after, _state_change(worker, after)


def revoke(worker: Worker) -> tuple[Worker, list[Happening]]:
    """The operator takes the enrolment back: token and certificate are worth nothing from now on."""
    after = replace(worker, state="revoked", endpoint=None)
    return after, _state_change(worker, after)


def erase(worker: Worker) -> tuple[Worker, list[Happening]]:
    """As if revoked, and nothing is left of what it said of itself: its volunteer wants to be forgotten."""
    after, happenings = revoke(worker)
    blank = Hardware(os="", cpu_count=1, memory_bytes=0, free_disk_bytes=0, legion_version="")
    return replace(after, name="", hardware=blank, shape=None, failure=None, failure_message=None), happenings


def exclude(worker: Worker, reason: str) -> tuple[Worker, list[Happening]]:
    """As if revoked; `reason` is what its user is told."""
    after, happenings = revoke(worker)
    return replace(after, excluded=reason), happenings


def renewal_due(worker: Worker, now: float) -> bool:
    return worker.certificate_until - now < RENEW_BEFORE_S


def view(worker: Worker) -> WorkerView:
    return WorkerView(
        worker_id=worker.worker_id,
        name=worker.name,
        state=worker.state,
        hardware=worker.hardware,
        endpoint=worker.endpoint,
        enrolled_at=worker.enrolled_at,
        last_seen=worker.last_seen,
        epoch=worker.epoch,
        step=worker.step,
        failure=worker.failure_message or worker.failure,
    )


def summary(workers: Mapping[WorkerId, Worker]) -> WorkersSummary:
    counts: dict[WorkerState, int] = {}
    for worker in workers.values():
        counts[worker.state] = counts.get(worker.state, 0) + 1
    return WorkersSummary(total=len(workers), by_state=counts)


def printable(text: str, most: int, *, but: str = "") -> str:
    """What others send ends up in terminals and logs: without control characters `but` these, so one line by itself."""
    return "".join(letter if letter.isprintable() or letter in but else " " for letter in text[:most])


def _state_change(before: Worker, after: Worker) -> list[Happening]:
    if before.state == after.state:
        return []
    return [Happening("worker_state", {"state": after.state}, {"worker_id": after.worker_id, "name": after.name})]
