"""Updates of rounds, in and out of storage: what goes wrong with them is counted, and what is lost is asked for."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from legion.errors import ReportInvalid, StorageFailed
from legion.ids import WorkerId
from legion_server.service.blobs import Blobs
from legion_server.service.round_log import RoundLog


class Updates:
    """Between callers and `blobs`."""

    def __init__(self, log: RoundLog, blobs: Blobs) -> None:
        self._log = log
        self._blobs = blobs

    async def receive(self, worker_id: WorkerId, sha256: str, body: AsyncIterator[bytes]) -> None:
        """Store an upload, unless it is there. Refused, ReportInvalid, StorageFailed."""
        async with self._counting():
            if await self._blobs.size(sha256) is None:
                await self._blobs.receive(sha256, self._log.expected(worker_id, sha256), body)
        await self._log.arrived(sha256)

    async def size(self, sha256: str) -> int | None:
        """In bytes; None where there is no such blob, which is asked for if the log names it."""
        async with self._counting():
            found = await self._blobs.size(sha256)
        return await self._lost(sha256) if found is None else found

    async def read(self, sha256: str, size_bytes: int, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes [start, stop), in pieces. The whole is checked on the way; if damaged, it is lost from then on."""
        found = hashlib.sha256()
        async with self._counting():
            version = await self._blobs.version(sha256)
            async for data in self._blobs.read(sha256, start, stop):
                found.update(data)
                yield data
            is_damaged = (start, stop) == (0, size_bytes) and found.hexdigest() != sha256
            if is_damaged and await self._blobs.discard(sha256, version):
                await self._lost(sha256, blobs_damaged=1)

    async def _lost(self, sha256: str, **counted: int) -> int | None:
        """Its size in bytes if it came while that was noted; who brought it may have found nobody waiting for it."""
        if not await self._log.lost(sha256, **counted):
            return None
        async with self._counting():
            found = await self._blobs.size(sha256)
        if found is not None:
            await self._log.arrived(sha256)
        return found

    @asynccontextmanager
    async def _counting(self) -> AsyncIterator[None]:
        try:
            yield
        except ReportInvalid:
            await self._log.count(blobs_refused=1)
            raise
        except StorageFailed:
            await self._log.count(storage_failures=1)
            raise
