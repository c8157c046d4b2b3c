"""The assembler follows the log like any worker: its anchors are the reference, and some become checkpoints.

Each step can be cut off anywhere: an anchor's file is there whole or not at all, and what follows from it (its root,
its checkpoint) is looked for again after a restart. An anchor that is lost or damaged is made anew: of the newest
checkpoint that is whole, or of theta_0, and the log since.
"""

import asyncio
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from legion.checkpoint.storage import PIECE_BYTES, storing, sync_folder
from legion.config import config_digest
from legion.errors import LegionError, NotFound, PartInvalid, RunError, StorageFailed
from legion.ids import Epoch, Rank
from legion.messages import CheckpointManifest, SliceRef
from legion.rounds import RoundRecord
from legion_server.domain import checkpoints as cp
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.rounds import Rounds, step_at
from legion_server.domain.runs import OVER
from legion_server.service.blobs import Blobs, Damaged
from legion_server.service.coordinator import Coordinator
from legion_server.service.references import References
from legion_server.service.round_log import RoundLog
from legion_server.service.slices import SliceFiles
from legion_server.service.soundness import Soundness
from legion_server.service.threads import in_own_thread

if TYPE_CHECKING:
    from legion.checkpoint.shards import SliceInfo

logger = logging.getLogger(__name__)

T = TypeVar("T")
LOOK_S = 2.0  # until missing updates are looked for again
RETRY_S = 10.0  # after an error of the disk or the database
MOST_DOUBLINGS = 6  # of that, while theta is made anew again and again and is another each time
NO_CLUSTER = Epoch(0)  # of checkpoints that are made of anchors
_NAME = re.compile(r"theta-(\d{8,})\.safetensors")


