"""The name and team of the settings, claimed by a real agent at a real server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from legion.accounts import ClaimRequest, TeamRequest
from legion.errors import LegionError, Unusable
from legion_client.agent import naming
from legion_client.agent.accounts import Accounts
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.desk import AgentDesk
from legion_client.agent.joining import join
from legion_client.control.accounts import (
    AccountIs,
    ClaimName,
    CodeIs,
    GetAccount,
    LinkAccount,
    NewCode,
    NewPhrase,
    NewSignIn,
    SignInIs,
)
from legion_client.control.messages import Happening
from legion_client.machine.probe import hardware
from legion_client.settings import change
from tests.client.agent.hosting import RunningServer, hosted, without_a_run


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "LOOK_S", 0.05)


@asynccontextmanager
async def volunteer(server: RunningServer, folder: Path, nickname: str) -> AsyncIterator[Accounts]:
    """Of another computer."""
    known = await join(folder, server.invite(), nickname, lambda: hardware(folder))
    async with Coordinator(known.base_url, known.context, known.worker_id, known.token) as connection:
        accounts = Accounts(connection)
        await accounts.claim(ClaimRequest(nickname=nickname))
        yield accounts


async def told(desk: AgentDesk, most: int) -> list[str]:
    """The sentences about names so far, once there are so many."""
    changes = desk.follow()
    try:
        while True:
            found = [one.sentence for one in await desk.happenings(0, 100) if one.kind == naming.KIND]
            if len(found) >= most:
                return found
            while not isinstance(await anext(changes), Happening):
                pass
    finally:
        await changes.aclose()


async def test_a_name_and_a_team_of_the_settings(server: RunningServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = home / "settings.toml"
    change(settings, {"account.nickname": "Ada", "account.team": "attic 7"})
    async with volunteer(server, tmp_path / "grace", "Grace") as grace:
        team = await grace.found_team(TeamRequest(name="Attic 7"))
        async with hosted(server, home) as (_, desk):
            sentences = await told(desk, 2)
        assert sentences == [
            "This computer counts for Ada from now on.",
            "Ada has asked to join the team attic 7; its founder answers.",
        ]
        assert [one.nickname for one in (await grace.team(team.team_id)).requests] == ["Ada"]
        await grace.turn_down(team.team_id, "Ada")
        async with hosted(server, home) as (_, desk):
            change(settings, {"account.team": "Cellar"})
            assert (await told(desk, 3))[2] == ("The team Cellar could not be asked: there is no team 'Cellar' here.")
        assert (await grace.team(team.team_id)).requests == ()  # not asked again by the second start


async def test_a_name_that_is_taken_is_told_once(server: RunningServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    change(home / "settings.toml", {"account.nickname": "GRACE", "account.team": "Attic 7"})
    async with volunteer(server, tmp_path / "grace", "Grace"), hosted(server, home) as (_, desk):
        (sentence,) = await told(desk, 1)
        assert sentence.startswith("The server does not take the nickname GRACE: ")
        change(home / "settings.toml", {"account.nickname": "Hopper", "account.team": None})
        assert (await told(desk, 2))[1] == "This computer counts for Hopper from now on."


async def test_what_is_remembered_and_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "name.json").write_text("{")
    assert naming._load(tmp_path / "name.json") == naming.Choice()
    assert "name is looked up anew" in caplog.text


async def test_what_a_window_asks_about_the_account(server: RunningServer, tmp_path: Path) -> None:
    async with volunteer(server, tmp_path / "grace", "Grace") as grace, hosted(server, tmp_path / "home") as (_, desk):
        code = (await grace.link_code()).code
        linked = await desk.account(LinkAccount(secret=code))
        assert isinstance(linked, AccountIs)
        assert linked.account.nickname == "Grace"
        again = await desk.account(NewPhrase())
        assert isinstance(again, AccountIs)
        assert again.phrase is not None
        assert isinstance(await desk.account(NewCode()), CodeIs)
        page = await desk.account(NewSignIn())
        assert isinstance(page, SignInIs)
        assert "/sign-in/" in page.url
        with pytest.raises(LegionError, match="already"):
            await desk.account(ClaimName(nickname="Ada"))
    async with without_a_run(tmp_path / "empty") as (_, desk):
        with pytest.raises(Unusable, match="joined no server"):
            await desk.account(GetAccount())
