"""Updates of all simulated workers in one memory: each blob once, and who has it."""

import hashlib
from pathlib import Path

from legion.errors import FingerprintMismatch, StorageFailed
from legion.outer.blobs import BlobFolder


class Shelves:
    """The bytes, as long as anybody has them."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}
        self._holders: dict[str, int] = {}

    def add(self, sha256: str, data: bytes | memoryview) -> None:
        if sha256 not in self._data:
            found = hashlib.sha256(data).hexdigest()
            if found != sha256:
                raise FingerprintMismatch(f"an update came with SHA-256 {found[:12]}, not {sha256[:12]}")
            self._data[sha256] = bytes(data)
        self._holders[sha256] = self._holders.get(sha256, 0) + 1

    def drop(self, sha256: str) -> None:
        self._holders[sha256] -= 1
        if not self._holders[sha256]:
            del self._holders[sha256], self._data[sha256]

    def read(self, sha256: str) -> bytes:
        return self._data[sha256]


class MemoryBlobs(BlobFolder):
    """One worker's, without a folder: 100 workers' updates would be 100 copies on one disk."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves
        self._mine: set[str] = set()

    def path(self, sha256: str) -> Path:
        raise StorageFailed("simulated updates lie in no file")

    def has(self, sha256: str) -> bool:
        return sha256 in self._mine

    def put(self, sha256: str, data: bytes | memoryview) -> Path:
        """The path leads nowhere."""
        if sha256 not in self._mine:
            self._shelves.add(sha256, data)
            self._mine.add(sha256)
        return Path(sha256)

    def read(self, sha256: str) -> memoryview:
        if sha256 not in self._mine:
            raise StorageFailed(f"update {sha256[:12]} is not here")
        return memoryview(self._shelves.read(sha256))

    def forget(self, sha256: str) -> None:
        if sha256 in self._mine:
            self._mine.remove(sha256)
            self._shelves.drop(sha256)

    def clear(self) -> None:
        """Its owner is gone."""
        for sha256 in sorted(self._mine):
            self.forget(sha256)
