"""A member's restore points: written between two steps, copied to the next member, read back by who is left."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from legion.checkpoint.copies import CopyLink, PointFolder, PointName
from legion.codec.api import Floats
from legion.comm.api import Work
from legion.comm.bridge import Bridge, DoneWork
from legion.errors import CheckpointInvalid, LegionError, StorageFailed
from legion.ids import Epoch, Rank, Step, WorkerId
from legion.messages import KeptPoint, Restore
from legion.outer.contribution import Waiting
from legion.outer.reshard import Files
from legion.outer.state import StateFile, StateInfo, of_file, opened, write_state

logger = logging.getLogger(__name__)

# Of a volunteer's disk, over time, beyond what replaces itself before the system writes it.
WEAR_BYTES_PER_S: Final = 4_000_000
FREE_BYTES: Final = 64 << 20
READ_BYTES: Final = 4 << 20  # asked of another member at a time


class Points:
    """Of one member of one plan. `take` on the compute thread, between two steps; the rest from any thread."""

    def __init__(
        self,
        folder: PointFolder,
        epoch: Epoch,
        rank: Rank,
        next_member: CopyLink | None,
        bridge: Bridge,
        every: int,
        back_to: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`next_member`: None where all others are lost.

        `back_to` is told the oldest anchor that a point which may still be of use stands on.
        """
        self._folder = folder
        self.epoch = epoch
        self._rank = rank
        self._next = next_member
        self._bridge = bridge
        self._every = every
        self._back_to = back_to
        self._clock = clock
        self._copying: Work[None] = DoneWork(None)
        self._taken = Step(-1)  # no point of this plan yet
        self._anchor = -1  # of that point
        self._taken_at_s = clock()
        self._size_bytes = 0
        self._steps = 0  # since then
        self._disk_failed = False

    def stepped(self) -> None:
        self._steps += 1

    @property
    def may_keep(self) -> bool:
        """Another one: the last is whole here and with the next member, and it is polite to the disk."""
        worn_s = max(0, 2 * self._size_bytes - FREE_BYTES) / WEAR_BYTES_PER_S
        is_time = self._steps + 1 >= self._every and self._clock() - self._taken_at_s >= worn_s
        if self._disk_failed or not (self._taken < 0 or is_time):
            return False
        return self._copying.done() and self._is_copied()

    def _is_copied(self) -> bool:
        try:
            self._copying.wait()
        except LegionError:
            return False
        return True

    def take(self, info: StateInfo, slices: Mapping[str, Floats], waiting: Sequence[Waiting]) -> None:
        """Every member takes the same one: so the one before is whole on all disks, and what is older goes.

        A disk that takes no point stops nobody: it is said, and there will be no more of them.
        """
        assert info.standing is not None
        started = self._clock()
        name = PointName(self.epoch, info.standing.step, self._rank)
        if self._taken >= 0:
            self._folder.forget_before(self.epoch, self._taken)
        try:
            self._folder.make()
            written = write_state(self._folder.path(name), info, slices, waiting, lasting=False)
        except StorageFailed as error:
            logger.warning("restore point not kept step=%d reason=%s", name.step, error)
            self._disk_failed = True
            return
        if self._anchor >= 0:
            self._back_to(self._anchor)
        self._anchor, self._taken, self._steps = info.anchor, name.step, 0
        self._taken_at_s = self._clock()
        self._size_bytes = written.size_bytes
        if self._next is not None:
            self._copying = self._bridge.submit(self._next.keep(self._folder, name))
        took_s = self._taken_at_s - started
        logger.info("restore point step=%d size_bytes=%d took_s=%.3f", name.step, written.size_bytes, took_s)


def held(folder: PointFolder) -> tuple[KeptPoint, ...]:
    """What the folder has, for the coordinator; the oldest first."""
    found: dict[tuple[Epoch, Step, int], list[int]] = {}
    for name in folder.held():
        with opened(folder.path(name)) as file:
            found.setdefault((name.epoch, name.step, file.info.anchor), []).append(name.rank)
    return tuple(
        KeptPoint(epoch=epoch, step=step, anchor=anchor, ranks=tuple(ranks))
        for (epoch, step, anchor), ranks in found.items()
    )


@contextlib.contextmanager
def restored_files(
    folder: PointFolder, restore: Restore, me: WorkerId, others: Mapping[WorkerId, CopyLink], bridge: Bridge
) -> Iterator[Files]:
    """The files of all members of the former plan: from our disk, or from another member as they are read."""
    with contextlib.ExitStack() as open_files:
        files: dict[Rank, StateFile] = {}
        for number, holders in enumerate(restore.holders):
            name = PointName(restore.epoch, Step(restore.step), Rank(number))
            if folder.path(name).exists():
                files[name.rank] = open_files.enter_context(opened(folder.path(name)))
                files[name.rank].check()
                continue
            there = [others[holder] for holder in holders if holder != me and holder in others]
            if not there:
                raise CheckpointInvalid(f"no member of the plan has restore point {name.file_name}")
            files[name.rank] = of_file(Path(name.file_name), _RemoteFile(there[0], name, bridge))
        yield files


class _RemoteFile:
    """One that another member has; see `state.Source`."""

    def __init__(self, holder: CopyLink, name: PointName, bridge: Bridge) -> None:
        self._holder = holder
        self._name = name
        self._bridge = bridge
        self._at = 0

    def seek(self, offset: int, /) -> int:
        self._at = offset
        return offset

    def read(self, size: int, /) -> bytes:
        data = self._bridge.submit(self._holder.read(self._name, self._at, min(size, READ_BYTES))).wait()
        self._at += len(data)
        return data
