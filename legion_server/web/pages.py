"""The status page: one page that says how the run goes, for anybody. It loads nothing from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, select_autoescape

from legion.reports import LossBucket, MetricsView
from legion_server.backend import Backend
from legion_server.domain import membership

router = APIRouter(include_in_schema=False)
templates = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=select_autoescape())

POINTS = 300  # of the loss curve
WIDTH, HEIGHT, LEFT, BOTTOM = 600, 220, 44, 22  # SVG units
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """The loss curve as an SVG polyline, with what its axes say."""

    points: str
    low: float
    high: float
    first: int
    last: int


@router.get("/", response_class=HTMLResponse)
async def index(request: Request) -> HTMLResponse:
    return await _page(request, "index.html")


@router.get("/status", response_class=HTMLResponse)
async def status(request: Request) -> HTMLResponse:
    """The part of the page that changes; the page's script asks for it every two seconds."""
    return await _page(request, "status.html")


@router.get("/status.js")
async def script() -> HTMLResponse:
    source = (Path(__file__).parent / "templates" / "status.js").read_text(encoding="utf-8")
    return HTMLResponse(source, headers=HEADERS, media_type="text/javascript")


async def _page(request: Request, name: str) -> HTMLResponse:
    backend = request.app.state.backend
    assert isinstance(backend, Backend)
    view = await backend.metrics.view(None, private=False)
    config = backend.coordinator.run.config
    text = templates.get_template(name).render(
        view=view,
        percent=100 * view.step / view.steps,
        model=config.model.preset or config.model.architecture,
        data=config.data.name or config.data.source,
        workers=membership.summary(backend.coordinator.state.workers),
        curve=curve((await backend.metrics.curve(POINTS)).training),
        remaining=remaining(view),
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        bottom=BOTTOM,
    )
    return HTMLResponse(text, headers=HEADERS)


def curve(buckets: Sequence[LossBucket]) -> Curve | None:
    """Each bucket at its last step. None before there are two points to join."""
    if len(buckets) < 2:
        return None
    losses = [bucket.loss for bucket in buckets]
    low, high = min(losses), max(losses)
    first, last = buckets[0].last, buckets[-1].last
    across, up = (WIDTH - LEFT - 6) / (last - first), (HEIGHT - BOTTOM - 8) / ((high - low) or 1.0)
    points = (f"{LEFT + (one.last - first) * across:.1f},{8 + (high - one.loss) * up:.1f}" for one in buckets)
    return Curve(" ".join(points), low, high, first, last)


def remaining(view: MetricsView) -> str | None:
    """How much longer at the speed of the last steps, for people."""
    if view.phase != "training" or not view.recent or view.tokens_per_s <= 0:
        return None
    tokens = view.recent[-1].tokens * (view.steps - view.step)
    minutes = round(tokens / view.tokens_per_s / 60)
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else "under a minute"
    )
