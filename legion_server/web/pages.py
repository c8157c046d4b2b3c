"""The run page: how the run goes, for anybody."""

from collections import Counter
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from legion.messages import WorkerState
from legion.reports import LossCurve, MetricsView
from legion_server.api.deps import BackendDep
from legion_server.backend import Backend
from legion_server.domain import links
from legion_server.domain.membership import AWAY, Worker
from legion_server.web import charts, drawing
from legion_server.web.account import SignedIn
from legion_server.web.charts import Chart, Series
from legion_server.web.drawing import Drawing
from legion_server.web.render import fragment, page, span

router = APIRouter(include_in_schema=False)

POINTS = 300  # of the loss curve
SHOWN_CHECKPOINTS = 5
STATES: tuple[WorkerState, ...] = ("training", "ready", "preparing", "joining", "paused", "leaving")
DEVICES = {"cuda": "NVIDIA GPU", "mps": "Apple GPU", "xpu": "Intel GPU", "cpu": "Processor"}


@router.get("/", response_class=HTMLResponse)
async def run(request: Request, backend: BackendDep, _: SignedIn) -> HTMLResponse:
    return page(request, "run.html", **await _figures(backend), **_people(backend), **_products(backend))


@router.get("/parts/run", response_class=HTMLResponse)
async def run_figures(request: Request, backend: BackendDep) -> HTMLResponse:
    return fragment(request, "run_figures.html", **await _figures(backend))


@router.get("/parts/people", response_class=HTMLResponse)
async def people(request: Request, backend: BackendDep) -> HTMLResponse:
    return fragment(request, "run_people.html", **_people(backend))


@router.get("/parts/products", response_class=HTMLResponse)
async def products(request: Request, backend: BackendDep) -> HTMLResponse:
    return fragment(request, "run_products.html", **_products(backend))


async def _figures(backend: Backend) -> dict[str, Any]:
    view = await backend.metrics.view(None, private=False)
    config, curve = backend.coordinator.run.config, await backend.metrics.curve(POINTS)
    return {
        "view": view,
        "percent": 100 * view.step / view.steps,
        "model": config.model.preset or config.model.architecture,
        "data": config.data.name or config.data.source,
        "loss": loss_chart(curve),
        "sample": curve.sample,
        "utilisation": await backend.metrics.utilisation(),
        "remaining": remaining(view),
    }


def _people(backend: Backend) -> dict[str, Any]:
    workers = [w for w in backend.coordinator.state.workers.values() if w.state not in AWAY]
    return {"enrolled": len(backend.coordinator.state.workers), "here": by_device(workers), "map": picture(backend)}


def _products(backend: Backend) -> dict[str, Any]:
    stored = backend.coordinator.state.checkpoints
    shown = [stored[step] for step in sorted(stored, reverse=True) if stored[step].assembled][:SHOWN_CHECKPOINTS]
    return {"checkpoints": shown, "may_download": backend.settings.public_checkpoints}


def by_device(workers: list[Worker]) -> list[tuple[str, list[int]]]:
    """A row for each kind of device and one for all, with numbers by state in the order of STATES."""
    kinds = {w.worker_id: w.hardware.devices[0].kind if w.hardware.devices else "cpu" for w in workers}
    counts: Counter[tuple[str, str]] = Counter((kinds[w.worker_id], w.state) for w in workers)
    rows = [
        (name, [counts[kind, state] for state in STATES])
        for kind, name in DEVICES.items()
        if any(counts[kind, state] for state in STATES)
    ]
    if len(rows) > 1:
        rows.append(("All", [sum(column) for column in zip(*(row for _, row in rows), strict=True)]))
    return rows


def picture(backend: Backend) -> Drawing | None:
    """Of those that train or could at once."""
    state = backend.coordinator.state
    here = {w.worker_id: w.state == "training" for w in state.workers.values() if w.state in links.THERE}
    plans = (*state.run.clusters, *([state.run.plan] if state.run.plan else []))
    clusters = [[member.worker_id for member in plan.members] for plan in plans]
    regions = links.regions(state.links, here, backend.clock())
    return drawing.draw(drawing.groups(clusters, here, regions))


def loss_chart(curve: LossCurve) -> Chart | None:
    """Each bucket at its last step."""
    training = Series("Training loss", [(float(bucket.last), bucket.loss) for bucket in curve.training])
    validation = Series("Validation loss", [(float(one.step), one.loss) for one in curve.validation])
    shown = [training, validation] if validation.points else [training]
    return charts.lines("Loss in nats per token", "step", shown)


def remaining(view: MetricsView) -> str | None:
    """How much longer at the speed of the last steps, for people."""
    if view.phase != "training" or not view.recent or view.tokens_per_s <= 0:
        return None
    return span(view.recent[-1].tokens * (view.steps - view.step) / view.tokens_per_s)
