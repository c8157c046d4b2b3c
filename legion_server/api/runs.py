"""Health, authority, the run's configuration and plan."""

from typing import Any

from fastapi import APIRouter, Body, Response

from legion import __version__
from legion.config import RunConfig
from legion.messages import PROTOCOL, Health, Plan, ResumeRequest
from legion_server.api.deps import Admin, Anyone, BackendDep, Known
from legion_server.api.problems import answers
from legion_server.backend import Backend

router = APIRouter(tags=["run"])


@router.get("/health", responses=answers())
async def health(backend: BackendDep) -> Health:
    """Up, and which run."""
    return _health(backend)


@router.get("/ca.pem", response_class=Response, responses={200: {"content": {"application/x-pem-file": {}}}})
async def authority(backend: BackendDep) -> Response:
    """The root certificate. Believe it only if its SHA-256 is the one your invite names."""
    return Response(backend.authority.certificate_pem, media_type="application/x-pem-file")


@router.get("/training/config", responses=answers(403, 503))
async def config(backend: BackendDep, caller: Anyone) -> RunConfig:
    """The whole configuration. Workers get it once the data it names is prepared, with its hashes filled in."""
    if caller.worker_id is not None:
        backend.datasets.ready()
    return backend.coordinator.run.config


@router.put("/training/config", responses=answers(403, 409, 503, 507))
async def configure(
    backend: BackendDep,
    _: Admin,
    change: dict[str, Any] = Body(
        description="A part of the configuration, nested or with the flat names dataset_type, dataset_name, "
        "model_size, batch_size, seq_len, num_steps.",
        examples=[{"model": {"preset": "small"}, "steps": 2000}, {"model_size": "tiny", "num_steps": 100}],
    ),
) -> RunConfig:
    """Merge, validate the whole, prepare the data; answers when all of it is done. On any error nothing changes."""
    return await backend.datasets.configure(change)


@router.get("/training/plan", responses=answers(403, 404))
async def plan(backend: BackendDep, caller: Known) -> Plan:
    """Who trains together, with addresses: for the plan's members and the admin."""
    return backend.coordinator.plan_for(None if caller.is_admin else caller.worker_id)


@router.post("/runs/resume", responses=answers(403, 409), tags=["admin"])
async def resume(backend: BackendDep, _: Admin, body: ResumeRequest | None = None) -> Health:
    """Back to waiting, from the newest complete checkpoint; workers that are ready get a new plan."""
    await backend.coordinator.resume(body.workers if body else None)
    return _health(backend)


def _health(backend: Backend) -> Health:
    run = backend.coordinator.run
    return Health(
        protocol=PROTOCOL,
        legion_version=__version__,
        run_id=run.run_id,
        phase=run.phase,
        uptime_s=backend.clock() - backend.started_at,
    )
