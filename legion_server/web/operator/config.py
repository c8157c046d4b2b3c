"""The run's configuration: edited as JSON, checked, shown as a difference, and only then accepted."""

import json
from typing import Any

from fastapi import APIRouter, Request, Response, status
from fastapi.responses import HTMLResponse, RedirectResponse

from legion.config import RunConfig, merge
from legion.errors import ConfigInvalid, LegionError
from legion_server.api.deps import BackendDep
from legion_server.domain.config_changes import changes, told
from legion_server.service.coordinator import check_unlocked
from legion_server.web.account import Operator, OperatorsForm
from legion_server.web.render import page

router = APIRouter(include_in_schema=False)


@router.get("/admin/config", response_class=HTMLResponse)
async def config(request: Request, backend: BackendDep, _: Operator) -> HTMLResponse:
    return _page(request, backend.coordinator.run.started, _text(backend.coordinator.run.config))


@router.post("/admin/config/check", response_class=HTMLResponse)
async def check(request: Request, backend: BackendDep, form: OperatorsForm) -> HTMLResponse:
    """What would change, or what is wrong; nothing changes yet."""
    run, text = backend.coordinator.run, form.get("config", "")
    try:
        check_unlocked(run)
        after = merge(run.config, _parsed(text))
    except LegionError as error:
        return _page(request, run.started, text, error=error)
    return _page(request, run.started, text, after=after, before=run.config)


@router.post("/admin/config", response_class=HTMLResponse)
async def accept(request: Request, backend: BackendDep, form: OperatorsForm) -> Response:
    """Prepares the data as well; on any error nothing changes."""
    run, text = backend.coordinator.run, form.get("config", "")
    try:
        after = await backend.datasets.configure(_parsed(text))
    except LegionError as error:
        return _page(request, run.started, text, error=error)
    await backend.audit.record("run.configure", run.run_id, told(run.config, after))
    return RedirectResponse("/admin/config", status.HTTP_303_SEE_OTHER)


def _page(
    request: Request,
    is_locked: bool,
    text: str,
    *,
    error: LegionError | None = None,
    before: RunConfig | None = None,
    after: RunConfig | None = None,
) -> HTMLResponse:
    found = changes(before, after) if before is not None and after is not None else None
    problems = error.details.get("errors", ()) if error is not None else ()
    return page(
        request,
        "operator/config.html",
        status=error.status if error is not None else 200,
        is_locked=is_locked,
        text=text,
        error=error,
        problems=problems,
        changes=found,
    )


def _text(config: RunConfig) -> str:
    return json.dumps(config.model_dump(mode="json"), indent=2)


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigInvalid(f"this is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigInvalid("a configuration is a JSON object: {...}")
    return found
