"""Joins the slices of complete checkpoints into folders that transformers loads, one after another."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from legion.errors import CheckpointInvalid, LegionError, StorageFailed
from legion_server.domain.checkpoints import Checkpoint
from legion_server.service.checkpoints import Checkpoints
from legion_server.service.coordinator import Coordinator
from legion_server.service.slices import SliceFiles
from legion_server.service.soundness import is_whole
from legion_server.service.threads import in_own_thread

if TYPE_CHECKING:
    from legion.checkpoint.assemble import Assembled

logger = logging.getLogger(__name__)

RETRY_S = 10.0  # until what the database did not take is offered to it again


class Assembler:
    """`serve` is its one task; the byte copying runs in a thread."""

    def __init__(self, coordinator: Coordinator, checkpoints: Checkpoints, files: SliceFiles, blobs_dir: Path) -> None:
        self._coordinator = coordinator
        self._checkpoints = checkpoints
        self._files = files
        self._blobs_dir = blobs_dir
        self.at_work = asyncio.Lock()
        self._damaged: set[str] = set()  # folder names of what the follower may make anew

    async def serve(self) -> None:
        """Until cancelled."""
        while True:
            await self._coordinator.checkpoint_done.wait()
            self._coordinator.checkpoint_done.clear()
            async with self.at_work:
                while checkpoint := self._next():
                    await self._assemble(checkpoint)

    def _next(self) -> Checkpoint | None:
        waiting = (
            c
            for c in self._coordinator.state.checkpoints.values()
            if c.complete and not c.assembled and c.folder_name not in self._coordinator.given_up
        )
        return min(waiting, key=lambda checkpoint: checkpoint.step, default=None)

    async def _assemble(self, checkpoint: Checkpoint) -> None:
        try:
            done = await in_own_thread(lambda: self._joined(checkpoint), "assemble")
        except LegionError as error:
            logger.error("checkpoint cannot be assembled step=%d reason=%s", checkpoint.step, error)
            if (
                isinstance(error, CheckpointInvalid)
                and self._coordinator.run.config.in_rounds
                and self._is_first(checkpoint)
            ):
                self._coordinator.given_up.add(checkpoint.folder_name)
                self._coordinator.round_done.set()
                return
            await _recorded(partial(self._checkpoints.assembly_failed, checkpoint, error))
        except Exception as error:
            logger.exception("assembler failed step=%d", checkpoint.step)
            named = LegionError(f"{type(error).__name__}: {error}")
            await _recorded(partial(self._checkpoints.assembly_failed, checkpoint, named))
        else:
            await _recorded(partial(self._checkpoints.assembled, checkpoint, done.weights_digest, done.files))

    def _is_first(self, checkpoint: Checkpoint) -> bool:
        """Whether nothing was wrong with it before."""
        was_damaged = checkpoint.folder_name in self._damaged
        self._damaged.add(checkpoint.folder_name)
        return not was_damaged

    def _joined(self, checkpoint: Checkpoint) -> "Assembled":
        from legion.checkpoint.assemble import assemble  # noqa: PLC0415  brings numpy: not for the start

        dataset = self._coordinator.state.dataset
        if dataset is None:
            raise StorageFailed("the run's dataset is not known any more")
        slices = {ref.rank: self._files.slice(checkpoint, ref.rank, ref.sha256) for ref in checkpoint.manifest.slices}
        for ref in checkpoint.manifest.slices:
            if not is_whole(slices[ref.rank], ref):
                raise CheckpointInvalid(f"{slices[ref.rank]} is damaged: it is not what its manifest names")
        return assemble(
            checkpoint.manifest,
            slices,
            self._coordinator.run.config,
            dataset.manifest.vocab_size,
            self._blobs_dir / dataset.manifest.tokenizer_sha256,
            dataset.manifest.end_of_text,
            self._files.folder(checkpoint.step),
        )


async def _recorded(record: Callable[[], Awaitable[None]]) -> None:
    """Returns once it is saved, however long the disk is full: a checkpoint is assembled once, and the server lives."""
    while True:
        try:
            await record()
        except LegionError as error:
            logger.error("checkpoint not recorded, trying again in_s=%.0f reason=%s", RETRY_S, error)
            await asyncio.sleep(RETRY_S)
        else:
            return
