"""Volunteers, their devices and their teams in the database."""

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from legion.errors import NameTaken, NotFound
from legion.ids import WorkerId
from legion_server.store import attribution, ledger
from legion_server.store import tables as t
from legion_server.store.attribution import Line, Owner, Sums
from legion_server.store.database import Database
from legion_server.store.periods import end_periods, succeed

PassKind = Literal["device", "sign-in"]


@dataclass(frozen=True, slots=True)
class Volunteer:
    volunteer_id: str
    nickname: str
    listed: bool  # on the boards
    exported: bool  # in the statistics export
    created_at: float  # s since 1970


@dataclass(frozen=True, slots=True)
class Device:
    worker_id: WorkerId
    number: int
    linked_at: float  # s since 1970


class AccountStore:
    """Errors as `Database` has them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self, volunteer: Volunteer, nickname_key: str, recovery_sha256: str, worker: WorkerId, now: float
    ) -> None:
        """A new volunteer, whose first device this is. NameTaken."""
        row = {
            "volunteer_id": volunteer.volunteer_id,
            "nickname": volunteer.nickname,
            "nickname_key": nickname_key,
            "recovery_sha256": recovery_sha256,
            "listed": volunteer.listed,
            "exported": volunteer.exported,
            "created_at": volunteer.created_at,
        }
        async with self._database.writing() as connection:
            moment = await attribution.next_moment(self._database, connection)
            await _unless_taken(connection, sa.insert(t.volunteers).values(row), volunteer.nickname)
            await self._link(connection, worker, volunteer.volunteer_id, moment, now)

    async def link(self, worker: WorkerId, volunteer_id: str, now: float) -> None:
        """Another device of theirs; one that was somebody else's changes hands."""
        async with self._database.writing() as connection:
            moment = await attribution.next_moment(self._database, connection)
            await self._link(connection, worker, volunteer_id, moment, now)

    async def unlink(self, worker: WorkerId) -> None:
        """What it earned stays with the volunteer."""
        async with self._database.writing() as connection:
            moment = await attribution.next_moment(self._database, connection)
            await end_periods(connection, t.device_links, t.device_links.c.worker_id == worker, moment)
            await _show(connection, "devices", [worker], shown=True)

    async def _link(
        self, connection: AsyncConnection, worker: WorkerId, volunteer_id: str, moment: int, now: float
    ) -> None:
        c = t.device_links.c
        theirs = (
            await connection.execute(sa.select(c.volunteer_id, c.until).where(c.worker_id == worker).order_by(c.since))
        ).all()
        if theirs and theirs[-1].until is None:
            if theirs[-1].volunteer_id == volunteer_id:
                return
            await end_periods(connection, t.device_links, c.worker_id == worker, moment)
        await ledger.number(self._database, connection, [worker])
        # The past of a device that was nobody's comes with it; that of one which changed hands stays.
        since = moment if theirs else 0
        await connection.execute(
            sa.insert(t.device_links).values(worker_id=worker, since=since, volunteer_id=volunteer_id, at=now)
        )
        listed = await _listed(connection, volunteer_id)
        if not theirs:
            await self._attribute_past(connection, worker, volunteer_id, listed)
        await _show(connection, "devices", [worker], shown=listed)

    async def _attribute_past(
        self, connection: AsyncConnection, worker: WorkerId, volunteer_id: str, listed: bool
    ) -> None:
        members, lines, sums = t.team_members.c, t.credit_lines.c, Sums()
        belonged = (
            await connection.execute(sa.select(t.team_members).where(members.volunteer_id == volunteer_id))
        ).all()
        query = sa.select(t.credit_lines).where(lines.worker_id == worker)
        for row in await connection.execute(query):
            held = (m.team_id for m in belonged if m.since <= row.moment and (m.until is None or row.moment < m.until))
            line = Line(row.run_id, worker, row.tokens, row.mflop, row.at, row.moment)
            sums.add_of(Owner(volunteer_id, listed, next(held, None)), line)
        await attribution.write(self._database, connection, sums)

    async def change(self, volunteer: Volunteer, nickname_key: str) -> None:
        """Nickname, and where it is shown. NameTaken."""
        values = {
            "nickname": volunteer.nickname,
            "nickname_key": nickname_key,
            "listed": volunteer.listed,
            "exported": volunteer.exported,
        }
        which = t.volunteers.c.volunteer_id == volunteer.volunteer_id
        async with self._database.writing() as connection:
            await attribution.next_moment(self._database, connection)  # no round is credited meanwhile
            await _unless_taken(connection, sa.update(t.volunteers).where(which).values(values), volunteer.nickname)
            await _show(connection, "volunteers", [volunteer.volunteer_id], shown=volunteer.listed)
            devices = await _devices_of(connection, volunteer.volunteer_id)
            await _show(connection, "devices", [device.worker_id for device in devices], shown=volunteer.listed)

    async def forget(self, volunteer_id: str) -> None:
        """Nothing is left but numbers: lines of the ledger, and that somebody without a name once had them."""
        async with self._database.writing() as connection:
            moment = await attribution.next_moment(self._database, connection)
            devices = await _devices_of(connection, volunteer_id)
            await end_periods(connection, t.device_links, t.device_links.c.volunteer_id == volunteer_id, moment)
            await end_periods(connection, t.team_members, t.team_members.c.volunteer_id == volunteer_id, moment)
            await succeed(connection, volunteer_id)
            for table in (t.passes, t.team_requests):
                await connection.execute(sa.delete(table).where(table.c.volunteer_id == volunteer_id))
            nothing = {"nickname": None, "nickname_key": None, "recovery_sha256": None}
            await connection.execute(
                sa.update(t.volunteers)
                .where(t.volunteers.c.volunteer_id == volunteer_id)
                .values(nothing | {"listed": False, "exported": False})
            )
            await _show(connection, "volunteers", [volunteer_id], shown=False)
            await _show(connection, "devices", [device.worker_id for device in devices], shown=True)

    async def of_worker(self, worker: WorkerId) -> Volunteer | None:
        c = t.device_links.c
        theirs = sa.select(c.volunteer_id).where(c.worker_id == worker, c.until.is_(None)).scalar_subquery()
        return await self._one(t.volunteers.c.volunteer_id == theirs)

    async def by_id(self, volunteer_id: str) -> Volunteer | None:
        return await self._one(t.volunteers.c.volunteer_id == volunteer_id)

    async def by_key(self, nickname_key: str) -> Volunteer | None:
        return await self._one(t.volunteers.c.nickname_key == nickname_key)

    async def by_recovery(self, recovery_sha256: str) -> Volunteer | None:
        return await self._one(t.volunteers.c.recovery_sha256 == recovery_sha256)

    async def _one(self, which: sa.ColumnElement[bool]) -> Volunteer | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(sa.select(t.volunteers).where(which))).first()
        if row is None or row.nickname is None:
            return None
        return Volunteer(row.volunteer_id, row.nickname, row.listed, row.exported, row.created_at)

    async def devices(self, volunteer_id: str) -> list[Device]:
        """Theirs now, in the order of their numbers."""
        async with self._database.reading() as connection:
            return await _devices_of(connection, volunteer_id)

    async def number_of(self, worker: WorkerId) -> int:
        """Public; given now, if it has none."""
        async with self._database.writing() as connection:
            await ledger.number(self._database, connection, [worker])
            query = sa.select(t.devices.c.number).where(t.devices.c.worker_id == worker)
            return int((await connection.execute(query)).scalar_one())

    async def set_recovery(self, volunteer_id: str, recovery_sha256: str) -> None:
        async with self._database.writing() as connection:
            which = t.volunteers.c.volunteer_id == volunteer_id
            await connection.execute(sa.update(t.volunteers).where(which).values(recovery_sha256=recovery_sha256))

    # Passes.

    async def add_pass(self, kind: PassKind, secret_sha256: str, volunteer_id: str, expires_at: float) -> None:
        """In place of the volunteer's earlier one of its kind."""
        c = t.passes.c
        async with self._database.writing() as connection:
            await connection.execute(sa.delete(t.passes).where(c.volunteer_id == volunteer_id, c.kind == kind))
            await connection.execute(
                sa.insert(t.passes).values(
                    secret_sha256=secret_sha256, kind=kind, volunteer_id=volunteer_id, expires_at=expires_at
                )
            )

    async def holder_of_pass(self, kind: PassKind, secret_sha256: str, now: float) -> Volunteer | None:
        """Whose it is, without using it up."""
        c = t.passes.c
        good = sa.select(c.volunteer_id).where(c.secret_sha256 == secret_sha256, c.kind == kind, c.expires_at > now)
        return await self._one(t.volunteers.c.volunteer_id == good.scalar_subquery())

    async def use_pass(self, kind: PassKind, secret_sha256: str, now: float) -> str | None:
        """Whose it was; a pass is good once. None for one that nobody has, or that has expired."""
        c = t.passes.c
        async with self._database.writing() as connection:
            await connection.execute(sa.delete(t.passes).where(c.expires_at <= now))
            taken = sa.delete(t.passes).where(c.secret_sha256 == secret_sha256, c.kind == kind)
            found: str | None = (await connection.execute(taken.returning(c.volunteer_id))).scalar()
        return found


