"""Which checkpoints of a run in rounds are still, on disk, what their manifests say.

A checkpoint may be the same file as an anchor, so what damages one damages both. Whoever starts from a checkpoint reads
its slice: one that is damaged is not offered any more, as soon as there is another way into the run.
"""

import hashlib
import logging
from pathlib import Path

from legion.checkpoint.storage import PIECE_BYTES
from legion.messages import SliceRef
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.rounds import Rounds
from legion_server.service.coordinator import Coordinator
from legion_server.service.slices import SliceFiles
from legion_server.service.threads import in_own_thread

logger = logging.getLogger(__name__)

Signature = tuple[int, int, int] | None  # inode, size, time of the last change; None: there is no such file


class Soundness:
    """For the follower, whose anchors are remade of checkpoints and the other way round."""

    def __init__(self, coordinator: Coordinator, files: SliceFiles) -> None:
        self._coordinator = coordinator
        self._files = files
        self._damaged: dict[int, Signature] = {}  # by step: what the file was when it was found so
        self._doubted: set[str] = set()  # folder names of checkpoints that were looked at because of the assembler

    def round_of(self, checkpoint: Checkpoint) -> int:
        """The number of the anchor that it is."""
        return -(-checkpoint.step // self._coordinator.run.config.rounds.steps)

    def path(self, checkpoint: Checkpoint) -> Path:
        (ref,) = checkpoint.manifest.slices
        return self._files.slice(checkpoint, ref.rank, ref.sha256)

    def is_listed(self, step: int) -> bool:
        """And not known to be damaged."""
        return step in self._coordinator.state.checkpoints and step not in self._damaged

    def has_start(self, rounds: Rounds) -> bool:
        """Whether somebody who joins can get to the newest anchor."""
        return rounds.first_record == 0 or any(c.step not in self._damaged for c in self._useful(rounds))

    async def newest_whole(self, rounds: Rounds) -> Checkpoint | None:
        """The newest whose file is whole and whose round the log goes on from; those that are not are noted, once."""
        found, damaged = None, 0
        for checkpoint in self._useful(rounds):
            step, path, (ref,) = checkpoint.step, self.path(checkpoint), checkpoint.manifest.slices
            signature = await in_own_thread(lambda: _signature(path), "follower")  # noqa: B023 - awaited at once
            if step in self._damaged and self._damaged[step] == signature:
                continue
            if await in_own_thread(lambda: is_whole(path, ref), "follower"):  # noqa: B023 - awaited at once
                self._damaged.pop(step, None)
                self._offer_again(checkpoint)
                found = checkpoint
                break
            self._damaged[step] = signature
            damaged += 1
            logger.error("checkpoint damaged step=%d path=%s sha256=%s", step, path, ref.sha256[:12])
        if damaged:
            await self._count(damaged)
        return found

    def is_in_doubt(self) -> bool:
        """Whether the assembler has given one up that nobody has looked at since."""
        complete = [c.folder_name for c in self._coordinator.state.checkpoints.values() if c.complete]
        found = self._coordinator.given_up.intersection(complete) - self._doubted
        self._doubted |= found
        return bool(found)

    async def suspect(self, checkpoint: Checkpoint) -> None:
        """Its file is what its manifest says, but not what the log gives."""
        path = self.path(checkpoint)
        self._damaged[checkpoint.step] = await in_own_thread(lambda: _signature(path), "follower")
        logger.error("checkpoint strays from the log step=%d path=%s", checkpoint.step, path)
        await self._count(1)

    def mended(self, checkpoint: Checkpoint) -> None:
        """Its file was written again."""
        self._damaged.pop(checkpoint.step, None)
        self._offer_again(checkpoint)

    async def forget_damaged(self) -> None:
        """They are listed no longer, and their files go. Only where `has_start`."""
        if not self._damaged:
            return
        async with self._coordinator.deciding() as draft:
            for step in self._damaged:
                draft.checkpoints.pop(step, None)
        self._damaged.clear()

    def _offer_again(self, checkpoint: Checkpoint) -> None:
        """It is worth another try of the assembler, if that was in doubt."""
        if checkpoint.folder_name in self._doubted:
            self._coordinator.given_up.discard(checkpoint.folder_name)
            self._coordinator.checkpoint_done.set()

    def _useful(self, rounds: Rounds) -> list[Checkpoint]:
        """Complete ones that the log goes on from, the newest first."""
        complete = (c for c in self._coordinator.state.checkpoints.values() if c.complete)
        useful = (c for c in complete if self.round_of(c) >= rounds.first_record)
        return sorted(useful, key=lambda checkpoint: checkpoint.step, reverse=True)

    async def _count(self, damaged: int) -> None:
        async with self._coordinator.deciding() as draft:
            if draft.rounds is not None:
                draft.rounds = draft.rounds.counted(checkpoints_damaged=damaged)


def _signature(path: Path) -> Signature:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def is_whole(path: Path, ref: SliceRef) -> bool:
    """Whether its bytes can be read, and are those that `ref` names."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(PIECE_BYTES):
                digest.update(data)
    except OSError as error:
        logger.warning("checkpoint cannot be read path=%s reason=%s", path, error.strerror)
        return False
    return digest.hexdigest() == ref.sha256
