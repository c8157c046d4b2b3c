"""What the run achieves: reported by workers, read by anybody."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, status
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from legion.counters import RoundsView
from legion.messages import WorkersSummary
from legion.reports import LossCurve, MetricsReport, MetricsView
from legion_server.api.deps import Anyone, AWorker, BackendDep
from legion_server.api.problems import answers
from legion_server.domain import membership

router = APIRouter(tags=["metrics"])

TEXT = "text/plain; version=0.0.4; charset=utf-8"


@router.get(
    "/metrics",
    response_model=MetricsView,
    responses=answers() | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def read(
    request: Request,
    backend: BackendDep,
    caller: Anyone,
    since: Annotated[
        int | None, Query(ge=0, le=2**31, description="The steps after this one, at most 10,000, oldest first.")
    ] = None,
) -> MetricsView | Response:
    """JSON, or Prometheus text where Accept asks for text/plain or openmetrics. Workers are listed for the admin."""
    accept = request.headers.get("accept", "")
    as_text = "text/plain" in accept or "openmetrics" in accept
    view = await backend.metrics.view(None if as_text else since, private=caller.is_admin)
    view = view.model_copy(update={"workers_doubled": backend.doubles.count})
    if as_text:
        text = prometheus(view, membership.summary(backend.coordinator.state.workers))
        return Response(text, headers={"Content-Type": TEXT})
    return view


@router.get("/metrics/curve", responses=answers())
async def curve(
    backend: BackendDep,
    _: Anyone,
    points: Annotated[int, Query(ge=2, le=2000, description="Most buckets, and most evaluations.")] = 500,
) -> LossCurve:
    """The loss of the whole run, from its first step on: mean, least and most of steps that lie together."""
    return await backend.metrics.curve(points)


@router.post("/metrics", status_code=status.HTTP_204_NO_CONTENT, responses=answers(403))
async def report(body: MetricsReport, backend: BackendDep, worker: AWorker) -> Response:
    """Records of this worker. Sending them again changes nothing."""
    await backend.coordinator.report(worker, body)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


def prometheus(view: MetricsView, workers: WorkersSummary) -> bytes:
    """The view in Prometheus' text format; gauges, because a resumed run goes back."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(f"legion_{name}", text, registry=registry).set(value)

    gauge("step", "Optimizer steps committed", view.step)
    gauge("steps", "Optimizer steps of the whole run", view.steps)
    gauge("tokens", "Tokens trained on", view.tokens)
    gauge("tokens_per_second", "Speed of the last steps", view.tokens_per_s)
    gauge("workers_doubled", "Programs that used the identity of another that was there", view.workers_doubled)
    if view.recent:
        gauge("loss_nats", "Training loss per token of the last step", view.recent[-1].loss)
        gauge("gradient_norm", "Norm of the last whole gradient, before clipping", view.recent[-1].grad_norm)
    if view.evaluations:
        gauge("validation_loss_nats", "Validation loss per token", view.evaluations[-1].loss)
    phase = Gauge("legion_run_phase", "1 for the phase the run is in", ["phase"], registry=registry)
    phase.labels(view.phase).set(1)
    states = Gauge("legion_workers", "Enrolled workers by state", ["state"], registry=registry)
    for state, count in workers.by_state.items():
        states.labels(state).set(count)
    if view.rounds is not None:
        _add_rounds(registry, view.rounds)
    return generate_latest(registry)


def _add_rounds(registry: CollectorRegistry, view: RoundsView) -> None:
    figures = view.model_dump(exclude={"counters"}) | view.counters.model_dump(exclude={"refused"})
    for name, value in figures.items():
        if value is not None:
            text = f"Rounds: {name.replace('_', ' ')}"
            Gauge(f"legion_rounds_{name}", text, registry=registry).set(value)
    text = "Contributions that reducers turned away, by reason"
    refused = Gauge("legion_rounds_refused", text, ["reason"], registry=registry)
    for reason, count in view.counters.refused.items():
        refused.labels(reason).set(count)
