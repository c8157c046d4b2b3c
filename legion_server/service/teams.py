"""What volunteers do with teams: found them, ask to join, admit, leave."""

from collections.abc import Callable
from dataclasses import replace

from legion.accounts import TeamChange, TeamMember, TeamRequest, TeamView
from legion.errors import NotFound, Refused
from legion_server.domain import accounts as rules
from legion_server.service.accounts import new_id, standing_of
from legion_server.store.accounts import AccountStore, Volunteer
from legion_server.store.standings import StandingStore
from legion_server.store.teams import Member, Team, TeamStore


class Teams:
    """Every change is in the database when a call returns."""

    def __init__(
        self, accounts: AccountStore, teams: TeamStore, standings: StandingStore, clock: Callable[[], float]
    ) -> None:
        self._accounts = accounts
        self._teams = teams
        self._standings = standings
        self._clock = clock

    async def view(self, team_id: str, viewer: Volunteer | None = None) -> TeamView:
        """NotFound. The founder sees who asks to join."""
        team = await self._team(team_id)
        members = await self._teams.members(team_id)
        leads = viewer is not None and viewer.volunteer_id == team.founder
        founder = next((m.nickname for m in members if m.volunteer_id == team.founder and m.listed), None)
        return TeamView(
            team_id=team.team_id,
            name=team.name,
            about=team.about,
            created_at=team.created_at,
            founder=founder,
            member_count=len(members),
            members=tuple(_shown(member) for member in members if member.listed),
            requests=tuple(map(_shown, await self._teams.requests(team_id))) if leads else (),
            standing=standing_of(await self._standings.one("teams", team_id), self._clock()),
        )

    async def called(self, name: str, viewer: Volunteer | None = None) -> TeamView:
        """However it is written. NotFound."""
        team = await self._teams.by_name(rules.folded(name))
        if team is None:
            raise NotFound(f"there is no team {name!r} here")
        return await self.view(team.team_id, viewer)

    async def found(self, founder: Volunteer, request: TeamRequest) -> str:
        """The id of a new team, with its founder in it. NameTaken, NameUnusable."""
        (name, key), now = rules.team_name(request.name), self._clock()
        team = Team(new_id(), name, rules.about(request.about), founder.volunteer_id, now)
        await self._teams.found(team, key, now)
        return team.team_id

    async def change(self, team_id: str, who: Volunteer, change: TeamChange) -> None:
        """By the founder, who may make another member the founder."""
        team = await self._led(team_id, who)
        name, key = rules.team_name(team.name if change.name is None else change.name)
        founder = team.founder
        if change.founder is not None:
            founder = (await self._member(team, change.founder)).volunteer_id
        about = team.about if change.about is None else rules.about(change.about)
        await self._teams.change(replace(team, name=name, about=about, founder=founder), key)

    async def ask(self, team_id: str, who: Volunteer) -> None:
        """To join; a team that everybody has left is joined at once, and led."""
        team, present = await self._team(team_id), await self._teams.of_volunteer(who.volunteer_id)
        if present is not None and present.team_id == team_id:
            return
        now = self._clock()
        if team.founder is None and await self._teams.adopt(team_id, who.volunteer_id, now):
            return
        await self._teams.ask(team_id, who.volunteer_id, now)

    async def answer(self, team_id: str, who: Volunteer, nickname: str, *, admit: bool) -> None:
        """A request, by the founder. NotFound when there is none."""
        team = await self._led(team_id, who)
        asking = await self._named(await self._teams.requests(team.team_id), nickname)
        answered = (
            await self._teams.admit(team_id, asking.volunteer_id, self._clock())
            if admit
            else await self._teams.withdraw(team_id, asking.volunteer_id)
        )
        if not answered:
            raise NotFound(f"{nickname} does not ask to join {team.name} any more")

    async def withdraw(self, team_id: str, who: Volunteer) -> None:
        """One's own request, or membership."""
        present = await self._teams.of_volunteer(who.volunteer_id)
        if present is not None and present.team_id == team_id:
            await self._teams.leave(who.volunteer_id)
        elif not await self._teams.withdraw(team_id, who.volunteer_id):
            raise NotFound(f"{who.nickname} is not in this team, and has not asked to join it")

    async def expel(self, team_id: str, who: Volunteer, nickname: str) -> None:
        """A member, by the founder; what the member earned stays with the team."""
        team = await self._led(team_id, who)
        await self._teams.leave((await self._member(team, nickname)).volunteer_id)

    async def _team(self, team_id: str) -> Team:
        team = await self._teams.by_id(team_id)
        if team is None:
            raise NotFound("there is no such team")
        return team

    async def _led(self, team_id: str, who: Volunteer) -> Team:
        team = await self._team(team_id)
        if team.founder != who.volunteer_id:
            raise Refused(f"only the founder of {team.name} may do this", hint="Ask the team's founder.")
        return team

    async def _member(self, team: Team, nickname: str) -> Member:
        return await self._named(await self._teams.members(team.team_id), nickname)

    async def _named(self, people: list[Member], nickname: str) -> Member:
        key = rules.folded(nickname.strip())
        for person in people:
            if rules.folded(person.nickname) == key:
                return person
        raise NotFound(f"there is no {nickname} among them")


def _shown(member: Member) -> TeamMember:
    return TeamMember(nickname=member.nickname, since=member.since)
