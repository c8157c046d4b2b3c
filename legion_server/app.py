"""The server as an ASGI application. Everything it holds hangs on the app: there is no module-level state."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from legion import __version__
from legion.messages import Problem
from legion_server import backend
from legion_server.api import checkpoints, events, metrics, network, problems, relays, rounds, runs, workers
from legion_server.api.limits import BodyLimit
from legion_server.service.coordinator import Clock
from legion_server.settings import Settings
from legion_server.web import pages

TAGS = [
    {"name": "run", "description": "The run: what it trains and with whom."},
    {"name": "rounds", "description": "How clusters average: plans, reports, the log and its updates."},
    {"name": "workers", "description": "Computers that train."},
    {"name": "network", "description": "What workers measure their line with, and how they are reached."},
    {"name": "metrics", "description": "What the run achieves."},
    {"name": "checkpoints", "description": "Slices from members, folders for everybody's tools."},
    {"name": "data", "description": "What is trained on, by hash and range."},
    {"name": "admin", "description": "For the operator."},
]


def create_app(
    settings: Settings, clock: Clock = time.time, *, resume: bool = False, steady: Clock | None = None
) -> FastAPI:
    """The application; its lifespan opens the data folder and may raise any LegionError that this can meet."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with backend.opened(settings, clock, resume=resume, steady=steady) as opened:
            app.state.backend = opened
            yield

    app = FastAPI(
        title="Legion server",
        summary="Coordinates the training of a language model by many computers.",
        version=__version__,
        lifespan=lifespan,
        openapi_tags=TAGS,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    problems.install(app)
    app.add_middleware(BodyLimit)
    for module in (runs, rounds, workers, network, relays, metrics, checkpoints, events, pages):
        app.include_router(module.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, with the one schema that all errors have."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes, tags=app.openapi_tags
        )
        body = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        components.update(body.pop("$defs", {}))
        components["Problem"] = body
        for unused in ("HTTPValidationError", "ValidationError"):
            components.pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema
