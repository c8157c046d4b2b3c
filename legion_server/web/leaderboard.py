"""Who has contributed: the boards, a volunteer's page, a team's page."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse

from legion.accounts import Board, BoardRow, BoardView, DayView, Order, TeamId
from legion.ids import RunId
from legion_server.api.boards import RunQuery
from legion_server.api.deps import BackendDep
from legion_server.auth.sessions import Session
from legion_server.backend import Backend
from legion_server.domain.standing import DAY_S, day_of
from legion_server.web import charts
from legion_server.web.account import SignedIn
from legion_server.web.charts import Chart
from legion_server.web.render import fragment, page

router = APIRouter(include_in_schema=False)

ROWS = 50  # of a page
GRAPH_DAYS = 60
BOARDS: tuple[tuple[Board, str], ...] = (("volunteers", "Volunteers"), ("teams", "Teams"), ("devices", "Devices"))

BoardQuery = Annotated[Board, Query()]
OrderQuery = Annotated[Order, Query()]
After = Annotated[str | None, Query(max_length=200)]
Name = Annotated[str, Query(max_length=64)]
Nickname = Annotated[str, Path(min_length=1, max_length=64)]


@router.get("/leaderboard", response_class=HTMLResponse)
async def leaderboard(
    request: Request,
    backend: BackendDep,
    session: SignedIn,
    board: BoardQuery = "volunteers",
    run: RunQuery = None,
    order: OrderQuery = "credit",
    after: After = None,
    name: Name = "",
) -> HTMLResponse:
    found = await _board(backend, session, board, run, order, after)
    wanted = await backend.boards.search(board, name) if name.strip() else None
    links = _Links(board, run, order)
    current = backend.coordinator.run.run_id
    return page(
        request,
        "leaderboard.html",
        **found,
        boards=BOARDS,
        current=current,
        name=name,
        wanted=wanted,
        part="/parts/leaderboard?" + links.query(after=after),
    )


@router.get("/parts/leaderboard", response_class=HTMLResponse)
async def board_rows(
    request: Request,
    backend: BackendDep,
    session: SignedIn,
    board: BoardQuery = "volunteers",
    run: RunQuery = None,
    order: OrderQuery = "credit",
    after: After = None,
) -> HTMLResponse:
    return fragment(request, "board.html", **await _board(backend, session, board, run, order, after))


@router.get("/teams", response_class=HTMLResponse)
async def teams(request: Request, backend: BackendDep, session: SignedIn) -> HTMLResponse:
    return await leaderboard(request, backend, session, "teams")


@router.get("/volunteers/{nickname}", response_class=HTMLResponse)
async def volunteer(request: Request, nickname: Nickname, backend: BackendDep, _: SignedIn) -> HTMLResponse:
    view = await backend.boards.volunteer(nickname)
    return page(request, "volunteer.html", view=view, graph=graph(view.days, backend.clock()))


@router.get("/teams/{team_id}", response_class=HTMLResponse)
async def team(request: Request, team_id: TeamId, backend: BackendDep, _: SignedIn) -> HTMLResponse:
    view = await backend.teams.view(team_id)
    days = await backend.boards.days("teams", team_id)
    return page(request, "team.html", view=view, graph=graph(days, backend.clock()))


async def _board(
    backend: Backend, session: Session | None, board: Board, run: str | None, order: Order, after: str | None
) -> dict[str, Any]:
    run_id = RunId(run) if run else None
    view: BoardView = await backend.boards.page(board, run_id, order, after, ROWS)
    mine = await _own_row(backend, session, run_id, order) if board == "volunteers" else None
    return {"view": view, "board": board, "links": _Links(board, run, order), "after": after, "mine": mine}


async def _own_row(backend: Backend, session: Session | None, run_id: RunId | None, order: Order) -> BoardRow | None:
    """Of the volunteer whose browser asks."""
    volunteer = await backend.accounts.by_id(session.who) if session is not None and not session.is_admin else None
    return await backend.boards.own(volunteer, run_id, order) if volunteer is not None else None


class _Links:
    """To the same board, otherwise ordered, limited or turned over."""

    def __init__(self, board: Board, run: str | None, order: Order) -> None:
        self._now = {"board": board, "run": run, "order": order, "after": None}

    def query(self, **changed: str | None) -> str:
        return urlencode({key: value for key, value in (self._now | changed).items() if value})

    def to(self, **changed: str | None) -> str:
        return "/leaderboard?" + self.query(**changed)


def graph(days: Sequence[DayView], now: float) -> Chart | None:
    """Credit by day of the last while, days without any too; None if all are without."""
    credit = {view.day: view.credit for view in days}
    last = day_of(now)
    shown = range(last - GRAPH_DAYS + 1, last + 1)
    if not any(credit.get(day) for day in shown):
        return None
    return charts.bars("Credit by day", "day (UTC)", "credit", [(_date(day), credit.get(day, 0.0)) for day in shown])


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).strftime("%b %d")
