"""What the network carries: bursts that workers measure their line with, and what they found of one another's."""

import asyncio
import os
import time
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, status

from legion.burst import rate
from legion.errors import Unavailable, Unusable
from legion.links import ClustersView, LinksReport, NetworkView
from legion.messages import PROBE_BYTES, ProbeReply
from legion_server.api.checkpoints import BINARY
from legion_server.api.deps import Admin, Anyone, AWorker, BackendDep
from legion_server.api.problems import Responses, answers

router = APIRouter(tags=["network"])

PROBE_S = 30.0  # who is slower than 1 Mbit/s learns nothing by going on
BURST: Responses = {200: {"content": BINARY, "description": "Noise"}}


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


@router.get("/network/probe", response_class=Response, responses=answers(403, 503) | BURST)
async def burst(
    backend: BackendDep, _: AWorker, size_bytes: Annotated[int, Query(ge=1, le=PROBE_BYTES)] = PROBE_BYTES
) -> Response:
    """So many bytes that say nothing, for the worker to see how fast they come."""
    if backend.probes.locked():
        raise Unavailable("others measure their line now", hint="Try again in a few seconds.")
    async with backend.probes:
        body = await asyncio.to_thread(os.urandom, size_bytes)  # which nobody on the way compresses
    return Response(body, media_type="application/octet-stream")


@router.post("/network/links", status_code=status.HTTP_204_NO_CONTENT, responses=answers(403, 404))
async def links(body: LinksReport, backend: BackendDep, worker: AWorker) -> Response:
    """What a worker has measured of its links, to workers it was asked to measure, to members of its cluster, to us."""
    await backend.link_book.told(worker, body)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.get("/network", responses=answers())
async def network(backend: BackendDep, caller: Anyone) -> NetworkView:
    """What is known of the links between workers: sums for anybody, pairs and workers for the admin."""
    return backend.link_book.network(private=caller.is_admin)


@router.get("/network/clusters", responses=answers(403), tags=["admin"])
async def clusters(backend: BackendDep, _: Admin) -> ClustersView:
    """Why each worker is where it is, in words."""
    return backend.link_book.clusters()


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