async def _listed(connection: AsyncConnection, volunteer_id: str) -> bool:
    c = t.volunteers.c
    found = (
        await connection.execute(sa.select(c.listed).where(c.volunteer_id == volunteer_id, c.nickname.is_not(None)))
    ).scalar()
    if found is None:
        raise NotFound("there is no such account any more")
    return bool(found)


async def _devices_of(connection: AsyncConnection, volunteer_id: str) -> list[Device]:
    c = t.device_links.c
    query = (
        sa.select(c.worker_id, t.devices.c.number, c.at)
        .join(t.devices, t.devices.c.worker_id == c.worker_id)
        .where(c.volunteer_id == volunteer_id, c.until.is_(None))
        .order_by(t.devices.c.number)
    )
    return [Device(row.worker_id, row.number, row.at) for row in await connection.execute(query)]


async def _show(connection: AsyncConnection, board: str, accounts: list[Any], *, shown: bool) -> None:
    c = t.standings.c
    if accounts:
        theirs = sa.and_(c.board == board, c.account.in_(accounts))
        await connection.execute(sa.update(t.standings).where(theirs).values(shown=shown))


async def _unless_taken(connection: AsyncConnection, statement: sa.Executable, name: str) -> None:
    try:
        await connection.execute(statement)
    except IntegrityError as error:
        raise NameTaken(f"somebody has the name {name} already") from error
