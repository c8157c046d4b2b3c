"""Bursts that workers measure their line with."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

from legion.messages import PROBE_BYTES, ProbeReply
from legion_server.backend import MOST_PROBES
from tests.server.api.test_workers import refusal

PIECE = b"x" * 65_536
Burst = bytes | AsyncIterator[bytes]


async def worker_of(house: Any) -> Callable[..., Awaitable[httpx.Response]]:
    """Sends bursts as an enrolled worker."""
    member = await house.join()

    async def send(burst: Burst = b"") -> httpx.Response:
        return await member.http.post("/network/probe", content=burst, headers=member.headers)

    return send


async def some(pieces: int, gate: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for _ in range(pieces):
        yield PIECE
    if gate is not None:
        await gate.wait()


async def test_a_burst_is_counted_and_timed(house: Any) -> None:
    send = await worker_of(house)
    reply = ProbeReply.model_validate_json((await send(some(16))).content)
    assert reply.received_bytes == 16 * len(PIECE)
    assert reply.bytes_per_s is not None
    assert reply.bytes_per_s > 0
    nothing = (await send()).json()
    assert nothing == {"received_bytes": 0, "bytes_per_s": None}


async def test_it_has_an_end(house: Any) -> None:
    send = await worker_of(house)
    await refusal(await send(some(PROBE_BYTES // len(PIECE) + 1)), 422, "unusable")
    await refusal(await send(bytes(9 << 20)), 413, "body-too-large")
    assert (await send(PIECE)).status_code == 200


async def test_it_is_for_workers(house: Any) -> None:
    await refusal(await house.http.post("/network/probe", content=PIECE), 401, "unauthenticated")
    await refusal(await house.admin.post("/network/probe", content=PIECE), 403, "refused")


async def test_few_are_measured_at_a_time(house: Any, eventually: Callable[..., Awaitable[None]]) -> None:
    send, gate = await worker_of(house), asyncio.Event()
    under_way = [asyncio.ensure_future(send(some(1, gate))) for _ in range(MOST_PROBES)]
    await eventually(house.backend.probes.locked)
    problem = await refusal(await send(PIECE), 503, "unavailable")
    assert problem["retryable"]
    gate.set()
    assert [reply.status_code for reply in await asyncio.gather(*under_way)] == [200] * MOST_PROBES
    assert (await send(PIECE)).status_code == 200
