"""Updates in storage, each named by its SHA-256: there whole, or not at all. Behind fsspec: a folder, S3, GCS ...

What arrives is written to a local file first, hashed on the way, and enters the storage in one operation. What was
found damaged is deleted only while it is the same file: somebody may have put a whole one in its place meanwhile.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import fsspec
from fsspec.implementations.local import LocalFileSystem

from legion.checkpoint.storage import sync_folder
from legion.errors import LegionError, NotFound, ReportInvalid, StorageFailed, Unusable
from legion_server.service import uploads

T = TypeVar("T")
PIECE_BYTES = 2**20  # read at a time
PART = ".part"
_PASSWORD = re.compile(r"://[^/@\s]*@")  # some stores take keys in their URLs


class Damaged(Exception):
    """What was in storage was not what its name says, and is no longer there. For callers of `fetch` alone."""


class Blobs:
    """`url`: where blobs lie, as fsspec names places; `staging_dir`: a local folder for what is on its way in.

    `owner`: a folder of this server's own in a place that others may use too: each deletes what it does not know.
    """

    def __init__(self, url: str, staging_dir: Path, owner: str = "") -> None:
        self._staging_dir = staging_dir
        try:
            # Without its cache of listings, which would not see what others stored.
            self._storage, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ValueError, ImportError, OSError) as error:
            said = _PASSWORD.sub("://", f"{url} cannot be used for blobs: {error}")
            raise Unusable(said, hint="Set LEGION_BLOBS_URL.") from error
        self._root = f"{root}".rstrip("/") + (f"/{owner}" if owner else "")
        self._is_local = isinstance(self._storage, LocalFileSystem)
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by name

    async def sweep(self) -> None:
        """What a killed process left of uploads."""

        def parts() -> None:
            for path in self._staging_dir.glob(f"*{PART}"):
                path.unlink(missing_ok=True)

        await self._stored(parts, "parts of uploads")

    async def receive(self, sha256: str, size_bytes: int, body: AsyncIterator[bytes]) -> None:
        """Store an upload. ReportInvalid when it has another size or hash; StorageFailed."""
        part = self._staging_dir / f"{sha256}.{os.urandom(4).hex()}{PART}"
        try:
            found = await self._write(part, size_bytes, body)
            if found != sha256:
                raise ReportInvalid(f"the blob {sha256[:12]} arrived with SHA-256 {found[:12]}", hint="Send it again.")
            async with self._lock(sha256):
                await self._stored(lambda: self._enter(part, sha256), sha256)
        except OSError as error:
            raise StorageFailed(f"blob {sha256[:12]} cannot be stored: {error.strerror or error}") from error
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)

    async def size(self, sha256: str) -> int | None:
        """In bytes; None where there is no such blob."""

        def look() -> int | None:
            try:
                return int(self._storage.info(self._path(sha256))["size"])
            except FileNotFoundError:
                return None

        return await self._stored(look, sha256)

    async def read(self, sha256: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes [start, stop), in pieces. NotFound where there is no such blob."""
        file = await self._stored(lambda: self._open(sha256), sha256)
        try:
            await self._stored(lambda: file.seek(start), sha256)
            left = stop - start
            while left > 0:
                size = min(left, PIECE_BYTES)
                data = await self._stored(partial(file.read, size), sha256)
                if not data:
                    raise StorageFailed(f"blob {sha256[:12]} ends {left} bytes early")
                left -= len(data)
                yield data
        finally:
            await asyncio.to_thread(file.close)

    async def names(self) -> list[str]:
        """Of all blobs."""

        def listed() -> list[str]:
            try:
                found = self._storage.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
            return sorted(name for path in found if _is_digest(name := str(path).rsplit("/", 1)[-1]))

        return await self._stored(listed, "the list of blobs")

    async def version(self, sha256: str) -> str:
        """Changes when the blob is stored anew. NotFound."""

        def look() -> str:
            try:
                return str(self._storage.ukey(self._path(sha256)))
            except FileNotFoundError as error:
                raise _absent(sha256) from error

        return await self._stored(look, sha256)

    async def delete(self, sha256: str) -> None:
        """Gone, or gone before."""

        def remove() -> None:
            try:
                self._storage.rm_file(self._path(sha256))
            except FileNotFoundError:
                return

        await self._stored(remove, sha256)

    async def discard(self, sha256: str, version: str) -> bool:
        """Delete what was read as damaged. False where it is gone, or another was stored in its place."""
        async with self._lock(sha256):
            try:
                if await self.version(sha256) != version:
                    return False
            except NotFound:
                return False
            await self.delete(sha256)
            return True

    async def fetch(self, sha256: str, size_bytes: int, target: Path) -> None:
        """A copy in a local file, whole and checked. NotFound; Damaged for what was deleted because of that."""
        version = await self.version(sha256)
        found = await self.size(sha256)
        if found is None:
            raise _absent(sha256)
        digest = hashlib.sha256()

        def add(file: Any, data: bytes) -> None:
            digest.update(data)
            file.write(data)

        part = target.with_name(f"{target.name}{PART}")
        try:
            with part.open("wb") as file:
                async for data in self.read(sha256, 0, found):
                    await asyncio.to_thread(add, file, data)
            if found != size_bytes or digest.hexdigest() != sha256:
                if await self.discard(sha256, version):
                    raise Damaged(f"blob {sha256[:12]} was damaged in storage and is no longer there")
                raise NotFound(f"blob {sha256[:12]} was damaged in storage, and may have been replaced since")
            await asyncio.to_thread(part.replace, target)
        except OSError as error:
            raise StorageFailed(f"{target} could not be written: {error.strerror or error}") from error
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)

    async def _write(self, part: Path, size_bytes: int, body: AsyncIterator[bytes]) -> str:
        too_long = ReportInvalid(f"the blob is longer than the {size_bytes} bytes that were reported")
        written = await uploads.receive(part, body, size_bytes, too_long)
        if written.size_bytes != size_bytes:
            found = written.size_bytes
            raise ReportInvalid(f"the blob has {found} bytes, {size_bytes} were reported", hint="Send it again.")
        return written.sha256

    def _enter(self, part: Path, sha256: str) -> None:
        if self._is_local:
            folder = Path(self._root)
            folder.mkdir(parents=True, exist_ok=True)
            part.replace(folder / sha256)
            sync_folder(folder)
        else:
            self._storage.put_file(str(part), self._path(sha256))

    def _open(self, sha256: str) -> Any:
        try:
            return self._storage.open(self._path(sha256), "rb")
        except FileNotFoundError as error:
            raise _absent(sha256) from error

    def _lock(self, sha256: str) -> asyncio.Lock:
        """Whoever stores this blob, or looks whether to delete it, is the only one to do so."""
        return self._changing.setdefault(sha256, asyncio.Lock())

    def _path(self, sha256: str) -> str:
        return f"{self._root}/{sha256}"

    @staticmethod
    async def _stored(work: Callable[[], T], what: str) -> T:
        """In a thread: storage may be on the other side of a network."""
        try:
            return await asyncio.to_thread(work)
        except LegionError:
            raise
        except Exception as error:
            # Libraries of object stores have their own errors for a host that is away, or keys that are missing.
            said = getattr(error, "strerror", None) or " ".join(_PASSWORD.sub("://", str(error)).split())
            raise StorageFailed(f"storage failed at {what[:12]}: {said or type(error).__name__}") from error


def _absent(sha256: str) -> NotFound:
    return NotFound(f"blob {sha256[:12]} is not in storage")


def _is_digest(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")
