"""Accounts and teams from the command line, of two computers at a real server."""

from pathlib import Path

import httpx
import pytest

from legion_client.agent.enrolment import Enrolment
from tests.client.commands.conftest import Client
from tests.client.conftest import RunningServer


@pytest.fixture
def ada(client: Client, server: RunningServer) -> Client:
    client.run("join", "-", stdin=str(server.invite(1)))
    return client


@pytest.fixture
def other(server: RunningServer, tmp_path: Path) -> Client:
    second = Client(tmp_path / "second")
    second.run("join", "-", stdin=str(server.invite(1)))
    return second


def test_a_name_for_two_computers(ada: Client, other: Client) -> None:
    assert "nobody's yet" in ada.run("account", "show")
    claimed = ada.json("account", "claim", "Ada", "--export")
    assert len(claimed["recovery_phrase"].split()) == 12
    assert (claimed["account"]["nickname"], claimed["account"]["exported"]) == ("Ada", True)
    code = ada.run("account", "code").splitlines()[0]
    assert other.run("account", "link", stdin=code + "\n").startswith("Ada: 0 credit\n")
    assert "nobody has this code" in other.run("account", "link", stdin=code + "\n", code=2)  # once only
    (number,) = [one["number"] for one in other.json("account", "show")["devices"] if one["is_this"]]
    assert "Ada" in ada.run("account", "remove", str(number))
    assert "nobody's yet" in other.run("account", "show")
    phrase = ada.run("account", "recovery").rsplit("\n  ", 1)[1]
    assert other.json("account", "link", stdin=phrase)["nickname"] == "Ada"
    assert ada.json("account", "change", "--nickname", "Lovelace", "--unlisted")["listed"] is False
    assert "Lovelace (on no board)" in other.run("account", "show")


def test_a_page_and_being_forgotten(ada: Client) -> None:
    ada.run("account", "claim", "Ada")
    link = ada.run("account", "page").strip()
    known = Enrolment.load(ada.home / "identity")
    assert known is not None
    with httpx.Client(verify=known.context, follow_redirects=True, trust_env=False) as browser:
        page = browser.get(link)
        assert page.status_code == httpx.codes.OK
    assert '"nickname": "Ada"' in ada.run("account", "data")
    assert "Bob" in ada.run("account", "forget", "Bob", code=2)
    assert ada.run("account", "forget", "Ada") == "The server has forgotten Ada.\n"
    assert "nobody's yet" in ada.run("account", "show")


def test_a_team(ada: Client, other: Client) -> None:
    ada.run("account", "claim", "Ada")
    other.run("account", "claim", "Grace")
    assert "in no team" in other.run("team", "show", code=2)
    team = ada.json("team", "found", "Attic 7", "--about", "Warm and quiet")["team_id"]
    assert other.run("team", "join", "attic 7") == "Asked Attic 7; its founder answers.\n"
    assert "Asks to join: Grace" in ada.run("team", "show")
    assert "Members: 2" in ada.run("team", "admit", "Grace")
    assert other.json("team", "show", team)["member_count"] == 2
    assert other.run("team", "leave") == "Left Attic 7.\n"
    other.run("team", "join", team)
    assert "Asks to join" not in ada.run("team", "refuse", "Grace")
    other.run("team", "join", team)
    ada.run("team", "admit", "Grace")
    assert "Members: 1" in ada.run("team", "expel", "Grace")
    assert "there is no team 'Cellar'" in other.run("team", "join", "Cellar", code=2)


@pytest.mark.parametrize("arguments", [("account", "show"), ("account", "claim", "Ada"), ("team", "show")])
def test_without_a_server(client: Client, arguments: tuple[str, ...]) -> None:
    assert "joined no server" in client.run(*arguments, code=2)
