"""The name and the team that the volunteer chose in the settings, claimed at the server once for each choice."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from legion.accounts import AccountView, ClaimRequest
from legion.errors import LegionError
from legion_client.agent.accounts import Accounts
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.journal import Journal
from legion_client.control.messages import Said
from legion_client.settings import Account

logger = logging.getLogger(__name__)

LOOK_S = 20.0
KIND = "account"
CLAIMED = "This computer counts for {nickname} from now on."
ASKED = "{nickname} has asked to join the team {team}; its founder answers."
NOT_CLAIMED = "The server does not take the nickname {nickname}: {problem}."
NOT_ASKED = "The team {team} could not be asked: {problem}."
SENTENCES = (CLAIMED, ASKED, NOT_CLAIMED, NOT_ASKED)


class Choice(BaseModel, frozen=True, extra="forbid"):
    """What was last settled, and where."""

    server: str = ""
    nickname: str = ""
    team: str = ""


class Naming:
    """A refusal is told once: whoever turned a volunteer down is not asked again at every start."""

    def __init__(self, path: Path, journal: Journal, chosen: Callable[[], Account]) -> None:
        """`path`: where the last choice that was settled is remembered."""
        self._path = path
        self._journal = journal
        self._chosen = chosen
        self._settled = _load(path)

    async def keep(self, server: Coordinator) -> None:
        """Until cancelled."""
        while True:
            account = self._chosen()
            choice = Choice(server=server.base_url, nickname=account.nickname, team=account.team)
            if choice != self._settled and choice.nickname:
                await self._settle(Accounts(server), choice)
            await asyncio.sleep(LOOK_S)

    async def _settle(self, accounts: Accounts, choice: Choice) -> None:
        try:
            view = await self._claim(accounts, choice.nickname, await accounts.view())
            if choice.team:
                await self._ask(accounts, choice.team, view)
        except LegionError as error:  # the server is away, or busy: another time
            logger.info("name not settled reason=%s", error)
            return
        self._settled = choice
        self._save()

    async def _claim(self, accounts: Accounts, nickname: str, view: AccountView) -> AccountView:
        """A computer that is somebody's already keeps its name: it is changed for the account, not from here."""
        if view.nickname is not None:
            return view
        try:
            view = (await accounts.claim(ClaimRequest(nickname=nickname))).account
        except LegionError as error:
            self._refused(error, NOT_CLAIMED, nickname=nickname)
        else:
            self._journal.add(KIND, Said(text=CLAIMED, values={"nickname": nickname}))
        return view

    async def _ask(self, accounts: Accounts, team: str, view: AccountView) -> None:
        if view.nickname is None or view.team is not None or view.asked is not None:
            return
        try:
            await accounts.ask_to_join((await accounts.team_called(team)).team_id)
        except LegionError as error:
            self._refused(error, NOT_ASKED, team=team)
        else:
            self._journal.add(KIND, Said(text=ASKED, values={"nickname": view.nickname, "team": team}))

    def _refused(self, error: LegionError, sentence: str, **values: str) -> None:
        """Raises what another time may help against."""
        if error.retryable:
            raise error
        self._journal.add(KIND, Said(text=sentence, values={**values, "problem": str(error)}), level="warning")

    def _save(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self._settled.model_dump_json(), encoding="utf-8")
        except OSError as error:
            logger.warning("name cannot be kept path=%s reason=%s", self._path, error.strerror)


def _load(path: Path) -> Choice:
    try:
        return Choice.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Choice()
    except (OSError, ValidationError) as error:
        logger.warning("name is looked up anew path=%s reason=%s", path, error)
        return Choice()
