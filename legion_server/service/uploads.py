"""The body of an upload, on its way to a file of its own: hashed as it comes, on the disk before it counts."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from legion.checkpoint.storage import Written
from legion.errors import LegionError

PIECE_BYTES = 2**20  # collected before a thread writes them


async def receive(part: Path, body: AsyncIterator[bytes], most_bytes: int, too_long: LegionError) -> Written:
    """Writes `part`, in a folder made for it; the caller puts it in its place or deletes it.

    Raises `too_long` once more than `most_bytes` have come, and OSError when the disk refuses.
    """
    await asyncio.to_thread(part.parent.mkdir, parents=True, exist_ok=True)
    size_bytes, digest, waiting = 0, hashlib.sha256(), bytearray()
    with part.open("wb") as file:

        def flush() -> None:
            digest.update(waiting)
            file.write(waiting)
            waiting.clear()

        def finish() -> None:
            flush()
            file.flush()
            os.fsync(file.fileno())

        async for chunk in body:
            size_bytes += len(chunk)
            if size_bytes > most_bytes:
                raise too_long
            waiting += chunk
            if len(waiting) >= PIECE_BYTES:
                await asyncio.to_thread(flush)
        await asyncio.to_thread(finish)
    return Written(digest.hexdigest(), size_bytes)
