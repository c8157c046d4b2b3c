"""A volunteer's own page, for a browser that was signed in by a link from the Legion app."""

from collections.abc import Awaitable
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response, status
from fastapi.responses import HTMLResponse, RedirectResponse

from legion.accounts import AccountChange, TeamRequest
from legion.errors import AccountMissing, LegionError, Unauthenticated, Unusable
from legion_server.api.deps import BackendDep
from legion_server.backend import Backend
from legion_server.store.accounts import Volunteer
from legion_server.web.account import AVolunteer, SignedIn, VolunteersForm, fields, remember
from legion_server.web.leaderboard import graph
from legion_server.web.render import page

router = APIRouter(include_in_schema=False)

SEE_OTHER = status.HTTP_303_SEE_OTHER
Token = Annotated[str, Path(min_length=1, max_length=100)]


async def get_volunteer(backend: BackendDep, session: AVolunteer) -> Volunteer:
    volunteer = await backend.accounts.by_id(session.who)
    if volunteer is None:
        raise AccountMissing
    return volunteer


Me = Annotated[Volunteer, Depends(get_volunteer)]


@router.get("/sign-in/{token}", response_class=HTMLResponse)
async def arrive(request: Request, token: Token, backend: BackendDep, _: SignedIn) -> Response:
    """Asks first: programs that look at links must not use them up."""
    holder = await backend.accounts.holder("sign-in", token)
    if holder is None:
        raise _used_up()
    return page(request, "arrive.html", nickname=holder.nickname, token=token)


@router.post("/sign-in/{token}", dependencies=[Depends(fields)])
async def sign_in(request: Request, token: Token, backend: BackendDep, session: SignedIn) -> Response:
    volunteer = await backend.accounts.signs_in(token)
    if volunteer is None:
        raise _used_up()
    if session is not None:
        await backend.sessions.close(session)
    cookie, opened = await backend.sessions.open(volunteer.volunteer_id)
    answer = RedirectResponse("/me", SEE_OTHER)
    remember(request, answer, cookie, round(opened.expires_at - opened.created_at))
    return answer


@router.get("/me", response_class=HTMLResponse)
async def me(request: Request, backend: BackendDep, who: Me) -> HTMLResponse:
    return await _page(request, backend, who)


@router.get("/me/data.json")
async def data(backend: BackendDep, who: Me) -> Response:
    known = await backend.accounts.known(who, backend.coordinator.state.workers)
    headers = {"Content-Disposition": "attachment; filename=legion-data.json", "Cache-Control": "no-store"}
    return Response(known.model_dump_json(indent=2), media_type="application/json", headers=headers)


@router.post("/me/choices")
async def choices(request: Request, backend: BackendDep, who: Me, form: VolunteersForm) -> Response:
    change = AccountChange(
        nickname=form.get("nickname", "")[:64] or None, listed="listed" in form, exported="exported" in form
    )
    return await _done(request, backend, who, backend.accounts.change(who, change))


@router.post("/me/link-code", response_class=HTMLResponse)
async def link_code(request: Request, backend: BackendDep, who: Me, _: VolunteersForm) -> HTMLResponse:
    code = await backend.accounts.link_code(who)
    return await _page(request, backend, who, code=f"{code.code[:4]} {code.code[4:]}")


@router.post("/me/recovery", response_class=HTMLResponse)
async def recovery(request: Request, backend: BackendDep, who: Me, _: VolunteersForm) -> HTMLResponse:
    return await _page(request, backend, who, phrase=await backend.accounts.new_phrase(who))


@router.post("/me/devices/{number}/unlink")
async def unlink(
    request: Request, number: Annotated[int, Path(ge=1, le=2**31 - 1)], backend: BackendDep, who: Me, _: VolunteersForm
) -> Response:
    return await _done(request, backend, who, backend.accounts.unlink(who, number))


@router.post("/me/devices/{number}/revoke")
async def revoke(
    request: Request, number: Annotated[int, Path(ge=1, le=2**31 - 1)], backend: BackendDep, who: Me, _: VolunteersForm
) -> Response:
    """Of a device that was lost or sold: it is nobody's, and takes no part any more."""

    async def both() -> None:
        await backend.coordinator.revoke(await backend.accounts.unlink(who, number))

    return await _done(request, backend, who, both())


@router.post("/me/team")
async def team(request: Request, backend: BackendDep, who: Me, form: VolunteersForm) -> Response:
    """Found one, or about the one they are in: `do` says what."""
    return await _done(request, backend, who, _team(backend, who, form))


async def _team(backend: Backend, who: Volunteer, form: dict[str, str]) -> None:
    team_id, nickname = form.get("team_id", ""), form.get("nickname", "")
    match form.get("do"):
        case "found":
            name, about = form.get("name", "")[:128] or "-", form.get("about", "")[:1000]
            await backend.teams.found(who, TeamRequest(name=name, about=about))
        case "ask":
            await backend.teams.ask(team_id, who)
        case "leave":
            await backend.teams.withdraw(team_id, who)
        case "admit" | "refuse" as answer:
            await backend.teams.answer(team_id, who, nickname, admit=answer == "admit")
        case "expel":
            await backend.teams.expel(team_id, who, nickname)
        case _:
            raise Unusable("the form does not say what to do", hint="Use the page's own form.")


@router.post("/me/forget")
async def forget(request: Request, backend: BackendDep, who: Me, form: VolunteersForm) -> Response:
    try:
        devices = await backend.accounts.forget(who, form.get("nickname", ""))
    except Unusable as error:
        return await _page(request, backend, who, problem=error)
    if "devices" in form:
        await backend.coordinator.erase(devices)
    return RedirectResponse("/", SEE_OTHER)


async def _done(request: Request, backend: Backend, who: Volunteer, change: Awaitable[object]) -> Response:
    """Back to the page; with what is wrong, if something is."""
    try:
        await change
    except LegionError as error:
        if error.status >= status.HTTP_500_INTERNAL_SERVER_ERROR:
            raise
        return await _page(request, backend, who, problem=error)
    return RedirectResponse("/me", SEE_OTHER)


async def _page(
    request: Request,
    backend: Backend,
    who: Volunteer,
    *,
    problem: LegionError | None = None,
    code: str | None = None,
    phrase: str | None = None,
) -> HTMLResponse:
    view = await backend.accounts.view_of(who)
    team = await backend.teams.view(view.team.team_id, who) if view.team else None
    days = await backend.boards.days("volunteers", who.volunteer_id)
    return page(
        request,
        "me.html",
        status=problem.status if problem else 200,
        view=view,
        team=team,
        graph=graph(days, backend.clock()),
        problem=problem,
        code=code,
        phrase=phrase,
    )


def _used_up() -> Unauthenticated:
    return Unauthenticated(
        "this link was used already, or is older than 5 minutes", hint="Ask for another in the Legion app."
    )
