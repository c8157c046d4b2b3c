"""Two connections joined into one: bytes pass both ways as they come, and an end of one direction is passed on.

Nothing is read before the other side has taken what came before: TCP holds the sender back.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

PIECE_BYTES = 65_536
BUFFER_BYTES = 262_144
IDLE_S = 120.0  # gRPC's own pings come every 10 s: of a connection that is quiet for longer, one end is gone

Pass = Callable[[int], Awaitable[None]]  # called with the size of each piece before it goes on


@dataclass(frozen=True, slots=True)
class Ends:
    """One connection, as asyncio has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def abort(self) -> None:
        self.writer.transport.abort()

    async def close(self) -> None:
        """What is written is sent; an error that the connection had is nobody's any more."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def free(_: int) -> None:
    """Nothing holds a piece back."""


async def splice(one: Ends, other: Ends, through: Pass = free, idle_s: float = IDLE_S) -> None:
    """Until both directions have ended, or one fails, or nothing passes for `idle_s`. Both are closed afterwards."""
    try:
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(idle_s) as idle:

            async def counted(size_bytes: int) -> None:
                idle.reschedule(asyncio.get_running_loop().time() + idle_s)
                await through(size_bytes)
                idle.reschedule(asyncio.get_running_loop().time() + idle_s)

            await asyncio.gather(
                *(
                    tasks.create_task(_pump(source.reader, target.writer, counted))
                    for source, target in ((one, other), (other, one))
                )
            )
    except* (OSError, TimeoutError):
        pass  # whoever speaks over it sees it end, and knows better than we what that means
    finally:
        one.abort()
        other.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, through: Pass) -> None:
    while piece := await reader.read(PIECE_BYTES):
        await through(len(piece))
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    await writer.drain()
