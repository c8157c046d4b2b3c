"""Whom to ask for an update that storage has lost: its reducer first, then ever more of the others. Pure.

Workers keep updates for a few rounds after they have applied them. Who of them still has one is not known here, and an
upload of all would come over many home links at once.
"""

import hashlib

from legion.ids import WorkerId
from legion_server.domain.rounds import Awaited, Rounds
from legion_server.domain.runs import Run

PATIENCE_S = 30.0  # with those that were asked; then twice as many are


def asked_of(rounds: Rounds, run: Run, worker: WorkerId, now: float) -> tuple[str, ...]:
    """The digests of the updates that this worker is to upload, if it has them."""
    if not rounds.awaited:
        return ()
    there = [member.worker_id for plan in run.clusters for member in plan.members]
    if worker not in there:
        return ()
    return tuple(sorted(d for d, blob in rounds.awaited.items() if worker in _asked(d, blob, there, now)))


def _asked(digest: str, blob: Awaited, there: list[WorkerId], now: float) -> list[WorkerId]:
    count = 1 << min(20, max(0, int((now - blob.since) / PATIENCE_S)))
    if count >= len(there):
        return there

    def place(worker: WorkerId) -> tuple[bool, bytes]:
        return worker != blob.reducer, hashlib.sha256(f"{digest}{worker}".encode()).digest()

    return sorted(there, key=place)[:count]
