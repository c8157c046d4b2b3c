"""A worker's line to the others: how fast it may be used, and what leaves first. Parts go before updates.

An update exists only when the last part of its span has come, so a part that is late keeps everybody waiting; updates
that wait behind parts leave a little later, and the line is busy all the same.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from legion.comm.bucket import Valve
from legion.comm.waiting import Changes

SLOWEST_BYTES_PER_S: Final = 125_000  # 1 Mbit/s: who takes no more than this of a part does not hold updates back


class Line:
    """All methods on the loop. Whatever leaves or comes passes `upload` or `download`."""

    def __init__(self, upload: Valve | None = None, download: Valve | None = None) -> None:
        self.upload = upload or Valve()
        self.download = download or Valve()
        self._parts: dict[object, float] = {}  # on their way: until when each is believed to move
        self._changes = Changes()

    @contextlib.contextmanager
    def carrying_part(self) -> Iterator[Callable[[int], None]]:
        """For the time of the block a part is on its way.

        Say with each piece how many bytes it has, before it leaves; with 0 that no more bytes follow, only the answer.
        """
        part = object()

        def leaves(size_bytes: int) -> None:
            if size_bytes:
                self._parts[part] = asyncio.get_running_loop().time() + size_bytes / SLOWEST_BYTES_PER_S
            elif self._parts.pop(part, None) is not None:
                self._changes.happened()

        try:
            yield leaves
        finally:
            leaves(0)

    @property
    def carries_parts(self) -> bool:
        """Somebody waits for what is on its way."""
        return bool(self._parts)

    async def free(self) -> None:
        """Until no part of ours is on its way, or none of them moves."""
        clock = asyncio.get_running_loop().time
        while (left_s := max(self._parts.values(), default=0.0) - clock()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changes.next()
