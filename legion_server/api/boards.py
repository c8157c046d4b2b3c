"""Boards as JSON, for anybody."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from legion.accounts import Board, BoardRow, BoardView, Order, VolunteerView
from legion.ids import RunId
from legion_server.api.deps import BackendDep
from legion_server.api.problems import answers

router = APIRouter(tags=["boards"])

RunQuery = Annotated[str | None, Query(pattern="^run-[0-9a-f]{1,28}$", description="Credit of this run; none: of all.")]


@router.get("/boards/{board}", responses=answers())
async def page(
    backend: BackendDep,
    board: Board,
    run: RunQuery = None,
    order: Annotated[
        Order, Query(description="credit: all of it; recent: the average of the last week or so.")
    ] = "credit",
    after: Annotated[str | None, Query(max_length=200, description="As the page before gave it.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> BoardView:
    """Who has contributed how much, best first. `after` of an answer begins the next page."""
    return await backend.boards.page(board, RunId(run) if run else None, order, after, limit)


@router.get("/boards/{board}/search", responses=answers())
async def search(
    backend: BackendDep, board: Board, name: Annotated[str, Query(min_length=1, max_length=64)]
) -> list[BoardRow]:
    """At most 20 volunteers or teams whose name begins so."""
    return list(await backend.boards.search(board, name))


@router.get("/boards/volunteers/{nickname}", responses=answers(404))
async def volunteer(backend: BackendDep, nickname: Annotated[str, Path(min_length=1, max_length=64)]) -> VolunteerView:
    """What anybody may see of a volunteer who is on the boards."""
    return await backend.boards.volunteer(nickname)
