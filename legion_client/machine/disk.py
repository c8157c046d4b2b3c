"""Space on the disk of our home folder, and how much of it is ours."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from legion_client.machine.sensing import Clock

# A folder with many files is counted in slices, so that counting costs 0.1 % of a core and never holds up the others.
SLICE_S = 0.01
REST_S = 300.0
ENTRIES_A_LOOK = 64


@dataclass(frozen=True, slots=True)
class Space:
    free_bytes: int
    total_bytes: int
    used_bytes: int | None = None  # None until everything was counted once


class Disk:
    def __init__(self, folder: Path, clock: Clock = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._used: int | None = None
        self._sizes: Iterator[int] | None = None
        self._counted = 0
        self._rested_since: float | None = None

    def read(self) -> Space | None:
        self._count()
        usage = shutil.disk_usage(_existing(self._folder))
        return Space(usage.free, usage.total, self._used)

    def _count(self) -> None:
        began = self._clock()
        if self._sizes is None:
            if self._rested_since is not None and began - self._rested_since < REST_S:
                return
            self._sizes, self._counted = sizes(self._folder), 0
        for number, size in enumerate(self._sizes, start=1):
            self._counted += size
            if number % ENTRIES_A_LOOK == 0 and self._clock() - began >= SLICE_S:
                return
        self._used, self._sizes, self._rested_since = self._counted, None, began


def sizes(folder: Path) -> Iterator[int]:
    """Bytes that each file takes up below the folder, links not followed; what vanishes meanwhile is left out."""
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    yield _size(entry, folders)
        except OSError:
            continue


def _size(entry: "os.DirEntry[str]", folders: list[str]) -> int:
    try:
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
            return 0
        stat = entry.stat(follow_symlinks=False)
    except OSError:
        return 0
    # A file with holes, as a cache that is filled bit by bit, takes up less than its length.
    blocks = getattr(stat, "st_blocks", None)
    return stat.st_size if blocks is None else int(blocks) * 512


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
