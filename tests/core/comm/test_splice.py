"""Two real connections joined into one, and every way in which that ends."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from legion.comm.splice import IDLE_S, Ends, Pass, free, splice


@dataclass
class Spliced:
    """The outer ends of both connections, and the splice between the inner ones."""

    left: Ends
    right: Ends
    over: "asyncio.Future[None]"


async def ends(connection: socket.socket) -> Ends:
    connection.setblocking(False)
    return Ends(*await asyncio.open_connection(sock=connection))


@contextlib.asynccontextmanager
async def spliced(through: Pass = free, idle_s: float = IDLE_S) -> AsyncIterator[Spliced]:
    (left, one), (other, right) = socket.socketpair(), socket.socketpair()
    outer = await ends(left), await ends(right)
    over = asyncio.ensure_future(splice(await ends(one), await ends(other), through, idle_s))
    try:
        yield Spliced(*outer, over)
    finally:
        over.cancel()
        await asyncio.gather(over, return_exceptions=True)
        for end in outer:
            end.abort()


async def test_bytes_pass_both_ways_and_each_end_by_itself() -> None:
    passed = 0

    async def counted(size_bytes: int) -> None:
        nonlocal passed
        passed += size_bytes

    async with spliced(counted) as both:
        data = bytes(range(256)) * 10_000
        both.left.writer.write(data)
        both.left.writer.write_eof()
        assert await both.right.reader.read(-1) == data
        assert not both.over.done()  # the other direction goes on
        both.right.writer.write(b"and back")
        both.right.writer.write_eof()
        assert await both.left.reader.read(-1) == b"and back"
        await both.over
        assert passed == len(data) + 8


async def test_a_connection_that_breaks_takes_the_other_with_it() -> None:
    async with spliced() as both:
        both.left.abort()
        assert await both.right.reader.read(-1) == b""
        both.right.writer.write(b"x")
        both.right.writer.write_eof()
        await both.over


async def test_silence_ends_it() -> None:
    async with spliced(idle_s=0.05) as both:
        await both.over
        assert await both.left.reader.read(-1) == b""
        assert await both.right.reader.read(-1) == b""


async def test_who_counts_may_end_it() -> None:
    async def refused(_: int) -> None:
        raise ConnectionAbortedError("no more")

    async with spliced(refused) as both:
        both.left.writer.write(b"x")
        await both.over
        assert await both.right.reader.read(-1) == b""


async def test_any_other_error_comes_out() -> None:
    async def failed(_: int) -> None:
        raise ValueError("a mistake of ours")

    async with spliced(failed) as both:
        both.left.writer.write(b"x")
        with pytest.raises(ExceptionGroup, match="unhandled errors") as found:
            await both.over
        assert found.value.subgroup(ValueError) is not None


async def test_who_does_not_read_holds_the_sender_back() -> None:
    async with spliced() as both:
        both.left.writer.write(bytes(64 << 20))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await both.left.writer.drain()
        assert both.left.writer.transport.get_write_buffer_size() > 32 << 20