class Follower:
    """`serve` is its one task; arithmetic and copying run in threads."""

    def __init__(
        self,
        coordinator: Coordinator,
        log: RoundLog,
        blobs: Blobs,
        references: References,
        files: SliceFiles,
        anchors_dir: Path,
    ) -> None:
        self._coordinator = coordinator
        self._log = log
        self._blobs = blobs
        self._references = references
        self._files = files
        self._soundness = Soundness(coordinator, files)
        self._dir = anchors_dir
        self._updates_dir = anchors_dir / "updates"  # local copies, while they are applied
        self._anchor = -1  # number of the newest; -1: not looked for yet
        self._checked = False  # that it is what the log says
        self._origin: Checkpoint | None = None  # what the anchor was restored from
        self._strayed = (-1, 0)  # the last theta that was not what the log says, and how often in succession
        self._told = False  # that there is nothing to begin with
        self.at_work = asyncio.Lock()

    async def serve(self) -> None:
        """Until cancelled."""
        await self._blobs.sweep()
        while True:
            self._coordinator.round_done.clear()
            try:
                async with self.at_work:
                    while await self.step():
                        pass
            except LegionError as error:
                wait_s = RETRY_S * 2 ** min(self._strayed[1], MOST_DOUBLINGS)
                logger.error("the log cannot be followed, trying again in_s=%.0f reason=%s", wait_s, error)
                await asyncio.sleep(wait_s)
            except Exception:
                # Training goes on without us; checkpoints do not.
                logger.exception("following the log failed, trying again in_s=%.0f", RETRY_S)
                await asyncio.sleep(RETRY_S)
            else:
                await self._news(LOOK_S)

    async def _news(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._coordinator.round_done.wait()
        except TimeoutError:
            return

    async def step(self) -> bool:
        """One step forward: whether there may be another. False: everything that is there is done."""
        rounds = self._coordinator.state.rounds
        if rounds is None or self._coordinator.run.phase in OVER:
            self._anchor = -1  # should the run be resumed, everything is looked at again
            return False
        if self._anchor < 0 or self._soundness.is_in_doubt():
            return await self._find(rounds)
        if not self._checked:
            path = self._path(self._anchor)
            await self._reach(self._anchor, lambda: _leaves_of(path))
            return True
        if self._is_checkpoint_due(rounds):
            await self._make_checkpoint(rounds)
            await self._prune()
            return True
        await self._soundness.forget_damaged()
        return self._anchor < rounds.committed and await self._advance(rounds)

    # Anchors.

    async def _find(self, rounds: Rounds) -> bool:
        """The newest anchor in the folder that the log goes on from, else a checkpoint, else theta_0; False: none."""
        await self._look_again()
        found = await self._in_thread(lambda: self._newest(rounds))
        whole = await self._soundness.newest_whole(rounds)
        self._origin = None if found is not None else whole
        if found is None and whole is not None:
            found = await self._restore(whole)
        if found is None and rounds.first_record == 0:
            found = await self._begin(rounds)
        if found is None and not self._told:
            logger.error(
                "the log cannot be followed: it begins with round %d, and neither an anchor nor a checkpoint since is "
                "whole. Nobody can join and no checkpoint is made until a backup of %s is in its place",
                rounds.first_record,
                self._files.slices_dir,
            )
        self._told = found is None
        self._anchor, self._checked = (-1 if found is None else found), False
        return found is not None

    def _newest(self, rounds: Rounds) -> int | None:
        from legion_server.service import anchors  # noqa: PLC0415  brings numpy: not for the start

        names = sorted(self._dir.iterdir()) if self._dir.is_dir() else []
        numbers = [int(match[1]) for path in names if (match := _NAME.fullmatch(path.name))]
        known = sorted((n for n in numbers if rounds.first_record <= n <= rounds.committed), reverse=True)
        usable = (n for n in known if anchors.usable(self._path(n), self._info(n, 0), rounds.shape))
        newest = next(usable, None)
        leftovers = [path for path in names if path.name.endswith(".partial")]
        leftovers += [self._path(n) for n in numbers if n != newest]
        if self._updates_dir.is_dir():
            leftovers += self._updates_dir.iterdir()
        _removed(*leftovers)
        return newest

    async def _begin(self, rounds: Rounds) -> int:
        config, info, path = self._coordinator.run.config, self._info(0, 0), self._path(0)

        def work() -> None:
            from legion_server.service import anchors  # noqa: PLC0415  brings numpy: not for the start

            anchors.begin(path, info, rounds.shape, config)

        await self._in_thread(work)
        return 0

    async def _restore(self, checkpoint: Checkpoint) -> int:
        """A whole checkpoint is an anchor."""
        number, source = self._soundness.round_of(checkpoint), self._soundness.path(checkpoint)
        await self._in_thread(lambda: _placed(source, self._path(number)))
        logger.info("anchor restored from checkpoint step=%d", checkpoint.step)
        return number

    async def _advance(self, rounds: Rounds) -> bool:
        """Whether the next round could be applied; its updates may not be in storage yet."""
        record = await self._log.record(self._anchor)
        if record is None:
            raise StorageFailed(f"the log has no round {self._anchor}, which comes next")
        local = await self._updates(record)
        if local is None:
            return False
        number, config = record.round + 1, self._coordinator.run.config
        source, target = self._path(record.round), self._path(number)
        info = self._info(number, record.total_tokens)

        def work() -> list[bytes]:
            from legion_server.service import anchors  # noqa: PLC0415  brings numpy: not for the start

            return anchors.advance(source, target, info, record, config, local)

        try:
            root = await self._reach(number, work)
        except PartInvalid as error:
            await self._log.broken(record, error)
            raise RunError(f"round {record.round} cannot be applied: {error}") from error
        await self._in_thread(lambda: _removed(source, *local.values()))
        logger.info("round applied round=%d root=%s", record.round, root[:12])
        return True

    async def _reach(self, number: int, leaves: Callable[[], list[bytes]]) -> str:
        """Theta_number becomes the reference, which `leaves` brings about; its root.

        RunError when it was another one before: a file is damaged, or this machine no longer computes what it did.
        Workers must not be judged by that. It is made anew, of the newest checkpoint; of one before that, if it is
        the checkpoint's own.
        """
        known = await self._log.reference_root(number)

        def work() -> str:
            from legion import digest  # noqa: PLC0415  brings numpy: not for the start

            found = leaves()
            root = digest.root(found)
            if known in (None, root):
                self._references.write(number, found)
            return root

        root = await self._in_thread(work)
        if known not in (None, root):
            await self._log.count(replays_differ=1)
            if self._origin is not None and not self._checked:
                await self._soundness.suspect(self._origin)
            times = self._strayed[1] if self._strayed[0] == number else 0
            self._anchor, self._strayed = -1, (number, times + 1)
            await self._in_thread(lambda: _removed(self._path(number), self._path(number - 1)))
            raise RunError(f"theta_{number} was computed again and is another: {root[:12]}, not {str(known)[:12]}")
        await self._log.anchored(number, root)
        self._anchor, self._checked = number, True
        if number >= self._strayed[0]:
            self._strayed = (-1, 0)
        return root

    async def _updates(self, record: RoundRecord) -> dict[str, Path] | None:
        """Local copies of the round's updates; None while one is missing."""
        local: dict[str, Path] = {}
        missing: set[str] = set()
        damaged = 0
        await asyncio.to_thread(self._updates_dir.mkdir, parents=True, exist_ok=True)
        for span in record.spans:
            path = local[span.digest] = self._updates_dir / span.digest
            if path.exists():
                continue
            try:
                await self._blobs.fetch(span.digest, span.size_bytes, path)
            except (NotFound, Damaged) as error:
                missing.add(span.digest)
                damaged += isinstance(error, Damaged)
        if damaged:
            await self._log.count(blobs_damaged=damaged)
        rounds = self._coordinator.state.rounds
        news = missing - rounds.awaited.keys() if rounds is not None else set()
        if news:
            await self._log.missing(record, missing)
        if news or not missing:
            await self._look_again()
        return None if missing else local

    async def _look_again(self) -> None:
        """An update may have come just before it was noted as missing, or before a kill: nobody need bring it again."""
        rounds = self._coordinator.state.rounds
        for digest in rounds.awaited if rounds else ():
            if await self._blobs.size(digest) is not None:
                await self._log.arrived(digest)

    # Checkpoints.

    def _is_checkpoint_due(self, rounds: Rounds) -> bool:
        """In its turn, or because nobody could join without it."""
        config, number = self._coordinator.run.config, self._anchor
        due = number % config.rounds.checkpoint_every == 0 or number == config.round_count
        due = due or not self._soundness.has_start(rounds)
        return number > 0 and due and not self._soundness.is_listed(step_at(config, number))

    async def _make_checkpoint(self, rounds: Rounds) -> None:
        run, path = self._coordinator.run, self._path(self._anchor)
        ref, tokens = await self._in_thread(lambda: _slice_of(path))
        manifest = CheckpointManifest(
            run_id=run.run_id,
            epoch=NO_CLUSTER,
            step=step_at(run.config, self._anchor),
            tokens=tokens,
            shares=(1,),
            shape=rounds.shape,
            config_digest=config_digest(run.config),
            slices=(ref,),
        )
        checkpoint = Checkpoint(manifest)
        await self._in_thread(lambda: _placed(path, self._soundness.path(checkpoint)))
        self._soundness.mended(checkpoint)
        await self._log.add_checkpoint(checkpoint)

    async def _prune(self) -> None:
        """Records that nobody needs any more, and updates that no kept record names."""
        run, rounds = self._coordinator.run, self._coordinator.state.rounds
        newest = cp.newest_complete(self._coordinator.state.checkpoints)
        if rounds is None or newest is None or not self._soundness.is_listed(newest.step):
            return
        before = min(rounds.committed - run.config.rounds.log_keep, self._soundness.round_of(newest), self._anchor)
        if before <= rounds.first_record:
            return
        await self._log.forget(before)
        stored = await self._blobs.names()
        needed = await self._log.named()
        for name in stored:
            if name not in needed:
                await self._blobs.delete(name)

    def _path(self, number: int) -> Path:
        return self._dir / f"theta-{number:08d}.safetensors"

    def _info(self, number: int, tokens: int) -> "SliceInfo":
        from legion.checkpoint.shards import SliceInfo  # noqa: PLC0415  brings numpy: not for the start

        run = self._coordinator.run
        return SliceInfo(
            run_id=run.run_id, step=step_at(run.config, number), rank=Rank(0), epoch=NO_CLUSTER, tokens=tokens
        )

    @staticmethod
    async def _in_thread(work: Callable[[], T]) -> T:
        return await in_own_thread(work, "follower")


def _removed(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _leaves_of(path: Path) -> list[bytes]:
    from legion_server.service import anchors  # noqa: PLC0415  brings numpy: not for the start

    return anchors.leaves_of(path)


def _slice_of(path: Path) -> tuple[SliceRef, int]:
    """What a checkpoint's manifest says of the file, and the tokens it stands for."""
    from legion.checkpoint.shards import read_info  # noqa: PLC0415  brings numpy: not for the start

    info, _ = read_info(path)
    found, size_bytes = hashlib.sha256(), 0
    with storing(path), path.open("rb") as file:
        while data := file.read(PIECE_BYTES):
            found.update(data)
            size_bytes += len(data)
    return SliceRef(rank=info.rank, sha256=found.hexdigest(), size_bytes=size_bytes), info.tokens


def _placed(source: Path, target: Path) -> None:
    """The file at another place as well, whatever is there: the same one where the file system can, else a copy."""
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.part")
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:  # a file system without links, or another one
            shutil.copyfile(source, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(target)
        partial.unlink(missing_ok=True)  # still there where both names were one file before: POSIX renames nothing then
        sync_folder(target.parent)
