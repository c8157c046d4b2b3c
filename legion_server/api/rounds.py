"""Rounds: plans for clusters, reports from reducers, the log and its updates for whoever follows."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status
from fastapi.responses import StreamingResponse

from legion.errors import NotFound, ReportInvalid
from legion.rounds import GlobalVersion, Handover, RootReply, RootReport, RoundPlan, RoundsPage, SpanReport
from legion_server.api.checkpoints import BINARY, FILE, SHA256
from legion_server.api.deps import Anyone, AWorker, BackendDep, Known
from legion_server.api.problems import answers
from legion_server.service.updates import Updates

router = APIRouter(tags=["rounds"])

RoundPath = Annotated[int, Path(ge=0, le=2**31 - 1, description="The round's number, from 0.")]
Digest = Annotated[str, Path(pattern=SHA256, description="As in the round's record.")]


def _updates(backend: BackendDep) -> Updates:
    return Updates(backend.round_log, backend.blobs)


UpdatesDep = Annotated[Updates, Depends(_updates)]
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@router.get("/training/rounds/plan", responses=answers(403, 404))
async def plan(backend: BackendDep, caller: Known) -> RoundPlan:
    """The round being trained, with addresses: for members of the run's clusters and the admin."""
    return backend.round_log.plan_for(None if caller.is_admin else caller.worker_id)


@router.get("/training/rounds", responses=answers(403))
async def records(
    backend: BackendDep,
    _: Known,
    since: Annotated[int, Query(ge=0, le=2**31 - 1, description="The first round wanted.")] = 0,
    limit: Annotated[int, Query(ge=1, le=64)] = 16,
) -> RoundsPage:
    """The log: committed rounds, oldest first."""
    return await backend.round_log.page(since, limit)


@router.get("/training/global_version", responses=answers(404))
async def global_version(backend: BackendDep, caller: Anyone) -> GlobalVersion:
    """Where the run and every cluster are; workers' ids for the admin only."""
    return backend.round_log.version(private=caller.is_admin)


@router.post("/training/rounds/{round}/spans", status_code=status.HTTP_204_NO_CONTENT, responses=answers(403, 404, 409))
async def report_span(
    number: Annotated[RoundPath, Path(alias="round")], body: SpanReport, backend: BackendDep, worker: AWorker
) -> Response:
    """From a span's reducer: the update is ready. Reporting the same again changes nothing."""
    if number != body.round:
        raise ReportInvalid(f"the path names round {number}, the report round {body.round}")
    await backend.round_log.report(worker, body)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.post(
    "/training/rounds/{round}/handover", status_code=status.HTTP_204_NO_CONTENT, responses=answers(403, 404, 409)
)
async def hand_over(
    number: Annotated[RoundPath, Path(alias="round")], body: Handover, backend: BackendDep, worker: AWorker
) -> Response:
    """From a reducer that leaves: which of its residuals the next reducers have. May be repeated."""
    if number != body.round:
        raise ReportInvalid(f"the path names round {number}, the handover round {body.round}")
    await backend.round_log.handover(worker, body)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.post("/training/rounds/roots", responses=answers(403, 404))
async def report_root(body: RootReport, backend: BackendDep, worker: AWorker) -> RootReply:
    """Whether this worker's anchor is the reference; null while that is not known."""
    return RootReply(agrees=await backend.round_log.root(worker, body))


@router.put(
    "/blobs/{sha256}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=answers(403, 404, 507),
    openapi_extra={"requestBody": {"required": True, "content": BINARY}},
)
async def upload(request: Request, sha256: Digest, updates: UpdatesDep, worker: AWorker) -> Response:
    """An update, from the reducer that reported it. Answers once the whole is checked and stored; may be repeated."""
    await updates.receive(worker, sha256, request.stream())
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.get("/blobs/{sha256}", response_class=StreamingResponse, responses=answers(403, 404, 507) | FILE)
async def download(request: Request, sha256: Digest, updates: UpdatesDep, _: Known) -> Response:
    """An update, or by Range a part of it. What storage has lost is asked for: it may be there again later."""
    size_bytes = await updates.size(sha256)
    if size_bytes is None:
        raise NotFound(f"blob {sha256[:12]} is not in storage", hint="It may still come: reducers have it first.")
    headers = {"Accept-Ranges": "bytes"}
    wanted = wanted_range(request.headers.get("range"), size_bytes)
    if wanted is None:
        start, stop, code = 0, size_bytes, status.HTTP_200_OK
    else:
        start, stop = wanted
        code = status.HTTP_206_PARTIAL_CONTENT
        if start >= stop:
            headers["Content-Range"] = f"bytes */{size_bytes}"
            return Response(status_code=status.HTTP_416_RANGE_NOT_SATISFIABLE, headers=headers)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
    headers["Content-Length"] = str(stop - start)
    body = updates.read(sha256, size_bytes, start, stop)
    return StreamingResponse(body, code, headers, media_type="application/octet-stream")


def wanted_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Bytes [start, stop) of a single range (RFC 9110, 14.1.2), empty when it lies outside; None: the whole."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:  # the last so many
        return max(0, size_bytes - int(last)), size_bytes
    stop = min(size_bytes, int(last) + 1) if last else size_bytes
    if last and int(last) < int(first):
        return None  # not a range: ignored
    return int(first), stop
