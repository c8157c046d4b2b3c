"""Invites: made, listed, withdrawn; one may be shown on the join page."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, status
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field, ValidationError

from legion.errors import Unusable
from legion_server.api.checkpoints import SHA256
from legion_server.api.deps import BackendDep
from legion_server.auth.invites import Made
from legion_server.backend import Backend
from legion_server.web.account import Operator, OperatorsForm
from legion_server.web.render import page

router = APIRouter(include_in_schema=False)

DAY_S = 86_400.0


class Wish(BaseModel, frozen=True):
    """The form, as text."""

    uses: Annotated[int, Field(ge=1, le=10_000)] = 1
    days: Annotated[float, Field(gt=0, le=365)] = 7.0
    note: Annotated[str, Field(max_length=80)] = ""
    purpose: Annotated[str, Field(pattern="^(worker|relay|public)$")] = "worker"


@router.get("/admin/invites", response_class=HTMLResponse)
async def invites(request: Request, backend: BackendDep, _: Operator) -> HTMLResponse:
    return await _page(request, backend, None)


@router.post("/admin/invites", response_class=HTMLResponse)
async def make(request: Request, backend: BackendDep, form: OperatorsForm) -> HTMLResponse:
    """Its text is in the answer, and nowhere else."""
    try:
        wish = Wish.model_validate({name: text for name, text in form.items() if name != "csrf"})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Unusable(f"{first['loc'][0]}: {first['msg']}") from error
    is_public = wish.purpose == "public"
    made = await backend.invites.make(
        wish.uses, wish.days * DAY_S, relay=wish.purpose == "relay", note=wish.note, public=is_public
    )
    detail = f"for {wish.uses} {made.purpose}s, {wish.days:g} days{', public' if is_public else ''}"
    await backend.audit.record("invite.make", made.known_by[:12], detail)
    return await _page(request, backend, made)


@router.post("/admin/invites/{known_by}/withdraw")
async def withdraw(backend: BackendDep, known_by: Annotated[str, Path(pattern=SHA256)], _: OperatorsForm) -> Response:
    await backend.invites.withdraw(known_by)
    await backend.audit.record("invite.withdraw", known_by[:12])
    return RedirectResponse("/admin/invites", status.HTTP_303_SEE_OTHER)


async def _page(request: Request, backend: Backend, made: Made | None) -> HTMLResponse:
    listed = await backend.invites.listed()
    return page(request, "operator/invites.html", invites=listed, made=made, now=backend.clock())
