"""The run's controls, and every worker with health, links and trust."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response, status
from fastapi.responses import HTMLResponse, RedirectResponse

from legion.errors import NotFound, Unusable
from legion.ids import WorkerId
from legion.links import SERVER
from legion_server.api.deps import BackendDep
from legion_server.backend import Backend
from legion_server.domain import links as lk
from legion_server.domain.membership import Worker
from legion_server.web.account import Operator, OperatorsForm
from legion_server.web.render import fragment, page

router = APIRouter(include_in_schema=False)

PAGE = 50  # workers
Id = Annotated[WorkerId, Path(pattern="^[a-z2-7]{32}$")]
After = Annotated[str, Query(max_length=32, pattern="^[a-z2-7]*$")]
Wanted = Annotated[str, Query(max_length=64)]


@dataclass(frozen=True, slots=True)
class Row:
    """A worker, and what others know of it."""

    worker: Worker
    region: int | None
    server_rtt_s: float | None
    accepted: int  # rounds of its work
    strayed: int  # times that its weights were not the reference's, lately
    barred: bool  # it may not reduce


@router.get("/admin", response_class=HTMLResponse)
async def workers(
    request: Request, backend: BackendDep, _: Operator, q: Wanted = "", state: Wanted = "", after: After = ""
) -> HTMLResponse:
    return page(request, "operator/workers.html", **_listed(backend, q, state, after))


@router.get("/parts/admin/workers", response_class=HTMLResponse)
async def workers_rows(
    request: Request, backend: BackendDep, _: Operator, q: Wanted = "", state: Wanted = "", after: After = ""
) -> HTMLResponse:
    return fragment(request, "operator/workers_rows.html", **_listed(backend, q, state, after))


@router.get("/admin/workers/{worker_id}", response_class=HTMLResponse)
async def worker(request: Request, backend: BackendDep, worker_id: Id, _: Operator) -> HTMLResponse:
    found = backend.coordinator.state.workers.get(worker_id)
    if found is None:
        raise NotFound(f"no worker {worker_id} is enrolled here")
    known = [view for view in backend.link_book.network(private=True).links if worker_id in view.workers]
    reason = next((one for one in backend.link_book.clusters().workers if one.worker_id == worker_id), None)
    return page(
        request,
        "operator/worker.html",
        row=_row(backend, found),
        credit=await backend.metrics.credit(worker_id),
        links=known,
        reason=reason,
        names={w.worker_id: w.name for w in backend.coordinator.state.workers.values()},
    )


@router.post("/admin/workers/{worker_id}/revoke")
async def revoke(backend: BackendDep, worker_id: Id, _: OperatorsForm) -> Response:
    await backend.coordinator.revoke(worker_id)
    await backend.audit.record("worker.revoke", worker_id)
    return RedirectResponse(f"/admin/workers/{worker_id}", status.HTTP_303_SEE_OTHER)


@router.post("/admin/run/{action}")
async def steer(backend: BackendDep, action: str, _: OperatorsForm) -> Response:
    """Pause, resume or stop."""
    actions = {"pause": backend.steering.pause, "resume": backend.steering.resume, "stop": backend.steering.stop}
    if action not in actions:
        raise Unusable(f"a run cannot {action[:20]}", hint="It can pause, resume and stop.")
    run = await actions[action]()
    await backend.audit.record(f"run.{action}", run.run_id)
    return RedirectResponse("/admin", status.HTTP_303_SEE_OTHER)


def _listed(backend: Backend, wanted: str, state: str, after: str) -> dict[str, Any]:
    """A page of workers in the order of their ids, after one of them."""
    everybody = backend.coordinator.state.workers
    states = sorted({w.state for w in everybody.values()})
    found = [w for w in everybody.values() if (not state or w.state == state) and _matches(w, wanted)]
    rest = sorted((w for w in found if w.worker_id > after), key=lambda w: w.worker_id)
    next_after = rest[PAGE - 1].worker_id if len(rest) > PAGE else None
    return {
        "run": backend.coordinator.run,
        "rows": [_row(backend, w) for w in rest[:PAGE]],
        "total": len(found),
        "states": states,
        "wanted": wanted,
        "state": state,
        "after": after,
        "next_after": next_after,
        "now": backend.clock(),
    }


def _matches(worker: Worker, wanted: str) -> bool:
    return wanted.lower() in worker.name.lower() or worker.worker_id.startswith(wanted.lower())


def _row(backend: Backend, worker: Worker) -> Row:
    state, now = backend.coordinator.state, backend.clock()
    line = lk.account(state.links, (worker.worker_id, SERVER), now)
    rounds = state.rounds
    regions = dict(rounds.plan.regions) if rounds and rounds.plan else {}
    return Row(
        worker,
        regions.get(worker.worker_id),
        line.rtt_s if line else None,
        rounds.accepted.get(worker.worker_id, 0) if rounds else 0,
        len(rounds.mismatches.get(worker.worker_id, ())) if rounds else 0,
        rounds is not None and worker.worker_id in rounds.barred,
    )
