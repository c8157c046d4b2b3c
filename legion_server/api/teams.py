"""Teams: anybody may look; volunteers found them, ask to join, admit and leave."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response, status

from legion.accounts import TeamChange, TeamId, TeamName, TeamRequest, TeamView
from legion_server.api.deps import Anyone, AWorker, BackendDep
from legion_server.api.problems import answers
from legion_server.store.accounts import Volunteer

router = APIRouter(tags=["teams"])

Id = Annotated[TeamId, Path(description="The team's id.")]
Name = Annotated[str, Path(min_length=1, max_length=64, description="A volunteer's nickname.")]


async def get_volunteer(backend: BackendDep, worker: AWorker) -> Volunteer:
    return await backend.accounts.of_worker(worker)


AVolunteer = Annotated[Volunteer, Depends(get_volunteer)]


@router.post("/teams", status_code=status.HTTP_201_CREATED, responses=answers(403, 404, 409))
async def found(body: TeamRequest, backend: BackendDep, who: AVolunteer) -> TeamView:
    """A new team; its founder leaves the one before."""
    return await backend.teams.view(await backend.teams.found(who, body), who)


@router.get("/teams/named", responses=answers(404))
async def called(
    backend: BackendDep, name: Annotated[TeamName, Query(description="However it is written.")]
) -> TeamView:
    """The team of that name, on the boards or not yet."""
    return await backend.teams.called(name)


@router.get("/boards/teams/{team_id}", responses=answers(403, 404))
async def show(team_id: Id, backend: BackendDep, caller: Anyone) -> TeamView:
    """Name, members who are on the boards, credit; for its founder also who asks to join."""
    viewer = await backend.accounts.volunteer_of(caller.worker_id) if caller.worker_id else None
    return await backend.teams.view(team_id, viewer)


@router.patch("/teams/{team_id}", responses=answers(403, 404, 409))
async def change(team_id: Id, body: TeamChange, backend: BackendDep, who: AVolunteer) -> TeamView:
    """Name, words, founder: by the founder."""
    await backend.teams.change(team_id, who, body)
    return await backend.teams.view(team_id, who)


@router.post("/teams/{team_id}/requests", responses=answers(403, 404))
async def ask(team_id: Id, backend: BackendDep, who: AVolunteer) -> TeamView:
    """Ask to join; the founder answers. In place of an earlier request, to whatever team."""
    await backend.teams.ask(team_id, who)
    return await backend.teams.view(team_id, who)


@router.delete("/teams/{team_id}/membership", status_code=status.HTTP_204_NO_CONTENT, responses=answers(403, 404))
async def leave(team_id: Id, backend: BackendDep, who: AVolunteer) -> Response:
    """Leave, or withdraw a request. What was earned stays with the team."""
    await backend.teams.withdraw(team_id, who)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.put("/teams/{team_id}/members/{nickname}", responses=answers(403, 404))
async def admit(team_id: Id, nickname: Name, backend: BackendDep, who: AVolunteer) -> TeamView:
    """Whoever asked to join is a member: by the founder."""
    await backend.teams.answer(team_id, who, nickname, admit=True)
    return await backend.teams.view(team_id, who)


@router.delete("/teams/{team_id}/requests/{nickname}", responses=answers(403, 404))
async def refuse(team_id: Id, nickname: Name, backend: BackendDep, who: AVolunteer) -> TeamView:
    """A request: by the founder."""
    await backend.teams.answer(team_id, who, nickname, admit=False)
    return await backend.teams.view(team_id, who)


@router.delete("/teams/{team_id}/members/{nickname}", responses=answers(403, 404))
async def expel(team_id: Id, nickname: Name, backend: BackendDep, who: AVolunteer) -> TeamView:
    """A member: by the founder."""
    await backend.teams.expel(team_id, who, nickname)
    return await backend.teams.view(team_id, who)
