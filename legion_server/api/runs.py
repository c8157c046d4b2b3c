"""Health, authority, the run's configuration and plan."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Response, status
from fastapi.responses import FileResponse

from legion import __version__
from legion.config import RunConfig
from legion.ids import RunId
from legion.messages import PROTOCOL, Health, Plan, ResumeRequest
from legion.runs import QueueChange, RunsView, RunView
from legion_server.api.checkpoints import FILE, check_may_download, sent
from legion_server.api.deps import Admin, Anyone, BackendDep, Known
from legion_server.api.problems import answers
from legion_server.backend import Backend
from legion_server.domain.config_changes import told

router = APIRouter(tags=["run"])

RunIdPath = Annotated[str, Path(pattern="^[A-Za-z0-9-]{1,32}$", description="As GET /runs lists it.")]
Change = Annotated[
    dict[str, Any],
    Body(
        description="A part of the configuration, nested or with the flat names dataset_type, dataset_name, "
        "model_size, batch_size, seq_len, num_steps.",
        examples=[{"model": {"preset": "small"}, "steps": 2000}, {"model_size": "tiny", "num_steps": 100}],
    ),
]


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
    change: Change,
) -> RunConfig:
    """Merge, validate the whole, prepare the data; answers when all of it is done. On any error nothing changes."""
    before = backend.coordinator.run.config
    after = await backend.datasets.configure(change)
    await backend.audit.record("run.configure", backend.coordinator.run.run_id, told(before, after))
    return after


@router.get("/training/plan", responses=answers(403, 404))
async def plan(backend: BackendDep, caller: Known) -> Plan:
    """Who trains together, with addresses: for the plan's members and the admin."""
    return backend.coordinator.plan_for(None if caller.is_admin else caller.worker_id)


@router.post("/runs/pause", responses=answers(403, 409), tags=["admin"])
async def pause(backend: BackendDep, _: Admin) -> Health:
    """Workers finish their round, or in a run without rounds their step, and wait for `/runs/resume`."""
    run = await backend.steering.pause()
    await backend.audit.record("run.pause", run.run_id)
    return _health(backend)


@router.post("/runs/stop", responses=answers(403, 409), tags=["admin"])
async def stop(backend: BackendDep, _: Admin) -> Health:
    """The run ends here for good, with its newest checkpoint; the next one that is queued begins."""
    run = await backend.steering.stop()
    await backend.audit.record("run.stop", run.run_id)
    return _health(backend)


@router.post("/runs/resume", responses=answers(403, 409), tags=["admin"])
async def resume(backend: BackendDep, _: Admin, body: ResumeRequest | None = None) -> Health:
    """A paused run goes on where it was; any other goes back to waiting, from its newest complete checkpoint."""
    run = await backend.steering.resume(body.workers if body else None)
    await backend.audit.record("run.resume", run.run_id, f"for {body.workers} workers" if body and body.workers else "")
    return _health(backend)


@router.get("/runs", responses=answers(403))
async def list_runs(backend: BackendDep, _: Anyone) -> RunsView:
    """The one under way, those that wait for their turn, and the newest of those that are over."""
    return await backend.run_list.listed()


@router.post("/runs", status_code=status.HTTP_201_CREATED, responses=answers(403, 409, 503, 507), tags=["admin"])
async def add_run(backend: BackendDep, _: Admin, change: Change) -> RunView:
    """Queue a run: the configuration of the one before it with this change, validated, its data prepared.

    It begins once the run before it is complete or stopped.
    """
    added = await backend.run_list.add(change)
    await backend.audit.record("run.queue", added.summary.run_id, told(backend.coordinator.run.config, added.config))
    return added


@router.get("/runs/{run_id}", responses=answers(403, 404))
async def get_run(run_id: RunIdPath, backend: BackendDep, _: Anyone) -> RunView:
    """One run: under way, queued, or over."""
    return await backend.run_list.view(RunId(run_id))


@router.patch("/runs/{run_id}", responses=answers(403, 404, 409, 503, 507), tags=["admin"])
async def change_run(run_id: RunIdPath, backend: BackendDep, _: Admin, change: QueueChange) -> RunView:
    """Another configuration, or another place in the queue. On any error nothing changes."""
    before = (await backend.run_list.view(RunId(run_id))).config
    changed = await backend.run_list.change(RunId(run_id), change)
    place = f"; place {changed.summary.place}" if change.place is not None else ""
    await backend.audit.record("run.queue.change", run_id, told(before, changed.config) + place)
    return changed


@router.delete("/runs/{run_id}", status_code=status.HTTP_204_NO_CONTENT, responses=answers(403, 404), tags=["admin"])
async def remove_run(run_id: RunIdPath, backend: BackendDep, _: Admin) -> Response:
    """Take a run out of the queue."""
    await backend.queue.remove(RunId(run_id))
    await backend.audit.record("run.queue.remove", run_id)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.get("/runs/{run_id}/checkpoint/{name}", response_class=FileResponse, responses=answers(403, 404) | FILE)
async def kept_file(run_id: RunIdPath, name: str, backend: BackendDep, caller: Anyone) -> FileResponse:
    """A file of the last checkpoint of a run that is over; GET /runs/{run_id} lists their names.

    The operator may keep them for workers.
    """
    check_may_download(backend, caller)
    return sent(await backend.run_list.kept_file(RunId(run_id), name))


def _health(backend: Backend) -> Health:
    run = backend.coordinator.run
    return Health(
        protocol=PROTOCOL,
        legion_version=__version__,
        run_id=run.run_id,
        phase=run.phase,
        uptime_s=backend.clock() - backend.started_at,
    )
