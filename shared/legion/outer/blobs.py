"""Updates that this worker has, as files named by their SHA-256: what lies here under its name has been checked."""

import hashlib
import mmap
import threading
from pathlib import Path
from typing import Final

from legion.checkpoint.storage import new_file
from legion.errors import FingerprintMismatch, StorageFailed

PIECE_BYTES: Final = 1 << 20


class BlobFolder:
    """A flat folder. Blocking: for threads, not for the event loop, but for `path` and `has`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writing = threading.Lock()  # two of one name would write the same unfinished file
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(f"{folder} cannot be used: {error.strerror or error}") from error

    def path(self, sha256: str) -> Path:
        return self._folder / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    def put(self, sha256: str, data: bytes | memoryview) -> Path:
        """Whole or not at all. FingerprintMismatch when it is something else; StorageFailed when the disk is full."""
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise FingerprintMismatch(f"an update came with SHA-256 {found[:12]}, not {sha256[:12]}")
        with self._writing:
            if not self.has(sha256):
                with new_file(self.path(sha256)) as sink:
                    sink.write(data)
        return self.path(sha256)

    def read(self, sha256: str) -> memoryview:
        """Mapped, so that only what is looked at takes memory. StorageFailed when it is gone."""
        try:
            with self.path(sha256).open("rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise StorageFailed(f"{self.path(sha256)} cannot be read: {error}") from error

    def forget(self, sha256: str) -> None:
        """Nobody will ask for it any more; a file that is gone already is fine."""
        try:
            self.path(sha256).unlink(missing_ok=True)
        except OSError as error:
            raise StorageFailed(f"{self.path(sha256)} cannot be removed: {error.strerror}") from error
