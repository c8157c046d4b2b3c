"""Checkpoints as they come: slices of members, complete ones, assembled ones."""

import logging
from dataclasses import replace

from legion.errors import LegionError, NotFound, Refused
from legion.ids import Epoch, WorkerId
from legion.messages import Plan, SliceRef
from legion_server.domain import checkpoints as cp
from legion_server.domain import runs
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.runs import Failure
from legion_server.service.coordinator import Coordinator, rank_in

logger = logging.getLogger(__name__)


class Checkpoints:
    """Changes go through the coordinator."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def expect_slice(self, worker_id: WorkerId, step: int, rank: int, epoch: Epoch) -> Plan:
        """The plan in which this worker uploads this slice; Refused when it is not its to upload."""
        run = self._coordinator.run
        if run.plan is None or rank_in(run, worker_id, epoch) != rank:
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
        async with self._coordinator.deciding() as draft:
            plan = self.expect_slice(worker_id, step, rank, epoch)  # it may have changed during the upload
            checkpoint = draft.checkpoints.get(step)
            if checkpoint is None or checkpoint.manifest.epoch != plan.epoch:
                checkpoint = cp.begin(draft.run.run_id, plan, step, tokens)
            was_complete = checkpoint.complete
            checkpoint = cp.with_slice(checkpoint, ref, tokens)
            draft.checkpoints[step] = checkpoint
            if checkpoint.complete and not was_complete:
                draft.say([cp.announced(checkpoint)])
        if checkpoint.complete:
            self._coordinator.checkpoint_done.set()

    def has_slice(self, checkpoint: Checkpoint, ref: SliceRef) -> bool:
        """Whether this very file is part of the stored checkpoint."""
        known = self._coordinator.state.checkpoints.get(checkpoint.step)
        return known is not None and known.folder_name == checkpoint.folder_name and known.slice(ref.rank) == ref

    def checkpoint(self, step: int) -> Checkpoint:
        checkpoint = self._coordinator.state.checkpoints.get(step)
        if checkpoint is None:
            raise NotFound(f"there is no checkpoint after step {step}", hint="GET /checkpoints lists them.")
        return checkpoint

    async def assembled(self, checkpoint: Checkpoint, weights_digest: str, files: tuple[str, ...]) -> None:
        async with self._coordinator.deciding() as draft:
            known = draft.checkpoints.get(checkpoint.step)
            if known is None or known.folder_name != checkpoint.folder_name:
                return
            done = replace(known, assembled=True, weights_digest=weights_digest, files=files)
            draft.checkpoints[checkpoint.step] = done
            draft.say([cp.announced(done)])
        logger.info("checkpoint assembled step=%d weights_digest=%s", checkpoint.step, weights_digest)

    async def assembly_failed(self, checkpoint: Checkpoint, error: LegionError) -> None:
        """Without its last checkpoint the run cannot be complete; of an earlier one the slices remain."""
        self._coordinator.given_up.add(checkpoint.folder_name)
        if checkpoint.step != self._coordinator.run.config.steps:
            return
        async with self._coordinator.deciding() as draft:
            message = f"the last checkpoint could not be assembled: {error}. {error.hint}"
            draft.run, happenings = runs.fail(draft.run, Failure(message, "the last checkpoint could not be assembled"))
            draft.say(happenings)
