"""What the network carries: bursts that workers measure their line with."""

import asyncio
import time

from fastapi import APIRouter, Request

from legion.errors import Unavailable, Unusable
from legion.messages import PROBE_BYTES, ProbeReply
from legion_server.api.deps import AWorker, BackendDep
from legion_server.api.problems import answers
from legion_server.domain.probe import rate

router = APIRouter(tags=["network"])

PROBE_S = 30.0  # who is slower than 1 Mbit/s learns nothing by going on


@router.post(
    "/network/probe",
    responses=answers(403, 413, 503),
    openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def probe(request: Request, backend: BackendDep, _: AWorker) -> ProbeReply:
    """A burst of at most 4 MiB of anything, and how fast it came: the sender's system only knows what it took."""
    if backend.probes.locked():
        raise Unavailable("others measure their line now", hint="Try again in a few seconds.")
    async with backend.probes:
        return await _measured(request)


async def _measured(request: Request) -> ProbeReply:
    arrivals: list[tuple[float, int]] = []
    received = 0
    try:
        async with asyncio.timeout(PROBE_S):
            async for chunk in request.stream():
                received += len(chunk)
                if received > PROBE_BYTES:
                    raise Unusable(f"a burst has {PROBE_BYTES} bytes at most")
                if chunk:
                    arrivals.append((time.monotonic(), len(chunk)))
    except TimeoutError:
        raise Unusable(f"{received} bytes came in {PROBE_S:g} s", hint="Send a smaller burst.") from None
    return ProbeReply(received_bytes=received, bytes_per_s=rate(arrivals))
