"""The server as an ASGI application. Everything it holds hangs on the app: there is no module-level state."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from legion import __version__
from legion.messages import Problem
from legion_server.api import (
    accounts,
    boards,
    checkpoints,
    events,
    health,
    metrics,
    network,
    problems,
    relays,
    rounds,
    runs,
    server_metrics,
    statistics,
    teams,
    workers,
)
from legion_server.api.limits import BodyLimit, RateLimit
from legion_server.api.request_metrics import Instruments, RequestMetrics
from legion_server.backend import Backend, own_names
from legion_server.forwarding import Forwarding
from legion_server.node import Node
from legion_server.service.coordinator import Clock
from legion_server.settings import Settings
from legion_server.web import account, assets, certificates, join, leaderboard, me, pages, render, status
from legion_server.web.log_ring import LogRing
from legion_server.web.operator import config as operator_config
from legion_server.web.operator import invites as operator_invites
from legion_server.web.operator import records as operator_records
from legion_server.web.operator import rounds as operator_rounds
from legion_server.web.operator import workers as operator_workers
from legion_server.web.security import Guard, SecurityHeaders

API = (
    health,
    runs,
    rounds,
    workers,
    accounts,
    boards,  # before teams, whose ids would take /search
    teams,
    statistics,
    network,
    relays,
    metrics,
    server_metrics,
    checkpoints,
    events,
)
OPERATOR = (operator_workers, operator_rounds, operator_config, operator_invites, operator_records)
PAGES = (pages, join, status, account, me, leaderboard, certificates, assets, *OPERATOR)
TAGS = [
    {"name": "run", "description": "The run: what it trains and with whom."},
    {"name": "rounds", "description": "How clusters average: plans, reports, the log and its updates."},
    {"name": "workers", "description": "Computers that train."},
    {"name": "accounts", "description": "Volunteers: a name for what their computers do."},
    {"name": "teams", "description": "Volunteers who count together."},
    {"name": "boards", "description": "Who has contributed how much."},
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
        with logs.listening():
            async with node.opened():
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
    logs = app.state.logs = LogRing()
    node = app.state.node = Node(settings, clock, steady, lambda backend: _show(app, backend), resume=resume)
    instruments = app.state.instruments = Instruments()
    problems.install(app, render.problem_page)
    app.add_middleware(BodyLimit)
    app.add_middleware(Guard, names=lambda: own_names(settings))
    app.add_middleware(RateLimit, node=node)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestMetrics, instruments=instruments)
    app.add_middleware(Forwarding, node=node)  # around all others
    for module in (*API, *PAGES):
        app.include_router(module.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _show(app: FastAPI, backend: Backend) -> None:
    app.state.backend = backend


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
