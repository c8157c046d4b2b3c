"""Whose this computer is, at its server: name, other devices, team. See docs/accounts.md."""

from urllib.parse import quote

from legion.accounts import (
    AccountChange,
    AccountView,
    ClaimRequest,
    DataRecord,
    ForgetRequest,
    LinkCode,
    LinkRequest,
    RecoveryReply,
    SignInLink,
    TeamId,
    TeamRequest,
    TeamView,
)
from legion_client.agent.coordinator import Coordinator


class Accounts:
    """Typed calls; each raises what the server refuses with, and has changed nothing then."""

    def __init__(self, server: Coordinator) -> None:
        self._server = server

    async def view(self) -> AccountView:
        return await self._server.ask("GET", "/account", AccountView)

    async def claim(self, wish: ClaimRequest) -> RecoveryReply:
        return await self._server.ask("POST", "/account", RecoveryReply, wish)

    async def change(self, change: AccountChange) -> AccountView:
        return await self._server.ask("PATCH", "/account", AccountView, change)

    async def link_code(self) -> LinkCode:
        return await self._server.ask("POST", "/account/link-code", LinkCode)

    async def link(self, secret: str) -> AccountView:
        """`secret`: a code from a device that is linked, or the recovery phrase."""
        return await self._server.ask("POST", "/account/link", AccountView, LinkRequest(secret=secret))

    async def new_phrase(self) -> RecoveryReply:
        return await self._server.ask("POST", "/account/recovery", RecoveryReply)

    async def unlink(self, number: int) -> AccountView:
        return await self._server.ask("DELETE", f"/account/devices/{number}", AccountView)

    async def sign_in(self) -> SignInLink:
        return await self._server.ask("POST", "/account/sign-in", SignInLink)

    async def known(self) -> DataRecord:
        return await self._server.ask("GET", "/account/data", DataRecord)

    async def forget(self, wish: ForgetRequest) -> None:
        await self._server.tell("POST", "/account/forget", wish)

    async def team_called(self, name: str) -> TeamView:
        """However its name is written; NotFound where there is none."""
        return await self._server.ask("GET", f"/teams/named?name={quote(name, safe='')}", TeamView)

    async def team(self, team_id: TeamId) -> TeamView:
        return await self._server.ask("GET", f"/boards/teams/{team_id}", TeamView)

    async def found_team(self, wish: TeamRequest) -> TeamView:
        return await self._server.ask("POST", "/teams", TeamView, wish)

    async def ask_to_join(self, team_id: TeamId) -> TeamView:
        return await self._server.ask("POST", f"/teams/{team_id}/requests", TeamView)

    async def leave_team(self, team_id: TeamId) -> None:
        await self._server.tell("DELETE", f"/teams/{team_id}/membership")

    async def admit(self, team_id: TeamId, nickname: str) -> TeamView:
        return await self._server.ask("PUT", f"/teams/{team_id}/members/{quote(nickname, safe='')}", TeamView)

    async def turn_down(self, team_id: TeamId, nickname: str) -> TeamView:
        return await self._server.ask("DELETE", f"/teams/{team_id}/requests/{quote(nickname, safe='')}", TeamView)

    async def expel(self, team_id: TeamId, nickname: str) -> TeamView:
        return await self._server.ask("DELETE", f"/teams/{team_id}/members/{quote(nickname, safe='')}", TeamView)
