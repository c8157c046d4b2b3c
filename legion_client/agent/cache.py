"""Downloaded files named by their SHA-256: what lies here under its name has been checked, always as a whole.

A download is resumed where it stopped: the bytes so far lie in `<sha256>.part`.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from legion.errors import FingerprintMismatch, StorageFailed

logger = logging.getLogger(__name__)

PART = ".part"
Download = Callable[[int], AsyncIterator[bytes]]  # the bytes of a file from an offset on


class Cache:
    """A flat folder of files; deleting it costs a download, nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def make_room(self, wanted: Mapping[str, int], most_bytes: int | None, spare_bytes: int | None) -> int | None:
        """Makes these files (sizes by hash) fit: others are deleted, the longest unused first.

        None when they do; else nothing is deleted, and it is what they would add.

        `most_bytes`: that all files may take. `spare_bytes`: that they may grow by, as the disk has no more.
        """
        with _storing(self.folder):
            here = {path: path.stat() for path in self.folder.iterdir()} if self.folder.exists() else {}
            others = [path for path in here if path.name.removesuffix(PART) not in wanted]
            held = sum(found.st_size for found in here.values())
            of_others = sum(here[path].st_size for path in others)
            missing = max(0, sum(wanted.values()) - (held - of_others))
            most = held + missing if most_bytes is None else most_bytes
            spare = missing if spare_bytes is None else spare_bytes
            if held - of_others + missing > most or missing > spare + of_others:
                return missing
            for path in sorted(others, key=lambda path: here[path].st_mtime):
                if held + missing <= most and missing <= spare:
                    break
                path.unlink(missing_ok=True)
                held, spare = held - here[path].st_size, spare + here[path].st_size
                logger.info("pruned from the cache file=%s size_bytes=%d", path.name, here[path].st_size)
        return None

    async def fetch(self, sha256: str, download: Download) -> Path:
        """The file with this hash: the one here if it is intact, else downloaded.

        FingerprintMismatch when a download that began at the first byte still has another hash.
        """
        path = self.path(sha256)
        with _storing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and await asyncio.to_thread(file_sha256, path) == sha256:
                os.utime(path)  # used: see make_room
                return path
            path.unlink(missing_ok=True)
            part = path.with_suffix(PART)
            resumed = part.exists()
            found = await _complete(part, download)
            if found != sha256 and resumed:
                logger.warning("resumed download is damaged, starting over file=%s", sha256)
                part.unlink()
                found = await _complete(part, download)
            if found != sha256:
                part.unlink()
                raise FingerprintMismatch(f"the server's file {sha256} has other content than its name says")
            part.replace(path)
        return path


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _complete(part: Path, download: Download) -> str:
    """Append what is missing; the hash of the whole."""
    with part.open("ab") as file:
        async for chunk in download(file.tell()):
            file.write(chunk)
    return await asyncio.to_thread(file_sha256, part)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{path} cannot be stored: {error.strerror or error}") from error
