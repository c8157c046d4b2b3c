"""The status page: whether the server's parts are well, and what went wrong in the rounds, for anybody."""

from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from legion.errors import LegionError
from legion.messages import PROTOCOL
from legion_server.api.deps import BackendDep
from legion_server.backend import Backend
from legion_server.service.metrics import figures
from legion_server.web.account import SignedIn
from legion_server.web.render import fragment, page

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    state: Literal["good", "warn", "bad"]
    says: str


@router.get("/status", response_class=HTMLResponse)
async def status(request: Request, backend: BackendDep, _: SignedIn) -> HTMLResponse:
    return page(request, "status.html", **await _figures(backend))


@router.get("/parts/status", response_class=HTMLResponse)
async def status_figures(request: Request, backend: BackendDep) -> HTMLResponse:
    return fragment(request, "status_figures.html", **await _figures(backend))


async def _figures(backend: Backend) -> dict[str, Any]:
    state = backend.coordinator.state
    relays = backend.relays.living(backend.clock())
    rounds = figures(state.rounds, state.run) if state.rounds else None
    counters = rounds.counters.model_dump(exclude={"refused"}) if rounds else {}
    return {
        "health": await health(backend),
        "uptime_s": backend.clock() - backend.started_at,
        "protocol": PROTOCOL,
        "run": state.run,
        "relays": relays,
        "refused": sorted(rounds.counters.refused.items(), key=lambda one: (-one[1], one[0])) if rounds else [],
        "happened": [(name.replace("_", " "), count) for name, count in counters.items() if count],
    }


async def health(backend: Backend) -> list[Part]:
    """Without paths and addresses: strangers read it."""
    return [await _database(backend), _data(backend), _assembler(backend), _relays(backend), _run(backend)]


async def _database(backend: Backend) -> Part:
    name = "Database"
    try:
        await backend.store.tokens()
    except LegionError as error:
        return Part(name, "bad", error.title)
    return Part(name, "good", "Answers")


def _data(backend: Backend) -> Part:
    name = "Training data"
    if backend.datasets.failure is not None:
        return Part(name, "bad", backend.datasets.failure.title)
    if backend.coordinator.state.dataset is None:
        return Part(name, "warn", "Prepared when a worker or the operator asks for it")
    return Part(name, "good", "Prepared")


def _assembler(backend: Backend) -> Part:
    name = "Checkpoints"
    if not backend.settings.assembler:
        return Part(name, "good", "Kept as slices; this server does not join them")
    if backend.coordinator.given_up:
        return Part(name, "bad", f"{len(backend.coordinator.given_up)} could not be joined")
    newest = max((c.step for c in backend.coordinator.state.checkpoints.values() if c.assembled), default=None)
    return Part(name, "good", f"The newest is of step {newest:,}" if newest else "None yet")


def _relays(backend: Backend) -> Part:
    name, alive = "Relays", len(backend.relays.living(backend.clock()))
    enrolled = len(backend.relays.all(backend.clock()))
    if alive < enrolled:
        return Part(name, "warn", f"{alive} of {enrolled} can be reached")
    return Part(name, "good", f"{alive} can be reached" if alive else "None; workers reach one another directly")


def _run(backend: Backend) -> Part:
    run = backend.coordinator.run
    if run.phase == "failed":
        return Part("Run", "bad", run.failure.public if run.failure else "Failed")
    return Part("Run", "warn" if run.phase == "waiting" else "good", run.phase.capitalize())
