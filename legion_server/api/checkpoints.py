"""Slices in, checkpoints and data out."""

from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response, status
from fastapi.responses import FileResponse

from legion.errors import NotFound, Unauthenticated
from legion.ids import Epoch, Rank
from legion.messages import CheckpointManifest, CheckpointView, DatasetManifest
from legion_server.api.deps import Anyone, AWorker, BackendDep, Caller, Known
from legion_server.api.problems import Responses, answers
from legion_server.backend import Backend
from legion_server.domain import checkpoints as cp

router = APIRouter()

Step = Annotated[int, Path(ge=1, le=2**31 - 1, description="Optimizer steps committed.")]
RankPath = Annotated[int, Path(ge=0, le=2**20, description="The member's rank in the plan.")]
SHA256 = "^[0-9a-f]{64}$"
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
FILE: Responses = {
    200: {"content": BINARY, "description": "The whole file"},
    206: {"content": BINARY, "description": "The range that was asked for"},
    416: {"description": "The range lies outside the file"},
}


@router.get("/checkpoints", tags=["checkpoints"], responses=answers(403))
async def list_checkpoints(backend: BackendDep, _: Known) -> list[CheckpointView]:
    """All that are stored, oldest first."""
    stored = backend.coordinator.state.checkpoints
    return [stored[step].view() for step in sorted(stored)]


@router.get("/checkpoints/{step}", tags=["checkpoints"], responses=answers(403, 404))
async def manifest(step: Step, backend: BackendDep, _: Known) -> CheckpointManifest:
    """What belongs to it, for members that start from it."""
    return backend.checkpoints.checkpoint(step).manifest


@router.put(
    "/checkpoints/{step}/slices/{rank}",
    tags=["checkpoints"],
    status_code=status.HTTP_204_NO_CONTENT,
    responses=answers(403, 404, 507),
    openapi_extra={"requestBody": {"required": True, "content": BINARY}},
)
async def upload(
    request: Request,
    step: Step,
    rank: RankPath,
    backend: BackendDep,
    worker: AWorker,
    sha256: Annotated[str, Header(alias="Legion-Sha256", pattern=SHA256, description="Of the body.")],
    tokens: Annotated[int, Header(alias="Legion-Tokens", ge=0, le=2**62, description="Committed by the run so far.")],
    epoch: Annotated[int, Header(alias="Legion-Epoch", ge=1, le=2**31, description="Of the plan.")],
) -> Response:
    """A member's slice. Answers once the whole is checked and on disk; sending it again changes nothing."""
    checkpoints = backend.checkpoints
    plan = checkpoints.expect_slice(worker, step, rank, Epoch(epoch))
    place = cp.begin(backend.coordinator.run.run_id, plan, step, tokens)
    ref = await backend.files.receive(place, rank, sha256, cp.most_bytes(plan, Rank(rank)), request.stream())
    try:
        await checkpoints.add_slice(worker, step, rank, ref, tokens, plan.epoch)
    finally:
        if not checkpoints.has_slice(place, ref):
            backend.files.discard(place, ref)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.get(
    "/checkpoints/{step}/slices/{rank}",
    tags=["checkpoints"],
    response_class=FileResponse,
    responses=answers(403, 404) | FILE,
)
async def download_slice(step: Step, rank: RankPath, backend: BackendDep, _: Known) -> FileResponse:
    """A slice, or by Range a part of it."""
    checkpoint = backend.checkpoints.checkpoint(step)
    ref = checkpoint.slice(rank)
    if ref is None:
        raise NotFound(f"checkpoint {step} has no slice of rank {rank}")
    return sent(backend.files.slice(checkpoint, rank, ref.sha256))


def check_may_download(backend: Backend, caller: Caller) -> None:
    """Unauthenticated for strangers, where the operator keeps checkpoints for workers."""
    if not (caller.is_known or backend.settings.public_checkpoints):
        raise Unauthenticated("this needs a worker's or the admin's token")


@router.get(
    "/checkpoints/{step}/files/{name}",
    tags=["checkpoints"],
    response_class=FileResponse,
    responses=answers(403, 404) | FILE,
)
async def download_file(step: Step, name: str, backend: BackendDep, caller: Anyone) -> FileResponse:
    """A file of the assembled folder; GET /checkpoints lists their names. The operator may keep them for workers."""
    check_may_download(backend, caller)
    checkpoint = backend.checkpoints.checkpoint(step)
    if name not in checkpoint.files:
        raise NotFound(f"checkpoint {step} has no file {name}", hint="GET /checkpoints lists its files.")
    return sent(backend.files.folder(step) / name)


@router.get("/data/manifest", tags=["data"], responses=answers(403, 503, 507))
async def data_manifest(backend: BackendDep, _: Known) -> DatasetManifest:
    """What is trained on. 503 while it is being prepared."""
    return backend.datasets.ready().manifest


@router.get("/data/{sha256}", tags=["data"], response_class=FileResponse, responses=answers(403, 404, 503, 507) | FILE)
async def datasent(
    sha256: Annotated[str, Path(pattern=SHA256, description="As in the manifest.")], backend: BackendDep, _: Known
) -> FileResponse:
    """A token shard or tokenizer.json, or by Range a part of it."""
    found = backend.datasets.ready().manifest
    if sha256 not in {found.tokenizer_sha256, *(shard.sha256 for shard in (*found.train, *found.validation))}:
        raise NotFound(f"the run's data has no file {sha256}", hint="GET /data/manifest names its files.")
    return sent(backend.settings.blobs_dir / sha256)


def sent(path: FilePath) -> FileResponse:
    if not path.is_file():
        raise NotFound(f"{path.name} is gone from the server's data folder")
    return FileResponse(path, media_type="application/octet-stream")
