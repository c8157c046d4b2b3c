"""Teams of volunteers in the database, and who asks to join."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from legion.errors import NameTaken
from legion_server.store import attribution
from legion_server.store import tables as t
from legion_server.store.database import Database
from legion_server.store.periods import end_periods, succeed


@dataclass(frozen=True, slots=True)
class Team:
    """`founder`: a volunteer's id, who admits others; None: everybody has left, and whoever comes founds it anew."""

    team_id: str
    name: str
    about: str
    founder: str | None
    created_at: float  # s since 1970


@dataclass(frozen=True, slots=True)
class Member:
    volunteer_id: str
    nickname: str
    listed: bool
    since: float  # s since 1970


class TeamStore:
    """A volunteer is in one team at most. What a member earns counts for the team it is in at that moment."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def found(self, team: Team, name_key: str, now: float) -> None:
        """With its founder as the only member, who leaves the team before. NameTaken."""
        assert team.founder is not None
        row = {
            "team_id": team.team_id,
            "name": team.name,
            "name_key": name_key,
            "about": team.about,
            "founder": team.founder,
            "created_at": team.created_at,
        }
        async with self._database.writing() as connection:
            moment = await attribution.next_moment(self._database, connection)
            try:
                await connection.execute(sa.insert(t.teams).values(row))
            except IntegrityError as error:
                raise NameTaken(f"there is a team {team.name} already") from error
            await self._enter(connection, team.team_id, team.founder, moment, now)

    async def admit(self, team_id: str, volunteer_id: str, now: float) -> bool:
        """Whoever asked to join is a member now; False for one who has not, or no longer."""
        c = t.team_requests.c
        async with self._database.writing() as connection:
            moment = await attribution.next_moment(self._database, connection)
            asked = sa.delete(t.team_requests).where(c.volunteer_id == volunteer_id, c.team_id == team_id)
            if (await connection.execute(asked)).rowcount == 0:
                return False
            await self._enter(connection, team_id, volunteer_id, moment, now)
            return True

    async def adopt(self, team_id: str, volunteer_id: str, now: float) -> bool:
        """Found a team anew that everybody has left; False when somebody is there."""
        c = t.teams.c
        async with self._database.writing() as connection:
            moment = await attribution.next_moment(self._database, connection)
            empty = sa.update(t.teams).where(c.team_id == team_id, c.founder.is_(None)).values(founder=volunteer_id)
            if (await connection.execute(empty)).rowcount == 0:
                return False
            await self._enter(connection, team_id, volunteer_id, moment, now)
            return True

    async def _enter(
        self, connection: AsyncConnection, team_id: str, volunteer_id: str, moment: int, now: float
    ) -> None:
        await connection.execute(sa.delete(t.team_requests).where(t.team_requests.c.volunteer_id == volunteer_id))
        await end_periods(connection, t.team_members, t.team_members.c.volunteer_id == volunteer_id, moment)
        member = {"volunteer_id": volunteer_id, "since": moment, "team_id": team_id, "at": now}
        await connection.execute(sa.insert(t.team_members).values(member))
        await succeed(connection, volunteer_id)

    async def leave(self, volunteer_id: str) -> None:
        """What they earned stays with the team; a founder is followed by whoever has been a member for longest."""
        async with self._database.writing() as connection:
            moment = await attribution.next_moment(self._database, connection)
            await end_periods(connection, t.team_members, t.team_members.c.volunteer_id == volunteer_id, moment)
            await succeed(connection, volunteer_id)

    async def ask(self, team_id: str, volunteer_id: str, now: float) -> None:
        """To join; in place of an earlier request, to whatever team."""
        row = {"volunteer_id": volunteer_id, "team_id": team_id, "at": now}
        async with self._database.writing() as connection:
            await self._database.put(connection, t.team_requests, row)

    async def withdraw(self, team_id: str, volunteer_id: str) -> bool:
        """A request, by who asked or who was asked."""
        c = t.team_requests.c
        async with self._database.writing() as connection:
            asked = sa.delete(t.team_requests).where(c.volunteer_id == volunteer_id, c.team_id == team_id)
            return (await connection.execute(asked)).rowcount > 0

    async def change(self, team: Team, name_key: str) -> None:
        """Its name, words and founder. NameTaken."""
        values = {"name": team.name, "name_key": name_key, "about": team.about, "founder": team.founder}
        async with self._database.writing() as connection:
            try:
                await connection.execute(sa.update(t.teams).where(t.teams.c.team_id == team.team_id).values(values))
            except IntegrityError as error:
                raise NameTaken(f"there is a team {team.name} already") from error

    async def by_id(self, team_id: str) -> Team | None:
        return await self._one(t.teams.c.team_id == team_id)

    async def by_name(self, name_key: str) -> Team | None:
        return await self._one(t.teams.c.name_key == name_key)

    async def of_volunteer(self, volunteer_id: str) -> Team | None:
        c = t.team_members.c
        theirs = sa.select(c.team_id).where(c.volunteer_id == volunteer_id, c.until.is_(None))
        return await self._one(t.teams.c.team_id == theirs.scalar_subquery())

    async def asked_by(self, volunteer_id: str) -> Team | None:
        """The team that the volunteer would like to join."""
        c = t.team_requests.c
        asked = sa.select(c.team_id).where(c.volunteer_id == volunteer_id)
        return await self._one(t.teams.c.team_id == asked.scalar_subquery())

    async def _one(self, which: sa.ColumnElement[bool]) -> Team | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(sa.select(t.teams).where(which))).first()
        return Team(row.team_id, row.name, row.about, row.founder, row.created_at) if row else None

    async def members(self, team_id: str) -> list[Member]:
        """Those that are there now, the longest first."""
        c = t.team_members.c
        return await self._people(t.team_members, sa.and_(c.team_id == team_id, c.until.is_(None)), c.at)

    async def requests(self, team_id: str) -> list[Member]:
        """Who asks to join, the longest first; `since`: when they asked."""
        c = t.team_requests.c
        return await self._people(t.team_requests, c.team_id == team_id, c.at)

    async def _people(
        self, table: sa.Table, which: sa.ColumnElement[bool], when: sa.ColumnElement[float]
    ) -> list[Member]:
        people = t.volunteers.c
        query = (
            sa.select(people.volunteer_id, people.nickname, people.listed, when.label("since"))
            .join(table, table.c.volunteer_id == people.volunteer_id)
            .where(which)
            .order_by(when, people.volunteer_id)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [Member(row.volunteer_id, row.nickname, row.listed, row.since) for row in rows]
