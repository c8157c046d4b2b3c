"""Why a member of a plan no longer counts as there. Pure."""

from collections.abc import Mapping

from legion.ids import Epoch, WorkerId
from legion.messages import OFFLINE_AFTER_S
from legion_server.domain.membership import Worker

REPORTED_ONLY = "peer"  # slugs of consequences start like this: somebody else is the cause

Workers = Mapping[WorkerId, Worker]


def departure(worker: Worker | None, epoch: Epoch) -> str | None:
    """Why this member of the plan of `epoch` is gone, or None. Failures that only report another's do not count."""
    if worker is None or worker.state == "revoked":
        return "was removed by the operator"
    if worker.epoch == epoch and worker.failure is not None:
        return None if worker.failure.startswith(REPORTED_ONLY) else own_words(worker)
    if worker.said_goodbye or (worker.epoch == epoch and worker.state == "leaving"):
        return "left"
    if worker.state == "paused" and worker.epoch != epoch:
        return "is paused"  # by its volunteer, before it had heard of the plan
    if worker.state == "offline":
        return f"has been silent for {OFFLINE_AFTER_S:.0f} s"
    if worker.dropped_epoch == epoch:
        return "was started anew"
    return None


def own_words(worker: Worker) -> str:
    return f"stopped: {worker.failure_message or worker.failure}"
