"""Signing in and out with a browser, and what pages ask about who is signed in.

Pages know people by the session's cookie only, programs by their bearer token only: a cookie opens no API route, so
nothing there can be forged by another site.
"""

from typing import Annotated
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Depends, Request, Response, status
from fastapi.exceptions import HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

from legion.errors import Refused, TooManyRequests, Unauthenticated, Unusable
from legion_server.api.deps import BackendDep, address_of
from legion_server.auth.sessions import ADMIN, Session
from legion_server.auth.tokens import same
from legion_server.web.render import page

router = APIRouter(include_in_schema=False)

COOKIE = "legion"
SECURE_COOKIE = "__Host-legion"  # browsers take it over HTTPS from this very host only
FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 500


async def signed_in(request: Request, backend: BackendDep) -> Session | None:
    """Whose browser this is; also for the layout, as `session`."""
    token = request.cookies.get(_cookie_name(request))
    session = await backend.sessions.find(token) if token else None
    request.state.session = session
    return session


SignedIn = Annotated[Session | None, Depends(signed_in)]


def require_operator(request: Request, session: SignedIn) -> Session:
    """Others are shown where to sign in, or, if they are volunteers, that this is not for them."""
    if session is None:
        _send_to_sign_in(request)
        raise Unauthenticated("only the operator sees this page", hint="Sign in first.")
    if not session.is_admin:
        raise Refused("only the operator sees this page")
    return session


def require_volunteer(request: Request, session: SignedIn) -> Session:
    if session is None:
        raise Unauthenticated("nobody is signed in", hint="Sign in from the Legion app on your computer.")
    if session.is_admin:
        raise Refused("this page is a volunteer's own", hint="Sign in from the Legion app on your computer.")
    return session


Operator = Annotated[Session, Depends(require_operator)]
AVolunteer = Annotated[Session, Depends(require_volunteer)]


async def fields(request: Request) -> dict[str, str]:
    """A form's fields, the last of each name; before any session is looked at."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Unusable("this is not a form of a page", hint="Use the page's own form.")
    try:
        text = (await request.body()).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError as error:
        raise Unusable(f"the form cannot be read: {error}", hint="Use the page's own form.") from error


Fields = Annotated[dict[str, str], Depends(fields)]


def operators_form(session: Operator, form: Fields) -> dict[str, str]:
    """A form that the operator sent from a page of this session."""
    session.check(form.get("csrf", ""))
    return form


def volunteers_form(session: AVolunteer, form: Fields) -> dict[str, str]:
    session.check(form.get("csrf", ""))
    return form


OperatorsForm = Annotated[dict[str, str], Depends(operators_form)]
VolunteersForm = Annotated[dict[str, str], Depends(volunteers_form)]


@router.get("/sign-in", response_class=HTMLResponse)
async def sign_in_page(request: Request, session: SignedIn, next: str = "/admin") -> Response:  # noqa: A002  as browsers say
    if session is not None and session.is_admin:
        return RedirectResponse(own_path(next), status.HTTP_303_SEE_OTHER)
    return page(request, "sign_in.html", next=own_path(next), problem=None)


@router.post("/sign-in", response_class=HTMLResponse)
async def sign_in(request: Request, backend: BackendDep, session: SignedIn, form: Fields) -> Response:
    """With the admin's token. A wrong one counts as a failure of the address."""
    address, now, goal = address_of(request), backend.clock(), own_path(form.get("next", ""))
    try:
        backend.failures.check(address, now)
    except TooManyRequests as error:
        headers = {"Retry-After": str(round(error.details["retry_after_s"]) + 1)}
        problem = "Too many attempts from your address. Wait a minute."
        return page(request, "sign_in.html", status=429, headers=headers, next=goal, problem=problem)
    if not same(form.get("token", "").strip(), backend.admin_token_sha256):
        backend.failures.failed(address, now)
        await backend.audit.record("sign-in.failed", detail=f"from {address}", who="anybody")
        return page(request, "sign_in.html", status=401, next=goal, problem="That is not the admin's token.")
    if session is not None:
        await backend.sessions.close(session)
    token, opened = await backend.sessions.open(ADMIN)
    await backend.audit.record("sign-in", detail=f"from {address}")
    answer = RedirectResponse(goal, status.HTTP_303_SEE_OTHER)
    remember(request, answer, token, round(opened.expires_at - opened.created_at))
    return answer


@router.post("/sign-out")
async def sign_out(request: Request, backend: BackendDep, session: SignedIn, form: Fields) -> Response:
    if session is not None:
        session.check(form.get("csrf", ""))
        await backend.sessions.close(session)
        if session.is_admin:
            await backend.audit.record("sign-out")
    answer = RedirectResponse("/", status.HTTP_303_SEE_OTHER)
    answer.delete_cookie(_cookie_name(request), secure=_is_https(request), httponly=True, samesite="lax")
    return answer


def remember(request: Request, answer: Response, token: str, life_s: int) -> None:
    """Let the browser keep a session that was opened for it (`Sessions.open`)."""
    answer.set_cookie(
        _cookie_name(request), token, max_age=life_s, path="/", secure=_is_https(request), httponly=True, samesite="lax"
    )


def own_path(text: str) -> str:
    """A path of this server, whatever the address said: browsers take // and backslashes for another host."""
    is_own = text.startswith("/") and not text.startswith("//") and text.isprintable() and "\\" not in text
    return text if is_own else "/admin"


def _send_to_sign_in(request: Request) -> None:
    """Of a page that was asked for, not of a form or a part."""
    if request.method == "GET" and not request.url.path.startswith("/parts/"):
        place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        raise HTTPException(status.HTTP_303_SEE_OTHER, headers={"Location": f"/sign-in?next={quote(place)}"})


def _cookie_name(request: Request) -> str:
    return SECURE_COOKIE if _is_https(request) else COOKIE


def _is_https(request: Request) -> bool:
    """Also through a trusted proxy, which says so."""
    return request.url.scheme == "https"
