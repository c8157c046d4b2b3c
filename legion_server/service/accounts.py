"""What volunteers do with their accounts: claim a name, link devices, recover, be forgotten."""

import base64
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

from mnemonic import Mnemonic

from legion.accounts import (
    AccountChange,
    AccountView,
    ClaimRequest,
    DataRecord,
    DeviceRecord,
    DeviceView,
    LinkCode,
    RecoveryReply,
    Standing,
    TeamRef,
)
from legion.errors import AccountMissing, NotFound, SecretUnknown, Unusable
from legion.ids import WorkerId
from legion_server.auth.sessions import Sessions
from legion_server.auth.tokens import new_token, token_sha256
from legion_server.domain import accounts as rules
from legion_server.domain.membership import Worker
from legion_server.domain.standing import MFLOP_PER_CREDIT, credit_a_day
from legion_server.store.accounts import AccountStore, PassKind, Volunteer
from legion_server.store.attribution import Board
from legion_server.store.standings import Row, StandingStore
from legion_server.store.teams import Team, TeamStore

PHRASE_BITS = 128  # twelve words (BIP 39)


class Accounts:
    """Every change is in the database when a call returns."""

    def __init__(
        self,
        accounts: AccountStore,
        teams: TeamStore,
        standings: StandingStore,
        sessions: Sessions,
        clock: Callable[[], float],
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._teams = teams
        self._standings = standings
        self._clock = clock
        self._words = Mnemonic("english")

    async def view(self, worker: WorkerId) -> AccountView:
        """A device's, and its volunteer's."""
        number = await self._accounts.number_of(worker)
        volunteer = await self._accounts.of_worker(worker)
        if volunteer is None:
            return AccountView(device=number, nickname=None, standing=await self.standing("devices", worker))
        return await self.view_of(volunteer, this=number)

    async def view_of(self, volunteer: Volunteer, *, this: int = 0) -> AccountView:
        """`this`: the number of the device that asks; 0: none does."""
        who = volunteer.volunteer_id
        team, asked = await self._teams.of_volunteer(who), await self._teams.asked_by(who)
        return AccountView(
            device=this,
            nickname=volunteer.nickname,
            listed=volunteer.listed,
            exported=volunteer.exported,
            created_at=volunteer.created_at,
            standing=await self.standing("volunteers", who),
            devices=await self._devices(who, this),
            team=team_ref(team, who),
            asked=team_ref(asked, who),
        )

    async def _devices(self, volunteer_id: str, this: int) -> tuple[DeviceView, ...]:
        found = []
        for device in await self._accounts.devices(volunteer_id):
            row = await self._standings.one("devices", device.worker_id)
            credit = row.mflop / MFLOP_PER_CREDIT if row else 0.0
            found.append(
                DeviceView(
                    number=device.number, is_this=device.number == this, linked_at=device.linked_at, credit=credit
                )
            )
        return tuple(found)

    async def standing(self, board: Board, account: str) -> Standing:
        return standing_of(await self._standings.one(board, account), self._clock())

    async def volunteer_of(self, worker: WorkerId) -> Volunteer | None:
        return await self._accounts.of_worker(worker)

    async def by_id(self, volunteer_id: str) -> Volunteer | None:
        return await self._accounts.by_id(volunteer_id)

    async def of_worker(self, worker: WorkerId) -> Volunteer:
        """AccountMissing."""
        volunteer = await self._accounts.of_worker(worker)
        if volunteer is None:
            raise AccountMissing
        return volunteer

    async def claim(self, worker: WorkerId, request: ClaimRequest) -> RecoveryReply:
        """A new account, whose first device this is. NameTaken, NameUnusable; Unusable for one that has an account."""
        name, key = rules.nickname(request.nickname)
        known = await self._accounts.of_worker(worker)
        if known is not None:
            raise Unusable(f"this device is {known.nickname}'s already", hint="Change the nickname instead.")
        now, phrase = self._clock(), self._new_phrase()
        volunteer = Volunteer(new_id(), name, request.listed, request.exported, now)
        await self._accounts.claim(volunteer, key, phrase_sha256(phrase), worker, now)
        return RecoveryReply(account=await self.view(worker), recovery_phrase=phrase)

    async def change(self, volunteer: Volunteer, change: AccountChange) -> None:
        name, key = rules.nickname(volunteer.nickname if change.nickname is None else change.nickname)
        changed = replace(
            volunteer,
            nickname=name,
            listed=volunteer.listed if change.listed is None else change.listed,
            exported=volunteer.exported if change.exported is None else change.exported,
        )
        await self._accounts.change(changed, key)

    async def known(self, volunteer: Volunteer, workers: Mapping[WorkerId, Worker]) -> DataRecord:
        """All that is known of them; `workers`: those that are enrolled."""
        found = []
        for device in await self._accounts.devices(volunteer.volunteer_id):
            worker = workers.get(device.worker_id)
            runs = await self._standings.runs_of("devices", device.worker_id)
            found.append(
                DeviceRecord(
                    number=device.number,
                    linked_at=device.linked_at,
                    name=worker.name if worker else None,
                    hardware=worker.hardware if worker else None,
                    endpoint=worker.endpoint if worker else None,
                    enrolled_at=worker.enrolled_at if worker else None,
                    last_seen=worker.last_seen if worker else None,
                    credit_by_run={run_id: mflop / MFLOP_PER_CREDIT for run_id, mflop in runs.items()},
                )
            )
        sessions = tuple(await self._sessions.opened_at(volunteer.volunteer_id))
        return DataRecord(account=await self.view_of(volunteer), devices=tuple(found), sessions=sessions)

    async def forget(self, volunteer: Volunteer, nickname: str) -> list[WorkerId]:
        """For ever, browsers too; the devices they had. Unusable unless the nickname is the account's own."""
        if rules.folded(nickname.strip()) != rules.folded(volunteer.nickname):
            raise Unusable(f"the account is {volunteer.nickname}'s, not {nickname}'s", hint="Give its own nickname.")
        devices = await self._accounts.devices(volunteer.volunteer_id)
        await self._accounts.forget(volunteer.volunteer_id)
        await self._sessions.close_all(volunteer.volunteer_id)
        return [device.worker_id for device in devices]

    async def link_code(self, volunteer: Volunteer) -> LinkCode:
        """In place of one made before."""
        expires_at = self._clock() + rules.CODE_S
        code = f"{secrets.randbelow(10**rules.CODE_DIGITS):0{rules.CODE_DIGITS}d}"
        await self._accounts.add_pass("device", token_sha256(f"device:{code}"), volunteer.volunteer_id, expires_at)
        return LinkCode(code=code, expires_at=expires_at)

    async def link(self, worker: WorkerId, secret: str) -> None:
        """With a code or a recovery phrase; a device that is somebody's already changes hands. SecretUnknown."""
        now, words = self._clock(), " ".join(secret.lower().split())
        digits = "".join(character for character in words if character not in " -")
        if digits.isdecimal() and digits.isascii():
            volunteer_id = await self._accounts.use_pass("device", token_sha256(f"device:{digits}"), now)
        else:
            if not self._words.check(words):
                hint = "Twelve words, as they were shown: one of them, or their order, is not right."
                raise SecretUnknown("this is no recovery phrase", hint=hint)
            holder = await self._accounts.by_recovery(phrase_sha256(words))
            volunteer_id = holder.volunteer_id if holder else None
        if volunteer_id is None:
            raise SecretUnknown("nobody has this code or phrase, or it has expired")
        await self._accounts.link(worker, volunteer_id, now)

    async def unlink(self, volunteer: Volunteer, number: int) -> WorkerId:
        """One of their devices, by its number. NotFound."""
        for device in await self._accounts.devices(volunteer.volunteer_id):
            if device.number == number:
                await self._accounts.unlink(device.worker_id)
                return device.worker_id
        raise NotFound(f"{volunteer.nickname} has no device {number}")

    async def new_phrase(self, volunteer: Volunteer) -> str:
        """In place of the one before."""
        phrase = self._new_phrase()
        await self._accounts.set_recovery(volunteer.volunteer_id, phrase_sha256(phrase))
        return phrase

    async def sign_in_token(self, volunteer: Volunteer) -> tuple[str, float]:
        """A token that signs in once, and until when (s since 1970); in place of one made before."""
        token, expires_at = new_token(), self._clock() + rules.SIGN_IN_S
        await self._accounts.add_pass("sign-in", token_sha256(token), volunteer.volunteer_id, expires_at)
        return token, expires_at

    async def holder(self, kind: PassKind, token: str) -> Volunteer | None:
        """Whose a token is, without using it up."""
        return await self._accounts.holder_of_pass(kind, token_sha256(token), self._clock())

    async def signs_in(self, token: str) -> Volunteer | None:
        """Whose the token was; it is used up."""
        volunteer_id = await self._accounts.use_pass("sign-in", token_sha256(token), self._clock())
        return await self._accounts.by_id(volunteer_id) if volunteer_id else None

    def _new_phrase(self) -> str:
        return str(self._words.generate(PHRASE_BITS))


def standing_of(row: Row | None, now: float) -> Standing:
    if row is None:
        return Standing(credit=0.0, credit_a_day=0.0, rank=None)
    return Standing(credit=row.mflop / MFLOP_PER_CREDIT, credit_a_day=credit_a_day(row.recent, now), rank=row.rank)


def team_ref(team: Team | None, volunteer_id: str) -> TeamRef | None:
    if team is None:
        return None
    return TeamRef(team_id=team.team_id, name=team.name, is_founder=team.founder == volunteer_id)


def phrase_sha256(phrase: str) -> str:
    """128 random bits: a plain hash is enough, see `auth.tokens`."""
    return token_sha256(f"recovery:{phrase}")


def new_id() -> str:
    """16 characters of base32."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()
